#include "coordinator/link.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define TICK_MS 100

struct link {
    int fd;
    struct link_watch *watch;
    struct bytes out;   /* queued frames; [out_at, len) has not left */
    size_t out_at;
    int is_broken; /* writing failed; what was said before may still be read */
    struct frame_header header;
    size_t header_len, body_len; /* received of the frame that comes in */
    struct bytes body;
};

err link_open(int fd, struct link_watch *watch, struct link **out) {
    struct link *l;
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0) {
        err e = err_set(ERR_INTERNAL, "the job's socket: %s", strerror(errno));
        close(fd);
        return e;
    }
    err e = NEW(l, 1);
    if (e != OK) {
        close(fd);
        return e;
    }
    l->fd = fd;
    l->watch = watch;
    *out = l;
    return OK;
}

void link_close(struct link *l) {
    if (!l) return;
    close(l->fd);
    bytes_free(&l->out);
    bytes_free(&l->body);
    free(l);
}

/* ---- moving bytes ---- */

static err link_lost(const char *what) {
    return err_set(ERR_JOB, "the job closed its link (%s)", what);
}

/* An error here is not final: the job's last words may lie on the read side. */
static void write_some(struct link *l) {
    while (l->out_at < l->out.len) {
        ssize_t n = send(l->fd, l->out.data + l->out_at, l->out.len - l->out_at, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            l->is_broken = 1;
            break;
        }
        l->out_at += (size_t)n;
    }
    l->out.len = l->out_at = 0;
}

/* Reads up to `want` bytes to `into`; *got 0 when nothing is there now. */
static err read_some(struct link *l, void *into, size_t want, size_t *got) {
    for (;;) {
        ssize_t n = recv(l->fd, into, want, 0);
        *got = n > 0 ? (size_t)n : 0;
        if (n > 0) return OK;
        if (n == 0) return link_lost("end of stream");
        if (errno == EAGAIN || errno == EWOULDBLOCK) return OK;
        if (errno != EINTR) return link_lost(strerror(errno));
    }
}

/* Goes on with the frame that comes in; *is_whole when it is complete. */
static err read_frame(struct link *l, int *is_whole) {
    size_t got;
    *is_whole = 0;
    while (l->header_len < sizeof l->header) {
        TRY(read_some(l, (char *)&l->header + l->header_len, sizeof l->header - l->header_len, &got));
        if (got == 0) return OK;
        l->header_len += got;
        if (l->header_len < sizeof l->header) continue;
        TRY(frame_check(&l->header));
        l->body.len = 0;
        TRY(bytes_reserve(&l->body, l->header.n_bytes));
    }
    while (l->body_len < l->header.n_bytes) {
        TRY(read_some(l, l->body.data + l->body_len, l->header.n_bytes - l->body_len, &got));
        if (got == 0) return OK;
        l->body_len += got;
    }
    l->body.data[l->body_len] = 0;
    *is_whole = 1;
    return OK;
}

/* ---- waiting ---- */

/* Waits for the two descriptors of `own`, and serves the watch. poll passes over -1. */
static err poll_once(struct link_watch *w, struct pollfd own[2], int timeout_ms) {
    struct pollfd fds[3] = {own[0], own[1], {.fd = w ? w->fd : -1, .events = POLLIN}};
    if (poll(fds, 3, timeout_ms < TICK_MS ? timeout_ms : TICK_MS) < 0 && errno != EINTR)
        return err_set(ERR_INTERNAL, "poll: %s", strerror(errno));
    own[0] = fds[0];
    own[1] = fds[1];
    if (!w) return OK;
    if (fds[2].revents) TRY(w->on_readable(w->context));
    if (w->on_tick) TRY(w->on_tick(w->context));
    return w->also ? w->also->on_tick(w->also->context) : OK;
}

err link_watch_poll(struct link_watch *watch, int extra_fd, int *extra_is_ready, int timeout_ms) {
    struct pollfd own[2] = {{.fd = extra_fd, .events = POLLIN}, {.fd = -1}};
    err e = poll_once(watch, own, timeout_ms);
    if (extra_is_ready) *extra_is_ready = own[0].revents != 0;
    return e;
}

