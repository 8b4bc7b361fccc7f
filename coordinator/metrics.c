#include "coordinator/metrics.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "coordinator/service.h"

#define BUCKETS_MAX 16
#define ROUTES_MAX 24 /* the last one is for those that no longer fit */
#define STATUS_LEAST 100
#define STATUS_END 600
#define SECONDS_MAX 1e9 /* of one observation */

/* Upper bounds of a histogram's buckets, ascending; 0 ends them. */
static const double bounds[N_METRIC_HISTOGRAMS][BUCKETS_MAX + 1] = {
    [METRIC_FIRST_TOKEN] = {0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60},
    [METRIC_BETWEEN_TOKENS] = {0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5},
    [METRIC_WHOLE] = {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600},
    [METRIC_QUEUED] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60},
    [METRIC_STEP] = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
};

struct about {
    const char *name, *help;
};
#define ABOUT_ROW(id, name, help) {"caravan_" name, help},
static const struct about counters_about[] = {METRIC_COUNTERS(ABOUT_ROW)};
static const struct about histograms_about[] = {METRIC_HISTOGRAMS(ABOUT_ROW)};
#undef ABOUT_ROW

struct histogram {
    _Atomic uint64_t n[BUCKETS_MAX + 1]; /* of each bucket alone; the one after the last bound is +Inf */
    _Atomic uint64_t sum_ns;
};

struct metrics {
    double begin_s; /* since 1970 */
    _Atomic uint64_t counters[N_METRIC_COUNTERS];
    struct histogram histograms[N_METRIC_HISTOGRAMS];
    _Atomic(const char *) routes[ROUTES_MAX]; /* in the order in which they came; NULL: free */
    _Atomic uint64_t requests[ROUTES_MAX][STATUS_END - STATUS_LEAST];
};

err metrics_create(struct metrics **out) {
    struct timespec now;
    TRY(NEW(*out, 1));
    clock_gettime(CLOCK_REALTIME, &now);
    (*out)->begin_s = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    atomic_store(&(*out)->routes[ROUTES_MAX - 1], "other");
    return OK;
}

void metrics_free(struct metrics *m) { free(m); }

/* ---- counting ---- */

/* Figures do not order anything else: no fences. */
static void add(_Atomic uint64_t *to, uint64_t n) { atomic_fetch_add_explicit(to, n, memory_order_relaxed); }
static uint64_t get(const _Atomic uint64_t *from) { return atomic_load_explicit(from, memory_order_relaxed); }

void metrics_count(struct metrics *m, enum metric_counter id, uint64_t n) {
    if (m) add(&m->counters[id], n);
}

static int n_bounds(enum metric_histogram id) {
    int n = 0;
    while (bounds[id][n] > 0) n++;
    return n;
}

void metrics_observe(struct metrics *m, enum metric_histogram id, double seconds) {
    if (!m) return;
    if (!(seconds > 0)) seconds = 0; /* a clock that was set back */
    if (seconds > SECONDS_MAX) seconds = SECONDS_MAX;
    int bucket = 0, n = n_bounds(id);
    while (bucket < n && seconds > bounds[id][bucket]) bucket++;
    add(&m->histograms[id].n[bucket], 1);
    add(&m->histograms[id].sum_ns, (uint64_t)(seconds * 1e9));
}

/* The row of a route, taken at its first request. */
static int route_row(struct metrics *m, const char *route) {
    for (int i = 0; i < ROUTES_MAX - 1 && route; i++) {
        const char *taken = NULL;
        if (atomic_compare_exchange_strong(&m->routes[i], &taken, route) || strcmp(taken, route) == 0) return i;
    }
    return ROUTES_MAX - 1;
}

void metrics_request(struct metrics *m, const char *route, int status) {
    if (!m) return;
    if (status < STATUS_LEAST || status >= STATUS_END) status = 500; /* none of HTTP: a bug of ours */
    add(&m->requests[route_row(m, route)][status - STATUS_LEAST], 1);
}

/* ---- the text ---- */

