/* What a server says about itself at /metrics while a load runs: KV blocks in use, memory of its processes. A server
 * of another make, without these figures, is not watched. One thread. */
#ifndef COORDINATOR_LOAD_WATCH_H
#define COORDINATOR_LOAD_WATCH_H

#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"
#include "coordinator/client.h"

#define WATCH_PROCESSES_MAX 65 /* the coordinator and ranks */

struct watch_sample {
    double at_s;
    double blocks_used, requests; /* requests: that wait or run */
    uint32_t n_processes;         /* the coordinator, then the ranks in order */
    double resident_bytes[WATCH_PROCESSES_MAX]; /* 0: did not say */
};

/* 1 where the text has the figures of this project's server. */
int watch_parse(const char *text, struct watch_sample *out);

struct watch {
    struct client *client;
    int is_on;             /* the server has these figures */
    struct bytes samples;  /* struct watch_sample, one a second */
    struct bytes body;     /* of the call under way */
    struct call *call;     /* NULL: none */
    double asked_s;        /* when */
    err error;
};

/* Asks once. The client must outlive the watch; watch_close before it. */
err watch_open(struct watch *w, struct client *client);
/* Now and then during a load: asks once a second. */
err watch_tick(struct watch *w, double now_s);
/* Waits until no request is left, at most some seconds, and says how many KV blocks are used then. */
err watch_blocks_after(struct watch *w, double *blocks_used);
void watch_close(struct watch *w);

/* How a process's memory went: means of the second and the last fifth of the load (of five minutes: the second and
 * the last one). 0 where the samples are too few: then nothing is known. */
struct watch_memory {
    double second, last; /* bytes */
};
uint32_t watch_n_processes(const struct watch *w);
int watch_memory(const struct watch *w, uint32_t process, double duration_s, struct watch_memory *out);

/* {at_s, kv_blocks_used, resident_bytes: [[...] per process]} */
json_t *watch_json(const struct watch *w);

#endif
