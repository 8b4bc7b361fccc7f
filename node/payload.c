#include "node/payload.h"

#include <string.h>

#define HALF_MAX 65504.0f

const char *const payload_names[N_PAYLOADS] = {
#define PAYLOAD_NAME(id, name) name,
    PAYLOAD_LIST(PAYLOAD_NAME)
#undef PAYLOAD_NAME
};

int payload_find(const char *name, enum payload *out) {
    for (int i = 0; i < N_PAYLOADS; i++)
        if (strcmp(name, payload_names[i]) == 0) {
            *out = (enum payload)i;
            return 1;
        }
    return 0;
}

struct int8_block {
    float scale;
    int8_t q[PAYLOAD_BLOCK];
};

static size_t block_count(size_t n) { return (n + PAYLOAD_BLOCK - 1) / PAYLOAD_BLOCK; }

size_t payload_bytes(enum payload p, size_t n) {
    if (p == PAYLOAD_INT8) return block_count(n) * sizeof(struct int8_block);
    return n * (p == PAYLOAD_F16 ? sizeof(uint16_t) : sizeof(float));
}

/* ---- loops without branches or calls: compilers make vectors of them ---- */

static inline uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

/* To the nearest, even where there are two. Below 2^-14 adding 0.5 leaves just the bits of a denormal half; NaN
 * becomes the largest. */
static inline uint16_t half_of(float f) {
    uint32_t bits = bits_of(f), sign = bits >> 16 & 0x8000;
    float size = float_of(bits & 0x7fffffff);
    size = size < HALF_MAX ? size : HALF_MAX;
    uint32_t u = bits_of(size), small = bits_of(size + 0.5f) - bits_of(0.5f);
    uint32_t normal = (u - (112u << 23) + 0xfff + (u >> 13 & 1)) >> 13;
    return (uint16_t)(sign | (size < 0x1p-14f ? small : normal));
}

static inline float of_half(uint16_t h) {
    return float_of(bits_of(float_of((h & 0x7fffu) << 13) * 0x1p112f) | (h & 0x8000u) << 16);
}

static void block_encode(const float *in, struct int8_block *out) {
    int32_t bits = 0; /* sizes are in the order of their bits */
    for (int i = 0; i < PAYLOAD_BLOCK; i++) {
        int32_t size = (int32_t)(bits_of(in[i]) & 0x7fffffff);
        bits = size > bits ? size : bits;
    }
    float most = float_of((uint32_t)bits), per = most > 0 ? 127 / most : 0;
    out->scale = most / 127;
    for (int i = 0; i < PAYLOAD_BLOCK; i++) {
        float v = in[i] * per;
        v = v < 127 ? v : 127;
        v = v > -127 ? v : -127; /* a number, whatever came */
        out->q[i] = (int8_t)(int32_t)(v + (v < 0 ? -0.5f : 0.5f));
    }
}

static void int8_encode(const float *in, size_t n, struct int8_block *out) {
    for (; n >= PAYLOAD_BLOCK; n -= PAYLOAD_BLOCK, in += PAYLOAD_BLOCK) block_encode(in, out++);
    if (n == 0) return;
    float last[PAYLOAD_BLOCK] = {0};
    memcpy(last, in, n * sizeof *in);
    block_encode(last, out);
}

static void int8_decode(const struct int8_block *in, size_t n, float *out) {
    for (; n >= PAYLOAD_BLOCK; n -= PAYLOAD_BLOCK, in++, out += PAYLOAD_BLOCK)
        for (int i = 0; i < PAYLOAD_BLOCK; i++) out[i] = in->scale * (float)in->q[i];
    for (size_t i = 0; i < n; i++) out[i] = in->scale * (float)in->q[i];
}

void payload_encode(enum payload p, const float *in, size_t n, void *out) {
    uint16_t *half = out;
    switch (p) {
    case PAYLOAD_F16:
        for (size_t i = 0; i < n; i++) half[i] = half_of(in[i]);
        break;
    case PAYLOAD_INT8: int8_encode(in, n, out); break;
    default: memcpy(out, in, n * sizeof *in);
    }
}

void payload_decode(enum payload p, const void *in, size_t begin, size_t n, float *out) {
    const uint16_t *half = (const uint16_t *)in + begin;
    switch (p) {
    case PAYLOAD_F16:
        for (size_t i = 0; i < n; i++) out[i] = of_half(half[i]);
        break;
    case PAYLOAD_INT8: int8_decode((const struct int8_block *)in + begin / PAYLOAD_BLOCK, n, out); break;
    default: memcpy(out, (const float *)in + begin, n * sizeof *out);
    }
}
