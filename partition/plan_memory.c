/* Whether a plan fits, and what would where it does not. */
#include "partition/plan.h"

#include <stdio.h>

#include "model/limits.h"

#define GB 1e9

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

/* The same cells with what else the request says. */
static int request_fits(const struct program *p, const struct plan *plan, const struct plan_request *r,
                        const struct plan_pool *pools, uint32_t n_pools, const uint32_t *pool_of) {
    const struct plan_choice same = {.layer_begin = plan->layer_begin, .shares = plan->shares};
    struct plan *other;
    if (plan_create_with(p, r, &same, &other) != OK) return 0;
    int fits = plan_fits(other, pools, n_pools, pool_of);
    plan_free(other);
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
        if (request_fits(p, plan, &r, pools, n_pools, pool_of)) least = middle;
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
        if (request_fits(p, plan, &r, pools, n_pools, pool_of)) least = middle;
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
        if (request_fits(p, plan, &r, pools, n_pools, pool_of)) break;
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
