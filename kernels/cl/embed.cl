/* Row lookup: of a group of lanes one is wanted. */
#if LPI == 16
#define LANE_I(v) (((const int *)&(v))[lane])
#define LANE_F(v) (((const float *)&(v))[lane])
#else
#define LANE_I(v) (v)
#define LANE_F(v) (v)
#endif

#ifdef QUANT_BITS
/* In a packed table; n = rows * n_blocks. */
kernel void embed(global const uchar *w, ulong high_at, ulong scales_at, ulong supers_at,
                  uint n_blocks, uint super_first, uint n_supers, global const int *ids,
                  global float *out, uint n ITEM_PARAMS) {
    struct planes p = {w, high_at, scales_at, supers_at, n_blocks, super_first, n_supers};
    if (get_global_id(0) >= n) return;
    uint block = get_global_id(0) % n_blocks, t = get_global_id(0) / n_blocks;
    size_t group = ids[t] / 16;
    uint lane = ids[t] % 16;
    VI word[8];
    VF scale[2], least[2];
    block_quants(&p, group * n_blocks + block, lane, word);
    block_scales(&p, group, block, lane, scale, least);
    global float *y = out + ((size_t)t * n_blocks + block) * 32;
    for (int k = 0; k < 32; k++) {
        int half_block = N_SCALES == 2 ? k / 16 : 0;
        int q = (LANE_I(word[k / 4]) >> (8 * (k % 4)) & 255) - OFFSET;
        float v = LANE_F(scale[half_block]) * (float)q;
        y[k] = HAS_MIN ? v + SUM_TIMES * LANE_F(least[half_block]) : v;
    }
}
#else
/* In a dense table; n = rows * n_cols. */
kernel void embed(global const uchar *w, uint n_cols, global const int *ids, global float *out,
                  uint n ITEM_PARAMS) {
    if (get_global_id(0) >= n) return;
    uint c = get_global_id(0) % n_cols, t = get_global_id(0) / n_cols;
    size_t group = ids[t] / 16;
    uint lane = ids[t] % 16;
    global const uchar *wg = w + group * n_cols * (16 * DENSE_BYTES);
    VF values = DENSE(wg, c);
    out[(size_t)t * n_cols + c] = LANE_F(values);
}
#endif
