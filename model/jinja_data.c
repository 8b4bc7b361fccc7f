/* Lists, dicts and texts of a run: making, comparing, walking and taking apart. */
#include "model/jinja_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- errors and limits ---- */

err jinja_fail(struct jinja_run *r, const char *fmt, ...) {
    char text[700];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return err_set(ERR_REQUEST, "chat template, line %u: %s", r->line, text);
}

err jinja_spend(struct jinja_run *r, size_t n_steps) {
    r->n_steps_left -= (int64_t)(n_steps < JINJA_STEPS ? n_steps : JINJA_STEPS);
    return r->n_steps_left >= 0 ? OK : jinja_fail(r, "the template runs too long (%d steps)", JINJA_STEPS);
}

err jinja_enter(struct jinja_run *r) {
    TRY(jinja_spend(r, 1));
    if (r->depth == JINJA_RUN_DEPTH)
        return jinja_fail(r, "nested or recursive more than %d levels deep", JINJA_RUN_DEPTH);
    r->depth++;
    return OK;
}

void jinja_leave(struct jinja_run *r) { r->depth--; }

err jinja_fail_undefined(struct jinja_run *r, struct jinja_value v) {
    if (v.undefined == JINJA_NO_VARIABLE) return jinja_fail(r, "'%.*s' is undefined", (int)v.n, v.s);
    if (v.undefined == JINJA_HINT) return jinja_fail(r, "%.*s", (int)v.n, v.s);
    struct jinja_value lacking = {.kind = v.of};
    return jinja_fail(r, "'%s%s' has no attribute '%.*s'", v.of == JINJA_NONE ? "None" : jinja_type_name(lacking),
                      v.of == JINJA_NONE ? "" : " object", (int)v.n, v.s);
}

/* ---- making ---- */

static err take(struct jinja_run *r, size_t n, void **out) {
    TRY(jinja_spend(r, n / 32));
    err e = jinja_arena_take(&r->arena, n, out);
    return e == ERR_REQUEST ? err_context(e, "chat template, line %u", r->line) : e;
}

err jinja_new_text(struct jinja_run *r, const char *s, size_t n, struct jinja_value *out) {
    char *copy;
    TRY(jinja_spend(r, n / 32));
    err e = jinja_arena_text(&r->arena, n, &copy);
    if (e != OK) return e == ERR_REQUEST ? err_context(e, "chat template, line %u", r->line) : e;
    if (n) memcpy(copy, s, n);
    *out = jinja_string(copy, n);
    return OK;
}

err jinja_take_bytes(struct jinja_run *r, struct bytes *b, err so_far, struct jinja_value *out) {
    if (so_far == OK) so_far = jinja_new_text(r, (const char *)b->data, b->len, out);
    bytes_free(b);
    return so_far;
}

err jinja_join(struct jinja_run *r, struct jinja_value a, struct jinja_value b, struct jinja_value *out) {
    if (a.n && jinja_arena_extend(&r->arena, a.s + a.n, b.n)) { /* a text that grows is not copied again */
        TRY(jinja_spend(r, b.n / 32));
        memcpy((char *)(uintptr_t)(a.s + a.n), b.s, b.n);
        *out = jinja_string(a.s, (size_t)a.n + b.n);
        return OK;
    }
    char *s;
    TRY(jinja_spend(r, ((size_t)a.n + b.n) / 32));
    err e = jinja_arena_text(&r->arena, (size_t)a.n + b.n, &s);
    if (e != OK) return e == ERR_REQUEST ? err_context(e, "chat template, line %u", r->line) : e;
    if (a.n) memcpy(s, a.s, a.n);
    if (b.n) memcpy(s + a.n, b.s, b.n);
    *out = jinja_string(s, (size_t)a.n + b.n);
    return OK;
}

err jinja_new_list(struct jinja_run *r, enum jinja_kind kind, size_t cap, struct jinja_value *out) {
    void *list, *items;
    TRY(take(r, sizeof *out->list, &list));
    TRY(take(r, (cap ? cap : 1) * sizeof *out->list->items, &items)); /* never NULL: it is added to */
    *out = (struct jinja_value){.kind = (uint8_t)kind, .list = list};
    out->list->items = items;
    out->list->cap = (uint32_t)cap;
    return OK;
}

