#include "kernels/op_table.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINEAR_ROWS(f)                                                                         \
    {OP_LINEAR, "", f, 1, 48, 512, 0, 16}, {OP_LINEAR, "", f, 3, 20, 256, 0, 8},               \
        {OP_LINEAR, "", f, 5, 20, 96, 32, 3}, {OP_LINEAR, "", f, 9, 33, 160, 96, 5},           \
        {OP_LINEAR, "two", f, 1, 33, 64, 32, 2}, {OP_LINEAR, "three", f, 5, 50, 96, 0, 3}
/* Rows that do not fill a tile of 16, more than one, more than a pass of 128; segments longer than a run of
 * blocks. A simulator runs them, too: no larger than need be. */
#define LINEAR_MANY_ROWS(f)                                                                    \
    {OP_LINEAR, "three", f, 15, 40, 64, 0, 2}, {OP_LINEAR, "", f, 17, 17, 576, 32, 2},         \
        {OP_LINEAR, "", f, 135, 17, 64, 0, 2}
/* Values with room for more rows than there are: wider tiles take them. */
#define LINEAR_ROOM_ROWS(f) {OP_LINEAR, "room", f, 3, 17, 64, 0, 2}, {OP_LINEAR, "room", f, 7, 40, 576, 32, 2}
#define LINEAR_QUANTISED_ROWS(f) LINEAR_ROWS(f), LINEAR_MANY_ROWS(f), LINEAR_ROOM_ROWS(f)
/* About the tiles of dense.c: 14 rows and a block of 56, 32 outputs, and the narrower ones. */
#define LINEAR_DENSE_ROWS(f)                                                                   \
    LINEAR_ROWS(f), {OP_LINEAR, "short segment", f, 2, 17, 72, 0, 3},                          \
        {OP_LINEAR, "", f, 7, 16, 40, 0, 1}, {OP_LINEAR, "", f, 13, 40, 96, 32, 3},            \
        {OP_LINEAR, "", f, 14, 32, 64, 0, 2}, {OP_LINEAR, "", f, 15, 31, 64, 0, 1},            \
        {OP_LINEAR, "short segment", f, 29, 49, 72, 0, 3},                                     \
        {OP_LINEAR, "many rows", f, 70, 40, 64, 0, 2}
#define EMBED_ROW(f) {OP_EMBED, "", f, 3, 50, 256, 0, 0}

