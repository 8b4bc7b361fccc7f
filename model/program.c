#include "model/program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/arch.h"
#include "model/fuse.h"

static const struct arch *const architectures[] = {
    &arch_llama, &arch_qwen2, &arch_qwen3, &arch_gpt2,
};
#define N_ARCHITECTURES (sizeof architectures / sizeof *architectures)

static err architecture_find(const struct gguf *g, const struct arch **out) {
    const char *name;
    TRY(gguf_get_string(g, "general.architecture", &name));
    struct bytes known = {0};
    for (size_t i = 0; i < N_ARCHITECTURES; i++) {
        if (strcmp(architectures[i]->name, name) == 0) {
            *out = architectures[i];
            bytes_free(&known);
            return OK;
        }
        err e = bytes_printf(&known, "%s%s", i ? ", " : "", architectures[i]->name);
        if (e != OK) {
            bytes_free(&known);
            return e;
        }
    }
    err_set(ERR_UNSUPPORTED, "%s: architecture '%s' is not supported; these are: %s",
            gguf_path(g), name, (const char *)known.data);
    bytes_free(&known);
    return ERR_UNSUPPORTED;
}

/* KV entries are as exact as the weights that make them: f16 beside 8-bit
 * activations, f32 in a dense model, where f16 would be the largest error. */
static void kv_format_choose(struct program *p) {
    p->kv_format = FORMAT_F32;
    for (uint32_t i = 0; i < p->n_weights; i++)
        if (p->weights[i].out_axis == AXIS_KV && !p->weights[i].is_vector &&
            format_info(p->weights[i].tensor->format)->is_quantised)
            p->kv_format = FORMAT_F16;
}

err program_create(const struct gguf *g, struct program **out) {
    const struct arch *arch;
    TRY(architecture_find(g, &arch));
    struct program *p;
    TRY(NEW(p, 1));
    p->arch = arch->name;
    p->rope.freq_scale = 1;
    err e = gguf_get_string_or(g, "general.name", "", &p->name);
    if (e == OK) e = arch->build(p, g);
    if (e != OK) {
        program_free(p);
        return e;
    }
    kv_format_choose(p);
    *out = p;
    return OK;
}

void program_free(struct program *p) {
    if (!p) return;
    free(p->rope.factors);
    free(p->values);
    free(p->weights);
    free(p->ops);
    free(p);
}

static const char *const op_names[] = {
#define OP_NAME(id, text) text,
    OP_LIST(OP_NAME)
#undef OP_NAME
};

const char *op_name(enum op_kind kind) { return op_names[kind]; }

int program_has_op(const struct program *p, const struct op *op, uint32_t layer_begin, uint32_t layer_end) {
    if (op->layer == LAYER_BEFORE) return layer_begin == 0;
    if ((uint32_t)op->layer == p->n_layers) return layer_end == p->n_layers;
    return (uint32_t)op->layer >= layer_begin && (uint32_t)op->layer < layer_end;
}

err program_print(const struct program *p, struct bytes *out) {
    TRY(bytes_printf(out, "%s: %u layers, dim %u, %u heads of %u (%u kv), ff %u, vocabulary %u\n",
                     p->arch, p->n_layers, p->dim, p->n_heads, p->head_dim, p->n_kv_heads,
                     p->ff, p->n_vocab));
    if (p->n_experts)
        TRY(bytes_printf(out, "%u experts, of which a row uses %u\n", p->n_experts, p->n_experts_used));
    for (int a = 0; a < N_AXES; a++)
        if (p->axes[a].size) TRY(bytes_printf(out, "axis %-6s %6u values in %u units of %u, %u segments\n",
                         p->axes[a].name, p->axes[a].size, p->axes[a].n_units,
                         p->axes[a].unit, p->axes[a].n_segments));
    return fuse_print(p, out);
}

/* The pair index at which a wavelength fits `rotations` times into the trained
 * context (arXiv 2309.00071, section 3.2). */
static double yarn_pair(const struct rope *r, double rotations) {
    const double two_pi = 6.283185307179586;
    return r->n_rot * log(r->yarn_context / (rotations * two_pi)) / (2 * log(r->freq_base));
}

/* How much of pair i keeps its own angle (1) rather than the scaled one (0). */
static double yarn_keep(const struct rope *r, uint32_t i) {
    double low = floor(yarn_pair(r, r->yarn_beta_fast));
    double high = ceil(yarn_pair(r, r->yarn_beta_slow));
    if (low < 0) low = 0;
    if (high > r->n_rot - 1.0) high = r->n_rot - 1.0;
    double ramp = (i - low) / fmax(0.001, high - low);
    return 1 - fmin(1, fmax(0, ramp));
}

void rope_table(const struct rope *r, int32_t position, float *out) {
    double magnitude = 1;
    if (r->is_yarn)
        magnitude = r->yarn_attn * (1 + 0.1 * log(1.0 / (double)r->freq_scale));
    for (uint32_t i = 0; i < r->n_rot / 2; i++) {
        double own = position * pow(r->freq_base, -2.0 * i / r->n_rot);
        if (r->factors) own /= (double)r->factors[i];
        double angle = own * (double)r->freq_scale;
        if (r->is_yarn) {
            double keep = yarn_keep(r, i) * (double)r->yarn_ext;
            angle = angle * (1 - keep) + own * keep;
        }
        out[2 * i] = (float)(cos(angle) * magnitude);
        out[2 * i + 1] = (float)(sin(angle) * magnitude);
    }
}
