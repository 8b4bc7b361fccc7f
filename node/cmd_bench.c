/* `caravan bench ops`: ops on a device of this host, against what it can do at most. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/awake.h"
#include "base/config.h"
#include "base/read_bandwidth.h"
#include "kernels/backend.h"
#include "kernels/op_time.h"
#include "kernels/peak.h"
#include "node/commands.h"

#define LIST_MAX 16 /* items of a flag */
#define ROWS_MAX 4096
#define OUT_MAX (1 << 20)
#define IN_MAX (1 << 17)
#define CONTEXT_MAX (1 << 20)
#define HEADS_MAX 1024
#define HEAD_DIM 64
#define REDUCE_LEAVES 4
#define READ_S 0.3
#define FROM_MEMORY_S 0.4 /* for one line of an op that reads memory */
#define FROM_CACHE_S 0.1

static const char usage[] =
    "Usage: caravan bench ops [--device TEXT] [--ops OP,...] [--formats F,...] [--rows N,...]\n"
    "                         [--shape OUTxIN,...] [--contexts N,...] [--heads QxKV] [--free-order] [--json]\n\n"
    "Times each op for 1 row (decoding) up to many (a prompt). Weights and KV caches come from\n"
    "memory, other values from caches, as in a step. GB/s are packed weights and KV cache, of the\n"
    "other ops the values read and written. \"of read\" is their share of a plain read of memory just before or\n"
    "after (on a CPU device by the host's threads, else by a kernel), \"of peak\" the share of what the device's\n"
    "own form of 8-bit dots, for dense weights f32 fma, reaches in registers.\n\n"
    "  --device TEXT     a part of \"PLATFORM / DEVICE\"; without it the best\n"
    "  --ops OP,...      default all: linear,embed,norm,quantize,reduce,kv-write,attend,\n"
    "                    glu,act,select; as a step runs them: norm, glu and act quantise,\n"
    "                    reduce adds the row, norms and quantises, kv-write turns q and k\n"
    "  --formats F,...   of linear and embed; default Q8_0,Q4_0,Q4_K,Q6_K,F16,F32\n"
    "  --rows N,...      rows of a step, each from 1 to 4096; default 1,8,256\n"
    "  --shape OUTxIN,...  default 2048x2048,5632x2048,2048x5632,32000x2048: a llama of 1.1 B; embed\n"
    "                    takes the one with most outputs, ops without weights each IN\n"
    "  --contexts N,...  positions that attend sees; default 1024,8192\n"
    "  --heads QxKV      of attend and kv-write, of 64 values; default 32x4\n"
    "  --free-order      no segments, no tree, and the compiler may change the order of additions:\n"
    "                    what the same bits everywhere cost is the difference\n"
    "  --json            one JSON object on standard output\n";

struct shape {
    uint32_t out, in;
};

/* One line of the table. */
struct line {
    struct op_row row;
    double seconds;
    struct op_cost cost;
    uint32_t read_at; /* index into reads: the one before; the next is the one after */
};

struct bench {
    const char *device, *ops_text, *formats_text, *rows_text, *shapes_text, *contexts_text, *heads_text;
    int is_json, is_free;
    enum op_kind ops[LIST_MAX];
    enum format formats[LIST_MAX];
    struct shape shapes[LIST_MAX];
    uint32_t rows[LIST_MAX], contexts[LIST_MAX], heads[2];
    uint32_t n_ops, n_formats, n_shapes, n_rows, n_contexts, rows_max;
    struct device_description description; /* of the device in use */
    struct backend *backend;
    struct peak peak;
    double *reads; /* bytes per second before each op and at the end */
    struct line *lines;
    uint32_t n_lines, n_cases, cases_done;
};

/* ---- the command line ---- */

static err add_op(void *context, const char *item) {
    struct bench *t = context;
    uint32_t n;
    const enum op_kind *kinds = op_time_kinds(&n);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(op_name(kinds[i]), item) == 0) {
            t->ops[t->n_ops++] = kinds[i];
            return OK;
        }
    return err_set(ERR_USAGE, "no op \"%s\" that is timed", item);
}

