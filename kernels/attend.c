#include "kernels/attend.h"

#include <math.h>
#include <stdlib.h>

#include "base/mem.h"

#define PARTIALS_BYTES ((size_t)16 << 20)
#define LANES 128 /* of a work-group, in the one-lane form */

#define TEXT_OF(x) #x
#define DEFINE(name, value) "#define " #name " " TEXT_OF(value) "\n"
#define ARG DEVICE_ARG

const char *attend_defines(enum format kv) {
    return kv == FORMAT_F16 ? "#define KV_F16\n" DEFINE(QUERIES, ATTEND_QUERIES)
                            : "#define KV_F32\n" DEFINE(QUERIES, ATTEND_QUERIES);
}

static err build_program(struct device *d, enum format kv, const struct kernel_forms *forms, cl_program *out) {
    const char *lanes[] = {attend_defines(kv), DEFINE(LANES, LANES), "half.cl", "attend.cl", "attend_lanes.cl",
                           "heads.cl", NULL};
    const char *wide[] = {attend_defines(kv), "half.cl", ATTEND_WIDE_TEXTS, NULL};
    return device_build(d, forms, forms->lanes_per_item == 1 ? lanes : wide, out);
}

err attend_kernels_build(struct device *d, enum format kv, struct attend_kernels *k) {
    TRY(build_program(d, kv, &k->forms, &k->program));
    const struct {
        const char *name;
        cl_kernel *to;
    } kernels[] = {{"heads_write", &k->heads}, {"attend_chunk", &k->chunk}, {"attend_combine", &k->combine}};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++) {
        cl_int code;
        *kernels[i].to = clCreateKernel(k->program, kernels[i].name, &code);
        TRY(device_check(d, code, kernels[i].name));
    }
    return OK;
}

void attend_kernels_release(struct attend_kernels *k) {
    const cl_kernel kernels[] = {k->heads, k->chunk, k->combine};
    for (size_t i = 0; i < sizeof kernels / sizeof *kernels; i++)
        if (kernels[i]) clReleaseKernel(kernels[i]);
    if (k->program) clReleaseProgram(k->program);
    *k = (struct attend_kernels){.forms = k->forms};
}

static void memory_release(cl_mem m) {
    if (m) clReleaseMemObject(m);
}

err attend_scratch_prepare(struct device *d, const struct backend_limits *l, struct attend_scratch *s) {
    size_t chunks = (l->context_max + ATTEND_CHUNK - 1) / ATTEND_CHUNK;
    size_t row = l->n_heads_max * chunks * (l->head_dim_max + 2) * sizeof(float);
    size_t all = row * l->rows_max;
    size_t need = all < PARTIALS_BYTES ? all : row > PARTIALS_BYTES ? row : PARTIALS_BYTES;
    if (need <= s->n_bytes) return OK;
    attend_scratch_release(s);
    TRY(device_memory(d, need, &s->partials));
    s->n_bytes = need;
    return OK;
}

void attend_scratch_release(struct attend_scratch *s) {
    memory_release(s->partials);
    *s = (struct attend_scratch){0};
}

static err zeroed_memory(struct device *d, size_t n, cl_mem *out) {
    TRY(device_memory(d, n, out));
    cl_uint zero = 0;
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    return device_check(d, clEnqueueFillBuffer(queue, *out, &zero, sizeof zero, 0, n, 0, NULL, NULL),
                        "clear a buffer");
}

err attend_cache_create(struct device *d, const struct cache_shape *s, struct cache **out) {
    struct cache *c;
    TRY(NEW(c, 1));
    c->shape = *s;
    size_t n = (size_t)s->n_blocks * s->n_kv_heads * s->head_dim * KV_BLOCK_TOKENS *
               (s->format == FORMAT_F16 ? 2 : 4);
    err e = zeroed_memory(d, n, &c->k);
    if (e == OK) e = zeroed_memory(d, n, &c->v);
    if (e != OK) {
        attend_cache_free(c);
        return e;
    }
    *out = c;
    return OK;
}

void attend_cache_free(struct cache *c) {
    if (!c) return;
    memory_release(c->k);
    memory_release(c->v);
    free(c);
}

static cl_mem memory_of(const struct buffer *m) { return m ? m->mem : NULL; }

