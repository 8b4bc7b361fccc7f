#include "node/stream.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#define MAGIC 0x4d525453u /* "STRM" */
#define WANTS_MAX ((uint32_t)1 << 22)
#define NEWS_PART 8 /* of the window: so much must be free again to be worth a message */

/* What a receiver says: this, chunks to send again as u64, wants. */
struct request {
    uint64_t limit; /* chunks before this one may be sent */
    uint32_t n_again, n_wants, is_end, zero;
};

static uint64_t checksum(const struct stream_header *h, const uint8_t *data) {
    uint64_t head[3] = {(uint64_t)h->magic << 32 | h->n_bytes, h->index, h->begin};
    return XXH3_64bits_withSeed(data, h->n_bytes, XXH3_64bits(head, sizeof head));
}

/* ---- the receiving end ---- */

enum chunk_state { CHUNK_MISSING, CHUNK_ASKED, CHUNK_HERE };

/* Chunk `index` is [index % window]. */
struct chunk {
    enum chunk_state state;
    uint32_t tries;
    uint64_t begin;
    size_t n_bytes, n_read;
    uint8_t *room;
};

struct stream_in {
    const struct gguf *gguf;
    uint32_t window;
    size_t chunk_bytes;
    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t came;
    struct chunk *chunks;    /* [window] */
    uint8_t **rooms;         /* [n_rooms] free ones */
    uint32_t n_rooms, cap_rooms;
    uint64_t base, expected; /* the first chunk not read yet; the next that was neither received nor asked for */
    uint64_t told_limit, wanted_bytes;
    struct bytes wants, again; /* not yet told */
    int is_end_wanted, is_end_told, is_over, n_waiting;
};

size_t stream_in_message_bytes(const struct stream_in *in) { return sizeof(struct stream_header) + in->chunk_bytes; }

/* Two more than the window: the end, or a chunk that came twice, finds room at any time. */
static err rooms_create(struct stream_in *in) {
    in->cap_rooms = in->window + 2;
    TRY(NEW(in->rooms, in->cap_rooms));
    for (; in->n_rooms < in->cap_rooms; in->n_rooms++)
        TRY(NEW(in->rooms[in->n_rooms], stream_in_message_bytes(in)));
    return NEW(in->chunks, in->window);
}

err stream_in_create(const struct gguf *g, uint32_t window, size_t chunk_bytes, struct stream_in **out) {
    struct stream_in *in;
    TRY(NEW(in, 1));
    in->gguf = g;
    in->window = window;
    in->chunk_bytes = chunk_bytes;
    pthread_mutex_init(&in->lock, NULL);
    pthread_cond_init(&in->came, NULL);
    err e = rooms_create(in);
    if (e == OK) *out = in;
    else stream_in_free(in);
    return e;
}

void stream_in_free(struct stream_in *in) {
    if (!in) return;
    for (uint32_t i = 0; in->rooms && i < in->n_rooms; i++) free(in->rooms[i]);
    for (uint32_t i = 0; in->chunks && i < in->window; i++) free(in->chunks[i].room);
    free(in->rooms);
    free(in->chunks);
    bytes_free(&in->wants);
    bytes_free(&in->again);
    pthread_cond_destroy(&in->came);
    pthread_mutex_destroy(&in->lock);
    free(in);
}

err stream_in_want(struct stream_in *in, const struct source_range *w, uint64_t *place) {
    uint64_t n = source_range_bytes(in->gguf, w);
    pthread_mutex_lock(&in->lock);
    *place = in->wanted_bytes;
    err e = n ? bytes_append(&in->wants, w, sizeof *w) : OK;
    if (e == OK) in->wanted_bytes += n;
    pthread_mutex_unlock(&in->lock);
    return e;
}

/* The chunk that holds a byte, or NULL. */
static struct chunk *chunk_find(struct stream_in *in, uint64_t at) {
    for (uint32_t i = 0; i < in->window; i++) {
        struct chunk *c = &in->chunks[i];
        if (c->state == CHUNK_HERE && at >= c->begin && at - c->begin < c->n_bytes) return c;
    }
    return NULL;
}

static void chunk_consume(struct stream_in *in, struct chunk *c, size_t n) {
    c->n_read += n;
    if (c->n_read < c->n_bytes) return;
    in->rooms[in->n_rooms++] = c->room;
    c->room = NULL;
    for (;;) { /* chunks that are through, in order */
        struct chunk *first = &in->chunks[in->base % in->window];
        if (first->state != CHUNK_HERE || first->room) return;
        *first = (struct chunk){0};
        in->base++;
    }
}

