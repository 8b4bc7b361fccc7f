/* What comes back to rank 0 and goes to the coordinator: results, pongs, figures, failures. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "node/node_parts.h"

#define FLUSH_US 1000000

err back_init(struct node *n) {
    if (n->rank != 0) return OK;
    struct back *b = &n->back;
    TRY(NEW(b->gather.text, (size_t)n->size));
    TRY(NEW(b->loaded_bytes, (size_t)n->size));
    TRY(NEW(b->pongs, (size_t)n->size)); /* there are no more columns than ranks */
    TRY(NEW(b->heard_us, (size_t)n->size));
    for (int i = 0; i < n->size; i++) b->heard_us[i] = wire_clock_us(n->w);
    return OK;
}

void back_free(struct node *n) {
    struct back *b = &n->back;
    for (int i = 0; b->gather.text && i < n->size; i++) bytes_free(&b->gather.text[i]);
    free(b->gather.text);
    free(b->loaded_bytes);
    free(b->heard_us);
    free(b->pongs);
    bytes_free(&b->frame);
}

void back_gather(struct node *n, enum frame_kind kind, uint32_t id) {
    struct gather *g = &n->back.gather;
    g->kind = kind;
    g->id = id;
    g->n_missing = n->size;
    for (int i = 0; i < n->size; i++) g->text[i].len = 0;
}

/* Answers to an older question of the same kind have its id and are dropped. */
static err gather_take(struct node *n, int from, const struct frame_header *h, const uint8_t *body) {
    struct gather *g = &n->back.gather;
    if (h->kind != g->kind || h->id != g->id || g->text[from].len || h->n_bytes == 0) return OK;
    TRY(bytes_append(&g->text[from], body, h->n_bytes));
    if (--g->n_missing > 0) return OK;
    struct bytes all = {0};
    err e = g->kind == FRAME_READY ? setup_go(n) : OK; /* before the coordinator can know */
    for (int i = 0; i < n->size && e == OK; i++) {
        e = bytes_append_str(&all, i ? "," : "[");
        if (e == OK) e = bytes_append(&all, g->text[i].data, g->text[i].len);
    }
    if (e == OK) e = bytes_append_str(&all, "]");
    if (e == OK) e = gate_put(n->gate, g->kind, g->id, all.data, all.len);
    bytes_free(&all);
    return e;
}

int back_missing(const struct node *n) {
    const struct back *b = &n->back;
    int first = n->n_cells - (int)n->cell.n_shards, column = 0;
    if (b->n_in_flight) return first;
    if (b->n_pings == b->n_pongs) return -1;
    for (int i = 1; i < (int)n->cell.n_shards; i++)
        if (b->pongs[i] < b->pongs[column]) column = i;
    return first + column;
}

void back_step(struct node *n) {
    if (back_missing(n) < 0) n->back.waiting_us = wire_clock_us(n->w);
    n->back.n_in_flight++;
}

int back_ping(struct node *n, uint32_t id) {
    struct back *b = &n->back;
    if (b->n_pings - b->n_pongs == PINGS_MAX) return 0;
    if (back_missing(n) < 0) b->waiting_us = wire_clock_us(n->w);
    b->ping_ids[b->n_pings++ % PINGS_MAX] = id;
    return 1;
}

/* A ping is answered when it has come through every column of shards: through every rank. */
static err pong_take(struct node *n, int from) {
    struct back *b = &n->back;
    uint32_t n_shards = n->cell.n_shards, least = UINT32_MAX;
    if (from >= n->n_cells) return OK; /* idle_watch asked */
    b->pongs[(uint32_t)from % n_shards]++;
    for (uint32_t i = 0; i < n_shards; i++)
        if (b->pongs[i] < least) least = b->pongs[i];
    if (b->n_pongs < least) b->waiting_us = b->heard_us[from]; /* one column alone is no progress */
    for (; b->n_pongs < least; b->n_pongs++)
        TRY(gate_put(n->gate, FRAME_PONG, b->ping_ids[b->n_pongs % PINGS_MAX], "", 0));
    return OK;
}

/* Bytes read so far; the coordinator hears of them at most every 200 ms, see node_setup.c. */
static err progress_take(struct node *n, int from, const struct frame_header *h, const uint8_t *body) {
    if (h->n_bytes != sizeof(uint64_t)) return err_set(ERR_INTERNAL, "bad progress of rank %d", from);
    memcpy(&n->back.loaded_bytes[from], body, sizeof(uint64_t));
    return OK;
}

static err error_take(struct node *n, int from, const struct frame_header *h, const uint8_t *body) {
    char text[900] = "unknown error";
    frame_error_get((const char *)body, h->n_bytes, text, sizeof text);
    n->is_reported = 1;
    TRY(gate_put(n->gate, FRAME_ERROR, 0, body, h->n_bytes));
    gate_flush(n->gate, FLUSH_US);
    return err_set(ERR_JOB, "%s failed: %s", wire_name(n->w, from), text);
}

/* One frame that rank `from` sent; on rank 0. */
static err back_take(struct node *n, int from, const struct bytes *frame) {
    struct frame_header h;
    if (frame->len < sizeof h) return err_set(ERR_INTERNAL, "%zu bytes of rank %d", frame->len, from);
    memcpy(&h, frame->data, sizeof h);
    TRY(frame_check(&h));
    if (frame->len - sizeof h != h.n_bytes)
        return err_set(ERR_INTERNAL, "a frame of %u bytes of rank %d has %zu", h.n_bytes, from,
                       frame->len - sizeof h);
    const uint8_t *body = frame->data + sizeof h;
    n->back.heard_us[from] = wire_clock_us(n->w);
    switch (h.kind) {
    case FRAME_RESULT:
        n->back.n_in_flight--;
        n->back.waiting_us = n->back.heard_us[from];
        return gate_put_bytes(n->gate, frame->data, frame->len);
    case FRAME_PONG: return pong_take(n, from);
    case FRAME_WANT: return weights_take_request(n, from, body, h.n_bytes);
    case FRAME_PROGRESS: return progress_take(n, from, &h, body);
    case FRAME_HELLO:
    case FRAME_PROBED:
    case FRAME_READY:
    case FRAME_STATS: return gather_take(n, from, &h, body);
    case FRAME_ERROR: return error_take(n, from, &h, body);
    default: return err_set(ERR_INTERNAL, "frame %u came back from rank %d", h.kind, from);
    }
}

err back_put_frame(struct node *n, const struct bytes *frame) {
    if (n->rank == 0) return back_take(n, 0, frame);
    return wire_put(n->w, 0, WIRE_BACK, frame->data, frame->len);
}

err back_put(struct node *n, enum frame_kind kind, uint32_t id, const void *body, size_t n_bytes) {
    struct bytes frame = {0};
    err e = frame_put(&frame, kind, id, body, n_bytes);
    if (e == OK) e = back_put_frame(n, &frame);
    bytes_free(&frame);
    return e;
}

err back_poll(void *node) {
    struct node *n = node;
    for (;;) {
        int from;
        TRY(wire_take(n->w, WIRE_BACK, &n->back.frame, &from));
        if (from < 0) break;
        TRY(back_take(n, from, &n->back.frame));
    }
    return gate_poll(n->gate, (int64_t)wire_deadline_ms(n->w) * 1000);
}
