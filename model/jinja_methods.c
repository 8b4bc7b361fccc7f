/* Methods of str, dict, list and loops. */
#include <string.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "model/jinja_run.h"

/* The signature that all methods share. */
#define METHOD(name)                                                                                                   \
    static err name(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, struct jinja_value *out)

/* ---- str: case and ends ---- */

METHOD(str_upper) {
    TRY(jinja_bind(r, a, "upper", "", NULL));
    return jinja_recase(r, self, JINJA_UPPER, out);
}

METHOD(str_lower) {
    TRY(jinja_bind(r, a, "lower", "", NULL));
    return jinja_recase(r, self, JINJA_LOWER, out);
}

METHOD(str_capitalize) {
    TRY(jinja_bind(r, a, "capitalize", "", NULL));
    return jinja_recase(r, self, JINJA_CAPITALIZE, out);
}

METHOD(str_title) {
    TRY(jinja_bind(r, a, "title", "", NULL));
    return jinja_recase(r, self, JINJA_TITLE, out);
}

METHOD(str_strip) {
    struct jinja_value chars;
    TRY(jinja_bind(r, a, "strip", "chars?", &chars));
    return jinja_strip(r, self, chars, JINJA_LEFT | JINJA_RIGHT, out);
}

METHOD(str_lstrip) {
    struct jinja_value chars;
    TRY(jinja_bind(r, a, "lstrip", "chars?", &chars));
    return jinja_strip(r, self, chars, JINJA_LEFT, out);
}

METHOD(str_rstrip) {
    struct jinja_value chars;
    TRY(jinja_bind(r, a, "rstrip", "chars?", &chars));
    return jinja_strip(r, self, chars, JINJA_RIGHT, out);
}

static int has_end(struct jinja_value s, struct jinja_value end, int is_suffix) {
    return end.n <= s.n && (end.n == 0 || memcmp(s.s + (is_suffix ? s.n - end.n : 0), end.s, end.n) == 0);
}

METHOD(str_removeprefix) {
    struct jinja_value prefix;
    TRY(jinja_bind(r, a, "removeprefix", "prefix", &prefix));
    TRY(jinja_want_string(r, prefix, "prefix"));
    size_t n = has_end(self, prefix, 0) ? prefix.n : 0;
    *out = jinja_string(self.s + n, self.n - n);
    return OK;
}

METHOD(str_removesuffix) {
    struct jinja_value suffix;
    TRY(jinja_bind(r, a, "removesuffix", "suffix", &suffix));
    TRY(jinja_want_string(r, suffix, "suffix"));
    *out = jinja_string(self.s, self.n - (has_end(self, suffix, 1) ? suffix.n : 0));
    return OK;
}

/* self[start:end], and at which byte of self it begins. */
static err part_of(struct jinja_run *r, struct jinja_value self, const struct jinja_value bounds[2],
                   struct jinja_value *part, int *is_beyond) {
    struct jinja_value b[3] = {bounds[0], bounds[1], JINJA_NONE_VALUE};
    int64_t n, begin;
    for (int i = 0; i < 2; i++)
        if (b[i].kind == JINJA_MISSING) b[i] = JINJA_NONE_VALUE;
    *part = self;
    *is_beyond = 0;
    if (b[0].kind == JINJA_NONE && b[1].kind == JINJA_NONE) return OK;
    TRY(jinja_length(r, self, &n));
    TRY(jinja_want_int(r, b[0], "start", 0, &begin));
    *is_beyond = begin > n; /* not even an empty text is found there */
    return jinja_slice(r, self, b, part);
}

static err has_one_end(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int is_suffix,
                       struct jinja_value *out) {
    struct jinja_value v[3], part;
    int is_beyond, holds = 0;
    TRY(jinja_bind(r, a, is_suffix ? "endswith" : "startswith", "text start? end?", v));
    TRY(part_of(r, self, v + 1, &part, &is_beyond));
    if (v[0].kind == JINJA_TUPLE) {
        for (uint32_t i = 0; i < v[0].list->n; i++) {
            TRY(jinja_want_string(r, v[0].list->items[i], "what a str begins or ends with"));
            holds |= has_end(part, v[0].list->items[i], is_suffix);
        }
    } else {
        TRY(jinja_want_string(r, v[0], "what a str begins or ends with"));
        holds = has_end(part, v[0], is_suffix);
    }
    *out = jinja_bool(holds && !is_beyond);
    return OK;
}

