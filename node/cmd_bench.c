/* `caravan bench ops`: products on a device of this host, against what its memory gives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/config.h"
#include "base/read_bandwidth.h"
#include "kernels/backend.h"
#include "kernels/op_time.h"
#include "node/commands.h"

#define LIST_MAX 16 /* items of a flag */
#define ROWS_MAX 4096
#define OUT_MAX (1 << 20)
#define IN_MAX (1 << 17)
#define READ_S 0.3

static const char usage[] =
    "Usage: caravan bench ops [--device TEXT] [--formats F,...] [--rows N,...] [--shape OUTxIN,...] [--json]\n\n"
    "Times products with weights of a format and shape, for 1 row (decoding) up to many (a\n"
    "prompt), on weights that no cache holds. GB/s are packed weight bytes; \"of read\" is\n"
    "their share of a plain threaded read of memory just before or after, on a CPU device.\n\n"
    "  --device TEXT     a part of \"PLATFORM / DEVICE\"; without it the best\n"
    "  --formats F,...   default Q8_0,Q4_0,Q4_K,Q6_K,F16,F32\n"
    "  --rows N,...      rows of a step, each from 1 to 4096; default 1,8,256\n"
    "  --shape OUTxIN,...  default 2048x2048,5632x2048,2048x5632,32000x2048: a llama of 1.1 B\n"
    "  --json            one JSON object on standard output\n";

struct shape {
    uint32_t out, in;
};

struct bench {
    const char *device, *formats_text, *rows_text, *shapes_text;
    int is_json;
    enum format formats[LIST_MAX];
    struct shape shapes[LIST_MAX];
    uint32_t rows[LIST_MAX], n_formats, n_shapes, n_rows;
    struct device_description description; /* of the device in use */
    struct backend *backend;
    double reads[LIST_MAX * LIST_MAX + 1]; /* bytes per second before each shape, and at the end; 0: not known */
    double seconds[LIST_MAX][LIST_MAX][LIST_MAX]; /* [format][shape][rows] */
    uint64_t matrix_bytes[LIST_MAX][LIST_MAX];
};

/* ---- the command line ---- */

static err add_format(void *context, const char *item) {
    struct bench *t = context;
    return format_from_name(item, &t->formats[t->n_formats++]);
}

static err add_rows(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, ROWS_MAX, &n));
    t->rows[t->n_rows++] = (uint32_t)n;
    return OK;
}

static err add_shape(void *context, const char *item) {
    struct bench *t = context;
    uint32_t pair[2];
    TRY(config_parse_pair(item, OUT_MAX, IN_MAX, pair));
    t->shapes[t->n_shapes++] = (struct shape){pair[0], pair[1]};
    return OK;
}

/* Whole blocks of every format. */
static err check_shapes(const struct bench *t) {
    for (uint32_t f = 0; f < t->n_formats; f++)
        for (uint32_t s = 0; s < t->n_shapes; s++) {
            const struct format_info *info = format_info(t->formats[f]);
            uint32_t unit = info->block_values < 32 ? 32 : info->block_values;
            if (t->shapes[s].in % unit)
                return err_set(ERR_USAGE, "--shape %ux%u: inputs of %s come in multiples of %u", t->shapes[s].out,
                               t->shapes[s].in, info->name, unit);
        }
    return OK;
}

static err parse(struct bench *t, int argc, char **argv) {
    const struct { const char *name, **target; } flags[] = {
        {"--device", &t->device}, {"--formats", &t->formats_text},
        {"--rows", &t->rows_text}, {"--shape", &t->shapes_text}};
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    for (int i = 1; i < argc; i++) {
        int k = 0;
        if (strcmp(argv[i], "--json") == 0) {
            t->is_json = 1;
            continue;
        }
        while (k < N_FLAGS && strcmp(argv[i], flags[k].name) != 0) k++;
        if (k == N_FLAGS)
            return err_set(ERR_USAGE, "bench ops: unknown argument %s; caravan bench ops --help lists them", argv[i]);
        if (++i == argc) return err_set(ERR_USAGE, "bench ops: %s needs a value", flags[k].name);
        *flags[k].target = argv[i];
    }
    TRY(config_parse_list("formats", t->formats_text, LIST_MAX, add_format, t));
    TRY(config_parse_list("rows", t->rows_text, LIST_MAX, add_rows, t));
    TRY(config_parse_list("shape", t->shapes_text, LIST_MAX, add_shape, t));
    return check_shapes(t);
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
    if (!t->backend->is_host) return OK;
    return read_bandwidth_measure(t->description.compute_units, READ_S, bytes_per_s);
}

