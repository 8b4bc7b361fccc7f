/* UTF-8: one character at a time, and what is wrong with bytes that are none.
 *
 * Source: Unicode 15, table 3-7 (well-formed sequences) and section 3.9 (one
 * U+FFFD for each maximal part of an ill-formed sequence). */
#ifndef BASE_UTF8_H
#define BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

enum utf8_state {
    UTF8_CHAR,      /* a character */
    UTF8_INVALID,   /* bytes that no continuation can make a character */
    UTF8_INCOMPLETE /* the text ends inside a character */
};

/* What stands at `p` (n > 0): its state, its length in bytes (1..4, at most n)
 * and, for a character, its code point. */
enum utf8_state utf8_next(const uint8_t *p, size_t n, size_t *len,
                          uint32_t *code);

/* Whether all of it is characters. */
int utf8_is_valid(const uint8_t *p, size_t n);

/* Writes a code point (at most 0x10FFFF) to `dst` (4 bytes); returns the length. */
size_t utf8_write(uint32_t code, uint8_t *dst);

/* U+FFFD, for what was no character. */
#define UTF8_REPLACEMENT "\xEF\xBF\xBD"

#endif
