#include "partition/search.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/limits.h"
#include "partition/search_parts.h"

#define EXACT_DEVICES_MAX 6 /* always all orders */
#define TRIED_DEVICES_MAX 10 /* all orders if that takes seconds only */
#define EXACT_STEPS_MAX 3000000000ull
#define MANY_DEVICES 64 /* beyond, devices whose rates differ little are alike */
#define LITTLE 0.03

/* ---- what is asked ---- */

static err request_check(const struct program *p, const struct cluster *c, const struct search_request *r) {
    uint32_t stages = r->plan.n_stages, shards = r->plan.n_shards, n_stages, n_shards;
    TRY(cost_check(c));
    TRY(plan_grid(p, stages, shards, stages && shards ? r->plan.n_ranks : 0, &n_stages, &n_shards));
    uint32_t n = (stages ? stages : 1) * (shards ? shards : 1);
    if (n > c->n_devices)
        return err_set(ERR_USAGE, "%u stages x %u shards need %u devices, the cluster has %u", n_stages, n_shards, n,
                       c->n_devices);
    if (r->plan.n_ranks && n > r->plan.n_ranks)
        return err_set(ERR_USAGE, "%u stages x %u shards are %u ranks, at most %u may be used", n_stages, n_shards, n,
                       r->plan.n_ranks);
    if (r->all_devices && r->plan.n_ranks && r->plan.n_ranks != c->n_devices)
        return err_set(ERR_USAGE, "all %u devices are to be used, but only %u ranks", c->n_devices, r->plan.n_ranks);
    return OK;
}

/* Context, cache and rows as any plan of this request has them. */
static err sizes_fill(struct search *s) {
    struct plan_request r = s->request->plan;
    struct plan *plan;
    r.n_stages = r.n_shards = r.n_ranks = 1;
    TRY(plan_create(s->model.program, &r, &plan));
    s->sizes = (struct plan){.context = plan->context, .n_blocks = plan->n_blocks, .rows_max = plan->rows_max};
    plan_free(plan);
    uint32_t half = s->sizes.context / 2;
    s->shape = (struct step_shape){1, 1, half ? half : 1, 0};
    return OK;
}

/* ---- devices ---- */

static int is_near(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b)); }

static int rates_alike(const struct device_rates *a, const struct device_rates *b, double tolerance) {
    for (int f = 0; f < N_FORMATS; f++)
        if (!is_near(a->row_per_s[f], b->row_per_s[f], tolerance) ||
            !is_near(a->alone_per_s[f], b->alone_per_s[f], tolerance) ||
            !is_near(a->few_per_s[f], b->few_per_s[f], tolerance) ||
            !is_near(a->products_per_s[f], b->products_per_s[f], tolerance))
            return 0;
    return is_near(a->read_per_s, b->read_per_s, tolerance) && is_near(a->f32_per_s, b->f32_per_s, tolerance) &&
           is_near(a->plain_per_s, b->plain_per_s, tolerance) &&
           is_near(a->launch_s, b->launch_s, tolerance) && is_near(a->step_s, b->step_s, tolerance) &&
           is_near(a->copy_per_s, b->copy_per_s, tolerance) && is_near(a->quota_share, b->quota_share, tolerance) &&
           is_near(a->quota_spare_s, b->quota_spare_s, tolerance) &&
           is_near(a->quota_message_s, b->quota_message_s, tolerance) &&
           is_near(a->quota_link_per_s, b->quota_link_per_s, tolerance);
}

static err classes_fill(struct search *s) {
    const struct cluster_device *d = s->model.cluster->devices;
    double tolerance = s->n_devices > MANY_DEVICES ? LITTLE : 0;
    uint32_t *first;
    TRY(NEW(first, s->n_devices));
    for (uint32_t i = 0, c; i < s->n_devices; i++) {
        for (c = 0; c < s->n_classes; c++)
            if (d[first[c]].is_host == d[i].is_host && rates_alike(&d[first[c]].rates, &d[i].rates, tolerance)) break;
        if (c == s->n_classes) first[s->n_classes++] = i;
        s->class_of[i] = c;
    }
    free(first);
    return OK;
}

