/* The scheduler under load: 10,000 sequences of mixed length, keys and priorities, cancels, lost jobs, caches that
 * are too small. Every answer is that of the sequence alone, nobody starves, no block leaks, and the same
 * input gives the same steps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "coordinator/scheduler_parts.h"
#include "tests/cache_engine.h"

#define N 10000
#define N_VOCAB 5000
#define PROMPT_MAX 3000
#define ANSWER_MAX 300
#define CONTEXT (PROMPT_MAX + ANSWER_MAX)
#define ROWS_MAX 512
#define N_SYSTEM 8 /* texts that prompts begin with */
#define PIECE 64   /* rows of a step, alone */

struct text {
    uint64_t seed;
    struct sequence *q;
    uint64_t alone, n_let_in_before; /* hash of what it gives alone; let in when it came */
    uint32_t n_waiting_before;
    int is_in, is_done, is_cancelled;
};

static struct text texts[N];
static int32_t system_texts[N_SYSTEM][PROMPT_MAX];
static int32_t prompt[PROMPT_MAX];

static uint32_t draw(uint64_t *seed, uint32_t n) {
    *seed = mix(*seed + 1, 77);
    return (uint32_t)(*seed >> 16) % n;
}

/* Everything about text i follows from its seed. */
static struct sequence *create(const struct text *t) {
    uint64_t seed = t->seed;
    uint32_t kind = draw(&seed, 20), n_shared = 0, n = 1 + draw(&seed, draw(&seed, 3) ? 200 : PROMPT_MAX);
    if (draw(&seed, 2)) {
        uint32_t which = draw(&seed, N_SYSTEM);
        n_shared = draw(&seed, 2) ? n : draw(&seed, n + 1);
        memcpy(prompt, system_texts[which], n_shared * sizeof *prompt);
    }
    for (uint32_t i = n_shared; i < n; i++) prompt[i] = (int32_t)draw(&seed, N_VOCAB);
    struct sequence_options o = {
        .prompt = prompt, .n_prompt = n, .n_vocab = N_VOCAB, .context = CONTEXT, .top_p = 1, .repeat_penalty = 1,
        .max_tokens = 1 + draw(&seed, draw(&seed, 3) ? 50 : ANSWER_MAX), .seed = draw(&seed, 1000)};
    if (kind == 0) o.frequency_penalty = 1;
    if (kind == 1) o.scores_prompt = 1;
    if (kind == 2) o.max_tokens = 0;
    if (kind == 2 && draw(&seed, 2)) o.scores_prompt = 1;
    else if (kind == 2) o.pooling = draw(&seed, 2) ? SEQUENCE_POOL_MEAN : SEQUENCE_POOL_LAST;
    o.dim = ENGINE_DIM;
    struct sequence *q;
    if (sequence_create(&o, &q) != OK) fail_msg("%s", err_text());
    return q;
}

static uint64_t hash_answer(const struct sequence *q) {
    size_t n;
    const int32_t *tokens = sequence_tokens(q, &n);
    uint64_t h = mix(n, sequence_finish(q));
    for (size_t i = 0; i < n; i++) h = mix(h, (uint64_t)tokens[i]);
    const struct token_score *scores = sequence_prompt_scores(q, &n);
    for (size_t i = 1; i < n; i++) h = mix(h, (uint64_t)-scores[i].logprob);
    const float *values = sequence_embedding(q);
    for (size_t i = 0; values && i < ENGINE_DIM; i++) h = mix(h, (uint64_t)(values[i] * 1000));
    return h;
}

/* The sequence alone, without a scheduler, in a cache of its own. */
static uint64_t run_alone(struct cache_engine *e, struct sequence *q) {
    static struct engine_answer a;
    static int32_t position[PIECE], zero[PIECE], table[CONTEXT / KV_BLOCK_TOKENS + 1];
    static struct step_out outs[PIECE];
    static struct step_edit edits[CONTEXT];
    for (uint32_t i = 0; i < e->n_blocks; i++) table[i] = (int32_t)i;
    for (size_t begin = 0, n; sequence_finish(q) == SEQUENCE_RUNS;) {
        const int32_t *rows = sequence_rows(q, &n);
        size_t end = begin + PIECE < n ? begin + PIECE : n;
        struct step s = {.n_rows = (uint32_t)(end - begin), .n_table = e->n_blocks, .token = rows + begin,
                         .position = position, .table_begin = zero, .table = table, .outs = outs, .edits = edits};
        for (size_t i = begin; i < end; i++) position[i - begin] = (int32_t)i;
        sequence_wants(q, begin, end, &s.n_outs, &s.n_edits);
        sequence_want(q, begin, end, 0, 0, outs, edits);
        cache_engine_run(e, &s, &a);
        assert_int_equal(sequence_take(q, begin, end, &a.r, 0, 0), OK);
        begin = end;
    }
    return hash_answer(q);
}

