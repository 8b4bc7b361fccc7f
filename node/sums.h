/* Sums: how the shards of a stage make one sum of their partial sums, in the order of the tree, so that the bits are
 * those of one shard.
 *
 * Shards that stand next to each other on one host are a *crew*; its first shard speaks for it: it joins the sums
 * of the crew's shards to the few subtrees that the whole crew owns and meets the other crews, by messages,
 * in one of two ways:
 *   - at once: every crew sends its subtrees to every other one, and each finishes the tree. One round.
 *   - in parts: crew i finishes the tree for the i-th part of the values only, and sends that part to all.
 *     Two rounds, but each value crosses a port about twice, however many crews there are.
 * Which of them is a matter of bytes: a second round must save more than the link carries in the time of its latency.
 * All shards of a stage come to the same answer, and have the same bits after.
 *
 * Knows no MPI: messages go through struct sum_link. One thread. */
#ifndef NODE_SUMS_H
#define NODE_SUMS_H

#include "model/program.h"
#include "node/payload.h"
#include "partition/crew.h"

struct sums;

/* The steps of an exchange; later ones wait longer, so that who is nearest to the shard at fault speaks first. */
enum sum_round {
    SUM_OF_CREW,  /* from the crew's shards to its first */
    SUM_OF_HOSTS, /* between crews: subtrees */
    SUM_OF_PARTS, /* between crews: finished parts */
    SUM_BACK,     /* from the crew's first to its shards */
    N_SUM_ROUNDS
};

/* Messages to and from other shards. Both kinds return at once, `wait` when all of its round are done. */
struct sum_link {
    void *context;
    err (*receive)(void *context, enum sum_round round, uint32_t shard, void *data, size_t n_bytes);
    err (*send)(void *context, enum sum_round round, uint32_t shard, const void *data, size_t n_bytes);
    err (*wait)(void *context, enum sum_round round, int layer);
};

struct sums_setup {
    const struct program *program;
    const float *shares;              /* [n_shards] */
    uint32_t n_shards, shard;
    const struct shard_crew *crews;   /* [n_crews], copied */
    uint32_t n_crews;
    uint32_t rows_max;
    int has_board;                    /* this crew's sums need no messages: its shards lay them side by side */
    enum payload payload;             /* between crews */
    size_t hop_bytes;                 /* that a link carries in the time of its latency */
    struct sum_link link;
};

/* Allocates all that exchanges will need. */
err sums_create(const struct sums_setup *setup, struct sums **out);
void sums_free(struct sums *s);

/* Whether this shard speaks for its crew. The others need no more than sums_finish, and where there is a board
 * not even that. */
int sums_is_first(const struct sums *s);

/* Of a contraction over `axis`, n_rows rows: posts what can be received before this shard has its own. */
err sums_begin(struct sums *s, enum axis axis, uint32_t n_rows);
/* `mine` [own subtrees][n_rows][dim], with a board those of all shards of the crew, in order. `sum` [n_rows][dim]
 * gets the whole. `layer` is for messages. */
err sums_finish(struct sums *s, int layer, const float *mine, float *sum);

#endif