err jinja_push(struct jinja_run *r, struct jinja_value list, struct jinja_value item) {
    struct jinja_list *l = list.list;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 4;
        void *items;
        TRY(take(r, cap * sizeof *l->items, &items));
        if (l->n) memcpy(items, l->items, l->n * sizeof *l->items);
        l->items = items;
        l->cap = cap;
    }
    l->items[l->n++] = item;
    return OK;
}

err jinja_new_pair(struct jinja_run *r, struct jinja_value a, struct jinja_value b, struct jinja_value *tuple) {
    TRY(jinja_new_list(r, JINJA_TUPLE, 2, tuple));
    tuple->list->items[0] = a;
    tuple->list->items[1] = b;
    tuple->list->n = 2;
    return OK;
}

err jinja_new_dict(struct jinja_run *r, enum jinja_kind kind, size_t cap, struct jinja_value *out) {
    void *dict, *pairs = NULL;
    TRY(take(r, sizeof *out->dict, &dict));
    if (cap) TRY(take(r, cap * sizeof *out->dict->pairs, &pairs));
    *out = (struct jinja_value){.kind = (uint8_t)kind, .dict = dict};
    out->dict->pairs = pairs;
    out->dict->cap = (uint32_t)cap;
    return OK;
}

static err append_pair(struct jinja_run *r, struct jinja_dict *d, struct jinja_value key, struct jinja_value value) {
    if (d->n == d->cap) {
        uint32_t cap = d->cap ? 2 * d->cap : 4;
        void *pairs;
        TRY(take(r, cap * sizeof *d->pairs, &pairs));
        if (d->n) memcpy(pairs, d->pairs, d->n * sizeof *d->pairs);
        d->pairs = pairs;
        d->cap = cap;
    }
    d->pairs[d->n++] = (struct jinja_pair){key, value};
    return OK;
}

err jinja_put(struct jinja_run *r, struct jinja_value dict, struct jinja_value key, struct jinja_value value) {
    const struct jinja_value *found;
    TRY(jinja_require_hashable(r, key));
    TRY(jinja_find(r, dict, key, &found));
    if (!found) return append_pair(r, dict.dict, key, value);
    *(struct jinja_value *)(uintptr_t)found = value;
    return OK;
}

static err from_object(struct jinja_run *r, const json_t *j, struct jinja_value *out) {
    TRY(jinja_new_dict(r, JINJA_DICT, json_object_size(j), out));
    json_t *object = (json_t *)(uintptr_t)j; /* jansson's iterators take no const */
    for (void *at = json_object_iter(object); at; at = json_object_iter_next(object, at)) {
        struct jinja_value key, value;
        TRY(jinja_new_text(r, json_object_iter_key(at), strlen(json_object_iter_key(at)), &key));
        TRY(jinja_from_json(r, json_object_iter_value(at), &value));
        TRY(append_pair(r, out->dict, key, value)); /* keys of an object differ */
    }
    return OK;
}

static err from_array(struct jinja_run *r, const json_t *j, struct jinja_value *out) {
    TRY(jinja_new_list(r, JINJA_LIST, json_array_size(j), out));
    for (size_t i = 0; i < json_array_size(j); i++) {
        struct jinja_value item;
        TRY(jinja_from_json(r, json_array_get(j, i), &item));
        TRY(jinja_push(r, *out, item));
    }
    return OK;
}

err jinja_from_json(struct jinja_run *r, const json_t *j, struct jinja_value *out) {
    err e = OK;
    TRY(jinja_enter(r));
    switch (json_typeof(j)) {
    case JSON_OBJECT: e = from_object(r, j, out); break;
    case JSON_ARRAY: e = from_array(r, j, out); break;
    case JSON_STRING: e = jinja_new_text(r, json_string_value(j), json_string_length(j), out); break;
    case JSON_INTEGER: *out = jinja_int(json_integer_value(j)); break;
    case JSON_REAL: *out = jinja_float(json_real_value(j)); break;
    case JSON_TRUE: *out = jinja_bool(1); break;
    case JSON_FALSE: *out = jinja_bool(0); break;
    case JSON_NULL: *out = JINJA_NONE_VALUE; break;
    }
    jinja_leave(r);
    return e;
}

