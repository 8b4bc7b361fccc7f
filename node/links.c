#include "node/links.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/median.h"

#define TRIPS_FIRST 3
#define TRIPS_MIN 9
#define TRIPS_MAX 300
#define TRIPS_US 20000
#define SHORT_S 50e-6 /* of a trip: then several are timed together, by a clock of microseconds */
#define GROUP 16
#define FIRST_BYTES 65536u         /* tells how much to send next */
#define BULK_S 0.025               /* of large messages, */
#define BULK_TRIPS 4               /* and so many trips: a connection gets up to speed in a few of them */
#define BULK_GROWTH 4              /* at least, where it was too short */
#define BULK_TRIES 2
#define BULK_BYTES_MAX (8u << 20)  /* of all together */
#define PARTS 4                    /* messages: the next is on its way while one comes in */

/* ---- who meets whom ---- */

uint32_t links_n_rounds(uint32_t n) {
    if (n < 2) return 0;
    if (n <= LINKS_ALL_HOSTS) return n % 2 ? n : n - 1;
    return 4;
}

/* The circle method: one stays, the others walk round. With an odd number who would meet the one in excess rests. */
static int partner_of_all(uint32_t n, uint32_t round, uint32_t host) {
    uint32_t even = n + n % 2, ring = even - 1, other;
    if (host == ring) other = round * (even / 2) % ring; /* 2 x = round, mod ring */
    else {
        other = (round + ring - host) % ring;
        if (other == host) other = ring;
    }
    return other < n ? (int)other : -1;
}

int links_partner(uint32_t n, uint32_t round, uint32_t host) {
    if (n < 2 || host >= n) return -1;
    if (n <= LINKS_ALL_HOSTS) return partner_of_all(n, round, host);
    uint32_t half = n / 2;
    switch (round) {
    case 0: return host % 2 ? (int)host - 1 : host + 1 < n ? (int)host + 1 : -1;
    case 1: return host % 2 == 0 ? (host ? (int)host - 1 : -1) : host + 1 < n ? (int)host + 1 : -1;
    case 2: return host == 0 ? (int)n - 1 : host == n - 1 ? 0 : -1;
    default: return host < half ? (int)(host + half) : host < 2 * half ? (int)(host - half) : -1;
    }
}

/* ---- messages ---- */

enum note_kind { NOTE_TRIP, NOTE_MEET, NOTE_TAKE, NOTE_GIVE, NOTE_END };

/* What the one who measures asks of the other, and, at the end, tells it. */
struct note {
    uint32_t kind, n_parts, part_bytes; /* NOTE_MEET: n_parts times */
    struct message_cost cost;
};

struct link_test {
    struct wire *w;
    int peer;
    uint8_t *bulk; /* [BULK_BYTES_MAX] */
    double trip_s; /* there and back */
    struct message_cost cost;
};

/* As a step waits. Shorter naps would find a message sooner where no socket tells of it, but under a small quota of
 * processor time they use that up, and what is measured then is the quota's period. */
static err tickets_wait(const struct link_test *t, wire_ticket *tickets, uint32_t n) {
    return wire_wait(t->w, tickets, n, 0, -1, "messages that measure the link between them");
}

static err note_send(const struct link_test *t, const struct note *n) {
    wire_ticket ticket;
    TRY(wire_send(t->w, t->peer, WIRE_LINKS, -1, n, sizeof *n, &ticket));
    return tickets_wait(t, &ticket, 1);
}

static err note_receive(const struct link_test *t, struct note *n) {
    wire_ticket ticket;
    TRY(wire_receive(t->w, t->peer, WIRE_LINKS, n, sizeof *n, &ticket));
    return tickets_wait(t, &ticket, 1);
}

static err parts_send(const struct link_test *t, const struct note *n) {
    wire_ticket tickets[PARTS];
    for (uint32_t i = 0; i < n->n_parts; i++)
        TRY(wire_send(t->w, t->peer, WIRE_LINKS, -1, t->bulk + (size_t)i * n->part_bytes, n->part_bytes, &tickets[i]));
    return tickets_wait(t, tickets, n->n_parts);
}

static err parts_receive(const struct link_test *t, const struct note *n) {
    wire_ticket tickets[PARTS];
    for (uint32_t i = 0; i < n->n_parts; i++)
        TRY(wire_receive(t->w, t->peer, WIRE_LINKS, t->bulk + (size_t)i * n->part_bytes, n->part_bytes, &tickets[i]));
    return tickets_wait(t, tickets, n->n_parts);
}

