#include "coordinator/blocks.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define NONE (-1)

enum block_state { BLOCK_PRIVATE, BLOCK_BEGUN, BLOCK_KNOWN };

struct block {
    uint32_t n_holders;
    enum block_state state;
    int32_t parent;
    int32_t same_bucket;  /* the next of its bucket */
    int32_t older, newer; /* of those that are known and not held */
    int32_t tokens[KV_BLOCK_TOKENS];
};

struct blocks {
    uint32_t n_blocks, n_free, n_cached, n_buckets; /* n_buckets: a power of two */
    struct block *of;       /* [n_blocks] */
    int32_t *buckets;       /* [n_buckets] the first of each */
    int32_t *free_ids;      /* [n_free] a stack */
    int32_t oldest, newest; /* of those that are known and not held */
};

err blocks_create(uint32_t n_blocks, struct blocks **out) {
    struct blocks *b;
    if (n_blocks == 0 || n_blocks > INT32_MAX / 2) return err_set(ERR_INTERNAL, "a cache of %u blocks", n_blocks);
    TRY(NEW(b, 1));
    b->n_blocks = n_blocks;
    for (b->n_buckets = 1; b->n_buckets < n_blocks;) b->n_buckets *= 2;
    err e = NEW(b->of, n_blocks);
    if (e == OK) e = NEW(b->buckets, b->n_buckets);
    if (e == OK) e = NEW(b->free_ids, n_blocks);
    if (e != OK) {
        blocks_free(b);
        return e;
    }
    blocks_reset(b);
    *out = b;
    return OK;
}

void blocks_free(struct blocks *b) {
    if (!b) return;
    free(b->of);
    free(b->buckets);
    free(b->free_ids);
    free(b);
}

void blocks_reset(struct blocks *b) {
    memset(b->of, 0, b->n_blocks * sizeof *b->of);
    for (uint32_t i = 0; i < b->n_buckets; i++) b->buckets[i] = NONE;
    /* The lowest id is given out first. */
    for (uint32_t i = 0; i < b->n_blocks; i++) b->free_ids[i] = (int32_t)(b->n_blocks - 1 - i);
    b->n_free = b->n_blocks;
    b->n_cached = 0;
    b->oldest = b->newest = NONE;
}

/* ---- the index ---- */

static int32_t *bucket_of(const struct blocks *b, int32_t parent, const int32_t *tokens) {
    uint64_t hash = (uint64_t)(parent + 1);
    for (uint32_t i = 0; i < KV_BLOCK_TOKENS; i++) {
        hash = (hash ^ (uint32_t)tokens[i]) * 0x9E3779B97F4A7C15u; /* 2^64 / golden ratio */
        hash ^= hash >> 29;
    }
    return &b->buckets[hash & (b->n_buckets - 1)];
}

int32_t blocks_find(const struct blocks *b, int32_t parent, const int32_t *tokens) {
    int32_t id = *bucket_of(b, parent, tokens);
    for (; id != NONE; id = b->of[id].same_bucket)
        if (b->of[id].parent == parent && memcmp(b->of[id].tokens, tokens, sizeof b->of[id].tokens) == 0) break;
    return id;
}

void blocks_begin(struct blocks *b, int32_t id, int32_t parent, const int32_t *tokens) {
    struct block *k = &b->of[id];
    int32_t *bucket = bucket_of(b, parent, tokens);
    memcpy(k->tokens, tokens, sizeof k->tokens);
    k->parent = parent;
    k->state = BLOCK_BEGUN;
    k->same_bucket = *bucket;
    *bucket = id;
}

void blocks_finish(struct blocks *b, int32_t id) { b->of[id].state = BLOCK_KNOWN; }

static void forget(struct blocks *b, int32_t id) {
    struct block *k = &b->of[id];
    int32_t *at = bucket_of(b, k->parent, k->tokens);
    while (*at != id) at = &b->of[*at].same_bucket;
    *at = k->same_bucket;
    k->state = BLOCK_PRIVATE;
}