static const struct op_row rows[] = {
    LINEAR_DENSE_ROWS(FORMAT_F32), LINEAR_DENSE_ROWS(FORMAT_F16), LINEAR_DENSE_ROWS(FORMAT_BF16),
    LINEAR_QUANTISED_ROWS(FORMAT_Q8_0), LINEAR_QUANTISED_ROWS(FORMAT_Q4_0),
    LINEAR_QUANTISED_ROWS(FORMAT_Q4_1), LINEAR_QUANTISED_ROWS(FORMAT_Q5_0),
    LINEAR_QUANTISED_ROWS(FORMAT_Q5_1), LINEAR_QUANTISED_ROWS(FORMAT_Q2_K),
    LINEAR_QUANTISED_ROWS(FORMAT_Q3_K), LINEAR_QUANTISED_ROWS(FORMAT_Q4_K),
    LINEAR_QUANTISED_ROWS(FORMAT_Q5_K), LINEAR_QUANTISED_ROWS(FORMAT_Q6_K),
    EMBED_ROW(FORMAT_F32), EMBED_ROW(FORMAT_F16), EMBED_ROW(FORMAT_BF16), EMBED_ROW(FORMAT_Q8_0),
    EMBED_ROW(FORMAT_Q4_0), EMBED_ROW(FORMAT_Q4_1), EMBED_ROW(FORMAT_Q5_0), EMBED_ROW(FORMAT_Q5_1),
    EMBED_ROW(FORMAT_Q2_K), EMBED_ROW(FORMAT_Q3_K), EMBED_ROW(FORMAT_Q4_K), EMBED_ROW(FORMAT_Q5_K),
    EMBED_ROW(FORMAT_Q6_K),
    {OP_NORM, "rms", FORMAT_F32, 3, 100, 100, 0, 0},
    {OP_NORM, "layer", FORMAT_F32, 3, 256, 256, 0, 0},
    {OP_NORM, "rms q8", FORMAT_F32, 3, 160, 160, 0, 0},
    {OP_NORM, "rms in place", FORMAT_F32, 6, 24, 24, 0, 0},
    {OP_QUANTIZE, "", FORMAT_F32, 3, 96, 96, 0, 0},
    {OP_REDUCE, "", FORMAT_F32, 2, 100, 100, 0, 10},
    {OP_REDUCE, "add", FORMAT_F32, 2, 100, 100, 0, 1},
    {OP_REDUCE, "add rms q8", FORMAT_F32, 3, 224, 224, 0, 16},
    {OP_REDUCE, "bias add layer", FORMAT_F32, 3, 72, 72, 0, 5},
    {OP_REDUCE, "bias add layer q8 both", FORMAT_F32, 1, 2048, 2048, 0, 1},
    {OP_BIAS, "", FORMAT_F32, 3, 70, 70, 0, 0},
    {OP_KV_WRITE, "", FORMAT_F16, 40, 2, 24, 60, 2},
    {OP_KV_WRITE, "", FORMAT_F32, 40, 2, 24, 60, 2},
    {OP_KV_WRITE, "norm", FORMAT_F16, 3, 4, 20, 40, 2},
    {OP_KV_WRITE, "neox", FORMAT_F16, 3, 9, 64, 64, 3},
    {OP_KV_WRITE, "norm", FORMAT_F32, 2, 4, 32, 30, 1},
    {OP_KV_WRITE, "neox bias", FORMAT_F32, 3, 4, 21, 40, 4},
    {OP_KV_WRITE, "norm", FORMAT_F32, 2, 4, 72, 30, 1},
    {OP_KV_WRITE, "norm bias", FORMAT_F16, 3, 5, 100, 40, 1},
    {OP_ATTEND, "", FORMAT_F16, 2, 4, 24, 40, 2},
    {OP_ATTEND, "", FORMAT_F32, 3, 4, 32, 600, 1},
    {OP_ATTEND, "window", FORMAT_F16, 2, 2, 16, 550, 2},
    {OP_ATTEND, "", FORMAT_F16, 1, 16, 64, 262, 2},
    {OP_ATTEND, "", FORMAT_F32, 2, 7, 80, 258, 1},
    {OP_ATTEND, "", FORMAT_F16, 5, 2, 128, 258, 2},
    {OP_ATTEND, "", FORMAT_F16, 3, 9, 40, 100, 1},
    {OP_ATTEND, "window", FORMAT_F32, 9, 4, 72, 262, 2},
    {OP_ATTEND, "sequences", FORMAT_F16, 9, 4, 32, 264, 4},
    {OP_ATTEND, "sequences", FORMAT_F32, 7, 6, 24, 90, 2},
    {OP_ATTEND, "shard", FORMAT_F16, 5, 4, 32, 290, 2},
    {OP_ATTEND, "shard", FORMAT_F32, 2, 17, 16, 70, 2},
    {OP_GLU, "silu", FORMAT_F32, 3, 70, 70, 0, ACT_SILU},
    {OP_GLU, "gelu", FORMAT_F32, 3, 70, 70, 0, ACT_GELU_TANH},
    {OP_GLU, "silu q8", FORMAT_F32, 3, 96, 96, 0, ACT_SILU},
    {OP_GLU, "bias silu q8 both", FORMAT_F32, 3, 96, 96, 0, ACT_SILU},
    {OP_ACT, "silu", FORMAT_F32, 3, 70, 70, 0, ACT_SILU},
    {OP_ACT, "gelu", FORMAT_F32, 3, 70, 70, 0, ACT_GELU_TANH},
    {OP_ACT, "relu", FORMAT_F32, 3, 70, 70, 0, ACT_RELU},
    {OP_ACT, "bias gelu", FORMAT_F32, 3, 50, 50, 0, ACT_GELU_TANH},
    {OP_ADD, "", FORMAT_F32, 3, 70, 70, 0, 1},
    {OP_SELECT, "", FORMAT_F32, 5, 33, 33, 0, 3},
};

const struct op_row *op_table(uint32_t *n) {
    *n = sizeof rows / sizeof *rows;
    return rows;
}

