#include "model/arch.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Sizes beyond these are no model but a damaged or hostile file. */
#define DIMENSION_MAX (1u << 24)
#define LAYERS_MAX 4096u
#define HEADS_MAX 65536u
#define EXPERTS_MAX 65536u

static void key_name(const struct program *p, const char *suffix, char key[128]) {
    snprintf(key, 128, "%s.%s", p->arch, suffix);
}

err arch_u32(const struct program *p, const struct gguf *g, const char *suffix, uint32_t *out) {
    char key[128];
    key_name(p, suffix, key);
    return gguf_get_u32(g, key, out);
}

err arch_u32_or(const struct program *p, const struct gguf *g, const char *suffix,
                uint32_t fallback, uint32_t *out) {
    char key[128];
    key_name(p, suffix, key);
    return gguf_get_u32_or(g, key, fallback, out);
}

err arch_f32(const struct program *p, const struct gguf *g, const char *suffix, float *out) {
    char key[128];
    key_name(p, suffix, key);
    return gguf_get_f32(g, key, out);
}

err arch_f32_or(const struct program *p, const struct gguf *g, const char *suffix,
                float fallback, float *out) {
    char key[128];
    key_name(p, suffix, key);
    return gguf_get_f32_or(g, key, fallback, out);
}

static err check_range(const struct gguf *g, const char *what, uint32_t value, uint32_t max) {
    if (value >= 1 && value <= max) return OK;
    return err_set(ERR_FORMAT, "%s: %s is %u, must be 1 to %u", gguf_path(g), what, value, max);
}

static void axis_set(struct program *p, enum axis a, const char *name, uint32_t size,
                     uint32_t unit) {
    uint32_t n_units = (size + unit - 1) / unit;
    p->axes[a] = (struct axis_info){name, size, unit, n_units, segment_count(n_units)};
}

static uint32_t greatest_divisor(uint32_t a, uint32_t b) {
    while (b) {
        uint32_t r = a % b;
        a = b;
        b = r;
    }
    return a;
}

/* Whole heads; where heads are no multiple of a block of 32, and the output projection is
 * quantised, as many together as make whole blocks. */
static uint32_t heads_unit(const struct program *p, const struct gguf *g) {
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        if (strstr(t->name, ".attn_output.weight") && format_info(t->format)->is_quantised)
            return p->head_dim / greatest_divisor(p->head_dim, 32) * 32;
    }
    return p->head_dim;
}

static err vocabulary_size(struct program *p, const struct gguf *g) {
    const struct gguf_tensor *t = gguf_find_tensor(g, "token_embd.weight");
    if (!t)
        return err_set(ERR_FORMAT, "%s: tensor 'token_embd.weight' is missing", gguf_path(g));
    if (t->dims[1] > DIMENSION_MAX)
        return err_set(ERR_FORMAT, "%s: tensor 'token_embd.weight' has %llu rows, at most %u are supported",
                       gguf_path(g), (unsigned long long)t->dims[1], DIMENSION_MAX);
    p->n_vocab = (uint32_t)t->dims[1];
    return OK;
}

static err read_experts(struct program *p, const struct gguf *g) {
    TRY(arch_u32_or(p, g, "expert_count", 0, &p->n_experts));
    if (!p->n_experts) return OK;
    TRY(check_range(g, "expert_count", p->n_experts, EXPERTS_MAX));
    TRY(arch_u32(p, g, "expert_used_count", &p->n_experts_used));
    return check_range(g, "expert_used_count", p->n_experts_used, p->n_experts);
}

