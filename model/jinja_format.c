/* "%-5s of %03d" % (a, b) and "{} of {name:>5}".format(a, name=b), as Python formats. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "model/jinja_run.h"

#define WIDTH_MAX 10000

/* How one value is laid out: both notations come down to this. */
struct layout {
    char fill[5];
    char align; /* < > ^ = or 0: as the type has it */
    char sign;  /* + space or 0 */
    char grouping;
    int is_alternate;
    int width, precision; /* precision -1: none */
    char type;
};

/* Python's text of a number, without width. */
static err write_number(struct jinja_run *r, const struct layout *l, struct jinja_value v, char *text, size_t room) {
    char pattern[32], type = l->type;
    const char *sign = l->sign == '+' ? "+" : l->sign == ' ' ? " " : "";
    if (l->precision > 300) return jinja_fail(r, "a precision of %d is too much", l->precision);
    if (strchr("di", type)) {
        snprintf(pattern, sizeof pattern, "%%%s.*" PRId64, sign);
        snprintf(text, room, pattern, l->precision > 0 ? l->precision : 1, v.i);
    } else if (strchr("xXo", type)) {
        uint64_t u = v.i < 0 ? 0 - (uint64_t)v.i : (uint64_t)v.i;
        char prefix[] = {'0', type, 0};
        snprintf(pattern, sizeof pattern, "%%s%%s%%%s", type == 'x' ? PRIx64 : type == 'X' ? PRIX64 : PRIo64);
        snprintf(text, room, pattern, v.i < 0 ? "-" : sign, l->is_alternate ? prefix : "", u);
    } else {
        snprintf(pattern, sizeof pattern, "%%%s.*%c", sign, type);
        snprintf(text, room, pattern, l->precision < 0 ? 6 : l->precision, jinja_number(v));
    }
    return OK;
}

/* A comma between thousands. */
static void group_digits(char *text, size_t room, char comma) {
    size_t begin = strspn(text, "+- "), n = strspn(text + begin, "0123456789"), length = strlen(text);
    for (size_t at = begin + n; at > begin + 3 && length + 2 < room; length++) {
        at -= 3;
        memmove(text + at + 1, text + at, length - at + 1);
        text[at] = comma;
    }
}

static err fill(struct bytes *out, const struct layout *l, size_t n) {
    for (; n > 0; n--) TRY(bytes_append_str(out, *l->fill ? l->fill : " "));
    return OK;
}

/* `s` in its width. */
static err write_padded(const struct layout *l, const char *s, size_t n, char align, struct bytes *out) {
    size_t chars = jinja_count_chars(s, n);
    size_t room = l->width > 0 && (size_t)l->width > chars ? (size_t)l->width - chars : 0;
    size_t left = align == '>' ? room : align == '^' ? room / 2 : 0;
    size_t n_sign = align == '=' ? strspn(s, "+- ") : 0;
    if (align == '=') left = room;
    TRY(bytes_append(out, s, n_sign));
    TRY(fill(out, l, left));
    TRY(bytes_append(out, s + n_sign, n - n_sign));
    return fill(out, l, room - left);
}

static err write_laid_out(struct jinja_run *r, const struct layout *l, struct jinja_value v, struct bytes *out) {
    char text[800];
    TRY(jinja_spend(r, 1 + (size_t)l->width / 16));
    if (l->type == 's') {
        size_t n = l->precision < 0 ? v.n : jinja_char_offset(v.s, v.n, (size_t)l->precision);
        if (out->len + n > JINJA_OUTPUT_BYTES)
            return jinja_fail(r, "a text of more than %zu MiB", JINJA_OUTPUT_BYTES >> 20);
        return write_padded(l, v.s, n, l->align ? l->align : '<', out);
    }
    TRY(write_number(r, l, v, text, sizeof text));
    if (l->grouping) group_digits(text, sizeof text, l->grouping);
    return write_padded(l, text, strlen(text), l->align ? l->align : '>', out);
}

static int read_int(const char **s, const char *end) {
    int n = 0;
    for (; *s < end && **s >= '0' && **s <= '9'; ++*s)
        if (n <= WIDTH_MAX) n = n * 10 + (**s - '0');
    return n;
}

/* ---- percent ---- */

struct percent {
    struct jinja_value values;
    uint32_t n_used;
    int is_named;
};

