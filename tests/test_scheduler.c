/* The scheduler's decisions, one by one: who gets rows, blocks, and a place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "coordinator/scheduler_parts.h"
#include "tests/cache_engine.h"

#define N_VOCAB 1000
#define CONTEXT 2048
#define SEQUENCES_MAX 200

static struct scheduler *s;
static struct cache_engine e;
static struct engine_answer answers[16];
static uint32_t n_submitted, n_committed;
static struct step step;
static struct sequence *sequences[SEQUENCES_MAX];
static uint32_t n_heard[SEQUENCES_MAX];
static int has_failed[SEQUENCES_MAX];
static uint32_t n_begun[SEQUENCES_MAX];

static void on_begin(void *context, struct sequence *q) {
    n_begun[(struct sequence **)sequence_owner(q) - (struct sequence **)context]++;
}

static void start(uint32_t n_blocks, uint32_t rows_max, uint32_t n_groups) {
    struct scheduler_options o = {.n_blocks = n_blocks, .rows_max = rows_max, .n_groups = n_groups,
                                  .context = CONTEXT, .n_vocab = N_VOCAB, .on_begin = on_begin,
                                  .context_of_begin = sequences};
    if (scheduler_create(&o, &s) != OK) fail_msg("%s", err_text());
    cache_engine_create(&e, N_VOCAB, n_blocks);
    n_submitted = n_committed = 0;
    memset(n_heard, 0, sizeof n_heard);
    memset(has_failed, 0, sizeof has_failed);
    memset(n_begun, 0, sizeof n_begun);
}

static int teardown(void **state) {
    (void)state;
    scheduler_free(s);
    s = NULL;
    cache_engine_free(&e);
    for (int i = 0; i < SEQUENCES_MAX; i++) {
        sequence_free(sequences[i]);
        sequences[i] = NULL;
    }
    return 0;
}

/* Prompts of the same `text` have the same tokens. */
static void add(int i, uint32_t text, uint32_t n_prompt, uint32_t max_tokens, uint32_t key, int priority) {
    static int32_t prompt[CONTEXT];
    for (uint32_t k = 0; k < n_prompt; k++) prompt[k] = (int32_t)(mix(text, k) % N_VOCAB);
    struct sequence_options o = {.prompt = prompt, .n_prompt = n_prompt, .n_vocab = N_VOCAB, .context = CONTEXT,
                                 .max_tokens = max_tokens, .top_p = 1, .repeat_penalty = 1};
    assert_int_equal(sequence_create(&o, &sequences[i]), OK);
    sequence_set_owner(sequences[i], &sequences[i]);
    assert_int_equal(scheduler_add(s, sequences[i], key, priority), OK);
}

static int next(uint32_t prefill_rows) {
    int has_step;
    assert_int_equal(scheduler_next(s, prefill_rows, &step, &has_step), OK);
    if (has_step) cache_engine_run(&e, &step, &answers[n_submitted++ % 16]);
    return has_step;
}

static void on_taken(void *context, struct sequence *q, err code) {
    (void)context;
    long i = (struct sequence **)sequence_owner(q) - sequences;
    n_heard[i]++;
    has_failed[i] = code != OK;
}

static void commit(void) {
    assert_int_equal(scheduler_commit(s, &answers[n_committed++ % 16].r, on_taken, NULL), OK);
}

static struct member *member(int i) { return sequence_place(sequences[i]); }

static int is_running(int i) { return member(i) && member(i)->state != MEMBER_WAITS; }

/* Rows of sequence i in the newest step. */
static uint32_t rows_of(int i) {
    uint32_t n = 0;
    for (uint32_t p = 0; p < s->flight->n_parts; p++)
        if (s->flight->parts[p].m == member(i)) n += (uint32_t)(s->flight->parts[p].end - s->flight->parts[p].begin);
    return n;
}

static void run_all(void) {
    for (int k = 0; scheduler_n_sequences(s); k++) {
        assert_true(k < 10000);
        while (n_submitted - n_committed < s->o.n_groups && next(64)) {}
        assert_int_not_equal(n_submitted, n_committed);
        commit();
    }
}

static struct scheduler_counts counts(void) {
    struct scheduler_counts c;
    scheduler_counts(s, &c);
    return c;
}