err stream_in_read(struct stream_in *in, uint64_t place, const struct source_range *r, void *dst) {
    uint64_t n = source_range_bytes(in->gguf, r);
    uint8_t *to = dst;
    pthread_mutex_lock(&in->lock);
    while (n) {
        struct chunk *c = chunk_find(in, place);
        if (!c) {
            in->n_waiting++;
            pthread_cond_wait(&in->came, &in->lock);
            in->n_waiting--;
            continue;
        }
        uint64_t skip = place - c->begin, left = c->n_bytes - skip;
        size_t part = (size_t)(n < left ? n : left);
        const uint8_t *from = c->room + sizeof(struct stream_header) + skip;
        pthread_mutex_unlock(&in->lock); /* it stays until all of it has been read */
        memcpy(to, from, part);
        pthread_mutex_lock(&in->lock);
        chunk_consume(in, c, part);
        to += part;
        place += part;
        n -= part;
    }
    pthread_mutex_unlock(&in->lock);
    return OK;
}

uint8_t *stream_in_room(struct stream_in *in) {
    pthread_mutex_lock(&in->lock);
    uint8_t *room = in->n_rooms ? in->rooms[--in->n_rooms] : NULL;
    pthread_mutex_unlock(&in->lock);
    return room;
}

static err chunk_ask(struct stream_in *in, uint64_t index) {
    struct chunk *c = &in->chunks[index % in->window];
    c->state = CHUNK_ASKED;
    if (++c->tries > STREAM_TRIES)
        return err_set(ERR_JOB, "a piece of the model's slices came damaged %u times: the network or the "
                                "memory of a host is at fault", STREAM_TRIES);
    return bytes_append(&in->again, &index, sizeof index);
}

/* Nothing in it can be trusted. As messages keep their order it was the next chunk, or one of those asked for. */
static err message_damaged(struct stream_in *in) {
    for (uint64_t i = in->base; i < in->expected; i++)
        if (in->chunks[i % in->window].state == CHUNK_ASKED) TRY(chunk_ask(in, i));
    if (in->is_end_told) { /* and all else has been read: it was the end */
        in->is_end_told = 0;
        if (++in->chunks[0].tries <= STREAM_TRIES) return OK;
        return err_set(ERR_JOB, "the end of the model's slices came damaged %u times", STREAM_TRIES);
    }
    return in->expected < in->base + in->window ? chunk_ask(in, in->expected++) : OK;
}

/* *is_kept: the room is the chunk's now. */
static err chunk_take(struct stream_in *in, const struct stream_header *h, uint8_t *room, int *is_kept) {
    if (h->index == STREAM_END) {
        in->is_over = in->is_end_told;
        return OK;
    }
    if (h->index < in->base) return OK; /* came twice */
    if (h->index - in->base >= in->window || h->n_bytes == 0 || h->begin > in->wanted_bytes ||
        h->n_bytes > in->wanted_bytes - h->begin)
        return err_set(ERR_INTERNAL, "chunk %lu of the stream is beyond what was asked for", h->index);
    while (in->expected < h->index) TRY(chunk_ask(in, in->expected++));
    if (in->expected == h->index) in->expected++;
    struct chunk *c = &in->chunks[h->index % in->window];
    if (c->state == CHUNK_HERE) return OK;
    *c = (struct chunk){CHUNK_HERE, 0, h->begin, h->n_bytes, 0, room};
    *is_kept = 1;
    pthread_cond_broadcast(&in->came);
    return OK;
}

err stream_in_take(struct stream_in *in, uint8_t *room, size_t n, int *is_damaged) {
    struct stream_header h = {0};
    int is_kept = 0;
    if (n >= sizeof h) memcpy(&h, room, sizeof h);
    *is_damaged = h.magic != MAGIC || n - sizeof h != h.n_bytes || checksum(&h, room + sizeof h) != h.checksum;
    pthread_mutex_lock(&in->lock);
    err e = *is_damaged ? message_damaged(in) : chunk_take(in, &h, room, &is_kept);
    if (!is_kept) in->rooms[in->n_rooms++] = room;
    pthread_mutex_unlock(&in->lock);
    return e;
}

static err request_put(struct stream_in *in, struct bytes *out) {
    uint64_t limit = in->base + in->window, quantum = in->window / NEWS_PART ? in->window / NEWS_PART : 1;
    int is_end_new = in->is_end_wanted && !in->is_end_told;
    if (!in->wants.len && !in->again.len && !is_end_new && limit - in->told_limit < quantum) return OK;
    struct request r = {limit, (uint32_t)(in->again.len / sizeof(uint64_t)),
                        (uint32_t)(in->wants.len / sizeof(struct source_range)), (uint32_t)is_end_new, 0};
    TRY(bytes_append(out, &r, sizeof r));
    TRY(bytes_append(out, in->again.data, in->again.len));
    TRY(bytes_append(out, in->wants.data, in->wants.len));
    in->told_limit = limit;
    in->is_end_told |= is_end_new;
    in->again.len = in->wants.len = 0;
    return OK;
}

