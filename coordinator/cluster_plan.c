#include "coordinator/cluster_plan.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define CHANGES_S 4.0 /* after so much time in searches no other kind of host is tried */

err cluster_plan_goal(const struct config *c, enum goal *out) {
    int is_latency = strcmp(c->goal, "latency") == 0;
    if (!is_latency && strcmp(c->goal, "throughput") != 0)
        return err_set(ERR_USAGE, "goal: expected latency or throughput, found \"%s\"", c->goal);
    *out = is_latency ? GOAL_LATENCY : GOAL_THROUGHPUT;
    return OK;
}

uint64_t cluster_plan_available(const struct cluster *c, uint32_t device) {
    const struct cluster_device *d = &c->devices[device];
    uint64_t host = c->hosts[d->host].memory_bytes;
    if (!d->is_host) return d->memory_bytes;
    return d->memory_bytes && d->memory_bytes < host ? d->memory_bytes : host;
}

/* ---- one host more, one fewer ---- */

static void change_fill(const struct search_result *found, struct cluster_change *out) {
    out->n_stages = found->plan->n_stages;
    out->n_shards = found->plan->n_shards;
    out->decode_per_s = found->forecast->decode_per_s;
    out->streams_per_s = found->forecast->streams_per_s;
    out->prefill_per_s = found->forecast->prefill_per_s;
}

static double speed_of(const struct cluster_plan *c, const struct forecast *f) {
    return c->goal == GOAL_LATENCY ? f->decode_per_s : f->streams_per_s;
}

/* A host more may be left out, so the plan is never a worse one. */
static err change_try(const struct cluster_plan *c, const struct search_request *r, const uint32_t *hosts, uint32_t n,
                      struct cluster_change *out) {
    struct cluster *changed;
    struct search_result found = {0};
    struct search_request request = *r;
    request.is_quick = out->is_more;
    TRY(cluster_pick(c->cluster, hosts, n, &changed));
    err e = search_plan(c->program, changed, &request, &found);
    int is_worse = e != OK || speed_of(c, found.forecast) < speed_of(c, c->result.forecast);
    if (out->is_more && is_worse && (e == OK || e == ERR_MEMORY)) {
        change_fill(&c->result, out);
        e = OK;
    } else if (e == OK) {
        change_fill(&found, out);
    } else if (e == ERR_MEMORY || e == ERR_USAGE) { /* no plan: that is an answer, too */
        snprintf(out->why, sizeof out->why, "%s", err_text());
        e = OK;
    }
    search_result_free(&found);
    cluster_free(changed);
    return e;
}

static int has_cell(const struct cluster_plan *c, uint32_t host) {
    const struct plan *plan = c->result.plan;
    for (uint32_t i = 0; i < plan->n_ranks; i++)
        if (c->cluster->devices[plan->cells[i].device].host == host) return 1;
    return 0;
}

static err change_add(struct cluster_plan *c, const struct search_request *r, uint32_t host, int is_more,
                      uint32_t *hosts) {
    uint32_t n = 0;
    struct cluster_change *out = &c->changes[c->n_changes++];
    *out = (struct cluster_change){.host = host, .is_more = is_more};
    if (!is_more && !has_cell(c, host)) {
        change_fill(&c->result, out);
        return OK;
    }
    for (uint32_t h = 0; h < c->cluster->n_hosts; h++)
        if (is_more || h != host) hosts[n++] = h;
    if (is_more) hosts[n++] = host;
    if (n > 0) return change_try(c, r, hosts, n, out);
    snprintf(out->why, sizeof out->why, "no host is left");
    return OK;
}

/* The last host of each kind stands for it: is there a later one like it? */
static int is_last_of_kind(const struct cluster *c, uint32_t host) {
    for (uint32_t h = host + 1; h < c->n_hosts; h++)
        if (cluster_hosts_alike(c, host, h)) return 0;
    return 1;
}

static err changes_make(struct cluster_plan *c, const struct search_request *r) {
    uint32_t n_hosts = c->cluster->n_hosts, *hosts;
    int64_t begin_us = clock_us();
    TRY(NEW(c->changes, 2 * (size_t)n_hosts));
    TRY(NEW(hosts, n_hosts + 1));
    err e = OK;
    for (uint32_t h = 0; e == OK && h < n_hosts; h++) {
        if (c->search_s + (double)(clock_us() - begin_us) * 1e-6 > CHANGES_S) {
            c->is_cut_short = 1;
            break;
        }
        if (!is_last_of_kind(c->cluster, h)) continue;
        e = change_add(c, r, h, 1, hosts);
        if (e == OK) e = change_add(c, r, h, 0, hosts);
    }
    free(hosts);
    return e;
}

/* ---- the whole ---- */

err cluster_plan_make(const struct program *p, const struct config *c, const struct plan_request *r,
                      struct cluster_plan *out) {
    *out = (struct cluster_plan){.program = p};
    TRY(cluster_plan_goal(c, &out->goal));
    TRY(cluster_read(c->cluster, &out->cluster));
    cluster_bound_memory(out->cluster, c->memory_mb << 20);
    cluster_complete(out->cluster);
    struct search_request request = {.plan = *r, .goal = out->goal};
    int64_t begin_us = clock_us();
    err e = search_plan(p, out->cluster, &request, &out->result);
    out->search_s = (double)(clock_us() - begin_us) * 1e-6;
    if (e == OK) e = changes_make(out, &request);
    if (e != OK) cluster_plan_free(out);
    return e;
}

void cluster_plan_free(struct cluster_plan *c) {
    search_result_free(&c->result);
    cluster_free(c->cluster);
    free(c->changes);
    *c = (struct cluster_plan){0};
}
