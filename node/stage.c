/* Running a step: the program's ops of this cell, fused, one group after the other. */
#include "node/stage.h"

#include <string.h>

#include "node/stage_parts.h"

static struct buffer *value(const struct stage *s, int id) { return s->values[id]; }

static uint32_t value_rows(const struct stage *s, int id, const struct step *step) {
    return id >= 0 && s->program->values[id].rows == ROWS_OUT ? step->n_outs : step->n_rows;
}

static struct buffer *value_or_null(const struct stage *s, int id) { return id >= 0 ? s->values[id] : NULL; }

static struct buffer *vector_of(const struct stage *s, const struct op *op, int i) {
    return op && op->weight[i] >= 0 ? s->weights[op->weight[i]].vector : NULL;
}

static void meet(const void *meeting, const void *mine) { board_meet(meeting, mine); }

/* The next meeting on the board, for this shard's sums. */
static struct board_meeting meeting_next(struct stage *s, int layer) {
    struct board_meeting m = {.board = s->board, .number = s->n_meetings++, .layer = layer};
    for (uint32_t i = s->crew.begin; i < s->cell.shard; i++) m.at += s->counts[i] * 4;
    m.n_bytes = s->counts[s->cell.shard] * 4;
    return m;
}

/* On the board alone: enqueued as any other op. */
static err sums_meet(struct stage *s, int layer, struct buffer *mine, struct buffer **all) {
    struct board_meeting m = meeting_next(s, layer);
    *all = s->areas[m.number % 2];
    return STAGE_OPS(s)->call(s->backend, meet, &m, sizeof m, mine);
}

/* Reads once all that was enqueued is done. This rank's messages go on meanwhile, and it hears of failures, also of a
 * shard that its own device waited for: then what was read is worth nothing. */
static err result_read(struct stage *s, struct buffer *from, size_t n_bytes, void *to) {
    const struct watch w = {s->exchange.watch, s->exchange.context};
    int64_t next_us;
    TRY(STAGE_OPS(s)->buffer_await(s->backend, from, 0, n_bytes, to, &w));
    return s->board ? s->exchange.watch(s->exchange.context, &next_us) : OK;
}

/* On the board with the shards of this host, of which the first meets other hosts: its device waits then. The
 * others' devices wait at the next meeting, for the whole sum. */
static err sums_meet_hosts(struct stage *s, int layer, enum axis axis, uint32_t n_rows, struct buffer *mine,
                           struct buffer **sum) {
    const struct exchange *x = &s->exchange;
    struct board_meeting m = meeting_next(s, layer), back = meeting_next(s, layer);
    back.n_bytes = 0;
    back.patience_us = x->board_patience_us;
    *sum = s->areas[back.number % 2];
    int is_first = s->cell.shard == s->crew.begin;
    if (is_first) TRY(x->begin(x->context, axis, n_rows));
    TRY(STAGE_OPS(s)->call(s->backend, meet, &m, sizeof m, mine));
    if (!is_first) return STAGE_OPS(s)->call(s->backend, meet, &back, sizeof back, mine);
    TRY(result_read(s, mine, 0, s->host_mine));
    TRY(x->sum(x->context, layer, board_area(s->board, m.number % 2), board_area(s->board, back.number % 2)));
    board_come(s->board, back.number);
    return OK;
}

/* By messages: the device waits. host_sum changes again after the next buffer_read only, so it
 * may be sent. */
static err sums_share(struct stage *s, int layer, enum axis axis, uint32_t n_rows, struct buffer *mine,
                      struct buffer **sum) {
    const struct exchange *x = &s->exchange;
    TRY(x->begin(x->context, axis, n_rows));
    TRY(STAGE_OPS(s)->buffer_read(s->backend, mine, 0, s->counts[s->cell.shard] * 4, s->host_mine));
    TRY(x->sum(x->context, layer, s->host_mine, s->host_sum));
    *sum = s->gathered;
    return STAGE_OPS(s)->buffer_send(s->backend, s->gathered, 0, (size_t)n_rows * s->program->dim * 4, s->host_sum);
}

