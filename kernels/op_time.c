#include "kernels/op_time.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/median.h"
#include "base/mem.h"

#define MATRICES_MAX 1024
#define RUNS_MIN 3
#define RUNS_MAX 64
#define RUN_OPS_MAX 512
#define MEAN_RUN_S 0.005 /* of many: they end near the time that was asked for */
#define UNPAUSED_TRIES 3
#define CACHES_MAX 256

struct op_time {
    struct backend *b;
    struct op_row row;
    const struct op_case *kind;
    uint64_t working_bytes;
    struct matrix *matrices[MATRICES_MAX];
    uint32_t n_matrices, next; /* next: to be used */
    uint64_t matrix_bytes;     /* of one, packed */
    double packed_per_s;       /* bytes of a file, while they were loaded */
    uint32_t segment_cols;
    struct tree tree;
    struct buffer *x, *w, *y; /* input; second input, weight or ids; output */
    struct buffer *q8;        /* input of a quantised product, or quantised output */
    struct buffer *k, *v, *angles;
    struct cache *caches[CACHES_MAX];
    uint32_t n_caches;
    struct row_places places;
    struct attend_shape attend;
};

struct op_case {
    enum op_kind op;
    err (*create)(struct op_time *t);
    err (*run)(struct op_time *t, uint32_t n_rows);
    struct op_cost (*cost)(const struct op_time *t, double n_rows);
};

/* Bytes from 32 to 63: whichever format reads them, no factor is infinite, none denormal. */
static err plain_read(void *context, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                      uint64_t col_end, void *dst) {
    enum format f = *(const enum format *)context;
    size_t n = (row_end - row_begin) * format_bytes(f, col_end - col_begin);
    uint64_t z = row_begin + 1;
    uint8_t *at = dst;
    for (size_t i = 0; i < n; i += sizeof z) {
        z = z * 0x9E3779B97F4A7C15u + 0xD1B54A32D192ED03u;
        uint64_t eight = 0x2020202020202020u | (z >> 3 & 0x1F1F1F1F1F1F1F1Fu);
        memcpy(at + i, &eight, n - i < sizeof eight ? n - i : sizeof eight);
    }
    return OK;
}

/* In one go, as the weights of a cell: they share pages. */
static err matrices_load(struct op_time *t, uint64_t working_bytes) {
    enum format f = t->row.format;
    struct matrix_order orders[MATRICES_MAX];
    struct packed_layout layout;
    packed_layout_make(f, t->row.out, 0, t->row.in, &layout);
    uint64_t n = working_bytes / layout.n_bytes + 1;
    n = n < MATRICES_MAX ? n : MATRICES_MAX;
    for (uint64_t i = 0; i < n; i++)
        orders[i] = (struct matrix_order){{f, &f, plain_read}, 0, t->row.out, 0, t->row.in, &t->matrices[i], NULL,
                                              NULL};
    TRY(t->b->ops->matrix_prepare(t->b, f, t->row.op == OP_EMBED)); /* kernels may compile: no part of loading */
    double begin = clock_s();
    TRY(t->b->ops->matrices_load(t->b, orders, (uint32_t)n));
    t->packed_per_s = (double)(n * t->row.out * format_bytes(f, t->row.in)) / (clock_s() - begin);
    t->n_matrices = (uint32_t)n;
    t->matrix_bytes = t->b->ops->matrix_bytes(t->matrices[0]);
    return OK;
}

static err empty_create(struct op_time *t, size_t n, struct buffer **out) {
    return t->b->ops->buffer_create(t->b, n * sizeof(float), out);
}

static err values_create(struct op_time *t, size_t n, struct buffer **out) {
    float *values;
    TRY(NEW(values, n));
    for (size_t i = 0; i < n; i++) values[i] = (float)(i * 7919 % 255) / 127 - 1;
    err e = empty_create(t, n, out);
    if (e == OK) e = t->b->ops->buffer_write(t->b, *out, 0, n * sizeof *values, values);
    free(values);
    return e;
}

