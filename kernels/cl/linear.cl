/* Quantised matrix times rows of int8 activations, T rows at a time.
 *
 * A work-item owns LPI output rows (one group of 16 lanes, or one lane) and
 * walks their blocks once per T activation rows: integer dots inside a block,
 * fma over blocks in increasing order inside a segment, the tree over
 * segments. merges: 4 bits per leaf, emits: 1 bit; see model/segment.h.
 * Global: groups (LPI 16) or groups * 16 (LPI 1). */

#if defined(DOT_VNNI) && LPI == 16
/* u8 x s8 dots of AVX512-VNNI; the compiler may not know the instruction, the
 * assembler does. */
#define DOT(acc, w, xp)                                                                \
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*(xp)))
#elif LPI == 16
#define DOT(acc, w, xp)                                                                \
    {                                                                                  \
        int x_ = *(xp);                                                                \
        acc += (w & 255) * (x_ << 24 >> 24) + (w >> 8 & 255) * (x_ << 16 >> 24) +      \
               (w >> 16 & 255) * (x_ << 8 >> 24) + (w >> 24 & 255) * (x_ >> 24);       \
    }
#else
#define DOT(acc, w, xp)                                                                \
    {                                                                                  \
        int x_ = *(xp);                                                                \
        acc += (w & 255) * (x_ << 24 >> 24) + (w >> 8 & 255) * (x_ << 16 >> 24) +      \
               (w >> 16 & 255) * (x_ << 8 >> 24) + (w >> 24 & 255) * (x_ >> 24);       \
    }
#endif

kernel void CONCAT(linear_, T)(
    global const uchar *w, ulong high_at, ulong scales_at, ulong supers_at, uint n_blocks,
    uint super_first, uint n_supers, uint group_begin, uint n_out, global const int *xq,
    uint n_rows, uint segment_blocks, ulong merges,
    uint emits, uint n_leaves, global float *out) {
    global const float *xs = (global const float *)(xq + (size_t)n_rows * n_blocks * 8);
    global const int *xsum = xq + (size_t)n_rows * n_blocks * 9;
    struct planes p = {w, high_at, scales_at, supers_at, n_blocks, super_first, n_supers};
    uint lane = get_global_id(0) * LPI % 16;
    uint out_row = get_global_id(0) * LPI;
    size_t group = group_begin + out_row / 16;
    if (out_row >= n_out) return;
    for (uint t0 = 0; t0 < n_rows; t0 += T) {
        VF stack[TREE_DEPTH][T];
        uint depth = 0, result = 0;
        size_t row[T]; /* a tail repeats the last row */
        for (uint t = 0; t < T; t++) row[t] = (t0 + t < n_rows ? t0 + t : n_rows - 1) * (size_t)n_blocks;
        for (uint leaf = 0; leaf < n_leaves; leaf++) {
            VF f[T];
#pragma unroll
            for (int t = 0; t < T; t++) f[t] = 0.0f;
            uint end = (leaf + 1) * segment_blocks < n_blocks ? (leaf + 1) * segment_blocks : n_blocks;
            for (uint b = leaf * segment_blocks; b < end; b++) {
                VI word[8];
                VF scale[2], least[2];
                block_quants(&p, group * n_blocks + b, lane, word);
                block_scales(&p, group, b, lane, scale, least);
#pragma unroll
                for (int t = 0; t < T; t++) {
                    global const int *x = xq + (row[t] + b) * 8;
                    global const int *sums = xsum + (row[t] + b) * 2;
                    float s = xs[row[t] + b];
#if N_SCALES == 2
                    VI a = -OFFSET * sums[0], c = -OFFSET * sums[1];
                    DOT(a, word[0], x); DOT(a, word[1], x + 1); DOT(a, word[2], x + 2); DOT(a, word[3], x + 3);
                    DOT(c, word[4], x + 4); DOT(c, word[5], x + 5); DOT(c, word[6], x + 6); DOT(c, word[7], x + 7);
                    f[t] = fma(TO_F(a), scale[0] * s, f[t]);
                    f[t] = fma(TO_F(c), scale[1] * s, f[t]);
#if HAS_MIN
                    f[t] = fma((VF)((float)sums[0]), least[0] * s, f[t]);
                    f[t] = fma((VF)((float)sums[1]), least[1] * s, f[t]);
#endif
#else
                    int sum = sums[0] + sums[1];
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
#undef DOT
