#include "node/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The build forbids contraction (-ffp-contract=off): every fma here is written. */

#define LANES 8 /* sums run in so many lanes: lane i adds values i, i + 8, ... in order */
#define MOST_LANES 16
#define BUCKETS 512 /* of weights: down to 2^-64 of the largest, then one for the rest */

struct sampler {
    uint32_t n_vocab;
    double *weight;  /* [n_vocab] e^((logit - largest) / temperature), 0 when filtered out */
    uint32_t *order; /* [n_vocab] a heap of ids */
    uint32_t count[BUCKETS];
    double sum[BUCKETS];
};

err sampler_create(uint32_t n_vocab, struct sampler **out) {
    struct sampler *s;
    TRY(NEW(s, 1));
    s->n_vocab = n_vocab;
    err e;
    TRY_GOTO(NEW(s->weight, n_vocab), failed);
    TRY_GOTO(NEW(s->order, n_vocab), failed);
    *out = s;
    return OK;
failed:
    sampler_free(s);
    return e;
}

void sampler_free(struct sampler *s) {
    if (!s) return;
    free(s->weight);
    free(s->order);
    free(s);
}

/* ---- random numbers ---- */

void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

double sample_uniform(uint64_t seed, uint32_t position) {
    uint32_t counter[4] = {position, 0, 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)}, r[4];
    sample_philox(counter, key, r);
    uint64_t bits = (uint64_t)(r[0] >> 5) << 26 | r[1] >> 6; /* 27 and 26 bits */
    return (double)bits * 0x1p-53;
}

/* ---- exp and log ---- */

/* e^x = 2^k e^r with k = round(x / ln 2), |r| <= ln 2 / 2, and the Taylor series of e^r up to
 * r^13 / 13!, whose rest is under 2^-57. ln 2 in two parts (fdlibm's) keeps r exact. No branches,
 * so that the compiler can do several at once: the bits are those of doing one. */
static inline __attribute__((always_inline)) double exp_negative(double x) {
    const double shift = 0x1.8p52; /* added and taken away again rounds to an integer */
    double clamped = x < -708.0 ? -708.0 : x;
    double shifted = fma(clamped, 0x1.71547652b82fep0, shift);
    double k = shifted - shift;
    double r = fma(-k, 0x1.62e42feep-1, clamped);
    r = fma(-k, 0x1.a39ef35793c76p-33, r);
    double p = 1.0 / 6227020800.0;
    p = fma(p, r, 1.0 / 479001600.0);
    p = fma(p, r, 1.0 / 39916800.0);
    p = fma(p, r, 1.0 / 3628800.0);
    p = fma(p, r, 1.0 / 362880.0);
    p = fma(p, r, 1.0 / 40320.0);
    p = fma(p, r, 1.0 / 5040.0);
    p = fma(p, r, 1.0 / 720.0);
    p = fma(p, r, 1.0 / 120.0);
    p = fma(p, r, 1.0 / 24.0);
    p = fma(p, r, 1.0 / 6.0);
    p = fma(p, r, 0.5);
    p = fma(p, r, 1.0);
    p = fma(p, r, 1.0);
    union { double d; uint64_t u; } bits = {shifted}, scale;
    scale.u = (bits.u + 1023) << 52; /* the low bits of `shifted` are k: 2^k */
    return x < -708.0 ? 0.0 : p * scale.d;
}

double sample_exp(double x) { return exp_negative(x); }

/* x = 2^k m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 atanh((m - 1) / (m + 1)) by its
 * series; s^2 <= 0.0295, so the terms after s^21 are under 2^-57. */
double sample_log(double x) {
    int k;
    double m = frexp(x, &k);
    if (m < 0x1.6a09e667f3bcdp-1) {
        m *= 2;
        k--;
    }
    double s = (m - 1.0) / (m + 1.0), q = s * s;
    double p = 1.0 / 21.0;
    for (int n = 19; n >= 3; n -= 2) p = fma(p, q, 1.0 / n);
    double tail = 2.0 * s * q * p;
    double dk = (double)k;
    double low = fma(dk, 0x1.a39ef35793c76p-33, tail);
    return fma(dk, 0x1.62e42feep-1, fma(2.0, s, low));
}

