#include "kernels/op_time.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

#define MATRICES_MAX 1024
#define RUN_S 0.02   /* of one run of products */
#define TOTAL_S 0.4  /* of all runs of one count of rows */
#define RUNS_MIN 3
#define RUNS_MAX 64
#define RUN_PRODUCTS_MAX 512

struct bench {
    struct backend *b;
    struct matrix *matrices[MATRICES_MAX];
    uint32_t n_matrices, next; /* next: to be used */
    uint32_t out, in, segment_cols;
    struct tree tree;
    struct buffer *x, *q8, *y;
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

/* n_products one after the other, and the end of them awaited. */
static err products_run(struct bench *t, struct buffer *in, uint32_t n_rows, uint32_t n_products, double *seconds) {
    double begin = clock_s();
    for (uint32_t i = 0; i < n_products; i++) {
        struct product product = {t->matrices[t->next++ % t->n_matrices], 0, t->out, t->y};
        TRY(t->b->ops->linear(t->b, &product, 1, in, n_rows, t->segment_cols, &t->tree));
    }
    TRY(t->b->ops->finish(t->b));
    *seconds = clock_s() - begin;
    return OK;
}

static int compare_times(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static err rows_time(struct bench *t, struct buffer *in, uint32_t n_rows, double *median) {
    double times[RUNS_MAX], s, sum = 0;
    uint32_t n = 0, n_products;
    TRY(products_run(t, in, n_rows, 1, &s)); /* a driver may finish building a kernel now */
    TRY(products_run(t, in, n_rows, 2, &s));
    n_products = s * RUN_PRODUCTS_MAX / 2 < RUN_S ? RUN_PRODUCTS_MAX : (uint32_t)(2 * RUN_S / s) + 1;
    while (n < RUNS_MAX && (n < RUNS_MIN || sum < TOTAL_S)) {
        TRY(products_run(t, in, n_rows, n_products, &s));
        times[n++] = s / n_products;
        sum += s;
    }
    qsort(times, n, sizeof *times, compare_times);
    *median = times[n / 2];
    return OK;
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
        TRY(rows_time(t, is_quantised ? t->q8 : t->x, n_rows[i], &seconds[i]));
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
