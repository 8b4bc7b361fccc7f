/* Times linear products on a backend as a step meets them: every matrix comes from
 * memory, not from a cache that an earlier product filled. For benchmarks. */
#ifndef KERNELS_OP_TIME_H
#define KERNELS_OP_TIME_H

#include "kernels/backend.h"

/* Distinct matrices together take at least this, several times the largest cache. */
#define OP_TIME_WORKING_BYTES ((uint64_t)384 << 20)

/* Seconds of a product with `out` x `in` weights for each of n_rows [n]: the median of short
 * runs of products, each with the next matrix. `in` is a multiple of 32 and of the format's
 * block. *matrix_bytes: of one matrix, packed. */
err op_time_linear(struct backend *b, enum format f, uint32_t out, uint32_t in, const uint32_t *n_rows,
                   uint32_t n, double *seconds, uint64_t *matrix_bytes);

#endif
