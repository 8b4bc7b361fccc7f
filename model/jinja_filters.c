/* Filters of texts, numbers and JSON, and the table of all filters. */
#include "model/jinja_filters.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"

/* ---- texts ---- */

static err filter_string(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    TRY(jinja_bind(r, a, "string", "", NULL));
    return jinja_text(r, self, out);
}

static err recased(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, enum jinja_case to,
                   struct jinja_value *out) {
    struct jinja_value text;
    TRY(jinja_bind(r, a, "this filter", "", NULL));
    TRY(jinja_text(r, self, &text));
    return jinja_recase(r, text, to, out);
}

static err filter_upper(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    return recased(r, self, a, JINJA_UPPER, out);
}

static err filter_lower(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    return recased(r, self, a, JINJA_LOWER, out);
}

static err filter_capitalize(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                             struct jinja_value *out) {
    return recased(r, self, a, JINJA_CAPITALIZE, out);
}

/* Unlike the method: a word begins behind a space or one of -({[< only. */
static err filter_title(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_value text, part;
    struct bytes b = {0};
    int is_first = 1;
    TRY(jinja_bind(r, a, "title", "", NULL));
    TRY(jinja_text(r, self, &text));
    err e = OK;
    for (size_t i = 0, n; i < text.n && e == OK; i += n) {
        n = jinja_char_bytes(text.s + i);
        e = jinja_recase(r, jinja_string(text.s + i, n), is_first ? JINJA_UPPER : JINJA_LOWER, &part);
        if (e == OK) e = bytes_append(&b, part.s, part.n);
        is_first = jinja_is_space(jinja_char_code(text.s + i)) || strchr("-({[<", text.s[i]) != NULL;
    }
    return jinja_take_bytes(r, &b, e, out);
}

static err filter_trim(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_value chars, text;
    TRY(jinja_bind(r, a, "trim", "chars?", &chars));
    TRY(jinja_text(r, self, &text));
    return jinja_strip(r, text, chars, JINJA_LEFT | JINJA_RIGHT, out);
}

static err filter_replace(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                          struct jinja_value *out) {
    struct jinja_value v[3], text;
    int64_t count;
    TRY(jinja_bind(r, a, "replace", "old new count?", v));
    TRY(jinja_text(r, self, &text));
    TRY(jinja_text(r, v[0], &v[0]));
    TRY(jinja_text(r, v[1], &v[1]));
    TRY(jinja_want_int(r, v[2], "count", -1, &count));
    return jinja_replace(r, text, v[0], v[1], count, out);
}

static err filter_escape(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    TRY(jinja_bind(r, a, "escape", "", NULL));
    TRY(jinja_text(r, self, out));
    return jinja_escape(r, *out, out);
}

static err filter_forceescape(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                              struct jinja_value *out) {
    self.is_safe = 0;
    return filter_escape(r, self, a, out);
}

static err filter_safe(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    TRY(filter_string(r, self, a, out));
    out->is_safe = 1;
    return OK;
}

static err filter_indent(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    struct jinja_value v[3], lines, indent;
    TRY(jinja_bind(r, a, "indent", "width? first? blank?", v));
    TRY(jinja_want_string(r, self, "what is indented"));
    if (v[0].kind == JINJA_MISSING) v[0] = jinja_int(4);
    if (v[0].kind == JINJA_STRING) indent = v[0];
    else TRY(jinja_binary(r, '*', jinja_literal(" "), v[0], &indent));
    TRY(jinja_join(r, self, jinja_literal("\n"), &self));
    TRY(jinja_split_lines(r, self, 0, &lines));
    struct bytes b = {0};
    err e = OK;
    for (uint32_t i = 0; i < lines.list->n && e == OK; i++) {
        struct jinja_value line = lines.list->items[i];
        int is_indented = i == 0 ? jinja_is_true(v[1]) : line.n > 0 || jinja_is_true(v[2]);
        if (i) e = bytes_append_str(&b, "\n");
        if (is_indented && e == OK) e = jinja_write(r, indent, &b);
        if (e == OK) e = jinja_write(r, line, &b);
    }
    return jinja_take_bytes(r, &b, e, out);
}

