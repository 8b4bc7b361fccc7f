#include "kernels/matrix.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/pack.h"

static const uint32_t tiles[N_TILES] = {1, 4, 8};

cl_ulong tree_merges(const struct tree *t) {
    cl_ulong m = 0;
    for (int i = 0; i < SEGMENTS_MAX; i++) m |= (cl_ulong)t->merges[i] << (4 * i);
    return m;
}

cl_uint tree_emits(const struct tree *t) {
    cl_uint m = 0;
    for (int i = 0; i < SEGMENTS_MAX; i++) m |= (cl_uint)t->emits[i] << i;
    return m;
}

/* What a format's kernels are compiled with. */
static const char *const format_defines[N_FORMATS] = {
    [FORMAT_F32] = "#define DENSE_F32\n#define DENSE_BYTES 4\n",
    [FORMAT_F16] = "#define DENSE_F16\n#define DENSE_BYTES 2\n",
    [FORMAT_BF16] = "#define DENSE_BF16\n#define DENSE_BYTES 2\n",
    [FORMAT_Q8_0] = "#define QUANT_BITS 8\n#define HIGH_BITS 0\n#define SCALES S_F16\n",
    [FORMAT_Q4_0] = "#define QUANT_BITS 4\n#define HIGH_BITS 0\n#define SCALES S_F16\n",
    [FORMAT_Q4_1] = "#define QUANT_BITS 4\n#define HIGH_BITS 0\n#define SCALES S_F16\n",
    [FORMAT_Q5_0] = "#define QUANT_BITS 4\n#define HIGH_BITS 1\n#define SCALES S_F16\n",
    [FORMAT_Q5_1] = "#define QUANT_BITS 4\n#define HIGH_BITS 1\n#define SCALES S_F16\n",
    [FORMAT_Q2_K] = "#define QUANT_BITS 2\n#define HIGH_BITS 0\n#define SCALES S_Q2\n",
    [FORMAT_Q3_K] = "#define QUANT_BITS 2\n#define HIGH_BITS 1\n#define SCALES S_Q3\n",
    [FORMAT_Q4_K] = "#define QUANT_BITS 4\n#define HIGH_BITS 0\n#define SCALES S_K45\n",
    [FORMAT_Q5_K] = "#define QUANT_BITS 4\n#define HIGH_BITS 1\n#define SCALES S_K45\n",
    [FORMAT_Q6_K] = "#define QUANT_BITS 4\n#define HIGH_BITS 2\n#define SCALES S_Q6\n",
};

const char *matrix_format_defines(enum format f) { return format_defines[f]; }

/* A group of lanes per work-item pays where rows share unpacked weights. */
static int has_many(const struct kernel_forms *forms, enum format f) {
    return format_info(f)->is_quantised && forms->lanes_per_item == PACKED_LANES;
}

static err linear_program(struct device *d, const struct kernel_forms *forms, enum format f,
                          const char *numbers, cl_program *out) {
    const char *files[] = {format_defines[f], numbers, "half.cl", "packed.cl", "dot.cl", "tree.cl", "products.cl",
                           "#define T 1\n", "linear.cl", "#undef T\n#define T 4\n", "linear.cl",
                           "#undef T\n#define T 8\n", "linear.cl", has_many(forms, f) ? "linear_many.cl" : NULL, NULL};
    return device_build(d, forms, files, out);
}

/* A lookup takes single rows out of the groups: one lane per work-item. */
static err embed_program(struct device *d, const struct kernel_forms *forms, enum format f,
                         const char *numbers, cl_program *out) {
    const char *files[] = {"#undef LPI\n#define LPI 1\n", format_defines[f], numbers, "half.cl",
                           "packed.cl", "embed.cl", NULL};
    return device_build(d, forms, files, out);
}

static void format_numbers(enum format f, char out[160]) {
    const struct packed_info *info = packed_info(f);
    snprintf(out, 160, "#define OFFSET %u\n#define HAS_MIN %u\n#define N_SCALES %u\n", info->offset,
             info->has_min, info->n_scales);
}

err matrix_kernels_build(struct device *d, enum format f, struct matrix_kernels *k) {
    if (!format_info(f)->is_quantised)
        return dense_build(d, &k->forms, format_defines[f], &k->dense, &k->program);
    char numbers[160];
    format_numbers(f, numbers);
    TRY(linear_program(d, &k->forms, f, numbers, &k->program));
    cl_int code;
    for (int i = 0; i < N_TILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "linear_%u", tiles[i]);
        k->linear[i] = clCreateKernel(k->program, name, &code);
        TRY(device_check(d, code, name));
    }
    if (!has_many(&k->forms, f)) return OK;
    k->arrange = clCreateKernel(k->program, "tiles_arrange", &code);
    TRY(device_check(d, code, "tiles_arrange"));
    k->linear_many = clCreateKernel(k->program, "linear_many", &code);
    return device_check(d, code, "linear_many");
}