err arch_read_dimensions(struct program *p, const struct gguf *g) {
    TRY(arch_u32(p, g, "block_count", &p->n_layers));
    TRY(check_range(g, "block_count", p->n_layers, LAYERS_MAX));
    TRY(arch_u32(p, g, "embedding_length", &p->dim));
    TRY(check_range(g, "embedding_length", p->dim, DIMENSION_MAX));
    TRY(arch_u32(p, g, "feed_forward_length", &p->ff));
    TRY(check_range(g, "feed_forward_length", p->ff, DIMENSION_MAX));
    TRY(arch_u32(p, g, "attention.head_count", &p->n_heads));
    TRY(check_range(g, "attention.head_count", p->n_heads, HEADS_MAX));
    TRY(arch_u32_or(p, g, "attention.head_count_kv", p->n_heads, &p->n_kv_heads));
    TRY(check_range(g, "attention.head_count_kv", p->n_kv_heads, p->n_heads));
    if (p->n_heads % p->n_kv_heads != 0)
        return err_set(ERR_FORMAT, "%s: %u heads cannot share %u kv heads", gguf_path(g),
                       p->n_heads, p->n_kv_heads);
    TRY(arch_u32_or(p, g, "attention.key_length", p->dim / p->n_heads, &p->head_dim));
    TRY(check_range(g, "the head size", p->head_dim, 1024));
    uint32_t value_dim;
    TRY(arch_u32_or(p, g, "attention.value_length", p->head_dim, &value_dim));
    if (value_dim != p->head_dim)
        return err_set(ERR_UNSUPPORTED, "%s: keys of %u and values of %u per head are not supported; "
                                        "they must be equal",
                       gguf_path(g), p->head_dim, value_dim);
    TRY(arch_u32(p, g, "context_length", &p->n_context));
    TRY(check_range(g, "context_length", p->n_context, DIMENSION_MAX));
    TRY(vocabulary_size(p, g));
    TRY(read_experts(p, g));
    axis_set(p, AXIS_DIM, "dim", p->dim, 32);
    axis_set(p, AXIS_HEADS, "heads", p->n_heads * p->head_dim, heads_unit(p, g));
    axis_set(p, AXIS_KV, "kv", p->n_kv_heads * p->head_dim, p->head_dim);
    axis_set(p, AXIS_FF, "ff", p->ff, 32);
    axis_set(p, AXIS_VOCAB, "vocab", p->n_vocab, 32);
    if (p->n_experts) axis_set(p, AXIS_EXPERTS, "experts", p->n_experts, 1);
    return OK;
}

/* llama3: every pair has a divisor of its own, in a tensor of the file. */
static err read_rope_factors(struct program *p, const struct gguf *g) {
    const struct gguf_tensor *t = gguf_find_tensor(g, "rope_freqs.weight");
    if (!t) return OK;
    uint32_t n = p->rope.n_rot / 2;
    if (t->dims[0] != n || t->n_dims != 1 || t->format != FORMAT_F32)
        return err_set(ERR_FORMAT, "%s: tensor 'rope_freqs.weight' must hold %u F32 values", gguf_path(g), n);
    TRY(NEW(p->rope.factors, n));
    uint64_t n_read = 0;
    TRY(gguf_read(g, t, 0, 1, 0, n, p->rope.factors, &n_read));
    for (uint32_t i = 0; i < n; i++)
        if (!(p->rope.factors[i] > 0))
            return err_set(ERR_FORMAT, "%s: tensor 'rope_freqs.weight' holds %g, must be positive",
                           gguf_path(g), (double)p->rope.factors[i]);
    return OK;
}

static err read_rope_scaling(struct program *p, const struct gguf *g) {
    struct rope *r = &p->rope;
    char key[128];
    const char *kind;
    key_name(p, "rope.scaling.type", key);
    TRY(gguf_get_string_or(g, key, "none", &kind));
    float factor;
    TRY(arch_f32_or(p, g, "rope.scaling.factor", 1, &factor));
    if (!(factor > 0))
        return err_set(ERR_FORMAT, "%s: rope.scaling.factor is %g, must be positive", gguf_path(g), (double)factor);
    if (strcmp(kind, "none") == 0 || factor == 1.0f) return OK;
    if (strcmp(kind, "linear") != 0 && strcmp(kind, "yarn") != 0)
        return err_set(ERR_UNSUPPORTED, "%s: rope scaling '%s' is not supported; these are: none, linear, yarn",
                       gguf_path(g), kind);
    r->freq_scale = 1 / factor;
    r->is_yarn = strcmp(kind, "yarn") == 0;
    if (!r->is_yarn) return OK;
    r->yarn_ext = 1;
    TRY(arch_f32_or(p, g, "rope.scaling.attn_factor", 1, &r->yarn_attn));
    TRY(arch_f32_or(p, g, "rope.scaling.yarn_beta_fast", 32, &r->yarn_beta_fast));
    TRY(arch_f32_or(p, g, "rope.scaling.yarn_beta_slow", 1, &r->yarn_beta_slow));
    TRY(arch_u32_or(p, g, "rope.scaling.original_context_length", p->n_context, &r->yarn_context));
    return check_range(g, "rope.scaling.original_context_length", r->yarn_context, DIMENSION_MAX);
}

