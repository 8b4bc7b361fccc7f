#include "kernels/chain.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "kernels/attend.h"
#include "kernels/device.h"
#include "kernels/matrix.h"

#define SLOTS 32
#define CALLS_MAX 4096  /* and ends in the table; several steps of a large model */
#define KNOWN_MAX 256   /* kernels */
#define LINKS_MAX 16
#define RANGES_MAX 16   /* of a call's work-items; a line of the cache counts them */
#define SHARES 8        /* of a range: more are more even, but each costs a word between cores */
#define PAGE_BYTES 4096
#define LINE_BYTES 64
#define TILES 4         /* kernels of one name for different numbers of rows at a time */
#define LOOKUP_ITEMS_MAX 8192 /* one by one they take longer than in a launch of their own */
#define ANY (-1)

/* As in chain.cl, which reads an entry once its state says that it is there. */
enum call_state { CALL_MISSING, CALL_THERE, CALL_END };
struct call {
    cl_ulong slots[SLOTS];
    cl_uint kernel_id, n_items, sizes[2], n_ranges, share;
    _Atomic cl_uint state;
    cl_uint rest[9];
    _Alignas(LINE_BYTES) cl_uint n_taken[RANGES_MAX];
    _Alignas(LINE_BYTES) cl_uint n_done;
};

/* A kernel whose calls are taken, by programs for that format and that cache, or by any. */
struct known {
    cl_kernel kernel;
    enum call_id id;
    cl_uint tile;
    int format, kv;
};

struct link {
    cl_program program;
    cl_kernel kernel;
    int format, kv;
};

struct chain {
    struct device *d;
    size_t n_workers;
    struct call *calls;  /* [CALLS_MAX + 1] */
    cl_mem memory;       /* of the calls */
    uint32_t begin, end; /* of the chain that is written */
    int format, kv;      /* that it needs */
    const struct link *running; /* which runs it already; NULL: it is not enqueued yet */
    struct known known[KNOWN_MAX];
    uint32_t n_known;
    struct link links[LINKS_MAX];
    uint32_t n_links;
};

static cl_uint compute_units(const struct device *d) {
    cl_uint n = 0;
    return clGetDeviceInfo(d->id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof n, &n, NULL) == CL_SUCCESS ? n : 0;
}

/* The forms of this host's processor are x86's, whose order of memory chain.cl counts on. */
int chain_suits(const struct device *d) {
    return d->can_call && d->forms.lanes_per_item == PACKED_LANES && d->forms.dot != DOT_PLAIN;
}

