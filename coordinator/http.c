#include "coordinator/http.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/tcp.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <microhttpd.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/access_log.h"
#include "coordinator/keys.h"
#include "coordinator/listen.h"
#include "coordinator/request.h"

#define HEADERS_BYTES (32 * 1024) /* of one connection: request line, headers, and what is about to be sent */
#define BLOCK_BYTES (16 * 1024)   /* of an answer of known length, handed on at a time */
#define LAG_S 1.0                 /* a client may be too far behind for so long */
#define SPARE_FILES 256           /* descriptors beside those of connections */

enum phase {
    PHASE_OPEN,    /* between requests */
    PHASE_REQUEST, /* one is coming in */
    PHASE_ANSWER   /* it is here; its answer is awaited or on its way */
};

/* A connection with the request that is under way on it. */
struct connection {
    struct http *http;
    struct MHD_Connection *mhd;
    int fd;
    uint32_t at, waiting_at; /* in the lists of struct http; waiting_at: only while suspended */
    uint32_t n_requests;
    enum phase phase;
    int is_suspended; /* has nothing to say to the library until the API answers */
    int has_left;     /* the client closed its side */
    const char *cut;  /* we close it: why, for the log */
    char client[64];
    double since_s;   /* of the phase */
    double moved_s;   /* bytes last went to the client */
    double lag_since_s; /* 0: it does not lag too far behind */
    uint64_t n_moved; /* bytes that the client's system has confirmed, at moved_s */

    /* The request. */
    struct exchange x;
    struct bytes path, body;
    int is_begun;     /* its headers have been looked at */
    int is_early;     /* if it is refused, then before its body is here */
    int is_given;     /* the API has it */
    int is_answering; /* the library has the answer */
    uint64_t n_sent;  /* bytes of the answer */
    double begin_s;   /* of the request line */
    double whole_s;   /* of the whole request; 0: not yet */
};

struct connection_list {
    struct connection **items; /* [max_connections] */
    uint32_t n;
};

struct http {
    struct http_options o;
    struct MHD_Daemon *daemon;
    struct keys *keys; /* NULL: none are asked for */
    struct access_log *log;
    struct bytes url, tls_certificate, tls_key;
    char library_text[512]; /* what the library complained about */
    int epoll_fd, wake_fd, listen_fd;
    int is_listening;       /* the listening socket is watched */
    double accept_again_s;  /* no descriptors: not before */
    atomic_int n_stops;     /* times http_stop was called */
    int is_draining;
    double drained_s;       /* draining ends */
    int is_one_leaving;     /* a connection has_left in the middle of a request, or between two */
    double tick_s, next_tick_s;
    struct connection_list open, waiting;
    struct connection *accepting; /* during MHD_add_connection */
};

static const char cut_timeout[] = "timeout";

/* What epoll says which of its descriptors had an event with; a connection is itself. */
static char mark_listen, mark_wake, mark_library;

/* ---- connections ---- */

static void list_add(struct connection_list *l, struct connection *c, uint32_t *at) {
    *at = l->n;
    l->items[l->n++] = c;
}

/* The last one takes the place. */
static struct connection *list_take(struct connection_list *l, uint32_t at) {
    struct connection *last = l->items[--l->n];
    l->items[at] = last;
    return last;
}

static void suspend(struct connection *c) {
    c->is_suspended = 1;
    list_add(&c->http->waiting, c, &c->waiting_at);
    MHD_suspend_connection(c->mhd);
}

static void resume(struct connection *c) {
    uint32_t at = c->waiting_at;
    list_take(&c->http->waiting, at)->waiting_at = at;
    c->is_suspended = 0;
    c->moved_s = clock_s();
    MHD_resume_connection(c->mhd);
}

/* Whether a suspended one has something to do. */
static int is_ready(const struct connection *c) {
    const struct exchange *x = &c->x;
    if (c->has_left || c->cut || x->is_broken || x->is_ended) return 1;
    return c->is_answering ? exchange_unsent(x) > 0 : x->status != 0;
}

static void enter_phase(struct connection *c, enum phase phase) {
    c->phase = phase;
    c->since_s = c->moved_s = clock_s();
    c->lag_since_s = 0;
}

