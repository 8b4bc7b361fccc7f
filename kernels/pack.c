#include "kernels/pack.h"

#include <string.h>

#include "kernels/codes.h"

#define LANES PACKED_LANES
#define PART_BYTES ((size_t)256 << 10)

void pack_group_bytes(const struct packed_layout *l, size_t *quants, size_t *high, size_t *scales,
                      size_t *supers) {
    const struct packed_info *info = packed_info(l->format);
    *quants = (size_t)LANES * l->n_blocks * info->quant_bytes;
    *high = (size_t)LANES * l->n_blocks * info->high_bytes;
    *scales = (size_t)LANES * l->n_blocks * info->scale_bytes;
    *supers = (size_t)LANES * l->n_supers * info->super_bytes;
}

size_t pack_group_total(const struct packed_layout *l) {
    size_t quants, high, scales, supers;
    pack_group_bytes(l, &quants, &high, &scales, &supers);
    return quants + high + scales + supers;
}

uint32_t pack_part_groups(const struct packed_layout *l) {
    if (!l->n_groups || !l->cols) return 0;
    size_t groups = PART_BYTES / (pack_group_total(l) + 1) + 1;
    return groups < l->n_groups ? (uint32_t)groups : l->n_groups;
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

/* Blocks [block, block_end) of the slice, any number of rows, by way of the codes. Slow: for the last
 * group, and for blocks of a file block that the slice cuts. */
static void pack_codes(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, uint32_t block_first, uint32_t block, uint32_t block_end,
                       const struct packed_group *out) {
    const struct packed_info *info = packed_info(l->format);
    for (; block < block_end; block++)
        for (uint32_t lane = 0; lane < n_rows; lane++) {
            struct codes c;
            codes_get(l->format, rows + lane * row_bytes, block_first + block, &c);
            put_quants(info->quant_bytes, out->quants, block, lane, c.q);
            if (info->high_bytes == 8) put_two_bits(out->high, block, lane, c.q, 4);
            if (info->high_bytes == 4)
                put_high_bits(out->high, block, lane, c.q, info->quant_bytes == 8 ? 2 : 4);
            put_scales(l, &c, block, lane, out);
        }
}

/* ---- whole file blocks of 16 rows at once: the way of nearly all bytes ---- */

/* Masks of the four bytes of a word. */
#define ONES 0x01010101u
#define TWOS 0x03030303u
#define NIBBLES 0x0f0f0f0fu

typedef uint32_t quad __attribute__((vector_size(16)));
typedef quad lanes[LANES / 4]; /* a word of each row */
#ifdef __clang__
#define MIX(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define MIX(a, b, ...) __builtin_shuffle(a, b, (quad){__VA_ARGS__})
#endif
#define QUADS(i) for (uint32_t i = 0; i < LANES / 4; i++)

static inline quad get_quad(const uint8_t *at) {
    quad q;
    memcpy(&q, at, sizeof q);
    return q;
}

/* The word at `b` in each row. */
static inline void get_word(const uint8_t *b, size_t row_bytes, lanes w) {
    uint32_t word[LANES];
    for (uint32_t lane = 0; lane < LANES; lane++) memcpy(&word[lane], b + lane * row_bytes, 4);
    memcpy(w, word, sizeof word);
}

/* 4 n words at `b` in each row, turned over in squares of 4 x 4. */
static inline void get_words(const uint8_t *b, size_t row_bytes, uint32_t n, lanes *w) {
    QUADS(i) {
        const uint8_t *row = b + 4 * i * row_bytes;
        for (uint32_t j = 0; j < n; j++, row += 16, w += 4) {
            quad r0 = get_quad(row), r1 = get_quad(row + row_bytes);
            quad r2 = get_quad(row + 2 * row_bytes), r3 = get_quad(row + 3 * row_bytes);
            quad low01 = MIX(r0, r1, 0, 4, 1, 5), low23 = MIX(r2, r3, 0, 4, 1, 5);
            quad high01 = MIX(r0, r1, 2, 6, 3, 7), high23 = MIX(r2, r3, 2, 6, 3, 7);
            w[0][i] = MIX(low01, low23, 0, 1, 4, 5);
            w[1][i] = MIX(low01, low23, 2, 3, 6, 7);
            w[2][i] = MIX(high01, high23, 0, 1, 4, 5);
            w[3][i] = MIX(high01, high23, 2, 3, 6, 7);
        }
        w -= 4 * n;
    }
}

static inline void put_halves(const uint8_t *b, size_t row_bytes, uint8_t *out) {
    for (uint32_t lane = 0; lane < LANES; lane++) memcpy(out + 2 * lane, b + lane * row_bytes, 2);
}

/* The 4 bytes of each word to 16 bytes, `step` bytes apart. */
static inline void put_bytes(const lanes w, uint8_t *restrict out, size_t step) {
    uint32_t word[LANES];
    memcpy(word, w, sizeof word);
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t lane = 0; lane < LANES; lane++) out[i * step + lane] = (uint8_t)(word[lane] >> (8 * i));
}

