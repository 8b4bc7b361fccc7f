/* Tokens and tree of a template; private to model/. Both live in the template's arena and are read-only once made.
 *
 * Source: https://jinja.palletsprojects.com/en/3.1.x/templates/ */
#ifndef MODEL_JINJA_SYNTAX_H
#define MODEL_JINJA_SYNTAX_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/strmap.h"
#include "model/jinja_value.h"

/* ---- tokens ---- */

enum jinja_token_type {
    JINJA_END,
    JINJA_TEXT,
    JINJA_PRINT_BEGIN,
    JINJA_PRINT_END,
    JINJA_BLOCK_BEGIN,
    JINJA_BLOCK_END,
    JINJA_NAME,
    JINJA_CONSTANT, /* a number or a string; `value` */
    JINJA_OPERATOR  /* `op` */
};

/* Operators are their characters: '+', JINJA_OP2('*', '*'). */
#define JINJA_OP2(a, b) ((a) << 8 | (b))

struct jinja_token {
    enum jinja_token_type type;
    uint32_t line;
    int op;
    struct jinja_value value; /* of TEXT, NAME, CONSTANT */
};

/* Limits of a template. */
#define JINJA_TEXT_BYTES (4 << 20)
#define JINJA_TREE_BYTES ((size_t)256 << 20)
#define JINJA_TREE_DEPTH 120

/* Whitespace control as Hugging Face transformers sets it: trim_blocks and lstrip_blocks on, keep_trailing_newline
 * off. `tokens` ends with END and is the caller's to free. */
err jinja_lex(struct jinja_arena *a, const char *text, size_t n, struct jinja_token **tokens, size_t *n_tokens);

/* ---- tree ---- */

enum jinja_node_type {
    /* expressions: what a, b, c and items are */
    NODE_CONSTANT,  /* value */
    NODE_VARIABLE,  /* name */
    NODE_LIST,      /* items */
    NODE_TUPLE,     /* items; also a target */
    NODE_DICT,      /* items: NODE_PAIR */
    NODE_PAIR,      /* a: key, b: value */
    NODE_ATTRIBUTE, /* a.value */
    NODE_ITEM,      /* a[b] */
    NODE_SLICE,     /* a[b:c:d], each of b, c, d may be NULL */
    NODE_CALL,      /* a(items) */
    NODE_FILTER,    /* a | builtin(items); without a builtin: value names one that is unknown */
    NODE_TEST,      /* a is builtin(items) */
    NODE_NOT,
    NODE_NEGATIVE,
    NODE_POSITIVE,
    NODE_AND,
    NODE_OR,
    NODE_BINARY,   /* a op b */
    NODE_COMPARE,  /* a, items: NODE_OPERAND */
    NODE_OPERAND,  /* op a */
    NODE_CONCAT,   /* items */
    NODE_CHOICE,   /* b if a else c; c may be NULL */
    NODE_CAPTURED, /* the text of the block around a filter */
    /* arguments of calls */
    NODE_ARGUMENT,      /* a */
    NODE_KEYWORD,       /* value=a */
    NODE_ARGUMENT_LIST, /* *a */
    NODE_ARGUMENT_DICT, /* **a */
    /* statements */
    NODE_TEXT,         /* value */
    NODE_PRINT,        /* a */
    NODE_FOR,          /* target a, iterable b, condition c; items; other; op: recursive */
    NODE_IF,           /* a, items, other; op: other is the NODE_IF of an elif */
    NODE_SET,          /* a = b */
    NODE_SET_BLOCK,    /* a = items, through the filters b if there are any */
    NODE_MACRO,        /* name, a: list of NODE_PARAMETER; items; op: enum jinja_macro_use */
    NODE_PARAMETER,    /* name, default a or NULL */
    NODE_CALL_BLOCK,   /* a: the call, b: NODE_MACRO, its caller */
    NODE_FILTER_BLOCK, /* b: filters, items */
    NODE_WITH,         /* a: list of NODE_SET, items */
    NODE_SCOPE,        /* items */
    NODE_BREAK,
    NODE_CONTINUE,
    /* targets, beside VARIABLE and TUPLE */
    NODE_MEMBER /* name.value, of a namespace */
};

/* Names that a macro's body uses and nobody declared: they make it take more arguments. */
enum jinja_macro_use { JINJA_USES_CALLER = 1, JINJA_USES_VARARGS = 2, JINJA_USES_KWARGS = 4 };

struct jinja_node {
    enum jinja_node_type type;
    uint32_t line;
    int op;
    int32_t name; /* number of the name, see jinja_template */
    struct jinja_value value;
    const struct jinja_builtin *builtin;
    struct jinja_node *a, *b, *c, *d;
    struct jinja_node *items, *other; /* first of a list by `next` */
    struct jinja_node *next;
};

struct jinja_template {
    struct jinja_arena arena;
    struct strmap names;           /* variables: name to number */
    struct jinja_value *name_text; /* by number */
    int32_t n_names, cap_names;
    struct jinja_node *body;
};

/* ERR_UNSUPPORTED with "chat template, line 12: ..."; on error too, jinja_template_free ends it. */
err jinja_parse(struct jinja_template *t, const char *text, size_t n);
void jinja_template_free(struct jinja_template *t);

/* The text of the error, with the line. */
err jinja_syntax_error(uint32_t line, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- between jinja_parse.c and jinja_expression.c ---- */

struct jinja_parser {
    struct jinja_template *t;
    struct jinja_token *tokens;
    size_t at;
    unsigned depth, n_loops;
    unsigned n_conditions; /* around: what stands there may never run */
    struct jinja_macro_frame *macro; /* innermost macro around */
};

/* A macro that is being parsed. */
struct jinja_macro_frame {
    struct jinja_node *node;
    struct jinja_macro_frame *outer;
};

struct jinja_token *jinja_peek(struct jinja_parser *p);
int jinja_is_op(struct jinja_parser *p, int op);
int jinja_is_name(struct jinja_parser *p, const char *name);
int jinja_skip_op(struct jinja_parser *p, int op); /* whether it was there */
int jinja_skip_name(struct jinja_parser *p, const char *name);
err jinja_expect_op(struct jinja_parser *p, int op);
err jinja_expect(struct jinja_parser *p, enum jinja_token_type type);
err jinja_unexpected(struct jinja_parser *p, const char *expected);
err jinja_node_new(struct jinja_parser *p, enum jinja_node_type type, uint32_t line, struct jinja_node **out);
/* The number of a variable's name. */
err jinja_name_number(struct jinja_parser *p, struct jinja_value name, int32_t *out);

enum { JINJA_WITHOUT_CHOICE = 1, JINJA_STOP_AT_RECURSIVE = 2, JINJA_IN_PARENTHESES = 4 };
/* Expressions with commas between them are a tuple. */
err jinja_parse_tuple(struct jinja_parser *p, int flags, struct jinja_node **out);
err jinja_parse_expression(struct jinja_parser *p, struct jinja_node **out);
/* The filters after `|` (at once when is_inside), around `node`. */
err jinja_parse_filters(struct jinja_parser *p, struct jinja_node *node, int is_inside, struct jinja_node **out);
/* What can stand on the left of `=` or `in`. */
err jinja_parse_target(struct jinja_parser *p, int takes_members, struct jinja_node **out);
err jinja_parse_name(struct jinja_parser *p, struct jinja_node **out);

#endif
