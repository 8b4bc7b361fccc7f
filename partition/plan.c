#include "partition/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/limits.h"
#include "model/packed.h"

/* ---- the grid ---- */

static err grid_contradiction(uint32_t stages, uint32_t shards, uint32_t ranks) {
    return err_set(ERR_USAGE, "%u stages x %u shards are %u ranks, not %u; give ranks or both of the others",
                   stages, shards, stages * shards, ranks);
}

/* As many stages as divide `ranks` and have a layer each: stages need the least
 * traffic between ranks. Shards take the rest. */
static uint32_t stages_for(const struct program *p, uint32_t ranks) {
    uint32_t stages = ranks < p->n_layers ? ranks : p->n_layers;
    while (ranks % stages != 0) stages--;
    return stages;
}

err plan_grid(const struct program *p, uint32_t stages, uint32_t shards, uint32_t ranks,
              uint32_t *n_stages, uint32_t *n_shards) {
    if (ranks && !stages && !shards) stages = stages_for(p, ranks);
    if (ranks && !stages && ranks % shards == 0) stages = ranks / shards;
    if (ranks && stages && !shards && ranks % stages == 0) shards = ranks / stages;
    if (!stages) stages = 1;
    if (!shards) shards = 1;
    if (ranks && (uint64_t)stages * shards != ranks)
        return grid_contradiction(stages, shards, ranks);
    if (stages > p->n_layers)
        return err_set(ERR_USAGE, "%u stages, but the model has %u layers; a stage needs one at least",
                       stages, p->n_layers);
    if (shards > SEGMENTS_MAX)
        return err_set(ERR_USAGE, "%u shards, at most %u are possible; more stages can use more ranks", shards,
                       SEGMENTS_MAX);
    *n_stages = stages;
    *n_shards = shards;
    return OK;
}

/* ---- layers of the stages ---- */

/* Packed bytes of a slice; vectors are kept as floats. */
static uint64_t holding_bytes(const struct weight *w, const struct slice *s) {
    uint64_t rows = s->row_end - s->row_begin, cols = s->col_end - s->col_begin;
    if (w->is_vector) return cols * sizeof(float);
    struct packed_layout layout;
    packed_layout_make(w->tensor->format, rows, s->col_begin, s->col_end, &layout);
    return layout.n_bytes * (w->n_experts ? w->n_experts : 1);
}

uint64_t plan_weight_bytes(const struct program *p, const struct cut *cut, uint32_t begin, uint32_t end,
                           struct holding *scratch) {
    uint64_t sum = 0;
    slice_holdings(p, cut, begin, end, scratch);
    for (uint32_t i = 0; i < p->n_weights; i++)
        if (scratch[i].is_held && scratch[i].within < 0)
            sum += holding_bytes(&p->weights[i], &scratch[i].slice);
    return sum;
}

/* before[l]: bytes of layers [0, l), the embedding with the first layer and the
 * head with the last. */
static void layer_sums(const struct program *p, struct holding *scratch, double *before) {
    struct cut whole;
    cut_make(p, 1, 0, NULL, &whole);
    before[0] = 0;
    for (uint32_t l = 0; l < p->n_layers; l++)
        before[l + 1] = before[l] + (double)plan_weight_bytes(p, &whole, l, l + 1, scratch);
}

/* Fills best[k][l]: the least cost of layers [0, l) in k stages, where a stage
 * over `most` bytes is not allowed and `cost` joins costs; from[k][l]: where
 * the last of those stages begins. */
struct cut_table {
    uint32_t n_layers, n_stages;
    const double *before;
    double *best;   /* [n_stages + 1][n_layers + 1] */
    uint32_t *from; /* the same */
};

static void cut_table_fill(struct cut_table *t, double most, int is_sum_of_squares) {
    uint32_t width = t->n_layers + 1;
    for (uint32_t k = 0; k <= t->n_stages; k++)
        for (uint32_t l = 0; l <= t->n_layers; l++)
            t->best[k * width + l] = k == 0 && l == 0 ? 0 : INFINITY;
    for (uint32_t k = 1; k <= t->n_stages; k++)
        for (uint32_t l = k; l <= t->n_layers; l++)
            for (uint32_t m = k - 1; m < l; m++) {
                double stage = t->before[l] - t->before[m], rest = t->best[(k - 1) * width + m];
                if (stage > most) continue;
                double cost = is_sum_of_squares ? rest + stage * stage : fmax(rest, stage);
                if (cost >= t->best[k * width + l]) continue;
                t->best[k * width + l] = cost;
                t->from[k * width + l] = m;
            }
}

