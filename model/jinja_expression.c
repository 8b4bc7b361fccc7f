/* Tokens of expressions to trees. The order of precedence is Jinja's, weakest first: inline if, or, and, not,
 * comparisons, + -, ~, * / // %, **, signs, then calls, subscripts, filters and tests. */
#include "model/jinja_syntax.h"

#include <string.h>

#include "model/jinja_run.h"

#define OP2 JINJA_OP2

static err parse_or(struct jinja_parser *p, struct jinja_node **out);
static err parse_unary(struct jinja_parser *p, int takes_filters, struct jinja_node **out);

static err enter(struct jinja_parser *p) {
    if (++p->depth <= JINJA_TREE_DEPTH) return OK;
    return jinja_syntax_error(jinja_peek(p)->line, "nested more than %d levels deep", JINJA_TREE_DEPTH);
}

static err two(struct jinja_parser *p, enum jinja_node_type type, uint32_t line, struct jinja_node *a,
               struct jinja_node *b, struct jinja_node **out) {
    TRY(jinja_node_new(p, type, line, out));
    (*out)->a = a;
    (*out)->b = b;
    return OK;
}

/* ---- literals and names ---- */

static int text_is(struct jinja_value v, const char *s) { return jinja_equals_text(v, s); }

/* A macro takes more arguments when its body says `caller`, `varargs` or `kwargs`. */
static void note_use(struct jinja_parser *p, struct jinja_value name) {
    int use = text_is(name, "caller")    ? JINJA_USES_CALLER
              : text_is(name, "varargs") ? JINJA_USES_VARARGS
              : text_is(name, "kwargs")  ? JINJA_USES_KWARGS
                                         : 0;
    for (struct jinja_macro_frame *m = use ? p->macro : NULL; m; m = m->outer) m->node->op |= use;
}

err jinja_parse_name(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_token *t = jinja_peek(p);
    if (t->type != JINJA_NAME) return jinja_unexpected(p, "a name");
    static const char *const constants[] = {"true", "false", "none", "True", "False", "None"};
    for (size_t i = 0; i < sizeof constants / sizeof *constants; i++)
        if (text_is(t->value, constants[i]))
            return jinja_syntax_error(t->line, "cannot assign to %s", constants[i]);
    TRY(jinja_node_new(p, NODE_VARIABLE, t->line, out));
    (*out)->value = t->value;
    p->at++;
    return jinja_name_number(p, t->value, &(*out)->name);
}

static err parse_word(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_token *t = jinja_peek(p);
    struct jinja_value v = t->value;
    int is_true = text_is(v, "true") || text_is(v, "True"), is_false = text_is(v, "false") || text_is(v, "False");
    int is_none = text_is(v, "none") || text_is(v, "None");
    if (!is_true && !is_false && !is_none) {
        note_use(p, v);
        return jinja_parse_name(p, out);
    }
    TRY(jinja_node_new(p, NODE_CONSTANT, t->line, out));
    (*out)->value = is_none ? JINJA_NONE_VALUE : jinja_bool(is_true);
    p->at++;
    return OK;
}

/* Strings that stand side by side are one. */
static err parse_constant(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_token *t = jinja_peek(p);
    TRY(jinja_node_new(p, NODE_CONSTANT, t->line, out));
    (*out)->value = t->value;
    p->at++;
    if (t->value.kind != JINJA_STRING) return OK;
    size_t n = t->value.n, n_strings = 1;
    for (struct jinja_token *next = t + 1; next->type == JINJA_CONSTANT && next->value.kind == JINJA_STRING; next++)
        n += next->value.n, n_strings++;
    if (n_strings == 1) return OK;
    char *s;
    TRY(jinja_arena_text(&p->t->arena, n, &s));
    (*out)->value = jinja_string(s, n);
    for (size_t i = 0; i < n_strings; i++, s += t->value.n, t++) memcpy(s, t->value.s, t->value.n);
    p->at += n_strings - 1;
    return OK;
}

static err parse_list(struct jinja_parser *p, struct jinja_node **out) {
    TRY(jinja_node_new(p, NODE_LIST, jinja_peek(p)->line, out));
    TRY(jinja_expect_op(p, '['));
    struct jinja_node **tail = &(*out)->items;
    while (!jinja_is_op(p, ']')) {
        if ((*out)->items) TRY(jinja_expect_op(p, ','));
        if (jinja_is_op(p, ']')) break;
        TRY(jinja_parse_expression(p, tail));
        tail = &(*tail)->next;
    }
    return jinja_expect_op(p, ']');
}