/* ---- comparing ---- */

static int order_numbers(struct jinja_value a, struct jinja_value b) {
    if (jinja_is_whole(a) && jinja_is_whole(b)) return (a.i > b.i) - (a.i < b.i);
    long double x = a.kind == JINJA_FLOAT ? (long double)a.f : (long double)a.i;
    long double y = b.kind == JINJA_FLOAT ? (long double)b.f : (long double)b.i;
    return (x > y) - (x < y);
}

/* Order of bytes is order of code points in UTF-8. */
static int order_texts(struct jinja_value a, struct jinja_value b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int d = n ? memcmp(a.s, b.s, n) : 0;
    return d ? (d > 0) - (d < 0) : (a.n > b.n) - (a.n < b.n);
}

static err equal_lists(struct jinja_run *r, const struct jinja_list *a, const struct jinja_list *b, int *out) {
    *out = a->n == b->n;
    if (*out) TRY(jinja_spend(r, a->n));
    for (uint32_t i = 0; *out && i < a->n; i++) TRY(jinja_equal(r, a->items[i], b->items[i], out));
    return OK;
}

static err equal_dicts(struct jinja_run *r, struct jinja_value a, struct jinja_value b, int *out) {
    *out = a.dict->n == b.dict->n;
    for (uint32_t i = 0; *out && i < a.dict->n; i++) {
        const struct jinja_value *found;
        TRY(jinja_find(r, b, a.dict->pairs[i].key, &found));
        *out = found != NULL;
        if (found) TRY(jinja_equal(r, a.dict->pairs[i].value, *found, out));
    }
    return OK;
}

static err equal_deep(struct jinja_run *r, struct jinja_value a, struct jinja_value b, int *out) {
    if (a.kind != b.kind) {
        *out = 0;
        return OK;
    }
    switch (a.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
    case JINJA_MISSING: *out = 1; return OK;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE: return equal_lists(r, a.list, b.list, out);
    case JINJA_DICT: return equal_dicts(r, a, b, out);
    default: *out = a.list == b.list; return OK; /* any other: the same one */
    }
}

err jinja_equal(struct jinja_run *r, struct jinja_value a, struct jinja_value b, int *out) {
    if (a.kind == JINJA_STRING && b.kind == JINJA_STRING) {
        *out = a.n == b.n && (a.n == 0 || memcmp(a.s, b.s, a.n) == 0);
        return jinja_spend(r, *out ? a.n / 64 : 0);
    }
    if (jinja_is_number(a) && jinja_is_number(b)) {
        int is_nan = (a.kind == JINJA_FLOAT && a.f != a.f) || (b.kind == JINJA_FLOAT && b.f != b.f);
        *out = !is_nan && order_numbers(a, b) == 0;
        return OK;
    }
    TRY(jinja_enter(r));
    err e = equal_deep(r, a, b, out);
    jinja_leave(r);
    return e;
}

err jinja_order(struct jinja_run *r, struct jinja_value a, struct jinja_value b, const char *op, int *out) {
    TRY(jinja_spend(r, 1));
    if (jinja_is_number(a) && jinja_is_number(b)) {
        *out = order_numbers(a, b);
        return OK;
    }
    if (a.kind == JINJA_STRING && b.kind == JINJA_STRING) {
        *out = order_texts(a, b);
        return jinja_spend(r, (a.n < b.n ? a.n : b.n) / 64);
    }
    if (a.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, a);
    if (b.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, b);
    if (a.kind != b.kind || (a.kind != JINJA_LIST && a.kind != JINJA_TUPLE))
        return jinja_fail(r, "'%s' cannot compare a %s with a %s", op, jinja_type_name(a), jinja_type_name(b));
    const struct jinja_list *x = a.list, *y = b.list;
    for (uint32_t i = 0; i < x->n && i < y->n; i++) {
        int is_equal;
        TRY(jinja_equal(r, x->items[i], y->items[i], &is_equal));
        if (is_equal) continue;
        TRY(jinja_enter(r));
        err e = jinja_order(r, x->items[i], y->items[i], op, out);
        jinja_leave(r);
        return e;
    }
    *out = (x->n > y->n) - (x->n < y->n);
    return OK;
}

