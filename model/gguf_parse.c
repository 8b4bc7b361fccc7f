#include "model/gguf_parse.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define CAP_KEY_BYTES 65535 /* both from the specification */
#define CAP_NAME_BYTES 64
#define DEFAULT_ALIGNMENT 32
/* The least that an entry takes in the file, so that a count can be judged
 * before anything is allocated for it. */
#define MIN_KV_BYTES (8 + 1 + 4 + 1)
#define MIN_TENSOR_BYTES (8 + 1 + 4 + 8 + 4 + 8)

/* ---- arena ---- */

#define CHUNK_BYTES 65536

struct gguf_chunk {
    struct gguf_chunk *before;
    size_t used, cap;
    _Alignas(16) uint8_t data[];
};

static err arena_take(struct gguf_arena *a, size_t n, size_t align, void **out) {
    struct gguf_chunk *c = a->last;
    size_t begin = c ? (c->used + align - 1) / align * align : 0;
    if (!c || begin > c->cap || n > c->cap - begin) {
        size_t cap = n > CHUNK_BYTES ? n : CHUNK_BYTES;
        c = cap < SIZE_MAX - sizeof *c ? malloc(sizeof *c + cap) : NULL;
        if (!c) return err_set(ERR_MEMORY, "cannot allocate %zu bytes", n);
        *c = (struct gguf_chunk){a->last, 0, cap};
        a->last = c;
        begin = 0;
    }
    c->used = begin + n;
    *out = c->data + begin;
    return OK;
}

void gguf_arena_free(struct gguf_arena *a) {
    while (a->last) {
        struct gguf_chunk *before = a->last->before;
        free(a->last);
        a->last = before;
    }
}

/* ---- messages ---- */

const char *gguf_shown(const void *data, size_t len,
                       char out[GGUF_SHOWN_BYTES]) {
    const uint8_t *p = data;
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (n + 8 > GGUF_SHOWN_BYTES) {
            memcpy(out + n, "...", 4);
            return out;
        }
        if (p[i] >= 0x20 && p[i] < 0x7f)
            out[n++] = (char)p[i];
        else
            n += (size_t)snprintf(out + n, 5, "\\x%02x", p[i]);
    }
    out[n] = 0;
    return out;
}

/* ---- cursor: bounds-checked reading, and where it is for messages ---- */

struct cursor {
    const char *path;
    const uint8_t *data;
    uint64_t n_bytes, pos;
    uint64_t n_file_bytes; /* where tensors may reach */
    const char *kind; /* "header", "key" or "tensor" */
    uint64_t index;   /* of the key or tensor */
    const char *name; /* of the key or tensor; NULL until it is read */
};

/* Records "PATH: KIND 'NAME' MESSAGE". */
__attribute__((format(printf, 3, 4)))
static err fail(const struct cursor *c, err code, const char *fmt, ...) {
    char text[400], shown[GGUF_SHOWN_BYTES];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (c->name)
        return err_set(code, "%s: %s '%s' %s", c->path, c->kind,
                       gguf_shown(c->name, strlen(c->name), shown), text);
    if (c->kind[0] == 'h')
        return err_set(code, "%s: header %s", c->path, text);
    return err_set(code, "%s: %s number %" PRIu64 " %s", c->path, c->kind,
                   c->index, text);
}

static uint64_t left(const struct cursor *c) { return c->n_bytes - c->pos; }

static err cursor_take(struct cursor *c, uint64_t n, const uint8_t **out) {
    *out = NULL;
    if (n > left(c))
        return fail(c, ERR_FORMAT,
                    "needs %" PRIu64 " bytes at offset %" PRIu64
                    ", but the file ends at %" PRIu64
                    ": it is truncated or corrupt",
                    n, c->pos, c->n_bytes);
    *out = c->data + c->pos;
    c->pos += n;
    return OK;
}

/* Little endian, on any host. */
static uint64_t load_le(const uint8_t *p, size_t n) {
    uint64_t v = 0;
    for (size_t i = n; i-- > 0;) v = v << 8 | p[i];
    return v;
}

static err cursor_u32(struct cursor *c, uint32_t *out) {
    const uint8_t *p;
    TRY(cursor_take(c, 4, &p));
    *out = (uint32_t)load_le(p, 4);
    return OK;
}

static err cursor_u64(struct cursor *c, uint64_t *out) {
    const uint8_t *p;
    TRY(cursor_take(c, 8, &p));
    *out = load_le(p, 8);
    return OK;
}

