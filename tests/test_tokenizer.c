/* The tokenizers: golden tokens of the original engines, round trips, streams,
 * special tokens, damaged files, large texts. Runs from the repository's root.
 *
 * CARAVAN_VOCABS=FOLDER adds every FOLDER/NAME.gguf that has NAME.gguf.inp (texts
 * separated by a line __ggml_vocab_test__) and NAME.gguf.out (ids, one line per
 * text) beside it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

#define GOLDEN "tests/golden/tokenizer_"
#define SEPARATOR "\n__ggml_vocab_test__\n"

static struct tokenizer *open_tokenizer(const char *path) {
    struct gguf *g;
    struct tokenizer *t;
    if (gguf_open(path, &g) != OK) fail_msg("%s: %s", path, err_text());
    if (tokenizer_create(g, &t) != OK) fail_msg("%s: %s", path, err_text());
    gguf_close(g);
    return t;
}

static struct tokenizer *open_golden(const char *name) {
    char path[200];
    snprintf(path, sizeof path, GOLDEN "%s.gguf", name);
    return open_tokenizer(path);
}

static struct token_list encode(const struct tokenizer *t, const char *text,
                                size_t len, int add_special,
                                int parse_special) {
    struct token_list l = {0};
    if (tokenizer_encode(t, text, len, add_special, parse_special, &l) != OK)
        fail_msg("%s", err_text());
    return l;
}

static struct bytes decode(const struct tokenizer *t, const struct token_list *l,
                           int with_special) {
    struct bytes b = {0};
    assert_int_equal(tokenizer_decode(t, l->ids, l->n, with_special, &b), OK);
    return b;
}

static struct bytes stream(const struct tokenizer *t, const int32_t *ids,
                           size_t n) {
    struct bytes b = {0};
    struct token_stream s;
    token_stream_init(&s, t, 0);
    for (size_t i = 0; i < n; i++) {
        assert_int_equal(token_stream_push(&s, ids[i], &b), OK);
        assert_true(utf8_is_valid(b.data, b.len));
    }
    assert_int_equal(token_stream_finish(&s, &b), OK);
    token_stream_free(&s);
    return b;
}

/* ---- golden ---- */

static const char *const names[] = {
    "default", "gpt-2", "llama-bpe", "qwen2", "falcon", "deepseek-llm",
    "deepseek-coder", "deepseek-v3", "starcoder", "gpt-4o", "tekken", "spm",
    "bert"};
enum { N_NAMES = sizeof names / sizeof *names };

/* One text against the ids in `line`; 1 when equal. */
static int check_text(const struct tokenizer *t, const char *text, size_t len,
                      const char *line) {
    struct token_list l = encode(t, text, len, 0, 0);
    struct bytes expected = {0}, found = {0};
    while (*line == ' ') line++;
    bytes_append(&expected, line, strcspn(line, "\r\n"));
    while (expected.len && expected.data[expected.len - 1] == ' ')
        expected.data[--expected.len] = 0;
    bytes_append(&found, "", 0);
    for (size_t i = 0; i < l.n; i++)
        bytes_printf(&found, i ? " %d" : "%d", l.ids[i]);
    int is_equal = strcmp((char *)expected.data, (char *)found.data) == 0;
    if (!is_equal)
        print_error("text \"%.*s\"\n  expected %s\n  found    %s\n", (int)len,
                    text, expected.data, found.data);
    bytes_free(&expected);
    bytes_free(&found);
    token_list_free(&l);
    return is_equal;
}