err attend_heads(struct device *d, const struct attend_kernels *kernels, const struct cache *c,
                 const struct head_rows *h, const struct attend_places *at, uint32_t n_rows) {
    cl_mem q = memory_of(h->q), k = memory_of(h->k), v = memory_of(h->v), q_bias = memory_of(h->q_bias),
           k_bias = memory_of(h->k_bias), v_bias = memory_of(h->v_bias), angles = memory_of(h->angles);
    cl_uint n_q = h->q ? h->n_heads : 0, n_kv = h->k ? c->shape.n_kv_heads : 0, q_pairs = h->q_rot / 2,
            k_pairs = h->k_rot / 2;
    int is_neox = h->style == ROPE_NEOX, is_wide = kernels->forms.lanes_per_item == PACKED_LANES;
    /* A head is one work-item long, or as wide as 32 of them. */
    size_t local[3] = {is_wide ? 1 : 32, is_wide ? 8 : 1, 1};
    size_t global[3] = {local[0], (n_q + 2 * n_kv + local[1] - 1) / local[1] * local[1], n_rows};
    return device_launch(d, kernels->heads,
                         DEVICE_ARGS(ARG(c->k), ARG(c->v), ARG(q), ARG(k), ARG(v), ARG(q_bias), ARG(k_bias),
                                     ARG(v_bias), ARG(angles), ARG(at->position), ARG(at->table_begin),
                                     ARG(at->table), ARG(n_q), ARG(n_kv), ARG(c->shape.head_dim), ARG(q_pairs),
                                     ARG(k_pairs), ARG(is_neox)), 3, global, local);
}

/* How the queries of a step are shared out: tiles of rows, and of the heads of each KV head. */
struct tiling {
    cl_uint n_parts, cap_heads, tile_rows;
};

static struct tiling tiling_of(const struct attend_shape *s) {
    struct tiling t;
    t.n_parts = (s->group + ATTEND_QUERIES - 1) / ATTEND_QUERIES;
    t.cap_heads = (s->group + t.n_parts - 1) / t.n_parts;
    t.tile_rows = ATTEND_QUERIES / t.cap_heads;
    return t;
}

struct attend_call {
    struct device *d;
    const struct attend_kernels *kernels;
    const struct attend_scratch *scratch;
    const struct cache *c;
    const struct attend_places *at;
    const struct attend_shape *s;
    cl_mem q, out;
};

static err chunks_launch(const struct attend_call *a, cl_uint row_begin, cl_uint row_end) {
    const struct attend_shape *s = a->s;
    struct tiling t = tiling_of(s);
    size_t lanes = a->kernels->forms.lanes_per_item == 1 ? LANES : 1;
    size_t n_tiles = (row_end - row_begin + t.tile_rows - 1) / t.tile_rows;
    size_t global[3] = {n_tiles * lanes, s->n_kv_heads * t.n_parts, s->n_chunks}, local[3] = {lanes, 1, 1};
    float scale = 1.0f / sqrtf((float)s->head_dim);
    return device_launch(a->d, a->kernels->chunk,
                         DEVICE_ARGS(ARG(a->c->k), ARG(a->c->v), ARG(a->q), ARG(a->at->position),
                                     ARG(a->at->table_begin), ARG(a->at->table), ARG(s->head_dim), ARG(s->n_kv_heads),
                                     ARG(s->n_heads), ARG(s->head_begin), ARG(s->kv_begin), ARG(s->group),
                                     ARG(t.n_parts), ARG(t.cap_heads), ARG(s->window), ARG(scale), ARG(row_begin),
                                     ARG(row_end), ARG(t.tile_rows), ARG(s->n_chunks), ARG(a->scratch->partials),
                                     ARG(a->out)),
                         3, global, local);
}

static err combine_launch(const struct attend_call *a, cl_uint row_begin, cl_uint row_end) {
    const struct attend_shape *s = a->s;
    int is_wide = a->kernels->forms.lanes_per_item != 1;
    size_t n_rows = row_end - row_begin, lanes = (s->head_dim + 31) / 32 * 32;
    size_t by_lane[3] = {lanes, s->n_heads, n_rows}, local[3] = {32, 1, 1};
    size_t by_head[2] = {s->n_heads, n_rows}, one[2] = {1, 1};
    return device_launch(a->d, a->kernels->combine,
                         DEVICE_ARGS(ARG(a->scratch->partials), ARG(a->at->position), ARG(s->n_chunks),
                                     ARG(s->head_dim), ARG(s->n_heads), ARG(s->window), ARG(row_begin), ARG(a->out)),
                         is_wide ? 2 : 3, is_wide ? by_head : by_lane, is_wide ? one : local);
}

err attend_run(struct device *d, const struct attend_kernels *kernels, const struct attend_scratch *scratch,
               const struct cache *c, cl_mem q, const struct attend_places *at, const struct attend_shape *s,
               uint32_t n_rows, cl_mem out) {
    struct attend_call a = {d, kernels, scratch, c, at, s, q, out};
    size_t row_bytes = (size_t)s->n_heads * s->n_chunks * (s->head_dim + 2) * sizeof(float);
    uint32_t tile = (uint32_t)(scratch->n_bytes / row_bytes);
    if (tile == 0)
        return err_set(ERR_INTERNAL, "attention over %u chunks was not prepared for", s->n_chunks);
    if (s->n_chunks == 1) return chunks_launch(&a, 0, n_rows); /* which ends the rows, too */
    for (uint32_t row = 0; row < n_rows; row += tile) {
        uint32_t end = n_rows - row < tile ? n_rows : row + tile;
        TRY(chunks_launch(&a, row, end));
        TRY(combine_launch(&a, row, end));
    }
    return OK;
}