err stream_in_request(struct stream_in *in, struct bytes *out) {
    pthread_mutex_lock(&in->lock);
    err e = request_put(in, out);
    pthread_mutex_unlock(&in->lock);
    return e;
}

void stream_in_finish(struct stream_in *in) { in->is_end_wanted = 1; }
int stream_in_is_over(struct stream_in *in) { return in->is_over; }

int stream_in_is_waiting(struct stream_in *in) {
    pthread_mutex_lock(&in->lock);
    int n = in->n_waiting;
    pthread_mutex_unlock(&in->lock);
    return n > 0;
}

/* ---- the sending end ---- */

struct stream_out {
    const struct gguf *gguf;
    size_t chunk_bytes;
    pthread_mutex_t lock;       /* of all that follows */
    struct source_range *wants;  /* [n_wants] */
    uint64_t *want_end;         /* [n_wants] in the stream */
    uint32_t n_wants, cap_wants;
    uint64_t *chunk_begin;      /* [n_chunks] those sent so far */
    uint64_t n_chunks, cap_chunks, sent_bytes, limit;
    struct bytes again;         /* u64 each */
    int is_end_wanted;
};

err stream_out_create(const struct gguf *g, size_t chunk_bytes, struct stream_out **out) {
    struct stream_out *o;
    TRY(NEW(o, 1));
    o->gguf = g;
    o->chunk_bytes = chunk_bytes;
    pthread_mutex_init(&o->lock, NULL);
    *out = o;
    return OK;
}

void stream_out_free(struct stream_out *out) {
    if (!out) return;
    free(out->wants);
    free(out->want_end);
    free(out->chunk_begin);
    bytes_free(&out->again);
    pthread_mutex_destroy(&out->lock);
    free(out);
}

static err want_check(const struct gguf *g, const struct source_range *w) {
    int is_good = w->tensor < gguf_n_tensors(g);
    const struct gguf_tensor *t = is_good ? gguf_tensor_at(g, w->tensor) : NULL;
    uint32_t per = t ? format_info(t->format)->block_values : 1;
    is_good = is_good && w->row_begin < w->row_end && w->row_end <= t->dims[1] * t->dims[2] * t->dims[3] &&
              w->col_begin < w->col_end && w->col_end <= t->dims[0] && w->col_begin % per == 0 && w->col_end % per == 0;
    if (is_good) return OK;
    return err_set(ERR_JOB, "a rank asks for blocks that tensor %u of the model does not have", w->tensor);
}

static err want_add(struct stream_out *o, const struct source_range *w) {
    TRY(want_check(o->gguf, w));
    if (o->n_wants == o->cap_wants) {
        uint32_t cap = o->cap_wants ? o->cap_wants * 2 : 64;
        if (cap > WANTS_MAX) return err_set(ERR_JOB, "a rank asks for more than %u slices", WANTS_MAX);
        struct source_range *wants = mem_resized(o->wants, cap, sizeof *wants);
        if (!wants) return ERR_MEMORY;
        o->wants = wants;
        uint64_t *ends = mem_resized(o->want_end, cap, sizeof *ends);
        if (!ends) return ERR_MEMORY;
        o->want_end = ends;
        o->cap_wants = cap;
    }
    uint64_t begin = o->n_wants ? o->want_end[o->n_wants - 1] : 0;
    o->want_end[o->n_wants] = begin + source_range_bytes(o->gguf, w);
    o->wants[o->n_wants++] = *w;
    return OK;
}

static err request_take(struct stream_out *o, const struct request *r, const uint8_t *at) {
    if (r->limit > o->limit) o->limit = r->limit;
    TRY(bytes_append(&o->again, at, (size_t)r->n_again * sizeof(uint64_t)));
    at += (size_t)r->n_again * sizeof(uint64_t);
    for (uint32_t i = 0; i < r->n_wants; i++, at += sizeof(struct source_range)) {
        struct source_range w;
        memcpy(&w, at, sizeof w);
        TRY(want_add(o, &w));
    }
    o->is_end_wanted |= r->is_end != 0;
    return OK;
}

err stream_out_take(struct stream_out *o, const void *request, size_t n) {
    struct request r;
    if (n < sizeof r) return err_set(ERR_JOB, "a request for slices of %zu bytes", n);
    memcpy(&r, request, sizeof r);
    if (n - sizeof r != r.n_again * sizeof(uint64_t) + r.n_wants * sizeof(struct source_range))
        return err_set(ERR_JOB, "a request for slices of %zu bytes says that it has %u chunks and %u slices", n,
                       r.n_again, r.n_wants);
    pthread_mutex_lock(&o->lock);
    err e = request_take(o, &r, (const uint8_t *)request + sizeof r);
    pthread_mutex_unlock(&o->lock);
    return e;
}

