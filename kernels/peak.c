#include "kernels/peak.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/device.h"
#include "model/packed.h"

#define CHAINS 12.0 /* as peak.cl */
#define TRIES 5
#define TRY_S 0.03
#define MEAN_TRY_S 0.005 /* of many: they end near the time that was asked for */
#define UNPAUSED_TRIES 3
#define READ_BYTES ((size_t)512 << 20) /* several times the largest cache, where the device has room */
#define READ_LEAST_BYTES ((size_t)1 << 20) /* what dots and fma read of it */
#define ITEMS_PER_UNIT 2048            /* of a device that runs one lane per work-item */

static const char *const dot_names[N_DOT_FORMS] = {
    [DOT_PLAIN] = "portable", [DOT_AVX2] = "AVX2", [DOT_AVX_VNNI] = "AVX-VNNI",
    [DOT_AVX512_VNNI] = "AVX512-VNNI", [DOT_DP4A] = "dp4a", [DOT_KHR] = "cl_khr_integer_dot_product"};

struct roof {
    struct device d;
    cl_program program;
    cl_kernel kernel;
    cl_mem in, out;
    size_t n_items, in_bytes;
    double mean_s; /* 0: the best of short runs */
};

static err run_once(struct roof *t, cl_uint count, double *seconds) {
    size_t local = t->d.forms.lanes_per_item == PACKED_LANES ? 1 : 64;
    double begin = clock_s();
    TRY(device_launch(&t->d, t->kernel, DEVICE_ARGS(DEVICE_ARG(t->in), DEVICE_ARG(count), DEVICE_ARG(t->out)), 1,
                      &t->n_items, &local));
    TRY(device_check(&t->d, clFinish(t->d.queue), "finish"));
    *seconds = clock_s() - begin;
    return OK;
}

static err kernel_take(struct roof *t, const char *name) {
    cl_int code;
    if (t->kernel) clReleaseKernel(t->kernel);
    t->kernel = clCreateKernel(t->program, name, &code);
    return device_check(&t->d, code, name);
}

/* Runs of `count` per second: the best of a few, or the mean of all in mean_s. */
static err runs_measure(struct roof *t, cl_uint count, double *per_s) {
    double seconds, sum = 0, best = 0;
    uint32_t n = 0;
    for (; t->mean_s > 0 ? sum < t->mean_s : n < TRIES; n++) {
        TRY(run_once(t, count, &seconds));
        sum += seconds;
        if (1 / seconds > best) best = 1 / seconds;
    }
    *per_s = t->mean_s > 0 ? n / sum : best;
    return OK;
}

/* As run_once, once more where it took long: a pause that a quota makes comes once in a few runs. */
static err run_unpaused(struct roof *t, cl_uint count, double long_s, double *seconds) {
    *seconds = INFINITY;
    for (int i = 0; i < UNPAUSED_TRIES && *seconds >= long_s; i++) {
        double s;
        TRY(run_once(t, count, &s));
        if (s < *seconds) *seconds = s;
    }
    return OK;
}

/* Rounds per second of all work-items together, in runs long beside their launch. */
static err rounds_measure(struct roof *t, const char *name, double *per_s) {
    cl_uint n_rounds = t->mean_s > 0 ? 16 : 1000; /* a slow device would take seconds */
    double seconds, least_s = t->mean_s > 0 ? MEAN_TRY_S : TRY_S;
    TRY(kernel_take(t, name));
    TRY(run_once(t, n_rounds, &seconds)); /* a driver may finish building now */
    TRY(run_unpaused(t, n_rounds, least_s, &seconds));
    while (seconds < least_s && n_rounds < (1u << 30)) {
        n_rounds *= 2;
        TRY(run_unpaused(t, n_rounds, least_s, &seconds));
    }
    TRY(runs_measure(t, n_rounds, per_s));
    *per_s *= n_rounds * (double)t->n_items;
    return OK;
}

static err read_measure(struct roof *t, double *bytes_per_s) {
    cl_uint n = (cl_uint)(t->in_bytes / 16);
    double seconds;
    TRY(kernel_take(t, "peak_read"));
    TRY(run_once(t, n, &seconds));
    TRY(runs_measure(t, n, bytes_per_s));
    *bytes_per_s *= n * 16.0;
    return OK;
}

static err measure(struct roof *t, struct peak *out) {
    const char *files[] = {"#define DENSE_F32\n#define DENSE_BYTES 4\n", "half.cl", "packed.cl", "dot.cl",
                           "peak.cl", NULL};
    uint32_t lanes = t->d.forms.lanes_per_item;
    cl_uint n_units = 1, pattern[2] = {0x3F800001u, 0x3F000001u}; /* as floats: about 1 and a half */
    TRY(device_build(&t->d, &t->d.forms, files, &t->program));
    TRY(device_check(&t->d, clGetDeviceInfo(t->d.id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof n_units, &n_units, NULL),
                     "ask for the compute units"));
    t->n_items = lanes == PACKED_LANES ? (size_t)n_units * 4 : (size_t)n_units * ITEMS_PER_UNIT;
    t->in_bytes = t->mean_s <= 0 ? READ_BYTES : t->d.is_cpu ? READ_LEAST_BYTES : READ_BYTES / 2;
    if (t->d.memory_bytes / 4 < t->in_bytes) t->in_bytes = t->d.memory_bytes / 4 / 64 * 64;
    TRY(device_memory(&t->d, t->in_bytes, &t->in));
    TRY(device_memory(&t->d, t->n_items * lanes * 4, &t->out));
    TRY(device_check(&t->d, clEnqueueFillBuffer(t->d.queue, t->in, pattern, sizeof pattern, 0, t->in_bytes, 0, NULL,
                                                NULL), "fill a buffer"));
    TRY(rounds_measure(t, "peak_dot", &out->int8_per_s));
    out->int8_per_s *= CHAINS * lanes * 8; /* four products, four additions */
    TRY(rounds_measure(t, "peak_fma", &out->f32_per_s));
    out->f32_per_s *= CHAINS * lanes * 2;
    out->int8_form = dot_names[t->d.forms.dot];
    return t->mean_s > 0 && t->d.is_cpu ? OK : read_measure(t, &out->read_per_s);
}

static err peak_find(const struct device_choice *c, double mean_s, struct peak *out) {
    struct roof t = {.mean_s = mean_s};
    memset(out, 0, sizeof *out);
    TRY(device_open(c, &t.d));
    err e = measure(&t, out);
    if (t.kernel) clReleaseKernel(t.kernel);
    if (t.program) clReleaseProgram(t.program);
    if (t.in) clReleaseMemObject(t.in);
    if (t.out) clReleaseMemObject(t.out);
    device_close(&t.d);
    return e;
}

err peak_measure(const char *substring, struct peak *out) {
    return peak_find(&(struct device_choice){.select = substring}, 0, out);
}

err peak_sustained(const struct device_choice *c, double mean_s, struct peak *out) {
    return peak_find(c, mean_s, out);
}