/* n integers from `first` on, `step` apart. */
static err integers_create(struct op_time *t, int32_t first, int32_t step, uint32_t n, struct buffer **out) {
    int32_t *values;
    TRY(NEW(values, n));
    for (uint32_t i = 0; i < n; i++) values[i] = first + step * (int32_t)i;
    err e = t->b->ops->buffer_create(t->b, n * sizeof *values, out);
    if (e == OK) e = t->b->ops->buffer_write(t->b, *out, 0, n * sizeof *values, values);
    free(values);
    return e;
}

static err q8_create(struct op_time *t) {
    return t->b->ops->buffer_create(t->b, q8_bytes(t->row.n_rows, t->row.in), &t->q8);
}

static size_t values_count(const struct op_time *t) { return (size_t)t->row.n_rows * t->row.in; }

/* ---- products ---- */

static err linear_create(struct op_time *t) {
    const struct op_row *r = &t->row;
    uint32_t n_segments = strcmp(r->variant, OP_TIME_ONE_SEGMENT) == 0 ? 1 : segment_count(r->in / 32);
    t->segment_cols = r->in / n_segments;
    tree_own(n_segments, (struct range){0, n_segments}, &t->tree);
    TRY(values_create(t, values_count(t), &t->x));
    TRY(empty_create(t, (size_t)t->tree.n_results * r->n_rows * r->out, &t->y));
    if (!format_info(r->format)->is_quantised) return OK;
    TRY(q8_create(t));
    return t->b->ops->quantize(t->b, t->x, r->n_rows, r->in, t->q8);
}

static err linear_run(struct op_time *t, uint32_t n_rows) {
    struct matrix *m = t->matrices[t->next++ % t->n_matrices];
    struct product product = {m, 0, t->row.out, t->y};
    return t->b->ops->linear(t->b, &product, 1, t->q8 ? t->q8 : t->x, n_rows, t->segment_cols, &t->tree);
}

/* Of the values only the weights count: the rest stays in a cache. */
static struct op_cost linear_cost(const struct op_time *t, double n_rows) {
    return (struct op_cost){(double)t->matrix_bytes, 2.0 * n_rows * t->row.out * t->row.in};
}

/* ---- lookups ---- */

static err embed_create(struct op_time *t) {
    const struct op_row *r = &t->row;
    int32_t *ids;
    TRY(NEW(ids, r->n_rows));
    for (uint32_t i = 0; i < r->n_rows; i++) ids[i] = (int32_t)(i * UINT64_C(2654435761) % r->out);
    err e = t->b->ops->buffer_create(t->b, r->n_rows * sizeof *ids, &t->w);
    if (e == OK) e = t->b->ops->buffer_write(t->b, t->w, 0, r->n_rows * sizeof *ids, ids);
    free(ids);
    return e == OK ? empty_create(t, values_count(t), &t->y) : e;
}

static err embed_run(struct op_time *t, uint32_t n_rows) {
    return t->b->ops->embed(t->b, t->matrices[0], t->w, n_rows, t->y);
}

static struct op_cost embed_cost(const struct op_time *t, double n_rows) {
    return (struct op_cost){n_rows * ((double)t->matrix_bytes / t->row.out + 4.0 * t->row.in), 0};
}

/* ---- plain values, each op with what steps make it do at once ---- */

static double q8_bytes_of(const struct op_time *t, double n_rows) {
    return n_rows * t->row.in / PACKED_BLOCK * (double)sizeof(struct q8_block);
}

/* Two inputs of rows, and results. */
static err rows_create(struct op_time *t) {
    TRY(values_create(t, values_count(t), &t->x));
    TRY(values_create(t, values_count(t), &t->w));
    TRY(q8_create(t));
    return empty_create(t, values_count(t), &t->y);
}

static err norm_run(struct op_time *t, uint32_t n_rows) {
    struct row_sum s = {.x = t->x, .kind = NORM_RMS, .eps = 1e-5f, .weight = t->w, .q8 = t->q8};
    return t->b->ops->sum_rows(t->b, &s, n_rows, t->row.in);
}

static struct op_cost norm_cost(const struct op_time *t, double n_rows) {
    return (struct op_cost){4.0 * t->row.in * (n_rows + 1) + q8_bytes_of(t, n_rows), 4 * n_rows * t->row.in};
}

/* A row of w is the norm's weight. */
static err reduce_create(struct op_time *t) {
    tree_own(t->row.option, (struct range){0, t->row.option}, &t->tree);
    TRY(values_create(t, values_count(t) * t->row.option, &t->k));
    return rows_create(t);
}

