/* Metrics: what is counted is printed, and the text keeps the rules of Prometheus's format, by a checker of
 * our own and by promtool where that is installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/metrics.h"
#include "coordinator/service.h"

/* ---- a checker of the format ---- */

#define SAMPLES_MAX 2000
#define FAMILIES_MAX 100
#define SERIES_BYTES 400

struct sample {
    char series[SERIES_BYTES]; /* name and labels as they stand */
    char name[128], le[32];
    double value;
};

struct family {
    char name[128], type[16];
    int has_help;
    size_t sample_begin, sample_end;
};

struct text {
    struct sample samples[SAMPLES_MAX];
    struct family families[FAMILIES_MAX];
    size_t n_samples, n_families;
    char problem[600]; /* "": none */
};

static int problem(struct text *t, const char *what, const char *line) {
    snprintf(t->problem, sizeof t->problem, "%s: %.400s", what, line);
    return 0;
}

static size_t name_length(const char *s) {
    size_t n = 0;
    while (isalpha((unsigned char)s[n]) || s[n] == '_' || s[n] == ':' || (n && isdigit((unsigned char)s[n]))) n++;
    return n;
}

static struct family *family_now(struct text *t, const char *name) {
    struct family *f = t->n_families ? &t->families[t->n_families - 1] : NULL;
    if (f && strcmp(f->name, name) == 0) return f;
    for (size_t i = 0; i < t->n_families; i++)
        if (strcmp(t->families[i].name, name) == 0) return NULL; /* in two places */
    if (t->n_families == FAMILIES_MAX) return NULL;
    f = &t->families[t->n_families++];
    snprintf(f->name, sizeof f->name, "%s", name);
    f->sample_begin = f->sample_end = t->n_samples;
    return f;
}

static int check_comment(struct text *t, const char *line) {
    char word[8], name[128], rest[400];
    if (sscanf(line, "# %7s %127s %399[^\n]", word, name, rest) != 3) return problem(t, "a comment cut short", line);
    struct family *f = family_now(t, name);
    if (!f) return problem(t, "a family in two places", line);
    if (name[name_length(name)] != 0) return problem(t, "a bad name", line);
    if (f->sample_end > f->sample_begin) return problem(t, "a comment after samples", line);
    if (strcmp(word, "HELP") == 0) {
        if (f->has_help++) return problem(t, "HELP twice", line);
        return 1;
    }
    if (strcmp(word, "TYPE") != 0) return problem(t, "neither HELP nor TYPE", line);
    if (*f->type) return problem(t, "TYPE twice", line);
    if (strcmp(rest, "counter") != 0 && strcmp(rest, "gauge") != 0 && strcmp(rest, "histogram") != 0)
        return problem(t, "an unknown type", line);
    size_t n = strlen(name);
    int is_total = n > 6 && strcmp(name + n - 6, "_total") == 0;
    if (is_total != (strcmp(rest, "counter") == 0)) return problem(t, "_total is for counters, and for all of them", line);
    snprintf(f->type, sizeof f->type, "%.15s", rest);
    return 1;
}

/* Behind the '{': NAME="..." with commas. Returns what follows the '}', or NULL. */
static const char *skip_labels(const char *s, char *le) {
    while (*s != '}') {
        size_t n = name_length(s);
        if (!n || s[n] != '=' || s[n + 1] != '"') return NULL;
        int is_le = n == 2 && memcmp(s, "le", 2) == 0;
        const char *value = s + n + 2;
        for (s = value; *s != '"'; s++) {
            if (!*s || (unsigned char)*s < ' ') return NULL;
            if (*s == '\\' && !strchr("\\\"n", *++s)) return NULL;
        }
        if (is_le) snprintf(le, 32, "%.*s", (int)(s - value), value);
        s++;
        if (*s == ',') s++;
        else if (*s != '}') return NULL;
    }
    return s + 1;
}

