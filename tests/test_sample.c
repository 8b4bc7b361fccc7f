/* Sampling: the generator against the published vectors, exp and log against libm, frequencies against
 * probabilities (chi-square, fixed seeds), and every filter and edge. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "node/sample.h"

#define PINNED 0xf812b008c6e7af05ull /* of test_pinned */

static const struct step_out plain = {.flags = OUT_SAMPLE | OUT_LOGPROB, .temperature = 1, .top_p = 1};

static struct result_top tops[TOP_LOGPROBS_MAX]; /* of the row sampled last */

/* Token sampled from a copy of the row; fails the test on an error. */
static struct result_out sample(const float *logits, uint32_t n, const struct step_out *o,
                                const struct step_edit *edits) {
    struct sampler *s;
    struct result_out r;
    float *row = malloc(n * sizeof *row);
    memcpy(row, logits, n * sizeof *row);
    assert_int_equal(sampler_create(n, &s), OK);
    if (sample_row(s, o, edits, row, tops, &r) != OK) fail_msg("%s", err_text());
    sampler_free(s);
    free(row);
    return r;
}

/* kat_vectors of Random123 (Salmon et al. 2011), philox4x32 with 10 rounds. */
static void test_philox_known_answers(void **state) {
    (void)state;
    static const struct { uint32_t counter[4], key[2], out[4]; } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    for (int i = 0; i < 3; i++) {
        uint32_t out[4];
        sample_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof out);
    }
}

static void test_uniform(void **state) {
    (void)state;
    int bins[64] = {0};
    for (uint32_t i = 0; i < 64000; i++) {
        double u = sample_uniform(42, i);
        assert_true(u >= 0 && u < 1);
        bins[(int)(u * 64)]++;
    }
    double chi = 0;
    for (int i = 0; i < 64; i++) chi += (bins[i] - 1000.0) * (bins[i] - 1000.0) / 1000.0;
    assert_true(chi < 103.4); /* 63 degrees, p = 0.001 */
    assert_true(sample_uniform(1, 0) != sample_uniform(2, 0));
    assert_true(sample_uniform(1, 0) != sample_uniform(1ull << 32 | 1, 0));
    assert_true(sample_uniform(1, 0) != sample_uniform(1, 1));
}

static void test_exp_and_log(void **state) {
    (void)state;
    for (int i = 0; i <= 700000; i++) {
        double x = -i * 0.001, e = exp(x);
        assert_true(fabs(sample_exp(x) - e) <= 2 * DBL_EPSILON * e);
    }
    assert_true(sample_exp(0) == 1);
    assert_true(sample_exp(-709) == 0 && sample_exp(-INFINITY) == 0 && sample_exp(-DBL_MAX) == 0);
    for (int i = 1; i < 1000000; i++) {
        double x = i * 0.37, l = log(x);
        assert_true(fabs(sample_log(x) - l) <= 2 * DBL_EPSILON * fmax(fabs(l), 0.5));
    }
    assert_true(sample_log(1) == 0);
}

/* The sums that decide are the same bits whether computed several at a time or one by one. */
static void test_vector_code_is_exact(void **state) {
    (void)state;
    for (uint32_t n = 1; n < 70; n++) {
        float row[70];
        double sum[8] = {0};
        for (uint32_t i = 0; i < n; i++) row[i] = (float)(20 * sample_uniform(n, i) - 15);
        float most = -INFINITY;
        for (uint32_t i = 0; i < n; i++) most = fmaxf(most, row[i]);
        for (uint32_t i = 0; i < n; i++) sum[i % 8] += sample_exp((double)row[i] - (double)most);
        double all = ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
        struct step_out o = {.flags = OUT_SCORE, .target = (int32_t)n - 1, .top_p = 1};
        struct result_out r = sample(row, n, &o, NULL);
        double expected = (double)row[n - 1] - (double)most - sample_log(all);
        assert_memory_equal(&r.score, &expected, sizeof expected);
        assert_int_equal(r.token, -1);
    }
}

static void test_greedy(void **state) {
    (void)state;
    struct step_out o = plain;
    o.temperature = 0;
    assert_int_equal(sample((float[]){1, 3, 3, 2}, 4, &o, NULL).token, 1); /* lowest id of equals */
    assert_int_equal(sample((float[]){-5, -INFINITY, -4.5f}, 3, &o, NULL).token, 2);
    assert_int_equal(sample((float[]){NAN, 1, NAN}, 3, &o, NULL).token, 1);
    assert_int_equal(sample((float[]){0, INFINITY, INFINITY}, 3, &o, NULL).token, 1);
    assert_int_equal(sample((float[]){-FLT_MAX, -INFINITY}, 2, &o, NULL).token, 0);
    struct result_out r = sample((float[]){0, 0, 0, 0}, 4, &o, NULL);
    assert_int_equal(r.token, 0);
    assert_true(fabs((double)r.logprob + log(4)) < 1e-6);
}

