#include "node/wire.h"

#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "node/nap.h"

#define HOST_BYTES 64
#define PLACE_BYTES 48
#define DEADLINE_DEFAULT_MS 60000
#define SPIN_US 30         /* of a wait: then other processes get the core */
#define YIELD_US 150       /* then sleep */
#define SLEEP_MIN_US 20
#define SLEEP_MAX_US 150   /* longer ones gave no fewer cores and slower hops */
#define UNSEEN_US 1000000  /* see wire_clock_us */
#define ABORT_GUARD_S 5
#define EAGER_BYTES "1310720" /* 128 rows of 2560 values */

/* One MPI request with what a message about it needs. */
struct request {
    MPI_Request mpi;
    int is_used, is_send, peer, layer;
    int64_t since_us;
};

/* A copied message on its way. */
struct put {
    struct bytes data;
    wire_ticket ticket;
};

/* A message of unknown size coming in. */
struct inbox {
    wire_ticket ticket;
    int from;
    size_t n;
};

struct peer {
    struct card {
        char host[HOST_BYTES];
        cpu_set_t cores; /* that the rank may use as it starts */
    } card;
    char place[PLACE_BYTES];
    int mpi_rank;
};

struct wire {
    int rank, size;
    int n_busy;         /* ranks [0, n_busy) have a cell, as far as is known */
    struct peer *peers; /* [size], by rank */
    int *rank_of;       /* [size], by MPI's rank */
    int64_t deadline_us, clock_seen_us, clock_skipped_us;
    err (*poll)(void *context);
    void *poll_context;
    struct request *requests; /* grows; a ticket is an index */
    int n_requests;
    struct put *puts; /* grows */
    int n_puts;
    struct inbox inboxes[WIRE_COLLECT + 1];
    struct nap *nap;
    int64_t patience_us; /* beyond the deadline, of the wait that is under way */
    struct wire_counts counts;
};

static err mpi_check(const char *what, int rc) {
    if (rc == MPI_SUCCESS) return OK;
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(rc, text, &n);
    return err_set(ERR_JOB, "%s: %s", what, text);
}

/* Every rank's host name and cores. Started, then tested: a rank may already be gone. */
static err cards_gather(struct wire *w) {
    struct card mine = {0}, *all;
    if (gethostname(mine.host, sizeof mine.host - 1) != 0) snprintf(mine.host, sizeof mine.host, "unknown");
    sched_getaffinity(0, sizeof mine.cores, &mine.cores);
    TRY(NEW(all, (size_t)w->size));
    MPI_Request r;
    int is_done = 0;
    int64_t start = wire_clock_us(w);
    err e = mpi_check("gathering host names", MPI_Iallgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine,
                                                             MPI_BYTE, MPI_COMM_WORLD, &r));
    while (e == OK && !is_done) {
        int64_t waited = wire_clock_us(w) - start;
        e = mpi_check("gathering host names", MPI_Test(&r, &is_done, MPI_STATUS_IGNORE));
        if (e == OK && !is_done && waited > w->deadline_us)
            e = err_set(ERR_TIMEOUT, "rank %d (host %s): waited %d s for the host names of all ranks",
                        w->rank, mine.host, DEADLINE_DEFAULT_MS / 1000);
        if (!is_done) wire_pause(w, waited, SLEEP_MAX_US);
    }
    for (int i = 0; e == OK && i < w->size; i++) {
        w->peers[i] = (struct peer){.card = all[i], .mpi_rank = i};
        w->rank_of[i] = i;
    }
    if (e == OK) free(all); /* else MPI may still write to it; the process ends */
    return e;
}

/* Messages of up to so many bytes leave at once. Beyond its own limit, 64 KB, Open MPI asks the receiver first, which
 * takes two more trips: on a slow link about a quarter of the time of 1 MB. Who launches may say otherwise. */
static err eager_set(void) {
    static const char *const names[] = {"OMPI_MCA_btl_tcp_eager_limit", "OMPI_MCA_btl_tcp_rndv_eager_limit",
                                        "OMPI_MCA_btl_tcp_max_send_size"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (env_get(names[i])) return OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) TRY(env_set(names[i], EAGER_BYTES));
    return OK;
}