/* A prompt alone fills steps; its first token goes on as one row. */
static void test_alone(void **state) {
    (void)state;
    start(64, 100, 1);
    add(0, 1, 250, 3, 0, 0);
    assert_true(next(1));
    assert_int_equal(step.n_rows, 100);
    assert_int_equal(step.n_outs, 0);
    assert_true(next(1)); /* needs no result */
    assert_true(next(1));
    assert_int_equal(step.n_rows, 50);
    assert_int_equal(step.n_outs, 1);
    assert_int_equal(step.n_table, 8);
    assert_false(next(1));
    for (int i = 0; i < 3; i++) commit();
    assert_int_equal(n_heard[0], 1);
    assert_true(next(1));
    assert_int_equal(step.n_rows, 1);
    assert_int_equal(step.position[0], 250);
    commit();
    assert_true(next(1));
    commit();
    assert_int_equal(n_heard[0], 3);
    assert_int_equal(sequence_finish(sequences[0]), SEQUENCE_LENGTH);
    assert_int_equal(scheduler_n_sequences(s), 0);
    assert_int_equal(counts().n_blocks_used, 0);
    assert_int_equal(counts().n_blocks_cached, 7);
    assert_false(next(1));
}

/* Those who decode have a row in every step; of prompts there are prefill_rows beside them. */
static void test_mixed(void **state) {
    (void)state;
    start(200, 256, 1);
    for (int i = 0; i < 4; i++) add(i, (uint32_t)i, 5, 100, 0, 0);
    next(0);
    commit();
    add(4, 4, 2000, 1, 0, 0);
    for (int i = 0; i < 20; i++) {
        assert_true(next(32));
        assert_int_equal(step.n_rows, 4 + 32);
        assert_false(next(32)); /* one group: its rows are under way */
        commit();
    }
    assert_int_equal(n_heard[0], 21);
    assert_int_equal(n_heard[3], 21);
}

/* Four groups: four steps under way, of a quarter each; prompts fill stages that have no other work. */
static void test_groups(void **state) {
    (void)state;
    start(200, 256, 4);
    for (int i = 0; i < 10; i++) add(i, (uint32_t)i, 5, 100, 0, 0);
    while (next(0)) {}
    while (n_committed < n_submitted) commit();
    for (int i = 0; i < 4; i++) {
        assert_true(next(32));
        assert_int_equal(step.n_rows, i < 3 ? 3 : 1);
    }
    assert_false(next(32));
    for (int i = 0; i < 9; i++) {
        commit();
        assert_true(next(32));
        assert_in_range(step.n_rows, 1, 3);
    }
    for (int i = 1; i < 10; i++) scheduler_remove(s, sequences[i]);
    while (n_committed < n_submitted) commit();
    add(10, 10, 1000, 1, 0, 0);
    assert_true(next(32));
    assert_int_equal(step.n_rows, 1 + 32);
    for (int i = 0; i < 3; i++) {
        assert_true(next(32));
        assert_int_equal(step.n_rows, 32);
    }
    assert_false(next(32));
}

/* Six texts over three stages: from their prompts on, three steps are under way after every result, of two texts each. */
static void test_three_groups(void **state) {
    (void)state;
    start(200, 64, 3);
    for (int i = 0; i < 6; i++) add(i, (uint32_t)i, 7, 30, 0, 0);
    while (next(64)) {}
    while (n_committed < n_submitted) commit();
    while (next(64)) {}
    for (int i = 0; i < 60; i++) {
        assert_int_equal(n_submitted - n_committed, 3);
        commit();
        while (next(64)) assert_int_equal(step.n_rows, 2);
    }
}

/* One long prompt over four stages: steps of several at once, of one size, and none too large to keep all at work; over
 * one stage they are full. */
static void test_pipelined_prompt(void **state) {
    start(200, 256, 4);
    add(0, 0, 1000, 5, 0, 0);
    for (int i = 0; i < 4; i++) {
        assert_true(next(256));
        assert_int_equal(step.n_rows, 80); /* 80^2 is the first square of tiles beyond 1000 * 16 / 3 */
        assert_int_equal(step.position[0], i * 80);
    }
    teardown(state);
    start(200, 256, 1);
    add(0, 0, 1000, 5, 0, 0);
    for (int i = 0; i < 3; i++) {
        assert_true(next(256));
        assert_int_equal(step.n_rows, 256);
    }
}

/* More sequences decode than a step has outputs: they take turns. */
static void test_turns(void **state) {
    (void)state;
    start(300, 512, 1);
    for (int i = 0; i < 100; i++) add(i, (uint32_t)i, 3, 100, 0, 0);
    for (int i = 0; i < 60; i++) {
        next(512);
        assert_true(step.n_outs <= STEP_OUTS_MAX);
        commit();
        if (i == 9) memset(n_heard, 0, sizeof n_heard); /* all have a first token */
    }
    uint32_t least = n_heard[0], most = n_heard[0];
    for (int i = 0; i < 100; i++) {
        if (n_heard[i] < least) least = n_heard[i];
        if (n_heard[i] > most) most = n_heard[i];
    }
    assert_true(least == 50 * STEP_OUTS_MAX / 100 && most == least); /* 50 steps of 64 */
}