/* ---- all logits of a row ---- */

/* weight[i] = e^((logits[i] - largest) / t), and their sum: LANES sums, added in pairs. weight NULL: the sum alone. */
static inline __attribute__((always_inline)) double weights_fill(const float *restrict logits, uint32_t n,
                                                                 double largest, double t, double *restrict weight) {
    double sum[LANES] = {0};
    uint32_t whole = n - n % LANES;
    for (uint32_t i = 0; i < whole; i += LANES)
#pragma GCC unroll 1
        for (uint32_t j = 0; j < LANES; j++) {
            double e = exp_negative(((double)logits[i + j] - largest) / t);
            if (weight) weight[i + j] = e;
            sum[j] += e;
        }
    for (uint32_t i = whole; i < n; i++) {
        double e = exp_negative(((double)logits[i] - largest) / t);
        if (weight) weight[i] = e;
        sum[i % LANES] += e;
    }
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

/* NaN is -inf, +inf the largest float. */
static inline __attribute__((always_inline)) float clean(float l) {
    return l > FLT_MAX ? FLT_MAX : l >= -FLT_MAX ? l : -INFINITY;
}

/* Makes every logit a number; the largest. */
static inline __attribute__((always_inline)) float logits_number(float *logits, uint32_t n) {
    float most[MOST_LANES];
    for (uint32_t j = 0; j < MOST_LANES; j++) most[j] = -INFINITY;
    uint32_t whole = n - n % MOST_LANES;
    for (uint32_t i = 0; i < whole; i += MOST_LANES)
#pragma GCC unroll 1
        for (uint32_t j = 0; j < MOST_LANES; j++) {
            float l = clean(logits[i + j]);
            logits[i + j] = l;
            most[j] = l > most[j] ? l : most[j];
        }
    for (uint32_t i = whole; i < n; i++) {
        logits[i] = clean(logits[i]);
        if (logits[i] > most[0]) most[0] = logits[i];
    }
    for (uint32_t j = 1; j < MOST_LANES; j++)
        if (most[j] > most[0]) most[0] = most[j];
    return most[0];
}

/* The same compiled for several machines, always with the same bits: fma() is exact by definition, and without the
 * instruction it costs a call of the C library. */
struct row_functions {
    double (*weights)(const float *restrict logits, uint32_t n, double largest, double t, double *restrict weight);
    double (*weights_sum)(const float *logits, uint32_t n, double largest); /* t is 1 */
    float (*number)(float *logits, uint32_t n);
};
#define ROW_FUNCTIONS(machine, attributes)                                                                       \
    attributes static double weights_##machine(const float *restrict logits, uint32_t n, double largest,        \
                                               double t, double *restrict weight) {                             \
        return weights_fill(logits, n, largest, t, weight);                                                     \
    }                                                                                                           \
    attributes static double weights_sum_##machine(const float *logits, uint32_t n, double largest) {           \
        return weights_fill(logits, n, largest, 1.0, NULL);                                                     \
    }                                                                                                           \
    attributes static float number_##machine(float *logits, uint32_t n) { return logits_number(logits, n); }    \
    static const struct row_functions functions_##machine = {weights_##machine, weights_sum_##machine,          \
                                                             number_##machine};

ROW_FUNCTIONS(plain, )
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FAST(features) __attribute__((target(features), optimize("O3", "no-trapping-math")))
ROW_FUNCTIONS(avx2, FAST("avx2,fma"))
ROW_FUNCTIONS(avx512, FAST("avx512f,avx512dq,avx512vl,fma,prefer-vector-width=512"))

static const struct row_functions *row_functions(void) {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        return &functions_avx512;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &functions_avx2 : &functions_plain;
}
#else
static const struct row_functions *row_functions(void) { return &functions_plain; }
#endif

/* ---- choosing ---- */

