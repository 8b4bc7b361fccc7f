/* Sequences without a scheduler: what rows want, what comes of results, edits, stop texts, the end. Letters a..z are
 * tokens 2..27 of the small vocabulary, 81 ends an answer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/sequence.h"
#include "model/gguf.h"
#include "model/limits.h"

#define N_VOCAB 84
#define END 81
#define LETTER(c) ((c) - 'a' + 2)

static struct tokenizer *tokenizer;

static int setup(void **state) {
    (void)state;
    struct gguf *g;
    if (gguf_open("tests/golden/llama-gqa.f16.gguf", &g) != OK) return -1;
    err e = tokenizer_create(g, &tokenizer);
    gguf_close(g);
    return e == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    tokenizer_free(tokenizer);
    return 0;
}

static int32_t prompt[100];

static struct sequence_options options(size_t n_prompt) {
    for (size_t i = 0; i < 100; i++) prompt[i] = (int32_t)(i % 26 + 2);
    return (struct sequence_options){
        .tokenizer = tokenizer, .prompt = prompt, .n_prompt = n_prompt, .n_vocab = N_VOCAB,
        .context = 200, .max_tokens = 10, .top_p = 1, .repeat_penalty = 1};
}

static struct sequence *create(const struct sequence_options *o) {
    struct sequence *s = NULL;
    if (sequence_create(o, &s) != OK) fail_msg("%s", err_text());
    return s;
}

static size_t n_rows(const struct sequence *s) {
    size_t n;
    sequence_rows(s, &n);
    return n;
}

/* What rows [begin, end) want; they are the first of a step, after 5 rows and 3 edits of others. */
static struct step_out outs[100];
static struct step_edit edits[100];
static uint32_t n_edits;

static uint32_t want(struct sequence *s, size_t begin, size_t end) {
    uint32_t n_outs;
    memset(outs, 0xff, sizeof outs);
    sequence_wants(s, begin, end, &n_outs, &n_edits);
    sequence_want(s, begin, end, 5, 3, outs, edits);
    assert_int_equal(outs[n_outs].row, -1); /* no more than were announced */
    for (uint32_t i = 0; i < n_outs; i++) assert_in_range(outs[i].row, 5, 4 + end - begin);
    return n_outs;
}

/* The newest row's token; two outputs of others are before it. */
static err take(struct sequence *s, int32_t token) {
    struct result_out r_outs[3] = {{.token = 1}, {.token = 1}, {.token = token, .logprob = -0.5f}};
    struct result r = {.n_outs = 3, .outs = r_outs};
    size_t n = n_rows(s);
    return sequence_take(s, n - 1, n, &r, 2, 0);
}

static void test_rows(void **state) {
    (void)state;
    struct sequence_options o = options(50);
    o.seed = 9;
    o.n_top = 2;
    struct sequence *s = create(&o);
    assert_int_equal(sequence_n_prompt(s), 50);
    assert_int_equal(sequence_n_skippable(s), 49);
    size_t n;
    assert_memory_equal(sequence_rows(s, &n), prompt, sizeof(int32_t) * 50);
    assert_int_equal(n, 50);
    assert_int_equal(want(s, 0, 49), 0);
    assert_int_equal(want(s, 40, 50), 1);
    assert_int_equal(outs->row, 5 + 9);
    assert_int_equal(outs->flags, OUT_SAMPLE);
    assert_int_equal(outs->position, 50);
    assert_int_equal(outs->seed, 9);
    assert_int_equal(outs->n_top, 2);
    struct result r = {0};
    assert_int_equal(sequence_take(s, 0, 40, &r, 0, 0), OK);
    assert_int_equal(n_rows(s), 50);
    assert_int_equal(take(s, LETTER('q')), OK);
    assert_int_equal(sequence_rows(s, &n)[50], LETTER('q'));
    assert_int_equal(n, 51);
    assert_int_equal(sequence_n_skippable(s), 50);
    assert_int_equal(want(s, 50, 51), 1);
    assert_int_equal(outs->position, 51);
    assert_int_equal(want(s, 0, 51), 1); /* all again: only the newest row's token is wanted */
    assert_int_equal(outs->row, 5 + 50);
    sequence_free(s);
}

/* Tokens that end the sequence: max_tokens, the context, an end token. */
static void run(struct sequence *s, const char *letters, enum sequence_finish finish) {
    for (; *letters; letters++) {
        assert_int_equal(sequence_finish(s), SEQUENCE_RUNS);
        assert_int_equal(want(s, n_rows(s) - 1, n_rows(s)), 1);
        assert_int_equal(take(s, *letters == '.' ? END : LETTER(*letters)), OK);
    }
    assert_int_equal(sequence_finish(s), finish);
}