static void check_file(const char *vocab, const char *texts, const char *ids) {
    struct tokenizer *t = open_tokenizer(vocab);
    struct bytes in = {0}, out = {0};
    assert_int_equal(bytes_read_file(&in, texts), OK);
    assert_int_equal(bytes_read_file(&out, ids), OK);
    const char *p = (const char *)in.data, *end = p + in.len;
    const char *line = (const char *)out.data;
    size_t n = 0, n_good = 0;
    while (p < end) {
        const char *sep = memmem(p, (size_t)(end - p), SEPARATOR,
                                 sizeof SEPARATOR - 1);
        if (!sep) sep = end;
        n++;
        n_good += (size_t)check_text(t, p, (size_t)(sep - p), line);
        line = strchr(line, '\n');
        if (!line) break;
        line++;
        p = sep + sizeof SEPARATOR - 1;
    }
    print_message("%s: %zu of %zu texts\n", vocab, n_good, n);
    bytes_free(&in);
    bytes_free(&out);
    tokenizer_free(t);
    assert_true(n > 0);
    assert_int_equal(n_good, n);
}

static void test_golden(void **state) {
    char vocab[200], ids[200];
    snprintf(vocab, sizeof vocab, GOLDEN "%s.gguf", (const char *)*state);
    snprintf(ids, sizeof ids, GOLDEN "%s.out", (const char *)*state);
    check_file(vocab, GOLDEN "texts.txt", ids);
}

static void test_vocab(void **state) {
    char texts[600], ids[600];
    snprintf(texts, sizeof texts, "%s.inp", (const char *)*state);
    snprintf(ids, sizeof ids, "%s.out", (const char *)*state);
    check_file(*state, texts, ids);
}

/* ---- round trips ---- */

static uint32_t random_state = 1;

