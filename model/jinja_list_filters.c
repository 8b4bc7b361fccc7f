/* Filters of lists and dicts. Where Python gives a generator, a generator is given: true, without a length, walked
 * once. */
#include <string.h>

#include "model/jinja_filters.h"

/* ---- attributes of items: "a.b.0" ---- */

struct getter {
    struct jinja_value path; /* MISSING or None: the item itself; a text with dots; or an index */
    struct jinja_value fallback;
    int ignores_case;
};

static int is_index(struct jinja_value s) {
    for (uint32_t i = 0; i < s.n; i++)
        if (s.s[i] < '0' || s.s[i] > '9') return 0;
    return s.n > 0 && s.n < 10;
}

static err get_step(struct jinja_run *r, struct jinja_value key, const struct getter *g, struct jinja_value *item) {
    if (key.kind == JINJA_STRING && is_index(key)) {
        int64_t index = 0;
        for (uint32_t i = 0; i < key.n; i++) index = index * 10 + (key.s[i] - '0');
        key = jinja_int(index);
    }
    TRY(jinja_item(r, *item, key, item));
    if (item->kind == JINJA_UNDEFINED && g->fallback.kind != JINJA_MISSING && g->fallback.kind != JINJA_NONE)
        *item = g->fallback;
    return OK;
}

static err get(struct jinja_run *r, const struct getter *g, struct jinja_value item, struct jinja_value *out) {
    TRY(jinja_spend(r, 1));
    if (g->path.kind == JINJA_STRING) {
        for (size_t at = 0; at <= g->path.n;) {
            const char *dot = memchr(g->path.s + at, '.', g->path.n - at);
            size_t end = dot ? (size_t)(dot - g->path.s) : g->path.n;
            TRY(get_step(r, jinja_string(g->path.s + at, end - at), g, &item));
            at = end + 1;
        }
    } else if (g->path.kind != JINJA_MISSING && g->path.kind != JINJA_NONE) {
        TRY(get_step(r, g->path, g, &item));
    }
    if (g->ignores_case && item.kind == JINJA_STRING) return jinja_recase(r, item, JINJA_LOWER, out);
    *out = item;
    return OK;
}

/* ---- plain ---- */

static err filter_length(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    int64_t n;
    TRY(jinja_bind(r, a, "length", "", NULL));
    TRY(jinja_length(r, self, &n));
    *out = jinja_int(n);
    return OK;
}

static err filter_list(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "list", "", NULL));
    TRY(jinja_iterate(r, self, &items));
    *out = (struct jinja_value){.kind = JINJA_LIST, .list = items};
    return OK;
}

static err filter_first(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "first", "", NULL));
    *out = jinja_hint("there is no first item, the sequence was empty");
    if (self.kind == JINJA_GENERATOR) { /* takes one and leaves the rest */
        if (self.list->at < self.list->n) *out = self.list->items[self.list->at++];
        return OK;
    }
    TRY(jinja_iterate(r, self, &items));
    if (items->n) *out = items->items[0];
    return OK;
}

static err filter_last(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "last", "", NULL));
    if (self.kind == JINJA_GENERATOR) return jinja_fail(r, "a generator has no last item; |list gives it one");
    *out = jinja_hint("there is no last item, the sequence was empty");
    TRY(jinja_iterate(r, self, &items));
    if (items->n) *out = items->items[items->n - 1];
    return OK;
}

static err filter_join(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_value v[2], separator, item;
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "join", "d? attribute?", v));
    if (v[0].kind == JINJA_MISSING) v[0] = jinja_literal("");
    TRY(jinja_text(r, v[0], &separator));
    TRY(jinja_iterate(r, self, &items));
    struct getter g = {.path = v[1]};
    struct bytes b = {0};
    err e = OK;
    for (uint32_t i = 0; i < items->n && e == OK; i++) {
        if (i) e = jinja_write(r, separator, &b);
        if (e == OK) e = get(r, &g, items->items[i], &item);
        if (e == OK) e = jinja_write(r, item, &b);
    }
    return jinja_take_bytes(r, &b, e, out);
}