/* First the smallest possible largest stage, then the evenest cut with it. */
static void cut_table_solve(struct cut_table *t, uint32_t *layer_begin) {
    uint32_t width = t->n_layers + 1;
    cut_table_fill(t, INFINITY, 0);
    cut_table_fill(t, t->best[t->n_stages * width + t->n_layers], 1);
    layer_begin[t->n_stages] = t->n_layers;
    for (uint32_t k = t->n_stages; k > 0; k--)
        layer_begin[k - 1] = t->from[k * width + layer_begin[k]];
}

static err cut_layers(const struct program *p, uint32_t n_stages, struct holding *scratch,
                      uint32_t *layer_begin) {
    struct cut_table t = {.n_layers = p->n_layers, .n_stages = n_stages};
    size_t n = (size_t)(n_stages + 1) * (p->n_layers + 1);
    double *before = NULL;
    err e = NEW(before, p->n_layers + 1);
    if (e == OK) e = NEW(t.best, n);
    if (e == OK) e = NEW(t.from, n);
    if (e == OK) {
        layer_sums(p, scratch, before);
        t.before = before;
        cut_table_solve(&t, layer_begin);
    }
    free(before);
    free(t.best);
    free(t.from);
    return e;
}

/* ---- memory ---- */

uint64_t plan_position_bytes(const struct program *p, const struct cut *cut) {
    struct range kv = cut->values[AXIS_KV];
    uint64_t value = p->kv_format == FORMAT_F32 ? 4 : 2;
    return (kv.end - kv.begin) * 2 * value;
}

static uint64_t out_rows(const struct plan *plan) {
    return plan->rows_max < STEP_OUTS_MAX ? plan->rows_max : STEP_OUTS_MAX;
}

static uint64_t value_bytes(const struct program *p, const struct value *v, const struct plan *plan,
                            const struct plan_cell *c) {
    uint64_t rows = v->rows == ROWS_OUT ? out_rows(plan) : plan->rows_max, width = v->width;
    if (v->axis != AXIS_DIM) {
        struct range own = c->cut.values[v->axis];
        width = own.end - own.begin;
    }
    if (v == &p->values[p->value_logits]) width = c->shard == 0 ? p->n_vocab : 0;
    if (v->kind == VALUE_Q8) return rows * (width / PACKED_BLOCK) * Q8_BLOCK_BYTES;
    /* Of a partial sum: its own subtrees, and those of all shards that come together. */
    uint64_t copies = 1;
    if (v->is_partial && plan->n_shards > 1) copies = SUBTREES_MAX / 2 * (1 + plan->n_shards);
    return rows * width * 4 * copies;
}

uint64_t plan_work_bytes(const struct program *p, const struct plan *plan, const struct plan_cell *c) {
    uint64_t sum = 0;
    int is_last = c->layer_end == p->n_layers;
    for (uint32_t i = 0; i < p->n_values; i++)
        if (p->values[i].rows == ROWS_ALL || is_last)
            sum += value_bytes(p, &p->values[i], plan, c);
    if (is_last && c->shard == 0) /* on their way to sampling */
        sum += out_rows(plan) * p->n_vocab * 4;
    struct range own = c->cut.values[AXIS_HEADS];
    uint64_t n_heads = (own.end - own.begin) / p->head_dim;
    uint64_t n_chunks = (plan->context + ATTEND_CHUNK - 1) / ATTEND_CHUNK;
    return sum + plan->rows_max * n_heads * n_chunks * (p->head_dim + 2) * 4;
}

static void cell_fill(const struct program *p, const struct plan *plan, struct holding *scratch,
                      struct plan_cell *c) {
    cut_make(p, plan->n_shards, c->shard, plan->shares + (size_t)c->stage * plan->n_shards, &c->cut);
    c->weight_bytes = plan_weight_bytes(p, &c->cut, c->layer_begin, c->layer_end, scratch);
    c->kv_bytes = (c->layer_end - c->layer_begin) * plan_position_bytes(p, &c->cut) * plan->n_blocks *
                  KV_BLOCK_TOKENS;
    c->work_bytes = plan_work_bytes(p, plan, c);
}

/* ---- the plan ---- */

static err plan_fill(const struct program *p, struct plan *plan, const struct plan_choice *choice,
                     struct holding *scratch) {
    TRY(NEW(plan->layer_begin, plan->n_stages + 1));
    TRY(NEW(plan->shares, plan->n_ranks));
    TRY(NEW(plan->cells, plan->n_ranks));
    for (uint32_t r = 0; r < plan->n_ranks; r++) plan->shares[r] = choice->shares ? choice->shares[r] : 1;
    if (choice->layer_begin)
        memcpy(plan->layer_begin, choice->layer_begin, (plan->n_stages + 1) * sizeof *plan->layer_begin);
    else
        TRY(cut_layers(p, plan->n_stages, scratch, plan->layer_begin));
    for (uint32_t r = 0; r < plan->n_ranks; r++) {
        struct plan_cell *c = &plan->cells[r];
        c->rank = r;
        c->device = choice->devices ? choice->devices[r] : r;
        c->stage = r / plan->n_shards;
        c->shard = r % plan->n_shards;
        c->layer_begin = plan->layer_begin[c->stage];
        c->layer_end = plan->layer_begin[c->stage + 1];
        cell_fill(p, plan, scratch, c);
    }
    return OK;
}

