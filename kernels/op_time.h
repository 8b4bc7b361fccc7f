/* Times ops on a backend. Matrices of a product and KV caches come from memory, not from a cache that an earlier
 * run filled, where a working set is asked for: as a step meets them. Other ops read what the op before
 * left in a cache, and so they do here. For benchmarks, tuning, and choices between two ways. */
#ifndef KERNELS_OP_TIME_H
#define KERNELS_OP_TIME_H

#include "kernels/backend.h"
#include "kernels/op_table.h"

/* Distinct matrices, or KV caches, that take this together are several times the largest cache. */
#define OP_TIME_WORKING_BYTES ((uint64_t)384 << 20)

/* Variant of a linear row: not the model's segments and tree, but one sum. */
#define OP_TIME_ONE_SEGMENT "one segment"

/* An op with its inputs on a backend, ready to run. One thread; the backend outlives it. */
struct op_time;

/* `row` as in the op table; of it count op, format, n_rows (the most rows of a run), out, in, at of attend, and
 * option of reduce (leaves), attend and kv-write. `in` is a multiple of 32, for linear and embed of the format's
 * block, too. Ops come as a step has them: norm quantises what it gives; reduce adds the rows and norms and
 * quantises the sum; kv-write turns q and k before; glu and act quantise.
 * working_bytes: of distinct matrices or KV caches; 0: one. ERR_UNSUPPORTED for an op that is not timed. */
err op_time_create(struct backend *b, const struct op_row *row, uint64_t working_bytes, struct op_time **out);
void op_time_free(struct op_time *t);

/* Seconds of the op on n_rows rows: the median of short runs that take max_s together, or three. */
err op_time_run(struct op_time *t, uint32_t n_rows, double max_s, double *seconds);
/* The mean of short runs that take least_s together, of wall time: what lasts, also under a quota of processor
 * time, where a median would show what a burst can do. */
err op_time_mean(struct op_time *t, uint32_t n_rows, double least_s, double *seconds);

/* Bytes of a file that were packed per second as the op's matrices were loaded; 0 where it has none. */
double op_time_packed_per_s(const struct op_time *t);

/* What the op on n_rows rows must do at least. */
struct op_cost {
    double bytes;      /* weights, packed, and values that it reads and writes */
    double operations; /* additions and multiplications; 0 where they say nothing of the op */
};
struct op_cost op_time_cost(const struct op_time *t, uint32_t n_rows);

/* The ops that can be timed; *n of them. */
const enum op_kind *op_time_kinds(uint32_t *n);

#endif
