/* Functions that every template finds: range, dict, namespace, raise_exception, strftime_now. */
#include <string.h>
#include <time.h>

#include "model/jinja_run.h"

#define FUNCTION(name)                                                                                                 \
    static err name(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, struct jinja_value *out)

FUNCTION(function_range) {
    (void)self;
    int64_t v[3] = {0, 0, 1};
    if (a->n < 1 || a->n > 3 || a->n_keywords) return jinja_fail(r, "range takes one to three numbers");
    for (uint32_t i = 0; i < a->n; i++) TRY(jinja_want_int(r, a->values[i], "a number of range", 0, &v[i]));
    for (uint32_t i = 0; i < a->n; i++)
        if (!jinja_is_whole(a->values[i])) return jinja_fail(r, "range takes whole numbers");
    if (a->n == 1) v[1] = v[0], v[0] = 0;
    if (v[2] == 0) return jinja_fail(r, "range has step zero");
    __int128 span = v[2] > 0 ? (__int128)v[1] - v[0] : (__int128)v[0] - v[1];
    __int128 step = v[2] > 0 ? v[2] : -(__int128)v[2];
    __int128 n = span > 0 ? (span + step - 1) / step : 0;
    if (n > JINJA_RANGE_ITEMS) return jinja_fail(r, "a range of more than %d numbers", JINJA_RANGE_ITEMS);
    TRY(jinja_new_list(r, JINJA_RANGE, (size_t)n, out));
    for (int64_t i = 0; i < (int64_t)n; i++) TRY(jinja_push(r, *out, jinja_int(v[0] + i * v[2])));
    return OK;
}

/* A dict, or a list of pairs, and keywords. */
static err fill(struct jinja_run *r, const struct jinja_args *a, struct jinja_value dict) {
    if (a->n > 1) return jinja_fail(r, "dict and namespace take one dict at most");
    if (a->n && a->values[0].kind == JINJA_DICT) {
        const struct jinja_dict *from = a->values[0].dict;
        for (uint32_t i = 0; i < from->n; i++) TRY(jinja_put(r, dict, from->pairs[i].key, from->pairs[i].value));
    } else if (a->n) {
        struct jinja_list *pairs, *pair;
        TRY(jinja_iterate(r, a->values[0], &pairs));
        for (uint32_t i = 0; i < pairs->n; i++) {
            TRY(jinja_iterate(r, pairs->items[i], &pair));
            if (pair->n != 2) return jinja_fail(r, "dict needs pairs of key and value");
            TRY(jinja_put(r, dict, pair->items[0], pair->items[1]));
        }
    }
    for (uint32_t i = 0; i < a->n_keywords; i++) TRY(jinja_put(r, dict, a->keywords[i].key, a->keywords[i].value));
    return OK;
}

FUNCTION(function_dict) {
    (void)self;
    TRY(jinja_new_dict(r, JINJA_DICT, a->n_keywords, out));
    return fill(r, a, *out);
}

FUNCTION(function_namespace) {
    (void)self;
    TRY(jinja_new_dict(r, JINJA_NAMESPACE, a->n_keywords, out));
    TRY(fill(r, a, *out));
    for (uint32_t i = 0; i < out->dict->n; i++) {
        struct jinja_value key = out->dict->pairs[i].key;
        if (key.kind == JINJA_STRING && key.n && key.s[0] == '_')
            return jinja_fail(r, "attributes of a namespace do not begin with _");
    }
    return OK;
}

/* The template's own words to the client. */
FUNCTION(function_raise_exception) {
    (void)self;
    struct jinja_value message;
    TRY(jinja_bind(r, a, "raise_exception", "message", &message));
    TRY(jinja_text(r, message, out));
    return err_set(ERR_REQUEST, "%.*s", (int)out->n, out->s);
}

FUNCTION(function_strftime_now) {
    (void)self;
    struct jinja_value format;
    char pattern[200], text[1000];
    struct tm tm;
    time_t now = (time_t)r->now_s;
    TRY(jinja_bind(r, a, "strftime_now", "format", &format));
    TRY(jinja_want_string(r, format, "format"));
    if (format.n >= sizeof pattern) return jinja_fail(r, "a format of %u bytes is too long", format.n);
    if (format.n) memcpy(pattern, format.s, format.n);
    pattern[format.n] = 0;
    if (!gmtime_r(&now, &tm)) return jinja_fail(r, "the time is out of range");
    size_t n = strftime(text, sizeof text, pattern, &tm); /* 0: empty, or does not fit */
    return jinja_new_text(r, text, n, out);
}

const struct jinja_builtin *jinja_function_find(const char *name, size_t n) {
    static const struct jinja_builtin table[] = {
        {"dict", function_dict},
        {"namespace", function_namespace},
        {"raise_exception", function_raise_exception},
        {"range", function_range},
        {"strftime_now", function_strftime_now},
        {NULL, NULL},
    };
    return jinja_builtin_find(table, name, n);
}
