/* Gate: rank 0's end of the link to the coordinator, a stream socket of frames.
 *
 * Never blocks: reads what is there, writes what fits, keeps the rest in a queue. Owned by
 * the node's thread. */
#ifndef NODE_GATE_H
#define NODE_GATE_H

#include <stdint.h>

#include "base/err.h"
#include "node/frame.h"

struct gate;

/* Takes `fd`, also on failure. */
err gate_open(int take_fd, struct gate **out);
void gate_free(struct gate *g);

/* Queues a frame, or bytes that are whole frames. */
err gate_put(struct gate *g, enum frame_kind kind, uint32_t id, const void *body, size_t n);
err gate_put_bytes(struct gate *g, const void *frames, size_t n);

/* Moves bytes both ways. ERR_JOB when the coordinator is gone (frames that it sent before come
 * first), ERR_TIMEOUT when it has read nothing of the queue for `deadline_us`. */
err gate_poll(struct gate *g, int64_t deadline_us);

/* The first whole frame, header included, which may lie unaligned; NULL when there is none. It
 * stays until gate_pop; gate_poll may move it. */
const uint8_t *gate_frame(const struct gate *g, struct frame_header *h);
void gate_pop(struct gate *g);

/* Sleeps until something comes, or the queue can move on, at most timeout_us. */
void gate_wait(struct gate *g, int64_t timeout_us);
/* Writes the queue out as far as the coordinator takes it within timeout_us. */
void gate_flush(struct gate *g, int64_t timeout_us);

#endif
