/* Cores: on which of its host's cores a rank computes, and with how many threads. */
#ifndef NODE_CORES_H
#define NODE_CORES_H

#include <stdint.h>

#include "base/err.h"

struct cores {
    uint32_t n_threads; /* one per core, not per hardware thread */
    int is_bound;       /* this rank has the cores to itself */
    char text[128];     /* the processors: "0-3,8-11" */
};

/* The cores that rank number `place` of `n_ranks` gets of those that the calling thread may use: neighbours,
 * within a NUMA node where that can be, no other's. With fewer cores than ranks, or fewer than
 * `n_threads` for each (0: as many as it gets), all cores belong to all. */
err cores_share(uint32_t place, uint32_t n_ranks, uint32_t n_threads, struct cores *out);

/* The same, and all threads of this process stay on them, also those that they start. */
err cores_take(uint32_t place, uint32_t n_ranks, uint32_t n_threads, struct cores *out);

#endif