static err filter_reverse(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                          struct jinja_value *out) {
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "reverse", "", NULL));
    if (self.kind == JINJA_STRING) {
        struct jinja_value bounds[] = {JINJA_NONE_VALUE, JINJA_NONE_VALUE, jinja_int(-1)};
        return jinja_slice(r, self, bounds, out);
    }
    TRY(jinja_iterate(r, self, &items));
    TRY(jinja_new_list(r, self.kind == JINJA_GENERATOR ? JINJA_LIST : JINJA_GENERATOR, items->n, out));
    for (uint32_t i = items->n; i-- > 0;) TRY(jinja_push(r, *out, items->items[i]));
    return OK;
}

static err filter_items(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_value pair;
    TRY(jinja_bind(r, a, "items", "", NULL));
    TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    if (self.kind == JINJA_UNDEFINED) return OK;
    if (self.kind != JINJA_DICT) return jinja_fail(r, "items needs a dict, not a %s", jinja_type_name(self));
    for (uint32_t i = 0; i < self.dict->n; i++) {
        TRY(jinja_new_pair(r, self.dict->pairs[i].key, self.dict->pairs[i].value, &pair));
        TRY(jinja_push(r, *out, pair));
    }
    return OK;
}

static err filter_sum(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                      struct jinja_value *out) {
    struct jinja_value v[2], item;
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "sum", "attribute? start?", v));
    struct getter g = {.path = v[0]};
    *out = v[1].kind == JINJA_MISSING ? jinja_int(0) : v[1];
    if (out->kind == JINJA_STRING) return jinja_fail(r, "sum does not add texts; join does");
    TRY(jinja_iterate(r, self, &items));
    for (uint32_t i = 0; i < items->n; i++) {
        TRY(get(r, &g, items->items[i], &item));
        TRY(jinja_binary(r, '+', *out, item, out));
    }
    return OK;
}

/* Lists of `n` items, the last one filled up. */
static err filter_batch(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_value v[2], batch = JINJA_NONE_VALUE;
    struct jinja_list *items;
    int64_t n;
    TRY(jinja_bind(r, a, "batch", "linecount fill_with?", v));
    TRY(jinja_want_int(r, v[0], "linecount", 0, &n));
    if (n < 1) return jinja_fail(r, "linecount must be 1 or more");
    TRY(jinja_iterate(r, self, &items));
    TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    for (uint32_t i = 0; i < items->n; i++) {
        if (i % n == 0) {
            TRY(jinja_new_list(r, JINJA_LIST, 0, &batch));
            TRY(jinja_push(r, *out, batch));
        }
        TRY(jinja_push(r, batch, items->items[i]));
    }
    int is_filled = v[1].kind != JINJA_MISSING && v[1].kind != JINJA_NONE && items->n;
    while (is_filled && batch.list->n < n) TRY(jinja_push(r, batch, v[1]));
    return OK;
}

/* `n` lists, the first ones longer where it does not come out even. */
static err filter_slice(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                        struct jinja_value *out) {
    struct jinja_value v[2], part;
    struct jinja_list *items;
    int64_t n, at = 0;
    TRY(jinja_bind(r, a, "slice", "slices fill_with?", v));
    TRY(jinja_want_int(r, v[0], "slices", 0, &n));
    if (n < 1 || n > JINJA_RANGE_ITEMS) return jinja_fail(r, "slices must be 1 to %d", JINJA_RANGE_ITEMS);
    TRY(jinja_iterate(r, self, &items));
    TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    for (int64_t i = 0; i < n; i++) {
        TRY(jinja_new_list(r, JINJA_LIST, 0, &part));
        int64_t n_part = items->n / n + (i < items->n % n);
        for (; n_part > 0; n_part--) TRY(jinja_push(r, part, items->items[at++]));
        if (v[1].kind != JINJA_MISSING && v[1].kind != JINJA_NONE && i >= items->n % n) TRY(jinja_push(r, part, v[1]));
        TRY(jinja_push(r, *out, part));
    }
    return OK;
}

