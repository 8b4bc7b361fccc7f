#include "kernels/matrix.h"

#include <stdio.h>
#include <string.h>

#define SPLIT_ITEMS 256 /* of a work-group, in the one-lane form */

/* Rows that kernel i takes at a time. */
static uint32_t tile_rows(const struct device *d, int i) {
    return i < 2 ? (uint32_t)i + 1 : d->tuning.values[i == 2 ? TUNE_TILE_MIDDLE : TUNE_TILE_WIDE];
}

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

/* Groups of lanes that a work-item of linear_many.cl owns. */
static uint32_t many_groups(const struct kernel_forms *forms) {
    return forms->dot == DOT_AVX512_VNNI && !forms->has_amx ? 2 : 1;
}

static err linear_program(struct device *d, const struct kernel_forms *forms, enum format f,
                          const char *numbers, cl_program *out) {
    const char *files[] = {format_defines[f], numbers, "half.cl", LINEAR_TEXTS,
                           many_groups(forms) == 2 ? "#define GROUPS 2\n" : "#define GROUPS 1\n",
                           has_many(forms, f) ? "linear_many.cl" : NULL, NULL};
    return device_build(d, forms, files, out);
}

/* A lookup takes single rows out of the groups: one lane per work-item. */
static err embed_program(struct device *d, const struct kernel_forms *forms, enum format f,
                         const char *numbers, cl_program *out) {
    const char *files[] = {"#undef LPI\n#define LPI 1\n", format_defines[f], numbers, "half.cl",
                           "packed.cl", "embed.cl", NULL};
    return device_build(d, forms, files, out);
}

void matrix_format_numbers(enum format f, char out[FORMAT_NUMBERS_BYTES]) {
    const struct packed_info *info = packed_info(f);
    snprintf(out, FORMAT_NUMBERS_BYTES,
             "#define OFFSET %u\n#define HAS_MIN %u\n#define N_SCALES %u\n#define SPLIT_ITEMS %d\n",
             info->offset, info->has_min, info->n_scales, SPLIT_ITEMS);
}

err matrix_kernels_build(struct device *d, enum format f, struct matrix_kernels *k) {
    if (!format_info(f)->is_quantised)
        return dense_build(d, &k->forms, format_defines[f], &k->dense, &k->program);
    char numbers[FORMAT_NUMBERS_BYTES];
    matrix_format_numbers(f, numbers);
    TRY(linear_program(d, &k->forms, f, numbers, &k->program));
    cl_int code;
    for (int i = 0; i < N_TILES; i++) {
        char name[32];
        snprintf(name, sizeof name, "linear_%u", tile_rows(d, i));
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
    char numbers[FORMAT_NUMBERS_BYTES];
    matrix_format_numbers(f, numbers);
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

/* The narrowest tile that takes all rows at once, where the values have room for as many: what lies behind the last row
 * is read, and nothing of it written. Else the widest that they fill. */
static int tile_choose(const struct device *d, cl_mem values, uint32_t n_rows, uint32_t width) {
    int i = 0;
    size_t n_bytes = 0;
    while (i < N_TILES - 1 && tile_rows(d, i) < n_rows) i++;
    if (tile_rows(d, i) <= n_rows) return i;
    clGetMemObjectInfo(values, CL_MEM_SIZE, sizeof n_bytes, &n_bytes, NULL);
    while (q8_bytes(tile_rows(d, i), width) > n_bytes && tile_rows(d, i) > n_rows) i--;
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

/* How linear.cl, or linear_many.cl, is launched over groups of output rows. */
static void linear_shape(const struct device *d, const struct kernel_forms *forms, size_t n_groups,
                         uint32_t n_leaves, size_t local[2], size_t global[2]) {
    int is_wide = forms->lanes_per_item == PACKED_LANES;
    size_t lanes_max = d->tuning.values[TUNE_LANE_GROUP_ITEMS];
    size_t fits = SPLIT_ITEMS / n_leaves / PACKED_LANES * PACKED_LANES, n_items = n_groups * PACKED_LANES;
    local[0] = is_wide ? 1 : fits < lanes_max ? fits : lanes_max;
    local[1] = global[1] = is_wide ? 1 : n_leaves;
    global[0] = is_wide ? n_groups : (n_items + local[0] - 1) / local[0] * local[0];
}

err matrix_linear(struct device *d, const struct matrix_kernels *k, const struct product *products,
                  uint32_t n_products, cl_mem in, uint32_t n_rows, uint32_t segment_cols,
                  const struct tree *tree, const struct linear_many *many) {
    const struct packed_layout *l = &products->matrix->layout;
    if (!format_info(l->format)->is_quantised)
        return dense_linear(d, &k->forms, &k->dense, products, n_products, in, n_rows, segment_cols, tree);
    struct product_args a;
    int is_many = k->linear_many && n_rows >= LINEAR_MANY_ROWS_MIN;
    uint32_t n_groups = is_many ? many_groups(&k->forms) : 1;
    TRY(product_args_fill(products, n_products, n_groups * PACKED_LANES, &a));
    cl_ulong merges = tree_merges(tree);
    cl_uint emits = tree_emits(tree), segment_blocks = segment_cols / PACKED_BLOCK;
    size_t local[2], global[2];
    linear_shape(d, &k->forms, a.n_units, tree->n_leaves, local, global);
    cl_kernel kernel = k->linear[tile_choose(d, in, n_rows, l->n_blocks * PACKED_BLOCK)];
    if (is_many) {
        TRY(linear_many_arrange(d, k->arrange, in, n_rows, l->n_blocks, many));
        kernel = k->linear_many;
        in = many->tiles;
    }
    return device_launch(d, kernel, DEVICE_ARGS(PRODUCT_ARGS(a), ARG(l->n_blocks), ARG(l->super_first),
                                                ARG(l->n_supers), ARG(in), ARG(n_rows), ARG(segment_blocks),
                                                ARG(merges), ARG(emits), ARG(tree->n_leaves)),
                         2, global, local);
}