err jinja_require_hashable(struct jinja_run *r, struct jinja_value v) {
    if (v.kind == JINJA_LIST || v.kind == JINJA_DICT || v.kind == JINJA_VIEW)
        return jinja_fail(r, "a %s cannot be the key of a dict", jinja_type_name(v));
    for (uint32_t i = 0; v.kind == JINJA_TUPLE && i < v.list->n; i++) {
        TRY(jinja_enter(r));
        err e = jinja_require_hashable(r, v.list->items[i]);
        jinja_leave(r);
        TRY(e);
    }
    return OK;
}

err jinja_find(struct jinja_run *r, struct jinja_value dict, struct jinja_value key, const struct jinja_value **found) {
    const struct jinja_dict *d = dict.dict;
    TRY(jinja_spend(r, d->n / 8));
    for (uint32_t i = 0; i < d->n; i++) {
        const struct jinja_value *k = &d->pairs[i].key;
        if (k->kind == JINJA_STRING && key.kind == JINJA_STRING && k->n != key.n) continue;
        int is_equal;
        TRY(jinja_equal(r, *k, key, &is_equal));
        *found = &d->pairs[i].value;
        if (is_equal) return OK;
    }
    *found = NULL;
    return OK;
}

/* ---- walking ---- */

err jinja_length(struct jinja_run *r, struct jinja_value v, int64_t *out) {
    if (v.kind == JINJA_STRING) {
        *out = (int64_t)jinja_count_chars(v.s, v.n);
        return jinja_spend(r, v.n / 64);
    }
    if (v.kind == JINJA_UNDEFINED) *out = 0;
    else if (v.kind == JINJA_DICT) *out = v.dict->n;
    else if (v.kind == JINJA_LOOP) {
        struct jinja_value length;
        TRY(jinja_loop_attribute(r, v.loop, jinja_literal("length"), &length));
        *out = length.i;
    } else if (jinja_is_list(v) && v.kind != JINJA_GENERATOR) *out = v.list->n;
    else return jinja_fail(r, "a %s has no length", jinja_type_name(v));
    return OK;
}

static err iterate_text(struct jinja_run *r, struct jinja_value v, struct jinja_value *out) {
    TRY(jinja_new_list(r, JINJA_LIST, jinja_count_chars(v.s, v.n), out));
    for (size_t i = 0; i < v.n; i += jinja_char_bytes(v.s + i))
        TRY(jinja_push(r, *out, jinja_string(v.s + i, jinja_char_bytes(v.s + i))));
    return OK;
}

err jinja_iterate(struct jinja_run *r, struct jinja_value v, struct jinja_list **out) {
    struct jinja_value list;
    if (v.kind == JINJA_GENERATOR) {
        TRY(jinja_new_list(r, JINJA_LIST, 0, &list));
        list.list->items = v.list->items + v.list->at;
        list.list->n = list.list->cap = v.list->n - v.list->at;
        v.list->at = v.list->n;
    } else if (jinja_is_list(v)) {
        list = v;
    } else if (v.kind == JINJA_STRING) {
        TRY(iterate_text(r, v, &list));
    } else if (v.kind == JINJA_DICT) {
        TRY(jinja_new_list(r, JINJA_LIST, v.dict->n, &list));
        for (uint32_t i = 0; i < v.dict->n; i++) TRY(jinja_push(r, list, v.dict->pairs[i].key));
    } else if (v.kind == JINJA_UNDEFINED) {
        TRY(jinja_new_list(r, JINJA_LIST, 0, &list));
    } else {
        return jinja_fail(r, "a %s cannot be walked through", jinja_type_name(v));
    }
    *out = list.list;
    return OK;
}

