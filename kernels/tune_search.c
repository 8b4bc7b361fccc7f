#include "kernels/tune_search.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/median.h"
#include "kernels/op_time.h"

#define TIMERS_MAX 16
#define COUNTS_MAX 8
#define ROUNDS 3
#define RUN_S 0.01          /* of one timing */
#define NEAR 1.2            /* further off after one timing: not timed again */
#define FASTER 0.97         /* times that are nearer are called the same */
#define WIDTH 2048
#define HEADS 32
#define KV_HEADS 4
#define HEAD_DIM 64
#define CONTEXT 4096
#define GEMM_ROWS 256
#define GEMM_OUT 512        /* a tile of gemm.c */
#define GEMM_ROWS_LEAST 16
#define NEVER (1u << 30)    /* rows: CLBlast is not asked */
#define DRAWS_MAX 200000    /* until parameters obey the rules */
#define ITEM_SUMS_MAX 256   /* of a work-item: more are slow to compile, and leave the registers */
#define ITEM_WORK_MAX 1024  /* unrolled */
#define GROUP_ITEMS_MAX 256

struct search {
    const struct tune_request *request;
    struct tune_report *out;
    double begin_s;
    uint32_t dense_at; /* the first dense format; n_formats: none, and CLBlast takes no time */
    uint64_t random; /* state of splitmix64 */
};

/* A device with a tuning, and ops ready to be timed on it. */
struct trial {
    struct backend *b;
    struct op_time *timers[TIMERS_MAX];
    uint32_t n_timers;
};

/* What is timed for a concern: each row on several counts of rows. */
struct workload {
    struct op_row rows[TIMERS_MAX];
    uint32_t n_rows, counts[COUNTS_MAX], n_counts;
    uint64_t working_bytes; /* of each: 0 where it comes from a cache */
};

static double elapsed(const struct search *s) { return (clock_s() - s->begin_s) / s->request->seconds; }

static void show(const struct search *s, const char *what) {
    double share = elapsed(s);
    if (s->request->progress) s->request->progress(s->request->context, what, share < 1 ? share : 1);
}

