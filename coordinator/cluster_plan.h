/* The plan for a cluster that a file describes, which need not be there: the best plan, its forecast, and what one
 * host more or fewer would change. For `caravan plan --cluster FILE`. */
#ifndef COORDINATOR_CLUSTER_PLAN_H
#define COORDINATOR_CLUSTER_PLAN_H

#include <jansson.h>
#include <stdio.h>

#include "base/config.h"
#include "partition/search.h"

/* The same search with one host more like `host`, or without it. */
struct cluster_change {
    uint32_t host;
    int is_more;
    uint32_t n_stages, n_shards; /* 0: no plan, and why */
    char why[256];
    double decode_per_s, streams_per_s, prefill_per_s;
};

struct cluster_plan {
    const struct program *program;
    struct cluster *cluster;
    enum goal goal;
    struct search_result result;
    double search_s;
    struct cluster_change *changes; /* of every kind of host: two */
    uint32_t n_changes;
    int is_cut_short; /* other kinds were not tried, for want of time */
};

/* "latency" or "throughput"; ERR_USAGE names the key. */
err cluster_plan_goal(const struct config *c, enum goal *out);

/* Reads c->cluster and searches; memory_mb bounds every device. */
err cluster_plan_make(const struct program *p, const struct config *c, const struct plan_request *r,
                      struct cluster_plan *out);
void cluster_plan_free(struct cluster_plan *c);

/* Memory that a device's rank may take. */
uint64_t cluster_plan_available(const struct cluster *c, uint32_t device);

/* Tables for a person; members of an object for a program (a new reference, NULL when memory ran out). */
err cluster_plan_print(const struct cluster_plan *c, FILE *f);
json_t *cluster_plan_json(const struct cluster_plan *c);

#endif