static err add_format(void *context, const char *item) {
    struct bench *t = context;
    return format_from_name(item, &t->formats[t->n_formats++]);
}

static err add_rows(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, ROWS_MAX, &n));
    t->rows[t->n_rows++] = (uint32_t)n;
    if (n > t->rows_max) t->rows_max = (uint32_t)n;
    return OK;
}

static err add_shape(void *context, const char *item) {
    struct bench *t = context;
    uint32_t pair[2];
    TRY(config_parse_pair(item, OUT_MAX, IN_MAX, pair));
    t->shapes[t->n_shapes++] = (struct shape){pair[0], pair[1]};
    return OK;
}

static err add_context(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, CONTEXT_MAX, &n));
    t->contexts[t->n_contexts++] = (uint32_t)n;
    return OK;
}

/* Whole blocks of every format, and of quantised values. */
static err check_shapes(const struct bench *t) {
    for (uint32_t f = 0; f < t->n_formats; f++)
        for (uint32_t s = 0; s < t->n_shapes; s++) {
            const struct format_info *info = format_info(t->formats[f]);
            uint32_t unit = info->block_values < PACKED_BLOCK ? PACKED_BLOCK : info->block_values;
            if (t->shapes[s].in % unit)
                return err_set(ERR_USAGE, "--shape %ux%u: inputs of %s come in multiples of %u", t->shapes[s].out,
                               t->shapes[s].in, info->name, unit);
        }
    if (t->heads[0] % t->heads[1])
        return err_set(ERR_USAGE, "--heads %ux%u: query heads come in multiples of KV heads", t->heads[0], t->heads[1]);
    return OK;
}

static err parse_lists(struct bench *t) {
    const enum op_kind *kinds = op_time_kinds(&t->n_ops);
    memcpy(t->ops, kinds, t->n_ops * sizeof *kinds);
    if (t->ops_text) {
        t->n_ops = 0;
        TRY(config_parse_list("ops", t->ops_text, LIST_MAX, add_op, t));
    }
    TRY(config_parse_list("formats", t->formats_text, LIST_MAX, add_format, t));
    TRY(config_parse_list("rows", t->rows_text, LIST_MAX, add_rows, t));
    TRY(config_parse_list("shape", t->shapes_text, LIST_MAX, add_shape, t));
    TRY(config_parse_list("contexts", t->contexts_text, LIST_MAX, add_context, t));
    if (config_parse_pair(t->heads_text, HEADS_MAX, HEADS_MAX, t->heads) != OK)
        return err_context(ERR_USAGE, "--heads");
    return check_shapes(t);
}

static err parse(struct bench *t, int argc, char **argv) {
    const struct { const char *name, **target; } flags[] = {
        {"--device", &t->device}, {"--ops", &t->ops_text}, {"--formats", &t->formats_text},
        {"--rows", &t->rows_text}, {"--shape", &t->shapes_text}, {"--contexts", &t->contexts_text},
        {"--heads", &t->heads_text}};
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    for (int i = 1; i < argc; i++) {
        int k = 0;
        int *target = strcmp(argv[i], "--json") == 0 ? &t->is_json
                      : strcmp(argv[i], "--free-order") == 0 ? &t->is_free : NULL;
        if (target) {
            *target = 1;
            continue;
        }
        while (k < N_FLAGS && strcmp(argv[i], flags[k].name) != 0) k++;
        if (k == N_FLAGS)
            return err_set(ERR_USAGE, "bench ops: unknown argument %s; caravan bench ops --help lists them", argv[i]);
        if (++i == argc) return err_set(ERR_USAGE, "bench ops: %s needs a value", flags[k].name);
        *flags[k].target = argv[i];
    }
    return parse_lists(t);
}

/* ---- the work ---- */