/* Frequencies of 20000 draws against weights; 0 weight must never be drawn. */
static void check_frequencies(const float *logits, uint32_t n, struct step_out o, const double *p) {
    enum { DRAWS = 20000 };
    uint32_t count[16] = {0};
    double chi = 0, sum = 0;
    int degrees = -1;
    for (uint32_t i = 0; i < DRAWS; i++) {
        o.position = i;
        int32_t token = sample(logits, n, &o, NULL).token;
        assert_in_range(token, 0, n - 1);
        count[token]++;
    }
    for (uint32_t i = 0; i < n; i++) sum += p[i];
    for (uint32_t i = 0; i < n; i++) {
        double expected = p[i] / sum * DRAWS;
        if (p[i] == 0) assert_int_equal(count[i], 0);
        if (p[i] == 0) continue;
        chi += (count[i] - expected) * (count[i] - expected) / expected;
        degrees++;
    }
    /* p = 0.001 for 0 to 7 degrees */
    static const double limit[] = {1e-9, 10.83, 13.82, 16.27, 18.47, 20.52, 22.46, 24.32};
    assert_in_range(degrees, 0, 7);
    assert_true(chi <= limit[degrees]);
}

/* log of .4 .3 .15 .1 .05 in another order: ids 2 0 3 4 1 */
static const double probabilities[] = {0.3, 0.05, 0.4, 0.15, 0.1};

static void test_distribution(void **state) {
    (void)state;
    float l[5];
    double p[5];
    for (int i = 0; i < 5; i++) l[i] = (float)log(probabilities[i]) + 7;
    struct step_out o = plain;
    o.seed = 12345;
    check_frequencies(l, 5, o, probabilities);
    o.temperature = 2;
    for (int i = 0; i < 5; i++) p[i] = sqrt(probabilities[i]);
    check_frequencies(l, 5, o, p);
    o.temperature = 0.5f;
    for (int i = 0; i < 5; i++) p[i] = probabilities[i] * probabilities[i];
    check_frequencies(l, 5, o, p);
    o.temperature = 1e-30f; /* all but the largest underflow */
    check_frequencies(l, 5, o, (double[]){0, 0, 1, 0, 0});
    o.temperature = FLT_MIN / 8; /* subnormal */
    check_frequencies(l, 5, o, (double[]){0, 0, 1, 0, 0});
    o.temperature = 1e30f;
    check_frequencies(l, 5, o, (double[]){1, 1, 1, 1, 1});
}

static void test_filters(void **state) {
    (void)state;
    float l[5];
    for (int i = 0; i < 5; i++) l[i] = (float)log(probabilities[i]);
    struct step_out o = plain;
    o.top_k = 1;
    check_frequencies(l, 5, o, (double[]){0, 0, 1, 0, 0});
    o.top_k = 3;
    check_frequencies(l, 5, o, (double[]){.3, 0, .4, .15, 0});
    o.top_k = 99;
    check_frequencies(l, 5, o, probabilities);
    o.top_k = 0;
    o.top_p = 0.0f; /* at least one */
    check_frequencies(l, 5, o, (double[]){0, 0, 1, 0, 0});
    o.top_p = 0.39f;
    check_frequencies(l, 5, o, (double[]){0, 0, 1, 0, 0});
    o.top_p = 0.5f; /* the one that crosses stays */
    check_frequencies(l, 5, o, (double[]){.3, 0, .4, 0, 0});
    o.top_p = 0.86f;
    check_frequencies(l, 5, o, (double[]){.3, 0, .4, .15, .1});
    o.top_k = 3; /* top_p is of what top_k left: .4 + .3 of .85 is 0.82 */
    o.top_p = 0.82f;
    check_frequencies(l, 5, o, (double[]){.3, 0, .4, 0, 0});
    o.top_p = 1;
    o.min_p = 0.3f; /* of .4: .12 */
    check_frequencies(l, 5, o, (double[]){.3, 0, .4, .15, 0});
    o.top_k = 0;
    check_frequencies(l, 5, o, (double[]){.3, 0, .4, .15, 0});
    o.min_p = 5;
    check_frequencies(l, 5, o, (double[]){0, 0, 1, 0, 0});
    o.min_p = -1;
    check_frequencies(l, 5, o, probabilities);
}

