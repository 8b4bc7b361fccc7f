/* Expressions and calls. */
#include <string.h>

#include "model/jinja_run.h"

/* ---- scopes ---- */

err jinja_set_variable(struct jinja_run *r, struct jinja_scope *s, int32_t name, struct jinja_value v) {
    for (uint32_t i = 0; i < s->n; i++)
        if (s->variables[i].name == name) {
            s->variables[i].value = v;
            return OK;
        }
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? 2 * s->cap : 4;
        void *grown;
        TRY(jinja_arena_take(&r->arena, cap * sizeof *s->variables, &grown));
        if (s->n) memcpy(grown, s->variables, s->n * sizeof *s->variables);
        s->variables = grown;
        s->cap = cap;
    }
    s->variables[s->n++] = (struct jinja_variable){name, v};
    return OK;
}

err jinja_new_scope(struct jinja_run *r, struct jinja_scope *parent, struct jinja_scope **out) {
    void *scope;
    TRY(jinja_arena_take(&r->arena, sizeof **out, &scope));
    *out = scope;
    (*out)->parent = parent;
    return OK;
}

static struct jinja_value variable(struct jinja_run *r, struct jinja_scope *s, int32_t name) {
    for (; s; s = s->parent)
        for (uint32_t i = 0; i < s->n; i++)
            if (s->variables[i].name == name) return s->variables[i].value;
    struct jinja_value text = r->t->name_text[name];
    const struct jinja_builtin *function = jinja_function_find(text.s, text.n);
    if (function) return (struct jinja_value){.kind = JINJA_FUNCTION, .function = function};
    return (struct jinja_value){
        .kind = JINJA_UNDEFINED, .undefined = JINJA_NO_VARIABLE, .n = text.n, .s = text.s};
}

/* ---- arguments ---- */

static err add_keyword(struct jinja_run *r, struct jinja_args *a, uint32_t *cap, struct jinja_value name,
                       struct jinja_value value) {
    for (uint32_t i = 0; i < a->n_keywords; i++)
        if (name.n == a->keywords[i].key.n && memcmp(name.s, a->keywords[i].key.s, name.n) == 0)
            return jinja_fail(r, "the argument '%.*s' is given twice", (int)name.n, name.s);
    if (a->n_keywords == *cap) {
        void *grown;
        *cap = *cap ? 2 * *cap : 4;
        TRY(jinja_arena_take(&r->arena, *cap * sizeof *a->keywords, &grown));
        if (a->n_keywords) memcpy(grown, a->keywords, a->n_keywords * sizeof *a->keywords);
        a->keywords = grown;
    }
    a->keywords[a->n_keywords++] = (struct jinja_pair){name, value};
    return OK;
}

/* *values and **keywords. */
static err spread(struct jinja_run *r, const struct jinja_node *n, struct jinja_value v, struct jinja_value list,
                  struct jinja_args *a, uint32_t *cap_keywords) {
    if (n->type == NODE_ARGUMENT_LIST) {
        struct jinja_list *items;
        TRY(jinja_iterate(r, v, &items));
        for (uint32_t i = 0; i < items->n; i++) TRY(jinja_push(r, list, items->items[i]));
        return OK;
    }
    if (v.kind != JINJA_DICT) return jinja_fail(r, "** takes a dict, not a %s", jinja_type_name(v));
    for (uint32_t i = 0; i < v.dict->n; i++) {
        TRY(jinja_want_string(r, v.dict->pairs[i].key, "a key behind **"));
        TRY(add_keyword(r, a, cap_keywords, v.dict->pairs[i].key, v.dict->pairs[i].value));
    }
    return OK;
}

err jinja_evaluate_args(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *first,
                        struct jinja_args *a) {
    uint32_t cap_keywords = 0;
    struct jinja_value list, v;
    *a = (struct jinja_args){0};
    if (!first) return OK;
    TRY(jinja_new_list(r, JINJA_LIST, 2, &list));
    for (const struct jinja_node *n = first; n; n = n->next) {
        TRY(jinja_evaluate(r, s, n->a, &v));
        if (n->type == NODE_ARGUMENT) TRY(jinja_push(r, list, v));
        else if (n->type == NODE_KEYWORD) TRY(add_keyword(r, a, &cap_keywords, n->value, v));
        else TRY(spread(r, n, v, list, a, &cap_keywords));
    }
    a->values = list.list->items;
    a->n = list.list->n;
    return OK;
}

static const struct jinja_value *keyword(const struct jinja_args *a, const char *name, size_t n) {
    for (uint32_t i = 0; i < a->n_keywords; i++)
        if (a->keywords[i].key.n == n && memcmp(a->keywords[i].key.s, name, n) == 0) return &a->keywords[i].value;
    return NULL;
}

