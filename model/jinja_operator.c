/* Operators, as Python defines them for each pair of types. Whole numbers have 64 bits: more is an error. */
#include <math.h>
#include <string.h>

#include "model/jinja_run.h"

static err overflow(struct jinja_run *r) { return jinja_fail(r, "a whole number needs more than 64 bits"); }

static err fail_operands(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b) {
    char name[3] = {(char)(op > 255 ? op >> 8 : op), (char)(op > 255 ? op & 255 : 0), 0};
    if (a.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, a);
    if (b.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, b);
    return jinja_fail(r, "'%s' cannot take a %s and a %s", name, jinja_type_name(a), jinja_type_name(b));
}

static err power(struct jinja_run *r, int64_t base, int64_t n, struct jinja_value *out) {
    int64_t result = 1;
    if (n < 0) {
        if (base == 0) return jinja_fail(r, "zero to a negative power");
        *out = jinja_float(pow((double)base, (double)n));
        return OK;
    }
    for (; n > 0; n >>= 1) {
        if ((n & 1) && __builtin_mul_overflow(result, base, &result)) return overflow(r);
        if (n > 1 && __builtin_mul_overflow(base, base, &base)) return overflow(r);
    }
    *out = jinja_int(result);
    return OK;
}

static err whole(struct jinja_run *r, int op, int64_t a, int64_t b, struct jinja_value *out) {
    int64_t c = 0;
    switch (op) {
    case '+':
        if (__builtin_add_overflow(a, b, &c)) return overflow(r);
        break;
    case '-':
        if (__builtin_sub_overflow(a, b, &c)) return overflow(r);
        break;
    case '*':
        if (__builtin_mul_overflow(a, b, &c)) return overflow(r);
        break;
    case JINJA_OP2('*', '*'): return power(r, a, b, out);
    default:
        if (b == 0) return jinja_fail(r, "division by zero");
        if (op == '/') {
            *out = jinja_float((double)((long double)a / (long double)b));
            return OK;
        }
        if (b == -1) { /* the one quotient that may not fit */
            if (op != '%' && __builtin_sub_overflow(0, a, &c)) return overflow(r);
            break;
        }
        c = op == '%' ? a % b : a / b;
        if (a % b != 0 && (a < 0) != (b < 0)) c += op == '%' ? b : -1; /* towards minus infinity */
    }
    *out = jinja_int(c);
    return OK;
}

static err real(struct jinja_run *r, int op, double a, double b, struct jinja_value *out) {
    double c = 0, rest;
    switch (op) {
    case '+': c = a + b; break;
    case '-': c = a - b; break;
    case '*': c = a * b; break;
    case JINJA_OP2('*', '*'):
        if (a == 0 && b < 0) return jinja_fail(r, "zero to a negative power");
        if (a < 0 && b != floor(b)) return jinja_fail(r, "a root of a negative number");
        c = pow(a, b);
        if (isinf(c) && !isinf(a) && !isinf(b)) return jinja_fail(r, "a power is too large");
        break;
    default:
        if (b == 0) return jinja_fail(r, "division by zero");
        if (op == '/') {
            c = a / b;
            break;
        }
        rest = fmod(a, b);
        c = (a - rest) / b;
        if (rest != 0 && (rest < 0) != (b < 0)) {
            rest += b;
            c -= 1;
        } else if (rest == 0) {
            rest = copysign(0, b);
        }
        if (op != '%' && c != 0) c = floor(c) + (c - floor(c) > 0.5);
        else if (op != '%') c = copysign(0, a / b);
        if (op == '%') c = rest;
    }
    *out = jinja_float(c);
    return OK;
}

static err repeat(struct jinja_run *r, struct jinja_value v, int64_t times, struct jinja_value *out) {
    uint32_t n = v.kind == JINJA_STRING ? v.n : v.list->n;
    if (times < 0 || n == 0) times = 0;
    if (times > (int64_t)JINJA_OUTPUT_BYTES / (n ? n : 1))
        return jinja_fail(r, "%lld times %u is too much", (long long)times, n);
    if (v.kind == JINJA_STRING) {
        struct bytes b = {0};
        err e = jinja_spend(r, (size_t)times * n / 32);
        for (int64_t i = 0; i < times && e == OK; i++) e = bytes_append(&b, v.s, n);
        return jinja_take_bytes(r, &b, e, out);
    }
    TRY(jinja_new_list(r, v.kind, (size_t)times * n, out));
    for (int64_t i = 0; i < times; i++)
        for (uint32_t k = 0; k < n; k++) TRY(jinja_push(r, *out, v.list->items[k]));
    return OK;
}

