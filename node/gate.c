#include "node/gate.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"

#define READ_BYTES 65536

struct gate {
    int fd, is_deaf, is_closed; /* the coordinator reads no more; and sends no more */
    struct bytes in, out;
    size_t in_at, out_at; /* bytes before these are done with */
    int64_t stuck_us;     /* since when the queue does not move; 0: it does */
};

err gate_open(int take_fd, struct gate **out) {
    struct gate *g;
    err e = NEW(g, 1);
    if (e == OK && fcntl(take_fd, F_SETFL, fcntl(take_fd, F_GETFL) | O_NONBLOCK) < 0)
        e = err_set(ERR_JOB, "link to the coordinator: %s", strerror(errno));
    if (e != OK) {
        free(g);
        close(take_fd);
        return e;
    }
    g->fd = take_fd;
    *out = g;
    return OK;
}

void gate_free(struct gate *g) {
    if (!g) return;
    close(g->fd);
    bytes_free(&g->in);
    bytes_free(&g->out);
    free(g);
}

err gate_put(struct gate *g, enum frame_kind kind, uint32_t id, const void *body, size_t n) {
    return frame_put(&g->out, kind, id, body, n);
}

err gate_put_bytes(struct gate *g, const void *frames, size_t n) {
    return bytes_append(&g->out, frames, n);
}

/* Drops what is done with, so that the buffer does not grow for ever. */
static void compact(struct bytes *b, size_t *at) {
    if (*at == 0) return;
    memmove(b->data, b->data + *at, b->len - *at);
    b->len -= *at;
    *at = 0;
}

static err gate_write(struct gate *g, int64_t deadline_us) {
    while (g->out_at < g->out.len) {
        ssize_t n = send(g->fd, g->out.data + g->out_at, g->out.len - g->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            int64_t now = clock_us();
            if (!g->stuck_us) g->stuck_us = now;
            if (now - g->stuck_us <= deadline_us) return OK;
            return err_set(ERR_TIMEOUT, "the coordinator has read nothing for %.3g s",
                           (double)(now - g->stuck_us) / 1e6);
        }
        if (n < 0) { /* what it sent before is still to be read */
            g->is_deaf = 1;
            break;
        }
        g->out_at += (size_t)n;
        g->stuck_us = 0;
    }
    g->out.len = g->out_at = 0;
    g->stuck_us = 0;
    return OK;
}

static err gate_read(struct gate *g) {
    for (;;) {
        if (g->in_at > READ_BYTES || g->in_at == g->in.len) compact(&g->in, &g->in_at);
        TRY(bytes_reserve(&g->in, READ_BYTES));
        ssize_t n = recv(g->fd, g->in.data + g->in.len, READ_BYTES, 0);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return OK;
        if (n <= 0) {
            g->is_closed = 1;
            return OK;
        }
        g->in.len += (size_t)n;
        struct frame_header h;
        if (gate_frame(g, &h)) return OK; /* one is enough: the socket holds back the rest */
    }
}

err gate_poll(struct gate *g, int64_t deadline_us) {
    struct frame_header h;
    if (!g->is_deaf) TRY(gate_write(g, deadline_us));
    if (!g->is_closed && !gate_frame(g, &h)) TRY(gate_read(g));
    if (g->in.len - g->in_at >= sizeof h) {
        memcpy(&h, g->in.data + g->in_at, sizeof h);
        TRY(frame_check(&h));
    }
    if (g->is_closed && !gate_frame(g, &h))
        return err_set(ERR_JOB, "the coordinator is gone: its end of the link is closed");
    return OK;
}

const uint8_t *gate_frame(const struct gate *g, struct frame_header *h) {
    size_t there = g->in.len - g->in_at;
    if (there < sizeof *h) return NULL;
    memcpy(h, g->in.data + g->in_at, sizeof *h);
    return there - sizeof *h >= h->n_bytes ? g->in.data + g->in_at : NULL;
}

void gate_pop(struct gate *g) {
    struct frame_header h;
    if (gate_frame(g, &h)) g->in_at += sizeof h + h.n_bytes;
}

void gate_wait(struct gate *g, int64_t timeout_us) {
    short events = g->out_at < g->out.len && !g->is_deaf ? POLLIN | POLLOUT : POLLIN;
    struct pollfd p = {g->fd, events, 0};
    struct timespec t = {timeout_us / 1000000, timeout_us % 1000000 * 1000};
    ppoll(&p, g->is_closed ? 0 : 1, &t, NULL);
}

void gate_flush(struct gate *g, int64_t timeout_us) {
    int64_t end = clock_us() + timeout_us;
    while (!g->is_deaf && gate_write(g, timeout_us) == OK && g->out.len > 0 &&
           clock_us() < end) {
        struct pollfd p = {g->fd, POLLOUT, 0};
        poll(&p, 1, 10);
    }
}