static uint32_t random_next(void) { /* xorshift32 */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static size_t random_text(uint8_t *dst, size_t n_chars) {
    static const uint32_t tops[] = {0x80, 0x80, 0x80, 0x250, 0x3100, 0x10000,
                                    0x110000};
    size_t len = 0;
    for (size_t i = 0; i < n_chars; i++) {
        uint32_t code = random_next() % tops[random_next() % 7];
        if (code >= 0xD800 && code < 0xE000) code = ' ';
        if (code == 0x2581) code = ' '; /* SentencePiece's own space */
        len += utf8_write(code, dst + len);
    }
    return len;
}

static void check_round_trip(const struct tokenizer *t, const uint8_t *text,
                             size_t len) {
    struct token_list l = encode(t, (const char *)text, len, 0, 0);
    struct bytes b = decode(t, &l, 1);
    assert_int_equal(b.len, len);
    assert_memory_equal(b.data, text, len);
    if (utf8_is_valid(text, len)) {
        struct bytes s = stream(t, l.ids, l.n);
        assert_int_equal(s.len, len);
        if (len) assert_memory_equal(s.data, text, len);
        bytes_free(&s);
    }
    bytes_free(&b);
    token_list_free(&l);
}

static void test_round_trips(void **state) {
    (void)state;
    static uint8_t text[4 * 64];
    for (size_t k = 0; k < N_NAMES; k++) {
        if (strcmp(names[k], "bert") == 0) continue;
        struct tokenizer *t = open_golden(names[k]);
        for (int i = 0; i < 600; i++) /* UTF-8 */
            check_round_trip(t, text, random_text(text, random_next() % 64));
        for (int i = 0; i < 600; i++) { /* any bytes */
            size_t len = random_next() % 64;
            for (size_t j = 0; j < len; j++)
                text[j] = (uint8_t)(random_next() % 5 ? random_next() : 'a');
            check_round_trip(t, text, len);
        }
        for (int i = 0; i < 256; i++) {
            text[0] = (uint8_t)i;
            check_round_trip(t, text, 1);
        }
        check_round_trip(t, (const uint8_t *)"a\0\0b", 4);
        check_round_trip(t, (const uint8_t *)"\xED\xA0\x80 \xC0\x80 \xF0\x9F", 9);
        tokenizer_free(t);
    }
}

static void test_bert_any_bytes(void **state) {
    (void)state;
    struct tokenizer *t = open_golden("bert");
    static uint8_t text[4 * 64];
    for (int i = 0; i < 2000; i++) {
        size_t len = i % 2 ? random_text(text, 64) : random_next() % 64;
        if (i % 2 == 0)
            for (size_t j = 0; j < len; j++) text[j] = (uint8_t)random_next();
        struct token_list l = encode(t, (char *)text, len, 1, 1);
        struct bytes b = stream(t, l.ids, l.n);
        bytes_free(&b);
        token_list_free(&l);
    }
    struct token_list l = encode(t, "The  Caravan,", 13, 1, 0);
    struct bytes b = decode(t, &l, 0), b2 = decode(t, &l, 1);
    assert_string_equal(b.data, "the caravan ,");
    assert_string_equal(b2.data, "[CLS] the caravan , [SEP]");
    bytes_free(&b);
    bytes_free(&b2);
    token_list_free(&l);
    tokenizer_free(t);
}

/* ---- streams ---- */

static void check_stream(const struct tokenizer *t, const char *text, size_t len,
                         const char *expected) {
    struct token_list l = encode(t, text, len, 0, 0);
    struct bytes b = stream(t, l.ids, l.n);
    assert_string_equal(b.data, expected);
    bytes_free(&b);
    token_list_free(&l);
}

static void test_stream(void **state) {
    (void)state;
    static const char *const kinds[] = {"gpt-2", "spm"};
    for (int k = 0; k < 2; k++) {
        struct tokenizer *t = open_golden(kinds[k]);
        check_stream(t, "\xF0\x9F\xA6\x99\xF0\x9F\xA6\x99", 8,
                     "\xF0\x9F\xA6\x99\xF0\x9F\xA6\x99");
        check_stream(t, "a\xF0\x9F\xA6", 4, "a" UTF8_REPLACEMENT);
        check_stream(t, "\xF0\x9F\xA6g", 4, UTF8_REPLACEMENT "g");
        check_stream(t, "\xFF\xC3\xA9", 3, UTF8_REPLACEMENT "\xC3\xA9");
        check_stream(t, "\xE2\x82\xE2\x82\xAC", 5, UTF8_REPLACEMENT "\xE2\x82\xAC");
        check_stream(t, "\xED\xA0\x80", 3,
                     UTF8_REPLACEMENT UTF8_REPLACEMENT UTF8_REPLACEMENT);
        tokenizer_free(t);
    }
    struct tokenizer *t = open_golden("gpt-2");
    struct token_stream s;
    struct bytes b = {0};
    struct token_list l = encode(t, "\xF0\x9F\xA6\x99", 4, 0, 0);
    assert_true(l.n > 1); /* the vocabulary has no llama */
    token_stream_init(&s, t, 0);
    for (size_t i = 0; i + 1 < l.n; i++)
        assert_int_equal(token_stream_push(&s, l.ids[i], &b), OK);
    assert_int_equal(b.len, 0);
    assert_int_equal(token_stream_push(&s, 999999, &b), ERR_REQUEST);
    assert_int_equal(token_stream_push(&s, l.ids[l.n - 1], &b), OK);
    assert_string_equal(b.data, "\xF0\x9F\xA6\x99");
    token_stream_free(&s);
    bytes_free(&b);
    token_list_free(&l);
    tokenizer_free(t);
}

static void test_stream_continues(void **state) {
    (void)state;
    struct tokenizer *t = open_golden("spm");
    struct token_list l = encode(t, "caravan", 7, 0, 0);
    struct token_stream s;
    struct bytes b = {0};
    token_stream_init(&s, t, 0);
    s.is_first = 0;
    for (size_t i = 0; i < l.n; i++)
        assert_int_equal(token_stream_push(&s, l.ids[i], &b), OK);
    assert_string_equal(b.data, " caravan");
    token_stream_free(&s);
    bytes_free(&b);
    token_list_free(&l);
    tokenizer_free(t);
}

/* ---- special tokens ---- */

static int has_id(const struct token_list *l, int32_t id) {
    for (size_t i = 0; i < l->n; i++)
        if (l->ids[i] == id) return 1;
    return 0;
}

/* Encodes, looks whether `id` is among the tokens, decodes what it was. */
static void check_special(const struct tokenizer *t, const char *text,
                          int parse_special, int32_t id, int is_there) {
    struct token_list l = encode(t, text, strlen(text), 0, parse_special);
    assert_int_equal(has_id(&l, id), is_there);
    struct bytes b = decode(t, &l, 1);
    assert_string_equal(b.data, text);
    bytes_free(&b);
    token_list_free(&l);
}

static void test_special_bpe(void **state) {
    (void)state;
    struct tokenizer *t = open_golden("qwen2");
    int32_t end = tokenizer_eos(t), user = end + 1;
    assert_int_equal(tokenizer_n_vocab(t), (size_t)user + 1);
    assert_int_equal(tokenizer_type(t, end), TOKEN_CONTROL);
    assert_int_equal(tokenizer_type(t, user), TOKEN_USER_DEFINED);
    assert_int_equal(tokenizer_type(t, user + 1), TOKEN_UNDEFINED);
    assert_true(tokenizer_is_end(t, end));
    assert_false(tokenizer_is_end(t, user));
    assert_false(tokenizer_is_end(t, -1));
    check_special(t, "a<|im_end|>b", 1, end, 1);
    check_special(t, "a<|im_end|>b", 0, end, 0);
    check_special(t, "<|im_end|><|im_end|>", 1, end, 1);
    check_special(t, "<|im_end|", 1, end, 0);
    check_special(t, "a <tool call>b", 0, user, 1);
    check_special(t, "<tool <tool call>", 0, user, 1);
    struct token_list l = encode(t, "hi<|im_end|>", 12, 1, 1);
    assert_int_equal(l.ids[l.n - 1], end);
    assert_false(tokenizer_adds_bos(t)); /* qwen2 does not, unless told */
    struct bytes b = decode(t, &l, 0);
    assert_string_equal(b.data, "hi");
    bytes_free(&b);
    token_list_free(&l);
    tokenizer_free(t);
    t = open_golden("llama-bpe");
    assert_true(tokenizer_adds_bos(t));
    l = encode(t, "", 0, 1, 0);
    assert_int_equal(l.n, 1);
    assert_int_equal(l.ids[0], tokenizer_bos(t));
    token_list_free(&l);
    tokenizer_free(t);
}

static void test_special_spm(void **state) {
    (void)state;
    struct tokenizer *t = open_golden("spm");
    assert_string_equal(tokenizer_kind(t), "llama");
    assert_true(tokenizer_is_end(t, 2));
    struct token_list plain = encode(t, "</s>", 4, 0, 0);
    assert_false(has_id(&plain, 2));
    struct token_list l = encode(t, "go</s>go", 8, 1, 1);
    assert_int_equal(l.ids[0], 1);
    assert_true(has_id(&l, 2));
    struct bytes b = decode(t, &l, 1), hidden = decode(t, &l, 0);
    assert_string_equal(b.data, "<s>go</s> go");
    assert_string_equal(hidden.data, "go go");
    struct token_list empty = encode(t, "", 0, 0, 0);
    assert_int_equal(empty.n, 0);
    bytes_free(&b);
    bytes_free(&hidden);
    token_list_free(&plain);
    token_list_free(&l);
    tokenizer_free(t);
}

static void test_bad_id(void **state) {
    (void)state;
    struct tokenizer *t = open_golden("gpt-2");
    struct bytes b = {0};
    int32_t ids[] = {0, 1, INT32_MAX};
    assert_int_equal(bytes_append_str(&b, "kept"), OK);
    assert_int_equal(tokenizer_decode(t, ids, 3, 0, &b), ERR_REQUEST);
    assert_string_equal(b.data, "kept");
    assert_int_equal(tokenizer_decode_token(t, -1, 0, &b), ERR_REQUEST);
    bytes_free(&b);
    tokenizer_free(t);
}

/* ---- large texts ---- */

static void test_large(void **state) {
    (void)state;
    static const char *const fills[] = {"a", " ", "\xC2\xA0", "1", "\n ", "\xCC\x81",
                                        "<|im_end|", "\xFF" "a", "'s", "   5"};
    char *text = malloc(1 << 20);
    assert_non_null(text);
    for (size_t k = 0; k < N_NAMES; k++) {
        struct tokenizer *t = open_golden(names[k]);
        for (size_t f = 0; f < sizeof fills / sizeof *fills; f++) {
            size_t unit = strlen(fills[f]), n = f < 2 ? 1 << 20 : 1 << 18;
            for (size_t i = 0; i < n; i++) text[i] = fills[f][i % unit];
            text[n - 1] = '5'; /* a run that does not end the text */
            double start = clock_s();
            struct token_list l = encode(t, text, n, 0, 0);
            double took = clock_s() - start;
            if (took > 20) fail_msg("%s: fill %zu took %.1f s", names[k], f, took);
            token_list_free(&l);
        }
        tokenizer_free(t);
    }
    free(text);
}

/* ---- files that are wrong ---- */

/* Writes a GGUF header by hand. */
static struct bytes file;
static uint64_t n_keys;

static void put(const void *p, size_t n) {
    assert_int_equal(bytes_append(&file, p, n), OK);
}
static void put_u32(uint32_t v) { put(&v, 4); }
static void put_u64(uint64_t v) { put(&v, 8); }
static void put_string(const char *s) {
    put_u64(strlen(s));
    put(s, strlen(s));
}
static void put_key(const char *name, uint32_t type) {
    char key[100];
    snprintf(key, sizeof key, "tokenizer.ggml.%s", name);
    put_string(key);
    put_u32(type);
    n_keys++;
}
static void put_texts(const char *name, uint64_t n, const char *const *texts) {
    put_key(name, GGUF_ARRAY);
    put_u32(GGUF_STRING);
    put_u64(n);
    for (uint64_t i = 0; i < n; i++) put_string(texts[i]);
}
static void put_numbers(const char *name, uint32_t type, uint64_t n,
                        const void *items) {
    put_key(name, GGUF_ARRAY);
    put_u32(type);
    put_u64(n);
    put(items, n * 4);
}
static void put_text(const char *name, const char *text) {
    put_key(name, GGUF_STRING);
    put_string(text);
}
static void put_id(const char *name, uint32_t id) {
    put_key(name, GGUF_U32);
    put_u32(id);
}

static void file_begin(const char *model) {
    file.len = 0;
    n_keys = 0;
    put("GGUF", 4);
    put_u32(3);
    put_u64(0);
    put_u64(0); /* n_keys, see file_load */
    put_text("model", model);
}

static err file_load(struct tokenizer **t) {
    char path[] = "/tmp/test_tokenizer_XXXXXX";
    memcpy(file.data + 16, &n_keys, 8);
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, file.data, file.len), (ssize_t)file.len);
    close(fd);
    struct gguf *g;
    *t = NULL;
    err e = gguf_open(path, &g);
    if (e == OK) {
        e = tokenizer_create(g, t);
        gguf_close(g);
    }
    unlink(path);
    return e;
}

