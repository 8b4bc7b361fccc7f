#include "coordinator/job_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/cluster_plan.h"
#include "coordinator/measured.h"

#define NOISE 0.03 /* of a measurement: devices that are alike differ by as much */

/* ---- before the launch ---- */

static struct plan_request request_of(const struct job_plan *j) {
    return (struct plan_request){j->n_stages, j->n_shards, j->n_ranks,
                                 j->r.context, j->r.n_blocks, j->r.rows_max};
}

static int is_open(const struct job_plan *j) { return j->n_stages == 0; }

/* As many as the command line or the launch says; 0: as many as there are devices. */
static err ranks_asked(const struct job_request *r, uint32_t *out) {
    *out = (uint32_t)r->config->ranks;
    if (r->n_inside && *out && *out != r->n_inside)
        return err_set(ERR_USAGE, "--ranks %u inside a launch of %u ranks; leave it out", *out, r->n_inside);
    if (r->n_inside) *out = r->n_inside;
    return OK;
}

/* Rates decide: from a measurement, or from the file of the cluster. */
static int has_rates_to_come(const struct job_plan *j) {
    const char *probe = j->r.config->probe;
    if (*j->r.config->cluster) return 1;
    return strcmp(probe, "off") != 0 && !(strcmp(probe, "auto") == 0 && j->r.is_reference);
}

static err check_words(struct job_plan *j) {
    static const char *const words[] = {"auto", "on", "off", "again"};
    TRY(cluster_plan_goal(j->r.config, &j->goal));
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (strcmp(j->r.config->probe, words[i]) == 0) return OK;
    return err_set(ERR_USAGE, "probe: expected auto, on, off or again, found \"%s\"", j->r.config->probe);
}

static err grid_begin(struct job_plan *j) {
    const struct config *c = j->r.config;
    uint32_t stages = (uint32_t)c->stages, shards = (uint32_t)c->shards, ranks;
    TRY(ranks_asked(&j->r, &ranks));
    TRY(places_find(c, &j->places));
    if (!stages && !shards && !ranks) {
        TRY(places_by_devices(&j->places, c->cluster));
        ranks = j->places.n_ranks;
        if (ranks > 1 && has_rates_to_come(j)) {
            j->n_ranks = ranks;
            return OK;
        }
        TRY(plan_grid(j->r.program, 0, 0, ranks, &j->n_stages, &j->n_shards));
        j->n_ranks = ranks;
        return OK;
    }
    int is_left_open = !stages && !shards && ranks > 1 && has_rates_to_come(j);
    if (is_left_open && j->r.n_inside) { /* ranks that the model has no use for stay out */
        j->n_ranks = ranks;
        return OK;
    }
    TRY(plan_grid(j->r.program, stages, shards, ranks, &stages, &shards));
    /* A launch has its places already. */
    int is_crowded = j->r.n_inside || strstr(c->mpirun_args, "oversubscribe");
    TRY(places_spread(&j->places, stages, shards, is_crowded));
    j->n_ranks = j->places.n_ranks;
    if (is_left_open) return OK;
    j->n_stages = stages;
    j->n_shards = shards;
    return OK;
}

/* Ranks for a job that only measures: as many as the flags say, else as there are devices, each on a host as far as
 * hosts go. */
static err ranks_begin(struct job_plan *j) {
    const struct config *c = j->r.config;
    uint32_t ranks, grid = (uint32_t)((c->stages ? c->stages : 1) * (c->shards ? c->shards : 1));
    TRY(ranks_asked(&j->r, &ranks));
    TRY(places_find(c, &j->places));
    if (!ranks && (c->stages || c->shards)) ranks = grid;
    TRY(ranks ? places_spread(&j->places, ranks, 1, 1) : places_by_devices(&j->places, c->cluster));
    j->n_ranks = j->places.n_ranks;
    return OK;
}

static err begin(struct job_plan *j) {
    TRY(check_words(j));
    if (*j->r.config->cluster) TRY(cluster_check(j->r.config->cluster));
    if (!j->r.program) return ranks_begin(j);
    TRY(grid_begin(j));
    if (is_open(j)) return OK;
    struct plan_request r = request_of(j);
    return plan_create(j->r.program, &r, &j->plan); /* what cannot be is said before anything starts */
}

err job_plan_begin(const struct job_request *r, struct job_plan **out) {
    struct job_plan *j;
    TRY(NEW(j, 1));
    j->r = *r;
    err e = begin(j);
    if (e == OK) *out = j;
    else job_plan_free(j);
    return e;
}

void job_plan_free(struct job_plan *j) {
    if (!j) return;
    if (j->plan != j->found.plan) plan_free(j->plan);
    search_result_free(&j->found);
    cluster_free(j->cluster);
    cluster_free(j->probed);
    places_free(&j->places);
    free(j->devices);
    free(j->order);
    free(j);
}

uint32_t job_plan_stages_max(const struct job_plan *j) {
    if (!is_open(j)) return j->n_stages;
    return j->n_ranks < j->r.program->n_layers ? j->n_ranks : j->r.program->n_layers;
}

/* ---- the devices ---- */