/* The device's row of the list, for its driver and its number of units. */
static err describe(struct bench *t) {
    struct device_description *all = NULL, *d = &t->description;
    uint32_t n = 0;
    TRY(backend_list(&all, &n));
    for (uint32_t i = 0; i < n; i++)
        if (strncmp(all[i].platform, t->backend->platform, sizeof all[i].platform - 1) == 0 &&
            strncmp(all[i].name, t->backend->device, sizeof all[i].name - 1) == 0)
            *d = all[i];
    free(all);
    return OK;
}

/* A CPU device has one unit for each of its threads. */
static err read_memory(const struct bench *t, double *bytes_per_s) {
    *bytes_per_s = t->peak.read_per_s;
    if (!t->backend->is_host) return OK;
    return read_bandwidth_measure(t->description.compute_units, READ_S, bytes_per_s);
}

typedef err (*each_case)(struct bench *t, const struct op_row *row);

/* Ops with weights: each format; the lookup in one shape only. */
static err weights_walk(struct bench *t, struct op_row row, each_case each) {
    struct shape largest = t->shapes[0];
    for (uint32_t s = 0; s < t->n_shapes; s++)
        if (t->shapes[s].out > largest.out) largest = t->shapes[s];
    for (uint32_t f = 0; f < t->n_formats; f++)
        for (uint32_t s = 0; s < (row.op == OP_LINEAR ? t->n_shapes : 1); s++) {
            row.format = t->formats[f];
            row.out = row.op == OP_LINEAR ? t->shapes[s].out : largest.out;
            row.in = row.op == OP_LINEAR ? t->shapes[s].in : largest.in;
            row.variant = t->is_free && row.op == OP_LINEAR ? OP_TIME_ONE_SEGMENT : "";
            TRY(each(t, &row));
        }
    return OK;
}

/* What writes a cache, and for each context what reads it. */
static err heads_walk(struct bench *t, struct op_row row, each_case each) {
    row.format = FORMAT_F16;
    row.out = t->heads[0];
    row.in = HEAD_DIM;
    row.option = t->heads[1];
    for (uint32_t c = 0; c < (row.op == OP_ATTEND ? t->n_contexts : 1); c++) {
        row.at = row.op == OP_ATTEND ? t->contexts[c] - 1 : 0;
        TRY(each(t, &row));
    }
    return OK;
}

/* Each width once. */
static err widths_walk(struct bench *t, struct op_row row, each_case each) {
    row.format = FORMAT_F32;
    row.option = REDUCE_LEAVES;
    for (uint32_t s = 0; s < t->n_shapes; s++) {
        uint32_t k = 0;
        while (t->shapes[k].in != t->shapes[s].in) k++;
        row.out = row.in = t->shapes[s].in;
        if (k == s) TRY(each(t, &row));
    }
    return OK;
}

/* Calls `each` for every op with its format and shape. */
static err cases_walk(struct bench *t, each_case each) {
    for (uint32_t o = 0; o < t->n_ops; o++) {
        struct op_row row = {.op = t->ops[o], .variant = "", .n_rows = t->rows_max};
        switch (row.op) {
        case OP_LINEAR:
        case OP_EMBED: TRY(weights_walk(t, row, each)); break;
        case OP_KV_WRITE:
        case OP_ATTEND: TRY(heads_walk(t, row, each)); break;
        default: TRY(widths_walk(t, row, each)); break;
        }
    }
    return OK;
}

static err case_count(struct bench *t, const struct op_row *row) {
    (void)row;
    t->n_cases++;
    return OK;
}

