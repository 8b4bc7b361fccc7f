/* The two products of attention for T queries that share each load of the cache; T x 2 sums
 * stay in registers. */

/* score[t][j] of the positions [from, to) of a chunk, and of the rest of their blocks: in-order fma
 * over the head. j counts from chunk_begin. `blocks` [position / BLOCK]: where this KV head's K is. */
void CONCAT(scores_, T)(global const KV *ck, const size_t *blocks, uint from, uint to, uint head_dim,
                        float scale, global const float *const *q, float (*score)[CHUNK]) {
    for (uint b = from / BLOCK; b * BLOCK < to; b++) {
        global const KV *k = ck + blocks[b];
        float16 s[T][2];
#pragma unroll
        for (int t = 0; t < T; t++) s[t][0] = s[t][1] = 0.0f;
        for (uint d = 0; d < head_dim; d++, k += BLOCK) {
            float16 k0 = KV_LOAD16(k), k1 = KV_LOAD16(k + 16);
#pragma unroll
            for (int t = 0; t < T; t++) {
                float16 x = q[t][d];
                s[t][0] = fma(x, k0, s[t][0]);
                s[t][1] = fma(x, k1, s[t][1]);
            }
        }
#pragma unroll
        for (int t = 0; t < T; t++) {
            vstore16(s[t][0] * scale, 0, score[t] + b * BLOCK);
            vstore16(s[t][1] * scale, 0, score[t] + b * BLOCK + 16);
        }
    }
}

/* N vectors of 16 values of each query, from value d on. */
#define VALUES_SLICE(N)                                                                          \
    {                                                                                            \
        float16 o[T][N];                                                                         \
        _Pragma("unroll") for (int t = 0; t < T; t++)                                            \
            _Pragma("unroll") for (int i = 0; i < N; i++) o[t][i] = vload16(i, value[t] + d);    \
        for (uint j = from; j < to;) {                                                           \
            uint end = min(to, (j / BLOCK + 1) * BLOCK);                                         \
            global const KV *v = cv + blocks[j / BLOCK] + (size_t)(j % BLOCK) * head_dim + d;    \
            for (; j < end; j++, v += head_dim) {                                                \
                float16 x[N];                                                                    \
                _Pragma("unroll") for (int i = 0; i < N; i++) x[i] = KV_LOAD16(v + 16 * i);      \
                _Pragma("unroll") for (int t = 0; t < T; t++)                                    \
                    _Pragma("unroll") for (int i = 0; i < N; i++)                                \
                        o[t][i] = fma((float16)(weight[t][j]), x[i], o[t][i]);                   \
            }                                                                                    \
        }                                                                                        \
        for (uint t = 0; t < n; t++)                                                             \
            for (int i = 0; i < N; i++) vstore16(o[t][i], i, value[t] + d);                      \
    }

/* value[t][0..head_dim) += sum over the positions [from, to) of weight * value, in order, for
 * the first n of T queries; pointers of the others are read only. */
void CONCAT(values_, T)(global const KV *cv, const size_t *blocks, uint from, uint to, uint head_dim,
                        uint n, const float (*weight)[CHUNK], global float *const *value) {
    uint d = 0;
    for (; d + 32 <= head_dim; d += 32) VALUES_SLICE(2)
    for (; d + 16 <= head_dim; d += 16) VALUES_SLICE(1)
    for (; d < head_dim; d++)
        for (uint t = 0; t < n; t++) {
            float o = value[t][d];
            for (uint j = from; j < to; j++)
                o = fma(weight[t][j], KV_LOAD(cv + blocks[j / BLOCK] + (j % BLOCK) * head_dim + d), o);
            value[t][d] = o;
        }
}
#undef VALUES_SLICE
