/* What an architecture file uses to write its program. Private to model/. */
#ifndef MODEL_ARCH_H
#define MODEL_ARCH_H

#include "model/program.h"

struct arch {
    const char *name;  /* general.architecture */
    err (*build)(struct program *p, const struct gguf *g);
};

extern const struct arch arch_llama, arch_qwen2, arch_qwen3, arch_gpt2;

/* Metadata "ARCH.suffix" of the model. */
err arch_u32(const struct program *p, const struct gguf *g, const char *suffix, uint32_t *out);
err arch_u32_or(const struct program *p, const struct gguf *g, const char *suffix, uint32_t fallback, uint32_t *out);
err arch_f32(const struct program *p, const struct gguf *g, const char *suffix, float *out);
err arch_f32_or(const struct program *p, const struct gguf *g, const char *suffix, float fallback, float *out);

/* n_layers .. n_context from their usual keys, checked; fills p->axes. */
err arch_read_dimensions(struct program *p, const struct gguf *g);
err arch_read_rope(struct program *p, const struct gguf *g, enum rope_style style);

/* A new value; returns its id through *out. */
err arch_value(struct program *p, const char *name, enum axis axis, int *out);

/* The values every decoder has. */
struct decoder_values {
    int x, h, q, k, v, att, part, y, gate, up, f;
    int scores; /* of the experts of a mixture; else -1 */
};
err arch_decoder_values(struct program *p, struct decoder_values *out);

/* Binds tensor NAME ("blk.%u.attn_q.weight", layer) as a matrix over two axes,
 * or a part of its rows from row_begin on; checks the shape. */
err arch_matrix(struct program *p, const struct gguf *g, int *out, enum axis out_axis, enum axis in_axis,
                uint64_t row_begin, uint64_t tensor_rows, const char *fmt, ...)
    __attribute__((format(printf, 8, 9)));
/* The same of every expert of a mixture, in one tensor: [in, out, experts]. */
err arch_experts(struct program *p, const struct gguf *g, int *out, enum axis out_axis, enum axis in_axis,
                 const char *fmt, ...) __attribute__((format(printf, 6, 7)));
/* A vector over an axis, of `cols` values from col_begin on (tensor_cols in all). */
err arch_vector(struct program *p, const struct gguf *g, int *out, enum axis axis, uint32_t cols,
                uint64_t col_begin, uint64_t tensor_cols, const char *fmt, ...)
    __attribute__((format(printf, 8, 9)));

/* A vector of one head, the same for every head: held whole by every shard. */
err arch_head_vector(struct program *p, const struct gguf *g, int *out, const char *fmt, int layer);

/* A table of `rows` rows over DIM that is looked up, by token or position. */
err arch_table(struct program *p, const struct gguf *g, int *out, uint32_t rows, const char *name);

/* Ops, appended in order; `layer` as in struct op. Linear inserts the
 * quantise op its weight needs. */
err arch_op(struct program *p, struct op op);
err arch_norm(struct program *p, int layer, enum norm_kind kind, float eps, uint32_t group, int in, int w, int b,
              int out);
err arch_linear(struct program *p, int layer, int in, int w, int out);
err arch_bias(struct program *p, int layer, int value, int vector);

/* Rope, kv-write and attend of a layer over q, k, v. */
err arch_attention(struct program *p, int layer, const struct decoder_values *d, uint32_t window);

/* x += w . in, summed over shards, plus the bias "blk.LAYER.PART.bias" where the file has one. */
err arch_residual(struct program *p, const struct gguf *g, int layer,
                  const struct decoder_values *d, int in, int w, const char *part);

/* The wanted rows, the final norm, the logits. */
err arch_head(struct program *p, const struct gguf *g, const struct decoder_values *d,
              enum norm_kind kind, float eps, int has_bias);

/* Llama and its kin: RMS norms, rotary positions, grouped-query attention, SwiGLU. */
struct gated_style {
    enum rope_style rope;
    int has_head_norms; /* q and k normed per head before rope */
    uint32_t window;
};
err arch_gated_decoder(struct program *p, const struct gguf *g, const struct gated_style *style);

#endif