err jinja_bind(struct jinja_run *r, const struct jinja_args *a, const char *function, const char *names,
               struct jinja_value *out) {
    uint32_t n_names = 0, n_used = 0;
    for (const char *at = names; *at;) {
        size_t n = strcspn(at, " ?");
        const struct jinja_value *given = keyword(a, at, n);
        n_used += given != NULL;
        if (given && n_names < a->n)
            return jinja_fail(r, "%s: the argument '%.*s' is given twice", function, (int)n, at);
        if (!given && n_names < a->n) given = &a->values[n_names];
        if (!given && at[n] != '?') return jinja_fail(r, "%s needs the argument '%.*s'", function, (int)n, at);
        out[n_names++] = given ? *given : JINJA_MISSING_VALUE;
        at += n + (at[n] == '?');
        at += *at == ' ';
    }
    if (a->n > n_names) return jinja_fail(r, "%s takes %u arguments at most, not %u", function, n_names, a->n);
    if (a->n_keywords == n_used) return OK;
    return jinja_fail(r, "%s does not have one of the arguments that are given by name; it has: %s", function, names);
}

err jinja_want_string(struct jinja_run *r, struct jinja_value v, const char *what) {
    if (v.kind == JINJA_STRING) return OK;
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    return jinja_fail(r, "%s must be a str, not a %s", what, jinja_type_name(v));
}

err jinja_want_int(struct jinja_run *r, struct jinja_value v, const char *what, int64_t fallback, int64_t *out) {
    *out = v.kind == JINJA_MISSING || v.kind == JINJA_NONE ? fallback : v.i;
    if (v.kind == JINJA_MISSING || v.kind == JINJA_NONE || jinja_is_whole(v)) return OK;
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    return jinja_fail(r, "%s must be a whole number, not a %s", what, jinja_type_name(v));
}

/* ---- calls ---- */

err jinja_call(struct jinja_run *r, struct jinja_value callee, const struct jinja_args *a, struct jinja_value *out) {
    switch (callee.kind) {
    case JINJA_FUNCTION: return callee.function->call(r, callee, a, out);
    case JINJA_METHOD: return callee.method->builtin->call(r, callee.method->self, a, out);
    case JINJA_MACRO: return jinja_call_macro(r, callee.macro, a, out);
    case JINJA_LOOP: return jinja_call_loop(r, callee.loop, a, out);
    case JINJA_UNDEFINED: return jinja_fail_undefined(r, callee);
    default: return jinja_fail(r, "a %s cannot be called", jinja_type_name(callee));
    }
}

static err evaluate_call(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                         struct jinja_value *out) {
    struct jinja_value callee;
    struct jinja_args a;
    TRY(jinja_evaluate(r, s, n->a, &callee));
    TRY(jinja_evaluate_args(r, s, n->items, &a));
    r->line = n->line;
    return jinja_call(r, callee, &a, out);
}

/* A filter or a test. */
static err evaluate_builtin(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                            struct jinja_value *out) {
    struct jinja_value self;
    struct jinja_args a;
    if (!n->builtin)
        return jinja_fail(r, "no %s is named '%.*s'", n->type == NODE_FILTER ? "filter" : "test", (int)n->value.n,
                          n->value.s);
    TRY(jinja_evaluate(r, s, n->a, &self));
    TRY(jinja_evaluate_args(r, s, n->items, &a));
    r->line = n->line;
    return n->builtin->call(r, self, &a, out);
}

/* ---- literals ---- */

static err evaluate_list(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                         struct jinja_value *out) {
    struct jinja_value list, item;
    TRY(jinja_new_list(r, n->type == NODE_LIST ? JINJA_LIST : JINJA_TUPLE, n->items ? 2 : 0, &list));
    for (const struct jinja_node *i = n->items; i; i = i->next) {
        TRY(jinja_evaluate(r, s, i, &item));
        TRY(jinja_push(r, list, item));
    }
    *out = list;
    return OK;
}

static err evaluate_dict(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                         struct jinja_value *out) {
    struct jinja_value dict, key, value;
    TRY(jinja_new_dict(r, JINJA_DICT, 0, &dict));
    for (const struct jinja_node *i = n->items; i; i = i->next) {
        TRY(jinja_evaluate(r, s, i->a, &key));
        TRY(jinja_evaluate(r, s, i->b, &value));
        r->line = i->line;
        TRY(jinja_put(r, dict, key, value));
    }
    *out = dict;
    return OK;
}

