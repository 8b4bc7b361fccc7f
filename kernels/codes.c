#include "kernels/codes.h"

#include <string.h>

static uint16_t half_at(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static void nibbles(const uint8_t *qs, uint8_t q[32]) {
    for (int i = 0; i < 16; i++) {
        q[i] = qs[i] & 15;
        q[16 + i] = qs[i] >> 4;
    }
}

static void fifth_bits(const uint8_t *qh, uint8_t q[32]) {
    uint32_t bits;
    memcpy(&bits, qh, 4);
    for (int i = 0; i < 32; i++) q[i] |= (uint8_t)((bits >> i & 1) << 4);
}

/* Q8_0 {f16 d; int8 qs[32]} */
static void get_q8_0(const uint8_t *b, struct codes *o) {
    o->d = half_at(b);
    for (int i = 0; i < 32; i++) o->q[i] = (uint8_t)(b[2 + i] ^ 0x80); /* + 128 */
}

/* Q4_0 {d; qs[16]}, Q4_1 {d; m; qs[16]}, Q5_0 {d; qh[4]; qs[16]}, Q5_1 {d; m; qh[4]; qs[16]} */
static void get_legacy(const uint8_t *b, int has_min, int has_high, struct codes *o) {
    o->d = half_at(b);
    b += 2;
    if (has_min) {
        o->m = half_at(b);
        b += 2;
    }
    nibbles(b + (has_high ? 4 : 0), o->q);
    if (has_high) fifth_bits(b, o->q);
}

/* The 6-bit scales and mins of Q4_K and Q5_K: 12 bytes for 8 blocks. */
static void scale_min_k4(const uint8_t *s, uint32_t j, struct codes *o) {
    uint8_t sc, mn;
    if (j < 4) {
        sc = s[j] & 63;
        mn = s[j + 4] & 63;
    } else {
        sc = (uint8_t)((s[j + 4] & 15) | (s[j - 4] >> 6) << 4);
        mn = (uint8_t)((s[j + 4] >> 4) | (s[j] >> 6) << 4);
    }
    o->scale[0] = o->scale[1] = (int8_t)sc;
    o->min[0] = o->min[1] = mn;
}

/* Q4_K {d; dmin; scales[12]; qs[128]}, Q5_K {d; dmin; scales[12]; qh[32]; qs[128]} */
static void get_q45_k(const uint8_t *b, uint32_t j, int has_high, struct codes *o) {
    o->d = half_at(b);
    o->m = half_at(b + 2);
    scale_min_k4(b + 4, j, o);
    const uint8_t *qh = b + 16, *qs = b + 16 + (has_high ? 32 : 0) + j / 2 * 32;
    for (int i = 0; i < 32; i++) {
        o->q[i] = j & 1 ? qs[i] >> 4 : qs[i] & 15;
        if (has_high) o->q[i] |= (uint8_t)((qh[i] >> j & 1) << 4);
    }
}

/* Q6_K {ql[128]; qh[64]; int8 scales[16]; d} */
static void get_q6_k(const uint8_t *b, uint32_t j, struct codes *o) {
    uint32_t n = j / 4, k = j % 4; /* half of 128, block inside it */
    const uint8_t *ql = b + n * 64 + (k & 1) * 32, *qh = b + 128 + n * 32;
    for (int i = 0; i < 32; i++) {
        uint8_t low = k < 2 ? ql[i] & 15 : ql[i] >> 4;
        o->q[i] = (uint8_t)(low | (qh[i] >> (2 * k) & 3) << 4);
    }
    memcpy(o->scale, b + 192 + j * 2, 2);
    o->d = half_at(b + 208);
}

/* Q3_K {hmask[32]; qs[64]; scales[12]; d}: 16 scales of 6 bits, stored + 32. */
static void get_q3_k(const uint8_t *b, uint32_t j, struct codes *o) {
    const uint8_t *qs = b + 32 + j / 4 * 32, *s = b + 96;
    for (int i = 0; i < 32; i++)
        o->q[i] = (uint8_t)((qs[i] >> (j % 4 * 2) & 3) | (b[i] >> j & 1) << 2);
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t k = 2 * j + h;
        int low = k < 8 ? s[k] & 15 : s[k - 8] >> 4;
        int high = s[8 + k % 4] >> (k / 4 * 2) & 3;
        o->scale[h] = (int8_t)((low | high << 4) - 32);
    }
    o->d = half_at(b + 108);
}

/* Q2_K {scales[16]; qs[64]; d; dmin} */
static void get_q2_k(const uint8_t *b, uint32_t j, struct codes *o) {
    const uint8_t *qs = b + 16 + j / 4 * 32;
    for (int i = 0; i < 32; i++) o->q[i] = qs[i] >> (j % 4 * 2) & 3;
    for (uint32_t h = 0; h < 2; h++) {
        o->scale[h] = b[2 * j + h] & 15;
        o->min[h] = b[2 * j + h] >> 4;
    }
    o->d = half_at(b + 80);
    o->m = half_at(b + 82);
}

void codes_get(enum format f, const uint8_t *row, uint32_t block, struct codes *out) {
    const struct format_info *info = format_info(f);
    uint32_t per = info->block_values / 32;
    const uint8_t *b = row + (size_t)(block / per) * info->block_bytes;
    uint32_t j = block % per;
    memset(out, 0, sizeof *out);
    switch (f) {
    case FORMAT_Q8_0: get_q8_0(b, out); break;
    case FORMAT_Q4_0: get_legacy(b, 0, 0, out); break;
    case FORMAT_Q4_1: get_legacy(b, 1, 0, out); break;
    case FORMAT_Q5_0: get_legacy(b, 0, 1, out); break;
    case FORMAT_Q5_1: get_legacy(b, 1, 1, out); break;
    case FORMAT_Q2_K: get_q2_k(b, j, out); break;
    case FORMAT_Q3_K: get_q3_k(b, j, out); break;
    case FORMAT_Q4_K: get_q45_k(b, j, 0, out); break;
    case FORMAT_Q5_K: get_q45_k(b, j, 1, out); break;
    case FORMAT_Q6_K: get_q6_k(b, j, out); break;
    default: break; /* dense formats have no codes */
    }
}

static int has_codes(enum format f) { return format_info(f)->block_values == 256; }

float codes_scale(enum format f, const struct codes *c, int h) {
    float d = format_half_to_float(c->d);
    return has_codes(f) ? d * (float)c->scale[h] : d;
}

float codes_min(enum format f, const struct codes *c, int h) {
    float m = format_half_to_float(c->m);
    return has_codes(f) ? -(m * (float)c->min[h]) : m;
}
