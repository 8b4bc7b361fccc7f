#include "model/shape.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/mem.h"

#define KV_MAX 16
#define TENSOR_NAME_BYTES 64
#define TENSORS_MAX_PER_LAYER 16
#define TENSORS_MAX_BESIDE 8 /* embedding, head, last norm */
#define TENSOR_VALUES_MAX (1ull << 44) /* more is a slip of the pen, and their bytes might not fit 64 bits */

enum group { GROUP_ATTENTION, GROUP_FF, GROUP_EMBEDDING, GROUP_HEAD, GROUP_ROUTER, N_GROUPS };
static const char *const group_names[N_GROUPS] = {"attention", "ff", "embedding", "head", "router"};

/* What the tensors of an architecture are. */
struct kind {
    const char *name;
    int is_gpt2;   /* one tensor for q, k and v, biases everywhere, learned positions */
    int has_biases; /* of q, k and v */
    int has_head_norms;
    int has_experts;
};
static const struct kind kinds[] = {
    {"llama", 0, 0, 0, 1},
    {"qwen2", 0, 1, 0, 0},
    {"qwen3", 0, 0, 1, 0},
    {"gpt2", 1, 1, 0, 0},
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

/* What the file says; 0 and "" where it says nothing. */
struct said {
    char name[128], architecture[32];
    uint32_t layers, dim, heads, kv_heads, head_dim, ff, vocab, context, experts, experts_used;
    int is_tied;
};

#define WHOLE(key, most) {#key, CONFIG_FIELD_WHOLE, 1, most, 1, offsetof(struct said, key)}
static const struct config_field fields[] = {
    {"name", CONFIG_FIELD_TEXT, 1, 127, 1, offsetof(struct said, name)},
    {"architecture", CONFIG_FIELD_TEXT, 1, 31, 1, offsetof(struct said, architecture)},
    WHOLE(layers, 4096),
    WHOLE(dim, 1 << 24),
    WHOLE(heads, 65536),
    WHOLE(kv_heads, 65536),
    WHOLE(head_dim, 1024),
    WHOLE(ff, 1 << 24),
    WHOLE(vocab, 1 << 24),
    WHOLE(context, 1 << 24),
    WHOLE(experts, 65536),
    WHOLE(experts_used, 65536),
    {"tied", CONFIG_FIELD_FLAG, 0, 1, 1, offsetof(struct said, is_tied)},
    {"format", CONFIG_FIELD_TEXT, 1, 15, 1, 0},  /* read_item takes these two; here for the list of keys */
    {"formats", CONFIG_FIELD_TEXT, 1, 15, 1, 0},
};
#define N_FIELDS (sizeof fields / sizeof *fields)

struct shape {
    const char *path;
    struct said said;
    unsigned lines[N_FIELDS]; /* of each key; 0: not in the file */
    const struct kind *kind;
    int has_format, has_group[N_GROUPS];
    unsigned group_lines[N_GROUPS];
    enum format format, formats[N_GROUPS];
    struct gguf_kv kv[KV_MAX];
    char keys[KV_MAX][64];
    struct gguf_string strings[2];
    float eps;
    uint32_t n_kv, n_tensors;
    struct gguf_tensor *tensors;
    char (*names)[TENSOR_NAME_BYTES];
    struct gguf *gguf;
    struct program *program;
};

/* ---- the file ---- */

static size_t field_find(const char *name) {
    size_t i = 0;
    while (i < N_FIELDS && strcmp(fields[i].name, name) != 0) i++;
    return i;
}

/* "FILE:LINE: KEY: " in front of what is wrong. */
static err __attribute__((format(printf, 3, 4))) bad_key(const struct shape *s, const char *key, const char *fmt, ...) {
    char text[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    unsigned line = s->lines[field_find(key)];
    if (!line) return err_set(ERR_CONFIG, "%s: %s: %s", s->path, key, text);
    return err_set(ERR_CONFIG, "%s:%u: %s: %s", s->path, line, key, text);
}

static err take_format(const struct config_item *item, enum format *out) {
    char name[16];
    TRY(config_item_text(item, name, sizeof name));
    return format_from_name(name, out);
}

static err take_group(struct shape *s, const char *name, const struct config_item *item) {
    for (int g = 0; g < N_GROUPS; g++)
        if (strcmp(group_names[g], name) == 0) {
            s->has_group[g] = 1;
            s->group_lines[g] = item->line;
            return take_format(item, &s->formats[g]);
        }
    return err_set(ERR_CONFIG, "unknown key; expected one of attention, ff, embedding, head, router");
}

static err read_item(void *context, const struct config_item *item) {
    struct shape *s = context;
    if (strncmp(item->path, "formats.", 8) == 0) return take_group(s, item->path + 8, item);
    if (strcmp(item->path, "formats") == 0)
        return item->is_group ? OK : err_set(ERR_CONFIG, "expected a group { ... }, found %s", item->type);
    size_t i = field_find(item->path);
    if (i < N_FIELDS) s->lines[i] = item->line;
    if (strcmp(item->path, "format") == 0) {
        s->has_format = 1;
        return take_format(item, &s->format);
    }
    return config_take(fields, N_FIELDS, item->path, item, &s->said);
}

/* ---- what must hold ---- */

static err check_needed(const struct shape *s) {
    static const char *const needed[] = {"architecture", "layers", "dim", "heads", "ff", "vocab", "context", "format"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!s->lines[field_find(needed[i])]) return err_set(ERR_CONFIG, "%s: %s is missing", s->path, needed[i]);
    return OK;
}

static err find_kind(struct shape *s) {
    for (size_t i = 0; i < N_KINDS; i++)
        if (strcmp(kinds[i].name, s->said.architecture) == 0) s->kind = &kinds[i];
    if (s->kind) return OK;
    return bad_key(s, "architecture", "expected one of llama, qwen2, qwen3, gpt2, found \"%s\"", s->said.architecture);
}

static err check_experts(const struct shape *s) {
    const struct said *d = &s->said;
    if (!d->experts) return d->experts_used ? bad_key(s, "experts_used", "expected experts beside it") : OK;
    if (!s->kind->has_experts)
        return bad_key(s, "experts", "expected architecture llama for a mixture, found \"%s\"", d->architecture);
    if (!d->experts_used) return bad_key(s, "experts", "expected experts_used beside it");
    if (d->experts_used > d->experts)
        return bad_key(s, "experts_used", "expected at most the %u experts, found %u", d->experts, d->experts_used);
    return OK;
}

static err check_values(const struct shape *s, const char *key, uint64_t rows) {
    if (rows <= TENSOR_VALUES_MAX / s->said.dim) return OK;
    return bad_key(s, key, "makes a tensor of %lu x %u values, expected at most %llu", rows, s->said.dim,
                   TENSOR_VALUES_MAX);
}

/* Sizes that follow from others, and those that must agree. */
static err check_sizes(struct shape *s) {
    struct said *d = &s->said;
    if (!d->kv_heads) d->kv_heads = d->heads;
    if (d->kv_heads > d->heads || d->heads % d->kv_heads != 0)
        return bad_key(s, "kv_heads", "expected a divisor of the %u heads, found %u", d->heads, d->kv_heads);
    if (!d->head_dim && d->dim % d->heads != 0)
        return bad_key(s, "dim", "expected a multiple of the %u heads, or head_dim beside it; found %u", d->heads,
                       d->dim);
    if (!d->head_dim) d->head_dim = d->dim / d->heads;
    if (d->head_dim > 1024) return bad_key(s, "heads", "expected heads of 1024 values at most, found %u", d->head_dim);
    if (!s->kind->is_gpt2 && d->head_dim % 2 != 0)
        return bad_key(s, "head_dim", "expected an even number, found %u", d->head_dim);
    if ((uint64_t)d->heads * d->head_dim > 1 << 24)
        return bad_key(s, "heads", "expected at most %u values in all heads", 1 << 24);
    if (s->kind->is_gpt2 && (d->kv_heads != d->heads || d->head_dim * d->heads != d->dim))
        return bad_key(s, "architecture", "gpt2 has as many kv_heads as heads, and heads that make up dim");
    TRY(check_experts(s));
    TRY(check_values(s, "ff", (uint64_t)d->ff * (d->experts ? d->experts : 1)));
    TRY(check_values(s, "heads", (uint64_t)d->heads * d->head_dim));
    return check_values(s, "vocab", d->vocab);
}

/* ---- metadata ---- */

static struct gguf_kv *add_kv(struct shape *s, const char *prefix, const char *suffix, enum gguf_type type) {
    struct gguf_kv *kv = &s->kv[s->n_kv];
    snprintf(s->keys[s->n_kv], sizeof s->keys[0], "%s.%s", prefix, suffix);
    *kv = (struct gguf_kv){.key = s->keys[s->n_kv++], .type = type, .item_type = type, .n = 1};
    return kv;
}

static void add_text(struct shape *s, const char *suffix, const char *text, struct gguf_string *at) {
    *at = (struct gguf_string){text, strlen(text)};
    add_kv(s, "general", suffix, GGUF_STRING)->strings = at;
}

static void add_whole(struct shape *s, const char *suffix, const uint32_t *value) {
    add_kv(s, s->said.architecture, suffix, GGUF_U32)->data = value;
}

static void make_metadata(struct shape *s) {
    const struct said *d = &s->said;
    add_text(s, "architecture", d->architecture, &s->strings[0]);
    add_text(s, "name", d->name, &s->strings[1]);
    add_whole(s, "block_count", &d->layers);
    add_whole(s, "embedding_length", &d->dim);
    add_whole(s, "feed_forward_length", &d->ff);
    add_whole(s, "attention.head_count", &d->heads);
    add_whole(s, "attention.head_count_kv", &d->kv_heads);
    add_whole(s, "attention.key_length", &d->head_dim);
    add_whole(s, "attention.value_length", &d->head_dim);
    add_whole(s, "context_length", &d->context);
    if (d->experts) {
        add_whole(s, "expert_count", &d->experts);
        add_whole(s, "expert_used_count", &d->experts_used);
    }
    s->eps = 1e-5f;
    add_kv(s, d->architecture, s->kind->is_gpt2 ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon",
           GGUF_F32)->data = &s->eps;
}

/* ---- tensors ---- */

static err check_blocks(const struct shape *s, enum group g, uint64_t cols) {
    uint32_t block = format_info(s->formats[g])->block_values;
    if (cols % block == 0) return OK;
    const char *name = format_info(s->formats[g])->name;
    err_set(ERR_CONFIG, "%s has blocks of %u values, but the rows of %s matrices have %lu", name, block, group_names[g],
            cols);
    unsigned line = s->has_group[g] ? s->group_lines[g] : s->lines[field_find("format")];
    if (!line) return err_context(ERR_CONFIG, "%s: format", s->path);
    return err_context(ERR_CONFIG, "%s:%u: %s%s", s->path, line, s->has_group[g] ? "formats." : "format",
                       s->has_group[g] ? group_names[g] : "");
}

static void add_tensor(struct shape *s, enum format format, uint64_t cols, uint64_t rows, uint64_t depth, int layer,
                       const char *name) {
    char *text = s->names[s->n_tensors];
    if (layer < 0) snprintf(text, TENSOR_NAME_BYTES, "%s", name);
    else snprintf(text, TENSOR_NAME_BYTES, "blk.%d.%s", layer, name);
    s->tensors[s->n_tensors++] = (struct gguf_tensor){
        .name = text, .format = format, .n_dims = depth > 1 ? 3 : rows > 1 ? 2 : 1, .dims = {cols, rows, depth, 1}};
}

static void add_vector(struct shape *s, uint64_t cols, int layer, const char *name) {
    add_tensor(s, FORMAT_F32, cols, 1, 1, layer, name);
}

static void add_matrix(struct shape *s, enum group g, uint64_t cols, uint64_t rows, int layer, const char *name) {
    add_tensor(s, s->formats[g], cols, rows, 1, layer, name);
}

static void add_gated_layer(struct shape *s, int i) {
    const struct said *d = &s->said;
    uint64_t q = (uint64_t)d->heads * d->head_dim, kv = (uint64_t)d->kv_heads * d->head_dim;
    add_vector(s, d->dim, i, "attn_norm.weight");
    add_matrix(s, GROUP_ATTENTION, d->dim, q, i, "attn_q.weight");
    add_matrix(s, GROUP_ATTENTION, d->dim, kv, i, "attn_k.weight");
    add_matrix(s, GROUP_ATTENTION, d->dim, kv, i, "attn_v.weight");
    add_matrix(s, GROUP_ATTENTION, q, d->dim, i, "attn_output.weight");
    if (s->kind->has_biases) {
        add_vector(s, q, i, "attn_q.bias");
        add_vector(s, kv, i, "attn_k.bias");
        add_vector(s, kv, i, "attn_v.bias");
    }
    if (s->kind->has_head_norms) {
        add_vector(s, d->head_dim, i, "attn_q_norm.weight");
        add_vector(s, d->head_dim, i, "attn_k_norm.weight");
    }
    add_vector(s, d->dim, i, "ffn_norm.weight");
    if (d->experts) {
        add_matrix(s, GROUP_ROUTER, d->dim, d->experts, i, "ffn_gate_inp.weight");
        add_tensor(s, s->formats[GROUP_FF], d->dim, d->ff, d->experts, i, "ffn_gate_exps.weight");
        add_tensor(s, s->formats[GROUP_FF], d->dim, d->ff, d->experts, i, "ffn_up_exps.weight");
        add_tensor(s, s->formats[GROUP_FF], d->ff, d->dim, d->experts, i, "ffn_down_exps.weight");
    } else {
        add_matrix(s, GROUP_FF, d->dim, d->ff, i, "ffn_gate.weight");
        add_matrix(s, GROUP_FF, d->dim, d->ff, i, "ffn_up.weight");
        add_matrix(s, GROUP_FF, d->ff, d->dim, i, "ffn_down.weight");
    }
}

static void add_gpt2_layer(struct shape *s, int i) {
    const struct said *d = &s->said;
    uint64_t qkv = 3 * (uint64_t)d->dim;
    add_vector(s, d->dim, i, "attn_norm.weight");
    add_vector(s, d->dim, i, "attn_norm.bias");
    add_matrix(s, GROUP_ATTENTION, d->dim, qkv, i, "attn_qkv.weight");
    add_vector(s, qkv, i, "attn_qkv.bias");
    add_matrix(s, GROUP_ATTENTION, d->dim, d->dim, i, "attn_output.weight");
    add_vector(s, d->dim, i, "attn_output.bias");
    add_vector(s, d->dim, i, "ffn_norm.weight");
    add_vector(s, d->dim, i, "ffn_norm.bias");
    add_matrix(s, GROUP_FF, d->dim, d->ff, i, "ffn_up.weight");
    add_vector(s, d->ff, i, "ffn_up.bias");
    add_matrix(s, GROUP_FF, d->ff, d->dim, i, "ffn_down.weight");
    add_vector(s, d->dim, i, "ffn_down.bias");
}

static err check_formats(struct shape *s) {
    const struct said *d = &s->said;
    for (int g = 0; g < N_GROUPS; g++)
        if (!s->has_group[g]) s->formats[g] = g == GROUP_ROUTER ? FORMAT_F32 : s->format;
    TRY(check_blocks(s, GROUP_ATTENTION, d->dim));
    TRY(check_blocks(s, GROUP_ATTENTION, (uint64_t)d->heads * d->head_dim));
    TRY(check_blocks(s, GROUP_FF, d->dim));
    TRY(check_blocks(s, GROUP_FF, d->ff));
    TRY(check_blocks(s, GROUP_EMBEDDING, d->dim));
    if (d->experts) TRY(check_blocks(s, GROUP_ROUTER, d->dim));
    return d->is_tied ? OK : check_blocks(s, GROUP_HEAD, d->dim);
}

static err make_tensors(struct shape *s) {
    const struct said *d = &s->said;
    TRY(check_formats(s));
    size_t cap = (size_t)d->layers * TENSORS_MAX_PER_LAYER + TENSORS_MAX_BESIDE;
    TRY(NEW(s->tensors, cap));
    TRY(NEW(s->names, cap));
    add_matrix(s, GROUP_EMBEDDING, d->dim, d->vocab, -1, "token_embd.weight");
    if (s->kind->is_gpt2) add_matrix(s, GROUP_EMBEDDING, d->dim, d->context, -1, "position_embd.weight");
    for (uint32_t i = 0; i < d->layers; i++) {
        if (s->kind->is_gpt2) add_gpt2_layer(s, (int)i);
        else add_gated_layer(s, (int)i);
    }
    add_vector(s, d->dim, -1, "output_norm.weight");
    if (s->kind->is_gpt2) add_vector(s, d->dim, -1, "output_norm.bias");
    if (!d->is_tied) add_matrix(s, GROUP_HEAD, d->dim, d->vocab, -1, "output.weight");
    return OK;
}

/* ---- the whole ---- */

static err shape_make(struct shape *s) {
    TRY(config_walk_groups(s->path, read_item, s));
    TRY(check_needed(s));
    TRY(find_kind(s));
    TRY(check_sizes(s));
    make_metadata(s);
    TRY(make_tensors(s));
    TRY(gguf_describe(s->path, s->kv, s->n_kv, s->tensors, s->n_tensors, &s->gguf));
    return program_create(s->gguf, &s->program);
}

err shape_read(const char *path, struct shape **out) {
    struct shape *s;
    TRY(NEW(s, 1));
    s->path = path;
    err e = shape_make(s);
    if (e != OK) {
        shape_free(s);
        return e;
    }
    *out = s;
    return OK;
}

void shape_free(struct shape *s) {
    if (!s) return;
    program_free(s->program);
    gguf_close(s->gguf);
    free(s->tensors);
    free(s->names);
    free(s);
}

const struct program *shape_program(const struct shape *s) { return s->program; }
const struct gguf *shape_gguf(const struct shape *s) { return s->gguf; }
