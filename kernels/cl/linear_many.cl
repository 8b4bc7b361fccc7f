/* Quantised matrix times many rows of int8 activations, for devices whose
 * work-item owns groups of 16 output rows.
 *
 * The rows are first brought into tiles: what a block of columns needs of TILE rows
 * lies together. The weights of a run of blocks are unpacked once into private memory, where all rows of a pass use
 * them, ROWS at a time with their sums in registers; meanwhile those of the next run are fetched, a few at a time: all
 * at once they would wait for each other. The order of additions is that of linear.cl: integer dots inside a block, fma
 * over blocks in increasing order inside a segment, the tree over segments. Behind the last row a tile is filled up
 * with it; nothing of that is written.
 *
 * A work-item owns GROUPS groups: where a processor reads two vectors from its caches and makes two of dots in a cycle,
 * dots that each read their activations leave it no time to read anything else, so two groups share what is read.
 *
 * DOT_AMX: the dots of a block and a tile by Intel AMX. One tile register holds
 * TILE rows of 32 int8, another the block as it is packed (four columns of 16 lanes in a
 * row); their product is every dot at once. Else DOT of linear.cl, row by row: of so few rows that their dots and
 * sums stay in registers, in those of 256 bits, too, as far as there are enough. */
#define TILE 16
#ifdef DOT_AMX
#define ROWS TILE
#else
#define ROWS 4
#endif
#define SUMS (GROUPS * ROWS)
#undef T
#define T SUMS /* of tree.cl */
#define TILE_WORDS 176 /* of a block: int8 [TILE][32], f32 scale [TILE], of the halves, or of all, [2][TILE]: the float
                          sum for formats with a min, what dots of unsigned weights begin with for the others */
#if HAS_MIN
#define TILE_SUM(sum) as_int((float)(sum))
#else
#define TILE_SUM(sum) DOTS_BEGIN(sum)
#endif
#define RUN MANY_RUN   /* blocks unpacked at a time */
#define TILES_MAX MANY_TILES /* of a pass over the weights */

