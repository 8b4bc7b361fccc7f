/* The contract: the same logits and last hidden states, to the byte, for every grid, every prefill
 * chunking and every backend. The plain-C reference on one cell is the
 * measure. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <math.h>

#include "tests/grid.h"

#define FOLDER "tests/golden/"

static const struct {
    const char *file, *name;
} models[] = {
    {"llama-shards.f16.gguf", "llama-shards"},
    {"llama-shards-q4.q4_0.gguf", "llama-shards-q4"},
    {"llama-quants.mixed.gguf", "llama-quants"},
    {"llama-kquants.mixed.gguf", "llama-kquants"},
    {"llama-head80.f16.gguf", "llama-head80"},
    {"llama-dim40.f32.gguf", "llama-dim40"},
    {"qwen2.bf16.gguf", "qwen2"},
    {"qwen3.f16.gguf", "qwen3"},
    {"gpt2.f16.gguf", "gpt2"},
};
#define N_MODELS (sizeof models / sizeof *models)

static int32_t tokens[512];
static uint32_t n_tokens;
static size_t n_logits, n_values; /* logits of all rows; they and the last hidden states behind them */

static void tokens_read(size_t model) {
    char path[256];
    snprintf(path, sizeof path, FOLDER "%s.tokens", models[model].name);
    n_tokens = grid_read_tokens(path, tokens, 512);
    assert_true(n_tokens > 2 * KV_BLOCK_TOKENS);
}

static float *run_on(const struct grid_network *network, size_t model, const char *device, uint32_t n_stages,
                     uint32_t n_shards, uint32_t chunk, int has_logits) {
    char path[256];
    struct grid g;
    snprintf(path, sizeof path, FOLDER "%s", models[model].file);
    err e = grid_open_network(&g, path, device, n_stages, n_shards, 64, 128, network);
    if (e != OK) fail_msg("%s: %s", path, err_text());
    n_logits = (size_t)n_tokens * g.program->n_vocab;
    n_values = n_logits + (size_t)n_tokens * g.program->dim;
    float *values = malloc(n_values * sizeof *values);
    e = grid_rows(&g, tokens, n_tokens, chunk, has_logits ? values : NULL, values + n_logits);
    if (e != OK) fail_msg("%s: %s", path, err_text());
    grid_close(&g);
    return values;
}

static float *run(size_t model, const char *device, uint32_t n_stages, uint32_t n_shards, uint32_t chunk,
                  int has_logits) {
    const struct grid_network network = {0};
    return run_on(&network, model, device, n_stages, n_shards, chunk, has_logits);
}

static void compare_values(size_t model, const float *expected, const char *device, uint32_t n_stages,
                           uint32_t n_shards, uint32_t chunk, int has_logits) {
    float *got = run(model, device, n_stages, n_shards, chunk, has_logits);
    size_t i = has_logits ? 0 : n_logits;
    while (i < n_values && memcmp(&got[i], &expected[i], 4) == 0) i++;
    if (i < n_values)
        fail_msg("%s on %s, %u stages x %u shards, pieces of %u: %s %zu is %.9g, not %.9g",
                 models[model].file, device ? device : "reference", n_stages, n_shards, chunk,
                 i < n_logits ? "logit" : "hidden value", i < n_logits ? i : i - n_logits,
                 (double)got[i], (double)expected[i]);
    free(got);
}

static void compare(size_t model, const float *expected, const char *device, uint32_t n_stages,
                    uint32_t n_shards, uint32_t chunk) {
    compare_values(model, expected, device, n_stages, n_shards, chunk, 1);
}

/* Steps that want no logits skip the head. */
static void compare_hidden(size_t model, const float *expected, const char *device, uint32_t n_stages,
                           uint32_t n_shards, uint32_t chunk) {
    compare_values(model, expected, device, n_stages, n_shards, chunk, 0);
}

