#include "base/strmap.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

static uint64_t mix(uint64_t h) {
    h *= 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio: spreads low bits upward */
    return h ^ h >> 32;
}

static uint32_t hash_bytes(const uint8_t *p, size_t n) {
    uint64_t h = n, word;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&word, p, 8);
        h = mix(h ^ word);
    }
    word = 0;
    if (n) memcpy(&word, p, n);
    return (uint32_t)mix(mix(h ^ word));
}

/* The entry of a key, or the free one where it belongs. */
static struct strmap_entry *slot_of(const struct strmap *m, const void *key,
                                    size_t key_len, uint32_t hash) {
    for (size_t i = hash;; i++) {
        struct strmap_entry *e = &m->entries[i & (m->cap - 1)];
        if (!e->key) return e;
        if (e->hash == hash && e->key_len == key_len &&
            memcmp(e->key, key, key_len) == 0)
            return e;
    }
}

static err grow(struct strmap *m) {
    struct strmap bigger = {.n = m->n, .cap = m->cap ? m->cap * 2 : 64};
    TRY(NEW(bigger.entries, bigger.cap));
    for (size_t i = 0; i < m->cap; i++) {
        const struct strmap_entry *e = &m->entries[i];
        if (e->key) *slot_of(&bigger, e->key, e->key_len, e->hash) = *e;
    }
    free(m->entries);
    *m = bigger;
    return OK;
}

err strmap_add(struct strmap *m, const void *key, size_t key_len,
               int32_t value) {
    if (m->n * 2 >= m->cap) TRY(grow(m));
    uint32_t hash = hash_bytes(key, key_len);
    struct strmap_entry *e = slot_of(m, key, key_len, hash);
    if (e->key) return OK;
    *e = (struct strmap_entry){key, (uint32_t)key_len, hash, value};
    m->n++;
    return OK;
}

int32_t strmap_find(const struct strmap *m, const void *key, size_t key_len,
                    int32_t fallback) {
    if (m->n == 0) return fallback;
    const struct strmap_entry *e =
        slot_of(m, key, key_len, hash_bytes(key, key_len));
    return e->key ? e->value : fallback;
}

void strmap_free(struct strmap *m) {
    free(m->entries);
    *m = (struct strmap){0};
}
