/* Job plan: how many ranks a job gets and where, which device each takes, whether they are measured, and at last which
 * cell of which plan each has. Made step by step: before the launch, when the ranks have said hello, when they have
 * been measured. Owned by the engine; no MPI, no sockets. */
#ifndef COORDINATOR_JOB_PLAN_H
#define COORDINATOR_JOB_PLAN_H

#include "base/config.h"
#include "coordinator/engine.h"
#include "coordinator/places.h"
#include "node/frame.h"
#include "partition/search.h"

/* The products that are measured: of these formats, with matrices about so wide; side 0: as in large models. */
struct job_products {
    uint8_t has_format[N_FORMATS];
    uint32_t side;
};

struct job_request {
    const struct config *config;
    const struct program *program;        /* NULL: there will be no plan, only ranks and devices */
    uint32_t context, n_blocks, rows_max; /* as of struct engine_options */
    uint32_t n_inside;                    /* ranks of the MPI launch that this process is part of; 0: none */
    int is_reference;
    const struct job_products *products;  /* to be measured, where there is no program */
};

struct job_plan {
    struct job_request r;
    struct places places;
    enum goal goal;
    uint32_t n_ranks;            /* of the job */
    uint32_t n_stages, n_shards; /* 0: chosen once the devices are known */
    struct plan *plan;           /* NULL until job_plan_make, where the grid is open */
    struct cluster *cluster;     /* devices by rank of the job; since hello */
    struct cluster *probed;      /* as measured so far */
    uint32_t turn, n_turns;      /* of measuring, as in struct probe_message */
    int is_measured;             /* its rates were */
    struct plan_device *devices; /* [n_ranks] by rank of the job; since hello */
    uint32_t *order;             /* [n_ranks] which rank of the job has which cell, then those that have none */
    struct search_result found;  /* where rates are known; its plan is `plan` */
};

/* ERR_USAGE for a grid that cannot be. */
err job_plan_begin(const struct job_request *r, struct job_plan **out);
void job_plan_free(struct job_plan *j);
/* The most stages that the plan may have. */
uint32_t job_plan_stages_max(const struct job_plan *j);

/* `ranks` [n_ranks] by rank of the job, with host and memory. */
err job_plan_hello(struct job_plan *j, const struct engine_rank *ranks);
/* What a job of this model measures. */
struct job_products job_products_of(const struct program *p);
/* Whether the devices are to be measured: as the key says; by itself where the job has several hosts or unlike
 * devices, or the grid is open. */
int job_plan_must_probe(const struct job_plan *j);
/* Body of the next FRAME_PROBE, as long as the job is not measured. */
err job_plan_ask(const struct job_plan *j, struct bytes *json);
/* Body of FRAME_PROBED, which answers it. is_measured is set when it was the last one. */
err job_plan_answer(struct job_plan *j, const struct engine_rank *ranks, const char *body, size_t n);

/* The plan. Where no rate is known, all devices count as alike; where rates were measured, the plan for like devices is
 * taken unless another one is better by more than the noise of measuring. ERR_MEMORY where it does not fit. */
err job_plan_make(struct job_plan *j);
/* Order and devices of a plan message, by cell; to be freed. */
err job_plan_cells(const struct job_plan *j, struct plan_message *m);
/* One line: the grid, what it should reach, devices left out and why. */
err job_plan_print(const struct job_plan *j, struct bytes *out);

#endif
