/* A model's header without its file: the same program comes of it, whatever is done to it is an error or a model
 * without data; and fingerprints tell models apart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/gguf.h"
#include "model/program.h"

static const char *const models[] = {
    "models/demo.gguf", "tests/golden/llama-quants.mixed.gguf", "tests/golden/qwen3.f16.gguf", "tests/golden/gpt2.f16.gguf",
};
#define N_MODELS (sizeof models / sizeof *models)

static struct gguf *file_open(const char *path, struct bytes *header) {
    struct gguf *g;
    if (gguf_open(path, &g) != OK) fail_msg("%s", err_text());
    if (header) assert_int_equal(gguf_put_header(g, header), OK);
    return g;
}

static void program_text(const struct gguf *g, struct bytes *out) {
    struct program *p;
    if (program_create(g, &p) != OK) fail_msg("%s", err_text());
    assert_int_equal(program_print(p, out), OK);
    program_free(p);
}

static int is_before(const struct gguf_tensor *a, const struct gguf_tensor *b) {
    return a->file != b->file ? a->file < b->file : a->file_offset < b->file_offset;
}

static void headers_make_the_same_program(void **state) {
    (void)state;
    for (size_t m = 0; m < N_MODELS; m++) {
        struct bytes header = {0}, expected = {0}, found = {0};
        struct gguf *file = file_open(models[m], &header), *g;
        if (gguf_open_header("sent", header.data, header.len, &g) != OK) fail_msg("%s", err_text());
        assert_true(header.len < 65536);
        assert_null(gguf_find(g, "tokenizer.ggml.tokens"));
        program_text(file, &expected);
        program_text(g, &found);
        assert_string_equal(expected.data, found.data);
        assert_int_equal(gguf_n_tensors(g), gguf_n_tensors(file));
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
            const struct gguf_tensor *a = gguf_tensor_at(file, i), *b = gguf_tensor_at(g, i);
            uint8_t byte[64];
            assert_string_equal(a->name, b->name);
            assert_int_equal(a->format, b->format);
            assert_memory_equal(a->dims, b->dims, sizeof a->dims);
            if (i) assert_int_equal(is_before(gguf_tensor_at(file, i - 1), a), is_before(gguf_tensor_at(g, i - 1), b));
            assert_int_equal(gguf_read_bytes(g, b, 0, 1, byte), ERR_INTERNAL); /* only the header is here */
        }
        bytes_free(&header);
        bytes_free(&expected);
        bytes_free(&found);
        gguf_close(g);
        gguf_close(file);
    }
}

/* Damaged ones are refused, or open and can be walked. */
static void header_open_bad(const uint8_t *data, size_t n) {
    struct gguf *g;
    struct program *p;
    uint8_t *exact = malloc(n ? n : 1); /* so that sanitizers see a read beyond it */
    memcpy(exact, data, n);
    if (gguf_open_header("sent", exact, n, &g) == OK) {
        if (program_create(g, &p) == OK) program_free(p);
        gguf_close(g);
    } else if (!*err_text()) {
        fail_msg("no reason");
    }
    free(exact);
}

static void headers_may_be_damaged(void **state) {
    (void)state;
    struct bytes header = {0};
    struct gguf *file = file_open(models[1], &header), *g;
    for (size_t n = 0; n < header.len; n++) {
        assert_int_not_equal(gguf_open_header("sent", header.data, n, &g), OK);
        assert_null(g);
    }
    for (size_t i = 0; i < header.len; i++)
        for (int bit = 0; bit < 8; bit += 3) {
            header.data[i] ^= (uint8_t)(1 << bit);
            header_open_bad(header.data, header.len);
            header.data[i] ^= (uint8_t)(1 << bit);
        }
    bytes_free(&header);
    gguf_close(file);
}

static struct gguf_fingerprint fingerprint(const char *path) {
    struct gguf *g = file_open(path, NULL);
    struct gguf_fingerprint f;
    assert_int_equal(gguf_fingerprint(g, &f), OK);
    gguf_close(g);
    return f;
}

static int is_same(struct gguf_fingerprint a, struct gguf_fingerprint b) { return memcmp(&a, &b, sizeof a) == 0; }

static void byte_flip(const char *path, uint64_t at) {
    int fd = open(path, O_RDWR);
    uint8_t byte;
    assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
    close(fd);
}

static void fingerprints_tell_models_apart(void **state) {
    (void)state;
    char copy[] = "/tmp/caravan-copy-XXXXXX", command[256];
    close(mkstemp(copy));
    snprintf(command, sizeof command, "cp %s %s", models[1], copy);
    assert_int_equal(system(command), 0);
    struct gguf_fingerprint f = fingerprint(models[1]);
    assert_true(is_same(f, fingerprint(copy))); /* wherever it lies */
    for (size_t m = 0; m < N_MODELS; m++) assert_int_equal(is_same(f, fingerprint(models[m])), m == 1);
    struct gguf *g = file_open(copy, NULL);
    uint64_t stamp = gguf_change_stamp(g);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) { /* both ends of every tensor */
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        const uint64_t at[] = {t->file_offset, t->file_offset + t->n_bytes - 1};
        for (size_t k = 0; k < 2; k++) {
            byte_flip(copy, at[k]);
            assert_false(is_same(f, fingerprint(copy)));
            byte_flip(copy, at[k]);
        }
    }
    assert_true(is_same(f, fingerprint(copy)));
    usleep(20000);
    byte_flip(copy, 1 << 12);
    assert_true(gguf_change_stamp(g) != stamp);
    gguf_close(g);
    unlink(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(headers_make_the_same_program),
                                       cmocka_unit_test(headers_may_be_damaged),
                                       cmocka_unit_test(fingerprints_tell_models_apart)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
