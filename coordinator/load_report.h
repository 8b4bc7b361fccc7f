/* What a load gave, in figures: a table for people, JSON for programs. Pure, but for the printing. */
#ifndef COORDINATOR_LOAD_REPORT_H
#define COORDINATOR_LOAD_REPORT_H

#include <jansson.h>

#include "coordinator/load.h"

/* Of many times, in seconds; all 0 where there are none. Percentiles by nearest rank. */
struct load_times {
    float *sorted; /* [n], ascending */
    size_t n;
    double mean, p50, p90, p99, max;
};

enum load_kind {
    LOAD_FIRST,   /* to the first text */
    LOAD_BETWEEN, /* between two events with text */
    LOAD_PER_TOKEN, /* of an answer after its first text, by the server's count of tokens */
    LOAD_WHOLE,   /* to the end */
    N_LOAD_KINDS
};
extern const char *const load_kind_names[N_LOAD_KINDS]; /* "first token", ... */

/* One run, summed up. */
struct load_summary {
    char label[48]; /* "8 clients", "2.5 requests/s" */
    const struct load_result *result;
    struct load_times times[N_LOAD_KINDS];
    uint64_t n_prompt, n_cached, n_answer; /* tokens of whole answers, and of those left */
    uint64_t n_short; /* whole answers with fewer tokens than were asked for */
};

err load_summarise(const struct load_result *r, const char *label, struct load_summary *out);
void load_summary_free(struct load_summary *s);

/* Points of a run over time, few enough to draw: `bin_s` apart. */
struct load_series {
    double bin_s;
    size_t n;
    double *tokens_per_s, *requests_per_s, *under_way; /* [n] */
};
/* Events with text stand for tokens, scaled so that the sum is the server's count. */
err load_series_make(const struct load_summary *s, struct load_series *out);
void load_series_free(struct load_series *s);

void load_print_text(const struct load_summary *s);
/* New reference; NULL: memory ran out. */
json_t *load_json(const struct load_summary *s);

#endif