/* One work-item per block of a tile; n of them. */
kernel void tiles_arrange(global const int *xq, uint n_blocks, uint n_rows, global int *tiles, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    size_t tile = i / n_blocks, block = i % n_blocks;
    global int *q = tiles + i * TILE_WORDS;
    global int *scale = q + TILE * 8, *begin_with = scale + TILE;
    for (uint t = 0; t < TILE; t++) {
        global const int *x = xq + (min((uint)tile * TILE + t, n_rows - 1) * (size_t)n_blocks + block) * 12;
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

/* Dots run some blocks ahead of what uses them, from tile to tile, too: next is `next`, at `next_x`. */
#define DOTS_NEXT                                                                                       \
    if (n_dots < n_all) {                                                                               \
        block_dots(word[next][0], next_x, dots[n_dots++ % MANY_DOTS]);                                  \
        next_x += TILE_WORDS;                                                                           \
        if (++next == n) next = 0, next_x += (size_t)(n_blocks - n) * TILE_WORDS;                       \
    }
#define RUN_BEGIN                                                                                       \
    global const int *next_x = run_x;                                                                   \
    uint next = 0, n_dots = 0, n_used = 0, n_all = (n_rows_here + TILE - 1) / TILE * n;                 \
    VI dots[MANY_DOTS][N_SCALES * TILE];                                                                \
    for (int i = 1; i < MANY_DOTS; i++) { DOTS_NEXT }
#define DOTS_TAKE                                                                                       \
    const VI *dot = dots[n_used++ % MANY_DOTS];                                                         \
    DOTS_NEXT
#else
#define WEIGHT(w) (w)
#define tiles_configure()
#define RUN_BEGIN
#define DOTS_TAKE                                                                                       \
    VI dot[N_SCALES * SUMS];                                                                            \
    block_dots(word[i], x, row % TILE, dot);

#define CHAINS (GROUPS == 2 ? 2 : N_SCALES) /* of a row's dots, each of which waits for the one before */

/* dots [N_SCALES][SUMS] of a block and ROWS rows from `row` on: word by word, so that few wait for each other. */
INLINE void block_dots(const VI word[GROUPS][8], global const int *x, uint row, VI *dots) {
    global const int *begin_with = x + TILE * 9 + row;
    x += row * 8;
#pragma unroll
    for (int chain = 0; chain < CHAINS; chain++) {
        VI a[SUMS];
#pragma unroll
        for (int t = 0; t < SUMS; t++)
            a[t] = HAS_MIN || chain >= N_SCALES ? 0 : begin_with[chain * TILE + t % ROWS];
#pragma unroll
        for (int j = chain * 8 / CHAINS; j < (chain + 1) * 8 / CHAINS; j++) {
#pragma unroll
            for (int t = 0; t < ROWS; t++) {
#if GROUPS == 2
                DOT_PAIR(a[t], a[ROWS + t], word[0][j], word[1][j], x + t * 8 + j);
#else
                DOT(a[t], word[0][j], x + t * 8 + j);
#endif
            }
        }
#pragma unroll
        for (int t = 0; t < SUMS; t++) {
            if (chain < N_SCALES) dots[chain * SUMS + t] = a[t];
            else dots[t] += a[t];
        }
    }
}
#endif

/* f += a block's dots of ROWS rows, scaled: s has the rows' scales, and where there is a min, their sums behind. */
INLINE void dots_add(const VI *dot, const VF scale[GROUPS][2], const VF least[GROUPS][2], global const float *s,
                     VF *f) {
#pragma unroll
    for (int t = 0; t < SUMS; t++) {
        const int g = t / ROWS, r = t % ROWS;
#if N_TERMS == 1
        f[t] = fma(TO_F(dot[t]), scale[g][0] * s[r], f[t]);
#else
#if HAS_MIN
        VF sum = s[TILE + r] * least[g][0];
        if (N_SCALES == 2) sum = fma((VF)(s[2 * TILE + r]), least[g][1], sum);
        sum = fma(TO_F(dot[t]), scale[g][0], sum);
#else
        VF sum = TO_F(dot[t]) * scale[g][0];
#endif
        if (N_SCALES == 2) sum = fma(TO_F(dot[SUMS + t]), scale[g][1], sum);
        f[t] = fma(sum, s[r], f[t]);
#endif
    }
}

/* Where a row's sums are: blocks left of the segment, the next leaf, what waits on the stack, results. */
struct place {
    uint n_left, leaf, depth, result;
};

kernel void linear_many(
    PRODUCTS, uint n_blocks, uint super_first, uint n_supers, global const int *tiles, uint n_rows,
    uint segment_blocks, ulong merges, uint emits, uint n_leaves) {
    PRODUCT_FIND_AT(get_global_id(0) * (16 * GROUPS), (16 * GROUPS))
    if (out_row >= n_out) return;
    struct planes p = {w, at.x, at.y, at.z, n_blocks, super_first, n_supers};
    VI word[RUN][GROUPS][8];
    VF scale[RUN][GROUPS][2], least[RUN][GROUPS][2];
    VF sums[TILES_MAX * (TILE / ROWS)][TREE_DEPTH][SUMS];
    tiles_configure();
    for (uint first = 0; first < n_rows; first += TILES_MAX * TILE) {
        uint n_rows_here = min(n_rows - first, (uint)(TILES_MAX * TILE));
        struct place place = {0};
        for (uint b = 0, n; b < n_blocks; b += n) {
            n = min(n_blocks - b, (uint)RUN);
            for (uint i = 0; i < n; i++) {
#pragma unroll
                for (int g = 0; g < GROUPS; g++) { /* where the last lies beyond the end, the one before again */
                    size_t group = at.w + min(out_row + 16 * g, n_out - 1) / 16;
                    block_quants(&p, group * n_blocks + b + i, 0, word[i][g]);
                    block_scales(&p, group, b + i, 0, scale[i][g], least[i][g]);
#pragma unroll
                    for (int j = 0; j < 8; j++) word[i][g][j] = WEIGHT(word[i][g][j]);
                }
            }
            global const int *run_x = tiles + (first / TILE * (size_t)n_blocks + b) * TILE_WORDS;
            struct place after = place;
            uint n_fetched = 0, n_steps = (n_rows_here + ROWS - 1) / ROWS;
            RUN_BEGIN
            for (uint row = 0; row < n_rows_here; row += ROWS) {
                for (; n_fetched * n_steps < (row / ROWS + 1) * GROUPS * RUN; n_fetched++)
                    block_fetch(&p, (at.w + out_row / 16 + n_fetched % GROUPS) * n_blocks + b + n + n_fetched / GROUPS);
                global const int *x = run_x + row / TILE * (size_t)n_blocks * TILE_WORDS;
                uint t0 = first + row;
                VF(*stack)[SUMS] = sums[row / ROWS];
                VF f[SUMS];
                after = place;
                if (after.n_left) {
#pragma unroll
                    for (int t = 0; t < SUMS; t++) f[t] = stack[after.depth][t];
                }
                for (uint i = 0, end; i < n;) {
                    if (after.n_left == 0) {
                        after.n_left = min(segment_blocks, n_blocks - b - i);
#pragma unroll
                        for (int t = 0; t < SUMS; t++) f[t] = 0.0f;
                    }
                    end = min(n, i + after.n_left);
                    after.n_left -= end - i;
                    for (; i < end; i++, x += TILE_WORDS) {
                        DOTS_TAKE
                        dots_add(dot, scale[i], least[i], (global const float *)(x + TILE * 8) + row % TILE, f);
                    }
                    if (after.n_left) {
#pragma unroll
                        for (int t = 0; t < SUMS; t++) stack[after.depth][t] = f[t];
                    } else {
                        TREE_PUSH_AT(stack, after.depth, after.result, f, after.leaf, t % ROWS, out_row + t / ROWS * 16)
                        after.leaf++;
                    }
                }
            }
            place = after;
        }
    }
}
#undef T
