/* Service, the inside: private to coordinator/service*.c. */
#ifndef COORDINATOR_SERVICE_PARTS_H
#define COORDINATOR_SERVICE_PARTS_H

#include <pthread.h>

#include "coordinator/pacer.h"
#include "coordinator/scheduler.h"
#include "coordinator/service.h"

/* A request on its way through the service. */
struct ticket {
    struct ticket *next, *before; /* among all that the thread holds, or next in the inbox */
    uint64_t id;
    struct sequence *sequence;
    uint32_t key;
    int priority;
    int64_t asked_us;
    struct service_event *failed; /* kept for the day when there is no memory to say so */
    int has_told_prompt;   /* SERVICE_PROMPT went out */
    int is_begun;          /* a row of it was in a step */
    int n_lost;            /* jobs that were lost since */
    size_t n_told;         /* bytes of the text that went out */
    size_t n_answer;       /* tokens that went out */
};

/* A step under way. */
struct sent_step {
    int64_t begin_us;
    uint32_t n_decode, n_prefill;
};

struct service {
    struct service_options o;
    struct config config;
    uint32_t context, n_blocks;
    pthread_t thread;
    int wake_fd;

    /* Under the lock: the two queues, what others ask for. */
    pthread_mutex_t lock;
    struct ticket *inbox, **inbox_end;
    uint64_t *cancels;             /* [cap_cancels] ids */
    size_t n_cancels, cap_cancels;
    struct service_event *events, **events_end;
    uint64_t last_id;
    uint32_t n_held;               /* requests that wait or run */
    int is_closing, is_draining;
    struct service_status status;
    json_t *ranks;

    /* The thread's own. */
    struct engine *engine;
    struct scheduler *scheduler;
    struct pacer pacer;
    struct ticket tickets;         /* a ring with this as its head */
    struct sent_step *sent;        /* [depth], a ring */
    uint64_t n_sent, n_done;       /* steps of this job */
    int64_t last_result_us, begin_us, asked_stats_us;
    uint64_t n_steps, n_stats_taken;
    struct scheduler_counts counted; /* as the metrics know them */
    uint64_t n_answer_tokens;
    struct { int64_t us; uint64_t prompt, answer; } rate; /* when rates were last computed, from what */
    double *compute_s;             /* [n_ranks] of the figures before */
    int64_t stats_us;
    int64_t ready_us;              /* since when this job is ready; 0: it never was */
    int n_failures;                /* of the job, one after the other */
    int is_first_load;             /* which a signal ends; later ones are told who holds them */
    int has_new_events;
};

/* service_run.c: the thread; what the scheduler tells it. */
void *service_thread(void *service);
void service_begun(void *service, struct sequence *q);
struct engine_options service_job_options(struct service *s);

/* service.c, any thread */
void service_set_state(struct service *s, enum service_state state, const char *reason);
/* Takes the event. */
void service_tell(struct service *s, struct service_event *e);
void ticket_free(struct ticket *t);

#endif
