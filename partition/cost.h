/* Cost: how long a cell of a plan needs for a step, and what a whole plan therefore reaches. Pure arithmetic over
 * program, cluster and plan; docs/planning.md does the sums by hand.
 *
 * A step of r rows, of which o are wanted, over a cache of n positions per row, in a cell of layers [b, e):
 *
 *     weights_s  sum over matrices: one + (r - 1) x more, at least r x row, where
 *                row  = 2 x rows x cols / products_per_s, one = the larger of bytes / row_per_s and row,
 *                more = (128 x row - one) / 127, at least 0: measured at 1 and at 128 rows, and the line between; where
 *                few_per_s is known two lines, which meet at 16 rows, in 16 x 2 x rows x cols / few_per_s
 *                bytes: packed, of this shard's slice, rows x cols its shape. A mixture of experts: this for each
 *                of n = n_experts x (1 - (1 - n_used / n_experts)^r), the experts that r rows hit, with
 *                r x n_used / n rows. The head: o rows, nothing where o = 0. Tables are looked up: nothing.
 *     attend_s   sum over layers: the larger of  max(o, 1) x n x kv / read_per_s  and
 *                4 x heads x n x r / (0.6 x f32_per_s): so much of that peak it reaches (docs/measurements.md, 7.12)
 *                kv: bytes of a position's keys and values here; heads: values of the query heads here; n at most the
 *                layer's window. Wanted rows are of texts of their own; the others read one text's cache together.
 *     plain_s    r x values that norms, gates and rotations give / plain_per_s
 *     launch_s   step_s + launches x launch_s: a launch per group of ops that run as one (model/fuse.h), two for
 *                attention beyond ATTEND_CHUNK positions, none for what only meets other shards
 *     copy_s     bytes between host and device / copy_per_s: rows that come in and go on (r x dim x 4 each), logits,
 *                of sums a shard's own and the whole; 0 where they share memory
 *     share_s    per sum of partial results (two a layer), of b = r x dim x 4 bytes, between n crews (crew.h):
 *                the faster of two ways (node/sums.h). At once: the longest latency from another shard, plus each
 *                other crew's tree_own results x b, or what goes out if that is more, in seconds of the links
 *                between. In parts: two latencies, and each way (results + 1) x b / n. Where a crew does not meet in
 *                memory, also what its other shards send to the first one, and get back. Plus step_s where the device
 *                has to stop for messages (shards on several hosts, or a device that is not its host). At the end shard
 *                0 gets o x n_vocab x 4 bytes of logits from the others.
 *     saved_s    under a quota of processor time, a share q of what the threads ask for: what is not used during a wait
 *                can be used after it, as from a token bucket of quota_spare_s; messages take of it meanwhile
 *                quota_message_s each, and bytes out and in / quota_link_per_s: min(wait - messages, quota_spare_s).
 *                One message to and from other stages, one for an exchange between two crews, half of one for each crew
 *                more, since half of what it takes is the wait, of which there is one. (1 - q) x computing at most;
 *                below 0 where messages take more than waits give. Since work begins at any moment of a period, what is
 *                still held back, w = (1 - q) x computing - all that is spared, is on average (w + b)^2 / 4b where it
 *                is between -b and b, the sum over waits of min(3/4, (wait / quota_spare_s)^2) x quota_spare_s:
 *                long waits meet the period at any point of it, of short ones there are many in each
 *     total_s    the sum of these, less saved_s
 *     rest_s     what a step takes less that is the only one of all stages. Where these have one shard each, it has all
 *                of the memory that stages may share: its bytes / row_per_s become bytes / alone_per_s (shards read at
 *                the same moments, more so than stages do). And its stage saves of a quota while others compute:
 *                another quota_spare_s, where it has not all layers, as in a long wait. A step of the only stream takes
 *                total_s - rest_s; where there is always work there is no rest
 *
 * A stage takes as long as its slowest shard. From stage to stage go r x dim x 4 bytes per shard; shards that send
 * between the same two hosts share the way: a hop is latency_s + n_shards_there x bytes / bytes_per_s, the way back to
 * cell 0 a latency. One stream: stages and hops follow each other, s in all, but no step takes less than m, total_s of
 * any stage with memory of its own: what a rest spares of a quota was given meanwhile, so over many steps nothing is
 * gained. Where the two are less than b apart, 3/4 of what that stage's rest spares, it takes m + (s - m + b)^2 / 4b.
 * Several streams, or the steps of a long prompt: they work at the same time, and the slowest stage counts, or the hop
 * whose bytes take longest. */
#ifndef PARTITION_COST_H
#define PARTITION_COST_H

#include "model/program.h"
#include "partition/cluster.h"
#include "partition/plan.h"

/* What a step asks of every stage. */
struct step_shape {
    uint32_t n_rows, n_outs;
    uint32_t n_positions; /* of the cache that each row attends to */
    int is_alone;         /* where it is the only step of all stages no other device computes: stages of one shard */
};

struct cost {
    double weights_s, attend_s, plain_s, launch_s, copy_s;
    double share_s;  /* exchanges with the other shards of the stage */
    double saved_s;  /* of a quota, in waits for them; below 0: lost to messages */
    double total_s;  /* of the step in this cell, where work never ends */
    double crowd_s;  /* less of weights_s, where it is the only step of all stages */
    double rest_s;   /* less in all, where it is the only step of all stages */
};

/* ERR_CONFIG names a device or a link whose rates are not known: see cluster_complete. */
err cost_check(const struct cluster *c);

/* Of cell `cell` of the plan on its device. */
err cost_cell(const struct program *p, const struct cluster *c, const struct plan *plan, uint32_t cell,
              const struct step_shape *s, struct cost *out);

struct forecast_cell {
    struct cost decode, prefill; /* a step of one row; of rows_max rows */
    uint64_t hop_bytes;          /* to the next stage, per row */
    double hop_decode_s, hop_prefill_s; /* to the next stage; of the last one's shard 0 back to cell 0 */
    uint64_t share_bytes;        /* sent to other shards of the stage, per row */
    double load_s;
};

struct forecast {
    uint32_t n_positions;      /* cache positions that the decode steps attend to; prefill: half of them, the mean
                                  of a prompt of that length */
    double decode_per_s;       /* tokens per second of one stream */
    double streams_per_s;      /* tokens per second of as many streams as fill the pipeline (n_stages x 1 row) */
    double prefill_per_s;      /* tokens per second of a long prompt in steps of rows_max rows */
    double load_s;             /* until the last cell has read and packed its weights */
    uint32_t slowest_stage;    /* the bottleneck */
    char bottleneck[256];      /* in words */
    struct forecast_cell *cells; /* [n_ranks] */
};

/* For texts of half the context. */
err forecast_create(const struct program *p, const struct cluster *c, const struct plan *plan, struct forecast **out);
/* For texts of n_positions, at least 1. */
err forecast_create_at(const struct program *p, const struct cluster *c, const struct plan *plan, uint32_t n_positions,
                       struct forecast **out);
void forecast_free(struct forecast *f);

#endif
