/* Engine: a running job as the coordinator sees it: steps go in, results come
 * out in the same order. Hides whether the supervisor launched the job or this
 * process runs inside one. Owned by one thread. */
#ifndef COORDINATOR_ENGINE_H
#define COORDINATOR_ENGINE_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "model/program.h"
#include "node/frame.h"
#include "partition/cost.h"
#include "partition/plan.h"

struct engine;
struct job_products;

struct engine_options {
    const struct config *config;
    const struct program *program;
    const struct job_products *products; /* of engine_probe, which has no program */
    const char *model;  /* path */
    int is_reference;   /* plain C in place of devices */
    int is_verbose;     /* the launcher's own words too */
    uint32_t context;   /* positions of one sequence */
    uint32_t n_blocks;  /* KV blocks for all sequences; 0: for one */
    uint32_t rows_max;  /* of a step */
    int wake_fd;        /* engine_poll returns early while this is readable; -1: none. The others do not look */
    /* Until the job is ready; both may be NULL. */
    void (*on_progress)(void *context, uint64_t loaded_bytes, uint64_t total_bytes); /* beside the bar */
    err (*on_wait)(void *context); /* about ten times a second; an error ends engine_open, with that error */
    void *context_of_opening;
};

/* What a rank said about itself. */
struct engine_rank {
    int pid;
    char host[256], platform[128], device[256];
    uint64_t memory_bytes, weight_bytes, kv_bytes, bytes_read, peak_rss_bytes, rss_bytes, n_steps;
    uint64_t bytes_sent, bytes_received;
    uint64_t bytes_streamed, bytes_from_cache; /* of the model: sent by rank 0; packed, from its host's disk */
    uint64_t one_row_steps, many_steps, many_rows; /* of n_steps: those of one row; of several, and how many */
    double load_s;
    double clock_s; /* of the rank's own clock; since loading, and never of the same time: */
    double compute_s, wait_s, send_s, share_s; /* with nothing to compute; for what was sent; for the other shards */
    double one_row_s, many_s; /* of compute_s and share_s together */
};

/* What can be said of a job before it starts; needs config, program, context, n_blocks and rows_max. */
struct engine_bounds {
    uint32_t n_stages, n_shards; /* 0: chosen once the devices are known */
    uint32_t n_ranks, stages_max;
};
err engine_foresee(const struct engine_options *o, struct engine_bounds *out);

/* Launches (or joins) the job, checks the memory of every rank against the plan and
 * loads the model. */
err engine_open(const struct engine_options *o, struct engine **out);
/* Launches (or joins) a job that measures its devices and links, and ends it. Of the options config, products,
 * is_reference, is_verbose and the callbacks count. The cluster has the job's ranks as devices; cluster_free frees
 * it. */
err engine_probe(const struct engine_options *o, struct cluster **out);
/* Ends the job and reaps every process of it; NULL is fine. */
void engine_close(struct engine *e);

const struct plan *engine_plan(const struct engine *e);
/* Hosts, devices by rank of the launch (plan_cell.device), links; rates are 0 where none are known. */
const struct cluster *engine_cluster(const struct engine *e);
/* What the plan should reach; NULL where no rate of a device is known. */
const struct forecast *engine_forecast(const struct engine *e);
/* Ranks of the job: the plan's, and behind them those without a cell. */
uint32_t engine_n_ranks(const struct engine *e);
/* Seconds from the start to a model that is ready. */
double engine_load_s(const struct engine *e);
/* Steps that may be under way at once; one more keeps every stage busy. */
uint32_t engine_depth(const struct engine *e);

/* Sends a step; its arrays are copied. */
err engine_submit(struct engine *e, const struct step *s);
uint32_t engine_n_pending(const struct engine *e);
/* The result of the oldest pending step; arrays are valid until the next call. */
err engine_next(struct engine *e, struct result *out);

/* The same, waiting at most timeout_us, or until wake_fd is readable: *has_result says whether one came. Serves
 * the job meanwhile (signs of life, figures that were asked for); with no step pending, too, so that a job that is
 * lost while idle is found out. Call it again within a few seconds: ranks that hear nothing for the deadline end. */
err engine_poll(struct engine *e, int64_t timeout_us, struct result *out, int *has_result);

/* Asks every rank for its figures; the answer comes during engine_poll, in order with the steps. */
err engine_ask_stats(struct engine *e);
/* The figures that came last, [engine_n_ranks], and how often they came so far. Belongs to the engine. */
const struct engine_rank *engine_ranks(const struct engine *e, uint64_t *n_times);
/* Asks and waits. No step may be pending. */
err engine_stats(struct engine *e, const struct engine_rank **out);

/* Called by main before a command that runs inside an MPI launch: the link to the
 * node in this process, and the size of the job. */
void engine_use_inside(int link_fd, int n_ranks);
/* After it: tells the job to stop if no engine was opened. 1 when the job was told
 * to stop, so that all ranks finish; 0 when it must be ended. */
int engine_leave_inside(void);
/* Ranks of the MPI launch this process is in, or 0. */
int engine_n_inside(void);

/* The signal that interrupted the command, or 0. */
int engine_signal(void);
/* While held, signals interrupt no wait; who holds them takes them: the one caught since, or 0. */
void engine_hold_signals(int is_held);
int engine_take_signal(void);

#endif