/* Makes every logit a number; the first of the largest, -1 where there is none. */
static int32_t logits_clean(float *logits, uint32_t n) {
    float most = row_functions()->number(logits, n);
    for (uint32_t i = 0; most > -INFINITY && i < n; i++)
        if (logits[i] == most) return (int32_t)i;
    return -1;
}

static void logits_edit(float *logits, const struct step_out *out, const struct step_edit *edits) {
    for (uint32_t i = out->edit_begin; i < out->edit_end; i++) {
        const struct step_edit *e = &edits[i];
        float l = logits[e->token] + e->bias;
        l = l > 0 ? l / e->repeat : l * e->repeat;
        logits[e->token] = l - e->subtract;
    }
}

/* Whether a comes before b: larger logit, then lower id. */
static int is_before(const float *logits, uint32_t a, uint32_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void heap_sink(const float *logits, uint32_t *heap, uint32_t n, uint32_t at) {
    uint32_t moving = heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n) break;
        if (child + 1 < n && is_before(logits, heap[child + 1], heap[child])) child++;
        if (!is_before(logits, heap[child], moving)) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

/* Bucket of a weight in (0, 1]: falling, eight to every power of two. */
static uint32_t bucket_of(double weight) {
    union { double d; uint64_t u; } bits = {weight};
    uint64_t below = ((uint64_t)1023 << 3) - (bits.u >> 49);
    return below < BUCKETS - 1 ? (uint32_t)below : BUCKETS - 1;
}

/* Puts the weights into buckets; the sum of all. */
static double buckets_fill(struct sampler *s) {
    memset(s->count, 0, sizeof s->count);
    memset(s->sum, 0, sizeof s->sum);
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (s->weight[i] <= 0) continue;
        uint32_t b = bucket_of(s->weight[i]);
        s->count[b]++;
        s->sum[b] += s->weight[i];
    }
    double sum = 0;
    for (uint32_t b = 0; b < BUCKETS; b++) sum += s->sum[b];
    return sum;
}

/* Keeps the first candidates, larger logits and then lower ids first, until there are n_most or
 * until their weights reach `enough`; the others' weights become 0. Only the bucket in which
 * that happens has to be put in order. */
static void keep_first(struct sampler *s, const float *logits, uint32_t n_most, double enough) {
    uint32_t n = 0, last = 0, n_heap = 0;
    double reached = 0;
    while (last < BUCKETS && n + s->count[last] < n_most && reached + s->sum[last] < enough) {
        n += s->count[last];
        reached += s->sum[last++];
    }
    if (last == BUCKETS) return;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (s->weight[i] <= 0) continue;
        uint32_t b = bucket_of(s->weight[i]);
        if (b == last) s->order[n_heap++] = i;
        if (b > last) s->weight[i] = 0;
    }
    for (uint32_t i = n_heap / 2; i-- > 0;) heap_sink(logits, s->order, n_heap, i);
    for (; n_heap && n < n_most && (n == 0 || reached < enough); n++) {
        reached += s->weight[s->order[0]];
        s->order[0] = s->order[--n_heap];
        if (n_heap) heap_sink(logits, s->order, n_heap, 0);
    }
    while (n_heap) s->weight[s->order[--n_heap]] = 0;
}

static void filter(struct sampler *s, const struct step_out *out, const float *logits) {
    if (out->top_k && out->top_k < s->n_vocab) {
        buckets_fill(s);
        keep_first(s, logits, out->top_k, INFINITY);
    }
    if (out->top_p < 1) { /* of what top_k left */
        double sum = buckets_fill(s);
        keep_first(s, logits, s->n_vocab, (double)out->top_p * sum);
    }
    double least = out->min_p < 1 ? (double)out->min_p : 1; /* the largest weighs 1 */
    for (uint32_t i = 0; least > 0 && i < s->n_vocab; i++)
        if (s->weight[i] < least) s->weight[i] = 0;
}