/* On a terminal, until the table comes. */
static void show_progress(const struct bench *t, uint32_t f, uint32_t s) {
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K%u of %u: %s %ux%u", f * t->n_shapes + s + 1, t->n_formats * t->n_shapes,
                format_info(t->formats[f])->name, t->shapes[s].out, t->shapes[s].in);
}

static err measure(struct bench *t) {
    TRY(backend_opencl(t->device, &t->backend));
    TRY(describe(t));
    for (uint32_t f = 0; f < t->n_formats; f++)
        for (uint32_t s = 0; s < t->n_shapes; s++) {
            show_progress(t, f, s);
            TRY(read_memory(t, &t->reads[f * t->n_shapes + s]));
            TRY(op_time_linear(t->backend, t->formats[f], t->shapes[s].out, t->shapes[s].in, t->rows, t->n_rows,
                               t->seconds[f][s], &t->matrix_bytes[f][s]));
        }
    return read_memory(t, &t->reads[t->n_formats * t->n_shapes]);
}

/* ---- the report ---- */

struct figures {
    const char *format;
    struct shape shape;
    uint32_t rows;
    double us, gb_per_s, read_gb_per_s, of_read, gop_per_s; /* of the read: 0 where there is none */
};

static struct figures figures_of(const struct bench *t, uint32_t f, uint32_t s, uint32_t r) {
    double seconds = t->seconds[f][s][r], bytes_per_s = (double)t->matrix_bytes[f][s] / seconds;
    const double *reads = t->reads + f * t->n_shapes + s; /* before and after: the machine may be shared */
    double read = reads[0] > reads[1] ? reads[0] : reads[1];
    double n_ops = 2.0 * t->rows[r] * t->shapes[s].out * t->shapes[s].in;
    return (struct figures){format_info(t->formats[f])->name, t->shapes[s], t->rows[r], seconds * 1e6,
                            bytes_per_s * 1e-9, read * 1e-9, read > 0 ? bytes_per_s / read : 0,
                            n_ops / seconds * 1e-9};
}

static void print_row(const struct figures *x) {
    char shape[32], share[16] = "-";
    snprintf(shape, sizeof shape, "%ux%u", x->shape.out, x->shape.in);
    if (x->of_read > 0) snprintf(share, sizeof share, "%.1f%%", 100 * x->of_read);
    printf("linear  %-6s %12s %6u %12.1f %9.2f %9.2f %9s %9.1f\n", x->format, shape, x->rows, x->us, x->gb_per_s,
           x->read_gb_per_s, share, x->gop_per_s);
}

static json_t *real_json(double x) { return x > 0 ? json_real(x) : json_null(); }

static json_t *row_json(const struct figures *x) {
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:o, s:o, s:f}", "op", "linear", "format", x->format, "out",
                     (json_int_t)x->shape.out, "in", (json_int_t)x->shape.in, "rows", (json_int_t)x->rows, "us",
                     x->us, "gb_per_s", x->gb_per_s, "read_gb_per_s", real_json(x->read_gb_per_s), "of_read",
                     real_json(x->of_read), "gop_per_s", x->gop_per_s);
}

static void print_head(const struct bench *t, const char *commit) {
    const struct device_description *d = &t->description;
    printf("%s / %s, driver %s, commit %s, %u %s\n", d->platform, d->name, d->driver, commit, d->compute_units,
           t->backend->is_host ? "threads" : "compute units");
    printf("\n%-7s %-6s %12s %6s %12s %9s %9s %9s %9s\n", "op", "format", "shape", "rows", "us", "GB/s", "read GB/s",
           "of read", "GOP/s");
}

static err print(const struct bench *t, const char *commit) {
    const struct device_description *d = &t->description;
    json_t *rows = t->is_json ? json_array() : NULL;
    if (!rows) print_head(t, commit);
    for (uint32_t f = 0; f < t->n_formats; f++)
        for (uint32_t s = 0; s < t->n_shapes; s++)
            for (uint32_t r = 0; r < t->n_rows; r++) {
                struct figures x = figures_of(t, f, s, r);
                if (rows) json_array_append_new(rows, row_json(&x));
                else print_row(&x);
            }
    if (!rows) return OK;
    json_t *root = json_pack("{s:s, s:s, s:s, s:s, s:I, s:o}", "platform", d->platform, "device", d->name,
                             "driver", d->driver, "commit", commit, "threads", (json_int_t)d->compute_units,
                             "rows", rows);
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
                        .shapes_text = "2048x2048,5632x2048,2048x5632,32000x2048"};
    err e = parse(t, argc, argv);
    if (e == OK) e = bench(t, commit);
    free(t);
    return e;
}
