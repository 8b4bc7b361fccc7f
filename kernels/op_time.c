#include "kernels/op_time.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

#define MATRICES_MAX 1024
#define RUN_S 0.02   /* of one run of calls */
#define TOTAL_S 0.4  /* of all runs of one count of rows */
#define RUNS_MIN 3
#define RUNS_MAX 64
#define RUN_CALLS_MAX 512

struct bench {
    struct backend *b;
    struct matrix *matrices[MATRICES_MAX];
    uint32_t n_matrices, next; /* next: to be used */
    uint32_t out, in, segment_cols;
    struct tree tree;
    struct buffer *x, *q8, *y;
    struct buffer *product_in; /* x or q8 */
    uint32_t n_rows;           /* of the product that is timed now */
};

/* Bytes from 32 to 63: whichever format reads them, no factor is infinite, none denormal. */
static err plain_read(void *context, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                      uint64_t col_end, void *dst) {
    enum format f = *(const enum format *)context;
    size_t n = (row_end - row_begin) * format_bytes(f, col_end - col_begin);
    uint64_t z = row_begin + 1;
    uint8_t *at = dst;
    for (size_t i = 0; i < n; i++) {
        if (i % 8 == 0) z = z * 0x9E3779B97F4A7C15u + 0xD1B54A32D192ED03u;
        at[i] = (uint8_t)(32 | (z >> (24 + i % 8 * 5) & 31));
    }
    return OK;
}

static err matrices_load(struct bench *t, enum format f, uint64_t *matrix_bytes) {
    struct matrix_source source = {f, &f, plain_read};
    uint64_t sum = 0;
    while (sum < OP_TIME_WORKING_BYTES && t->n_matrices < MATRICES_MAX) {
        struct matrix **m = &t->matrices[t->n_matrices];
        TRY(matrix_load(t->b, &source, 0, t->out, 0, t->in, m));
        t->n_matrices++;
        *matrix_bytes = t->b->ops->matrix_bytes(*m);
        sum += *matrix_bytes;
    }
    return OK;
}

static err values_create(struct bench *t, uint32_t rows_max) {
    const struct backend_ops *ops = t->b->ops;
    size_t n = (size_t)rows_max * t->in;
    float *values;
    TRY(ops->buffer_create(t->b, n * sizeof *values, &t->x));
    TRY(ops->buffer_create(t->b, q8_bytes(rows_max, t->in), &t->q8));
    TRY(ops->buffer_create(t->b, (size_t)t->tree.n_results * rows_max * t->out * 4, &t->y));
    TRY(NEW(values, n));
    for (size_t i = 0; i < n; i++) values[i] = (float)(i * 7919 % 255) / 127 - 1;
    err e = ops->buffer_write(t->b, t->x, 0, n * sizeof *values, values);
    free(values);
    return e;
}

/* What is timed: one call, again and again. */
struct timed {
    struct backend *b;
    err (*call)(void *context);
    void *context;
};

/* n_calls one after the other, and the end of them awaited. */
static err calls_run(const struct timed *t, uint32_t n_calls, double *seconds) {
    double begin = clock_s();
    for (uint32_t i = 0; i < n_calls; i++) TRY(t->call(t->context));
    TRY(t->b->ops->finish(t->b));
    *seconds = clock_s() - begin;
    return OK;
}

