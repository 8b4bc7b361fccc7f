/* The tree over segments, inside a work-item: after each leaf the youngest
 * sums are added as `merges` says, and results leave as `emits` says. */
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

#if LPI == 16
/* The last group may be padded: only real output rows are stored. */
void store_lanes(float16 v, global float *out, uint n) {
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

#define TREE_PUSH(stack, depth, result, f, leaf)                                       \
    for (int t = 0; t < T; t++) stack[depth][t] = f[t];                                \
    depth++;                                                                           \
    for (uint m = (uint)(merges >> (4 * leaf)) & 15; m > 0; m--) {                     \
        depth--;                                                                       \
        for (int t = 0; t < T; t++) stack[depth - 1][t] += stack[depth][t];            \
    }                                                                                  \
    if (emits >> leaf & 1) {                                                           \
        depth--;                                                                       \
        for (uint t = 0; t < T && t0 + t < n_rows; t++)                                \
            STORE(stack[depth][t],                                                     \
                  out + ((size_t)result * n_rows + t0 + t) * n_out + out_row,          \
                  n_out - out_row);                                                    \
        result++;                                                                      \
    }