static err case_measure(struct bench *t, const struct op_row *row) {
    int is_from_memory = row->op == OP_LINEAR || row->op == OP_ATTEND;
    struct op_time *timing;
    if (isatty(STDERR_FILENO)) /* until the table comes */
        fprintf(stderr, "\r\033[K%u of %u: %s %s %ux%u", t->cases_done + 1, t->n_cases, op_name(row->op),
                format_info(row->format)->name, row->out, row->in);
    TRY(read_memory(t, &t->reads[t->cases_done]));
    TRY(op_time_create(t->backend, row, is_from_memory ? OP_TIME_WORKING_BYTES : 0, &timing));
    err e = OK;
    for (uint32_t r = 0; r < t->n_rows && e == OK; r++) {
        struct line *line = &t->lines[t->n_lines++];
        *line = (struct line){.row = *row, .cost = op_time_cost(timing, t->rows[r]), .read_at = t->cases_done};
        line->row.n_rows = t->rows[r];
        e = op_time_run(timing, t->rows[r], is_from_memory ? FROM_MEMORY_S : FROM_CACHE_S, &line->seconds);
    }
    op_time_free(timing);
    t->cases_done++;
    return e;
}

static err measure(struct bench *t) {
    const struct kernel_forms as_it_likes = {.is_free = 1};
    if (t->is_free) TRY(backend_opencl_forms(t->device, &as_it_likes, &t->backend));
    else TRY(backend_opencl(t->device, &t->backend));
    TRY(describe(t));
    TRY(peak_measure(t->device, &t->peak));
    TRY(cases_walk(t, case_count));
    TRY(NEW(t->reads, t->n_cases + 1));
    TRY(NEW(t->lines, t->n_cases * t->n_rows));
    TRY(cases_walk(t, case_measure));
    return read_memory(t, &t->reads[t->n_cases]);
}

/* ---- the report ---- */

struct figures {
    const char *op, *format;
    char shape[48];
    double us, gb_per_s, read_gb_per_s, of_read, gop_per_s, of_peak; /* 0 where there is none */
};

static struct figures figures_of(const struct bench *t, const struct line *line) {
    const struct op_row *r = &line->row;
    double bytes_per_s = line->cost.bytes / line->seconds, ops_per_s = line->cost.operations / line->seconds;
    const double *reads = t->reads + line->read_at; /* before and after: the machine may be shared */
    double read = reads[0] > reads[1] ? reads[0] : reads[1], peak = 0;
    if (r->op == OP_LINEAR) peak = format_info(r->format)->is_quantised ? t->peak.int8_per_s : t->peak.f32_per_s;
    int is_from_memory = r->op == OP_LINEAR || r->op == OP_ATTEND;
    struct figures x = {.op = op_name(r->op), .format = format_info(r->format)->name, .us = line->seconds * 1e6,
                        .gb_per_s = bytes_per_s * 1e-9, .read_gb_per_s = read * 1e-9,
                        .of_read = is_from_memory && read > 0 ? bytes_per_s / read : 0,
                        .gop_per_s = ops_per_s * 1e-9, .of_peak = peak > 0 ? ops_per_s / peak : 0};
    if (r->op == OP_ATTEND) snprintf(x.shape, sizeof x.shape, "%ux%u at %u", r->out, r->option, r->at + 1);
    else if (r->op == OP_KV_WRITE) snprintf(x.shape, sizeof x.shape, "%ux%u", r->out, r->option);
    else if (r->op == OP_LINEAR || r->op == OP_EMBED) snprintf(x.shape, sizeof x.shape, "%ux%u", r->out, r->in);
    else snprintf(x.shape, sizeof x.shape, "%u", r->in);
    return x;
}

static const char *share_text(double share, char out[16]) {
    snprintf(out, 16, share > 0 ? "%.1f%%" : "-", 100 * share);
    return out;
}

static void print_row(const struct line *line, const struct figures *x) {
    char read[16], peak[16], gop[16] = "-";
    if (x->gop_per_s > 0) snprintf(gop, sizeof gop, "%.1f", x->gop_per_s);
    printf("%-8s %-5s %16s %5u %11.1f %8.2f %9.2f %8s %9s %8s\n", x->op, x->format, x->shape, line->row.n_rows, x->us,
           x->gb_per_s, x->read_gb_per_s, share_text(x->of_read, read), gop, share_text(x->of_peak, peak));
}

