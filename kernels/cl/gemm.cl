/* Dense products of many rows by a matrix library: the packed weights of a
 * tile of outputs become plain [column][output] f32, the library multiplies segment by
 * segment, and the tree adds the segments. */

/* Outputs [first, first + width) of the packed matrix; n = columns * width. */
kernel void gemm_unpack(global const uchar *w, uint n_cols, uint first, uint width, global float *out,
                        uint n) {
    if (get_global_id(0) >= n) return;
    uint c = get_global_id(0) / width, row = first + get_global_id(0) % width;
    uint lane = row % 16;
    global const uchar *wg = w + (size_t)(row / 16) * n_cols * (16 * DENSE_BYTES);
    out[get_global_id(0)] = DENSE(wg, c);
}

/* in [leaf][n_rows][width] -> out [result][n_rows][n_out] from column `first`
 * on; n = n_rows * width. */
kernel void gemm_tree(global const float *in, ulong merges, uint emits, uint n_leaves, uint first,
                      uint width, uint n_out, global float *out, uint n) {
    uint i = get_global_id(0), n_rows = n / width;
    if (i >= n) return;
    size_t at = (size_t)(i / width) * n_out + first + i % width;
    float stack[TREE_DEPTH];
    uint depth = 0, result = 0;
    for (uint leaf = 0; leaf < n_leaves; leaf++) {
        stack[depth++] = in[(size_t)leaf * n + i];
        for (uint m = (uint)(merges >> (4 * leaf)) & 15; m > 0; m--) {
            depth--;
            stack[depth - 1] += stack[depth];
        }
        if (emits >> leaf & 1) out[(size_t)result++ * n_rows * n_out + at] = stack[--depth];
    }
}
