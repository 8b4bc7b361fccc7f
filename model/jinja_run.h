/* One rendering: its state, scopes, what filters, tests, methods and functions need; private to model/. */
#ifndef MODEL_JINJA_RUN_H
#define MODEL_JINJA_RUN_H

#include <jansson.h>

#include "base/mem.h"
#include "model/jinja_syntax.h"
#include "model/jinja_value.h"

/* Limits of a rendering. A step is about a node of the tree or 32 bytes of text. */
#define JINJA_STEPS 10000000
#define JINJA_OUTPUT_BYTES ((size_t)64 << 20)
#define JINJA_RUN_BYTES ((size_t)128 << 20)
#define JINJA_RUN_DEPTH 600
#define JINJA_VALUE_DEPTH 200
#define JINJA_RANGE_ITEMS 100000

struct jinja_variable {
    int32_t name;
    struct jinja_value value;
};

struct jinja_scope {
    struct jinja_scope *parent;
    struct jinja_variable *variables;
    uint32_t n, cap;
    int is_captured; /* a macro refers to it: it may not be used for another round */
};

enum jinja_flow { JINJA_GOES_ON, JINJA_BREAKS, JINJA_CONTINUES };

struct jinja_run {
    const struct jinja_template *t;
    struct jinja_arena arena;
    struct bytes *out;
    struct jinja_value captured; /* of NODE_CAPTURED */
    enum jinja_flow flow;
    int64_t n_steps_left, now_s;
    unsigned depth;
    uint32_t line;
};

struct jinja_macro {
    const struct jinja_node *node;
    struct jinja_scope *scope;
};

struct jinja_loop {
    const struct jinja_node *node;
    struct jinja_scope *scope;      /* around the loop */
    struct jinja_scope *test_scope; /* of the condition; NULL: none, or all items of the source have passed it */
    struct jinja_list *source;
    uint32_t at; /* next of source */
    int64_t index0;
    int64_t depth0;
    struct jinja_value previous, current, after; /* after: MISSING unless it was looked at already */
    struct jinja_value changed;                  /* what loop.changed saw last */
};

