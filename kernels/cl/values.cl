/* Values of a row, sixteen at a time, in every form of the kernels. */

/* Values [i, i + 16) of n; zeros beyond the end. */
float16 load16(global const float *x, size_t i, size_t n) {
    if (i + 16 <= n) return vload16(0, x + i);
    float f[16];
    for (size_t k = 0; k < 16; k++) f[k] = i + k < n ? x[i + k] : 0.0f;
    return vload16(0, f);
}

void store16(float16 v, global float *x, size_t i, size_t n) {
    if (i + 16 <= n) {
        vstore16(v, 0, x + i);
        return;
    }
    float f[16];
    vstore16(v, 0, f);
    for (size_t k = 0; i + k < n; k++) x[i + k] = f[k];
}

float highest16(float16 v) {
    float8 a = fmax(v.lo, v.hi);
    float4 b = fmax(a.lo, a.hi);
    float2 c = fmax(b.lo, b.hi);
    return fmax(c.x, c.y);
}

int sum16(int16 v) {
    int8 a = v.lo + v.hi;
    int4 b = a.lo + a.hi;
    int2 c = b.lo + b.hi;
    return c.x + c.y;
}

/* A block of q8 is 12 words: 32 int8, the f32 scale, the sum of all, the sum of
 * the second 16, one unused. */
#define Q8_WORDS 12

void quantize32(float16 x0, float16 x1, global int *block) {
    float top = highest16(fmax(fabs(x0), fabs(x1)));
    int is_zero = !(top > 1e-20f); /* also keeps every product normal */
    float inverse = is_zero ? 0.0f : 127.0f * number_recip(top);
    int16 q0 = convert_int16(fmin(fmax(rint(x0 * inverse), -127.0f), 127.0f));
    int16 q1 = convert_int16(fmin(fmax(rint(x1 * inverse), -127.0f), 127.0f));
    vstore16(convert_char16(q0), 0, (global char *)block);
    vstore16(convert_char16(q1), 1, (global char *)block);
    int second = sum16(q1);
    block[8] = as_int(is_zero ? 0.0f : top * (1.0f / 127));
    block[9] = sum16(q0) + second;
    block[10] = second;
    block[11] = 0;
}

/* 32 results of a row of n from i on: as floats, quantised, or both (n is then a
 * multiple of 32). `out` and `q8` are the row's, or NULL. */
void store32(float16 v0, float16 v1, size_t i, size_t n, global float *out, global int *q8) {
    if (out) {
        store16(v0, out, i, n);
        if (i + 16 < n) store16(v1, out, i + 16, n);
    }
    if (q8) quantize32(v0, v1, q8 + i / 32 * Q8_WORDS);
}