static err reduce_run(struct op_time *t, uint32_t n_rows) {
    struct row_sum s = {.leaves = t->k, .tree = &t->tree, .x = t->x, .sum = t->y, .kind = NORM_RMS, .eps = 1e-5f,
                        .weight = t->w, .q8 = t->q8};
    return t->b->ops->sum_rows(t->b, &s, n_rows, t->row.in);
}

static struct op_cost reduce_cost(const struct op_time *t, double n_rows) {
    double n = n_rows * t->row.in;
    return (struct op_cost){4.0 * ((t->row.option + 2) * n + t->row.in) + q8_bytes_of(t, n_rows),
                            (t->row.option + 4) * n};
}

static err quantize_run(struct op_time *t, uint32_t n_rows) {
    return t->b->ops->quantize(t->b, t->x, n_rows, t->row.in, t->q8);
}

static struct op_cost quantize_cost(const struct op_time *t, double n_rows) {
    return (struct op_cost){4.0 * n_rows * t->row.in + q8_bytes_of(t, n_rows), 0};
}

static err glu_run(struct op_time *t, uint32_t n_rows) {
    struct activation a = {.kind = ACT_SILU, .gate = t->x, .up = t->w, .q8 = t->q8};
    return t->b->ops->activate(t->b, &a, n_rows, t->row.in);
}

static struct op_cost glu_cost(const struct op_time *t, double n_rows) {
    return (struct op_cost){8.0 * n_rows * t->row.in + q8_bytes_of(t, n_rows), 0};
}

static err act_run(struct op_time *t, uint32_t n_rows) {
    struct activation a = {.kind = ACT_GELU_TANH, .gate = t->x, .q8 = t->q8};
    return t->b->ops->activate(t->b, &a, n_rows, t->row.in);
}

static err select_create(struct op_time *t) {
    TRY(values_create(t, values_count(t), &t->x));
    TRY(integers_create(t, 0, 1, t->row.n_rows, &t->w));
    return empty_create(t, values_count(t), &t->y);
}

static err select_run(struct op_time *t, uint32_t n_rows) {
    return t->b->ops->select(t->b, t->x, t->w, n_rows, t->row.in, t->y);
}

static struct op_cost select_cost(const struct op_time *t, double n_rows) {
    return (struct op_cost){8.0 * n_rows * t->row.in, 0};
}

/* ---- attention and what comes before it ---- */

static err places_create(struct op_time *t, int32_t first, int32_t step, uint32_t n_blocks) {
    TRY(integers_create(t, first, step, t->row.n_rows, &t->places.position));
    TRY(integers_create(t, 0, 0, t->row.n_rows, &t->places.table_begin));
    return integers_create(t, 0, 1, n_blocks, &t->places.table);
}

static err cache_create(struct op_time *t, uint32_t n_blocks) {
    struct cache_shape shape = {n_blocks, t->row.option, t->row.in, t->row.format};
    TRY(t->b->ops->cache_create(t->b, &shape, &t->caches[t->n_caches]));
    t->n_caches++;
    return OK;
}

/* Of whole heads: real angles, or values that turn again and again would grow. */
static err angles_create(struct op_time *t) {
    struct rope rope = {.n_rot = t->row.in, .freq_base = 10000, .freq_scale = 1};
    float *values;
    TRY(NEW(values, values_count(t)));
    for (uint32_t i = 0; i < t->row.n_rows; i++) rope_table(&rope, (int32_t)i, values + (size_t)i * t->row.in);
    err e = empty_create(t, values_count(t), &t->angles);
    if (e == OK) e = t->b->ops->buffer_write(t->b, t->angles, 0, values_count(t) * sizeof *values, values);
    free(values);
    return e;
}

/* Row i stands at position i of one sequence. */
static err heads_create(struct op_time *t) {
    const struct op_row *r = &t->row;
    uint32_t n_blocks = r->n_rows / KV_BLOCK_TOKENS + 1;
    TRY(cache_create(t, n_blocks));
    TRY(places_create(t, 0, 1, n_blocks));
    TRY(angles_create(t));
    TRY(values_create(t, values_count(t) * r->option, &t->k));
    TRY(values_create(t, values_count(t) * r->option, &t->v));
    return values_create(t, values_count(t) * r->out, &t->x);
}