/* The library notices what happened to its socket, and closes it; what the client has not taken is dropped. */
static void cut(struct connection *c, const char *why) {
    struct linger none = {.l_onoff = 1};
    if (c->cut) return;
    c->cut = why;
    if (c->phase != PHASE_OPEN) setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    shutdown(c->fd, SHUT_RDWR);
}

static void connection_drop(struct connection *c) {
    struct http *h = c->http;
    uint32_t at = c->at;
    /* A forked child may hold the socket open for a moment: closing alone would not end the watch. */
    epoll_ctl(h->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
    list_take(&h->open, at)->at = at;
    free(c);
}

static void on_connection(void *context, struct MHD_Connection *mhd, void **own,
                          enum MHD_ConnectionNotificationCode code) {
    struct http *h = context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *own = h->accepting;
        h->accepting->mhd = mhd;
        return;
    }
    struct connection *c = *own;
    if (c == h->accepting) h->accepting = NULL;
    connection_drop(c);
}

/* ---- one request ---- */

static const char *header_of(const struct connection *c, const char *name) {
    return MHD_lookup_connection_value(c->mhd, MHD_HEADER_KIND, name);
}

/* The request line is here. What this returns comes with every later call for the request. */
static void *on_request_line(void *context, const char *uri, struct MHD_Connection *mhd) {
    (void)context;
    (void)uri;
    struct connection *c = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
    c->begin_s = clock_s();
    c->x.key_name = "-";
    c->x.method = "-";
    enter_phase(c, PHASE_REQUEST);
    return c;
}

/* Looks at the headers. Afterwards x->status says whether the request is refused. */
static void begin_request(struct connection *c, const char *path, const char *method) {
    const struct http *h = c->http;
    const char *length = header_of(c, MHD_HTTP_HEADER_CONTENT_LENGTH);
    struct request r = {
        .method = method,
        .path = path,
        .content_type = header_of(c, MHD_HTTP_HEADER_CONTENT_TYPE),
        .origin = header_of(c, MHD_HTTP_HEADER_ORIGIN),
        .host = header_of(c, MHD_HTTP_HEADER_HOST),
        .authorization = header_of(c, MHD_HTTP_HEADER_AUTHORIZATION),
        .api_key = header_of(c, "X-API-Key"),
        .n_body = length ? strtoull(length, NULL, 10) : 0, /* the library has seen that it is a number */
    };
    c->is_begun = 1;
    /* Refused before the body is sent, and the connection ends with it. Else a refused body is read to its
     * end, so that the client comes to read why. */
    c->is_early = r.n_body > request_body_most(h->o.config) || header_of(c, MHD_HTTP_HEADER_EXPECT);
    if (h->is_draining) exchange_error(&c->x, 503, NULL, "the server is about to end");
    request_admit(&r, h->o.config, h->keys, &c->x, &c->path);
}

static void take_body(struct connection *c, const char *data, size_t n) {
    const struct config *config = c->http->o.config;
    if (c->x.status || c->x.is_broken) return;
    if (n > request_body_most(config) - c->body.len) {
        bytes_free(&c->body);
        request_refuse_body(&c->x, config);
    } else if (bytes_append(&c->body, data, n) != OK) {
        c->x.is_broken = 1;
    }
}

static void give_request(struct connection *c) {
    struct exchange *x = &c->x;
    c->whole_s = clock_s();
    enter_phase(c, PHASE_ANSWER);
    if (!x->status && bytes_append(&c->body, "", 0) != OK) x->is_broken = 1; /* for the NUL */
    if (x->status || x->is_broken) return;
    x->body = c->body.data;
    x->n_body = c->body.len;
    c->is_given = 1;
    c->http->o.on_request(c->http->o.context, x);
    x->body = NULL; /* an answer may take minutes: it does not hold on to its question */
    x->n_body = 0;
    bytes_free(&c->body);
}

/* ---- its answer ---- */