/* A small message goes to the other while one comes, n times, as between shards and from stage to stage. */
static err meet_often(const struct link_test *t, uint32_t n) {
    static const struct note out;
    struct note in;
    for (uint32_t i = 0; i < n; i++) {
        wire_ticket tickets[2];
        TRY(wire_receive(t->w, t->peer, WIRE_LINKS, &in, sizeof in, &tickets[0]));
        TRY(wire_send(t->w, t->peer, WIRE_LINKS, -1, &out, sizeof out, &tickets[1]));
        TRY(tickets_wait(t, tickets, 2));
    }
    return OK;
}

/* ---- the one who answers ---- */

static err serve(struct link_test *t) {
    struct note n = {0};
    for (;;) {
        TRY(note_receive(t, &n));
        if (n.kind == NOTE_END) {
            if (!(t->cost.message_s > 0)) t->cost = n.cost;
            return OK;
        }
        if (n.kind == NOTE_MEET) {
            TRY(meet_often(t, n.n_parts));
            continue;
        }
        if (n.n_parts > PARTS || (uint64_t)n.n_parts * n.part_bytes > BULK_BYTES_MAX)
            return err_set(ERR_INTERNAL, "%s asks for %u messages of %u bytes", wire_name(t->w, t->peer), n.n_parts,
                           n.part_bytes);
        if (n.kind == NOTE_GIVE) {
            TRY(parts_send(t, &n));
            continue;
        }
        if (n.kind == NOTE_TAKE) TRY(parts_receive(t, &n));
        TRY(note_send(t, &n));
    }
}

/* ---- the one who measures ---- */

/* Mean of n trips. */
static err trips_run(const struct link_test *t, uint32_t n, double *seconds) {
    double begin = clock_s();
    for (uint32_t i = 0; i < n; i++) {
        struct note note = {.kind = NOTE_TRIP};
        TRY(note_send(t, &note));
        TRY(note_receive(t, &note));
    }
    *seconds = (clock_s() - begin) / n;
    return OK;
}

static err trips_measure(struct link_test *t) {
    double seconds[TRIPS_MAX];
    uint32_t n = 0, group;
    TRY(trips_run(t, 1, &seconds[0])); /* the other may still be with somebody else, the connection be made now */
    TRY(trips_run(t, TRIPS_FIRST, &seconds[0]));
    group = seconds[0] < SHORT_S ? GROUP : 1;
    for (int64_t begin = clock_us(); n < TRIPS_MIN || (n < TRIPS_MAX && clock_us() - begin < TRIPS_US); n++)
        TRY(trips_run(t, group, &seconds[n]));
    t->trip_s = median_of(seconds, n);
    return OK;
}

