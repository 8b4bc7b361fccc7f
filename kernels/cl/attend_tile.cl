/* The two products of attention for T queries that share each load of the cache; T x 2 vectors of
 * sums stay in registers. K of a chunk is read block by block, then V: while one piece is used, the
 * one that comes ATTEND_FETCH_BLOCKS later is fetched, line for line. */

/* score[t][j] of the positions [from, to) of a chunk, and of the rest of their blocks: in-order fma
 * over the head. j counts from the chunk's first; blocks [j / BLOCK]: where K and V of this KV head stand. */
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
            vstore16(s[t][0] * scale, 0, score[t] + b * BLOCK);
            vstore16(s[t][1] * scale, 0, score[t] + b * BLOCK + 16);
        }
    }
}

/* N vectors of 16 values of each query, from value d on, over n_positions of a block: v and next
 * stand at the first of them. */
#define VALUES_SLICE(N)                                                                          \
    {                                                                                            \
        float16 o[T][N];                                                                         \
        _Pragma("unroll") for (int t = 0; t < T; t++)                                            \
            _Pragma("unroll") for (int i = 0; i < N; i++) o[t][i] = vload16(i, value[t] + d);    \
        for (uint i = 0; i < n_positions; i++) {                                                 \
            size_t at = (size_t)i * head_dim + d;                                                \
            float16 x[N];                                                                        \
            FETCH32(next + at);                                                                    \
            _Pragma("unroll") for (int h = 0; h < N; h++) x[h] = KV_LOAD16(v + at + 16 * h);     \
            _Pragma("unroll") for (int t = 0; t < T; t++)                                        \
                _Pragma("unroll") for (int h = 0; h < N; h++)                                    \
                    o[t][h] = fma((float16)(weight[t][j + i]), x[h], o[t][h]);                   \
        }                                                                                        \
        for (uint t = 0; t < n; t++)                                                             \
            for (int i = 0; i < N; i++) vstore16(o[t][i], i, value[t] + d);                      \
    }

/* value[t][0..head_dim) += sum over the positions [from, to) of weight * value, in order, for
 * the first n of T queries; pointers of the others are read only. */
INLINE void CONCAT(values_, T)(global const KV *ck, global const KV *cv, const size_t *blocks, uint from, uint to,
                        uint head_dim, uint n, const float (*weight)[CHUNK], global float *const *value) {
    uint n_blocks = (to + BLOCK - 1) / BLOCK, n_positions;
    for (uint j = from; j < to; j += n_positions) {
        n_positions = min(to - j, BLOCK - j % BLOCK);
        uint then = j / BLOCK + ATTEND_FETCH_BLOCKS, d = 0;
        size_t first = (j % BLOCK) * head_dim;
        global const KV *v = cv + blocks[j / BLOCK] + first;
        /* The next work-item begins with K of the next KV head. */
        global const KV *next = first + (then < n_blocks ? cv + blocks[then]
                                         : ck + blocks[min(then - n_blocks, n_blocks - 1)] + head_dim * BLOCK);
        for (; d + 32 <= head_dim; d += 32) VALUES_SLICE(2)
        for (; d + 16 <= head_dim; d += 16) VALUES_SLICE(1)
        for (; d < head_dim; d++)
            for (uint t = 0; t < n; t++) {
                float o = value[t][d];
                for (uint i = 0; i < n_positions; i++) o = fma(weight[t][j + i], KV_LOAD(v + i * head_dim + d), o);
                value[t][d] = o;
            }
    }
}
#undef VALUES_SLICE
