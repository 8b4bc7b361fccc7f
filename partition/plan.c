#include "partition/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/limits.h"
#include "model/packed.h"

#define GB 1e9

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
    return layout.n_bytes;
}

/* What a rank with this cut holds of layers [begin, end). `scratch` [n_weights]. */
static uint64_t weight_bytes(const struct program *p, const struct cut *cut, uint32_t begin,
                             uint32_t end, struct holding *scratch) {
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
        before[l + 1] = before[l] + (double)weight_bytes(p, &whole, l, l + 1, scratch);
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

static uint64_t cell_kv_bytes(const struct program *p, const struct plan_cell *c,
                              uint32_t n_blocks) {
    struct range kv = c->cut.values[AXIS_KV];
    uint64_t value = p->kv_format == FORMAT_F32 ? 4 : 2;
    return (uint64_t)(c->layer_end - c->layer_begin) * (kv.end - kv.begin) * 2 * value *
           n_blocks * KV_BLOCK_TOKENS;
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

/* Buffers that the values of a step need, and attention's sums per chunk. */
static uint64_t cell_work_bytes(const struct program *p, const struct plan *plan,
                                const struct plan_cell *c) {
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
    c->weight_bytes = weight_bytes(p, &c->cut, c->layer_begin, c->layer_end, scratch);
    c->kv_bytes = cell_kv_bytes(p, c, plan->n_blocks);
    c->work_bytes = cell_work_bytes(p, plan, c);
}

/* ---- the plan ---- */

static err plan_fill(const struct program *p, struct plan *plan, struct holding *scratch) {
    TRY(NEW(plan->layer_begin, plan->n_stages + 1));
    TRY(NEW(plan->shares, plan->n_ranks));
    TRY(NEW(plan->cells, plan->n_ranks));
    for (uint32_t r = 0; r < plan->n_ranks; r++) plan->shares[r] = 1;
    TRY(cut_layers(p, plan->n_stages, scratch, plan->layer_begin));
    for (uint32_t r = 0; r < plan->n_ranks; r++) {
        struct plan_cell *c = &plan->cells[r];
        c->rank = c->device = r;
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
    if (e == OK) e = plan_fill(p, plan, scratch);
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

/* ---- does it fit ---- */

static uint64_t pool_need(const struct plan *plan, const uint32_t *pool_of, uint32_t pool) {
    uint64_t need = 0;
    for (uint32_t r = 0; r < plan->n_ranks; r++)
        if (pool_of[r] == pool) need += plan_cell_bytes(&plan->cells[r]);
    return need;
}

static int plan_fits(const struct plan *plan, const struct plan_pool *pools, uint32_t n_pools,
                     const uint32_t *pool_of) {
    for (uint32_t i = 0; i < n_pools; i++)
        if (pool_need(plan, pool_of, i) > pools[i].available) return 0;
    return 1;
}

static struct plan_request request_of(const struct plan *plan) {
    return (struct plan_request){plan->n_stages, plan->n_shards, plan->n_ranks,
                                 plan->context, plan->n_blocks, plan->rows_max};
}

static int request_fits(const struct program *p, const struct plan_request *r, const struct plan_pool *pools,
                        uint32_t n_pools, const uint32_t *pool_of) {
    struct plan *plan;
    if (plan_create(p, r, &plan) != OK) return 0;
    int fits = plan_fits(plan, pools, n_pools, pool_of);
    plan_free(plan);
    return fits;
}

/* The largest cache, in blocks, that fits and holds one sequence; 0 if none does. */
static uint32_t blocks_that_fit(const struct program *p, const struct plan *plan, const struct plan_pool *pools,
                                uint32_t n_pools, const uint32_t *pool_of) {
    uint32_t least = plan_context_blocks(plan->context) - 1, most = plan->n_blocks; /* most does not fit */
    uint32_t none = least;
    struct plan_request r = request_of(plan);
    while (least + 1 < most) {
        uint32_t middle = least + (most - least) / 2;
        r.n_blocks = middle;
        if (request_fits(p, &r, pools, n_pools, pool_of)) least = middle;
        else most = middle;
    }
    return least == none ? 0 : least;
}

/* The longest context that fits with a cache for one sequence; 0 if none does. */
static uint32_t context_that_fits(const struct program *p, const struct plan *plan,
                                  const struct plan_pool *pools, uint32_t n_pools,
                                  const uint32_t *pool_of) {
    uint32_t least = 0, most = plan->context / KV_BLOCK_TOKENS; /* in blocks; least fits */
    struct plan_request r = request_of(plan);
    r.n_blocks = 0;
    while (least + 1 < most) {
        uint32_t middle = least + (most - least) / 2;
        r.context = middle * KV_BLOCK_TOKENS;
        if (request_fits(p, &r, pools, n_pools, pool_of)) least = middle;
        else most = middle;
    }
    return least * KV_BLOCK_TOKENS;
}

/* The fewest stages that fit when every rank has what the poorest has now; 0 if none
 * do, or ranks share their memory, so that more of them would not help. */
static uint32_t stages_that_fit(const struct program *p, const struct plan *plan,
                                const struct plan_pool *pools, uint32_t n_pools) {
    if (n_pools != plan->n_ranks) return 0;
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < n_pools; i++)
        if (pools[i].available < least) least = pools[i].available;
    for (uint32_t stages = plan->n_stages + 1; stages <= p->n_layers && stages <= 64; stages++) {
        struct plan_request r = request_of(plan);
        struct plan *wider;
        r.n_stages = stages;
        r.n_ranks = 0;
        if (plan_create(p, &r, &wider) != OK) return 0;
        int fits = 1;
        for (uint32_t i = 0; i < wider->n_ranks; i++)
            fits &= plan_cell_bytes(&wider->cells[i]) <= least;
        plan_free(wider);
        if (fits) return stages;
    }
    return 0;
}

/* The most rows of a step that fit, halving; 0 if not even one does. */
static uint32_t rows_that_fit(const struct program *p, const struct plan *plan,
                              const struct plan_pool *pools, uint32_t n_pools,
                              const uint32_t *pool_of) {
    struct plan_request r = request_of(plan);
    for (r.rows_max = plan->rows_max / 2; r.rows_max > 0; r.rows_max /= 2)
        if (request_fits(p, &r, pools, n_pools, pool_of)) break;
    return r.rows_max;
}

void plan_bytes_text(uint64_t n, char out[16]) {
    double value = (double)n;
    if (value >= GB)
        snprintf(out, 16, "%.2f GB", value / GB);
    else if (value >= 1e5)
        snprintf(out, 16, "%.1f MB", value / 1e6);
    else
        snprintf(out, 16, "%.1f kB", value / 1e3);
}

/* "rank 1" or "ranks 0, 1, 2, ..." of a pool. */
static void ranks_text(const struct plan *plan, const uint32_t *pool_of, uint32_t pool,
                       char *out, size_t cap) {
    size_t at = 0;
    uint32_t n = 0;
    for (uint32_t r = 0; r < plan->n_ranks; r++) n += pool_of[r] == pool;
    int written = snprintf(out, cap, n == 1 ? "rank" : "ranks");
    const char *comma = " ";
    for (uint32_t r = 0, shown = 0; r < plan->n_ranks && written > 0; r++) {
        if (pool_of[r] != pool) continue;
        at += (size_t)written;
        if (at + 24 > cap) return;
        written = shown == 8 ? snprintf(out + at, cap - at, ", ...")
                             : snprintf(out + at, cap - at, "%s%u", comma, r);
        if (shown++ == 8) return;
        comma = ", ";
    }
}

static err memory_error(const struct program *p, const struct plan *plan,
                        const struct plan_pool *pools, uint32_t n_pools, const uint32_t *pool_of,
                        uint32_t pool) {
    char ranks[96], need[16], have[16], missing[16], fits[128];
    uint64_t n = pool_need(plan, pool_of, pool);
    ranks_text(plan, pool_of, pool, ranks, sizeof ranks);
    plan_bytes_text(n, need);
    plan_bytes_text(pools[pool].available, have);
    plan_bytes_text(n - pools[pool].available, missing);
    int is_shared = plan->n_blocks > plan_context_blocks(plan->context); /* the cache, by several */
    uint32_t blocks = is_shared ? blocks_that_fit(p, plan, pools, n_pools, pool_of) : 0;
    uint32_t context = blocks ? 0 : context_that_fits(p, plan, pools, n_pools, pool_of);
    uint32_t stages = stages_that_fit(p, plan, pools, n_pools);
    uint32_t rows = blocks || context ? 0 : rows_that_fit(p, plan, pools, n_pools, pool_of);
    uint64_t tokens = blocks ? (uint64_t)blocks * KV_BLOCK_TOKENS : context;
    const char *what = blocks ? "a KV cache" : is_shared ? "a context and a KV cache" : "a context";
    const char *unit = is_shared ? " tokens" : "";
    if (tokens && stages)
        snprintf(fits, sizeof fits, "%s of %lu%s or %u stages would fit", what, tokens, unit, stages);
    else if (tokens)
        snprintf(fits, sizeof fits, "%s of %lu%s would fit", what, tokens, unit);
    else if (rows)
        snprintf(fits, sizeof fits, "steps of %u rows (--prefill-chunk) would fit", rows);
    else if (stages)
        snprintf(fits, sizeof fits, "%u stages would fit", stages);
    else
        snprintf(fits, sizeof fits, "more hosts or a smaller format of the model are needed");
    return err_set(ERR_MEMORY, "the model needs %s on %s (host %s), %s available: %s missing; %s",
                   need, ranks, pools[pool].host, have, missing, fits);
}

err plan_check_memory(const struct program *p, const struct plan *plan,
                      const struct plan_pool *pools, uint32_t n_pools, const uint32_t *pool_of) {
    for (uint32_t i = 0; i < n_pools; i++)
        if (pool_need(plan, pool_of, i) > pools[i].available)
            return memory_error(p, plan, pools, n_pools, pool_of, i);
    return OK;
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
