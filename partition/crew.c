#include "partition/crew.h"

uint32_t crew_find(const uint32_t *host_of, uint32_t n_shards, struct shard_crew *out) {
    uint32_t n = 0, n_changes = 0;
    for (uint32_t i = 1; i < n_shards; i++) n_changes += host_of[i] != host_of[i - 1];
    for (uint32_t i = 0; i < n_shards; i++) {
        int is_next = i && n_changes && host_of[i] == host_of[i - 1];
        if (!is_next) out[n++].begin = i;
        out[n - 1].end = i + 1;
    }
    return n;
}