uint32_t plan_context_blocks(uint32_t context) { return context / KV_BLOCK_TOKENS + (context % KV_BLOCK_TOKENS != 0); }

err plan_create(const struct program *p, const struct plan_request *r, struct plan **out) {
    return plan_create_with(p, r, &(struct plan_choice){0}, out);
}

err plan_create_with(const struct program *p, const struct plan_request *r, const struct plan_choice *choice,
                     struct plan **out) {
    uint32_t n_stages, n_shards;
    TRY(plan_grid(p, r->n_stages, r->n_shards, r->n_ranks, &n_stages, &n_shards));
    uint32_t least_blocks = plan_context_blocks(r->context);
    if (r->n_blocks && r->n_blocks < least_blocks)
        return err_set(ERR_USAGE, "a KV cache of %lu tokens, but one text alone may take %u (--context)",
                       (uint64_t)r->n_blocks * KV_BLOCK_TOKENS, r->context);
    struct plan *plan;
    struct holding *scratch = NULL;
    TRY(NEW(plan, 1));
    plan->n_stages = n_stages;
    plan->n_shards = n_shards;
    plan->n_ranks = n_stages * n_shards;
    plan->context = r->context;
    plan->rows_max = r->rows_max;
    plan->n_blocks = r->n_blocks ? r->n_blocks : least_blocks;
    err e = NEW(scratch, p->n_weights);
    if (e == OK) e = plan_fill(p, plan, choice, scratch);
    free(scratch);
    if (e != OK) {
        plan_free(plan);
        return e;
    }
    *out = plan;
    return OK;
}

void plan_free(struct plan *plan) {
    if (!plan) return;
    free(plan->layer_begin);
    free(plan->shares);
    free(plan->cells);
    free(plan);
}

uint64_t plan_cell_bytes(const struct plan_cell *c) {
    return c->weight_bytes + c->kv_bytes + c->work_bytes;
}

void plan_cell_heads(const struct program *p, const struct plan_cell *c, struct range *heads,
                     struct range *kv_heads) {
    struct range h = c->cut.values[AXIS_HEADS], kv = c->cut.values[AXIS_KV];
    *heads = (struct range){h.begin / p->head_dim, h.end / p->head_dim};
    *kv_heads = (struct range){kv.begin / p->head_dim, kv.end / p->head_dim};
}

/* ---- the table ---- */

static err print_cell(const struct program *p, const struct plan_cell *c, struct bytes *out) {
    char layers[32], heads[32], kvs[32], ff[32], weights[16], kv[16], work[16], all[16];
    struct range h, k, f = c->cut.values[AXIS_FF];
    plan_cell_heads(p, c, &h, &k);
    snprintf(layers, sizeof layers, "%u-%u", c->layer_begin, c->layer_end);
    snprintf(heads, sizeof heads, "%u-%u", h.begin, h.end);
    snprintf(kvs, sizeof kvs, "%u-%u", k.begin, k.end);
    snprintf(ff, sizeof ff, "%u-%u", f.begin, f.end);
    plan_bytes_text(c->weight_bytes, weights);
    plan_bytes_text(c->kv_bytes, kv);
    plan_bytes_text(c->work_bytes, work);
    plan_bytes_text(plan_cell_bytes(c), all);
    return bytes_printf(out, "%4u %5u %5u  %-9s %-9s %-9s %-13s %10s %10s %10s %10s\n", c->rank,
                        c->stage, c->shard, layers, heads, kvs, ff, weights, kv, work, all);
}

err plan_print(const struct program *p, const struct plan *plan, struct bytes *out) {
    TRY(bytes_printf(out, "%u stages x %u shards, context %u, KV cache of %lu tokens, steps of at most %u rows; "
                          "ranges are first-end, end not included\n",
                     plan->n_stages, plan->n_shards, plan->context,
                     (uint64_t)plan->n_blocks * KV_BLOCK_TOKENS, plan->rows_max));
    TRY(bytes_printf(out, "%4s %5s %5s  %-9s %-9s %-9s %-13s %10s %10s %10s %10s\n", "rank",
                     "stage", "shard", "layers", "heads", "kv heads", "ff", "weights", "kv",
                     "work", "total"));
    for (uint32_t r = 0; r < plan->n_ranks; r++) TRY(print_cell(p, &plan->cells[r], out));
    return OK;
}
