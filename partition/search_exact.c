/* All orders of all devices, but for those that differ only in which of several like devices is where. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partition/search_parts.h"

struct exact {
    struct search *s;
    struct search_order order;
    uint32_t least_stages, most_stages;
    uint8_t *is_used;       /* [n_devices] */
    uint32_t *n_used;       /* [n_hosts] */
    struct search_team team; /* that is being put together */
};

static uint32_t host_of(const struct search *s, uint32_t device) { return s->model.cluster->devices[device].host; }

static int devices_alike(const struct search *s, uint32_t a, uint32_t b) {
    return s->class_of[a] == s->class_of[b] && s->caps[a] == s->caps[b] && a != s->pinned && b != s->pinned;
}

/* Whether two whole hosts could change places; their devices stand in the same order. */
static int hosts_alike(const struct search *s, uint32_t a, uint32_t b) {
    const struct cluster *c = s->model.cluster;
    const struct cluster_host *x = &c->hosts[a], *y = &c->hosts[b];
    uint32_t at = 0;
    if (c->measured || x->memory_bytes != y->memory_bytes || memcmp(&x->port, &y->port, sizeof x->port) != 0 ||
        memcmp(&x->inside, &y->inside, sizeof x->inside) != 0)
        return 0;
    for (uint32_t i = 0; i < c->n_devices; i++) {
        if (host_of(s, i) != a) continue;
        while (at < c->n_devices && host_of(s, at) != b) at++;
        if (at == c->n_devices || !devices_alike(s, i, at)) return 0;
        at++;
    }
    while (at < c->n_devices && host_of(s, at) != b) at++;
    return at == c->n_devices;
}

/* Whether an earlier device would do as well in this place. */
static int is_repetition(const struct exact *x, uint32_t device) {
    const struct search *s = x->s;
    uint32_t host = host_of(s, device);
    for (uint32_t i = 0; i < device; i++)
        if (!x->is_used[i] && host_of(s, i) == host && devices_alike(s, i, device)) return 1;
    for (uint32_t h = 0; h < host && x->n_used[host] == 0; h++)
        if (x->n_used[h] == 0 && hosts_alike(s, h, host)) return 1;
    return 0;
}

static void device_take(struct exact *x, uint32_t device, int takes) {
    x->is_used[device] = (uint8_t)takes;
    x->n_used[host_of(x->s, device)] += takes ? 1 : UINT32_MAX;
}

/* Nothing that begins like this can be better than what is known with every device. */
static int is_hopeless(const struct exact *x) {
    const struct search *s = x->s;
    const double *row = x->order.value + (size_t)x->order.n_teams * (s->n_layers + 1);
    double least = INFINITY, most = 0;
    for (uint32_t l = 1; l <= s->n_layers; l++) least = fmin(least, row[l]);
    for (uint32_t i = 0; i < s->n_devices; i++) most = fmax(most, s->best_with[i]);
    return least > most || !(least < INFINITY);
}

static err stages_try(struct exact *x);

static err team_try(struct exact *x) {
    struct search *s = x->s;
    int is_last = x->order.n_teams + 1 == x->most_stages;
    TRY(search_table_get(s, x->team.devices, x->most_stages > 2, &x->team.table));
    search_order_add(s, &x->order, &x->team, is_last);
    err e = OK;
    if (x->order.n_teams >= x->least_stages) e = search_order_weigh(s, &x->order);
    if (e == OK && !is_last && !is_hopeless(x)) e = stages_try(x);
    search_order_drop(&x->order);
    return e;
}

/* The shard-th device of the next stage. */
static err shard_try(struct exact *x, uint32_t shard) {
    struct search *s = x->s;
    if (shard == s->grid.n_shards) {
        struct search_team team = x->team;
        err e = team_try(x);
        x->team = team;
        return e;
    }
    int is_first = shard == 0 && x->order.n_teams == 0;
    for (uint32_t i = 0; i < s->n_devices && s->n_steps < s->steps_max; i++) {
        if (x->is_used[i] || is_repetition(x, i)) continue;
        if (is_first && s->pinned != NO_DEVICE && i != s->pinned) continue;
        device_take(x, i, 1);
        x->team.devices[shard] = i;
        err e = shard_try(x, shard + 1);
        device_take(x, i, 0);
        TRY(e);
    }
    return OK;
}

static err stages_try(struct exact *x) { return shard_try(x, 0); }

/* Plans of n_shards. */
static err shards_try(struct search *s, struct exact *x, uint32_t n_shards) {
    uint32_t most = s->n_most / n_shards, asked = s->request->plan.n_stages;
    most = most < s->n_layers ? most : s->n_layers;
    x->least_stages = asked ? asked : s->request->all_devices ? s->n_most / n_shards : 1;
    x->most_stages = asked ? asked : most;
    if (x->least_stages > most || (s->request->all_devices && x->least_stages * n_shards != s->n_most)) return OK;
    TRY(search_grid_open(s, n_shards, 1));
    if (s->grid.n_vectors == 0) s->is_exact = 0;
    TRY(search_order_open(s, x->most_stages, &x->order));
    err e = stages_try(x);
    search_order_close(&x->order);
    search_grid_close(s);
    return e;
}

err search_exact(struct search *s) {
    struct exact x = {.s = s};
    uint32_t asked = s->request->plan.n_shards;
    err e = NEW(x.is_used, s->n_devices);
    if (e == OK) e = NEW(x.n_used, s->model.cluster->n_hosts);
    for (uint32_t n = 1; e == OK && n <= s->n_most && n <= SEGMENTS_MAX; n++)
        if (!asked || asked == n) e = shards_try(s, &x, n);
    if (s->n_steps >= s->steps_max) s->is_exact = 0;
    free(x.is_used);
    free(x.n_used);
    return e;
}