static err next_value(struct jinja_run *r, struct percent *p, struct jinja_value *out) {
    int is_tuple = p->values.kind == JINJA_TUPLE;
    if (p->n_used >= (is_tuple ? p->values.list->n : 1))
        return jinja_fail(r, "there are fewer values than the format has places");
    *out = is_tuple ? p->values.list->items[p->n_used] : p->values;
    p->n_used++;
    return OK;
}

static err named_value(struct jinja_run *r, struct percent *p, const char **s, const char *end,
                       struct jinja_value *out) {
    const char *close = memchr(*s, ')', (size_t)(end - *s));
    const struct jinja_value *found;
    if (!close || p->values.kind != JINJA_DICT) return jinja_fail(r, "%%(name) needs a closing ) and a dict of values");
    TRY(jinja_find(r, p->values, jinja_string(*s + 1, (size_t)(close - *s - 1)), &found));
    if (!found) return jinja_fail(r, "there is no value for %%%.*s", (int)(close - *s + 1), *s);
    *out = *found;
    *s = close + 1;
    p->is_named = 1;
    return OK;
}

/* A number as the type wants it: %d of 2.5 is 2. */
static err to_number(struct jinja_run *r, char type, struct jinja_value *v) {
    if (v->kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, *v);
    if (!jinja_is_number(*v)) return jinja_fail(r, "%%%c needs a number, not a %s", type, jinja_type_name(*v));
    if (!strchr("dixXo", type) || v->kind != JINJA_FLOAT) return OK;
    if (strchr("xXo", type) || !(v->f > -9.2e18 && v->f < 9.2e18))
        return jinja_fail(r, "%%%c needs a whole number", type);
    *v = jinja_int((int64_t)v->f);
    return OK;
}

static err percent_value(struct jinja_run *r, struct layout *l, struct jinja_value v, struct bytes *out) {
    switch (l->type) {
    case 's': TRY(jinja_text(r, v, &v)); break;
    case 'r':
    case 'a': {
        struct bytes b = {0};
        err e = jinja_write_repr(r, v, &b);
        TRY(jinja_take_bytes(r, &b, e, &v));
        l->type = 's';
        break;
    }
    case 'c': return jinja_fail(r, "%%c is not supported");
    case 'u': l->type = 'd'; /* fall through */
    default:
        if (!strchr("dixXoeEfFgG", l->type) || !l->type) return jinja_fail(r, "unknown format %%%c", l->type);
        TRY(to_number(r, l->type, &v));
    }
    if (l->type == 's' && l->align == '=') l->align = '>', l->fill[0] = ' ';
    if (!l->align) l->align = '>';
    return write_laid_out(r, l, v, out);
}

/* One place; *s is behind the %. */
static err percent_place(struct jinja_run *r, struct percent *p, const char **s, const char *end, struct bytes *out) {
    struct layout l = {.precision = -1};
    struct jinja_value v = JINJA_MISSING_VALUE, n;
    if (*s < end && **s == '(') TRY(named_value(r, p, s, end, &v));
    for (; *s < end && strchr("-+ 0#", **s) && **s; ++*s) {
        if (**s == '-') l.align = '<';
        else if (**s == '0' && l.align != '<') l.align = '=', l.fill[0] = '0';
        else if (**s == '+' || (**s == ' ' && !l.sign)) l.sign = **s;
        else if (**s == '#') l.is_alternate = 1;
    }
    if (l.align == '<') l.fill[0] = 0;
    for (int i = 0; i < 2; i++) { /* width, then precision */
        int64_t value;
        if (i == 1 && (*s == end || **s != '.')) break;
        *s += i;
        if (*s < end && **s == '*') {
            TRY(next_value(r, p, &n));
            TRY(jinja_want_int(r, n, "a width", 0, &value));
            ++*s;
        } else {
            value = read_int(s, end);
        }
        if (value < 0 || value > WIDTH_MAX) return jinja_fail(r, "a width of more than %d", WIDTH_MAX);
        *(i ? &l.precision : &l.width) = (int)value;
    }
    if (*s == end) return jinja_fail(r, "the format ends behind a %%");
    l.type = *(*s)++;
    if (l.type == '%') return bytes_append_str(out, "%");
    if (v.kind == JINJA_MISSING) TRY(next_value(r, p, &v));
    return percent_value(r, &l, v, out);
}

