/* Where the slices of this rank come from, and rank 0's part in that.
 *
 * With weights "send" only rank 0 has the model's file. It sends the header (FRAME_MODEL), each rank says which
 * ranges it wants (FRAME_WANT), and they come as streams (node/stream.h). On rank 0 a thread reads chunks ahead of
 * what is sent, for one rank after the other; on the others the threads that load read from the stream's window.
 * MPI stays with the main threads, which call weights_turn meanwhile. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "node/node_parts.h"
#include "node/slice_cache.h"
#include "node/stream.h"

#define AHEAD 8      /* chunks read ahead for one rank */
#define AHEAD_ALL 64 /* and for all */

enum ahead_state { AHEAD_FREE, AHEAD_READING, AHEAD_READY, AHEAD_SENDING };

/* A chunk between the file and the wire. */
struct ahead {
    enum ahead_state state;
    int to;
    uint8_t *message; /* [sizeof(struct stream_header) + STREAM_CHUNK_BYTES] */
    size_t n_bytes;
    wire_ticket ticket;
};

/* Rank 0. The ring of `ahead` is in the order read, so that each rank's chunks keep theirs. */
struct sending {
    int n_ranks;              /* those with cells, this one among them */
    struct stream_out **outs; /* [n_ranks], of rank 0 NULL */
    uint32_t *n_ahead;        /* [n_ranks] chunks between file and wire */
    uint32_t n, most;         /* of the ring; for one rank */
    struct ahead *ahead;      /* [n] */
    uint32_t read, sent, done; /* counted through: read <= sent + n and so on */
    int turn;
    pthread_t thread;
    int has_thread;
    pthread_mutex_t lock; /* of the ring and what follows */
    pthread_cond_t news;
    int is_ended;
    err result;
    char text[1024];
};

/* The other ranks. */
struct receiving {
    struct stream_in *in;
    struct posted {
        uint8_t *room;
        wire_ticket ticket;
    } posted[STREAM_WINDOW + 2]; /* a ring: they are done in the order posted */
    uint32_t first, n;
    int64_t heard_us; /* wire clock: last message, or last time when nobody waited for one */
    struct bytes request;
};

struct weights {
    struct source source;
    struct sending *sending;
    struct receiving *receiving;
};

/* ---- rank 0 ---- */

/* The next chunk of one rank after the other; 0 when nobody wants one or the ring is full. */
static int ahead_choose(struct sending *s, struct stream_piece *piece) {
    if (s->read - s->done == s->n) return 0;
    for (int i = 0; i < s->n_ranks; i++) {
        s->turn = (s->turn + 1) % s->n_ranks;
        if (s->turn == 0 || s->n_ahead[s->turn] >= s->most) continue;
        if (stream_out_next(s->outs[s->turn], piece)) return 1;
    }
    return 0;
}

/* With the lock, but not while it reads. */
static err ahead_read(struct sending *s) {
    struct stream_piece piece;
    if (!ahead_choose(s, &piece)) {
        pthread_cond_wait(&s->news, &s->lock);
        return OK;
    }
    struct ahead *a = &s->ahead[s->read++ % s->n];
    a->state = AHEAD_READING;
    a->to = s->turn;
    s->n_ahead[a->to]++;
    pthread_mutex_unlock(&s->lock);
    err e = stream_out_fill(s->outs[a->to], &piece, a->message, &a->n_bytes);
    pthread_mutex_lock(&s->lock);
    a->state = AHEAD_READY;
    return e;
}

