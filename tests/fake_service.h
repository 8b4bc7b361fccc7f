/* A service without a job, for tests of the API: every request gets the tokens of one script, one at each
 * service_take, with scores that can be computed by hand. Texts and stop texts are those of a real sequence. Stands
 * before coordinator/service.c when linked. */
#ifndef TESTS_FAKE_SERVICE_H
#define TESTS_FAKE_SERVICE_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/service.h"

#define FAKE_REQUESTS_MAX 4096
#define FAKE_CACHED 3 /* tokens of every prompt that need not be computed, at most */

struct fake_request {
    uint64_t id;
    struct service_request asked; /* pointers of its sequence are not valid any more, but for these: */
    int32_t *prompt;
    struct sequence *sequence;    /* NULL where no text is asked for */
    size_t n_rows, n_shown, n_tokens; /* rows whose results the sequence has; bytes; of the answer */
    int is_running, has_prompt_scores;
};

struct service {
    const struct model *model;
    struct token_list script; /* then the end token, again and again */
    struct fake_request requests[FAKE_REQUESTS_MAX];
    size_t n_requests, n_running, n_cancelled, n_most; /* n_most: that ran at once */
    size_t queue;     /* requests at once; more are ERR_BUSY */
    err refusal;      /* of the next submit */
    err failure;      /* of the first request that comes to its third token */
    int is_paused;    /* no events */
    struct service_status status;
    json_t *ranks;
};

static inline void fake_reset(struct service *s) {
    for (size_t i = 0; i < s->n_requests; i++) {
        sequence_free(s->requests[i].sequence);
        free(s->requests[i].prompt);
    }
    s->n_requests = s->n_running = s->n_cancelled = s->n_most = 0;
    s->queue = FAKE_REQUESTS_MAX;
    s->refusal = s->failure = OK;
    s->is_paused = 0;
    s->status = (struct service_status){.state = SERVICE_READY};
}

static inline void fake_free(struct service *s) {
    fake_reset(s);
    token_list_free(&s->script);
    json_decref(s->ranks);
    s->ranks = NULL;
}

/* ---- numbers ---- */

static inline float fake_logprob(int32_t token) { return -(float)(token % 7 + 1) / 8; }

/* The chosen token is the second best, where several are listed. */
static inline void fake_score(const struct sequence_options *o, int32_t token, struct token_score *out) {
    *out = (struct token_score){.token = token, .logprob = fake_logprob(token), .n_top = o->n_top};
    for (uint32_t i = 0; i < o->n_top; i++) {
        int32_t shift = i == 0 ? 1 : i == 1 ? 0 : (int32_t)i;
        out->top[i].token = (int32_t)(((uint32_t)token + (uint32_t)shift) % o->n_vocab);
        out->top[i].logprob = fake_logprob(token) + (float)(i == 0) / 16 - (float)i / 16 + (float)(i == 1) / 16;
    }
}

/* Greedy answers are the script; others begin it somewhere else. */
static inline int32_t fake_token(const struct service *s, const struct fake_request *r) {
    size_t begin = r->asked.sequence.temperature > 0 ? r->asked.sequence.seed % 5 : 0;
    size_t at = (begin + r->n_tokens) % (s->script.n + 1);
    return at < s->script.n ? s->script.ids[at] : tokenizer_eos(s->model->tokenizer);
}

/* ---- the service ---- */

err service_submit(struct service *s, const struct service_request *asked, uint64_t *id) {
    const struct sequence_options *o = &asked->sequence;
    if (s->refusal) return err_set(s->refusal, "refused: %s", err_name(s->refusal));
    if (s->n_running >= s->queue || s->n_requests == FAKE_REQUESTS_MAX)
        return err_set(ERR_BUSY, "%zu requests run or wait", s->n_running);
    struct fake_request *r = &s->requests[s->n_requests];
    *r = (struct fake_request){.asked = *asked, .is_running = 1, .id = 1000 + 7 * s->n_requests};
    TRY(NEW(r->prompt, o->n_prompt));
    memcpy(r->prompt, o->prompt, o->n_prompt * sizeof *r->prompt);
    if (o->max_tokens) {
        struct sequence_options own = *o;
        own.n_top = 0;
        own.scores_prompt = 0;
        TRY(sequence_create(&own, &r->sequence));
    }
    s->n_requests++;
    if (++s->n_running > s->n_most) s->n_most = s->n_running;
    *id = r->id;
    return OK;
}

static inline void fake_end(struct service *s, struct fake_request *r) {
    r->is_running = 0;
    s->n_running--;
    sequence_free(r->sequence);
    r->sequence = NULL;
}

void service_cancel(struct service *s, uint64_t id) {
    for (size_t i = 0; i < s->n_requests; i++) {
        if (s->requests[i].id != id || !s->requests[i].is_running) continue;
        fake_end(s, &s->requests[i]);
        s->n_cancelled++;
    }
}

