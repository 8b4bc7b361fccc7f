/* A model without its file: the header alone, and what tells it from others. */
#include <string.h>

#include <xxhash.h>

#include "model/gguf_parse.h"

#define SAMPLES 4 /* of each tensor */
#define SAMPLE_BYTES 1024

/* ---- the header ---- */

static err put_u32(struct bytes *out, uint32_t v) {
    const uint8_t le[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)};
    return bytes_append(out, le, sizeof le);
}

static err put_u64(struct bytes *out, uint64_t v) {
    TRY(put_u32(out, (uint32_t)v));
    return put_u32(out, (uint32_t)(v >> 32));
}

static err put_string(struct bytes *out, const char *data, size_t n) {
    TRY(put_u64(out, n));
    return bytes_append(out, data, n);
}

/* The tokenizer is the coordinator's affair, and large; alignment and parts are the file's. */
static int is_of_program(const struct gguf_kv *kv) {
    return strncmp(kv->key, "tokenizer.", 10) != 0 && strncmp(kv->key, "split.", 6) != 0 &&
           strcmp(kv->key, "general.alignment") != 0;
}

static err put_kv(struct bytes *out, const struct gguf_kv *kv) {
    TRY(put_string(out, kv->key, strlen(kv->key)));
    TRY(put_u32(out, kv->type));
    if (kv->type == GGUF_ARRAY) {
        TRY(put_u32(out, kv->item_type));
        TRY(put_u64(out, kv->n));
    }
    if (!kv->strings) return bytes_append(out, kv->data, (size_t)kv->n * gguf_type_bytes(kv->item_type));
    for (uint64_t i = 0; i < kv->n; i++) TRY(put_string(out, kv->strings[i].data, kv->strings[i].len));
    return OK;
}

static err put_keys(struct bytes *out, const struct gguf *g) {
    uint64_t n = 1;
    for (size_t i = 0; i < gguf_n_kv(g); i++)
        if (is_of_program(gguf_kv_at(g, i))) n++;
    TRY(put_u64(out, n));
    const uint8_t one[4] = {1};
    const struct gguf_kv alignment = {"general.alignment", GGUF_U32, GGUF_U32, 1, one, NULL};
    TRY(put_kv(out, &alignment));
    for (size_t i = 0; i < gguf_n_kv(g); i++)
        if (is_of_program(gguf_kv_at(g, i))) TRY(put_kv(out, gguf_kv_at(g, i)));
    return OK;
}

/* As if the files of a split model lay one behind the other. */
static uint64_t place_of(const struct gguf *g, const struct gguf_tensor *t) {
    uint64_t at = t->file_offset;
    for (uint32_t i = 0; i < t->file; i++) at += gguf_part_bytes(g, i);
    return at;
}

err gguf_put_header(const struct gguf *g, struct bytes *out) {
    TRY(bytes_append(out, "GGUF", 4));
    TRY(put_u32(out, 3));
    TRY(put_u64(out, gguf_n_tensors(g)));
    TRY(put_keys(out, g));
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        TRY(put_string(out, t->name, strlen(t->name)));
        TRY(put_u32(out, t->n_dims));
        for (uint32_t k = 0; k < t->n_dims; k++) TRY(put_u64(out, t->dims[k]));
        TRY(put_u32(out, format_info(t->format)->gguf_type));
        TRY(put_u64(out, place_of(g, t)));
    }
    return OK;
}

/* ---- telling models apart ---- */

static err samples_hash(const struct gguf *g, const struct gguf_tensor *t, XXH3_state_t *state) {
    uint8_t sample[SAMPLE_BYTES];
    for (uint64_t i = 0; i < SAMPLES; i++) {
        uint64_t n = t->n_bytes < SAMPLE_BYTES ? t->n_bytes : SAMPLE_BYTES;
        uint64_t at = (t->n_bytes - n) * i / (SAMPLES - 1); /* both ends among them */
        TRY(gguf_read_bytes(g, t, at, n, sample));
        XXH3_128bits_update(state, sample, n);
    }
    return OK;
}

err gguf_fingerprint(const struct gguf *g, struct gguf_fingerprint *out) {
    struct bytes header = {0};
    err e = OK;
    XXH3_state_t *state = XXH3_createState();
    if (!state) return err_set(ERR_MEMORY, "cannot allocate a hash");
    XXH3_128bits_reset(state);
    TRY_GOTO(gguf_put_header(g, &header), done);
    XXH3_128bits_update(state, header.data, header.len);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) TRY_GOTO(samples_hash(g, gguf_tensor_at(g, i), state), done);
    XXH128_hash_t hash = XXH3_128bits_digest(state);
    *out = (struct gguf_fingerprint){{hash.low64, hash.high64}};
done:
    XXH3_freeState(state);
    bytes_free(&header);
    return e;
}
