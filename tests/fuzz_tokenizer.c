/* libFuzzer harness of the tokenizers. Run: make fuzz && build-fuzz/fuzz_tokenizer
 *
 * The first byte of an input says what the rest is: text for one of the golden
 * vocabularies (or for the file that CARAVAN_VOCAB names), tokens, or a GGUF file
 * of a tiny vocabulary whose parts come from the input. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/env.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct tokenizer *vocabs[16];
static size_t n_vocabs;

static void require(int holds) {
    if (!holds) abort();
}

static struct tokenizer *open_path(const char *path) {
    struct gguf *g;
    struct tokenizer *t = NULL;
    if (gguf_open(path, &g) != OK) return NULL;
    if (tokenizer_create(g, &t) != OK) t = NULL;
    gguf_close(g);
    return t;
}

static void open_vocabs(void) {
    static const char *const names[] = {"gpt-2", "llama-bpe", "deepseek-llm",
                                        "deepseek-v3", "tekken", "spm", "bert"};
    const char *path = env_get("CARAVAN_VOCAB");
    if (path) {
        vocabs[n_vocabs++] = open_path(path);
    } else {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            char golden[200];
            snprintf(golden, sizeof golden, "tests/golden/tokenizer_%s.gguf",
                     names[i]);
            vocabs[n_vocabs++] = open_path(golden);
        }
    }
    for (size_t i = 0; i < n_vocabs; i++) require(vocabs[i] != NULL);
}

static void decode_list(const struct tokenizer *t, const struct token_list *l,
                        struct bytes *whole) {
    struct bytes shown = {0};
    struct token_stream s;
    token_stream_init(&s, t, 1);
    for (size_t i = 0; i < l->n; i++) {
        require(token_stream_push(&s, l->ids[i], &shown) == OK);
        require(utf8_is_valid(shown.data, shown.len));
    }
    require(token_stream_finish(&s, &shown) == OK);
    require(utf8_is_valid(shown.data, shown.len));
    require(tokenizer_decode(t, l->ids, l->n, 1, whole) == OK);
    if (utf8_is_valid(whole->data, whole->len))
        require(whole->len == shown.len &&
                (shown.len == 0 ||
                 memcmp(whole->data, shown.data, shown.len) == 0));
    token_stream_free(&s);
    bytes_free(&shown);
}

static void fuzz_text(const struct tokenizer *t, const uint8_t *text, size_t n,
                      int flags) {
    struct token_list l = {0};
    struct bytes b = {0};
    require(tokenizer_encode(t, (const char *)text, n, flags & 1, flags >> 1 & 1,
                             &l) == OK);
    decode_list(t, &l, &b);
    if (!flags && strcmp(tokenizer_kind(t), "gpt2") == 0 &&
        !env_get("CARAVAN_VOCAB"))
        require(b.len == n && (n == 0 || memcmp(b.data, text, n) == 0));
    token_list_free(&l);
    bytes_free(&b);
}

static void fuzz_tokens(const struct tokenizer *t, const uint8_t *data,
                        size_t n) {
    struct token_list l = {0};
    struct bytes b = {0};
    for (size_t i = 0; i + 1 < n; i += 2) {
        size_t id = (size_t)(data[i] << 8 | data[i + 1]) % tokenizer_n_vocab(t);
        require(token_list_push(&l, (int32_t)id) == OK);
    }
    decode_list(t, &l, &b);
    token_list_free(&l);
    bytes_free(&b);
}

/* ---- vocabularies made of the input ---- */

static void put(struct bytes *f, const void *p, size_t n) {
    require(bytes_append(f, p, n) == OK);
}
static void put_u32(struct bytes *f, uint32_t v) { put(f, &v, 4); }
static void put_u64(struct bytes *f, uint64_t v) { put(f, &v, 8); }
static void put_string(struct bytes *f, const void *p, size_t n) {
    put_u64(f, n);
    put(f, p, n);
}
static void put_array(struct bytes *f, const char *key, uint32_t type,
                      uint64_t n) {
    put_string(f, key, strlen(key));
    put_u32(f, GGUF_ARRAY);
    put_u32(f, type);
    put_u64(f, n);
}

/* Strings of the input, each with a byte before it that holds its length. */
static void put_strings(struct bytes *f, const uint8_t *data, size_t n,
                        uint64_t count) {
    size_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        size_t len = at < n ? data[at++] % 8 : 0;
        if (len > n - at) len = n - at;
        put_string(f, data + at, len);
        at += len;
    }
}

static void build_vocab(struct bytes *f, const char *model, const uint8_t *data,
                        size_t n) {
    uint64_t count = 1 + data[0] % 32;
    put(f, "GGUF", 4);
    put_u32(f, 3);
    put_u64(f, 0);
    put_u64(f, 5);
    put_string(f, "tokenizer.ggml.model", 20);
    put_u32(f, GGUF_STRING);
    put_string(f, model, strlen(model));
    put_array(f, "tokenizer.ggml.tokens", GGUF_STRING, count);
    put_strings(f, data + 1, n - 1, count);
    put_array(f, "tokenizer.ggml.merges", GGUF_STRING, count);
    put_strings(f, data + n / 2, n - n / 2, count);
    put_array(f, "tokenizer.ggml.token_type", GGUF_U32, count);
    for (uint64_t i = 0; i < count; i++) put_u32(f, data[i % n] % 7);
    put_array(f, "tokenizer.ggml.scores", GGUF_F32, count);
    for (uint64_t i = 0; i < count; i++) {
        float score = (float)(data[(n - 1 - i % n)] % 16);
        put(f, &score, 4);
    }
}

static void fuzz_vocab(const char *model, const uint8_t *data, size_t n) {
    static int fd = -1;
    char path[40];
    if (n == 0) return;
    if (fd < 0) fd = memfd_create("fuzz_tokenizer", 0);
    struct bytes f = {0};
    build_vocab(&f, model, data, n);
    require(fd >= 0 && ftruncate(fd, 0) == 0 &&
            pwrite(fd, f.data, f.len, 0) == (ssize_t)f.len);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct tokenizer *t = open_path(path);
    if (t) {
        fuzz_text(t, data, n, 3);
        fuzz_tokens(t, data, n);
    }
    tokenizer_free(t);
    bytes_free(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const models[] = {"llama", "gpt2", "bert"};
    if (n_vocabs == 0) open_vocabs();
    if (size == 0) return 0;
    const struct tokenizer *t = vocabs[data[0] / 8 % n_vocabs];
    int what = data[0] % 8;
    if (what < 4) fuzz_text(t, data + 1, size - 1, what);
    else if (what == 4) fuzz_tokens(t, data + 1, size - 1);
    else fuzz_vocab(models[what - 5], data + 1, size - 1);
    return 0;
}