static void every_grid_and_chunk(void **state) {
    (void)state;
    static const uint32_t grids[][2] = {{1, 2}, {1, 3}, {1, 4}, {1, 7}, {2, 1}, {2, 2}, {3, 1},
                                        {4, 1}, {3, 2}, {2, 3}, {1, 16}};
    for (size_t m = 0; m < N_MODELS; m++) {
        tokens_read(m);
        float *expected = run(m, NULL, 1, 1, 64, 1);
        compare(m, expected, NULL, 1, 1, 1);
        compare(m, expected, NULL, 1, 1, 7);
        compare_hidden(m, expected, NULL, 1, 1, 40);
        for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
            struct gguf *g;
            uint32_t n_layers;
            char path[256];
            snprintf(path, sizeof path, FOLDER "%s", models[m].file);
            assert_int_equal(gguf_open(path, &g), OK);
            struct program *p;
            assert_int_equal(program_create(g, &p), OK);
            n_layers = p->n_layers;
            program_free(p);
            gguf_close(g);
            if (grids[i][0] > n_layers) continue;
            compare(m, expected, NULL, grids[i][0], grids[i][1], i % 2 ? 64 : 7);
            if (i % 4 == 1) compare_hidden(m, expected, NULL, grids[i][0], grids[i][1], 7);
        }
        free(expected);
    }
}

static void every_device(void **state) {
    (void)state;
    struct device_description *list;
    uint32_t n;
    assert_int_equal(backend_list(&list, &n), OK);
    for (size_t m = 0; m < N_MODELS; m++) {
        tokens_read(m);
        float *expected = run(m, NULL, 1, 1, 64, 1);
        for (uint32_t d = 0; d < n; d++) {
            print_message("%s on %s\n", models[m].file, list[d].platform);
            compare(m, expected, list[d].platform, 1, 1, 40);
            compare(m, expected, list[d].platform, 1, 1, 3);
            compare_hidden(m, expected, list[d].platform, 1, 1, 40);
            if (m < 2) compare(m, expected, list[d].platform, 1, 3, 7);
            if (m < 2) compare_hidden(m, expected, list[d].platform, 1, 3, 7);
        }
        free(expected);
    }
    free(list);
}

/* Shards on any hosts, in any number, with unequal shares: a spokesman for those of a host that stand next to
 * each other; at once or in parts. */
static const struct {
    uint32_t n_stages, n_shards;
    struct grid_network network;
} networks[] = {
    {1, 2, {.host_of = {0, 1}}},
    {1, 2, {.host_of = {0, 1}, .shares = {5, 11}}},
    {1, 3, {.host_of = {0, 1, 2}}},
    {1, 3, {.host_of = {0, 0, 1}}},
    {1, 3, {.host_of = {0, 1, 1}, .shares = {1, 2, 3}}},
    {1, 4, {.host_of = {0, 0, 1, 1}}},
    {1, 4, {.host_of = {0, 0, 1, 1}, .shares = {3, 1, 2, 5}}},
    {1, 4, {.host_of = {0, 1, 0, 1}}},
    {1, 4, {.host_of = {0, 0, 0, 1}, .shares = {1, 1, 1, 9}}},
    {1, 4, {.host_of = {2, 0, 0, 1}, .shares = {1000, 1, 1, 1000}}}, /* the middle ones own nothing */
    {2, 2, {.host_of = {0, 1}}},
    {1, 7, {.host_of = {0, 0, 0, 1, 1, 2, 2}}},
    {1, 16, {.host_of = {0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3}}},
};
#define N_NETWORKS (sizeof networks / sizeof *networks)

static void every_network(void **state) {
    (void)state;
    static const size_t hop_bytes[] = {0, 6000, SIZE_MAX / 4}; /* in parts, some in parts, at once */
    for (size_t m = 0; m < 3; m++) {
        tokens_read(m);
        float *expected = run(m, NULL, 1, 1, 64, 1);
        for (size_t i = 0; i < N_NETWORKS; i++)
            for (size_t k = 0; k < sizeof hop_bytes / sizeof *hop_bytes; k++) {
                struct grid_network network = networks[i].network;
                network.hop_bytes = hop_bytes[k];
                float *got = run_on(&network, m, NULL, networks[i].n_stages, networks[i].n_shards, k ? 7 : 64, 1);
                if (memcmp(got, expected, n_values * sizeof *got) != 0)
                    fail_msg("%s: other bits on network %zu, %zu bytes a hop", models[m].file, i, hop_bytes[k]);
                free(got);
            }
        free(expected);
    }
}

/* Payloads of fewer bits: all shards go on with the same sums, which are near those of full precision. Where weights are
 * quantised, activations are rounded to 8 bits anyway, and the least change rounds some of them the other way. */