METHOD(str_startswith) { return has_one_end(r, self, a, 0, out); }
METHOD(str_endswith) { return has_one_end(r, self, a, 1, out); }

/* ---- str: finding and replacing ---- */

static int64_t find_last(struct jinja_value s, struct jinja_value part) {
    for (int64_t at = (int64_t)s.n - part.n; at >= 0; at--)
        if (part.n == 0 || memcmp(s.s + at, part.s, part.n) == 0) return at;
    return -1;
}

/* In characters, or -1. */
static err find(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int is_last, int64_t *out) {
    struct jinja_value v[3], part;
    int is_beyond;
    TRY(jinja_bind(r, a, "find", "sub start? end?", v));
    TRY(jinja_want_string(r, v[0], "what is looked for"));
    TRY(part_of(r, self, v + 1, &part, &is_beyond));
    TRY(jinja_spend(r, part.n / 16 + (is_last ? part.n : 0)));
    int64_t at = is_last ? find_last(part, v[0]) : jinja_find_text(part, v[0], 0);
    *out = is_beyond || at < 0 ? -1 : (int64_t)jinja_count_chars(self.s, (size_t)(part.s - self.s + at));
    return OK;
}

METHOD(str_find) {
    int64_t at;
    TRY(find(r, self, a, 0, &at));
    *out = jinja_int(at);
    return OK;
}

METHOD(str_rfind) {
    int64_t at;
    TRY(find(r, self, a, 1, &at));
    *out = jinja_int(at);
    return OK;
}

METHOD(str_index) {
    TRY(str_find(r, self, a, out));
    return out->i >= 0 ? OK : jinja_fail(r, "index: the text is not there");
}

METHOD(str_rindex) {
    TRY(str_rfind(r, self, a, out));
    return out->i >= 0 ? OK : jinja_fail(r, "rindex: the text is not there");
}

METHOD(str_count) {
    struct jinja_value v[3], part;
    int64_t n = 0;
    int is_beyond;
    TRY(jinja_bind(r, a, "count", "sub start? end?", v));
    TRY(jinja_want_string(r, v[0], "what is counted"));
    TRY(part_of(r, self, v + 1, &part, &is_beyond));
    TRY(jinja_spend(r, part.n / 16));
    if (v[0].n == 0) n = (int64_t)jinja_count_chars(part.s, part.n) + 1;
    else
        for (int64_t at = 0; (at = jinja_find_text(part, v[0], (size_t)at)) >= 0; at += v[0].n) n++;
    *out = jinja_int(is_beyond ? 0 : n);
    return OK;
}

METHOD(str_replace) {
    struct jinja_value v[3];
    int64_t count;
    TRY(jinja_bind(r, a, "replace", "old new count?", v));
    TRY(jinja_want_string(r, v[0], "what is replaced"));
    TRY(jinja_want_string(r, v[1], "what replaces"));
    TRY(jinja_want_int(r, v[2], "count", -1, &count));
    return jinja_replace(r, self, v[0], v[1], count, out);
}

/* ---- str: splitting and joining ---- */

/* The next run of characters that are no space, at or after *at; n is 0 where there is none. */
static struct jinja_value next_word(struct jinja_value s, size_t *at) {
    while (*at < s.n && jinja_is_space(jinja_char_code(s.s + *at))) *at += jinja_char_bytes(s.s + *at);
    size_t begin = *at;
    while (*at < s.n && !jinja_is_space(jinja_char_code(s.s + *at))) *at += jinja_char_bytes(s.s + *at);
    return jinja_string(s.s + begin, *at - begin);
}

static err split_words(struct jinja_run *r, struct jinja_value s, int64_t limit, struct jinja_value *out) {
    size_t at = 0;
    for (int64_t n = 0;; n++) {
        size_t before = at;
        struct jinja_value word = next_word(s, &at);
        if (word.n == 0) return OK;
        if (limit < 0 || n < limit) {
            TRY(jinja_push(r, *out, word));
            continue;
        }
        struct jinja_value rest = jinja_string(s.s + before, s.n - before); /* what is left keeps its spaces inside */
        TRY(jinja_strip(r, rest, JINJA_NONE_VALUE, JINJA_LEFT, &rest));
        return jinja_push(r, *out, rest);
    }
}

