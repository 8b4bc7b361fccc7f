/* Window: what each rank did between two readings of its figures. The question for them walks through the stages in
 * order with the steps, so a window that was asked for while steps were under way holds the same steps of every rank,
 * and each measures it with its own clock: no clocks are compared. Pure. */
#ifndef COORDINATOR_WINDOW_H
#define COORDINATOR_WINDOW_H

#include <stdint.h>

#include "coordinator/engine.h"

/* Of one rank. The four shares are of its window and never of the same time; what is left went to other messages. */
struct window {
    double seconds;
    double busy;    /* computing */
    double share;   /* waiting for other shards of the stage */
    double sending; /* every buffer still held what was being sent */
    double bubble;  /* nothing to compute */
    uint64_t n_steps;
    double step_s;  /* computing and waiting for shards, mean of a step; 0 without steps */
    uint64_t bytes_sent;
};

void window_between(const struct engine_rank *begin, const struct engine_rank *end, struct window *out);

/* The figures of a rank as of a job that had begun at `begin`. */
void window_difference(const struct engine_rank *begin, const struct engine_rank *end, struct engine_rank *out);

/* Seconds that a step spends in computing on its way through all stages: of each the slowest shard. windows
 * [n_stages * n_shards]. */
double window_compute_s(const struct window *windows, uint32_t n_stages, uint32_t n_shards);

#endif
