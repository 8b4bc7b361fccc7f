/* What cost, forecast and search share. Private to partition/.
 *
 * A cost model knows the program's ops by layer, so that a cell's cost is a sum over layers: search adds them up once
 * per kind of device and cut. Read-only after cost_model_create; lives no longer than its program and cluster. */
#ifndef PARTITION_COST_PARTS_H
#define PARTITION_COST_PARTS_H

#include "partition/cost.h"
#include "partition/crew.h"

/* Before a layer: sums over the layers [0, l). */
struct cost_before {
    uint32_t n_groups; /* of ops that run as one, were every layer a stage */
    uint32_t n_joined; /* fewer, were the layers up to this one and those from it on one stage: at borders up to l */
    uint32_t n_attends, n_exchanges;
    uint32_t n_reduces[N_AXES]; /* by the axis that is summed */
};

struct cost_model {
    const struct program *program;
    const struct cluster *cluster;
    const struct op **ops;      /* [n_ops] in order of layers */
    uint32_t *op_begin;         /* [n_layers + 3]: at 0 the embedding, at l + 1 layer l, at n_layers + 1 the head */
    struct cost_before *before; /* [n_layers + 1]; the embedding is with the first layer, the head with the last */
};

err cost_model_create(const struct program *p, const struct cluster *c, struct cost_model *out);
void cost_model_free(struct cost_model *m);

/* The shards of a stage. */
struct cost_shards {
    uint32_t n_shards;
    const uint32_t *devices; /* [n_shards] */
    const struct cut *cuts;  /* [n_shards] */
};

/* Adds weights_s, attend_s and plain_s of one layer (LAYER_BEFORE and n_layers as in struct op) in a shard with this
 * cut. */
void cost_add_layer(const struct cost_model *m, const struct cut *cut, const struct device_rates *r,
                    const struct step_shape *s, int layer, struct cost *out);
/* What messages to and from so many neighbouring stages take of a quota in each step, row_bytes for each way. */
double cost_neighbours_s(const struct device_rates *r, int n_neighbours, double row_bytes);
/* What waits spare of a quota; below 0 where messages take more of it. Less of it is saved where it about makes up for
 * what work is held back: within blur_s. */
struct cost_waits {
    double spared_s, blur_s;
};
/* A wait, during which messages take so much of the quota. */
struct cost_waits cost_wait_of(const struct device_rates *r, double wait_s, double messages_s);
/* a and n times b. */
struct cost_waits cost_waits_and(struct cost_waits a, double n, struct cost_waits b);
/* Of computing compute_s. */
double cost_saved_s(const struct device_rates *r, double compute_s, struct cost_waits w);
/* Of one stream whose stages and hops take stages_s, by one stage that would need busy_s if it never rested, and whose
 * rest spares spared_s. */
double cost_step_s(double stages_s, double busy_s, double spared_s);
/* Launches of a stage. */
uint32_t cost_launches(const struct cost_model *m, uint32_t layer_begin, uint32_t layer_end,
                       const struct step_shape *s);
/* The ways between the shards of a stage. */
struct cost_ways {
    double latency_s[SEGMENTS_MAX]; /* longest from or to any other shard */
    double s_per_byte[SEGMENTS_MAX][SEGMENTS_MAX]; /* from, to */
    const struct device_rates *rates[SEGMENTS_MAX];
    int in_memory;                  /* all meet in the memory of one host, and no device stops */
    uint32_t n_crews;
    struct shard_crew crews[SEGMENTS_MAX];
    int has_board[SEGMENTS_MAX];    /* crew: its shards meet in memory */
};
void cost_ways_make(const struct cluster *c, const uint32_t *devices, uint32_t n_shards, struct cost_ways *out);

/* One exchange of partial sums; bytes between host and device, and to other shards. */
struct cost_exchange {
    double share_s;
    struct cost_waits waits;
    uint64_t copy_bytes, sent_bytes;
};
/* Of shards that own segments `own` [n_shards], n_shards > 1; sums of row_bytes each. As node/sums.h does it, in the
 * way that is the faster one. */
void cost_exchange_of(const struct cost_ways *w, uint32_t shard, uint32_t n_segments, const struct range *own,
                      double row_bytes, struct cost_exchange *out);
void cost_exchange_make(const struct cost_model *m, const struct cost_shards *shards, uint32_t shard, enum axis axis,
                        const struct step_shape *s, struct cost_exchange *out);
/* The logits on their way to shard 0, which waits for them: so many bytes of each shard. */
double cost_logits_bytes(const struct cut *cut, const struct step_shape *s);
void cost_gather_of(const struct cost_ways *w, uint32_t n_shards, uint32_t shard, const double *bytes,
                    struct cost_exchange *out);
void cost_gather_make(const struct cost_model *m, const struct cost_shards *shards, uint32_t shard,
                      const struct step_shape *s, struct cost_exchange *out);
/* All of a cell. */
void cost_of_cell(const struct cost_model *m, const struct cost_shards *shards, uint32_t shard, uint32_t layer_begin,
                  uint32_t layer_end, const struct step_shape *s, struct cost *out);

/* From shard `shard` of a stage to that of the next; bytes_s: the part that the bytes take. */
struct cost_hop {
    double total_s, bytes_s;
};
void cost_hop_make(const struct cost_model *m, const uint32_t *from, const uint32_t *to, uint32_t n_shards,
                   uint32_t shard, const struct step_shape *s, struct cost_hop *out);

#endif
