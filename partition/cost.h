/* Cost: how long a cell of a plan needs for a step, and what a whole plan therefore reaches. Pure arithmetic over
 * program, cluster and plan; docs/planning.md does the sums by hand.
 *
 * A product of r rows takes the larger of two times: reading its packed weights (row_per_s), and its operations
 * (products_per_s), plus launch_s; attention reads its keys and values; every op has launch_s. Stages of one stream
 * follow each other; of several streams they work at the same time, and the slowest counts. */
#ifndef PARTITION_COST_H
#define PARTITION_COST_H

#include "model/program.h"
#include "partition/cluster.h"
#include "partition/plan.h"

/* What a step asks of every stage. */
struct step_shape {
    uint32_t n_rows, n_outs;
    uint32_t n_positions; /* of the cache that each row attends to */
};

struct cost {
    double weights_s, attend_s, launch_s, copy_s;
    double share_s;  /* exchanges with the other shards of the stage */
    double total_s;  /* of the step in this cell */
};

/* Of cell `cell` of the plan on its device. */
err cost_cell(const struct program *p, const struct cluster *c, const struct plan *plan, uint32_t cell,
              const struct step_shape *s, struct cost *out);

struct forecast_cell {
    struct cost decode, prefill; /* a step of one row; of rows_max rows */
    uint64_t hop_bytes;          /* to the next stage, per row */
    double hop_decode_s, hop_prefill_s; /* to the next stage (or back to rank 0) */
    uint64_t share_bytes;        /* sent to other shards of the stage, per row */
    double load_s;
};

struct forecast {
    uint32_t n_positions;      /* cache positions that the decode steps attend to: half of the context */
    double decode_per_s;       /* tokens per second of one stream */
    double streams_per_s;      /* tokens per second of as many streams as fill the pipeline (n_stages x 1 row) */
    double prefill_per_s;      /* tokens per second of a long prompt in steps of rows_max rows */
    double load_s;
    uint32_t slowest_stage;    /* the bottleneck */
    char bottleneck[256];      /* in words */
    struct forecast_cell *cells; /* [n_ranks] */
};

err forecast_create(const struct program *p, const struct cluster *c, const struct plan *plan, struct forecast **out);
void forecast_free(struct forecast *f);

#endif
