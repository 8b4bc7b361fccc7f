#include "coordinator/load_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERIES_MAX 120 /* points */

const char *const load_kind_names[N_LOAD_KINDS] = {
    [LOAD_FIRST] = "first token", [LOAD_BETWEEN] = "between tokens", [LOAD_PER_TOKEN] = "per token",
    [LOAD_WHOLE] = "whole answer"};
static const char *const kind_keys[N_LOAD_KINDS] = {
    [LOAD_FIRST] = "first_token_s", [LOAD_BETWEEN] = "between_tokens_s", [LOAD_PER_TOKEN] = "per_token_s",
    [LOAD_WHOLE] = "whole_answer_s"};

/* ---- sums ---- */

static int compare_times(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(const struct load_times *t, double share) {
    size_t rank = (size_t)ceil(share * (double)t->n);
    return (double)t->sorted[rank ? rank - 1 : 0];
}

static void times_finish(struct load_times *t) {
    double sum = 0;
    if (!t->n) return;
    qsort(t->sorted, t->n, sizeof *t->sorted, compare_times);
    for (size_t i = 0; i < t->n; i++) sum += (double)t->sorted[i];
    t->mean = sum / (double)t->n;
    t->p50 = percentile(t, 0.5);
    t->p90 = percentile(t, 0.9);
    t->p99 = percentile(t, 0.99);
    t->max = (double)t->sorted[t->n - 1];
}

static void times_add(struct load_times *t, double seconds) { t->sorted[t->n++] = (float)seconds; }

static void take_record(struct load_summary *s, const struct load_record *r) {
    if (r->outcome == LOAD_FAILED) return;
    s->n_answer += r->n_answer;
    if (r->first_s > 0) {
        times_add(&s->times[LOAD_FIRST], r->first_s - r->begin_s);
        s->n_prompt += r->n_prompt;
        s->n_cached += r->n_cached;
    }
    if (r->outcome != LOAD_DONE) return;
    s->n_short += r->n_answer < r->request.n_answer;
    times_add(&s->times[LOAD_WHOLE], r->end_s - r->begin_s);
    if (r->n_answer > 1 && r->first_s > 0)
        times_add(&s->times[LOAD_PER_TOKEN], (r->end_s - r->first_s) / (r->n_answer - 1));
}

err load_summarise(const struct load_result *r, const char *label, struct load_summary *out) {
    size_t n, n_gaps = r->gaps.len / sizeof(float);
    const struct load_record *records = load_records(r, &n);
    *out = (struct load_summary){.result = r};
    snprintf(out->label, sizeof out->label, "%s", label);
    for (int k = 0; k < N_LOAD_KINDS; k++) TRY(NEW(out->times[k].sorted, k == LOAD_BETWEEN ? n_gaps : n));
    for (size_t i = 0; i < n; i++) take_record(out, &records[i]);
    if (n_gaps) memcpy(out->times[LOAD_BETWEEN].sorted, r->gaps.data, r->gaps.len);
    out->times[LOAD_BETWEEN].n = n_gaps;
    for (int k = 0; k < N_LOAD_KINDS; k++) times_finish(&out->times[k]);
    return OK;
}

void load_summary_free(struct load_summary *s) {
    for (int k = 0; k < N_LOAD_KINDS; k++) free(s->times[k].sorted);
    *s = (struct load_summary){0};
}

/* ---- over time ---- */

/* 0.1, 0.2, 0.5, 1, 2, 5, ... s: so that few enough points remain. */
static size_t bins_per_point(size_t n_bins) {
    static const size_t steps[] = {1, 2, 5};
    for (size_t power = 1;; power *= 10)
        for (int i = 0; i < 3; i++)
            if (n_bins <= steps[i] * power * SERIES_MAX) return steps[i] * power;
}

err load_series_make(const struct load_summary *s, struct load_series *out) {
    const struct load_result *r = s->result;
    size_t n_bins = r->bins.len / sizeof(struct load_bin), n_per = bins_per_point(n_bins);
    const struct load_bin *bins = (const struct load_bin *)(const void *)r->bins.data;
    double scale = r->n_chunks ? (double)s->n_answer / (double)r->n_chunks : 0;
    *out = (struct load_series){.bin_s = (double)n_per * LOAD_BIN_S, .n = (n_bins + n_per - 1) / n_per};
    TRY(NEW(out->tokens_per_s, out->n));
    TRY(NEW(out->requests_per_s, out->n));
    TRY(NEW(out->under_way, out->n));
    for (size_t i = 0; i < n_bins; i++) {
        out->tokens_per_s[i / n_per] += bins[i].n_chunks * scale / out->bin_s;
        out->requests_per_s[i / n_per] += bins[i].n_done / out->bin_s;
        out->under_way[i / n_per] += (double)bins[i].n_under_way / (double)n_per;
    }
    return OK;
}

void load_series_free(struct load_series *s) {
    free(s->tokens_per_s);
    free(s->requests_per_s);
    free(s->under_way);
    *s = (struct load_series){0};
}

/* ---- text ---- */

static double per_s(const struct load_result *r, uint64_t n) { return r->seconds > 0 ? (double)n / r->seconds : 0; }

static void print_failures(const struct load_result *r) {
    for (uint32_t i = 0; i < r->n_failures; i++) {
        const struct load_failure *f = &r->failures[i];
        const char *why = f->is_expected ? " (the server was full)" : "";
        printf("  %llu failed%s: %s: ", (unsigned long long)f->n, why, f->what);
        for (const char *c = f->reason; *c; c++) putchar((unsigned char)*c < ' ' || *c == 127 ? ' ' : *c);
        putchar('\n');
    }
}

void load_print_text(const struct load_summary *s) {
    const struct load_result *r = s->result;
    printf("%s, %.1f s: %llu answered, %llu left, %llu failed", s->label, r->seconds, (unsigned long long)r->n_done,
           (unsigned long long)r->n_left, (unsigned long long)r->n_failed);
    if (r->n_delayed) printf(", %llu sent late", (unsigned long long)r->n_delayed);
    double known = s->n_prompt ? 100.0 * (double)s->n_cached / (double)s->n_prompt : 0;
    printf("\n  %.2f requests/s, %.1f tokens/s read (%.1f%% of them known), %.1f tokens/s written, %.1f in all\n",
           per_s(r, r->n_done), per_s(r, s->n_prompt), known, per_s(r, s->n_answer),
           per_s(r, s->n_prompt + s->n_answer));
    if (s->n_short)
        printf("  %llu answers are shorter than asked for: the server does not know ignore_eos?\n",
               (unsigned long long)s->n_short);
    printf("  %-16s %10s %10s %10s %10s %10s %9s\n", "ms", "mean", "p50", "p90", "p99", "max", "of");
    for (int k = 0; k < N_LOAD_KINDS; k++) {
        const struct load_times *t = &s->times[k];
        printf("  %-16s %10.2f %10.2f %10.2f %10.2f %10.2f %9zu\n", load_kind_names[k], t->mean * 1e3, t->p50 * 1e3,
               t->p90 * 1e3, t->p99 * 1e3, t->max * 1e3, t->n);
    }
    print_failures(r);
}

/* ---- JSON ---- */

static json_t *times_json(const struct load_times *t) {
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:f}", "n", (json_int_t)t->n, "mean", t->mean, "p50", t->p50, "p90",
                     t->p90, "p99", t->p99, "max", t->max);
}

