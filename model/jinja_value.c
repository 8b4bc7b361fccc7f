#include "model/jinja_value.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"

/* ---- memory ---- */

#define CHUNK_MIN_BYTES 4096
#define CHUNK_MAX_BYTES (1 << 20)

struct jinja_chunk {
    struct jinja_chunk *before;
    size_t used, cap;
    _Alignas(max_align_t) char data[];
};

static err add_chunk(struct jinja_arena *a, size_t n) {
    size_t cap = a->last ? 2 * a->last->cap : CHUNK_MIN_BYTES;
    if (cap > CHUNK_MAX_BYTES) cap = CHUNK_MAX_BYTES;
    if (cap < 2 * n) cap = 2 * n; /* text that grows finds room behind it */
    if (a->used + cap > a->limit && a->used + n <= a->limit) cap = n;
    if (n > a->limit || a->used + cap > a->limit)
        return err_set(ERR_REQUEST, "more than %zu MiB of memory would be needed", a->limit >> 20);
    struct jinja_chunk *c = malloc(sizeof *c + cap);
    if (!c) return err_set(ERR_MEMORY, "cannot allocate %zu bytes", cap);
    *c = (struct jinja_chunk){.before = a->last, .cap = cap};
    a->last = c;
    a->used += cap;
    return OK;
}

err jinja_arena_text(struct jinja_arena *a, size_t n, char **out) {
    if (!a->last || a->last->cap - a->last->used < n) TRY(add_chunk(a, n));
    *out = a->last->data + a->last->used;
    a->last->used += n;
    return OK;
}

err jinja_arena_take(struct jinja_arena *a, size_t n, void **out) {
    char *p;
    if (a->last) {
        size_t aligned = (a->last->used + 15) & ~(size_t)15;
        a->last->used = aligned < a->last->cap ? aligned : a->last->cap;
    }
    TRY(jinja_arena_text(a, n, &p));
    memset(p, 0, n);
    *out = p;
    return OK;
}

int jinja_arena_extend(struct jinja_arena *a, const char *end, size_t n) {
    if (!a->last || end != a->last->data + a->last->used || a->last->cap - a->last->used < n) return 0;
    a->last->used += n;
    return 1;
}

void jinja_arena_free(struct jinja_arena *a) {
    for (struct jinja_chunk *c = a->last, *before; c; c = before) {
        before = c->before;
        free(c);
    }
    *a = (struct jinja_arena){.limit = a->limit};
}

/* ---- values ---- */

struct jinja_value jinja_bool(int b) { return (struct jinja_value){.kind = JINJA_BOOL, .i = b != 0}; }
struct jinja_value jinja_int(int64_t i) { return (struct jinja_value){.kind = JINJA_INT, .i = i}; }
struct jinja_value jinja_float(double f) { return (struct jinja_value){.kind = JINJA_FLOAT, .f = f}; }

struct jinja_value jinja_string(const char *s, size_t n) {
    return (struct jinja_value){.kind = JINJA_STRING, .n = (uint32_t)n, .s = s};
}

struct jinja_value jinja_literal(const char *s) { return jinja_string(s, strlen(s)); }

struct jinja_value jinja_hint(const char *text) {
    return (struct jinja_value){
        .kind = JINJA_UNDEFINED, .undefined = JINJA_HINT, .n = (uint32_t)strlen(text), .s = text};
}

int jinja_is_list(struct jinja_value v) { return v.kind >= JINJA_LIST && v.kind <= JINJA_GENERATOR; }
int jinja_is_whole(struct jinja_value v) { return v.kind == JINJA_INT || v.kind == JINJA_BOOL; }
int jinja_is_number(struct jinja_value v) { return jinja_is_whole(v) || v.kind == JINJA_FLOAT; }
double jinja_number(struct jinja_value v) { return v.kind == JINJA_FLOAT ? v.f : (double)v.i; }

int jinja_is_true(struct jinja_value v) {
    switch (v.kind) {
    case JINJA_MISSING:
    case JINJA_UNDEFINED:
    case JINJA_NONE: return 0;
    case JINJA_BOOL:
    case JINJA_INT: return v.i != 0;
    case JINJA_FLOAT: return v.f != 0;
    case JINJA_STRING: return v.n != 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_RANGE:
    case JINJA_VIEW: return v.list->n != 0;
    case JINJA_DICT: return v.dict->n != 0;
    default: return 1;
    }
}

int jinja_equals_text(struct jinja_value v, const char *text) {
    size_t n = strlen(text);
    return v.kind == JINJA_STRING && v.n == n && (n == 0 || memcmp(v.s, text, n) == 0);
}

const char *jinja_type_name(struct jinja_value v) {
    static const char *const names[] = {
        [JINJA_MISSING] = "missing value", [JINJA_UNDEFINED] = "Undefined", [JINJA_NONE] = "NoneType",
        [JINJA_BOOL] = "bool",             [JINJA_INT] = "int",             [JINJA_FLOAT] = "float",
        [JINJA_STRING] = "str",            [JINJA_LIST] = "list",           [JINJA_TUPLE] = "tuple",
        [JINJA_RANGE] = "range",           [JINJA_VIEW] = "dict view",      [JINJA_GENERATOR] = "generator",
        [JINJA_DICT] = "dict",             [JINJA_NAMESPACE] = "Namespace", [JINJA_MACRO] = "Macro",
        [JINJA_LOOP] = "LoopContext",      [JINJA_METHOD] = "method",       [JINJA_FUNCTION] = "function",
    };
    return names[v.kind];
}

/* ---- code points ---- */

int jinja_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* The text of a value is valid UTF-8: the first byte tells all. */
size_t jinja_char_bytes(const char *s) {
    uint8_t c = (uint8_t)*s;
    return c < 0x80 ? 1 : c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
}

uint32_t jinja_char_code(const char *s) {
    size_t len;
    uint32_t code = 0;
    if ((uint8_t)*s < 0x80) return (uint8_t)*s;
    utf8_next((const uint8_t *)s, jinja_char_bytes(s), &len, &code);
    return code;
}

size_t jinja_count_chars(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xC0) != 0x80;
    return count;
}

size_t jinja_char_offset(const char *s, size_t n, size_t at) {
    size_t i = 0;
    for (; i < n && at > 0; at--) i += jinja_char_bytes(s + i);
    return i;
}