/* Bytes of the answer, as far as there are any. */
static ssize_t on_read(void *context, uint64_t position, char *into, size_t room) {
    struct connection *c = context;
    struct exchange *x = &c->x;
    (void)position;
    size_t n = exchange_unsent(x) < room ? exchange_unsent(x) : room;
    if (c->cut || x->is_broken) return MHD_CONTENT_READER_END_WITH_ERROR;
    if (n) {
        memcpy(into, x->out.data + x->out_at, n);
        exchange_take(x, n);
        c->n_sent += n;
        return (ssize_t)n;
    }
    if (x->is_ended) return MHD_CONTENT_READER_END_OF_STREAM;
    if (c->has_left) return MHD_CONTENT_READER_END_WITH_ERROR;
    suspend(c);
    return 0;
}

static int add_header(struct MHD_Response *r, const char *name, const char *value) {
    return MHD_add_response_header(r, name, value) == MHD_YES;
}

/* "Name: value\n" each. */
static int add_headers(struct MHD_Response *r, struct bytes *lines) {
    char *line = (char *)lines->data, *rest;
    for (; line && *line; line = rest) {
        char *value = strstr(line, ": "), *end = strchr(line, '\n');
        if (!value || !end) return 0;
        *value = *end = 0;
        rest = end + 1;
        if (!add_header(r, line, value + 2)) return 0;
    }
    return 1;
}

static int add_own_headers(const struct http *h, struct MHD_Response *r, const char *type) {
    const char *origin = h->o.config->cors_origin;
    int is_any = strcmp(origin, "*") == 0;
    return (!type || add_header(r, MHD_HTTP_HEADER_CONTENT_TYPE, type)) &&
           (!*origin || add_header(r, MHD_HTTP_HEADER_ACCESS_CONTROL_ALLOW_ORIGIN, origin)) &&
           (!*origin || is_any || add_header(r, MHD_HTTP_HEADER_VARY, "Origin")) &&
           (!h->is_draining || add_header(r, MHD_HTTP_HEADER_CONNECTION, "close"));
}

static enum MHD_Result queue_answer(struct connection *c) {
    struct exchange *x = &c->x;
    uint64_t size = x->is_ended ? exchange_unsent(x) : MHD_SIZE_UNKNOWN;
    struct MHD_Response *r = MHD_create_response_from_callback(size, BLOCK_BYTES, on_read, c, NULL);
    if (!r) return MHD_NO;
    c->is_answering = 1;
    enum MHD_Result result = add_headers(r, &x->headers) && add_own_headers(c->http, r, x->answer_type)
                                 ? MHD_queue_response(c->mhd, (unsigned)x->status, r) : MHD_NO;
    MHD_destroy_response(r);
    return result;
}

/* In place of an answer that came to nothing before it was on its way. */
static void answer_failure(struct exchange *x) {
    exchange_free(x);
    x->status = x->is_ended = x->is_stream = x->is_broken = 0;
    exchange_error(x, 500, NULL, "the server could not make an answer");
}

/* Sends the answer, or waits for it. */
static enum MHD_Result answer(struct connection *c) {
    struct exchange *x = &c->x;
    if (c->cut) return MHD_NO;
    if (x->is_broken || (x->is_ended && !x->status)) answer_failure(x);
    if (x->status) return queue_answer(c);
    if (c->has_left) return MHD_NO;
    suspend(c);
    return MHD_YES;
}

/* The library calls this for the headers, for each piece of the body, when all is here, and after resume. */
static enum MHD_Result on_access(void *context, struct MHD_Connection *mhd, const char *url, const char *method,
                                 const char *version, const char *data, size_t *n_data, void **own) {
    struct connection *c = *own;
    (void)context;
    (void)mhd;
    (void)version;
    if (!c->is_begun) {
        begin_request(c, url, method);
        if (!c->is_early || !c->x.status) return MHD_YES;
        enter_phase(c, PHASE_ANSWER);
        return answer(c);
    }
    if (*n_data) {
        take_body(c, data, *n_data);
        *n_data = 0;
        return MHD_YES;
    }
    if (c->whole_s == 0) give_request(c);
    return answer(c);
}

/* How a request ended: a word for the log, and the status that counts. */
static const char *ending_of(const struct connection *c, enum MHD_RequestTerminationCode code, int *status) {
    *status = c->x.status;
    if (c->cut) {
        *status = c->cut == cut_timeout ? 408 : 499;
        return c->cut;
    }
    if (code == MHD_REQUEST_TERMINATED_COMPLETED_OK && c->is_answering) return "done";
    *status = c->x.is_broken ? 500 : 499;
    if (c->x.is_broken) return "broken";
    if (c->is_answering || c->has_left) return "left";
    *status = 400; /* the library has said so */
    return "malformed";
}