/* 16 bytes of a row: a scale for each half of 8 blocks. */
static inline void put_scales_16(const uint8_t *b, size_t row_bytes, uint8_t *out) {
    lanes w[4];
    get_words(b, row_bytes, 1, w);
    for (uint32_t j = 0; j < 4; j++) put_bytes(w[j], out + (size_t)j * 4 * LANES, LANES);
}

/* 32 bytes of a row: a block in the low nibbles, another one in the high ones. */
static inline void put_nibbles(const uint8_t *b, size_t row_bytes, uint8_t *low, uint8_t *high) {
    lanes w[8], *a = (lanes *)(void *)low, *c = (lanes *)(void *)high;
    get_words(b, row_bytes, 2, w);
    for (uint32_t j = 0; j < 4; j++)
        QUADS(i) {
            quad first = w[j][i], second = w[4 + j][i];
            a[j][i] = (first & NIBBLES) | (second & NIBBLES) << 4;
            c[j][i] = (first >> 4 & NIBBLES) | (second & ~NIBBLES);
        }
}

/* 32 bytes of a row: a block in bits 2k, 2k + 1 of each, k = 0..3. Out: [k][2 words]. */
static inline void put_fields(const uint8_t *b, size_t row_bytes, uint8_t *out) {
    lanes w[8], *o = (lanes *)(void *)out;
    get_words(b, row_bytes, 2, w);
    for (uint32_t p = 0; p < 2; p++)
        QUADS(i) {
            quad q0 = w[4 * p][i], q1 = w[4 * p + 1][i], q2 = w[4 * p + 2][i], q3 = w[4 * p + 3][i];
            for (uint32_t k = 0; k < 4; k++) {
                o[2 * k + p][i] = (q0 & TWOS) | (q1 & TWOS) << 2 | (q2 & TWOS) << 4 | (q3 & TWOS) << 6;
                q0 >>= 2, q1 >>= 2, q2 >>= 2, q3 >>= 2;
            }
        }
}

/* 32 bytes of a row: bit j of each belongs to block j. Out: [block], bit j of byte i = column 4j + i. */
static inline void put_bits(const uint8_t *b, size_t row_bytes, uint8_t *out) {
    lanes w[8], *o = (lanes *)(void *)out;
    get_words(b, row_bytes, 2, w);
    QUADS(i)
        for (uint32_t j = 0; j < 8; j++) {
            quad bits = {0};
            for (uint32_t k = 0; k < 8; k++) {
                bits |= (w[k][i] & ONES) << k;
                w[k][i] >>= 1;
            }
            o[j][i] = bits;
        }
}

static void tile_q8_0(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    lanes *q = (lanes *)(void *)out->quants;
    put_halves(b, row_bytes, out->scales);
    get_words(b + 2, row_bytes, 2, q);
    for (uint32_t j = 0; j < 8; j++) QUADS(i) q[j][i] ^= 0x80808080u; /* + 128 */
}

/* The nibbles are in order. The fifth bits are not: bit 4j + i goes to bit j of byte i. */
static inline void tile_legacy(const uint8_t *b, size_t row_bytes, int has_min, int has_high,
                               const struct packed_group *out) {
    put_halves(b, row_bytes, out->scales);
    if (has_min) put_halves(b + 2, row_bytes, out->scales + 2 * LANES);
    b += has_min ? 4 : 2;
    get_words(b + (has_high ? 4 : 0), row_bytes, 1, (lanes *)(void *)out->quants);
    if (!has_high) return;
    lanes bits, *high = (lanes *)(void *)out->high;
    get_word(b, row_bytes, bits);
    QUADS(i) {
        quad h = {0};
        for (uint32_t j = 0; j < 8; j++) {
            quad four = bits[i] >> (4 * j) & 15; /* bit i to byte i */
            h |= ((four | four << 7 | four << 14 | four << 21) & ONES) << j;
        }
        (*high)[i] = h;
    }
}

