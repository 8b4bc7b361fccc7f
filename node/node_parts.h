/* The inside of a node, shared by node.c (the loop), node_setup.c (hello, plan, loading, ready), node_weights.c
 * (where slices come from), node_meet.c (shards of a stage), node_back.c (what comes back to rank 0) and
 * node_idle.c (ranks without a cell). */
#ifndef NODE_NODE_PARTS_H
#define NODE_NODE_PARTS_H

#include "model/gguf.h"
#include "model/program.h"
#include "node/cores.h"
#include "node/frame.h"
#include "node/gate.h"
#include "node/sample.h"
#include "node/stage.h"
#include "node/wire.h"

/* Messages being received, computed on, or sent on. One is computed, one is on its way in, two on their
 * way out; a slower receiver holds the sender back. */
#define SLOTS 4
#define PINGS_MAX 64 /* unanswered; more are dropped, the deadline is near anyway */

/* One message on its way through this rank: a frame, then from a multiple of 64 the hidden
 * rows [n_rows, dim]. Received, computed in place, sent on from the same memory. */
struct slot {
    uint8_t *data;
    size_t n_bytes;
    wire_ticket receive;
    wire_ticket *sends; /* [n_shards] */
    uint32_t n_sends;
    int is_busy; /* posted, or not yet sent on */
};

/* Steps of one kind, with what they waited for other shards. */
struct step_tally {
    uint64_t n_steps, n_rows;
    int64_t us;
};

/* Where the time of the loop went, by this rank's clock; no time counts twice, and what is left over went to other
 * frames. Waits for the other shards of the stage are kept where they happen, see share_us in node.c. */
struct tally {
    int64_t busy_us; /* steps, from the message to the last send, less the waits for shards */
    int64_t wait_us; /* nothing to compute */
    int64_t send_us; /* the next message could not be taken in: every slot held one that was still being sent */
    struct step_tally one_row, many; /* many: of several rows */
};

/* One JSON object of every rank, for HELLO, READY and STATS. Rank 0. */
struct gather {
    enum frame_kind kind;
    uint32_t id;
    struct bytes *text; /* [size] */
    int n_missing;
};

/* What rank 0 knows of the way back. */
struct back {
    struct gather gather;
    struct bytes frame;      /* coming in */
    uint64_t *loaded_bytes;  /* [size] */
    uint64_t total_bytes;
    int64_t *heard_us;       /* [size] wire clock */
    uint32_t *pongs;         /* [n_shards] pings that came through each column of shards */
    uint32_t ping_ids[PINGS_MAX], n_pings, n_pongs; /* forwarded, answered */
    uint32_t n_in_flight;    /* steps */
    int64_t waiting_us;      /* wire clock: since when nothing came of what is under way */
};

struct node {
    struct wire *w;
    int rank, size; /* by cells once there is a plan: ranks [n_cells, size) have none */
    int n_cells;
    struct gate *gate; /* rank 0 */
    struct plan_message plan;
    struct cell cell;
    struct step_limits limits;
    int first, next; /* rank of shard 0 of this stage; rank that gets what this one made, -1 none */
    struct gguf *gguf;
    struct program *program;
    struct weights *weights; /* until all are ready */
    struct backend *backend;
    struct stage *stage;
    struct meet *meet;   /* NULL: a stage of one shard */
    struct board *board; /* NULL: it meets the shards of its host by messages, too */
    struct sampler *sampler; /* last stage, shard 0 */
    float *logits;           /* [outs, n_vocab] there */
    struct result_out outs[STEP_OUTS_MAX];
    struct result_top tops[STEP_OUTS_MAX * TOP_LOGPROBS_MAX];
    struct bytes raw_logits, raw_hidden, result;

    struct slot slots[SLOTS];
    int slot_head, slot_post; /* next message, next slot to post: a ring */
    struct back back;

