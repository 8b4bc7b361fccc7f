/* What the files of the scheduler share: who runs, what is under way, the step being built. */
#ifndef COORDINATOR_SCHEDULER_PARTS_H
#define COORDINATOR_SCHEDULER_PARTS_H

#include "coordinator/blocks.h"
#include "coordinator/scheduler.h"
#include "coordinator/waiting.h"

enum member_state {
    MEMBER_WAITS,  /* holds no block */
    MEMBER_PROMPT, /* rows are there to be computed: of its prompt, or all again */
    MEMBER_READY,  /* its newest token is the next row */
    MEMBER_AWAY    /* all its rows are in steps: a result comes */
};

/* A sequence's stay. */
struct member {
    struct waiting_place place; /* the first field: a place is its member */
    struct sequence *q;
    enum member_state state;
    struct member *prev, *next; /* in `prompts` or `ready` */
    uint32_t queue;
    int priority;
    uint64_t arrival;
    int is_aged;     /* goes before all priorities: was let in because it waited longest, or had to leave too often */
    int is_begun;    /* had a row in a step */
    int is_decoding; /* has a token, and no row to compute but the newest */
    uint32_t n_preemptions;
    int32_t *table; /* [table_cap] its blocks; NULL while it waits */
    uint32_t n_table;
    uint32_t n_indexed, n_known; /* of its first blocks: in the index; known. The others are its own */
    size_t n_given;   /* rows that are in steps or in known blocks */
    size_t n_reached; /* the most that n_given ever was */
    uint64_t step;    /* the newest with rows of it */
    uint32_t part;    /* of that step */
};

struct member_list {
    struct member *first, *last;
};

/* Rows [begin, end) of a member in a step. */
struct part {
    struct member *m; /* NULL: it left meanwhile */
    size_t begin, end;
    int is_decode;
    uint32_t n_outs, out_begin, hidden_begin;
};

/* A step that was given out. */
struct flight {
    struct part *parts; /* [rows_max] */
    uint32_t n_parts, n_outs;
    int has_decode;
};

struct scheduler {
    struct scheduler_options o;
    uint32_t outs_max, edits_max, table_cap, running_max;
    struct blocks *blocks;
    struct waiting *waiting;
    struct member **running; /* [n_running] by rank: whose turn to give blocks back comes last is first */
    uint32_t n_running, n_decoding;
    struct member_list prompts, ready; /* those longest without a row first */
    int32_t *tables, **free_tables;    /* [running_max, table_cap]; [n_free_tables] */
    uint32_t n_free_tables;
    uint64_t *touched; /* [n_blocks] the newest step that wrote there */
    struct flight *flights; /* [cap_flights] a ring */
    uint32_t cap_flights, first_flight, n_flights, n_decode_flights;
    uint64_t now, n_arrived; /* steps begun; members so far */
    /* The step being built. */
    struct flight *flight;
    uint32_t n_rows, n_outs, n_edits, n_table;
    int may_wait; /* for a block that another is computing */
    int32_t *token, *position, *table_begin, *table; /* [rows_max] each, [n_table] */
    struct step_out *outs;                           /* [outs_max] */
    struct step_edit *edits;                         /* [edits_max] */
    uint64_t n_preemptions, n_prefix_tokens, n_prefill_tokens, n_decode_tokens;
};

void members_append(struct member_list *l, struct member *m);
void members_remove(struct member_list *l, struct member *m);

/* Gives the blocks of one that runs back; it waits at the front of its queue. */
void member_preempt(struct scheduler *s, struct member *m);

/* Chooses rows for the step s->flight, gives them blocks and fills the step's arrays. */
void step_build(struct scheduler *s, uint32_t prefill_rows);

static inline size_t blocks_for(size_t n_rows) { return (n_rows + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS; }

#endif
