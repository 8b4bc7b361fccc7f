#include "kernels/probe.h"

#include <stdlib.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/read_bandwidth.h"
#include "kernels/device.h"
#include "kernels/op_time.h"
#include "kernels/peak.h"

#define MEASURE_VERSION 7 /* of this file: another one may measure otherwise */
#define FIGURE_S 0.5 /* whole periods of a quota, which are 100 ms unless somebody chose otherwise */
#define LESSER_S 0.3 /* of figures that fill gaps */
#define MANY_ROWS RATES_ROWS
#define WORKING_BYTES ((uint64_t)256 << 20)
#define SIDE_MOST 4096u
#define SIDE_LEAST 256u
#define MANY_MOST_S 0.05 /* of one product of many rows */
#define SIMULATED_S 0.005 /* the smallest product of one row: no device that is real takes so long */
#define SIMULATED_ROWS 4
#define PILOT_TRIES 3
#define SMALL_WIDTH 256
#define COPY_BYTES ((size_t)32 << 20)

struct probe {
    struct backend *b;
    const struct probe_request *r;
    struct device_rates *out;
    uint32_t n_done, n_all;
    int is_simulated;
    uint32_t side, n_rows; /* of products: the matrix, many rows */
};

static void figure_done(struct probe *p) {
    if (p->r->on_figure) p->r->on_figure(p->r->context, ++p->n_done, p->n_all);
}

/* ---- products ---- */

static err product_create(const struct probe *p, enum format f, uint32_t side, uint32_t n_rows, uint64_t working_bytes,
                          struct op_time **out) {
    const struct op_row row = {.op = OP_LINEAR, .variant = "", .format = f, .n_rows = n_rows, .out = side, .in = side};
    return op_time_create(p->b, &row, working_bytes, out);
}

/* The least of a few: a pause that a quota makes is no property of the device. */
static err pilot_run(struct op_time *t, uint32_t n_rows, double *seconds) {
    *seconds = 1e9;
    for (int i = 0; i < PILOT_TRIES && *seconds > SIMULATED_S / 10; i++) {
        double s;
        TRY(op_time_mean(t, n_rows, 0, &s));
        if (s < *seconds) *seconds = s;
    }
    return OK;
}

uint32_t probe_side(uint32_t side) {
    if (side == 0 || side > SIDE_MOST) return SIDE_MOST;
    return side < SIDE_LEAST ? SIDE_LEAST : side / SIDE_LEAST * SIDE_LEAST;
}

/* How large products may be, by the smallest. */
static err sizes_choose(struct probe *p, enum format f) {
    struct op_time *t;
    double seconds = 0;
    TRY(product_create(p, f, SIDE_LEAST, MANY_ROWS, 0, &t));
    err e = pilot_run(t, 1, &seconds);
    p->is_simulated = seconds > SIMULATED_S;
    p->n_rows = p->is_simulated ? SIMULATED_ROWS : MANY_ROWS;
    p->side = SIDE_LEAST;
    if (e == OK && !p->is_simulated) {
        e = pilot_run(t, MANY_ROWS, &seconds);
        for (p->side = p->r->side; p->side > SIDE_LEAST; p->side = probe_side(p->side / 2)) {
            double scale = (double)p->side / SIDE_LEAST;
            if (seconds * scale * scale <= MANY_MOST_S) break;
        }
    }
    op_time_free(t);
    return e;
}

/* Of distinct matrices: several times a cache, and within what may be used. */
static uint64_t working_bytes(const struct probe *p) {
    uint64_t most = WORKING_BYTES, device = p->b->memory_bytes / 8;
    if (p->is_simulated) return 0;
    if (p->r->memory_max_bytes && p->r->memory_max_bytes < most) most = p->r->memory_max_bytes;
    return device && device < most ? device : most;
}

