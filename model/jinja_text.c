/* Values as text: Python's str() and repr(), and JSON as json.dumps writes it. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "model/jinja_run.h"

/* ---- numbers ---- */

void jinja_write_float(double f, char *text, size_t n_room) {
    if (isnan(f) || isinf(f)) {
        snprintf(text, n_room, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char e[40], digits[24];
    int n_digits = 14; /* behind the first */
    do snprintf(e, sizeof e, "%.*e", n_digits, f);
    while (strtod(e, NULL) != f && n_digits++ < 16);
    const char *s = e + (*e == '-');
    int power = atoi(strchr(e, 'e') + 1), n = 0;
    for (; *s != 'e'; s++)
        if (*s != '.') digits[n++] = *s;
    while (n > 1 && digits[n - 1] == '0') n--;
    const char *sign = *e == '-' ? "-" : "";
    if (power < -4 || power >= 16)
        snprintf(text, n_room, "%s%c%s%.*se%c%02d", sign, digits[0], n > 1 ? "." : "", n - 1, digits + 1,
                 power < 0 ? '-' : '+', abs(power));
    else if (power < 0)
        snprintf(text, n_room, "%s0.%.*s%.*s", sign, -power - 1, "000", n, digits);
    else if (n <= power + 1)
        snprintf(text, n_room, "%s%.*s%.*s.0", sign, n, digits, power + 1 - n, "0000000000000000");
    else
        snprintf(text, n_room, "%s%.*s.%.*s", sign, power + 1, digits, n - power - 1, digits + power + 1);
}

static err write_number(struct jinja_value v, struct bytes *out) {
    char text[48];
    if (v.kind == JINJA_FLOAT) jinja_write_float(v.f, text, sizeof text);
    else snprintf(text, sizeof text, "%" PRId64, v.i);
    return bytes_append_str(out, text);
}

/* ---- str() and repr() ---- */

static int is_printable(uint32_t code) {
    if (code == ' ') return 1;
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return c != UTF8PROC_CATEGORY_CN && (c < UTF8PROC_CATEGORY_ZS || c > UTF8PROC_CATEGORY_CO);
}

static err write_quoted(struct jinja_run *r, struct jinja_value v, struct bytes *out) {
    char quote = v.n && memchr(v.s, '\'', v.n) && !memchr(v.s, '"', v.n) ? '"' : '\'';
    TRY(jinja_spend(r, v.n / 16));
    TRY(bytes_append(out, &quote, 1));
    for (size_t i = 0; i < v.n; i += jinja_char_bytes(v.s + i)) {
        uint32_t code = jinja_char_code(v.s + i);
        if (code == '\n') TRY(bytes_append_str(out, "\\n"));
        else if (code == '\r') TRY(bytes_append_str(out, "\\r"));
        else if (code == '\t') TRY(bytes_append_str(out, "\\t"));
        else if (code == '\\' || code == (uint8_t)quote) TRY(bytes_printf(out, "\\%c", (int)code));
        else if (is_printable(code)) TRY(bytes_append(out, v.s + i, jinja_char_bytes(v.s + i)));
        else TRY(bytes_printf(out, code < 256 ? "\\x%02x" : code < 65536 ? "\\u%04x" : "\\U%08x", code));
    }
    return bytes_append(out, &quote, 1);
}

static err write_list(struct jinja_run *r, struct jinja_value v, const char *begin, const char *end,
                      struct bytes *out) {
    TRY(bytes_append_str(out, begin));
    for (uint32_t i = 0; i < v.list->n; i++) {
        if (i) TRY(bytes_append_str(out, ", "));
        TRY(jinja_write_repr(r, v.list->items[i], out));
    }
    if (v.kind == JINJA_TUPLE && v.list->n == 1) TRY(bytes_append_str(out, ","));
    return bytes_append_str(out, end);
}

static err write_dict(struct jinja_run *r, struct jinja_value v, struct bytes *out) {
    if (v.kind == JINJA_NAMESPACE) TRY(bytes_append_str(out, "<Namespace "));
    TRY(bytes_append_str(out, "{"));
    for (uint32_t i = 0; i < v.dict->n; i++) {
        if (i) TRY(bytes_append_str(out, ", "));
        TRY(jinja_write_repr(r, v.dict->pairs[i].key, out));
        TRY(bytes_append_str(out, ": "));
        TRY(jinja_write_repr(r, v.dict->pairs[i].value, out));
    }
    return bytes_append_str(out, v.kind == JINJA_NAMESPACE ? "}>" : "}");
}

static err write_compound(struct jinja_run *r, struct jinja_value v, struct bytes *out) {
    switch (v.kind) {
    case JINJA_LIST: return write_list(r, v, "[", "]", out);
    case JINJA_TUPLE: return write_list(r, v, "(", ")", out);
    case JINJA_DICT:
    case JINJA_NAMESPACE: return write_dict(r, v, out);
    default:
        return jinja_fail(r, "a %s has no text; |list makes one of what can be walked through", jinja_type_name(v));
    }
}

err jinja_write_repr(struct jinja_run *r, struct jinja_value v, struct bytes *out) {
    if (out->len > JINJA_OUTPUT_BYTES) return jinja_fail(r, "a text of more than %zu MiB", JINJA_OUTPUT_BYTES >> 20);
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED: return bytes_append_str(out, "Undefined");
    case JINJA_NONE: return bytes_append_str(out, "None");
    case JINJA_BOOL: return bytes_append_str(out, v.i ? "True" : "False");
    case JINJA_INT:
    case JINJA_FLOAT: return write_number(v, out);
    case JINJA_STRING: return write_quoted(r, v, out);
    default: break;
    }
    TRY(jinja_enter(r));
    err e = write_compound(r, v, out);
    jinja_leave(r);
    return e;
}

err jinja_write(struct jinja_run *r, struct jinja_value v, struct bytes *out) {
    if (v.kind == JINJA_UNDEFINED) return OK;
    if (v.kind != JINJA_STRING) return jinja_write_repr(r, v, out);
    if (out->len + v.n > JINJA_OUTPUT_BYTES)
        return jinja_fail(r, "a text of more than %zu MiB", JINJA_OUTPUT_BYTES >> 20);
    TRY(jinja_spend(r, v.n / 32));
    return bytes_append(out, v.s, v.n);
}

err jinja_text(struct jinja_run *r, struct jinja_value v, struct jinja_value *out) {
    struct bytes b = {0};
    *out = v;
    if (v.kind == JINJA_STRING) return OK;
    err e = jinja_write(r, v, &b);
    return jinja_take_bytes(r, &b, e, out);
}

/* ---- JSON ---- */

static err write_json_escape(uint32_t code, struct bytes *out) {
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *simple = code < 0x80 ? strchr(from, (int)code) : NULL;
    if (simple && *simple) return bytes_printf(out, "\\%c", to[simple - from]);
    if (code < 0x10000) return bytes_printf(out, "\\u%04x", code);
    code -= 0x10000;
    return bytes_printf(out, "\\u%04x\\u%04x", 0xD800 | code >> 10, 0xDC00 | (code & 0x3FF));
}

static err write_json_text(struct jinja_run *r, struct jinja_value v, int is_ascii, struct bytes *out) {
    TRY(jinja_spend(r, v.n / 16));
    TRY(bytes_append_str(out, "\""));
    size_t plain = 0, i = 0;
    for (; i < v.n; i += jinja_char_bytes(v.s + i)) {
        uint8_t c = (uint8_t)v.s[i];
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x80 || !is_ascii)) continue;
        TRY(bytes_append(out, v.s + plain, i - plain));
        TRY(write_json_escape(jinja_char_code(v.s + i), out));
        plain = i + jinja_char_bytes(v.s + i);
    }
    if (v.n > plain) TRY(bytes_append(out, v.s + plain, v.n - plain));
    return bytes_append_str(out, "\"");
}