static err parse_dict(struct jinja_parser *p, struct jinja_node **out) {
    TRY(jinja_node_new(p, NODE_DICT, jinja_peek(p)->line, out));
    TRY(jinja_expect_op(p, '{'));
    struct jinja_node **tail = &(*out)->items;
    while (!jinja_is_op(p, '}')) {
        if ((*out)->items) TRY(jinja_expect_op(p, ','));
        if (jinja_is_op(p, '}')) break;
        struct jinja_node *key, *value;
        TRY(jinja_parse_expression(p, &key));
        TRY(jinja_expect_op(p, ':'));
        TRY(jinja_parse_expression(p, &value));
        TRY(two(p, NODE_PAIR, key->line, key, value, tail));
        tail = &(*tail)->next;
    }
    return jinja_expect_op(p, '}');
}

static err parse_primary(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_token *t = jinja_peek(p);
    if (t->type == JINJA_NAME) return parse_word(p, out);
    if (t->type == JINJA_CONSTANT) return parse_constant(p, out);
    if (jinja_is_op(p, '[')) return parse_list(p, out);
    if (jinja_is_op(p, '{')) return parse_dict(p, out);
    if (!jinja_is_op(p, '(')) return jinja_unexpected(p, "an expression");
    p->at++;
    TRY(jinja_parse_tuple(p, JINJA_IN_PARENTHESES, out));
    return jinja_expect_op(p, ')');
}

/* ---- subscripts and calls ---- */

static int ends_bound(struct jinja_parser *p) {
    return jinja_is_op(p, ']') || jinja_is_op(p, ',') || jinja_is_op(p, ':');
}

/* What stands in [ ] behind `whole`. */
static err parse_subscript(struct jinja_parser *p, struct jinja_node *whole, struct jinja_node **out) {
    struct jinja_node *bounds[3] = {NULL};
    uint32_t line = jinja_peek(p)->line;
    TRY(jinja_expect_op(p, '['));
    if (!ends_bound(p)) TRY(jinja_parse_expression(p, &bounds[0]));
    if (!jinja_is_op(p, ':')) {
        if (!bounds[0]) return jinja_unexpected(p, "an index");
        if (jinja_is_op(p, ',')) return jinja_syntax_error(line, "several indices in one [ ] are not supported");
        TRY(two(p, NODE_ITEM, line, whole, bounds[0], out));
        return jinja_expect_op(p, ']');
    }
    for (int i = 1; i < 3 && jinja_skip_op(p, ':'); i++)
        if (!ends_bound(p)) TRY(jinja_parse_expression(p, &bounds[i]));
    TRY(two(p, NODE_SLICE, line, whole, bounds[0], out));
    (*out)->c = bounds[1];
    (*out)->d = bounds[2];
    return jinja_expect_op(p, ']');
}

static err parse_attribute(struct jinja_parser *p, struct jinja_node *whole, struct jinja_node **out) {
    p->at++;
    struct jinja_token *t = jinja_peek(p);
    int is_index = t->type == JINJA_CONSTANT && t->value.kind == JINJA_INT;
    if (t->type != JINJA_NAME && !is_index) return jinja_unexpected(p, "a name after the dot");
    struct jinja_node *index;
    TRY(jinja_node_new(p, NODE_CONSTANT, t->line, &index));
    index->value = t->value;
    p->at++;
    return two(p, is_index ? NODE_ITEM : NODE_ATTRIBUTE, t->line, whole, index, out);
}

/* One argument; *stage is how far the call has come: 0 positional, 1 keywords, 2 behind *, 3 behind **. */
static err parse_argument(struct jinja_parser *p, int *stage, struct jinja_node **out) {
    struct jinja_token *t = jinja_peek(p);
    int is_keyword = t->type == JINJA_NAME && t[1].type == JINJA_OPERATOR && t[1].op == '=';
    enum jinja_node_type type = jinja_is_op(p, '*')            ? NODE_ARGUMENT_LIST
                                : jinja_is_op(p, OP2('*', '*')) ? NODE_ARGUMENT_DICT
                                : is_keyword                   ? NODE_KEYWORD
                                                               : NODE_ARGUMENT;
    int latest = type == NODE_ARGUMENT ? 0 : type == NODE_ARGUMENT_LIST ? 1 : 2;
    if (*stage > latest) return jinja_syntax_error(t->line, "arguments in an order that a call cannot have");
    *stage = type == NODE_ARGUMENT ? 0 : type == NODE_KEYWORD ? (*stage > 1 ? *stage : 1)
             : type == NODE_ARGUMENT_LIST ? 2 : 3;
    TRY(jinja_node_new(p, type, t->line, out));
    (*out)->value = t->value;
    p->at += type == NODE_ARGUMENT ? 0 : type == NODE_KEYWORD ? 2 : 1;
    return jinja_parse_expression(p, &(*out)->a);
}

