/* Llama 1-3, Mistral and the many models converted as "llama". The converter
 * permutes q and k so that rotated pairs stand side by side.
 * Source: arXiv 2302.13971; tensor names and keys: the GGUF specification. */
#include "model/arch.h"

static err llama_build(struct program *p, const struct gguf *g) {
    struct gated_style style = {.rope = ROPE_NORM};
    TRY(arch_u32_or(p, g, "attention.sliding_window", 0, &style.window));
    return arch_gated_decoder(p, g, &style);
}

const struct arch arch_llama = {"llama", llama_build};
