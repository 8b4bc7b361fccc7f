/* Access log: one line per request, key=value, in UTC. Never a key, never what follows a '?'. */
#ifndef COORDINATOR_ACCESS_LOG_H
#define COORDINATOR_ACCESS_LOG_H

#include <stdint.h>

#include "base/err.h"
#include "coordinator/exchange.h"

struct access_log;

/* `path`: a file that is appended to; "": standard error; "none": nothing is written. ERR_CONFIG. */
err access_log_open(const char *path, struct access_log **out);
void access_log_close(struct access_log *l);

struct access_entry {
    const struct exchange *exchange; /* method, path, route, key_name and tokens; path may be NULL */
    const char *client;
    const char *end;                 /* a word: how it ended */
    int status;
    uint64_t n_bytes;                /* of the answer's body */
    double seconds;
};
void access_log_write(struct access_log *l, const struct access_entry *entry);

#endif