static err embed_build(struct device *d, enum format f, struct matrix_kernels *k) {
    if (k->embed) return OK;
    char numbers[160];
    format_numbers(f, numbers);
    TRY(embed_program(d, &k->forms, f, numbers, &k->embed_program));
    cl_int code;
    k->embed = clCreateKernel(k->embed_program, "embed", &code);
    return device_check(d, code, "embed");
}

void matrix_kernels_release(struct matrix_kernels *k) {
    for (int i = 0; i < N_TILES; i++)
        if (k->linear[i]) clReleaseKernel(k->linear[i]);
    if (k->linear_many) clReleaseKernel(k->linear_many);
    if (k->arrange) clReleaseKernel(k->arrange);
    dense_release(&k->dense);
    if (k->embed) clReleaseKernel(k->embed);
    if (k->program) clReleaseProgram(k->program);
    if (k->embed_program) clReleaseProgram(k->embed_program);
    *k = (struct matrix_kernels){.forms = k->forms};
}

/* Loading: threads take batches of rows in turn. One reads, the others pack what they have read. So a
 * source is called from other threads, but by one at a time. */
#define BATCH_BYTES ((size_t)512 << 10) /* of the file, about; stays in a core's cache */
#define PACKERS_MAX 8
#define HUGE_PAGE_BYTES ((uintptr_t)2 << 20)

enum { QUANTS, HIGH, SCALES, SUPERS, N_PLANES };

struct packer {
    struct device *d;
    const struct packed_layout *layout;
    const struct matrix_source *source;
    uint64_t row_begin, col_begin, col_end; /* to read */
    cl_mem mem;
    uint8_t *mapped;              /* `mem`, where the device shares this memory; else NULL */
    size_t plane_at[N_PLANES], group_bytes[N_PLANES];
    size_t row_bytes;
    uint32_t batch_groups, block_first;
    pthread_mutex_t lock; /* of the source and of what follows */
    uint32_t group;       /* the next one to read */
    err result;
    char text[1024]; /* error texts belong to a thread */
};

/* Groups that were read together: n_groups == 0 where none is left. */
struct batch {
    uint32_t group, n_groups, n_rows;
    uint8_t *rows, *staging;
};

static err batch_read(struct packer *p, struct batch *b) {
    const struct packed_layout *l = p->layout;
    pthread_mutex_lock(&p->lock);
    uint32_t left = p->result == OK ? l->n_groups - p->group : 0;
    b->group = p->group;
    b->n_groups = left < p->batch_groups ? left : p->batch_groups;
    p->group += b->n_groups;
    uint32_t first = b->group * PACKED_LANES, rows_left = l->rows - first;
    b->n_rows = rows_left < b->n_groups * PACKED_LANES ? rows_left : b->n_groups * PACKED_LANES;
    err e = OK;
    if (b->n_groups)
        e = p->source->read(p->source->context, p->row_begin + first, p->row_begin + first + b->n_rows,
                            p->col_begin, p->col_end, b->rows);
    pthread_mutex_unlock(&p->lock);
    return e;
}

static err batch_pack(const struct packer *p, const struct batch *b) {
    uint8_t *planes[N_PLANES], *staging = b->staging;
    for (int i = 0; i < N_PLANES; i++) {
        planes[i] = p->mapped ? p->mapped + p->plane_at[i] + b->group * p->group_bytes[i] : staging;
        if (!p->mapped) staging += p->batch_groups * p->group_bytes[i];
    }
    for (uint32_t g = 0; g < b->n_groups; g++) {
        uint32_t first = g * PACKED_LANES, left = b->n_rows - first;
        struct packed_group out = {planes[QUANTS] + g * p->group_bytes[QUANTS],
                                   planes[HIGH] + g * p->group_bytes[HIGH],
                                   planes[SCALES] + g * p->group_bytes[SCALES],
                                   planes[SUPERS] + g * p->group_bytes[SUPERS]};
        pack_group(p->layout, b->rows + first * p->row_bytes, p->row_bytes,
                   left < PACKED_LANES ? left : PACKED_LANES, p->block_first, &out);
    }
    for (int i = 0; i < N_PLANES && !p->mapped; i++) {
        size_t n = b->n_groups * p->group_bytes[i], at = p->plane_at[i] + b->group * p->group_bytes[i];
        if (n) TRY(device_check(p->d, clEnqueueWriteBuffer(p->d->queue, p->mem, CL_TRUE, at, n, planes[i],
                                                           0, NULL, NULL), "write weights"));
    }
    return OK;
}

