/* Ops on single values: a work-item each, or for 32 of them; the global size
 * is their number, padded. */

float16 activate(int kind, float16 x) {
    if (kind == ACT_SILU) return number16_silu(x);
    if (kind == ACT_GELU_TANH) return number16_gelu_tanh(x);
    return fmax(x, 0.0f);
}

/* struct activation of kernels/backend.h, a work-item per 32 values of a row;
 * n = rows * ceil(width / 32). What is NULL is left out. */
kernel void activate_rows(int kind, global const float *gate, global const float *gate_bias,
                          global const float *up, global const float *up_bias, uint width,
                          global float *out, global int *q8, uint n) {
    if (get_global_id(0) >= n) return;
    size_t blocks = (width + 31) / 32, row = get_global_id(0) / blocks, at = row * width;
    size_t block = get_global_id(0) % blocks;
    float16 v[2];
    for (size_t k = 0; k < 2; k++) {
        size_t i = block * 32 + k * 16;
        float16 g = load16(gate + at, i, width);
        if (gate_bias) g += load16(gate_bias, i, width);
        v[k] = activate(kind, g);
        if (!up) continue;
        float16 u = load16(up + at, i, width);
        v[k] *= up_bias ? u + load16(up_bias, i, width) : u;
    }
    store32(v[0], v[1], block * 32, width, out ? out + at : out, q8 ? q8 + row * blocks * Q8_WORDS : q8);
}

/* out [n_out, width] = in[index[row]]; n = n_out * width. */
kernel void select_rows(global const float *in, global const int *index, uint width,
                        global float *out, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    out[i] = in[(size_t)index[i / width] * width + i % width];
}

/* Rotates pairs in place; angles [rows][n_pairs] of (cos, sin);
 * n = rows * n_heads * n_pairs. */
kernel void rope(global float *x, global const float2 *angles, uint head_dim, uint n_pairs,
                 uint n_heads, int is_neox, uint n) {
    size_t at = get_global_id(0);
    if (at >= n) return;
    size_t i = at % n_pairs, head = at / n_pairs, row = head / n_heads;
    global float *h = x + head * head_dim;
    size_t i0 = is_neox ? i : 2 * i, i1 = is_neox ? i + n_pairs : 2 * i + 1;
    float2 a = angles[row * n_pairs + i];
    float x0 = h[i0], x1 = h[i1];
    h[i0] = fma(x0, a.x, -(x1 * a.y));
    h[i1] = fma(x0, a.y, x1 * a.x);
}