static err split_at(struct jinja_run *r, struct jinja_value s, struct jinja_value separator, int64_t limit,
                    struct jinja_value *out) {
    size_t at = 0;
    for (int64_t n = 0; limit < 0 || n < limit; n++) {
        int64_t found = jinja_find_text(s, separator, at);
        if (found < 0) break;
        TRY(jinja_push(r, *out, jinja_string(s.s + at, (size_t)found - at)));
        at = (size_t)found + separator.n;
    }
    return jinja_push(r, *out, jinja_string(s.s + at, s.n - at));
}

static void reverse(struct jinja_list *l) {
    for (uint32_t i = 0; i < l->n / 2; i++) {
        struct jinja_value swap = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = swap;
    }
}

/* From the right: the last `limit` words or parts, then what is before them. */
static err split_right(struct jinja_run *r, struct jinja_value s, struct jinja_value separator, int64_t limit,
                       struct jinja_value *out) {
    for (int64_t n = 0; n < limit; n++) {
        if (separator.kind != JINJA_STRING) {
            TRY(jinja_strip(r, s, JINJA_NONE_VALUE, JINJA_RIGHT, &s));
            size_t at = s.n;
            while (at > 0) {
                size_t before = at - 1;
                while (((uint8_t)s.s[before] & 0xC0) == 0x80) before--;
                if (jinja_is_space(jinja_char_code(s.s + before))) break;
                at = before;
            }
            if (s.n == 0) break;
            TRY(jinja_push(r, *out, jinja_string(s.s + at, s.n - at)));
            s.n = (uint32_t)at;
            continue;
        }
        int64_t found = find_last(s, separator);
        if (found < 0) break;
        TRY(jinja_spend(r, s.n / 16));
        TRY(jinja_push(r, *out, jinja_string(s.s + found + separator.n, s.n - (size_t)found - separator.n)));
        s.n = (uint32_t)found;
    }
    if (separator.kind != JINJA_STRING) TRY(jinja_strip(r, s, JINJA_NONE_VALUE, JINJA_RIGHT, &s));
    if (separator.kind == JINJA_STRING || s.n) TRY(jinja_push(r, *out, s));
    reverse(out->list);
    return OK;
}

static err split(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int is_right,
                 struct jinja_value *out) {
    struct jinja_value v[2];
    int64_t limit;
    TRY(jinja_bind(r, a, is_right ? "rsplit" : "split", "sep? maxsplit?", v));
    TRY(jinja_want_int(r, v[1], "maxsplit", -1, &limit));
    int is_words = v[0].kind == JINJA_MISSING || v[0].kind == JINJA_NONE;
    if (!is_words) TRY(jinja_want_string(r, v[0], "separator"));
    if (!is_words && v[0].n == 0) return jinja_fail(r, "the separator is empty");
    TRY(jinja_spend(r, self.n / 16));
    TRY(jinja_new_list(r, JINJA_LIST, 0, out));
    if (is_right && limit >= 0) return split_right(r, self, is_words ? JINJA_NONE_VALUE : v[0], limit, out);
    return is_words ? split_words(r, self, limit, out) : split_at(r, self, v[0], limit, out);
}

METHOD(str_split) { return split(r, self, a, 0, out); }
METHOD(str_rsplit) { return split(r, self, a, 1, out); }

METHOD(str_splitlines) {
    struct jinja_value keeps_ends;
    TRY(jinja_bind(r, a, "splitlines", "keepends?", &keeps_ends));
    return jinja_split_lines(r, self, jinja_is_true(keeps_ends), out);
}

/* (before, separator, after); all in the first, or last, where the separator is not there. */
static err partition(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int is_right,
                     struct jinja_value *out) {
    struct jinja_value separator, empty = jinja_literal("");
    TRY(jinja_bind(r, a, "partition", "sep", &separator));
    TRY(jinja_want_string(r, separator, "separator"));
    if (separator.n == 0) return jinja_fail(r, "the separator is empty");
    TRY(jinja_spend(r, self.n));
    int64_t at = is_right ? find_last(self, separator) : jinja_find_text(self, separator, 0);
    size_t begin = at < 0 ? (is_right ? 0 : self.n) : (size_t)at, end = at < 0 ? begin : begin + separator.n;
    TRY(jinja_new_list(r, JINJA_TUPLE, 3, out));
    TRY(jinja_push(r, *out, jinja_string(self.s, begin)));
    TRY(jinja_push(r, *out, at < 0 ? empty : separator));
    return jinja_push(r, *out, jinja_string(self.s + end, self.n - end));
}

