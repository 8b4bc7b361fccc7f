/* Times linear products and attention on a backend as a step meets them: every matrix and every
 * KV cache comes from memory, not from a cache that an earlier call filled. For benchmarks. */
#ifndef KERNELS_OP_TIME_H
#define KERNELS_OP_TIME_H

#include "kernels/backend.h"

/* Distinct matrices, or KV caches, together take at least this, several times the largest cache. */
#define OP_TIME_WORKING_BYTES ((uint64_t)384 << 20)

/* Seconds of a product with `out` x `in` weights for each of n_rows [n]: the median of short
 * runs of products, each with the next matrix. `in` is a multiple of 32 and of the format's
 * block. *matrix_bytes: of one matrix, packed. */
err op_time_linear(struct backend *b, enum format f, uint32_t out, uint32_t in, const uint32_t *n_rows,
                   uint32_t n, double *seconds, uint64_t *matrix_bytes);

/* Seconds of one attention of n_rows rows, the last of `context` positions (n_rows <= context) of
 * one sequence, with a KV cache in format `kv` (FORMAT_F16 or FORMAT_F32): the median, as above. n_heads is a
 * multiple of n_kv_heads. *kv_bytes: of the cache that these rows read, each counted once. */
err op_time_attend(struct backend *b, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim,
                   uint32_t context, uint32_t n_rows, enum format kv, double *seconds, uint64_t *kv_bytes);

#endif
