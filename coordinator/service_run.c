/* The service's thread: launches the job, keeps steps under way, turns results into
 * events, and launches again when the job is lost. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/facts.h"
#include "coordinator/report.h"
#include "coordinator/service_parts.h"

#define STATS_EVERY_US 1000000
#define POLL_US 100000         /* signals and closing are looked for so often */
#define RELAUNCH_TRIES 3       /* without a single result between */
#define RELAUNCH_PAUSE_US 500000
#define LOST_WITH_MAX 3        /* jobs that one request may see lost: it may be what kills them */
#define LASTING_US 60000000    /* a job that was ready for so long is no failed relaunch */

/* ---- events ---- */

static err event_new(const struct ticket *t, enum service_event_kind kind, struct service_event **out) {
    TRY(NEW(*out, 1));
    (*out)->id = t->id;
    (*out)->kind = kind;
    return OK;
}

/* The text that became visible since the last event. */
static err event_take_text(struct ticket *t, struct service_event *e) {
    size_t n;
    const char *text = sequence_text(t->sequence, &n);
    TRY(NEW(e->text, n - t->n_told + 1));
    e->n_text = n - t->n_told;
    memcpy(e->text, text + t->n_told, e->n_text);
    t->n_told = n;
    return OK;
}

static err event_take_tokens(struct service_event *e, const struct token_score *tokens, size_t n) {
    TRY(NEW(e->tokens, n));
    memcpy(e->tokens, tokens, n * sizeof *tokens);
    e->n_tokens = (uint32_t)n;
    return OK;
}

static err tell_prompt(struct service *s, struct ticket *t) {
    size_t n, n_prompt = sequence_n_prompt(t->sequence);
    const struct token_score *scores = sequence_prompt_scores(t->sequence, &n);
    if (t->has_told_prompt || !scores || n < n_prompt) return OK;
    t->has_told_prompt = 1;
    struct service_event *e;
    TRY(event_new(t, SERVICE_PROMPT, &e));
    err code = event_take_tokens(e, scores, n);
    if (code == OK) service_tell(s, e);
    else service_event_free(e);
    return code;
}

static err tell_token(struct service *s, struct ticket *t) {
    struct service_event *e;
    TRY(event_new(t, SERVICE_TOKEN, &e));
    err code = event_take_tokens(e, sequence_score(t->sequence), 1);
    if (code == OK) code = event_take_text(t, e);
    if (code == OK) service_tell(s, e);
    else service_event_free(e);
    return code;
}

static err tell_embedding(struct service *s, struct ticket *t, uint32_t dim) {
    const float *pooled = sequence_embedding(t->sequence);
    if (!pooled) return OK;
    struct service_event *e;
    TRY(event_new(t, SERVICE_EMBEDDING, &e));
    err code = NEW(e->values, dim);
    if (code == OK) {
        memcpy(e->values, pooled, dim * sizeof *pooled);
        e->n_values = dim;
        service_tell(s, e);
    } else {
        service_event_free(e);
    }
    return code;
}

static err tell_done(struct service *s, struct ticket *t) {
    struct service_event *e;
    size_t n_answer;
    TRY(event_new(t, SERVICE_DONE, &e));
    err code = event_take_text(t, e);
    if (code != OK) {
        service_event_free(e);
        return code;
    }
    sequence_tokens(t->sequence, &n_answer);
    e->finish = sequence_finish(t->sequence);
    e->n_prompt = (uint32_t)sequence_n_prompt(t->sequence);
    e->n_cached = (uint32_t)sequence_n_cached(t->sequence);
    e->n_answer = (uint32_t)n_answer;
    service_tell(s, e);
    return OK;
}

/* Without memory for the event the request would hang. */
static void tell_failed(struct service *s, struct ticket *t, err code, const char *text) {
    struct service_event *e = t->failed;
    t->failed = NULL;
    e->id = t->id;
    e->kind = SERVICE_FAILED;
    e->code = code;
    e->text = strdup(text);
    e->n_text = e->text ? strlen(e->text) : 0;
    service_tell(s, e);
}

/* ---- tickets ---- */

static void ticket_keep(struct service *s, struct ticket *t) {
    t->next = &s->tickets;
    t->before = s->tickets.before;
    t->before->next = t->next->before = t;
}

static void ticket_drop(struct ticket *t) {
    t->before->next = t->next;
    t->next->before = t->before;
    ticket_free(t);
}

static void ticket_fail(struct service *s, struct ticket *t, err code) {
    tell_failed(s, t, code, *err_text() ? err_text() : err_name(code));
    ticket_drop(t);
}

