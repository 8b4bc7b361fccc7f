/* Stream: file blocks of slices on their way from the rank that has the model's file to one that has not.
 *
 * The receiver says which ranges it wants; the stream is these ranges one behind the other, in chunks that
 * carry a checksum each. The sender may be ahead of what has been read by as many chunks as the receiver's
 * window holds, so memory is limited on both sides. A damaged chunk is asked for again, STREAM_TRIES times.
 * Knows no MPI: who owns both ends carries requests one way and messages the other, where messages of one
 * sender arrive in the order sent.
 *
 * stream_in_want and stream_in_read are for the threads that load; they read ranges in about the order wanted:
 * a range may wait for its bytes only if every one before it is being read, too. All else is one thread's. */
#ifndef NODE_STREAM_H
#define NODE_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "node/source.h"

#define STREAM_CHUNK_BYTES ((size_t)1 << 20)
#define STREAM_WINDOW 32u /* chunks */
#define STREAM_TRIES 5u   /* of one chunk */

/* What a message begins with; the chunk's bytes follow. */
struct stream_header {
    uint32_t magic, n_bytes;
    uint64_t index;    /* of the chunk, counted from the first; STREAM_END: there are no more */
    uint64_t begin;    /* in the stream */
    uint64_t checksum; /* XXH3 of what stands before and behind it */
};
#define STREAM_END UINT64_MAX

/* ---- the receiving end ---- */

struct stream_in;

/* `window` chunks of at most chunk_bytes, the sender's, are held at once. */
err stream_in_create(const struct gguf *g, uint32_t window, size_t chunk_bytes, struct stream_in **out);
void stream_in_free(struct stream_in *in);
size_t stream_in_message_bytes(const struct stream_in *in); /* the largest */

/* The next range of the stream; *place is where it begins. */
err stream_in_want(struct stream_in *in, const struct source_range *w, uint64_t *place);
/* Waits for a range, or rows of one, that begins at `place`; each byte is read once. */
err stream_in_read(struct stream_in *in, uint64_t place, const struct source_range *r, void *dst);

/* Memory for one more message, or NULL when there is none now. */
uint8_t *stream_in_room(struct stream_in *in);
/* A message of n bytes came into it. *is_damaged: it was no good and is asked for again; ERR_JOB when that was
 * tried too often. */
err stream_in_take(struct stream_in *in, uint8_t *room, size_t n, int *is_damaged);
/* Appends what the sender must be told, nothing when there is no news. */
err stream_in_request(struct stream_in *in, struct bytes *out);
/* All has been read: asks for the end, which comes behind whatever is still under way. */
void stream_in_finish(struct stream_in *in);
int stream_in_is_over(struct stream_in *in);
/* A thread waits for bytes. */
int stream_in_is_waiting(struct stream_in *in);

/* ---- the sending end ---- */

struct stream_out;

/* A chunk to be sent. */
struct stream_piece {
    uint64_t index, begin;
    size_t n_bytes;
};

err stream_out_create(const struct gguf *g, size_t chunk_bytes, struct stream_out **out);
void stream_out_free(struct stream_out *out);

/* A request of the receiver; whatever does not fit the model is ERR_JOB. */
err stream_out_take(struct stream_out *out, const void *request, size_t n);
/* The chunk to send next; 0 when the receiver wants or can take no more now. */
int stream_out_next(struct stream_out *out, struct stream_piece *piece);
/* Reads it and makes the message [sizeof(struct stream_header) + chunk_bytes] of it, *n bytes. Any thread. */
err stream_out_fill(struct stream_out *out, const struct stream_piece *piece, uint8_t *message, size_t *n);

#endif
