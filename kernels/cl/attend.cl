/* Attention over the paged KV cache, see kernels/backend.h for its layout.
 *
 * The cache is walked in chunks of CHUNK positions, counted from position 0;
 * each (row, head, chunk) gives a partial: highest score, sum of weights, the weighted
 * values. A second kernel adds the partials of a row in increasing order. So
 * prefill and decode, and every cut, add in one order.
 * KV_F16 or not; HEAD_DIM at most HEAD_DIM_MAX. */

#define BLOCK 32

#ifdef KV_F16
typedef ushort KV;
#define KV_LOAD16(p) HALF16(p)
#define KV_LOAD(p) HALF1(p)
#else
typedef float KV;
#define KV_LOAD16(p) vload16(0, p)
#define KV_LOAD(p) (*(p))
#endif

/* float to f16, to nearest even, by integers: exact on every device. */
ushort half_from(float f) {
    uint u = as_uint(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFF;
    if (a >= 0x47800000) return (ushort)(sign | (a > 0x7F800000 ? 0x7E00 : 0x7C00));
    if (a < 0x38800000) { /* denormal or zero: a multiple of 2^-24 */
        uint e = a >> 23;
        if (e < 102) return (ushort)sign;
        uint m = (a & 0x7FFFFF) | 0x800000, shift = 126 - e;
        uint low = m & ((1u << shift) - 1), tie = 1u << (shift - 1);
        m >>= shift;
        return (ushort)(sign | (m + (low > tie || (low == tie && (m & 1)))));
    }
    uint r = a + 0xFFF + (a >> 13 & 1);
    return (ushort)(sign | (r - 0x38000000) >> 13);
}

/* Scores of the 16 positions of half a block: in-order fma over the head. */
float16 scores16(global const KV *k, global const float *q, uint head_dim) {
    float16 s = 0.0f;
    for (uint d = 0; d < head_dim; d++) s = fma((float16)(q[d]), KV_LOAD16(k + d * BLOCK), s);
    return s;
}

/* out[0..head_dim) += sum over positions of weight * value, in order. */
void values_add(global const KV *v, const float *weight, uint first, uint last, uint head_dim,
                global float *out) {
    uint d = 0;
    for (; d + 16 <= head_dim; d += 16) {
        float16 o = vload16(0, out + d);
        for (uint j = first; j < last; j++)
            o = fma((float16)(weight[j]), KV_LOAD16(v + (size_t)j * head_dim + d), o);
        vstore16(o, 0, out + d);
    }
    for (; d < head_dim; d++) {
        float o = out[d];
        for (uint j = first; j < last; j++) o = fma(weight[j], KV_LOAD(v + (size_t)j * head_dim + d), o);
        out[d] = o;
    }
}

/* Global (n_chunks, n_heads, rows of the tile); row_begin: the tile's first. */
kernel void attend_chunk(global const KV *ck, global const KV *cv, global const float *q,
                         global const int *position, global const int *table_begin,
                         global const int *table, uint head_dim, uint n_kv, uint head_begin,
                         uint kv_begin, uint group, uint window, float scale, uint row_begin,
                         global float *partials) {
    uint chunk = get_global_id(0), head = get_global_id(1), row = row_begin + get_global_id(2);
    uint n_heads = get_global_size(1);
    uint end = position[row] + 1, begin = window && end > window ? end - window : 0;
    uint first = max(begin, chunk * CHUNK), last = min(end, (chunk + 1) * CHUNK);
    if (first >= last) return;
    uint kv_head = (head_begin + head) / group - kv_begin;
    global const float *qh = q + ((size_t)row * n_heads + head) * head_dim;
    global float *part = partials + ((get_global_id(2) * n_heads + head) * get_global_size(0) + chunk) *
                                        (size_t)(head_dim + 2);
    global const int *blocks = table + table_begin[row];
    float score[CHUNK];
    float top = -INFINITY;
    for (uint j = first / 16 * 16; j < last; j += 16) {
        size_t at = ((size_t)blocks[j / BLOCK] * n_kv + kv_head) * head_dim * BLOCK + j % BLOCK;
        vstore16(scores16(ck + at, qh, head_dim) * scale, 0, score + (j - chunk * CHUNK));
    }
    for (uint j = first; j < last; j++) top = fmax(top, score[j - chunk * CHUNK]);
    float16 sum = 0.0f;
    for (uint j = first / 16 * 16; j < last; j += 16) {
        float16 e = number16_exp(vload16(0, score + (j - chunk * CHUNK)) - top);
        int16 at = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + (int)j;
        e = at >= (int)first && at < (int)last ? e : (float16)(0.0f); /* outside: no weight */
        sum += e;
        vstore16(e, 0, score + (j - chunk * CHUNK));
    }
    float8 s8 = sum.lo + sum.hi;
    float4 s4 = s8.lo + s8.hi;
    float2 s2 = s4.lo + s4.hi;
    part[0] = top;
    part[1] = s2.x + s2.y;
    for (uint d = 0; d < head_dim; d++) part[2 + d] = 0.0f;
    for (uint j = first; j < last; j = (j / BLOCK + 1) * BLOCK) {
        uint b = j / BLOCK * BLOCK;
        size_t at = ((size_t)blocks[j / BLOCK] * n_kv + kv_head) * head_dim * BLOCK;
        values_add(cv + at, score + (b - chunk * CHUNK), j - b, min(last - b, (uint)BLOCK), head_dim, part + 2);
    }
}

/* Global (n_heads, rows of the tile). */
kernel void attend_combine(global const float *partials, global const int *position, uint n_chunks,
                           uint head_dim, uint window, uint row_begin, global float *out) {
    uint head = get_global_id(0), row = row_begin + get_global_id(1), n_heads = get_global_size(0);
    uint end = position[row] + 1, begin = window && end > window ? end - window : 0;
    uint first = begin / CHUNK, last = (end - 1) / CHUNK;
    size_t stride = head_dim + 2;
    global const float *part = partials + (get_global_id(1) * n_heads + head) * n_chunks * stride;
    global float *o = out + ((size_t)row * n_heads + head) * head_dim;
    float top = -INFINITY, sum = 0.0f;
    for (uint c = first; c <= last; c++) top = fmax(top, part[c * stride]);
    for (uint d = 0; d < head_dim; d++) o[d] = 0.0f;
    for (uint c = first; c <= last; c++) {
        float w = number_exp(part[c * stride] - top);
        sum = fma(w, part[c * stride + 1], sum);
        for (uint d = 0; d < head_dim; d++) o[d] = fma(w, part[c * stride + 2 + d], o[d]);
    }
    float over_sum = number_recip(sum);
    for (uint d = 0; d < head_dim; d++) o[d] = number_unsigned_zero(o[d] * over_sum);
}
