#include "base/u64map.h"

#include <stdlib.h>

#include "base/mem.h"

#define KEY_FREE UINT64_MAX

/* The entry of a key, or the free one where it belongs. */
static struct u64map_entry *slot_of(const struct u64map *m, uint64_t key) {
    uint64_t hash = key * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio */
    for (size_t i = (size_t)(hash ^ hash >> 32);; i++) {
        struct u64map_entry *e = &m->entries[i & (m->cap - 1)];
        if (e->key == key || e->key == KEY_FREE) return e;
    }
}

static err grow(struct u64map *m) {
    struct u64map bigger = {.n = m->n, .cap = m->cap ? m->cap * 2 : 64};
    TRY(NEW(bigger.entries, bigger.cap));
    for (size_t i = 0; i < bigger.cap; i++) bigger.entries[i].key = KEY_FREE;
    for (size_t i = 0; i < m->cap; i++)
        if (m->entries[i].key != KEY_FREE)
            *slot_of(&bigger, m->entries[i].key) = m->entries[i];
    free(m->entries);
    *m = bigger;
    return OK;
}

err u64map_add(struct u64map *m, uint64_t key, uint64_t value) {
    if (key == KEY_FREE)
        return err_set(ERR_INTERNAL, "the key of free entries was used");
    if (m->n * 2 >= m->cap) TRY(grow(m));
    struct u64map_entry *e = slot_of(m, key);
    if (e->key != KEY_FREE) return OK;
    *e = (struct u64map_entry){key, value};
    m->n++;
    return OK;
}

uint64_t u64map_find(const struct u64map *m, uint64_t key, uint64_t fallback) {
    if (m->n == 0) return fallback;
    const struct u64map_entry *e = slot_of(m, key);
    return e->key == KEY_FREE ? fallback : e->value;
}

void u64map_free(struct u64map *m) {
    free(m->entries);
    *m = (struct u64map){0};
}
