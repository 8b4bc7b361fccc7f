/* Nap: the sleep of who waits for messages. It ends when something comes on one of this process's sockets, which a
 * library for messages keeps to itself, so they are looked up among the open files. Whether messages come that way, and
 * not through shared memory or a network card's queue, shows: naps get longer while it is sockets that end them, and
 * are as short as the caller says after a message that a nap has slept through. So a rank that waits for another host
 * hears of its message at once and hardly uses its core meanwhile. One thread. */
#ifndef NODE_NAP_H
#define NODE_NAP_H

#include <stdint.h>

struct nap;

/* Never fails: NULL sleeps, too, and hears nothing. */
struct nap *nap_create(void);
void nap_free(struct nap *n);

/* Sleeps for us, or longer, 3.2 ms at most, where something that comes would be heard. */
void nap_take(struct nap *n, int64_t us);
/* A message has come. */
void nap_tell(struct nap *n);

#endif