/* The result of an op of the group, where another group reads it. */
static struct buffer *kept(const struct stage *s, const struct fused *f, const struct op *op) {
    return op && fused_keeps(f, op) ? value(s, op->out) : NULL;
}

static err run_linear(struct stage *s, const struct fused *f, uint32_t n_rows) {
    const struct stage_sum *sum = &s->sums[s->program->weights[f->ops[0]->weight[0]].in_axis];
    struct product products[PRODUCTS_MAX];
    uint32_t n = 0;
    for (uint32_t i = 0; i < f->n_ops; i++) {
        const struct stage_weight *m = &s->weights[f->ops[i]->weight[0]];
        if (m->row_begin == m->row_end) continue; /* nothing is ours */
        products[n++] = (struct product){m->matrix, m->row_begin, m->row_end, value(s, f->ops[i]->out)};
    }
    if (sum->own.n_leaves == 0 || n == 0) return OK;
    return STAGE_OPS(s)->linear(s->backend, products, n, value(s, f->ops[0]->in[0]), n_rows,
                                sum->segment_cols, &sum->own);
}

static const struct tree one_leaf = {.n_leaves = 1, .n_results = 1, .emits = {1}};

/* The sum of all shards: its leaves, on a board that all of them share, or one leaf, the whole. */
static err leaves_share(struct stage *s, const struct op *op, uint32_t n_rows, struct row_sum *out) {
    enum axis axis = s->program->weights[op->weight[0]].in_axis;
    const struct stage_sum *sum = &s->sums[axis];
    out->tree = &sum->finish;
    out->leaves = value(s, op->in[0]);
    if (s->cell.n_shards == 1) return OK;
    for (uint32_t i = 0; i < s->cell.n_shards; i++) s->counts[i] = sum->n_results[i] * (size_t)n_rows * s->program->dim;
    if (s->board && s->crew.end - s->crew.begin == s->cell.n_shards)
        return sums_meet(s, op->layer, out->leaves, &out->leaves);
    out->tree = &one_leaf;
    return s->board ? sums_meet_hosts(s, op->layer, axis, n_rows, out->leaves, &out->leaves)
                    : sums_share(s, op->layer, axis, n_rows, out->leaves, &out->leaves);
}

static err run_sum(struct stage *s, const struct fused *f, uint32_t n_rows) {
    const struct op *reduce = fused_find(f, OP_REDUCE), *add = fused_find(f, OP_ADD),
                    *norm = fused_find(f, OP_NORM), *quantize = fused_find(f, OP_QUANTIZE);
    uint32_t row = s->widths[f->ops[0]->out], width = norm ? norm->norm.group : row;
    struct row_sum sum = {.vector = vector_of(s, fused_find(f, OP_BIAS), 0)};
    if (row == 0) return OK; /* nothing is ours */
    if (reduce) TRY(leaves_share(s, reduce, n_rows, &sum));
    if (reduce || add) sum.sum = value(s, add ? add->out : reduce->out);
    if (add) sum.x = value(s, add->in[0]);
    if (add && !reduce) {
        sum.leaves = value(s, add->in[1]);
        sum.tree = &one_leaf;
    }
    if (!reduce && !add) sum.x = value(s, norm->in[0]);
    if (norm) {
        sum.kind = norm->norm.kind;
        sum.eps = norm->norm.eps;
        sum.weight = vector_of(s, norm, 0);
        sum.bias = vector_of(s, norm, 1);
        sum.out = kept(s, f, norm);
        sum.q8 = kept(s, f, quantize);
    }
    return STAGE_OPS(s)->sum_rows(s->backend, &sum, n_rows * (row / width), width);
}