/* What the file says goes over what is there. */
static err cluster_take(struct job_plan *j, struct cluster *c) {
    const struct config *config = j->r.config;
    cluster_free(j->cluster);
    j->cluster = c;
    if (*config->cluster) TRY(cluster_correct(c, config->cluster));
    cluster_bound_memory(c, config->memory_mb << 20);
    return OK;
}

/* Ranks of a host that select alike count up. */
static uint32_t turn_of(const struct cluster *c, uint32_t rank) {
    const struct cluster_device *d = &c->devices[rank];
    uint32_t n = 0;
    for (uint32_t i = 0; i < rank; i++)
        n += c->devices[i].host == d->host && strcmp(c->devices[i].select, d->select) == 0;
    return n;
}

err job_plan_hello(struct job_plan *j, const struct engine_rank *ranks) {
    struct cluster *c;
    TRY(NEW(j->devices, j->n_ranks));
    for (uint32_t i = 0; i < j->n_ranks; i++) {
        struct plan_device *d = &j->devices[i];
        snprintf(d->select, sizeof d->select, "%.255s", j->r.config->device);
        d->threads = (uint32_t)j->r.config->threads;
    }
    TRY(measured_hello(ranks, j->n_ranks, j->devices, &c));
    TRY(cluster_take(j, c));
    for (uint32_t i = 0; i < j->n_ranks; i++) {
        const struct cluster_device *from = &c->devices[i];
        struct plan_device *d = &j->devices[i];
        snprintf(d->select, sizeof d->select, "%s", from->select);
        d->threads = from->threads;
        d->has_index = from->has_index;
        d->index = from->has_index ? from->index : turn_of(c, i);
    }
    return OK;
}

static int has_unlike(const struct job_plan *j) {
    for (uint32_t i = 1; i < j->n_ranks; i++)
        if (strcmp(j->devices[i].select, j->devices[0].select) != 0 ||
            j->devices[i].threads != j->devices[0].threads)
            return 1;
    return 0;
}

int job_plan_must_probe(const struct job_plan *j) {
    const char *probe = j->r.config->probe;
    if (strcmp(probe, "auto") != 0) return strcmp(probe, "off") != 0;
    if (j->n_ranks == 1 || j->r.is_reference) return 0;
    return is_open(j) || j->cluster->n_hosts > 1 || has_unlike(j);
}

struct job_products job_products_of(const struct program *p) {
    struct job_products of = {.side = p->dim};
    for (uint32_t i = 0; i < p->n_weights; i++)
        if (!p->weights[i].is_vector) of.has_format[p->weights[i].tensor->format] = 1;
    return of;
}

/* What FRAME_PROBE says; its devices are the job's own. */
static struct probe_message asked(const struct job_plan *j) {
    const struct job_products of = j->r.program ? job_products_of(j->r.program) : *j->r.products;
    struct probe_message m = {.is_again = strcmp(j->r.config->probe, "again") == 0,
                              .is_reference = j->r.is_reference,
                              .deadline_ms = (uint32_t)(j->r.config->deadline_s * 1000),
                              .turn = j->turn, .n_turns = j->n_turns, .side = of.side,
                              .n_ranks = j->n_ranks, .devices = j->devices};
    memcpy(m.has_format, of.has_format, sizeof m.has_format);
    return m;
}

err job_plan_ask(const struct job_plan *j, struct bytes *json) {
    const struct probe_message m = asked(j);
    return probe_message_put(&m, json);
}

err job_plan_answer(struct job_plan *j, const struct engine_rank *ranks, const char *body, size_t n) {
    const struct probe_message m = asked(j);
    if (j->turn > 0) {
        TRY(measured_alone(j->probed, &m, body, n));
    } else {
        TRY(measured_cluster(ranks, j->n_ranks, &m, body, n, &j->probed));
        j->n_turns = measured_turns(j->probed, &m);
    }
    if (j->turn++ < j->n_turns) return OK;
    j->is_measured = 1;
    struct cluster *c = j->probed;
    j->probed = NULL;
    return cluster_take(j, c);
}

/* ---- the plan ---- */

static int has_rates(const struct cluster *c) {
    for (uint32_t i = 0; i < c->n_devices; i++)
        if (c->devices[i].rates.read_per_s > 0) return 1;
    return 0;
}

/* What the hosts have, for the ranks that share it; the last pool is of devices with memory of their own. */
static err check_hosts(const struct job_plan *j, struct plan_pool *pools, uint32_t *pool_of) {
    const struct cluster *c = j->cluster;
    uint32_t n_pools = c->n_hosts;
    for (uint32_t i = 0; i < c->n_hosts; i++)
        pools[i] = (struct plan_pool){c->hosts[i].name, c->hosts[i].memory_bytes};
    pools[c->n_hosts] = (struct plan_pool){"", UINT64_MAX};
    for (uint32_t r = 0; r < j->plan->n_ranks; r++) {
        pool_of[r] = c->devices[r].is_host ? c->devices[r].host : c->n_hosts;
        if (!c->devices[r].is_host) n_pools = c->n_hosts + 1;
    }
    return plan_check_memory(j->r.program, j->plan, pools, n_pools, pool_of);
}

