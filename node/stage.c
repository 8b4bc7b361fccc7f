/* Running a step: the program's ops of this cell, one after the other. */
#include "node/stage.h"

#include <string.h>

#include "node/stage_parts.h"

#define WATCH_US 5000 /* between two looks at the rest of the job while the device computes */

static struct buffer *value(const struct stage *s, int id) { return s->values[id]; }

static uint32_t value_rows(const struct stage *s, int id, const struct step *step) {
    return s->program->values[id].rows == ROWS_OUT ? step->n_outs : step->n_rows;
}

static err run_linear(struct stage *s, const struct op *op, uint32_t n_rows) {
    const struct weight *w = &s->program->weights[op->weight[0]];
    const struct stage_weight *m = &s->weights[op->weight[0]];
    const struct stage_sum *sum = &s->sums[w->in_axis];
    if (sum->own.n_leaves == 0 || m->row_begin == m->row_end) return OK; /* nothing is ours */
    struct product product = {m->matrix, m->row_begin, m->row_end, value(s, op->out)};
    return STAGE_OPS(s)->linear(s->backend, &product, 1, value(s, op->in[0]), n_rows, sum->segment_cols,
                                &sum->own);
}

/* By messages: the device waits. */
static err sums_share(struct stage *s, int layer, struct buffer *mine, struct buffer **all) {
    size_t n_mine = s->counts[s->cell.shard], n_all = 0;
    for (uint32_t i = 0; i < s->cell.n_shards; i++) n_all += s->counts[i];
    TRY(STAGE_OPS(s)->buffer_read(s->backend, mine, 0, n_mine * 4, s->host_mine));
    TRY(s->exchange.share(s->exchange.context, layer, s->host_mine, s->counts, s->host_all));
    *all = s->gathered;
    return STAGE_OPS(s)->buffer_write(s->backend, s->gathered, 0, n_all * 4, s->host_all);
}

static void meet(const void *meeting, const void *mine) { board_meet(meeting, mine); }

/* On the board: enqueued as any other op. */
static err sums_meet(struct stage *s, int layer, struct buffer *mine, struct buffer **all) {
    struct board_meeting m = {.board = s->board, .number = s->n_meetings++, .layer = layer};
    for (uint32_t i = 0; i < s->cell.shard; i++) m.at += s->counts[i] * 4;
    m.n_bytes = s->counts[s->cell.shard] * 4;
    *all = s->areas[m.number % 2];
    return STAGE_OPS(s)->call(s->backend, meet, &m, sizeof m, mine);
}

/* Every shard's subtree sums are shared, and each finishes the tree. */
static err run_reduce(struct stage *s, const struct op *op, uint32_t n_rows) {
    const struct stage_sum *sum = &s->sums[s->program->weights[op->weight[0]].in_axis];
    uint32_t n = n_rows * s->program->dim;
    struct buffer *leaves = value(s, op->in[0]);
    for (uint32_t i = 0; i < s->cell.n_shards; i++) s->counts[i] = sum->n_results[i] * n;
    if (s->cell.n_shards > 1)
        TRY(s->board ? sums_meet(s, op->layer, leaves, &leaves) : sums_share(s, op->layer, leaves, &leaves));
    return STAGE_OPS(s)->reduce(s->backend, leaves, &sum->finish, n, value(s, op->out));
}

static void leave(const void *leaving, const void *from) { board_leave(leaving, from); }

/* Reads once all that was enqueued is done. Where that may wait for other shards this rank goes on
 * hearing of failures, also of its own device's wait. */
static err result_read(struct stage *s, struct buffer *from, size_t n_bytes, void *to) {
    if (!s->board && n_bytes) return STAGE_OPS(s)->buffer_read(s->backend, from, 0, n_bytes, to);
    if (!s->board) return STAGE_OPS(s)->finish(s->backend);
    struct board_leaving l = {s->board, to, n_bytes};
    TRY(STAGE_OPS(s)->call(s->backend, leave, &l, sizeof l, from));
    while (!board_wait(s->board, WATCH_US)) TRY(s->exchange.watch(s->exchange.context));
    return s->exchange.watch(s->exchange.context);
}