static uint64_t draw(struct search *s) {
    uint64_t z = s->random += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* ---- trials ---- */

static void workload_add(struct workload *w, struct op_row row) {
    if (w->n_rows < TIMERS_MAX) w->rows[w->n_rows++] = row;
}

static void workload_counts(struct workload *w, const uint32_t *counts, uint32_t n) {
    w->n_counts = n;
    memcpy(w->counts, counts, n * sizeof *counts);
    for (uint32_t i = 0; i < w->n_rows; i++) w->rows[i].n_rows = counts[n - 1];
}

/* What a concern needs: counts of rows, and products of which formats; dense ones stay under the rows that
 * CLBlast takes, which is another choice. */
static const struct concern {
    uint32_t counts[COUNTS_MAX], n_counts;
    int has_quantised, has_dense, is_from_memory;
} concerns[N_TUNE_CONCERNS] = {
    [TUNE_OF_PLAIN] = {{1, 48}, 2, 0, 0, 0},
    [TUNE_OF_ONE_LANE] = {{1, 48}, 2, 1, 1, 0},
    [TUNE_OF_FEW] = {{1, 8}, 2, 1, 0, 1},
    [TUNE_OF_FEW_DENSE] = {{1, 8}, 2, 0, 1, 1},
    [TUNE_OF_ATTEND] = {{1}, 1, 0, 0, 1},
    [TUNE_OF_MANY] = {{16, 256}, 2, 1, 0, 0},
    [TUNE_OF_AMX] = {{16, 256}, 2, 1, 0, 0},
    [TUNE_OF_TILES] = {{2, 3, 4, 5, 6, 7, 8, 12}, 8, 1, 0, 0}, /* no width may be favoured */
};

static void workload_make(const struct tune_request *r, enum tune_concern concern, struct workload *w) {
    const struct concern *c = &concerns[concern];
    *w = (struct workload){.working_bytes = c->is_from_memory ? OP_TIME_WORKING_BYTES : 0};
    if (concern == TUNE_OF_PLAIN) {
        workload_add(w, (struct op_row){OP_QUANTIZE, "", FORMAT_F32, 0, WIDTH, WIDTH, 0, 0});
        workload_add(w, (struct op_row){OP_SELECT, "", FORMAT_F32, 0, WIDTH, WIDTH, 0, 0});
    }
    if (concern == TUNE_OF_ATTEND)
        workload_add(w, (struct op_row){OP_ATTEND, "", FORMAT_F16, 0, HEADS, HEAD_DIM, CONTEXT - 1, KV_HEADS});
    for (uint32_t f = 0; f < r->n_formats; f++)
        if (format_info(r->formats[f])->is_quantised ? c->has_quantised : c->has_dense)
            workload_add(w, (struct op_row){OP_LINEAR, "", r->formats[f], 0, WIDTH, WIDTH, 0, 0});
    workload_counts(w, c->counts, c->n_counts);
}

static void trial_close(struct trial *t) {
    for (uint32_t i = 0; i < t->n_timers; i++) op_time_free(t->timers[i]);
    if (t->b) t->b->ops->destroy(t->b);
    *t = (struct trial){.b = NULL};
}

static err trial_prepare(struct trial *t, const struct workload *w) {
    for (; t->n_timers < w->n_rows; t->n_timers++)
        TRY(op_time_create(t->b, &w->rows[t->n_timers], w->working_bytes, &t->timers[t->n_timers]));
    return OK;
}

/* forms NULL: the device's own, and the op table is checked as kernels are built. */
static err trial_open(const struct search *s, const struct kernel_forms *forms, const struct tuning *tuning,
                      const struct workload *w, struct trial *out) {
    *out = (struct trial){.b = NULL};
    TRY(backend_opencl_tuned(s->request->device, forms, tuning, &out->b));
    err e = trial_prepare(out, w);
    if (e != OK) trial_close(out);
    return e;
}

/* In turn, so that what else the machine does is shared by both: the geometric mean of the ratios b / a, and
 * of the times of a. */
static err trials_compare(const struct trial *a, const struct trial *b, const struct workload *w, double *ratio,
                          double *seconds) {
    double log_ratio = 0, log_seconds = 0;
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_timers; i++)
        for (uint32_t c = 0; c < w->n_counts; c++, n++) {
            double of_a[ROUNDS], of_b[ROUNDS];
            for (int k = 0; k < ROUNDS; k++) {
                TRY(op_time_run(a->timers[i], w->counts[c], RUN_S, &of_a[k]));
                TRY(op_time_run(b->timers[i], w->counts[c], RUN_S, &of_b[k]));
            }
            log_ratio += log(median_of(of_b, ROUNDS) / median_of(of_a, ROUNDS));
            log_seconds += log(median_of(of_a, ROUNDS));
        }
    *ratio = exp(log_ratio / n);
    *seconds = exp(log_seconds / n);
    return OK;
}

/* ---- our own ---- */

/* One value against the best so far, which it replaces where it is faster twice. */
static err value_try(struct search *s, const struct workload *w, uint32_t value, struct trial *best,
                     struct tune_choice *choice) {
    struct tuning tuning = s->out->tuning;
    struct trial trial;
    double ratio, again = 1, seconds;
    tuning.values[choice->tunable] = value;
    choice->n_tried++;
    if (trial_open(s, NULL, &tuning, w, &trial) != OK) {
        choice->n_refused++;
        return OK;
    }
    err e = trials_compare(best, &trial, w, &ratio, &seconds);
    if (e == OK && choice->before_us == 0) choice->before_us = choice->after_us = seconds * 1e6;
    if (e == OK && ratio < FASTER) e = trials_compare(best, &trial, w, &again, &seconds);
    if (e == OK && ratio < FASTER && again < FASTER) {
        struct trial slower = *best;
        *best = trial;
        trial = slower;
        choice->after_us *= sqrt(ratio * again);
        s->out->tuning = tuning;
    }
    trial_close(&trial);
    return e;
}

static err tunable_search(struct search *s, int id) {
    const struct tunable *t = &tunables[id];
    struct tune_choice *choice = &s->out->choices[s->out->n_choices++];
    struct workload w;
    struct trial best;
    *choice = (struct tune_choice){.tunable = id};
    workload_make(s->request, t->concern, &w);
    if (w.n_rows == 0) return OK; /* no format that it concerns */
    TRY(trial_open(s, NULL, &s->out->tuning, &w, &best));
    err e = OK;
    double end = s->dense_at < s->request->n_formats ? 0.5 : 1;
    for (uint32_t i = 0; i < t->n_values && e == OK && elapsed(s) < end; i++) {
        char what[64];
        if (t->values[i] == t->fallback) continue;
        snprintf(what, sizeof what, "%s = %u", t->name, t->values[i]);
        show(s, what);
        e = value_try(s, &w, t->values[i], &best, choice);
    }
    trial_close(&best);
    return e;
}