static err print_head(struct bytes *out, const char *name, const char *type, const char *help) {
    return bytes_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* What stands between the quotes of a label. */
static err print_label(struct bytes *out, const char *text) {
    for (; *text; text++) {
        if (*text == '\n') TRY(bytes_append_str(out, "\\n"));
        else if (*text == '\\' || *text == '"') TRY(bytes_printf(out, "\\%c", *text));
        else TRY(bytes_append(out, text, 1));
    }
    return OK;
}

static err print_counters(const struct metrics *m, struct bytes *out) {
    for (int i = 0; i < N_METRIC_COUNTERS; i++) {
        TRY(print_head(out, counters_about[i].name, "counter", counters_about[i].help));
        TRY(bytes_printf(out, "%s %llu\n", counters_about[i].name, (unsigned long long)get(&m->counters[i])));
    }
    return OK;
}

static err print_requests(const struct metrics *m, struct bytes *out) {
    const char *name = "caravan_requests_total";
    TRY(print_head(out, name, "counter", "Requests that ended, by route and HTTP status; 499: the client left."));
    for (int i = 0; i < ROUTES_MAX; i++)
        for (int status = STATUS_LEAST; status < STATUS_END; status++) {
            uint64_t n = get(&m->requests[i][status - STATUS_LEAST]);
            if (!n) continue;
            TRY(bytes_printf(out, "%s{route=\"", name));
            TRY(print_label(out, atomic_load(&m->routes[i])));
            TRY(bytes_printf(out, "\",status=\"%d\"} %llu\n", status, (unsigned long long)n));
        }
    return OK;
}

/* Buckets are read once, so that +Inf and the count are the same number while others count on. */
static err print_histogram(const struct metrics *m, enum metric_histogram id, struct bytes *out) {
    const struct histogram *h = &m->histograms[id];
    const char *name = histograms_about[id].name;
    uint64_t sum_ns = get(&h->sum_ns), n = 0;
    int n_buckets = n_bounds(id);
    TRY(print_head(out, name, "histogram", histograms_about[id].help));
    for (int i = 0; i < n_buckets; i++) {
        n += get(&h->n[i]);
        TRY(bytes_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[id][i], (unsigned long long)n));
    }
    n += get(&h->n[n_buckets]);
    TRY(bytes_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n", name, (unsigned long long)n));
    TRY(bytes_printf(out, "%s_sum %llu.%09llu\n", name, (unsigned long long)(sum_ns / 1000000000),
                     (unsigned long long)(sum_ns % 1000000000)));
    return bytes_printf(out, "%s_count %llu\n", name, (unsigned long long)n);
}

static err print_gauge(struct bytes *out, const char *name, const char *help, double value) {
    TRY(print_head(out, name, "gauge", help));
    return bytes_printf(out, "%s %.15g\n", name, value);
}

static err print_state(const struct service_status *s, struct bytes *out) {
    static const char *const names[] = {
        [SERVICE_LOADING] = "loading", [SERVICE_READY] = "ready", [SERVICE_RECOVERING] = "recovering",
        [SERVICE_DRAINING] = "draining", [SERVICE_ENDED] = "ended"};
    TRY(print_head(out, "caravan_state", "gauge", "1 for the state that the service is in."));
    for (int i = 0; i <= SERVICE_ENDED; i++)
        TRY(bytes_printf(out, "caravan_state{state=\"%s\"} %d\n", names[i], (int)s->state == i));
    return OK;
}

static err print_status(const struct service_status *s, struct bytes *out) {
    TRY(print_state(s, out));
    TRY(print_gauge(out, "caravan_requests_queued", "Requests that wait for their first step.", s->n_queued));
    TRY(print_gauge(out, "caravan_requests_running", "Requests whose rows travel in steps.", s->n_running));
    TRY(print_gauge(out, "caravan_kv_blocks", "KV blocks that there are.", s->n_blocks));
    TRY(print_gauge(out, "caravan_kv_blocks_used", "KV blocks that sequences hold.", s->n_blocks_used));
    TRY(print_gauge(out, "caravan_kv_blocks_cached", "KV blocks that are free and hold a known prefix.",
                    s->n_blocks_cached));
    TRY(print_gauge(out, "caravan_stages", "Stages of the job.", s->n_stages));
    TRY(print_gauge(out, "caravan_shards", "Shards of each stage.", s->n_shards));
    TRY(print_gauge(out, "caravan_ranks", "Ranks of the job.", s->n_ranks));
    TRY(print_gauge(out, "caravan_context_tokens", "Longest prompt and answer together.", s->context));
    if (s->forecast_decode_per_s > 0) {
        TRY(print_gauge(out, "caravan_decode_forecast_tokens_per_second",
                        "Tokens written per second for one request alone, as forecast for half the context.",
                        s->forecast_decode_per_s));
        TRY(print_gauge(out, "caravan_prefill_forecast_tokens_per_second", "Tokens of long prompts, as forecast.",
                        s->forecast_prefill_per_s));
        TRY(print_gauge(out, "caravan_load_forecast_seconds", "To a model that is ready, as forecast.",
                        s->forecast_load_s));
    }
    return print_gauge(out, "caravan_load_seconds", "From the start of the job to a model that is ready.", s->load_s);
}

/* Of every rank; the key is that of service_ranks. A counter begins again with a job that is started again. */
static const struct rank_metric {
    const char *key, *name, *type, *help;
} rank_metrics[] = {
    {"compute_s", "caravan_rank_busy_seconds_total", "counter", "Time in which a rank computed."},
    {"wait_s", "caravan_rank_wait_seconds_total", "counter", "Time in which a rank had nothing to compute."},
    {"share_s", "caravan_rank_share_seconds_total", "counter",
     "Time in which a rank exchanged sums with the other shards of its stage."},
    {"send_s", "caravan_rank_send_seconds_total", "counter",
     "Time in which a rank could take in nothing, since all it had sent was still on its way."},
    {"decode_s", "caravan_rank_decode_step_seconds", "gauge", "A step of one row on a rank, on average."},
    {"forecast_decode_s", "caravan_rank_decode_step_forecast_seconds", "gauge",
     "The same, as forecast for texts of half the context."},
    {"prefill_s", "caravan_rank_prefill_step_seconds", "gauge", "A step of several rows on a rank, on average."},
    {"prefill_rows", "caravan_rank_prefill_step_rows", "gauge", "Rows of such a step, on average."},
    {"forecast_prefill_s", "caravan_rank_prefill_step_forecast_seconds", "gauge",
     "A step of as many rows as there may be on a rank, as forecast."},
    {"forecast_hop_s", "caravan_rank_hop_forecast_seconds", "gauge",
     "A row's way from a rank to the next stage, or back to the first, as forecast."},
    {"load_s", "caravan_rank_load_seconds", "gauge", "Time in which a rank loaded its weights."},
    {"forecast_load_s", "caravan_rank_load_forecast_seconds", "gauge", "The same, as forecast."},
    {"forecast_memory_bytes", "caravan_rank_memory_forecast_bytes", "gauge", "Memory that a rank needs, as planned."},
    {"bytes_sent", "caravan_rank_sent_bytes_total", "counter", "Bytes that a rank sent to other ranks."},
    {"bytes_received", "caravan_rank_received_bytes_total", "counter", "Bytes that a rank received from other ranks."},
    {"n_steps", "caravan_rank_steps_total", "counter", "Steps that a rank computed."},
    {"rss_bytes", "caravan_rank_resident_memory_bytes", "gauge", "Resident memory of a rank's process."},
    {"weight_bytes", "caravan_rank_weight_bytes", "gauge", "Packed weights that a rank holds."},
    {"kv_bytes", "caravan_rank_kv_bytes", "gauge", "KV cache that a rank holds."},
};

static err print_rank(const struct rank_metric *metric, const json_t *rank, struct bytes *out) {
    const json_t *value = json_object_get(rank, metric->key);
    const char *host = json_string_value(json_object_get(rank, "host"));
    if (!json_is_number(value)) return OK;
    TRY(bytes_printf(out, "%s{rank=\"%lld\",stage=\"%lld\",shard=\"%lld\",host=\"", metric->name,
                     (long long)json_integer_value(json_object_get(rank, "rank")),
                     (long long)json_integer_value(json_object_get(rank, "stage")),
                     (long long)json_integer_value(json_object_get(rank, "shard"))));
    TRY(print_label(out, host ? host : ""));
    return bytes_printf(out, "\"} %.15g\n", json_number_value(value));
}

static err print_ranks(const json_t *ranks, struct bytes *out) {
    if (!json_array_size(ranks)) return OK;
    for (size_t k = 0; k < sizeof rank_metrics / sizeof *rank_metrics; k++) {
        const struct rank_metric *metric = &rank_metrics[k];
        TRY(print_head(out, metric->name, metric->type, metric->help));
        for (size_t i = 0; i < json_array_size(ranks); i++) TRY(print_rank(metric, json_array_get(ranks, i), out));
    }
    return OK;
}

static double resident_bytes(void) {
    double n_pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    if (!f) return NAN;
    if (fscanf(f, "%*s %lf", &n_pages) != 1) n_pages = NAN;
    fclose(f);
    return n_pages * (double)sysconf(_SC_PAGESIZE);
}

/* These two names are the same in every program that Prometheus reads. */
static err print_process(const struct metrics *m, struct bytes *out) {
    double resident = resident_bytes();
    if (!isnan(resident))
        TRY(print_gauge(out, "process_resident_memory_bytes", "Resident memory of the coordinator.", resident));
    return print_gauge(out, "process_start_time_seconds", "When the coordinator began, since 1970.", m->begin_s);
}

err metrics_print(const struct metrics *m, const struct service_status *status, const json_t *ranks,
                  struct bytes *out) {
    TRY(print_counters(m, out));
    TRY(print_requests(m, out));
    for (int i = 0; i < N_METRIC_HISTOGRAMS; i++) TRY(print_histogram(m, (enum metric_histogram)i, out));
    TRY(print_status(status, out));
    TRY(print_ranks(ranks, out));
    return print_process(m, out);
}
