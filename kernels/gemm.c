#include "kernels/gemm.h"

#include <clblast_c.h>

#include "base/log.h"

/* Outputs of one call, and room for a tile of weights in floats: a wide
 * contraction takes narrower tiles. */
#define TILE_OUTPUTS 512u
#define TILE_FLOATS ((size_t)4 << 20)

static err kernel_of(struct device *d, cl_program p, const char *name, cl_kernel *out) {
    cl_int code;
    *out = clCreateKernel(p, name, &code);
    return device_check(d, code, name);
}

static err program_build(struct device *d, enum format f, struct gemm *g) {
    if (g->program[f]) return OK;
    const char *files[] = {"#undef LPI\n#define LPI 1\n", matrix_format_defines(f), "half.cl",
                           "packed.cl", "gemm.cl", NULL};
    TRY(device_build(d, &d->forms, files, &g->program[f]));
    TRY(kernel_of(d, g->program[f], "gemm_unpack", &g->unpack[f]));
    return kernel_of(d, g->program[f], "gemm_tree", &g->tree[f]);
}

err gemm_tune(struct device *d, const struct tuning *t) {
    for (int k = 0; k < N_CLBLAST_KERNELS; k++) {
        const struct clblast_kernel *kernel = &clblast_kernels[k];
        const char *names[CLBLAST_PARAMETERS_MAX];
        size_t values[CLBLAST_PARAMETERS_MAX];
        if (!t->has_clblast[k]) continue;
        for (uint32_t i = 0; i < kernel->n_parameters; i++) {
            names[i] = kernel->parameters[i].name;
            values[i] = t->clblast[k][i];
        }
        CLBlastStatusCode code = CLBlastOverrideParameters(d->id, kernel->name, CLBlastPrecisionSingle,
                                                           kernel->n_parameters, names, values);
        if (code != CLBlastSuccess)
            return err_set(ERR_DEVICE, "device '%s': CLBlast refuses parameters of %s (code %d)", d->name,
                           kernel->name, (int)code);
    }
    return OK;
}

err gemm_prepare(struct device *d, enum format f, uint32_t rows_max, struct gemm *g) {
    TRY(program_build(d, f, g));
    if (!g->is_tuned && gemm_tune(d, &d->tuning) != OK)
        log_warn("device.tune", "text=\"%s; its own are used\"", err_text());
    g->is_tuned = 1;
    size_t leaves = (size_t)SEGMENTS_MAX * rows_max * TILE_OUTPUTS;
    if (!g->weights) {
        TRY(device_memory(d, TILE_FLOATS * sizeof(float), &g->weights));
        g->weight_floats = TILE_FLOATS;
    }
    if (leaves <= g->leaf_floats) return OK;
    if (g->leaves) clReleaseMemObject(g->leaves);
    g->leaves = NULL;
    g->leaf_floats = 0;
    TRY(device_memory(d, leaves * sizeof(float), &g->leaves));
    g->leaf_floats = leaves;
    return OK;
}

static void program_release(struct gemm *g, int f) {
    if (g->unpack[f]) clReleaseKernel(g->unpack[f]);
    if (g->tree[f]) clReleaseKernel(g->tree[f]);
    if (g->program[f]) clReleaseProgram(g->program[f]);
    g->unpack[f] = g->tree[f] = NULL;
    g->program[f] = NULL;
}

void gemm_forget(struct gemm *g, enum format f) {
    program_release(g, (int)f);
    for (int i = 0; i < N_FORMATS; i++)
        if (g->program[i]) return;
    gemm_release(g);
}

void gemm_release(struct gemm *g) {
    for (int f = 0; f < N_FORMATS; f++) program_release(g, f);
    if (g->weights) clReleaseMemObject(g->weights);
    if (g->leaves) clReleaseMemObject(g->leaves);
    *g = (struct gemm){0};
}

/* A multiple of a group's lanes. */
static uint32_t tile_width(const struct gemm *g, uint32_t n_cols) {
    size_t fits = g->weight_floats / n_cols / PACKED_LANES * PACKED_LANES;
    return fits < TILE_OUTPUTS ? (uint32_t)fits : TILE_OUTPUTS;
}

int gemm_can(const struct device *d, const struct gemm *g, const struct matrix *m, uint32_t n_rows,
             uint32_t segment_cols, const struct tree *tree) {
    const struct packed_layout *l = &m->layout;
    return g->program[l->format] && n_rows >= d->tuning.values[TUNE_GEMM_ROWS_MIN] &&
           tree->n_leaves * segment_cols == l->cols && tile_width(g, l->cols) > 0 &&
           (size_t)tree->n_leaves * n_rows * TILE_OUTPUTS <= g->leaf_floats;
}

#define ARG DEVICE_ARG

static err tile_run(struct device *d, const struct gemm *g, const struct matrix *m, cl_uint matrix_row,
                    cl_uint first, cl_uint width, cl_uint n_out, cl_mem in, uint32_t n_rows,
                    uint32_t segment_cols, const struct tree *tree, cl_mem out) {
    const struct packed_layout *l = &m->layout;
    cl_uint n_weights = l->cols * width, n_sums = n_rows * width, emits = tree_emits(tree);
    cl_ulong merges = tree_merges(tree);
    TRY(device_launch_items(d, g->unpack[l->format],
                            DEVICE_ARGS(ARG(m->mem), ARG(l->cols), ARG(matrix_row), ARG(width),
                                        ARG(g->weights), ARG(n_weights)), n_weights));
    CLBlastStatusCode code = CLBlastSgemmStridedBatched(
        CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeNo, n_rows, width, segment_cols,
        1.0f, in, 0, l->cols, segment_cols, g->weights, 0, width, (size_t)segment_cols * width, 0.0f,
        g->leaves, 0, width, n_sums, tree->n_leaves, &d->queue, NULL);
    if (code != CLBlastSuccess)
        return err_set(ERR_DEVICE, "device '%s': CLBlast product failed (code %d)", d->name, (int)code);
    return device_launch_items(d, g->tree[l->format],
                               DEVICE_ARGS(ARG(g->leaves), ARG(merges), ARG(emits), ARG(tree->n_leaves),
                                           ARG(first), ARG(width), ARG(n_out), ARG(out), ARG(n_sums)),
                               n_sums);
}

err gemm_linear(struct device *d, const struct gemm *g, const struct product *p, cl_mem in, uint32_t n_rows,
                uint32_t segment_cols, const struct tree *tree) {
    uint32_t n_out = p->row_end - p->row_begin, tile = tile_width(g, p->matrix->layout.cols);
    for (uint32_t first = 0; first < n_out; first += tile) {
        uint32_t width = n_out - first < tile ? n_out - first : tile;
        TRY(tile_run(d, g, p->matrix, p->row_begin + first, first, width, n_out, in, n_rows, segment_cols, tree,
                     p->out->mem));
    }
    return OK;
}
