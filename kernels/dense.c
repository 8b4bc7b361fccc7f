#include "kernels/dense.h"

#include <stdio.h>

#include "kernels/matrix.h"

#define BLOCK_TILES 4u /* that a work-item takes past a segment's weights; private memory holds their sums */
#define TILE_ROWS_MAX 14u
#define SCRATCH_FLOATS ((size_t)2 << 20)
#define WEIGHTS_COST 1u /* of a tile: loading and converting its weights takes as long as so many rows */

/* Rows and groups of 16 outputs that a work-item holds in registers at a time. */
struct tile {
    uint32_t rows, groups;
};
static const struct tile tiles_of_avx512[N_DENSE_TILES] = {{1, 2}, {4, 2}, {8, 2}, {14, 2}};
static const struct tile tiles_of_vectors[N_DENSE_TILES] = {{1, 1}, {2, 1}, {4, 1}, {6, 1}};
static const struct tile tiles_of_lanes[N_DENSE_TILES] = {{1, 1}, {2, 1}, {4, 1}, {8, 1}};

static int is_wide(const struct kernel_forms *forms) { return forms->lanes_per_item == PACKED_LANES; }

static const struct tile *tiles_of(const struct kernel_forms *forms) {
    return !is_wide(forms) ? tiles_of_lanes : forms->dot == DOT_AVX512_VNNI ? tiles_of_avx512 : tiles_of_vectors;
}

static uint32_t block_tiles(const struct kernel_forms *forms) { return is_wide(forms) ? BLOCK_TILES : 1; }

uint32_t dense_rows(const struct kernel_forms *forms, int i) { return tiles_of(forms)[i].rows; }

uint32_t dense_texts(const struct kernel_forms *forms, struct dense_shapes *shapes, const char **out) {
    const struct tile *tiles = tiles_of(forms);
    uint32_t n = 0;
    out[n++] = "packed.cl";
    out[n++] = "tree.cl";
    out[n++] = "products.cl";
    for (int i = 0; i < N_DENSE_TILES; i++) {
        snprintf(shapes->text[i], sizeof shapes->text[i],
                 "#undef T\n#undef GROUPS\n#undef BLOCK_TILES\n"
                 "#define T %u\n#define GROUPS %u\n#define BLOCK_TILES %u\n",
                 tiles[i].rows, tiles[i].groups, block_tiles(forms));
        out[n++] = shapes->text[i];
        out[n++] = "dense.cl";
    }
    return n;
}

static err program_build(struct device *d, const struct kernel_forms *forms, const char *format_defines,
                         cl_program *out) {
    struct dense_shapes shapes;
    const char *files[3 + DENSE_TEXTS_MAX] = {format_defines, "half.cl"};
    dense_texts(forms, &shapes, files + 2);
    return device_build(d, forms, files, out);
}

static err kernel_of(struct device *d, cl_program p, const char *kind, uint32_t rows, cl_kernel *out) {
    char name[32];
    cl_int code;
    snprintf(name, sizeof name, "%s_%u", kind, rows);
    *out = clCreateKernel(p, name, &code);
    return device_check(d, code, name);
}

err dense_build(struct device *d, const struct kernel_forms *forms, const char *format_defines,
                struct dense *k, cl_program *program) {
    const struct tile *tiles = tiles_of(forms);
    TRY(program_build(d, forms, format_defines, program));
    for (int i = 0; i < N_DENSE_TILES; i++) {
        TRY(kernel_of(d, *program, "dense", tiles[i].rows, &k->product[i]));
        if (tiles[i].rows > 1) TRY(kernel_of(d, *program, "dense_lay", tiles[i].rows, &k->lay[i]));
    }
    return OK;
}

void dense_release(struct dense *k) {
    for (int i = 0; i < N_DENSE_TILES; i++) {
        if (k->product[i]) clReleaseKernel(k->product[i]);
        if (k->lay[i]) clReleaseKernel(k->lay[i]);
    }
    if (k->tiles) clReleaseMemObject(k->tiles);
    *k = (struct dense){0};
}

err dense_prepare(struct device *d, uint32_t n_cols, struct dense *k) {
    size_t tile = (size_t)n_cols * TILE_ROWS_MAX;
    size_t need = tile > SCRATCH_FLOATS ? tile : SCRATCH_FLOATS;
    if (need <= k->tile_floats) return OK;
    if (k->tiles) clReleaseMemObject(k->tiles);
    k->tiles = NULL;
    k->tile_floats = 0;
    TRY(device_memory(d, need * sizeof(float), &k->tiles));
    k->tile_floats = need;
    return OK;
}

