#include "model/fuse.h"

#include <stdlib.h>

const struct op *fused_find_on(const struct fused *f, enum op_kind kind, int value) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (f->ops[i]->kind == kind && f->ops[i]->in[0] == value) return f->ops[i];
    return NULL;
}

const struct op *fused_find(const struct fused *f, enum op_kind kind) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (f->ops[i]->kind == kind) return f->ops[i];
    return NULL;
}

int fused_keeps(const struct fused *f, const struct op *op) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (f->ops[i] == op) return (int)(f->keeps >> i & 1);
    return 0;
}

static int op_reads(const struct op *op, int value) {
    return value >= 0 && (op->in[0] == value || op->in[1] == value);
}

static int op_uses_cache(const struct op *op) { return op->kind == OP_KV_WRITE || op->kind == OP_ATTEND; }

/* Whether two ops must keep their order. */
static int ops_conflict(const struct op *a, const struct op *b) {
    return op_reads(b, a->out) || op_reads(a, b->out) || (a->out >= 0 && a->out == b->out) ||
           (op_uses_cache(a) && op_uses_cache(b));
}

static int holds(const struct fused *f, const struct op *op) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (f->ops[i] == op) return 1;
    return 0;
}

/* Whether an op outside of the group reads what `op` of the group wrote. `end`: after the stage's ops. */
static int is_read_outside(const struct program *p, const struct fused *f, const struct op *op,
                           const struct op *end) {
    for (const struct op *o = op + 1; o < end; o++) {
        if (op_reads(o, op->out) && !holds(f, o)) return 1;
        if (o->out == op->out) return 0; /* written anew */
    }
    return op->out == p->value_x || op->out == p->value_hidden; /* to the next stage, or to who asked for it */
}

/* ---- who joins whom ---- */

static int all_are(const struct fused *f, enum op_kind a, enum op_kind b) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (f->ops[i]->kind != a && f->ops[i]->kind != b) return 0;
    return 1;
}

static int is_of_whole_rows(const struct program *p, const struct op *norm) {
    return norm->norm.group == p->values[norm->in[0]].width;
}

/* A sum of rows whose last op wrote `value`. */
static int is_sum_of(const struct fused *f, int value) {
    const struct op *last = f->ops[f->n_ops - 1];
    return last->out == value && (last->kind == OP_REDUCE || last->kind == OP_ADD ||
                                  (last->kind == OP_BIAS && f->ops[0]->kind == OP_REDUCE));
}

/* k and v with their biases and ropes, and those of at most one more value, q. */
static int are_heads(const struct fused *f, const struct op *kv_write) {
    int q = -1;
    for (uint32_t i = 0; i < f->n_ops; i++) {
        int value = f->ops[i]->in[0];
        if (value == kv_write->in[1] && f->ops[i]->kind == OP_ROPE) return 0;
        if (op_reads(kv_write, value) || value == q) continue;
        if (q >= 0) return 0;
        q = value;
    }
    return 1;
}

static int are_biases_of(const struct fused *f, const struct op *act) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (!op_reads(act, f->ops[i]->in[0])) return 0;
    return all_are(f, OP_BIAS, OP_BIAS);
}

static int joins(const struct program *p, const struct fused *f, const struct op *op) {
    const struct op *last = f->ops[f->n_ops - 1];
    if (f->n_ops == FUSED_OPS_MAX) return 0;
    switch (op->kind) {
    case OP_LINEAR: return last->kind == OP_LINEAR && last->in[0] == op->in[0] && f->n_ops < FUSED_LINEAR_MAX;
    case OP_BIAS:
        if (last->kind == OP_REDUCE) return last->out == op->in[0];
        return all_are(f, OP_BIAS, OP_ROPE) && !fused_find_on(f, OP_BIAS, op->in[0]) &&
               !fused_find_on(f, OP_ROPE, op->in[0]);
    case OP_ADD: return last->kind != OP_ADD && op->in[0] != op->in[1] && is_sum_of(f, op->in[1]);
    case OP_NORM: return is_sum_of(f, op->in[0]) && is_of_whole_rows(p, op);
    case OP_QUANTIZE:
        return last->out == op->in[0] &&
               (last->kind == OP_GLU || last->kind == OP_ACT || (last->kind == OP_NORM && is_of_whole_rows(p, last)));
    case OP_ROPE: return all_are(f, OP_BIAS, OP_ROPE) && !fused_find_on(f, OP_ROPE, op->in[0]);
    case OP_KV_WRITE: return all_are(f, OP_BIAS, OP_ROPE) && are_heads(f, op);
    case OP_GLU:
    case OP_ACT: return are_biases_of(f, op);
    default: return 0;
    }
}

/* What a group does not store, although its op alone would have. */
static int is_dropped(const struct fused *f, const struct op *op) {
    const struct op *kv_write = fused_find(f, OP_KV_WRITE), *add = fused_find(f, OP_ADD);
    if (kv_write) return op_reads(kv_write, op->out);
    if (fused_find(f, OP_GLU) || fused_find(f, OP_ACT)) return op->kind == OP_BIAS;
    return add && (op->kind == OP_REDUCE || op->kind == OP_BIAS);
}

/* Adds the op to the group if it fits there and nobody misses what then is not stored. */
static int group_take(const struct program *p, struct fused *f, const struct op *op, const struct op *end) {
    if (!joins(p, f, op)) return 0;
    f->ops[f->n_ops++] = op;
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (is_dropped(f, f->ops[i]) && is_read_outside(p, f, f->ops[i], end)) {
            f->n_ops--;
            return 0;
        }
    return 1;
}

static int conflicts(const struct fused *f, const struct op *op) {
    for (uint32_t i = 0; i < f->n_ops; i++)
        if (ops_conflict(f->ops[i], op)) return 1;
    return 0;
}

