/* What Python's str can do, on UTF-8. */
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "model/jinja_run.h"

static uint32_t to_case(uint32_t code, int is_upper) {
    utf8proc_int32_t c = (utf8proc_int32_t)code;
    return (uint32_t)(is_upper ? utf8proc_toupper(c) : utf8proc_tolower(c));
}

static int is_cased(uint32_t code) {
    return to_case(code, 0) != to_case(code, 1);
}

/* One code point in the other case. The only letter whose capital is two, and that is at all common, is written out. */
static err append_case(struct bytes *out, uint32_t code, int is_upper, int is_title) {
    uint8_t s[4];
    if (code == 0xDF && is_upper) return bytes_append_str(out, is_title ? "Ss" : "SS");
    uint32_t to = is_upper && is_title ? (uint32_t)utf8proc_totitle((utf8proc_int32_t)code) : to_case(code, is_upper);
    return bytes_append(out, s, utf8_write(to, s));
}

err jinja_recase(struct jinja_run *r, struct jinja_value s, enum jinja_case to, struct jinja_value *out) {
    struct bytes b = {0};
    int is_in_word = 0;
    err e = jinja_spend(r, s.n / 16);
    for (size_t i = 0; i < s.n && e == OK; i += jinja_char_bytes(s.s + i)) {
        uint32_t code = jinja_char_code(s.s + i);
        int is_first = to == JINJA_CAPITALIZE ? i == 0 : !is_in_word;
        int is_upper = to == JINJA_UPPER || (to >= JINJA_CAPITALIZE && is_first);
        e = append_case(&b, code, is_upper, to != JINJA_UPPER);
        is_in_word = is_cased(code);
    }
    return jinja_take_bytes(r, &b, e, out);
}

/* ---- ends ---- */

static int is_stripped(const char *c, struct jinja_value chars) {
    if (chars.kind != JINJA_STRING) return jinja_is_space(jinja_char_code(c));
    return jinja_find_text(chars, jinja_string(c, jinja_char_bytes(c)), 0) >= 0;
}

err jinja_strip(struct jinja_run *r, struct jinja_value s, struct jinja_value chars, int sides,
                struct jinja_value *out) {
    size_t begin = 0, end = s.n;
    TRY(jinja_spend(r, s.n / 64));
    if (chars.kind != JINJA_MISSING && chars.kind != JINJA_NONE)
        TRY(jinja_want_string(r, chars, "characters to strip"));
    while ((sides & JINJA_LEFT) && begin < end && is_stripped(s.s + begin, chars))
        begin += jinja_char_bytes(s.s + begin);
    while ((sides & JINJA_RIGHT) && end > begin) {
        size_t at = end - 1;
        while (((uint8_t)s.s[at] & 0xC0) == 0x80) at--;
        if (!is_stripped(s.s + at, chars)) break;
        end = at;
    }
    *out = jinja_string(s.s + begin, end - begin);
    out->is_safe = s.is_safe;
    return OK;
}

/* ---- parts ---- */

int64_t jinja_find_text(struct jinja_value s, struct jinja_value part, size_t from) {
    if (from > s.n) return -1;
    if (part.n == 0) return (int64_t)from;
    const char *p = memmem(s.s + from, s.n - from, part.s, part.n);
    return p ? p - s.s : -1;
}

static err append_bounded(struct jinja_run *r, struct bytes *b, const char *s, size_t n) {
    if (b->len + n > JINJA_OUTPUT_BYTES)
        return jinja_fail(r, "a text of more than %zu MiB", JINJA_OUTPUT_BYTES >> 20);
    return n ? bytes_append(b, s, n) : OK;
}

err jinja_replace(struct jinja_run *r, struct jinja_value s, struct jinja_value old, struct jinja_value new,
                  int64_t count, struct jinja_value *out) {
    struct bytes b = {0};
    size_t at = 0;
    err e = jinja_spend(r, s.n / 32);
    for (int64_t done = 0; e == OK && (count < 0 || done < count); done++) {
        int64_t found = jinja_find_text(s, old, at);
        if (old.n == 0 && done > 0) { /* between all characters */
            if (at >= s.n) break;
            found = (int64_t)(at + jinja_char_bytes(s.s + at));
        }
        if (found < 0) break;
        e = append_bounded(r, &b, s.s + at, (size_t)found - at);
        if (e == OK) e = append_bounded(r, &b, new.s, new.n);
        if (e == OK) e = jinja_spend(r, 1);
        at = (size_t)found + old.n;
    }
    if (e == OK) e = append_bounded(r, &b, s.s + at, s.n - at);
    return jinja_take_bytes(r, &b, e, out);
}

err jinja_escape(struct jinja_run *r, struct jinja_value s, struct jinja_value *out) {
    static const char *const entities[][2] = {
        {"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"'", "&#39;"}, {"\"", "&#34;"}};
    *out = s;
    if (s.is_safe) return OK;
    for (size_t i = 0; i < sizeof entities / sizeof *entities; i++)
        TRY(jinja_replace(r, *out, jinja_literal(entities[i][0]), jinja_literal(entities[i][1]), -1, out));
    out->is_safe = 1;
    return OK;
}

static int is_line_end(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

err jinja_split_lines(struct jinja_run *r, struct jinja_value s, int keeps_ends, struct jinja_value *out) {
    TRY(jinja_new_list(r, JINJA_LIST, 0, out));
    TRY(jinja_spend(r, s.n / 32));
    size_t begin = 0;
    for (size_t i = 0; i < s.n;) {
        uint32_t code = jinja_char_code(s.s + i);
        size_t end = i;
        i += jinja_char_bytes(s.s + i);
        if (!is_line_end(code)) continue;
        if (code == '\r' && i < s.n && s.s[i] == '\n') i++;
        TRY(jinja_push(r, *out, jinja_string(s.s + begin, (keeps_ends ? i : end) - begin)));
        begin = i;
    }
    return begin < s.n ? jinja_push(r, *out, jinja_string(s.s + begin, s.n - begin)) : OK;
}
