/* q, k and v of a step before attention: biases, rotation, k and v into the
 * cache. Built together with attend.cl, which says how the cache looks. */

/* Values i and its partner of a head after bias and rotation by (cos, sin). */
INLINE float2 turned(global const float *x, global const float *bias, uint i0, uint i1, float2 a) {
    float x0 = bias ? x[i0] + bias[i0] : x[i0], x1 = bias ? x[i1] + bias[i1] : x[i1];
    return (float2)(fma(x0, a.x, -(x1 * a.y)), fma(x0, a.y, x1 * a.x));
}

/* Runs PUT(d, value) for every value of the head that this work-item has: first
 * the pairs that turn, then the rest. */
#define EACH_VALUE(x, bias, n_pairs, angles, PUT)                                      \
    for (uint i = get_local_id(0); i < (n_pairs); i += get_local_size(0)) {            \
        uint i0 = is_neox ? i : 2 * i, i1 = is_neox ? i + (n_pairs) : 2 * i + 1;       \
        float2 f = turned(x, bias, i0, i1, (angles)[i]);                               \
        PUT(i0, f.lo);                                                                 \
        PUT(i1, f.hi);                                                                 \
    }                                                                                  \
    for (uint d = 2 * (n_pairs) + get_local_id(0); d < head_dim; d += get_local_size(0)) \
        PUT(d, bias ? (x)[d] + (bias)[d] : (x)[d]);

#ifdef KV_F16
#define KV_OF(f) half_from(f)
#else
#define KV_OF(f) (f)
#endif
#define PUT_Q(d, f) x[d] = (f)
#define PUT_K(d, f) ck[base + (d) * BLOCK + slot] = KV_OF(f)
#define PUT_V(d, f) cv[base + slot * head_dim + (d)] = KV_OF(f)

/* struct head_rows of kernels/backend.h. Global (work-items of a head, heads of q, then of k, then of
 * v, rows); angles [rows][pairs]. Biases may be NULL. */
kernel void heads_write(global KV *ck, global KV *cv, global float *q, global const float *k,
                        global const float *v, global const float *q_bias, global const float *k_bias,
                        global const float *v_bias, global const float2 *angles,
                        global const int *position, global const int *table_begin,
                        global const int *table, uint n_q, uint n_kv, uint head_dim, uint q_pairs,
                        uint k_pairs, int is_neox ITEM_PARAMS) {
    uint head = get_global_id(1), row = get_global_id(2);
    global const float2 *a = angles + (size_t)row * max(q_pairs, k_pairs);
    if (head >= n_q + 2 * n_kv) return;
    if (head < n_q) {
        global float *x = q + ((size_t)row * n_q + head) * head_dim;
        global const float *bias = q_bias ? q_bias + head * head_dim : q_bias;
        EACH_VALUE(x, bias, q_pairs, a, PUT_Q)
        return;
    }
    uint p = position[row], slot = p % BLOCK, kv_head = (head - n_q) % n_kv;
    size_t block = table[table_begin[row] + p / BLOCK];
    size_t base = (block * n_kv + kv_head) * head_dim * BLOCK, from = ((size_t)row * n_kv + kv_head) * head_dim;
    if (head < n_q + n_kv) {
        global const float *bias = k_bias ? k_bias + kv_head * head_dim : k_bias;
        EACH_VALUE(k + from, bias, k_pairs, a, PUT_K)
    } else {
        global const float *bias = v_bias ? v_bias + kv_head * head_dim : v_bias;
        EACH_VALUE(v + from, bias, 0, a, PUT_V)
    }
}