static void on_completed(void *context, struct MHD_Connection *mhd, void **own, enum MHD_RequestTerminationCode code) {
    struct http *h = context;
    struct connection *c = *own;
    struct exchange *x = &c->x;
    double now = clock_s();
    (void)mhd;
    struct access_entry entry = {.exchange = x, .client = c->client, .n_bytes = c->n_sent, .seconds = now - c->begin_s};
    entry.end = ending_of(c, code, &entry.status);
    if (c->is_given) h->o.on_gone(h->o.context, x);
    access_log_write(h->log, &entry);
    metrics_count(h->o.metrics, METRIC_BYTES_SENT, c->n_sent);
    metrics_request(h->o.metrics, x->route ? x->route : "other", entry.status);
    if (x->n_prompt) metrics_observe(h->o.metrics, METRIC_WHOLE, now - c->whole_s);
    exchange_free(x);
    bytes_free(&c->path);
    bytes_free(&c->body);
    *x = (struct exchange){0};
    c->is_begun = c->is_early = c->is_given = c->is_answering = 0;
    c->n_sent = 0;
    c->whole_s = 0;
    c->n_requests++;
    if (c->has_left) h->is_one_leaving = 1;
    enter_phase(c, PHASE_OPEN);
}

/* ---- accepting ---- */

static void watch_listening(struct http *h, int is_wanted) {
    if (h->is_listening == is_wanted || h->listen_fd < 0) return;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &mark_listen};
    if (epoll_ctl(h->epoll_fd, is_wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, h->listen_fd, &event) == 0)
        h->is_listening = is_wanted;
}

static void name_client(struct connection *c, const struct sockaddr *address, socklen_t n) {
    char name[INET6_ADDRSTRLEN], port[16];
    if (getnameinfo(address, n, name, sizeof name, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0) return;
    snprintf(c->client, sizeof c->client, strchr(name, ':') ? "[%s]:%s" : "%s:%s", name, port);
}

static void add_connection(struct http *h, int fd, const struct sockaddr *address, socklen_t n) {
    struct connection *c;
    if (NEW(c, 1) != OK) {
        close(fd);
        return;
    }
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLET, .data.ptr = c};
    c->http = h;
    c->fd = fd;
    name_client(c, address, n);
    enter_phase(c, PHASE_OPEN);
    list_add(&h->open, c, &c->at);
    epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &event);
    h->accepting = c;
    /* Where that fails the library closes the socket; it may have told on_connection, or not. */
    if (MHD_add_connection(h->daemon, fd, address, n) != MHD_YES && h->accepting) connection_drop(c);
    h->accepting = NULL;
    metrics_count(h->o.metrics, METRIC_CONNECTIONS, 1);
}

static void accept_some(struct http *h) {
    for (int i = 0; i < 16 && h->open.n < h->o.config->max_connections; i++) {
        struct sockaddr_storage address;
        socklen_t n = sizeof address;
        int fd = accept4(h->listen_fd, (struct sockaddr *)&address, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            add_connection(h, fd, (struct sockaddr *)&address, n);
            continue;
        }
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            h->accept_again_s = clock_s() + 0.1;
        return;
    }
}

/* ---- deadlines ---- */

/* Whether the client takes what there is for it, as far as its system confirms bytes. */
static int is_moving(struct connection *c, double now) {
    struct tcp_info info;
    socklen_t n = sizeof info;
    if (getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &n) != 0) return 1;
    int is_done = c->is_suspended && !info.tcpi_unacked && !info.tcpi_notsent_bytes;
    if (is_done || info.tcpi_bytes_acked != c->n_moved) c->moved_s = now;
    c->n_moved = info.tcpi_bytes_acked;
    return now - c->moved_s <= c->http->o.config->idle_timeout_s;
}

