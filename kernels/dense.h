/* Dense (F32, F16, BF16) products by kernels/cl/dense.cl: the choice of a tile, and the
 * activations laid out for it in scratch. Private to kernels/. */
#ifndef KERNELS_DENSE_H
#define KERNELS_DENSE_H

#include "kernels/device.h"
#include "model/segment.h"

#define N_DENSE_TILES 4 /* kernels for different numbers of rows at a time */

struct dense {
    cl_kernel product[N_DENSE_TILES], lay[N_DENSE_TILES]; /* lay: NULL for 1 row */
    cl_mem tiles;       /* scratch: rows as a kernel wants them */
    size_t tile_floats; /* room in it */
};

/* The program of a dense format, and its kernels. */
err dense_build(struct device *d, const struct kernel_forms *forms, const char *format_defines,
                struct dense *k, cl_program *program);
void dense_release(struct dense *k);

/* Makes room for products over n_cols columns. */
err dense_prepare(struct device *d, uint32_t n_cols, struct dense *k);

/* As matrix_linear(). Takes the rows in pieces that fit the scratch. */
err dense_linear(struct device *d, const struct kernel_forms *forms, const struct dense *k,
                 const struct product *products, uint32_t n_products, cl_mem in, uint32_t n_rows,
                 uint32_t segment_cols, const struct tree *tree);

#endif
