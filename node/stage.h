/* Stage: runs the ops of one cell (a layer range, a shard) on a backend.
 *
 * Owns the weights, the KV cache and every value's buffer of its cell. Knows no
 * MPI: shards meet through struct exchange. One thread. */
#ifndef NODE_STAGE_H
#define NODE_STAGE_H

#include "kernels/backend.h"
#include "node/board.h"
#include "node/frame.h"
#include "node/source.h"
#include "node/sums.h"
#include "partition/slice.h"

struct stage;

/* How shards of a stage meet. What waits does so until done or a deadline passes; `layer` is for messages. */
struct exchange {
    void *context;
    /* A sum over `axis` will be wanted of n_rows rows: posts what can be received already. */
    err (*begin)(void *context, enum axis axis, uint32_t n_rows);
    /* Gives this shard's subtree sums `mine` [own subtrees][n_rows][dim], with a board those of all its shards in
     * order, and gets the whole: `sum` [n_rows][dim]. See node/sums.h. */
    err (*sum)(void *context, int layer, const float *mine, float *sum);
    /* Shard 0 gets n_floats[shard] of every other shard in `all`, in order of shards: these two calls, nothing is
     * waited for in the first. `all` is NULL elsewhere, where the second gives `mine`. */
    err (*collect_begin)(void *context, const size_t *n_floats, float *all);
    err (*collect)(void *context, int layer, const float *mine, const size_t *n_floats, float *all);
    /* While this shard waits for its device, and after the next *next_us again: moves messages on. The error of a
     * shard that did not come to the board, or of what failed elsewhere. NULL: nothing to do. */
    err (*watch)(void *context, int64_t *next_us);
    int64_t board_patience_us; /* beyond the deadline, for the first of a board's shards, which waits for others */
};

struct cell {
    uint32_t n_stages, n_shards, stage, shard;
    uint32_t layer_begin, layer_end;
    const float *shares; /* [n_shards] */
};

struct stage_limits {
    uint32_t rows_max, n_blocks, context_max;
};

struct stage_sizes {
    uint64_t weight_bytes, kv_bytes;
    uint64_t bytes_read, bytes_streamed; /* of the model's blocks: from its file, from another rank */
    uint64_t bytes_cached;               /* packed, from the cache of slices */
};

/* Builds and checks every kernel that the cell needs, and holds nothing after. */
err stage_prepare(struct backend *b, const struct program *p, const struct cell *cell);

/* Loads the cell's slices. `progress` (may be NULL) hears the bytes so far, from several threads
 * and not always in order. */
err stage_create(struct backend *b, const struct source *source, const struct program *p,
                 const struct cell *cell, const struct stage_limits *limits,
                 const struct exchange *exchange,
                 void (*progress)(void *context, uint64_t bytes_loaded), void *progress_context,
                 struct stage **out);
void stage_free(struct stage *s);
void stage_sizes(const struct stage *s, struct stage_sizes *out);
/* Bytes of the file that this cell needs. */
err stage_file_bytes(const struct program *p, const struct cell *cell, uint64_t *out);

/* Whether partial sums can meet on a board, and the bytes of an area for that. */
int stage_can_use_board(const struct stage *s);
size_t stage_board_bytes(const struct stage *s);
/* From now on those of shards `crew`, this one among them, do; all of these shards or none. Where that is all of the
 * stage, exchange.sum is no longer called, else by the first of them alone. The board outlives the stage. */
err stage_use_board(struct stage *s, struct board *board, struct shard_crew crew);

/* Runs one step. `hidden` [n_rows, dim]: in for every stage but the first, out
 * for every stage but the last. On the last stage's shard 0 `logits`
 * [n_outs, n_vocab] gets the rows of step->outs, if any of them needs them, and `hidden` [n_outs, dim]
 * their last hidden states, if any asks for its own; elsewhere `logits` is NULL.
 * Both have room for rows_max rows. */
err stage_run(struct stage *s, const struct step *step, float *hidden, float *logits);

#endif
