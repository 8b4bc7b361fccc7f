/* Number formats of tensors in files, and their exact decoding.
 *
 * Source: the block structures of ggml (ggml-common.h) as fixed by the GGUF
 * specification; `gguf.quants` of the gguf Python package gives the same
 * values. A row of a tensor is a whole number of blocks. */
#ifndef MODEL_FORMAT_H
#define MODEL_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

enum format {
    FORMAT_F32, FORMAT_F16, FORMAT_BF16,
    FORMAT_Q8_0, FORMAT_Q4_0, FORMAT_Q4_1, FORMAT_Q5_0, FORMAT_Q5_1,
    FORMAT_Q2_K, FORMAT_Q3_K, FORMAT_Q4_K, FORMAT_Q5_K, FORMAT_Q6_K,
    N_FORMATS
};

struct format_info {
    const char *name;      /* "Q4_K" */
    uint32_t gguf_type;    /* ggml_type number in GGUF files */
    uint32_t block_values; /* values per block: 1, 32 or 256 */
    uint32_t block_bytes;
    int is_quantised;      /* 0: dense (F32, F16, BF16) */
};

const struct format_info *format_info(enum format f);

/* The format of a GGUF type number; ERR_UNSUPPORTED names the number and, where
 * known, the name of the type. */
err format_from_gguf(uint32_t gguf_type, enum format *out);

/* By name, upper or lower case: "q4_k". ERR_REQUEST if there is none. */
err format_from_name(const char *name, enum format *out);

/* Bytes of `n` values; n is a multiple of block_values. */
size_t format_bytes(enum format f, size_t n);

/* Decodes `n` values (a multiple of block_values) exactly as the format says. */
void format_decode(enum format f, const void *src, float *dst, size_t n);

/* IEEE half and bfloat16 to float, exact; float to half rounds to nearest even. */
float format_half_to_float(uint16_t h);
float format_bf16_to_float(uint16_t h);
uint16_t format_float_to_half(float f);

#endif
