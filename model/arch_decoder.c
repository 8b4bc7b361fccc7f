/* What decoder architectures share: their values, attention over the KV cache,
 * the gated layer of Llama and its kin, the head. */
#include "model/arch.h"

#include <stdio.h>

err arch_decoder_values(struct program *p, struct decoder_values *out) {
    TRY(arch_value(p, "x", AXIS_DIM, &out->x));
    TRY(arch_value(p, "h", AXIS_DIM, &out->h));
    TRY(arch_value(p, "q", AXIS_HEADS, &out->q));
    TRY(arch_value(p, "k", AXIS_KV, &out->k));
    TRY(arch_value(p, "v", AXIS_KV, &out->v));
    TRY(arch_value(p, "att", AXIS_HEADS, &out->att));
    TRY(arch_value(p, "part", AXIS_DIM, &out->part));
    TRY(arch_value(p, "y", AXIS_DIM, &out->y));
    TRY(arch_value(p, "gate", AXIS_FF, &out->gate));
    TRY(arch_value(p, "up", AXIS_FF, &out->up));
    TRY(arch_value(p, "f", AXIS_FF, &out->f));
    out->scores = -1;
    if (p->n_experts) TRY(arch_value(p, "scores", AXIS_EXPERTS, &out->scores));
    p->values[out->part].is_partial = 1;
    p->value_x = out->x;
    return OK;
}

static err rope_op(struct program *p, int layer, int value) {
    return arch_op(p, (struct op){.kind = OP_ROPE, .layer = layer, .in = {value, -1},
                                  .out = value, .weight = {-1, -1}});
}

err arch_attention(struct program *p, int layer, const struct decoder_values *d, uint32_t window) {
    if (p->rope.n_rot) {
        TRY(rope_op(p, layer, d->q));
        TRY(rope_op(p, layer, d->k));
    }
    TRY(arch_op(p, (struct op){.kind = OP_KV_WRITE, .layer = layer, .in = {d->k, d->v},
                               .out = -1, .weight = {-1, -1}}));
    return arch_op(p, (struct op){.kind = OP_ATTEND, .layer = layer, .in = {d->q, -1},
                                  .out = d->att, .weight = {-1, -1}, .attend = {window}});
}

/* A bias that a file may carry or not. */
static err optional_bias(struct program *p, const struct gguf *g, int layer, int value,
                         const char *part) {
    char name[64];
    snprintf(name, sizeof name, "blk.%d.%s.bias", layer, part);
    if (!gguf_find_tensor(g, name)) return OK;
    int b;
    enum axis axis = p->values[value].axis;
    TRY(arch_vector(p, g, &b, axis, p->axes[axis].size, 0, 0, "%s", name));
    return arch_bias(p, layer, value, b);
}

err arch_residual(struct program *p, const struct gguf *g, int layer,
                  const struct decoder_values *d, int in, int w, const char *part) {
    TRY(arch_linear(p, layer, in, w, d->part));
    TRY(arch_op(p, (struct op){.kind = OP_REDUCE, .layer = layer, .in = {d->part, -1},
                               .out = d->y, .weight = {w, -1}}));
    TRY(optional_bias(p, g, layer, d->y, part));
    return arch_op(p, (struct op){.kind = OP_ADD, .layer = layer, .in = {d->x, d->y},
                                  .out = d->x, .weight = {-1, -1}});
}

err arch_head(struct program *p, const struct gguf *g, const struct decoder_values *d,
              enum norm_kind kind, float eps, int has_bias) {
    int layer = (int)p->n_layers, xs, hs, part, w, b = -1, head;
    TRY(arch_value(p, "x.out", AXIS_DIM, &xs));
    TRY(arch_value(p, "h.out", AXIS_DIM, &hs));
    TRY(arch_value(p, "logits.part", AXIS_VOCAB, &part));
    TRY(arch_value(p, "logits", AXIS_VOCAB, &p->value_logits));
    p->value_hidden = hs;
    p->values[xs].rows = p->values[hs].rows = ROWS_OUT;
    p->values[part].rows = p->values[p->value_logits].rows = ROWS_OUT;
    TRY(arch_vector(p, g, &w, AXIS_DIM, p->dim, 0, 0, "output_norm.weight"));
    if (has_bias) TRY(arch_vector(p, g, &b, AXIS_DIM, p->dim, 0, 0, "output_norm.bias"));
    const char *name = gguf_find_tensor(g, "output.weight") ? "output.weight" : "token_embd.weight";
    TRY(arch_matrix(p, g, &head, AXIS_VOCAB, AXIS_DIM, 0, 0, "%s", name));
    TRY(arch_op(p, (struct op){.kind = OP_SELECT, .layer = layer, .in = {d->x, -1}, .out = xs,
                               .weight = {-1, -1}}));
    TRY(arch_norm(p, layer, kind, eps, p->dim, xs, w, b, hs));
    TRY(arch_linear(p, layer, hs, head, part));
    return arch_op(p, (struct op){.kind = OP_GATHER, .layer = layer, .in = {part, -1},
                                  .out = p->value_logits, .weight = {-1, -1}});
}

static err gated_head_norms(struct program *p, const struct gguf *g, const struct decoder_values *d,
                            int i, float eps) {
    int q_norm, k_norm;
    TRY(arch_head_vector(p, g, &q_norm, "blk.%d.attn_q_norm.weight", i));
    TRY(arch_head_vector(p, g, &k_norm, "blk.%d.attn_k_norm.weight", i));
    TRY(arch_norm(p, i, NORM_RMS, eps, p->head_dim, d->q, q_norm, -1, d->q));
    return arch_norm(p, i, NORM_RMS, eps, p->head_dim, d->k, k_norm, -1, d->k);
}