static void expect_error(err expected, const char *text) {
    struct tokenizer *t;
    assert_int_equal(file_load(&t), expected);
    if (!strstr(err_text(), text))
        fail_msg("\"%s\" does not say \"%s\"", err_text(), text);
}

static const char *const abc[] = {"<unk>", "a", "b", "ab"};
static const float scores[] = {0, -1, -2, -3};
static const int32_t types[] = {2, 1, 1, 1};

static void test_bad_files(void **state) {
    (void)state;
    file_begin("t5");
    expect_error(ERR_UNSUPPORTED, "llama gpt2 bert");
    file_begin("llama");
    expect_error(ERR_FORMAT, "tokenizer.ggml.tokens");
    file_begin("llama");
    put_texts("tokens", 0, abc);
    expect_error(ERR_FORMAT, "0 items");
    file_begin("llama");
    put_numbers("tokens", GGUF_I32, 4, types);
    expect_error(ERR_FORMAT, "strings");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    expect_error(ERR_FORMAT, "scores");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    put_numbers("scores", GGUF_F32, 3, scores);
    expect_error(ERR_FORMAT, "3 items, for 4 tokens");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    put_numbers("scores", GGUF_I32, 4, types);
    expect_error(ERR_FORMAT, "floats");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    put_numbers("token_type", GGUF_I32, 2, types);
    expect_error(ERR_FORMAT, "2 items, for 4 tokens");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    put_numbers("token_type", GGUF_I32, 4, (int32_t[]){1, 1, 99, 1});
    expect_error(ERR_FORMAT, "of token 2 is 99");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    put_numbers("scores", GGUF_F32, 4, (float[]){0, 0.0f / 0.0f, 0, 0});
    expect_error(ERR_FORMAT, "score of token 1");
    file_begin("llama");
    put_texts("tokens", 4, abc);
    put_numbers("scores", GGUF_F32, 4, scores);
    put_id("eos_token_id", 4);
    expect_error(ERR_FORMAT, "eos_token_id is 4, but there are 4 tokens");
    file_begin("gpt2");
    put_texts("tokens", 4, abc);
    put_text("pre", "no-such-thing");
    expect_error(ERR_UNSUPPORTED, "'no-such-thing' is not known; known are: default");
    file_begin("gpt2");
    put_texts("tokens", 4, abc);
    expect_error(ERR_FORMAT, "tokenizer.ggml.merges");
    file_begin("gpt2");
    put_texts("tokens", 4, abc);
    put_numbers("merges", GGUF_I32, 4, types);
    expect_error(ERR_FORMAT, "strings");
    char *huge = malloc(70001);
    assert_non_null(huge);
    memset(huge, 'x', 70000);
    huge[70000] = 0;
    file_begin("bert");
    put_texts("tokens", 1, (const char *const *)&huge);
    expect_error(ERR_FORMAT, "70000 bytes");
    free(huge);
    bytes_free(&file);
}