/* A short prompt does not wait behind a long one, nor the long one behind many short ones. */
static void test_prompts_share(void **state) {
    (void)state;
    start(400, 256, 1);
    add(0, 0, 5, 1000, 0, 0);
    next(0);
    commit();
    add(1, 1, 2000, 1, 0, 0);
    for (int i = 2; i < 12; i++) add(i, (uint32_t)i, 60, 1, 0, 0);
    uint32_t n_first = 0;
    for (int i = 0; i < 20; i++) {
        next(64);
        n_first += rows_of(1);
        assert_true(rows_of(1) >= 32);
        commit();
    }
    for (int i = 2; i < 12; i++) assert_int_equal(n_heard[i], 1);
    assert_int_equal(n_first, 20 * 64 - 10 * 60);
}

/* The same prompt eight times is computed once; and again later not at all, but for its last rows. */
static void test_prefix(void **state) {
    (void)state;
    start(200, 128, 1);
    for (int i = 0; i < 8; i++) add(i, 1, 500, 1, 0, 0);
    run_all();
    struct scheduler_counts c = counts();
    assert_int_equal(c.n_prefix_tokens, 7 * 480);
    assert_int_equal(c.n_prefill_tokens, 500 + 7 * 20);
    assert_int_equal(sequence_n_cached(sequences[0]), 0);
    assert_int_equal(sequence_n_cached(sequences[7]), 480);
    add(8, 1, 500, 1, 0, 0);
    next(1);
    assert_int_equal(step.n_rows, 20);
    assert_int_equal(step.position[0], 480);
    commit();
    add(9, 1, 480, 1, 0, 0); /* its last row gives the token: so its block is computed */
    next(1);
    assert_int_equal(step.n_rows, 32);
    commit();
    add(10, 2, 480, 1, 0, 0);
    next(1);
    assert_int_equal(step.n_rows, 128);
    run_all();
    assert_int_equal(sequence_n_cached(sequences[10]), 0);
}

/* What was said goes on: the blocks of an answer are known, too. */
static void test_next_turn(void **state) {
    (void)state;
    start(200, 128, 1);
    add(0, 1, 50, 100, 0, 0);
    run_all();
    static int32_t prompt[300];
    size_t n;
    memcpy(prompt, sequence_rows(sequences[0], &n), 150 * sizeof *prompt);
    assert_int_equal(n, 150);
    struct sequence_options o = {.prompt = prompt, .n_prompt = 200, .n_vocab = N_VOCAB, .context = CONTEXT,
                                 .max_tokens = 1, .top_p = 1, .repeat_penalty = 1};
    assert_int_equal(sequence_create(&o, &sequences[1]), OK);
    sequence_set_owner(sequences[1], &sequences[1]);
    scheduler_add(s, sequences[1], 0, 0);
    run_all();
    assert_int_equal(sequence_n_cached(sequences[1]), 128); /* 149 rows were computed */
}

/* Of two keys each gets every second place, however many wait; a higher priority goes first. */
static void test_admission(void **state) {
    (void)state;
    start(64, 256, 1); /* one text of 2047 tokens at a time */
    add(0, 0, 2000, 1, 0, 0);
    next(1);
    for (int i = 1; i < 6; i++) add(i, (uint32_t)i, 2000, 1, 1, 0);
    for (int i = 6; i < 8; i++) add(i, (uint32_t)i, 2000, 1, 2, 0);
    add(8, 8, 2000, 1, 3, 1);
    const int order[] = {8, 1, 6, 2, 7, 3};
    for (int i = 0; i < 6; i++) {
        for (int k = 0; !is_running(order[i]); k++) {
            assert_true(k < 20);
            commit();
            next(1);
        }
        for (int k = 1; k < 9; k++) assert_int_equal(is_running(k), k == order[i]);
    }
}

/* Blocks run out: the last of the lowest priority gives its own back, never the first of the highest. */
static void test_preemption(void **state) {
    (void)state;
    start(64, 256, 1);
    add(0, 0, 500, 1500, 0, 1); /* grows to all 64 blocks */
    add(1, 1, 300, 60, 0, 0);
    add(2, 2, 300, 200, 0, 0);
    add(3, 3, 300, 300, 0, 0);
    add(4, 4, 100, 600, 0, 1);
    int left[5], n_left = 0;
    uint64_t before = 0;
    while (member(0)) {
        next(64);
        for (int i = 0; i < 5; i++)
            if (member(i) && member(i)->n_preemptions == 1 && member(i)->state == MEMBER_WAITS &&
                counts().n_preemptions > before) {
                before = counts().n_preemptions;
                left[n_left++] = i;
            }
        assert_true(!member(0) || member(0)->n_preemptions == 0);
        commit();
    }
    assert_true(n_left > 0);
    assert_int_equal(left[0], 3); /* the last of the lower priority */
    run_all();
    assert_int_equal(counts().n_blocks_used, 0);
    for (int i = 0; i < 5; i++) assert_int_equal(sequence_finish(sequences[i]), SEQUENCE_LENGTH);
}