/* A string, copied with a NUL behind it. */
static err cursor_string(struct cursor *c, struct gguf_arena *a,
                         struct gguf_string *out) {
    uint64_t len;
    const uint8_t *p;
    TRY(cursor_u64(c, &len));
    TRY(cursor_take(c, len, &p));
    void *copy;
    TRY(arena_take(a, (size_t)len + 1, 1, &copy));
    memcpy(copy, p, (size_t)len);
    ((char *)copy)[len] = 0;
    *out = (struct gguf_string){copy, (size_t)len};
    return OK;
}

/* The name of a key or tensor: 1 to `cap` bytes, no NUL. */
static err cursor_name(struct cursor *c, struct gguf_arena *a, uint64_t cap,
                       const char **out) {
    uint64_t begin = c->pos, len;
    TRY(cursor_u64(c, &len));
    if (len < 1 || len > cap)
        return fail(c, ERR_FORMAT,
                    "at offset %" PRIu64 " has a name of %" PRIu64
                    " bytes; 1 to %" PRIu64 " are allowed",
                    begin, len, cap);
    c->pos = begin;
    struct gguf_string s;
    TRY(cursor_string(c, a, &s));
    if (strlen(s.data) != s.len)
        return fail(c, ERR_FORMAT,
                    "at offset %" PRIu64 " has a NUL byte in its name", begin);
    *out = c->name = s.data;
    return OK;
}

/* ---- metadata ---- */