/* ---- sorting ---- */

struct keyed {
    struct jinja_value key, item;
};

static err merge(struct jinja_run *r, const struct keyed *from, struct keyed *to, uint32_t begin, uint32_t middle,
                 uint32_t end, int is_reverse) {
    uint32_t a = begin, b = middle;
    for (uint32_t i = begin; i < end; i++) {
        int order = 0, takes_b = a == middle;
        if (a < middle && b < end) {
            TRY(jinja_order(r, is_reverse ? from[a].key : from[b].key, is_reverse ? from[b].key : from[a].key, "<",
                            &order));
            takes_b = order < 0; /* equal ones stay in their order */
        }
        to[i] = takes_b ? from[b++] : from[a++];
    }
    return OK;
}

static err sort(struct jinja_run *r, struct keyed *items, uint32_t n, int is_reverse, struct keyed **out) {
    void *space;
    TRY(jinja_spend(r, n));
    TRY(jinja_arena_take(&r->arena, n * sizeof *items, &space));
    struct keyed *from = items, *to = space;
    for (uint32_t width = 1; width < n; width *= 2) {
        for (uint32_t begin = 0; begin < n; begin += 2 * width) {
            uint32_t middle = begin + width < n ? begin + width : n, end = middle + width < n ? middle + width : n;
            TRY(merge(r, from, to, begin, middle, end, is_reverse));
        }
        struct keyed *swap = from;
        from = to;
        to = swap;
    }
    *out = from;
    return OK;
}

/* Keys of all items; with takes_many a list of the attributes "a,b". */
static err key_items(struct jinja_run *r, const struct jinja_list *items, const struct getter *g, int takes_many,
                     struct keyed **out) {
    void *keyed;
    TRY(jinja_arena_take(&r->arena, (items->n + 1) * sizeof **out, &keyed));
    *out = keyed;
    for (uint32_t i = 0; i < items->n; i++) {
        struct keyed *k = &(*out)[i];
        k->item = items->items[i];
        if (!takes_many || g->path.kind != JINJA_STRING) {
            TRY(get(r, g, k->item, &k->key));
            continue;
        }
        TRY(jinja_new_list(r, JINJA_LIST, 1, &k->key));
        for (size_t at = 0; at <= g->path.n;) {
            const char *comma = memchr(g->path.s + at, ',', g->path.n - at);
            size_t end = comma ? (size_t)(comma - g->path.s) : g->path.n;
            struct getter part = *g;
            struct jinja_value key;
            part.path = jinja_string(g->path.s + at, end - at);
            TRY(get(r, &part, k->item, &key));
            TRY(jinja_push(r, k->key, key));
            at = end + 1;
        }
    }
    return OK;
}

static err filter_sort(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_value v[3];
    struct jinja_list *items;
    struct keyed *keyed;
    TRY(jinja_bind(r, a, "sort", "reverse? case_sensitive? attribute?", v));
    struct getter g = {.path = v[2], .ignores_case = !jinja_is_true(v[1])};
    TRY(jinja_iterate(r, self, &items));
    TRY(key_items(r, items, &g, 1, &keyed));
    TRY(sort(r, keyed, items->n, jinja_is_true(v[0]), &keyed));
    TRY(jinja_new_list(r, JINJA_LIST, items->n, out));
    for (uint32_t i = 0; i < items->n; i++) TRY(jinja_push(r, *out, keyed[i].item));
    return OK;
}