METHOD(str_partition) { return partition(r, self, a, 0, out); }
METHOD(str_rpartition) { return partition(r, self, a, 1, out); }

METHOD(str_join) {
    struct jinja_value items;
    struct jinja_list *list;
    TRY(jinja_bind(r, a, "join", "iterable", &items));
    TRY(jinja_iterate(r, items, &list));
    struct bytes b = {0};
    err e = OK;
    for (uint32_t i = 0; i < list->n && e == OK; i++) {
        if (i) e = jinja_write(r, self, &b);
        if (e == OK) e = jinja_want_string(r, list->items[i], "each item that join takes");
        if (e == OK) e = jinja_write(r, list->items[i], &b);
    }
    return jinja_take_bytes(r, &b, e, out);
}

METHOD(str_format) { return jinja_format_braces(r, self, a, out); }

/* ---- str: width ---- */

static err padded(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int is_left, int is_right,
                  struct jinja_value *out) {
    struct jinja_value v[2], left, right;
    int64_t width, n;
    TRY(jinja_bind(r, a, "center, ljust or rjust", "width fillchar?", v));
    TRY(jinja_want_int(r, v[0], "width", 0, &width));
    if (v[1].kind == JINJA_MISSING) v[1] = jinja_literal(" ");
    TRY(jinja_want_string(r, v[1], "fillchar"));
    if (jinja_count_chars(v[1].s, v[1].n) != 1) return jinja_fail(r, "fillchar must be one character");
    TRY(jinja_length(r, self, &n));
    int64_t total = width > n ? width - n : 0;
    /* Python's center puts the odd one on the left of a text of odd width */
    int64_t n_left = is_left && is_right ? total / 2 + (total & width & 1) : is_left ? total : 0;
    TRY(jinja_binary(r, '*', v[1], jinja_int(n_left), &left));
    TRY(jinja_binary(r, '*', v[1], jinja_int(total - n_left), &right));
    TRY(jinja_join(r, left, self, out));
    return jinja_join(r, *out, right, out);
}

METHOD(str_center) { return padded(r, self, a, 1, 1, out); }
METHOD(str_ljust) { return padded(r, self, a, 0, 1, out); }
METHOD(str_rjust) { return padded(r, self, a, 1, 0, out); }

METHOD(str_zfill) {
    struct jinja_value width, zeros, sign;
    int64_t n, n_wanted;
    TRY(jinja_bind(r, a, "zfill", "width", &width));
    TRY(jinja_want_int(r, width, "width", 0, &n_wanted));
    TRY(jinja_length(r, self, &n));
    TRY(jinja_binary(r, '*', jinja_literal("0"), jinja_int(n_wanted > n ? n_wanted - n : 0), &zeros));
    sign = jinja_string(self.s, self.n && (*self.s == '-' || *self.s == '+'));
    TRY(jinja_join(r, sign, zeros, out));
    return jinja_join(r, *out, jinja_string(self.s + sign.n, self.n - sign.n), out);
}

/* ---- str: what it consists of ---- */

enum char_class {
    IS_ALPHA = 1, IS_DECIMAL = 2, IS_NUMERIC = 4, IS_BLANK = 8, IS_ASCII = 16, IS_LOWER = 32, IS_UPPER = 64
};

static int classes_of(uint32_t code) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    int classes = code < 0x80 ? IS_ASCII : 0;
    if (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) classes |= IS_ALPHA;
    if (c == UTF8PROC_CATEGORY_ND) classes |= IS_DECIMAL;
    if (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO) classes |= IS_NUMERIC;
    if (jinja_is_space(code)) classes |= IS_BLANK;
    if (c == UTF8PROC_CATEGORY_LL) classes |= IS_LOWER;
    if (c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LT) classes |= IS_UPPER;
    return classes;
}

/* Whether every character is of one of `classes`, and there is one. */
static err consists_of(struct jinja_run *r, struct jinja_value s, const struct jinja_args *a, int classes,
                       struct jinja_value *out) {
    int holds = s.n > 0 || classes == IS_ASCII;
    TRY(jinja_bind(r, a, "this method", "", NULL));
    TRY(jinja_spend(r, s.n / 8));
    for (size_t i = 0; i < s.n && holds; i += jinja_char_bytes(s.s + i))
        holds = (classes_of(jinja_char_code(s.s + i)) & classes) != 0;
    *out = jinja_bool(holds);
    return OK;
}

