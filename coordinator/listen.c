#include "coordinator/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* What the system holds for a client that does not read: more would only hide how far it lags. */
#define SEND_BUFFER_BYTES (256 * 1024)

/* "[::1]" as in a URL, or "::1". */
static err resolve(const char *host, uint32_t port, struct addrinfo **out) {
    char name[256], service[16];
    size_t n = strlen(host);
    int is_bracketed = n > 2 && host[0] == '[' && host[n - 1] == ']';
    snprintf(name, sizeof name, "%.*s", (int)(is_bracketed ? n - 2 : n), host + is_bracketed);
    snprintf(service, sizeof service, "%u", port);
    struct addrinfo wanted = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    int code = getaddrinfo(name, service, &wanted, out);
    if (code) return err_set(ERR_CONFIG, "host = \"%s\": %s", host, gai_strerror(code));
    return OK;
}

/* The socket, or -1 with errno. */
static int open_one(const struct addrinfo *a) {
    int yes = 1, no = 0, buffer = SEND_BUFFER_BYTES;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0) return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer); /* accepted ones have it too */
    if (a->ai_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof no);
    if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0) return fd;
    int saved = errno;
    close(fd);
    errno = saved;
    return -1;
}

static err write_authority(int fd, const char *host, struct bytes *out) {
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    char service[16];
    if (getsockname(fd, (struct sockaddr *)&address, &n) != 0 ||
        getnameinfo((struct sockaddr *)&address, n, NULL, 0, service, sizeof service, NI_NUMERICSERV) != 0)
        return err_set(ERR_INTERNAL, "the port of the listening socket: %s", strerror(errno));
    int is_bare = strchr(host, ':') && host[0] != '[';
    return bytes_printf(out, is_bare ? "[%s]:%s" : "%s:%s", host, service);
}

err listen_open(const char *host, uint32_t port, int *out, struct bytes *authority) {
    struct addrinfo *all;
    int fd = -1;
    TRY(resolve(host, port, &all));
    for (struct addrinfo *a = all; a && fd < 0; a = a->ai_next) fd = open_one(a);
    int saved = errno;
    freeaddrinfo(all);
    if (fd < 0)
        return err_set(ERR_FILE, "cannot listen at %s, port %u: %s", host, port, strerror(saved));
    err e = write_authority(fd, host, authority);
    if (e == OK) *out = fd;
    else close(fd);
    return e;
}
