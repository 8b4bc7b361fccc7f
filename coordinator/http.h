/* HTTP: the transport of `serve`. One thread (the caller of http_run) owns every
 * connection: it reads requests within their limits, gives each whole one to the
 * API as an exchange, sends answers as fast as each client reads, notices clients
 * that leave, and logs one line per request. The only user of libmicrohttpd.
 *
 * What it answers itself, in OpenAI's shape: 400 a bad path, 401 no known API key (only where api_keys is
 * set; /, /favicon.ico, /health and /ready need none), 403 a page of another origin, or a foreign name of a server
 * without keys that only this machine reaches (unless cors_origin allows it), 405 a method other than GET, HEAD,
 * POST and OPTIONS, 413 a long body, 503 while it drains; OPTIONS with 204. What is no HTTP at all the library
 * refuses in its own words (400, 413, 414, 431, 505).
 *
 * A connection is cut when a request is not whole header_timeout_s after its first line (the first request:
 * after the connection's start), when it is idle for idle_timeout_s, when a client takes nothing for
 * idle_timeout_s of an answer that is there, or lags unsent_max_kb behind a stream for a second. A client that
 * closes its side while it waits has left. */
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
    /* A whole request; answers now or later (struct exchange). Its body is freed after this. */
    void (*on_request)(void *context, struct exchange *x);
    /* The answer is out, or the client has left before: `x` is freed after this. */
    void (*on_gone)(void *context, struct exchange *x);
    /* Some time after http_wake. */
    void (*on_wake)(void *context);
};

/* Whether the files that the configuration names are fine; nothing is opened. */
err http_check(const struct config *config);
/* Listens. ERR_CONFIG names the key and what is wrong with it; ERR_FILE an address that is taken. */
err http_open(const struct http_options *o, struct http **out);
/* "http://127.0.0.1:8080" */
const char *http_url(const struct http *h);
/* Serves until http_stop; then new connections are refused, and it returns when running answers are out
 * or after drain_s, or after http_stop was called once more. */
err http_run(struct http *h);
/* Any thread, and signal handlers. */
void http_wake(struct http *h);
void http_stop(struct http *h);
void http_close(struct http *h);

#endif