static err batches_pack(struct packer *p, struct batch *b) {
    size_t group = 0;
    for (int i = 0; i < N_PLANES; i++) group += p->group_bytes[i];
    TRY(NEW(b->rows, p->batch_groups * PACKED_LANES * p->row_bytes));
    if (!p->mapped) TRY(NEW(b->staging, p->batch_groups * group));
    for (;;) {
        TRY(batch_read(p, b));
        if (b->n_groups == 0) return OK;
        TRY(batch_pack(p, b));
    }
}

/* The first failure ends all of them. */
static void *packer_thread(void *packer) {
    struct packer *p = packer;
    struct batch b = {0};
    err e = batches_pack(p, &b);
    free(b.rows);
    free(b.staging);
    if (e == OK) return NULL;
    pthread_mutex_lock(&p->lock);
    if (p->result == OK) {
        p->result = e;
        snprintf(p->text, sizeof p->text, "%s", err_text());
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* As many threads as a CPU device itself uses; two elsewhere, so that one reads. */
static uint32_t packers_count(const struct packer *p) {
    cl_uint n = 2;
    uint32_t n_batches = (p->layout->n_groups + p->batch_groups - 1) / p->batch_groups;
    if (p->d->is_cpu && clGetDeviceInfo(p->d->id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof n, &n, NULL) != CL_SUCCESS)
        n = 2;
    n = n < 2 ? 2 : n > PACKERS_MAX ? PACKERS_MAX : n;
    return n < n_batches ? n : n_batches;
}

/* This thread is one of them, so that all is packed even where no other can be started. */
static err packers_run(struct packer *p) {
    pthread_t threads[PACKERS_MAX];
    uint32_t n = packers_count(p), n_started = 0;
    pthread_mutex_init(&p->lock, NULL);
    while (n_started + 1 < n && pthread_create(&threads[n_started], NULL, packer_thread, p) == 0) n_started++;
    packer_thread(p);
    for (uint32_t i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&p->lock);
    return p->result == OK ? OK : err_set(p->result, "%s", p->text);
}

/* With small pages a fifth of the time of loading goes into touching them first. */
static void pages_make_huge(uint8_t *memory, size_t n_bytes) {
    uintptr_t begin = ((uintptr_t)memory + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    uintptr_t end = ((uintptr_t)memory + n_bytes) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if (begin < end) madvise((void *)begin, end - begin, MADV_HUGEPAGE); /* a wish */
}

static err all_pack(struct packer *p) {
    const struct packed_layout *l = p->layout;
    pack_group_bytes(l, &p->group_bytes[QUANTS], &p->group_bytes[HIGH], &p->group_bytes[SCALES],
                     &p->group_bytes[SUPERS]);
    const size_t at[N_PLANES] = {l->quants_at, l->high_at, l->scales_at, l->supers_at};
    memcpy(p->plane_at, at, sizeof at);
    size_t groups = BATCH_BYTES / (p->row_bytes * PACKED_LANES + 1) + 1;
    p->batch_groups = groups < l->n_groups ? (uint32_t)groups : l->n_groups;
    if (!p->d->is_cpu) return packers_run(p);
    cl_int code;
    p->mapped = clEnqueueMapBuffer(p->d->queue, p->mem, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, 0, l->n_bytes,
                                   0, NULL, NULL, &code);
    TRY(device_check(p->d, code, "map weights"));
    pages_make_huge(p->mapped, l->n_bytes);
    err e = packers_run(p);
    code = clEnqueueUnmapMemObject(p->d->queue, p->mem, p->mapped, 0, NULL, NULL);
    return e != OK ? e : device_check(p->d, code, "unmap weights");
}

err matrix_create(struct device *d, const struct matrix_source *source, uint64_t row_begin,
                  uint64_t row_end, uint64_t col_begin, uint64_t col_end, struct matrix **out) {
    struct matrix *m;
    TRY(NEW(m, 1));
    packed_layout_make(source->format, row_end - row_begin, col_begin, col_end, &m->layout);
    uint64_t per = format_info(source->format)->block_values;
    uint64_t read_begin = col_begin / per * per, read_end = (col_end + per - 1) / per * per;
    struct packer p = {.d = d, .layout = &m->layout, .source = source, .row_begin = row_begin,
                       .col_begin = read_begin, .col_end = read_end,
                       .row_bytes = format_bytes(source->format, read_end - read_begin),
                       .block_first = (uint32_t)((col_begin - read_begin) / 32)};
    err e = device_memory(d, m->layout.n_bytes, &m->mem);
    p.mem = m->mem;
    if (e == OK && m->layout.n_groups && m->layout.cols) e = all_pack(&p);
    if (e != OK) {
        if (m->mem) clReleaseMemObject(m->mem);
        free(m);
        return e;
    }
    *out = m;
    return OK;
}

#define ARG DEVICE_ARG

err matrix_embed(struct device *d, struct matrix_kernels *k, const struct matrix *m, cl_mem ids,
                 uint32_t n_rows, cl_mem out) {
    const struct packed_layout *l = &m->layout;
    TRY(embed_build(d, l->format, k));
    cl_uint n = n_rows * l->n_blocks;
    if (!format_info(l->format)->is_quantised)
        return device_launch_items(d, k->embed, DEVICE_ARGS(ARG(m->mem), ARG(l->cols), ARG(ids), ARG(out), ARG(n)), n);
    cl_ulong high_at = l->high_at, scales_at = l->scales_at, supers_at = l->supers_at;
    return device_launch_items(d, k->embed,
                               DEVICE_ARGS(ARG(m->mem), ARG(high_at), ARG(scales_at), ARG(supers_at),
                                           ARG(l->n_blocks), ARG(l->super_first), ARG(l->n_supers),
                                           ARG(ids), ARG(out), ARG(n)), n);
}

/* The widest tile that n_rows fill: a kernel for T rows wants T at least. */
static int tile_choose(uint32_t n_rows) {
    int i = N_TILES - 1;
    while (tiles[i] > n_rows) i--;
    return i;
}

err product_args_fill(const struct product *p, uint32_t n, uint32_t unit, struct product_args *out) {
    *out = (struct product_args){.n_units = 0};
    for (uint32_t i = 0; i < PRODUCTS_MAX; i++) {
        const struct product *from = &p[i < n ? i : 0];
        const struct packed_layout *l = &from->matrix->layout;
        if (from->row_begin % PACKED_LANES != 0)
            return err_set(ERR_INTERNAL, "a matrix part begins at row %u, no multiple of %d", from->row_begin,
                           PACKED_LANES);
        out->w[i] = from->matrix->mem;
        out->out[i] = from->out->mem;
        out->at[i] = (cl_ulong4){{l->high_at, l->scales_at, l->supers_at, from->row_begin / PACKED_LANES}};
        if (i >= n) continue;
        out->n_outs.s[i] = from->row_end - from->row_begin;
        out->n_units += (out->n_outs.s[i] + unit - 1) / unit;
    }
    return OK;
}

err matrix_linear(struct device *d, const struct matrix_kernels *k, const struct product *products,
                  uint32_t n_products, cl_mem in, uint32_t n_rows, uint32_t segment_cols,
                  const struct tree *tree, const struct linear_many *many) {
    const struct packed_layout *l = &products->matrix->layout;
    if (!format_info(l->format)->is_quantised)
        return dense_linear(d, &k->forms, &k->dense, products, n_products, in, n_rows, segment_cols, tree);
    struct product_args a;
    TRY(product_args_fill(products, n_products, PACKED_LANES, &a));
    cl_ulong merges = tree_merges(tree);
    cl_uint emits = tree_emits(tree), segment_blocks = segment_cols / PACKED_BLOCK;
    int is_group = k->forms.lanes_per_item == PACKED_LANES;
    size_t local = is_group ? 1 : 64, global = is_group ? a.n_units : (a.n_units * PACKED_LANES + 63) / 64 * 64;
    cl_kernel kernel = k->linear[tile_choose(n_rows)];
    if (k->linear_many && n_rows >= LINEAR_MANY_ROWS_MIN) {
        TRY(linear_many_arrange(d, k->arrange, in, n_rows, l->n_blocks, many));
        kernel = k->linear_many;
        in = many->tiles;
    }
    return device_launch(d, kernel, DEVICE_ARGS(PRODUCT_ARGS(a), ARG(l->n_blocks), ARG(l->super_first),
                                                ARG(l->n_supers), ARG(in), ARG(n_rows), ARG(segment_blocks),
                                                ARG(merges), ARG(emits), ARG(tree->n_leaves)),
                         1, &global, &local);
}