static void *ahead_thread(void *sending) {
    struct sending *s = sending;
    err e = OK;
    pthread_mutex_lock(&s->lock);
    while (e == OK && !s->is_ended) e = ahead_read(s);
    s->result = e;
    if (e != OK) snprintf(s->text, sizeof s->text, "%s", err_text());
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static void sending_free(struct sending *s) {
    if (!s) return;
    if (s->has_thread) {
        pthread_mutex_lock(&s->lock);
        s->is_ended = 1;
        pthread_cond_signal(&s->news);
        pthread_mutex_unlock(&s->lock);
        pthread_join(s->thread, NULL);
    }
    for (int i = 0; s->outs && i < s->n_ranks; i++) stream_out_free(s->outs[i]);
    for (uint32_t i = 0; s->ahead && i < s->n; i++) free(s->ahead[i].message);
    free(s->outs);
    free(s->n_ahead);
    free(s->ahead);
    pthread_cond_destroy(&s->news);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static err sending_begin(struct sending *s, const struct gguf *g, int n_ranks) {
    uint32_t n_others = (uint32_t)n_ranks - 1;
    s->n_ranks = n_ranks;
    s->n = n_others * AHEAD < AHEAD_ALL ? n_others * AHEAD : AHEAD_ALL;
    s->most = s->n / n_others ? s->n / n_others : 1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->news, NULL);
    TRY(NEW(s->outs, (size_t)n_ranks));
    TRY(NEW(s->n_ahead, (size_t)n_ranks));
    TRY(NEW(s->ahead, s->n));
    for (int i = 1; i < n_ranks; i++) TRY(stream_out_create(g, STREAM_CHUNK_BYTES, &s->outs[i]));
    for (uint32_t i = 0; i < s->n; i++) {
        TRY(NEW(s->ahead[i].message, sizeof(struct stream_header) + STREAM_CHUNK_BYTES));
        s->ahead[i].ticket = WIRE_NONE;
    }
    s->has_thread = pthread_create(&s->thread, NULL, ahead_thread, s) == 0;
    return s->has_thread ? OK : err_set(ERR_INTERNAL, "cannot start a thread that reads slices for other ranks");
}

/* Sends what has been read, and takes back what has left. */
static err sending_move(struct sending *s, struct wire *w, int *is_busy) {
    for (; s->sent != s->read && s->ahead[s->sent % s->n].state == AHEAD_READY; s->sent++) {
        struct ahead *a = &s->ahead[s->sent % s->n];
        a->state = AHEAD_SENDING;
        TRY(wire_send(w, a->to, WIRE_SLICES, -1, a->message, a->n_bytes, &a->ticket));
        *is_busy = 1;
    }
    for (uint32_t i = s->done; i != s->sent; i++) {
        struct ahead *a = &s->ahead[i % s->n];
        int is_done;
        if (a->state != AHEAD_SENDING) continue;
        TRY(wire_test(w, &a->ticket, &is_done, NULL));
        if (!is_done) continue;
        a->state = AHEAD_FREE;
        s->n_ahead[a->to]--;
        *is_busy = 1;
    }
    while (s->done != s->sent && s->ahead[s->done % s->n].state == AHEAD_FREE) s->done++;
    if (*is_busy) pthread_cond_signal(&s->news);
    return s->result == OK ? OK : err_set(s->result, "%s", s->text);
}

err weights_take_request(struct node *n, int from, const void *body, size_t n_bytes) {
    struct sending *s = n->weights ? n->weights->sending : NULL;
    if (!s || from <= 0 || from >= s->n_ranks) return err_set(ERR_INTERNAL, "rank %d asks for slices", from);
    TRY(stream_out_take(s->outs[from], body, n_bytes));
    pthread_mutex_lock(&s->lock);
    pthread_cond_signal(&s->news);
    pthread_mutex_unlock(&s->lock);
    return OK;
}

/* ---- the others ---- */

static void receiving_free(struct receiving *r) {
    if (!r) return;
    for (; r->n; r->n--) free(r->posted[r->first++ % (STREAM_WINDOW + 2)].room);
    stream_in_free(r->in);
    bytes_free(&r->request);
    free(r);
}

static err receiving_post(struct receiving *r, struct wire *w) {
    uint8_t *room;
    while ((room = stream_in_room(r->in)) != NULL) {
        struct posted *p = &r->posted[(r->first + r->n++) % (STREAM_WINDOW + 2)];
        p->room = room;
        TRY(wire_receive(w, 0, WIRE_SLICES, room, stream_in_message_bytes(r->in), &p->ticket));
    }
    return OK;
}

/* Rank 0 that is late would pass on no failure, either: nobody waits for that (node_fail). */
static err sender_check(struct node *n, int64_t waited_us, const char *what) {
    err e = wire_check_deadline(n->w, waited_us, 0, "%s", what);
    n->is_rank_0_lost = e != OK;
    return e;
}

static err receiving_move(struct node *n, struct receiving *r, int *is_busy) {
    int is_done = 1, is_damaged;
    while (r->n) {
        struct posted *p = &r->posted[r->first % (STREAM_WINDOW + 2)];
        size_t n_bytes;
        TRY(wire_test(n->w, &p->ticket, &is_done, &n_bytes));
        if (!is_done) break;
        r->first = (r->first + 1) % (STREAM_WINDOW + 2);
        r->n--;
        TRY(stream_in_take(r->in, p->room, n_bytes, &is_damaged));
        if (is_damaged) log_warn("slices.damaged", "text=\"a chunk came damaged and is asked for again\"");
        r->heard_us = wire_clock_us(n->w);
        *is_busy = 1;
    }
    TRY(receiving_post(r, n->w));
    r->request.len = 0;
    TRY(stream_in_request(r->in, &r->request));
    if (r->request.len) TRY(back_put(n, FRAME_WANT, 0, r->request.data, r->request.len));
    if (!stream_in_is_waiting(r->in)) r->heard_us = wire_clock_us(n->w);
    return sender_check(n, wire_clock_us(n->w) - r->heard_us, "for its slices of the model");
}

static err stream_want(void *in, const struct source_range *r, uint64_t *place) {
    return stream_in_want(in, r, place);
}

static err stream_read(void *in, const struct source_range *r, uint64_t place, void *dst) {
    return stream_in_read(in, place, r, dst);
}

static err receiving_begin(struct receiving *r, const struct node *n, struct source *source) {
    TRY(stream_in_create(n->gguf, STREAM_WINDOW, STREAM_CHUNK_BYTES, &r->in));
    *source = (struct source){.context = r->in, .gguf = n->gguf, .want = stream_want, .read = stream_read};
    r->heard_us = wire_clock_us(n->w);
    return receiving_post(r, n->w);
}

/* ---- the model ---- */

/* Body of FRAME_MODEL; the header follows where slices are sent. */
struct model_card {
    struct gguf_fingerprint fingerprint;
    uint64_t change_stamp;
};

/* Rank 0: to every rank that has a cell. */
static err model_tell(struct node *n, const struct model_card *card) {
    struct bytes body = {0}, frame = {0};
    err e = bytes_append(&body, card, sizeof *card);
    if (e == OK && n->plan.weights == WEIGHTS_SEND) e = gguf_put_header(n->gguf, &body);
    if (e == OK) e = frame_put(&frame, FRAME_MODEL, 0, body.data, body.len);
    for (int i = 1; i < n->n_cells && e == OK; i++) e = wire_put(n->w, i, WIRE_SETUP, frame.data, frame.len);
    bytes_free(&body);
    bytes_free(&frame);
    return e;
}

/* The others: what rank 0 told. */
static err model_hear(struct node *n, struct model_card *card) {
    struct bytes frame = {0};
    struct frame_header h = {0};
    const size_t at = sizeof h + sizeof *card;
    err e = setup_receive(n, &frame, &h);
    if (e == OK && (h.kind != FRAME_MODEL || frame.len < at))
        e = err_set(ERR_INTERNAL, "frame %u came in place of the model's header", h.kind);
    if (e == OK) memcpy(card, frame.data + sizeof h, sizeof *card);
    if (e == OK && n->plan.weights == WEIGHTS_SEND)
        e = gguf_open_header(n->plan.model, frame.data + at, frame.len - at, &n->gguf);
    bytes_free(&frame);
    return e;
}

/* Of the file that this rank has. */
static err card_make(const struct node *n, struct model_card *out) {
    out->change_stamp = gguf_change_stamp(n->gguf);
    return gguf_fingerprint(n->gguf, &out->fingerprint);
}

/* A copy of the file must be one. */
static err copy_check(const struct node *n, const struct model_card *theirs, struct model_card *mine) {
    TRY(card_make(n, mine));
    if (memcmp(&mine->fingerprint, &theirs->fingerprint, sizeof mine->fingerprint) == 0) return OK;
    return err_set(ERR_FILE, "%s on host %s is another model than on host %s; copy it there, or set weights = "
                             "\"send\"", n->plan.model, wire_host(n->w, n->rank), wire_host(n->w, 0));
}

static err file_open(struct node *n) {
    TRY(gguf_open(n->plan.model, &n->gguf));
    n->weights->source = source_file(n->gguf);
    return OK;
}

static int needs_card(const struct node *n) {
    return n->plan.cache_mb > 0 || (n->plan.weights != WEIGHTS_SHARED && n->n_cells > 1);
}

static err first_open(struct node *n, struct model_card *card) {
    TRY(file_open(n));
    if (needs_card(n)) TRY(card_make(n, card));
    if (n->plan.weights == WEIGHTS_SHARED || n->n_cells == 1) return OK;
    TRY(model_tell(n, card));
    if (n->plan.weights != WEIGHTS_SEND) return OK;
    TRY(NEW(n->weights->sending, 1));
    return sending_begin(n->weights->sending, n->gguf, n->n_cells);
}

static err other_open(struct node *n, struct model_card *card) {
    struct model_card theirs;
    if (n->plan.weights != WEIGHTS_SEND) TRY(file_open(n));
    if (n->plan.weights == WEIGHTS_SHARED) return needs_card(n) ? card_make(n, card) : OK;
    TRY(model_hear(n, &theirs));
    if (n->plan.weights == WEIGHTS_LOCAL) return copy_check(n, &theirs, card);
    *card = theirs;
    TRY(NEW(n->weights->receiving, 1));
    return receiving_begin(n->weights->receiving, n, &n->weights->source);
}

/* A host without a place for it goes without. A file that was changed in place keeps its fingerprint, if only
 * bytes between the samples differ: then its time tells. */
static void cache_open(struct node *n, const struct model_card *card) {
    const struct gguf_fingerprint *f = &card->fingerprint;
    const struct slice_model model = {{f->hash[0], f->hash[1], card->change_stamp}};
    if (!n->plan.cache_mb) return;
    if (slice_cache_open(n->plan.cache_dir, (uint64_t)n->plan.cache_mb << 20, &model, &n->weights->source.cache) != OK)
        log_warn("slice_cache.none", "text=\"%s\"", err_text());
}

err weights_open(struct node *n) {
    struct model_card card = {0};
    TRY(NEW(n->weights, 1));
    TRY(n->rank == 0 ? first_open(n, &card) : other_open(n, &card));
    cache_open(n, &card);
    return OK;
}

const struct source *weights_source(const struct node *n) { return &n->weights->source; }

int weights_are_sent(const struct node *n) { return n->weights && (n->weights->sending || n->weights->receiving); }

err weights_turn(struct node *n, int *is_busy) {
    *is_busy = 0;
    struct sending *s = n->weights ? n->weights->sending : NULL;
    struct receiving *r = n->weights ? n->weights->receiving : NULL;
    if (r) return receiving_move(n, r, is_busy);
    if (!s) return OK;
    pthread_mutex_lock(&s->lock);
    err e = sending_move(s, n->w, is_busy);
    pthread_mutex_unlock(&s->lock);
    return e;
}

err weights_finish(struct node *n) {
    struct receiving *r = n->weights->receiving;
    if (!r) return OK;
    int64_t start = wire_clock_us(n->w);
    stream_in_finish(r->in);
    while (!stream_in_is_over(r->in)) {
        int is_busy;
        TRY(receiving_move(n, r, &is_busy));
        TRY(wire_progress(n->w));
        int64_t waited = wire_clock_us(n->w) - start;
        TRY(sender_check(n, waited, "to end the slices of the model"));
        if (!is_busy) wire_pause(n->w, waited, WEIGHTS_PAUSE_US);
    }
    for (uint32_t i = 0; i < r->n; i++) wire_cancel(n->w, &r->posted[(r->first + i) % (STREAM_WINDOW + 2)].ticket);
    return OK;
}

err weights_close(struct node *n) {
    if (!n->weights) return OK;
    struct sending *s = n->weights->sending;
    while (s && s->done != s->sent) { /* the last ends are received, but may not have left here */
        int is_busy;
        TRY(weights_turn(n, &is_busy));
    }
    sending_free(n->weights->sending);
    receiving_free(n->weights->receiving);
    slice_cache_close(n->weights->source.cache);
    free(n->weights);
    n->weights = NULL;
    mem_return_unused(); /* windows of megabytes */
    return OK;
}