static err gated_attention(struct program *p, const struct gguf *g, const struct decoder_values *d,
                           int i, float eps, const struct gated_style *style) {
    int norm, q, k, v, o;
    TRY(arch_vector(p, g, &norm, AXIS_DIM, p->dim, 0, 0, "blk.%d.attn_norm.weight", i));
    TRY(arch_matrix(p, g, &q, AXIS_HEADS, AXIS_DIM, 0, 0, "blk.%d.attn_q.weight", i));
    TRY(arch_matrix(p, g, &k, AXIS_KV, AXIS_DIM, 0, 0, "blk.%d.attn_k.weight", i));
    TRY(arch_matrix(p, g, &v, AXIS_KV, AXIS_DIM, 0, 0, "blk.%d.attn_v.weight", i));
    TRY(arch_matrix(p, g, &o, AXIS_DIM, AXIS_HEADS, 0, 0, "blk.%d.attn_output.weight", i));
    TRY(arch_norm(p, i, NORM_RMS, eps, p->dim, d->x, norm, -1, d->h));
    TRY(arch_linear(p, i, d->h, q, d->q));
    TRY(arch_linear(p, i, d->h, k, d->k));
    TRY(arch_linear(p, i, d->h, v, d->v));
    TRY(optional_bias(p, g, i, d->q, "attn_q"));
    TRY(optional_bias(p, g, i, d->k, "attn_k"));
    TRY(optional_bias(p, g, i, d->v, "attn_v"));
    if (style->has_head_norms) TRY(gated_head_norms(p, g, d, i, eps));
    TRY(arch_attention(p, i, d, style->window));
    return arch_residual(p, g, i, d, d->att, o, "attn_output");
}

/* The matrices of the feed-forward part; of a mixture those of all experts, after the scores that choose among them. */
static err ff_matrices(struct program *p, const struct gguf *g, const struct decoder_values *d, int i, int *gate,
                       int *up, int *down) {
    if (!p->n_experts) {
        TRY(arch_matrix(p, g, gate, AXIS_FF, AXIS_DIM, 0, 0, "blk.%d.ffn_gate.weight", i));
        TRY(arch_matrix(p, g, up, AXIS_FF, AXIS_DIM, 0, 0, "blk.%d.ffn_up.weight", i));
        return arch_matrix(p, g, down, AXIS_DIM, AXIS_FF, 0, 0, "blk.%d.ffn_down.weight", i);
    }
    int router;
    TRY(arch_matrix(p, g, &router, AXIS_EXPERTS, AXIS_DIM, 0, 0, "blk.%d.ffn_gate_inp.weight", i));
    TRY(arch_linear(p, i, d->h, router, d->scores));
    TRY(arch_experts(p, g, gate, AXIS_FF, AXIS_DIM, "blk.%d.ffn_gate_exps.weight", i));
    TRY(arch_experts(p, g, up, AXIS_FF, AXIS_DIM, "blk.%d.ffn_up_exps.weight", i));
    return arch_experts(p, g, down, AXIS_DIM, AXIS_FF, "blk.%d.ffn_down_exps.weight", i);
}

static err gated_ff(struct program *p, const struct gguf *g, const struct decoder_values *d, int i,
                    float eps) {
    int norm, gate, up, down;
    TRY(arch_vector(p, g, &norm, AXIS_DIM, p->dim, 0, 0, "blk.%d.ffn_norm.weight", i));
    TRY(arch_norm(p, i, NORM_RMS, eps, p->dim, d->x, norm, -1, d->h));
    TRY(ff_matrices(p, g, d, i, &gate, &up, &down));
    TRY(arch_linear(p, i, d->h, gate, d->gate));
    TRY(arch_linear(p, i, d->h, up, d->up));
    TRY(optional_bias(p, g, i, d->gate, "ffn_gate"));
    TRY(optional_bias(p, g, i, d->up, "ffn_up"));
    TRY(arch_op(p, (struct op){.kind = OP_GLU, .layer = i, .in = {d->gate, d->up}, .out = d->f,
                               .weight = {-1, -1}, .act = {ACT_SILU}}));
    return arch_residual(p, g, i, d, d->f, down, "ffn_down");
}

err arch_gated_decoder(struct program *p, const struct gguf *g, const struct gated_style *style) {
    TRY(arch_read_dimensions(p, g));
    TRY(arch_read_rope(p, g, style->rope));
    float eps;
    TRY(arch_f32(p, g, "attention.layer_norm_rms_epsilon", &eps));
    struct decoder_values d;
    int embedding;
    TRY(arch_decoder_values(p, &d));
    TRY(arch_table(p, g, &embedding, p->n_vocab, "token_embd.weight"));
    TRY(arch_op(p, (struct op){.kind = OP_EMBED, .layer = LAYER_BEFORE, .in = {-1, -1},
                               .out = d.x, .weight = {embedding, -1}}));
    for (int i = 0; i < (int)p->n_layers; i++) {
        TRY(gated_attention(p, g, &d, i, eps, style));
        TRY(gated_ff(p, g, &d, i, eps));
    }
    return arch_head(p, g, &d, NORM_RMS, eps, 0);
}
