/* A server for tests: coordinator/http.c in a thread of its own, with an API of a few lines, and plain
 * sockets to speak to it. Paths: /echo gives the body back; /late answers "late" after 100 ms; /stream/N sends N
 * events, one per tick; /endless does not end; /flood sends 64 KiB per tick; /never does not answer; /large is
 * 8 MiB; /fail fails inside a stream; /broken runs out of memory; /who gives key and priority. */
#ifndef TESTS_HTTP_SERVER_H
#define TESTS_HTTP_SERVER_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/config.h"
#include "coordinator/http.h"

#define TICK_US 5000
#define LARGE_BYTES (8u << 20)
#define N_PENDING 256

/* An exchange whose answer is under way: owner of the exchange. */
struct pending {
    struct exchange *x;
    int64_t due_us;
    int n_events; /* of a stream: left to send; -1 endless, -2 a flood */
};

struct server {
    struct config config;
    struct metrics *metrics;
    struct http *http;
    pthread_t thread, ticker;
    atomic_int is_ending, n_gone, n_asked;
    struct pending pending[N_PENDING]; /* on the server's thread only */
    err result;
    int port;
};

static struct pending *server_add(struct server *s, struct exchange *x, int64_t delay_us, int n_events) {
    for (int i = 0; i < N_PENDING; i++)
        if (!s->pending[i].x) {
            s->pending[i] = (struct pending){x, clock_us() + delay_us, n_events};
            return &s->pending[i];
        }
    exchange_error(x, 429, NULL, "too many");
    return NULL;
}

static void server_reply_large(struct exchange *x) {
    char *large = malloc(LARGE_BYTES);
    if (!large) return;
    memset(large, 'L', LARGE_BYTES);
    exchange_reply(x, 200, "text/plain", large, LARGE_BYTES);
    free(large);
}

static void server_on_request(void *context, struct exchange *x) {
    struct server *s = context;
    char text[100];
    s->n_asked++;
    x->route = "test";
    if (strcmp(x->path, "/echo") == 0) {
        exchange_header(x, "X-Method", x->method);
        exchange_reply(x, 200, *x->content_type ? x->content_type : "text/plain", x->body, x->n_body);
    } else if (strcmp(x->path, "/late") == 0) {
        x->owner = server_add(s, x, 100000, 0);
    } else if (strcmp(x->path, "/never") == 0) {
        x->owner = server_add(s, x, INT64_MAX / 2, 0);
    } else if (strncmp(x->path, "/stream/", 8) == 0 || strcmp(x->path, "/endless") == 0 ||
               strcmp(x->path, "/flood") == 0) {
        exchange_begin(x, 200, "text/event-stream");
        x->owner = server_add(s, x, 0, x->path[1] == 's' ? atoi(x->path + 8) : x->path[1] == 'e' ? -1 : -2);
    } else if (strcmp(x->path, "/large") == 0) {
        server_reply_large(x);
    } else if (strcmp(x->path, "/fail") == 0) {
        exchange_begin(x, 200, "text/event-stream");
        exchange_write(x, "data: 1\n\n", 9);
        exchange_error(x, 500, NULL, "it \xFF failed");
    } else if (strcmp(x->path, "/broken") == 0) {
        x->is_broken = 1;
    } else if (strcmp(x->path, "/who") == 0) {
        int n = snprintf(text, sizeof text, "%u %d", x->key, x->priority);
        exchange_reply(x, 200, "text/plain", text, (size_t)n);
    } else {
        exchange_error(x, 404, NULL, "no such path: %s", x->path);
    }
}

static void server_on_gone(void *context, struct exchange *x) {
    struct server *s = context;
    struct pending *p = x->owner;
    if (p) p->x = NULL;
    s->n_gone++;
}

static void server_go_on(struct pending *p, int64_t now) {
    static char flood[65536];
    struct exchange *x = p->x;
    if (now < p->due_us) return;
    if (!x->status) {
        exchange_reply(x, 200, "text/plain", "late", 4);
    } else if (x->is_ended) {
        return;
    } else if (p->n_events == -2) {
        memset(flood, 'f', sizeof flood);
        exchange_write(x, flood, sizeof flood);
    } else {
        exchange_write(x, "data: event\n\n", 13);
        if (p->n_events > 0 && --p->n_events == 0) exchange_end(x);
    }
}

static void server_on_wake(void *context) {
    struct server *s = context;
    int64_t now = clock_us();
    for (int i = 0; i < N_PENDING; i++)
        if (s->pending[i].x) server_go_on(&s->pending[i], now);
}