/* Something came of its rows, or it failed; the scheduler has let go of one that is over. */
static void on_taken(void *service, struct sequence *q, err code) {
    struct service *s = service;
    struct ticket *t = sequence_owner(q);
    size_t n_answer;
    if (code == OK) code = tell_prompt(s, t);
    sequence_tokens(q, &n_answer);
    if (code == OK && n_answer > t->n_answer) {
        t->n_answer = n_answer;
        s->n_answer_tokens++;
        code = tell_token(s, t);
    }
    if (code != OK) {
        scheduler_remove(s->scheduler, q);
        ticket_fail(s, t, code);
    } else if (sequence_finish(q) != SEQUENCE_RUNS) {
        code = tell_embedding(s, t, s->o.model->program->dim);
        if (code == OK) code = tell_done(s, t);
        if (code == OK) ticket_drop(t);
        else ticket_fail(s, t, code);
    }
}

void service_begun(void *service, struct sequence *q) {
    struct service *s = service;
    struct ticket *t = sequence_owner(q);
    t->is_begun = 1;
    metrics_observe(s->o.metrics, METRIC_QUEUED, (double)(clock_us() - t->asked_us) * 1e-6);
}

static void ticket_begin(struct service *s, struct ticket *t) {
    ticket_keep(s, t);
    err code = scheduler_add(s->scheduler, t->sequence, t->key, t->priority);
    if (code != OK) ticket_fail(s, t, code);
}

static void ticket_cancel(struct service *s, uint64_t id) {
    for (struct ticket *t = s->tickets.next; t != &s->tickets; t = t->next) {
        if (t->id != id) continue;
        scheduler_remove(s->scheduler, t->sequence);
        ticket_drop(t);
        pthread_mutex_lock(&s->lock);
        s->n_held--;
        pthread_mutex_unlock(&s->lock);
        return;
    }
}

/* What others asked for since; 0 when the service is to end. */
static int inbox_take(struct service *s) {
    uint64_t n;
    ssize_t drained = read(s->wake_fd, &n, sizeof n);
    (void)drained;
    pthread_mutex_lock(&s->lock);
    struct ticket *first = s->inbox;
    uint64_t *cancels = s->cancels;
    size_t n_cancels = s->n_cancels;
    s->inbox = NULL;
    s->inbox_end = &s->inbox;
    s->cancels = NULL;
    s->n_cancels = s->cap_cancels = 0;
    int goes_on = !s->is_closing;
    pthread_mutex_unlock(&s->lock);
    for (struct ticket *t = first, *next; t; t = next) {
        next = t->next;
        ticket_begin(s, t);
    }
    for (size_t i = 0; i < n_cancels; i++) ticket_cancel(s, cancels[i]);
    free(cancels);
    return goes_on;
}

static void tickets_fail(struct service *s, err code) {
    while (s->tickets.next != &s->tickets) {
        struct ticket *t = s->tickets.next;
        scheduler_remove(s->scheduler, t->sequence);
        ticket_fail(s, t, code);
    }
}

/* ---- what is known of the job ---- */

static void metrics_update(struct service *s, const struct scheduler_counts *c) {
    struct metrics *m = s->o.metrics;
    metrics_count(m, METRIC_PROMPT_TOKENS, c->n_prefill_tokens - s->counted.n_prefill_tokens);
    metrics_count(m, METRIC_PREFIX_TOKENS, c->n_prefix_tokens - s->counted.n_prefix_tokens);
    metrics_count(m, METRIC_PREEMPTIONS, c->n_preemptions - s->counted.n_preemptions);
    s->counted = *c;
}

static void status_update(struct service *s) {
    struct scheduler_counts c;
    int64_t now = clock_us();
    scheduler_counts(s->scheduler, &c);
    metrics_update(s, &c);
    pthread_mutex_lock(&s->lock);
    struct service_status *t = &s->status;
    t->n_queued = c.n_waiting;
    t->n_running = c.n_running;
    t->n_blocks_used = c.n_blocks_used;
    t->n_blocks_cached = c.n_blocks_cached;
    t->n_steps = s->n_steps;
    if (now - s->rate.us >= STATS_EVERY_US) {
        double seconds = (double)(now - s->rate.us) * 1e-6;
        t->prompt_tokens_per_s = (double)(c.n_prefill_tokens - s->rate.prompt) / seconds;
        t->answer_tokens_per_s = (double)(s->n_answer_tokens - s->rate.answer) / seconds;
        s->rate.us = now;
        s->rate.prompt = c.n_prefill_tokens;
        s->rate.answer = s->n_answer_tokens;
    }
    pthread_mutex_unlock(&s->lock);
}