struct fake_list {
    struct service_event *first, **end;
};

static inline struct service_event *fake_event(struct fake_list *l, const struct fake_request *r,
                                               enum service_event_kind kind) {
    struct service_event *e = calloc(1, sizeof *e);
    if (!e) abort();
    e->id = r->id;
    e->kind = kind;
    *l->end = e;
    l->end = &e->next;
    return e;
}

static inline void fake_text(struct service_event *e, const char *text, size_t n) {
    e->text = malloc(n + 1);
    if (!e->text) abort();
    if (n) memcpy(e->text, text, n);
    e->text[n] = 0;
    e->n_text = n;
}

static inline void fake_new_text(struct fake_request *r, struct service_event *e) {
    size_t n;
    const char *text = sequence_text(r->sequence, &n);
    fake_text(e, text + r->n_shown, n - r->n_shown);
    r->n_shown = n;
}

static inline void fake_prompt(struct fake_request *r, struct fake_list *l) {
    const struct sequence_options *o = &r->asked.sequence;
    struct service_event *e = fake_event(l, r, SERVICE_PROMPT);
    e->n_tokens = (uint32_t)o->n_prompt;
    e->tokens = calloc(o->n_prompt, sizeof *e->tokens);
    for (size_t i = 0; i < o->n_prompt; i++) fake_score(o, r->prompt[i], &e->tokens[i]);
    e->tokens[0].logprob = NAN;
    e->tokens[0].n_top = 0;
    r->has_prompt_scores = 1;
}

static inline void fake_done(struct service *s, struct fake_request *r, struct fake_list *l) {
    const struct sequence_options *o = &r->asked.sequence;
    struct service_event *e = fake_event(l, r, SERVICE_DONE);
    e->n_prompt = (uint32_t)o->n_prompt;
    e->n_cached = e->n_prompt > FAKE_CACHED ? FAKE_CACHED : 0;
    e->n_answer = (uint32_t)r->n_tokens;
    e->finish = r->sequence ? sequence_finish(r->sequence) : SEQUENCE_LENGTH;
    if (r->sequence) fake_new_text(r, e);
    else fake_text(e, "", 0);
    fake_end(s, r);
}

/* Values of an embedding: 1, 2, 3, ... times the number of tokens. */
static inline void fake_embedding(struct fake_request *r, struct fake_list *l) {
    const struct sequence_options *o = &r->asked.sequence;
    struct service_event *e = fake_event(l, r, SERVICE_EMBEDDING);
    e->n_values = o->dim;
    e->values = calloc(o->dim, sizeof *e->values);
    for (uint32_t i = 0; i < o->dim; i++) e->values[i] = (float)(i + 1) * (float)o->n_prompt;
}

static inline void fake_one_token(struct service *s, struct fake_request *r, struct fake_list *l) {
    size_t n_rows;
    int32_t token = fake_token(s, r);
    struct result_out out = {.token = token, .logprob = fake_logprob(token)};
    sequence_rows(r->sequence, &n_rows);
    if (sequence_take(r->sequence, r->n_rows, n_rows, &(struct result){.n_outs = 1, .outs = &out}, 0, 0) != OK)
        abort();
    r->n_rows = n_rows;
    r->n_tokens++;
    struct service_event *e = fake_event(l, r, SERVICE_TOKEN);
    e->n_tokens = 1;
    e->tokens = calloc(1, sizeof *e->tokens);
    fake_score(&r->asked.sequence, token, e->tokens);
    if (!r->asked.sequence.scores_answer) e->tokens->logprob = NAN;
    fake_new_text(r, e);
    if (sequence_finish(r->sequence) != SEQUENCE_RUNS) fake_done(s, r, l);
}

static inline void fake_advance(struct service *s, struct fake_request *r, struct fake_list *l) {
    if (s->failure && r->n_tokens == 2) {
        struct service_event *e = fake_event(l, r, SERVICE_FAILED);
        e->code = s->failure;
        s->failure = OK;
        fake_text(e, "it failed", 9);
        fake_end(s, r);
        return;
    }
    if (r->asked.sequence.scores_prompt && !r->has_prompt_scores) fake_prompt(r, l);
    if (r->sequence) {
        fake_one_token(s, r, l);
        return;
    }
    if (r->asked.sequence.pooling) fake_embedding(r, l);
    fake_done(s, r, l);
}

struct service_event *service_take(struct service *s) {
    struct fake_list l = {.end = &l.first};
    for (size_t i = 0; i < s->n_requests && !s->is_paused; i++)
        if (s->requests[i].is_running) fake_advance(s, &s->requests[i], &l);
    return l.first;
}

void service_event_free(struct service_event *e) {
    free(e->tokens);
    free(e->text);
    free(e->values);
    free(e);
}

void service_status(struct service *s, struct service_status *out) { *out = s->status; }

json_t *service_ranks(struct service *s) { return json_incref(s->ranks); }

#endif