/* Into the youngest group that takes it, past groups that it has nothing to do with; else a new one. */
static void op_place(const struct program *p, struct fusion *out, const struct op *op, const struct op *end) {
    for (uint32_t i = out->n_groups; i-- > 0;) {
        if (group_take(p, &out->groups[i], op, end)) return;
        if (conflicts(&out->groups[i], op)) break;
    }
    out->groups[out->n_groups++] = (struct fused){.n_ops = 1, .ops = {op}};
}

static enum fused_kind kind_of(const struct fused *f) {
    if (fused_find(f, OP_LINEAR)) return FUSED_LINEAR;
    if (fused_find(f, OP_KV_WRITE)) return FUSED_HEADS;
    if (fused_find(f, OP_GLU) || fused_find(f, OP_ACT)) return FUSED_ACT;
    if (fused_find(f, OP_REDUCE) || fused_find(f, OP_ADD) || fused_find(f, OP_NORM)) return FUSED_SUM;
    return FUSED_NONE;
}

err fuse_create(const struct program *p, uint32_t layer_begin, uint32_t layer_end, struct fusion *out) {
    const struct op *end = p->ops;
    *out = (struct fusion){0};
    for (uint32_t i = 0; i < p->n_ops; i++)
        if (program_has_op(p, &p->ops[i], layer_begin, layer_end)) end = &p->ops[i] + 1;
    TRY(NEW(out->groups, p->n_ops));
    for (const struct op *op = p->ops; op < end; op++)
        if (program_has_op(p, op, layer_begin, layer_end)) op_place(p, out, op, end);
    for (uint32_t i = 0; i < out->n_groups; i++) {
        struct fused *f = &out->groups[i];
        f->kind = kind_of(f);
        for (uint32_t k = 0; k < f->n_ops; k++)
            f->keeps |= (uint32_t)is_read_outside(p, f, f->ops[k], end) << k;
    }
    return OK;
}

void fuse_free(struct fusion *f) {
    free(f->groups);
    f->groups = NULL;
}

/* ---- printing ---- */

static err print_value(const struct program *p, int id, struct bytes *out) {
    if (id < 0) return OK;
    const struct value *v = &p->values[id];
    return bytes_printf(out, " %s[%u]", v->name, v->width);
}

static int is_written_before(const struct fused *f, uint32_t n, int value) {
    for (uint32_t i = 0; i < n; i++)
        if (f->ops[i]->out == value) return 1;
    return 0;
}

/* "reduce+add+norm", "linear*3". */
static err print_names(const struct fused *f, struct bytes *out) {
    struct bytes text = {0};
    err e = OK;
    for (uint32_t i = 0, n; i < f->n_ops && e == OK; i += n) {
        for (n = 1; i + n < f->n_ops && f->ops[i + n]->kind == f->ops[i]->kind;) n++;
        e = bytes_printf(&text, "%s%s", i ? "+" : "", op_name(f->ops[i]->kind));
        if (e == OK && n > 1) e = bytes_printf(&text, "*%u", n);
    }
    if (e == OK) e = bytes_printf(out, "  %-24s", (const char *)text.data);
    bytes_free(&text);
    return e;
}

static err print_values(const struct program *p, const struct fused *f, struct bytes *out) {
    for (uint32_t i = 0; i < f->n_ops; i++) {
        int value = f->ops[i]->out, is_last = 1;
        for (uint32_t k = i + 1; k < f->n_ops; k++) is_last &= f->ops[k]->out != value;
        if (is_last && (fused_keeps(f, f->ops[i]) || value == p->value_logits)) TRY(print_value(p, value, out));
    }
    TRY(bytes_append_str(out, " <-"));
    for (uint32_t i = 0; i < f->n_ops; i++)
        for (int k = 0; k < 2; k++) {
            int value = f->ops[i]->in[k], is_new = !is_written_before(f, i, value);
            for (uint32_t b = 0; b < i; b++) is_new &= !op_reads(f->ops[b], value);
            if (is_new) TRY(print_value(p, value, out));
        }
    return OK;
}

static err print_weight(const struct program *p, const struct weight *w, struct bytes *out) {
    TRY(bytes_printf(out, "  %s %s[", w->name, format_info(w->tensor->format)->name));
    if (w->is_vector) return bytes_printf(out, "%s %u]", p->axes[w->out_axis].name, w->cols);
    return bytes_printf(out, "%s %u, %s %u]", p->axes[w->out_axis].name, w->rows, p->axes[w->in_axis].name,
                        w->cols);
}

static err print_group(const struct program *p, const struct fused *f, struct bytes *out) {
    int layer = f->ops[0]->layer;
    if (layer == LAYER_BEFORE) TRY(bytes_append_str(out, "  in"));
    else if ((uint32_t)layer == p->n_layers) TRY(bytes_append_str(out, " out"));
    else TRY(bytes_printf(out, "%4d", layer));
    TRY(print_names(f, out));
    TRY(print_values(p, f, out));
    for (uint32_t i = 0; i < f->n_ops; i++)
        for (int k = 0; k < 2; k++) { /* a reduce names its weight for the tree only */
            int w = f->ops[i]->kind == OP_REDUCE ? -1 : f->ops[i]->weight[k];
            if (w >= 0) TRY(print_weight(p, &p->weights[w], out));
        }
    return bytes_append_str(out, "\n");
}

err fuse_print(const struct program *p, struct bytes *out) {
    struct fusion f;
    TRY(fuse_create(p, 0, p->n_layers, &f));
    err e = OK;
    for (uint32_t i = 0; i < f.n_groups && e == OK; i++) e = print_group(p, &f.groups[i], out);
    fuse_free(&f);
    return e;
}
