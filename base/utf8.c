#include "base/utf8.h"

/* The bytes that may follow a lead byte, and how many. */
static int lead_needs(uint8_t lead, uint8_t *second_min, uint8_t *second_max) {
    *second_min = 0x80;
    *second_max = 0xBF;
    if (lead < 0x80) return 0;
    if (lead < 0xC2) return -1;
    if (lead < 0xE0) return 1;
    if (lead < 0xF0) {
        if (lead == 0xE0) *second_min = 0xA0; /* shorter forms exist */
        if (lead == 0xED) *second_max = 0x9F; /* surrogates */
        return 2;
    }
    if (lead > 0xF4) return -1;
    if (lead == 0xF0) *second_min = 0x90;
    if (lead == 0xF4) *second_max = 0x8F; /* over U+10FFFF */
    return 3;
}

enum utf8_state utf8_next(const uint8_t *p, size_t n, size_t *len,
                          uint32_t *code) {
    uint8_t min, max;
    int follow = lead_needs(p[0], &min, &max);
    *len = 1;
    *code = p[0];
    if (follow < 0) return UTF8_INVALID;
    if (follow == 0) return UTF8_CHAR;
    *code = p[0] & (0x3Fu >> follow);
    for (int i = 1; i <= follow; i++) {
        if (*len == n) return UTF8_INCOMPLETE;
        uint8_t byte = p[i];
        if (byte < (i == 1 ? min : 0x80) || byte > (i == 1 ? max : 0xBF))
            return UTF8_INVALID;
        *code = *code << 6 | (byte & 0x3Fu);
        *len += 1;
    }
    return UTF8_CHAR;
}

int utf8_is_valid(const uint8_t *p, size_t n) {
    size_t len;
    uint32_t code;
    for (size_t i = 0; i < n; i += len)
        if (utf8_next(p + i, n - i, &len, &code) != UTF8_CHAR) return 0;
    return 1;
}

size_t utf8_write(uint32_t code, uint8_t *dst) {
    if (code < 0x80) {
        dst[0] = (uint8_t)code;
        return 1;
    }
    size_t n = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n - 1; i > 0; i--) {
        dst[i] = (uint8_t)(0x80 | (code & 0x3F));
        code >>= 6;
    }
    dst[0] = (uint8_t)((0xF00u >> n & 0xF0) | code);
    return n;
}