/* Equals at the edge of top_k: the lower ids stay, exactly k of them. */
static void test_filter_ties(void **state) {
    (void)state;
    float l[8] = {0, 1, 1, 1, 0, 1, 0, 0};
    struct step_out o = plain;
    o.top_k = 3;
    check_frequencies(l, 8, o, (double[]){0, 1, 1, 1, 0, 0, 0, 0});
    o.top_k = 5;
    double e = exp(1);
    check_frequencies(l, 8, o, (double[]){1, e, e, e, 0, e, 0, 0});
    float equal[8] = {0};
    o.top_k = 0;
    o.top_p = 0.5f;
    check_frequencies(equal, 8, o, (double[]){1, 1, 1, 1, 0, 0, 0, 0});
}

/* top_k and top_p against sorting, on many random rows with far apart and equal logits. */
static int row_compare(const void *a, const void *b, void *logits) {
    const float *l = logits;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return l[x] > l[y] ? -1 : l[x] < l[y] ? 1 : x < y ? -1 : 1;
}

static void test_filters_against_sorting(void **state) {
    (void)state;
    enum { N = 300 };
    float l[N];
    uint32_t order[N];
    for (uint32_t seed = 0; seed < 300; seed++) {
        double sum = 0, reached = 0;
        for (uint32_t i = 0; i < N; i++) {
            double u = sample_uniform(seed, i);
            l[i] = seed % 3 ? (float)(u * (seed % 40)) : (float)floor(u * 12);
            order[i] = i;
        }
        qsort_r(order, N, sizeof *order, row_compare, l);
        struct step_out o = plain;
        o.seed = seed;
        uint32_t k = 1 + seed % 50;
        o.top_k = k;
        o.top_p = 0.7f;
        for (uint32_t i = 0; i < k; i++) sum += exp((double)(l[order[i]] - l[order[0]]));
        uint32_t kept = 0;
        while (kept < k && (kept == 0 || reached < (double)0.7f * sum * (1 + 1e-12)))
            reached += exp((double)(l[order[kept++]] - l[order[0]]));
        int found[N] = {0};
        for (uint32_t p = 0; p < 200; p++) {
            o.position = p;
            found[sample(l, N, &o, NULL).token] = 1;
        }
        for (uint32_t i = kept; i < N; i++) assert_int_equal(found[order[i]], 0);
        assert_int_equal(found[order[0]], 1);
    }
}

static void test_edits(void **state) {
    (void)state;
    float l[4] = {4, 3, -2, 1};
    struct step_out o = plain;
    o.temperature = 0;
    o.edit_end = 1;
    struct step_edit e = {0, -INFINITY, 1, 0};
    assert_int_equal(sample(l, 4, &o, &e).token, 1);
    e = (struct step_edit){2, 6.5f, 1, 0};
    assert_int_equal(sample(l, 4, &o, &e).token, 2);
    e = (struct step_edit){0, 0, 2, 0}; /* 4 / 2 */
    assert_int_equal(sample(l, 4, &o, &e).token, 1);
    e = (struct step_edit){0, 0, 1, 1.5f};
    assert_int_equal(sample(l, 4, &o, &e).token, 1);
    e = (struct step_edit){0, -3, 2, 0.5f}; /* (4 - 3) / 2 - 0.5 = 0 */
    o.flags = OUT_SCORE;
    o.target = 0;
    double z = exp(0) + exp(3) + exp(-2) + exp(1);
    assert_true(fabs(sample(l, 4, &o, &e).score + log(z)) < 1e-12);
    e = (struct step_edit){2, 0, 2, 0}; /* -2 * 2 */
    o.target = 2;
    z = exp(4) + exp(3) + exp(-4) + exp(1);
    assert_true(fabs(sample(l, 4, &o, &e).score - (-4 - log(z))) < 1e-12);
    e = (struct step_edit){1, NAN, 0, NAN}; /* nonsense forbids the token */
    o.flags = OUT_SAMPLE | OUT_LOGPROB;
    assert_int_equal(sample(l, 4, &o, &e).token, 0);
}

