#include "model/segment.h"

#include <string.h>

uint32_t segment_count(uint32_t n_units) {
    for (uint32_t s = SEGMENTS_MAX; s > 1; s--)
        if (n_units % s == 0) return s;
    return 1;
}

static uint32_t middle(uint32_t begin, uint32_t end) {
    return begin + (end - begin) / 2;
}

/* Walks the tree over [begin, end) in post-order. Subtrees that lie inside
 * `own` are written out as merges after their last leaf; `emit` says whether
 * a complete one leaves as a result. */
static void walk_own(uint32_t begin, uint32_t end, struct range own, int emit,
                     struct tree *out) {
    if (end <= own.begin || begin >= own.end) return;
    int whole = begin >= own.begin && end <= own.end;
    if (end - begin == 1) {
        out->n_leaves++;
    } else {
        uint32_t mid = middle(begin, end);
        walk_own(begin, mid, own, emit && !whole, out);
        walk_own(mid, end, own, emit && !whole, out);
        if (whole) out->merges[out->n_leaves - 1]++;
    }
    if (whole && emit) {
        out->emits[out->n_leaves - 1] = 1;
        out->n_results++;
    }
}

void tree_own(uint32_t n_segments, struct range own, struct tree *out) {
    memset(out, 0, sizeof *out);
    if (own.begin < own.end) walk_own(0, n_segments, own, 1, out);
}

/* The same for subtrees that have one owner as leaves. */
static void walk_join(uint32_t begin, uint32_t end, const struct range *own, uint32_t n_owners, int emit,
                      struct tree *out) {
    struct range all = {own[0].begin, own[n_owners - 1].end};
    if (end <= all.begin || begin >= all.end) return;
    int whole = begin >= all.begin && end <= all.end, is_leaf = 0;
    for (uint32_t i = 0; i < n_owners; i++) is_leaf |= begin >= own[i].begin && end <= own[i].end;
    if (is_leaf) {
        out->n_leaves++;
    } else {
        uint32_t mid = middle(begin, end);
        walk_join(begin, mid, own, n_owners, emit && !whole, out);
        walk_join(mid, end, own, n_owners, emit && !whole, out);
        if (whole) out->merges[out->n_leaves - 1]++;
    }
    if (whole && emit) {
        out->emits[out->n_leaves - 1] = 1;
        out->n_results++;
    }
}

void tree_join(uint32_t n_segments, const struct range *own, uint32_t n_owners, struct tree *out) {
    memset(out, 0, sizeof *out);
    if (own[0].begin < own[n_owners - 1].end) walk_join(0, n_segments, own, n_owners, 1, out);
}