static err filter_center(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    struct jinja_value width, text;
    struct jinja_method center = {.builtin = NULL};
    TRY(jinja_bind(r, a, "center", "width?", &width));
    TRY(jinja_text(r, self, &text));
    if (width.kind == JINJA_MISSING) width = jinja_int(80);
    center.builtin = jinja_method_find(text, "center", 6);
    return center.builtin->call(r, text, &(struct jinja_args){.values = &width, .n = 1}, out);
}

static err filter_truncate(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                           struct jinja_value *out) {
    struct jinja_value v[4];
    int64_t length, leeway, n;
    TRY(jinja_bind(r, a, "truncate", "length? killwords? end? leeway?", v));
    TRY(jinja_want_string(r, self, "what is truncated"));
    TRY(jinja_want_int(r, v[0], "length", 255, &length));
    TRY(jinja_want_int(r, v[3], "leeway", 5, &leeway));
    if (v[2].kind == JINJA_MISSING) v[2] = jinja_literal("...");
    TRY(jinja_want_string(r, v[2], "end"));
    TRY(jinja_length(r, self, &n));
    int64_t n_end = (int64_t)jinja_count_chars(v[2].s, v[2].n);
    if (length < n_end || leeway < 0)
        return jinja_fail(r, "truncate to %lld characters is too short", (long long)length);
    *out = self;
    if (n - length <= leeway) return OK;
    size_t end = jinja_char_offset(self.s, self.n, (size_t)(length - n_end));
    const char *space = end && !jinja_is_true(v[1]) ? memrchr(self.s, ' ', end) : NULL;
    return jinja_join(r, jinja_string(self.s, space ? (size_t)(space - self.s) : end), v[2], out);
}

static err filter_wordcount(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                            struct jinja_value *out) {
    struct jinja_value text, is_word;
    int64_t n = 0;
    int is_in_word = 0;
    TRY(jinja_bind(r, a, "wordcount", "", NULL));
    TRY(jinja_text(r, self, &text));
    TRY(jinja_spend(r, text.n));
    for (size_t i = 0; i < text.n; i += jinja_char_bytes(text.s + i)) {
        struct jinja_value c = jinja_string(text.s + i, jinja_char_bytes(text.s + i));
        const struct jinja_builtin *isalnum = jinja_method_find(c, "isalnum", 7);
        TRY(isalnum->call(r, c, &(struct jinja_args){0}, &is_word));
        int is_now = jinja_is_true(is_word) || *c.s == '_';
        n += is_now && !is_in_word;
        is_in_word = is_now;
    }
    *out = jinja_int(n);
    return OK;
}

static err filter_format(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    struct jinja_value format, values;
    TRY(jinja_text(r, self, &format));
    if (a->n && a->n_keywords) return jinja_fail(r, "format takes values or names, not both");
    if (a->n_keywords) {
        TRY(jinja_new_dict(r, JINJA_DICT, 0, &values));
        for (uint32_t i = 0; i < a->n_keywords; i++)
            TRY(jinja_put(r, values, a->keywords[i].key, a->keywords[i].value));
    } else {
        TRY(jinja_new_list(r, JINJA_TUPLE, 0, &values));
        for (uint32_t i = 0; i < a->n; i++) TRY(jinja_push(r, values, a->values[i]));
    }
    return jinja_format_percent(r, format, values, out);
}

/* ---- numbers ---- */

