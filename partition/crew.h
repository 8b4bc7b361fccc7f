/* Crews: shards of a stage that stand next to each other and share a host. The first of them speaks for all. Pure. */
#ifndef PARTITION_CREW_H
#define PARTITION_CREW_H

#include <stdint.h>

/* Shards [begin, end). */
struct shard_crew {
    uint32_t begin, end;
};

/* Of shards whose hosts are host_of [n_shards], any numbers; `out` [n_shards]. How many. Where all share one host, each
 * shard is a crew: messages inside a host need no spokesman. */
uint32_t crew_find(const uint32_t *host_of, uint32_t n_shards, struct shard_crew *out);

#endif
