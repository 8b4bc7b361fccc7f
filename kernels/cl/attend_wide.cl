/* Attention where a work-item computes with vectors: a tile of queries over one chunk. */

/* The smallest tile that holds n queries. */
#define BY_COUNT(n, name, ...)                                                                 \
    {                                                                                          \
        if (n > 4) name##8(__VA_ARGS__);                                                       \
        else if (n > 2) name##4(__VA_ARGS__);                                                  \
        else if (n > 1) name##2(__VA_ARGS__);                                                  \
        else name##1(__VA_ARGS__);                                                             \
    }

/* x in lanes whose position, j and on, is in [from, to), else `other`. */
INLINE float16 lanes_within(float16 x, float other, uint j, uint2 seen) {
    if (j >= seen.x && j + 16 <= seen.y) return x;
    int16 at = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + (int)j;
    return at >= (int)seen.x && at < (int)seen.y ? x : (float16)(other);
}

/* The highest score of the positions [seen.x, seen.y). */
INLINE float highest_of(const float *score, uint2 seen) {
    float16 t = -INFINITY;
    for (uint j = seen.x / 16 * 16; j < seen.y; j += 16) {
        float16 x = lanes_within(vload16(0, score + j), -INFINITY, j, seen);
        t = x > t ? x : t;
    }
    float8 t8 = fmax(t.lo, t.hi);
    float4 t4 = fmax(t8.lo, t8.hi);
    float2 t2 = fmax(t4.lo, t4.hi);
    return fmax(t2.x, t2.y);
}

/* Scores of the positions [seen.x, seen.y) become weights e^(score - highest); their sum is that of 16
 * lanes, halved again and again. Two vectors at a time: one takes as long as its chain of instructions. */
INLINE float weights_of(float *score, uint2 seen, float top) {
    float16 s = 0.0f;
    for (uint j = seen.x / BLOCK * BLOCK; j < seen.y; j += BLOCK) {
        float16 e0 = lanes_within(number16_exp(vload16(0, score + j) - top), 0.0f, j, seen);
        float16 e1 = lanes_within(number16_exp(vload16(1, score + j) - top), 0.0f, j + 16, seen);
        s += e0;
        s += e1;
        STORE16(e0, score + j);
        STORE16(e1, score + j + 16);
    }
    float8 s8 = s.lo + s.hi;
    float4 s4 = s8.lo + s8.hi;
    float2 s2 = s4.lo + s4.hi;
    return s2.x + s2.y;
}

/* The values of a sole chunk become the result, as attend_combine would have it. */
INLINE void chunk_finish(global float *value, float top, float sum, uint head_dim) {
    float w = number_exp(top - top), over_sum = number_recip(fma(w, sum, 0.0f));
    uint d = 0;
    for (; d + 16 <= head_dim; d += 16) {
        float16 v = fma((float16)(w), vload16(0, value + d), (float16)(0.0f)) * over_sum;
        vstore16(number16_unsigned_zero(v), 0, value + d);
    }
    for (; d < head_dim; d++) value[d] = number_unsigned_zero(fma(w, value[d], 0.0f) * over_sum);
}

/* Where the blocks of a chunk and KV head stand in K and V; behind the last of the n_blocks, that one again. */
INLINE void blocks_find(global const int *table, uint n_blocks, uint chunk, uint kv_head, uint n_kv, uint head_dim,
                        size_t *blocks) {
    for (uint b = 0, i = chunk * CHUNK_BLOCKS; b < CHUNK_BLOCKS; b++, i++)
        blocks[b] = ((size_t)table[min(i, n_blocks - 1)] * n_kv + kv_head) * head_dim * BLOCK;
}

/* n queries of one sequence and KV head over a chunk: query t sees the positions seen[t], counted from
 * the chunk's first, maybe none. The result goes to value[t], and highest score and sum of weights
 * before it; where the chunk is the sole one, value[t] is finished. q and value have QUERIES pointers. */
INLINE void tile_run(global const KV *ck, global const KV *cv, const size_t *blocks, uint head_dim, float scale,
              uint n, const uint2 *seen, global const float *const *q, global float *const *value, int is_sole) {
    float score[QUERIES][CHUNK];
    uint from = CHUNK, to = 0, all_from = 0, all_to = CHUNK; /* what some and what all see */
    for (uint t = 0; t < n; t++) {
        if (seen[t].x < seen[t].y) {
            from = min(from, seen[t].x);
            to = max(to, seen[t].y);
        }
        all_from = max(all_from, seen[t].x);
        all_to = min(all_to, seen[t].y);
    }
    if (from >= to) return;
    all_to = max(all_from, all_to);
    BY_COUNT(n, scores_, ck, cv, blocks, from, to, head_dim, scale, q, score)
    float top[QUERIES], sum[QUERIES];
    for (uint t = 0; t < n; t++) top[t] = highest_of(score[t], seen[t]);
    for (uint t = 0; t < n; t++) {
        if (seen[t].x >= seen[t].y) continue;
        sum[t] = weights_of(score[t], seen[t], top[t]);
        for (uint d = 0; d < head_dim; d++) value[t][d] = 0.0f;
        /* Neighbouring rows see a few positions more or less than all. */
        if (seen[t].x < all_from)
            values_1(ck, cv, blocks, seen[t].x, min(all_from, seen[t].y), head_dim, 1, score + t, value + t);
    }
    if (all_from < all_to)
        BY_COUNT(n, values_, ck, cv, blocks, all_from, all_to, head_dim, n, (const float(*)[CHUNK])score, value)
    for (uint t = 0; t < n; t++) {
        if (seen[t].x >= seen[t].y) continue;
        if (all_to < seen[t].y)
            values_1(ck, cv, blocks, max(all_to, seen[t].x), seen[t].y, head_dim, 1, score + t, value + t);
        if (is_sole) {
            chunk_finish(value[t], top[t], sum[t], head_dim);
        } else {
            value[t][-2] = top[t];
            value[t][-1] = sum[t];
        }
    }
}