static int setup(void **state) {
    (void)state;
    struct cache_engine e;
    uint64_t seed = 5;
    for (uint32_t i = 0; i < N_SYSTEM; i++)
        for (uint32_t k = 0; k < PROMPT_MAX; k++) system_texts[i][k] = (int32_t)draw(&seed, N_VOCAB);
    cache_engine_create(&e, N_VOCAB, (uint32_t)blocks_for(CONTEXT));
    for (uint32_t i = 0; i < N; i++) {
        texts[i] = (struct text){.seed = i * 1000003};
        struct sequence *q = create(&texts[i]);
        texts[i].alone = run_alone(&e, q);
        sequence_free(q);
    }
    cache_engine_free(&e);
    return 0;
}

/* ---- what holds after every step ---- */

/* Tables and blocks agree: who holds what, nothing shared is written. */
static void check_members(const struct scheduler *s) {
    static uint32_t held[1 << 16];
    if (blocks_check(s->blocks) != OK) fail_msg("%s", err_text());
    memset(held, 0, s->o.n_blocks * sizeof *held);
    for (uint32_t i = 0; i < s->n_running; i++) {
        const struct member *m = s->running[i];
        assert_true(m->n_known <= m->n_indexed && m->n_indexed <= m->n_table && m->n_table <= s->table_cap);
        assert_true(blocks_for(m->n_given) <= m->n_table);
        for (uint32_t k = 0; k < m->n_table; k++) {
            assert_in_range(m->table[k], 0, s->o.n_blocks - 1);
            held[m->table[k]]++;
            assert_int_equal(blocks_is_known(s->blocks, m->table[k]), k < m->n_known);
        }
    }
    for (uint32_t i = 0; i < s->o.n_blocks; i++)
        assert_int_equal(held[i], blocks_n_holders(s->blocks, (int32_t)i));
}

static void check_step(const struct scheduler *s, const struct step *step) {
    static struct bytes frame;
    struct step got;
    struct step_limits limits = {s->o.rows_max, s->o.n_vocab, s->o.n_blocks, s->o.context};
    frame.len = 0;
    assert_int_equal(frame_put_step(&frame, 1, step), OK);
    if (frame_get_step(frame.data + sizeof(struct frame_header), frame.len - sizeof(struct frame_header), &limits,
                       &got) != OK)
        fail_msg("%s", err_text());
    for (uint32_t i = 1; i < step->n_rows; i++) {
        if (step->table_begin[i] == step->table_begin[i - 1])
            assert_int_equal(step->position[i], step->position[i - 1] + 1);
    }
}

/* ---- a run ---- */

struct load {
    struct scheduler *s;
    struct cache_engine e;
    struct engine_answer answers[8];
    uint32_t n_done, n_under_way, first;
    uint64_t seed;
    uint64_t n_let_in, let_in_step, n_still_max; /* let in so far, and when the last was; steps without any */
};

/* The bounds that the headers state: how many are let in before one, and how long nobody is. */
static void check_let_in(struct load *l) {
    const struct scheduler *s = l->s;
    if (waiting_n_let_in(s->waiting) != l->n_let_in || !waiting_n(s->waiting)) l->let_in_step = l->e.n_steps;
    l->n_let_in = waiting_n_let_in(s->waiting);
    uint64_t n_still = l->e.n_steps - l->let_in_step;
    if (n_still > l->n_still_max) l->n_still_max = n_still;
    assert_true(n_still <= 2 * PROMPT_MAX + 5 * s->o.n_groups * ANSWER_MAX);
    for (uint32_t i = 0; i < s->n_running; i++) {
        struct text *t = sequence_owner(s->running[i]->q);
        if (t->is_in) continue;
        t->is_in = 1;
        uint64_t n = waiting_n_let_in(s->waiting) - t->n_let_in_before;
        uint64_t most = WAITING_AGED_EVERY * ((uint64_t)t->n_waiting_before + 1) + s->running_max;
        if (n > most) fail_msg("%llu were let in before it", (unsigned long long)n);
    }
}

static void on_taken(void *context, struct sequence *q, err e) {
    struct load *l = context;
    struct text *t = sequence_owner(q);
    assert_int_equal(e, OK);
    assert_false(t->is_cancelled || t->is_done);
    if (sequence_finish(q) == SEQUENCE_RUNS) return;
    if (hash_answer(q) != t->alone) fail_msg("text %d differs from what it is alone", (int)(t - texts));
    t->is_done = 1;
    t->q = NULL;
    sequence_free(q);
    l->n_done++;
}

