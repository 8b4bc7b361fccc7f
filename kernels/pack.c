#include "kernels/pack.h"

#include <string.h>

#include "kernels/codes.h"

#define LANES PACKED_LANES

void pack_group_bytes(const struct packed_layout *l, size_t *quants, size_t *high, size_t *scales,
                      size_t *supers) {
    const struct packed_info *info = packed_info(l->format);
    *quants = (size_t)LANES * l->n_blocks * info->quant_bytes;
    *high = (size_t)LANES * l->n_blocks * info->high_bytes;
    *scales = (size_t)LANES * l->n_blocks * info->scale_bytes;
    *supers = (size_t)LANES * l->n_supers * info->super_bytes;
}

static void put_word(uint8_t *plane, size_t index, uint32_t lane, const uint8_t bytes[4]) {
    memcpy(plane + (index * LANES + lane) * 4, bytes, 4);
}

static void put_half(uint8_t *plane, size_t index, uint32_t lane, uint16_t h) {
    memcpy(plane + (index * LANES + lane) * 2, &h, 2);
}

/* Fields of 2 bits: word p, byte i, bits 2f = column 4(4p + f) + i, shifted down. */
static void put_two_bits(uint8_t *plane, uint32_t block, uint32_t lane, const uint8_t q[32], int shift) {
    for (uint32_t p = 0; p < 2; p++) {
        uint8_t bytes[4] = {0};
        for (uint32_t f = 0; f < 4; f++)
            for (uint32_t i = 0; i < 4; i++)
                bytes[i] |= (uint8_t)((q[4 * (4 * p + f) + i] >> shift & 3) << (2 * f));
        put_word(plane, (size_t)block * 2 + p, lane, bytes);
    }
}

static void put_quants(uint32_t quant_bytes, uint8_t *plane, uint32_t block, uint32_t lane,
                       const uint8_t q[32]) {
    if (quant_bytes == 32) {
        for (uint32_t j = 0; j < 8; j++) put_word(plane, (size_t)block * 8 + j, lane, q + 4 * j);
    } else if (quant_bytes == 16) {
        for (uint32_t j = 0; j < 4; j++) {
            uint8_t bytes[4];
            for (uint32_t i = 0; i < 4; i++)
                bytes[i] = (uint8_t)((q[4 * j + i] & 15) | (q[16 + 4 * j + i] & 15) << 4);
            put_word(plane, (size_t)block * 4 + j, lane, bytes);
        }
    } else {
        put_two_bits(plane, block, lane, q, 0);
    }
}

/* One bit of each quant: bit j of byte i = column 4j + i. */
static void put_high_bits(uint8_t *plane, uint32_t block, uint32_t lane, const uint8_t q[32], int bit) {
    uint8_t bytes[4] = {0};
    for (uint32_t j = 0; j < 8; j++)
        for (uint32_t i = 0; i < 4; i++)
            bytes[i] |= (uint8_t)((q[4 * j + i] >> bit & 1) << j);
    put_word(plane, block, lane, bytes);
}

/* Codes of two per block and lane, and the f16 factors of the super-block. */
static void put_codes(uint8_t *scales, uint32_t block, uint32_t lane, uint8_t first, uint8_t second) {
    scales[((size_t)block * 2) * LANES + lane] = first;
    scales[((size_t)block * 2 + 1) * LANES + lane] = second;
}

/* Q3_K: 6-bit scales, low nibbles beside the block, upper two bits by super-block. */
static void put_q3_scales(const struct codes *c, uint32_t block, uint32_t lane, uint32_t super,
                          uint32_t in_super, const struct packed_group *out) {
    uint32_t s0 = (uint32_t)(c->scale[0] + 32), s1 = (uint32_t)(c->scale[1] + 32), high;
    out->scales[(size_t)block * LANES + lane] = (uint8_t)((s0 & 15) | (s1 & 15) << 4);
    uint8_t *at = out->supers + (size_t)super * 96;
    put_half(at, 0, lane, c->d);
    memcpy(&high, at + 32 + lane * 4, 4);
    high |= ((s0 >> 4) | (s1 >> 4) << 2) << (4 * in_super);
    memcpy(at + 32 + lane * 4, &high, 4);
}

static void put_scales(const struct packed_layout *l, const struct codes *c, uint32_t block,
                       uint32_t lane, const struct packed_group *out) {
    uint32_t super = (l->super_first + block) / 8, in_super = (l->super_first + block) % 8;
    switch (l->format) {
    case FORMAT_Q4_K:
    case FORMAT_Q5_K:
        put_codes(out->scales, block, lane, (uint8_t)c->scale[0], c->min[0]);
        put_half(out->supers, (size_t)super * 2, lane, c->d);
        put_half(out->supers, (size_t)super * 2 + 1, lane, c->m);
        break;
    case FORMAT_Q6_K:
        put_codes(out->scales, block, lane, (uint8_t)c->scale[0], (uint8_t)c->scale[1]);
        put_half(out->supers, super, lane, c->d);
        break;
    case FORMAT_Q3_K: put_q3_scales(c, block, lane, super, in_super, out); break;
    case FORMAT_Q2_K:
        put_codes(out->scales, block, lane, (uint8_t)(c->scale[0] | c->min[0] << 4),
                  (uint8_t)(c->scale[1] | c->min[1] << 4));
        put_half(out->supers, (size_t)super * 2, lane, c->d);
        put_half(out->supers, (size_t)super * 2 + 1, lane, c->m);
        break;
    default: {
        uint32_t has_min = packed_info(l->format)->has_min;
        put_half(out->scales, (size_t)block * (1 + has_min), lane, c->d);
        if (has_min) put_half(out->scales, (size_t)block * 2 + 1, lane, c->m);
    }
    }
}

static void pack_dense(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, uint8_t *out) {
    uint32_t item = packed_info(l->format)->quant_bytes;
    for (uint32_t c = 0; c < l->cols; c++)
        for (uint32_t lane = 0; lane < n_rows; lane++)
            memcpy(out + ((size_t)c * LANES + lane) * item,
                   rows + lane * row_bytes + (size_t)c * item, item);
}

void pack_group(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                uint32_t n_rows, uint32_t block_first, const struct packed_group *out) {
    const struct packed_info *info = packed_info(l->format);
    size_t quants, high, scales, supers;
    pack_group_bytes(l, &quants, &high, &scales, &supers);
    if (n_rows < LANES) memset(out->quants, 0, quants);
    if (!format_info(l->format)->is_quantised) {
        pack_dense(l, rows, row_bytes, n_rows, out->quants);
        return;
    }
    if (n_rows < LANES) {
        memset(out->high, 0, high);
        memset(out->scales, 0, scales);
    }
    memset(out->supers, 0, supers);
    for (uint32_t lane = 0; lane < n_rows; lane++)
        for (uint32_t block = 0; block < l->n_blocks; block++) {
            struct codes c;
            codes_get(l->format, rows + lane * row_bytes, block_first + block, &c);
            put_quants(info->quant_bytes, out->quants, block, lane, c.q);
            if (info->high_bytes == 8) put_two_bits(out->high, block, lane, c.q, 4);
            if (info->high_bytes == 4)
                put_high_bits(out->high, block, lane, c.q, info->quant_bytes == 8 ? 2 : 4);
            put_scales(l, &c, block, lane, out);
        }
}
