/* Quantised matrix times rows of int8 activations, T rows at a time.
 *
 * A work-item owns LPI output rows (one group of 16 lanes, or one lane) and
 * walks their blocks once per T activation rows: integer dots inside a block,
 * fma over blocks in increasing order inside a segment, the tree over
 * segments. merges: 4 bits per leaf, emits: 1 bit; see model/segment.h.
 * Global: groups (LPI 16) or groups * 16 (LPI 1). */

kernel void CONCAT(linear_, T)(
    PRODUCTS, uint n_blocks, uint super_first, uint n_supers, global const int *xq, uint n_rows,
    uint segment_blocks, ulong merges, uint emits, uint n_leaves) {
    PRODUCT_FIND
    if (out_row >= n_out) return;
    struct planes p = {w, at.x, at.y, at.z, n_blocks, super_first, n_supers};
    uint lane = out_row % 16;
    size_t group = at.w + out_row / 16;
    for (uint tile = 0; tile * T < n_rows; tile++) {
        uint t0 = TILE_BEGIN(tile), depth = 0, result = 0;
        VF stack[TREE_DEPTH][T];
        for (uint leaf = 0; leaf < n_leaves; leaf++) {
            VF f[T];
#pragma unroll
            for (int t = 0; t < T; t++) f[t] = 0.0f;
            uint end = min((leaf + 1) * segment_blocks, n_blocks);
            for (uint b = leaf * segment_blocks; b < end; b++) {
                VI word[8];
                VF scale[2], least[2];
                block_fetch(&p, group * n_blocks + b);
                block_quants(&p, group * n_blocks + b, lane, word);
                block_scales(&p, group, b, lane, scale, least);
                global const int *x0 = xq + ((size_t)t0 * n_blocks + b) * 12;
#pragma unroll
                for (int t = 0; t < T; t++) {
                    global const int *x = x0 + (size_t)n_blocks * (12 * t);
                    float s = as_float(x[8]);
#if N_SCALES == 2
                    int second = x[10], first = x[9] - second;
                    VI a = -OFFSET * first, c = -OFFSET * second;
                    DOT(a, word[0], x); DOT(a, word[1], x + 1); DOT(a, word[2], x + 2); DOT(a, word[3], x + 3);
                    DOT(c, word[4], x + 4); DOT(c, word[5], x + 5); DOT(c, word[6], x + 6); DOT(c, word[7], x + 7);
                    f[t] = fma(TO_F(a), scale[0] * s, f[t]);
                    f[t] = fma(TO_F(c), scale[1] * s, f[t]);
#if HAS_MIN
                    f[t] = fma((VF)((float)first), least[0] * s, f[t]);
                    f[t] = fma((VF)((float)second), least[1] * s, f[t]);
#endif
#else
                    int sum = x[9];
                    VI a = -OFFSET * sum;
                    DOT(a, word[0], x); DOT(a, word[1], x + 1); DOT(a, word[2], x + 2); DOT(a, word[3], x + 3);
                    DOT(a, word[4], x + 4); DOT(a, word[5], x + 5); DOT(a, word[6], x + 6); DOT(a, word[7], x + 7);
                    f[t] = fma(TO_F(a), scale[0] * s, f[t]);
#if HAS_MIN
                    f[t] = fma((VF)((float)sum), least[0] * s, f[t]);
#endif
#endif
                }
            }
            TREE_PUSH(stack, depth, result, f, leaf)
        }
    }
}
