/* Load: many requests to a server, and what each met with. A closed loop has a number of clients, each of which asks
 * again when its answer is whole; an open one sends at moments of its own, whatever the server does. One thread. */
#ifndef COORDINATOR_LOAD_H
#define COORDINATOR_LOAD_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "coordinator/client.h"
#include "coordinator/load_answer.h"
#include "coordinator/load_request.h"

#define LOAD_BIN_S 0.1
#define LOAD_FAILURES_MAX 16 /* kinds */

enum load_outcome { LOAD_DONE, LOAD_LEFT, LOAD_FAILED };

/* A request that is over. Times are seconds since the load began. */
struct load_record {
    struct load_request request;
    enum load_outcome outcome;
    uint32_t n_prompt, n_cached, n_answer, n_chunks; /* as the server says; n_answer: at least its chunks */
    double begin_s, first_s, end_s; /* begin: when it was due; first_s: 0 where nothing came */
    char *text; /* [n_text] where texts are kept, of a whole answer; else NULL */
    size_t n_text;
};

struct load_failure {
    char what[32]; /* "HTTP 500", "deadline", ... */
    char reason[LOAD_PROBLEM_BYTES]; /* of the first one */
    uint64_t n;
    int is_expected; /* a full server that says so, in an open loop */
};

/* What happened within LOAD_BIN_S. */
struct load_bin {
    uint32_t n_chunks, n_done, n_under_way;
};

struct load_result {
    struct bytes records; /* struct load_record, in the order of their ends */
    struct bytes gaps;    /* float: seconds between neighbouring chunks of whole answers and of those left */
    struct bytes bins;    /* struct load_bin */
    struct load_failure failures[LOAD_FAILURES_MAX]; /* the last one takes what no longer fits */
    uint32_t n_failures;
    uint64_t n_begun, n_done, n_left, n_failed, n_unexpected; /* unexpected: of the failed ones */
    uint64_t n_chunks, n_delayed; /* delayed: sent late, because too many were under way */
    uint32_t n_under_way;
    double seconds; /* to the end of the last one */
};

struct load_options {
    const struct load_spec *spec;
    uint32_t n_clients;        /* of a closed loop, or the most under way of an open one */
    double rate;               /* requests per second of an open loop; 0: closed */
    double duration_s;         /* no new requests after it; 0: without end */
    uint64_t n_requests;       /* at most so many */
    const uint64_t *indices;   /* [n_requests] of requests; NULL: from index_begin on */
    uint64_t index_begin;
    double deadline_s;         /* of one request */
    int keeps_text, is_staying; /* staying: nobody leaves early */
    void *context;
    void (*on_tick)(void *context, const struct load_result *so_far, double now_s); /* often; may be NULL */
};

/* ERR_JOB: gave up, since nothing but failures came. `out` holds what happened before, too. */
err load_run(struct client *client, const struct load_options *o, struct load_result *out);
void load_result_free(struct load_result *r);

const struct load_record *load_records(const struct load_result *r, size_t *n);

#endif
