/* Dense (F32, F16, BF16) matrix times f32 rows, T rows at a time: fma over
 * columns in increasing order inside a segment, the tree over segments.
 * Packed [group][column][16], see DENSE in packed.cl.
 *
 * A work-item owns GROUPS groups of output rows (or one lane). Segment after
 * segment, it takes the tiles of T rows past the segment's weights, which stay
 * in its cache meanwhile; few rows fetch weights FETCH_BYTES ahead (see
 * block_fetch). x is [tile][column][T], see dense_lay: the T values of a column
 * are neighbours.
 * Global: blocks of BLOCK_TILES tiles, output rows / (LPI * GROUPS). */

#define EACH_SUM                                                                       \
    _Pragma("unroll") for (int g = 0; g < GROUPS; g++)                                 \
        _Pragma("unroll") for (int t = 0; t < T; t++)

kernel void CONCAT(dense_, T)(PRODUCTS, uint n_cols, global const float *x, uint n_rows, uint segment_cols,
                              ulong merges, uint emits, uint n_leaves, uint row_begin, uint rows_all ITEM_PARAMS) {
    PRODUCT_FIND_AT(get_global_id(1) * (LPI * GROUPS), (16 * GROUPS))
    if (out_row >= n_out) return;
    uint lane = out_row % 16;
    uint tile_begin = get_global_id(0) * BLOCK_TILES;
    uint tile_end = min(tile_begin + BLOCK_TILES, (n_rows + T - 1) / T);
    global const uchar *wg[GROUPS];
#pragma unroll
    for (int g = 0; g < GROUPS; g++) /* where the last lies beyond the end, the one before again */
        wg[g] = w + (at.w + min(out_row + 16 * g, n_out - 1) / 16) * n_cols * (16 * DENSE_BYTES);
    uint depth = 0, result = 0;
    VF stack[BLOCK_TILES][TREE_DEPTH][GROUPS][T];
    for (uint leaf = 0; leaf < n_leaves; leaf++) {
        uint begin = leaf * segment_cols, end = min(begin + segment_cols, n_cols);
        uint n_merges = (uint)(merges >> (4 * leaf)) & 15, emit = emits >> leaf & 1;
        for (uint tile = tile_begin; tile < tile_end; tile++) {
            VF f[GROUPS][T];
            EACH_SUM f[g][t] = 0.0f;
            global const float *xc = x + ((size_t)tile * n_cols + begin) * T;
            for (uint c = begin; c < end; c++, xc += T) {
                VF v[GROUPS];
#pragma unroll
                for (int g = 0; g < GROUPS; g++) {
                    v[g] = DENSE(wg[g], c);
#if T <= 8 && FETCH_BYTES
                    FETCH(wg[g] + (size_t)c * (16 * DENSE_BYTES) + FETCH_BYTES);
#endif
                }
#pragma unroll
                for (int t = 0; t < T; t++) {
                    VF xt = (VF)(xc[t]);
#pragma unroll
                    for (int g = 0; g < GROUPS; g++) f[g][t] = fma(v[g], xt, f[g][t]);
                }
            }
            VF(*top)[GROUPS][T] = stack[tile - tile_begin] + depth;
            for (uint m = 0; m < n_merges; m++) {
                top--;
                EACH_SUM f[g][t] = (*top)[g][t] + f[g][t];
            }
            if (emit) {
                uint t0 = tile * T;
                global float *to = out + ((size_t)result * rows_all + row_begin + t0) * n_out + out_row;
                EACH_SUM if (t0 + t < n_rows && out_row + 16 * g < n_out)
                    STORE(f[g][t], to + (size_t)t * n_out + 16 * g, n_out - out_row - 16 * g);
            } else {
                EACH_SUM (*top)[g][t] = f[g][t];
            }
        }
        depth = depth - n_merges + !emit;
        result += emit;
    }
}

#if T > 1
/* Rows [n_rows][n_cols] as tiles [tile][column][T]; the last tile is filled up
 * with its last row. A work-item takes 16 columns of a tile. */
kernel void CONCAT(dense_lay_, T)(global const float *x, uint n_cols, uint row_begin, uint n_rows,
                                  global float *out, uint n ITEM_PARAMS) {
    uint per_tile = (n_cols + 15) / 16, i = get_global_id(0);
    if (i >= n) return;
    uint tile = i / per_tile, begin = i % per_tile * 16, end = min(begin + 16, n_cols);
    global float *to = out + (size_t)tile * n_cols * T;
    for (uint c = begin; c < end; c++)
#pragma unroll
        for (uint t = 0; t < T; t++)
            to[c * T + t] = x[(row_begin + min(tile * T + t, n_rows - 1)) * (size_t)n_cols + c];
}
#endif
#undef EACH_SUM
