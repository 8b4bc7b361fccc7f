#include "model/jinja_syntax.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/jinja_run.h"

/* ---- tokens ---- */

struct jinja_token *jinja_peek(struct jinja_parser *p) { return &p->tokens[p->at]; }

int jinja_is_op(struct jinja_parser *p, int op) {
    return jinja_peek(p)->type == JINJA_OPERATOR && jinja_peek(p)->op == op;
}

int jinja_is_name(struct jinja_parser *p, const char *name) {
    return jinja_peek(p)->type == JINJA_NAME && jinja_equals_text(jinja_peek(p)->value, name);
}

int jinja_skip_op(struct jinja_parser *p, int op) {
    int is_there = jinja_is_op(p, op);
    p->at += (size_t)is_there;
    return is_there;
}

int jinja_skip_name(struct jinja_parser *p, const char *name) {
    int is_there = jinja_is_name(p, name);
    p->at += (size_t)is_there;
    return is_there;
}

err jinja_unexpected(struct jinja_parser *p, const char *expected) {
    struct jinja_token *t = jinja_peek(p);
    switch (t->type) {
    case JINJA_END: return jinja_syntax_error(t->line, "expected %s, found the end of the template", expected);
    case JINJA_PRINT_END:
    case JINJA_BLOCK_END: return jinja_syntax_error(t->line, "expected %s, found the end of the tag", expected);
    case JINJA_NAME:
        return jinja_syntax_error(t->line, "expected %s, found '%.*s'", expected, (int)t->value.n, t->value.s);
    case JINJA_OPERATOR:
        return t->op < 256 ? jinja_syntax_error(t->line, "expected %s, found '%c'", expected, t->op)
                           : jinja_syntax_error(t->line, "expected %s, found '%c%c'", expected, t->op >> 8,
                                                t->op & 255);
    default: return jinja_syntax_error(t->line, "expected %s, found a constant", expected);
    }
}

err jinja_expect_op(struct jinja_parser *p, int op) {
    char text[] = {'\'', (char)op, '\'', 0};
    return jinja_skip_op(p, op) ? OK : jinja_unexpected(p, text);
}

err jinja_expect(struct jinja_parser *p, enum jinja_token_type type) {
    if (jinja_peek(p)->type != type)
        return jinja_unexpected(p, type == JINJA_NAME        ? "a name"
                                   : type == JINJA_BLOCK_END ? "the end of the tag, %}"
                                                             : "the end of the tag, }}");
    p->at++;
    return OK;
}

/* ---- nodes ---- */

err jinja_node_new(struct jinja_parser *p, enum jinja_node_type type, uint32_t line, struct jinja_node **out) {
    void *node;
    *out = NULL;
    if (jinja_arena_take(&p->t->arena, sizeof **out, &node) != OK)
        return jinja_syntax_error(line, "the template is too large");
    *out = node;
    (*out)->type = type;
    (*out)->line = line;
    return OK;
}