/* Each rank's figures with the share of the time since the last ones that it computed. */
static void ranks_update(struct service *s) {
    uint64_t n_times;
    const struct engine_rank *ranks = engine_ranks(s->engine, &n_times);
    if (n_times == s->n_stats_taken) return;
    s->n_stats_taken = n_times;
    json_t *list = report_ranks(engine_plan(s->engine), ranks);
    if (facts_add(list, engine_plan(s->engine), ranks, engine_forecast(s->engine)) != OK) return;
    int64_t now = clock_us();
    double seconds = (double)(now - s->stats_us) * 1e-6;
    for (uint32_t r = 0; r < s->status.n_ranks; r++) {
        double busy = s->stats_us ? (ranks[r].compute_s - s->compute_s[r]) / seconds : 0;
        busy = busy < 0 ? 0 : busy > 1 ? 1 : busy;
        json_object_set_new(json_array_get(list, r), "busy", json_real(busy));
        s->compute_s[r] = ranks[r].compute_s;
    }
    s->stats_us = now;
    pthread_mutex_lock(&s->lock);
    json_decref(s->ranks);
    s->ranks = list;
    pthread_mutex_unlock(&s->lock);
}

static err stats_ask(struct service *s) {
    int64_t now = clock_us();
    if (now - s->asked_stats_us < STATS_EVERY_US) return OK;
    s->asked_stats_us = now;
    return engine_ask_stats(s->engine);
}

static void on_progress(void *service, uint64_t loaded, uint64_t total) {
    struct service *s = service;
    pthread_mutex_lock(&s->lock);
    s->status.loaded_bytes = loaded;
    s->status.total_bytes = total;
    pthread_mutex_unlock(&s->lock);
}

/* ---- steps ---- */

/* As many steps as may be under way. */
static err steps_submit(struct service *s) {
    while (engine_n_pending(s->engine) < engine_depth(s->engine)) {
        struct scheduler_counts before, after;
        struct step step;
        int has_step;
        scheduler_counts(s->scheduler, &before);
        uint32_t n_groups = s->status.n_stages, n_decode = (before.n_decoding + n_groups - 1) / n_groups;
        uint32_t n_prompts = (before.n_waiting + before.n_running - before.n_decoding + n_groups - 1) / n_groups;
        TRY(scheduler_next(s->scheduler, pacer_rows(&s->pacer, n_decode, n_prompts), &step, &has_step));
        if (!has_step) return OK;
        scheduler_counts(s->scheduler, &after);
        s->sent[s->n_sent++ % engine_depth(s->engine)] = (struct sent_step){
            .begin_us = clock_us(),
            .n_decode = (uint32_t)(after.n_decode_tokens - before.n_decode_tokens),
            .n_prefill = (uint32_t)(after.n_prefill_tokens - before.n_prefill_tokens)};
        TRY(engine_submit(s->engine, &step));
    }
    return OK;
}

static err step_take(struct service *s, const struct result *r) {
    const struct sent_step *sent = &s->sent[s->n_done++ % engine_depth(s->engine)];
    int64_t now = clock_us(), begin = sent->begin_us > s->last_result_us ? sent->begin_us : s->last_result_us;
    pacer_learn(&s->pacer, sent->n_decode, sent->n_prefill, (double)(now - begin));
    metrics_observe(s->o.metrics, METRIC_STEP, (double)(now - sent->begin_us) * 1e-6);
    metrics_count(s->o.metrics, METRIC_STEPS, 1);
    s->last_result_us = now;
    s->n_steps++;
    s->n_failures = 0;
    uint64_t n_before = s->n_answer_tokens;
    TRY(scheduler_commit(s->scheduler, r, on_taken, s));
    metrics_count(s->o.metrics, METRIC_ANSWER_TOKENS, s->n_answer_tokens - n_before);
    return OK;
}

/* Of events, and of a signal to whom it concerns. */
static void announce(struct service *s) {
    if (!s->has_new_events && (s->is_first_load || !engine_signal())) return;
    s->has_new_events = 0;
    if (s->o.on_events) s->o.on_events(s->o.context);
}

/* Until the service is to end (OK), or the job failed. */
static err job_serve(struct service *s) {
    while (inbox_take(s)) {
        struct result r;
        int has_result;
        TRY(steps_submit(s));
        TRY(stats_ask(s));
        status_update(s);
        announce(s);
        TRY(engine_poll(s->engine, POLL_US, &r, &has_result));
        if (has_result) TRY(step_take(s, &r));
        ranks_update(s);
    }
    return OK;
}

/* ---- the job ---- */

/* Loading takes long: who leaves meanwhile makes room, and closing does not wait for its end. */
static err on_wait(void *service) {
    struct service *s = service;
    if (!inbox_take(s)) return err_set(ERR_JOB, "the service was closed");
    status_update(s);
    announce(s);
    return OK;
}

struct engine_options service_job_options(struct service *s) {
    return (struct engine_options){
        .config = &s->config, .program = s->o.model->program, .model = s->o.model->path,
        .is_reference = s->o.is_reference, .is_verbose = s->o.is_verbose, .context = s->context,
        .n_blocks = s->n_blocks, .rows_max = (uint32_t)s->config.prefill_chunk, .wake_fd = s->wake_fd,
        .on_progress = on_progress, .on_wait = on_wait, .context_of_opening = s};
}