static int check_sample(struct text *t, const char *line) {
    struct family *f = t->n_families ? &t->families[t->n_families - 1] : NULL;
    struct sample *s = &t->samples[t->n_samples];
    size_t n = name_length(line), base;
    if (!f || !f->has_help || !*f->type) return problem(t, "a sample without HELP and TYPE", line);
    if (!n || n >= sizeof s->name || t->n_samples == SAMPLES_MAX) return problem(t, "a bad name", line);
    snprintf(s->name, sizeof s->name, "%.*s", (int)n, line);
    const char *rest = line + n;
    if (*rest == '{') rest = skip_labels(rest + 1, s->le);
    if (!rest || *rest != ' ') return problem(t, "bad labels", line);
    snprintf(s->series, sizeof s->series, "%.*s", (int)(rest - line), line);
    char *end;
    s->value = strtod(rest + 1, &end);
    if (end == rest + 1 || *end || !isfinite(s->value) || s->value < 0) return problem(t, "a bad value", line);
    base = strlen(f->name);
    if (strncmp(s->name, f->name, base) != 0) return problem(t, "a sample of another family", line);
    int is_histogram = strcmp(f->type, "histogram") == 0;
    const char *suffix = s->name + base;
    if (is_histogram ? strcmp(suffix, "_bucket") && strcmp(suffix, "_sum") && strcmp(suffix, "_count") : *suffix != 0)
        return problem(t, "a sample of another family", line);
    for (size_t i = 0; i < t->n_samples; i++)
        if (strcmp(t->samples[i].series, s->series) == 0) return problem(t, "a series twice", line);
    f->sample_end = ++t->n_samples;
    return 1;
}

/* Buckets ascend in bound and number, the last is +Inf and the same as the count. */
static int check_histogram(struct text *t, const struct family *f) {
    double bound = -INFINITY, n = 0, count = -1;
    int has_sum = 0;
    for (size_t i = f->sample_begin; i < f->sample_end; i++) {
        const struct sample *s = &t->samples[i];
        const char *suffix = s->name + strlen(f->name);
        if (strcmp(suffix, "_sum") == 0) has_sum = 1;
        else if (strcmp(suffix, "_count") == 0) count = s->value;
        else {
            double le = strtod(s->le, NULL);
            if (!*s->le || le <= bound || s->value < n) return problem(t, "buckets out of order", s->series);
            bound = le;
            n = s->value;
        }
    }
    if (!isinf(bound) || !has_sum || count != n) return problem(t, "a histogram that is not whole", f->name);
    return 1;
}

static int check(struct text *t, const char *text) {
    memset(t, 0, sizeof *t);
    char *copy = strdup(text), *line = copy;
    int is_good = 1;
    if (!*text || text[strlen(text) - 1] != '\n') is_good = problem(t, "no line end at the end", "");
    while (is_good && *line) {
        char *end = strchr(line, '\n');
        *end = 0;
        is_good = *line == '#' ? check_comment(t, line) : check_sample(t, line);
        line = end + 1;
    }
    free(copy);
    for (size_t i = 0; i < t->n_families && is_good; i++)
        if (strcmp(t->families[i].type, "histogram") == 0) is_good = check_histogram(t, &t->families[i]);
    return is_good;
}

/* NAN: there is no such series. */
static double value_of(const struct text *t, const char *series) {
    for (size_t i = 0; i < t->n_samples; i++)
        if (strcmp(t->samples[i].series, series) == 0) return t->samples[i].value;
    return NAN;
}

/* ---- tests ---- */

static const struct service_status status = {
    .state = SERVICE_RECOVERING, .load_s = 1.5, .n_queued = 3, .n_running = 4, .n_blocks = 512, .n_blocks_used = 17,
    .n_blocks_cached = 40, .n_stages = 2, .n_shards = 1, .n_ranks = 2, .context = 4096};

static json_t *two_ranks(void) {
    json_t *ranks = json_pack(
        "[{s:i, s:i, s:i, s:s, s:f, s:f, s:f, s:I, s:I, s:i, s:I, s:I, s:I}, {s:i, s:i, s:i, s:s, s:f}]",
        "rank", 0, "stage", 0, "shard", 0, "host", "a \"b\"\\\n", "compute_s", 12.25, "wait_s", 0.5, "share_s", 0.0,
        "bytes_sent", (json_int_t)1 << 40, "bytes_received", (json_int_t)5, "n_steps", 9, "rss_bytes",
        (json_int_t)123456789, "weight_bytes", (json_int_t)7, "kv_bytes", (json_int_t)8,
        "rank", 1, "stage", 1, "shard", 0, "host", "desk", "compute_s", 1.0);
    assert_non_null(ranks);
    return ranks;
}

static struct text *print(const struct metrics *m, const json_t *ranks, struct bytes *out) {
    struct text *t = calloc(1, sizeof *t);
    assert_int_equal(metrics_print(m, &status, ranks, out), OK);
    if (!check(t, (const char *)out->data)) fail_msg("%s", t->problem);
    return t;
}

static void expect(const struct text *t, const char *series, double value) {
    if (value_of(t, series) != value) fail_msg("%s is %g, expected %g", series, value_of(t, series), value);
}