static void expect_text(const struct sequence *s, const char *want) {
    size_t n;
    const char *text = sequence_text(s, &n);
    if (n != strlen(want) || memcmp(text, want, n) != 0)
        fail_msg("text is \"%.*s\", expected \"%s\"", (int)n, text, want);
}

static void test_length(void **state) {
    (void)state;
    struct sequence_options o = options(3);
    struct sequence *s = create(&o);
    run(s, "abcdefghij", SEQUENCE_LENGTH);
    expect_text(s, "abcdefghij");
    size_t n;
    sequence_tokens(s, &n);
    assert_int_equal(n, 10);
    sequence_free(s);
    o.context = 5;
    s = create(&o);
    run(s, "ab", SEQUENCE_LENGTH);
    sequence_free(s);
}

static void test_end_token(void **state) {
    (void)state;
    struct sequence_options o = options(3);
    struct sequence *s = create(&o);
    run(s, "ab.", SEQUENCE_STOP);
    expect_text(s, "ab");
    size_t n;
    const int32_t *tokens = sequence_tokens(s, &n);
    assert_int_equal(n, 3);
    assert_int_equal(tokens[2], END);
    sequence_free(s);
    o.ignores_end = 1;
    s = create(&o);
    run(s, "ab.cd", SEQUENCE_RUNS);
    expect_text(s, "abcd");
    sequence_free(s);
}

static void test_stop_text(void **state) {
    (void)state;
    static const char *const stops[] = {"cde", "xyz"};
    char own[] = "cde";
    const char *const copied[] = {own, "xyz"};
    struct sequence_options o = options(3);
    o.stops = copied;
    o.n_stops = 2;
    struct sequence *s = create(&o);
    memset(own, 'a', 3); /* the sequence has its own */
    o.stops = stops;
    run(s, "abc", SEQUENCE_RUNS);
    expect_text(s, "ab"); /* "c" may begin a stop text */
    run(s, "c", SEQUENCE_RUNS);
    expect_text(s, "abc");
    run(s, "de", SEQUENCE_STOP);
    expect_text(s, "abc");
    sequence_free(s);
    s = create(&o);
    run(s, "abdefghixy", SEQUENCE_LENGTH);
    expect_text(s, "abdefghixy");
    sequence_free(s);
    o.max_tokens = 4;
    s = create(&o);
    run(s, "abcd", SEQUENCE_LENGTH);
    expect_text(s, "abcd"); /* what was held back comes at the end */
    sequence_free(s);
}

static void test_stops_visible(void **state) {
    (void)state;
    static const char *const stops[] = {"\n\n", "aab", ""};
    int is_stopped;
    assert_int_equal(stops_visible("x\n", 2, 0, stops, 3, &is_stopped), 1);
    assert_false(is_stopped);
    assert_int_equal(stops_visible("x\n\ny", 4, 2, stops, 3, &is_stopped), 1);
    assert_true(is_stopped);
    assert_int_equal(stops_visible("aaab", 4, 0, stops, 3, &is_stopped), 1);
    assert_true(is_stopped);
    assert_int_equal(stops_visible("aaa", 3, 0, stops, 3, &is_stopped), 1);
    assert_false(is_stopped);
    assert_int_equal(stops_visible("", 0, 0, stops, 3, &is_stopped), 0);
    assert_int_equal(stops_visible("abc", 3, 0, NULL, 0, &is_stopped), 3);
}

static const struct step_edit *edit_of(int32_t token) {
    assert_int_equal(outs->edit_begin, 3);
    assert_int_equal(outs->edit_end, 3 + n_edits);
    for (uint32_t i = 0; i < n_edits; i++)
        if (edits[i].token == token) return &edits[i];
    return NULL;
}

/* Repetition looks at prompt and answer, presence and frequency at the answer. */
static void test_edits(void **state) {
    (void)state;
    const struct sequence_bias biases[] = {{LETTER('z'), -INFINITY}, {LETTER('a'), 2}};
    struct sequence_options o = options(3); /* abc */
    o.repeat_penalty = 1.5f;
    o.presence_penalty = 0.5f;
    o.frequency_penalty = 0.25f;
    o.biases = biases;
    o.n_biases = 2;
    struct sequence *s = create(&o);
    assert_int_equal(want(s, 0, 2), 0);
    assert_int_equal(n_edits, 0);
    assert_int_equal(want(s, 0, 3), 1);
    assert_int_equal(n_edits, 4);
    const struct step_edit *e = edit_of(LETTER('a'));
    assert_true(e->bias == 2 && e->repeat == 1.5f && e->subtract == 0);
    e = edit_of(LETTER('z'));
    assert_true(isinf(e->bias) && e->repeat == 1 && e->subtract == 0);
    take(s, LETTER('b'));
    take(s, LETTER('b'));
    want(s, 4, 5);
    assert_int_equal(n_edits, 4);
    e = edit_of(LETTER('b'));
    assert_true(e->bias == 0 && e->repeat == 1.5f && e->subtract == 1.0f);
    assert_true(edit_of(LETTER('c'))->subtract == 0);
    take(s, LETTER('m'));
    want(s, 5, 6);
    assert_int_equal(n_edits, 5);
    assert_true(edit_of(LETTER('m'))->subtract == 0.75f);
    sequence_free(s);
    o = options(3);
    s = create(&o);
    want(s, 0, 3);
    assert_int_equal(n_edits, 0);
    sequence_free(s);
}