static err parse_arguments(struct jinja_parser *p, struct jinja_node **first) {
    int stage = 0;
    struct jinja_node **tail = first;
    TRY(jinja_expect_op(p, '('));
    while (!jinja_is_op(p, ')')) {
        if (*first) TRY(jinja_expect_op(p, ','));
        if (jinja_is_op(p, ')')) break;
        TRY(parse_argument(p, &stage, tail));
        tail = &(*tail)->next;
    }
    return jinja_expect_op(p, ')');
}

static err parse_call(struct jinja_parser *p, struct jinja_node *callee, struct jinja_node **out) {
    TRY(two(p, NODE_CALL, jinja_peek(p)->line, callee, NULL, out));
    return parse_arguments(p, &(*out)->items);
}

static err parse_postfix(struct jinja_parser *p, struct jinja_node *node, struct jinja_node **out) {
    for (*out = node;; node = *out) {
        if (jinja_is_op(p, '.')) TRY(parse_attribute(p, node, out));
        else if (jinja_is_op(p, '[')) TRY(parse_subscript(p, node, out));
        else if (jinja_is_op(p, '(')) TRY(parse_call(p, node, out));
        else return OK;
    }
}

/* ---- filters and tests ---- */

/* A name, perhaps with dots in it: no filter or test of ours has any. */
static err parse_builtin(struct jinja_parser *p, const char *what,
                         const struct jinja_builtin *(*find)(const char *, size_t), struct jinja_node *node) {
    struct jinja_token *t = jinja_peek(p);
    TRY(jinja_expect(p, JINJA_NAME));
    node->value = t->value;
    node->builtin = find(t->value.s, t->value.n);
    if (node->builtin || p->n_conditions) return OK; /* behind a condition it fails where it runs, as in Jinja */
    return jinja_syntax_error(t->line, "no %s is named '%.*s'", what, (int)t->value.n, t->value.s);
}

err jinja_parse_filters(struct jinja_parser *p, struct jinja_node *node, int is_inside, struct jinja_node **out) {
    for (*out = node; is_inside || jinja_is_op(p, '|'); is_inside = 0, node = *out) {
        if (!is_inside) p->at++;
        TRY(two(p, NODE_FILTER, jinja_peek(p)->line, node, NULL, out));
        TRY(parse_builtin(p, "filter", jinja_filter_find, *out));
        if (jinja_is_op(p, '(')) TRY(parse_arguments(p, &(*out)->items));
    }
    return OK;
}

/* Whether the one argument of a test follows without parentheses: `is divisibleby 3`. */
static int has_bare_argument(struct jinja_parser *p) {
    struct jinja_token *t = jinja_peek(p);
    if (t->type == JINJA_CONSTANT || jinja_is_op(p, '[') || jinja_is_op(p, '{')) return 1;
    return t->type == JINJA_NAME && !jinja_is_name(p, "else") && !jinja_is_name(p, "or") &&
           !jinja_is_name(p, "and");
}

static err parse_test(struct jinja_parser *p, struct jinja_node *node, struct jinja_node **out) {
    p->at++;
    uint32_t line = jinja_peek(p)->line;
    int is_negated = jinja_skip_name(p, "not");
    struct jinja_node *test;
    TRY(two(p, NODE_TEST, line, node, NULL, &test));
    TRY(parse_builtin(p, "test", jinja_test_find, test));
    if (jinja_is_op(p, '(')) {
        TRY(parse_arguments(p, &test->items));
    } else if (has_bare_argument(p)) {
        if (jinja_is_name(p, "is")) return jinja_syntax_error(line, "tests cannot be chained with is");
        struct jinja_node *value;
        TRY(jinja_node_new(p, NODE_ARGUMENT, line, &test->items));
        TRY(parse_primary(p, &value));
        TRY(parse_postfix(p, value, &test->items->a));
    }
    *out = test;
    return is_negated ? two(p, NODE_NOT, line, test, NULL, out) : OK;
}