/* Devices that are their host draw from its memory, others from their own; 0 bytes: not known, no limit. */
static void pools_fill(struct search *s) {
    const struct cluster *c = s->model.cluster;
    for (uint32_t i = 0; i < c->n_hosts; i++) {
        s->pools[i] = c->hosts[i].memory_bytes ? c->hosts[i].memory_bytes : UINT64_MAX;
        s->pool_parts[i] = 1;
    }
    for (uint32_t i = 0; i < c->n_devices; i++) {
        const struct cluster_device *d = &c->devices[i];
        uint32_t own = c->n_hosts + i;
        s->caps[i] = d->memory_bytes ? d->memory_bytes : UINT64_MAX;
        s->pools[own] = s->caps[i];
        s->pool_parts[own] = 1;
        s->pool_of[i] = d->is_host ? d->host : own;
        s->best_with[i] = INFINITY;
        if (d->rank == 0) s->pinned = i;
    }
}

/* Each device of a shared pool may take an equal part only. */
static void pools_divide(struct search *s) {
    for (uint32_t i = 0; i < s->n_devices; i++) {
        uint32_t n = 0;
        for (uint32_t k = 0; s->pools[s->pool_of[i]] != UINT64_MAX && k < s->n_devices; k++)
            n += s->pool_of[k] == s->pool_of[i];
        if (n > 0) s->pool_parts[s->pool_of[i]] = 1.0 / n;
    }
}

static void pools_join(struct search *s) {
    for (uint32_t i = 0; i < s->n_pools; i++) s->pool_parts[i] = 1;
}

static void search_close(struct search *s) {
    cost_model_free(&s->model);
    free(s->class_of);
    free(s->pool_of);
    free(s->pools);
    free(s->caps);
    free(s->pool_parts);
    free(s->holdings);
    free(s->best_devices);
    free(s->best_layers);
    free(s->best_shares);
    free(s->best_with);
}

static err search_fill(struct search *s) {
    const struct program *p = s->model.program;
    uint32_t n = s->n_devices;
    TRY(NEW(s->class_of, n));
    TRY(NEW(s->pool_of, n));
    TRY(NEW(s->pools, s->n_pools));
    TRY(NEW(s->caps, n));
    TRY(NEW(s->pool_parts, s->n_pools));
    TRY(NEW(s->holdings, p->n_weights));
    TRY(NEW(s->best_devices, n));
    TRY(NEW(s->best_layers, p->n_layers + 1));
    TRY(NEW(s->best_shares, n));
    TRY(NEW(s->best_with, n));
    TRY(classes_fill(s));
    pools_fill(s);
    return sizes_fill(s);
}

static err search_open(const struct program *p, const struct cluster *c, const struct search_request *r,
                       struct search *s) {
    *s = (struct search){.request = r, .n_devices = c->n_devices, .n_layers = p->n_layers, .pinned = NO_DEVICE,
                         .n_pools = c->n_hosts + c->n_devices, .best = INFINITY, .is_exact = 1,
                         .steps_max = UINT64_MAX};
    s->n_most = r->plan.n_ranks && r->plan.n_ranks < c->n_devices ? r->plan.n_ranks : c->n_devices;
    TRY(cost_model_create(p, c, &s->model));
    err e = search_fill(s);
    if (e != OK) search_close(s);
    return e;
}

/* ---- the search ---- */

static err search_run(struct search *s) {
    s->is_exact = s->n_devices <= EXACT_DEVICES_MAX && !s->request->is_quick;
    if (s->is_exact) return search_exact(s);
    pools_divide(s);
    TRY(search_greedy(s));
    pools_join(s);
    if (s->n_devices > TRIED_DEVICES_MAX || s->request->is_quick) return OK;
    s->is_exact = 1;
    s->steps_max = s->n_steps + EXACT_STEPS_MAX;
    return search_exact(s);
}