/* Gone at once, with rows under way: the blocks are free, and the result disturbs nobody. */
static void test_remove(void **state) {
    (void)state;
    start(100, 256, 1);
    add(0, 0, 80, 10, 0, 0);
    add(1, 1, 80, 10, 0, 0);
    add(2, 2, 80, 10, 0, 0);
    next(1);
    assert_int_equal(counts().n_blocks_used, 9);
    scheduler_remove(s, sequences[1]);
    assert_int_equal(counts().n_running, 2);
    assert_int_equal(counts().n_blocks_used, 6);
    scheduler_remove(s, sequences[1]); /* it is not there any more: nothing happens */
    commit();
    assert_int_equal(n_heard[0], 1);
    assert_int_equal(n_heard[1], 0);
    assert_int_equal(n_heard[2], 1);
    add(3, 3, 2000, 1, 0, 0);
    add(4, 4, 2000, 1, 0, 0);
    next(1);
    assert_false(is_running(4));
    scheduler_remove(s, sequences[4]);
    run_all();
    assert_int_equal(counts().n_blocks_used, 0);
}

/* The job is lost: everything is computed again, and nothing is heard twice. */
static void test_reset(void **state) {
    (void)state;
    start(100, 64, 2);
    for (int i = 0; i < 3; i++) add(i, (uint32_t)i, 100, 20, 0, i == 2);
    for (int i = 0; i < 8; i++) {
        next(64);
        if (i > 1) commit();
    }
    uint32_t n_before = n_heard[2];
    assert_true(n_before > 0 && n_before < 20);
    scheduler_reset(s);
    cache_engine_reset(&e);
    n_committed = n_submitted;
    assert_int_equal(counts().n_running, 0);
    assert_int_equal(counts().n_waiting, 3);
    assert_int_equal(counts().n_blocks_used + counts().n_blocks_cached, 0);
    run_all();
    for (int i = 0; i < 3; i++) assert_int_equal(n_heard[i], 20);
    assert_int_equal(sequence_n_cached(sequences[2]), 0);
}

/* No token is left to choose: that one alone fails, and has left. */
static void test_failed(void **state) {
    (void)state;
    start(100, 64, 1);
    add(0, 0, 10, 10, 0, 0);
    add(1, 1, 10, 10, 0, 0);
    next(1);
    answers[0].outs[1].token = -1;
    commit();
    assert_false(has_failed[0]);
    assert_true(has_failed[1]);
    assert_null(member(1));
    assert_int_equal(scheduler_n_sequences(s), 1);
    run_all();
}

static void test_bad(void **state) {
    (void)state;
    start(100, 64, 1);
    struct scheduler *none;
    struct scheduler_options o = {.n_blocks = 63, .rows_max = 64, .n_groups = 1, .context = CONTEXT, .n_vocab = 10};
    assert_int_equal(scheduler_create(&o, &none), ERR_CONFIG);
    o.n_groups = 0;
    assert_int_equal(scheduler_create(&o, &none), ERR_INTERNAL);
    struct result r = {0};
    assert_int_equal(scheduler_commit(s, &r, on_taken, NULL), ERR_INTERNAL);
    add(0, 0, 10, 10, 0, 0);
    assert_int_equal(scheduler_add(s, sequences[0], 0, 0), ERR_INTERNAL);
    next(1);
    assert_int_equal(scheduler_commit(s, &r, on_taken, NULL), ERR_INTERNAL);
}

/* Each sequence begins once, with its first row: not as it is let in, nor as it is computed again. */
static void test_begin(void **state) {
    (void)state;
    start(64, 64, 1);
    add(0, 0, 1000, 900, 0, 0);
    add(1, 1, 900, 500, 0, 0);
    add(2, 2, 900, 2, 0, 0);
    assert_int_equal(n_begun[0] + n_begun[1], 0);
    assert_true(next(64));
    assert_int_equal(n_begun[0], 1);
    assert_int_equal(n_begun[1], 1);
    assert_int_equal(n_begun[2], 0); /* there are no blocks for it */
    commit();
    scheduler_reset(s);
    run_all();
    assert_true(counts().n_preemptions > 0);
    for (int i = 0; i < 3; i++) assert_int_equal(n_begun[i], 1);
}

#define TEST(name) cmocka_unit_test_teardown(name, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_alone),     TEST(test_mixed),   TEST(test_groups),    TEST(test_three_groups),
        TEST(test_pipelined_prompt),
        TEST(test_turns),     TEST(test_prompts_share),
        TEST(test_prefix),    TEST(test_next_turn), TEST(test_admission), TEST(test_preemption),
        TEST(test_remove),    TEST(test_reset),   TEST(test_failed),    TEST(test_bad),   TEST(test_begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
