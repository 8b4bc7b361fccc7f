/* Link: frames over the stream socket to the job, in both directions, every
 * wait with a deadline. While it waits it also serves other descriptors (the
 * launcher's output) and calls a tick, so that no wait is deaf. One thread. */
#ifndef COORDINATOR_LINK_H
#define COORDINATOR_LINK_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "node/frame.h"

struct link;

/* A frame that came in. `body` [n_bytes] is NUL-terminated, aligned to 8 bytes, and
 * valid until the next call. */
struct frame {
    enum frame_kind kind;
    uint32_t id, n_bytes;
    const void *body;
};

/* What else happens during a wait; every part may be NULL or -1. An error ends
 * the wait with that error. */
struct link_watch {
    void *context;
    int fd;                         /* polled for reading; -1 none */
    err (*on_readable)(void *context); /* may set fd to -1 */
    err (*on_tick)(void *context);  /* about ten times a second */
    const struct link_watch *also;  /* its tick, too */
};

/* Takes the connected socket; link_close closes it. `watch` must outlive it. */
err link_open(int fd, struct link_watch *watch, struct link **out);
void link_close(struct link *l);

/* Queues a frame; it leaves during this and later calls. */
err link_send(struct link *l, enum frame_kind kind, uint32_t id, const void *body, size_t n);
err link_send_step(struct link *l, uint32_t id, const struct step *s);

/* Waits until everything queued has left, at most timeout_us. ERR_TIMEOUT. */
err link_flush(struct link *l, int64_t timeout_us);

/* The next frame, waiting at most timeout_us. ERR_TIMEOUT when none came;
 * ERR_JOB when the other end is closed. While `wake_fd` (-1: none) is readable it does not wait: only then
 * can ERR_TIMEOUT come early. */
err link_receive(struct link *l, int64_t timeout_us, int wake_fd, struct frame *out);

/* Reads on, at most timeout_us, until the other side has closed its end of a socket
 * that link_open did not take: closing ours first could cut off frames it has not read. */
void link_await_close(int fd, int64_t timeout_us);

/* One round of waiting on the watch alone, without a link. */
err link_watch_poll(struct link_watch *watch, int extra_fd, int *extra_is_ready, int timeout_ms);

/* A bar on a terminal (stderr) with rate and time left; a pipe gets nothing. */
struct link_progress {
    int is_shown;
    int64_t drawn_us;
    int64_t since_us[2];   /* two times a few seconds apart, and what was done by then: the rate is a recent one */
    uint64_t since_done[2];
};
void link_progress_show(struct link_progress *p, const char *what, uint64_t done, uint64_t total,
                        int is_bytes);
void link_progress_clear(struct link_progress *p);

#endif