/* Global (tiles of `tile_rows` rows, KV heads x parts of their query heads, chunks): neighbours read the
 * same part of the cache. Partials: [row - row_begin][head][chunk][2 + head_dim]. */
kernel void attend_chunk(global const KV *ck, global const KV *cv, global const float *q,
                         global const int *position, global const int *table_begin,
                         global const int *table, uint head_dim, uint n_kv, uint n_heads, uint head_begin,
                         uint kv_begin, uint group, uint n_parts, uint cap_heads, uint window, float scale,
                         uint row_begin, uint row_end, uint tile_rows, uint n_chunks,
                         global float *partials, global float *out ITEM_PARAMS) {
    uint kv_head = get_global_id(1) / n_parts, chunk = get_global_id(2);
    uint2 heads = part_heads(kv_begin + kv_head, get_global_id(1) % n_parts, cap_heads, n_heads, head_begin, group);
    uint n_part = heads.y - heads.x, row = row_begin + get_global_id(0) * tile_rows;
    uint end = min(row + tile_rows, row_end);
    if (n_part == 0) return;
    while (row < end) {
        uint n = 1; /* rows of one sequence */
        while (row + n < end && table_begin[row + n] == table_begin[row]) n++;
        uint2 seen[QUERIES];
        global const float *qs[QUERIES];
        global float *values[QUERIES];
        size_t blocks[2 * CHUNK_BLOCKS];
        uint last = 0;
        for (uint t = 0; t < QUERIES; t++) {
            uint at = min(t, n * n_part - 1), r = row + at / n_part, head = heads.x + at % n_part;
            uint2 sees = row_sees(position[r], window);
            seen[t] = clamp(sees, (uint2)(chunk * CHUNK), (uint2)((chunk + 1) * CHUNK)) - chunk * CHUNK;
            last = max(last, sees.y);
            size_t place = (size_t)r * n_heads + head;
            qs[t] = q + place * head_dim;
            values[t] = n_chunks == 1 ? out + place * head_dim
                                      : partials + ((place - (size_t)row_begin * n_heads) * n_chunks + chunk) *
                                                       (head_dim + 2) + 2;
        }
        global const int *row_table = table + table_begin[row];
        uint n_blocks = (last + BLOCK - 1) / BLOCK, next = (get_global_id(1) + 1) % (n_kv * n_parts);
        blocks_find(row_table, n_blocks, chunk, kv_head, n_kv, head_dim, blocks);
        blocks_find(row_table, n_blocks, chunk + !next, next / n_parts, n_kv, head_dim, blocks + CHUNK_BLOCKS);
        tile_run(ck, cv, blocks, head_dim, scale, n * n_part, seen, qs, values, n_chunks == 1);
        row += n;
    }
}

/* Global (n_heads, rows of the tile). */
kernel void attend_combine(global const float *partials, global const int *position, uint n_chunks,
                           uint head_dim, uint n_heads, uint window, uint row_begin, global float *out ITEM_PARAMS) {
    uint head = get_global_id(0), row = row_begin + get_global_id(1);
    uint2 sees = row_sees(position[row], window);
    uint first = sees.x / CHUNK, last = (sees.y - 1) / CHUNK;
    size_t stride = head_dim + 2;
    global const float *part = partials + (get_global_id(1) * n_heads + head) * n_chunks * stride;
    global float *o = out + ((size_t)row * n_heads + head) * head_dim;
    float top = -INFINITY, sum = 0.0f;
    uint wide = head_dim / 16 * 16;
    for (uint c = first; c <= last; c++) top = fmax(top, part[c * stride]);
    for (uint d = 0; d < head_dim; d++) o[d] = 0.0f;
    for (uint c = first; c <= last; c++) {
        global const float *p = part + c * stride + 2;
        float w = number_exp(p[-2] - top);
        sum = fma(w, p[-1], sum);
        for (uint d = 0; d < wide; d += 16) vstore16(fma((float16)(w), vload16(0, p + d), vload16(0, o + d)), 0, o + d);
        for (uint d = wide; d < head_dim; d++) o[d] = fma(w, p[d], o[d]);
    }
    float over_sum = number_recip(sum);
    for (uint d = 0; d < wide; d += 16) vstore16(number16_unsigned_zero(vload16(0, o + d) * over_sum), 0, o + d);
    for (uint d = wide; d < head_dim; d++) o[d] = number_unsigned_zero(o[d] * over_sum);
}