int blocks_is_known(const struct blocks *b, int32_t id) { return b->of[id].state == BLOCK_KNOWN; }
uint32_t blocks_n_holders(const struct blocks *b, int32_t id) { return b->of[id].n_holders; }

/* ---- holders ---- */

static void cached_add(struct blocks *b, int32_t id) {
    b->of[id].older = b->newest;
    b->of[id].newer = NONE;
    if (b->newest != NONE) b->of[b->newest].newer = id;
    else b->oldest = id;
    b->newest = id;
    b->n_cached++;
}

static void cached_remove(struct blocks *b, int32_t id) {
    int32_t older = b->of[id].older, newer = b->of[id].newer;
    if (older != NONE) b->of[older].newer = newer;
    else b->oldest = newer;
    if (newer != NONE) b->of[newer].older = older;
    else b->newest = older;
    b->n_cached--;
}

int32_t blocks_take(struct blocks *b) {
    int32_t id = NONE;
    if (b->n_free) {
        id = b->free_ids[--b->n_free];
    } else if (b->oldest != NONE) {
        id = b->oldest;
        cached_remove(b, id);
        forget(b, id);
    }
    if (id != NONE) b->of[id].n_holders = 1;
    return id;
}

void blocks_hold(struct blocks *b, int32_t id) {
    if (b->of[id].n_holders++ == 0) cached_remove(b, id);
}

void blocks_release(struct blocks *b, int32_t id) {
    struct block *k = &b->of[id];
    if (--k->n_holders) return;
    if (k->state == BLOCK_KNOWN) {
        cached_add(b, id);
        return;
    }
    if (k->state == BLOCK_BEGUN) forget(b, id);
    b->free_ids[b->n_free++] = id;
}

uint32_t blocks_n_used(const struct blocks *b) { return b->n_blocks - b->n_free - b->n_cached; }
uint32_t blocks_n_cached(const struct blocks *b) { return b->n_cached; }
uint32_t blocks_n_free(const struct blocks *b) { return b->n_free; }

/* ---- for tests ---- */

static err check_block(const struct blocks *b, int32_t id) {
    const struct block *k = &b->of[id];
    if (k->state == BLOCK_PRIVATE)
        return k->n_holders < 2 ? OK : err_set(ERR_INTERNAL, "block %d is private to %u", id, k->n_holders);
    if (blocks_find(b, k->parent, k->tokens) != id) return err_set(ERR_INTERNAL, "block %d is not found", id);
    if (k->state == BLOCK_BEGUN)
        return k->n_holders == 1 ? OK : err_set(ERR_INTERNAL, "block %d is begun by %u", id, k->n_holders);
    if (k->parent == NONE) return OK;
    if (!blocks_is_known(b, k->parent)) return err_set(ERR_INTERNAL, "block %d is known, its parent is not", id);
    if (b->of[k->parent].n_holders < (k->n_holders != 0))
        return err_set(ERR_INTERNAL, "block %d is held, its parent is not", id);
    return OK;
}

err blocks_check(const struct blocks *b) {
    uint32_t n_used = 0, n_cached = 0, n_listed = 0;
    for (uint32_t i = 0; i < b->n_blocks; i++) {
        TRY(check_block(b, (int32_t)i));
        if (b->of[i].n_holders) n_used++;
        else if (b->of[i].state == BLOCK_KNOWN) n_cached++;
    }
    for (int32_t id = b->oldest; id != NONE && n_listed <= b->n_blocks; id = b->of[id].newer) n_listed++;
    if (n_used == blocks_n_used(b) && n_cached == b->n_cached && n_listed == n_cached) return OK;
    return err_set(ERR_INTERNAL, "%u blocks are held, %u counted; %u cached, %u counted, %u listed", n_used,
                   blocks_n_used(b), n_cached, b->n_cached, n_listed);
}