/* The limits of single ranks. */
static err check_ranks(const struct job_plan *j, struct plan_pool *pools, uint32_t *pool_of) {
    const struct cluster *c = j->cluster;
    for (uint32_t r = 0; r < j->plan->n_ranks; r++) {
        uint64_t most = c->devices[r].memory_bytes;
        pools[r] = (struct plan_pool){c->hosts[c->devices[r].host].name, most ? most : UINT64_MAX};
        pool_of[r] = r;
    }
    return plan_check_memory(j->r.program, j->plan, pools, j->plan->n_ranks, pool_of);
}

/* Of a plan whose cells follow the ranks. Who says memory_mb knows better what a host has. */
static err check_memory(const struct job_plan *j) {
    struct plan_pool *pools = NULL;
    uint32_t *pool_of = NULL;
    err e = NEW(pools, j->n_ranks + 1); /* there are no more hosts than ranks */
    if (e == OK) e = NEW(pool_of, j->n_ranks);
    if (e == OK && !j->r.config->memory_mb) e = check_hosts(j, pools, pool_of);
    if (e == OK) e = check_ranks(j, pools, pool_of);
    free(pools);
    free(pool_of);
    return e;
}

/* All devices alike: cells in the order of ranks. */
static err plan_equal(struct job_plan *j) {
    struct plan_request r = request_of(j);
    if (!j->plan) TRY(plan_create(j->r.program, &r, &j->plan));
    return check_memory(j);
}

static double speed_of(const struct job_plan *j, const struct search_result *r) {
    return j->goal == GOAL_LATENCY ? r->forecast->decode_per_s : r->forecast->streams_per_s;
}

/* Where noise may have decided, the plan is the one that needs no measurement: so like devices get the same every
 * time. */
static err plan_steady(struct job_plan *j, struct search_request r) {
    struct search_result equal;
    r.is_equal = 1;
    err e = search_plan(j->r.program, j->cluster, &r, &equal);
    if (e == ERR_MEMORY || e == ERR_USAGE) return OK; /* there is none */
    TRY(e);
    if (speed_of(j, &equal) * (1 + NOISE) >= speed_of(j, &j->found)) {
        struct search_result other = j->found;
        j->found = equal;
        equal = other;
    }
    search_result_free(&equal);
    return OK;
}

static err plan_search(struct job_plan *j) {
    /* Ranks that somebody counted are all wanted. */
    const struct search_request r = {.plan = request_of(j), .goal = j->goal,
                                     .all_devices = !is_open(j) || j->r.config->ranks};
    cluster_complete(j->cluster);
    TRY(cost_check(j->cluster));
    TRY(search_plan(j->r.program, j->cluster, &r, &j->found));
    if (j->is_measured) TRY(plan_steady(j, r));
    plan_free(j->plan);
    j->plan = j->found.plan;
    return OK;
}

/* Cells first, then ranks without one. */
static err order_make(struct job_plan *j) {
    uint8_t *has_cell;
    TRY(NEW(has_cell, j->n_ranks));
    err e = NEW(j->order, j->n_ranks);
    uint32_t n = 0;
    for (; e == OK && n < j->plan->n_ranks; n++) {
        j->order[n] = j->plan->cells[n].device;
        if (j->order[n] >= j->n_ranks || has_cell[j->order[n]]++)
            e = err_set(ERR_INTERNAL, "the plan gives cell %u to rank %u of %u", n, j->order[n], j->n_ranks);
    }
    for (uint32_t i = 0; e == OK && i < j->n_ranks; i++)
        if (!has_cell[i]) j->order[n++] = i;
    free(has_cell);
    return e;
}

err job_plan_make(struct job_plan *j) {
    TRY(has_rates(j->cluster) ? plan_search(j) : plan_equal(j));
    return order_make(j);
}

err job_plan_cells(const struct job_plan *j, struct plan_message *m) {
    uint32_t n = j->plan->n_ranks;
    TRY(NEW(m->order, n));
    TRY(NEW(m->devices, n));
    memcpy(m->order, j->order, n * sizeof *m->order);
    for (uint32_t i = 0; i < n; i++) m->devices[i] = j->devices[j->order[i]];
    return OK;
}

err job_plan_print(const struct job_plan *j, struct bytes *out) {
    const struct forecast *f = j->found.forecast;
    TRY(bytes_printf(out, "stages=%u shards=%u ranks=%u hosts=%u", j->plan->n_stages, j->plan->n_shards, j->n_ranks,
                     j->cluster->n_hosts));
    if (f)
        TRY(bytes_printf(out, " decode_per_s=%.3g streams_per_s=%.3g prefill_per_s=%.3g", f->decode_per_s,
                         f->streams_per_s, f->prefill_per_s));
    for (uint32_t i = 0; i < j->found.n_left_out; i++) {
        const struct left_out *l = &j->found.left_out[i];
        const struct cluster_device *d = &j->cluster->devices[l->device];
        TRY(bytes_printf(out, " left_out=\"%s on %s: %s\"", d->name, j->cluster->hosts[d->host].name, l->why));
    }
    return OK;
}
