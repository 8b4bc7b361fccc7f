/* The OpenCL backend: one C function per op that enqueues its kernel. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "kernels/attend.h"
#include "kernels/backend.h"
#include "kernels/chain.h"
#include "kernels/device.h"
#include "kernels/gemm.h"
#include "kernels/loader.h"
#include "kernels/matrix.h"
#include "kernels/op_table.h"
#include "kernels/op_time.h"

enum kernel_id {
    KERNEL_SUM_ROWS, KERNEL_QUANTIZE, KERNEL_ACTIVATE, KERNEL_SELECT, N_KERNELS
};

static const char *const kernel_names[N_KERNELS] = {
    "sum_rows", "quantize", "activate_rows", "select_rows"};
static const enum call_id kernel_calls[N_KERNELS] = {CALL_SUM_ROWS, CALL_QUANTIZE, CALL_ACTIVATE, CALL_SELECT};

/* Whether dense products of many rows go through CLBlast. */
enum gemm_use { GEMM_UNKNOWN, GEMM_TRIED, GEMM_YES, GEMM_NO };

struct opencl {
    struct backend base;
    struct device device;
    cl_program program;
    cl_kernel kernels[N_KERNELS];
    struct attend_kernels attend_kernels[N_FORMATS]; /* of the formats of caches */
    struct attend_scratch attend_scratch;
    struct matrix_kernels matrix_kernels[N_FORMATS];
    struct gemm gemm;
    struct linear_many many;
    uint32_t blocks_max; /* of a row of a quantised matrix */
    uint32_t n_matrices[N_FORMATS], n_caches[N_FORMATS]; /* that there are */
    enum gemm_use gemm_use[N_FORMATS]; /* of the dense formats */
    struct kernel_forms plain_forms;
    int is_form_given; /* by the caller: another is no answer */
    int is_checked; /* ops are compared with the reference as they are built */
    int is_checking;
    uint32_t rows_max;
};

#define LAUNCH_ITEMS(o, kernel, n, ...)                                                        \
    device_launch_items(&(o)->device, kernel, DEVICE_ARGS(__VA_ARGS__), n)
#define LAUNCH(o, kernel, n_dims, global, local, ...)                                          \
    device_launch(&(o)->device, kernel, DEVICE_ARGS(__VA_ARGS__), n_dims, global, local)
#define ARG DEVICE_ARG

static struct opencl *self(struct backend *b) { return (struct opencl *)b; }

static void kernel_release(cl_kernel k) {
    if (k) clReleaseKernel(k);
}

/* PoCL's compiler is loaded with the first source and stays. */
static void compiler_note(struct opencl *o) { o->base.keeps_compiler = o->device.is_pocl && o->device.has_compiled; }

static void program_release(cl_program p) {
    if (p) clReleaseProgram(p);
}

static void memory_release(cl_mem m) {
    if (m) clReleaseMemObject(m);
}

static void kernels_release(struct opencl *o) {
    for (int i = 0; i < N_KERNELS; i++) {
        kernel_release(o->kernels[i]);
        o->kernels[i] = NULL;
    }
    program_release(o->program);
    o->program = NULL;
}

static void opencl_destroy(struct backend *b) {
    struct opencl *o = self(b);
    kernels_release(o);
    for (int i = 0; i < N_FORMATS; i++) matrix_kernels_release(&o->matrix_kernels[i]);
    for (int i = 0; i < N_FORMATS; i++) attend_kernels_release(&o->attend_kernels[i]);
    attend_scratch_release(&o->attend_scratch);
    gemm_release(&o->gemm);
    linear_many_release(&o->many);
    device_close(&o->device);
    free(o);
}

static err kernel_create(struct opencl *o, cl_program program, const char *name, cl_kernel *out) {
    cl_int code;
    *out = clCreateKernel(program, name, &code);
    return device_check(&o->device, code, name);
}

/* Grows only: a check of attention prepares for its own small shapes. */
static err opencl_prepare(struct backend *b, const struct backend_limits *l) {
    struct opencl *o = self(b);
    if (l->rows_max > o->rows_max) o->rows_max = l->rows_max;
    TRY(linear_many_prepare(&o->device, o->rows_max, o->blocks_max, &o->many));
    return attend_scratch_prepare(&o->device, l, &o->attend_scratch);
}