/* ---- CLBlast ---- */

/* Where to begin: a CPU's registers, a GPU's work-groups. */
static const uint32_t xgemm_seeds[][CLBLAST_PARAMETERS_MAX] = {
    /* GEMMK KREG KWG KWI MDIMA MDIMC MWG NDIMB NDIMC NWG SA SB STRM STRN VWM VWN */
    {0, 1, 16, 2, 1, 1, 32, 1, 1, 8, 0, 0, 0, 0, 16, 1},
    {0, 1, 16, 2, 8, 8, 64, 8, 8, 64, 1, 1, 0, 0, 2, 2},
};
static const uint32_t direct_seeds[][CLBLAST_PARAMETERS_MAX] = {
    /* KWID MDIMAD MDIMCD NDIMBD NDIMCD PADA PADB VWMD VWND WGD */
    {2, 1, 1, 1, 1, 0, 0, 8, 1, 16},
    {2, 8, 8, 8, 8, 1, 1, 4, 1, 32},
};

/* One of the two ways that CLBlast has, ours beside it as the measure: its parameters cannot be taken back, so
 * that two sets of them cannot be timed in turn. */
struct clblast_search {
    struct search *s;
    struct workload w;
    struct trial own;
    struct tuning best;
    double best_ratio; /* to ours */
    double own_s;
    struct tune_choice *choice;
};

static uint32_t value_of(const struct clblast_kernel *k, const uint32_t *values, const char *name) {
    for (uint32_t i = 0; i < k->n_parameters; i++)
        if (strcmp(k->parameters[i].name, name) == 0) return values[i];
    return 1;
}

/* Not against the rules, but hopeless or slow to compile. */
static int is_too_large(enum clblast_id id, const uint32_t *values) {
    const struct clblast_kernel *k = &clblast_kernels[id];
    int is_direct = id == CLBLAST_DIRECT;
    uint32_t m = value_of(k, values, is_direct ? "WGD" : "MWG"), n = value_of(k, values, is_direct ? "WGD" : "NWG");
    uint32_t m_items = value_of(k, values, is_direct ? "MDIMCD" : "MDIMC");
    uint32_t n_items = value_of(k, values, is_direct ? "NDIMCD" : "NDIMC");
    uint32_t sums = (m / m_items) * (n / n_items), unroll = value_of(k, values, is_direct ? "KWID" : "KWI");
    return m_items * n_items > GROUP_ITEMS_MAX || sums > ITEM_SUMS_MAX || sums * unroll > ITEM_WORK_MAX;
}

static int is_possible(enum clblast_id id, const uint32_t *values) {
    return !clblast_breach(id, values) && !is_too_large(id, values);
}

/* Any set that obeys the rules, or, after a while, a change of up to three values of the best. */
static int parameters_draw(struct clblast_search *c, enum clblast_id id, int is_near, uint32_t *out) {
    const struct clblast_kernel *k = &clblast_kernels[id];
    for (int i = 0; i < DRAWS_MAX; i++) {
        uint64_t n_changes = is_near ? 1 + draw(c->s) % 3 : k->n_parameters;
        memcpy(out, c->best.clblast[id], sizeof c->best.clblast[id]);
        for (uint64_t n = 0; n < n_changes; n++) {
            uint64_t p = is_near ? draw(c->s) % k->n_parameters : n;
            out[p] = k->parameters[p].values[draw(c->s) % k->parameters[p].n_values];
        }
        if (is_possible(id, out) && memcmp(out, c->best.clblast[id], sizeof c->best.clblast[id]) != 0) return 1;
    }
    return 0;
}

static const struct kernel_forms by_clblast = {.lanes_per_item = 1, .has_half = 1, .has_gemm = 1};

/* Every dense product of the table that CLBlast would take, and one of several of its tiles. */
static err bits_check(struct backend *b, enum format f) {
    uint32_t n;
    const struct op_row *rows = op_table(&n), large = {OP_LINEAR, "", f, 96, 528, 512, 0, 16};
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].op == OP_LINEAR && !format_info(rows[i].format)->is_quantised && rows[i].n_rows >= GEMM_ROWS_LEAST)
            TRY(op_row_check(&rows[i], b));
    return op_row_check(&large, b);
}

