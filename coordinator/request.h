/* Request: who may ask for what. The parts of an HTTP request that we read
 * ourselves, and how they are shown. Pure functions of texts. */
#ifndef COORDINATOR_REQUEST_H
#define COORDINATOR_REQUEST_H

#include <stddef.h>

#include "base/config.h"
#include "base/err.h"
#include "base/mem.h"
#include "coordinator/exchange.h"
#include "coordinator/keys.h"

/* As they came; NULL: not sent. */
struct request {
    const char *method, *path; /* path: without what follows a '?', not decoded */
    const char *content_type, *origin, *host, *authorization, *api_key;
    uint64_t n_body;           /* that were announced */
};

/* Fills what `x` has of a request but its body (`path` keeps the decoded path), and answers it where it is
 * refused or is OPTIONS: x->status says so. Keys (NULL: none are asked for) come as "Authorization: Bearer
 * KEY" or "X-API-Key: KEY"; the page, /health and /ready need none. */
void request_admit(const struct request *r, const struct config *config, const struct keys *keys,
                   struct exchange *x, struct bytes *path);

/* Bytes of the longest body, and the answer to one that is longer. */
size_t request_body_most(const struct config *config);
void request_refuse_body(struct exchange *x, const struct config *config);

/* Decodes %XX of a path, once. ERR_REQUEST: a % without two digits, or a control character. */
err request_decode_path(const char *raw, struct bytes *out);

/* The key of "Bearer KEY" and its length; NULL where it is something else. */
const char *request_bearer(const char *authorization, size_t *n);

/* Whether a web page of `origin` may use a server that it reached as `host` ("localhost:8080", may be NULL):
 * its own page may, and pages of `allowed` ("": none, "*": any). */
int request_origin_is_allowed(const char *origin, const char *host, const char *allowed);

/* Whether a server that listens at `listening` and asks for no keys may be asked for as `host` (may be NULL). Where
 * that is this machine alone it may by addresses, "localhost" and names below it, and the name of `allowed`. */
int request_host_is_allowed(const char *host, const char *listening, const char *allowed);

/* Appends at most `most` bytes of a text between quotes; what is not visible ASCII becomes \xNN. */
err request_quote(const char *text, size_t most, struct bytes *out);

#endif
