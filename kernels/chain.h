/* Chain: launches that follow each other, run as one. A launch under PoCL costs about 12 us in which nobody computes,
 * since threads that have nothing left to do sleep and are woken for the next; a token of one text takes hundreds of
 * launches. So launches are written into a table, and one kernel, a work-item for each thread, goes through it while
 * the host still writes (kernels/cl/chain.cl). Products of many quantised rows and lookups of many rows are not taken,
 * which take long beside this. A chain ends before the next command of any other kind; until then the device's threads
 * wait for its next call. Arguments are addresses there: only for a device that is threads of this process and uses our
 * memory where it lies.
 * Private to kernels/; for the thread that enqueues. */
#ifndef KERNELS_CHAIN_H
#define KERNELS_CHAIN_H

#include <CL/cl.h>

#include "base/err.h"
#include "model/format.h"

struct attend_kernels;
struct chain;
struct device;
struct device_arg;
struct matrix_kernels;

/* Kernels that can be called. */
#define CALL_LIST(X)                                                                                              \
    X(EMBED) X(SUM_ROWS) X(QUANTIZE) X(ACTIVATE) X(SELECT) X(HEADS) X(CHUNK) X(COMBINE) X(LAY) X(LINEAR)
enum call_id {
#define CALL_ENUM(name) CALL_##name,
    CALL_LIST(CALL_ENUM)
#undef CALL_ENUM
};

/* Whether the device is of the kind above. */
int chain_suits(const struct device *d);

err chain_create(struct device *d, struct chain **out);
/* Once the queue has done all that was enqueued. */
void chain_free(struct chain *c);

/* A program for products of that format and a cache of the other; the kernels whose calls it takes, both with
 * their forms, and those of the ops that depend on no format. */
err chain_add(struct chain *c, enum format f, const struct matrix_kernels *linear, enum format kv,
              const struct attend_kernels *attend);
void chain_know(struct chain *c, enum call_id id, cl_kernel kernel);

int chain_has(const struct chain *c, enum format f, enum format kv);

/* Puts a launch into the table: 1, or 0 for a kernel that it does not know, or that does not fit. */
int chain_take(struct chain *c, cl_kernel kernel, const struct device_arg *args, uint32_t n_args, uint32_t n_dims,
               const size_t *global, err *e);
/* Ends the chain that was begun: what is enqueued next comes after it. */
err chain_flush(struct chain *c);

#endif
