#include "kernels/peak.h"

#include <string.h>

#include "base/clock.h"
#include "kernels/device.h"
#include "model/packed.h"

#define CHAINS 12.0 /* as peak.cl */
#define TRIES 5
#define TRY_S 0.03
#define READ_BYTES ((size_t)512 << 20) /* several times the largest cache, where the device has room */
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

/* Rounds per second of all work-items together: the best of some runs, each long beside its launch. */
static err rounds_measure(struct roof *t, const char *name, double *per_s) {
    cl_uint n_rounds = 1000;
    double seconds, best = 0;
    TRY(kernel_take(t, name));
    TRY(run_once(t, n_rounds, &seconds)); /* a driver may finish building now */
    TRY(run_once(t, n_rounds, &seconds));
    while (seconds < TRY_S && n_rounds < (1u << 30)) {
        n_rounds *= 2;
        TRY(run_once(t, n_rounds, &seconds));
    }
    for (int i = 0; i < TRIES; i++) {
        TRY(run_once(t, n_rounds, &seconds));
        double rate = n_rounds * (double)t->n_items / seconds;
        if (rate > best) best = rate;
    }
    *per_s = best;
    return OK;
}

static err read_measure(struct roof *t, double *bytes_per_s) {
    cl_uint n = (cl_uint)(t->in_bytes / 16);
    double seconds, best = 0;
    TRY(kernel_take(t, "peak_read"));
    for (int i = 0; i <= TRIES; i++) {
        TRY(run_once(t, n, &seconds));
        if (i > 0 && n * 16.0 / seconds > best) best = n * 16.0 / seconds;
    }
    *bytes_per_s = best;
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
    t->in_bytes = t->d.memory_bytes / 4 < READ_BYTES ? t->d.memory_bytes / 4 / 64 * 64 : READ_BYTES;
    TRY(device_memory(&t->d, t->in_bytes, &t->in));
    TRY(device_memory(&t->d, t->n_items * lanes * 4, &t->out));
    TRY(device_check(&t->d, clEnqueueFillBuffer(t->d.queue, t->in, pattern, sizeof pattern, 0, t->in_bytes, 0, NULL,
                                                NULL), "fill a buffer"));
    TRY(rounds_measure(t, "peak_dot", &out->int8_per_s));
    out->int8_per_s *= CHAINS * lanes * 8; /* four products, four additions */
    TRY(rounds_measure(t, "peak_fma", &out->f32_per_s));
    out->f32_per_s *= CHAINS * lanes * 2;
    out->int8_form = dot_names[t->d.forms.dot];
    return read_measure(t, &out->read_per_s);
}

err peak_measure(const char *substring, struct peak *out) {
    struct roof t = {0};
    memset(out, 0, sizeof *out);
    TRY(device_open(&(struct device_choice){.select = substring}, &t.d));
    err e = measure(&t, out);
    if (t.kernel) clReleaseKernel(t.kernel);
    if (t.program) clReleaseProgram(t.program);
    if (t.in) clReleaseMemObject(t.in);
    if (t.out) clReleaseMemObject(t.out);
    device_close(&t.d);
    return e;
}
