/* The two products of attention for T queries that share each load of the cache; T x 2 vectors of
 * sums stay in registers. K of a chunk is read block by block, then V: while one piece is used, the
 * one that comes ATTEND_FETCH_BLOCKS later is fetched, line for line. */

/* score[t][j] of the positions [from, to) of a chunk, and of the rest of their blocks: in-order fma
 * over the head. j counts from the chunk's first; blocks [j / BLOCK]: where K and V of this KV head stand, then
 * K of what is read next. */
INLINE void CONCAT(scores_, T)(global const KV *ck, global const KV *cv, const size_t *blocks, uint from, uint to,
                        uint head_dim, float scale, global const float *const *q, float (*score)[CHUNK]) {
    uint first = from / BLOCK, n_blocks = (to + BLOCK - 1) / BLOCK;
    for (uint b = first; b < n_blocks; b++) {
        uint then = b + ATTEND_FETCH_BLOCKS;
        global const KV *k = ck + blocks[b], *next = ck + blocks[min(then, n_blocks - 1)];
        if (then >= n_blocks) next = cv + blocks[min(first + then - n_blocks, n_blocks - 1)];
        float16 s[T][2];
#pragma unroll
        for (int t = 0; t < T; t++) s[t][0] = s[t][1] = 0.0f;
        for (uint d = 0; d < head_dim; d++, k += BLOCK, next += BLOCK) {
            FETCH32(next);
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
            STORE16(s[t][0] * scale, score[t] + b * BLOCK);
            STORE16(s[t][1] * scale, score[t] + b * BLOCK + 16);
        }
    }
}

/* N vectors of 16 values of each query, from value d on, over all positions. */
#define VALUES_SLICE(N)                                                                                        \
    {                                                                                                          \
        float16 o[T][N];                                                                                       \
        _Pragma("unroll") for (int t = 0; t < T; t++)                                                          \
            _Pragma("unroll") for (int h = 0; h < N; h++) o[t][h] = vload16(h, value[t] + d);                  \
        for (uint j = from, end; j < to; j = end) {                                                            \
            end = min(to, (j / BLOCK + 1) * BLOCK);                                                            \
            uint then = j / BLOCK + ATTEND_FETCH_BLOCKS;                                                       \
            size_t first = (j % BLOCK) * head_dim + d;                                                         \
            global const KV *v = cv + blocks[j / BLOCK] + first;                                               \
            global const KV *next = first + (then < n_blocks ? cv + blocks[then]                               \
                                             : ck + blocks[CHUNK_BLOCKS + min(then - n_blocks, CHUNK_BLOCKS - 1u)]); \
            for (uint i = j; i < end; i++, v += head_dim, next += head_dim) {                                  \
                float16 x[N];                                                                                  \
                FETCH32(next);                                                                                 \
                _Pragma("unroll") for (int h = 0; h < N; h++) x[h] = KV_LOAD16(v + 16 * h);                    \
                _Pragma("unroll") for (int t = 0; t < T; t++)                                                  \
                    _Pragma("unroll") for (int h = 0; h < N; h++)                                              \
                        o[t][h] = fma((float16)(weight[t][i]), x[h], o[t][h]);                                 \
            }                                                                                                  \
        }                                                                                                      \
        _Pragma("unroll") for (int t = 0; t < T; t++)                                                          \
            _Pragma("unroll") for (int h = 0; h < N; h++)                                                      \
                if (t < n) vstore16(o[t][h], h, value[t] + d);                                                 \
    }

/* value[t][0..head_dim) += sum over the positions [from, to) of weight * value, in order, for
 * the first n of T queries; pointers of the others are read only. */
INLINE void CONCAT(values_, T)(global const KV *ck, global const KV *cv, const size_t *blocks, uint from, uint to,
                        uint head_dim, uint n, const float (*weight)[CHUNK], global float *const *value) {
    uint n_blocks = (to + BLOCK - 1) / BLOCK, d = 0;
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
