/* Weight matrices on an OpenCL device: the kernels that read them, one program per
 * format. loader.c fills them. Private to kernels/. */
#ifndef KERNELS_MATRIX_H
#define KERNELS_MATRIX_H

#include "kernels/backend.h"
#include "kernels/dense.h"
#include "kernels/device.h"
#include "kernels/linear_many.h"
#include "model/packed.h"

struct matrix {
    struct packed_layout layout;
    cl_mem mem;
};

#define N_TILES 4 /* kernels for 1, 2, a few and many rows at a time */

struct matrix_kernels {
    struct kernel_forms forms;
    cl_program program, embed_program; /* NULL: not built */
    cl_kernel linear[N_TILES], embed; /* linear: of a quantised format */
    cl_kernel arrange, linear_many; /* of many rows; NULL: there is none */
    struct dense dense; /* of a dense format */
};

/* The defines that kernel texts want for a format, and those that are numbers. */
const char *matrix_format_defines(enum format f);
#define FORMAT_NUMBERS_BYTES 160
void matrix_format_numbers(enum format f, char out[FORMAT_NUMBERS_BYTES]);

/* The texts of products of a few rows, after half.cl. */
#define LINEAR_TEXTS                                                                                            \
    "packed.cl", "dot.cl", "tree.cl", "products.cl", "#define T 1\n", "linear.cl", "#undef T\n#define T 2\n", \
        "linear.cl", "#undef T\n#define T TILE_MIDDLE\n", "linear.cl", "#undef T\n#define T TILE_WIDE\n", "linear.cl"

/* Builds with k->forms. */
err matrix_kernels_build(struct device *d, enum format f, struct matrix_kernels *k);
void matrix_kernels_release(struct matrix_kernels *k);

/* The lookup's own kernel is built at its first use: most cells have none. */
err matrix_embed(struct device *d, struct matrix_kernels *k, const struct matrix *m, cl_mem ids,
                 uint32_t n_rows, cl_mem out);
/* One launch; the matrices are of the kernels' format. */
err matrix_linear(struct device *d, const struct matrix_kernels *k, const struct product *products,
                  uint32_t n_products, cl_mem in, uint32_t n_rows, uint32_t segment_cols,
                  const struct tree *tree, const struct linear_many *many);

/* The products as kernels take them, see products.cl; what there is none of is like the first. */
struct product_args {
    cl_mem w[PRODUCTS_MAX], out[PRODUCTS_MAX];
    cl_ulong4 at[PRODUCTS_MAX];
    cl_uint4 n_outs;
    size_t n_units; /* of all */
};

/* A unit: the output rows of each that a work-item, or a group of them, takes; a multiple of
 * PACKED_LANES. */
err product_args_fill(const struct product *p, uint32_t n, uint32_t unit, struct product_args *out);

#define PRODUCT_ARGS(a)                                                                               \
    DEVICE_ARG((a).w[0]), DEVICE_ARG((a).w[1]), DEVICE_ARG((a).w[2]), DEVICE_ARG((a).at[0]),          \
        DEVICE_ARG((a).at[1]), DEVICE_ARG((a).at[2]), DEVICE_ARG((a).n_outs), DEVICE_ARG((a).out[0]), \
        DEVICE_ARG((a).out[1]), DEVICE_ARG((a).out[2])

/* A tree as kernels take it: 4 bits per leaf, 1 bit per leaf. */
cl_ulong tree_merges(const struct tree *t);
cl_uint tree_emits(const struct tree *t);

#endif