struct json_writer {
    struct jinja_run *r;
    const struct jinja_json_style *style;
    struct bytes *out;
    unsigned level;
};

static err write_json(struct json_writer *w, struct jinja_value v);

static err json_line(struct json_writer *w) {
    if (w->style->indent.kind == JINJA_MISSING) return OK;
    TRY(bytes_append_str(w->out, "\n"));
    for (unsigned i = 0; i < w->level; i++) TRY(jinja_write(w->r, w->style->indent, w->out));
    return OK;
}

static err json_list(struct json_writer *w, struct jinja_value v) {
    if (v.list->n == 0) return bytes_append_str(w->out, "[]");
    TRY(bytes_append_str(w->out, "["));
    w->level++;
    for (uint32_t i = 0; i < v.list->n; i++) {
        if (i) TRY(jinja_write(w->r, w->style->item_separator, w->out));
        TRY(json_line(w));
        TRY(write_json(w, v.list->items[i]));
    }
    w->level--;
    TRY(json_line(w));
    return bytes_append_str(w->out, "]");
}

/* Keys become strings: 1 is "1", true is "true". */
static err json_key(struct json_writer *w, struct jinja_value key) {
    if (key.kind == JINJA_STRING) return write_json(w, key);
    if (!jinja_is_number(key) && key.kind != JINJA_NONE)
        return jinja_fail(w->r, "a %s cannot be a key in JSON", jinja_type_name(key));
    TRY(bytes_append_str(w->out, "\""));
    TRY(write_json(w, key));
    return bytes_append_str(w->out, "\"");
}