static err parse_filters_and_tests(struct jinja_parser *p, struct jinja_node *node, struct jinja_node **out) {
    for (*out = node;; node = *out) {
        if (jinja_is_op(p, '|')) TRY(jinja_parse_filters(p, node, 0, out));
        else if (jinja_is_name(p, "is")) TRY(parse_test(p, node, out));
        else if (jinja_is_op(p, '(')) TRY(parse_call(p, node, out));
        else return OK;
    }
}

/* ---- operators ---- */

static err parse_sign(struct jinja_parser *p, struct jinja_node **out) {
    enum jinja_node_type type = jinja_is_op(p, '-') ? NODE_NEGATIVE : NODE_POSITIVE;
    uint32_t line = jinja_peek(p)->line;
    struct jinja_node *a;
    p->at++;
    TRY(enter(p));
    TRY(parse_unary(p, 0, &a));
    p->depth--;
    return two(p, type, line, a, NULL, out);
}

static err parse_unary(struct jinja_parser *p, int takes_filters, struct jinja_node **out) {
    struct jinja_node *node;
    if (jinja_is_op(p, '-') || jinja_is_op(p, '+')) TRY(parse_sign(p, &node));
    else TRY(parse_primary(p, &node));
    TRY(parse_postfix(p, node, out));
    return takes_filters ? parse_filters_and_tests(p, *out, out) : OK;
}

/* Levels of binary operators, weakest first; ~ stands between + and *. */
enum { LEVEL_SUM, LEVEL_CONCAT, LEVEL_PRODUCT, LEVEL_POWER, LEVEL_UNARY };

static int is_of_level(struct jinja_parser *p, int level) {
    switch (level) {
    case LEVEL_SUM: return jinja_is_op(p, '+') || jinja_is_op(p, '-');
    case LEVEL_CONCAT: return jinja_is_op(p, '~');
    case LEVEL_PRODUCT:
        return jinja_is_op(p, '*') || jinja_is_op(p, '/') || jinja_is_op(p, OP2('/', '/')) || jinja_is_op(p, '%');
    default: return jinja_is_op(p, OP2('*', '*'));
    }
}

static err parse_binary(struct jinja_parser *p, int level, struct jinja_node **out) {
    if (level == LEVEL_UNARY) return parse_unary(p, 1, out);
    struct jinja_node *node, *right, *concat = NULL;
    TRY(parse_binary(p, level + 1, &node));
    for (*out = node; is_of_level(p, level); node = *out) {
        struct jinja_token *t = jinja_peek(p);
        p->at++;
        TRY(parse_binary(p, level + 1, &right));
        if (level != LEVEL_CONCAT) {
            TRY(two(p, NODE_BINARY, t->line, node, right, out));
            (*out)->op = t->op;
        } else if (!concat) { /* one node for all of a ~ b ~ c: its text is made at once */
            TRY(jinja_node_new(p, NODE_CONCAT, t->line, out));
            (*out)->items = node;
            concat = node->next = right;
        } else {
            concat = concat->next = right;
        }
    }
    return OK;
}

/* The comparison that begins here, taken, or 0. */
static int take_comparison(struct jinja_parser *p) {
    static const int ops[] = {OP2('=', '='), OP2('!', '='), OP2('<', '='), OP2('>', '='), '<', '>'};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++)
        if (jinja_skip_op(p, ops[i])) return ops[i];
    if (jinja_skip_name(p, "in")) return 'i';
    struct jinja_token *t = jinja_peek(p);
    if (!jinja_is_name(p, "not") || t[1].type != JINJA_NAME || !text_is(t[1].value, "in")) return 0;
    p->at += 2;
    return 'n';
}

static err parse_comparison(struct jinja_parser *p, struct jinja_node **out) {
    TRY(parse_binary(p, LEVEL_SUM, out));
    struct jinja_node *first = *out, **tail = NULL;
    for (;;) {
        uint32_t line = jinja_peek(p)->line;
        int op = take_comparison(p);
        if (!op) return OK;
        if (!tail) {
            TRY(two(p, NODE_COMPARE, line, first, NULL, out));
            tail = &(*out)->items;
        }
        TRY(jinja_node_new(p, NODE_OPERAND, line, tail));
        (*tail)->op = op;
        TRY(parse_binary(p, LEVEL_SUM, &(*tail)->a));
        tail = &(*tail)->next;
    }
}

