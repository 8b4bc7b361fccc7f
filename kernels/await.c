#include "kernels/await.h"

#include <string.h>
#include <time.h>

#include "kernels/device.h"

#define LEAVE_US 1000000 /* for a driver to tell of what is done */

void await_init(struct await *a) {
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
}

/* Until all that began is done, at most `us`: 0 when it is not. */
static int await_done(struct await *a, int64_t us) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    int64_t ns = until.tv_nsec + us * 1000;
    until.tv_sec += ns / 1000000000;
    until.tv_nsec = ns % 1000000000;
    pthread_mutex_lock(&a->lock);
    int rc = 0;
    while (rc == 0 && a->n_done < a->n_begun) rc = pthread_cond_timedwait(&a->changed, &a->lock, &until);
    int is_done = a->n_done == a->n_begun;
    pthread_mutex_unlock(&a->lock);
    return is_done;
}

void await_free(struct await *a) {
    if (!await_done(a, LEAVE_US)) return; /* it may still tell: nothing may go */
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
}

static void await_tell(struct await *a, cl_int code) {
    pthread_mutex_lock(&a->lock);
    a->n_done++;
    a->code = code;
    pthread_cond_signal(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

static void CL_CALLBACK on_done(cl_event event, cl_int code, void *await) {
    (void)event;
    await_tell(await, code);
}

/* The driver copies, and tells on a thread of its own. */
static cl_int begin_by_event(struct device *d, cl_command_queue queue, struct buffer *m, size_t at, size_t n,
                             void *dst, cl_event *event) {
    cl_int code = n ? clEnqueueReadBuffer(queue, m->mem, CL_FALSE, at, n, dst, 0, NULL, event)
                    : clEnqueueMarkerWithWaitList(queue, 0, NULL, event);
    return code == CL_SUCCESS ? clSetEventCallback(*event, CL_COMPLETE, on_done, &d->await) : code;
}

struct leaving {
    struct await *await;
    const uint8_t *from; /* the device puts it in */
    uint8_t *to;
    size_t at, n;
};

static void CL_CALLBACK leave(void *leaving) {
    const struct leaving *l = leaving;
    memcpy(l->to, l->from + l->at, l->n);
    await_tell(l->await, CL_SUCCESS);
}

/* The device's own thread copies and tells: one thread fewer on the way, which counts where cores are few. */
static cl_int begin_by_call(struct device *d, cl_command_queue queue, struct buffer *m, size_t at, size_t n,
                            void *dst) {
    struct leaving l = {&d->await, NULL, dst, at, n};
    const void *place = &l.from;
    return clEnqueueNativeKernel(queue, leave, &l, sizeof l, 1, &m->mem, &place, 0, NULL, NULL);
}

static err read_begin(struct device *d, struct buffer *m, size_t at, size_t n, void *dst, cl_event *event) {
    cl_command_queue queue;
    TRY(device_queue(d, &queue));
    d->await.n_begun++;
    cl_int code = d->can_call ? begin_by_call(d, queue, m, at, n, dst) : begin_by_event(d, queue, m, at, n, dst, event);
    if (code != CL_SUCCESS) d->await.n_begun--; /* nobody will tell */
    else code = clFlush(queue);
    return device_check(d, code, "read a buffer");
}

static err read_await(struct device *d, const struct watch *w) {
    for (int is_done = 0; !is_done;) {
        int64_t next_us = LEAVE_US;
        if (w->look) TRY(w->look(w->context, &next_us));
        is_done = await_done(&d->await, next_us);
    }
    if (d->await.code < 0) return device_check(d, d->await.code, "compute");
    d->is_busy = 0;
    return OK;
}

err await_read(struct device *d, struct buffer *m, size_t at, size_t n, void *dst, const struct watch *w) {
    cl_event event = NULL;
    err e = read_begin(d, m, at, n, dst, &event);
    if (e == OK) e = read_await(d, w);
    if (event) clReleaseEvent(event);
    return e;
}