err jinja_contains(struct jinja_run *r, struct jinja_value whole, struct jinja_value part, int *out) {
    *out = 0;
    if (whole.kind == JINJA_STRING) {
        if (part.kind != JINJA_STRING)
            return jinja_fail(r, "'in' asks a str for a %s, not for a str", jinja_type_name(part));
        *out = jinja_find_text(whole, part, 0) >= 0;
        return jinja_spend(r, whole.n / 32);
    }
    if (whole.kind == JINJA_DICT) {
        const struct jinja_value *found;
        TRY(jinja_require_hashable(r, part));
        TRY(jinja_find(r, whole, part, &found));
        *out = found != NULL;
        return OK;
    }
    struct jinja_list *items;
    TRY(jinja_iterate(r, whole, &items));
    for (uint32_t i = 0; i < items->n && !*out; i++) {
        TRY(jinja_spend(r, 1));
        TRY(jinja_equal(r, items->items[i], part, out));
    }
    return OK;
}

/* ---- taking apart ---- */

static struct jinja_value no_attribute(struct jinja_value v, struct jinja_value name) {
    if (name.kind != JINJA_STRING) return jinja_hint("there is no element with this index or key");
    return (struct jinja_value){.kind = JINJA_UNDEFINED, .undefined = JINJA_NO_ATTRIBUTE, .of = v.kind,
                                .n = name.n, .s = name.s};
}

/* A method, a namespace's or a loop's attribute; MISSING where there is none. */
static err own_attribute(struct jinja_run *r, struct jinja_value v, struct jinja_value name, struct jinja_value *out) {
    *out = JINJA_MISSING_VALUE;
    if (v.kind == JINJA_LOOP) {
        TRY(jinja_loop_attribute(r, v.loop, name, out));
        if (out->kind != JINJA_MISSING) return OK;
    }
    if (v.kind == JINJA_NAMESPACE) {
        const struct jinja_value *found;
        TRY(jinja_find(r, v, name, &found));
        if (found) *out = *found;
        return OK;
    }
    if (v.kind == JINJA_MACRO && jinja_equals_text(name, "name")) {
        *out = v.macro->node->value;
        return OK;
    }
    const struct jinja_builtin *b = jinja_method_find(v, name.s, name.n);
    if (!b) return OK;
    if (!b->call) {
        *out = jinja_hint("this method would change a list or dict, or is not supported in templates");
        return OK;
    }
    void *method;
    TRY(take(r, sizeof *out->method, &method));
    *(struct jinja_method *)method = (struct jinja_method){v, b};
    *out = (struct jinja_value){.kind = JINJA_METHOD, .method = method};
    return OK;
}

static size_t wrapped(int64_t i, int64_t n) { return (size_t)(i < 0 ? i + n : i); }

/* v[key] without attributes; MISSING where there is nothing. */
static err own_item(struct jinja_run *r, struct jinja_value v, struct jinja_value key, struct jinja_value *out) {
    *out = JINJA_MISSING_VALUE;
    if (v.kind == JINJA_DICT) {
        const struct jinja_value *found;
        if (key.kind == JINJA_LIST || key.kind == JINJA_DICT || key.kind == JINJA_VIEW) return OK;
        TRY(jinja_find(r, v, key, &found));
        if (found) *out = *found;
        return OK;
    }
    int is_sequence = v.kind == JINJA_STRING || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE || v.kind == JINJA_RANGE;
    if (!jinja_is_whole(key) || !is_sequence) return OK;
    int64_t n;
    TRY(jinja_length(r, v, &n));
    if (key.i < -n || key.i >= n) return OK;
    size_t at = wrapped(key.i, n);
    if (v.kind == JINJA_STRING) {
        size_t offset = jinja_char_offset(v.s, v.n, at);
        *out = jinja_string(v.s + offset, jinja_char_bytes(v.s + offset));
    } else {
        *out = v.list->items[at];
    }
    return OK;
}

