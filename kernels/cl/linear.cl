/* Quantised matrix times rows of int8 activations, T rows at a time.
 *
 * Integer dots inside a block, fma over blocks in increasing order inside a
 * segment, the tree over segments. merges: 4 bits per leaf, emits: 1 bit; see
 * model/segment.h.
 *
 * LPI 16: a work-item owns a group of 16 output rows and walks their blocks once
 * per T activation rows. Global: groups.
 * LPI 1: a work-item owns one segment of an output row, a work-group all segments
 * of some rows, whose sums meet in local memory. Local: a multiple of 16 rows x
 * segments, SPLIT_ITEMS at most; global: output rows, padded, x segments. */

/* f[t] = the sum over blocks [begin, end) of output row(s) and row t of xq. */
void CONCAT(segment_, T)(const struct planes *p, size_t group, uint lane, uint begin, uint end,
                         global const int *xq, VF *f) {
#pragma unroll
    for (int t = 0; t < T; t++) f[t] = 0.0f;
    for (uint b = begin; b < end; b++) {
        VI word[8];
        VF scale[2], least[2];
        block_fetch(p, group * p->n_blocks + b);
        block_quants(p, group * p->n_blocks + b, lane, word);
        block_scales(p, group, b, lane, scale, least);
        global const int *x0 = xq + (size_t)b * 12;
#pragma unroll
        for (int t = 0; t < T; t++) {
            global const int *x = x0 + (size_t)p->n_blocks * (12 * t);
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
}

kernel void CONCAT(linear_, T)(
    PRODUCTS, uint n_blocks, uint super_first, uint n_supers, global const int *xq, uint n_rows,
    uint segment_blocks, ulong merges, uint emits, uint n_leaves) {
    PRODUCT_FIND
    struct planes p = {w, at.x, at.y, at.z, n_blocks, super_first, n_supers};
    uint lane = out_row % 16;
    size_t group = at.w + out_row / 16;
#if LPI == 16
    if (out_row >= n_out) return;
#else
    local float sums[T][SPLIT_ITEMS];
    uint first = min((uint)get_local_id(1) * segment_blocks, n_blocks);
#endif
    for (uint tile = 0; tile * T < n_rows; tile++) {
        uint t0 = TILE_BEGIN(tile), depth = 0, result = 0;
        global const int *x = xq + (size_t)t0 * n_blocks * 12;
        VF f[T], stack[TREE_DEPTH][T];
#if LPI == 16
        for (uint leaf = 0; leaf < n_leaves; leaf++) {
            uint begin = leaf * segment_blocks;
            CONCAT(segment_, T)(&p, group, lane, begin, min(begin + segment_blocks, n_blocks), x, f);
            TREE_PUSH(stack, depth, result, f, leaf)
        }
#else
        if (out_row < n_out) CONCAT(segment_, T)(&p, group, lane, first, min(first + segment_blocks, n_blocks), x, f);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (int t = 0; t < T; t++) sums[t][get_local_id(1) * get_local_size(0) + get_local_id(0)] = f[t];
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint leaf = 0; leaf < n_leaves && get_local_id(1) == 0 && out_row < n_out; leaf++) {
            for (int t = 0; t < T; t++) f[t] = sums[t][leaf * get_local_size(0) + get_local_id(0)];
            TREE_PUSH(stack, depth, result, f, leaf)
        }
#endif
    }
}