/* Many tokens with marks: the same edits as counting says. */
static void test_many_edits(void **state) {
    (void)state;
    struct sequence_options o = options(100);
    o.n_vocab = 100000;
    o.context = 1000;
    o.max_tokens = 800;
    o.tokenizer = NULL;
    o.frequency_penalty = 1;
    struct sequence *s = create(&o);
    for (int32_t i = 0; i < 600; i++) assert_int_equal(take(s, i % 300 * 333), OK);
    uint32_t n_outs, n;
    sequence_wants(s, n_rows(s) - 1, n_rows(s), &n_outs, &n);
    assert_int_equal(n, 26 + 300); /* the letters of the prompt, and multiples of 333 */
    sequence_free(s);
}

static void score_outs(struct result_out *r_outs, struct result_top *tops, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        r_outs[i] = (struct result_out){.token = -1, .score = -1.0 - i, .top_begin = 2 * i, .n_top = 2};
        tops[2 * i] = (struct result_top){(int32_t)i, -0.25f};
        tops[2 * i + 1] = (struct result_top){(int32_t)i + 1, -0.5f};
    }
}

/* Row i scores token i + 1; what came once is not wanted again. */
static void test_prompt_scores(void **state) {
    (void)state;
    struct result_out r_outs[50];
    struct result_top tops[100];
    struct sequence_options o = options(40);
    o.scores_prompt = 1;
    o.n_top = 2;
    o.max_tokens = 0;
    o.context = 40;
    struct sequence *s = create(&o);
    size_t n;
    sequence_prompt_scores(s, &n);
    assert_int_equal(n, 1);
    assert_int_equal(sequence_n_skippable(s), 0);
    assert_int_equal(want(s, 0, 30), 30);
    assert_int_equal(outs[7].flags, OUT_SCORE);
    assert_int_equal(outs[7].target, prompt[8]);
    assert_int_equal(outs[7].n_top, 2);
    score_outs(r_outs, tops, 50);
    struct result r = {.n_outs = 50, .outs = r_outs, .n_tops = 100, .tops = tops};
    assert_int_equal(sequence_take(s, 0, 30, &r, 0, 0), OK);
    const struct token_score *scores = sequence_prompt_scores(s, &n);
    assert_int_equal(n, 31);
    assert_true(isnan(scores[0].logprob));
    assert_int_equal(scores[8].token, prompt[8]);
    assert_true(scores[8].logprob == -8.0f && scores[8].n_top == 2 && scores[8].top[1].token == 8);
    assert_int_equal(sequence_n_skippable(s), 30);
    assert_int_equal(want(s, 0, 30), 0); /* computed again */
    assert_int_equal(want(s, 20, 40), 9);
    assert_int_equal(outs[0].row, 5 + 10);
    assert_int_equal(sequence_take(s, 20, 40, &r, 4, 0), OK);
    scores = sequence_prompt_scores(s, &n);
    assert_int_equal(n, 40);
    assert_true(scores[31].logprob == -5.0f && scores[39].logprob == -13.0f);
    assert_int_equal(sequence_finish(s), SEQUENCE_LENGTH);
    sequence_free(s);
    o.max_tokens = 5; /* and an answer */
    o.scores_answer = 1;
    o.context = 50;
    s = create(&o);
    assert_int_equal(want(s, 0, 40), 40);
    assert_int_equal(outs[39].flags, OUT_SAMPLE | OUT_LOGPROB);
    r_outs[39].token = LETTER('k');
    r_outs[39].logprob = -3;
    assert_int_equal(sequence_take(s, 0, 40, &r, 0, 0), OK);
    assert_int_equal(sequence_finish(s), SEQUENCE_RUNS);
    assert_int_equal(sequence_score(s)->token, LETTER('k'));
    assert_true(sequence_score(s)->logprob == -3 && sequence_score(s)->top[0].token == 39);
    assert_int_equal(sequence_n_skippable(s), 40);
    sequence_free(s);
}

