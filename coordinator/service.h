/* Service: the thread that owns sequences, scheduler and job. Requests come in from
 * other threads, events go out; they meet in two queues. Several texts run at once;
 * one that a lost job interrupts goes on where it was when the job is back. */
#ifndef COORDINATOR_SERVICE_H
#define COORDINATOR_SERVICE_H

#include <stdint.h>

#include <jansson.h>

#include "base/config.h"
#include "base/err.h"
#include "coordinator/engine.h"
#include "coordinator/metrics.h"
#include "coordinator/model.h"
#include "coordinator/sequence.h"

struct service;

struct service_options {
    const struct config *config; /* grid, context, kv_tokens, max_queue, ... */
    const struct model *model;
    struct metrics *metrics;     /* NULL: none are kept */
    int is_reference, is_verbose;
    /* Called on the service's thread when there are new events; must not block. */
    void (*on_events)(void *context);
    void *context;
};

/* KV blocks of all texts: what `kv_tokens` asks for, or some of the longest context; one such always fits. */
uint32_t service_count_blocks(const struct config *c, uint32_t context);

/* Starts the thread, which launches the job and loads the model. */
err service_open(const struct service_options *o, struct service **out);
/* Ends what runs (no more events), the job and the thread. NULL is fine. */
void service_close(struct service *s);

/* One text to be generated, or to be embedded. */
struct service_request {
    struct sequence_options sequence; /* as sequence_create takes it; all it points to is copied */
    uint32_t key;      /* whose it is: keys share the job evenly */
    int priority;      /* higher goes first */
};

/* Queues it and gives its id. ERR_REQUEST: what is wrong with it; ERR_BUSY: the queue is full;
 * ERR_JOB: there is no job any more, or the service is draining. Loading and recovering are no error. */
err service_submit(struct service *s, const struct service_request *r, uint64_t *id);
/* Its blocks are free before the next step. Events that are on their way may still come. */
void service_cancel(struct service *s, uint64_t id);

enum service_event_kind {
    SERVICE_PROMPT,    /* the prompt's scores, once, before the first token: where asked for */
    SERVICE_TOKEN,     /* one token of the answer, and the text that became visible with it */
    SERVICE_EMBEDDING, /* the pooled vector */
    SERVICE_DONE,      /* the last event of a request: finish and counts */
    SERVICE_FAILED     /* the last event, too: code and text */
};

struct service_event {
    struct service_event *next;
    uint64_t id;
    enum service_event_kind kind;
    uint32_t n_tokens;
    struct token_score *tokens;    /* [n_tokens] PROMPT: one per token; TOKEN: one */
    char *text;                    /* [n_text] and a NUL; TOKEN and DONE: what became visible */
    size_t n_text;
    uint32_t n_values;
    float *values;                 /* [n_values] EMBEDDING, not normalised */
    enum sequence_finish finish;   /* DONE */
    uint32_t n_prompt, n_cached, n_answer; /* DONE: tokens; n_cached of the prompt were not computed again */
    err code;                      /* FAILED, with text */
};

/* All events so far, in order, as a list that belongs to the caller; NULL: none. */
struct service_event *service_take(struct service *s);
void service_event_free(struct service_event *e); /* one, not the list */

enum service_state { SERVICE_LOADING, SERVICE_READY, SERVICE_RECOVERING, SERVICE_DRAINING, SERVICE_ENDED };

/* What the service is doing, for /ready, /metrics and the page. */
struct service_status {
    enum service_state state;
    char reason[512];           /* of a state that is not ready */
    double load_s, uptime_s;
    uint64_t loaded_bytes, total_bytes; /* while loading */
    uint32_t n_queued, n_running;
    uint32_t n_blocks, n_blocks_used, n_blocks_cached; /* used: held by sequences; cached: free, with a known prefix */
    uint64_t n_steps;
    double prompt_tokens_per_s, answer_tokens_per_s; /* of the last seconds */
    uint32_t n_stages, n_shards, n_ranks;
    double forecast_decode_per_s, forecast_prefill_per_s, forecast_load_s; /* of one text; 0: none */
    uint32_t context;           /* of a sequence */
};
void service_status(struct service *s, struct service_status *out);
/* Figures of every rank, not older than a few seconds while steps run: [{rank, host, device, layers,
 * busy, ...}] as report_ranks has them; NULL before the job is ready. A new reference. */
json_t *service_ranks(struct service *s);

/* No new requests from now on. */
void service_drain(struct service *s);

#endif