static json_t *real_json(double x) { return x > 0 ? json_real(x) : json_null(); }

static json_t *row_json(const struct line *line, const struct figures *x) {
    const struct op_row *r = &line->row;
    return json_pack("{s:s, s:s, s:s, s:I, s:I, s:o, s:I, s:f, s:f, s:o, s:o, s:o, s:o}", "op", x->op, "format",
                     x->format, "shape", x->shape, "out", (json_int_t)r->out, "in", (json_int_t)r->in, "context",
                     r->op == OP_ATTEND ? json_integer(r->at + 1) : json_null(), "rows", (json_int_t)r->n_rows, "us",
                     x->us, "gb_per_s", x->gb_per_s, "read_gb_per_s", real_json(x->read_gb_per_s), "of_read",
                     real_json(x->of_read), "gop_per_s", real_json(x->gop_per_s), "of_peak", real_json(x->of_peak));
}

static void print_head(const struct bench *t, const char *commit) {
    const struct device_description *d = &t->description;
    printf("%s / %s, driver %s, commit %s, %u %s%s\n", d->platform, d->name, d->driver, commit, d->compute_units,
           t->backend->is_host ? "threads" : "compute units", awake_text());
    printf("peak %.0f GOP/s of 8-bit dots (%s), %.0f GFLOP/s of f32 fma; tuned by %s\n", t->peak.int8_per_s * 1e-9,
           t->peak.int8_form, t->peak.f32_per_s * 1e-9, *t->backend->tuning ? t->backend->tuning : "nothing: defaults");
    printf("\n%-8s %-5s %16s %5s %11s %8s %9s %8s %9s %8s\n", "op", "kind", "shape", "rows", "us", "GB/s",
           "read GB/s", "of read", "GOP/s", "of peak");
}

static err print(const struct bench *t, const char *commit) {
    const struct device_description *d = &t->description;
    json_t *rows = t->is_json ? json_array() : NULL;
    if (!rows) print_head(t, commit);
    for (uint32_t i = 0; i < t->n_lines; i++) {
        struct figures x = figures_of(t, &t->lines[i]);
        if (rows) json_array_append_new(rows, row_json(&t->lines[i], &x));
        else print_row(&t->lines[i], &x);
    }
    if (!rows) return OK;
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:b, s:s, s:I, s:f, s:s, s:f, s:o}", "platform", d->platform,
                             "device", d->name, "driver", d->driver, "commit", commit, "awake", awake_is_on(),
                             "tuning", t->backend->tuning, "threads", (json_int_t)d->compute_units,
                             "int8_peak_gop_per_s", t->peak.int8_per_s * 1e-9, "int8_form", t->peak.int8_form,
                             "f32_peak_gop_per_s", t->peak.f32_per_s * 1e-9, "rows", rows);
    int is_bad = json_dumpf(root, stdout, 0) != 0 || putchar('\n') == EOF;
    json_decref(root);
    return is_bad ? err_set(ERR_FILE, "cannot write the result as JSON") : OK;
}

static err bench(struct bench *t, const char *commit) {
    err e = measure(t);
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    if (e == OK) e = print(t, commit);
    if (t->backend) t->backend->ops->destroy(t->backend);
    return e;
}

err cmd_bench_ops(int argc, char **argv, const char *commit) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return OK;
        }
    struct bench *t;
    TRY(NEW(t, 1));
    *t = (struct bench){.formats_text = "Q8_0,Q4_0,Q4_K,Q6_K,F16,F32", .rows_text = "1,8,256",
                        .shapes_text = "2048x2048,5632x2048,2048x5632,32000x2048", .contexts_text = "1024,8192",
                        .heads_text = "32x4"};
    err e = parse(t, argc, argv);
    if (e == OK) e = bench(t, commit);
    free(t->reads);
    free(t->lines);
    free(t);
    return e;
}
