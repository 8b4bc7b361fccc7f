#include "coordinator/streams.h"

#include "base/clock.h"
#include "coordinator/scheduler.h"
#include "coordinator/sequence.h"

/* A run of them. */
struct run {
    struct streams *s;
    struct scheduler *scheduler;
    struct sequence *of[STREAMS_MAX];
    err taken;
};

static void on_taken(void *context, struct sequence *q, err e) {
    struct run *r = context;
    struct streams *s = r->s;
    struct streams_state *at = &s->state;
    size_t n_tokens;
    sequence_tokens(q, &n_tokens);
    if (e != OK) r->taken = e;
    if (n_tokens > at->n_most) at->n_most = (uint32_t)n_tokens;
    if (at->n_begun == s->n) s->times_us[++at->n_since + 1] = clock_us();
    else if (n_tokens == 1 && ++at->n_begun == s->n) s->times_us[1] = clock_us();
}

static err steps_run(struct run *r) {
    struct streams *s = r->s;
    while (scheduler_n_sequences(r->scheduler)) {
        struct result result;
        int has_step = 1;
        while (has_step && engine_n_pending(s->engine) < engine_depth(s->engine)) {
            struct step step;
            TRY(scheduler_next(r->scheduler, s->rows_max, &step, &has_step));
            if (has_step) TRY(engine_submit(s->engine, &step));
        }
        TRY(engine_next(s->engine, &result));
        TRY(scheduler_commit(r->scheduler, &result, on_taken, r));
        TRY(r->taken);
        if (s->on_result) TRY(s->on_result(s->context, &s->state));
    }
    return OK;
}

static err run_open(struct run *r) {
    const struct streams *s = r->s;
    const struct plan *plan = engine_plan(s->engine);
    struct scheduler_options of_steps = {
        .n_blocks = plan->n_blocks, .rows_max = s->rows_max, .n_groups = plan->n_stages, .context = plan->context,
        .n_vocab = s->n_vocab};
    struct sequence_options o = {
        .n_prompt = s->n_prompt, .n_vocab = s->n_vocab, .context = s->n_prompt + s->n_tokens,
        .max_tokens = s->n_tokens, .top_p = 1, .repeat_penalty = 1, .ignores_end = 1};
    TRY(scheduler_create(&of_steps, &r->scheduler));
    for (uint32_t i = 0; i < s->n; i++) {
        o.prompt = s->tokens + i;
        TRY(sequence_create(&o, &r->of[i]));
        TRY(scheduler_add(r->scheduler, r->of[i], 0, 0));
    }
    return OK;
}

err streams_run(struct streams *s) {
    struct run r = {.s = s};
    s->state = (struct streams_state){0};
    err e = run_open(&r);
    s->times_us[0] = clock_us();
    if (e == OK) e = steps_run(&r);
    scheduler_free(r.scheduler);
    for (uint32_t i = 0; i < s->n; i++) sequence_free(r.of[i]);
    return e;
}

void streams_fill(int32_t *tokens, uint32_t n, uint32_t n_vocab) {
    for (uint32_t i = 0; i < n; i++) tokens[i] = (int32_t)((i * UINT64_C(7919) + 11) % n_vocab);
}
