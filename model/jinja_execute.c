/* Statements, macros and loops. */
#include <string.h>

#include "model/jinja_run.h"

/* ---- assigning ---- */

static err assign_member(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *target,
                         struct jinja_value v) {
    struct jinja_value space;
    struct jinja_node variable = {.type = NODE_VARIABLE, .line = target->line, .name = target->name};
    TRY(jinja_evaluate(r, s, &variable, &space));
    if (space.kind != JINJA_NAMESPACE) return jinja_fail(r, "only a namespace has attributes that can be set");
    if (target->value.s[0] == '_') return jinja_fail(r, "attributes of a namespace do not begin with _");
    return jinja_put(r, space, target->value, v);
}

err jinja_assign(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *target, struct jinja_value v) {
    if (target->type == NODE_VARIABLE) return jinja_set_variable(r, s, target->name, v);
    if (target->type == NODE_MEMBER) return assign_member(r, s, target, v);
    struct jinja_list *items;
    uint32_t n = 0;
    TRY(jinja_iterate(r, v, &items));
    for (const struct jinja_node *t = target->items; t; t = t->next) n++;
    if (items->n != n) return jinja_fail(r, "%u values cannot be unpacked into %u names", items->n, n);
    n = 0;
    for (const struct jinja_node *t = target->items; t; t = t->next) TRY(jinja_assign(r, s, t, items->items[n++]));
    return OK;
}

/* ---- macros ---- */

static err new_macro(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n, struct jinja_value *out) {
    void *macro;
    TRY(jinja_arena_take(&r->arena, sizeof *out->macro, &macro));
    *(struct jinja_macro *)macro = (struct jinja_macro){n, s};
    *out = (struct jinja_value){.kind = JINJA_MACRO, .macro = macro};
    for (; s && !s->is_captured; s = s->parent) s->is_captured = 1;
    return OK;
}

static err set_by_name(struct jinja_run *r, struct jinja_scope *s, const char *name, struct jinja_value v) {
    int32_t number = strmap_find(&r->t->names, name, strlen(name), -1);
    return number < 0 ? OK : jinja_set_variable(r, s, number, v);
}

/* What the parameters leave: caller, varargs and kwargs where the body uses them, else an error. */
static err bind_rest(struct jinja_run *r, const struct jinja_node *n, const struct jinja_args *a, uint32_t n_taken,
                     const uint8_t *is_taken, struct jinja_scope *s) {
    struct jinja_value varargs, kwargs, caller = jinja_hint("no caller was given to the macro");
    TRY(jinja_new_list(r, JINJA_TUPLE, 0, &varargs));
    TRY(jinja_new_dict(r, JINJA_DICT, 0, &kwargs));
    for (uint32_t i = n_taken; i < a->n; i++) TRY(jinja_push(r, varargs, a->values[i]));
    if (varargs.list->n && !(n->op & JINJA_USES_VARARGS))
        return jinja_fail(r, "macro '%.*s' takes %u arguments at most, not %u",
                          (int)n->value.n, n->value.s, n_taken, a->n);
    for (uint32_t i = 0; i < a->n_keywords; i++) {
        struct jinja_value key = a->keywords[i].key;
        if (is_taken[i]) continue;
        if ((n->op & JINJA_USES_CALLER) && jinja_equals_text(key, "caller")) caller = a->keywords[i].value;
        else if (n->op & JINJA_USES_KWARGS) TRY(jinja_put(r, kwargs, key, a->keywords[i].value));
        else
            return jinja_fail(r, "macro '%.*s' has no argument '%.*s'", (int)n->value.n, n->value.s, (int)key.n, key.s);
    }
    if (n->op & JINJA_USES_CALLER) TRY(set_by_name(r, s, "caller", caller));
    if (n->op & JINJA_USES_VARARGS) TRY(set_by_name(r, s, "varargs", varargs));
    if (n->op & JINJA_USES_KWARGS) TRY(set_by_name(r, s, "kwargs", kwargs));
    return OK;
}

