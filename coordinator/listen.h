/* Listen: the socket that clients connect to. */
#ifndef COORDINATOR_LISTEN_H
#define COORDINATOR_LISTEN_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* A listening socket that does not block, at an IPv4 or IPv6 address or a name; port 0: a free one. Writes
 * "HOST:PORT" as a URL has it. ERR_CONFIG: no such host; ERR_FILE: the address cannot be had. */
err listen_open(const char *host, uint32_t port, int *fd, struct bytes *authority);

#endif
