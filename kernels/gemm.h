/* Dense products of many rows through CLBlast, in tiles of outputs: one
 * batched call multiplies all segments, so that every sum is the contract's: in-order
 * fma over the columns of a segment. Whether a device's CLBlast keeps that
 * order is not known beforehand: the op table decides. Private to kernels/. */
#ifndef KERNELS_GEMM_H
#define KERNELS_GEMM_H

#include "kernels/matrix.h"

struct gemm {
    cl_program program[N_FORMATS]; /* of the dense formats */
    cl_kernel unpack[N_FORMATS], tree[N_FORMATS];
    cl_mem weights, leaves; /* scratch */
    size_t weight_floats, leaf_floats;
    int is_tuned; /* CLBlast was told the device's tuning */
};

/* Gives CLBlast the parameters that a tuning has; they hold for this process. */
err gemm_tune(struct device *d, const struct tuning *t);

/* Builds for a format, tunes CLBlast at the first call, and makes room for steps of rows_max rows. */
err gemm_prepare(struct device *d, enum format f, uint32_t rows_max, struct gemm *g);
void gemm_release(struct gemm *g);

/* A format is not multiplied this way after all; the last one gives the scratch back. */
void gemm_forget(struct gemm *g, enum format f);

/* Whether a product can go this way at all: rows enough, all segments equal, scratch large enough. */
int gemm_can(const struct device *d, const struct gemm *g, const struct matrix *m, uint32_t n_rows,
             uint32_t segment_cols, const struct tree *tree);

/* As matrix_linear(), of one product. */
err gemm_linear(struct device *d, const struct gemm *g, const struct product *p, cl_mem in, uint32_t n_rows,
                uint32_t segment_cols, const struct tree *tree);

#endif
