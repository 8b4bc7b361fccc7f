/* How sums are put together: trees of any owners, payloads, crews. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/format.h"
#include "node/sums.h"

#define N_MAX 200

static float noise(uint32_t i) {
    i = (i ^ i >> 13) * 0x9e3779b1u;
    return (float)((int32_t)((i ^ i >> 15) * 0x85ebca6bu)) * 0x1p-20f;
}

/* One value per leaf through a tree; how many came out. */
static uint32_t tree_run(const struct tree *t, const float *leaves, float *out) {
    float stack[SEGMENTS_MAX];
    uint32_t depth = 0, n = 0;
    for (uint32_t i = 0; i < t->n_leaves; i++) {
        stack[depth++] = leaves[i];
        for (int m = t->merges[i]; m > 0; m--, depth--) stack[depth - 2] += stack[depth - 1];
        if (t->emits[i]) out[n++] = stack[--depth];
    }
    assert_int_equal(depth, 0);
    assert_int_equal(n, t->n_results);
    return n;
}

/* Segments are added by shards, shards' sums by crews, crews' sums to the whole: the bits of one owner of all. */
static void test_any_crews_gives_the_same(void **state) {
    (void)state;
    float leaves[SEGMENTS_MAX], own[SEGMENTS_MAX], joined[SEGMENTS_MAX], whole, expected;
    struct tree tree;
    for (uint32_t i = 0; i < SEGMENTS_MAX; i++) leaves[i] = noise(i);
    for (uint32_t n = 1; n <= SEGMENTS_MAX; n++) {
        tree_own(n, (struct range){0, n}, &tree);
        assert_int_equal(tree_run(&tree, leaves, &expected), 1);
        for (uint32_t seed = 0; seed < 300; seed++) {
            struct range shards[6], crews[3];
            uint32_t at[7] = {0};
            for (uint32_t i = 1; i < 6; i++) at[i] = (uint32_t)rand() % (n + 1);
            at[6] = n;
            for (uint32_t i = 1; i < 6; i++)
                for (uint32_t k = 1; k < 5; k++)
                    if (at[k] > at[k + 1]) {
                        uint32_t swap = at[k];
                        at[k] = at[k + 1];
                        at[k + 1] = swap;
                    }
            for (uint32_t i = 0; i < 6; i++) shards[i] = (struct range){at[i], at[i + 1]};
            uint32_t n_joined = 0, begin[4] = {0, 1 + seed % 3, 4 + seed % 2, 6};
            for (uint32_t g = 0; g < 3; g++) {
                uint32_t n_own = 0;
                for (uint32_t i = begin[g]; i < begin[g + 1]; i++) {
                    tree_own(n, shards[i], &tree);
                    n_own += tree_run(&tree, leaves + shards[i].begin, own + n_own);
                }
                tree_join(n, shards + begin[g], begin[g + 1] - begin[g], &tree);
                assert_int_equal(tree.n_leaves, n_own);
                n_joined += tree_run(&tree, own, joined + n_joined);
                crews[g] = (struct range){shards[begin[g]].begin, shards[begin[g + 1] - 1].end};
                struct tree alone;
                tree_own(n, crews[g], &alone);
                assert_int_equal(tree.n_results, alone.n_results); /* no more than one owner would have */
            }
            tree_join(n, crews, 3, &tree);
            assert_int_equal(tree.n_leaves, n_joined);
            assert_int_equal(tree_run(&tree, joined, &whole), 1);
            assert_memory_equal(&whole, &expected, sizeof whole);
        }
    }
}

static void test_crews(void **state) {
    (void)state;
    struct shard_crew g[6];
    assert_int_equal(crew_find((const uint32_t[]){4, 4, 4}, 3, g), 3); /* one host: messages cost nothing */
    assert_int_equal(g[1].begin, 1);
    assert_int_equal(g[1].end, 2);
    assert_int_equal(crew_find((const uint32_t[]){0, 0, 2, 0, 0, 0}, 6, g), 3); /* neighbours only */
    assert_int_equal(g[0].end, 2);
    assert_int_equal(g[1].end, 3);
    assert_int_equal(g[2].begin, 3);
    assert_int_equal(g[2].end, 6);
    assert_int_equal(crew_find((const uint32_t[]){7}, 1, g), 1);
}

static void test_payloads(void **state) {
    (void)state;
    static const double most[N_PAYLOADS] = {0, 1.0 / 2048, 0.5 / 127}; /* of the value; of the largest of 32 */
    float in[N_MAX], out[N_MAX];
    for (uint32_t i = 0; i < N_MAX; i++) in[i] = noise(i + 7) * (i < 64 ? 1e-3f : 1);
    for (uint32_t p = 0; p < N_PAYLOADS; p++)
        for (size_t n = 0; n <= N_MAX; n++) {
            size_t n_bytes = payload_bytes((enum payload)p, n), begin = n / 2 / PAYLOAD_BLOCK * PAYLOAD_BLOCK;
            uint8_t *packed = malloc(n_bytes + 1);
            packed[n_bytes] = 99;
            payload_encode((enum payload)p, in, n, packed);
            assert_int_equal(packed[n_bytes], 99);
            payload_decode((enum payload)p, packed, 0, begin, out);
            payload_decode((enum payload)p, packed, begin, n - begin, out + begin);
            for (size_t i = 0; i < n; i++) {
                double scale = fabs((double)in[i]);
                for (size_t k = i / PAYLOAD_BLOCK * PAYLOAD_BLOCK; p == PAYLOAD_INT8 && k < n && k / PAYLOAD_BLOCK == i / PAYLOAD_BLOCK; k++)
                    scale = fmax(scale, fabs((double)in[k]));
                assert_true(fabs((double)(out[i] - in[i])) <= scale * most[p] * 1.0001);
            }
            free(packed);
        }
    for (uint32_t i = 0; i < 1u << 20; i++) { /* f16 as the format has it, from the least to the largest */
        float f = ldexpf(noise(i), (int)(i % 40) - 36), g;
        uint16_t half;
        payload_encode(PAYLOAD_F16, &f, 1, &half);
        payload_decode(PAYLOAD_F16, &half, 0, 1, &g);
        float want = fminf(65504, fmaxf(-65504, format_half_to_float(format_float_to_half(f))));
        if (memcmp(&g, &want, sizeof g) != 0) fail_msg("%a became %a, not %a", (double)f, (double)g, (double)want);
    }
    static const float extremes[4] = {1e30f, -1e30f, INFINITY, NAN};
    payload_encode(PAYLOAD_F16, extremes, 4, in);
    payload_decode(PAYLOAD_F16, in, 0, 4, out);
    assert_true(out[0] == 65504.0f && out[1] == -65504.0f && out[2] == 65504.0f);
    payload_encode(PAYLOAD_INT8, extremes, 4, in); /* whatever comes of it */
    enum payload p;
    assert_true(payload_find("int8", &p) && p == PAYLOAD_INT8);
    assert_false(payload_find("int4", &p));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_any_crews_gives_the_same),
        cmocka_unit_test(test_crews),
        cmocka_unit_test(test_payloads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
