#include "model/format.h"

#include <math.h>
#include <string.h>
#include <strings.h>

static const struct format_info infos[N_FORMATS] = {
    [FORMAT_F32] = {"F32", 0, 1, 4, 0},
    [FORMAT_F16] = {"F16", 1, 1, 2, 0},
    [FORMAT_BF16] = {"BF16", 30, 1, 2, 0},
    [FORMAT_Q8_0] = {"Q8_0", 8, 32, 34, 1},
    [FORMAT_Q4_0] = {"Q4_0", 2, 32, 18, 1},
    [FORMAT_Q4_1] = {"Q4_1", 3, 32, 20, 1},
    [FORMAT_Q5_0] = {"Q5_0", 6, 32, 22, 1},
    [FORMAT_Q5_1] = {"Q5_1", 7, 32, 24, 1},
    [FORMAT_Q2_K] = {"Q2_K", 10, 256, 84, 1},
    [FORMAT_Q3_K] = {"Q3_K", 11, 256, 110, 1},
    [FORMAT_Q4_K] = {"Q4_K", 12, 256, 144, 1},
    [FORMAT_Q5_K] = {"Q5_K", 13, 256, 176, 1},
    [FORMAT_Q6_K] = {"Q6_K", 14, 256, 210, 1},
};

/* Types that files may hold and that nothing here decodes, by number. */
static const char *const unsupported_names[] = {
    [4] = "Q4_2",     [5] = "Q4_3",     [9] = "Q8_1",      [15] = "Q8_K",
    [16] = "IQ2_XXS", [17] = "IQ2_XS",  [18] = "IQ3_XXS",  [19] = "IQ1_S",
    [20] = "IQ4_NL",  [21] = "IQ3_S",   [22] = "IQ2_S",    [23] = "IQ4_XS",
    [24] = "I8",      [25] = "I16",     [26] = "I32",      [27] = "I64",
    [28] = "F64",     [29] = "IQ1_M",   [31] = "Q4_0_4_4", [32] = "Q4_0_4_8",
    [33] = "Q4_0_8_8", [34] = "TQ1_0",  [35] = "TQ2_0",    [36] = "IQ4_NL_4_4",
    [37] = "IQ4_NL_4_8", [38] = "IQ4_NL_8_8", [39] = "MXFP4", [40] = "NVFP4",
    [41] = "Q1_0",
};

const struct format_info *format_info(enum format f) { return &infos[f]; }

err format_from_gguf(uint32_t gguf_type, enum format *out) {
    for (int i = 0; i < N_FORMATS; i++)
        if (infos[i].gguf_type == gguf_type) {
            *out = (enum format)i;
            return OK;
        }
    size_t n = sizeof unsupported_names / sizeof *unsupported_names;
    if (gguf_type < n && unsupported_names[gguf_type])
        return err_set(ERR_UNSUPPORTED, "format %s (type %u) is not supported",
                       unsupported_names[gguf_type], gguf_type);
    return err_set(ERR_UNSUPPORTED, "type %u is not a known format", gguf_type);
}

err format_from_name(const char *name, enum format *out) {
    for (int i = 0; i < N_FORMATS; i++)
        if (strcasecmp(infos[i].name, name) == 0) {
            *out = (enum format)i;
            return OK;
        }
    return err_set(ERR_REQUEST,
                   "no format is called '%.40s' (known: F32 F16 BF16 Q8_0 Q4_0 "
                   "Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K)",
                   name);
}

size_t format_bytes(enum format f, size_t n) {
    return n / infos[f].block_values * infos[f].block_bytes;
}

/* ---- half and bfloat16 ---- */

static float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

float format_half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exponent = (h >> 10) & 31, fraction = h & 0x3ffu;
    if (exponent == 31)
        return float_of_bits(sign | 0x7f800000u | fraction << 13);
    if (exponent == 0) { /* zero and denormals: fraction * 2^-24, exact */
        float f = ldexpf((float)fraction, -24);
        return sign ? -f : f;
    }
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

float format_bf16_to_float(uint16_t h) {
    return float_of_bits((uint32_t)h << 16);
}

