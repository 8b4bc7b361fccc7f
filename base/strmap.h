/* Map from byte strings to numbers: open addressing, grows as it fills.
 *
 * Keys are not copied: they belong to the caller and outlive the map.
 * Zero-initialised is empty; strmap_free ends it. Finding needs no lock. */
#ifndef BASE_STRMAP_H
#define BASE_STRMAP_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct strmap_entry {
    const uint8_t *key; /* NULL: free */
    uint32_t key_len;
    uint32_t hash;
    int32_t value;
};

struct strmap {
    struct strmap_entry *entries;
    size_t n, cap; /* cap: 0 or a power of two */
};

/* Adds a key unless it is there already (the first value stays). `key_len`
 * fits in 32 bits. */
err strmap_add(struct strmap *m, const void *key, size_t key_len,
               int32_t value);

/* The value of a key, or `fallback`. */
int32_t strmap_find(const struct strmap *m, const void *key, size_t key_len,
                    int32_t fallback);

void strmap_free(struct strmap *m);

#endif