static uint64_t wanted_bytes(const struct stream_out *o) { return o->n_wants ? o->want_end[o->n_wants - 1] : 0; }

/* The first chunk that was asked for again; 0 when none was. Those that are still to come are passed over. */
static int next_again(struct stream_out *o, struct stream_piece *p) {
    while (o->again.len) {
        uint64_t index;
        memcpy(&index, o->again.data, sizeof index);
        o->again.len -= sizeof index;
        memmove(o->again.data, o->again.data + sizeof index, o->again.len);
        if (index >= o->n_chunks) continue;
        uint64_t end = index + 1 < o->n_chunks ? o->chunk_begin[index + 1] : o->sent_bytes;
        *p = (struct stream_piece){index, o->chunk_begin[index], (size_t)(end - o->chunk_begin[index])};
        return 1;
    }
    return 0;
}

static int next_piece(struct stream_out *o, struct stream_piece *p) {
    uint64_t left = wanted_bytes(o) - o->sent_bytes;
    if (next_again(o, p)) return 1;
    if (left == 0 && o->is_end_wanted) {
        o->is_end_wanted = 0;
        *p = (struct stream_piece){STREAM_END, o->sent_bytes, 0};
        return 1;
    }
    if (left == 0 || o->n_chunks >= o->limit) return 0;
    if (o->n_chunks == o->cap_chunks) {
        uint64_t cap = o->cap_chunks ? o->cap_chunks * 2 : 64;
        uint64_t *grown = mem_resized(o->chunk_begin, (size_t)cap, sizeof *grown);
        if (!grown) return 0; /* memory may come back */
        o->chunk_begin = grown;
        o->cap_chunks = cap;
    }
    *p = (struct stream_piece){o->n_chunks, o->sent_bytes, left < o->chunk_bytes ? (size_t)left : o->chunk_bytes};
    o->chunk_begin[o->n_chunks++] = o->sent_bytes;
    o->sent_bytes += p->n_bytes;
    return 1;
}

int stream_out_next(struct stream_out *o, struct stream_piece *piece) {
    pthread_mutex_lock(&o->lock);
    int is_there = next_piece(o, piece);
    pthread_mutex_unlock(&o->lock);
    return is_there;
}

/* The want that holds byte `at` of the stream; *begin is its own. */
static struct source_range want_find(struct stream_out *o, uint64_t at, uint64_t *begin, uint64_t *end) {
    pthread_mutex_lock(&o->lock);
    uint32_t low = 0, high = o->n_wants - 1;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        if (o->want_end[mid] > at) high = mid;
        else low = mid + 1;
    }
    struct source_range w = o->wants[low];
    *begin = low ? o->want_end[low - 1] : 0;
    *end = o->want_end[low];
    pthread_mutex_unlock(&o->lock);
    return w;
}

/* Bytes [at, at + n) of a want's blocks. */
static err want_read(const struct gguf *g, const struct source_range *w, uint64_t at, uint64_t n, uint8_t *dst) {
    const struct gguf_tensor *t = gguf_tensor_at(g, w->tensor);
    uint64_t whole = format_bytes(t->format, (size_t)t->dims[0]);
    uint64_t row = format_bytes(t->format, (size_t)(w->col_end - w->col_begin));
    uint64_t left = format_bytes(t->format, (size_t)w->col_begin);
    if (row == whole) return gguf_read_bytes(g, t, w->row_begin * whole + at, n, dst);
    while (n) {
        uint64_t skip = at % row, part = row - skip < n ? row - skip : n;
        TRY(gguf_read_bytes(g, t, (w->row_begin + at / row) * whole + left + skip, part, dst));
        at += part;
        n -= part;
        dst += part;
    }
    return OK;
}

err stream_out_fill(struct stream_out *o, const struct stream_piece *piece, uint8_t *message, size_t *n) {
    struct stream_header h = {MAGIC, (uint32_t)piece->n_bytes, piece->index, piece->begin, 0};
    uint8_t *data = message + sizeof h;
    for (uint64_t done = 0; done < piece->n_bytes;) {
        uint64_t begin, end, at = piece->begin + done, left = piece->n_bytes - done;
        struct source_range w = want_find(o, at, &begin, &end);
        uint64_t part = end - at < left ? end - at : left;
        TRY(want_read(o->gguf, &w, at - begin, part, data + done));
        done += part;
    }
    h.checksum = checksum(&h, data);
    memcpy(message, &h, sizeof h);
    *n = sizeof h + piece->n_bytes;
    return OK;
}
