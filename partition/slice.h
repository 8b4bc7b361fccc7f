/* Slices: which part of every axis a shard owns. Pure arithmetic. */
#ifndef PARTITION_SLICE_H
#define PARTITION_SLICE_H

#include <stdint.h>

#include "model/program.h"
#include "model/segment.h"

/* What one shard owns. */
struct cut {
    struct range segments[N_AXES]; /* of DIM: all; of KV, VOCAB and EXPERTS: unused */
    struct range values[N_AXES];   /* values of each axis */
};

/* Cuts every axis for shard `shard` of n_shards in proportion to `shares`
 * ([n_shards], positive, any unit; NULL: equal). A shard may own nothing of an
 * axis. KV follows HEADS: the KV heads that its query heads read, replicated
 * where shards share one. */
void cut_make(const struct program *p, uint32_t n_shards, uint32_t shard,
              const float *shares, struct cut *out);

/* The part of a weight that a shard with this cut holds: rows and columns of
 * the tensor (offsets of the weight inside its tensor are included). */
struct slice {
    uint64_t row_begin, row_end, col_begin, col_end;
};

void slice_make(const struct weight *w, const struct cut *c, struct slice *out);

/* What a cell holds of a weight. A tied head whose rows lie in the embedding
 * table of the same cell is not held twice: it is `within` that weight. */
struct holding {
    int is_held;
    int within; /* the weight whose matrix holds these rows, or -1 */
    struct slice slice;
};

/* For stage [layer_begin, layer_end) of a shard: what it holds of every weight;
 * out [p->n_weights]. */
void slice_holdings(const struct program *p, const struct cut *c, uint32_t layer_begin,
                    uint32_t layer_end, struct holding *out);

#endif