/* ERR_REQUEST with the line. */
err jinja_fail(struct jinja_run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Counts work that grows with a text or a list; fails when too much was done. */
err jinja_spend(struct jinja_run *r, size_t n_steps);
err jinja_enter(struct jinja_run *r);
void jinja_leave(struct jinja_run *r);

/* ---- arguments ---- */

struct jinja_args {
    struct jinja_value *values;
    struct jinja_pair *keywords;
    uint32_t n, n_keywords;
};

typedef err jinja_call_fn(struct jinja_run *r, struct jinja_value self, const struct jinja_args *a,
                          struct jinja_value *out);

/* A filter, test, method or function. call is NULL where Python has one that templates may not use. */
struct jinja_builtin {
    const char *name;
    jinja_call_fn *call;
};

const struct jinja_builtin *jinja_builtin_find(const struct jinja_builtin *table, const char *name, size_t n);
const struct jinja_builtin *jinja_filter_find(const char *name, size_t n);
const struct jinja_builtin *jinja_test_find(const char *name, size_t n);
const struct jinja_builtin *jinja_function_find(const char *name, size_t n);
/* NULL: values of this kind have no such method. */
const struct jinja_builtin *jinja_method_find(struct jinja_value self, const char *name, size_t n);

/* Sorts arguments into `out` by the names in `names`, "old new count?"; what has ? may be left out (MISSING). */
err jinja_bind(struct jinja_run *r, const struct jinja_args *a, const char *function, const char *names,
               struct jinja_value *out);
err jinja_want_string(struct jinja_run *r, struct jinja_value v, const char *what);
/* `fallback` where v is MISSING or None. */
err jinja_want_int(struct jinja_run *r, struct jinja_value v, const char *what, int64_t fallback, int64_t *out);

/* ---- making values ---- */

err jinja_new_text(struct jinja_run *r, const char *s, size_t n, struct jinja_value *out);
/* Takes the bytes over: they are freed here. */
err jinja_take_bytes(struct jinja_run *r, struct bytes *b, err so_far, struct jinja_value *out);
err jinja_new_list(struct jinja_run *r, enum jinja_kind kind, size_t cap, struct jinja_value *out);
err jinja_push(struct jinja_run *r, struct jinja_value list, struct jinja_value item);
err jinja_new_pair(struct jinja_run *r, struct jinja_value a, struct jinja_value b, struct jinja_value *tuple);
err jinja_new_dict(struct jinja_run *r, enum jinja_kind kind, size_t cap, struct jinja_value *out);
err jinja_put(struct jinja_run *r, struct jinja_value dict, struct jinja_value key, struct jinja_value value);
err jinja_from_json(struct jinja_run *r, const json_t *j, struct jinja_value *out);

/* ---- asking values ---- */

err jinja_equal(struct jinja_run *r, struct jinja_value a, struct jinja_value b, int *out);
/* -1, 0, 1; fails where Python cannot order the two. */
err jinja_order(struct jinja_run *r, struct jinja_value a, struct jinja_value b, const char *op, int *out);
err jinja_contains(struct jinja_run *r, struct jinja_value whole, struct jinja_value part, int *out);
/* found: NULL where the key is not there. */
err jinja_find(struct jinja_run *r, struct jinja_value dict, struct jinja_value key, const struct jinja_value **found);
err jinja_require_hashable(struct jinja_run *r, struct jinja_value v);
err jinja_length(struct jinja_run *r, struct jinja_value v, int64_t *out);
/* Items as a list that belongs to nobody else or is never changed; a generator is used up. */
err jinja_iterate(struct jinja_run *r, struct jinja_value v, struct jinja_list **out);
err jinja_attribute(struct jinja_run *r, struct jinja_value v, struct jinja_value name, struct jinja_value *out);
err jinja_item(struct jinja_run *r, struct jinja_value v, struct jinja_value key, struct jinja_value *out);
err jinja_slice(struct jinja_run *r, struct jinja_value v, const struct jinja_value bounds[3],
                struct jinja_value *out);
/* What an undefined value says: always ERR_REQUEST. */
err jinja_fail_undefined(struct jinja_run *r, struct jinja_value v);

/* ---- operators ---- */

err jinja_binary(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b, struct jinja_value *out);
err jinja_negative(struct jinja_run *r, struct jinja_value v, int sign, struct jinja_value *out);
err jinja_compare(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b, int *out);
err jinja_join(struct jinja_run *r, struct jinja_value a, struct jinja_value b, struct jinja_value *out);

/* ---- texts of values ---- */

/* Python's str() and repr(). */
err jinja_write(struct jinja_run *r, struct jinja_value v, struct bytes *out);
err jinja_write_repr(struct jinja_run *r, struct jinja_value v, struct bytes *out);
err jinja_text(struct jinja_run *r, struct jinja_value v, struct jinja_value *out);
/* Shortest decimal text that reads back as the same float. `n_room` at least 40. */
void jinja_write_float(double f, char *text, size_t n_room);

struct jinja_json_style {
    struct jinja_value indent; /* text of one level, or MISSING */
    struct jinja_value item_separator, key_separator;
    int is_ascii, is_sorted;
};
err jinja_write_json(struct jinja_run *r, const struct jinja_json_style *style, struct jinja_value v,
                     struct bytes *out);

/* "%s and %d" % values; '{} and {x}'.format(...). */
err jinja_format_percent(struct jinja_run *r, struct jinja_value format, struct jinja_value values,
                         struct jinja_value *out);
err jinja_format_braces(struct jinja_run *r, struct jinja_value format, const struct jinja_args *a,
                        struct jinja_value *out);

/* ---- strings ---- */

enum jinja_case { JINJA_LOWER, JINJA_UPPER, JINJA_CAPITALIZE, JINJA_TITLE };
err jinja_recase(struct jinja_run *r, struct jinja_value s, enum jinja_case to, struct jinja_value *out);
/* Parts at the ends that consist of `chars` (MISSING or None: whitespace) cut off. */
enum { JINJA_LEFT = 1, JINJA_RIGHT = 2 };
err jinja_strip(struct jinja_run *r, struct jinja_value s, struct jinja_value chars, int sides,
                struct jinja_value *out);
err jinja_replace(struct jinja_run *r, struct jinja_value s, struct jinja_value old, struct jinja_value new,
                  int64_t count, struct jinja_value *out);
/* For HTML, unless it is safe already. */
err jinja_escape(struct jinja_run *r, struct jinja_value s, struct jinja_value *out);
err jinja_split_lines(struct jinja_run *r, struct jinja_value s, int keeps_ends, struct jinja_value *out);
/* The byte where `part` begins at or after `from`, or -1. */
int64_t jinja_find_text(struct jinja_value s, struct jinja_value part, size_t from);

/* ---- running ---- */

err jinja_evaluate(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *n, struct jinja_value *out);
err jinja_call(struct jinja_run *r, struct jinja_value callee, const struct jinja_args *a, struct jinja_value *out);
err jinja_set_variable(struct jinja_run *r, struct jinja_scope *s, int32_t name, struct jinja_value v);
err jinja_assign(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *target, struct jinja_value v);
err jinja_execute(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *body);
err jinja_call_macro(struct jinja_run *r, const struct jinja_macro *m, const struct jinja_args *a,
                     struct jinja_value *out);
/* The text of a body, in a scope of its own. */
err jinja_capture(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *body, struct jinja_value *out);
err jinja_new_scope(struct jinja_run *r, struct jinja_scope *parent, struct jinja_scope **out);
/* loop(items) of a recursive loop. */
err jinja_call_loop(struct jinja_run *r, struct jinja_loop *l, const struct jinja_args *a, struct jinja_value *out);
/* MISSING where a loop has no such attribute. */
err jinja_loop_attribute(struct jinja_run *r, struct jinja_loop *l, struct jinja_value name,
                         struct jinja_value *out);
err jinja_evaluate_args(struct jinja_run *r, struct jinja_scope *s, const struct jinja_node *first,
                        struct jinja_args *a);

#endif
