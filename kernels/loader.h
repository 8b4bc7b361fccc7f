/* Loader: reads and packs the matrices of a cell into device memory, all of them in one go. Threads of
 * its own, gone when it returns. Private to kernels/. */
#ifndef KERNELS_LOADER_H
#define KERNELS_LOADER_H

#include "kernels/matrix.h"

/* Each to *orders[i].out; after a failure none is left. */
err loader_run(struct device *d, const struct matrix_order *orders, uint32_t n);

void loader_matrix_free(struct matrix *m);

#endif