static err buffer_create(struct backend *b, size_t n_bytes, struct buffer **out) {
    struct buffer *m;
    TRY(NEW(m, 1));
    m->n_bytes = n_bytes;
    err e = device_memory(&self(b)->device, n_bytes, &m->mem);
    if (e != OK) {
        free(m);
        return e;
    }
    *out = m;
    return OK;
}

static err buffer_part(struct backend *b, struct buffer *whole, size_t at, size_t n_bytes, struct buffer **out) {
    struct buffer *m;
    cl_buffer_region region = {at, n_bytes};
    cl_int code;
    TRY(NEW(m, 1));
    m->n_bytes = n_bytes;
    m->mem = clCreateSubBuffer(whole->mem, CL_MEM_READ_WRITE, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
    err e = device_check(&self(b)->device, code, "take a part of a buffer");
    if (e != OK) {
        free(m);
        return e;
    }
    *out = m;
    return OK;
}

/* Before memory goes: a chain has but its address. */
static void chain_settle(struct opencl *o) {
    if (o->device.chain && device_finish(&o->device) != OK) log_warn("device.free", "text=\"%s\"", err_text());
}

static void buffer_free(struct backend *b, struct buffer *m) {
    if (!m) return;
    chain_settle(self(b));
    memory_release(m->mem);
    free(m);
}

static err write_enqueue(struct backend *b, struct buffer *m, cl_bool waits, size_t at, size_t n, const void *src) {
    struct device *d = &self(b)->device;
    cl_command_queue queue;
    if (n == 0) return OK;
    uint8_t *place = device_place(d, m->mem);
    if (place) {
        memcpy(place + at, src, n);
        return OK;
    }
    TRY(device_queue(d, &queue));
    return device_check(d, clEnqueueWriteBuffer(queue, m->mem, waits, at, n, src, 0, NULL, NULL),
                        "write a buffer");
}

static err buffer_write(struct backend *b, struct buffer *m, size_t at, size_t n, const void *src) {
    return write_enqueue(b, m, CL_TRUE, at, n, src);
}

static err buffer_send(struct backend *b, struct buffer *m, size_t at, size_t n, const void *src) {
    return write_enqueue(b, m, CL_FALSE, at, n, src);
}

static err buffer_wrap(struct backend *b, void *memory, size_t n_bytes, struct buffer **out) {
    struct device *d = &self(b)->device;
    struct buffer *m;
    cl_int code;
    TRY(NEW(m, 1));
    m->n_bytes = n_bytes;
    m->mem = clCreateBuffer(d->context, CL_MEM_READ_WRITE | CL_MEM_USE_HOST_PTR, n_bytes, memory, &code);
    err e = device_check(d, code, "use shared memory");
    if (e != OK) free(m);
    else *out = m;
    return e;
}

struct call {
    void (*run)(const void *args, const void *in);
    const void *in; /* the device puts it in */
    _Alignas(16) uint8_t args[CALL_BYTES];
};

static void CL_CALLBACK call_run(void *call) {
    const struct call *c = call;
    c->run(c->args, c->in);
}

static err call(struct backend *b, void (*run)(const void *args, const void *in), const void *args,
                size_t n_bytes, struct buffer *in) {
    struct device *d = &self(b)->device;
    struct call c = {.run = run};
    const void *place = &c.in;
    if (n_bytes > sizeof c.args) return err_set(ERR_INTERNAL, "a call with %zu bytes", n_bytes);
    memcpy(c.args, args, n_bytes);
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    return device_check(d, clEnqueueNativeKernel(queue, call_run, &c, sizeof c, 1, &in->mem, &place, 0, NULL, NULL),
                        "call the host");
}

static err finish(struct backend *b) { return device_finish(&self(b)->device); }

static err buffer_read(struct backend *b, struct buffer *m, size_t at, size_t n, void *dst) {
    struct device *d = &self(b)->device;
    /* Who reads nothing waits nevertheless, see buffer_send. */
    if (n == 0 || d->chain) TRY(finish(b));
    if (n == 0) return OK;
    const uint8_t *place = device_place(d, m->mem);
    if (place) {
        memcpy(dst, place + at, n);
        return OK;
    }
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    return device_check(d, clEnqueueReadBuffer(queue, m->mem, CL_TRUE, at, n, dst, 0, NULL, NULL),
                        "read a buffer");
}

static err buffer_await(struct backend *b, struct buffer *m, size_t at, size_t n, void *dst, const struct watch *w) {
    return await_read(&self(b)->device, m, at, n, dst, w);
}

/* What every device can run. */
static const struct kernel_forms portable = {.lanes_per_item = 1};

#define SIMULATED_OPERATIONS_MAX 50000

/* Rows of the op table that `op` and `format` select, against the reference. */
static err rows_check(struct opencl *o, enum op_kind op, enum format format) {
    uint32_t n;
    const struct op_row *rows = op_table(&n);
    err e = OK;
    int is_simulator = strstr(o->device.platform, "Oclgrind") != NULL; /* thousands of times slower */
    o->is_checking = 1;
    for (uint32_t i = 0; i < n && e == OK; i++)
        if (rows[i].op == op && rows[i].format == format &&
            (!is_simulator || op_row_operations(&rows[i]) <= SIMULATED_OPERATIONS_MAX))
            e = op_row_check(&rows[i], &o->base);
    o->is_checking = 0;
    return e;
}

/* After a failed check: once more in a plainer form, with a warning; a device that
 * fails in the portable one is refused. */
static err forms_give_way(const struct opencl *o, struct kernel_forms *forms, err e) {
    if (o->is_form_given) return e;
    if (forms->lanes_per_item == portable.lanes_per_item && forms->dot == portable.dot && !forms->has_half)
        return e;
    const char *next = forms->has_amx ? "form without AMX" : forms->dot != DOT_PLAIN ? "form with plain dots"
                                                                                    : "portable form";
    log_warn("device.check", "text=\"%s; its %s is used\"", err_text(), next);
    if (forms->has_amx) forms->has_amx = 0;
    else if (forms->dot != DOT_PLAIN) forms->dot = DOT_PLAIN;
    else *forms = portable;
    return OK;
}

#define GEMM_DECIDE_S 0.005 /* of each way, a few products */

/* Whether CLBlast gives the reference's bits on this device and is the faster way here. */
static err gemm_try(struct opencl *o, enum format f, int *is_better) {
    uint32_t n_rows = o->device.tuning.values[TUNE_GEMM_ROWS_MIN];
    const struct op_row speed = {OP_LINEAR, "speed", f, n_rows, 256, 1024, 0, 16};
    struct op_time *timing;
    double own, library;
    *is_better = 0;
    o->gemm_use[f] = GEMM_TRIED;
    err e = rows_check(o, OP_LINEAR, f);
    o->gemm_use[f] = GEMM_NO;
    if (e != OK) {
        log_info("device.clblast", "format=%s used=no text=\"%s\"", format_info(f)->name, err_text());
        return OK;
    }
    TRY(op_time_create(&o->base, &speed, 0, &timing));
    e = op_time_run(timing, n_rows, GEMM_DECIDE_S, &own);
    o->gemm_use[f] = GEMM_TRIED;
    if (e == OK) e = op_time_run(timing, n_rows, GEMM_DECIDE_S, &library);
    o->gemm_use[f] = GEMM_NO;
    op_time_free(timing);
    TRY(e);
    *is_better = library < own;
    log_info("device.clblast", "format=%s used=%s own_us=%.0f clblast_us=%.0f", format_info(f)->name,
             *is_better ? "yes" : "no", own * 1e6, library * 1e6);
    return OK;
}

/* Whether many rows of a dense format are multiplied by CLBlast; where not, nothing of it is kept. */
static err gemm_decide(struct opencl *o, enum format f) {
    int is_better = o->device.forms.has_gemm;
    uint32_t rows_min = o->device.tuning.values[TUNE_GEMM_ROWS_MIN];
    if (o->rows_max < rows_min) return OK; /* asked again once larger steps are prepared for */
    o->gemm_use[f] = GEMM_NO;
    if (format_info(f)->is_quantised || (!o->is_checked && !is_better)) return OK;
    TRY(gemm_prepare(&o->device, f, o->rows_max, &o->gemm));
    if (!is_better) TRY(gemm_try(o, f, &is_better));
    o->gemm_use[f] = is_better ? GEMM_YES : GEMM_NO;
    if (!is_better) gemm_forget(&o->gemm, f);
    return OK;
}

/* A format's kernels, built and checked at its first use. */
static err matrix_kernels_get(struct opencl *o, enum format f) {
    struct matrix_kernels *k = &o->matrix_kernels[f];
    while (!k->program) {
        err e = matrix_kernels_build(&o->device, f, k);
        if (e == OK && o->is_checked) e = rows_check(o, OP_LINEAR, f);
        if (e == OK) break;
        matrix_kernels_release(k);
        TRY(forms_give_way(o, &k->forms, e));
    }
    return o->gemm_use[f] == GEMM_UNKNOWN && !o->is_checking ? gemm_decide(o, f) : OK;
}

static err opencl_matrix_prepare(struct backend *b, enum format f, int is_table) {
    struct opencl *o = self(b);
    TRY(matrix_kernels_get(o, f));
    if (is_table && o->is_checked && !o->matrix_kernels[f].embed) TRY(rows_check(o, OP_EMBED, f));
    compiler_note(o);
    return OK;
}

/* ---- chains ---- */

static const enum op_kind plain_ops[] = {OP_NORM, OP_QUANTIZE, OP_REDUCE, OP_BIAS, OP_GLU, OP_ACT, OP_ADD, OP_SELECT};

static err plain_ops_check(struct opencl *o) {
    for (size_t i = 0; i < sizeof plain_ops / sizeof *plain_ops; i++) TRY(rows_check(o, plain_ops[i], FORMAT_F32));
    return OK;
}

static err chain_check(struct opencl *o, enum format f, enum format kv) {
    TRY(rows_check(o, OP_LINEAR, f));
    if (o->matrix_kernels[f].embed) TRY(rows_check(o, OP_EMBED, f));
    TRY(rows_check(o, OP_KV_WRITE, kv));
    TRY(rows_check(o, OP_ATTEND, kv));
    return plain_ops_check(o);
}

/* Whether one program can hold both; not where one had to give way. */
static int forms_match(const struct kernel_forms *a, const struct kernel_forms *b) {
    return a->lanes_per_item == b->lanes_per_item && a->dot == b->dot && a->has_half == b->has_half;
}

static err chain_of(struct opencl *o, enum format f, enum format kv) {
    struct device *d = &o->device;
    const struct matrix_kernels *linear = &o->matrix_kernels[f];
    const struct attend_kernels *attend = &o->attend_kernels[kv];
    if (!forms_match(&linear->forms, &attend->forms) || !forms_match(&linear->forms, &o->plain_forms)) return OK;
    if (!d->chain) {
        TRY(chain_create(d, &d->chain));
        for (int i = 0; i < N_KERNELS; i++) chain_know(d->chain, kernel_calls[i], o->kernels[i]);
    }
    if (chain_has(d->chain, f, kv)) return OK;
    TRY(chain_add(d->chain, f, linear, kv, attend));
    return o->is_checked ? chain_check(o, f, kv) : OK;
}

/* For each format of matrices, and of caches, that there are. Without chains everything still runs. */
static void chains_add(struct opencl *o) {
    struct device *d = &o->device;
    err e = OK;
    if (!d->can_chain || o->is_checking) return;
    for (int f = 0; f < N_FORMATS; f++)
        for (int kv = 0; kv < N_FORMATS && e == OK && o->n_matrices[f]; kv++)
            if (o->n_caches[kv]) e = chain_of(o, (enum format)f, (enum format)kv);
    compiler_note(o);
    if (e == OK) return;
    log_warn("device.check", "text=\"%s; kernels are launched one by one\"", err_text());
    chain_free(d->chain);
    d->chain = NULL;
    d->can_chain = o->base.can_chain = 0;
}

static err opencl_matrices_load(struct backend *b, const struct matrix_order *orders, uint32_t n) {
    struct opencl *o = self(b);
    for (uint32_t i = 0; i < n; i++) {
        enum format f = orders[i].source.format;
        uint32_t n_cols = (uint32_t)(orders[i].col_end - orders[i].col_begin), n_blocks = n_cols / PACKED_BLOCK;
        TRY(matrix_kernels_get(o, f));
        if (format_info(f)->is_quantised && n_blocks > o->blocks_max) o->blocks_max = n_blocks;
        if (o->matrix_kernels[f].linear_many)
            TRY(linear_many_prepare(&o->device, o->rows_max, o->blocks_max, &o->many));
        if (!format_info(f)->is_quantised)
            TRY(dense_prepare(&o->device, n_cols, &o->matrix_kernels[f].dense));
    }
    TRY(loader_run(&o->device, orders, n));
    for (uint32_t i = 0; i < n; i++) o->n_matrices[orders[i].source.format]++;
    chains_add(o);
    return OK;
}

static void opencl_matrix_free(struct backend *b, struct matrix *m) {
    if (!m) return;
    chain_settle(self(b));
    self(b)->n_matrices[m->layout.format]--;
    loader_matrix_free(m);
}

static uint64_t opencl_matrix_bytes(const struct matrix *m) { return m->layout.n_bytes; }

/* Attention's kernels for a cache format, built and checked at its first use. */
static err attend_get(struct opencl *o, enum format kv) {
    struct attend_kernels *k = &o->attend_kernels[kv];
    while (!k->program) {
        err e = attend_kernels_build(&o->device, kv, k);
        if (e == OK && o->is_checked) e = rows_check(o, OP_KV_WRITE, kv);
        if (e == OK && o->is_checked) e = rows_check(o, OP_ATTEND, kv);
        if (e == OK) break;
        attend_kernels_release(k);
        TRY(forms_give_way(o, &k->forms, e));
    }
    return OK;
}

static err cache_create(struct backend *b, const struct cache_shape *s, struct cache **out) {
    struct opencl *o = self(b);
    TRY(attend_get(o, s->format));
    compiler_note(o);
    TRY(attend_cache_create(&o->device, s, out));
    o->n_caches[s->format]++;
    chains_add(o);
    return OK;
}

static void cache_free(struct backend *b, struct cache *c) {
    if (!c) return;
    chain_settle(self(b));
    self(b)->n_caches[c->shape.format]--;
    attend_cache_free(c);
}

static err embed(struct backend *b, const struct matrix *m, struct buffer *ids, uint32_t n_rows,
                 struct buffer *out) {
    struct opencl *o = self(b);
    return matrix_embed(&o->device, &o->matrix_kernels[m->layout.format], m, ids->mem, n_rows, out->mem);
}

/* What is NULL is NULL in the kernel. */
static cl_mem memory_of(const struct buffer *m) { return m ? m->mem : NULL; }

static err sum_rows(struct backend *b, const struct row_sum *s, uint32_t n_rows, uint32_t width) {
    struct opencl *o = self(b);
    cl_mem leaves = memory_of(s->leaves), vector = memory_of(s->vector), x = memory_of(s->x),
           sum = memory_of(s->sum), w = memory_of(s->weight), bias = memory_of(s->bias),
           out = memory_of(s->out), q8 = memory_of(s->q8);
    cl_ulong merges = s->leaves ? tree_merges(s->tree) : 0;
    cl_uint n_leaves = s->leaves ? s->tree->n_leaves : 0;
    int is_layer = s->kind == NORM_LAYER;
    float over_width = 1.0f / (float)width;
    size_t items = o->plain_forms.lanes_per_item == PACKED_LANES ? 1 : 64, global = n_rows * items;
    return LAUNCH(o, o->kernels[KERNEL_SUM_ROWS], 1, &global, &items, ARG(leaves), ARG(merges), ARG(n_leaves),
                  ARG(vector), ARG(x), ARG(sum), ARG(width), ARG(n_rows), ARG(is_layer), ARG(s->eps),
                  ARG(over_width), ARG(w), ARG(bias), ARG(out), ARG(q8));
}

static err quantize(struct backend *b, struct buffer *in, uint32_t n_rows, uint32_t width, struct buffer *out) {
    cl_uint n_blocks = n_rows * (width / 32), per_item = item_blocks(&self(b)->plain_forms);
    return LAUNCH_ITEMS(self(b), self(b)->kernels[KERNEL_QUANTIZE], (n_blocks + per_item - 1) / per_item,
                        ARG(in->mem), ARG(out->mem), ARG(n_blocks));
}

/* Products of one format. */
static err products_run(struct opencl *o, enum format f, const struct product *p, uint32_t n, struct buffer *in,
                        uint32_t n_rows, uint32_t segment_cols, const struct tree *tree) {
    int use_gemm = (o->gemm_use[f] == GEMM_YES || o->gemm_use[f] == GEMM_TRIED) &&
                   gemm_can(&o->device, &o->gemm, p->matrix, n_rows, segment_cols, tree);
    if (!use_gemm)
        return matrix_linear(&o->device, &o->matrix_kernels[f], p, n, in->mem, n_rows, segment_cols, tree, &o->many);
    for (uint32_t i = 0; i < n; i++)
        TRY(gemm_linear(&o->device, &o->gemm, &p[i], in->mem, n_rows, segment_cols, tree));
    return OK;
}

static err linear(struct backend *b, const struct product *products, uint32_t n_products, struct buffer *in,
                  uint32_t n_rows, uint32_t segment_cols, const struct tree *tree) {
    const struct product *end = products + n_products;
    while (products < end) {
        enum format f = products->matrix->layout.format;
        uint32_t n = 1;
        while (products + n < end && products[n].matrix->layout.format == f) n++;
        TRY(products_run(self(b), f, products, n, in, n_rows, segment_cols, tree));
        products += n;
    }
    return OK;
}

static struct attend_places places_of(const struct row_places *at) {
    return (struct attend_places){at->position->mem, at->table_begin->mem, at->table->mem};
}

static err heads(struct backend *b, struct cache *c, const struct head_rows *h, const struct row_places *at,
                 uint32_t n_rows) {
    struct opencl *o = self(b);
    struct attend_places places = places_of(at);
    return attend_heads(&o->device, &o->attend_kernels[c->shape.format], c, h, &places, n_rows);
}

static err attend(struct backend *b, struct cache *c, struct buffer *q, const struct row_places *at,
                  const struct attend_shape *s, uint32_t n_rows, struct buffer *out) {
    struct opencl *o = self(b);
    struct attend_places places = places_of(at);
    return attend_run(&o->device, &o->attend_kernels[c->shape.format], &o->attend_scratch, c, q->mem, &places, s,
                      n_rows, out->mem);
}

static err activate(struct backend *b, const struct activation *a, uint32_t n_rows, uint32_t width) {
    struct opencl *o = self(b);
    int kind = (int)a->kind;
    cl_mem gate_bias = memory_of(a->gate_bias), up = memory_of(a->up), up_bias = memory_of(a->up_bias),
           out = memory_of(a->out), q8 = memory_of(a->q8);
    uint32_t item_values = 32 * item_blocks(&o->plain_forms);
    cl_uint n = n_rows * ((width + item_values - 1) / item_values);
    /* Vectors make a work-item long: smaller groups leave no core without one. */
    size_t local = o->plain_forms.lanes_per_item == PACKED_LANES ? 16 : 64, global = (n + local - 1) / local * local;
    return LAUNCH(o, o->kernels[KERNEL_ACTIVATE], 1, &global, &local, ARG(kind), ARG(a->gate->mem), ARG(gate_bias),
                  ARG(up), ARG(up_bias), ARG(width), ARG(out), ARG(q8), ARG(n));
}

static err select_rows(struct backend *b, struct buffer *in, struct buffer *index, uint32_t n_out,
                       uint32_t width, struct buffer *out) {
    cl_uint n = n_out * width;
    return LAUNCH_ITEMS(self(b), self(b)->kernels[KERNEL_SELECT], n, ARG(in->mem), ARG(index->mem),
                        ARG(width), ARG(out->mem), ARG(n));
}

static const struct backend_ops opencl_ops = {
    .destroy = opencl_destroy, .prepare = opencl_prepare,
    .buffer_create = buffer_create, .buffer_part = buffer_part, .buffer_free = buffer_free,
    .buffer_write = buffer_write, .buffer_send = buffer_send, .buffer_read = buffer_read,
    .buffer_await = buffer_await, .finish = finish,
    .buffer_wrap = buffer_wrap, .call = call,
    .matrix_prepare = opencl_matrix_prepare, .matrices_load = opencl_matrices_load,
    .matrix_free = opencl_matrix_free, .matrix_bytes = opencl_matrix_bytes,
    .cache_create = cache_create, .cache_free = cache_free,
    .embed = embed, .quantize = quantize, .linear = linear, .sum_rows = sum_rows, .heads = heads,
    .attend = attend, .activate = activate, .select = select_rows,
};

static err kernels_build(struct opencl *o) {
    const char *files[] = {"values.cl", "rows.cl", "pointwise.cl", NULL};
    TRY(device_build(&o->device, &o->plain_forms, files, &o->program));
    for (int i = 0; i < N_KERNELS; i++)
        TRY(kernel_create(o, o->program, kernel_names[i], &o->kernels[i]));
    return OK;
}

/* The ops that depend on no format, built and checked. */
static err kernels_get(struct opencl *o) {
    for (;;) {
        err e = kernels_build(o);
        if (e == OK && o->is_checked) e = plain_ops_check(o);
        if (e == OK) return OK;
        kernels_release(o);
        TRY(forms_give_way(o, &o->plain_forms, e));
    }
}

static err opencl_open(struct opencl *o, const struct device_choice *c, const struct kernel_forms *forms,
                       const struct tuning *tuning) {
    struct device *d = &o->device;
    TRY(device_open(c, d));
    o->is_form_given = forms && forms->lanes_per_item;
    if (o->is_form_given) d->forms = *forms;
    else if (forms) d->forms.is_free = forms->is_free;
    if (tuning) d->tuning = *tuning;
    else tune_find(&(struct tune_device){d->platform, d->name, d->driver}, &d->tuning);
    d->can_chain = chain_suits(d);
    o->base.tuning = d->tuning.source;
    o->base.platform = o->device.platform;
    o->base.device = o->device.name;
    o->base.driver = o->device.driver;
    o->base.lanes_per_item = d->forms.lanes_per_item;
    o->base.has_amx = d->forms.has_amx;
    o->base.memory_bytes = o->device.memory_bytes;
    o->base.is_host = o->device.is_cpu;
    o->base.is_packed = 1;
    o->base.can_chain = d->can_chain;
    o->base.can_call = o->device.can_call;
    for (int f = 0; f < N_FORMATS; f++) o->matrix_kernels[f].forms = o->attend_kernels[f].forms = o->device.forms;
    o->plain_forms = o->device.forms;
    o->is_checked = forms == NULL;
    d->keeps_programs = !forms && !tuning; /* PoCL compiles more to give binaries away */
    TRY(kernels_get(o));
    compiler_note(o);
    return OK;
}

static err open_choice(const struct device_choice *c, const struct kernel_forms *forms, const struct tuning *tuning,
                       struct backend **out) {
    struct opencl *o;
    TRY(NEW(o, 1));
    o->base.ops = &opencl_ops;
    err e = opencl_open(o, c, forms, tuning);
    if (e != OK) {
        opencl_destroy(&o->base);
        return e;
    }
    *out = &o->base;
    return OK;
}

err backend_opencl_tuned(const char *substring, const struct kernel_forms *forms, const struct tuning *tuning,
                         struct backend **out) {
    return open_choice(&(struct device_choice){.select = substring}, forms, tuning, out);
}

err backend_opencl_choice(const struct device_choice *c, struct backend **out) {
    return open_choice(c, NULL, NULL, out);
}

err backend_opencl_forms(const char *substring, const struct kernel_forms *forms, struct backend **out) {
    return backend_opencl_tuned(substring, forms, NULL, out);
}

err backend_opencl(const char *substring, struct backend **out) {
    return backend_opencl_forms(substring, NULL, out);
}