static void tile_q4_0(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    tile_legacy(b, row_bytes, 0, 0, out);
}

static void tile_q4_1(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    tile_legacy(b, row_bytes, 1, 0, out);
}

static void tile_q5_0(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    tile_legacy(b, row_bytes, 0, 1, out);
}

static void tile_q5_1(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    tile_legacy(b, row_bytes, 1, 1, out);
}

/* What begins a block of Q4_K and Q5_K: d, dmin, 12 bytes of scales and mins; see scale_min_k4 in codes.c. */
static inline void put_head_k4(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    lanes s[4], scales[2], mins[2]; /* of blocks 0-3 and 4-7 */
    put_halves(b, row_bytes, out->supers);
    put_halves(b + 2, row_bytes, out->supers + 2 * LANES);
    get_words(b, row_bytes, 1, s);
    QUADS(i) {
        scales[0][i] = s[1][i] & 0x3f3f3f3fu;
        mins[0][i] = s[2][i] & 0x3f3f3f3fu;
        scales[1][i] = (s[3][i] & NIBBLES) | (s[1][i] >> 6 & TWOS) << 4;
        mins[1][i] = (s[3][i] >> 4 & NIBBLES) | (s[2][i] >> 6 & TWOS) << 4;
    }
    for (uint32_t j = 0; j < 2; j++) {
        put_bytes(scales[j], out->scales + (size_t)j * 8 * LANES, 2 * LANES);
        put_bytes(mins[j], out->scales + (size_t)j * 8 * LANES + LANES, 2 * LANES);
    }
}

#define BLOCK_4_BITS sizeof(lanes[4]) /* of quants of a block of 16 rows */

static void tile_q4_k(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    put_head_k4(b, row_bytes, out);
    for (uint32_t c = 0; c < 4; c++) {
        uint8_t *low = out->quants + 2 * c * BLOCK_4_BITS;
        put_nibbles(b + 16 + 32 * c, row_bytes, low, low + BLOCK_4_BITS);
    }
}

static void tile_q5_k(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    put_head_k4(b, row_bytes, out);
    put_bits(b + 16, row_bytes, out->high);
    for (uint32_t c = 0; c < 4; c++) {
        uint8_t *low = out->quants + 2 * c * BLOCK_4_BITS;
        put_nibbles(b + 48 + 32 * c, row_bytes, low, low + BLOCK_4_BITS);
    }
}

static void tile_q6_k(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    put_halves(b + 208, row_bytes, out->supers);
    put_scales_16(b + 192, row_bytes, out->scales);
    for (uint32_t c = 0; c < 4; c++) { /* blocks 0 and 2, 1 and 3, 4 and 6, 5 and 7 */
        uint8_t *low = out->quants + (c / 2 * 4 + c % 2) * BLOCK_4_BITS;
        put_nibbles(b + 32 * c, row_bytes, low, low + 2 * BLOCK_4_BITS);
    }
    for (uint32_t n = 0; n < 2; n++)
        put_fields(b + 128 + 32 * n, row_bytes, out->high + n * sizeof(lanes[8]));
}

static void tile_q2_k(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    put_halves(b + 80, row_bytes, out->supers);
    put_halves(b + 82, row_bytes, out->supers + 2 * LANES);
    put_scales_16(b, row_bytes, out->scales);
    for (uint32_t n = 0; n < 2; n++)
        put_fields(b + 16 + 32 * n, row_bytes, out->quants + n * sizeof(lanes[8]));
}

/* The 6-bit scales of Q3_K: see get_q3_k in codes.c. */
static inline void put_scales_q3(const uint8_t *s, uint32_t lane, const struct packed_group *out) {
    uint32_t high = 0;
    for (uint32_t k = 0; k < 16; k++) high |= (uint32_t)(s[8 + k % 4] >> (k / 4 * 2) & 3) << (2 * k);
    memcpy(out->supers + 2 * LANES + 4 * lane, &high, 4);
    for (uint32_t j = 0; j < 4; j++) {
        out->scales[j * LANES + lane] = (uint8_t)((s[2 * j] & 15) | (s[2 * j + 1] & 15) << 4);
        out->scales[(4 + j) * LANES + lane] = (uint8_t)(s[2 * j] >> 4 | (s[2 * j + 1] & 0xf0));
    }
}

