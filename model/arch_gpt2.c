/* GPT-2: layer norms, learned positions, biases everywhere, q, k and v in one
 * tensor, GELU (tanh form). Source: Radford et al. 2019, openai/gpt-2. */
#include "model/arch.h"

/* A third of the fused projection, and of its bias. */
static err fused_part(struct program *p, const struct gguf *g, const struct decoder_values *d,
                      int i, int part, enum axis axis, int value) {
    int w, b;
    uint64_t begin = (uint64_t)part * p->dim, all = 3 * (uint64_t)p->dim;
    TRY(arch_matrix(p, g, &w, axis, AXIS_DIM, begin, all, "blk.%d.attn_qkv.weight", i));
    TRY(arch_vector(p, g, &b, axis, p->dim, begin, all, "blk.%d.attn_qkv.bias", i));
    TRY(arch_linear(p, i, d->h, w, value));
    return arch_bias(p, i, value, b);
}

static err attention_build(struct program *p, const struct gguf *g,
                           const struct decoder_values *d, int i, float eps) {
    int norm, norm_b, o;
    TRY(arch_vector(p, g, &norm, AXIS_DIM, p->dim, 0, 0, "blk.%d.attn_norm.weight", i));
    TRY(arch_vector(p, g, &norm_b, AXIS_DIM, p->dim, 0, 0, "blk.%d.attn_norm.bias", i));
    TRY(arch_norm(p, i, NORM_LAYER, eps, p->dim, d->x, norm, norm_b, d->h));
    TRY(fused_part(p, g, d, i, 0, AXIS_HEADS, d->q));
    TRY(fused_part(p, g, d, i, 1, AXIS_KV, d->k));
    TRY(fused_part(p, g, d, i, 2, AXIS_KV, d->v));
    TRY(arch_attention(p, i, d, 0));
    TRY(arch_matrix(p, g, &o, AXIS_DIM, AXIS_HEADS, 0, 0, "blk.%d.attn_output.weight", i));
    return arch_residual(p, g, i, d, d->att, o, "attn_output");
}

static err ff_build(struct program *p, const struct gguf *g, const struct decoder_values *d,
                    int i, float eps) {
    int norm, norm_b, up, up_b, down;
    TRY(arch_vector(p, g, &norm, AXIS_DIM, p->dim, 0, 0, "blk.%d.ffn_norm.weight", i));
    TRY(arch_vector(p, g, &norm_b, AXIS_DIM, p->dim, 0, 0, "blk.%d.ffn_norm.bias", i));
    TRY(arch_matrix(p, g, &up, AXIS_FF, AXIS_DIM, 0, 0, "blk.%d.ffn_up.weight", i));
    TRY(arch_vector(p, g, &up_b, AXIS_FF, p->ff, 0, 0, "blk.%d.ffn_up.bias", i));
    TRY(arch_matrix(p, g, &down, AXIS_DIM, AXIS_FF, 0, 0, "blk.%d.ffn_down.weight", i));
    TRY(arch_norm(p, i, NORM_LAYER, eps, p->dim, d->x, norm, norm_b, d->h));
    TRY(arch_linear(p, i, d->h, up, d->up));
    TRY(arch_bias(p, i, d->up, up_b));
    TRY(arch_op(p, (struct op){.kind = OP_ACT, .layer = i, .in = {d->up, -1}, .out = d->f,
                               .weight = {-1, -1}, .act = {ACT_GELU_TANH}}));
    return arch_residual(p, g, i, d, d->f, down, "ffn_down");
}

static err embedding_build(struct program *p, const struct gguf *g,
                           const struct decoder_values *d) {
    int tokens, positions;
    TRY(arch_table(p, g, &tokens, p->n_vocab, "token_embd.weight"));
    TRY(arch_table(p, g, &positions, p->n_context, "position_embd.weight"));
    TRY(arch_op(p, (struct op){.kind = OP_EMBED, .layer = LAYER_BEFORE, .in = {-1, -1},
                               .out = d->x, .weight = {tokens, -1}}));
    TRY(arch_op(p, (struct op){.kind = OP_EMBED_POS, .layer = LAYER_BEFORE, .in = {-1, -1},
                               .out = d->y, .weight = {positions, -1}}));
    return arch_op(p, (struct op){.kind = OP_ADD, .layer = LAYER_BEFORE, .in = {d->x, d->y},
                                  .out = d->x, .weight = {-1, -1}});
}

static err gpt2_build(struct program *p, const struct gguf *g) {
    TRY(arch_read_dimensions(p, g));
    if (p->n_kv_heads != p->n_heads || p->head_dim * p->n_heads != p->dim)
        return err_set(ERR_FORMAT, "%s: gpt2 needs as many kv heads as heads, and heads that make up %u values",
                       gguf_path(g), p->dim);
    float eps;
    TRY(arch_f32(p, g, "attention.layer_norm_epsilon", &eps));
    struct decoder_values d;
    TRY(arch_decoder_values(p, &d));
    TRY(embedding_build(p, g, &d));
    for (int i = 0; i < (int)p->n_layers; i++) {
        TRY(attention_build(p, g, &d, i, eps));
        TRY(ff_build(p, g, &d, i, eps));
    }
    return arch_head(p, g, &d, NORM_LAYER, eps, 1);
}

const struct arch arch_gpt2 = {"gpt2", gpt2_build};