err wire_init(int *argc, char ***argv, int is_threaded, struct wire **out) {
    int need = is_threaded ? MPI_THREAD_SERIALIZED : MPI_THREAD_FUNNELED, have = 0;
    TRY(eager_set());
    TRY(mpi_check("MPI_Init_thread", MPI_Init_thread(argc, argv, need, &have)));
    if (have < need)
        return err_set(ERR_UNSUPPORTED, "this MPI library cannot be called by a second thread: start "
                                        "the command without mpirun, it then launches its own job");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    struct wire *w;
    TRY(NEW(w, 1));
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &w->size);
    w->n_busy = w->size;
    w->deadline_us = (int64_t)DEADLINE_DEFAULT_MS * 1000;
    w->clock_seen_us = clock_us();
    w->nap = nap_create();
    for (int i = 0; i <= WIRE_COLLECT; i++) w->inboxes[i].ticket = WIRE_NONE;
    err e = NEW(w->peers, (size_t)w->size);
    if (e == OK) e = NEW(w->rank_of, (size_t)w->size);
    if (e == OK) e = cards_gather(w);
    if (e == OK) *out = w; /* on failure the job ends: nothing worth freeing */
    return e;
}

err wire_finish(struct wire *w) {
    signal(SIGALRM, SIG_DFL);
    alarm((unsigned)(w->deadline_us / 1000000) + 1); /* MPI_Finalize waits for every rank */
    err e = mpi_check("MPI_Finalize", MPI_Finalize());
    alarm(0);
    for (int i = 0; i < w->n_puts; i++) bytes_free(&w->puts[i].data);
    free(w->puts);
    free(w->requests);
    free(w->peers);
    free(w->rank_of);
    nap_free(w->nap);
    free(w);
    return e;
}

void wire_abort(int code) {
    fflush(NULL);
    signal(SIGALRM, SIG_DFL);
    alarm(ABORT_GUARD_S); /* MPI_Abort may wait for a daemon that is gone */
    int is_begun = 0;
    MPI_Initialized(&is_begun);
    if (is_begun) MPI_Abort(MPI_COMM_WORLD, code);
    _exit(code);
}

/* Peers in their new order, and the way back: order[0..n), then the rest. */
static err peers_sort(const struct wire *w, const uint32_t *order, uint32_t n, struct peer *peers, int *place) {
    int at = 0;
    for (int i = 0; i < w->size; i++) place[i] = -1;
    for (uint32_t i = 0; i < n; i++) {
        if (order[i] >= (uint32_t)w->size || place[order[i]] >= 0)
            return err_set(ERR_JOB, "the plan gives cell %u to rank %u, which has one or is none of %d", i, order[i],
                           w->size);
        place[order[i]] = at++;
    }
    for (int i = 0; i < w->size; i++)
        if (place[i] < 0) place[i] = at++;
    for (int i = 0; i < w->size; i++) peers[place[i]] = w->peers[i];
    return OK;
}

err wire_renumber(struct wire *w, const uint32_t *order, uint32_t n) {
    struct peer *peers = NULL;
    int *place = NULL;
    err e = NEW(peers, (size_t)w->size);
    if (e == OK) e = NEW(place, (size_t)w->size);
    if (e == OK) e = peers_sort(w, order, n, peers, place);
    if (e != OK) {
        free(peers);
        free(place);
        return e;
    }
    for (int i = 0; i < w->n_requests; i++) w->requests[i].peer = place[w->requests[i].peer];
    for (int i = 0; i <= WIRE_COLLECT; i++) w->inboxes[i].from = place[w->inboxes[i].from];
    for (int i = 0; i < w->size; i++) w->rank_of[peers[i].mpi_rank] = i;
    w->rank = place[w->rank];
    w->n_busy = (int)n;
    free(w->peers);
    free(place);
    w->peers = peers;
    return OK;
}

int wire_rank(const struct wire *w) { return w->rank; }
int wire_size(const struct wire *w) { return w->size; }
const char *wire_host(const struct wire *w, int rank) { return w->peers[rank].card.host; }

void wire_mates(const struct wire *w, uint32_t *place, uint32_t *n_ranks) {
    const struct card *mine = &w->peers[w->rank].card;
    *place = *n_ranks = 0;
    for (int i = 0; i < w->n_busy; i++) {
        const struct card *c = &w->peers[i].card;
        if (strcmp(c->host, mine->host) != 0 || !CPU_EQUAL(&c->cores, &mine->cores)) continue;
        *place += i < w->rank;
        ++*n_ranks;
    }
}

void wire_describe(struct wire *w, int rank, const char *what) {
    snprintf(w->peers[rank].place, PLACE_BYTES, "%s", what);
}

const char *wire_name(const struct wire *w, int rank) {
    static _Thread_local char names[4][160];
    static _Thread_local unsigned next;
    char *name = names[next++ % 4];
    const struct peer *p = &w->peers[rank];
    snprintf(name, sizeof names[0], "rank %d (host %s%s%s)", rank, p->card.host, *p->place ? ", " : "",
             p->place);
    return name;
}