/* The whole of a text as a number, spaces around it and single _ between digits aside. */
static int read_number(struct jinja_value v, int base, struct jinja_value *out) {
    char text[80], *end;
    size_t n = 0, begin = 0, stop = v.n;
    while (begin < stop && jinja_is_space((uint8_t)v.s[begin])) begin++;
    while (stop > begin && jinja_is_space((uint8_t)v.s[stop - 1])) stop--;
    if (stop == begin || stop - begin >= sizeof text) return 0;
    for (size_t i = begin; i < stop; i++) {
        int is_between = i > begin && i + 1 < stop && v.s[i - 1] != '_' && v.s[i + 1] != '_';
        if (v.s[i] != '_') text[n++] = v.s[i];
        else if (!is_between) return 0;
    }
    text[n] = 0;
    if (base == 0) {
        if (strpbrk(text, "xXpP(")) return 0; /* strtod reads more than Python */
        *out = jinja_float(strtod(text, &end));
        return *end == 0 && end != text;
    }
    errno = 0;
    *out = jinja_int(strtoll(text, &end, base));
    return *end == 0 && end != text && errno == 0;
}

static err float_to_int(struct jinja_run *r, double f, struct jinja_value fallback, struct jinja_value *out) {
    if (isnan(f) || isinf(f)) {
        *out = fallback;
        return OK;
    }
    if (fabs(f) >= 9223372036854775808.0) return jinja_fail(r, "a whole number needs more than 64 bits");
    *out = jinja_int((int64_t)f);
    return OK;
}

static err filter_int(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                      struct jinja_value *out) {
    struct jinja_value v[2], f;
    int64_t base;
    TRY(jinja_bind(r, a, "int", "default? base?", v));
    TRY(jinja_want_int(r, v[1], "base", 10, &base));
    if (base < 2 || base > 36) return jinja_fail(r, "base must be 2 to 36");
    if (v[0].kind == JINJA_MISSING) v[0] = jinja_int(0);
    if (self.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, self);
    *out = v[0];
    if (jinja_is_whole(self)) *out = jinja_int(self.i);
    else if (self.kind == JINJA_FLOAT) return float_to_int(r, self.f, v[0], out);
    else if (self.kind == JINJA_STRING && !read_number(self, (int)base, out)) {
        *out = v[0];
        if (read_number(self, 0, &f)) return float_to_int(r, f.f, v[0], out);
    }
    return OK;
}

static err filter_float(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_value fallback;
    TRY(jinja_bind(r, a, "float", "default?", &fallback));
    if (fallback.kind == JINJA_MISSING) fallback = jinja_float(0);
    if (self.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, self);
    if (jinja_is_number(self)) *out = jinja_float(jinja_number(self));
    else if (self.kind != JINJA_STRING || !read_number(self, 0, out)) *out = fallback;
    return OK;
}

static err filter_abs(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                      struct jinja_value *out) {
    TRY(jinja_bind(r, a, "abs", "", NULL));
    int is_negative = jinja_is_number(self) && (self.kind == JINJA_FLOAT ? signbit(self.f) != 0 : self.i < 0);
    return jinja_negative(r, self, is_negative ? -1 : 1, out);
}

/* To `n` decimal places, halves of the exact value to even; printf rounds the same way. */
static double rounded(double f, int64_t n) {
    char text[400];
    if (n >= 0) {
        snprintf(text, sizeof text, "%.*f", n > 40 ? 40 : (int)n, f);
        return strtod(text, NULL);
    }
    double scale = pow(10, (double)-n);
    return isinf(scale) ? 0 * f : nearbyint(f / scale) * scale;
}

static err filter_round(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_value v[2];
    int64_t n;
    TRY(jinja_bind(r, a, "round", "precision? method?", v));
    TRY(jinja_want_int(r, v[0], "precision", 0, &n));
    if (v[1].kind == JINJA_MISSING) v[1] = jinja_literal("common");
    int is_ceil = jinja_equals_text(v[1], "ceil"), is_floor = jinja_equals_text(v[1], "floor");
    if (!is_ceil && !is_floor && !jinja_equals_text(v[1], "common"))
        return jinja_fail(r, "round takes the methods common, ceil and floor");
    if (self.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, self);
    if (!jinja_is_number(self)) return jinja_fail(r, "a %s cannot be rounded", jinja_type_name(self));
    double f = jinja_number(self), scale = pow(10, (double)n);
    if (is_ceil || is_floor) *out = jinja_float((is_ceil ? ceil(f * scale) : floor(f * scale)) / scale);
    else if (self.kind == JINJA_FLOAT) *out = jinja_float(isinf(f) || isnan(f) ? f : rounded(f, n));
    else *out = jinja_int(n >= 0 ? self.i : (int64_t)rounded(f, n));
    return OK;
}

