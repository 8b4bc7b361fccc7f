/* Waiting: the line in front of a scheduler. Who is let in next: higher priorities first, then
 * keys in turn, then order of arrival. But one in WAITING_AGED_EVERY is whoever waits longest,
 * whatever its key and priority: so nobody waits for ever, and one that has m others before it
 * in order of arrival is let in with the next WAITING_AGED_EVERY * (m + 1).
 *
 * Pure, one thread. A place belongs to who waits; everything takes constant time, but for the
 * priorities, of which there are few. */
#ifndef COORDINATOR_WAITING_H
#define COORDINATOR_WAITING_H

#include <stdint.h>

#include "base/err.h"

#define WAITING_AGED_EVERY 8
#define WAITING_PRIORITY_MAX 100 /* and as far below 0 */

struct waiting_place {
    struct waiting_place *before, *after; /* of its key and priority */
    struct waiting_place *older, *newer;  /* of all */
    uint32_t queue;
};

struct waiting;

err waiting_create(struct waiting **out);
void waiting_free(struct waiting *w);

/* The queue of a key at a priority, for waiting_add; made at the first time. ERR_REQUEST: no such priority. */
err waiting_queue(struct waiting *w, uint32_t key, int priority, uint32_t *queue);

/* At the end of its queue, or at the front, if it was in before and had to leave. */
void waiting_add(struct waiting *w, struct waiting_place *p, uint32_t queue, int is_front);
void waiting_remove(struct waiting *w, struct waiting_place *p);

/* Who is next, or NULL; *is_aged: by priority and key it would be another, but it waits longest. */
struct waiting_place *waiting_next(const struct waiting *w, int *is_aged);
/* Lets the next one in. */
void waiting_let_in(struct waiting *w, struct waiting_place *p);

uint32_t waiting_n(const struct waiting *w);
uint64_t waiting_n_let_in(const struct waiting *w);

#endif
