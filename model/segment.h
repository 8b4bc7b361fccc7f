/* Segments: the fixed order in which a contraction is summed. Pure arithmetic.
 *
 * A contraction is cut into S segments, equal runs of units. Each segment
 * is summed in increasing order; the S sums are added by one binary tree: the
 * index range is halved (left = lower half, rounded down) again and again. A
 * shard that owns segments [begin, end) adds the maximal subtrees inside its
 * range and shares only those sums, at most 2 log2 S of them; whoever has the
 * subtree sums of all shards joins them to the same tree. So any cut gives the
 * same bits. */
#ifndef MODEL_SEGMENT_H
#define MODEL_SEGMENT_H

#include <stdint.h>

#define SEGMENTS_MAX 16
#define SUBTREES_MAX 8 /* that one shard owns */

struct range {
    uint32_t begin, end; /* half-open */
};

/* The number of segments of n_units units: the largest divisor of n_units
 * that is at most SEGMENTS_MAX. */
uint32_t segment_count(uint32_t n_units);

/* How a run of leaves is added: after leaf i (counted from 0 inside the run)
 * the two youngest sums are added merges[i] times; where emits[i] is set, the
 * youngest sum then leaves as a result. */
struct tree {
    uint32_t n_leaves, n_results;
    uint8_t merges[SEGMENTS_MAX];
    uint8_t emits[SEGMENTS_MAX];
};

/* The subtrees that an owner of segments `own` of `n_segments` adds itself. */
void tree_own(uint32_t n_segments, struct range own, struct tree *out);

/* What owners who stand next to each other make together: its leaves are the results of all their tree_own in
 * order (`own` [n_owners]), its results the subtrees of their whole run: one, the whole sum, where that is
 * everything. */
void tree_join(uint32_t n_segments, const struct range *own, uint32_t n_owners, struct tree *out);

#endif