static err write_percent(struct jinja_run *r, struct jinja_value format, struct percent *p, struct bytes *out) {
    const char *s = format.s, *end = s + format.n;
    while (s < end) {
        const char *place = memchr(s, '%', (size_t)(end - s));
        TRY(jinja_write(r, jinja_string(s, (size_t)((place ? place : end) - s)), out));
        if (!place) break;
        s = place + 1;
        TRY(percent_place(r, p, &s, end, out));
    }
    int is_mapping = p->values.kind == JINJA_DICT || p->values.kind == JINJA_LIST || p->values.kind == JINJA_RANGE ||
                     p->values.kind == JINJA_UNDEFINED; /* what has items need not be used */
    uint32_t n_values = p->values.kind == JINJA_TUPLE ? p->values.list->n : !is_mapping;
    if (!p->is_named && p->n_used < n_values) return jinja_fail(r, "there are more values than the format has places");
    return OK;
}

err jinja_format_percent(struct jinja_run *r, struct jinja_value format, struct jinja_value values,
                         struct jinja_value *out) {
    struct percent p = {.values = values};
    struct bytes b = {0};
    err e = write_percent(r, format, &p, &b);
    return jinja_take_bytes(r, &b, e, out);
}

/* ---- braces ---- */

struct braces {
    const struct jinja_args *args;
    uint32_t n_automatic;
    int has_numbers;
};

/* The value that a place names: "", "0", "name", with .attribute and [item] behind it. */
static err field_value(struct jinja_run *r, struct braces *b, const char *s, const char *end, struct jinja_value *out) {
    size_t n = 0;
    while (s + n < end && s[n] != '.' && s[n] != '[') n++;
    int64_t index = -1;
    if (n == 0) {
        index = b->n_automatic++;
    } else if (*s >= '0' && *s <= '9') {
        const char *digits = s;
        index = read_int(&digits, s + n);
        b->has_numbers = 1;
    }
    if (b->has_numbers && b->n_automatic) return jinja_fail(r, "a format has places with and without numbers");
    *out = JINJA_MISSING_VALUE;
    if (index >= 0 && index < b->args->n) *out = b->args->values[index];
    for (uint32_t i = 0; i < b->args->n_keywords && index < 0; i++)
        if (b->args->keywords[i].key.n == n && memcmp(b->args->keywords[i].key.s, s, n) == 0)
            *out = b->args->keywords[i].value;
    if (out->kind == JINJA_MISSING) return jinja_fail(r, "there is no value for {%.*s}", (int)n, s);
    for (s += n; s < end; s += n) {
        int is_item = *s++ == '[';
        for (n = 0; s + n < end && (is_item ? s[n] != ']' : s[n] != '.' && s[n] != '[');) n++;
        if (n == 0 || (is_item && s + n == end)) return jinja_fail(r, "a format names nothing behind . or [");
        struct jinja_value name = jinja_string(s, n);
        const char *digits = s;
        if (is_item && *s >= '0' && *s <= '9') name = jinja_int(read_int(&digits, s + n));
        TRY(is_item ? jinja_item(r, *out, name, out) : jinja_attribute(r, *out, name, out));
        n += (size_t)is_item;
    }
    return OK;
}

/* [[fill]align][sign][#][0][width][,][.precision][type] */
static err read_layout(struct jinja_run *r, const char *s, const char *end, struct layout *l) {
    *l = (struct layout){.precision = -1};
    size_t n = s < end ? jinja_char_bytes(s) : 0;
    if (s + n < end && n && strchr("<>^=", s[n]) && s[n]) {
        memcpy(l->fill, s, n);
        l->align = s[n];
        s += n + 1;
    } else if (s < end && strchr("<>^=", *s) && *s) {
        l->align = *s++;
    }
    if (s < end && (*s == '+' || *s == ' ' || *s == '-')) l->sign = *s++;
    if (s < end && *s == '#') l->is_alternate = 1, s++;
    if (s < end && *s == '0') {
        if (!l->fill[0]) l->fill[0] = '0';
        if (!l->align) l->align = '=';
        s++;
    }
    l->width = read_int(&s, end);
    if (s < end && (*s == ',' || *s == '_')) l->grouping = *s++;
    if (s < end && *s == '.') {
        s++;
        l->precision = read_int(&s, end);
    }
    if (s < end) l->type = *s++;
    if (s != end || l->width > WIDTH_MAX || l->precision > WIDTH_MAX)
        return jinja_fail(r, "a format that is not known");
    return OK;
}