/* `bits` shifted right, the part shifted out rounded to nearest, ties to even. */
static uint32_t shift_rounded(uint32_t bits, uint32_t shift) {
    uint32_t kept = bits >> shift, lost = bits & ((1u << shift) - 1);
    uint32_t tie = 1u << (shift - 1);
    return kept + (lost > tie || (lost == tie && (kept & 1)));
}

uint16_t format_float_to_half(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    bits &= 0x7fffffffu;
    uint32_t half;
    if (bits > 0x7f800000u) { /* NaN: keep what fits of the payload, never 0 */
        uint32_t payload = bits >> 13 & 0x3ff;
        half = 0x7c00u | (payload ? payload : 0x200u);
    } else if (bits >= 0x477ff000u) { /* from 65520 on: infinity */
        half = 0x7c00;
    } else if (bits >= 0x38800000u) { /* normal; a carry may reach the exponent */
        half = shift_rounded(bits - (112u << 23), 13);
    } else if (bits >> 23 >= 102) { /* denormal in half: count of 2^-24 */
        half = shift_rounded((bits & 0x7fffff) | 0x800000, 126 - (bits >> 23));
    } else {
        half = 0;
    }
    return (uint16_t)(sign | half);
}

/* ---- blocks ----
 * Each function decodes one block. The order of the float operations is part
 * of the format: scale first, then product, then offset, each rounded. */

static uint16_t load_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static float load_half(const uint8_t *p) {
    return format_half_to_float(load_u16(p));
}