/* The one that takes the rows in the least time, a wide one where two do. */
static int tile_choose(const struct tile *tiles, uint32_t n_rows) {
    int best = 0;
    uint32_t least = UINT32_MAX;
    for (int i = 0; i < N_DENSE_TILES; i++) {
        uint32_t cost = (n_rows + tiles[i].rows - 1) / tiles[i].rows * (tiles[i].rows + WEIGHTS_COST);
        if (cost > least) continue;
        least = cost;
        best = i;
    }
    return best;
}

/* Rows of a launch: pieces that fit the scratch, as even as whole tiles can be. */
static uint32_t piece_rows(const struct dense *k, uint32_t n_cols, uint32_t n_rows, uint32_t tile) {
    uint32_t fits = (uint32_t)(k->tile_floats / n_cols / tile * tile);
    uint32_t n_pieces = (n_rows + fits - 1) / fits, even = (n_rows + n_pieces - 1) / n_pieces;
    return (even + tile - 1) / tile * tile;
}

/* What all pieces of a product share. */
struct work {
    struct product_args args;
    struct tile tile;
    cl_kernel product, lay;
    uint32_t block_tiles, local; /* local: work-items of a group */
    cl_uint n_cols, segment_cols, n_rows;
    const struct tree *tree;
};

#define ARG DEVICE_ARG

static err rows_lay(struct device *d, const struct dense *k, const struct work *p, cl_mem in, cl_uint first,
                    cl_uint n) {
    cl_uint n_items = (n + p->tile.rows - 1) / p->tile.rows * ((p->n_cols + 15) / 16);
    return device_launch_items(d, p->lay, DEVICE_ARGS(ARG(in), ARG(p->n_cols), ARG(first), ARG(n), ARG(k->tiles),
                                                      ARG(n_items)), n_items);
}

/* Rows [first, first + n) of the step. */
static err piece_run(struct device *d, const struct dense *k, const struct work *p, cl_mem in, cl_uint first,
                     cl_uint n) {
    cl_ulong merges = tree_merges(p->tree);
    cl_uint emits = tree_emits(p->tree);
    if (p->lay) {
        TRY(rows_lay(d, k, p, in, first, n));
        in = k->tiles;
    }
    uint32_t block = p->tile.rows * p->block_tiles;
    size_t local[2] = {1, p->local}, global[2] = {(n + block - 1) / block, p->args.n_units};
    if (p->local > 1) global[1] = (p->args.n_units * PACKED_LANES + p->local - 1) / p->local * p->local;
    return device_launch(d, p->product, DEVICE_ARGS(PRODUCT_ARGS(p->args), ARG(p->n_cols), ARG(in), ARG(n),
                                                    ARG(p->segment_cols), ARG(merges), ARG(emits),
                                                    ARG(p->tree->n_leaves), ARG(first), ARG(p->n_rows)),
                         2, global, local);
}

err dense_linear(struct device *d, const struct kernel_forms *forms, const struct dense *k,
                 const struct product *products, uint32_t n_products, cl_mem in, uint32_t n_rows,
                 uint32_t segment_cols, const struct tree *tree) {
    const struct tile *tiles = tiles_of(forms);
    int i = tile_choose(tiles, n_rows);
    struct work p = {.tile = tiles[i], .product = k->product[i], .lay = k->lay[i],
                     .block_tiles = block_tiles(forms),
                     .local = is_wide(forms) ? 1 : d->tuning.values[TUNE_LANE_GROUP_ITEMS],
                     .n_cols = products->matrix->layout.cols, .segment_cols = segment_cols, .n_rows = n_rows,
                     .tree = tree};
    if (p.n_cols == 0 || n_rows == 0) return OK;
    TRY(product_args_fill(products, n_products, tiles[i].groups * PACKED_LANES, &p.args));
    uint32_t piece = piece_rows(k, p.n_cols, n_rows, p.tile.rows);
    for (uint32_t first = 0; first < n_rows; first += piece)
        TRY(piece_run(d, k, &p, in, first, n_rows - first < piece ? n_rows - first : piece));
    return OK;
}