static struct metrics *some_metrics(void) {
    struct metrics *m;
    assert_int_equal(metrics_create(&m), OK);
    metrics_count(m, METRIC_PROMPT_TOKENS, 100);
    metrics_count(m, METRIC_PROMPT_TOKENS, 1);
    metrics_observe(m, METRIC_FIRST_TOKEN, 0.01);  /* a bound belongs to its bucket */
    metrics_observe(m, METRIC_FIRST_TOKEN, 0.011);
    metrics_observe(m, METRIC_FIRST_TOKEN, 1000);
    metrics_observe(m, METRIC_BETWEEN_TOKENS, -1); /* clocks err; sums only grow */
    metrics_observe(m, METRIC_BETWEEN_TOKENS, NAN);
    metrics_request(m, "chat", 200);
    metrics_request(m, "chat", 200);
    metrics_request(m, "chat", 499);
    metrics_request(m, "completions", 200);
    metrics_request(m, NULL, 404);
    metrics_request(m, "chat", 7);
    return m;
}

static void what_is_counted_is_printed(void **state) {
    (void)state;
    struct metrics *m = some_metrics();
    struct bytes out = {0};
    json_t *ranks = two_ranks();
    struct text *t = print(m, ranks, &out);
    expect(t, "caravan_prompt_tokens_total", 101);
    expect(t, "caravan_steps_total", 0);
    expect(t, "caravan_time_to_first_token_seconds_bucket{le=\"0.01\"}", 1);
    expect(t, "caravan_time_to_first_token_seconds_bucket{le=\"0.025\"}", 2);
    expect(t, "caravan_time_to_first_token_seconds_bucket{le=\"60\"}", 2);
    expect(t, "caravan_time_to_first_token_seconds_bucket{le=\"+Inf\"}", 3);
    expect(t, "caravan_time_to_first_token_seconds_sum", 1000.021);
    expect(t, "caravan_inter_token_latency_seconds_count", 2);
    expect(t, "caravan_inter_token_latency_seconds_sum", 0);
    expect(t, "caravan_requests_total{route=\"chat\",status=\"200\"}", 2);
    expect(t, "caravan_requests_total{route=\"chat\",status=\"499\"}", 1);
    expect(t, "caravan_requests_total{route=\"chat\",status=\"500\"}", 1);
    expect(t, "caravan_requests_total{route=\"completions\",status=\"200\"}", 1);
    expect(t, "caravan_requests_total{route=\"other\",status=\"404\"}", 1);
    expect(t, "caravan_state{state=\"recovering\"}", 1);
    expect(t, "caravan_state{state=\"ready\"}", 0);
    expect(t, "caravan_requests_queued", 3);
    expect(t, "caravan_requests_running", 4);
    expect(t, "caravan_kv_blocks", 512);
    expect(t, "caravan_kv_blocks_used", 17);
    expect(t, "caravan_kv_blocks_cached", 40);
    expect(t, "caravan_load_seconds", 1.5);
    assert_true(value_of(t, "process_resident_memory_bytes") > 1e5);
    assert_true(value_of(t, "process_start_time_seconds") > 1.6e9);
#define RANK0 "{rank=\"0\",stage=\"0\",shard=\"0\",host=\"a \\\"b\\\"\\\\\\n\"}"
#define RANK1 "{rank=\"1\",stage=\"1\",shard=\"0\",host=\"desk\"}"
    expect(t, "caravan_rank_busy_seconds_total" RANK0, 12.25);
    expect(t, "caravan_rank_busy_seconds_total" RANK1, 1);
    expect(t, "caravan_rank_sent_bytes_total" RANK0, 1099511627776);
    expect(t, "caravan_rank_resident_memory_bytes" RANK0, 123456789);
    assert_true(isnan(value_of(t, "caravan_rank_steps_total" RANK1))); /* it did not say */
    json_decref(ranks);
    bytes_free(&out);
    free(t);
    metrics_free(m);
}

static void without_ranks_there_are_no_figures_of_them(void **state) {
    (void)state;
    struct metrics *m = some_metrics();
    struct bytes out = {0};
    struct text *t = print(m, NULL, &out);
    assert_null(strstr((const char *)out.data, "caravan_rank_"));
    expect(t, "caravan_ranks", 2);
    bytes_free(&out);
    free(t);
    metrics_free(m);
}

static void nowhere_to_count_is_fine(void **state) {
    (void)state;
    metrics_count(NULL, METRIC_STEPS, 1);
    metrics_observe(NULL, METRIC_STEP, 1);
    metrics_request(NULL, "chat", 200);
    metrics_free(NULL);
}