static void *server_tick(void *context) {
    struct server *s = context;
    while (!s->is_ending) {
        clock_sleep_us(TICK_US);
        http_wake(s->http);
    }
    return NULL;
}

static void *server_run(void *context) {
    struct server *s = context;
    s->result = http_run(s->http);
    return NULL;
}

/* Defaults with a free port and no access log; the caller may change them before server_open. */
static void server_prepare(struct server *s) {
    memset(s, 0, sizeof *s);
    config_defaults(&s->config);
    s->config.port = 0;
    snprintf(s->config.access_log, sizeof s->config.access_log, "none");
}

static err server_listen(struct server *s) {
    struct http_options o = {&s->config, s->metrics, s, server_on_request, server_on_gone, server_on_wake};
    TRY(http_open(&o, &s->http));
    s->port = atoi(strrchr(http_url(s->http), ':') + 1);
    return OK;
}

static int server_open(struct server *s) {
    if (metrics_create(&s->metrics) != OK || server_listen(s) != OK) {
        fprintf(stderr, "%s\n", err_text());
        return 0;
    }
    return pthread_create(&s->thread, NULL, server_run, s) == 0 &&
           pthread_create(&s->ticker, NULL, server_tick, s) == 0;
}

/* Waits for the end of http_run. */
static void server_join(struct server *s) {
    pthread_join(s->thread, NULL);
    s->is_ending = 1;
    pthread_join(s->ticker, NULL);
}

static void server_close(struct server *s) {
    http_close(s->http);
    metrics_free(s->metrics);
}

/* ---- a client ---- */

static int client_open(const struct server *s) {
    static atomic_uint n_clients;
    int yes = 1;
    /* From 127.0.n.1: closed connections keep ports of one address busy for a minute. */
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (n_clients++ % 250u << 8))};
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)s->port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &yes, sizeof yes);
    if (bind(fd, (struct sockaddr *)&from, sizeof from) == 0 &&
        connect(fd, (struct sockaddr *)&at, sizeof at) == 0) return fd;
    close(fd);
    return -1;
}

static int client_send(int fd, const void *data, size_t n) {
    const char *p = data;
    while (n) {
        ssize_t sent = send(fd, p, n, MSG_NOSIGNAL);
        if (sent <= 0) return 0;
        p += sent;
        n -= (size_t)sent;
    }
    return 1;
}

static int client_say(int fd, const char *text) { return client_send(fd, text, strlen(text)); }

/* Reads until `mark` is there (it is kept, with what came after it). 0: the connection ended before. */
static int client_read_until(int fd, struct bytes *in, const char *mark) {
    while (!in->data || !strstr((char *)in->data, mark)) {
        char piece[65536];
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0 || bytes_append(in, piece, (size_t)n) != OK) return 0;
    }
    return 1;
}

/* One answer off the front of `in`: its status; head and body are appended to `head` and `body`. 0: it broke
 * off. */
static int client_read_answer(int fd, struct bytes *in, struct bytes *head, struct bytes *body) {
    if (!client_read_until(fd, in, "\r\n\r\n")) return 0;
    size_t n_head = (size_t)(strstr((char *)in->data, "\r\n\r\n") + 4 - (char *)in->data);
    if (bytes_append(head, in->data, n_head) != OK) return 0;
    memmove(in->data, in->data + n_head, in->len + 1 - n_head);
    in->len -= n_head;
    int status = atoi((char *)head->data + 9);
    const char *length = strcasestr((char *)head->data, "\r\ncontent-length:");
    if (status == 100 || status == 204 || !length) return status;
    size_t n = (size_t)atoll(length + 17);
    while (in->len < n) {
        char piece[65536];
        ssize_t got = recv(fd, piece, sizeof piece, 0);
        if (got <= 0 || bytes_append(in, piece, (size_t)got) != OK) return 0;
    }
    if (bytes_append(body, in->data, n) != OK) return 0;
    memmove(in->data, in->data + n, in->len + 1 - n);
    in->len -= n;
    return status;
}

/* One request on a connection of its own; the whole answer with its head is appended. The status, or 0. */
static int client_ask(const struct server *s, const char *request, struct bytes *answer) {
    struct bytes in = {0}, body = {0};
    int fd = client_open(s), status = 0;
    if (fd >= 0 && client_say(fd, request)) status = client_read_answer(fd, &in, answer, &body);
    if (body.len && bytes_append(answer, body.data, body.len) != OK) status = 0;
    if (fd >= 0) close(fd);
    bytes_free(&in);
    bytes_free(&body);
    return status;
}

#endif
