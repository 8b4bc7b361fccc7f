/* Logits against Hugging Face transformers (tests/golden/README.md), computed
 * by the plain-C reference and by every OpenCL device at hand. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "base/env.h"
#include "tests/grid.h"

#define FOLDER "tests/golden/"

struct golden {
    const char *file, *name;
    double tolerance; /* norm of difference over norm */
};

/* Quantised files: activations are rounded to int8, see README. */
static const struct golden goldens[] = {
    {"llama-dim40.f32.gguf", "llama-dim40", 1e-4},
    {"mistral.f32.gguf", "mistral", 1e-4},
    {"qwen2.f32.gguf", "qwen2", 1e-4},
    {"llama-gqa.f16.gguf", "llama-gqa", 1e-3},
    {"llama-head80.f16.gguf", "llama-head80", 1e-3},
    {"llama-head96-rope3.f16.gguf", "llama-head96-rope3", 1e-3},
    {"llama-shards.f16.gguf", "llama-shards", 1e-3},
    {"mistral.f16.gguf", "mistral", 1e-3},
    {"mistral.bf16.gguf", "mistral", 1e-3},
    {"qwen2.f16.gguf", "qwen2", 1e-3},
    {"qwen2.bf16.gguf", "qwen2", 1e-3},
    {"qwen3.f16.gguf", "qwen3", 1e-3},
    {"gpt2.f16.gguf", "gpt2", 1e-3},
    {"llama-shards-q4.q4_0.gguf", "llama-shards-q4", 0.05},
    {"llama-quants.mixed.gguf", "llama-quants", 0.05},
    {"llama-kquants.mixed.gguf", "llama-kquants", 0.05},
};

/* Norm of the difference over norm. */
static double error_of(const float *got, const float *want, size_t n) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
        norm += (double)want[i] * (double)want[i];
    }
    return sqrt(difference / norm);
}

/* NAME.extension, n floats. */
static void floats_read(const char *name, const char *extension, size_t n, struct bytes *out) {
    char path[256];
    snprintf(path, sizeof path, FOLDER "%s.%s", name, extension);
    assert_int_equal(bytes_read_file(out, path), OK);
    assert_int_equal(out->len, n * sizeof(float));
}

static uint32_t argmax(const float *x, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static void golden_check(const struct golden *c, const char *device) {
    char path[256];
    int32_t tokens[512];
    snprintf(path, sizeof path, FOLDER "%s.tokens", c->name);
    uint32_t n = grid_read_tokens(path, tokens, 512);
    assert_true(n > 2 * KV_BLOCK_TOKENS);
    struct grid g;
    snprintf(path, sizeof path, FOLDER "%s", c->file);
    err e = grid_open(&g, path, device, 1, 1, 64, 128);
    if (e != OK) fail_msg("%s: %s", path, err_text());
    uint32_t n_vocab = g.program->n_vocab, dim = g.program->dim;
    float *logits = calloc((size_t)n * n_vocab, sizeof *logits), *hidden = calloc((size_t)n * dim, sizeof *hidden);
    e = grid_rows(&g, tokens, n, 40, logits, hidden);
    if (e != OK) fail_msg("%s: %s", path, err_text());

    struct bytes expected = {0}, expected_hidden = {0};
    floats_read(c->name, "logits", (size_t)n * n_vocab, &expected);
    floats_read(c->name, "hidden", dim, &expected_hidden);
    const float *want = (const float *)(const void *)expected.data;
    uint32_t n_same = 0;
    for (size_t t = 0; t < n; t++)
        n_same += argmax(logits + t * n_vocab, n_vocab) == argmax(want + t * n_vocab, n_vocab);
    double error = error_of(logits, want, (size_t)n * n_vocab);
    double hidden_error = error_of(hidden + (size_t)(n - 1) * dim,
                                   (const float *)(const void *)expected_hidden.data, dim);
    print_message("%-28s %-10s error %.2e, of the last hidden state %.2e, same argmax %u/%u\n", c->file,
                  device ? device : "reference", error, hidden_error, n_same, n);
    assert_int_equal(n_same, n);
    assert_true(error <= c->tolerance);
    assert_true(hidden_error <= c->tolerance);
    free(logits);
    free(hidden);
    bytes_free(&expected);
    bytes_free(&expected_hidden);
    grid_close(&g);
}

static void reference_agrees(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++) golden_check(&goldens[i], NULL);
}

static void devices_agree(void **state) {
    (void)state;
    struct device_description *list;
    uint32_t n;
    assert_int_equal(backend_list(&list, &n), OK);
    for (uint32_t d = 0; d < n; d++)
        for (size_t i = 0; i < sizeof goldens / sizeof *goldens; i++)
            golden_check(&goldens[i], list[d].platform);
    free(list);
}

int main(void) {
    /* One thread of PoCL, so that no chains of all these formats are compiled: test_chain and test_invariance have some. */
    if (env_set("POCL_MAX_PTHREAD_COUNT", "1") != OK) return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(reference_agrees), cmocka_unit_test(devices_agree)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