static int compare_times(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static err calls_time(const struct timed *t, double *median) {
    double times[RUNS_MAX], s, sum = 0;
    uint32_t n = 0, n_calls;
    TRY(calls_run(t, 1, &s)); /* a driver may finish building a kernel now */
    TRY(calls_run(t, 2, &s));
    n_calls = s * RUN_CALLS_MAX / 2 < RUN_S ? RUN_CALLS_MAX : (uint32_t)(2 * RUN_S / s) + 1;
    while (n < RUNS_MAX && (n < RUNS_MIN || sum < TOTAL_S)) {
        TRY(calls_run(t, n_calls, &s));
        times[n++] = s / n_calls;
        sum += s;
    }
    qsort(times, n, sizeof *times, compare_times);
    *median = times[n / 2];
    return OK;
}

static err product_call(void *context) {
    struct bench *t = context;
    struct product product = {t->matrices[t->next++ % t->n_matrices], 0, t->out, t->y};
    return t->b->ops->linear(t->b, &product, 1, t->product_in, t->n_rows, t->segment_cols, &t->tree);
}

static err bench_run(struct bench *t, enum format f, const uint32_t *n_rows, uint32_t n, double *seconds,
                     uint64_t *matrix_bytes) {
    int is_quantised = format_info(f)->is_quantised;
    uint32_t rows_max = 0, n_segments = segment_count(t->in / 32);
    for (uint32_t i = 0; i < n; i++) rows_max = n_rows[i] > rows_max ? n_rows[i] : rows_max;
    t->segment_cols = t->in / n_segments;
    tree_own(n_segments, (struct range){0, n_segments}, &t->tree);
    struct backend_limits limits = {rows_max, 1, 1, 32}; /* nothing attends here */
    TRY(t->b->ops->prepare(t->b, &limits));
    TRY(matrices_load(t, f, matrix_bytes));
    TRY(values_create(t, rows_max));
    for (uint32_t i = 0; i < n; i++) {
        if (is_quantised) TRY(t->b->ops->quantize(t->b, t->x, n_rows[i], t->in, t->q8));
        t->product_in = is_quantised ? t->q8 : t->x;
        t->n_rows = n_rows[i];
        TRY(calls_time(&(struct timed){t->b, product_call, t}, &seconds[i]));
    }
    return OK;
}

err op_time_linear(struct backend *b, enum format f, uint32_t out, uint32_t in, const uint32_t *n_rows,
                   uint32_t n, double *seconds, uint64_t *matrix_bytes) {
    struct bench *t;
    TRY(NEW(t, 1));
    t->b = b;
    t->out = out;
    t->in = in;
    err e = bench_run(t, f, n_rows, n, seconds, matrix_bytes);
    for (uint32_t i = 0; i < t->n_matrices; i++) b->ops->matrix_free(b, t->matrices[i]);
    b->ops->buffer_free(b, t->x);
    b->ops->buffer_free(b, t->q8);
    b->ops->buffer_free(b, t->y);
    free(t);
    return e;
}

#define CACHES_MAX 256

struct attend_bench {
    struct backend *b;
    struct attend_shape shape;
    struct cache *caches[CACHES_MAX];
    uint32_t n_caches, next, n_rows;
    struct row_places places;
    struct buffer *q, *out;
};

static err attend_call(void *context) {
    struct attend_bench *t = context;
    struct cache *c = t->caches[t->next++ % t->n_caches];
    return t->b->ops->attend(t->b, c, t->q, &t->places, &t->shape, t->n_rows, t->out);
}

/* n integers from `first` on, `step` apart. */
static err integers_create(struct backend *b, int32_t first, int32_t step, uint32_t n, struct buffer **out) {
    int32_t *values;
    TRY(b->ops->buffer_create(b, n * sizeof *values, out));
    TRY(NEW(values, n));
    for (uint32_t i = 0; i < n; i++) values[i] = first + step * (int32_t)i;
    err e = b->ops->buffer_write(b, *out, 0, n * sizeof *values, values);
    free(values);
    return e;
}

static err queries_create(struct attend_bench *t, uint32_t n) {
    float *values;
    TRY(t->b->ops->buffer_create(t->b, n * sizeof *values, &t->q));
    TRY(t->b->ops->buffer_create(t->b, n * sizeof *values, &t->out));
    TRY(NEW(values, n));
    for (uint32_t i = 0; i < n; i++) values[i] = (float)(i * 7919 % 255) / 127 - 1;
    err e = t->b->ops->buffer_write(t->b, t->q, 0, n * sizeof *values, values);
    free(values);
    return e;
}

/* Caches stay empty: how long a kernel takes does not depend on what it reads. */
static err attend_bench_run(struct attend_bench *t, uint32_t context, enum format kv, double *seconds,
                            uint64_t *bytes) {
    const struct attend_shape *s = &t->shape;
    uint32_t n_blocks = (context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    struct cache_shape shape = {n_blocks, s->n_kv_heads, s->head_dim, kv};
    struct backend_limits limits = {t->n_rows, context, s->n_heads, s->head_dim};
    *bytes = (uint64_t)context * s->n_kv_heads * s->head_dim * (kv == FORMAT_F16 ? 4 : 8);
    TRY(t->b->ops->prepare(t->b, &limits));
    while (t->n_caches < CACHES_MAX && *bytes * t->n_caches < OP_TIME_WORKING_BYTES) {
        TRY(t->b->ops->cache_create(t->b, &shape, &t->caches[t->n_caches]));
        t->n_caches++;
    }
    TRY(integers_create(t->b, (int32_t)(context - t->n_rows), 1, t->n_rows, &t->places.position));
    TRY(integers_create(t->b, 0, 0, t->n_rows, &t->places.table_begin));
    TRY(integers_create(t->b, 0, 1, n_blocks, &t->places.table));
    TRY(queries_create(t, t->n_rows * s->n_heads * s->head_dim));
    return calls_time(&(struct timed){t->b, attend_call, t}, seconds);
}

err op_time_attend(struct backend *b, uint32_t n_heads, uint32_t n_kv_heads, uint32_t head_dim, uint32_t context,
                   uint32_t n_rows, enum format kv, double *seconds, uint64_t *kv_bytes) {
    struct attend_bench *t;
    TRY(NEW(t, 1));
    t->b = b;
    t->n_rows = n_rows;
    t->shape = (struct attend_shape){.n_heads = n_heads, .n_kv_heads = n_kv_heads, .head_dim = head_dim,
                                     .group = n_heads / n_kv_heads,
                                     .n_chunks = (context + ATTEND_CHUNK - 1) / ATTEND_CHUNK};
    err e = attend_bench_run(t, context, kv, seconds, kv_bytes);
    struct buffer *const buffers[] = {t->places.position, t->places.table_begin, t->places.table, t->q, t->out};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) b->ops->buffer_free(b, buffers[i]);
    for (uint32_t i = 0; i < t->n_caches; i++) b->ops->cache_free(b, t->caches[i]);
    free(t);
    return e;
}
