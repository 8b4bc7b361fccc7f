/* Promising orders for clusters of any size: teams inside hosts, the fastest or the roomiest first, few to many of
 * them, hosts kept together; then, where there are not too many devices, exchanges of two as long as that helps. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partition/search_parts.h"

#define SWAP_DEVICES_MAX 64
#define SWAP_STEPS_MAX 1500000000ull
#define PATIENCE 8 /* stages more that may bring nothing to one stream before more are not tried */

/* A device, or a team of them, with what it is sorted by. */
struct candidate {
    uint32_t devices[SEGMENTS_MAX];
    uint32_t host, at;
    double seconds; /* of all layers, were there the memory, and nothing to wait for; before all others: -1 */
    double room;    /* bytes */
};

static int compare(double a, double b) { return a < b ? -1 : a > b; }

static int by_host(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->host != y->host) return x->host < y->host ? -1 : 1;
    int order = compare(x->seconds, y->seconds);
    return order ? order : x->at < y->at ? -1 : 1;
}

static int by_speed(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    int order = compare(x->seconds, y->seconds);
    return order ? order : x->at < y->at ? -1 : 1;
}

static int by_room(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    int order = x->seconds < 0 || y->seconds < 0 ? compare(x->seconds, y->seconds) : compare(y->room, x->room);
    return order ? order : by_speed(a, b);
}

/* Of all devices, host by host, the fastest of each first. */
static err devices_sort(struct search *s, struct candidate *out) {
    for (uint32_t i = 0; i < s->n_devices; i++) {
        uint64_t pool = s->pools[s->pool_of[i]], room = pool < s->caps[i] ? pool : s->caps[i];
        out[i] = (struct candidate){.devices = {i}, .at = i, .host = s->model.cluster->devices[i].host};
        out[i].room = (double)room * s->pool_parts[s->pool_of[i]];
        TRY(search_all_seconds(s, i, &out[i].seconds));
        if (i == s->pinned) out[i].seconds = -1;
    }
    qsort(out, s->n_devices, sizeof *out, by_host);
    return OK;
}

static void team_join(const struct candidate *from, uint32_t n, uint32_t at, struct candidate *out) {
    double speed = 0, room = 0;
    *out = (struct candidate){.host = from->host, .at = at};
    int is_pinned = from->seconds < 0;
    for (uint32_t i = 0; i < n; i++) {
        out->devices[i] = from[i].devices[0];
        speed += from[i].seconds > 0 ? 1 / from[i].seconds : 0;
        room += from[i].room;
    }
    out->seconds = is_pinned ? -1 : 1 / speed;
    out->room = room;
}

/* Teams inside hosts; what is left over of hosts makes teams across them. `devices` is used up. */
static uint32_t teams_make(const struct search *s, struct candidate *devices, struct candidate *out) {
    uint32_t n = s->grid.n_shards, n_left = 0, n_teams = 0;
    for (uint32_t i = 0, end; i < s->n_devices; i = end) {
        for (end = i; end < s->n_devices && devices[end].host == devices[i].host;) end++;
        for (; i + n <= end; i += n, n_teams++) team_join(&devices[i], n, n_teams, &out[n_teams]);
        for (; i < end; i++) devices[n_left++] = devices[i];
    }
    for (uint32_t i = 1; i < n_left; i++) { /* cell 0 is of the first team that is made */
        if (devices[i].seconds >= 0) continue;
        struct candidate first = devices[i];
        memmove(devices + 1, devices, i * sizeof *devices);
        devices[0] = first;
    }
    for (uint32_t i = 0; i + n <= n_left; i += n, n_teams++) team_join(&devices[i], n, n_teams, &out[n_teams]);
    return n_teams;
}

/* ---- orders ---- */

/* These teams in this order; what the order before has in common with it is not done again. */
static err order_try(struct search *s, struct search_order *o, const struct candidate *teams, uint32_t n_stages) {
    size_t n_bytes = s->grid.n_shards * sizeof *teams->devices;
    uint32_t n_same = 0;
    while (n_same < o->n_teams && n_same < n_stages &&
           memcmp(o->teams[n_same].devices, teams[n_same].devices, n_bytes) == 0)
        n_same++;
    while (o->n_teams > n_same) search_order_drop(o);
    while (o->n_teams < n_stages) {
        struct search_team team;
        memcpy(team.devices, teams[o->n_teams].devices, sizeof team.devices);
        TRY(search_table_get(s, team.devices, 1, &team.table));
        search_order_add(s, o, &team, 0);
    }
    return search_order_weigh(s, o);
}

/* What n of these can reach at the very best. */
static double bound_of(const struct search *s, const struct candidate *teams, uint32_t n) {
    double speed = 0, fastest = INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (teams[i].seconds < 0) return 0; /* of cell 0 it is not known here */
        speed += 1 / teams[i].seconds;
        fastest = fmin(fastest, teams[i].seconds);
    }
    return search_is_latency(s) ? fastest : 1 / speed;
}

