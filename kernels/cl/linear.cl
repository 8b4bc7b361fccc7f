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

/* dot[t] = the dots of words [j, k) of a block with those of row t of xq, whose sum stands at sum_at: word by word, so
 * that a row's dots do not wait for each other. */
INLINE void CONCAT(dots_, T)(const VI *word, int j, int k, global const int *x, uint stride, uint sum_at, VI *dot) {
#pragma unroll
    for (int t = 0; t < T; t++) dot[t] = DOTS_BEGIN((x + stride * t)[sum_at]);
#pragma unroll
    for (int i = j; i < k; i++) {
#pragma unroll
        for (int t = 0; t < T; t++) DOT(dot[t], word[i], x + stride * t + i);
    }
}

/* f[t] = the sum over blocks [begin, end) of output row(s) and row t of xq. */
INLINE void CONCAT(segment_, T)(const struct planes *p, size_t group, uint lane, uint begin, uint end,
                         global const int *xq, VF *f) {
    uint n_blocks = p->n_blocks, stride = n_blocks * 12;
#pragma unroll
    for (int t = 0; t < T; t++) f[t] = 0.0f;
    for (uint b = begin; b < end; b++) {
        VI word[8], dot[T];
        VF scale[2], least[2], sum[T];
        if (FETCH_BLOCKS) block_fetch(p, group * n_blocks + b + FETCH_BLOCKS);
        block_quants(p, group * n_blocks + b, lane, word);
        block_scales(p, group, b, lane, scale, least);
        global const int *x = xq + (size_t)b * 12;
        CONCAT(dots_, T)(word, 0, 8 / N_SCALES, x, stride, SUM_AT, dot);
#if N_TERMS == 1
#pragma unroll
        for (int t = 0; t < T; t++)
            f[t] = fma(TO_F(dot[t]), scale[0] * as_float((x + stride * t)[8]), f[t]);
#else
#pragma unroll
        for (int t = 0; t < T; t++) {
#if HAS_MIN
            sum[t] = SUM_FLOAT(x + stride * t + SUM_AT) * least[0];
            if (N_SCALES == 2) sum[t] = fma(SUM_FLOAT(x + stride * t + 11), least[1], sum[t]);
            sum[t] = fma(TO_F(dot[t]), scale[0], sum[t]);
#else
            sum[t] = TO_F(dot[t]) * scale[0];
#endif
        }
#if N_SCALES == 2
        CONCAT(dots_, T)(word, 4, 8, x, stride, 11, dot);
#pragma unroll
        for (int t = 0; t < T; t++) sum[t] = fma(TO_F(dot[t]), scale[1], sum[t]);
#endif
#pragma unroll
        for (int t = 0; t < T; t++) f[t] = fma(sum[t], as_float((x + stride * t)[8]), f[t]);
#endif
    }
}

kernel void CONCAT(linear_, T)(
    PRODUCTS, uint n_blocks, uint super_first, uint n_supers, global const int *xq, uint n_rows,
    uint segment_blocks, ulong merges, uint emits, uint n_leaves ITEM_PARAMS) {
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
