/* What a server says about itself at /metrics while a load runs: KV blocks in use, memory of its processes. A server
 * of another make, without these figures, is not watched. One thread. */
#ifndef COORDINATOR_LOAD_WATCH_H
#define COORDINATOR_LOAD_WATCH_H

#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"
#include "coordinator/client.h"

#define LOAD_WATCH_PROCESSES_MAX 65 /* the coordinator and ranks */

struct load_watch_sample {
    double at_s;
    double blocks_used, requests; /* requests: that wait or run */
    uint32_t n_processes;         /* the coordinator, then the ranks in order */
    double resident_bytes[LOAD_WATCH_PROCESSES_MAX]; /* 0: did not say */
};

/* 1 where the text has the figures of this project's server. */
int load_watch_parse(const char *text, struct load_watch_sample *out);

struct load_watch {
    struct client *client;
    int is_on;             /* the server has these figures */
    struct bytes samples;  /* struct load_watch_sample, one a second */
    struct bytes body;     /* of the call under way */
    struct call *call;     /* NULL: none */
    double asked_s;        /* when */
    err error;
};

/* Asks once. The client must outlive the watch; load_watch_close before it. */
err load_watch_open(struct load_watch *w, struct client *client);
/* Now and then during a load: asks once a second. */
err load_watch_tick(struct load_watch *w, double now_s);
/* Waits until no request is left, at most some seconds, and says how many KV blocks are used then. */
err load_watch_blocks_after(struct load_watch *w, double *blocks_used);
void load_watch_close(struct load_watch *w);

/* How a process's memory went: means of the second and the last fifth of the load (of five minutes: the second and
 * the last one). 0 where the samples are too few: then nothing is known. */
struct load_watch_memory {
    double second, last; /* bytes */
};
uint32_t load_watch_n_processes(const struct load_watch *w);
int load_watch_memory(const struct load_watch *w, uint32_t process, double duration_s, struct load_watch_memory *out);

/* {at_s, kv_blocks_used, resident_bytes: [[...] per process]} */
json_t *load_watch_json(const struct load_watch *w);

#endif
