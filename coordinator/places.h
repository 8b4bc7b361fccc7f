/* Places: the hosts that a job will run on, as far as this process can tell before the launch, and how many ranks each
 * gets: those of the host file, of the allocation by Slurm or PBS, or this one alone. Plain data; one thread.
 *
 * A launcher numbers ranks host by host, and a grid its cells stage by stage: so shards of a stage, which talk
 * most, share a host, and stages cross. */
#ifndef COORDINATOR_PLACES_H
#define COORDINATOR_PLACES_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

struct place {
    char host[256]; /* "": its name is not known */
    uint32_t n_slots; /* ranks that it is there for: slots=N of a host file, tasks of an allocation; 0: not said */
    uint32_t n_ranks;
};

struct places {
    struct place *list; /* [n_hosts], in the launcher's order, each once */
    uint32_t n_hosts, n_ranks;
    int is_named; /* the launcher is told each host and its ranks; else it finds the hosts itself */
};

/* The hosts, without ranks. A host file that cannot be read counts as this host: the launcher says what is wrong. */
err places_find(const struct config *c, struct places *out);
void places_free(struct places *p);

/* Ranks of a grid: where there are hosts enough, each stage has one or some of its own; else whole stages, as evenly as
 * slots go; where a stage finds no host with room, hosts are filled one after the other. ERR_USAGE for more
 * ranks than slots, unless `is_crowded`. */
err places_spread(struct places *p, uint32_t n_stages, uint32_t n_shards, int is_crowded);
/* A rank for each device that the file of a cluster lists for a host; where it lists none, for each slot; where
 * none are said, one. "": no file. */
err places_by_devices(struct places *p, const char *cluster_path);

/* "vh[1-3,07],gpu" of Slurm: each name to `each`, at most n_most of them. */
err places_expand(const char *names, uint32_t n_most, err (*each)(void *context, const char *name), void *context);
/* "2(x3),1" of Slurm: 2 2 2 1, the slots of the hosts; 0 where it does not say as many as there are hosts. */
int places_slots(struct places *p, const char *tasks);

#endif