/* More routes than there is room for end up together. */
static void routes_are_bounded(void **state) {
    (void)state;
    static char names[100][16];
    struct metrics *m;
    struct bytes out = {0};
    assert_int_equal(metrics_create(&m), OK);
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 100; i++) {
            snprintf(names[i], sizeof names[i], "r%d", i);
            metrics_request(m, names[i], 200);
        }
    struct text *t = print(m, NULL, &out);
    double sum = 0, other = value_of(t, "caravan_requests_total{route=\"other\",status=\"200\"}");
    size_t n = 0;
    for (size_t i = 0; i < t->n_samples; i++)
        if (strcmp(t->samples[i].name, "caravan_requests_total") == 0) sum += t->samples[i].value, n++;
    assert_true(sum == 200 && n < 50);
    assert_true(other == 200 - 2 * (double)(n - 1));
    expect(t, "caravan_requests_total{route=\"r0\",status=\"200\"}", 2);
    bytes_free(&out);
    free(t);
    metrics_free(m);
}

#define N_THREADS 8
#define N_EACH 20000
static void *count_on(void *m) {
    static const char *const routes[] = {"a", "b", "c", "d"};
    for (int i = 0; i < N_EACH; i++) {
        metrics_count(m, METRIC_STEPS, 2);
        metrics_observe(m, METRIC_STEP, 0.003);
        metrics_request(m, routes[i % 4], 200);
    }
    return NULL;
}

/* Nothing is lost, and a text printed in the midst of it is whole. */
static void any_thread_may_count(void **state) {
    (void)state;
    struct metrics *m;
    pthread_t threads[N_THREADS];
    struct bytes out = {0};
    assert_int_equal(metrics_create(&m), OK);
    for (int i = 0; i < N_THREADS; i++) assert_int_equal(pthread_create(&threads[i], NULL, count_on, m), 0);
    for (int i = 0; i < 20; i++) {
        free(print(m, NULL, &out));
        out.len = 0;
    }
    for (int i = 0; i < N_THREADS; i++) pthread_join(threads[i], NULL);
    struct text *t = print(m, NULL, &out);
    expect(t, "caravan_steps_total", 2.0 * N_THREADS * N_EACH);
    expect(t, "caravan_step_duration_seconds_count", N_THREADS * N_EACH);
    expect(t, "caravan_step_duration_seconds_sum", 0.003 * N_THREADS * N_EACH);
    expect(t, "caravan_requests_total{route=\"a\",status=\"200\"}", N_THREADS * N_EACH / 4);
    bytes_free(&out);
    free(t);
    metrics_free(m);
}

/* The checker above finds what is wrong. */
static void checker_finds_breaches(void **state) {
    (void)state;
    static const char *const bad[] = {
        "a 1\n", "# HELP a b\na 1\n", "# TYPE a gauge\na 1\n", "# HELP a b\n# TYPE a counter\na 1\n",
        "# HELP a b\n# TYPE a gauge\na 1", "# HELP a b\n# TYPE a gauge\na 1\na 2\n",
        "# HELP a b\n# TYPE a gauge\na{x=\"1} 1\n", "# HELP a b\n# TYPE a gauge\na{x=\"\\q\"} 1\n",
        "# HELP a b\n# TYPE a gauge\nb 1\n", "# HELP a b\n# TYPE a gauge\na nothing\n",
        "# HELP a b\n# TYPE a histogram\na_bucket{le=\"1\"} 2\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 1\n",
        "# HELP a b\n# TYPE a histogram\na_bucket{le=\"+Inf\"} 1\na_sum 1\na_count 2\n",
        "# HELP a b\n# TYPE a gauge\na 1\n# HELP c d\n# TYPE c gauge\nc 1\n# HELP a b\n"};
    struct text *t = calloc(1, sizeof *t);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (check(t, bad[i])) fail_msg("nothing found in: %s", bad[i]);
    assert_true(check(t, "# HELP a b\n# TYPE a gauge\na{x=\"\\\"\\n\"} 1\n"));
    free(t);
}

static void promtool_agrees(void **state) {
    (void)state;
    if (system("command -v promtool >/dev/null 2>&1") != 0) skip();
    struct metrics *m = some_metrics();
    struct bytes out = {0};
    json_t *ranks = two_ranks();
    free(print(m, ranks, &out));
    FILE *tool = popen("promtool check metrics", "w");
    assert_non_null(tool);
    assert_int_equal(fwrite(out.data, 1, out.len, tool), out.len);
    assert_int_equal(pclose(tool), 0);
    json_decref(ranks);
    bytes_free(&out);
    metrics_free(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_counted_is_printed),
        cmocka_unit_test(without_ranks_there_are_no_figures_of_them),
        cmocka_unit_test(nowhere_to_count_is_fine),
        cmocka_unit_test(routes_are_bounded),
        cmocka_unit_test(any_thread_may_count),
        cmocka_unit_test(checker_finds_breaches),
        cmocka_unit_test(promtool_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