static err format_measure(struct probe *p, enum format f) {
    struct op_time *t;
    double one, few = 0, many;
    if (!p->side) TRY(sizes_choose(p, f));
    TRY(product_create(p, f, p->side, p->n_rows, working_bytes(p), &t));
    err e = op_time_mean(t, 1, p->is_simulated ? 0 : FIGURE_S, &one);
    figure_done(p);
    if (e == OK && !p->is_simulated) e = op_time_mean(t, RATES_FEW, FIGURE_S, &few);
    figure_done(p);
    if (e == OK) e = op_time_mean(t, p->n_rows, p->is_simulated ? 0 : FIGURE_S, &many);
    figure_done(p);
    if (e == OK) {
        p->out->row_per_s[f] = op_time_cost(t, 1).bytes / one;
        if (few > 0) p->out->few_per_s[f] = op_time_cost(t, RATES_FEW).operations / few;
        p->out->products_per_s[f] = op_time_cost(t, p->n_rows).operations / many;
        if (!p->r->only_formats) p->out->pack_per_s = op_time_packed_per_s(t);
    }
    op_time_free(t);
    return e;
}

static err alone_measure(struct probe *p, enum format f) {
    struct op_time *t;
    double one;
    if (!p->side) TRY(sizes_choose(p, f));
    TRY(product_create(p, f, p->side, 1, working_bytes(p), &t));
    err e = op_time_mean(t, 1, p->is_simulated ? 0 : FIGURE_S, &one);
    if (e == OK) p->out->alone_per_s[f] = op_time_cost(t, 1).bytes / one;
    op_time_free(t);
    figure_done(p);
    return e;
}

/* ---- steps ---- */

static err launch_measure(struct probe *p) {
    const struct op_row row = {.op = OP_NORM, .variant = "", .n_rows = 1, .in = SMALL_WIDTH};
    struct op_time *t;
    TRY(op_time_create(p->b, &row, 0, &t));
    err e = op_time_mean(t, 1, p->is_simulated ? 0 : LESSER_S, &p->out->launch_s);
    op_time_free(t);
    figure_done(p);
    return e;
}

static err plain_measure(struct probe *p) {
    const struct op_row row = {.op = OP_REDUCE, .variant = "", .n_rows = p->n_rows, .in = p->side, .option = 1};
    struct op_time *t;
    double seconds = 0;
    TRY(op_time_create(p->b, &row, 0, &t));
    err e = op_time_mean(t, p->n_rows, p->is_simulated ? 0 : LESSER_S, &seconds);
    op_time_free(t);
    if (e == OK) p->out->plain_per_s = (double)p->n_rows * p->side / seconds;
    figure_done(p);
    return e;
}

/* What a step writes, one op of it, what it reads: again and again. */
static err step_repeat(struct probe *p, struct buffer *in, struct buffer *out, double *seconds) {
    static const float values[SMALL_WIDTH];
    float back[SMALL_WIDTH];
    double begin = 0, least_s = p->is_simulated ? 0 : LESSER_S;
    int64_t n = -1; /* the first is not counted: a driver may build something */
    do {
        if (++n == 0) begin = clock_s();
        TRY(p->b->ops->buffer_send(p->b, in, 0, sizeof values, values));
        TRY(p->b->ops->quantize(p->b, in, 1, SMALL_WIDTH, out));
        TRY(p->b->ops->buffer_read(p->b, out, 0, q8_bytes(1, SMALL_WIDTH), back));
        if (n == 0) begin = clock_s();
    } while (n < 1 || clock_s() - begin < least_s);
    *seconds = (clock_s() - begin) / (double)n;
    return OK;
}

static err step_measure(struct probe *p) {
    struct buffer *in = NULL, *out = NULL;
    const struct backend_ops *ops = p->b->ops;
    double seconds = 0;
    TRY(ops->prepare(p->b, &(struct backend_limits){1, 1, 1, PACKED_BLOCK}));
    err e = ops->buffer_create(p->b, SMALL_WIDTH * sizeof(float), &in);
    if (e == OK) e = ops->buffer_create(p->b, q8_bytes(1, SMALL_WIDTH), &out);
    if (e == OK) e = step_repeat(p, in, out, &seconds);
    if (out) ops->buffer_free(p->b, out);
    if (in) ops->buffer_free(p->b, in);
    p->out->step_s = seconds > p->out->launch_s ? seconds - p->out->launch_s : seconds;
    figure_done(p);
    return e;
}