static int is_lagging(struct connection *c, double now) {
    int is_far = c->x.is_stream && exchange_unsent(&c->x) > (size_t)c->http->o.config->unsent_max_kb * 1024;
    if (!is_far) c->lag_since_s = 0;
    else if (c->lag_since_s == 0) c->lag_since_s = now;
    return is_far && now - c->lag_since_s > LAG_S;
}

static void check_connection(struct connection *c, double now) {
    const struct http *h = c->http;
    double header_s = h->o.config->header_timeout_s, idle_s = h->o.config->idle_timeout_s;
    if (c->phase == PHASE_ANSWER) {
        if (h->is_draining && now >= h->drained_s) cut(c, "drained");
        else if (c->is_answering && (is_lagging(c, now) || !is_moving(c, now))) cut(c, "slow");
    } else if (h->is_draining) {
        cut(c, "drained");
    } else if (now - c->since_s > (c->phase == PHASE_OPEN && c->n_requests ? idle_s : header_s)) {
        cut(c, cut_timeout);
    }
}

/* Cuts clients that closed their side before their request was whole: the library would wait on. */
static void check_leaving(struct http *h) {
    h->is_one_leaving = 0;
    for (uint32_t i = 0; i < h->open.n; i++) {
        struct connection *c = h->open.items[i];
        int n_unread = 0;
        if (!c->has_left || c->phase == PHASE_ANSWER) continue;
        if (ioctl(c->fd, FIONREAD, &n_unread) == 0 && n_unread > 0) h->is_one_leaving = 1;
        else cut(c, "left");
    }
}

/* Where no further connection fits, the one that has been idle for longest gives way. */
static void make_room(struct http *h) {
    struct connection *oldest = NULL;
    for (uint32_t i = 0; i < h->open.n; i++) {
        struct connection *c = h->open.items[i];
        int is_idle = c->phase == PHASE_OPEN && c->n_requests && !c->cut;
        if (is_idle && (!oldest || c->since_s < oldest->since_s)) oldest = c;
    }
    if (oldest) cut(oldest, "idle");
}

static void check_all(struct http *h) {
    double now = clock_s();
    for (uint32_t i = 0; i < h->open.n; i++) check_connection(h->open.items[i], now);
    if (h->open.n == h->o.config->max_connections) make_room(h);
    h->next_tick_s = now + h->tick_s;
}

static void begin_drain(struct http *h) {
    h->is_draining = 1;
    h->drained_s = clock_s() + h->o.config->drain_s;
    watch_listening(h, 0);
    close(h->listen_fd);
    h->listen_fd = -1;
    check_all(h);
}

/* Nobody waits for the answers that are left. */
static void end_drain(struct http *h) {
    h->drained_s = clock_s();
    check_all(h);
}

/* ---- the loop ---- */

static void resume_ready(struct http *h) {
    for (uint32_t i = h->waiting.n; i-- > 0;)
        if (is_ready(h->waiting.items[i])) resume(h->waiting.items[i]);
}

static int has_ready(const struct http *h) {
    for (uint32_t i = 0; i < h->waiting.n; i++)
        if (is_ready(h->waiting.items[i])) return 1;
    return 0;
}

static int is_library_busy(struct http *h) {
    MHD_UNSIGNED_LONG_LONG pending_ms;
    return MHD_get_timeout(h->daemon, &pending_ms) == MHD_YES && pending_ms == 0;
}

/* Milliseconds; -1: until something happens. */
static int timeout_of(struct http *h) {
    if (is_library_busy(h) || has_ready(h)) return 0;
    if (h->open.n == 0 && h->is_listening) return -1;
    double left = h->next_tick_s - clock_s();
    return left <= 0 ? 0 : (int)(left * 1000) + 1;
}

/* Waits for events; *is_woken: http_wake or http_stop was among them. */
static err wait_for_events(struct http *h, int *is_woken) {
    struct epoll_event events[64];
    int n = epoll_wait(h->epoll_fd, events, 64, timeout_of(h));
    if (n < 0 && errno != EINTR) return err_set(ERR_INTERNAL, "epoll_wait: %s", strerror(errno));
    for (int i = 0; i < n; i++) {
        void *mark = events[i].data.ptr;
        uint64_t count;
        if (mark == &mark_listen) accept_some(h);
        else if (mark == &mark_wake) *is_woken = read(h->wake_fd, &count, sizeof count) > 0;
        else if (mark != &mark_library) h->is_one_leaving = ((struct connection *)mark)->has_left = 1;
    }
    return OK;
}