/* ---- operators ---- */

static err evaluate_two(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                        struct jinja_value *out) {
    struct jinja_value a, b;
    TRY(jinja_evaluate(r, s, n->a, &a));
    TRY(jinja_evaluate(r, s, n->b, &b));
    r->line = n->line;
    if (n->type == NODE_ITEM) return jinja_item(r, a, b, out);
    return jinja_binary(r, n->op, a, b, out);
}

static err evaluate_slice(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                          struct jinja_value *out) {
    const struct jinja_node *const nodes[] = {n->b, n->c, n->d};
    struct jinja_value v, bounds[3];
    TRY(jinja_evaluate(r, s, n->a, &v));
    for (int i = 0; i < 3; i++) {
        bounds[i] = JINJA_NONE_VALUE;
        if (nodes[i]) TRY(jinja_evaluate(r, s, nodes[i], &bounds[i]));
    }
    r->line = n->line;
    return jinja_slice(r, v, bounds, out);
}

/* a < b < c is a < b and b < c. */
static err evaluate_comparison(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                               struct jinja_value *out) {
    struct jinja_value left, right;
    int holds = 1;
    TRY(jinja_evaluate(r, s, n->a, &left));
    for (const struct jinja_node *i = n->items; i && holds; i = i->next, left = right) {
        TRY(jinja_evaluate(r, s, i->a, &right));
        r->line = i->line;
        TRY(jinja_compare(r, i->op, left, right, &holds));
    }
    *out = jinja_bool(holds);
    return OK;
}

static err evaluate_concat(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                           struct jinja_value *out) {
    struct jinja_value whole, v;
    TRY(jinja_evaluate(r, s, n->items, &v));
    TRY(jinja_text(r, v, &whole));
    for (const struct jinja_node *i = n->items->next; i; i = i->next) {
        TRY(jinja_evaluate(r, s, i, &v));
        r->line = n->line;
        TRY(jinja_text(r, v, &v));
        TRY(jinja_join(r, whole, v, &whole));
    }
    *out = whole;
    return OK;
}

/* The operand that decides is the value: 'a' or 'b' is 'a'. */
static err evaluate_logic(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                          struct jinja_value *out) {
    TRY(jinja_evaluate(r, s, n->a, out));
    return jinja_is_true(*out) == (n->type == NODE_AND) ? jinja_evaluate(r, s, n->b, out) : OK;
}

static err evaluate_choice(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                           struct jinja_value *out) {
    struct jinja_value condition;
    TRY(jinja_evaluate(r, s, n->a, &condition));
    if (jinja_is_true(condition)) return jinja_evaluate(r, s, n->b, out);
    if (n->c) return jinja_evaluate(r, s, n->c, out);
    *out = jinja_hint("an inline if was false and has no else");
    return OK;
}

static err evaluate(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n, struct jinja_value *out) {
    struct jinja_value a;
    switch (n->type) {
    case NODE_CONSTANT: *out = n->value; return OK;
    case NODE_VARIABLE: *out = variable(r, s, n->name); return OK;
    case NODE_CAPTURED: *out = r->captured; return OK;
    case NODE_LIST:
    case NODE_TUPLE: return evaluate_list(r, s, n, out);
    case NODE_DICT: return evaluate_dict(r, s, n, out);
    case NODE_SLICE: return evaluate_slice(r, s, n, out);
    case NODE_CALL: return evaluate_call(r, s, n, out);
    case NODE_FILTER:
    case NODE_TEST: return evaluate_builtin(r, s, n, out);
    case NODE_AND:
    case NODE_OR: return evaluate_logic(r, s, n, out);
    case NODE_ITEM:
    case NODE_BINARY: return evaluate_two(r, s, n, out);
    case NODE_COMPARE: return evaluate_comparison(r, s, n, out);
    case NODE_CONCAT: return evaluate_concat(r, s, n, out);
    case NODE_CHOICE: return evaluate_choice(r, s, n, out);
    default: break;
    }
    TRY(jinja_evaluate(r, s, n->a, &a)); /* one operand */
    r->line = n->line;
    if (n->type == NODE_ATTRIBUTE) return jinja_attribute(r, a, n->b->value, out);
    if (n->type != NODE_NOT) return jinja_negative(r, a, n->type == NODE_NEGATIVE ? -1 : 1, out);
    *out = jinja_bool(!jinja_is_true(a));
    return OK;
}

err jinja_evaluate(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n, struct jinja_value *out) {
    r->line = n->line;
    TRY(jinja_enter(r));
    err e = evaluate(r, s, n, out);
    jinja_leave(r);
    return e;
}