static void test_impossible(void **state) {
    (void)state;
    struct sampler *s;
    struct result_out r;
    assert_int_equal(sampler_create(3, &s), OK);
    float none[3] = {-INFINITY, NAN, -INFINITY};
    assert_int_equal(sample_row(s, &plain, NULL, none, tops, &r), ERR_DEVICE);
    assert_non_null(strstr(err_text(), "no finite logit"));
    assert_int_equal(r.token, -1);
    struct step_edit ban[3] = {{0, -INFINITY, 1, 0}, {1, -INFINITY, 1, 0}, {2, -INFINITY, 1, 0}};
    struct step_out o = plain;
    o.edit_end = 3;
    float row[3] = {1, 2, 3};
    assert_int_equal(sample_row(s, &o, ban, row, tops, &r), ERR_REQUEST);
    assert_int_equal(r.token, -1);
    static const float bad[] = {NAN, INFINITY, -1};
    for (int i = 0; i < 3; i++) {
        o = plain;
        o.temperature = bad[i];
        assert_int_equal(sample_row(s, &o, NULL, row, tops, &r), ERR_REQUEST);
    }
    sampler_free(s);
}

static void test_extreme_logits(void **state) {
    (void)state;
    struct step_out o = plain;
    o.flags = OUT_SAMPLE | OUT_SCORE | OUT_LOGPROB;
    for (int i = 0; i < 4; i++) {
        o.top_k = i & 1 ? 2 : 0;
        o.top_p = i & 2 ? 0.9f : 1;
        struct result_out r = sample((float[]){FLT_MAX, -FLT_MAX, NAN}, 3, &o, NULL);
        assert_int_equal(r.token, 0);
        assert_true(r.logprob == 0 && r.score == 0);
        assert_int_equal(sample((float[]){-INFINITY, INFINITY, FLT_MIN}, 3, &o, NULL).token, 1);
        assert_int_equal(sample((float[]){-1e30f}, 1, &o, NULL).token, 0);
    }
    o.target = 1;
    assert_true(sample((float[]){0, -INFINITY}, 2, &o, NULL).score == -INFINITY);
}

/* Rows are read some values at a time, and the rest one by one. */
static void test_every_place(void **state) {
    (void)state;
    enum { N = 3 * 16 + 5 };
    struct step_out o = plain;
    o.temperature = 0;
    for (int p = 0; p < N; p++) {
        float l[N], odd[N];
        for (int i = 0; i < N; i++) l[i] = odd[i] = 1;
        l[p] = 2;
        if (p + 1 < N) l[p + 1] = 2; /* the first of equals */
        assert_int_equal(sample(l, N, &o, NULL).token, p);
        odd[p] = NAN;
        struct result_out r = sample(odd, N, &o, NULL);
        assert_int_equal(r.token, p == 0);
        assert_true(fabs((double)r.logprob + log(N - 1)) < 1e-6);
        odd[p] = INFINITY;
        assert_int_equal(sample(odd, N, &o, NULL).token, p);
    }
}

/* What is not asked for is not worked out, and changes no token. */
static void test_without_probability(void **state) {
    (void)state;
    float l[] = {1, 5, 2, 4.5f, -INFINITY, 3};
    for (int i = 0; i < 40; i++) {
        struct step_out o = plain, bare = plain;
        o.position = bare.position = (uint32_t)i;
        o.temperature = bare.temperature = i % 2 ? 0 : 1;
        bare.flags = OUT_SAMPLE;
        struct result_out r = sample(l, 6, &o, NULL), b = sample(l, 6, &bare, NULL);
        assert_int_equal(b.token, r.token);
        assert_true(r.logprob < 0 && b.logprob == 0);
    }
}

/* These tokens must never change: a restart would give other texts. */
static void test_pinned(void **state) {
    (void)state;
    enum { N = 1000 };
    float l[N];
    for (uint32_t i = 0; i < N; i++) l[i] = (float)(int)((i * 2654435761u) >> 22) / 128;
    struct step_out o = plain;
    uint64_t hash = 14695981039346656037u;
    for (uint32_t i = 0; i < 400; i++) {
        o.position = i;
        o.seed = i / 7;
        o.temperature = 0.25f + 0.25f * (float)(i % 8);
        o.top_k = i % 3 ? 0 : 40;
        o.top_p = i % 5 ? 0.9f : 1;
        o.min_p = i % 7 ? 0.02f : 0;
        struct result_out r = sample(l, N, &o, NULL);
        uint32_t bits;
        memcpy(&bits, &r.logprob, sizeof bits);
        hash = (hash ^ (uint32_t)r.token) * 1099511628211u;
        hash = (hash ^ bits) * 1099511628211u;
    }
    if (hash != PINNED) fail_msg("0x%016llx", (unsigned long long)hash);
}

