/* Dense (F32, F16, BF16) matrix times f32 rows, T rows at a time: fma over
 * columns in increasing order inside a segment, the tree over segments.
 * Packed [group][column][16], see DENSE in packed.cl. */

kernel void CONCAT(dense_, T)(PRODUCTS, uint n_cols, global const float *x, uint n_rows, uint segment_cols,
                              ulong merges, uint emits, uint n_leaves) {
    PRODUCT_FIND
    if (out_row >= n_out) return;
    uint lane = out_row % 16;
    size_t group = at.w + out_row / 16;
    global const uchar *wg = w + group * n_cols * (16 * DENSE_BYTES);
    for (uint tile = 0; tile * T < n_rows; tile++) {
        uint t0 = TILE_BEGIN(tile), depth = 0, result = 0;
        VF stack[TREE_DEPTH][T];
        for (uint leaf = 0; leaf < n_leaves; leaf++) {
            VF f[T];
#pragma unroll
            for (int t = 0; t < T; t++) f[t] = 0.0f;
            uint end = min((leaf + 1) * segment_cols, n_cols);
            for (uint c = leaf * segment_cols; c < end; c++) {
                VF v = DENSE(wg, c);
                global const float *xc = x + (size_t)t0 * n_cols + c;
#pragma unroll
                for (int t = 0; t < T; t++) f[t] = fma(v, (VF)(xc[t * (size_t)n_cols]), f[t]);
            }
            TREE_PUSH(stack, depth, result, f, leaf)
        }
    }
}