static err run_act(struct stage *s, const struct fused *f, uint32_t n_rows) {
    const struct op *glu = fused_find(f, OP_GLU), *op = glu ? glu : fused_find(f, OP_ACT);
    uint32_t width = s->widths[op->out];
    struct activation a = {
        .kind = op->act.kind,
        .gate = value(s, op->in[0]),
        .up = value_or_null(s, op->in[1]),
        .gate_bias = vector_of(s, fused_find_on(f, OP_BIAS, op->in[0]), 0),
        .up_bias = glu ? vector_of(s, fused_find_on(f, OP_BIAS, op->in[1]), 0) : NULL,
        .out = kept(s, f, op),
        .q8 = kept(s, f, fused_find(f, OP_QUANTIZE)),
    };
    return width ? STAGE_OPS(s)->activate(s->backend, &a, n_rows, width) : OK;
}

/* Slices of the logits of all shards, brought into rows on shard 0. */
static err run_gather(struct stage *s, const struct op *op, uint32_t n_outs, float *logits) {
    uint32_t n_shards = s->cell.n_shards, n_vocab = s->program->n_vocab;
    for (uint32_t i = 0; i < n_shards; i++) s->counts[i] = (size_t)n_outs * s->vocab_widths[i];
    size_t mine = s->counts[s->cell.shard];
    const float *all = s->host_logits;
    if (n_shards > 1) TRY(s->exchange.collect_begin(s->exchange.context, s->counts, s->host_logits));
    TRY(result_read(s, value(s, op->in[0]), mine * 4, n_shards == 1 ? logits : s->host_mine));
    if (n_shards == 1) return OK;
    TRY(s->exchange.collect(s->exchange.context, op->layer, s->host_mine, s->counts, s->host_logits));
    uint32_t begin = 0;
    for (uint32_t i = 0; all && i < n_shards; i++) {
        uint32_t width = s->vocab_widths[i];
        for (uint32_t r = 0; r < n_outs; r++, all += width)
            memcpy(logits + (size_t)r * n_vocab + begin, all, width * sizeof *all);
        begin += width;
    }
    return OK;
}

static err run_attend(struct stage *s, const struct op *op, const struct step *step) {
    const struct program *p = s->program;
    struct range heads = s->cut.values[AXIS_HEADS], kv = s->cut.values[AXIS_KV];
    int32_t last = 0;
    for (uint32_t i = 0; i < step->n_rows; i++)
        if (step->position[i] > last) last = step->position[i];
    struct attend_shape shape = {
        .n_heads = (heads.end - heads.begin) / p->head_dim,
        .n_kv_heads = (kv.end - kv.begin) / p->head_dim,
        .head_dim = p->head_dim,
        .head_begin = heads.begin / p->head_dim,
        .kv_begin = kv.begin / p->head_dim,
        .group = p->n_heads / p->n_kv_heads,
        .window = op->attend.window,
        .n_chunks = (uint32_t)last / ATTEND_CHUNK + 1,
    };
    return STAGE_OPS(s)->attend(s->backend, s->caches[op->layer], value(s, op->in[0]), &s->places,
                                &shape, step->n_rows, value(s, op->out));
}

static err run_bias(struct stage *s, const struct op *op, uint32_t n_rows) {
    struct row_sum sum = {.vector = vector_of(s, op, 0), .x = value(s, op->in[0]), .sum = value(s, op->out)};
    return STAGE_OPS(s)->sum_rows(s->backend, &sum, n_rows, s->widths[op->out]);
}

static err run_embed(struct stage *s, const struct op *op, uint32_t n_rows) {
    struct buffer *ids = op->kind == OP_EMBED ? s->tokens : s->places.position;
    return STAGE_OPS(s)->embed(s->backend, s->weights[op->weight[0]].matrix, ids, n_rows,
                               value(s, op->out));
}

