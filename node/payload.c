#include "node/payload.h"

#include <math.h>
#include <string.h>

#include "model/format.h"

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

static void block_encode(const float *in, size_t n, struct int8_block *out) {
    float most = 0;
    for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(in[i]));
    float per = most > 0 ? 127 / most : 0;
    memset(out, 0, sizeof *out);
    out->scale = most / 127;
    for (size_t i = 0; i < n; i++) {
        float v = fmaxf(-127, fminf(127, in[i] * per)); /* a number, whatever came */
        out->q[i] = (int8_t)(v + copysignf(0.5f, v));
    }
}

static void int8_encode(const float *in, size_t n, struct int8_block *out) {
    for (size_t at = 0; at < n; at += PAYLOAD_BLOCK)
        block_encode(in + at, n - at < PAYLOAD_BLOCK ? n - at : PAYLOAD_BLOCK, out++);
}

void payload_encode(enum payload p, const float *in, size_t n, void *out) {
    uint16_t *half = out;
    switch (p) {
    case PAYLOAD_F16:
        for (size_t i = 0; i < n; i++) half[i] = format_float_to_half(fmaxf(-HALF_MAX, fminf(HALF_MAX, in[i])));
        break;
    case PAYLOAD_INT8: int8_encode(in, n, out); break;
    default: memcpy(out, in, n * sizeof *in);
    }
}

void payload_decode(enum payload p, const void *in, size_t begin, size_t n, float *out) {
    const uint16_t *half = (const uint16_t *)in + begin;
    const struct int8_block *b = (const struct int8_block *)in + begin / PAYLOAD_BLOCK;
    switch (p) {
    case PAYLOAD_F16:
        for (size_t i = 0; i < n; i++) out[i] = format_half_to_float(half[i]);
        break;
    case PAYLOAD_INT8:
        for (size_t i = 0; i < n; i++)
            out[i] = b[i / PAYLOAD_BLOCK].scale * (float)b[i / PAYLOAD_BLOCK].q[i % PAYLOAD_BLOCK];
        break;
    default: memcpy(out, (const float *)in + begin, n * sizeof *out);
    }
}
