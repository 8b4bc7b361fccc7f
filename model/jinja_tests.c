/* Tests: what stands behind `is`. */
#include <math.h>
#include <string.h>

#include "model/jinja_run.h"

static int is_sequence(struct jinja_value v) {
    return v.kind == JINJA_STRING || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE || v.kind == JINJA_RANGE ||
           v.kind == JINJA_DICT || v.kind == JINJA_UNDEFINED;
}

static int is_callable(struct jinja_value v) {
    return v.kind == JINJA_MACRO || v.kind == JINJA_LOOP || v.kind == JINJA_METHOD || v.kind == JINJA_FUNCTION ||
           v.kind == JINJA_UNDEFINED;
}

static int is_builtin(struct jinja_value v, const struct jinja_builtin *(*find)(const char *, size_t)) {
    return v.kind == JINJA_STRING && find(v.s, v.n) != NULL;
}

/* Tests without arguments: NAME(v) says whether it holds. */
#define SIMPLE_LIST(X)                                                                                                 \
    X(defined, v.kind != JINJA_UNDEFINED)                                                                              \
    X(undefined, v.kind == JINJA_UNDEFINED)                                                                            \
    X(none, v.kind == JINJA_NONE)                                                                                      \
    X(boolean, v.kind == JINJA_BOOL)                                                                                   \
    X(true, v.kind == JINJA_BOOL && v.i)                                                                               \
    X(false, v.kind == JINJA_BOOL && !v.i)                                                                             \
    X(integer, v.kind == JINJA_INT)                                                                                    \
    X(float, v.kind == JINJA_FLOAT)                                                                                    \
    X(number, jinja_is_number(v))                                                                                      \
    X(string, v.kind == JINJA_STRING)                                                                                  \
    X(mapping, v.kind == JINJA_DICT)                                                                                   \
    X(sequence, is_sequence(v))                                                                                        \
    X(iterable, is_sequence(v) || jinja_is_list(v) || v.kind == JINJA_LOOP)                                            \
    X(callable, is_callable(v))                                                                                        \
    X(filter, is_builtin(v, jinja_filter_find))                                                                        \
    X(test, is_builtin(v, jinja_test_find))

#define SIMPLE(name, holds)                                                                                            \
    static err test_##name(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a,                      \
                           struct jinja_value *out) {                                                                  \
        TRY(jinja_bind(r, a, #name, "", NULL));                                                                        \
        *out = jinja_bool(holds);                                                                                      \
        return OK;                                                                                                     \
    }
SIMPLE_LIST(SIMPLE)
#undef SIMPLE

/* ---- numbers ---- */

static err test_divisibleby(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a,
                            struct jinja_value *out) {
    struct jinja_value by, rest;
    TRY(jinja_bind(r, a, "divisibleby", "num", &by));
    if (!jinja_is_number(v)) return jinja_fail(r, "a %s cannot be divided", jinja_type_name(v));
    TRY(jinja_binary(r, '%', v, by, &rest));
    *out = jinja_bool(!jinja_is_true(rest));
    return OK;
}

static err rest_of_two(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a, int rest,
                       struct jinja_value *out) {
    TRY(jinja_bind(r, a, "this test", "", NULL));
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    if (!jinja_is_number(v)) return jinja_fail(r, "a %s is neither odd nor even", jinja_type_name(v));
    TRY(jinja_binary(r, '%', v, jinja_int(2), out));
    *out = jinja_bool(jinja_number(*out) == rest);
    return OK;
}

static err test_odd(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a, struct jinja_value *out) {
    return rest_of_two(r, v, a, 1, out);
}

static err test_even(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a, struct jinja_value *out) {
    return rest_of_two(r, v, a, 0, out);
}

/* ---- comparisons ---- */

#define COMPARISON_LIST(X)                                                                                             \
    X(eq, JINJA_OP2('=', '='))                                                                                         \
    X(ne, JINJA_OP2('!', '='))                                                                                         \
    X(lt, '<')                                                                                                         \
    X(le, JINJA_OP2('<', '='))                                                                                         \
    X(gt, '>')                                                                                                         \
    X(ge, JINJA_OP2('>', '='))                                                                                         \
    X(in, 'i')

#define COMPARISON(name, op)                                                                                           \
    static err test_##name(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a,                      \
                           struct jinja_value *out) {                                                                  \
        struct jinja_value other;                                                                                      \
        int holds;                                                                                                     \
        TRY(jinja_bind(r, a, #name, "value", &other));                                                                 \
        TRY(jinja_compare(r, op, v, other, &holds));                                                                   \
        *out = jinja_bool(holds);                                                                                      \
        return OK;                                                                                                     \
    }
COMPARISON_LIST(COMPARISON)
#undef COMPARISON

/* The same object, as far as values have an identity. */
static err test_sameas(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a,
                       struct jinja_value *out) {
    struct jinja_value other;
    int holds = 0;
    TRY(jinja_bind(r, a, "sameas", "other", &other));
    if (v.kind == other.kind && (jinja_is_list(v) || v.kind == JINJA_DICT)) holds = v.list == other.list;
    else if (v.kind == other.kind && v.kind != JINJA_UNDEFINED) TRY(jinja_equal(r, v, other, &holds));
    *out = jinja_bool(holds);
    return OK;
}

/* ---- case ---- */

static err is_case(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a, const char *method,
                   struct jinja_value *out) {
    struct jinja_value text;
    TRY(jinja_text(r, v, &text));
    return jinja_method_find(text, method, strlen(method))->call(r, text, a, out);
}

static err test_lower(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a, struct jinja_value *out) {
    return is_case(r, v, a, "islower", out);
}

static err test_upper(struct jinja_run *r, struct jinja_value v, const struct jinja_args *a, struct jinja_value *out) {
    return is_case(r, v, a, "isupper", out);
}

const struct jinja_builtin *jinja_test_find(const char *name, size_t n) {
    static const struct jinja_builtin table[] = {
#define ROW(name, what) {#name, test_##name},
        SIMPLE_LIST(ROW) COMPARISON_LIST(ROW)
#undef ROW
            {"divisibleby", test_divisibleby},
        {"equalto", test_eq},
        {"even", test_even},
        {"greaterthan", test_gt},
        {"lessthan", test_lt},
        {"lower", test_lower},
        {"odd", test_odd},
        {"sameas", test_sameas},
        {"upper", test_upper},
        {"==", test_eq},
        {"!=", test_ne},
        {"<", test_lt},
        {"<=", test_le},
        {">", test_gt},
        {">=", test_ge},
        {NULL, NULL},
    };
    return jinja_builtin_find(table, name, n);
}