static void tile_q3_k(const uint8_t *b, size_t row_bytes, const struct packed_group *out) {
    put_halves(b + 108, row_bytes, out->supers);
    for (uint32_t lane = 0; lane < LANES; lane++) put_scales_q3(b + lane * row_bytes + 96, lane, out);
    put_bits(b, row_bytes, out->high);
    for (uint32_t n = 0; n < 2; n++)
        put_fields(b + 32 + 32 * n, row_bytes, out->quants + n * sizeof(lanes[8]));
}

/* One file block of 16 rows, into the planes at that block. */
static void (*const tiles[N_FORMATS])(const uint8_t *, size_t, const struct packed_group *) = {
    [FORMAT_Q8_0] = tile_q8_0, [FORMAT_Q4_0] = tile_q4_0, [FORMAT_Q4_1] = tile_q4_1,
    [FORMAT_Q5_0] = tile_q5_0, [FORMAT_Q5_1] = tile_q5_1, [FORMAT_Q2_K] = tile_q2_k,
    [FORMAT_Q3_K] = tile_q3_k, [FORMAT_Q4_K] = tile_q4_k, [FORMAT_Q5_K] = tile_q5_k,
    [FORMAT_Q6_K] = tile_q6_k,
};

/* Blocks of whole file blocks, from `block` on; returns the first that it left. */
static uint32_t pack_tiles(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                           uint32_t block_first, uint32_t block, const struct packed_group *out) {
    const struct packed_info *info = packed_info(l->format);
    uint32_t per = format_info(l->format)->block_values / PACKED_BLOCK;
    for (; block + per <= l->n_blocks; block += per) {
        size_t at = (size_t)LANES * block, super = (size_t)LANES * ((l->super_first + block) / 8);
        struct packed_group here = {out->quants + at * info->quant_bytes, out->high + at * info->high_bytes,
                                    out->scales + at * info->scale_bytes,
                                    out->supers + super * info->super_bytes};
        tiles[l->format](rows + (size_t)((block_first + block) / per) * format_info(l->format)->block_bytes,
                         row_bytes, &here);
    }
    return block;
}

#define DENSE_WORDS 16 /* 64 bytes of a row at a time */

/* Two columns of halves. */
static inline void put_two_halves(const lanes w, uint16_t *restrict out) {
    uint32_t word[LANES];
    memcpy(word, w, sizeof word);
    for (uint32_t lane = 0; lane < LANES; lane++) out[lane] = (uint16_t)word[lane];
    for (uint32_t lane = 0; lane < LANES; lane++) out[LANES + lane] = (uint16_t)(word[lane] >> 16);
}

/* Columns [0, returned) of 16 rows. */
static uint32_t dense_tiles(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                            uint8_t *out) {
    uint32_t item = packed_info(l->format)->quant_bytes, step = DENSE_WORDS * 4 / item, c = 0;
    for (; c + step <= l->cols; c += step) {
        lanes w[DENSE_WORDS];
        const uint8_t *from = rows + (size_t)c * item;
        uint8_t *to = out + (size_t)c * LANES * item;
        get_words(from, row_bytes, DENSE_WORDS / 4, item == 4 ? (lanes *)(void *)to : w);
        for (uint32_t j = 0; item == 2 && j < DENSE_WORDS; j++)
            put_two_halves(w[j], (uint16_t *)(void *)(to + j * sizeof *w));
    }
    return c;
}

static void pack_dense(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                       uint32_t n_rows, uint8_t *out) {
    uint32_t item = packed_info(l->format)->quant_bytes;
    uint32_t c = n_rows == LANES ? dense_tiles(l, rows, row_bytes, out) : 0;
    for (; c < l->cols; c++)
        for (uint32_t lane = 0; lane < n_rows; lane++)
            memcpy(out + ((size_t)c * LANES + lane) * item,
                   rows + lane * row_bytes + (size_t)c * item, item);
}

void pack_group(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                uint32_t n_rows, uint32_t block_first, const struct packed_group *out) {
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
    uint32_t per = format_info(l->format)->block_values / PACKED_BLOCK, done = 0;
    if (n_rows == LANES) {
        uint32_t head = (per - block_first % per) % per; /* of a file block that the slice cuts */
        if (head > l->n_blocks) head = l->n_blocks;
        pack_codes(l, rows, row_bytes, n_rows, block_first, 0, head, out);
        done = pack_tiles(l, rows, row_bytes, block_first, head, out);
    }
    pack_codes(l, rows, row_bytes, n_rows, block_first, done, l->n_blocks, out);
}