/* The rule by a plain sort: larger logits first, then lower ids. */
static const float *sorted_logits;
static int compare_tops(const void *a, const void *b) {
    uint32_t i = *(const uint32_t *)a, k = *(const uint32_t *)b;
    if (sorted_logits[i] != sorted_logits[k]) return sorted_logits[i] > sorted_logits[k] ? -1 : 1;
    return i < k ? -1 : i > k;
}

static void check_tops(const float *row, uint32_t n, struct step_out o, uint32_t n_possible) {
    uint32_t order[512];
    for (uint32_t i = 0; i < n; i++) order[i] = i;
    sorted_logits = row;
    qsort(order, n, sizeof *order, compare_tops);
    for (o.n_top = 0; o.n_top <= TOP_LOGPROBS_MAX; o.n_top++) {
        struct result_out r = sample(row, n, &o, NULL);
        assert_int_equal(r.n_top, o.n_top < n_possible ? o.n_top : n_possible);
        for (uint32_t i = 0; i < r.n_top; i++) {
            struct step_out score = {.flags = OUT_SCORE, .target = (int32_t)order[i], .top_p = 1};
            struct result_top got = tops[i];
            assert_int_equal(got.token, order[i]);
            float alone = (float)sample(row, n, &score, NULL).score;
            assert_memory_equal(&got.logprob, &alone, sizeof alone);
            if (got.token == r.token) assert_memory_equal(&got.logprob, &r.logprob, sizeof alone);
        }
    }
}

/* Distinct, equal and impossible logits, in every order, while tokens are sampled or scored. */
static void test_tops(void **state) {
    (void)state;
    struct step_out draw = plain, score = {.flags = OUT_SCORE, .target = 0, .top_p = 1};
    draw.temperature = 1.7f; /* does not matter to them */
    draw.top_k = 3;
    for (uint32_t n = 1; n <= 512; n = n * 2 + 1) {
        float rising[512], falling[512], even[512], mixed[512], rare[512];
        uint32_t n_rare = 0;
        for (uint32_t i = 0; i < n; i++) {
            rising[i] = (float)i * 0.01f;
            falling[i] = -(float)i * 0.01f;
            even[i] = 2.5f;
            mixed[i] = (float)(int)(12 * sample_uniform(n, i)); /* many are equal */
            int is_possible = i == n - 1 || sample_uniform(n + 1, i) < 0.05;
            rare[i] = is_possible ? mixed[i] : -INFINITY;
            n_rare += (uint32_t)is_possible;
        }
        check_tops(rising, n, draw, n);
        check_tops(falling, n, draw, n);
        check_tops(even, n, score, n);
        check_tops(mixed, n, draw, n);
        check_tops(mixed, n, score, n);
        check_tops(rare, n, draw, n_rare);
    }
}

/* They are those after the edits. */
static void test_tops_of_edited(void **state) {
    (void)state;
    struct step_out o = plain;
    const struct step_edit edits[] = {{1, -INFINITY, 1, 0}, {0, 5, 1, 0}};
    o.n_top = 4;
    o.edit_end = 2;
    struct result_out r = sample((float[]){0, 9, 3}, 3, &o, edits);
    assert_int_equal(r.n_top, 2);
    assert_int_equal(tops[0].token, 0);
    assert_int_equal(tops[1].token, 2);
    assert_true(fabs(exp((double)tops[0].logprob) + exp((double)tops[1].logprob) - 1) < 1e-6);
    o.n_top = TOP_LOGPROBS_MAX + 1;
    struct sampler *s;
    float row[] = {1, 2};
    assert_int_equal(sampler_create(2, &s), OK);
    o.edit_end = 0;
    assert_int_equal(sample_row(s, &o, NULL, row, tops, &r), ERR_REQUEST);
    assert_int_equal(r.n_top, 0);
    sampler_free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_uniform),
        cmocka_unit_test(test_exp_and_log),
        cmocka_unit_test(test_vector_code_is_exact),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_filter_ties),
        cmocka_unit_test(test_filters_against_sorting),
        cmocka_unit_test(test_edits),
        cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_extreme_logits),
        cmocka_unit_test(test_every_place),
        cmocka_unit_test(test_without_probability),
        cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_tops),
        cmocka_unit_test(test_tops_of_edited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