static err bind_macro(struct jinja_run *r, const struct jinja_macro *m, const struct jinja_args *a,
                      struct jinja_scope *s) {
    uint32_t n_taken = 0;
    void *is_taken;
    TRY(jinja_arena_take(&r->arena, a->n_keywords + 1, &is_taken));
    for (const struct jinja_node *p = m->node->a; p; p = p->next) {
        struct jinja_value v = JINJA_MISSING_VALUE;
        if (n_taken < a->n) v = a->values[n_taken++];
        for (uint32_t i = 0; i < a->n_keywords && v.kind == JINJA_MISSING; i++) {
            struct jinja_value key = a->keywords[i].key;
            if (key.n != p->value.n || memcmp(key.s, p->value.s, key.n) != 0) continue;
            v = a->keywords[i].value;
            ((uint8_t *)is_taken)[i] = 1;
        }
        if (v.kind == JINJA_MISSING && p->a) TRY(jinja_evaluate(r, s, p->a, &v));
        if (v.kind == JINJA_MISSING) v = jinja_hint("a parameter of the macro was not provided");
        TRY(jinja_set_variable(r, s, p->name, v));
    }
    return bind_rest(r, m->node, a, n_taken, is_taken, s);
}

static err capture_in(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *body,
                      struct jinja_value *out) {
    struct bytes text = {0}, *before = r->out;
    r->out = &text;
    err e = jinja_execute(r, s, body);
    r->out = before;
    return jinja_take_bytes(r, &text, e, out);
}

err jinja_capture(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *body, struct jinja_value *out) {
    struct jinja_scope *inner;
    TRY(jinja_new_scope(r, s, &inner));
    return capture_in(r, inner, body, out);
}

err jinja_call_macro(struct jinja_run *r, const struct jinja_macro *m, const struct jinja_args *a,
                     struct jinja_value *out) {
    struct jinja_scope *s;
    TRY(jinja_new_scope(r, m->scope, &s));
    TRY(bind_macro(r, m, a, s));
    return capture_in(r, s, m->node->items, out);
}

static err execute_call_block(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n) {
    struct jinja_value callee, caller, text;
    struct jinja_args a;
    TRY(jinja_evaluate(r, s, n->a->a, &callee));
    TRY(jinja_evaluate_args(r, s, n->a->items, &a));
    TRY(new_macro(r, s, n->b, &caller));
    void *keywords;
    TRY(jinja_arena_take(&r->arena, (a.n_keywords + 1) * sizeof *a.keywords, &keywords));
    if (a.n_keywords) memcpy(keywords, a.keywords, a.n_keywords * sizeof *a.keywords);
    a.keywords = keywords;
    a.keywords[a.n_keywords++] = (struct jinja_pair){jinja_literal("caller"), caller};
    r->line = n->line;
    TRY(jinja_call(r, callee, &a, &text));
    return jinja_write(r, text, r->out);
}

/* ---- loops ---- */

/* The next item that passes the condition, or MISSING. */
static err pull(struct jinja_run *r, struct jinja_loop *l, struct jinja_value *out) {
    *out = JINJA_MISSING_VALUE;
    while (l->at < l->source->n) {
        struct jinja_value item = l->source->items[l->at++], passes;
        if (l->test_scope) {
            l->test_scope->n = 0;
            TRY(jinja_assign(r, l->test_scope, l->node->a, item));
            TRY(jinja_evaluate(r, l->test_scope, l->node->c, &passes));
            if (!jinja_is_true(passes)) continue;
        }
        *out = item;
        break;
    }
    return OK;
}

static err look_ahead(struct jinja_run *r, struct jinja_loop *l) {
    return l->after.kind == JINJA_MISSING ? pull(r, l, &l->after) : OK;
}