/* ---- any value ---- */

static err filter_default(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                          struct jinja_value *out) {
    struct jinja_value v[2];
    TRY(jinja_bind(r, a, "default", "default_value? boolean?", v));
    if (v[0].kind == JINJA_MISSING) v[0] = jinja_literal("");
    int is_replaced = self.kind == JINJA_UNDEFINED || (jinja_is_true(v[1]) && !jinja_is_true(self));
    *out = is_replaced ? v[0] : self;
    return OK;
}

static err filter_attr(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_value name;
    TRY(jinja_bind(r, a, "attr", "name", &name));
    TRY(jinja_want_string(r, name, "name"));
    if (self.kind != JINJA_DICT) return jinja_attribute(r, self, name, out);
    *out = jinja_hint("a dict has no attributes but its methods"); /* attr does not look for keys */
    return jinja_method_find(self, name.s, name.n) ? jinja_attribute(r, self, name, out) : OK;
}

static err separators_of(struct jinja_run *r, struct jinja_value v, struct jinja_json_style *style) {
    struct jinja_list *two;
    if (v.kind == JINJA_MISSING || v.kind == JINJA_NONE) return OK;
    TRY(jinja_iterate(r, v, &two));
    if (two->n != 2) return jinja_fail(r, "separators must be two texts");
    TRY(jinja_want_string(r, two->items[0], "a separator"));
    TRY(jinja_want_string(r, two->items[1], "a separator"));
    style->item_separator = two->items[0];
    style->key_separator = two->items[1];
    return OK;
}

static err filter_tojson(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    struct jinja_value v[4];
    struct jinja_json_style style = {.key_separator = jinja_literal(": ")};
    TRY(jinja_bind(r, a, "tojson", "ensure_ascii? indent? separators? sort_keys?", v));
    if (v[1].kind == JINJA_STRING) style.indent = v[1];
    else if (v[1].kind != JINJA_MISSING && v[1].kind != JINJA_NONE)
        TRY(jinja_binary(r, '*', jinja_literal(" "), v[1], &style.indent));
    style.item_separator = jinja_literal(style.indent.kind == JINJA_MISSING ? ", " : ",");
    TRY(separators_of(r, v[2], &style));
    style.is_ascii = jinja_is_true(v[0]);
    style.is_sorted = jinja_is_true(v[3]);
    struct bytes b = {0};
    err e = jinja_write_json(r, &style, self, &b);
    return jinja_take_bytes(r, &b, e, out);
}

const struct jinja_builtin *jinja_builtin_find(const struct jinja_builtin *table, const char *name, size_t n) {
    for (; table->name; table++)
        if (strlen(table->name) == n && memcmp(table->name, name, n) == 0) return table;
    return NULL;
}

const struct jinja_builtin *jinja_filter_find(const char *name, size_t n) {
    static const struct jinja_builtin table[] = {
        {"abs", filter_abs},
        {"attr", filter_attr},
        {"capitalize", filter_capitalize},
        {"center", filter_center},
        {"d", filter_default},
        {"default", filter_default},
        {"e", filter_escape},
        {"escape", filter_escape},
        {"float", filter_float},
        {"forceescape", filter_forceescape},
        {"format", filter_format},
        {"indent", filter_indent},
        {"int", filter_int},
        {"lower", filter_lower},
        {"replace", filter_replace},
        {"round", filter_round},
        {"safe", filter_safe},
        {"string", filter_string},
        {"title", filter_title},
        {"tojson", filter_tojson},
        {"trim", filter_trim},
        {"truncate", filter_truncate},
        {"upper", filter_upper},
        {"wordcount", filter_wordcount},
        {NULL, NULL},
    };
    const struct jinja_builtin *found = jinja_builtin_find(table, name, n);
    return found ? found : jinja_builtin_find(jinja_list_filters, name, n);
}
