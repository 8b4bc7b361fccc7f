/* Request: the parts of an HTTP request that we read ourselves, and how they are
 * shown. Pure functions of texts. */
#ifndef COORDINATOR_REQUEST_H
#define COORDINATOR_REQUEST_H

#include <stddef.h>

#include "base/err.h"
#include "base/mem.h"

/* Decodes %XX of a path, once. ERR_REQUEST: a % without two digits, or a control character. */
err request_decode_path(const char *raw, struct bytes *out);

/* The key of "Bearer KEY" and its length; NULL where it is something else. */
const char *request_bearer(const char *authorization, size_t *n);

/* Whether a web page of `origin` may use a server that it reached as `host` ("localhost:8080", may be NULL):
 * its own page may, and pages of `allowed` ("": none, "*": any). */
int request_origin_is_allowed(const char *origin, const char *host, const char *allowed);

/* Appends at most `most` bytes of a text between quotes; what is not visible ASCII becomes \xNN. */
err request_quote(const char *text, size_t most, struct bytes *out);

#endif