/* The grid may be another one than that of the job before. */
static void grid_take(struct service *s) {
    const struct plan *plan = engine_plan(s->engine);
    scheduler_set_groups(s->scheduler, plan->n_stages);
    memset(s->compute_s, 0, plan->n_ranks * sizeof *s->compute_s);
    pthread_mutex_lock(&s->lock);
    s->status.n_stages = plan->n_stages;
    s->status.n_shards = plan->n_shards;
    s->status.n_ranks = plan->n_ranks;
    s->status.load_s = engine_load_s(s->engine);
    const struct forecast *f = engine_forecast(s->engine);
    s->status.forecast_decode_per_s = f ? f->decode_per_s : 0;
    s->status.forecast_prefill_per_s = f ? f->prefill_per_s : 0;
    s->status.forecast_load_s = f ? f->load_s : 0;
    pthread_mutex_unlock(&s->lock);
}

static err job_open(struct service *s) {
    const struct engine_options o = service_job_options(s);
    s->ready_us = 0;
    s->is_first_load = s->status.load_s <= 0;
    engine_hold_signals(!s->is_first_load); /* nothing runs yet; later a signal asks for a drain */
    err e = engine_open(&o, &s->engine);
    s->is_first_load = 0;
    if (e != OK) return e;
    engine_hold_signals(1);
    s->ready_us = clock_us();
    if (s->o.is_verbose) TRY(report_print_plan(s->o.model->program, engine_plan(s->engine), stderr));
    s->n_sent = s->n_done = 0;
    s->n_stats_taken = 0;
    s->stats_us = s->asked_stats_us = s->last_result_us = 0;
    grid_take(s);
    service_set_state(s, SERVICE_READY, "");
    s->has_new_events = 1; /* who waits for a model that is ready hears of it */
    return OK;
}

static int is_closing(struct service *s) {
    pthread_mutex_lock(&s->lock);
    int closing = s->is_closing;
    pthread_mutex_unlock(&s->lock);
    return closing;
}

/* Those that ran as so many jobs were lost are not tried again. */
static void tickets_suspect(struct service *s) {
    for (struct ticket *t = s->tickets.next, *next; t != &s->tickets; t = next) {
        next = t->next;
        t->n_lost += t->is_begun;
        if (t->n_lost < LOST_WITH_MAX) continue;
        scheduler_remove(s->scheduler, t->sequence);
        ticket_fail(s, t, err_set(ERR_JOB, "the job was lost %d times while this request ran; it is not tried again",
                                  t->n_lost));
    }
}

/* The job is lost: all that its ranks knew is computed again by the next one. 0 when there will be none. */
static int job_lost(struct service *s, err code) {
    char text[512];
    if (is_closing(s)) return 0;
    if (s->ready_us && clock_us() - s->ready_us > LASTING_US) s->n_failures = 0;
    snprintf(text, sizeof text, "%s", *err_text() ? err_text() : err_name(code));
    int may_again = (code == ERR_JOB || code == ERR_TIMEOUT) && !engine_n_inside() && s->status.load_s > 0 &&
                    s->n_failures < RELAUNCH_TRIES;
    service_set_state(s, may_again ? SERVICE_RECOVERING : SERVICE_ENDED, text);
    log_error(may_again ? "job_lost" : "job_ended", "reason=\"%s\"", text);
    announce(s); /* what came before must not wait for the next job */
    engine_close(s->engine);
    s->engine = NULL;
    if (may_again) {
        s->n_failures++;
        metrics_count(s->o.metrics, METRIC_RELAUNCHES, 1);
        scheduler_reset(s->scheduler);
        tickets_suspect(s);
        clock_sleep_us(RELAUNCH_PAUSE_US * s->n_failures);
        return 1;
    }
    err_set(code, "%s", text);
    tickets_fail(s, code);
    s->has_new_events = 1; /* the end itself */
    return 0;
}

void *service_thread(void *service) {
    struct service *s = service;
    err code;
    do {
        code = job_open(s);
        if (code == OK) code = job_serve(s);
    } while (code != OK && job_lost(s, code));
    announce(s);
    while (code != OK && inbox_take(s)) { /* what came in just before the end; nothing more is let in */
        tickets_fail(s, err_set(code, "%s", s->status.reason));
        announce(s);
        clock_sleep_us(POLL_US);
    }
    while (s->tickets.next != &s->tickets) {
        scheduler_remove(s->scheduler, s->tickets.next->sequence);
        ticket_drop(s->tickets.next);
    }
    engine_close(s->engine);
    return NULL;
}