static double processor_s(void) {
    struct timespec t = {0};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static err message_cost_measure(struct link_test *t) {
    uint32_t n = (uint32_t)fmax(TRIPS_MIN, fmin(TRIPS_MAX, TRIPS_US * 1e-6 / t->trip_s));
    TRY(note_send(t, &(struct note){.kind = NOTE_MEET, .n_parts = n}));
    double begin = processor_s();
    TRY(meet_often(t, n));
    t->cost.message_s = (processor_s() - begin) / n;
    return OK;
}

struct bulk {
    double bytes_per_s;
    double byte_s; /* of a processor */
};

static err bulk_run(const struct link_test *t, enum note_kind kind, uint32_t n_parts, uint32_t part_bytes,
                    struct bulk *out) {
    struct note n = {kind, n_parts, part_bytes, {0, 0}}, answer;
    double begin = clock_s(), processor = processor_s(), n_bytes = (double)n_parts * part_bytes;
    TRY(note_send(t, &n));
    if (kind == NOTE_TAKE) {
        TRY(parts_send(t, &n));
        TRY(note_receive(t, &answer));
    } else {
        TRY(parts_receive(t, &n));
    }
    /* The way there and the way back of a small message are latency; what is left is the bytes. */
    double took = clock_s() - begin, bulk = took - t->trip_s;
    out->bytes_per_s = n_bytes / (bulk > took / 10 ? bulk : took / 10);
    out->byte_s = fmax(processor_s() - processor - t->cost.message_s, 0) / n_bytes;
    return OK;
}

/* The fastest of some: a packet lost, or a pause that a quota makes, is no property of the link. */
static err bulk_best(const struct link_test *t, enum note_kind kind, uint32_t n_parts, uint32_t part_bytes,
                     struct bulk *out) {
    *out = (struct bulk){0};
    for (int i = 0; i < BULK_TRIES; i++) {
        struct bulk b;
        TRY(bulk_run(t, kind, n_parts, part_bytes, &b));
        if (b.bytes_per_s > out->bytes_per_s) *out = b;
    }
    return OK;
}

static err bulk_measure(const struct link_test *t, enum note_kind kind, struct bulk *out) {
    double enough_s = fmax(BULK_S, BULK_TRIPS * t->trip_s), n_bytes = FIRST_BYTES;
    TRY(bulk_best(t, kind, 1, FIRST_BYTES, out));
    while (n_bytes < BULK_BYTES_MAX && n_bytes / out->bytes_per_s < enough_s) {
        n_bytes = fmin(BULK_BYTES_MAX, fmax(n_bytes * BULK_GROWTH, out->bytes_per_s * enough_s));
        TRY(bulk_best(t, kind, PARTS, (uint32_t)n_bytes / PARTS, out));
    }
    return OK;
}

static err measure(struct link_test *t, struct probed_link *out) {
    struct bulk there, back;
    TRY(trips_measure(t));
    TRY(message_cost_measure(t));
    TRY(bulk_measure(t, NOTE_TAKE, &there));
    TRY(bulk_measure(t, NOTE_GIVE, &back));
    t->cost.byte_s = (there.byte_s + back.byte_s) / 2;
    *out = (struct probed_link){(uint32_t)t->peer, t->trip_s / 2, there.bytes_per_s, back.bytes_per_s};
    return note_send(t, &(struct note){.kind = NOTE_END, .cost = t->cost});
}

/* The lower rank measures. */
static err meet(struct link_test *t, int peer, struct probed_link *links, uint32_t *n_links) {
    t->peer = peer;
    if (wire_rank(t->w) > peer) return serve(t);
    return measure(t, &links[(*n_links)++]);
}

/* ---- all of them ---- */

/* Who speaks for the hosts: the first rank of each, in order; of this rank's host also the second, -1 none. */
struct speakers {
    int *of_host; /* [n_hosts] */
    uint32_t n_hosts, here; /* here: this rank's */
    int second;
};

static int is_same_host(const struct wire *w, int a, int b) { return strcmp(wire_host(w, a), wire_host(w, b)) == 0; }

static err speakers_find(const struct wire *w, struct speakers *s) {
    *s = (struct speakers){.second = -1};
    TRY(NEW(s->of_host, (size_t)wire_size(w)));
    for (int r = 0; r < wire_size(w); r++) {
        uint32_t h = 0;
        int is_here = is_same_host(w, r, wire_rank(w));
        while (h < s->n_hosts && !is_same_host(w, s->of_host[h], r)) h++;
        if (h < s->n_hosts && is_here && s->second < 0) s->second = r;
        if (h == s->n_hosts) s->of_host[s->n_hosts++] = r;
        if (is_here) s->here = h;
    }
    return OK;
}

static err rounds_run(struct link_test *t, const struct speakers *s, struct probed_link *links, uint32_t *n_links) {
    for (uint32_t r = 0; r < links_n_rounds(s->n_hosts); r++) {
        int host = links_partner(s->n_hosts, r, s->here);
        if (host >= 0) TRY(meet(t, s->of_host[host], links, n_links));
    }
    return OK;
}

/* The others of a host do nothing that could be felt until its first rank is done. */
static err host_wait(struct link_test *t, int first) {
    int rank = wire_rank(t->w);
    struct note end = {.kind = NOTE_END, .cost = t->cost};
    t->peer = first;
    if (rank != first) {
        TRY(note_receive(t, &end));
        t->cost = end.cost;
        return OK;
    }
    for (t->peer = 0; t->peer < wire_size(t->w); t->peer++)
        if (t->peer != rank && is_same_host(t->w, t->peer, rank)) TRY(note_send(t, &end));
    return OK;
}

static err all_meet(struct link_test *t, const struct speakers *s, struct probed_link *links, uint32_t *n_links) {
    int rank = wire_rank(t->w), first = s->of_host[s->here];
    if (rank == s->second) TRY(meet(t, first, links, n_links));
    if (rank != first) return host_wait(t, first);
    if (s->second >= 0) TRY(meet(t, s->second, links, n_links));
    if (s->n_hosts > 1) t->cost = (struct message_cost){0}; /* between hosts counts */
    TRY(rounds_run(t, s, links, n_links));
    return host_wait(t, first);
}

err links_measure(struct wire *w, struct probed_link **out, uint32_t *n_out, struct message_cost *cost) {
    struct speakers s;
    struct link_test t = {.w = w};
    *n_out = 0;
    *out = NULL;
    err e = speakers_find(w, &s);
    if (e == OK) e = NEW(*out, s.n_hosts + 1);
    if (e == OK) e = NEW(t.bulk, BULK_BYTES_MAX);
    if (e == OK) memset(t.bulk, 1, BULK_BYTES_MAX); /* real pages */
    if (e == OK) e = all_meet(&t, &s, *out, n_out);
    *cost = t.cost;
    if (e == OK) free(t.bulk); /* else messages may still be under way into it; the process ends */
    free(s.of_host);
    return e;
}