/* How long CLBlast takes with a tuning, against ours. *is_good: it ran and gave the right bits. */
static err clblast_time(struct clblast_search *c, const struct tuning *tuning, double *ratio, int *is_good) {
    struct tuning t = *tuning;
    struct trial trial;
    t.values[TUNE_GEMM_ROWS_MIN] = GEMM_ROWS_LEAST;
    *is_good = 0;
    c->choice->n_tried++;
    if (trial_open(c->s, &by_clblast, &t, &c->w, &trial) != OK) {
        c->choice->n_refused++;
        return OK;
    }
    double once;
    err e = OK;
    *is_good = op_time_run(trial.timers[0], GEMM_ROWS, RUN_S, &once) == OK;
    *ratio = once / c->own_s;
    int is_near = *ratio < c->best_ratio * NEAR;
    if (*is_good && is_near) e = trials_compare(&c->own, &trial, &c->w, ratio, &c->own_s);
    if (*is_good && e == OK && *ratio < c->best_ratio) *is_good = bits_check(trial.b, c->w.rows[0].format) == OK;
    if (!*is_good) c->choice->n_refused++;
    trial_close(&trial);
    return e;
}

static err parameters_try(struct clblast_search *c, enum clblast_id id, const uint32_t *values) {
    struct tuning tuning = c->best;
    double ratio;
    int is_good;
    memcpy(tuning.clblast[id], values, sizeof tuning.clblast[id]);
    tuning.clblast[CLBLAST_ROUTINE][0] = id == CLBLAST_DIRECT ? 4096 : 1; /* below: the direct kernel */
    tuning.has_clblast[id] = tuning.has_clblast[CLBLAST_ROUTINE] = 1;
    TRY(clblast_time(c, &tuning, &ratio, &is_good));
    if (!is_good || ratio >= c->best_ratio * FASTER) return OK;
    c->best = tuning;
    c->best_ratio = ratio;
    return OK;
}

/* Until `end`, a share of the time. */
static err kernel_search(struct clblast_search *c, enum clblast_id id, double end) {
    const uint32_t(*seeds)[CLBLAST_PARAMETERS_MAX] = id == CLBLAST_DIRECT ? direct_seeds : xgemm_seeds;
    uint32_t n_seeds = id == CLBLAST_DIRECT ? sizeof direct_seeds / sizeof *direct_seeds
                                            : sizeof xgemm_seeds / sizeof *xgemm_seeds;
    double begin = elapsed(c->s);
    for (uint32_t i = 0; elapsed(c->s) < end; i++) {
        uint32_t values[CLBLAST_PARAMETERS_MAX];
        char what[96];
        int is_near = c->best.has_clblast[id] && (elapsed(c->s) > (begin + end) / 2 || i % 2);
        if (i < n_seeds) memcpy(values, seeds[i], sizeof values);
        else if (!parameters_draw(c, id, is_near, values)) return OK;
        snprintf(what, sizeof what, "CLBlast %s, set %u; best so far %.2f of our time", clblast_kernels[id].name, i + 1,
                 c->best_ratio);
        show(c->s, what);
        TRY(parameters_try(c, id, values));
    }
    return OK;
}

/* The least count of rows from which CLBlast stays ahead. */
static err rows_min_search(struct clblast_search *c) {
    const struct tunable *t = &tunables[TUNE_GEMM_ROWS_MIN];
    struct tune_choice *choice = &c->s->out->choices[c->s->out->n_choices++];
    struct tuning tuning = c->best;
    struct trial trial;
    *choice = (struct tune_choice){.tunable = TUNE_GEMM_ROWS_MIN};
    tuning.values[TUNE_GEMM_ROWS_MIN] = GEMM_ROWS_LEAST;
    TRY(trial_open(c->s, &by_clblast, &tuning, &c->w, &trial));
    err e = OK;
    for (uint32_t i = t->n_values; i-- > 0 && e == OK;) {
        struct workload w = c->w;
        double ratio, own_s;
        workload_counts(&w, &t->values[i], 1);
        e = trials_compare(&c->own, &trial, &w, &ratio, &own_s);
        choice->n_tried++;
        if (e != OK || ratio >= 1) break;
        choice->before_us = own_s * 1e6;
        choice->after_us = ratio * own_s * 1e6;
        c->best.values[TUNE_GEMM_ROWS_MIN] = t->values[i];
    }
    trial_close(&trial);
    return e;
}