err jinja_name_number(struct jinja_parser *p, struct jinja_value name, int32_t *out) {
    struct jinja_template *t = p->t;
    *out = strmap_find(&t->names, name.s, name.n, -1);
    if (*out >= 0) return OK;
    if (t->n_names == t->cap_names) {
        int32_t cap = t->cap_names ? 2 * t->cap_names : 32;
        struct jinja_value *grown = mem_resized(t->name_text, (size_t)cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        t->name_text = grown;
        t->cap_names = cap;
    }
    t->name_text[t->n_names] = name;
    *out = t->n_names++;
    return strmap_add(&t->names, name.s, name.n, *out);
}

/* ---- statements ---- */

static err parse_body(struct jinja_parser *p, const char *const *ends, struct jinja_node **first);

/* The rest of a tag, then statements up to one of `ends`, whose token comes next. */
static err parse_block(struct jinja_parser *p, const char *const *ends, struct jinja_node **first) {
    jinja_skip_op(p, ':');
    TRY(jinja_expect(p, JINJA_BLOCK_END));
    if (++p->depth > JINJA_TREE_DEPTH)
        return jinja_syntax_error(jinja_peek(p)->line, "nested more than %d levels deep", JINJA_TREE_DEPTH);
    TRY(parse_body(p, ends, first));
    p->depth--;
    return OK;
}

/* The same up to `end`, which is taken. */
static err parse_block_to(struct jinja_parser *p, const char *end, struct jinja_node **first) {
    const char *const ends[] = {end, NULL};
    TRY(parse_block(p, ends, first));
    p->at++;
    return OK;
}

static err parse_branches(struct jinja_parser *p, struct jinja_node *node) {
    static const char *const ends[] = {"elif", "else", "endif", NULL};
    for (;;) {
        TRY(jinja_parse_tuple(p, JINJA_WITHOUT_CHOICE, &node->a));
        TRY(parse_block(p, ends, &node->items));
        if (jinja_skip_name(p, "else")) return parse_block_to(p, "endif", &node->other);
        if (jinja_skip_name(p, "endif")) return OK;
        node->op = 1;
        TRY(jinja_node_new(p, NODE_IF, jinja_peek(p)->line, &node->other));
        p->at++;
        node = node->other;
    }
}

static err parse_if(struct jinja_parser *p, struct jinja_node *node) {
    p->n_conditions++;
    TRY(parse_branches(p, node));
    p->n_conditions--;
    return OK;
}

static err parse_for(struct jinja_parser *p, struct jinja_node *node) {
    static const char *const ends[] = {"else", "endfor", NULL};
    TRY(jinja_parse_target(p, 0, &node->a));
    if (!jinja_skip_name(p, "in")) return jinja_unexpected(p, "'in'");
    TRY(jinja_parse_tuple(p, JINJA_WITHOUT_CHOICE | JINJA_STOP_AT_RECURSIVE, &node->b));
    if (jinja_skip_name(p, "if")) TRY(jinja_parse_expression(p, &node->c));
    node->op = jinja_skip_name(p, "recursive");
    p->n_loops++;
    TRY(parse_block(p, ends, &node->items));
    p->n_loops--;
    if (jinja_skip_name(p, "else")) return parse_block_to(p, "endfor", &node->other);
    p->at++;
    return OK;
}

static err parse_set(struct jinja_parser *p, struct jinja_node *node) {
    TRY(jinja_parse_target(p, 1, &node->a));
    if (jinja_skip_op(p, '=')) return jinja_parse_tuple(p, 0, &node->b);
    node->type = NODE_SET_BLOCK;
    struct jinja_node *captured;
    TRY(jinja_node_new(p, NODE_CAPTURED, node->line, &captured));
    TRY(jinja_parse_filters(p, captured, 0, &node->b));
    return parse_block_to(p, "endset", &node->items);
}

static err parse_parameters(struct jinja_parser *p, struct jinja_node *macro) {
    struct jinja_node **tail = &macro->a;
    int has_default = 0;
    TRY(jinja_expect_op(p, '('));
    while (!jinja_is_op(p, ')')) {
        if (macro->a) TRY(jinja_expect_op(p, ','));
        TRY(jinja_parse_name(p, tail));
        (*tail)->type = NODE_PARAMETER;
        if (jinja_skip_op(p, '=')) TRY(jinja_parse_expression(p, &(*tail)->a));
        else if (has_default)
            return jinja_syntax_error((*tail)->line, "a parameter without a default follows one with");
        has_default = (*tail)->a != NULL;
        tail = &(*tail)->next;
    }
    return jinja_expect_op(p, ')');
}

/* A body of its own: break does not reach out of it, and what it names tells what else it takes. */
static err parse_macro_body(struct jinja_parser *p, struct jinja_node *macro, const char *end) {
    struct jinja_macro_frame frame = {macro, p->macro};
    unsigned n_loops = p->n_loops;
    p->macro = &frame;
    p->n_loops = 0;
    err e = parse_block_to(p, end, &macro->items);
    p->macro = frame.outer;
    p->n_loops = n_loops;
    return e;
}

static err parse_macro(struct jinja_parser *p, struct jinja_node *node) {
    struct jinja_node *name;
    TRY(jinja_parse_name(p, &name));
    node->name = name->name;
    node->value = name->value;
    TRY(parse_parameters(p, node));
    return parse_macro_body(p, node, "endmacro");
}

static err parse_call_block(struct jinja_parser *p, struct jinja_node *node) {
    TRY(jinja_node_new(p, NODE_MACRO, node->line, &node->b));
    node->b->name = -1;
    node->b->value = jinja_literal("caller");
    if (jinja_is_op(p, '(')) TRY(parse_parameters(p, node->b));
    TRY(jinja_parse_expression(p, &node->a));
    if (node->a->type != NODE_CALL) return jinja_syntax_error(node->line, "{%% call %%} needs a call");
    return parse_macro_body(p, node->b, "endcall");
}

static err parse_filter_block(struct jinja_parser *p, struct jinja_node *node) {
    struct jinja_node *captured;
    TRY(jinja_node_new(p, NODE_CAPTURED, node->line, &captured));
    TRY(jinja_parse_filters(p, captured, 1, &node->b));
    return parse_block_to(p, "endfilter", &node->items);
}

static err parse_with(struct jinja_parser *p, struct jinja_node *node) {
    struct jinja_node **tail = &node->a;
    while (jinja_peek(p)->type != JINJA_BLOCK_END) {
        if (node->a) TRY(jinja_expect_op(p, ','));
        TRY(jinja_node_new(p, NODE_SET, jinja_peek(p)->line, tail));
        TRY(jinja_parse_target(p, 0, &(*tail)->a));
        TRY(jinja_expect_op(p, '='));
        TRY(jinja_parse_expression(p, &(*tail)->b));
        tail = &(*tail)->next;
    }
    return parse_block_to(p, "endwith", &node->items);
}

/* Marks what the assistant said; a prompt does not need it. */
static err parse_generation(struct jinja_parser *p, struct jinja_node *node) {
    unsigned n_loops = p->n_loops;
    p->n_loops = 0;
    err e = parse_block_to(p, "endgeneration", &node->items);
    p->n_loops = n_loops;
    return e;
}

static err parse_print(struct jinja_parser *p, struct jinja_node *node) {
    struct jinja_node **tail = &node->items;
    node->type = NODE_SCOPE;
    while (jinja_peek(p)->type != JINJA_BLOCK_END) {
        if (node->items) TRY(jinja_expect_op(p, ','));
        TRY(jinja_node_new(p, NODE_PRINT, jinja_peek(p)->line, tail));
        TRY(jinja_parse_expression(p, &(*tail)->a));
        tail = &(*tail)->next;
    }
    return OK;
}

static err parse_jump(struct jinja_parser *p, struct jinja_node *node) {
    if (p->n_loops) return OK;
    return jinja_syntax_error(node->line, "break and continue need a loop around them");
}

static const struct {
    const char *tag;
    enum jinja_node_type type;
    err (*parse)(struct jinja_parser *p, struct jinja_node *node);
} statements[] = {
    {"if", NODE_IF, parse_if},
    {"for", NODE_FOR, parse_for},
    {"set", NODE_SET, parse_set},
    {"macro", NODE_MACRO, parse_macro},
    {"call", NODE_CALL_BLOCK, parse_call_block},
    {"filter", NODE_FILTER_BLOCK, parse_filter_block},
    {"with", NODE_WITH, parse_with},
    {"generation", NODE_SCOPE, parse_generation},
    {"print", NODE_SCOPE, parse_print},
    {"break", NODE_BREAK, parse_jump},
    {"continue", NODE_CONTINUE, parse_jump},
};

static err unknown_tag(struct jinja_parser *p, const char *const *ends) {
    struct jinja_token *t = jinja_peek(p);
    char awaited[80] = "";
    for (size_t i = 0; ends && ends[i]; i++) {
        strncat(awaited, i ? " or " : "; expected was ", sizeof awaited - strlen(awaited) - 1);
        strncat(awaited, ends[i], sizeof awaited - strlen(awaited) - 1);
    }
    return jinja_syntax_error(t->line, "unknown tag '%.*s'%s", (int)t->value.n, t->value.s, awaited);
}

static err parse_statement(struct jinja_parser *p, const char *const *ends, struct jinja_node **out) {
    struct jinja_token *t = jinja_peek(p);
    if (t->type != JINJA_NAME) return jinja_unexpected(p, "the name of a tag");
    for (size_t i = 0; i < sizeof statements / sizeof *statements; i++)
        if (jinja_equals_text(t->value, statements[i].tag)) {
            p->at++;
            TRY(jinja_node_new(p, statements[i].type, t->line, out));
            TRY(statements[i].parse(p, *out));
            return jinja_expect(p, JINJA_BLOCK_END);
        }
    return unknown_tag(p, ends);
}

static int is_end(struct jinja_parser *p, const char *const *ends) {
    for (size_t i = 0; ends && ends[i]; i++)
        if (jinja_is_name(p, ends[i])) return 1;
    return 0;
}

static err missing_end(const char *const *ends, uint32_t line) {
    while (ends[1]) ends++;
    return jinja_syntax_error(line, "the end of the template came before {%% %s %%}", *ends);
}

/* Statements and text up to the tag of one of `ends` (behind its {%), or to the end where `ends` is NULL. */
static err parse_body(struct jinja_parser *p, const char *const *ends, struct jinja_node **first) {
    struct jinja_node **tail = first;
    uint32_t line = jinja_peek(p)->line;
    for (;;) {
        struct jinja_token *t = jinja_peek(p);
        if (t->type == JINJA_END) return ends ? missing_end(ends, line) : OK;
        p->at++;
        if (t->type == JINJA_TEXT) {
            TRY(jinja_node_new(p, NODE_TEXT, t->line, tail));
            (*tail)->value = t->value;
        } else if (t->type == JINJA_PRINT_BEGIN) {
            TRY(jinja_node_new(p, NODE_PRINT, t->line, tail));
            TRY(jinja_parse_tuple(p, 0, &(*tail)->a));
            TRY(jinja_expect(p, JINJA_PRINT_END));
        } else {
            if (is_end(p, ends)) return OK;
            TRY(parse_statement(p, ends, tail));
        }
        tail = &(*tail)->next;
    }
}

err jinja_parse(struct jinja_template *t, const char *text, size_t n) {
    size_t n_tokens;
    struct jinja_parser p = {.t = t};
    t->arena.limit = JINJA_TREE_BYTES;
    TRY(jinja_lex(&t->arena, text, n, &p.tokens, &n_tokens));
    err e = parse_body(&p, NULL, &t->body);
    free(p.tokens);
    return e;
}

void jinja_template_free(struct jinja_template *t) {
    strmap_free(&t->names);
    free(t->name_text);
    jinja_arena_free(&t->arena);
    *t = (struct jinja_template){0};
}
