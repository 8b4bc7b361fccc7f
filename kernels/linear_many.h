/* Quantised products of many rows on devices whose work-items own a group of
 * lanes: the rows are brought into tiles, then kernels/cl/linear_many.cl runs. Private to
 * kernels/. */
#ifndef KERNELS_LINEAR_MANY_H
#define KERNELS_LINEAR_MANY_H

#include "kernels/device.h"

#define LINEAR_TILE_ROWS 16
/* Fewer rows are multiplied by linear.cl, 8 at a time; a tile that is not full costs less than a second pass. */
#define LINEAR_MANY_ROWS_MIN 9

/* Room for the tiles of one product. */
struct linear_many {
    cl_mem tiles;
    size_t n_bytes;
};

/* Grows the room for steps of rows_max rows of n_blocks blocks of 32. */
err linear_many_prepare(struct device *d, uint32_t rows_max, uint32_t n_blocks, struct linear_many *m);
void linear_many_release(struct linear_many *m);

/* Enqueues `arrange` (kernel tiles_arrange): q8 rows -> m->tiles. */
err linear_many_arrange(struct device *d, cl_kernel arrange, cl_mem q8, uint32_t n_rows, uint32_t n_blocks,
                        const struct linear_many *m);

#endif
