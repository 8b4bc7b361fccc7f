/* The header of one GGUF file, from bytes in memory: inside of model/gguf.
 *
 * Nothing in the bytes is trusted; what comes out has been validated except for
 * what concerns several tensors (duplicate names, overlaps), which gguf.c checks
 * once all parts of a model are known. Strings and array data live in the arena,
 * so the bytes may go away afterwards. */
#ifndef MODEL_GGUF_PARSE_H
#define MODEL_GGUF_PARSE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/gguf.h"

/* Memory that is freed all at once. Zero-initialised is empty. */
struct gguf_chunk;
struct gguf_arena {
    struct gguf_chunk *last;
};

void gguf_arena_free(struct gguf_arena *a);

struct gguf_header {
    uint32_t version;
    size_t n_kv, n_tensors;
    struct gguf_kv *kv;
    const struct gguf_kv **kv_sorted; /* by key */
    struct gguf_tensor *tensors;      /* file is 0 */
};

/* `n_bytes` of the file are readable at `data`: all of it, or the header alone of one of
 * `n_file_bytes`. */
err gguf_header_parse(struct gguf_arena *a, const char *path,
                      const uint8_t *data, uint64_t n_bytes,
                      uint64_t n_file_bytes, struct gguf_header *out);
void gguf_header_free(struct gguf_header *h);

/* Fills kv_sorted, which has room for n_kv, from kv. */
void gguf_header_sort(struct gguf_header *h);
const struct gguf_kv *gguf_header_find(const struct gguf_header *h,
                                       const char *key);

/* Bytes of an item; 0 where it has no fixed size. */
size_t gguf_type_bytes(enum gguf_type type);

/* The value of an integer scalar as u32; ERR_FORMAT names path and key. */
err gguf_kv_u32(const char *path, const struct gguf_kv *kv, uint32_t *out);

/* `len` bytes as one line of printable ASCII, shortened to fit: for messages. */
#define GGUF_SHOWN_BYTES 100
const char *gguf_shown(const void *data, size_t len,
                       char out[GGUF_SHOWN_BYTES]);

#endif
