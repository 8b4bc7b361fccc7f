/* Scheduler: which rows of which sequences travel in the next step. Continuous
 * batching: sequences join and leave between steps. Rows that continue an answer go
 * first, prompts fill what is left of the step, so that a long prompt delays nobody
 * by more than one step. KV blocks are handed out as they are needed; where they
 * run out, the sequence that came last gives its own back and is computed again later.
 *
 * Prompts. Half of the rows for prompts go to the one that is first by rank (below), the others have the other half in
 * turn: with k of them, each has rows in k steps, however long the first is. A sequence whose next block another is
 * computing just now waits for it; a block that is known is not computed at all.
 *
 * Rank. By priority, then by order of arrival; but whoever was let in because it waited longest
 * (coordinator/waiting.h), or lost its blocks twice, is before all priorities from then on. Where a block is needed
 * and none is free or only known, the last by rank gives its own back, if it is after the one that needs it, else
 * that one waits. So the first is never stopped: it has a row in every second step that has some of prompts, and
 * then a token at least every 5 * n_groups steps.
 *
 * Nobody starves. Who has m others before it in order of arrival is let in with the next 8 * (m + 1). Between two of
 * these at most as many end as run, and the first by rank ends within 2 * prompt + 5 * n_groups * answer steps.
 *
 * Pure: no clock, no random numbers, no I/O; the same calls give the same decisions.
 * One thread. Sequences belong to the caller and outlive their stay.
 *
 *     scheduler_add(...)
 *     while (scheduler_n_sequences(s)) {
 *         while (fewer steps under way than the engine holds, and scheduler_next gives one) submit it
 *         scheduler_commit(s, the oldest result, ...)
 *     }
 */
#ifndef COORDINATOR_SCHEDULER_H
#define COORDINATOR_SCHEDULER_H

#include <stdint.h>

#include "base/err.h"
#include "coordinator/sequence.h"
#include "node/frame.h"

struct scheduler;

struct scheduler_options {
    uint32_t n_blocks;  /* of the KV cache, ids 0 .. n_blocks - 1 */
    uint32_t rows_max;  /* of a step */
    uint32_t n_groups;  /* groups of sequences whose steps follow each other through the pipeline: the stages.
                           So every stage has work; one group at one stage, or weights would be read twice */
    uint32_t context;   /* positions of one sequence; n_blocks hold one at least */
    uint32_t n_vocab;   /* bounds the edits of a step */
    void (*on_begin)(void *context, struct sequence *q); /* its first row is in a step; may be NULL, and must not
                                                            call the scheduler */
    void *context_of_begin;
};

err scheduler_create(const struct scheduler_options *o, struct scheduler **out);
/* Fewer groups than at the creation, or as many again: what a job turned out to have. No step may be under way. */
void scheduler_set_groups(struct scheduler *s, uint32_t n_groups);
void scheduler_free(struct scheduler *s); /* not the sequences */

/* Waits for its turn. `key`: keys take turns, so that many sequences of one do not keep out
 * another's; higher priorities go before all lower ones. ERR_REQUEST: it is longer than the context, or the priority
 * is beyond WAITING_PRIORITY_MAX. */
err scheduler_add(struct scheduler *s, struct sequence *q, uint32_t key, int priority);
/* Out, at once: its blocks are free; what is under way of it is dropped as it comes. */
void scheduler_remove(struct scheduler *s, struct sequence *q);

/* The next step, if one may start before more results come: *has_step; always, with none under way and sequences
 * there. Its arrays are valid until the next call. Steps must be computed in the order in which they are given. While
 * others decode, at most prefill_rows of its rows are of prompts (0 now and then is fine; always would keep prompts
 * from being read), and one of prompts alone starts only where a group has no step under way; with none decoding a step
 * may be full with one group, with more it has as many rows as bring its prompts through their stages soonest. */
err scheduler_next(struct scheduler *s, uint32_t prefill_rows, struct step *out, int *has_step);

/* The result of the oldest step that has none yet. `each` hears of every sequence that this
 * gave something to (sequence_taken); one that is finished (sequence_finish) has left the scheduler by then,
 * and the callee may free it. A failed request is reported by `e`, and has left too. */
err scheduler_commit(struct scheduler *s, const struct result *r,
                     void (*each)(void *context, struct sequence *q, err e), void *context);

/* The job is gone with all its cache: every sequence waits to be computed again, steps under way are forgotten. */
void scheduler_reset(struct scheduler *s);

struct scheduler_counts {
    uint32_t n_waiting, n_running;
    uint32_t n_decoding;       /* of those that run: their prompts are computed */
    uint32_t n_blocks_used, n_blocks_cached; /* held by sequences; free, but their contents are known */
    uint64_t n_preemptions;
    uint64_t n_prefix_tokens;  /* of prompts, not computed since their blocks were known */
    uint64_t n_prefill_tokens, n_decode_tokens; /* rows of steps */
};
void scheduler_counts(const struct scheduler *s, struct scheduler_counts *out);
uint32_t scheduler_n_sequences(const struct scheduler *s);

#endif