err jinja_attribute(struct jinja_run *r, struct jinja_value v, struct jinja_value name, struct jinja_value *out) {
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    TRY(own_attribute(r, v, name, out));
    if (out->kind == JINJA_MISSING) TRY(own_item(r, v, name, out));
    if (out->kind == JINJA_MISSING) *out = no_attribute(v, name);
    return OK;
}

err jinja_item(struct jinja_run *r, struct jinja_value v, struct jinja_value key, struct jinja_value *out) {
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    TRY(own_item(r, v, key, out));
    if (out->kind == JINJA_MISSING && key.kind == JINJA_STRING) TRY(own_attribute(r, v, key, out));
    if (out->kind == JINJA_MISSING) *out = no_attribute(v, key);
    return OK;
}

/* Python's bounds of a slice of `n` items: first, step and count. */
static err slice_bounds(struct jinja_run *r, const struct jinja_value b[3], int64_t n, int64_t *first, int64_t *step,
                        int64_t *count) {
    int64_t at[3];
    for (int i = 0; i < 3; i++) {
        if (b[i].kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, b[i]);
        if (b[i].kind != JINJA_NONE && !jinja_is_whole(b[i]))
            return jinja_fail(r, "a slice takes whole numbers, not a %s", jinja_type_name(b[i]));
    }
    at[2] = b[2].kind == JINJA_NONE ? 1 : b[2].i;
    if (at[2] == 0) return jinja_fail(r, "a slice has step zero");
    if (at[2] < -INT32_MAX) at[2] = -INT32_MAX; /* longer than any text */
    if (at[2] > INT32_MAX) at[2] = INT32_MAX;
    int64_t low = at[2] < 0 ? -1 : 0, high = at[2] < 0 ? n - 1 : n;
    for (int i = 0; i < 2; i++) {
        if (b[i].kind == JINJA_NONE) {
            at[i] = (at[2] < 0) == (i == 0) ? high : low;
            continue;
        }
        at[i] = b[i].i < 0 ? (b[i].i < -n ? low : b[i].i + n) : b[i].i;
        if (at[i] < low) at[i] = low;
        if (at[i] > high) at[i] = high;
    }
    *first = at[0];
    *step = at[2];
    *count = at[2] > 0 ? (at[1] - at[0] + at[2] - 1) / at[2] : (at[0] - at[1] - at[2] - 1) / -at[2];
    if (*count < 0) *count = 0;
    return OK;
}

static err slice_text(struct jinja_run *r, struct jinja_value v, int64_t first, int64_t step, int64_t count,
                      struct jinja_value *out) {
    if (step == 1 || count == 0) { /* shares the bytes */
        size_t begin = count ? jinja_char_offset(v.s, v.n, (size_t)first) : 0;
        *out = jinja_string(v.s + begin, jinja_char_offset(v.s + begin, v.n - begin, (size_t)count));
        return OK;
    }
    struct jinja_value chars;
    struct bytes b = {0};
    err e = iterate_text(r, v, &chars);
    for (int64_t i = 0; i < count && e == OK; i++)
        e = bytes_append(&b, chars.list->items[first + i * step].s, chars.list->items[first + i * step].n);
    return jinja_take_bytes(r, &b, e, out);
}

err jinja_slice(struct jinja_run *r, struct jinja_value v, const struct jinja_value bounds[3],
                struct jinja_value *out) {
    int64_t n, first = 0, step = 1, count = 0;
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    if (v.kind != JINJA_STRING && v.kind != JINJA_LIST && v.kind != JINJA_TUPLE && v.kind != JINJA_RANGE)
        return jinja_fail(r, "a %s cannot be sliced", jinja_type_name(v));
    TRY(jinja_length(r, v, &n));
    TRY(slice_bounds(r, bounds, n, &first, &step, &count));
    if (v.kind == JINJA_STRING) return slice_text(r, v, first, step, count, out);
    TRY(jinja_new_list(r, v.kind == JINJA_RANGE ? JINJA_LIST : v.kind, (size_t)count, out));
    for (int64_t i = 0; i < count; i++) TRY(jinja_push(r, *out, v.list->items[first + i * step]));
    return OK;
}