/* Whether some character is of the class and none of the other case. */
static err is_of_case(struct jinja_run *r, struct jinja_value s, const struct jinja_args *a, int wanted,
                      struct jinja_value *out) {
    int seen = 0;
    TRY(jinja_bind(r, a, "this method", "", NULL));
    TRY(jinja_spend(r, s.n / 8));
    for (size_t i = 0; i < s.n; i += jinja_char_bytes(s.s + i)) seen |= classes_of(jinja_char_code(s.s + i));
    *out = jinja_bool((seen & (IS_LOWER | IS_UPPER)) == wanted);
    return OK;
}

METHOD(str_isalpha) { return consists_of(r, self, a, IS_ALPHA, out); }
METHOD(str_isalnum) { return consists_of(r, self, a, IS_ALPHA | IS_NUMERIC, out); }
METHOD(str_isdecimal) { return consists_of(r, self, a, IS_DECIMAL, out); }
METHOD(str_isnumeric) { return consists_of(r, self, a, IS_NUMERIC, out); }
METHOD(str_isspace) { return consists_of(r, self, a, IS_BLANK, out); }
METHOD(str_isascii) { return consists_of(r, self, a, IS_ASCII, out); }
METHOD(str_islower) { return is_of_case(r, self, a, IS_LOWER, out); }
METHOD(str_isupper) { return is_of_case(r, self, a, IS_UPPER, out); }

/* ---- dict ---- */

METHOD(dict_get) {
    struct jinja_value v[2];
    const struct jinja_value *found;
    TRY(jinja_bind(r, a, "get", "key default?", v));
    TRY(jinja_require_hashable(r, v[0]));
    TRY(jinja_find(r, self, v[0], &found));
    *out = found ? *found : v[1].kind == JINJA_MISSING ? JINJA_NONE_VALUE : v[1];
    return OK;
}

enum view { KEYS, VALUES, ITEMS };

static err view_of(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, enum view view,
                   struct jinja_value *out) {
    TRY(jinja_bind(r, a, "keys, values or items", "", NULL));
    TRY(jinja_new_list(r, JINJA_VIEW, self.dict->n, out));
    for (uint32_t i = 0; i < self.dict->n; i++) {
        struct jinja_pair pair = self.dict->pairs[i];
        struct jinja_value item = view == KEYS ? pair.key : pair.value;
        if (view == ITEMS) TRY(jinja_new_pair(r, pair.key, pair.value, &item));
        TRY(jinja_push(r, *out, item));
    }
    return OK;
}

METHOD(dict_keys) { return view_of(r, self, a, KEYS, out); }
METHOD(dict_values) { return view_of(r, self, a, VALUES, out); }
METHOD(dict_items) { return view_of(r, self, a, ITEMS, out); }

/* Lists and dicts never change: a copy is the thing itself. */
METHOD(copy) {
    TRY(jinja_bind(r, a, "copy", "", NULL));
    *out = self;
    return OK;
}

/* ---- list ---- */

METHOD(list_count) {
    struct jinja_value v;
    int64_t n = 0;
    TRY(jinja_bind(r, a, "count", "value", &v));
    TRY(jinja_spend(r, self.list->n));
    for (uint32_t i = 0; i < self.list->n; i++) {
        int is_equal;
        TRY(jinja_equal(r, self.list->items[i], v, &is_equal));
        n += is_equal;
    }
    *out = jinja_int(n);
    return OK;
}

METHOD(list_index) {
    struct jinja_value v[3];
    int64_t begin, end, n = self.list->n;
    TRY(jinja_bind(r, a, "index", "value start? stop?", v));
    TRY(jinja_spend(r, self.list->n));
    TRY(jinja_want_int(r, v[1], "start", 0, &begin));
    TRY(jinja_want_int(r, v[2], "stop", n, &end));
    if (begin < 0) begin = begin < -n ? 0 : begin + n;
    if (end < 0) end += n;
    for (int64_t i = begin; i < end && i < n; i++) {
        int is_equal;
        TRY(jinja_equal(r, self.list->items[i], v[0], &is_equal));
        *out = jinja_int(i);
        if (is_equal) return OK;
    }
    return jinja_fail(r, "index: the value is not in the list");
}