static void rounded_payloads(void **state) {
    (void)state;
    static const struct {
        enum payload payload;
        double most[2]; /* of the error, to the size of the logits: dense, quantised */
    } payloads[] = {{PAYLOAD_F16, {0.002, 0.06}}, {PAYLOAD_INT8, {0.05, 0.09}}};
    static const size_t hop_bytes[] = {0, SIZE_MAX / 4};
    for (size_t m = 0; m < 2; m++) {
        tokens_read(m);
        float *expected = run(m, NULL, 1, 1, 64, 1);
        double size = 0;
        for (size_t i = 0; i < n_logits; i++) size += (double)expected[i] * (double)expected[i];
        for (size_t k = 0; k < 4; k++) {
            struct grid_network network = {.host_of = {0, 0, 1, 2}, .payload = payloads[k % 2].payload,
                                           .hop_bytes = hop_bytes[k / 2]};
            float *got = run_on(&network, m, NULL, 1, 4, 64, 1);
            double error = 0;
            for (size_t i = 0; i < n_logits; i++)
                error += (double)(got[i] - expected[i]) * (double)(got[i] - expected[i]);
            error = sqrt(error / size);
            print_message("%s, %s: error %.2g\n", models[m].file, payload_names[network.payload], error);
            assert_true(error > 0 && error < payloads[k % 2].most[m]);
            free(got);
        }
        free(expected);
    }
}

/* Subtrees that a run of shards owns together. */
static uint64_t n_owned(const struct program *p, enum axis axis, uint32_t n_shards, struct shard_crew g) {
    struct cut first, last;
    struct tree tree;
    cut_make(p, n_shards, g.begin, NULL, &first);
    cut_make(p, n_shards, g.end - 1, NULL, &last);
    tree_own(p->axes[axis].n_segments, (struct range){first.segments[axis].begin, last.segments[axis].end}, &tree);
    return tree.n_results;
}

/* Nothing but owned subtrees travels: one row, sent at once, every byte accounted for. */
static void only_owned_subtrees_travel(void **state) {
    (void)state;
    static const struct grid_network networks_of_4[] = {{.host_of = {0, 1, 2, 3}}, {.host_of = {0, 0, 1, 1}},
                                                       {.host_of = {0, 1, 1, 1}}};
    tokens_read(0);
    for (size_t k = 0; k < sizeof networks_of_4 / sizeof *networks_of_4; k++) {
        struct grid_network network = networks_of_4[k];
        struct shard_crew crews[GRID_SHARDS_MAX];
        struct grid g;
        uint32_t n_crews = crew_find(network.host_of, 4, crews);
        network.hop_bytes = SIZE_MAX / 4;
        assert_int_equal(grid_open_network(&g, FOLDER "llama-shards.f16.gguf", NULL, 1, 4, 64, 128, &network), OK);
        const struct program *p = g.program;
        float *hidden = malloc((size_t)p->dim * sizeof *hidden);
        assert_int_equal(grid_rows(&g, tokens, 1, 1, NULL, hidden), OK);
        for (uint32_t i = 0; i < n_crews; i++)
            for (uint32_t s = crews[i].begin; s < crews[i].end; s++) {
                struct shard_crew alone = {s, s + 1};
                int is_first = s == crews[i].begin;
                uint64_t sum = (uint64_t)p->n_layers * p->dim * sizeof(float), inside = 0, hosts = 0;
                for (int a = 0; a < 2; a++) {
                    enum axis axis = a ? AXIS_FF : AXIS_HEADS;
                    if (is_first) hosts += sum * n_owned(p, axis, 4, crews[i]) * (n_crews - 1);
                    else inside += sum * n_owned(p, axis, 4, alone);
                }
                assert_int_equal(g.bytes_sent[s][SUM_OF_CREW], inside);
                assert_int_equal(g.bytes_sent[s][SUM_OF_HOSTS], hosts);
                assert_int_equal(g.bytes_sent[s][SUM_OF_PARTS], 0);
                assert_int_equal(g.bytes_sent[s][SUM_BACK],
                                 is_first ? 2 * sum * (crews[i].end - crews[i].begin - 1) : 0);
            }
        free(hidden);
        grid_close(&g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_grid_and_chunk), cmocka_unit_test(every_network),
                                       cmocka_unit_test(rounded_payloads),
                                       cmocka_unit_test(only_owned_subtrees_travel),
                                       cmocka_unit_test(every_device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