static void test_pooling(void **state) {
    (void)state;
    float hidden[3 * 10];
    struct result_out r_outs[10] = {{0}};
    for (int i = 0; i < 30; i++) hidden[i] = (float)(i * i);
    struct result r = {.n_outs = 10, .outs = r_outs, .n_hidden_rows = 10, .dim = 3, .hidden = hidden};
    struct sequence_options o = options(8);
    o.max_tokens = 0;
    o.dim = 3;
    o.pooling = SEQUENCE_POOL_MEAN;
    struct sequence *s = create(&o);
    assert_int_equal(want(s, 0, 5), 5);
    assert_int_equal(outs[4].flags, OUT_HIDDEN);
    assert_int_equal(sequence_take(s, 0, 5, &r, 0, 0), OK);
    assert_int_equal(sequence_n_skippable(s), 5);
    assert_int_equal(want(s, 0, 8), 3);
    assert_int_equal(outs[0].row, 5 + 5);
    assert_int_equal(sequence_take(s, 0, 8, &r, 3, 7), OK); /* hidden states of another before, outputs, too */
    assert_int_equal(sequence_finish(s), SEQUENCE_LENGTH);
    double sum = 0;
    for (int i = 0; i < 10; i++)
        if (i < 5 || i >= 7) sum += (double)hidden[3 * i + 1];
    assert_true(sequence_embedding(s)[1] == (float)(sum / 8));
    sequence_free(s);
    o.pooling = SEQUENCE_POOL_LAST;
    s = create(&o);
    assert_int_equal(sequence_n_skippable(s), 7);
    assert_int_equal(want(s, 0, 7), 0);
    assert_int_equal(want(s, 7, 8), 1);
    assert_int_equal(outs->flags, OUT_HIDDEN);
    assert_int_equal(sequence_take(s, 7, 8, &r, 9, 9), OK);
    assert_int_equal(sequence_finish(s), SEQUENCE_LENGTH);
    assert_true(sequence_embedding(s)[2] == hidden[29]);
    r.dim = 2;
    assert_int_equal(sequence_take(s, 7, 8, &r, 0, 0), ERR_INTERNAL);
    sequence_free(s);
}

static void expect_refused(const struct sequence_options *o, const char *text) {
    struct sequence *s;
    assert_int_equal(sequence_create(o, &s), ERR_REQUEST);
    if (!strstr(err_text(), text)) fail_msg("\"%s\" does not say \"%s\"", err_text(), text);
}

static void test_bad(void **state) {
    (void)state;
    struct sequence_options o = options(0);
    expect_refused(&o, "empty");
    o = options(50);
    o.context = 50;
    expect_refused(&o, "50 tokens");
    o.context = 49;
    o.max_tokens = 0;
    expect_refused(&o, "50 tokens");
    o = options(50);
    prompt[17] = N_VOCAB;
    expect_refused(&o, "token 84");
    o = options(50);
    const struct sequence_bias bias = {-1, 0}, no_number = {4, NAN};
    o.n_biases = 1;
    o.biases = &bias;
    expect_refused(&o, "bias of token -1");
    o.biases = &no_number;
    expect_refused(&o, "bias of token 4");
    o = options(50);
    o.temperature = NAN;
    expect_refused(&o, "temperature nan");
    o = options(50);
    o.repeat_penalty = 0;
    expect_refused(&o, "0 (repeat)");
    o = options(50);
    o.n_top = TOP_LOGPROBS_MAX + 1;
    expect_refused(&o, "at most 20");
}

static void test_bad_result(void **state) {
    (void)state;
    struct sequence_options o = options(50);
    struct sequence *s = create(&o);
    struct result r = {0};
    assert_int_equal(sequence_take(s, 40, 50, &r, 0, 0), ERR_INTERNAL); /* an output is wanted */
    assert_int_equal(take(s, N_VOCAB), ERR_INTERNAL);
    assert_int_equal(take(s, -1), ERR_REQUEST);
    assert_int_equal(n_rows(s), 50);
    sequence_free(s);
}

/* The same steps whatever the tokens are named by: no tokenizer, no text, no end. */
static void test_no_tokenizer(void **state) {
    (void)state;
    struct sequence_options o = options(3);
    o.tokenizer = NULL;
    struct sequence *s = create(&o);
    run(s, "ab.defghij", SEQUENCE_LENGTH);
    expect_text(s, "");
    sequence_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),          cmocka_unit_test(test_length),
        cmocka_unit_test(test_end_token),     cmocka_unit_test(test_stop_text),
        cmocka_unit_test(test_stops_visible), cmocka_unit_test(test_edits),
        cmocka_unit_test(test_many_edits),    cmocka_unit_test(test_prompt_scores),
        cmocka_unit_test(test_pooling),       cmocka_unit_test(test_bad),
        cmocka_unit_test(test_bad_result),    cmocka_unit_test(test_no_tokenizer),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