err chain_create(struct device *d, struct chain **out) {
    struct chain *c;
    TRY(NEW(c, 1));
    c->d = d;
    c->n_workers = compute_units(d);
    c->format = c->kv = ANY;
    size_t n_bytes = ((CALLS_MAX + 1) * sizeof *c->calls + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
    c->calls = aligned_alloc(PAGE_BYTES, n_bytes);
    if (c->calls) memset(c->calls, 0, n_bytes);
    err e = c->calls ? device_memory_at(d, c->calls, n_bytes, &c->memory) : err_set(ERR_MEMORY, "no memory for calls");
    if (e == OK) *out = c;
    else chain_free(c);
    return e;
}

void chain_free(struct chain *c) {
    if (!c) return;
    if (chain_flush(c) == OK) clFinish(c->d->queue);
    for (uint32_t i = 0; i < c->n_links; i++) {
        clReleaseKernel(c->links[i].kernel);
        clReleaseProgram(c->links[i].program);
    }
    if (c->memory) clReleaseMemObject(c->memory);
    free(c->calls);
    free(c);
}

/* ---- programs ---- */

static const char chain_begin[] =
    "#define kernel static __attribute__((noinline))\n"
    "#undef ITEM_PARAMS\n"
    "#define ITEM_PARAMS , size_t place_0, size_t place_1, size_t place_2\n"
    "#define get_global_id(i) place_##i\n"
    "#define get_local_id(i) ((size_t)0)\n"
    "#define get_local_size(i) ((size_t)1)\n";

static err numbers_put(const struct kernel_forms *forms, struct bytes *text) {
    TRY(bytes_printf(text, "#define CALL_SLOTS %d\n#define CALL_RANGES %d\n", SLOTS, RANGES_MAX));
    TRY(bytes_printf(text, "#define CALL_MISSING %d\n#define CALL_THERE %d\n", CALL_MISSING, CALL_THERE));
    for (int i = 0; i < N_DENSE_TILES; i++)
        TRY(bytes_printf(text, "#define DENSE_ROWS_%d %u\n", i, dense_rows(forms, i)));
#define CALL_DEFINE(name) TRY(bytes_printf(text, "#define CALL_%s %d\n", #name, CALL_##name * TILES));
    CALL_LIST(CALL_DEFINE)
#undef CALL_DEFINE
    return OK;
}

#define TEXTS_MAX 64

static uint32_t texts_add(const char **to, uint32_t at, const char *const *texts, uint32_t n) {
    memcpy(to + at, texts, n * sizeof *texts);
    return at + n;
}
#define ADD(...)                                                                                      \
    n = texts_add(files, n, (const char *const[]){__VA_ARGS__},                                       \
                  sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

static err link_build(struct chain *c, enum format f, const struct kernel_forms *forms, enum format kv,
                      cl_program *out) {
    const char *files[TEXTS_MAX] = {NULL};
    char numbers[FORMAT_NUMBERS_BYTES];
    struct dense_shapes shapes;
    struct bytes own = {0};
    uint32_t n = 0;
    err e = numbers_put(forms, &own);
    if (e == OK) {
        ADD(chain_begin, (const char *)own.data, "values.cl", "rows.cl", "pointwise.cl", attend_defines(kv), "half.cl",
            ATTEND_WIDE_TEXTS, matrix_format_defines(f));
        if (format_info(f)->is_quantised) {
            matrix_format_numbers(f, numbers);
            ADD(numbers, LINEAR_TEXTS);
        } else {
            n += dense_texts(forms, &shapes, files + n);
        }
        ADD("embed.cl", "chain.cl");
        e = device_build(c->d, forms, files, out);
    }
    bytes_free(&own);
    return e;
}

/* Whether a buffer's memory, and a part's, has one address here and on the device. */
static err addresses_check(struct chain *c, cl_program program) {
    struct device *d = c->d;
    cl_int code;
    cl_ulong *seen = c->calls[0].slots;
    cl_buffer_region region = {PAGE_BYTES, PAGE_BYTES};
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    cl_kernel kernel = clCreateKernel(program, "chain_address", &code);
    TRY(device_check(d, code, "chain_address"));
    cl_mem part = clCreateSubBuffer(c->memory, CL_MEM_READ_WRITE, CL_BUFFER_CREATE_TYPE_REGION, &region, &code);
    size_t one = 1;
    if (code == CL_SUCCESS) code = clSetKernelArg(kernel, 0, sizeof part, &part);
    if (code == CL_SUCCESS) code = clSetKernelArg(kernel, 1, sizeof c->memory, &c->memory);
    if (code == CL_SUCCESS) code = clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &one, &one, 0, NULL, NULL);
    if (code == CL_SUCCESS) code = clFinish(queue);
    const void *there = code == CL_SUCCESS ? device_address(part) : NULL;
    if (part) clReleaseMemObject(part);
    clReleaseKernel(kernel);
    TRY(device_check(d, code, "ask for an address"));
    if (*seen == (cl_ulong)(uintptr_t)there && there == (char *)c->calls + PAGE_BYTES) return OK;
    return err_set(ERR_DEVICE, "device '%s': its addresses are not the host's", d->name);
}

static const struct link *link_find(const struct chain *c, int format, int kv) {
    for (uint32_t i = 0; i < c->n_links; i++)
        if ((format == ANY || c->links[i].format == format) && (kv == ANY || c->links[i].kv == kv)) return &c->links[i];
    return NULL;
}

int chain_has(const struct chain *c, enum format f, enum format kv) { return link_find(c, (int)f, (int)kv) != NULL; }

static int is_known(const struct chain *c, cl_kernel kernel) {
    for (uint32_t i = 0; i < c->n_known; i++)
        if (c->known[i].kernel == kernel) return 1;
    return 0;
}

static void know(struct chain *c, struct known k) {
    if (k.kernel && c->n_known < KNOWN_MAX && !is_known(c, k.kernel)) c->known[c->n_known++] = k;
}

void chain_know(struct chain *c, enum call_id id, cl_kernel kernel) {
    know(c, (struct known){kernel, id, 0, ANY, ANY});
}

err chain_add(struct chain *c, enum format f, const struct matrix_kernels *linear, enum format kv,
              const struct attend_kernels *attend) {
    struct link l = {.format = (int)f, .kv = (int)kv};
    cl_int code;
    if (c->n_links == LINKS_MAX) return OK; /* launches of more are taken by none */
    TRY(chain_flush(c));
    TRY(link_build(c, f, &linear->forms, kv, &l.program));
    l.kernel = clCreateKernel(l.program, "chain", &code);
    err e = device_check(c->d, code, "chain");
    if (e == OK) e = addresses_check(c, l.program);
    if (e != OK) {
        if (l.kernel) clReleaseKernel(l.kernel);
        clReleaseProgram(l.program);
        return e;
    }
    c->links[c->n_links++] = l;
    _Static_assert(N_TILES == TILES && N_DENSE_TILES == TILES, "as chain.cl has them");
    for (cl_uint i = 0; i < TILES; i++) {
        know(c, (struct known){linear->linear[i], CALL_LINEAR, i, l.format, ANY});
        know(c, (struct known){linear->dense.product[i], CALL_LINEAR, i, l.format, ANY});
        know(c, (struct known){linear->dense.lay[i], CALL_LAY, i, l.format, ANY});
    }
    know(c, (struct known){linear->embed, CALL_EMBED, 0, l.format, ANY});
    know(c, (struct known){attend->heads, CALL_HEADS, 0, ANY, l.kv});
    know(c, (struct known){attend->chunk, CALL_CHUNK, 0, ANY, l.kv});
    know(c, (struct known){attend->combine, CALL_COMBINE, 0, ANY, l.kv});
    return OK;
}

/* ---- calls ---- */

/* An argument in its slots; 0 where there is no room, or no address. */
static uint32_t slots_put(const struct device_arg *arg, cl_ulong *slots, uint32_t n_left) {
    uint32_t n = (uint32_t)(arg->size + sizeof *slots - 1) / sizeof *slots;
    if (n > n_left) return 0;
    slots[n - 1] = 0; /* what a short one leaves */
    memcpy(slots, arg->value, arg->size);
    if (!arg->is_memory || !slots[0]) return n;
    cl_mem memory;
    memcpy(&memory, arg->value, sizeof memory);
    slots[0] = (cl_ulong)(uintptr_t)device_address(memory);
    return slots[0] ? n : 0;
}

static int call_make(const struct chain *c, const struct known *k, const struct device_arg *args, uint32_t n_args,
                     uint32_t n_dims, const size_t *global, struct call *out) {
    size_t size[3] = {1, 1, 1};
    uint32_t at = 0;
    for (uint32_t i = 0; i < n_args; i++) {
        uint32_t n = slots_put(&args[i], out->slots + at, SLOTS - at);
        if (n == 0) return 0;
        at += n;
    }
    for (uint32_t i = 0; i < n_dims; i++) size[i] = global[i];
    size_t n_items = size[0] * size[1] * size[2];
    if (n_items > (k->id == CALL_EMBED ? LOOKUP_ITEMS_MAX : INT32_MAX)) return 0;
    out->kernel_id = (cl_uint)k->id * TILES + k->tile;
    out->n_items = (cl_uint)n_items;
    out->sizes[0] = (cl_uint)size[0];
    out->sizes[1] = (cl_uint)size[1];
    out->n_ranges = (cl_uint)(c->n_workers < RANGES_MAX ? c->n_workers : RANGES_MAX);
    out->share = (cl_uint)((n_items + c->n_workers * SHARES - 1) / (c->n_workers * SHARES));
    memset(out->n_taken, 0, sizeof out->n_taken);
    out->n_done = 0;
    return 1;
}

/* An entry is there for the device; the next one is not yet. */
static void entry_put(struct chain *c, enum call_state state) {
    atomic_store_explicit(&c->calls[c->end + 1].state, CALL_MISSING, memory_order_relaxed);
    atomic_store_explicit(&c->calls[c->end++].state, state, memory_order_release);
}

/* The device begins with what is there, and waits for more. */
static err chain_run(struct chain *c) {
    const struct link *l = link_find(c, c->format, c->kv);
    if (!l) return err_set(ERR_INTERNAL, "no program for calls of formats %d and %d", c->format, c->kv);
    cl_int code = clSetKernelArg(l->kernel, 0, sizeof c->memory, &c->memory);
    if (code == CL_SUCCESS) code = clSetKernelArg(l->kernel, 1, sizeof c->begin, &c->begin);
    size_t one = 1;
    if (code == CL_SUCCESS)
        code = clEnqueueNDRangeKernel(c->d->queue, l->kernel, 1, NULL, &c->n_workers, &one, 0, NULL, NULL);
    if (code == CL_SUCCESS) c->running = l;
    return device_check(c->d, code, "enqueue a chain");
}

err chain_flush(struct chain *c) {
    err e = c->begin < c->end && !c->running ? chain_run(c) : OK;
    if (c->begin < c->end) entry_put(c, CALL_END);
    c->begin = c->end;
    c->format = c->kv = ANY;
    c->running = NULL;
    return e;
}

/* To the table's begin, of which a short one stays in the caches. Between two steps the device rests, and this waits
 * for nothing. */
static err table_rewind(struct chain *c) {
    if (c->d->is_busy) TRY(device_check(c->d, clFinish(c->d->queue), "finish"));
    c->begin = c->end = 0;
    return OK;
}

static int is_other(int has, int wants) { return has != ANY && wants != ANY && has != wants; }

/* Whether one program takes that kernel and the chain so far. */
static int joins(const struct chain *c, const struct known *k) {
    if (c->running) return !is_other(c->running->format, k->format) && !is_other(c->running->kv, k->kv);
    int format = k->format != ANY ? k->format : c->format, kv = k->kv != ANY ? k->kv : c->kv;
    return !is_other(c->format, k->format) && !is_other(c->kv, k->kv) && link_find(c, format, kv);
}

/* The device begins as soon as a call says which program it needs, while others are written. Not with one thread: while
 * it waited it would keep the host, which shares its core, from writing. */
int chain_take(struct chain *c, cl_kernel kernel, const struct device_arg *args, uint32_t n_args, uint32_t n_dims,
               const size_t *global, err *e) {
    const struct known *k = c->known, *end = k + c->n_known;
    while (k < end && k->kernel != kernel) k++;
    *e = OK;
    if (k == end || c->n_links == 0) return 0;
    if (!joins(c, k) || c->end + 1 >= CALLS_MAX) *e = chain_flush(c);
    if (*e == OK && c->begin == c->end && (!c->d->is_busy || c->end > CALLS_MAX / 2)) *e = table_rewind(c);
    if (*e != OK || !call_make(c, k, args, n_args, n_dims, global, &c->calls[c->end])) return 0;
    c->d->is_busy = 1;
    entry_put(c, CALL_THERE);
    if (k->format != ANY) c->format = k->format;
    if (k->kv != ANY) c->kv = k->kv;
    if (!c->running && k->format != ANY && c->n_workers > 1) *e = chain_run(c);
    return 1;
}