void wire_set_deadline(struct wire *w, uint32_t ms) { w->deadline_us = (int64_t)ms * 1000; }
uint32_t wire_deadline_ms(const struct wire *w) { return (uint32_t)(w->deadline_us / 1000); }

void wire_on_wait(struct wire *w, err (*poll)(void *context), void *context) {
    w->poll = poll;
    w->poll_context = context;
}

err wire_poll(struct wire *w) {
    wire_clock_us(w);
    return w->poll ? w->poll(w->poll_context) : OK;
}

int64_t wire_clock_us(struct wire *w) {
    int64_t now = clock_us();
    if (now - w->clock_seen_us > UNSEEN_US) w->clock_skipped_us += now - w->clock_seen_us;
    w->clock_seen_us = now;
    return now - w->clock_skipped_us;
}

void wire_pause(struct wire *w, int64_t waited_us, int64_t sleep_max_us) {
    if (waited_us < SPIN_US) return;
    if (waited_us < YIELD_US) {
        sched_yield();
        return;
    }
    int64_t sleep = waited_us / 8;
    if (sleep < SLEEP_MIN_US) sleep = SLEEP_MIN_US;
    nap_take(w->nap, sleep < sleep_max_us ? sleep : sleep_max_us);
}

err wire_check_deadline(const struct wire *w, int64_t waited_us, int peer, const char *fmt, ...) {
    if (waited_us <= w->deadline_us + w->patience_us) return OK;
    char what[256];
    va_list args;
    va_start(args, fmt);
    vsnprintf(what, sizeof what, fmt, args);
    va_end(args);
    return err_set(ERR_TIMEOUT, "%s: waited %.3g s for %s %s", wire_name(w, w->rank),
                   (double)(waited_us - w->patience_us) / 1e6, wire_name(w, peer), what);
}