static void add_text(struct load *l, struct text *t) {
    t->q = create(t);
    t->is_in = t->is_done = t->is_cancelled = 0;
    t->n_let_in_before = waiting_n_let_in(l->s->waiting);
    t->n_waiting_before = waiting_n(l->s->waiting);
    sequence_set_owner(t->q, t);
    assert_int_equal(scheduler_add(l->s, t->q, draw(&l->seed, 5), (int)draw(&l->seed, 3) - 1), OK);
}

static void cancel_one(struct load *l, uint32_t n_added) {
    struct text *t = &texts[draw(&l->seed, n_added)];
    if (!t->q) return;
    scheduler_remove(l->s, t->q);
    sequence_free(t->q);
    t->q = NULL;
    t->is_cancelled = 1;
    l->n_done++;
}

static int submit_one(struct load *l) {
    struct step step;
    int has_step;
    assert_int_equal(scheduler_next(l->s, 8u << draw(&l->seed, 7) & ~8u, &step, &has_step), OK);
    if (!has_step) return 0;
    cache_engine_run(&l->e, &step, &l->answers[(l->first + l->n_under_way++) % 8]);
    if (l->e.n_steps % 8 == 0) check_step(l->s, &step);
    if (l->e.n_steps % 64 == 0) check_members(l->s);
    check_let_in(l);
    return 1;
}

static void commit_one(struct load *l) {
    assert_true(l->n_under_way > 0); /* or nothing would ever happen again */
    struct engine_answer *a = &l->answers[l->first];
    l->first = (l->first + 1) % 8;
    l->n_under_way--;
    assert_int_equal(scheduler_commit(l->s, &a->r, on_taken, l), OK);
}

static void lose_job(struct load *l) {
    cache_engine_reset(&l->e);
    scheduler_reset(l->s);
    l->n_under_way = 0;
    check_members(l->s);
}

/* The hash of all steps. */
static uint64_t run_load(uint32_t n_groups, uint32_t n_blocks, uint32_t *n_preemptions) {
    struct load *l;
    struct scheduler_options o = {.n_blocks = n_blocks, .rows_max = ROWS_MAX, .n_groups = n_groups,
                                  .context = CONTEXT, .n_vocab = N_VOCAB};
    assert_int_equal(NEW(l, 1), OK);
    assert_int_equal(scheduler_create(&o, &l->s), OK);
    cache_engine_create(&l->e, N_VOCAB, n_blocks);
    uint32_t n_added = 0;
    while (l->n_done < N) {
        for (uint32_t i = 0; n_added < N && i < 3; i++) add_text(l, &texts[n_added++]);
        if (draw(&l->seed, 32) == 0) cancel_one(l, n_added);
        if (draw(&l->seed, 8192) == 0) lose_job(l);
        while (l->n_under_way <= n_groups && submit_one(l)) {}
        if (scheduler_n_sequences(l->s) || l->n_under_way) commit_one(l);
    }
    struct scheduler_counts c;
    scheduler_counts(l->s, &c);
    assert_int_equal(scheduler_n_sequences(l->s), 0);
    assert_int_equal(c.n_blocks_used, 0);
    assert_true(c.n_prefix_tokens > 0);
    check_members(l->s);
    *n_preemptions = (uint32_t)c.n_preemptions;
    uint64_t hash = mix(l->e.hash, l->e.n_steps);
    print_message("%llu steps, %llu prompt rows, %llu of them known, %llu decoded, %u preemptions; "
                  "at most %llu steps let nobody in\n",
                  (unsigned long long)l->e.n_steps, (unsigned long long)(c.n_prefill_tokens + c.n_prefix_tokens),
                  (unsigned long long)c.n_prefix_tokens, (unsigned long long)c.n_decode_tokens, *n_preemptions,
                  (unsigned long long)l->n_still_max);
    scheduler_free(l->s);
    cache_engine_free(&l->e);
    free(l);
    return hash;
}

static void run_twice(uint32_t n_groups, uint32_t n_blocks, uint32_t preemptions_min) {
    uint32_t n_preemptions;
    uint64_t first = run_load(n_groups, n_blocks, &n_preemptions);
    assert_true(n_preemptions >= preemptions_min);
    assert_true(run_load(n_groups, n_blocks, &n_preemptions) == first);
}

static void test_one_group(void **state) {
    (void)state;
    run_twice(1, 2000, 0);
}

static void test_four_groups(void **state) {
    (void)state;
    run_twice(4, 4000, 0);
}

/* One full context and a little. */
static void test_small_cache(void **state) {
    (void)state;
    run_twice(1, 120, 100);
}

static void test_small_cache_groups(void **state) {
    (void)state;
    run_twice(4, 300, 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_group),
        cmocka_unit_test(test_four_groups),
        cmocka_unit_test(test_small_cache),
        cmocka_unit_test(test_small_cache_groups),
    };
    return cmocka_run_group_tests(tests, setup, NULL);
}
