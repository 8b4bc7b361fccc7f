#include "coordinator/waiting.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/u64map.h"

#define N_PRIORITIES (2 * WAITING_PRIORITY_MAX + 1)
#define NONE UINT32_MAX

/* Those of one key at one priority. Queues that have some stand in a ring. */
struct queue {
    struct waiting_place *first, *last;
    uint32_t level, prev, next;
};

struct waiting {
    struct queue *queues; /* [n_queues] */
    uint32_t n_queues, cap_queues;
    struct u64map queue_of;      /* key and priority -> index */
    uint32_t turn[N_PRIORITIES]; /* the queue whose turn it is, NONE: nobody waits there */
    struct waiting_place *oldest, *newest;
    uint32_t n;
    uint64_t n_let_in;
};

err waiting_create(struct waiting **out) {
    struct waiting *w;
    TRY(NEW(w, 1));
    for (uint32_t i = 0; i < N_PRIORITIES; i++) w->turn[i] = NONE;
    *out = w;
    return OK;
}

void waiting_free(struct waiting *w) {
    if (!w) return;
    u64map_free(&w->queue_of);
    free(w->queues);
    free(w);
}

err waiting_queue(struct waiting *w, uint32_t key, int priority, uint32_t *queue) {
    if (priority < -WAITING_PRIORITY_MAX || priority > WAITING_PRIORITY_MAX)
        return err_set(ERR_REQUEST, "a priority of %d, %d to %d are possible", priority, -WAITING_PRIORITY_MAX,
                       WAITING_PRIORITY_MAX);
    uint32_t level = (uint32_t)(priority + WAITING_PRIORITY_MAX);
    uint64_t name = (uint64_t)key << 32 | level, at = u64map_find(&w->queue_of, name, w->n_queues);
    if (at == w->n_queues) {
        if (w->n_queues == w->cap_queues) {
            uint32_t cap = w->cap_queues ? 2 * w->cap_queues : 16;
            struct queue *grown = mem_resized(w->queues, cap, sizeof *grown);
            if (!grown) return ERR_MEMORY;
            w->queues = grown;
            w->cap_queues = cap;
        }
        TRY(u64map_add(&w->queue_of, name, at));
        w->queues[w->n_queues++] = (struct queue){.level = level};
    }
    *queue = (uint32_t)at;
    return OK;
}

/* ---- the ring of a priority ---- */

/* Its turn comes after all others'. */
static void ring_add(struct waiting *w, uint32_t i) {
    struct queue *q = &w->queues[i];
    uint32_t *turn = &w->turn[q->level];
    if (*turn == NONE) {
        *turn = q->next = q->prev = i;
        return;
    }
    q->next = *turn;
    q->prev = w->queues[*turn].prev;
    w->queues[q->prev].next = w->queues[q->next].prev = i;
}

static void ring_remove(struct waiting *w, uint32_t i) {
    struct queue *q = &w->queues[i];
    uint32_t *turn = &w->turn[q->level];
    w->queues[q->prev].next = q->next;
    w->queues[q->next].prev = q->prev;
    if (*turn == i) *turn = q->next == i ? NONE : q->next;
}

/* ---- places ---- */

void waiting_add(struct waiting *w, struct waiting_place *p, uint32_t queue, int is_front) {
    struct queue *q = &w->queues[queue];
    int was_empty = !q->first;
    *p = (struct waiting_place){.queue = queue, .older = w->newest};
    p->before = is_front ? NULL : q->last;
    p->after = is_front ? q->first : NULL;
    *(p->before ? &p->before->after : &q->first) = p;
    *(p->after ? &p->after->before : &q->last) = p;
    *(p->older ? &p->older->newer : &w->oldest) = p;
    w->newest = p;
    w->n++;
    if (was_empty) ring_add(w, queue);
}

void waiting_remove(struct waiting *w, struct waiting_place *p) {
    struct queue *q = &w->queues[p->queue];
    *(p->before ? &p->before->after : &q->first) = p->after;
    *(p->after ? &p->after->before : &q->last) = p->before;
    *(p->older ? &p->older->newer : &w->oldest) = p->newer;
    *(p->newer ? &p->newer->older : &w->newest) = p->older;
    w->n--;
    if (!q->first) ring_remove(w, p->queue);
}

struct waiting_place *waiting_next(const struct waiting *w, int *is_aged) {
    *is_aged = 0;
    if (!w->n) return NULL;
    uint32_t level = N_PRIORITIES - 1;
    while (w->turn[level] == NONE) level--;
    struct waiting_place *p = w->queues[w->turn[level]].first;
    *is_aged = w->n_let_in % WAITING_AGED_EVERY == WAITING_AGED_EVERY - 1 && p != w->oldest;
    return *is_aged ? w->oldest : p;
}

void waiting_let_in(struct waiting *w, struct waiting_place *p) {
    uint32_t *turn = &w->turn[w->queues[p->queue].level];
    if (*turn == p->queue) *turn = w->queues[*turn].next;
    waiting_remove(w, p);
    w->n_let_in++;
}

uint32_t waiting_n(const struct waiting *w) { return w->n; }
uint64_t waiting_n_let_in(const struct waiting *w) { return w->n_let_in; }
