/* Sequences against an engine that only counts: which rows go out when, edits, stop texts,
 * the end. Letters a..z are tokens 2..27 of the small vocabulary, 81 ends an answer. */
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
        .context = 200, .max_tokens = 10, .rows_max = 7, .top_p = 1, .repeat_penalty = 1};
}

static struct sequence *create(const struct sequence_options *o) {
    struct sequence *s = NULL;
    if (sequence_create(o, &s) != OK) fail_msg("%s", err_text());
    return s;
}

static int next(struct sequence *s, struct step *out) {
    int has_step;
    assert_int_equal(sequence_next(s, out, &has_step), OK);
    return has_step;
}

static void commit(struct sequence *s, int32_t token) {
    struct result_out out = {.token = token};
    struct result r = {.n_outs = 1, .outs = &out};
    assert_int_equal(sequence_commit(s, &r), OK);
}

static void commit_nothing(struct sequence *s) {
    struct result r = {0};
    assert_int_equal(sequence_commit(s, &r), OK);
}

/* The prompt goes out in pieces without waiting for results; the last wants a token. */
static void test_prefill(void **state) {
    (void)state;
    struct sequence_options o = options(50);
    o.block_begin = 5;
    o.seed = 9;
    struct sequence *s = create(&o);
    struct step step;
    uint32_t rows = 0, n_steps = 0;
    while (next(s, &step)) {
        assert_true(step.n_rows <= 7);
        for (uint32_t i = 0; i < step.n_rows; i++) {
            assert_int_equal(step.token[i], prompt[rows + i]);
            assert_int_equal(step.position[i], rows + i);
            assert_int_equal(step.table_begin[i], 0);
        }
        rows += step.n_rows;
        assert_int_equal(step.n_table, (rows + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
        for (uint32_t i = 0; i < step.n_table; i++) assert_int_equal(step.table[i], 5 + i);
        assert_int_equal(step.n_outs, rows == 50);
        n_steps++;
    }
    assert_int_equal(rows, 50);
    assert_int_equal(n_steps, 8);
    assert_int_equal(step.outs->row, 0); /* 50 = 7 * 7 + 1 */
    assert_int_equal(step.outs->position, 50);
    assert_int_equal(step.outs->seed, 9);
    for (int i = 0; i < 7; i++) commit_nothing(s);
    assert_false(next(s, &step)); /* the token is not there yet */
    commit(s, LETTER('q'));
    assert_true(next(s, &step));
    assert_int_equal(step.n_rows, 1);
    assert_int_equal(step.token[0], LETTER('q'));
    assert_int_equal(step.position[0], 50);
    assert_int_equal(step.outs->position, 51);
    assert_false(next(s, &step));
    sequence_free(s);
}

/* Steps that end the sequence: max_tokens, the context, an end token. */
static void run(struct sequence *s, const char *letters, enum sequence_finish want) {
    struct step step;
    for (; *letters; letters++) {
        assert_int_equal(sequence_finish(s), SEQUENCE_RUNS);
        while (next(s, &step))
            if (step.n_outs == 0) commit_nothing(s);
        commit(s, *letters == '.' ? END : LETTER(*letters));
    }
    assert_int_equal(sequence_finish(s), want);
    if (want != SEQUENCE_RUNS) assert_false(next(s, &step));
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
    struct sequence_options o = options(3);
    o.stops = stops;
    o.n_stops = 2;
    struct sequence *s = create(&o);
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

static const struct step_edit *edit_of(const struct step *s, int32_t token) {
    for (uint32_t i = s->outs->edit_begin; i < s->outs->edit_end; i++)
        if (s->edits[i].token == token) return &s->edits[i];
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
    struct step step;
    assert_true(next(s, &step));
    assert_int_equal(step.n_edits, 4);
    const struct step_edit *e = edit_of(&step, LETTER('a'));
    assert_true(e->bias == 2 && e->repeat == 1.5f && e->subtract == 0);
    e = edit_of(&step, LETTER('z'));
    assert_true(isinf(e->bias) && e->repeat == 1 && e->subtract == 0);
    commit(s, LETTER('b'));
    assert_true(next(s, &step));
    commit(s, LETTER('b'));
    assert_true(next(s, &step));
    e = edit_of(&step, LETTER('b'));
    assert_true(e->bias == 0 && e->repeat == 1.5f && e->subtract == 1.0f);
    assert_true(edit_of(&step, LETTER('c'))->subtract == 0);
    sequence_free(s);
    o = options(3);
    s = create(&o);
    assert_true(next(s, &step));
    assert_int_equal(step.n_edits, 0);
    sequence_free(s);
}

static void test_bad(void **state) {
    (void)state;
    struct sequence *s;
    struct sequence_options o = options(0);
    assert_int_equal(sequence_create(&o, &s), ERR_REQUEST);
    o = options(50);
    o.context = 50;
    assert_int_equal(sequence_create(&o, &s), ERR_REQUEST);
    assert_non_null(strstr(err_text(), "50 tokens"));
    o.context = 51;
    s = create(&o);
    struct result_out out = {.token = N_VOCAB};
    struct result r = {.n_outs = 1, .outs = &out};
    assert_int_equal(sequence_commit(s, &r), ERR_INTERNAL); /* no step was given out */
    struct step step;
    assert_true(next(s, &step));
    assert_int_equal(sequence_commit(s, &r), ERR_INTERNAL);
    assert_true(next(s, &step));
    out.token = -1;
    assert_int_equal(sequence_commit(s, &r), ERR_REQUEST);
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
        cmocka_unit_test(test_prefill),      cmocka_unit_test(test_length),
        cmocka_unit_test(test_end_token),    cmocka_unit_test(test_stop_text),
        cmocka_unit_test(test_stops_visible), cmocka_unit_test(test_edits),
        cmocka_unit_test(test_bad),          cmocka_unit_test(test_no_tokenizer),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
