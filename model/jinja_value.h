/* Values of the template interpreter, with Python's meaning; private to model/.
 *
 * A value is 16 bytes; what it points to lives in the arena of the run (or of the template, for constants) and never
 * changes, except for namespaces, generators and loops. A string may share its bytes with others and is not
 * NUL-terminated. Source of the meaning: https://docs.python.org/3/library/stdtypes.html. */
#ifndef MODEL_JINJA_VALUE_H
#define MODEL_JINJA_VALUE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* ---- memory, freed all at once ---- */

struct jinja_chunk;
struct jinja_arena {
    struct jinja_chunk *last;
    size_t used, limit; /* bytes asked for */
};

/* Zeroed, aligned for values; ERR_REQUEST past the limit. */
err jinja_arena_take(struct jinja_arena *a, size_t n, void **out);
/* Room for text, not zeroed. */
err jinja_arena_text(struct jinja_arena *a, size_t n, char **out);
/* Whether `n` bytes could be added right behind `end`, the end of the text taken last. */
int jinja_arena_extend(struct jinja_arena *a, const char *end, size_t n);
void jinja_arena_free(struct jinja_arena *a);

/* ---- values ---- */

enum jinja_kind {
    JINJA_MISSING, /* no value: an argument that was not given */
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST, /* the five of struct jinja_list begin here */
    JINJA_TUPLE,
    JINJA_RANGE,
    JINJA_VIEW,      /* keys, values or items of a dict */
    JINJA_GENERATOR, /* can be walked once, has no length, is always true */
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_MACRO,
    JINJA_LOOP,
    JINJA_METHOD,
    JINJA_FUNCTION
};

/* What an undefined value says when it is used. */
enum jinja_undefined { JINJA_NO_VARIABLE, JINJA_NO_ATTRIBUTE, JINJA_HINT };

struct jinja_value {
    uint8_t kind;
    uint8_t undefined; /* of UNDEFINED: enum jinja_undefined */
    uint8_t of;        /* of NO_ATTRIBUTE: the kind that lacked it */
    uint8_t is_safe;   /* of STRING: was through |safe or |escape; what + adds to it is escaped for HTML */
    uint32_t n;        /* of STRING and UNDEFINED: bytes at s */
    union {
        int64_t i; /* INT, BOOL */
        double f;
        const char *s;
        struct jinja_list *list;
        struct jinja_dict *dict; /* DICT, NAMESPACE */
        const struct jinja_macro *macro;
        struct jinja_loop *loop;
        const struct jinja_method *method;
        const struct jinja_builtin *function;
    };
};

struct jinja_list {
    struct jinja_value *items;
    uint32_t n, cap;
    uint32_t at; /* of GENERATOR: how many were taken */
};

struct jinja_pair {
    struct jinja_value key, value;
};

/* In order of insertion. */
struct jinja_dict {
    struct jinja_pair *pairs;
    uint32_t n, cap;
};

struct jinja_method {
    struct jinja_value self;
    const struct jinja_builtin *builtin;
};

#define JINJA_NONE_VALUE ((struct jinja_value){.kind = JINJA_NONE})
#define JINJA_MISSING_VALUE ((struct jinja_value){.kind = JINJA_MISSING})

struct jinja_value jinja_bool(int b);
struct jinja_value jinja_int(int64_t i);
struct jinja_value jinja_float(double f);
/* Borrows the bytes, which stay as long as the value does. */
struct jinja_value jinja_string(const char *s, size_t n);
struct jinja_value jinja_literal(const char *s);
struct jinja_value jinja_hint(const char *text);

int jinja_is_list(struct jinja_value v);   /* any of the five */
int jinja_is_number(struct jinja_value v); /* int, float, bool */
int jinja_is_whole(struct jinja_value v);  /* int or bool: v.i */
double jinja_number(struct jinja_value v);
int jinja_is_true(struct jinja_value v);
int jinja_equals_text(struct jinja_value v, const char *text); /* a string of these bytes */
/* "str", "NoneType", ...: as Python calls the type. */
const char *jinja_type_name(struct jinja_value v);

/* ---- code points ---- */

int jinja_is_space(uint32_t code);
size_t jinja_count_chars(const char *s, size_t n);
/* The byte where character number `at` begins; n where there are fewer. */
size_t jinja_char_offset(const char *s, size_t n, size_t at);
/* Length of the character that begins at s. */
size_t jinja_char_bytes(const char *s);
uint32_t jinja_char_code(const char *s);

#endif
