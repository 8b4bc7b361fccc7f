/* GGUF files, versions 2 and 3 (specification: ggml docs/gguf.md).
 *
 * The header is mapped and validated whole at open: counts, lengths, types,
 * alignment, overlaps, duplicate names, offsets against the file's size.
 * After gguf_open succeeded the rest may assume. A split model
 * (NAME-00001-of-0000N.gguf) opens by its first file and reads as one; its
 * metadata is that of the first file.
 * Tensor data is not mapped in: it is read by range, see gguf_read.
 * Strings are NUL-terminated copies without embedded NUL unless said so, owned by the
 * struct gguf. Read-only after open: any thread. */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/format.h"

struct gguf;

enum gguf_type { /* numbers as in the file */
    GGUF_U8, GGUF_I8, GGUF_U16, GGUF_I16, GGUF_U32, GGUF_I32, GGUF_F32,
    GGUF_BOOL, GGUF_STRING, GGUF_ARRAY, GGUF_U64, GGUF_I64, GGUF_F64,
    N_GGUF_TYPES
};

struct gguf_string {
    const char *data; /* NUL follows; may hold NULs of its own */
    size_t len;
};

/* One metadata entry. For an array, `type` is GGUF_ARRAY and `item_type` its
 * items'; nested arrays are refused as unsupported. */
struct gguf_kv {
    const char *key;
    enum gguf_type type, item_type;
    uint64_t n;                      /* items; 1 for a scalar */
    const void *data;                /* numbers and bools, unaligned, little endian */
    const struct gguf_string *strings; /* [n] for strings, else NULL */
};

/* "u32", "string", "array"... */
const char *gguf_type_name(enum gguf_type type);

/* A tensor is a place in a file. dims[0] is the row length (contiguous
 * values); dims[1] the number of rows; missing dimensions are 1. */
struct gguf_tensor {
    const char *name;
    enum format format;
    uint32_t n_dims;
    uint64_t dims[4];
    uint32_t file;        /* index of the split */
    uint64_t file_offset; /* absolute, bytes */
    uint64_t n_bytes;
};

err gguf_open(const char *path, struct gguf **out);

/* A model whose file is elsewhere: all that programs are made from, small enough to be sent.
 * Appends a GGUF header with every tensor, in order, and every key but the tokenizer's and those
 * that concern the file itself. */
err gguf_put_header(const struct gguf *g, struct bytes *out);
/* Opens such a header (copied); `name` is for messages. It is checked like a file's, but its tensors cannot be
 * read, and their offsets say no more than their order. */
err gguf_open_header(const char *name, const void *header, size_t n, struct gguf **out);

/* What tells models apart: a hash of the header as above and of a few samples of every tensor, so
 * that it is the same wherever a copy of the file lies. Takes a few small reads per tensor. */
struct gguf_fingerprint {
    uint64_t hash[2];
};
err gguf_fingerprint(const struct gguf *g, struct gguf_fingerprint *out);
/* A hash of when the files were changed last. */
uint64_t gguf_change_stamp(const struct gguf *g);
void gguf_close(struct gguf *g);

/* A model that is described, not there: metadata and tensors without data, for which gguf_read fails. `path` is what
 * messages call it. The lists are copied, what they point to is not; n_bytes and file_offset of the tensors are set. */
err gguf_describe(const char *path, const struct gguf_kv *kv, size_t n_kv, const struct gguf_tensor *tensors,
                  size_t n_tensors, struct gguf **out);

const char *gguf_path(const struct gguf *g);
uint32_t gguf_version(const struct gguf *g);
uint64_t gguf_file_bytes(const struct gguf *g); /* all splits */
size_t gguf_n_files(const struct gguf *g);      /* 1 unless split */
uint64_t gguf_part_bytes(const struct gguf *g, size_t file);
const char *gguf_file_path(const struct gguf *g, size_t file);

size_t gguf_n_kv(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i);
const struct gguf_kv *gguf_find(const struct gguf *g, const char *key); /* or NULL */

/* Typed access. Integers convert between widths when the value fits. Absent
 * key: ERR_FORMAT naming file and key; wrong type or value out of range likewise;
 * so does a string with an embedded NUL. f32 takes f32 and f64. */
err gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out);
err gguf_get_f32(const struct gguf *g, const char *key, float *out);
err gguf_get_bool(const struct gguf *g, const char *key, int *out);
err gguf_get_string(const struct gguf *g, const char *key, const char **out);

/* The same, `fallback` when the key is absent; wrong types still fail. */
err gguf_get_u32_or(const struct gguf *g, const char *key, uint32_t fallback, uint32_t *out);
err gguf_get_f32_or(const struct gguf *g, const char *key, float fallback, float *out);
err gguf_get_bool_or(const struct gguf *g, const char *key, int fallback, int *out);
err gguf_get_string_or(const struct gguf *g, const char *key, const char *fallback, const char **out);

/* Item i of an integer (any width) or float array, checked once by the caller
 * through kv->item_type and kv->n. */
int64_t gguf_item_i64(const struct gguf_kv *kv, uint64_t i);
double gguf_item_f64(const struct gguf_kv *kv, uint64_t i);

size_t gguf_n_tensors(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i);
const struct gguf_tensor *gguf_find_tensor(const struct gguf *g, const char *name); /* or NULL */

/* Reads rows [row_begin, row_end) and of each the blocks that hold columns
 * [col_begin, col_end), packed row after row into `dst`; col_begin and col_end
 * are multiples of the format's block_values. Row r of a tensor with more than
 * two dimensions counts through dims[1..3]. `*n_read` (may be NULL) is increased
 * by the bytes read. Whole rows are one read, partial rows one read each.
 * ERR_FILE when the file has become shorter since it was opened. Thread-safe. */
err gguf_read(const struct gguf *g, const struct gguf_tensor *t,
              uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
              uint64_t col_end, void *dst, uint64_t *n_read);
/* These rows will be read soon: the system may begin to fetch them. */
void gguf_advise(const struct gguf *g, const struct gguf_tensor *t, uint64_t row_begin, uint64_t row_end);
/* Bytes [at, at + n) of a tensor. */
err gguf_read_bytes(const struct gguf *g, const struct gguf_tensor *t, uint64_t at, uint64_t n, void *dst);

#endif
