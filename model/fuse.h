/* Fusion: which ops of a program run as one launch.
 *
 * A pass over the list of ops that looks at who writes and who reads a value, and
 * knows no architecture. An op may be brought forward to the group it joins, past ops
 * that touch none of its values; ops that fit nowhere stay alone. What is computed
 * does not change by a bit: values inside a group are merely not stored where
 * nobody else reads them. Read-only after fuse_create; lives no longer than its program. */
#ifndef MODEL_FUSE_H
#define MODEL_FUSE_H

#include "model/program.h"

#define FUSED_OPS_MAX 8
#define FUSED_LINEAR_MAX 3 /* products of one input */

enum fused_kind {
    FUSED_NONE,   /* the ops run one after the other; nearly always one */
    FUSED_LINEAR, /* linear, up to three of one input */
    FUSED_SUM,    /* of whole rows, in this order: reduce, bias, add, norm, quantize */
    FUSED_HEADS,  /* biases and rope of q, k, v, and kv-write */
    FUSED_ACT     /* biases, act or glu, quantize */
};

struct fused {
    enum fused_kind kind;
    uint32_t n_ops;
    const struct op *ops[FUSED_OPS_MAX]; /* in the program's order */
    uint32_t keeps;                      /* bit i: an op elsewhere reads what ops[i] wrote */
};

struct fusion {
    uint32_t n_groups;
    struct fused *groups; /* in the order in which they run */
};

/* Of the ops that a stage of layers [layer_begin, layer_end) runs. */
err fuse_create(const struct program *p, uint32_t layer_begin, uint32_t layer_end, struct fusion *out);
void fuse_free(struct fusion *f);

/* The op of this kind, or NULL. */
const struct op *fused_find(const struct fused *f, enum op_kind kind);
/* The op of this kind that works in place on `value`, or NULL. */
const struct op *fused_find_on(const struct fused *f, enum op_kind kind, int value);
/* Whether the result of `op` (in f, may be NULL) is read elsewhere. */
int fused_keeps(const struct fused *f, const struct op *op);

/* One line per group of the whole program, appended. */
err fuse_print(const struct program *p, struct bytes *out);

#endif