static err run_heads(struct stage *s, const struct fused *f, const struct step *step) {
    const struct program *p = s->program;
    const struct op *write = fused_find(f, OP_KV_WRITE);
    int k = write->in[0], v = write->in[1], q = -1;
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (f->ops[i]->out >= 0 && f->ops[i]->out != k && f->ops[i]->out != v) q = f->ops[i]->out;
    struct head_rows h = {
        .q = value_or_null(s, q),
        .k = value(s, k),
        .v = value(s, v),
        .q_bias = vector_of(s, fused_find_on(f, OP_BIAS, q), 0),
        .k_bias = vector_of(s, fused_find_on(f, OP_BIAS, k), 0),
        .v_bias = vector_of(s, fused_find_on(f, OP_BIAS, v), 0),
        .n_heads = q >= 0 ? s->widths[q] / p->head_dim : 0,
        .q_rot = fused_find_on(f, OP_ROPE, q) ? p->rope.n_rot : 0,
        .k_rot = fused_find_on(f, OP_ROPE, k) ? p->rope.n_rot : 0,
        .style = p->rope.style,
        .angles = s->angles,
    };
    if (s->widths[k] == 0) return OK; /* nothing is ours */
    return STAGE_OPS(s)->heads(s->backend, s->caches[write->layer], &h, &s->places, step->n_rows);
}

/* A rope that no kv-write follows at once. */
static err run_rope(struct stage *s, const struct op *op, uint32_t n_rows) {
    const struct program *p = s->program;
    struct head_rows h = {.q = value(s, op->in[0]), .n_heads = s->widths[op->in[0]] / p->head_dim,
                          .q_rot = p->rope.n_rot, .style = p->rope.style, .angles = s->angles};
    return STAGE_OPS(s)->heads(s->backend, s->caches[op->layer], &h, &s->places, n_rows);
}

/* Ops that a shard that owns nothing of the value skips. */
static err run_local(struct stage *s, const struct op *op, const struct step *step, uint32_t n_rows) {
    const struct backend_ops *ops = STAGE_OPS(s);
    struct backend *b = s->backend;
    struct buffer *a = value(s, op->in[0]), *out = value_or_null(s, op->out);
    uint32_t width = s->widths[op->in[0]];
    if (width == 0) return OK;
    switch (op->kind) {
    case OP_QUANTIZE: return ops->quantize(b, a, n_rows, width, out);
    case OP_BIAS: return run_bias(s, op, n_rows);
    case OP_ROPE: return run_rope(s, op, n_rows);
    case OP_ATTEND: return run_attend(s, op, step);
    case OP_SELECT: return ops->select(b, a, s->out_rows, step->n_outs, width, out);
    default: return err_set(ERR_INTERNAL, "op '%s' cannot be run", op_name(op->kind));
    }
}

static err run_op(struct stage *s, const struct op *op, const struct step *step, float *logits) {
    uint32_t n_rows = value_rows(s, op->out >= 0 ? op->out : op->in[0], step);
    if (n_rows == 0) return OK;
    switch (op->kind) {
    case OP_EMBED:
    case OP_EMBED_POS: return run_embed(s, op, n_rows);
    case OP_GATHER: return run_gather(s, op, n_rows, logits);
    default: return run_local(s, op, step, n_rows);
    }
}

static err run_group(struct stage *s, const struct fused *f, const struct step *step, float *logits) {
    uint32_t n_rows = value_rows(s, f->ops[0]->in[0], step);
    switch (f->kind) {
    case FUSED_LINEAR: return n_rows ? run_linear(s, f, n_rows) : OK;
    case FUSED_SUM: return n_rows ? run_sum(s, f, n_rows) : OK;
    case FUSED_HEADS: return run_heads(s, f, step);
    case FUSED_ACT: return n_rows ? run_act(s, f, n_rows) : OK;
    default:
        for (uint32_t i = 0; i < f->n_ops; i++) TRY(run_op(s, f->ops[i], step, logits));
        return OK;
    }
}

