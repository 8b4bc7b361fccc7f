/* Values of a row, sixteen at a time, in every form of the kernels. */

/* Values [i, i + 16) of n; zeros beyond the end. */
INLINE float16 load16(global const float *x, size_t i, size_t n) {
    if (i + 16 <= n) return vload16(0, x + i);
    float f[16];
    for (size_t k = 0; k < 16; k++) f[k] = i + k < n ? x[i + k] : 0.0f;
    return vload16(0, f);
}

INLINE void store16(float16 v, global float *x, size_t i, size_t n) {
    if (i + 16 <= n) {
        vstore16(v, 0, x + i);
        return;
    }
    float f[16];
    vstore16(v, 0, f);
    for (size_t k = 0; i + k < n; k++) x[i + k] = f[k];
}

INLINE int highest16(int16 v) {
    int8 a = max(v.lo, v.hi);
    int4 b = max(a.lo, a.hi);
    int2 c = max(b.lo, b.hi);
    return max(c.x, c.y);
}

INLINE int sum16(int16 v) {
    int8 a = v.lo + v.hi;
    int4 b = a.lo + a.hi;
    int2 c = b.lo + b.hi;
    return c.x + c.y;
}

/* A block of q8 is 12 words, see struct q8_block: 32 int8, the f32 scale, the sums of all, of the first and of the
 * second 16, each times a constant. */
#define Q8_WORDS 12

/* To the nearest whole number, ties to even; what is no number becomes -127. In few instructions: comparisons that
 * processors have, 1.5 * 2^23, in whose low bits the whole number then stands. */
INLINE int16 whole16(float16 v) {
    float16 low = v > -127.0f ? v : (float16)(-127.0f);
    float16 both = low < 127.0f ? low : (float16)(127.0f);
    return as_int16(both + 12582912.0f) - 0x4B400000;
}

/* The first n of ITEM_BLOCKS blocks at x. A block alone is one chain of instructions, each of which waits for the one
 * before; blocks side by side fill the waits. Of what is not negative the bits are in order, and a NaN's above all. */
INLINE void quantize_blocks(const float16 *x, uint n, global int *blocks) {
    float top[ITEM_BLOCKS], inverse[ITEM_BLOCKS];
#pragma unroll
    for (int b = 0; b < ITEM_BLOCKS; b++) {
        top[b] = as_float(highest16(max(as_int16(fabs(x[2 * b])), as_int16(fabs(x[2 * b + 1])))));
        if (!(top[b] > 1e-20f)) top[b] = 0.0f; /* also keeps every product normal */
    }
#pragma unroll
    for (int b = 0; b < ITEM_BLOCKS; b++) inverse[b] = top[b] == 0.0f ? 0.0f : 127.0f * number_recip(top[b]);
#pragma unroll
    for (int b = 0; b < ITEM_BLOCKS; b++) {
        global int *block = blocks + b * Q8_WORDS;
        int16 q0 = whole16(x[2 * b] * inverse[b]), q1 = whole16(x[2 * b + 1] * inverse[b]);
        int first = sum16(q0), second = sum16(q1);
        if (b >= (int)n) continue;
        vstore4(as_int4(convert_char16(q0)), 0, block);
        vstore4(as_int4(convert_char16(q1)), 1, block);
        vstore4((int4)(as_int(top[b] * (1.0f / 127)), Q8_SUM_TIMES * (first + second), Q8_SUM_HALF_TIMES * first,
                       Q8_SUM_HALF_TIMES * second), 2, block);
    }
}

/* ITEM_BLOCKS blocks of 32 results, as far as a row of n has them from i on: as floats, quantised, or both (n is then
 * a multiple of 32). `out` and `q8` are the row's, or NULL. */
INLINE void store_blocks(const float16 *x, size_t i, size_t n, global float *out, global int *q8) {
#pragma unroll
    for (size_t k = 0; k < 2 * ITEM_BLOCKS; k++)
        if (out && i + 16 * k < n) store16(x[k], out, i + 16 * k, n);
    if (q8) quantize_blocks(x, (uint)(n - i) / 32, q8 + i / 32 * Q8_WORDS);
}