/* There and back, in turn. */
static err copy_repeat(struct probe *p, struct buffer *m, void *memory, double *bytes_per_s) {
    double begin = 0;
    int64_t n = -1;
    do {
        if (++n == 0) begin = clock_s();
        TRY(p->b->ops->buffer_write(p->b, m, 0, COPY_BYTES, memory));
        TRY(p->b->ops->buffer_read(p->b, m, 0, COPY_BYTES, memory));
        if (n == 0) begin = clock_s();
    } while (n < 1 || clock_s() - begin < LESSER_S);
    *bytes_per_s = 2.0 * (double)n * (double)COPY_BYTES / (clock_s() - begin);
    return OK;
}

static err copy_measure(struct probe *p) {
    struct buffer *m = NULL;
    uint8_t *memory;
    if (p->b->is_host || p->is_simulated) return OK;
    TRY(NEW(memory, COPY_BYTES));
    err e = p->b->ops->buffer_create(p->b, COPY_BYTES, &m);
    if (e == OK) e = copy_repeat(p, m, memory, &p->out->copy_per_s);
    if (m) p->b->ops->buffer_free(p->b, m);
    free(memory);
    figure_done(p);
    return e;
}

/* ---- roofs ---- */

static err roofs_measure(struct probe *p) {
    struct peak peak = {0};
    if (p->is_simulated) {
        for (int f = 0; f < N_FORMATS; f++) /* what reads weights reads memory */
            if (p->out->row_per_s[f] > p->out->read_per_s) p->out->read_per_s = p->out->row_per_s[f];
        return OK;
    }
    if (p->r->choice) TRY(peak_sustained(p->r->choice, LESSER_S, &peak));
    figure_done(p);
    if (p->b->is_host)
        TRY(read_bandwidth_within(working_bytes(p), p->r->n_threads, LESSER_S, &peak.read_per_s));
    p->out->read_per_s = peak.read_per_s;
    p->out->int8_per_s = peak.int8_per_s;
    p->out->f32_per_s = peak.f32_per_s;
    figure_done(p);
    return OK;
}

static err figures_measure(struct backend *b, const struct probe_request *r, struct device_rates *out) {
    struct probe p = {.b = b, .r = r, .out = out};
    uint32_t n_of_format = r->is_alone ? 1 : 3;
    enum format any = FORMAT_Q8_0;
    for (int f = 0; f < N_FORMATS; f++) {
        if (!r->has_format[f]) continue;
        p.n_all += n_of_format;
        any = (enum format)f;
    }
    if (!r->only_formats && !r->is_alone) p.n_all += b->is_host ? 5 : 6;
    for (int f = 0; f < N_FORMATS; f++)
        if (r->has_format[f]) TRY(r->is_alone ? alone_measure(&p, (enum format)f) : format_measure(&p, (enum format)f));
    if (r->only_formats || r->is_alone) return OK;
    if (!p.side) TRY(sizes_choose(&p, any));
    TRY(launch_measure(&p));
    TRY(plain_measure(&p));
    TRY(step_measure(&p));
    TRY(copy_measure(&p));
    return roofs_measure(&p);
}

err probe_device(struct backend *b, const struct probe_request *r, struct device_rates *out) {
    struct cache *cache = NULL; /* not used, but there, as when a model runs: see can_chain */
    if (b->can_chain) TRY(b->ops->cache_create(b, &(struct cache_shape){1, 1, 32, FORMAT_F16}, &cache));
    err e = figures_measure(b, r, out);
    if (cache) b->ops->cache_free(b, cache);
    return e;
}

err probe_identity(const struct device_choice *choice, struct bytes *out) {
    struct device d;
    if (!choice) return bytes_printf(out, "plain C, measured as %d", MEASURE_VERSION);
    TRY(device_open(choice, &d));
    tune_find(&(struct tune_device){d.platform, d.name, d.driver}, &d.tuning);
    err e = bytes_printf(out, "%s / %s, %s, driver %s, kernels %016llx, measured as %d, tuned", d.platform, d.name,
                         d.version, d.driver, (unsigned long long)device_sources_hash(), MEASURE_VERSION);
    for (int i = 0; e == OK && i < N_TUNABLES; i++) e = bytes_printf(out, " %u", d.tuning.values[i]);
    device_close(&d);
    return e;
}