/* Odd, but no reason to refuse. */
static void test_odd_files(void **state) {
    (void)state;
    static const char *const odd[] = {"a", "", "a", "b", "ab", "ab", "\xFF", "b"};
    static const char *const merges[] = {"a b", "", " ", "ab", "a zz", "zz a",
                                         "a  b", "b a", " b", "a "};
    static const char *const models[] = {"llama", "gpt2", "bert"};
    for (int k = 0; k < 3; k++) {
        struct tokenizer *t;
        file_begin(models[k]);
        put_texts("tokens", 8, odd);
        put_texts("merges", 10, merges);
        put_numbers("scores", GGUF_F32, 8,
                    (float[]){0, 1e30f, -1, -0.0f, 1.0f / 0.0f, 0, 0, 0});
        put_id("bos_token_id", UINT32_MAX);
        if (file_load(&t) != OK) fail_msg("%s: %s", models[k], err_text());
        assert_int_equal(tokenizer_bos(t), -1);
        static const char text[] = "abba\xFF\xFE zebra \xE2\x82\xAC";
        struct token_list l = encode(t, text, sizeof text, 1, 1);
        for (size_t i = 0; i < l.n; i++)
            assert_in_range(l.ids[i], 0, tokenizer_n_vocab(t) - 1);
        if (k < 2) assert_int_equal(l.ids[0], 4); /* the first "ab" */
        struct bytes b = stream(t, l.ids, l.n);
        bytes_free(&b);
        token_list_free(&l);
        tokenizer_free(t);
    }
    bytes_free(&file);
}

