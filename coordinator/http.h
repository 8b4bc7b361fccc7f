/* HTTP: the transport of `serve`. One thread (the caller of http_run) owns every
 * connection: it reads requests within their limits, gives each whole one to the
 * API as an exchange, sends answers as fast as each client reads, notices clients
 * that leave, and logs one line per request. The only user of libmicrohttpd. */
#ifndef COORDINATOR_HTTP_H
#define COORDINATOR_HTTP_H

#include "base/config.h"
#include "base/err.h"
#include "coordinator/exchange.h"
#include "coordinator/metrics.h"

struct http;

struct http_options {
    const struct config *config; /* host, port, api_keys, tls_*, limits, cors_origin */
    struct metrics *metrics;
    void *context;
    /* A whole request; answers now or later (struct exchange). */
    void (*on_request)(void *context, struct exchange *x);
    /* The answer is out, or the client has left before: `x` is freed after this. */
    void (*on_gone)(void *context, struct exchange *x);
    /* Some time after http_wake. */
    void (*on_wake)(void *context);
};

/* Listens. ERR_CONFIG names the key and what is wrong with it; ERR_FILE an address that is taken. */
err http_open(const struct http_options *o, struct http **out);
/* "http://127.0.0.1:8080" */
const char *http_url(const struct http *h);
/* Serves until http_stop; then new connections are refused, and it returns when running answers are out
 * or after drain_s. */
err http_run(struct http *h);
/* Any thread, and signal handlers. */
void http_wake(struct http *h);
void http_stop(struct http *h);
void http_close(struct http *h);

#endif