/* All devices alike: as plan_create has it, devices in order. */
static err equal_plan(struct search *s, struct plan **out) {
    struct plan_request r = s->request->plan;
    struct plan_choice choice = {.devices = s->best_devices};
    uint32_t n = 0;
    r.n_ranks = r.n_stages || r.n_shards ? 0 : s->n_most;
    if (s->pinned != NO_DEVICE) s->best_devices[n++] = s->pinned;
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (i != s->pinned) s->best_devices[n++] = i;
    s->n_tried = 1;
    s->is_exact = 0;
    return plan_create_with(s->model.program, &r, &choice, out);
}

static err best_plan(const struct search *s, struct plan **out) {
    struct plan_request r = s->request->plan;
    const struct plan_choice choice = {s->best_layers, s->best_shares, s->best_devices};
    r.n_stages = s->best_stages;
    r.n_shards = s->best_shards;
    r.n_ranks = 0;
    return plan_create_with(s->model.program, &r, &choice, out);
}

/* ---- memory ---- */

/* The plan against the memory of hosts, then of devices with a limit of their own. */
static err plan_fit(const struct search *s, const struct plan *plan) {
    const struct cluster *c = s->model.cluster;
    struct plan_pool *pools;
    uint32_t *pool_of = NULL;
    TRY(NEW(pools, s->n_pools));
    err e = NEW(pool_of, plan->n_ranks);
    for (uint32_t i = 0; i < s->n_pools; i++)
        pools[i] = (struct plan_pool){c->hosts[i < c->n_hosts ? i : c->devices[i - c->n_hosts].host].name, s->pools[i]};
    for (uint32_t i = 0; e == OK && i < plan->n_ranks; i++) pool_of[i] = s->pool_of[plan->cells[i].device];
    if (e == OK) e = plan_check_memory(s->model.program, plan, pools, s->n_pools, pool_of);
    for (uint32_t i = 0; e == OK && i < plan->n_ranks; i++) pool_of[i] = c->n_hosts + plan->cells[i].device;
    if (e == OK) e = plan_check_memory(s->model.program, plan, pools, s->n_pools, pool_of);
    free(pools);
    free(pool_of);
    return e;
}

/* The longest context of one text for which there is a plan; 0: none, or it would take too long to say. */
static uint32_t context_that_fits(const struct search *s) {
    uint32_t least = 0, most = (s->sizes.context - 1) / KV_BLOCK_TOKENS + 1; /* in blocks; least fits, most does not */
    if (s->n_devices > TRIED_DEVICES_MAX) return 0;
    while (least + 1 < most) {
        uint32_t middle = least + (most - least) / 2;
        struct search_request r = *s->request;
        struct search other;
        r.plan.context = middle * KV_BLOCK_TOKENS;
        r.plan.n_blocks = 0;
        if (search_open(s->model.program, s->model.cluster, &r, &other) != OK) return 0;
        err e = search_run(&other);
        int fits = e == OK && other.best_stages > 0;
        search_close(&other);
        if (fits) least = middle;
        else most = middle;
    }
    return least * KV_BLOCK_TOKENS;
}

/* No plan fits: what all devices have, what a plan of as many stages as can be needs. */
static err memory_error(struct search *s) {
    char need[16], have[16], missing[16], fits[64];
    struct plan_request r = s->request->plan;
    double sum_have = 0;
    uint64_t sum_need = 0;
    struct plan *plan;
    if (!r.n_stages && !r.n_shards) r.n_stages = s->n_most < s->n_layers ? s->n_most : s->n_layers;
    r.n_ranks = 0;
    TRY(plan_create(s->model.program, &r, &plan));
    for (uint32_t i = 0; i < plan->n_ranks; i++) sum_need += plan_cell_bytes(&plan->cells[i]);
    uint32_t n_ranks = plan->n_ranks;
    plan_free(plan);
    for (uint32_t i = 0; i < s->model.cluster->n_hosts + s->n_devices; i++) {
        double of_devices = 0;
        for (uint32_t d = 0; d < s->n_devices; d++)
            if (s->pool_of[d] == i) of_devices += (double)s->caps[d];
        sum_have += fmin(of_devices, (double)s->pools[i]);
    }
    plan_bytes_text(sum_need, need);
    plan_bytes_text((uint64_t)fmin(sum_have, 1e19), have);
    plan_bytes_text((uint64_t)fmax((double)sum_need - sum_have, 0), missing);
    uint32_t context = context_that_fits(s);
    if (context) snprintf(fits, sizeof fits, "a context of %u for one text would fit", context);
    else snprintf(fits, sizeof fits, "more hosts or a smaller format of the model are needed");
    if ((double)sum_need > sum_have)
        return err_set(ERR_MEMORY, "the model needs %s as %u ranks, all %u devices together have %s: %s missing; %s",
                       need, n_ranks, s->n_devices, have, missing, fits);
    return err_set(ERR_MEMORY, "the model needs %s as %u ranks; the %u devices have %s together, but no way to cut the "
                               "model fits each of them; %s",
                   need, n_ranks, s->n_devices, have, fits);
}