static err request_new(struct wire *w, int peer, int layer, int is_send, wire_ticket *out) {
    int i = 0;
    while (i < w->n_requests && w->requests[i].is_used) i++;
    if (i == w->n_requests) {
        int cap = w->n_requests ? w->n_requests * 2 : 16;
        struct request *grown = mem_resized(w->requests, (size_t)cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        memset(grown + i, 0, (size_t)(cap - i) * sizeof *grown);
        w->requests = grown;
        w->n_requests = cap;
    }
    w->requests[i] = (struct request){MPI_REQUEST_NULL, 1, is_send, peer, layer, wire_clock_us(w)};
    *out = i;
    return OK;
}

static err size_check(const struct wire *w, int peer, size_t n) {
    if (n <= INT_MAX) return OK;
    return err_set(ERR_UNSUPPORTED, "a message of %zu bytes to or from %s: at most %d are possible; "
                                    "use fewer rows in a step", n, wire_name(w, peer), INT_MAX);
}

err wire_send(struct wire *w, int to, enum wire_tag tag, int layer, const void *data, size_t n,
              wire_ticket *out) {
    TRY(size_check(w, to, n));
    TRY(request_new(w, to, layer, 1, out));
    w->counts.bytes_sent += n;
    w->counts.n_messages++;
    return mpi_check("MPI_Isend", MPI_Isend(data, (int)n, MPI_BYTE, w->peers[to].mpi_rank, (int)tag,
                                            MPI_COMM_WORLD, &w->requests[*out].mpi));
}

err wire_receive(struct wire *w, int from, enum wire_tag tag, void *data, size_t cap,
                 wire_ticket *out) {
    TRY(size_check(w, from, cap));
    TRY(request_new(w, from, -1, 0, out));
    return mpi_check("MPI_Irecv", MPI_Irecv(data, (int)cap, MPI_BYTE, w->peers[from].mpi_rank, (int)tag,
                                            MPI_COMM_WORLD, &w->requests[*out].mpi));
}

err wire_test(struct wire *w, wire_ticket *t, int *is_done, size_t *n) {
    *is_done = 1;
    if (*t == WIRE_NONE) return OK;
    struct request *r = &w->requests[*t];
    MPI_Status status;
    TRY(mpi_check(r->is_send ? "sending" : "receiving", MPI_Test(&r->mpi, is_done, &status)));
    if (!*is_done) {
        if (!r->is_send) return OK; /* the receiver knows what it waits for, and since when */
        int64_t waited = wire_clock_us(w) - r->since_us;
        if (r->layer < 0) return wire_check_deadline(w, waited, r->peer, "to take a message");
        return wire_check_deadline(w, waited, r->peer, "to take the step's rows at layer %d",
                                   r->layer);
    }
    if (!r->is_send) {
        int count = 0;
        MPI_Get_count(&status, MPI_BYTE, &count);
        w->counts.bytes_received += (uint64_t)count;
        if (n) *n = (size_t)count;
        nap_tell(w->nap);
    }
    r->is_used = 0;
    *t = WIRE_NONE;
    return OK;
}

void wire_cancel(struct wire *w, wire_ticket *t) {
    if (*t == WIRE_NONE) return;
    struct request *r = &w->requests[*t];
    MPI_Cancel(&r->mpi);
    MPI_Wait(&r->mpi, MPI_STATUS_IGNORE); /* local: a cancelled receive is complete */
    r->is_used = 0;
    *t = WIRE_NONE;
}

err wire_put(struct wire *w, int to, enum wire_tag tag, const void *data, size_t n) {
    TRY(wire_progress(w));
    int i = 0;
    while (i < w->n_puts && w->puts[i].ticket != WIRE_NONE) i++;
    if (i == w->n_puts) {
        struct put *grown = mem_resized(w->puts, (size_t)i + 1, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        w->puts = grown;
        w->puts[w->n_puts++] = (struct put){{0}, WIRE_NONE};
    }
    w->puts[i].data.len = 0;
    TRY(bytes_append(&w->puts[i].data, data, n));
    return wire_send(w, to, tag, -1, w->puts[i].data.data, n, &w->puts[i].ticket);
}

err wire_progress(struct wire *w) {
    int is_done;
    for (int i = 0; i < w->n_puts; i++)
        TRY(wire_test(w, &w->puts[i].ticket, &is_done, NULL));
    return OK;
}

err wire_drain(struct wire *w) {
    int64_t start = wire_clock_us(w);
    for (;;) {
        int is_left = 0;
        TRY(wire_progress(w));
        for (int i = 0; i < w->n_puts; i++) is_left |= w->puts[i].ticket != WIRE_NONE;
        if (!is_left) return OK;
        wire_pause(w, wire_clock_us(w) - start, SLEEP_MAX_US);
    }
}

err wire_take(struct wire *w, enum wire_tag tag, struct bytes *into, int *from) {
    struct inbox *in = &w->inboxes[tag];
    *from = -1;
    if (in->ticket == WIRE_NONE) {
        int is_there = 0, n = 0;
        MPI_Status status;
        TRY(mpi_check("MPI_Iprobe", MPI_Iprobe(MPI_ANY_SOURCE, (int)tag, MPI_COMM_WORLD, &is_there,
                                               &status)));
        if (!is_there) return OK;
        MPI_Get_count(&status, MPI_BYTE, &n);
        into->len = 0;
        in->from = w->rank_of[status.MPI_SOURCE];
        TRY(bytes_reserve(into, (size_t)n));
        TRY(wire_receive(w, in->from, tag, into->data, (size_t)n, &in->ticket));
    }
    int is_done;
    TRY(wire_test(w, &in->ticket, &is_done, &in->n));
    if (!is_done) return OK;
    into->len = in->n;
    *from = in->from;
    return OK;
}

static err check_wait(const struct wire *w, int64_t waited_us, int peer, int layer, const char *what) {
    if (layer < 0) return wire_check_deadline(w, waited_us, peer, "for %s", what);
    return wire_check_deadline(w, waited_us, peer, "for %s of layer %d", what, layer);
}

err wire_wait(struct wire *w, wire_ticket *tickets, uint32_t n, int64_t patience_us, int layer, const char *what) {
    int64_t start = wire_clock_us(w);
    err e = OK;
    w->patience_us = patience_us;
    for (uint32_t at = 0; e == OK && at < n;) {
        int is_done, peer = tickets[at] == WIRE_NONE ? 0 : w->requests[tickets[at]].peer;
        e = wire_test(w, &tickets[at], &is_done, NULL);
        if (e != OK) break;
        if (is_done) {
            at++;
            continue;
        }
        int64_t waited = wire_clock_us(w) - start;
        e = check_wait(w, waited, peer, layer, what);
        if (e == OK && waited >= YIELD_US && w->poll) e = w->poll(w->poll_context);
        if (e == OK) wire_pause(w, waited, SLEEP_MAX_US);
    }
    w->patience_us = 0;
    w->counts.share_wait_us += wire_clock_us(w) - start;
    return e;
}

void wire_counts(const struct wire *w, struct wire_counts *out) { *out = w->counts; }