err http_run(struct http *h) {
    sigset_t pipe_signal;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_signal, NULL);
    /* After draining, connections that were cut are closed by the library in a round or two. */
    while (!(h->is_draining && (h->open.n == 0 || clock_s() > h->drained_s + 1))) {
        int is_woken = 0;
        TRY(wait_for_events(h, &is_woken));
        if (is_woken) h->o.on_wake(h->o.context);
        int n_stops = atomic_load(&h->n_stops);
        if (n_stops && !h->is_draining) begin_drain(h);
        if (n_stops > 1 && h->drained_s > clock_s()) end_drain(h);
        resume_ready(h);
        MHD_run(h->daemon);
        double now = clock_s();
        if (h->is_one_leaving && !is_library_busy(h)) check_leaving(h);
        if (now >= h->next_tick_s) check_all(h);
        watch_listening(h, !h->is_draining && h->open.n < h->o.config->max_connections && now >= h->accept_again_s);
    }
    return OK;
}

static void write_wake(struct http *h) {
    uint64_t one = 1;
    int saved = errno;
    ssize_t n = write(h->wake_fd, &one, sizeof one); /* fails only where it is already set as high as can be */
    (void)n;
    errno = saved;
}

void http_wake(struct http *h) { write_wake(h); }

void http_stop(struct http *h) {
    atomic_fetch_add(&h->n_stops, 1);
    write_wake(h);
}

/* ---- opening and closing ---- */

static size_t keep_text(void *context, char *text, size_t n, struct MHD_Connection *mhd) {
    (void)context;
    (void)text;
    (void)mhd;
    return n; /* paths are decoded here, where a %00 is seen */
}

__attribute__((format(printf, 2, 0)))
static void on_library_text(void *context, const char *fmt, va_list args) {
    struct http *h = context;
    vsnprintf(h->library_text, sizeof h->library_text, fmt, args);
    h->library_text[strcspn(h->library_text, "\n")] = 0;
}

static err read_pem(const char *key, const char *path, struct bytes *out) {
    err e = bytes_read_file(out, path);
    if (e == ERR_FILE) return err_context(ERR_CONFIG, "%s", key);
    if (e == OK && !strstr((const char *)out->data, "-----BEGIN "))
        return err_set(ERR_CONFIG, "%s: %s is no PEM file", key, path);
    return e;
}

static err read_tls(struct http *h) {
    const struct config *c = h->o.config;
    if (!*c->tls_certificate && !*c->tls_key) return OK;
    if (!*c->tls_certificate || !*c->tls_key)
        return err_set(ERR_CONFIG, "tls_certificate and tls_key go together: %s is not set",
                       *c->tls_key ? "tls_certificate" : "tls_key");
    if (MHD_is_feature_supported(MHD_FEATURE_TLS) != MHD_YES)
        return err_set(ERR_CONFIG, "tls_certificate: this build of libmicrohttpd has no TLS");
    TRY(read_pem("tls_certificate", c->tls_certificate, &h->tls_certificate));
    return read_pem("tls_key", c->tls_key, &h->tls_key);
}

static err start_library(struct http *h) {
    int has_tls = h->tls_key.len > 0;
    unsigned flags = MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                     (has_tls ? MHD_USE_TLS : 0u);
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_HTTPS_MEM_CERT, 0, h->tls_certificate.data},
        {MHD_OPTION_HTTPS_MEM_KEY, 0, h->tls_key.data},
        {MHD_OPTION_HTTPS_PRIORITIES, 0, "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"},
        {MHD_OPTION_END, 0, NULL},
    };
    h->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_access, h,
        MHD_OPTION_EXTERNAL_LOGGER, on_library_text, h,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, h,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
        MHD_OPTION_URI_LOG_CALLBACK, on_request_line, h,
        MHD_OPTION_UNESCAPE_CALLBACK, keep_text, h,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS_BYTES,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)h->o.config->max_connections + 1,
        MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_ARRAY, has_tls ? tls : &tls[3],
        MHD_OPTION_END);
    if (h->daemon) return OK;
    if (has_tls)
        return err_set(ERR_CONFIG, "tls_certificate = \"%s\", tls_key = \"%s\": no certificate and its key (%s)",
                       h->o.config->tls_certificate, h->o.config->tls_key, h->library_text);
    return err_set(ERR_INTERNAL, "libmicrohttpd does not start: %s", h->library_text);
}