static err append_lists(struct jinja_run *r, struct jinja_value a, struct jinja_value b, struct jinja_value *out) {
    TRY(jinja_new_list(r, a.kind, (size_t)a.list->n + b.list->n, out));
    for (uint32_t i = 0; i < a.list->n; i++) TRY(jinja_push(r, *out, a.list->items[i]));
    for (uint32_t i = 0; i < b.list->n; i++) TRY(jinja_push(r, *out, b.list->items[i]));
    return OK;
}

static err add_texts(struct jinja_run *r, struct jinja_value a, struct jinja_value b, struct jinja_value *out) {
    int is_safe = a.is_safe || b.is_safe;
    if (is_safe) TRY(jinja_escape(r, a, &a));
    if (is_safe) TRY(jinja_escape(r, b, &b));
    TRY(jinja_join(r, a, b, out));
    out->is_safe = (uint8_t)is_safe;
    return OK;
}

static int is_repeated(struct jinja_value v) {
    return v.kind == JINJA_STRING || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE;
}

err jinja_binary(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b, struct jinja_value *out) {
    if (jinja_is_whole(a) && jinja_is_whole(b)) return whole(r, op, a.i, b.i, out);
    if (jinja_is_number(a) && jinja_is_number(b)) return real(r, op, jinja_number(a), jinja_number(b), out);
    if (op == '+' && a.kind == JINJA_STRING && b.kind == JINJA_STRING) return add_texts(r, a, b, out);
    if (op == '+' && a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE))
        return append_lists(r, a, b, out);
    if (op == '*' && is_repeated(a) && jinja_is_whole(b)) return repeat(r, a, b.i, out);
    if (op == '*' && is_repeated(b) && jinja_is_whole(a)) return repeat(r, b, a.i, out);
    if (op == '%' && a.kind == JINJA_STRING) return jinja_format_percent(r, a, b, out);
    return fail_operands(r, op, a, b);
}

err jinja_negative(struct jinja_run *r, struct jinja_value v, int sign, struct jinja_value *out) {
    int64_t i;
    if (v.kind == JINJA_UNDEFINED) return jinja_fail_undefined(r, v);
    if (v.kind == JINJA_FLOAT) {
        *out = jinja_float(sign < 0 ? -v.f : v.f);
        return OK;
    }
    if (!jinja_is_whole(v)) return jinja_fail(r, "a %s has no sign", jinja_type_name(v));
    if (__builtin_mul_overflow(v.i, (int64_t)sign, &i)) return overflow(r);
    *out = jinja_int(i);
    return OK;
}

err jinja_compare(struct jinja_run *r, int op, struct jinja_value a, struct jinja_value b, int *out) {
    if (op == 'i' || op == 'n') {
        TRY(jinja_contains(r, b, a, out));
        if (op == 'n') *out = !*out;
        return OK;
    }
    if (op == JINJA_OP2('=', '=') || op == JINJA_OP2('!', '=')) {
        TRY(jinja_equal(r, a, b, out));
        if (op == JINJA_OP2('!', '=')) *out = !*out;
        return OK;
    }
    if ((a.kind == JINJA_FLOAT && isnan(a.f)) || (b.kind == JINJA_FLOAT && isnan(b.f))) {
        *out = 0;
        return OK;
    }
    char name[3] = {(char)(op > 255 ? op >> 8 : op), (char)(op > 255 ? op & 255 : 0), 0};
    int order;
    TRY(jinja_order(r, a, b, name, &order));
    *out = op == '<' ? order < 0 : op == '>' ? order > 0 : op == JINJA_OP2('<', '=') ? order <= 0 : order >= 0;
    return OK;
}