static json_t *reals_json(const double *values, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_real(values[i]));
    return list;
}

static json_t *series_json(const struct load_summary *s) {
    struct load_series series;
    json_t *json = NULL;
    if (load_series_make(s, &series) == OK)
        json = json_pack("{s:f, s:o, s:o, s:o}", "bin_s", series.bin_s, "output_tokens_per_s",
                         reals_json(series.tokens_per_s, series.n), "requests_per_s",
                         reals_json(series.requests_per_s, series.n), "under_way",
                         reals_json(series.under_way, series.n));
    load_series_free(&series);
    return json;
}

static json_t *failures_json(const struct load_result *r) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < r->n_failures; i++) {
        const struct load_failure *f = &r->failures[i];
        json_t *reason = json_string(f->reason); /* cut within a character: no JSON */
        json_array_append_new(list, json_pack("{s:s, s:I, s:b, s:o}", "what", f->what, "n", (json_int_t)f->n,
                                              "is_expected", f->is_expected, "reason", reason ? reason : json_null()));
    }
    return list;
}

json_t *load_json(const struct load_summary *s) {
    const struct load_result *r = s->result;
    json_t *json = json_pack(
        "{s:s, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:o, s:o}", "label", s->label, "seconds",
        r->seconds, "answered", (json_int_t)r->n_done, "left", (json_int_t)r->n_left, "failed", (json_int_t)r->n_failed,
        "sent_late", (json_int_t)r->n_delayed, "short_answers", (json_int_t)s->n_short, "prompt_tokens",
        (json_int_t)s->n_prompt, "cached_tokens", (json_int_t)s->n_cached, "output_tokens", (json_int_t)s->n_answer,
        "requests_per_s", per_s(r, r->n_done), "output_tokens_per_s", per_s(r, s->n_answer), "total_tokens_per_s",
        per_s(r, s->n_prompt + s->n_answer), "failures", failures_json(r), "series", series_json(s));
    for (int k = 0; k < N_LOAD_KINDS && json; k++) json_object_set_new(json, kind_keys[k], times_json(&s->times[k]));
    return json;
}