static err heads_run(struct op_time *t, uint32_t n_rows) {
    struct head_rows h = {.q = t->x, .k = t->k, .v = t->v, .n_heads = t->row.out, .q_rot = t->row.in,
                          .k_rot = t->row.in, .style = ROPE_NORM, .angles = t->angles};
    return t->b->ops->heads(t->b, t->caches[0], &h, &t->places, n_rows);
}

static struct op_cost heads_cost(const struct op_time *t, double n_rows) {
    const struct op_row *r = &t->row;
    double n = n_rows * r->in, kv = 2.0 * r->option * (4 + (r->format == FORMAT_F16 ? 2 : 4));
    return (struct op_cost){n * (8.0 * r->out + kv + 4), 3 * n * (r->out + r->option)};
}

static double kv_bytes(const struct op_time *t) {
    const struct op_row *r = &t->row;
    return (r->at + 1.0) * r->option * r->in * (r->format == FORMAT_F16 ? 4 : 8);
}

/* Every row from the last position of the same sequence. Caches stay empty: how long a kernel takes
 * does not depend on what it reads. */
static err attend_create(struct op_time *t) {
    const struct op_row *r = &t->row;
    uint32_t n_blocks = r->at / KV_BLOCK_TOKENS + 1;
    t->attend = (struct attend_shape){.n_heads = r->out, .n_kv_heads = r->option, .head_dim = r->in,
                                      .group = r->out / r->option, .n_chunks = r->at / ATTEND_CHUNK + 1};
    do {
        TRY(cache_create(t, n_blocks));
    } while (kv_bytes(t) * t->n_caches < (double)t->working_bytes && t->n_caches < CACHES_MAX);
    TRY(places_create(t, (int32_t)r->at, 0, n_blocks));
    TRY(values_create(t, values_count(t) * r->out, &t->x));
    return empty_create(t, values_count(t) * r->out, &t->y);
}

static err attend_run(struct op_time *t, uint32_t n_rows) {
    struct cache *c = t->caches[t->next++ % t->n_caches];
    return t->b->ops->attend(t->b, c, t->x, &t->places, &t->attend, n_rows, t->y);
}

static struct op_cost attend_cost(const struct op_time *t, double n_rows) {
    const struct op_row *r = &t->row;
    return (struct op_cost){kv_bytes(t), 4.0 * n_rows * r->out * r->in * (r->at + 1.0)};
}

static const struct op_case cases[] = {
    {OP_LINEAR, linear_create, linear_run, linear_cost}, {OP_EMBED, embed_create, embed_run, embed_cost},
    {OP_NORM, rows_create, norm_run, norm_cost},         {OP_QUANTIZE, rows_create, quantize_run, quantize_cost},
    {OP_REDUCE, reduce_create, reduce_run, reduce_cost}, {OP_KV_WRITE, heads_create, heads_run, heads_cost},
    {OP_ATTEND, attend_create, attend_run, attend_cost}, {OP_GLU, rows_create, glu_run, glu_cost},
    {OP_ACT, rows_create, act_run, quantize_cost},       {OP_SELECT, select_create, select_run, select_cost},
};
enum { N_CASES = sizeof cases / sizeof *cases };

/* ---- any op ---- */

static err inputs_create(struct op_time *t) {
    const struct op_row *r = &t->row;
    struct backend_limits limits = {r->n_rows, 1, 1, PACKED_BLOCK};
    if (r->op == OP_ATTEND) limits = (struct backend_limits){r->n_rows, r->at + 1, r->out, r->in};
    TRY(t->b->ops->prepare(t->b, &limits));
    if (r->op == OP_LINEAR) TRY(matrices_load(t, t->working_bytes));
    if (r->op == OP_EMBED) TRY(matrices_load(t, 0));
    return t->kind->create(t);
}

