/* Quantised matrix times many rows of int8 activations, for devices whose
 * work-item owns a group of 16 output rows.
 *
 * The rows are first brought into tiles: what a block of columns needs of TILE rows
 * lies together. The weights of a run of blocks are unpacked once into private
 * memory, where all rows of a pass use them, a tile at a time with its sums in
 * registers. The order of additions is that of linear.cl: integer dots inside a block, fma over
 * blocks in increasing order inside a segment, the tree over segments. The last tile is moved
 * back over rows that are done already; a tile that is alone may have fewer rows: the last one stands in for the rest.
 *
 * DOT_AMX: the dots of a block and a tile by Intel AMX. One tile register holds
 * TILE rows of 32 int8, another the block as it is packed (four columns of 16 lanes in a
 * row); their product is every dot at once. Else DOT of linear.cl, row by row. */
#define TILE 16
#define TILE_WORDS 176 /* of a block: int8 [TILE][32], f32 scale [TILE], int sum [2][TILE] */
#define RUN MANY_RUN   /* blocks unpacked at a time */
#define TILES_MAX MANY_TILES /* of a pass over the weights */
#define ROW_BEGIN(tile) (n_rows < TILE ? 0 : min((uint)(tile) * TILE, n_rows - TILE))

/* One work-item per block of a tile; n of them. */
kernel void tiles_arrange(global const int *xq, uint n_blocks, uint n_rows, global int *tiles, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    size_t tile = i / n_blocks, block = i % n_blocks;
    uint begin = ROW_BEGIN(tile);
    global int *q = tiles + i * TILE_WORDS;
    global int *scale = q + TILE * 8, *sum = scale + TILE; /* sum of all, or of each half */
    for (uint t = 0; t < TILE; t++) {
        global const int *x = xq + (min(begin + t, n_rows - 1) * (size_t)n_blocks + block) * 12;
        vstore8(vload8(0, x), t, q);
        scale[t] = x[8];
        sum[t] = N_SCALES == 2 ? x[9] - x[10] : x[9];
        sum[TILE + t] = x[10];
    }
}

#ifdef DOT_AMX
/* Signed weights, so that no offset is left in the dots; byte by byte, without a borrow. */
#if OFFSET == 128
#define WEIGHT(w) ((w) ^ (int)0x80808080)
#elif OFFSET
#define WEIGHT(w) ((((w) | (int)0x80808080) - OFFSET * 0x01010101) ^ (int)0x80808080)
#else
#define WEIGHT(w) (w)
#endif

/* Tile registers: 0, 1 sums int [TILE][16]; 2, 3 activations int8 [TILE][32 / N_SCALES];
 * 4, 5 weights int8 [8 / N_SCALES][16][4]. See LDTILECFG in Intel's Software Developer's Manual. */
struct tile_config {
    uchar palette, start_row, reserved[14];
    ushort row_bytes[16];
    uchar rows[16];
};

void tiles_configure(void) {
    struct tile_config c = {0};
    c.palette = 1;
    for (int i = 0; i < 2; i++) {
        c.row_bytes[i] = 64, c.rows[i] = TILE;
        c.row_bytes[2 + i] = 32 / N_SCALES, c.rows[2 + i] = TILE;
        c.row_bytes[4 + i] = 64, c.rows[4 + i] = 8 / N_SCALES;
    }
    __asm__ volatile("ldtilecfg %0" : : "m"(c));
}

/* dots [N_SCALES][TILE] of a block. */
#define DOTS_OF(sums, xs, ws, x, word, dots)                                                            \
    __asm__ volatile("tilezero %%" sums "\n\ttileloadd (%0,%3,1), %%" xs "\n\t"                        \
                     "tileloadd (%1,%4,1), %%" ws "\n\ttdpbssd %%" ws ", %%" xs ", %%" sums "\n\t"       \
                     "tilestored %%" sums ", (%2,%4,1)"                                                 \
                     : : "r"(x), "r"(word), "r"(dots), "r"((size_t)32), "r"((size_t)64) : "memory")

void block_dots(const VI *word, global const int *x, VI *dots) {
    DOTS_OF("tmm0", "tmm2", "tmm4", x, word, dots);
#if N_SCALES == 2
    DOTS_OF("tmm1", "tmm3", "tmm5", x + 4, word + 4, dots + TILE);
#endif
}
#else
#define WEIGHT(w) (w)
#define tiles_configure()