/* The first of `sorted`, few to many. */
static err stages_try(struct search *s, const struct candidate *sorted, uint32_t n_teams, uint32_t least,
                      uint32_t most) {
    struct candidate *teams;
    struct search_order o;
    uint32_t n_idle = 0;
    int has_fit = 0; /* a plan with so many shards; fewer stages may lack the memory */
    TRY(search_order_open(s, most, &o));
    err e = NEW(teams, n_teams);
    for (uint32_t n = least; n <= most && n <= n_teams && n_idle < PATIENCE && e == OK; n++) {
        double before = s->best;
        if (least < most && bound_of(s, sorted, n) >= s->best) continue;
        memcpy(teams, sorted, n * sizeof *teams);
        uint32_t first = s->pinned != NO_DEVICE;
        qsort(teams + first, n - first, sizeof *teams, by_host);
        e = order_try(s, &o, teams, n);
        has_fit |= o.value[(size_t)o.n_teams * (s->n_layers + 1) + s->n_layers] < INFINITY;
        if (search_is_latency(s) && has_fit) n_idle = s->best < before ? 0 : n_idle + 1;
    }
    free(teams);
    search_order_close(&o);
    return e;
}

static int is_sorted_by_room(const struct candidate *teams, uint32_t n) {
    for (uint32_t i = 1; i < n; i++)
        if (by_room(&teams[i - 1], &teams[i]) > 0) return 0;
    return 1;
}

static err shards_try(struct search *s, struct candidate *devices, struct candidate *teams, uint32_t n_shards) {
    const struct search_request *r = s->request;
    uint32_t most = s->n_most / n_shards, least = 1;
    if (most > s->n_layers) most = s->n_layers;
    if (r->plan.n_stages) least = r->plan.n_stages;
    else if (r->all_devices) least = s->n_most / n_shards;
    if (least > most || (r->all_devices && least * n_shards != s->n_most)) return OK;
    if (r->plan.n_stages) most = least;
    TRY(search_grid_open(s, n_shards, 0));
    err e = devices_sort(s, devices);
    if (e == OK) {
        uint32_t n_teams = teams_make(s, devices, teams);
        qsort(teams, n_teams, sizeof *teams, by_speed);
        e = stages_try(s, teams, n_teams, least, most);
        if (e == OK && !is_sorted_by_room(teams, n_teams)) {
            qsort(teams, n_teams, sizeof *teams, by_room);
            e = stages_try(s, teams, n_teams, least, most);
        }
    }
    search_grid_close(s);
    return e;
}

/* ---- exchanges ---- */

/* The plan of these devices with two places exchanged; a place beyond the cells is of a device without one. */
static err swap_try(struct search *s, struct search_order *o, uint32_t *devices, struct candidate *teams, uint32_t a,
                    uint32_t b) {
    uint32_t n = s->grid.n_shards, t = devices[a];
    devices[a] = devices[b];
    devices[b] = t;
    for (uint32_t i = 0; i < o->cap_teams * n; i++) teams[i / n].devices[i % n] = devices[i];
    devices[b] = devices[a];
    devices[a] = t;
    return order_try(s, o, teams, o->cap_teams);
}

/* The cells of the best plan, then the other devices. */
static void places_fill(const struct search *s, uint32_t *devices, uint8_t *is_used) {
    uint32_t n = s->best_stages * s->best_shards;
    memset(is_used, 0, s->n_devices);
    for (uint32_t i = 0; i < n; i++) is_used[s->best_devices[i]] = 1;
    memcpy(devices, s->best_devices, n * sizeof *devices);
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (!is_used[i]) devices[n++] = i;
}

static err swaps_run(struct search *s, struct search_order *o, uint32_t *devices, struct candidate *teams,
                     uint8_t *is_used) {
    uint32_t first = s->pinned != NO_DEVICE, n_cells = s->best_stages * s->best_shards;
    uint64_t steps_max = s->n_steps + SWAP_STEPS_MAX;
    for (int is_better = 1; is_better;) {
        double before = s->best;
        places_fill(s, devices, is_used);
        for (uint32_t a = first; a < n_cells; a++)
            for (uint32_t b = a + 1; b < s->n_devices; b++) {
                double best = s->best;
                if (s->n_steps > steps_max) return OK;
                uint32_t x = devices[a], y = devices[b];
                if (s->class_of[x] == s->class_of[y] && s->pool_of[x] == s->pool_of[y]) continue;
                TRY(swap_try(s, o, devices, teams, a, b));
                if (s->best < best) places_fill(s, devices, is_used);
            }
        is_better = s->best < before;
    }
    return OK;
}

static err swaps_try(struct search *s, struct candidate *teams) {
    if (s->best_stages == 0 || s->n_devices > SWAP_DEVICES_MAX) return OK;
    uint32_t *devices;
    uint8_t *is_used = NULL;
    struct search_order o = {0};
    TRY(NEW(devices, s->n_devices));
    err e = NEW(is_used, s->n_devices);
    if (e == OK) e = search_grid_open(s, s->best_shards, 0);
    if (e == OK) e = search_order_open(s, s->best_stages, &o);
    if (e == OK) e = swaps_run(s, &o, devices, teams, is_used);
    search_order_close(&o);
    search_grid_close(s);
    free(devices);
    free(is_used);
    return e;
}

err search_greedy(struct search *s) {
    struct candidate *devices, *teams = NULL;
    uint32_t asked = s->request->plan.n_shards;
    TRY(NEW(devices, s->n_devices));
    err e = NEW(teams, s->n_devices);
    for (uint32_t n = 1; e == OK && n <= s->n_most && n <= SEGMENTS_MAX; n++)
        if (!asked || asked == n) e = shards_try(s, devices, teams, n);
    if (e == OK) e = swaps_try(s, teams);
    free(devices);
    free(teams);
    return e;
}
