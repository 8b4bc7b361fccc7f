#include "kernels/linear_many.h"

#define TILE_BLOCK_BYTES 704 /* TILE_WORDS of linear_many.cl */

static size_t n_tile_blocks(uint32_t n_rows, uint32_t n_blocks) {
    return (size_t)((n_rows + LINEAR_TILE_ROWS - 1) / LINEAR_TILE_ROWS) * n_blocks;
}

err linear_many_prepare(struct device *d, uint32_t rows_max, uint32_t n_blocks, struct linear_many *m) {
    size_t need = n_tile_blocks(rows_max, n_blocks) * TILE_BLOCK_BYTES;
    if (rows_max < LINEAR_MANY_ROWS_MIN || need <= m->n_bytes) return OK;
    linear_many_release(m);
    TRY(device_memory(d, need, &m->tiles));
    m->n_bytes = need;
    return OK;
}

void linear_many_release(struct linear_many *m) {
    if (m->tiles) clReleaseMemObject(m->tiles);
    *m = (struct linear_many){0};
}

err linear_many_arrange(struct device *d, cl_kernel arrange, cl_mem q8, uint32_t n_rows, uint32_t n_blocks,
                        const struct linear_many *m) {
    cl_uint n = (cl_uint)n_tile_blocks(n_rows, n_blocks);
    if ((size_t)n * TILE_BLOCK_BYTES > m->n_bytes)
        return err_set(ERR_INTERNAL, "a product of %u rows was not prepared for", n_rows);
    return device_launch_items(d, arrange, DEVICE_ARGS(DEVICE_ARG(q8), DEVICE_ARG(n_blocks), DEVICE_ARG(n_rows),
                                                       DEVICE_ARG(m->tiles), DEVICE_ARG(n)), n);
}
