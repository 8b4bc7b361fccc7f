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

/* The texts of its kernels after half.cl, at most DENSE_TEXTS_MAX, and how many; `shapes` holds some of them. */
#define DENSE_TEXTS_MAX (3 + 2 * N_DENSE_TILES)
struct dense_shapes {
    char text[N_DENSE_TILES][128];
};
uint32_t dense_texts(const struct kernel_forms *forms, struct dense_shapes *shapes, const char **out);
/* Rows that kernel i takes at a time. */
uint32_t dense_rows(const struct kernel_forms *forms, int i);

/* Makes room for products over n_cols columns. */
err dense_prepare(struct device *d, uint32_t n_cols, struct dense *k);

/* As matrix_linear(). Takes the rows in pieces that fit the scratch. */
err dense_linear(struct device *d, const struct kernel_forms *forms, const struct dense *k,
                 const struct product *products, uint32_t n_products, cl_mem in, uint32_t n_rows,
                 uint32_t segment_cols, const struct tree *tree);

#endif