/* What every op of the step reads: where rows stand, their angles. */
static err places_send(struct stage *s, const struct step *step) {
    const struct rope *rope = &s->program->rope;
    const int32_t *const parts[] = {step->token, step->position, step->table_begin};
    int32_t *out_rows = s->host_step + (size_t)3 * s->part_ints, *table = out_rows + s->part_ints;
    for (size_t i = 0; i < 3; i++) memcpy(s->host_step + i * s->part_ints, parts[i], step->n_rows * sizeof **parts);
    for (uint32_t i = 0; i < step->n_outs; i++) out_rows[i] = step->outs[i].row;
    memcpy(table, step->table, step->n_table * sizeof *table);
    size_t n_bytes = ((size_t)4 * s->part_ints + step->n_table) * sizeof *table;
    TRY(STAGE_OPS(s)->buffer_send(s->backend, s->step_data, 0, n_bytes, s->host_step));
    if (rope->n_rot == 0) return OK;
    for (uint32_t i = 0; i < step->n_rows; i++)
        rope_table(rope, step->position[i], s->host_angles + (size_t)i * rope->n_rot);
    return STAGE_OPS(s)->buffer_send(s->backend, s->angles, 0, (size_t)step->n_rows * rope->n_rot * 4,
                                     s->host_angles);
}

static err step_check(const struct stage *s, const struct step *step) {
    if (step->n_rows == 0 || step->n_rows > s->limits.rows_max)
        return err_set(ERR_INTERNAL, "a step of %u rows, 1 to %u are possible", step->n_rows,
                       s->limits.rows_max);
    if (step->n_outs > s->outs_max)
        return err_set(ERR_INTERNAL, "a step with %u outputs, at most %u are possible",
                       step->n_outs, s->outs_max);
    if (step->n_table > s->table_max)
        return err_set(ERR_INTERNAL, "a step with %u blocks, at most %u are possible",
                       step->n_table, s->table_max);
    return OK;
}

static int step_wants(const struct step *step, uint32_t flags) {
    for (uint32_t i = 0; i < step->n_outs; i++)
        if (step->outs[i].flags & flags) return 1;
    return 0;
}

/* What goes on: to the next stage, or to those who asked for it. Logits were read after all else. */
static err hidden_read(struct stage *s, const struct step *step, int has_logits, float *hidden) {
    const struct program *p = s->program;
    if (s->cell.layer_end < p->n_layers)
        return result_read(s, value(s, p->value_x), (size_t)step->n_rows * p->dim * 4, hidden);
    size_t n_bytes = s->cell.shard == 0 && step_wants(step, OUT_HIDDEN) ? (size_t)step->n_outs * p->dim * 4 : 0;
    return n_bytes || !has_logits ? result_read(s, value(s, p->value_hidden), n_bytes, hidden) : OK;
}

/* Nothing waits but exchanges between shards and the end: what is sent stays until then. */
err stage_run(struct stage *s, const struct step *step, float *hidden, float *logits) {
    const struct program *p = s->program;
    TRY(step_check(s, step));
    TRY(places_send(s, step));
    if (s->cell.layer_begin > 0)
        TRY(STAGE_OPS(s)->buffer_send(s->backend, value(s, p->value_x), 0,
                                      (size_t)step->n_rows * p->dim * 4, hidden));
    int has_logits = step_wants(step, OUT_OF_LOGITS);
    for (uint32_t i = 0; i < s->fusion.n_groups; i++) {
        const struct fused *f = &s->fusion.groups[i];
        if (f->ops[0] > s->last_norm && !has_logits) break; /* the rest is the head */
        err e = run_group(s, f, step, logits);
        if (e == ERR_TIMEOUT) return e; /* says itself who waited for whom, and in which layer */
        if (e != OK) return err_context(e, "op '%s' of layer %d", op_name(f->ops[0]->kind), f->ops[0]->layer);
    }
    return hidden_read(s, step, has_logits, hidden);
}