/* ---- loop ---- */

METHOD(loop_cycle) {
    if (a->n == 0 || a->n_keywords) return jinja_fail(r, "cycle needs values");
    *out = a->values[self.loop->index0 % a->n];
    return OK;
}

METHOD(loop_changed) {
    struct jinja_value now;
    int is_same = 0;
    TRY(jinja_new_list(r, JINJA_TUPLE, a->n, &now));
    for (uint32_t i = 0; i < a->n; i++) TRY(jinja_push(r, now, a->values[i]));
    if (self.loop->changed.kind != JINJA_MISSING) TRY(jinja_equal(r, self.loop->changed, now, &is_same));
    self.loop->changed = now;
    *out = jinja_bool(!is_same);
    return OK;
}

/* ---- tables; NULL: a template may not call it, and what would be changed by it never changes ---- */

static const struct jinja_builtin str_methods[] = {
    {"capitalize", str_capitalize},
    {"casefold", str_lower},
    {"center", str_center},
    {"count", str_count},
    {"encode", NULL},
    {"endswith", str_endswith},
    {"expandtabs", NULL},
    {"find", str_find},
    {"format", str_format},
    {"format_map", NULL},
    {"index", str_index},
    {"isalnum", str_isalnum},
    {"isalpha", str_isalpha},
    {"isascii", str_isascii},
    {"isdecimal", str_isdecimal},
    {"isdigit", str_isdecimal},
    {"isidentifier", NULL},
    {"islower", str_islower},
    {"isnumeric", str_isnumeric},
    {"isprintable", NULL},
    {"isspace", str_isspace},
    {"istitle", NULL},
    {"isupper", str_isupper},
    {"join", str_join},
    {"ljust", str_ljust},
    {"lower", str_lower},
    {"lstrip", str_lstrip},
    {"maketrans", NULL},
    {"partition", str_partition},
    {"removeprefix", str_removeprefix},
    {"removesuffix", str_removesuffix},
    {"replace", str_replace},
    {"rfind", str_rfind},
    {"rindex", str_rindex},
    {"rjust", str_rjust},
    {"rpartition", str_rpartition},
    {"rsplit", str_rsplit},
    {"rstrip", str_rstrip},
    {"split", str_split},
    {"splitlines", str_splitlines},
    {"startswith", str_startswith},
    {"strip", str_strip},
    {"swapcase", NULL},
    {"title", str_title},
    {"translate", NULL},
    {"upper", str_upper},
    {"zfill", str_zfill},
    {NULL, NULL},
};

static const struct jinja_builtin dict_methods[] = {
    {"clear", NULL},        {"copy", copy},       {"fromkeys", NULL}, {"get", dict_get},
    {"items", dict_items},  {"keys", dict_keys},  {"pop", NULL},      {"popitem", NULL},
    {"setdefault", NULL},   {"update", NULL},     {"values", dict_values}, {NULL, NULL},
};

static const struct jinja_builtin list_methods[] = {
    {"append", NULL}, {"clear", NULL}, {"copy", copy}, {"count", list_count}, {"extend", NULL},
    {"index", list_index},
    {"insert", NULL}, {"pop", NULL},   {"remove", NULL},  {"reverse", NULL},     {"sort", NULL},   {NULL, NULL},
};

static const struct jinja_builtin tuple_methods[] = {
    {"count", list_count}, {"index", list_index}, {NULL, NULL},
};

static const struct jinja_builtin loop_methods[] = {
    {"changed", loop_changed}, {"cycle", loop_cycle}, {NULL, NULL},
};

const struct jinja_builtin *jinja_method_find(struct jinja_value self, const char *name, size_t n) {
    switch (self.kind) {
    case JINJA_STRING: return jinja_builtin_find(str_methods, name, n);
    case JINJA_DICT: return jinja_builtin_find(dict_methods, name, n);
    case JINJA_LIST: return jinja_builtin_find(list_methods, name, n);
    case JINJA_TUPLE:
    case JINJA_RANGE: return jinja_builtin_find(tuple_methods, name, n);
    case JINJA_LOOP: return jinja_builtin_find(loop_methods, name, n);
    default: return NULL;
    }
}