static err write_field(struct jinja_run *r, const char *spec, const char *end, struct jinja_value v,
                       struct bytes *out) {
    struct layout l;
    char text[48];
    TRY(read_layout(r, spec, end, &l));
    int is_number = jinja_is_number(v) && !(v.kind == JINJA_BOOL && spec == end);
    if (!is_number || spec == end) {
        if (l.type && l.type != 's')
            return jinja_fail(r, "format '%c' needs a number, not a %s", l.type, jinja_type_name(v));
        if (spec != end && v.kind != JINJA_STRING) return jinja_fail(r, "a %s cannot be laid out", jinja_type_name(v));
        if (l.align == '=' || l.sign || l.grouping) return jinja_fail(r, "a str has no sign and no thousands");
        TRY(jinja_text(r, v, &v));
        l.type = 's';
    } else if (l.type == '%') {
        l.type = 'f';
        struct bytes b = {0};
        err e = write_number(r, &l, jinja_float(100 * jinja_number(v)), text, sizeof text);
        if (e == OK) e = bytes_printf(&b, "%s%%", text);
        TRY(jinja_take_bytes(r, &b, e, &v));
        l.type = 's';
        l.precision = -1;
        if (!l.align) l.align = '>';
    } else if (!l.type && v.kind == JINJA_FLOAT && l.precision < 0) {
        jinja_write_float(v.f, text, sizeof text);
        TRY(jinja_new_text(r, text, strlen(text), &v));
        l.type = 's';
        if (!l.align) l.align = '>';
    } else {
        if (!l.type || l.type == 'n') l.type = v.kind == JINJA_FLOAT ? 'g' : 'd';
        if (!strchr("dxXoeEfFgG", l.type)) return jinja_fail(r, "unknown format '%c'", l.type);
        if (strchr("dxXo", l.type) && v.kind == JINJA_FLOAT)
            return jinja_fail(r, "format '%c' needs a whole number", l.type);
    }
    return write_laid_out(r, &l, v, out);
}

/* One place, between its braces. */
static err braces_place(struct jinja_run *r, struct braces *b, const char *s, const char *end, struct bytes *out) {
    const char *name_end = s;
    struct jinja_value v;
    while (name_end < end && *name_end != '!' && *name_end != ':') name_end++;
    TRY(field_value(r, b, s, name_end, &v));
    if (name_end < end && *name_end == '!') {
        if (name_end + 1 == end) return jinja_fail(r, "a format ends behind !");
        struct bytes text = {0};
        err e = name_end[1] == 's' ? jinja_write(r, v, &text) : jinja_write_repr(r, v, &text);
        TRY(jinja_take_bytes(r, &text, e, &v));
        name_end += 2;
    }
    if (name_end < end && *name_end != ':') return jinja_fail(r, "a format that is not known");
    const char *spec = name_end < end ? name_end + 1 : end;
    return write_field(r, spec, end, v, out);
}

static err write_braces(struct jinja_run *r, struct jinja_value format, struct braces *b, struct bytes *out) {
    const char *s = format.s, *end = s + format.n;
    while (s < end) {
        size_t n = 0;
        while (s + n < end && s[n] != '{' && s[n] != '}') n++;
        TRY(jinja_write(r, jinja_string(s, n), out));
        s += n;
        if (s == end) break;
        if (s + 1 < end && s[1] == *s) { /* {{ is { */
            TRY(bytes_append(out, s, 1));
            s += 2;
            continue;
        }
        const char *close = *s == '{' ? memchr(s, '}', (size_t)(end - s)) : NULL;
        if (!close) return jinja_fail(r, "a format has a single %c", *s);
        if (memchr(s + 1, '{', (size_t)(close - s - 1))) return jinja_fail(r, "places inside places are not supported");
        TRY(braces_place(r, b, s + 1, close, out));
        s = close + 1;
    }
    return OK;
}

err jinja_format_braces(struct jinja_run *r, struct jinja_value format, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct braces b = {.args = a};
    struct bytes text = {0};
    err e = write_braces(r, format, &b, &text);
    return jinja_take_bytes(r, &text, e, out);
}
