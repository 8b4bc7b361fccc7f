/* Attention where vectors are made of work-items: a work-group of LANES takes a tile of
 * queries over one chunk. Its lanes are positions while scores are formed, then 16 per query, then the
 * values of the head: neighbours read neighbouring addresses of the cache. */

#define Q_STEP 64        /* values of each query that are at hand in local memory */
#define HALF (QUERIES / 2) /* queries of a lane while values are added */

/* Scores of the positions [from, to) of a chunk; every other one is left as it is. */
INLINE void scores_lanes(global const KV *ck, local const size_t *blocks, uint from, uint to, uint head_dim,
                  float scale, uint n, global const float *q, local const size_t *place,
                  local float (*part)[Q_STEP], local float (*score)[CHUNK]) {
    uint lane = get_local_id(0);
    float s[QUERIES][CHUNK / LANES];
    for (int t = 0; t < QUERIES; t++)
        for (int i = 0; i < CHUNK / LANES; i++) s[t][i] = 0.0f;
    for (uint d0 = 0; d0 < head_dim; d0 += Q_STEP) {
        uint n_d = min((uint)Q_STEP, head_dim - d0);
        barrier(CLK_LOCAL_MEM_FENCE);
        for (uint i = lane; i < QUERIES * n_d; i += LANES)
            part[i / n_d][i % n_d] = q[place[min(i / n_d, n - 1)] * head_dim + d0 + i % n_d];
        barrier(CLK_LOCAL_MEM_FENCE);
#pragma unroll
        for (int i = 0; i < CHUNK / LANES; i++) {
            uint j = lane + i * LANES;
            if (j < from || j >= to) continue;
            global const KV *k = ck + blocks[j / BLOCK] + d0 * BLOCK + j % BLOCK;
            for (uint d = 0; d < n_d; d++) {
                float x = KV_LOAD(k + d * BLOCK);
#pragma unroll
                for (int t = 0; t < QUERIES; t++) s[t][i] = fma(part[t][d], x, s[t][i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < CHUNK / LANES; i++)
        for (uint t = 0; t < n; t++) score[t][lane + i * LANES] = s[t][i] * scale;
}

/* Scores of the positions that each query sees become weights, 16 lanes to a query. */
INLINE void weights_lanes(uint n, local const uint2 *seen, local float (*score)[CHUNK], local float *lanes,
                   local float *top, local float *sum) {
    uint t = get_local_id(0) / 16, l = get_local_id(0) % 16;
    uint first = t < n ? seen[t].x : 0, last = t < n ? seen[t].y : 0;
    uint begin = first + (l - first) % 16; /* the first position of this lane */
    float best = -INFINITY, s = 0.0f;
    for (uint j = begin; j < last; j += 16) best = fmax(best, score[t][j]);
    if (t < QUERIES) lanes[t * 16 + l] = best;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (uint i = 0; i < 16 && t < QUERIES; i++) best = fmax(best, lanes[t * 16 + i]);
    for (uint j = begin; j < last; j += 16) {
        float e = number_exp(score[t][j] - best);
        s += e;
        score[t][j] = e;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (t < QUERIES) lanes[t * 16 + l] = s;
    for (uint n_left = 8; n_left > 0; n_left /= 2) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (t < QUERIES && l < n_left) lanes[t * 16 + l] += lanes[t * 16 + l + n_left];
    }
    if (t < QUERIES && l == 0) {
        top[t] = best;
        sum[t] = lanes[t * 16];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* o[i] += weight * value d over [from, to) in order, where query t0 + i sees the position. */
INLINE void values_lane(global const KV *cv, local const size_t *blocks, uint from, uint to, uint head_dim, uint d,
                 uint t0, local const uint2 *seen, local float (*weight)[CHUNK], float *o) {
    for (uint j = from; j < to; j++) {
        float x = KV_LOAD(cv + blocks[j / BLOCK] + (j % BLOCK) * head_dim + d);
        for (int i = 0; i < HALF; i++)
            if (j >= seen[t0 + i].x && j < seen[t0 + i].y) o[i] = fma(weight[t0 + i][j], x, o[i]);
    }
}

/* The same where all see all of them. */
INLINE void values_lane_all(global const KV *cv, local const size_t *blocks, uint from, uint to, uint head_dim, uint d,
                     uint t0, local float (*weight)[CHUNK], float *o) {
    for (uint j = from; j < to; j++) {
        float x = KV_LOAD(cv + blocks[j / BLOCK] + (j % BLOCK) * head_dim + d);
#pragma unroll
        for (int i = 0; i < HALF; i++) o[i] = fma(weight[t0 + i][j], x, o[i]);
    }
}

/* As in attend_wide.cl, but the first of the global sizes counts LANES per tile. */
kernel void attend_chunk(global const KV *ck, global const KV *cv, global const float *q,
                         global const int *position, global const int *table_begin,
                         global const int *table, uint head_dim, uint n_kv, uint n_heads, uint head_begin,
                         uint kv_begin, uint group, uint n_parts, uint cap_heads, uint window, float scale,
                         uint row_begin, uint row_end, uint tile_rows, uint n_chunks,
                         global float *partials, global float *out ITEM_PARAMS) {
    local float score[QUERIES][CHUNK], part[QUERIES][Q_STEP], lanes[QUERIES * 16], top[QUERIES], sum[QUERIES];
    local uint2 seen[QUERIES];
    local size_t place[QUERIES], blocks[CHUNK_BLOCKS];
    uint lane = get_local_id(0), kv_head = get_group_id(1) / n_parts, chunk = get_group_id(2);
    uint2 heads = part_heads(kv_begin + kv_head, get_group_id(1) % n_parts, cap_heads, n_heads, head_begin, group);
    uint n_part = heads.y - heads.x, row = row_begin + get_group_id(0) * tile_rows;
    uint end = n_part ? min(row + tile_rows, row_end) : row;
    while (row < end) {
        uint n_rows = 1; /* of one sequence */
        while (row + n_rows < end && table_begin[row + n_rows] == table_begin[row]) n_rows++;
        uint n = n_rows * n_part, from = CHUNK, to = 0, all_from = 0, all_to = CHUNK;
        for (uint t = 0; t < n; t++) {
            uint2 sees = row_sees(position[row + t / n_part], window);
            sees = clamp(sees, (uint2)(chunk * CHUNK), (uint2)((chunk + 1) * CHUNK)) - chunk * CHUNK;
            if (sees.x < sees.y) {
                from = min(from, sees.x);
                to = max(to, sees.y);
            }
            all_from = max(all_from, sees.x);
            all_to = min(all_to, sees.y);
            if (lane == 0) {
                seen[t] = sees;
                place[t] = (size_t)(row + t / n_part) * n_heads + heads.x + t % n_part;
            }
        }
        all_to = max(all_from, all_to);
        for (uint t = n + lane; t < QUERIES; t += LANES) seen[t] = (uint2)(0, 0);
        for (uint b = lane; b * BLOCK < to; b += LANES)
            blocks[b] = ((size_t)table[table_begin[row] + chunk * CHUNK_BLOCKS + b] * n_kv + kv_head) *
                        head_dim * BLOCK;
        if (from < to) {
            barrier(CLK_LOCAL_MEM_FENCE);
            scores_lanes(ck, blocks, from, to, head_dim, scale, n, q, place, part, score);
            barrier(CLK_LOCAL_MEM_FENCE);
            weights_lanes(n, seen, score, lanes, top, sum);
            for (uint at = lane; at < 2 * head_dim; at += LANES) {
                uint d = at % head_dim, t0 = at / head_dim * HALF;
                float o[HALF] = {0};
                if (t0 >= n) continue;
                uint shared_from = min(all_from, to), shared_to = min(all_to, to);
                values_lane(cv, blocks, from, shared_from, head_dim, d, t0, seen, score, o);
                values_lane_all(cv, blocks, shared_from, shared_to, head_dim, d, t0, score, o);
                values_lane(cv, blocks, max(from, shared_to), to, head_dim, d, t0, seen, score, o);
                for (uint i = 0; i < HALF && t0 + i < n; i++) {
                    uint t = t0 + i;
                    if (seen[t].x >= seen[t].y) continue;
                    if (n_chunks == 1) { /* as attend_combine would have it */
                        float w = number_exp(top[t] - top[t]), over_sum = number_recip(fma(w, sum[t], 0.0f));
                        out[place[t] * head_dim + d] = number_unsigned_zero(fma(w, o[i], 0.0f) * over_sum);
                        continue;
                    }
                    global float *p = partials + ((place[t] - (size_t)row_begin * n_heads) * n_chunks + chunk) *
                                                     (head_dim + 2);
                    p[2 + d] = o[i];
                    if (d == 0) {
                        p[0] = top[t];
                        p[1] = sum[t];
                    }
                }
            }
            barrier(CLK_LOCAL_MEM_FENCE);
        }
        row += n_rows;
    }
}

/* Global (values of a head and up, n_heads, rows of the tile). */
kernel void attend_combine(global const float *partials, global const int *position, uint n_chunks,
                           uint head_dim, uint n_heads, uint window, uint row_begin, global float *out ITEM_PARAMS) {
    uint d = get_global_id(0), head = get_global_id(1), row = row_begin + get_global_id(2);
    if (d >= head_dim) return;
    uint2 sees = row_sees(position[row], window);
    uint first = sees.x / CHUNK, last = (sees.y - 1) / CHUNK;
    size_t stride = head_dim + 2;
    global const float *part = partials + (get_global_id(2) * n_heads + head) * n_chunks * stride;
    float top = -INFINITY, sum = 0.0f, o = 0.0f;
    for (uint c = first; c <= last; c++) top = fmax(top, part[c * stride]);
    for (uint c = first; c <= last; c++) {
        float w = number_exp(part[c * stride] - top);
        sum = fma(w, part[c * stride + 1], sum);
        o = fma(w, part[c * stride + 2 + d], o);
    }
    out[((size_t)row * n_heads + head) * head_dim + d] = number_unsigned_zero(o * number_recip(sum));
}
