/* Map from 64-bit numbers to 64-bit numbers: open addressing, grows as it fills.
 *
 * The key UINT64_MAX is not allowed: it marks free entries. Zero-initialised is
 * empty; u64map_free ends it. Finding needs no lock. */
#ifndef BASE_U64MAP_H
#define BASE_U64MAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct u64map_entry {
    uint64_t key, value;
};

struct u64map {
    struct u64map_entry *entries;
    size_t n, cap; /* cap: 0 or a power of two */
};

/* Adds a key unless it is there already (the first value stays). */
err u64map_add(struct u64map *m, uint64_t key, uint64_t value);

/* The value of a key, or `fallback`. */
uint64_t u64map_find(const struct u64map *m, uint64_t key, uint64_t fallback);

void u64map_free(struct u64map *m);

#endif
