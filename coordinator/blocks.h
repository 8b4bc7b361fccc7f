/* Blocks: which pages of KV cache are held, and whose contents are known. The job holds the
 * keys and values; here are only numbers.
 *
 * The index is a tree: a known block is found by the block before it (its parent, which is known
 * too; -1: none, the beginning of a text) and its 32 tokens, compared one by one, so that a block
 * that is found holds exactly what the same tokens would compute. Whoever holds a known block
 * holds its parent, and lets go of the last block of a text first: a parent is forgotten after
 * its children. Nobody writes into a block that is known or held by two.
 *
 * Pure, one thread; allocates at creation only. */
#ifndef COORDINATOR_BLOCKS_H
#define COORDINATOR_BLOCKS_H

#include <stdint.h>

#include "base/err.h"
#include "model/limits.h"

struct blocks;

err blocks_create(uint32_t n_blocks, struct blocks **out);
void blocks_free(struct blocks *b);
/* All are free and nothing is known. */
void blocks_reset(struct blocks *b);

/* A block with one holder and no known contents: a free one, else of those that nobody holds the
 * one whose last holder left first, whose contents are forgotten. -1: all are held. */
int32_t blocks_take(struct blocks *b);
/* One holder more, of a known block. */
void blocks_hold(struct blocks *b, int32_t id);
/* One holder less; without any, contents that are known stay known until the block is taken. */
void blocks_release(struct blocks *b, int32_t id);

/* The block in the index, begun or known, or -1. */
int32_t blocks_find(const struct blocks *b, int32_t parent, const int32_t *tokens);
int blocks_is_known(const struct blocks *b, int32_t id);
uint32_t blocks_n_holders(const struct blocks *b, int32_t id);

/* Puts a block of one holder that is not in the index there, as one that is being computed: others can see that
 * it will be known. It is forgotten if its holder leaves before blocks_finish. */
void blocks_begin(struct blocks *b, int32_t id, int32_t parent, const int32_t *tokens);
/* The contents of a begun block are known from now on. */
void blocks_finish(struct blocks *b, int32_t id);

/* Held by somebody; held by nobody, but known; neither. Together all there are. */
uint32_t blocks_n_used(const struct blocks *b);
uint32_t blocks_n_cached(const struct blocks *b);
uint32_t blocks_n_free(const struct blocks *b);

/* Whether lists, counts and index agree: for tests. ERR_INTERNAL says what does not. */
err blocks_check(const struct blocks *b);

#endif
