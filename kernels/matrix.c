#include "kernels/matrix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/pack.h"

static const uint32_t tiles[N_TILES] = {1, 2, 4, 8};

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

static err linear_program(struct device *d, const struct kernel_forms *forms, enum format f,
                          const char *numbers, cl_program *out) {
    const char *body = format_info(f)->is_quantised ? "linear.cl" : "dense.cl";
    const char *files[] = {format_defines[f], numbers, "half.cl", "packed.cl", "tree.cl",
                           "#define T 1\n", body, "#undef T\n#define T 2\n", body,
                           "#undef T\n#define T 4\n", body, "#undef T\n#define T 8\n", body, NULL};
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
    const char *kind = format_info(f)->is_quantised ? "linear" : "dense";
    char numbers[160];
    format_numbers(f, numbers);
    TRY(linear_program(d, &k->forms, f, numbers, &k->program));
    cl_int code;
    for (int i = 0; i < N_TILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "%s_%u", kind, tiles[i]);
        k->linear[i] = clCreateKernel(k->program, name, &code);
        TRY(device_check(d, code, name));
    }
    return OK;
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
    if (k->embed) clReleaseKernel(k->embed);
    if (k->program) clReleaseProgram(k->program);
    if (k->embed_program) clReleaseProgram(k->embed_program);
    *k = (struct matrix_kernels){.forms = k->forms};
}

/* Rows are read and packed in batches of about this many file bytes. */
#define BATCH_BYTES ((size_t)4 << 20)

struct packer {
    struct device *d;
    const struct packed_layout *layout;
    cl_mem mem;
    size_t quants, high, scales, supers; /* bytes of a group in each plane */
    uint8_t *rows, *planes;
    size_t row_bytes;
    uint32_t batch_groups, block_first;
};

static err plane_write(const struct packer *p, size_t plane_at, size_t group_bytes, uint32_t group,
                       uint32_t n_groups, const uint8_t *src) {
    if (group_bytes == 0) return OK;
    return device_check(p->d, clEnqueueWriteBuffer(p->d->queue, p->mem, CL_TRUE,
                                                   plane_at + group * group_bytes,
                                                   n_groups * group_bytes, src, 0, NULL, NULL),
                        "write weights");
}

static err batch_pack(const struct packer *p, uint32_t group, uint32_t n_groups, uint32_t n_rows) {
    const struct packed_layout *l = p->layout;
    uint8_t *quants = p->planes, *high = quants + p->batch_groups * p->quants;
    uint8_t *scales = high + p->batch_groups * p->high;
    uint8_t *supers = scales + p->batch_groups * p->scales;
    for (uint32_t i = 0; i < n_groups; i++) {
        uint32_t first = i * PACKED_LANES;
        struct packed_group out = {quants + i * p->quants, high + i * p->high, scales + i * p->scales,
                                   supers + i * p->supers};
        pack_group(l, p->rows + first * p->row_bytes, p->row_bytes,
                   n_rows - first < PACKED_LANES ? n_rows - first : PACKED_LANES, p->block_first, &out);
    }
    TRY(plane_write(p, l->quants_at, p->quants, group, n_groups, quants));
    TRY(plane_write(p, l->high_at, p->high, group, n_groups, high));
    TRY(plane_write(p, l->scales_at, p->scales, group, n_groups, scales));
    return plane_write(p, l->supers_at, p->supers, group, n_groups, supers);
}

static err all_pack(struct packer *p, const struct matrix_source *source, uint64_t row_begin,
                    uint64_t col_begin, uint64_t col_end) {
    const struct packed_layout *l = p->layout;
    pack_group_bytes(l, &p->quants, &p->high, &p->scales, &p->supers);
    size_t groups = BATCH_BYTES / (p->row_bytes * PACKED_LANES + 1) + 1;
    p->batch_groups = groups < l->n_groups ? (uint32_t)groups : l->n_groups;
    TRY(NEW(p->rows, p->batch_groups * PACKED_LANES * p->row_bytes));
    TRY(NEW(p->planes, p->batch_groups * (p->quants + p->high + p->scales + p->supers)));
    for (uint32_t g = 0; g < l->n_groups; g += p->batch_groups) {
        uint32_t n_groups = l->n_groups - g < p->batch_groups ? l->n_groups - g : p->batch_groups;
        uint32_t first = g * PACKED_LANES, left = l->rows - first;
        uint32_t n_rows = left < n_groups * PACKED_LANES ? left : n_groups * PACKED_LANES;
        TRY(source->read(source->context, row_begin + first, row_begin + first + n_rows, col_begin,
                         col_end, p->rows));
        TRY(batch_pack(p, g, n_groups, n_rows));
    }
    return OK;
}