static void test_unknown_and_defaults(void **state) {
    (void)state;
    struct tokenizer *t;
    file_begin("llama"); /* no byte tokens: one unknown for a run */
    put_texts("tokens", 4, abc);
    put_numbers("scores", GGUF_F32, 4, scores);
    assert_int_equal(file_load(&t), OK);
    struct token_list l = encode(t, "abxyza", 6, 0, 0);
    static const int32_t expected[] = {0, 3, 0, 1}; /* the prefixed space too */
    assert_int_equal(l.n, 4);
    assert_memory_equal(l.ids, expected, sizeof expected);
    token_list_free(&l);
    tokenizer_free(t);
    file_begin("llama"); /* types absent: special ids are control tokens */
    put_texts("tokens", 4, abc);
    put_numbers("scores", GGUF_F32, 4, scores);
    put_id("eos_token_id", 3);
    assert_int_equal(file_load(&t), OK);
    assert_int_equal(tokenizer_type(t, 3), TOKEN_CONTROL);
    assert_true(tokenizer_is_end(t, 3));
    tokenizer_free(t);
    bytes_free(&file);
}

static void test_ends(void **state) {
    (void)state;
    static const char *const chat[] = {"a", "<|eot_id|>", "<|end|>", "<|return|>",
                                       "<|call|>", "x", "y", "</s>"};
    for (int n = 4; n <= 8; n += 4) { /* with and without <|call|> */
        struct tokenizer *t;
        file_begin("gpt2");
        put_texts("tokens", (uint64_t)n, chat);
        put_texts("merges", 0, chat);
        put_id("eot_token_id", 0);
        assert_int_equal(file_load(&t), OK);
        assert_true(tokenizer_is_end(t, 0));
        assert_true(tokenizer_is_end(t, 1));
        assert_int_equal(tokenizer_is_end(t, 2), n == 4);
        assert_true(tokenizer_is_end(t, 3));
        assert_int_equal(tokenizer_type(t, 1), TOKEN_CONTROL);
        assert_int_equal(tokenizer_eos(t), -1);
        assert_false(tokenizer_is_end(t, 5));
        tokenizer_free(t);
    }
    bytes_free(&file);
}

