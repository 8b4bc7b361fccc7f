/* The op table: one row per op, format and shape, with generated inputs. It
 * drives the tests, the start-up check of a device (opencl.c) and the bench:
 * the same row runs on any backend and gives bytes to compare. */
#ifndef KERNELS_OP_TABLE_H
#define KERNELS_OP_TABLE_H

#include "base/mem.h"
#include "kernels/backend.h"

struct op_row {
    enum op_kind op;
    const char *variant;  /* "neox", "rms", ...; "" where there is one */
    enum format format;   /* of the weights; of the cache for attend and kv-write */
    uint32_t n_rows;      /* rows of the step */
    uint32_t out, in;     /* width of the output and input; attend: heads, head size */
    uint32_t at;          /* linear: first column; attend: the highest position */
    uint32_t option;      /* linear: segments; attend: kv heads; others: see op_table.c */
};

/* Every row; *n of them. */
const struct op_row *op_table(uint32_t *n);

/* Runs a row on a backend; appends the bytes of its result. */
err op_row_run(const struct op_row *r, struct backend *b, struct bytes *out);

/* About how many multiplications a row takes. */
uint64_t op_row_operations(const struct op_row *r);

/* "linear Q4_K 9 x 48 x 512 at 96", for messages. */
void op_row_name(const struct op_row *r, char *out, size_t cap);

/* Runs a row on `b` and on the reference; ERR_DEVICE names the row and the
 * first byte that differs. */
err op_row_check(const struct op_row *r, struct backend *b);

#endif