static uint32_t load_u32(const uint8_t *p) {
    return load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

/* half d; int8 q[32] */
static void decode_q8_0(const uint8_t *b, float *dst) {
    float d = load_half(b);
    for (int i = 0; i < 32; i++) dst[i] = d * (float)(int8_t)b[2 + i];
}

/* half d; 16 bytes, low nibbles are values 0..15, high ones 16..31 */
static void decode_q4_0(const uint8_t *b, float *dst) {
    float d = load_half(b);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)((b[2 + i] & 15) - 8);
        dst[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

/* half d, m; nibbles as Q4_0 */
static void decode_q4_1(const uint8_t *b, float *dst) {
    float d = load_half(b), m = load_half(b + 2);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)(b[4 + i] & 15) + m;
        dst[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The 5-bit values of a block: bit i of `high` is the fifth bit of value i. */
static void unpack_5bit(const uint8_t *high, const uint8_t *low, int q[32]) {
    uint32_t h = load_u32(high);
    for (int i = 0; i < 16; i++) {
        q[i] = (low[i] & 15) | (int)(h >> i & 1) << 4;
        q[i + 16] = low[i] >> 4 | (int)(h >> (i + 16) & 1) << 4;
    }
}

/* half d; u32 fifth bits; nibbles */
static void decode_q5_0(const uint8_t *b, float *dst) {
    float d = load_half(b);
    int q[32];
    unpack_5bit(b + 2, b + 6, q);
    for (int i = 0; i < 32; i++) dst[i] = d * (float)(q[i] - 16);
}

/* half d, m; u32 fifth bits; nibbles */
static void decode_q5_1(const uint8_t *b, float *dst) {
    float d = load_half(b), m = load_half(b + 2);
    int q[32];
    unpack_5bit(b + 4, b + 8, q);
    for (int i = 0; i < 32; i++) dst[i] = d * (float)q[i] + m;
}

/* 16 bytes: scale (low nibble) and minimum (high) of 16 values each; 64 bytes
 * of 2-bit values; half d, dmin. Byte i of the 32 bytes that hold 128 values has
 * values i, i + 32, i + 64, i + 96, lowest bits first (also in Q3_K, Q6_K). */
static void decode_q2_k(const uint8_t *b, float *dst) {
    const uint8_t *scales = b, *qs = b + 16;
    float d = load_half(b + 80), dmin = load_half(b + 82);
    for (int i = 0; i < 256; i++) {
        uint8_t scale = scales[i / 16];
        float dl = d * (float)(scale & 15), ml = dmin * (float)(scale >> 4);
        int q = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        dst[i] = dl * (float)q - ml;
    }
}

/* 32 bytes of third bits (set: no offset); 64 bytes of 2-bit values; 12 bytes of
 * 6-bit scales: 4 low bits of scale j and j + 8 in byte j, 2 high bits in byte
 * 8 + j % 4; half d. */
static void decode_q3_k(const uint8_t *b, float *dst) {
    const uint8_t *high = b, *qs = b + 32, *packed = b + 96;
    float d = load_half(b + 108), dl[16];
    for (int j = 0; j < 16; j++) {
        int low = packed[j % 8] >> (j / 8 * 4) & 15;
        int top = packed[8 + j % 4] >> (j / 4 * 2) & 3;
        dl[j] = d * (float)((low | top << 4) - 32);
    }
    for (int i = 0; i < 256; i++) {
        int q = qs[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        if (!(high[i % 32] >> (i / 32) & 1)) q -= 4;
        dst[i] = dl[i / 16] * (float)q;
    }
}

/* Scale and minimum j of 8 in the 12 bytes of Q4_K and Q5_K: the first four in
 * the low 6 bits of bytes j and 4 + j; of the last four the low 4 bits in byte
 * 4 + j, the high 2 where the first four left room. */
static void unpack_scale_min(const uint8_t *s, int j, int *scale, int *min) {
    if (j < 4) {
        *scale = s[j] & 63;
        *min = s[j + 4] & 63;
    } else {
        *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
        *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
    }
}

/* half d, dmin; 12 bytes scales and minimums; 128 bytes: byte i of 32 bytes
 * holds values i (low nibble) and i + 32 (high) of 64. */
static void decode_q4_k(const uint8_t *b, float *dst) {
    float d = load_half(b), dmin = load_half(b + 2);
    const uint8_t *qs = b + 16;
    for (int j = 0; j < 8; j++) {
        int scale, min;
        unpack_scale_min(b + 4, j, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int q = qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            dst[j * 32 + i] = dl * (float)q - ml;
        }
    }
}

/* As Q4_K, with 32 bytes of fifth bits before the nibbles: bit j of byte i
 * belongs to value j * 32 + i. */
static void decode_q5_k(const uint8_t *b, float *dst) {
    float d = load_half(b), dmin = load_half(b + 2);
    const uint8_t *high = b + 16, *qs = b + 48;
    for (int j = 0; j < 8; j++) {
        int scale, min;
        unpack_scale_min(b + 4, j, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int i = 0; i < 32; i++) {
            int q = qs[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
            q |= (high[i] >> j & 1) << 4;
            dst[j * 32 + i] = dl * (float)q - ml;
        }
    }
}

/* 128 bytes of low nibbles: byte i of 64 holds values i and i + 64 of 128; 64
 * bytes of high 2 bits; int8 scale[16]; half d. */
static void decode_q6_k(const uint8_t *b, float *dst) {
    const uint8_t *low = b, *high = b + 128, *scales = b + 192;
    float d = load_half(b + 208);
    for (int i = 0; i < 256; i++) {
        float dl = d * (float)(int8_t)scales[i / 16];
        int q = low[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
        q |= (high[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) << 4;
        dst[i] = dl * (float)(q - 32);
    }
}

static void decode_f32(const uint8_t *b, float *dst) {
    *dst = float_of_bits(load_u32(b));
}

static void decode_f16(const uint8_t *b, float *dst) { *dst = load_half(b); }

static void decode_bf16(const uint8_t *b, float *dst) {
    *dst = format_bf16_to_float(load_u16(b));
}

void format_decode(enum format f, const void *src, float *dst, size_t n) {
    static void (*const decoders[N_FORMATS])(const uint8_t *, float *) = {
        [FORMAT_F32] = decode_f32,   [FORMAT_F16] = decode_f16,
        [FORMAT_BF16] = decode_bf16, [FORMAT_Q8_0] = decode_q8_0,
        [FORMAT_Q4_0] = decode_q4_0, [FORMAT_Q4_1] = decode_q4_1,
        [FORMAT_Q5_0] = decode_q5_0, [FORMAT_Q5_1] = decode_q5_1,
        [FORMAT_Q2_K] = decode_q2_k, [FORMAT_Q3_K] = decode_q3_k,
        [FORMAT_Q4_K] = decode_q4_k, [FORMAT_Q5_K] = decode_q5_k,
        [FORMAT_Q6_K] = decode_q6_k,
    };
    const struct format_info *info = &infos[f];
    const uint8_t *b = src;
    for (size_t i = 0; i < n; i += info->block_values, b += info->block_bytes)
        decoders[f](b, dst + i);
}
