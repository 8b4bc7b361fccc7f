/* q, k and v of a step before attention: biases, rotation, k and v into the
 * cache. Built together with attend.cl, which says how the cache looks. */

/* Values i and its partner of a head after bias and rotation by (cos, sin). */
INLINE float2 turned(global const float *x, global const float *bias, uint i0, uint i1, float2 a) {
    float x0 = bias ? x[i0] + bias[i0] : x[i0], x1 = bias ? x[i1] + bias[i1] : x[i1];
    return (float2)(fma(x0, a.x, -(x1 * a.y)), fma(x0, a.y, x1 * a.x));
}

#if LPI == 16
INLINE float16 biased16(global const float *x, global const float *bias, uint i) {
    return bias ? vload16(0, x + i) + vload16(0, bias + i) : vload16(0, x + i);
}

/* Those of 16 pairs: f[0] belongs at i0, f[1] at i1. */
INLINE void turned16(global const float *x, global const float *bias, uint i0, uint i1, int is_neox,
                     global const float2 *angles, float16 f[2]) {
    float16 a0 = vload16(0, (global const float *)angles), a1 = vload16(1, (global const float *)angles);
    float16 c = (float16)(a0.even, a1.even), s = (float16)(a0.odd, a1.odd);
    float16 at0 = biased16(x, bias, i0), at1 = biased16(x, bias, i1);
    float16 x0 = is_neox ? at0 : (float16)(at0.even, at1.even), x1 = is_neox ? at1 : (float16)(at0.odd, at1.odd);
    float16 y0 = fma(x0, c, -(x1 * s)), y1 = fma(x0, s, x1 * c);
    if (is_neox) f[0] = y0, f[1] = y1;
    else f[0].even = y0.lo, f[0].odd = y1.lo, f[1].even = y0.hi, f[1].odd = y1.hi;
}

/* As many as go by sixteen. */
#define TURN16(x, bias, n_pairs, angles, PUT16)                                        \
    for (; i + 16 <= (n_pairs); i += 16) {                                             \
        uint i0 = is_neox ? i : 2 * i, i1 = i0 + (is_neox ? (n_pairs) : 16);           \
        float16 f[2];                                                                  \
        turned16(x, bias, i0, i1, is_neox, (angles) + i, f);                           \
        PUT16(i0, f[0]);                                                               \
        PUT16(i1, f[1]);                                                               \
    }
#define COPY16(x, bias, PUT16)                                                         \
    for (; d + 16 <= head_dim; d += 16) PUT16(d, biased16(x, bias, d));
#else
#define TURN16(x, bias, n_pairs, angles, PUT16)
#define COPY16(x, bias, PUT16)
#endif

/* Runs PUT(d, value), or PUT16(d, 16 values), for every value of the head that this work-item has: first
 * the pairs that turn, then the rest. */
#define EACH_VALUE(x, bias, n_pairs, angles, PUT)                                      \
    uint i = get_local_id(0), d = 2 * (n_pairs) + i;                                   \
    TURN16(x, bias, n_pairs, angles, PUT##16)                                          \
    for (; i < (n_pairs); i += get_local_size(0)) {                                    \
        uint i0 = is_neox ? i : 2 * i, i1 = is_neox ? i + (n_pairs) : 2 * i + 1;       \
        float2 f = turned(x, bias, i0, i1, (angles)[i]);                               \
        PUT(i0, f.lo);                                                                 \
        PUT(i1, f.hi);                                                                 \
    }                                                                                  \
    COPY16(x, bias, PUT##16)                                                           \
    for (; d < head_dim; d += get_local_size(0)) PUT(d, bias ? (x)[d] + (bias)[d] : (x)[d]);

#ifdef KV_F16
#define KV_OF(f) half_from(f)
#define KV16_OF(f) half16_from(f)
#else
#define KV_OF(f) (f)
#define KV16_OF(f) (f)
#endif
#define PUT_Q(at, f) x[at] = (f)
#define PUT_K(at, f) ck[base + (at) * BLOCK + slot] = KV_OF(f)
#define PUT_V(at, f) cv[base + slot * head_dim + (at)] = KV_OF(f)
#define PUT_Q16(at, f) vstore16(f, 0, x + (at))
#define PUT_V16(at, f) vstore16(KV16_OF(f), 0, cv + base + slot * head_dim + (at))
#define PUT_K16(at, f)                                                                 \
    {                                                                                  \
        KV k16[16];                                                                    \
        vstore16(KV16_OF(f), 0, k16);                                                  \
        for (uint j = 0; j < 16; j++) ck[base + ((at) + j) * BLOCK + slot] = k16[j];   \
    }

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
