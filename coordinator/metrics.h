/* Metrics: counts and times of a server, and their text for Prometheus
 * (https://prometheus.io/docs/instrumenting/exposition_formats/, version 0.0.4).
 * Counting is atomic: any thread. */
#ifndef COORDINATOR_METRICS_H
#define COORDINATOR_METRICS_H

#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"

/* name, Prometheus name, help. Counters only grow. */
#define METRIC_COUNTERS(X)                                                                       \
    X(PROMPT_TOKENS, "prompt_tokens_total", "Tokens of prompts that were computed.")            \
    X(PREFIX_TOKENS, "prefix_cached_tokens_total", "Tokens of prompts whose KV blocks were known.") \
    X(ANSWER_TOKENS, "generation_tokens_total", "Tokens that were generated.")                   \
    X(STEPS, "steps_total", "Steps that travelled through the job.")                             \
    X(PREEMPTIONS, "preemptions_total", "Sequences that gave their KV blocks back and were computed again.") \
    X(RELAUNCHES, "job_relaunches_total", "Times the job was started again after it was lost.")  \
    X(CONNECTIONS, "http_connections_total", "Connections accepted.")                            \
    X(BYTES_SENT, "http_bytes_sent_total", "Bytes of answers.")

#define METRIC_HISTOGRAMS(X)                                                                     \
    X(FIRST_TOKEN, "time_to_first_token_seconds", "From a whole request to its first token.")    \
    X(BETWEEN_TOKENS, "inter_token_latency_seconds", "Between two tokens of one answer.")        \
    X(WHOLE, "request_duration_seconds", "From a whole request to the end of its answer.")       \
    X(QUEUED, "queue_time_seconds", "From a whole request to its first row in a step.")          \
    X(STEP, "step_duration_seconds", "From a step's start to its result.")

enum metric_counter {
#define METRIC_ENUM(id, ...) METRIC_##id,
    METRIC_COUNTERS(METRIC_ENUM) N_METRIC_COUNTERS
};
enum metric_histogram { METRIC_HISTOGRAMS(METRIC_ENUM) N_METRIC_HISTOGRAMS };
#undef METRIC_ENUM

struct metrics;

err metrics_create(struct metrics **out);
void metrics_free(struct metrics *m);

void metrics_count(struct metrics *m, enum metric_counter id, uint64_t n); /* m may be NULL */
void metrics_observe(struct metrics *m, enum metric_histogram id, double seconds);
/* A request's end: route ("chat", "completions", ...: a constant) and the HTTP status, or 499: the client left. */
void metrics_request(struct metrics *m, const char *route, int status);

struct service_status;
/* Everything, with the gauges of `status` and the figures of each rank (service_ranks; may be NULL). */
err metrics_print(const struct metrics *m, const struct service_status *status, const json_t *ranks,
                  struct bytes *out);

#endif