err matrix_create(struct device *d, const struct matrix_source *source, uint64_t row_begin,
                  uint64_t row_end, uint64_t col_begin, uint64_t col_end, struct matrix **out) {
    struct matrix *m;
    TRY(NEW(m, 1));
    packed_layout_make(source->format, row_end - row_begin, col_begin, col_end, &m->layout);
    uint64_t per = format_info(source->format)->block_values;
    uint64_t read_begin = col_begin / per * per, read_end = (col_end + per - 1) / per * per;
    struct packer p = {.d = d, .layout = &m->layout,
                       .row_bytes = format_bytes(source->format, read_end - read_begin),
                       .block_first = (uint32_t)((col_begin - read_begin) / 32)};
    err e = device_memory(d, m->layout.n_bytes, &m->mem);
    p.mem = m->mem;
    if (e == OK && m->layout.n_groups && m->layout.cols)
        e = all_pack(&p, source, row_begin, read_begin, read_end);
    free(p.rows);
    free(p.planes);
    if (e != OK) {
        if (m->mem) clReleaseMemObject(m->mem);
        free(m);
        return e;
    }
    *out = m;
    return OK;
}

#define LAUNCH_ARGS(...)                                                                       \
    (const struct device_arg[]){__VA_ARGS__},                                                  \
        sizeof((const struct device_arg[]){__VA_ARGS__}) / sizeof(struct device_arg)
#define ARG DEVICE_ARG

err matrix_embed(struct device *d, struct matrix_kernels *k, const struct matrix *m, cl_mem ids,
                 uint32_t n_rows, cl_mem out) {
    const struct packed_layout *l = &m->layout;
    TRY(embed_build(d, l->format, k));
    cl_uint n = n_rows * l->n_blocks;
    if (!format_info(l->format)->is_quantised)
        return device_launch_items(d, k->embed, LAUNCH_ARGS(ARG(m->mem), ARG(l->cols), ARG(ids), ARG(out), ARG(n)), n);
    cl_ulong high_at = l->high_at, scales_at = l->scales_at, supers_at = l->supers_at;
    return device_launch_items(d, k->embed,
                               LAUNCH_ARGS(ARG(m->mem), ARG(high_at), ARG(scales_at), ARG(supers_at),
                                           ARG(l->n_blocks), ARG(l->super_first), ARG(l->n_supers),
                                           ARG(ids), ARG(out), ARG(n)), n);
}

/* The widest tile that n_rows fill: a kernel for T rows wants T at least. */
static int tile_choose(uint32_t n_rows) {
    int i = N_TILES - 1;
    while (tiles[i] > n_rows) i--;
    return i;
}

err matrix_linear(struct device *d, const struct matrix_kernels *k, const struct matrix *m,
                  uint32_t row_begin, uint32_t row_end, cl_mem in, uint32_t n_rows,
                  uint32_t segment_cols, const struct tree *tree, cl_mem out) {
    const struct packed_layout *l = &m->layout;
    if (row_begin % PACKED_LANES != 0)
        return err_set(ERR_INTERNAL, "a matrix part begins at row %u, no multiple of %d", row_begin, PACKED_LANES);
    cl_uint group = row_begin / PACKED_LANES, n_out = row_end - row_begin;
    cl_ulong merges = tree_merges(tree);
    cl_uint emits = tree_emits(tree);
    size_t groups = (n_out + PACKED_LANES - 1) / PACKED_LANES;
    size_t local = k->forms.lanes_per_item == PACKED_LANES ? 1 : 64;
    size_t global = k->forms.lanes_per_item == PACKED_LANES ? groups : (groups * PACKED_LANES + 63) / 64 * 64;
    cl_kernel kernel = k->linear[tile_choose(n_rows)];
    if (!format_info(l->format)->is_quantised)
        return device_launch(d, kernel, LAUNCH_ARGS(ARG(m->mem), ARG(l->cols), ARG(group), ARG(n_out),
                                                    ARG(in), ARG(n_rows), ARG(segment_cols), ARG(merges),
                                                    ARG(emits), ARG(tree->n_leaves), ARG(out)),
                             1, &global, &local);
    cl_ulong high_at = l->high_at, scales_at = l->scales_at, supers_at = l->supers_at;
    cl_uint segment_blocks = segment_cols / PACKED_BLOCK;
    return device_launch(d, kernel,
                         LAUNCH_ARGS(ARG(m->mem), ARG(high_at), ARG(scales_at), ARG(supers_at),
                                     ARG(l->n_blocks), ARG(l->super_first), ARG(l->n_supers), ARG(group),
                                     ARG(n_out), ARG(in), ARG(n_rows), ARG(segment_blocks), ARG(merges),
                                     ARG(emits), ARG(tree->n_leaves), ARG(out)),
                         1, &global, &local);
}