uint64_t op_row_operations(const struct op_row *r) {
    uint64_t n = (uint64_t)r->n_rows * r->in;
    if (r->op == OP_LINEAR) n *= r->out;
    if (r->op == OP_ATTEND) n *= 2ull * r->out * (r->at + 1);
    return n;
}

void op_row_name(const struct op_row *r, char *out, size_t cap) {
    snprintf(out, cap, "%s%s%s %s %u x %u x %u at %u (%u)", op_name(r->op), *r->variant ? " " : "",
             r->variant, format_info(r->format)->name, r->n_rows, r->out, r->in, r->at, r->option);
}

/* Inputs: a hash of place and salt (splitmix64), the same everywhere. */
static uint64_t noise(uint64_t i, uint64_t salt) {
    uint64_t z = i * 0x9E3779B97F4A7C15u + salt * 0xD1B54A32D192ED03u + 1;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Most values in [-2, 2), some large, small or zero. */
static float noise_float(uint64_t i, uint64_t salt) {
    uint64_t z = noise(i, salt);
    float f = (float)(int32_t)(z >> 32) * (1.0f / 1073741824);
    switch (z & 63) {
    case 0: return 0;
    case 1: return f * 100;
    case 2: return f * 1e-5f;
    default: return f;
    }
}

/* Everything that one run allocates. */
struct row_bench {
    struct backend *b;
    struct buffer *buffers[16];
    uint32_t n_buffers;
    struct matrix *matrices[PRODUCTS_MAX];
    struct cache *cache;
};

static err buffer_empty(struct row_bench *o, size_t n_items, struct buffer **out) {
    TRY(o->b->ops->buffer_create(o->b, n_items * 4, out));
    o->buffers[o->n_buffers++] = *out;
    return OK;
}

static err buffer_of(struct row_bench *o, const void *items, size_t n_items, struct buffer **out) {
    TRY(buffer_empty(o, n_items, out));
    return o->b->ops->buffer_write(o->b, *out, 0, n_items * 4, items);
}

static err buffer_noise(struct row_bench *o, size_t n, uint64_t salt, struct buffer **out) {
    float *f;
    TRY(NEW(f, n));
    for (size_t i = 0; i < n; i++) f[i] = noise_float(i, salt);
    err e = buffer_of(o, f, n, out);
    free(f);
    return e;
}

static err result_read(struct row_bench *o, struct buffer *m, size_t n_bytes, struct bytes *out) {
    TRY(bytes_reserve(out, n_bytes));
    TRY(o->b->ops->buffer_read(o->b, m, 0, n_bytes, out->data + out->len));
    out->len += n_bytes;
    return OK;
}

/* Where a block keeps f16 factors, which must not be infinite. */
static const int8_t halves_at[N_FORMATS][2] = {
    [FORMAT_Q8_0] = {0, -1}, [FORMAT_Q4_0] = {0, -1}, [FORMAT_Q4_1] = {0, 2},
    [FORMAT_Q5_0] = {0, -1}, [FORMAT_Q5_1] = {0, 2}, [FORMAT_Q2_K] = {80, 82},
    [FORMAT_Q3_K] = {108, -1}, [FORMAT_Q4_K] = {0, 2}, [FORMAT_Q5_K] = {0, 2},
};

/* Factors about 2^-7, some denormal, some zero. */
static void put_half(uint8_t *at, uint64_t z) {
    uint16_t h = (uint16_t)(0x2000 | (z & 0x83FF));
    if ((z >> 20 & 15) == 0) h = (uint16_t)(z & 0x83FF);
    memcpy(at, &h, 2);
}

static void noise_block(enum format f, uint64_t block, uint8_t *out) {
    const struct format_info *info = format_info(f);
    for (uint32_t i = 0; i < info->block_bytes; i++) out[i] = (uint8_t)noise(block * 512 + i, 7);
    for (int k = 0; k < 2; k++) {
        int at = f == FORMAT_Q6_K ? (k ? -1 : 104 + 104) : halves_at[f][k];
        if (at >= 0) put_half(out + at, noise(block, 8 + (uint64_t)k));
    }
}

static void noise_dense(enum format f, uint64_t i, uint8_t *out) {
    float x = noise_float(i, 9);
    uint16_t h = format_float_to_half(x);
    if (f == FORMAT_BF16) {
        uint32_t u;
        memcpy(&u, &x, 4);
        h = (uint16_t)(u >> 16);
    }
    if (f == FORMAT_F32) memcpy(out, &x, 4);
    else memcpy(out, &h, 2);
}

/* A matrix source whose every block depends on its place alone. */
static err noise_read(void *context, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                      uint64_t col_end, void *dst) {
    const struct op_row *r = context;
    const struct format_info *info = format_info(r->format);
    uint8_t *at = dst;
    for (uint64_t row = row_begin; row < row_end; row++)
        for (uint64_t col = col_begin; col < col_end; col += info->block_values, at += info->block_bytes) {
            uint64_t place = row * 4096 + col / info->block_values;
            if (info->is_quantised) noise_block(r->format, place, at);
            else noise_dense(r->format, place, at);
        }
    return OK;
}

/* Rows [row_begin, row_begin + n) of the noise. */
static err matrix_noise(struct row_bench *o, const struct op_row *r, uint32_t row_begin, uint32_t n,
                        struct matrix **out) {
    struct op_row copy = *r;
    struct matrix_source source = {r->format, &copy, noise_read};
    return matrix_load(o->b, &source, row_begin, row_begin + n, r->at, r->at + r->in, out);
}

static int is_variant(const struct op_row *r, const char *word) { return strstr(r->variant, word) != NULL; }

/* One matrix, or as many as the row says, each with fewer rows; the second begins inside its matrix
 * as a tied head does. */
static err products_noise(struct row_bench *o, const struct op_row *r, size_t n_items_per_row,
                          struct product *out, uint32_t *n) {
    *n = strcmp(r->variant, "three") == 0 ? 3 : strcmp(r->variant, "two") == 0 ? 2 : 1;
    for (uint32_t i = 0; i < *n; i++) {
        out[i].row_begin = i == 1 ? 16 : 0;
        out[i].row_end = r->out - 7 * i;
        TRY(matrix_noise(o, r, 100 * i, r->out, &o->matrices[i]));
        out[i].matrix = o->matrices[i];
        TRY(buffer_empty(o, n_items_per_row * (out[i].row_end - out[i].row_begin), &out[i].out));
    }
    return OK;
}

static err run_linear(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    struct buffer *x, *q;
    struct product products[PRODUCTS_MAX];
    uint32_t n_products;
    /* Half of the tree, as a shard would own it, where the count allows. */
    struct tree tree;
    tree_own(r->option, (struct range){0, r->option}, &tree);
    uint32_t segment_cols = (r->in / 8 + r->option - 1) / r->option * 8;
    if (r->in % 32 == 0) segment_cols = r->in / 32 / r->option * 32;
    uint32_t n_held = is_variant(r, "room") ? 8 : r->n_rows;
    struct backend_limits limits = {.rows_max = n_held, .context_max = 1};
    TRY(o->b->ops->prepare(o->b, &limits));
    TRY(products_noise(o, r, (size_t)tree.n_results * r->n_rows, products, &n_products));
    TRY(buffer_noise(o, (size_t)n_held * r->in, 1, &x));
    if (format_info(r->format)->is_quantised) {
        TRY(buffer_empty(o, q8_bytes(n_held, r->in) / 4 + 1, &q));
        TRY(o->b->ops->quantize(o->b, x, n_held, r->in, q));
        x = q;
    }
    TRY(o->b->ops->linear(o->b, products, n_products, x, r->n_rows, segment_cols, &tree));
    for (uint32_t i = 0; i < n_products; i++) {
        size_t width = products[i].row_end - products[i].row_begin;
        TRY(result_read(o, products[i].out, tree.n_results * r->n_rows * width * 4, out));
    }
    return OK;
}

static err run_embed(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    struct buffer *ids, *y;
    int32_t id[8];
    for (uint32_t i = 0; i < r->n_rows; i++) id[i] = (int32_t)(noise(i, 3) % r->out);
    TRY(matrix_noise(o, r, 0, r->out, &o->matrices[0]));
    TRY(buffer_of(o, id, r->n_rows, &ids));
    TRY(buffer_empty(o, (size_t)r->n_rows * r->in, &y));
    TRY(o->b->ops->embed(o->b, o->matrices[0], ids, r->n_rows, y));
    return result_read(o, y, (size_t)r->n_rows * r->in * 4, out);
}

static err run_quantize(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    struct buffer *x, *y;
    const float no_number = NAN;
    TRY(buffer_noise(o, (size_t)r->n_rows * r->in, 1, &x));
    if (is_variant(r, "no number")) TRY(o->b->ops->buffer_write(o->b, x, 37 * 4, 4, &no_number));
    TRY(buffer_empty(o, q8_bytes(r->n_rows, r->in) / 4, &y));
    TRY(o->b->ops->quantize(o->b, x, r->n_rows, r->in, y));
    return result_read(o, y, q8_bytes(r->n_rows, r->in), out);
}

/* Results: as floats, unless the variant says q8, then quantised; or both. */
static err results_make(struct row_bench *o, const struct op_row *r, struct buffer **floats, struct buffer **q8) {
    *floats = *q8 = NULL;
    if (is_variant(r, "q8")) TRY(buffer_empty(o, q8_bytes(r->n_rows, r->in) / 4, q8));
    if (is_variant(r, "q8") && !is_variant(r, "both")) return OK;
    return buffer_empty(o, (size_t)r->n_rows * r->in, floats);
}

static err results_read(struct row_bench *o, const struct op_row *r, struct buffer *floats, struct buffer *q8,
                        struct bytes *out) {
    if (floats) TRY(result_read(o, floats, (size_t)r->n_rows * r->in * 4, out));
    return q8 ? result_read(o, q8, q8_bytes(r->n_rows, r->in), out) : OK;
}

/* The leaves of three shards, or of one. */
static err leaves_noise(struct row_bench *o, const struct op_row *r, struct tree *tree, struct row_sum *s) {
    uint32_t n = r->option;
    struct range own[3] = {{0, n < 3 ? n : 3}, {3, n < 4 ? n : 4}, {4, n}};
    tree_join(n, own, n > 4 ? 3 : 1, tree);
    s->tree = tree;
    return buffer_noise(o, (size_t)tree->n_leaves * r->n_rows * r->in, 1, &s->leaves);
}

static err run_sum(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    int is_layer = is_variant(r, "layer"), has_norm = r->op == OP_NORM || is_layer || is_variant(r, "rms");
    struct row_sum s = {.kind = is_layer ? NORM_LAYER : NORM_RMS, .eps = 1e-5f};
    struct tree tree;
    size_t n = (size_t)r->n_rows * r->in;
    if (r->option) TRY(leaves_noise(o, r, &tree, &s));
    if (r->op == OP_BIAS || is_variant(r, "bias")) TRY(buffer_noise(o, r->in, 2, &s.vector));
    if (r->op != OP_REDUCE || is_variant(r, "add")) TRY(buffer_noise(o, n, 3, &s.x));
    if (r->op != OP_NORM) s.sum = s.x; /* in place, as models do it */
    if (r->op != OP_NORM && !s.x) TRY(buffer_empty(o, n, &s.sum));
    if (has_norm) {
        TRY(buffer_noise(o, r->in, 4, &s.weight));
        if (is_layer) TRY(buffer_noise(o, r->in, 5, &s.bias));
        TRY(results_make(o, r, &s.out, &s.q8));
        if (is_variant(r, "in place")) s.out = s.x;
    }
    TRY(o->b->ops->sum_rows(o->b, &s, r->n_rows, r->in));
    if (s.sum) TRY(result_read(o, s.sum, n * 4, out));
    return results_read(o, r, s.out, s.q8, out);
}

static err run_activate(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    struct activation a = {.kind = (enum act_kind)r->option};
    size_t n = (size_t)r->n_rows * r->in;
    TRY(buffer_noise(o, n, 1, &a.gate));
    if (r->op == OP_GLU) TRY(buffer_noise(o, n, 2, &a.up));
    if (is_variant(r, "bias")) TRY(buffer_noise(o, r->in, 3, &a.gate_bias));
    if (a.up && a.gate_bias) TRY(buffer_noise(o, r->in, 4, &a.up_bias));
    TRY(results_make(o, r, &a.out, &a.q8));
    TRY(o->b->ops->activate(o->b, &a, r->n_rows, r->in));
    return results_read(o, r, a.out, a.q8, out);
}

static err run_select(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    struct buffer *x, *index, *y;
    int32_t at[8];
    for (uint32_t i = 0; i < r->option; i++) at[i] = (int32_t)(r->n_rows - 1 - i);
    TRY(buffer_noise(o, (size_t)r->n_rows * r->in, 1, &x));
    TRY(buffer_of(o, at, r->option, &index));
    TRY(buffer_empty(o, (size_t)r->option * r->in, &y));
    TRY(o->b->ops->select(o->b, x, index, r->option, r->in, y));
    return result_read(o, y, (size_t)r->option * r->in * 4, out);
}

/* A sequence of at + 1 positions, its blocks in reverse order; rows stand at its end. Where
 * `is_mixed`, every third row belongs to another one, half as far, with the same blocks in order. */
static err places_of(struct row_bench *o, const struct op_row *r, uint32_t first, uint32_t n_rows, int is_mixed,
                     struct row_places *out) {
    int32_t position[64], begin[64], table[2 * 64];
    uint32_t n_blocks = r->at / KV_BLOCK_TOKENS + 1;
    for (uint32_t i = 0; i < n_rows; i++) {
        int is_other = is_mixed && i % 3 == 2;
        position[i] = (int32_t)(is_other ? (first + i) / 2 : first + i);
        begin[i] = is_other ? (int32_t)n_blocks : 0;
    }
    for (uint32_t i = 0; i < n_blocks; i++) {
        table[i] = (int32_t)(n_blocks - 1 - i);
        table[n_blocks + i] = (int32_t)i;
    }
    TRY(buffer_of(o, position, n_rows, &out->position));
    TRY(buffer_of(o, begin, n_rows, &out->table_begin));
    return buffer_of(o, table, 2 * n_blocks, &out->table);
}

/* Heads of a model with as many KV heads, or, as a shard may have them, the last query head of one KV
 * head and all of the next. */
static struct attend_shape attend_shape_of(const struct op_row *r, uint32_t n_kv_heads) {
    int is_shard = strcmp(r->variant, "shard") == 0;
    uint32_t group = is_shard ? r->out - 1 : r->out / n_kv_heads;
    return (struct attend_shape){.n_heads = r->out, .n_kv_heads = n_kv_heads, .head_dim = r->in,
                                 .head_begin = is_shard ? 2 * group - 1 : 0, .kv_begin = is_shard ? 1 : 0,
                                 .group = group, .window = strcmp(r->variant, "window") == 0 ? 100 : 0,
                                 .n_chunks = r->at / ATTEND_CHUNK + 1};
}

static void buffers_free(struct row_bench *o) {
    for (uint32_t i = 0; i < o->n_buffers; i++) o->b->ops->buffer_free(o->b, o->buffers[i]);
    o->n_buffers = 0;
}

/* k and v of n rows into the cache from position `first` on; of q, too, where the row is about that. */
static err heads_noise(struct row_bench *o, const struct op_row *r, const struct cache_shape *shape, uint32_t first,
                       uint32_t n, struct buffer *q) {
    struct rope rope = {.n_rot = r->in / 2 * 2 - 4, .freq_base = 10000, .freq_scale = 1};
    uint32_t width = shape->n_kv_heads * r->in;
    int turns = is_variant(r, "norm") || is_variant(r, "neox");
    float angles[64 * 64];
    struct head_rows h = {.q = q, .n_heads = r->out, .style = is_variant(r, "neox") ? ROPE_NEOX : ROPE_NORM};
    struct row_places places;
    for (uint32_t t = 0; turns && t < n; t++) rope_table(&rope, (int32_t)(first + t) * 100, angles + t * rope.n_rot);
    if (turns) TRY(buffer_of(o, angles, (size_t)n * rope.n_rot, &h.angles));
    if (turns) h.q_rot = h.k_rot = rope.n_rot;
    TRY(places_of(o, r, first, n, 0, &places));
    TRY(buffer_noise(o, (size_t)n * width, first + 1, &h.k));
    TRY(buffer_noise(o, (size_t)n * width, first + 2, &h.v));
    if (is_variant(r, "bias")) {
        TRY(buffer_noise(o, (size_t)r->out * r->in, 6, &h.q_bias));
        TRY(buffer_noise(o, width, 7, &h.k_bias));
        TRY(buffer_noise(o, width, 8, &h.v_bias));
    }
    return o->b->ops->heads(o->b, o->cache, &h, &places, n);
}

/* Fills positions [0, at] of the cache, then attends from the last n_rows; a kv-write row also
 * shows what became of q. */
static err run_attend(struct row_bench *o, const struct op_row *r, struct bytes *out) {
    struct cache_shape shape = {r->at / KV_BLOCK_TOKENS + 1, r->option, r->in, r->format};
    uint32_t n_heads = r->out, begin = r->at + 1 - r->n_rows;
    struct attend_shape s = attend_shape_of(r, shape.n_kv_heads);
    struct backend_limits limits = {r->n_rows, r->at + 1, n_heads, r->in};
    size_t n = (size_t)r->n_rows * n_heads * r->in;
    struct row_places places;
    struct buffer *q, *y;
    TRY(o->b->ops->prepare(o->b, &limits));
    TRY(o->b->ops->cache_create(o->b, &shape, &o->cache));
    for (uint32_t at = 0, n_new; at < begin; at += n_new) {
        n_new = begin - at < 64 ? begin - at : 64;
        TRY(heads_noise(o, r, &shape, at, n_new, NULL));
        TRY(o->b->ops->finish(o->b));
        buffers_free(o);
    }
    TRY(buffer_noise(o, n, 5, &q));
    TRY(heads_noise(o, r, &shape, begin, r->n_rows, r->op == OP_KV_WRITE ? q : NULL));
    TRY(places_of(o, r, begin, r->n_rows, is_variant(r, "sequences"), &places));
    TRY(buffer_empty(o, n, &y));
    TRY(o->b->ops->attend(o->b, o->cache, q, &places, &s, r->n_rows, y));
    if (r->op == OP_KV_WRITE) TRY(result_read(o, q, n * 4, out));
    return result_read(o, y, n * 4, out);
}

err op_row_run(const struct op_row *r, struct backend *b, struct bytes *out) {
    struct row_bench bench = {.b = b}, *o = &bench;
    err e;
    switch (r->op) {
    case OP_LINEAR: e = run_linear(o, r, out); break;
    case OP_EMBED: e = run_embed(o, r, out); break;
    case OP_QUANTIZE: e = run_quantize(o, r, out); break;
    case OP_GLU:
    case OP_ACT: e = run_activate(o, r, out); break;
    case OP_SELECT: e = run_select(o, r, out); break;
    case OP_KV_WRITE:
    case OP_ATTEND: e = run_attend(o, r, out); break;
    default: e = run_sum(o, r, out); break;
    }
    buffers_free(o);
    for (int i = 0; i < PRODUCTS_MAX; i++) b->ops->matrix_free(b, o->matrices[i]);
    b->ops->cache_free(b, o->cache);
    return e;
}


static err results_compare(const struct op_row *r, struct backend *b, struct backend *reference,
                           struct bytes *got, struct bytes *expected) {
    TRY(op_row_run(r, b, got));
    TRY(op_row_run(r, reference, expected));
    for (size_t i = 0; i + 4 <= expected->len; i += 4) {
        uint32_t is, must;
        memcpy(&is, got->data + i, 4);
        memcpy(&must, expected->data + i, 4);
        if (is == must) continue;
        char name[128];
        op_row_name(r, name, sizeof name);
        return err_set(ERR_DEVICE, "device '%s': op %s differs from the reference: word %zu of %zu is %08x, not %08x",
                       b->device, name, i / 4, expected->len / 4, is, must);
    }
    return OK;
}

err op_row_check(const struct op_row *r, struct backend *b) {
    struct bytes got = {0}, expected = {0};
    struct backend *reference;
    TRY(backend_reference(&reference));
    err e = results_compare(r, b, reference, &got, &expected);
    reference->ops->destroy(reference);
    bytes_free(&got);
    bytes_free(&expected);
    return e;
}