/* ---- the result ---- */

/* The best plan with it, or with one like it that has no cell either: of those one is tried. */
static double best_with(const struct search *s, const uint8_t *is_used, uint32_t device) {
    double best = s->best_with[device];
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (!is_used[i] && s->class_of[i] == s->class_of[device] && s->caps[i] == s->caps[device])
            best = fmin(best, s->best_with[i]);
    return best;
}

static void left_out_say(const struct search *s, uint32_t device, double with, struct left_out *out) {
    const char *unit = search_is_latency(s) ? "tokens/s" : "tokens/s of all streams";
    out->device = device;
    if (s->request->is_equal)
        snprintf(out->why, sizeof out->why, "the grid has no place for it");
    else if (!(with < INFINITY))
        snprintf(out->why, sizeof out->why, "no plan with it was found that fits");
    else if (with <= s->best * (1 + 1e-9))
        snprintf(out->why, sizeof out->why, "would bring nothing: %.4g %s with it and without", 1 / with, unit);
    else
        snprintf(out->why, sizeof out->why, "would slow the rest: %.4g %s with it, %.4g without", 1 / with, unit,
                 1 / s->best);
}

static err left_out_fill(const struct search *s, struct search_result *out) {
    uint8_t *is_used;
    TRY(NEW(is_used, s->n_devices));
    for (uint32_t i = 0; i < out->plan->n_ranks; i++) is_used[out->plan->cells[i].device] = 1;
    err e = NEW(out->left_out, s->n_devices);
    for (uint32_t i = 0; e == OK && i < s->n_devices; i++)
        if (!is_used[i]) left_out_say(s, i, best_with(s, is_used, i), &out->left_out[out->n_left_out++]);
    free(is_used);
    return e;
}

static err result_fill(struct search *s, struct search_result *out) {
    if (s->request->is_equal) {
        TRY(equal_plan(s, &out->plan));
    } else {
        TRY(search_run(s));
        if (s->n_tried == 0)
            return err_set(ERR_USAGE, "%u devices make no grid of at most %u stages and %u shards", s->n_devices,
                           s->n_layers, SEGMENTS_MAX);
        if (s->best_stages == 0) return memory_error(s);
        TRY(best_plan(s, &out->plan));
    }
    TRY(plan_fit(s, out->plan));
    out->n_tried = s->n_tried;
    out->is_exact = s->is_exact;
    TRY(left_out_fill(s, out));
    return forecast_create(s->model.program, s->model.cluster, out->plan, &out->forecast);
}

err search_plan(const struct program *p, const struct cluster *c, const struct search_request *r,
                struct search_result *out) {
    struct search s;
    *out = (struct search_result){0};
    TRY(request_check(p, c, r));
    TRY(search_open(p, c, r, &s));
    err e = result_fill(&s, out);
    search_close(&s);
    if (e != OK) search_result_free(out);
    return e;
}

void search_result_free(struct search_result *r) {
    plan_free(r->plan);
    forecast_free(r->forecast);
    free(r->left_out);
    *r = (struct search_result){0};
}