static err loop_length(struct jinja_run *r, struct jinja_loop *l, int64_t *out) {
    if (l->test_scope) { /* all that is left must be tested now */
        struct jinja_value rest, item;
        TRY(jinja_new_list(r, JINJA_LIST, 0, &rest));
        for (;;) {
            TRY(pull(r, l, &item));
            if (item.kind == JINJA_MISSING) break;
            TRY(jinja_push(r, rest, item));
        }
        l->source = rest.list;
        l->at = 0;
        l->test_scope = NULL;
    }
    *out = l->index0 + 1 + (l->after.kind != JINJA_MISSING) + (l->source->n - l->at);
    return OK;
}

err jinja_loop_attribute(struct jinja_run *r, struct jinja_loop *l, struct jinja_value name,
                         struct jinja_value *out) {
    int64_t n = 0;
    int is_reverse = jinja_equals_text(name, "revindex"), is_reverse0 = jinja_equals_text(name, "revindex0");
    if (is_reverse || is_reverse0 || jinja_equals_text(name, "length")) {
        TRY(loop_length(r, l, &n));
        *out = jinja_int(is_reverse ? n - l->index0 : is_reverse0 ? n - l->index0 - 1 : n);
    } else if (jinja_equals_text(name, "index0")) {
        *out = jinja_int(l->index0);
    } else if (jinja_equals_text(name, "index")) {
        *out = jinja_int(l->index0 + 1);
    } else if (jinja_equals_text(name, "first")) {
        *out = jinja_bool(l->index0 == 0);
    } else if (jinja_equals_text(name, "last")) {
        TRY(look_ahead(r, l));
        *out = jinja_bool(l->after.kind == JINJA_MISSING);
    } else if (jinja_equals_text(name, "previtem")) {
        *out = l->index0 > 0 ? l->previous : jinja_hint("there is no previous item");
    } else if (jinja_equals_text(name, "nextitem")) {
        TRY(look_ahead(r, l));
        *out = l->after.kind != JINJA_MISSING ? l->after : jinja_hint("there is no next item");
    } else if (jinja_equals_text(name, "depth") || jinja_equals_text(name, "depth0")) {
        *out = jinja_int(l->depth0 + jinja_equals_text(name, "depth"));
    } else {
        *out = JINJA_MISSING_VALUE;
    }
    return OK;
}

static err new_loop(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n, struct jinja_value items,
                    struct jinja_loop **out) {
    void *loop;
    TRY(jinja_arena_take(&r->arena, sizeof **out, &loop));
    *out = loop;
    **out = (struct jinja_loop){.node = n, .scope = s, .index0 = -1};
    TRY(jinja_iterate(r, items, &(*out)->source));
    return n->c ? jinja_new_scope(r, s, &(*out)->test_scope) : OK;
}

/* One round; *is_over: none was left, or the body said break. *is_whole: a body ran to its end. */
static err run_round(struct jinja_run *r, struct jinja_loop *l, struct jinja_scope **s, int *is_over, int *is_whole) {
    struct jinja_value item;
    TRY(jinja_spend(r, 1));
    TRY(look_ahead(r, l));
    item = l->after;
    l->after = JINJA_MISSING_VALUE;
    *is_over = item.kind == JINJA_MISSING;
    if (*is_over) return OK;
    l->previous = l->current;
    l->current = item;
    l->index0++;
    if (!*s || (*s)->is_captured) TRY(jinja_new_scope(r, l->scope, s));
    (*s)->n = 0;
    TRY(set_by_name(r, *s, "loop", (struct jinja_value){.kind = JINJA_LOOP, .loop = l}));
    TRY(jinja_assign(r, *s, l->node->a, item));
    TRY(jinja_execute(r, *s, l->node->items));
    *is_over = r->flow == JINJA_BREAKS;
    *is_whole |= r->flow == JINJA_GOES_ON;
    r->flow = JINJA_GOES_ON;
    return OK;
}

static err run_loop(struct jinja_run *r, struct jinja_loop *l) {
    struct jinja_scope *s = NULL;
    int is_over = 0, is_whole = 0;
    while (!is_over) TRY(run_round(r, l, &s, &is_over, &is_whole));
    if (is_whole || !l->node->other) return OK;
    TRY(jinja_new_scope(r, l->scope, &s));
    return jinja_execute(r, s, l->node->other);
}

