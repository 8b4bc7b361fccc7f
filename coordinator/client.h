/* Client: HTTP requests to one server, many at once. Every one has a deadline. The only user of libcurl.
 * One thread; callbacks come during client_poll and may not call back into the client. */
#ifndef COORDINATOR_CLIENT_H
#define COORDINATOR_CLIENT_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

struct client;
struct call; /* a request under way */

/* What became of a call. status: of HTTP, 0: none came. failure: NULL, or what broke it (a constant). */
struct client_end {
    int status;
    const char *failure;
    int is_unreachable; /* nobody listens there, or nobody knows the name */
    int is_late;        /* the deadline passed */
};

struct client_request {
    const char *path; /* "/v1/models", behind the server's URL */
    const char *body; /* [n_body] JSON, copied; NULL: a GET */
    size_t n_body;
    double deadline_s;
    void *context;
    void (*on_data)(void *context, int status, const void *data, size_t n);
    void (*on_end)(void *context, const struct client_end *end); /* the call is over and freed after this */
};

/* `url`: "http://host:port", perhaps with a path in front of all others. `api_key` may be NULL. ERR_USAGE: no URL. */
err client_open(const char *url, const char *api_key, struct client **out);
/* With all calls under way: they end without on_end. */
void client_close(struct client *c);

/* Begins a request; it travels during client_poll. */
err client_start(struct client *c, const struct client_request *r, struct call **out);
/* Leaves: the connection is closed, on_end is not called. */
void client_cancel(struct client *c, struct call *call);
/* Moves bytes, calls back, waits at most timeout_ms for something to happen. */
err client_poll(struct client *c, int timeout_ms);

/* One GET alone, the whole answer: appended to `body`. ERR_FILE: the server was not reached or did not answer. */
err client_get(struct client *c, const char *path, double deadline_s, int *status, struct bytes *body);

#endif