static err clblast_run(struct clblast_search *c) {
    struct tune_report *out = c->s->out;
    double first_ratio, begin;
    int is_good;
    show(c->s, "CLBlast as it is");
    c->best_ratio = INFINITY;
    TRY(op_time_run(c->own.timers[0], GEMM_ROWS, RUN_S, &c->own_s));
    TRY(clblast_time(c, &out->tuning, &first_ratio, &is_good));
    if (is_good) c->best_ratio = first_ratio;
    begin = elapsed(c->s);
    TRY(kernel_search(c, CLBLAST_XGEMM, begin + (1 - begin) * 0.6));
    TRY(kernel_search(c, CLBLAST_DIRECT, 1));
    c->choice->before_us = is_good ? first_ratio * c->own_s * 1e6 : 0;
    c->choice->after_us = isfinite(c->best_ratio) ? c->best_ratio * c->own_s * 1e6 : 0;
    out->own_us = c->own_s * 1e6;
    out->library_us = c->choice->after_us;
    /* A kernel that the routine never takes need not be in the file. */
    if (c->best.has_clblast[CLBLAST_ROUTINE])
        c->best.has_clblast[c->best.clblast[CLBLAST_ROUTINE][0] == 1 ? CLBLAST_DIRECT : CLBLAST_XGEMM] = 0;
    if (c->best_ratio < 1) TRY(rows_min_search(c));
    out->tuning = c->best;
    return OK;
}

/* For the dense formats: one product of many rows stands for them. */
static err clblast_search(struct search *s) {
    const struct tune_request *r = s->request;
    struct clblast_search c = {.s = s, .best = s->out->tuning};
    struct tuning own = s->out->tuning;
    uint32_t f = s->dense_at;
    if (f == r->n_formats) return OK;
    c.choice = &s->out->choices[s->out->n_choices++];
    *c.choice = (struct tune_choice){.tunable = -1};
    workload_add(&c.w, (struct op_row){OP_LINEAR, "", r->formats[f], 0, GEMM_OUT, WIDTH, 0, 0});
    workload_counts(&c.w, (const uint32_t[]){GEMM_ROWS}, 1);
    own.values[TUNE_GEMM_ROWS_MIN] = NEVER;
    TRY(trial_open(s, NULL, &own, &c.w, &c.own));
    err e = clblast_run(&c);
    trial_close(&c.own);
    return e;
}

/* ---- all ---- */

static err device_describe(const struct tune_request *r, struct tune_report *out, struct kernel_forms *forms) {
    struct backend *b;
    TRY(backend_opencl_tuned(r->device, NULL, &out->tuning, &b));
    snprintf(out->platform, sizeof out->platform, "%s", b->platform);
    snprintf(out->device, sizeof out->device, "%s", b->device);
    snprintf(out->driver, sizeof out->driver, "%s", b->driver);
    *forms = (struct kernel_forms){.lanes_per_item = b->lanes_per_item, .has_amx = b->has_amx};
    b->ops->destroy(b);
    return OK;
}

/* Whether a device's form has what the tunable is about; CLBlast has a search of its own. */
static int is_concerned(enum tune_concern concern, const struct kernel_forms *forms) {
    switch (concern) {
    case TUNE_OF_GEMM: return 0;
    case TUNE_OF_ONE_LANE: return forms->lanes_per_item == 1;
    case TUNE_OF_AMX: return forms->has_amx;
    case TUNE_OF_PLAIN:
    case TUNE_OF_TILES: return 1;
    default: return forms->lanes_per_item > 1;
    }
}

err tune_search(const struct tune_request *request, struct tune_report *out) {
    struct search s = {.request = request, .out = out, .begin_s = clock_s(), .random = 1};
    struct kernel_forms forms;
    memset(out, 0, sizeof *out);
    while (s.dense_at < request->n_formats && format_info(request->formats[s.dense_at])->is_quantised) s.dense_at++;
    tune_defaults(&out->tuning);
    TRY(device_describe(request, out, &forms));
    for (int i = 0; i < N_TUNABLES; i++) {
        if (is_concerned(tunables[i].concern, &forms)) TRY(tunable_search(&s, i));
    }
    return clblast_search(&s);
}