static err watch(struct http *h, int fd, void *mark) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = mark};
    if (epoll_ctl(h->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0) return OK;
    return err_set(ERR_INTERNAL, "epoll_ctl: %s", strerror(errno));
}

static err start_watching(struct http *h) {
    h->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (h->epoll_fd < 0 || h->wake_fd < 0) return err_set(ERR_INTERNAL, "epoll and eventfd: %s", strerror(errno));
    TRY(start_library(h));
    TRY(watch(h, h->wake_fd, &mark_wake));
    TRY(watch(h, MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd, &mark_library));
    watch_listening(h, 1);
    return OK;
}

/* One descriptor per connection. */
static void raise_file_limit(uint64_t n) {
    struct rlimit files;
    n += SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= n) return;
    files.rlim_cur = files.rlim_max < n ? files.rlim_max : n;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_cur < n)
        log_warn("few_files", "max_connections needs %" PRIu64 " descriptors, the limit is %" PRIu64, n,
                 (uint64_t)files.rlim_cur);
}

static err read_files(struct http *h) {
    TRY(read_tls(h));
    return *h->o.config->api_keys ? keys_load(h->o.config->api_keys, &h->keys) : OK;
}

static err create(const struct http_options *o, struct http **out) {
    struct http *h;
    TRY(NEW(h, 1));
    h->o = *o;
    h->epoll_fd = h->wake_fd = h->listen_fd = -1;
    *out = h;
    return OK;
}

static err open_parts(struct http *h) {
    const struct config *c = h->o.config;
    double shorter = c->header_timeout_s < c->idle_timeout_s ? c->header_timeout_s : c->idle_timeout_s;
    h->tick_s = shorter / 8 < LAG_S / 4 ? shorter / 8 : LAG_S / 4;
    TRY(NEW(h->open.items, c->max_connections));
    TRY(NEW(h->waiting.items, c->max_connections));
    TRY(read_files(h));
    TRY(access_log_open(c->access_log, &h->log));
    TRY(bytes_append_str(&h->url, h->tls_key.len ? "https://" : "http://"));
    TRY(listen_open(c->host, (uint32_t)c->port, &h->listen_fd, &h->url));
    raise_file_limit(c->max_connections);
    return start_watching(h);
}

err http_open(const struct http_options *o, struct http **out) {
    struct http *h;
    TRY(create(o, &h));
    err e = open_parts(h);
    if (e == OK) *out = h;
    else http_close(h);
    return e;
}

err http_check(const struct config *config) {
    struct http_options o = {.config = config};
    struct http *h;
    TRY(create(&o, &h));
    err e = read_files(h);
    if (e == OK) e = start_library(h); /* it looks at the certificate */
    http_close(h);
    return e;
}

const char *http_url(const struct http *h) { return (const char *)h->url.data; }

static void stop_library(struct http *h) {
    if (!h->daemon) return;
    for (uint32_t i = 0; i < h->open.n; i++) cut(h->open.items[i], "closed");
    resume_ready(h);
    MHD_run(h->daemon); /* it must not stop while a connection is suspended */
    MHD_stop_daemon(h->daemon);
}

static void close_fd(int fd) {
    if (fd >= 0) close(fd);
}

void http_close(struct http *h) {
    if (!h) return;
    stop_library(h);
    close_fd(h->listen_fd);
    close_fd(h->wake_fd);
    close_fd(h->epoll_fd);
    access_log_close(h->log);
    keys_free(h->keys);
    bytes_free(&h->url);
    bytes_free(&h->tls_certificate);
    if (h->tls_key.data) explicit_bzero(h->tls_key.data, h->tls_key.len);
    bytes_free(&h->tls_key);
    free(h->open.items);
    free(h->waiting.items);
    free(h);
}
