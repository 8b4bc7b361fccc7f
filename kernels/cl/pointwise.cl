/* Ops on single values: one work-item each; the global size is n, padded. */

float activate(int kind, float x) {
    if (kind == ACT_SILU) return number_silu(x);
    if (kind == ACT_GELU_TANH) return number_gelu_tanh(x);
    return fmax(x, 0.0f);
}

kernel void bias(global float *x, global const float *vector, uint width, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    x[i] += vector[i % width];
}

kernel void glu(int kind, global const float *gate, global const float *up, global float *out, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    out[i] = activate(kind, gate[i]) * up[i];
}

kernel void act(int kind, global const float *in, global float *out, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    out[i] = activate(kind, in[i]);
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
