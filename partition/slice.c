#include "partition/slice.h"

#include <string.h>

/* The first of n items that belongs to shard i, by shares. Rounded so that the
 * borders of neighbours meet. */
static uint32_t border(uint32_t n, uint32_t n_shards, uint32_t i, const float *shares) {
    if (i == 0) return 0;
    if (i >= n_shards) return n;
    double before = 0, all = 0;
    for (uint32_t s = 0; s < n_shards; s++) {
        double share = shares ? (double)shares[s] : 1;
        if (s < i) before += share;
        all += share;
    }
    double at = before / all * n + 0.5;
    return at >= n ? n : (uint32_t)at;
}

static struct range unit_values(const struct axis_info *a, struct range units) {
    uint32_t begin = units.begin * a->unit, end = units.end * a->unit;
    return (struct range){begin < a->size ? begin : a->size, end < a->size ? end : a->size};
}

/* An axis that is contracted: whole segments. */
static void cut_segments(const struct axis_info *a, uint32_t n_shards, uint32_t shard,
                         const float *shares, struct range *segments, struct range *values) {
    segments->begin = border(a->n_segments, n_shards, shard, shares);
    segments->end = border(a->n_segments, n_shards, shard + 1, shares);
    uint32_t units = a->n_units / a->n_segments;
    *values = unit_values(a, (struct range){segments->begin * units, segments->end * units});
}

void cut_make(const struct program *p, uint32_t n_shards, uint32_t shard, const float *shares,
              struct cut *out) {
    memset(out, 0, sizeof *out);
    const struct axis_info *dim = &p->axes[AXIS_DIM], *vocab = &p->axes[AXIS_VOCAB];
    out->segments[AXIS_DIM] = (struct range){0, dim->n_segments};
    out->values[AXIS_DIM] = (struct range){0, dim->size};
    cut_segments(&p->axes[AXIS_HEADS], n_shards, shard, shares, &out->segments[AXIS_HEADS],
                 &out->values[AXIS_HEADS]);
    cut_segments(&p->axes[AXIS_FF], n_shards, shard, shares, &out->segments[AXIS_FF],
                 &out->values[AXIS_FF]);
    struct range units = {border(vocab->n_units, n_shards, shard, shares),
                          border(vocab->n_units, n_shards, shard + 1, shares)};
    out->values[AXIS_VOCAB] = unit_values(vocab, units);
    out->values[AXIS_EXPERTS] = (struct range){0, p->axes[AXIS_EXPERTS].size};

    struct range heads = out->values[AXIS_HEADS];
    if (heads.begin == heads.end) return; /* no heads, no keys */
    uint32_t group = p->n_heads / p->n_kv_heads;
    uint32_t first = heads.begin / p->head_dim / group;
    uint32_t last = (heads.end / p->head_dim - 1) / group;
    out->values[AXIS_KV] = (struct range){first * p->head_dim, (last + 1) * p->head_dim};
}

void slice_make(const struct weight *w, const struct cut *c, struct slice *out) {
    struct range rows = {0, w->rows}, cols = {0, w->cols};
    if (w->is_vector) {
        /* A vector shorter than DIM (of one head) is held whole like DIM itself. */
        if (w->out_axis != AXIS_DIM) cols = c->values[w->out_axis];
    } else if (!w->is_table) {
        rows = c->values[w->out_axis];
        cols = c->values[w->in_axis];
    }
    *out = (struct slice){w->row_begin + rows.begin, w->row_begin + rows.end,
                          w->col_begin + cols.begin, w->col_begin + cols.end};
}

static int slice_contains(const struct slice *a, const struct slice *b) {
    return a->row_begin <= b->row_begin && b->row_end <= a->row_end &&
           a->col_begin == b->col_begin && a->col_end == b->col_end;
}

void slice_holdings(const struct program *p, const struct cut *c, uint32_t layer_begin,
                    uint32_t layer_end, struct holding *out) {
    for (uint32_t i = 0; i < p->n_weights; i++) out[i] = (struct holding){.within = -1};
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];
        /* A reduce names its weight for the tree only. */
        if (!program_has_op(p, op, layer_begin, layer_end) || op->kind == OP_REDUCE) continue;
        for (int k = 0; k < 2; k++) {
            if (op->weight[k] < 0) continue;
            struct holding *h = &out[op->weight[k]];
            h->is_held = 1;
            slice_make(&p->weights[op->weight[k]], c, &h->slice);
        }
    }
    for (uint32_t i = 0; i < p->n_weights; i++) {
        if (!out[i].is_held || p->weights[i].is_table || p->weights[i].is_vector) continue;
        for (uint32_t t = 0; t < p->n_weights; t++)
            if (out[t].is_held && p->weights[t].is_table &&
                p->weights[t].tensor == p->weights[i].tensor &&
                slice_contains(&out[t].slice, &out[i].slice))
                out[i].within = (int)t;
    }
}
