/* Ops on single values: a work-item each, or for 32 of them; the global size
 * is their number, padded. */

#if LPI == 16
INLINE float16 activate(int kind, float16 x) {
    if (kind == ACT_SILU) return number16_silu(x);
    if (kind == ACT_GELU_TANH) return number16_gelu_tanh(x);
    return fmax(x, 0.0f);
}
#else
/* Value by value: drivers of the one-lane form make sixteen of what is done to a vector, and take a minute to. */
INLINE float16 activate(int kind, float16 x) {
    float f[16];
    vstore16(x, 0, f);
    for (int i = 0; i < 16; i++)
        f[i] = kind == ACT_SILU ? number_silu(f[i]) : kind == ACT_GELU_TANH ? number_gelu_tanh(f[i]) : fmax(f[i], 0.0f);
    return vload16(0, f);
}
#endif

/* struct activation of kernels/backend.h, a work-item per ITEM_BLOCKS blocks of 32 values of a row, n in all. What is
 * NULL is left out. */
kernel void activate_rows(int kind, global const float *gate, global const float *gate_bias,
                          global const float *up, global const float *up_bias, uint width,
                          global float *out, global int *q8, uint n ITEM_PARAMS) {
    if (get_global_id(0) >= n) return;
    uint item = get_global_id(0), values = 32 * ITEM_BLOCKS, items = (width + values - 1) / values;
    size_t row = item / items, at = row * width, begin = item % items * values;
    float16 v[2 * ITEM_BLOCKS];
#pragma unroll
    for (size_t k = 0; k < 2 * ITEM_BLOCKS; k++) {
        size_t i = begin + k * 16;
        float16 g = load16(gate + at, i, width);
        if (gate_bias) g += load16(gate_bias, i, width);
        v[k] = activate(kind, g);
        if (!up) continue;
        float16 u = load16(up + at, i, width);
        v[k] *= up_bias ? u + load16(up_bias, i, width) : u;
    }
    store_blocks(v, begin, width, out ? out + at : out, q8 ? q8 + at / 32 * Q8_WORDS : q8);
}

/* out [n_out, width] = in[index[row]]; n = n_out * width. */
kernel void select_rows(global const float *in, global const int *index, uint width,
                        global float *out, uint n ITEM_PARAMS) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    out[i] = in[(size_t)index[i / width] * width + i % width];
}