err arch_read_rope(struct program *p, const struct gguf *g, enum rope_style style) {
    struct rope *r = &p->rope;
    r->style = style;
    TRY(arch_u32_or(p, g, "rope.dimension_count", p->head_dim, &r->n_rot));
    if (r->n_rot == 0 || r->n_rot > p->head_dim || r->n_rot % 2 != 0)
        return err_set(ERR_FORMAT, "%s: rope.dimension_count is %u, must be even and at most the head size %u",
                       gguf_path(g), r->n_rot, p->head_dim);
    TRY(arch_f32_or(p, g, "rope.freq_base", 10000, &r->freq_base));
    if (!(r->freq_base > 1))
        return err_set(ERR_FORMAT, "%s: rope.freq_base is %g, must be over 1", gguf_path(g), (double)r->freq_base);
    TRY(read_rope_factors(p, g));
    return read_rope_scaling(p, g);
}

/* Lists grow one by one, by doubling. */
static void *list_grow(void *list, uint32_t n, size_t item_bytes) {
    if (n & (n - 1)) return list; /* room up to the next power of two */
    return mem_resized(list, n ? (size_t)n * 2 : 1, item_bytes);
}

err arch_value(struct program *p, const char *name, enum axis axis, int *out) {
    struct value *grown = list_grow(p->values, p->n_values, sizeof *p->values);
    if (!grown) return ERR_MEMORY;
    p->values = grown;
    struct value *v = &p->values[p->n_values];
    *v = (struct value){.axis = axis, .width = p->axes[axis].size};
    snprintf(v->name, sizeof v->name, "%s", name);
    *out = (int)p->n_values++;
    return OK;
}

static err weight_add(struct program *p, struct weight w, int *out) {
    struct weight *grown = list_grow(p->weights, p->n_weights, sizeof *p->weights);
    if (!grown) return ERR_MEMORY;
    p->weights = grown;
    p->weights[p->n_weights] = w;
    *out = (int)p->n_weights++;
    return OK;
}

static err tensor_bind(const struct gguf *g, const char *fmt, va_list args, uint64_t cols,
                       uint64_t rows, uint64_t depth, struct weight *w) {
    vsnprintf(w->name, sizeof w->name, fmt, args);
    const struct gguf_tensor *t = gguf_find_tensor(g, w->name);
    if (!t) return err_set(ERR_FORMAT, "%s: tensor '%s' is missing", gguf_path(g), w->name);
    if (t->dims[0] != cols || t->dims[1] != rows || t->dims[2] != depth || t->dims[3] != 1)
        return err_set(ERR_FORMAT, "%s: tensor '%s' has shape [%llu, %llu, %llu, %llu], expected [%llu, %llu, %llu, 1]",
                       gguf_path(g), w->name, (unsigned long long)t->dims[0],
                       (unsigned long long)t->dims[1], (unsigned long long)t->dims[2],
                       (unsigned long long)t->dims[3], (unsigned long long)cols, (unsigned long long)rows,
                       (unsigned long long)depth);
    w->tensor = t;
    return OK;
}

err arch_matrix(struct program *p, const struct gguf *g, int *out, enum axis out_axis,
                enum axis in_axis, uint64_t row_begin, uint64_t tensor_rows, const char *fmt, ...) {
    struct weight w = {.row_begin = row_begin, .rows = p->axes[out_axis].size,
                       .cols = p->axes[in_axis].size, .out_axis = out_axis, .in_axis = in_axis};
    va_list args;
    va_start(args, fmt);
    err e = tensor_bind(g, fmt, args, w.cols, tensor_rows ? tensor_rows : w.rows, 1, &w);
    va_end(args);
    TRY(e);
    return weight_add(p, w, out);
}

