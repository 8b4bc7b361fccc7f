/* Await: reads a buffer once all that was enqueued is done, and lets the waiting thread look at other things meanwhile.
 * Private to kernels/; for the thread that enqueues. */
#ifndef KERNELS_AWAIT_H
#define KERNELS_AWAIT_H

#include <CL/cl.h>
#include <pthread.h>

#include "kernels/backend.h"

struct device;

/* How many waits began, and how many of their events the driver has told of, on a thread of its own. */
struct await {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint64_t n_begun, n_done;
    cl_int code; /* of the last one */
};

void await_init(struct await *a);
/* Once the queue is finished: the driver may still be about to tell. */
void await_free(struct await *a);

/* See buffer_await in backend.h. */
err await_read(struct device *d, struct buffer *m, size_t at, size_t n, void *dst, const struct watch *w);

#endif