/* ---- */

static int run_golden(void) {
    struct CMUnitTest tests[N_NAMES];
    for (size_t i = 0; i < N_NAMES; i++)
        tests[i] = (struct CMUnitTest){names[i], test_golden, NULL, NULL,
                                       (void *)(uintptr_t)names[i]};
    return cmocka_run_group_tests_name("tokenizer_golden", tests, NULL, NULL);
}

/* The vocabularies of CARAVAN_VOCABS, if it is set. */
static int run_vocabs(void) {
    const char *folder = env_get("CARAVAN_VOCABS");
    if (!folder) return 0;
    enum { VOCABS_MAX = 64 };
    static struct CMUnitTest tests[VOCABS_MAX];
    char pattern[500];
    snprintf(pattern, sizeof pattern, "%s/*.gguf", folder);
    glob_t found;
    size_t n = 0;
    if (glob(pattern, 0, NULL, &found) != 0) {
        print_error("CARAVAN_VOCABS: no *.gguf in %s\n", folder);
        return 1;
    }
    for (size_t i = 0; i < found.gl_pathc && n < VOCABS_MAX; i++)
        tests[n++] = (struct CMUnitTest){found.gl_pathv[i], test_vocab, NULL,
                                         NULL, found.gl_pathv[i]};
    int n_failed = _cmocka_run_group_tests("tokenizer_vocabs", tests, n, NULL,
                                           NULL);
    globfree(&found);
    return n_failed;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_bert_any_bytes),
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_continues),
        cmocka_unit_test(test_special_bpe),
        cmocka_unit_test(test_special_spm),
        cmocka_unit_test(test_bad_id),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_odd_files),
        cmocka_unit_test(test_unknown_and_defaults),
        cmocka_unit_test(test_ends),
    };
    int n_failed = run_golden() + run_vocabs();
    n_failed += cmocka_run_group_tests_name("tokenizer", tests, NULL, NULL);
    return n_failed != 0;
}
