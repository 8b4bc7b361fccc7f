/* Wire: messages between the ranks of a job. The only file that calls MPI.
 *
 * Nothing here blocks without a deadline: Open MPI never reports a dead or stopped
 * peer, so every wait is MPI_Test with a backoff (spins, yields, naps growing to
 * 150 us, or to 2 ms that a message ends) and ends in an error that names this rank, the peer, their hosts and the
 * layers. One thread at a time. Messages of one sender, receiver and tag arrive
 * in the order sent. */
#ifndef NODE_WIRE_H
#define NODE_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

struct wire;

enum wire_tag {
    WIRE_SETUP = 1, /* rank 0 -> any rank, until all are ready */
    WIRE_FORWARD,   /* frames walking forward */
    WIRE_BACK,      /* any rank -> rank 0 */
    WIRE_SLICES,    /* rank 0 -> any rank, see stream.h */
    WIRE_LINKS,     /* between ranks that measure how fast messages go */
    WIRE_SHARE,     /* between the shards of a stage */
    WIRE_COLLECT
};

/* Collective: every rank of the job calls it. With `is_threaded` MPI may be
 * called by another thread than this one (never by two at a time). */
err wire_init(int *argc, char ***argv, int is_threaded, struct wire **out);
/* Collective; frees. */
err wire_finish(struct wire *w);
/* Ends all ranks of the job; does not return. `code` is the exit code. */
void wire_abort(int code) __attribute__((noreturn));

/* From now on ranks count by cells: the one that was order[i] is rank i (order[0] is 0), and those that are not
 * named come behind, in their order; hosts and names follow. Every rank does it, none in the middle of
 * an exchange. ERR_JOB when the order names a rank twice, or one that is not there. */
err wire_renumber(struct wire *w, const uint32_t *order, uint32_t n);

int wire_rank(const struct wire *w);
int wire_size(const struct wire *w);
const char *wire_host(const struct wire *w, int rank);
/* Ranks of this host that were started with the very cores of this one, itself among them: how many, and
 * how many of them come before it. Those without a cell leave theirs to the others. */
void wire_mates(const struct wire *w, uint32_t *place, uint32_t *n_ranks);

/* What a rank holds, for messages: "layers 4-8". Text is copied. */
void wire_describe(struct wire *w, int rank, const char *what);
/* "rank 2 (host a, layers 4-8)", in one of a few buffers of this thread. */
const char *wire_name(const struct wire *w, int rank);

/* Of every wait from now on; 60 s before the first call. */
void wire_set_deadline(struct wire *w, uint32_t ms);
uint32_t wire_deadline_ms(const struct wire *w);
/* Called while waiting, so that rank 0 hears of failures elsewhere while it waits
 * for a peer; an error from it ends the wait. */
void wire_on_wait(struct wire *w, err (*poll)(void *context), void *context);
/* Calls it, for waits of others; keeps the clock. */
err wire_poll(struct wire *w);

/* A message under way: an index, freed by the wire_test that finds it done. */
typedef int wire_ticket;
#define WIRE_NONE (-1)

/* Sends n bytes; `data` must stay as it is until the ticket is done. `layer` is
 * for messages, -1 none. */
err wire_send(struct wire *w, int to, enum wire_tag tag, int layer, const void *data, size_t n,
              wire_ticket *out);
/* Sends a copy: `data` may change at once. The copies' buffers are reused. */
err wire_put(struct wire *w, int to, enum wire_tag tag, const void *data, size_t n);
/* Posts a receive of at most `cap` bytes. */
err wire_receive(struct wire *w, int from, enum wire_tag tag, void *data, size_t cap,
                 wire_ticket *out);
/* `*is_done` tells; then `*n` (may be NULL) is the size and `*t` WIRE_NONE.
 * WIRE_NONE is done. A send that nobody takes within the deadline is an error. */
err wire_test(struct wire *w, wire_ticket *t, int *is_done, size_t *n);
/* Forgets a posted receive. */
void wire_cancel(struct wire *w, wire_ticket *t);

/* Takes the next message of any rank with this tag, without waiting: *from is
 * -1 when there is none (yet: a large one comes in over several calls, give the same `into`). */
err wire_take(struct wire *w, enum wire_tag tag, struct bytes *into, int *from);
/* Reclaims buffers of wire_put; an error when one has been under way for longer than the deadline. */
err wire_progress(struct wire *w);
/* Waits until all that was put has left. */
err wire_drain(struct wire *w);
/* ERR_TIMEOUT when `waited_us` is beyond the deadline: "rank 2 (host a, layers 8-12): waited
 * 60 s for rank 1 (host b, layers 4-8) " and then the format's text. */
err wire_check_deadline(const struct wire *w, int64_t waited_us, int peer, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Waits until all of `tickets` [n] are done; each is WIRE_NONE then. The peer of the first one that is not within
 * the deadline and `patience_us` is the one blamed: "for WHAT of layer 3", "for WHAT" with layer -1. */
err wire_wait(struct wire *w, wire_ticket *tickets, uint32_t n, int64_t patience_us, int layer, const char *what);

/* Microseconds of waiting time: a clock that leaves out every stretch over a second in
 * which nobody looked at it, so that neither computing nor a suspended job (ctrl-Z) counts
 * against a deadline. */
int64_t wire_clock_us(struct wire *w);

/* One pause of a wait that has lasted `waited_us`: a spin, a yield, or a nap (nap.h) of at most
 * sleep_max_us where a message would not end it. */
void wire_pause(struct wire *w, int64_t waited_us, int64_t sleep_max_us);

struct wire_counts {
    int64_t share_wait_us; /* inside wire_wait */
    uint64_t bytes_sent, bytes_received, n_messages;
};
void wire_counts(const struct wire *w, struct wire_counts *out);

#endif
