/* Search: the best plan for a cluster: stages x shards, which devices in which order, layer ranges, unequal shares.
 * Pure; exact for small clusters, fast for a thousand ranks. */
#ifndef PARTITION_SEARCH_H
#define PARTITION_SEARCH_H

#include "partition/cost.h"

enum goal {
    GOAL_LATENCY,   /* the most tokens per second of one stream */
    GOAL_THROUGHPUT /* of as many streams as fill the pipeline */
};

struct search_request {
    struct plan_request plan; /* n_stages, n_shards: 0 where they are open. n_ranks: at most so many, 0: any number */
    enum goal goal;
    int is_equal;             /* layers and shares as if all devices were alike (for comparison) */
    int all_devices;          /* none may be left out */
    int is_quick;             /* promising orders only, also of few devices */
};

/* Why a device has no cell. */
struct left_out {
    uint32_t device;
    char why[160]; /* "would slow the rest: 12.1 tokens/s with it, 14.0 without" */
};

struct search_result {
    struct plan *plan;         /* its cells name their devices */
    struct forecast *forecast;
    struct left_out *left_out; /* [n_left_out] */
    uint32_t n_left_out;
    uint64_t n_tried;          /* plans looked at */
    int is_exact;              /* all that could be better were */
};

/* In a job the device of rank 0 always has cell 0, since the coordinator is there. ERR_MEMORY says how much is
 * missing and what would fit; ERR_USAGE as plan_grid. */
err search_plan(const struct program *p, const struct cluster *c, const struct search_request *r,
                struct search_result *out);
void search_result_free(struct search_result *r);

#endif