static err filter_dictsort(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                           struct jinja_value *out) {
    struct jinja_value v[3], pairs;
    struct keyed *keyed;
    TRY(jinja_bind(r, a, "dictsort", "case_sensitive? by? reverse?", v));
    if (self.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, self);
    if (self.kind != JINJA_DICT) return jinja_fail(r, "dictsort needs a dict, not a %s", jinja_type_name(self));
    int is_by_value = jinja_equals_text(v[1], "value");
    if (!is_by_value && v[1].kind != JINJA_MISSING && !jinja_equals_text(v[1], "key"))
        return jinja_fail(r, "dictsort sorts by 'key' or 'value'");
    TRY(filter_items(r, self, &(struct jinja_args){0}, &pairs));
    struct getter g = {.path = jinja_int(is_by_value), .ignores_case = !jinja_is_true(v[0])};
    TRY(key_items(r, pairs.list, &g, 0, &keyed));
    TRY(sort(r, keyed, pairs.list->n, jinja_is_true(v[2]), &keyed));
    TRY(jinja_new_list(r, JINJA_LIST, pairs.list->n, out));
    for (uint32_t i = 0; i < pairs.list->n; i++) TRY(jinja_push(r, *out, keyed[i].item));
    return OK;
}

static err extreme(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int sign,
                   struct jinja_value *out) {
    struct jinja_value v[2];
    struct jinja_list *items;
    struct keyed *keyed;
    uint32_t best = 0;
    TRY(jinja_bind(r, a, sign < 0 ? "min" : "max", "case_sensitive? attribute?", v));
    struct getter g = {.path = v[1], .ignores_case = !jinja_is_true(v[0])};
    TRY(jinja_iterate(r, self, &items));
    TRY(key_items(r, items, &g, 0, &keyed));
    for (uint32_t i = 1; i < items->n; i++) {
        int order;
        TRY(jinja_order(r, keyed[i].key, keyed[best].key, sign < 0 ? "<" : ">", &order));
        if (order == sign) best = i;
    }
    *out = items->n ? keyed[best].item : jinja_hint("there is no such item, the sequence was empty");
    return OK;
}

static err filter_min(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                      struct jinja_value *out) {
    return extreme(r, self, a, -1, out);
}

static err filter_max(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                      struct jinja_value *out) {
    return extreme(r, self, a, 1, out);
}

static err filter_unique(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    struct jinja_value v[2], seen, key;
    struct jinja_list *items;
    TRY(jinja_bind(r, a, "unique", "case_sensitive? attribute?", v));
    struct getter g = {.path = v[1], .ignores_case = !jinja_is_true(v[0])};
    TRY(jinja_iterate(r, self, &items));
    TRY(jinja_new_dict(r, JINJA_DICT, items->n, &seen));
    TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    for (uint32_t i = 0; i < items->n; i++) {
        uint32_t n = seen.dict->n;
        TRY(get(r, &g, items->items[i], &key));
        TRY(jinja_put(r, seen, key, JINJA_NONE_VALUE));
        if (seen.dict->n > n) TRY(jinja_push(r, *out, items->items[i]));
    }
    return OK;
}

/* Tuples (key, items) in the order of the keys; a key is shown as its first item has it. */
static err filter_groupby(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                          struct jinja_value *out) {
    struct jinja_value v[3], group = JINJA_NONE_VALUE, pair, shown;
    struct jinja_list *items;
    struct keyed *keyed;
    TRY(jinja_bind(r, a, "groupby", "attribute default? case_sensitive?", v));
    struct getter g = {.path = v[0], .fallback = v[1], .ignores_case = !jinja_is_true(v[2])};
    struct getter as_it_is = {.path = v[0], .fallback = v[1]};
    TRY(jinja_iterate(r, self, &items));
    TRY(key_items(r, items, &g, 0, &keyed));
    TRY(sort(r, keyed, items->n, 0, &keyed));
    TRY(jinja_new_list(r, JINJA_LIST, 0, out));
    for (uint32_t i = 0; i < items->n; i++) {
        int is_same = 0;
        if (i) TRY(jinja_equal(r, keyed[i - 1].key, keyed[i].key, &is_same));
        if (!is_same) {
            TRY(get(r, &as_it_is, keyed[i].item, &shown));
            TRY(jinja_new_list(r, JINJA_LIST, 0, &group));
            TRY(jinja_new_pair(r, shown, group, &pair));
            TRY(jinja_push(r, *out, pair));
        }
        TRY(jinja_push(r, group, keyed[i].item));
    }
    return OK;
}