/* Bytes of an item; 0 where it has no fixed size. */
static const uint8_t item_bytes[N_GGUF_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
    [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
    [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
};

static const char *const type_names[N_GGUF_TYPES] = {
    [GGUF_U8] = "u8",   [GGUF_I8] = "i8",         [GGUF_U16] = "u16",
    [GGUF_I16] = "i16", [GGUF_U32] = "u32",       [GGUF_I32] = "i32",
    [GGUF_F32] = "f32", [GGUF_BOOL] = "bool",     [GGUF_STRING] = "string",
    [GGUF_U64] = "u64", [GGUF_ARRAY] = "array",   [GGUF_I64] = "i64",
    [GGUF_F64] = "f64",
};

const char *gguf_type_name(enum gguf_type type) {
    return (unsigned)type < N_GGUF_TYPES ? type_names[type] : "?";
}

size_t gguf_type_bytes(enum gguf_type type) { return item_bytes[type]; }

static int is_integer(enum gguf_type t) {
    return item_bytes[t] && t != GGUF_F32 && t != GGUF_F64 && t != GGUF_BOOL;
}

int64_t gguf_item_i64(const struct gguf_kv *kv, uint64_t i) {
    size_t n = item_bytes[kv->item_type];
    const uint8_t *p = kv->data;
    if (!p || n == 0) return 0;
    uint64_t v = load_le(p + i * n, n);
    switch (kv->item_type) {
    case GGUF_I8: return (int8_t)v;
    case GGUF_I16: return (int16_t)v;
    case GGUF_I32: return (int32_t)v;
    default: return (int64_t)v;
    }
}

double gguf_item_f64(const struct gguf_kv *kv, uint64_t i) {
    int64_t bits = gguf_item_i64(kv, i);
    if (kv->item_type == GGUF_F32) {
        uint32_t low = (uint32_t)bits;
        float f;
        memcpy(&f, &low, sizeof f);
        return (double)f;
    }
    if (kv->item_type == GGUF_F64) {
        double d;
        memcpy(&d, &bits, sizeof d);
        return d;
    }
    return kv->item_type == GGUF_U64 ? (double)(uint64_t)bits : (double)bits;
}

err gguf_kv_u32(const char *path, const struct gguf_kv *kv, uint32_t *out) {
    char shown[GGUF_SHOWN_BYTES];
    gguf_shown(kv->key, strlen(kv->key), shown);
    if (!is_integer(kv->type))
        return err_set(ERR_FORMAT, "%s: key '%s' is %s, expected an integer",
                       path, shown, gguf_type_name(kv->type));
    int64_t v = gguf_item_i64(kv, 0);
    if (v >= 0 && v <= UINT32_MAX) {
        *out = (uint32_t)v;
        return OK;
    }
    if (kv->type == GGUF_U64)
        return err_set(ERR_FORMAT,
                       "%s: key '%s' is %" PRIu64 ", expected 0 to 4294967295",
                       path, shown, (uint64_t)v);
    return err_set(ERR_FORMAT,
                   "%s: key '%s' is %" PRId64 ", expected 0 to 4294967295",
                   path, shown, v);
}

static err parse_numbers(struct cursor *c, struct gguf_arena *a,
                         struct gguf_kv *kv) {
    size_t size = item_bytes[kv->item_type];
    uint64_t begin = c->pos;
    if (kv->n > left(c) / size)
        return fail(c, ERR_FORMAT,
                    "has %" PRIu64 " items of %s at offset %" PRIu64
                    ", but the file ends at %" PRIu64
                    ": it is truncated or corrupt",
                    kv->n, gguf_type_name(kv->item_type), begin, c->n_bytes);
    const uint8_t *p;
    TRY(cursor_take(c, kv->n * size, &p));
    if (kv->item_type == GGUF_BOOL)
        for (uint64_t i = 0; i < kv->n; i++)
            if (p[i] > 1)
                return fail(c, ERR_FORMAT,
                            "has the bool %u at offset %" PRIu64
                            ", expected 0 or 1",
                            p[i], begin + i);
    void *copy;
    TRY(arena_take(a, (size_t)kv->n * size, 8, &copy));
    memcpy(copy, p, (size_t)kv->n * size);
    kv->data = copy;
    return OK;
}

static err parse_strings(struct cursor *c, struct gguf_arena *a,
                         struct gguf_kv *kv) {
    if (kv->n > left(c) / 8) /* a length each */
        return fail(c, ERR_FORMAT,
                    "has %" PRIu64 " strings at offset %" PRIu64
                    ", but the file ends at %" PRIu64
                    ": it is truncated or corrupt",
                    kv->n, c->pos, c->n_bytes);
    void *items;
    TRY(arena_take(a, (size_t)kv->n * sizeof(struct gguf_string), 8, &items));
    struct gguf_string *strings = items;
    for (uint64_t i = 0; i < kv->n; i++)
        TRY(cursor_string(c, a, &strings[i]));
    kv->strings = strings;
    return OK;
}

static err parse_type(struct cursor *c, enum gguf_type *out) {
    uint32_t type;
    TRY(cursor_u32(c, &type));
    if (type >= N_GGUF_TYPES)
        return fail(c, ERR_FORMAT,
                    "has type %u at offset %" PRIu64 ", expected 0 to %d", type,
                    c->pos - 4, N_GGUF_TYPES - 1);
    *out = (enum gguf_type)type;
    return OK;
}

static err parse_kv(struct cursor *c, struct gguf_arena *a,
                    struct gguf_kv *kv) {
    TRY(cursor_name(c, a, CAP_KEY_BYTES, &kv->key));
    TRY(parse_type(c, &kv->type));
    kv->item_type = kv->type;
    kv->n = 1;
    if (kv->type == GGUF_ARRAY) {
        TRY(parse_type(c, &kv->item_type));
        if (kv->item_type == GGUF_ARRAY)
            return fail(c, ERR_UNSUPPORTED,
                        "is an array of arrays, which is not supported");
        TRY(cursor_u64(c, &kv->n));
    }
    return kv->item_type == GGUF_STRING ? parse_strings(c, a, kv)
                                        : parse_numbers(c, a, kv);
}

static int compare_kv(const void *a, const void *b) {
    const struct gguf_kv *const *x = a, *const *y = b;
    return strcmp((*x)->key, (*y)->key);
}

static int compare_key(const void *key, const void *b) {
    const struct gguf_kv *const *y = b;
    return strcmp(key, (*y)->key);
}

const struct gguf_kv *gguf_header_find(const struct gguf_header *h,
                                       const char *key) {
    if (h->n_kv == 0) return NULL;
    const struct gguf_kv **hit = bsearch(key, h->kv_sorted, h->n_kv,
                                         sizeof *h->kv_sorted, compare_key);
    return hit ? *hit : NULL;
}

void gguf_header_sort(struct gguf_header *h) {
    for (size_t i = 0; i < h->n_kv; i++) h->kv_sorted[i] = &h->kv[i];
    qsort(h->kv_sorted, h->n_kv, sizeof *h->kv_sorted, compare_kv);
}

static err parse_metadata(struct cursor *c, struct gguf_arena *a,
                          struct gguf_header *h) {
    TRY(NEW(h->kv, h->n_kv));
    TRY(NEW(h->kv_sorted, h->n_kv));
    c->kind = "key";
    for (size_t i = 0; i < h->n_kv; i++) {
        c->index = i;
        c->name = NULL;
        TRY(parse_kv(c, a, &h->kv[i]));
    }
    gguf_header_sort(h);
    for (size_t i = 1; i < h->n_kv; i++)
        if (compare_kv(&h->kv_sorted[i - 1], &h->kv_sorted[i]) == 0) {
            c->name = h->kv_sorted[i]->key;
            return fail(c, ERR_FORMAT, "appears twice (entries %td and %td)",
                        h->kv_sorted[i - 1] - h->kv, h->kv_sorted[i] - h->kv);
        }
    return OK;
}

/* ---- tensors ---- */

/* n_dims, then that many sizes. */
static err parse_dims(struct cursor *c, struct gguf_tensor *t,
                      uint64_t *n_values) {
    *n_values = 1;
    TRY(cursor_u32(c, &t->n_dims));
    if (t->n_dims < 1 || t->n_dims > 4)
        return fail(c, ERR_FORMAT, "has %u dimensions, expected 1 to 4",
                    t->n_dims);
    for (uint32_t i = 0; i < 4; i++) {
        t->dims[i] = 1;
        if (i >= t->n_dims) continue;
        TRY(cursor_u64(c, &t->dims[i]));
        if (t->dims[i] == 0)
            return fail(c, ERR_FORMAT, "has dimension %u of size 0", i);
        if (__builtin_mul_overflow(*n_values, t->dims[i], n_values) ||
            *n_values > INT64_MAX)
            return fail(c, ERR_FORMAT,
                        "has more values than can be counted: dimension %u is "
                        "%" PRIu64,
                        i, t->dims[i]);
    }
    return OK;
}

/* Leaves in file_offset the offset as written: relative to the data. */
static err parse_tensor(struct cursor *c, struct gguf_arena *a,
                        struct gguf_tensor *t) {
    uint32_t type;
    uint64_t n_values = 0;
    TRY(cursor_name(c, a, CAP_NAME_BYTES, &t->name));
    TRY(parse_dims(c, t, &n_values));
    TRY(cursor_u32(c, &type));
    err e = format_from_gguf(type, &t->format);
    if (e != OK) {
        char why[160];
        snprintf(why, sizeof why, "%s", err_text());
        return fail(c, e, "cannot be read: %s", why);
    }
    const struct format_info *f = format_info(t->format);
    if (t->dims[0] % f->block_values)
        return fail(c, ERR_FORMAT,
                    "has rows of %" PRIu64 " values, expected a multiple of %u "
                    "for %s",
                    t->dims[0], f->block_values, f->name);
    if (__builtin_mul_overflow(n_values / f->block_values,
                               (uint64_t)f->block_bytes, &t->n_bytes))
        return fail(c, ERR_FORMAT,
                    "has more bytes than can be counted: %" PRIu64 " values",
                    n_values);
    return cursor_u64(c, &t->file_offset);
}

/* Checks the offset against alignment and file, and makes it absolute. */
static err place_tensor(const struct cursor *c, uint64_t data_begin,
                        uint64_t alignment, struct gguf_tensor *t) {
    uint64_t begin, end;
    if (t->file_offset % alignment)
        return fail(c, ERR_FORMAT,
                    "is at data offset %" PRIu64
                    ", expected a multiple of the alignment %" PRIu64,
                    t->file_offset, alignment);
    if (__builtin_add_overflow(data_begin, t->file_offset, &begin) ||
        __builtin_add_overflow(begin, t->n_bytes, &end))
        return fail(c, ERR_FORMAT,
                    "is at data offset %" PRIu64 " with %" PRIu64
                    " bytes: beyond any file",
                    t->file_offset, t->n_bytes);
    if (end > c->n_file_bytes)
        return fail(c, ERR_FORMAT,
                    "needs bytes %" PRIu64 " to %" PRIu64
                    ", but the file ends at %" PRIu64
                    ": it is truncated (or the offset corrupt)",
                    begin, end, c->n_file_bytes);
    t->file_offset = begin;
    return OK;
}

static err parse_alignment(const struct cursor *c, const struct gguf_header *h,
                           uint64_t *out) {
    const struct gguf_kv *kv = gguf_header_find(h, "general.alignment");
    *out = DEFAULT_ALIGNMENT;
    if (!kv) return OK;
    uint32_t v;
    TRY(gguf_kv_u32(c->path, kv, &v));
    if (v == 0 || (v & (v - 1)))
        return err_set(ERR_FORMAT,
                       "%s: key 'general.alignment' is %u, expected a power of "
                       "two",
                       c->path, v);
    *out = v;
    return OK;
}

static err parse_tensors(struct cursor *c, struct gguf_arena *a,
                         struct gguf_header *h) {
    TRY(NEW(h->tensors, h->n_tensors));
    c->kind = "tensor";
    for (size_t i = 0; i < h->n_tensors; i++) {
        c->index = i;
        c->name = NULL;
        TRY(parse_tensor(c, a, &h->tensors[i]));
    }
    uint64_t alignment;
    TRY(parse_alignment(c, h, &alignment));
    /* No overflow: a position in a file is below 2^63, an alignment 2^32. */
    uint64_t data_begin = (c->pos + alignment - 1) / alignment * alignment;
    for (size_t i = 0; i < h->n_tensors; i++) {
        c->index = i;
        c->name = h->tensors[i].name;
        TRY(place_tensor(c, data_begin, alignment, &h->tensors[i]));
    }
    return OK;
}

/* ---- header ---- */

static err parse_magic(struct cursor *c) {
    const uint8_t *p;
    if (c->n_bytes < 4)
        return err_set(ERR_FORMAT,
                       "%s: a file of %" PRIu64 " bytes is no GGUF file: empty "
                       "or truncated",
                       c->path, c->n_bytes);
    TRY(cursor_take(c, 4, &p));
    if (memcmp(p, "GGUF", 4) == 0) return OK;
    static const char *const old[] = {"lmgg", "fmgg", "tjgg", "algg"};
    for (size_t i = 0; i < sizeof old / sizeof *old; i++)
        if (memcmp(p, old[i], 4) == 0)
            return err_set(ERR_UNSUPPORTED,
                           "%s: a GGML file from before GGUF is not supported: "
                           "convert it again",
                           c->path);
    char shown[GGUF_SHOWN_BYTES];
    return err_set(ERR_FORMAT,
                   "%s: not a GGUF file: it begins with '%s', expected 'GGUF'",
                   c->path, gguf_shown(p, 4, shown));
}

static err parse_version(struct cursor *c, uint32_t *out) {
    TRY(cursor_u32(c, out));
    if (*out == 2 || *out == 3) return OK;
    uint32_t swapped = __builtin_bswap32(*out);
    if (swapped >= 1 && swapped <= 3)
        return err_set(ERR_UNSUPPORTED,
                       "%s: a big-endian GGUF file (version %u) is not "
                       "supported, only little-endian",
                       c->path, swapped);
    return err_set(ERR_UNSUPPORTED,
                   "%s: GGUF version %u is not supported, only 2 and 3%s",
                   c->path, *out, *out == 1 ? ": convert the model again" : "");
}

/* A count of entries of at least `min_bytes` each. */
static err parse_count(struct cursor *c, const char *what, uint64_t min_bytes,
                       size_t *out) {
    uint64_t n;
    TRY(cursor_u64(c, &n));
    if (n > left(c) / min_bytes)
        return fail(c, ERR_FORMAT,
                    "announces %" PRIu64 " %s, more than a file of %" PRIu64
                    " bytes can hold: it is truncated or corrupt",
                    n, what, c->n_bytes);
    *out = (size_t)n;
    return OK;
}

static err parse_all(struct cursor *c, struct gguf_arena *a,
                     struct gguf_header *h) {
    TRY(parse_magic(c));
    TRY(parse_version(c, &h->version));
    TRY(parse_count(c, "tensors", MIN_TENSOR_BYTES, &h->n_tensors));
    TRY(parse_count(c, "keys", MIN_KV_BYTES, &h->n_kv));
    TRY(parse_metadata(c, a, h));
    return parse_tensors(c, a, h);
}

err gguf_header_parse(struct gguf_arena *a, const char *path,
                      const uint8_t *data, uint64_t n_bytes,
                      uint64_t n_file_bytes, struct gguf_header *out) {
    struct cursor c = {path, data, n_bytes, 0, n_file_bytes, "header", 0, NULL};
    *out = (struct gguf_header){0};
    err e = parse_all(&c, a, out);
    if (e != OK) gguf_header_free(out);
    return e;
}

void gguf_header_free(struct gguf_header *h) {
    free(h->kv);
    free(h->kv_sorted);
    free(h->tensors);
    *h = (struct gguf_header){0};
}