err op_time_create(struct backend *b, const struct op_row *row, uint64_t working_bytes, struct op_time **out) {
    struct op_time *t;
    int k = 0;
    while (k < N_CASES && cases[k].op != row->op) k++;
    if (k == N_CASES) return err_set(ERR_UNSUPPORTED, "op '%s' is not timed", op_name(row->op));
    TRY(NEW(t, 1));
    t->b = b;
    t->row = *row;
    t->kind = &cases[k];
    t->working_bytes = working_bytes;
    err e = inputs_create(t);
    if (e != OK) op_time_free(t);
    else *out = t;
    return e;
}

void op_time_free(struct op_time *t) {
    if (!t) return;
    const struct backend_ops *ops = t->b->ops;
    for (uint32_t i = 0; i < t->n_matrices; i++) ops->matrix_free(t->b, t->matrices[i]);
    for (uint32_t i = 0; i < t->n_caches; i++) ops->cache_free(t->b, t->caches[i]);
    struct buffer *const buffers[] = {t->x, t->w, t->y, t->q8, t->k, t->v, t->angles, t->places.position,
                                      t->places.table_begin, t->places.table};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) ops->buffer_free(t->b, buffers[i]);
    free(t);
}

/* n_ops one after the other, and the end of them awaited. */
static err ops_run(struct op_time *t, uint32_t n_rows, uint32_t n_ops, double *seconds) {
    double begin = clock_s();
    for (uint32_t i = 0; i < n_ops; i++) TRY(t->kind->run(t, n_rows));
    TRY(t->b->ops->finish(t->b));
    *seconds = clock_s() - begin;
    return OK;
}

err op_time_run(struct op_time *t, uint32_t n_rows, double max_s, double *seconds) {
    double times[RUNS_MAX], s, sum = 0, run_s = max_s / 20;
    uint32_t n = 0, n_ops;
    if (n_rows > t->row.n_rows) return err_set(ERR_INTERNAL, "%u rows, prepared for %u", n_rows, t->row.n_rows);
    TRY(ops_run(t, n_rows, 1, &s)); /* a driver may finish building a kernel now */
    TRY(ops_run(t, n_rows, 2, &s));
    n_ops = s * RUN_OPS_MAX / 2 < run_s ? RUN_OPS_MAX : (uint32_t)(2 * run_s / s) + 1;
    while (n < RUNS_MAX && (n < RUNS_MIN || sum < max_s)) {
        TRY(ops_run(t, n_rows, n_ops, &s));
        times[n++] = s / n_ops;
        sum += s;
    }
    *seconds = median_of(times, n);
    return OK;
}

/* As ops_run, once more where it took long: a pause that a quota makes comes once in a few runs. */
static err ops_run_unpaused(struct op_time *t, uint32_t n_rows, uint32_t n_ops, double *seconds) {
    *seconds = INFINITY;
    for (int i = 0; i < UNPAUSED_TRIES && *seconds >= MEAN_RUN_S; i++) {
        double s;
        TRY(ops_run(t, n_rows, n_ops, &s));
        if (s < *seconds) *seconds = s;
    }
    return OK;
}

err op_time_mean(struct op_time *t, uint32_t n_rows, double least_s, double *seconds) {
    double s, sum = 0;
    uint64_t n = 0;
    uint32_t n_ops = 1;
    if (n_rows > t->row.n_rows) return err_set(ERR_INTERNAL, "%u rows, prepared for %u", n_rows, t->row.n_rows);
    TRY(ops_run(t, n_rows, 1, &s)); /* a driver may finish building a kernel now */
    TRY(ops_run_unpaused(t, n_rows, 1, &s));
    while (s < MEAN_RUN_S && n_ops < RUN_OPS_MAX) {
        n_ops *= 2;
        TRY(ops_run_unpaused(t, n_rows, n_ops, &s));
    }
    do {
        TRY(ops_run(t, n_rows, n_ops, &s));
        n += n_ops;
        sum += s;
    } while (sum < least_s);
    *seconds = sum / (double)n;
    return OK;
}

double op_time_packed_per_s(const struct op_time *t) { return t->packed_per_s; }

struct op_cost op_time_cost(const struct op_time *t, uint32_t n_rows) { return t->kind->cost(t, n_rows); }

const enum op_kind *op_time_kinds(uint32_t *n) {
    static enum op_kind kinds[N_CASES];
    for (int i = 0; i < N_CASES; i++) kinds[i] = cases[i].op;
    *n = N_CASES;
    return kinds;
}
