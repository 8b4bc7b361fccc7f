#ifdef QUANT_BITS
/* Row lookup in a packed table; n = rows * n_blocks. */
kernel void embed(global const uchar *w, ulong high_at, ulong scales_at, ulong supers_at,
                  uint n_blocks, uint super_first, uint n_supers, global const int *ids,
                  global float *out, uint n) {
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
        int q = (word[k / 4] >> (8 * (k % 4)) & 255) - OFFSET;
        float v = scale[half_block] * (float)q;
        y[k] = HAS_MIN ? v + SUM_TIMES * least[half_block] : v;
    }
}
#else
/* Row lookup in a dense table; n = rows * n_cols. */
kernel void embed(global const uchar *w, uint n_cols, global const int *ids, global float *out,
                  uint n) {
    if (get_global_id(0) >= n) return;
    uint c = get_global_id(0) % n_cols, t = get_global_id(0) / n_cols;
    size_t group = ids[t] / 16;
    uint lane = ids[t] % 16;
    global const uchar *wg = w + group * n_cols * (16 * DENSE_BYTES);
    out[(size_t)t * n_cols + c] = DENSE(wg, c);
}
#endif