static err parse_not(struct jinja_parser *p, struct jinja_node **out) {
    if (!jinja_is_name(p, "not")) return parse_comparison(p, out);
    struct jinja_node *a;
    uint32_t line = jinja_peek(p)->line;
    p->at++;
    TRY(enter(p));
    TRY(parse_not(p, &a));
    p->depth--;
    return two(p, NODE_NOT, line, a, NULL, out);
}

static err parse_and(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_node *left, *right;
    TRY(parse_not(p, &left));
    for (*out = left; jinja_is_name(p, "and"); left = *out) {
        uint32_t line = jinja_peek(p)->line;
        p->at++;
        TRY(parse_not(p, &right));
        TRY(two(p, NODE_AND, line, left, right, out));
    }
    return OK;
}

static err parse_or(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_node *left, *right;
    TRY(enter(p));
    TRY(parse_and(p, &left));
    for (*out = left; jinja_is_name(p, "or"); left = *out) {
        uint32_t line = jinja_peek(p)->line;
        p->at++;
        TRY(parse_and(p, &right));
        TRY(two(p, NODE_OR, line, left, right, out));
    }
    p->depth--;
    return OK;
}

err jinja_parse_expression(struct jinja_parser *p, struct jinja_node **out) {
    struct jinja_node *value;
    TRY(parse_or(p, &value));
    TRY(enter(p));
    p->n_conditions++;
    for (*out = value; jinja_is_name(p, "if"); value = *out) {
        struct jinja_node *condition, *otherwise = NULL;
        uint32_t line = jinja_peek(p)->line;
        p->at++;
        TRY(parse_or(p, &condition));
        if (jinja_skip_name(p, "else")) TRY(jinja_parse_expression(p, &otherwise));
        TRY(two(p, NODE_CHOICE, line, condition, value, out));
        (*out)->c = otherwise;
    }
    p->n_conditions--;
    p->depth--;
    return OK;
}

static int ends_tuple(struct jinja_parser *p, int flags) {
    enum jinja_token_type type = jinja_peek(p)->type;
    return type == JINJA_PRINT_END || type == JINJA_BLOCK_END || jinja_is_op(p, ')') ||
           ((flags & JINJA_STOP_AT_RECURSIVE) && jinja_is_name(p, "recursive"));
}

err jinja_parse_tuple(struct jinja_parser *p, int flags, struct jinja_node **out) {
    struct jinja_node *tuple, **tail;
    int is_tuple = 0;
    TRY(jinja_node_new(p, NODE_TUPLE, jinja_peek(p)->line, &tuple));
    for (tail = &tuple->items; !ends_tuple(p, flags); tail = &(*tail)->next) {
        if (flags & JINJA_WITHOUT_CHOICE) TRY(parse_or(p, tail));
        else TRY(jinja_parse_expression(p, tail));
        if (!jinja_is_op(p, ',')) break;
        is_tuple = 1;
        p->at++;
    }
    *out = is_tuple || !tuple->items ? tuple : tuple->items;
    if (!tuple->items && !(flags & JINJA_IN_PARENTHESES)) return jinja_unexpected(p, "an expression");
    return OK;
}

/* ---- targets ---- */

static err parse_one_target(struct jinja_parser *p, int takes_members, struct jinja_node **out) {
    if (jinja_skip_op(p, '(')) {
        TRY(enter(p));
        TRY(jinja_parse_target(p, takes_members, out));
        p->depth--;
        return jinja_expect_op(p, ')');
    }
    TRY(jinja_parse_name(p, out));
    if (!takes_members || !jinja_skip_op(p, '.')) return OK;
    struct jinja_token *t = jinja_peek(p);
    TRY(jinja_expect(p, JINJA_NAME));
    (*out)->type = NODE_MEMBER;
    (*out)->value = t->value;
    return OK;
}

err jinja_parse_target(struct jinja_parser *p, int takes_members, struct jinja_node **out) {
    struct jinja_node *tuple, **tail;
    int is_tuple = 0;
    TRY(jinja_node_new(p, NODE_TUPLE, jinja_peek(p)->line, &tuple));
    for (tail = &tuple->items; !ends_tuple(p, 0) && !jinja_is_name(p, "in"); tail = &(*tail)->next) {
        TRY(parse_one_target(p, takes_members, tail));
        if (!jinja_skip_op(p, ',')) break;
        is_tuple = 1;
    }
    if (!tuple->items) return jinja_unexpected(p, "a name");
    *out = is_tuple ? tuple : tuple->items;
    return OK;
}