/* Slices of the logits of all shards, brought into rows on shard 0. */
static err run_gather(struct stage *s, const struct op *op, uint32_t n_outs, float *logits) {
    uint32_t n_shards = s->cell.n_shards, n_vocab = s->program->n_vocab;
    for (uint32_t i = 0; i < n_shards; i++) s->counts[i] = (size_t)n_outs * s->vocab_widths[i];
    size_t mine = s->counts[s->cell.shard];
    float *own = n_shards == 1 ? logits : s->host_mine;
    TRY(result_read(s, value(s, op->in[0]), mine * 4, own));
    if (n_shards == 1) return OK;
    float *all = s->cell.shard == 0 ? s->host_all : NULL;
    TRY(s->exchange.collect(s->exchange.context, op->layer, s->host_mine, s->counts, all));
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

static err run_norm(struct stage *s, const struct op *op, uint32_t n_rows) {
    uint32_t width = s->widths[op->out];
    uint32_t vectors = n_rows * (width / op->norm.group);
    struct buffer *bias = op->weight[1] >= 0 ? s->weights[op->weight[1]].vector : NULL;
    return STAGE_OPS(s)->norm(s->backend, op->norm.kind, op->norm.eps, value(s, op->in[0]),
                              s->weights[op->weight[0]].vector, bias, vectors, op->norm.group,
                              value(s, op->out));
}

static err run_embed(struct stage *s, const struct op *op, uint32_t n_rows) {
    struct buffer *ids = op->kind == OP_EMBED ? s->tokens : s->places.position;
    return STAGE_OPS(s)->embed(s->backend, s->weights[op->weight[0]].matrix, ids, n_rows,
                               value(s, op->out));
}

/* Ops that a shard that owns nothing of the value skips. */
static err run_local(struct stage *s, const struct op *op, const struct step *step, uint32_t n_rows) {
    const struct backend_ops *ops = STAGE_OPS(s);
    struct backend *b = s->backend;
    const struct rope *rope = &s->program->rope;
    struct buffer *a = value(s, op->in[0]);
    struct buffer *c = op->in[1] >= 0 ? value(s, op->in[1]) : NULL;
    struct buffer *out = op->out >= 0 ? value(s, op->out) : NULL;
    uint32_t width = s->widths[op->in[0]], n = n_rows * width;
    if (n == 0) return OK;
    switch (op->kind) {
    case OP_NORM: return run_norm(s, op, n_rows);
    case OP_QUANTIZE: return ops->quantize(b, a, n_rows, width, out);
    case OP_BIAS: return ops->bias(b, a, s->weights[op->weight[0]].vector, n_rows, width);
    case OP_ROPE:
        return ops->rope(b, a, s->angles, n_rows, width / s->program->head_dim,
                         s->program->head_dim, rope->n_rot, rope->style);
    case OP_KV_WRITE: return ops->kv_write(b, s->caches[op->layer], a, c, &s->places, n_rows);
    case OP_ATTEND: return run_attend(s, op, step);
    case OP_GLU: return ops->glu(b, op->act.kind, a, c, n, out);
    case OP_ACT: return ops->act(b, op->act.kind, a, n, out);
    case OP_ADD: return ops->add(b, a, c, n, out);
    case OP_SELECT: return ops->select(b, a, s->out_rows, step->n_outs, width, out);
    default: return err_set(ERR_INTERNAL, "op '%s' cannot be run", op_name(op->kind));
    }
}

static err run_op(struct stage *s, const struct op *op, const struct step *step, float *logits) {
    int id = op->out >= 0 ? op->out : op->in[0];
    uint32_t n_rows = value_rows(s, id, step);
    if (n_rows == 0) return OK;
    switch (op->kind) {
    case OP_EMBED:
    case OP_EMBED_POS: return run_embed(s, op, n_rows);
    case OP_LINEAR: return run_linear(s, op, n_rows);
    case OP_REDUCE: return run_reduce(s, op, n_rows);
    case OP_GATHER: return run_gather(s, op, n_rows, logits);
    default: return run_local(s, op, step, n_rows);
    }
}

static err write_ints(struct stage *s, struct buffer *m, const int32_t *src, uint32_t n) {
    return STAGE_OPS(s)->buffer_write(s->backend, m, 0, (size_t)n * 4, src);
}

/* What every op of the step reads: where rows stand, their angles. */
static err places_write(struct stage *s, const struct step *step) {
    const struct rope *rope = &s->program->rope;
    TRY(write_ints(s, s->tokens, step->token, step->n_rows));
    TRY(write_ints(s, s->places.position, step->position, step->n_rows));
    TRY(write_ints(s, s->places.table_begin, step->table_begin, step->n_rows));
    TRY(write_ints(s, s->places.table, step->table, step->n_table));
    for (uint32_t i = 0; i < step->n_outs; i++) s->host_ints[i] = step->outs[i].row;
    TRY(write_ints(s, s->out_rows, s->host_ints, step->n_outs));
    if (rope->n_rot == 0) return OK;
    for (uint32_t i = 0; i < step->n_rows; i++)
        rope_table(rope, step->position[i], s->host_angles + (size_t)i * rope->n_rot);
    return STAGE_OPS(s)->buffer_write(s->backend, s->angles, 0,
                                      (size_t)step->n_rows * rope->n_rot * 4, s->host_angles);
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

err stage_run(struct stage *s, const struct step *step, float *hidden, float *logits) {
    const struct program *p = s->program;
    size_t hidden_bytes = (size_t)step->n_rows * p->dim * 4;
    TRY(step_check(s, step));
    TRY(places_write(s, step));
    if (s->cell.layer_begin > 0)
        TRY(STAGE_OPS(s)->buffer_write(s->backend, value(s, p->value_x), 0, hidden_bytes, hidden));
    for (uint32_t i = 0; i < p->n_ops; i++) {
        const struct op *op = &p->ops[i];
        if (!slice_has_op(p, op, s->cell.layer_begin, s->cell.layer_end)) continue;
        err e = run_op(s, op, step, logits);
        if (e != OK)
            return err_context(e, "op '%s' of layer %d", op_name(op->kind), op->layer);
    }
    if (s->cell.layer_end == p->n_layers && step->n_outs) return OK; /* logits were read after all else */
    return result_read(s, value(s, p->value_x), s->cell.layer_end < p->n_layers ? hidden_bytes : 0, hidden);
}
