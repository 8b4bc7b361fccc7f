/* Plan: who holds what. The grid of stages and shards, the layers of each
 * stage, and the memory of each rank, all known before anything is loaded.
 * Pure: depends on the program and the request only. */
#ifndef PARTITION_PLAN_H
#define PARTITION_PLAN_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/program.h"
#include "partition/slice.h"

struct plan_request {
    uint32_t n_stages, n_shards, n_ranks; /* 0: chosen, see plan_grid */
    uint32_t context;  /* positions of one sequence */
    uint32_t n_blocks; /* KV blocks of all sequences; 0: of one */
    uint32_t rows_max; /* of a step */
};

/* One rank. All memory in bytes. */
struct plan_cell {
    uint32_t rank, stage, shard; /* rank: of the plan, not of the job */
    uint32_t device;             /* of the cluster that the plan was made for, which in a job is its rank there */
    uint32_t layer_begin, layer_end;
    struct cut cut;
    uint64_t weight_bytes; /* packed */
    uint64_t kv_bytes;
    uint64_t work_bytes; /* values of a step and scratch, about */
};

struct plan {
    uint32_t n_stages, n_shards, n_ranks; /* rank = stage * n_shards + shard */
    uint32_t context, n_blocks, rows_max; /* n_blocks: KV blocks of all sequences */
    uint32_t *layer_begin;          /* [n_stages + 1] */
    float *shares;                  /* [n_stages][n_shards] */
    struct plan_cell *cells;        /* [n_ranks] */
};

/* The grid. Of three numbers (0: not given) any two give the third; stages or shards
 * alone: the other is 1; ranks alone: as many stages as divide it and have a
 * layer each, and shards for the rest; nothing: one rank. ERR_USAGE if they
 * contradict each other or the model. */
err plan_grid(const struct program *p, uint32_t stages, uint32_t shards, uint32_t ranks,
              uint32_t *n_stages, uint32_t *n_shards);

/* KV blocks of one sequence of `context` positions. */
uint32_t plan_context_blocks(uint32_t context);

/* Layers are shared out so that the largest stage is as small as can be, in bytes of
 * weights, embedding and head included; among those, as evenly as can be. */
err plan_create(const struct program *p, const struct plan_request *r, struct plan **out);
/* The same where some things are chosen already; NULL: as above. */
struct plan_choice {
    const uint32_t *layer_begin; /* [n_stages + 1] */
    const float *shares;         /* [n_stages][n_shards] */
    const uint32_t *devices;     /* [n_ranks], of a cluster; NULL: those of the ranks' numbers */
};
err plan_create_with(const struct program *p, const struct plan_request *r, const struct plan_choice *choice,
                     struct plan **out);
void plan_free(struct plan *plan);

/* The parts of a cell's memory. Weights, packed, of a shard with this cut in a stage of layers [begin, end);
 * `scratch` [n_weights]. */
uint64_t plan_weight_bytes(const struct program *p, const struct cut *cut, uint32_t begin, uint32_t end,
                           struct holding *scratch);
/* KV cache of one position in one layer. */
uint64_t plan_position_bytes(const struct program *p, const struct cut *cut);
/* Buffers that the values of a step need, and attention's sums per chunk: of a cell whose stage, shard, layers and
 * cut are filled; of the plan its context, rows_max and n_shards count. */
uint64_t plan_work_bytes(const struct program *p, const struct plan *plan, const struct plan_cell *c);

uint64_t plan_cell_bytes(const struct plan_cell *c);
/* Heads and width of the feed-forward part that a cell computes. */
void plan_cell_heads(const struct program *p, const struct plan_cell *c, struct range *heads,
                     struct range *kv_heads);

/* Memory that some ranks share: a host's, or one device's. */
struct plan_pool {
    const char *host;
    uint64_t available; /* bytes */
};

/* Checks the need of every pool; pool_of [n_ranks] says which one a rank draws
 * from. ERR_MEMORY names rank and host, how much is missing and what would fit. */
err plan_check_memory(const struct program *p, const struct plan *plan,
                      const struct plan_pool *pools, uint32_t n_pools, const uint32_t *pool_of);

/* A table, one line per rank. */
err plan_print(const struct program *p, const struct plan *plan, struct bytes *out);

/* "3.2 GB" (10^9) in a short text. */
void plan_bytes_text(uint64_t n, char out[16]);

#endif
