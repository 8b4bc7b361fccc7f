/* Quantised matrix times many rows of int8 activations, for devices whose
 * work-item owns a group of 16 output rows.
 *
 * The rows are first brought into tiles: what a block of columns needs of TILE rows
 * lies together. The weights of a run of blocks are unpacked once into private
 * memory, where all rows of a pass use them, a tile at a time with its sums in
 * registers. The order of additions is that of linear.cl: integer dots inside a block, fma over
 * blocks in increasing order inside a segment, the tree over segments; a run may end inside a segment.
 * The last tile is moved back over rows that are done already; a tile that is alone may have fewer rows:
 * the last one stands in for the rest.
 *
 * DOT_AMX: the dots of a block and a tile by Intel AMX. One tile register holds
 * TILE rows of 32 int8, another the block as it is packed (four columns of 16 lanes in a
 * row); their product is every dot at once. Else DOT of linear.cl, row by row. */
#define TILE 16
#undef T
#define T TILE /* of tree.cl */
#define TILE_WORDS 176 /* of a block: int8 [TILE][32], f32 scale [TILE], of the halves, or of all, [2][TILE]: the float
                          sum for formats with a min, what dots of unsigned weights begin with for the others */
#if HAS_MIN
#define TILE_SUM(sum) as_int((float)(sum))
#else
#define TILE_SUM(sum) DOTS_BEGIN(sum)
#endif
#define RUN MANY_RUN   /* blocks unpacked at a time */
#define TILES_MAX MANY_TILES /* of a pass over the weights */

/* How far the sums of all tiles are: the leaf, what it still lacks, where in the tree. */
struct place {
    uint leaf, n_left, depth, result;
};

/* One work-item per block of a tile; n of them. */
kernel void tiles_arrange(global const int *xq, uint n_blocks, uint n_rows, global int *tiles, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    size_t tile = i / n_blocks, block = i % n_blocks;
    uint begin = TILE_BEGIN(tile);
    global int *q = tiles + i * TILE_WORDS;
    global int *scale = q + TILE * 8, *begin_with = scale + TILE;
    for (uint t = 0; t < TILE; t++) {
        global const int *x = xq + (min(begin + t, n_rows - 1) * (size_t)n_blocks + block) * 12;
        vstore8(vload8(0, x), t, q);
        scale[t] = x[8];
        begin_with[t] = TILE_SUM(x[SUM_AT]);
        if (N_SCALES == 2) begin_with[TILE + t] = TILE_SUM(x[11]);
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

INLINE void tiles_configure(void) {
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

INLINE void block_dots(const VI *word, global const int *x, VI *dots) {
    DOTS_OF("tmm0", "tmm2", "tmm4", x, word, dots);
#if N_SCALES == 2
    DOTS_OF("tmm1", "tmm3", "tmm5", x + 4, word + 4, dots + TILE);
#endif
}
#else
#define WEIGHT(w) (w)
#define tiles_configure()

/* Word by word, so that no row's dots wait for each other. */
INLINE void block_dots(const VI *word, global const int *x, VI *dots) {
    global const int *begin_with = x + TILE * 9;
#pragma unroll
    for (int part = 0; part < N_SCALES; part++) {
        VI a[TILE];
#pragma unroll
        for (int t = 0; t < TILE; t++) a[t] = HAS_MIN ? 0 : begin_with[part * TILE + t];
#pragma unroll
        for (int j = part * 4; j < part * 4 + 8 / N_SCALES; j++) {
#pragma unroll
            for (int t = 0; t < TILE; t++) DOT(a[t], word[j], x + t * 8 + j);
        }
#pragma unroll
        for (int t = 0; t < TILE; t++) dots[part * TILE + t] = a[t];
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
    VI word[RUN][8], dots[MANY_DOTS][N_SCALES * TILE];
    VF scale[RUN][2], least[RUN][2];
    VF sums[TILES_MAX][TREE_DEPTH][TILE];
    tiles_configure();
    for (uint first = 0; first * TILE < n_rows; first += TILES_MAX) {
        uint n_tiles = min((n_rows + TILE - 1) / TILE - first, (uint)TILES_MAX);
        struct place begin = {0, segment_blocks, 0, 0}, end = begin;
        for (uint b = 0; b < n_blocks; b += RUN, begin = end) {
            uint n = min(n_blocks - b, (uint)RUN);
            for (uint i = 0; i < n; i++) {
                block_fetch(&p, group * n_blocks + b + i + RUN);
                block_quants(&p, group * n_blocks + b + i, 0, word[i]);
                block_scales(&p, group, b + i, 0, scale[i], least[i]);
#pragma unroll
                for (int j = 0; j < 8; j++) word[i][j] = WEIGHT(word[i][j]);
            }
            /* Dots run some blocks ahead of what uses them, from tile to tile, too: next is `next`, at `next_x`. */
            global const int *x = tiles + (first * (size_t)n_blocks + b) * TILE_WORDS, *next_x = x;
            uint next = 0, n_dots = 0, n_all = n_tiles * n;
#define DOTS_NEXT                                                                                       \
            if (n_dots < n_all) {                                                                       \
                block_dots(word[next], next_x, dots[n_dots++ % MANY_DOTS]);                                 \
                next_x += TILE_WORDS;                                                                   \
                if (++next == n) next = 0, next_x += (size_t)(n_blocks - n) * TILE_WORDS;               \
            }
            for (int i = 1; i < MANY_DOTS; i++) { DOTS_NEXT }
            uint n_used = 0;
            for (uint tile = 0; tile < n_tiles; tile++, x += (size_t)(n_blocks - n) * TILE_WORDS) {
                uint t0 = TILE_BEGIN(first + tile), leaf = begin.leaf, n_left = begin.n_left, depth = begin.depth,
                     result = begin.result;
                VF f[TILE];
#pragma unroll
                for (int t = 0; t < TILE; t++) f[t] = n_left == segment_blocks ? (VF)(0.0f) : sums[tile][depth][t];
                for (uint i = 0; i < n; i++, x += TILE_WORDS) {
                    const VI *dot = dots[n_used++ % MANY_DOTS];
                    global const float *s = (global const float *)(x + TILE * 8);
                    global const float *sum = s + TILE; /* where there is a min */
                    DOTS_NEXT
#pragma unroll
                    for (int t = 0; t < TILE; t++) {
                        f[t] = fma(TO_F(dot[t]), scale[i][0] * s[t], f[t]);
#if N_SCALES == 2
                        f[t] = fma(TO_F(dot[TILE + t]), scale[i][1] * s[t], f[t]);
#if HAS_MIN
                        f[t] = fma((VF)(sum[t]), least[i][0] * s[t], f[t]);
                        f[t] = fma((VF)(sum[TILE + t]), least[i][1] * s[t], f[t]);
#endif
#elif HAS_MIN
                        f[t] = fma((VF)(sum[t]), least[i][0] * s[t], f[t]);
#endif
                    }
                    if (--n_left) continue;
                    TREE_PUSH(sums[tile], depth, result, f, leaf)
                    leaf++;
                    n_left = segment_blocks;
#pragma unroll
                    for (int t = 0; t < TILE; t++) f[t] = 0.0f;
                }
#pragma unroll
                for (int t = 0; t < TILE && n_left < segment_blocks; t++) sums[tile][depth][t] = f[t];
                end = (struct place){leaf, n_left, depth, result};
            }
        }
    }
}
#undef T