/* The pairs in the order they are to be written. */
static err sorted_pairs(struct json_writer *w, const struct jinja_dict *d, struct jinja_pair **out) {
    void *copy;
    *out = d->pairs;
    if (!w->style->is_sorted) return OK;
    TRY(jinja_arena_take(&w->r->arena, d->n * sizeof **out, &copy));
    *out = copy;
    for (uint32_t i = 0; i < d->n; i++) {
        uint32_t at = i;
        for (int before; at > 0; at--) {
            TRY(jinja_order(w->r, d->pairs[i].key, (*out)[at - 1].key, "<", &before));
            if (before >= 0) break;
            (*out)[at] = (*out)[at - 1];
        }
        (*out)[at] = d->pairs[i];
    }
    return OK;
}

static err json_dict(struct json_writer *w, struct jinja_value v) {
    struct jinja_pair *pairs;
    if (v.dict->n == 0) return bytes_append_str(w->out, "{}");
    TRY(sorted_pairs(w, v.dict, &pairs));
    TRY(bytes_append_str(w->out, "{"));
    w->level++;
    for (uint32_t i = 0; i < v.dict->n; i++) {
        if (i) TRY(jinja_write(w->r, w->style->item_separator, w->out));
        TRY(json_line(w));
        TRY(json_key(w, pairs[i].key));
        TRY(jinja_write(w->r, w->style->key_separator, w->out));
        TRY(write_json(w, pairs[i].value));
    }
    w->level--;
    TRY(json_line(w));
    return bytes_append_str(w->out, "}");
}

static err write_json(struct json_writer *w, struct jinja_value v) {
    if (w->out->len > JINJA_OUTPUT_BYTES)
        return jinja_fail(w->r, "a text of more than %zu MiB", JINJA_OUTPUT_BYTES >> 20);
    TRY(jinja_spend(w->r, 1));
    switch (v.kind) {
    case JINJA_NONE: return bytes_append_str(w->out, "null");
    case JINJA_BOOL: return bytes_append_str(w->out, v.i ? "true" : "false");
    case JINJA_INT: return write_number(v, w->out);
    case JINJA_FLOAT:
        if (isnan(v.f)) return bytes_append_str(w->out, "NaN");
        if (isinf(v.f)) return bytes_append_str(w->out, v.f < 0 ? "-Infinity" : "Infinity");
        return write_number(v, w->out);
    case JINJA_STRING: return write_json_text(w->r, v, w->style->is_ascii, w->out);
    default: break;
    }
    if (v.kind != JINJA_LIST && v.kind != JINJA_TUPLE && v.kind != JINJA_DICT)
        return jinja_fail(w->r, "a %s cannot be written as JSON", jinja_type_name(v));
    TRY(jinja_enter(w->r));
    err e = v.kind == JINJA_DICT ? json_dict(w, v) : json_list(w, v);
    jinja_leave(w->r);
    return e;
}

err jinja_write_json(struct jinja_run *r, const struct jinja_json_style *style, struct jinja_value v,
                     struct bytes *out) {
    struct json_writer w = {r, style, out, 0};
    return write_json(&w, v);
}