/* ---- other filters and tests on each item ---- */

/* The filter or test that the argument number `at` names, and the arguments behind it. */
static err named_builtin(struct jinja_run *r, const struct jinja_args *a, uint32_t at, const char *what,
                         const struct jinja_builtin *(*find)(const char *, size_t),
                         const struct jinja_builtin **builtin, struct jinja_args *rest) {
    struct jinja_value name = a->values[at];
    TRY(jinja_want_string(r, name, what));
    *builtin = find(name.s, name.n);
    if (!*builtin) return jinja_fail(r, "no %s is named '%.*s'", what, (int)name.n, name.s);
    *rest = *a;
    rest->values += at + 1;
    rest->n -= at + 1;
    return OK;
}

/* Filters may call filters: that too has an end. */
static err call_on(struct jinja_run *r, const struct jinja_builtin *b, struct jinja_value item,
                   const struct jinja_args *a, struct jinja_value *out) {
    TRY(jinja_enter(r));
    err e = b->call(r, item, a, out);
    jinja_leave(r);
    return e;
}

static err map_attribute(struct jinja_run *r, struct jinja_list *items, const struct jinja_args *a,
                         struct jinja_value out) {
    struct jinja_value v[2], item;
    TRY(jinja_bind(r, a, "map", "attribute default?", v));
    struct getter g = {.path = v[0], .fallback = v[1]};
    for (uint32_t i = 0; i < items->n; i++) {
        TRY(get(r, &g, items->items[i], &item));
        TRY(jinja_push(r, out, item));
    }
    return OK;
}

static err filter_map(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                      struct jinja_value *out) {
    struct jinja_value item;
    struct jinja_list *items;
    struct jinja_args rest;
    const struct jinja_builtin *filter;
    TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    if (!jinja_is_true(self)) return OK;
    TRY(jinja_iterate(r, self, &items));
    if (a->n == 0) return map_attribute(r, items, a, *out);
    TRY(named_builtin(r, a, 0, "filter", jinja_filter_find, &filter, &rest));
    for (uint32_t i = 0; i < items->n; i++) {
        TRY(call_on(r, filter, items->items[i], &rest, &item));
        TRY(jinja_push(r, *out, item));
    }
    return OK;
}

/* Items, or items whose attribute, pass a test; without a test those that are true. */
static err select_items(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a, int by_attribute,
                  int is_wanted, struct jinja_value *out) {
    struct jinja_list *items;
    struct jinja_args rest;
    struct getter g = {0};
    const struct jinja_builtin *test = NULL;
    uint32_t at = (uint32_t)by_attribute;
    TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    if (!jinja_is_true(self)) return OK;
    if (by_attribute && a->n == 0) return jinja_fail(r, "selectattr and rejectattr need the name of an attribute");
    if (by_attribute) g.path = a->values[0];
    if (a->n > at) TRY(named_builtin(r, a, at, "test", jinja_test_find, &test, &rest));
    TRY(jinja_iterate(r, self, &items));
    for (uint32_t i = 0; i < items->n; i++) {
        struct jinja_value v;
        TRY(get(r, &g, items->items[i], &v));
        if (test) TRY(call_on(r, test, v, &rest, &v));
        if (jinja_is_true(v) == is_wanted) TRY(jinja_push(r, *out, items->items[i]));
    }
    return OK;
}

static err filter_select(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    return select_items(r, self, a, 0, 1, out);
}

static err filter_reject(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                         struct jinja_value *out) {
    return select_items(r, self, a, 0, 0, out);
}

static err filter_selectattr(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                             struct jinja_value *out) {
    return select_items(r, self, a, 1, 1, out);
}

static err filter_rejectattr(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                             struct jinja_value *out) {
    return select_items(r, self, a, 1, 0, out);
}

const struct jinja_builtin jinja_list_filters[] = {
    {"batch", filter_batch},
    {"count", filter_length},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"groupby", filter_groupby},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"reverse", filter_reverse},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"slice", filter_slice},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
    {NULL, NULL},
};