void link_await_close(int fd, int64_t timeout_us) {
    char waste[4096];
    int64_t deadline_us = clock_us() + timeout_us;
    struct pollfd own = {.fd = fd, .events = POLLIN};
    while (clock_us() < deadline_us && (poll(&own, 1, TICK_MS) >= 0 || errno == EINTR)) {
        if (!own.revents) continue;
        ssize_t n = read(fd, waste, sizeof waste);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return;
    }
}

/* Waits for the socket until `deadline_us`, or until `wake_fd` is readable; then ERR_TIMEOUT. */
static err link_wait(struct link *l, short events, int wake_fd, int64_t deadline_us) {
    int64_t left = deadline_us - clock_us();
    if (left <= 0) return err_set(ERR_TIMEOUT, "no answer from the job");
    struct pollfd own[2] = {{.fd = l->fd, .events = events}, {.fd = wake_fd, .events = POLLIN}};
    TRY(poll_once(l->watch, own, left > TICK_MS * 1000 ? TICK_MS : (int)(left / 1000 + 1)));
    if (own[1].revents && !own[0].revents) return err_set(ERR_TIMEOUT, "woken before the job answered");
    return OK;
}

err link_flush(struct link *l, int64_t timeout_us) {
    int64_t deadline_us = clock_us() + timeout_us;
    for (;;) {
        write_some(l);
        if (l->is_broken) return link_lost("cannot write");
        if (l->out.len == 0) return OK;
        TRY(link_wait(l, POLLOUT, -1, deadline_us));
    }
}

err link_receive(struct link *l, int64_t timeout_us, int wake_fd, struct frame *out) {
    int64_t deadline_us = clock_us() + timeout_us;
    int is_whole;
    for (;;) {
        /* Reading first: a job that fails says why before it closes its end. */
        TRY(read_frame(l, &is_whole));
        if (is_whole) break;
        write_some(l);
        TRY(link_wait(l, (short)(POLLIN | (l->out.len ? POLLOUT : 0)), wake_fd, deadline_us));
    }
    *out = (struct frame){(enum frame_kind)l->header.kind, l->header.id, l->header.n_bytes,
                          l->body.data};
    l->header_len = l->body_len = 0;
    return OK;
}

err link_send(struct link *l, enum frame_kind kind, uint32_t id, const void *body, size_t n) {
    TRY(frame_put(&l->out, kind, id, body, n));
    write_some(l);
    return OK;
}

err link_send_step(struct link *l, uint32_t id, const struct step *s) {
    TRY(frame_put_step(&l->out, id, s));
    write_some(l);
    return OK;
}

/* ---- the load bar ---- */

#define BAR_CELLS 24
#define BAR_EVERY_US 100000
#define RATE_US 3000000

static double recent_rate(struct link_progress *p, int64_t now, uint64_t done) {
    if (now - p->since_us[1] > RATE_US) {
        p->since_us[0] = p->since_us[1];
        p->since_done[0] = p->since_done[1];
        p->since_us[1] = now;
        p->since_done[1] = done;
    }
    double seconds = (double)(now - p->since_us[0]) * 1e-6;
    return seconds > 0 && done > p->since_done[0] ? (double)(done - p->since_done[0]) / seconds : 0;
}

void link_progress_show(struct link_progress *p, const char *what, uint64_t done, uint64_t total,
                        int is_bytes) {
    if (!isatty(STDERR_FILENO) || total == 0) return;
    int64_t now = clock_us();
    if (!p->since_us[0]) p->since_us[0] = p->since_us[1] = now;
    if (done < total && now - p->drawn_us < BAR_EVERY_US) return;
    p->drawn_us = now;
    p->is_shown = 1;
    double part = done < total ? (double)done / (double)total : 1;
    double rate = recent_rate(p, now, done);
    char bar[BAR_CELLS + 1];
    for (int i = 0; i < BAR_CELLS; i++) bar[i] = i < part * BAR_CELLS ? '=' : ' ';
    bar[BAR_CELLS] = 0;
    fprintf(stderr, is_bytes ? "\r%s [%s] %3.0f%%  %.0f MB/s" : "\r%s [%s] %3.0f%%  %.0f/s", what, bar,
            part * 100, is_bytes ? rate * 1e-6 : rate);
    if (rate > 0) fprintf(stderr, "  %.0f s left", (double)(total - (done < total ? done : total)) / rate);
    fprintf(stderr, "\x1b[K");
}

void link_progress_clear(struct link_progress *p) {
    if (p->is_shown) fprintf(stderr, "\r\x1b[K");
    p->is_shown = 0;
}