void block_dots(const VI *word, global const int *x, VI *dots) {
    global const int *sum = x + TILE * 9;
#pragma unroll
    for (int t = 0; t < TILE; t++, x += 8) {
        VI a = -OFFSET * sum[t];
        DOT(a, word[0], x); DOT(a, word[1], x + 1); DOT(a, word[2], x + 2); DOT(a, word[3], x + 3);
#if N_SCALES == 2
        dots[t] = a;
        a = -OFFSET * sum[TILE + t];
#endif
        DOT(a, word[4], x + 4); DOT(a, word[5], x + 5); DOT(a, word[6], x + 6); DOT(a, word[7], x + 7);
        dots[(N_SCALES - 1) * TILE + t] = a;
    }
}
#endif

kernel void linear_many(
    PRODUCTS, uint n_blocks, uint super_first, uint n_supers, global const int *tiles, uint n_rows,
    uint segment_blocks, ulong merges, uint emits, uint n_leaves) {
    PRODUCT_FIND
    if (out_row >= n_out) return;
    struct planes p = {w, at.x, at.y, at.z, n_blocks, super_first, n_supers};
    size_t group = at.w + out_row / 16;
    VI word[RUN][8], dots[2][N_SCALES * TILE];
    VF scale[RUN][2], least[RUN][2];
    VF sums[TREE_DEPTH][TILES_MAX][TILE];
    tiles_configure();
    for (uint first = 0; first * TILE < n_rows; first += TILES_MAX) {
        uint n_tiles = min((n_rows + TILE - 1) / TILE - first, (uint)TILES_MAX), depth = 0, result = 0;
        for (uint leaf = 0; leaf < n_leaves; leaf++) {
            uint begin = min(leaf * segment_blocks, n_blocks), end = min(begin + segment_blocks, n_blocks);
            uint b = begin;
            do {
                uint n = min(end - b, (uint)RUN);
                for (uint i = 0; i < n; i++) {
                    block_quants(&p, group * n_blocks + b + i, 0, word[i]);
                    block_scales(&p, group, b + i, 0, scale[i], least[i]);
#pragma unroll
                    for (int j = 0; j < 8; j++) word[i][j] = WEIGHT(word[i][j]);
                }
                for (uint tile = 0; tile < n_tiles; tile++) {
                    global const int *x = tiles + ((first + tile) * (size_t)n_blocks + b) * TILE_WORDS;
                    VF f[TILE];
#pragma unroll
                    for (int t = 0; t < TILE; t++) f[t] = b == begin ? (VF)(0.0f) : sums[depth][tile][t];
                    if (n) block_dots(word[0], x, dots[0]);
                    for (uint i = 0; i < n; i++, x += TILE_WORDS) {
                        const VI *dot = dots[i % 2];
                        global const float *s = (global const float *)(x + TILE * 8);
                        global const int *sum = x + TILE * 9;
                        if (i + 1 < n) block_dots(word[i + 1], x + TILE_WORDS, dots[(i + 1) % 2]);
#pragma unroll
                        for (int t = 0; t < TILE; t++) {
                            f[t] = fma(TO_F(dot[t]), scale[i][0] * s[t], f[t]);
#if N_SCALES == 2
                            f[t] = fma(TO_F(dot[TILE + t]), scale[i][1] * s[t], f[t]);
#if HAS_MIN
                            f[t] = fma((VF)((float)sum[t]), least[i][0] * s[t], f[t]);
                            f[t] = fma((VF)((float)sum[TILE + t]), least[i][1] * s[t], f[t]);
#endif
#elif HAS_MIN
                            f[t] = fma((VF)((float)sum[t]), least[i][0] * s[t], f[t]);
#endif
                        }
                    }
#pragma unroll
                    for (int t = 0; t < TILE; t++) sums[depth][tile][t] = f[t];
                }
                b += n;
            } while (b < end);
            for (uint m = (uint)(merges >> (4 * leaf)) & 15; m > 0; m--) {
                depth--;
                for (uint tile = 0; tile < n_tiles; tile++)
                    for (int t = 0; t < TILE; t++) sums[depth][tile][t] += sums[depth + 1][tile][t];
            }
            if (emits >> leaf & 1) {
                for (uint tile = 0; tile < n_tiles; tile++) {
                    uint t0 = ROW_BEGIN(first + tile);
                    for (uint t = 0; t < min(n_rows, (uint)TILE); t++)
                        STORE(sums[depth][tile][t], out + ((size_t)result * n_rows + t0 + t) * n_out + out_row,
                              n_out - out_row);
                }
                result++;
            } else {
                depth++;
            }
        }
    }
}