/* One of those whose weight is not 0, by the running sum in order of ids. */
static int32_t draw_one(const struct sampler *s, double u) {
    double sum = 0, reached = 0;
    for (uint32_t i = 0; i < s->n_vocab; i++) sum += s->weight[i];
    double target = u * sum;
    int32_t last = -1;
    for (uint32_t i = 0; i < s->n_vocab; i++) {
        if (s->weight[i] <= 0) continue;
        reached += s->weight[i];
        last = (int32_t)i;
        if (reached > target) break;
    }
    return last;
}

static int32_t draw(struct sampler *s, const struct step_out *out, const float *logits,
                    double largest) {
    row_functions()->weights(logits, s->n_vocab, largest, (double)out->temperature, s->weight);
    filter(s, out, logits);
    return draw_one(s, sample_uniform(out->seed, out->position));
}

/* The best n_top, in order. Few of many: nearly all are refused by one comparison with the last. */
static uint32_t tops_find(const float *logits, uint32_t n, uint32_t n_top, uint32_t *best) {
    uint32_t n_best = 0;
    for (uint32_t i = 0; n_top && i < n; i++) {
        if (n_best == n_top && !(logits[i] > logits[best[n_best - 1]])) continue;
        if (logits[i] == -INFINITY) continue;
        uint32_t at = n_best < n_top ? n_best++ : n_top - 1;
        for (; at && logits[i] > logits[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = i;
    }
    return n_best;
}

static err out_check(const struct step_out *out) {
    if (out->n_top > TOP_LOGPROBS_MAX)
        return err_set(ERR_REQUEST, "%u most probable tokens, at most %d are possible", out->n_top, TOP_LOGPROBS_MAX);
    if (isfinite(out->temperature) && out->temperature >= 0 && !isnan(out->top_p) &&
        !isnan(out->min_p))
        return OK;
    return err_set(ERR_REQUEST, "temperature %g, top_p %g, min_p %g: not numbers to sample with",
                   (double)out->temperature, (double)out->top_p, (double)out->min_p);
}

/* How the probability of a token is told: of the logits after the edits, all tokens together being 1. */
struct scale {
    double largest, log_sum;
};

static double log_probability(const struct scale *c, const float *logits, int32_t token) {
    return (double)logits[token] - c->largest - c->log_sum;
}

static void tops_fill(const struct sampler *s, const struct scale *c, const float *logits, uint32_t n_top,
                      struct result_top *tops, struct result_out *result) {
    uint32_t best[TOP_LOGPROBS_MAX];
    result->n_top = tops_find(logits, s->n_vocab, n_top, best);
    for (uint32_t i = 0; i < result->n_top; i++)
        tops[i] = (struct result_top){(int32_t)best[i], (float)log_probability(c, logits, (int32_t)best[i])};
}

err sample_row(struct sampler *s, const struct step_out *out, const struct step_edit *edits,
               float *logits, struct result_top *tops, struct result_out *result) {
    *result = (struct result_out){.token = -1};
    TRY(out_check(out));
    int32_t best = logits_clean(logits, s->n_vocab);
    if (best < 0) return err_set(ERR_DEVICE, "no finite logit in the row of output %d", out->row);
    if (out->edit_begin < out->edit_end) {
        logits_edit(logits, out, edits);
        best = logits_clean(logits, s->n_vocab);
        if (best < 0) return err_set(ERR_REQUEST, "the logit edits forbid every token");
    }
    if (!(out->flags & (OUT_SAMPLE | OUT_SCORE))) return OK;
    struct scale c = {.largest = (double)logits[best]};
    if (out->n_top || (out->flags & (OUT_SCORE | OUT_LOGPROB)))
        c.log_sum = sample_log(row_functions()->weights_sum(logits, s->n_vocab, c.largest));
    tops_fill(s, &c, logits, out->n_top, tops, result);
    if (out->flags & OUT_SCORE) result->score = log_probability(&c, logits, out->target);
    if (!(out->flags & OUT_SAMPLE)) return OK;
    int32_t token = out->temperature > 0 ? draw(s, out, logits, c.largest) : best;
    result->token = token;
    if (out->flags & OUT_LOGPROB) result->logprob = (float)log_probability(&c, logits, token);
    return OK;
}
