#include "coordinator/service.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "coordinator/service_parts.h"
#include "model/limits.h"

#define DEFAULT_TEXTS 4 /* of the longest context, that the KV cache holds unless told */

static void wake(struct service *s) {
    ssize_t n = write(s->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)n; /* full: it is awake */
}

/* ---- what both sides touch ---- */

static const char draining_text[] = "the server is shutting down";

void service_set_state(struct service *s, enum service_state state, const char *reason) {
    pthread_mutex_lock(&s->lock);
    int is_draining = s->is_draining && state == SERVICE_READY;
    s->status.state = is_draining ? SERVICE_DRAINING : state;
    snprintf(s->status.reason, sizeof s->status.reason, "%s", is_draining ? draining_text : reason);
    pthread_mutex_unlock(&s->lock);
}

void service_tell(struct service *s, struct service_event *e) {
    e->next = NULL;
    pthread_mutex_lock(&s->lock);
    *s->events_end = e;
    s->events_end = &e->next;
    if (e->kind == SERVICE_DONE || e->kind == SERVICE_FAILED) s->n_held--;
    pthread_mutex_unlock(&s->lock);
    s->has_new_events = 1;
}

struct service_event *service_take(struct service *s) {
    pthread_mutex_lock(&s->lock);
    struct service_event *first = s->events;
    s->events = NULL;
    s->events_end = &s->events;
    pthread_mutex_unlock(&s->lock);
    return first;
}

void service_event_free(struct service_event *e) {
    if (!e) return;
    free(e->tokens);
    free(e->text);
    free(e->values);
    free(e);
}

void ticket_free(struct ticket *t) {
    if (!t) return;
    sequence_free(t->sequence);
    service_event_free(t->failed);
    free(t);
}

/* ---- asking ---- */

/* Under the lock. */
static err may_submit(const struct service *s) {
    if (s->status.state == SERVICE_ENDED) return err_set(ERR_JOB, "the job has ended: %s", s->status.reason);
    if (s->is_draining || s->is_closing) return err_set(ERR_JOB, "%s", draining_text);
    if (s->n_held >= s->config.max_queue)
        return err_set(ERR_BUSY, "%u requests wait or run, at most %llu may; ask again later", s->n_held,
                       (unsigned long long)s->config.max_queue);
    return OK;
}

static err ticket_queue(struct service *s, struct ticket *t, uint64_t *id) {
    pthread_mutex_lock(&s->lock);
    err e = may_submit(s);
    if (e == OK) {
        *id = t->id = ++s->last_id;
        *s->inbox_end = t;
        s->inbox_end = &t->next;
        s->n_held++;
    }
    pthread_mutex_unlock(&s->lock);
    return e;
}

err service_submit(struct service *s, const struct service_request *r, uint64_t *id) {
    struct ticket *t;
    TRY(NEW(t, 1));
    t->key = r->key;
    t->priority = r->priority;
    t->asked_us = clock_us();
    struct sequence_options o = r->sequence;
    o.context = s->context;
    err e = NEW(t->failed, 1);
    if (e == OK) e = sequence_create(&o, &t->sequence);
    if (e == OK) {
        sequence_set_owner(t->sequence, t);
        e = ticket_queue(s, t, id);
    }
    if (e != OK) {
        ticket_free(t);
        return e;
    }
    wake(s);
    return OK;
}

void service_cancel(struct service *s, uint64_t id) {
    pthread_mutex_lock(&s->lock);
    if (s->n_cancels == s->cap_cancels) {
        size_t cap = s->cap_cancels ? 2 * s->cap_cancels : 64;
        uint64_t *grown = mem_resized(s->cancels, cap, sizeof *grown);
        if (grown) {
            s->cancels = grown;
            s->cap_cancels = cap;
        }
    }
    if (s->n_cancels < s->cap_cancels) s->cancels[s->n_cancels++] = id; /* else it runs to its end unheard */
    pthread_mutex_unlock(&s->lock);
    wake(s);
}

void service_status(struct service *s, struct service_status *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->status;
    pthread_mutex_unlock(&s->lock);
    out->uptime_s = (double)(clock_us() - s->begin_us) * 1e-6;
}

