/* The tree over segments, inside a work-item: after each leaf the youngest
 * sums are added as `merges` says, and results leave as `emits` says. */
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

#if LPI == 16
/* The last group may be padded: only real output rows are stored. */
INLINE void store_lanes(float16 v, global float *out, uint n) {
    if (n >= 16) {
        vstore16(v, 0, out);
        return;
    }
    float f[16];
    vstore16(v, 0, f);
    for (uint i = 0; i < n; i++) out[i] = f[i];
}
#define STORE(v, p, n) store_lanes(v, p, n)
#else
#define STORE(v, p, n) *(p) = (v)
#endif

/* The youngest sum is in f; older ones wait in the stack. T sums of row `row` after t0 and output rows from `lanes` on,
 * both by t. */
#define TREE_PUSH_AT(stack, depth, result, f, leaf, row, lanes)                        \
    for (uint m = (uint)(merges >> (4 * leaf)) & 15; m > 0; m--) {                     \
        depth--;                                                                       \
        _Pragma("unroll") for (int t = 0; t < T; t++) f[t] = stack[depth][t] + f[t];   \
    }                                                                                  \
    if (emits >> leaf & 1) {                                                           \
        _Pragma("unroll") for (int t = 0; t < T; t++)                                  \
            if (t0 + (row) < n_rows && (lanes) < n_out)                                \
                STORE(f[t], out + ((size_t)result * n_rows + t0 + (row)) * n_out + (lanes), n_out - (lanes));    \
        result++;                                                                      \
    } else {                                                                           \
        _Pragma("unroll") for (int t = 0; t < T; t++) stack[depth][t] = f[t];          \
        depth++;                                                                       \
    }
#define TREE_PUSH(stack, depth, result, f, leaf) TREE_PUSH_AT(stack, depth, result, f, leaf, t, out_row)

/* The first row of a tile: the last tile is moved back over rows that are done
 * already and writes the same again. */
#define TILE_BEGIN(tile) (n_rows < T ? 0 : min((uint)(tile) * T, n_rows - T))
