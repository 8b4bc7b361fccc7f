/* Places: the hosts that a job will run on, as far as this process can tell before the launch, and how many ranks each
 * gets: those of the host file, of the Slurm allocation, or this one alone. Plain data; one thread. */
#ifndef COORDINATOR_PLACES_H
#define COORDINATOR_PLACES_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

struct place {
    char host[256]; /* "": its name is not known */
    uint32_t n_ranks;
};

struct places {
    struct place *list; /* [n_hosts], in the launcher's order, each once */
    uint32_t n_hosts, n_ranks;
    int is_named; /* hosts get different numbers of ranks, so the launcher must be told each by name */
};

/* The hosts, without ranks. A host file that cannot be read counts as this host: the launcher says what is wrong. */
err places_find(const struct config *c, struct places *out);
void places_free(struct places *p);

/* Ranks of a grid, on all hosts, as evenly as whole stages go (or shards, of more hosts than stages): shards talk
 * most. */
void places_spread(struct places *p, uint32_t n_stages, uint32_t n_shards);
/* A rank for each device that the file of a cluster lists for a host, one where it lists none. "": one each. */
err places_by_devices(struct places *p, const char *cluster_path);

/* "vh[1-3,07],gpu" of Slurm: each name to `each`, at most n_most of them. */
err places_expand(const char *names, uint32_t n_most, err (*each)(void *context, const char *name), void *context);

#endif