static err execute_for(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n) {
    struct jinja_value items;
    struct jinja_loop *l;
    TRY(jinja_evaluate(r, s, n->b, &items));
    r->line = n->line;
    TRY(new_loop(r, s, n, items, &l));
    return run_loop(r, l);
}

err jinja_call_loop(struct jinja_run *r, struct jinja_loop *l, const struct jinja_args *a, struct jinja_value *out) {
    struct jinja_value items;
    struct jinja_loop *inner;
    if (!l->node->op) return jinja_fail(r, "only a loop marked recursive can be called");
    TRY(jinja_bind(r, a, "loop", "iterable", &items));
    TRY(new_loop(r, l->scope, l->node, items, &inner));
    inner->depth0 = l->depth0 + 1;
    struct bytes text = {0}, *before = r->out;
    r->out = &text;
    err e = run_loop(r, inner);
    r->out = before;
    return jinja_take_bytes(r, &text, e, out);
}

/* ---- statements ---- */

static err execute_if(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n) {
    struct jinja_value condition;
    for (;; n = n->other) {
        TRY(jinja_evaluate(r, s, n->a, &condition));
        if (jinja_is_true(condition)) return jinja_execute(r, s, n->items);
        if (n->op == 0) return jinja_execute(r, s, n->other);
    }
}

static err execute_with(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n) {
    struct jinja_scope *inner;
    struct jinja_value v;
    TRY(jinja_new_scope(r, s, &inner));
    for (const struct jinja_node *set = n->a; set; set = set->next) {
        TRY(jinja_evaluate(r, s, set->b, &v));
        TRY(jinja_assign(r, inner, set->a, v));
    }
    return jinja_execute(r, inner, n->items);
}

/* The text of a block through its filters. */
static err filtered_block(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n,
                          struct jinja_value *out) {
    TRY(jinja_capture(r, s, n->items, out));
    struct jinja_value before = r->captured;
    r->captured = *out;
    err e = jinja_evaluate(r, s, n->b, out);
    r->captured = before;
    return e;
}

static err execute_one(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n) {
    struct jinja_value v;
    struct jinja_scope *inner;
    switch (n->type) {
    case NODE_TEXT: return jinja_write(r, n->value, r->out);
    case NODE_PRINT: TRY(jinja_evaluate(r, s, n->a, &v)); return jinja_write(r, v, r->out);
    case NODE_IF: return execute_if(r, s, n);
    case NODE_FOR: return execute_for(r, s, n);
    case NODE_SET: TRY(jinja_evaluate(r, s, n->b, &v)); return jinja_assign(r, s, n->a, v);
    case NODE_SET_BLOCK: TRY(filtered_block(r, s, n, &v)); return jinja_assign(r, s, n->a, v);
    case NODE_MACRO: TRY(new_macro(r, s, n, &v)); return jinja_set_variable(r, s, n->name, v);
    case NODE_CALL_BLOCK: return execute_call_block(r, s, n);
    case NODE_FILTER_BLOCK: TRY(filtered_block(r, s, n, &v)); return jinja_write(r, v, r->out);
    case NODE_WITH: return execute_with(r, s, n);
    case NODE_SCOPE: TRY(jinja_new_scope(r, s, &inner)); return jinja_execute(r, inner, n->items);
    case NODE_BREAK: r->flow = JINJA_BREAKS; return OK;
    case NODE_CONTINUE: r->flow = JINJA_CONTINUES; return OK;
    default: return jinja_fail(r, "a node that is no statement");
    }
}

err jinja_execute(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *body) {
    if (!body) return OK;
    TRY(jinja_enter(r));
    err e = OK;
    for (; body && e == OK && r->flow == JINJA_GOES_ON; body = body->next) {
        r->line = body->line;
        e = execute_one(r, s, body);
    }
    jinja_leave(r);
    return e;
}