err arch_experts(struct program *p, const struct gguf *g, int *out, enum axis out_axis, enum axis in_axis,
                 const char *fmt, ...) {
    struct weight w = {.rows = p->axes[out_axis].size, .cols = p->axes[in_axis].size, .out_axis = out_axis,
                       .in_axis = in_axis, .n_experts = p->n_experts, .n_used = p->n_experts_used};
    va_list args;
    va_start(args, fmt);
    err e = tensor_bind(g, fmt, args, w.cols, w.rows, w.n_experts, &w);
    va_end(args);
    TRY(e);
    return weight_add(p, w, out);
}

err arch_vector(struct program *p, const struct gguf *g, int *out, enum axis axis, uint32_t cols,
                uint64_t col_begin, uint64_t tensor_cols, const char *fmt, ...) {
    struct weight w = {.col_begin = col_begin, .rows = 1, .cols = cols, .is_vector = 1,
                       .out_axis = axis, .in_axis = axis};
    va_list args;
    va_start(args, fmt);
    err e = tensor_bind(g, fmt, args, tensor_cols ? tensor_cols : cols, 1, 1, &w);
    va_end(args);
    TRY(e);
    if (format_info(w.tensor->format)->is_quantised)
        return err_set(ERR_UNSUPPORTED, "%s: tensor '%s' is %s; norms and biases must be F32, F16 or BF16",
                       gguf_path(g), w.name, format_info(w.tensor->format)->name);
    return weight_add(p, w, out);
}

err arch_head_vector(struct program *p, const struct gguf *g, int *out, const char *fmt,
                     int layer) {
    char name[64];
    snprintf(name, sizeof name, fmt, layer);
    return arch_vector(p, g, out, AXIS_DIM, p->head_dim, 0, 0, "%s", name);
}

err arch_table(struct program *p, const struct gguf *g, int *out, uint32_t rows,
               const char *name) {
    TRY(arch_matrix(p, g, out, AXIS_VOCAB, AXIS_DIM, 0, rows, "%s", name));
    p->weights[*out].rows = rows;
    p->weights[*out].is_table = 1;
    return OK;
}

err arch_op(struct program *p, struct op op) {
    struct op *grown = list_grow(p->ops, p->n_ops, sizeof *p->ops);
    if (!grown) return ERR_MEMORY;
    p->ops = grown;
    p->ops[p->n_ops++] = op;
    return OK;
}

err arch_norm(struct program *p, int layer, enum norm_kind kind, float eps, uint32_t group,
              int in, int w, int b, int out) {
    return arch_op(p, (struct op){.kind = OP_NORM, .layer = layer, .in = {in, -1}, .out = out,
                                  .weight = {w, b}, .norm = {kind, eps, group}});
}

/* The quantised form of a value, made once after each write of it. */
static err quantised_value(struct program *p, int layer, int in, int *out) {
    char name[24];
    snprintf(name, sizeof name, "%.20s.q8", p->values[in].name);
    *out = -1;
    for (uint32_t i = 0; i < p->n_values; i++)
        if (strcmp(p->values[i].name, name) == 0) *out = (int)i;
    if (*out < 0) {
        TRY(arch_value(p, name, p->values[in].axis, out));
        p->values[*out].kind = VALUE_Q8;
        p->values[*out].rows = p->values[in].rows;
    }
    for (uint32_t i = p->n_ops; i-- > 0;) {
        if (p->ops[i].kind == OP_QUANTIZE && p->ops[i].in[0] == in) return OK;
        if (p->ops[i].out == in) break; /* written since: quantise anew */
    }
    return arch_op(p, (struct op){.kind = OP_QUANTIZE, .layer = layer, .in = {in, -1},
                                  .out = *out, .weight = {-1, -1}});
}

err arch_linear(struct program *p, int layer, int in, int w, int out) {
    if (format_info(p->weights[w].tensor->format)->is_quantised)
        TRY(quantised_value(p, layer, in, &in));
    return arch_op(p, (struct op){.kind = OP_LINEAR, .layer = layer, .in = {in, -1},
                                  .out = out, .weight = {w, -1}});
}

err arch_bias(struct program *p, int layer, int value, int vector) {
    return arch_op(p, (struct op){.kind = OP_BIAS, .layer = layer, .in = {value, -1},
                                  .out = value, .weight = {vector, -1}});
}