    int64_t gap_us;        /* between the last two steps, 0: they do not follow each other */
    int has_large;         /* the last step was too large to arrive while nobody looks */
    int64_t heard_us;      /* wire clock: last message of the rank before, or the coordinator */
    int64_t told_us;       /* clock: last progress or sign of life sent */
    struct cores cores;    /* is_bound: they were taken, for good */
    int is_measuring;      /* what is counted as loaded are parts of probe.c's work */
    int is_reported;       /* the failure is another rank's and the coordinator knows */
    int is_stopped, is_ready;
    int is_rank_0_lost;    /* no use in telling it */
    int64_t load_us;
    struct tally tally;
};

static inline int has_cell(const struct node *n) { return n->rank < n->n_cells; }

static inline int is_last_stage(const struct node *n) {
    return n->cell.stage + 1 == n->cell.n_stages;
}

/* node.c: what this rank has done so far goes to the coordinator. */
err stats_put(struct node *n, uint32_t id);

/* node_setup.c: to the end of loading. OK with is_stopped when the coordinator had enough. */
err node_setup(struct node *n);
/* Rank 0: all are ready, the others may leave the set-up. */
err setup_go(struct node *n);
/* Other ranks: the next frame of rank 0 that is no sign of life. */
err setup_receive(struct node *n, struct bytes *frame, struct frame_header *h);

/* node_weights.c. Opens the model as the plan says, n->gguf: on this host, or at rank 0. */
#define WEIGHTS_PAUSE_US 100 /* while slices are sent */
err weights_open(struct node *n);
const struct source *weights_source(const struct node *n);
int weights_are_sent(const struct node *n);
/* Moves slices that are sent; often, until all are ready. *is_busy: something moved. */
err weights_turn(struct node *n, int *is_busy);
/* This rank has all of its own. */
err weights_finish(struct node *n);
err weights_close(struct node *n);
/* Rank 0: FRAME_WANT. */
err weights_take_request(struct node *n, int from, const void *body, size_t n_bytes);

/* node.c: moves messages on while the device computes; *next_us: when it will be time again. */
err node_look(struct node *n, int64_t *next_us);

/* Ranks of the host that this one is on, itself included. */
uint32_t setup_ranks_here(const struct node *n);
/* Rank 0: waits until all ranks have answered; is_long: and tells how far they are. `what`: "to say hello". */
err setup_gather(struct node *n, int is_long, const char *what);
/* While another thread works: once in a while, with how far it is. The main thread's part, MPI's only user. */
err setup_watch(struct node *n, uint64_t done);
/* Before the first call of OpenCL, and again with must_bind once the device is open. */
err setup_cores(struct node *n, uint32_t n_threads, int must_bind);

/* node_meet.c */
struct exchange meet_exchange(struct node *n);
/* Once all shards of this stage have loaded: how they will meet. */
err meet_begin(struct node *n);
void meet_free(struct meet *m);

/* node_idle.c. Of a rank without a cell: to the end of the job. */
err idle_run(struct node *n);
/* Rank 0, of those that have none: they live and hear that it does; they get a frame that all should see. */
err idle_watch(struct node *n);
err idle_tell(struct node *n, const struct frame_header *h);

/* node_back.c */
err back_init(struct node *n);
void back_free(struct node *n);
/* Sends one frame to rank 0; there it is handled at once. */
err back_put(struct node *n, enum frame_kind kind, uint32_t id, const void *body, size_t n_bytes);
err back_put_frame(struct node *n, const struct bytes *frame);
/* Rank 0: moves the link's bytes and takes what came back. Also called while waiting for shards. */
err back_poll(void *node);
/* Rank 0: the answers of all ranks are wanted. */
void back_gather(struct node *n, enum frame_kind kind, uint32_t id);
/* Rank 0: a ping goes out. 0 when too many are. */
int back_ping(struct node *n, uint32_t id);
/* Rank 0: a step goes out. */
void back_step(struct node *n);
/* Rank 0: the rank that an answer is missing from, -1 when nothing is under way. */
int back_missing(const struct node *n);

#endif
