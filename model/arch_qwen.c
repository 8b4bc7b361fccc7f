/* Qwen2 and Qwen2.5 (biases on q, k, v) and Qwen3 (q and k normed per head).
 * Sources: arXiv 2407.10671, arXiv 2505.09388. */
#include "model/arch.h"

static err qwen2_build(struct program *p, const struct gguf *g) {
    return arch_gated_decoder(p, g, &(struct gated_style){.rope = ROPE_NEOX});
}

static err qwen3_build(struct program *p, const struct gguf *g) {
    return arch_gated_decoder(
        p, g, &(struct gated_style){.rope = ROPE_NEOX, .has_head_norms = 1});
}

const struct arch arch_qwen2 = {"qwen2", qwen2_build};
const struct arch arch_qwen3 = {"qwen3", qwen3_build};
