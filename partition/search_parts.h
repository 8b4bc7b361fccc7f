/* What the files of the search share. Private to partition/.
 *
 * A plan is searched for one number of shards at a time: devices are put together into teams of that many, each a
 * stage; `search_stage.c` says what a team needs for any run of layers, with the shares that suit it best;
 * `search_layers.c` finds the best runs for teams in a given order; `search_exact.c` tries all orders,
 * `search_greedy.c` promising ones. A value is seconds per token, less is better, INFINITY: does not fit. */
#ifndef PARTITION_SEARCH_PARTS_H
#define PARTITION_SEARCH_PARTS_H

#include "partition/cost_parts.h"
#include "partition/search.h"

#define NO_DEVICE UINT32_MAX

/* A shard that owns some parts of n_parts of every axis, with the rest of the cut as cut_make says. */
struct part_profile {
    int is_known;
    struct cut cut;
    uint64_t *bytes_before;       /* [n_layers + 1] weights of layers [0, l), embedding and head with their layers */
    uint64_t all_bytes;           /* of all layers: a tied head is not held twice */
    uint64_t layer_kv_bytes;
    uint64_t work_bytes[2][2];    /* [is shard 0][is last stage] */
    double **seconds_before;      /* [n_classes] [n_layers + 1] of layers [0, l), see cost_add_layer; NULL: not yet */
};

/* Plans of so many shards. */
struct search_grid {
    uint32_t n_shards, n_parts;    /* shares are counted in parts: segments, where there are enough */
    uint32_t n_vectors;            /* shares that are tried with every team; 0: a few that suit each */
    uint8_t *vectors;              /* [n_vectors][n_shards] parts */
    struct part_profile *profiles; /* [n_parts + 1][n_parts + 1], by first part and end */
};

/* A team: devices of a stage in order of its shards. */
struct search_team {
    uint32_t devices[SEGMENTS_MAX];
    struct search_table *table;
};

/* What teams like this one need for a stage of layers [b, e). */
struct search_table {
    struct search_table *next;
    uint32_t devices[SEGMENTS_MAX]; /* of one of them */
    struct cost_ways ways;
    int is_full;        /* 0: stages that begin or end the model only */
    double *seconds;    /* see table_at */
    uint16_t *vectors;  /* the best shares */
    uint32_t n_own;     /* shares of its own */
    uint8_t own[4][SEGMENTS_MAX];
};

struct search {
    struct cost_model model;
    const struct search_request *request;
    struct step_shape shape;
    struct plan sizes;       /* context, n_blocks, rows_max, n_shards of what is being tried */
    uint32_t n_devices, n_layers;
    uint32_t pinned;         /* the device of cell 0, or NO_DEVICE */
    uint32_t n_most;         /* cells */
    uint32_t n_classes;
    uint32_t *class_of;      /* [n_devices] alike in all that counts */
    uint32_t *pool_of;       /* [n_devices] memory that devices share */
    uint32_t n_pools;
    uint64_t *pools, *caps;  /* [n_pools], [n_devices] bytes; UINT64_MAX: not known */
    double *pool_parts;      /* [n_pools] of a pool that one device may take; 1 where sharing is looked at */
    struct holding *holdings; /* [n_weights] scratch */
    struct search_grid grid;
    struct search_table *tables;
    /* the best so far */
    double best;
    uint32_t best_stages, best_shards;
    uint32_t *best_devices, *best_layers;
    float *best_shares;
    double *best_with;       /* [n_devices] of plans that use it */
    uint64_t n_tried, n_steps, steps_max; /* work done and allowed, about in nanoseconds */
    int is_exact;
};

static inline int search_is_latency(const struct search *s) { return s->request->goal == GOAL_LATENCY; }
/* A stage, or a way, after others. */
static inline double search_join(const struct search *s, double a, double b) {
    return search_is_latency(s) ? a + b : a > b ? a : b;
}

/* ---- search_stage.c ---- */

err search_grid_open(struct search *s, uint32_t n_shards, int all_shares);
void search_grid_close(struct search *s);
/* The table of a team, made or found. */
err search_table_get(struct search *s, const uint32_t *devices, int is_full, struct search_table **out);
double search_seconds(const struct search *s, const struct search_table *t, uint32_t layer_begin, uint32_t layer_end);
/* What a device alone would need for all layers, were there the memory. */
err search_all_seconds(struct search *s, uint32_t device, double *out);
/* Shares of a stage: [n_shards] parts. */
const uint8_t *search_shares(const struct search *s, const struct search_table *t, uint32_t layer_begin,
                             uint32_t layer_end);
/* The i-th shares that come into question; NULL: there are no more. */
const uint8_t *search_vector(const struct search *s, const struct search_table *t, uint32_t i);
/* One stage with these shares, each figure of the shard that has most. own_s is what it adds to a value, busy_s what it
 * would need if it never rested: a step of one stream takes no less, see cost_step_s. */
struct stage_time {
    double own_s, busy_s, spared_s;
};
/* INFINITY where it does not fit; bytes: [n_shards]. */
struct stage_time search_stage_time(struct search *s, const struct search_table *t, const uint32_t *devices,
                                    const uint8_t *parts, uint32_t layer_begin, uint32_t layer_end, uint64_t *bytes);

/* ---- search_layers.c ---- */

/* Teams in order, and the best runs of layers for them, row by row: value[k][l] of layers [0, l) on the first k. */
struct search_order {
    uint32_t n_teams, cap_teams;
    struct search_team *teams; /* [cap_teams] */
    double *value;             /* [cap_teams + 1][n_layers + 1] */
    uint32_t *from;            /* the same: where the last stage begins */
};
err search_order_open(const struct search *s, uint32_t cap_teams, struct search_order *out);
void search_order_close(struct search_order *o);
/* Adds a team; with is_last only all layers count. */
void search_order_add(struct search *s, struct search_order *o, const struct search_team *team, int is_last);
void search_order_drop(struct search_order *o);
/* What the teams so far reach with all layers, as a plan: counted, and kept if it is the best. */
err search_order_weigh(struct search *s, struct search_order *o);

/* ---- search_exact.c, search_greedy.c ---- */

err search_exact(struct search *s);
err search_greedy(struct search *s);

#endif