json_t *service_ranks(struct service *s) {
    pthread_mutex_lock(&s->lock);
    json_t *ranks = s->ranks ? json_deep_copy(s->ranks) : NULL; /* counts of references are not atomic */
    pthread_mutex_unlock(&s->lock);
    return ranks;
}

void service_drain(struct service *s) {
    pthread_mutex_lock(&s->lock);
    s->is_draining = 1;
    if (s->status.state != SERVICE_ENDED) { /* why it ended is worth more */
        s->status.state = SERVICE_DRAINING;
        snprintf(s->status.reason, sizeof s->status.reason, "%s", draining_text);
    }
    pthread_mutex_unlock(&s->lock);
}

/* ---- opening ---- */

uint32_t service_count_blocks(const struct config *c, uint32_t context) {
    uint64_t whole = plan_context_blocks(context);
    uint64_t n = c->kv_tokens ? c->kv_tokens / KV_BLOCK_TOKENS : DEFAULT_TEXTS * whole;
    if (n < whole) n = whole;
    return n < INT32_MAX ? (uint32_t)n : INT32_MAX;
}

static err parts_create(struct service *s) {
    struct scheduler_options o = {.n_blocks = s->n_blocks, .rows_max = (uint32_t)s->config.prefill_chunk,
                                  .context = s->context,
                                  .n_vocab = s->o.model->program->n_vocab, .on_begin = service_begun,
                                  .context_of_begin = s};
    const struct engine_options job = service_job_options(s);
    struct engine_bounds b;
    TRY(engine_foresee(&job, &b));
    o.n_groups = b.stages_max;
    s->status.n_stages = b.n_stages;
    s->status.n_shards = b.n_shards;
    s->status.n_ranks = b.n_stages * b.n_shards;
    TRY(NEW(s->compute_s, b.n_ranks));
    TRY(NEW(s->sent, b.stages_max + 1));
    return scheduler_create(&o, &s->scheduler);
}

/* Signals go to the thread that serves sockets. */
static err thread_start(struct service *s) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int failed = pthread_create(&s->thread, NULL, service_thread, s);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed ? err_set(ERR_INTERNAL, "cannot start a thread") : OK;
}

static void service_free(struct service *s) {
    for (struct ticket *t = s->inbox, *next; t; t = next) {
        next = t->next;
        ticket_free(t);
    }
    for (struct service_event *e = service_take(s), *next; e; e = next) {
        next = e->next;
        service_event_free(e);
    }
    scheduler_free(s->scheduler);
    json_decref(s->ranks);
    free(s->cancels);
    free(s->compute_s);
    free(s->sent);
    if (s->wake_fd >= 0) close(s->wake_fd);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

err service_open(const struct service_options *o, struct service **out) {
    struct service *s;
    TRY(NEW(s, 1));
    s->o = *o;
    s->config = *o->config;
    s->begin_us = clock_us();
    s->inbox_end = &s->inbox;
    s->events_end = &s->events;
    s->tickets.next = s->tickets.before = &s->tickets;
    pthread_mutex_init(&s->lock, NULL);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err e = s->wake_fd >= 0 ? OK : err_set(ERR_INTERNAL, "no more descriptors");
    if (e == OK) e = model_context(o->model, &s->config, &s->context);
    if (e == OK) {
        s->n_blocks = service_count_blocks(&s->config, s->context);
        s->status.n_blocks = s->n_blocks;
        s->status.context = s->context;
        e = parts_create(s);
    }
    pacer_init(&s->pacer, s->config.decode_stretch, (uint32_t)s->config.prefill_chunk);
    service_set_state(s, SERVICE_LOADING, "starting the job");
    if (e == OK) e = thread_start(s);
    if (e != OK) {
        service_free(s);
        return e;
    }
    *out = s;
    return OK;
}

void service_close(struct service *s) {
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->is_closing = 1;
    pthread_mutex_unlock(&s->lock);
    wake(s);
    pthread_join(s->thread, NULL);
    service_free(s);
}
