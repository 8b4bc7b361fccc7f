/* Ops on single values: a work-item each, or for 16 of them; the global size
 * is their number, padded. */

kernel void bias(global float *x, global const float *vector, uint width, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    x[i] += vector[i % width];
}

/* Sixteen values from 16 * i on; the rest of a short row is zero. */
float16 load16(global const float *x, size_t i, uint n) {
    if (i * 16 + 16 <= n) return vload16(i, x);
    float f[16];
    for (size_t k = 0; k < 16; k++) f[k] = i * 16 + k < n ? x[i * 16 + k] : 0.0f;
    return vload16(0, f);
}

void store16(float16 v, global float *x, size_t i, uint n) {
    if (i * 16 + 16 <= n) {
        vstore16(v, i, x);
        return;
    }
    float f[16];
    vstore16(v, 0, f);
    for (size_t k = 0; i * 16 + k < n; k++) x[i * 16 + k] = f[k];
}

float16 activate(int kind, float16 x) {
    if (kind == ACT_SILU) return number16_silu(x);
    if (kind == ACT_GELU_TANH) return number16_gelu_tanh(x);
    return fmax(x, 0.0f);
}

kernel void glu(int kind, global const float *gate, global const float *up, global float *out, uint n) {
    size_t i = get_global_id(0);
    if (i * 16 >= n) return;
    store16(activate(kind, load16(gate, i, n)) * load16(up, i, n), out, i, n);
}

kernel void act(int kind, global const float *in, global float *out, uint n) {
    size_t i = get_global_id(0);
    if (i * 16 >= n) return;
    store16(activate(kind, load16(in, i, n)), out, i, n);
}

kernel void add(global const float *x, global const float *y, global float *out, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    out[i] = x[i] + y[i];
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

/* The last sums of a tree: in [leaf][n], one work-item per value. */
kernel void reduce(global const float *in, ulong merges, uint n_leaves, global float *out,
                   uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    float stack[TREE_DEPTH];
    uint depth = 0;
    for (uint leaf = 0; leaf < n_leaves; leaf++) {
        stack[depth++] = in[leaf * n + i];
        for (uint m = merges >> (4 * leaf) & 15; m > 0; m--) {
            depth--;
            stack[depth - 1] += stack[depth];
        }
    }
    out[i] = stack[0];
}
