/* The inside of a stage, shared by loading (stage_load.c) and running (stage.c). */
#ifndef NODE_STAGE_PARTS_H
#define NODE_STAGE_PARTS_H

#include "model/fuse.h"
#include "node/stage.h"

struct stage_weight {
    struct matrix *matrix; /* owned unless within another */
    struct buffer *vector; /* owned; norms and biases, f32 */
    uint32_t row_begin, row_end; /* of the matrix: a tied head is a part of the table */
    int is_owner;
};

/* The sums of a contraction that is cut between shards. */
struct stage_sum {
    struct tree own, finish;
    uint32_t segment_cols;
    size_t *n_results; /* [n_shards] of every shard's own tree */
};

struct stage {
    struct backend *backend;
    const struct program *program;
    struct fusion fusion; /* of the cell's layers */
    const struct op *last_norm; /* gives the last hidden state; what comes after makes logits of it */
    struct cell cell;
    struct stage_limits limits;
    struct exchange exchange;
    struct cut cut;
    struct stage_sizes sizes;
    struct stage_weight *weights; /* [n_weights] */
    struct buffer **values;       /* [n_values], NULL where this cell has no use of one */
    uint32_t *widths;             /* [n_values] local */
    struct cache **caches;        /* [n_layers], those of the cell */
    struct stage_sum sums[N_AXES];
    uint32_t *vocab_widths;       /* [n_shards] logits of every shard */
    uint32_t outs_max, table_max;

    /* What ops read of a step lies in one buffer, written at once; these are its parts. */
    struct buffer *step_data, *tokens, *out_rows;
    struct row_places places;
    struct buffer *angles, *gathered; /* gathered: whole sums that came as messages */
    int32_t *host_step;   /* as step_data: tokens, positions, first blocks, wanted rows, tables */
    uint32_t part_ints;   /* from one part to the next */
    float *host_angles;   /* [rows_max, n_rot] */
    float *host_mine;     /* what this shard sends */
    float *host_sum;      /* what comes of it */
    float *host_logits;   /* of all shards; NULL where none come together */
    size_t *counts;       /* [n_shards] floats of one exchange */

    struct board *board;       /* NULL: sums travel as messages */
    struct shard_crew crew;   /* who meets there */
    struct buffer *areas[2];   /* of the board */
    uint32_t n_meetings;
};

#define STAGE_OPS(s) ((s)->backend->ops)

#endif
