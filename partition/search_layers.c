/* The best runs of layers for teams in a given order: a table over teams and layers, exact where no two stages share
 * memory and none is busy longer than a step of one stream takes in all; where memory is short or a stage busier, all
 * that could still be better is tried. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "partition/search_parts.h"

#define TIGHT_TRIES_MAX 200000 /* stages, of one order that the table does not decide */

static size_t width_of(const struct search *s) { return s->n_layers + 1; }

err search_order_open(const struct search *s, uint32_t cap_teams, struct search_order *out) {
    size_t n = (cap_teams + 1) * width_of(s);
    *out = (struct search_order){.cap_teams = cap_teams};
    err e = NEW(out->teams, cap_teams);
    if (e == OK) e = NEW(out->value, n);
    if (e == OK) e = NEW(out->from, n);
    if (e != OK) {
        search_order_close(out);
        return e;
    }
    for (uint32_t l = 1; l <= s->n_layers; l++) out->value[l] = INFINITY;
    return OK;
}

void search_order_close(struct search_order *o) {
    free(o->teams);
    free(o->value);
    free(o->from);
    *o = (struct search_order){0};
}

/* The way from one team to the next. */
static double hop_value(const struct search *s, const struct search_team *from, const struct search_team *to) {
    double slowest = 0;
    for (uint32_t i = 0; i < s->grid.n_shards; i++) {
        struct cost_hop h;
        cost_hop_make(&s->model, from->devices, to->devices, s->grid.n_shards, i, &s->shape, &h);
        slowest = fmax(slowest, search_is_latency(s) ? h.total_s : h.bytes_s);
    }
    return slowest;
}

/* The way back to cell 0. */
static double back_value(const struct search *s, const struct search_order *o) {
    if (!search_is_latency(s) || o->n_teams == 1) return 0;
    return cluster_link_of(s->model.cluster, o->teams[o->n_teams - 1].devices[0], o->teams[0].devices[0]).latency_s;
}

/* Row k from row k - 1: stages over `most` are not allowed; joined as sums or as what is slowest. */
struct row {
    const struct search_table *table;
    double hop, most;
    int is_sum;
    uint32_t k, first; /* values of layers [0, l) for l from `first` on */
};

static void row_fill(struct search *s, const struct row *r, double *value, uint32_t *from) {
    size_t width = width_of(s);
    const double *before = value + (r->k - 1) * width;
    for (uint32_t l = r->first; l <= s->n_layers; l++) {
        double best = INFINITY;
        uint32_t at = 0;
        for (uint32_t m = r->k - 1; m < l; m++) {
            if (before[m] >= best) continue; /* also where it is INFINITY: the table may lack stages that follow it */
            double stage = search_seconds(s, r->table, m, l);
            double all = r->is_sum ? before[m] + stage : fmax(before[m], stage);
            if (stage <= r->most && all < best) best = all, at = m;
        }
        value[r->k * width + l] = r->is_sum ? best + r->hop : fmax(best, r->hop);
        from[r->k * width + l] = at;
    }
    s->n_steps += (uint64_t)(s->n_layers - r->first + 1) * s->n_layers + 100;
}

void search_order_add(struct search *s, struct search_order *o, const struct search_team *team, int is_last) {
    size_t width = width_of(s);
    uint32_t k = ++o->n_teams;
    o->teams[k - 1] = *team;
    struct row r = {.table = team->table, .most = INFINITY, .is_sum = search_is_latency(s), .k = k,
                    .first = is_last ? s->n_layers : 1};
    if (k > 1) r.hop = hop_value(s, &o->teams[k - 2], team);
    for (uint32_t l = 0; l <= s->n_layers; l++) o->value[k * width + l] = INFINITY;
    row_fill(s, &r, o->value, o->from);
}

void search_order_drop(struct search_order *o) { o->n_teams--; }

static void layers_of(const struct search *s, const uint32_t *from, uint32_t n_teams, uint32_t *layers) {
    layers[n_teams] = s->n_layers;
    for (uint32_t k = n_teams; k > 0; k--) layers[k - 1] = from[k * width_of(s) + layers[k]];
}

/* ---- memory that stages share, quotas ---- */

/* The value of stages with the shares that suit them best, whose sum, or slowest, has this value; INFINITY: they take
 * more of a pool than there is. */
static double layers_value(struct search *s, const struct search_order *o, const uint32_t *layers, double value) {
    uint64_t *left, bytes[SEGMENTS_MAX];
    double most = value;
    if (NEW(left, s->n_pools) != OK) return INFINITY;
    memcpy(left, s->pools, s->n_pools * sizeof *left);
    for (uint32_t k = 0; k < o->n_teams; k++) {
        const struct search_team *team = &o->teams[k];
        const uint8_t *parts = search_shares(s, team->table, layers[k], layers[k + 1]);
        struct stage_time t =
            search_stage_time(s, team->table, team->devices, parts, layers[k], layers[k + 1], bytes);
        most = fmax(most, cost_step_s(value, t.busy_s, t.spared_s));
        for (uint32_t i = 0; i < s->grid.n_shards; i++) {
            uint64_t *pool = &left[s->pool_of[team->devices[i]]];
            if (bytes[i] > *pool) most = INFINITY;
            if (*pool != UINT64_MAX) *pool -= bytes[i] <= *pool ? bytes[i] : *pool;
        }
    }
    free(left);
    return most;
}

/* From the last stage back to the first, all that could be better than `limit`. */
struct tight {
    struct search *s;
    const struct search_order *o;
    uint64_t *left; /* [n_pools] */
    double limit;
    uint32_t n_tries;
    const uint8_t **parts, **best_parts; /* [n_teams] */
    struct stage_time *times;            /* [n_teams] */
    uint32_t *layers, *best_layers;      /* [n_teams + 1] */
};

static void pool_move(struct tight *t, uint32_t device, uint64_t bytes, int takes) {
    uint64_t *left = &t->left[t->s->pool_of[device]];
    if (*left != UINT64_MAX) *left = takes ? *left - bytes : *left + bytes;
}

/* All or nothing. */
static int pools_take(struct tight *t, const struct search_team *team, const uint64_t *bytes) {
    uint32_t i, n = t->s->grid.n_shards;
    for (i = 0; i < n && bytes[i] <= t->left[t->s->pool_of[team->devices[i]]]; i++)
        pool_move(t, team->devices[i], bytes[i], 1);
    if (i == n) return 1;
    while (i-- > 0) pool_move(t, team->devices[i], bytes[i], 0);
    return 0;
}

/* All teams have their layers: kept if that is better. */
static void tight_weigh(struct tight *t, double value) {
    double most = value;
    for (uint32_t k = 0; k < t->o->n_teams; k++)
        most = fmax(most, cost_step_s(value, t->times[k].busy_s, t->times[k].spared_s));
    if (most >= t->limit) return;
    t->limit = most;
    memcpy(t->best_layers, t->layers, (t->o->n_teams + 1) * sizeof *t->layers);
    memcpy(t->best_parts, t->parts, t->o->n_teams * sizeof *t->parts);
}

/* The first k teams have layers [0, l) yet to be given; `after`: the value of the others, and of the way to them. */
static void tight_try(struct tight *t, uint32_t k, uint32_t l, double after) {
    struct search *s = t->s;
    if (k == 0) {
        tight_weigh(t, after);
        return;
    }
    const struct search_team *team = &t->o->teams[k - 1];
    double hop = k > 1 ? hop_value(s, team - 1, team) : 0;
    for (uint32_t m = l; m-- > k - 1;) {
        double before = t->o->value[(k - 1) * width_of(s) + m];
        double rest = search_join(s, after, hop);
        if (!(before < INFINITY) || !(search_seconds(s, team->table, m, l) < INFINITY)) continue;
        if (search_join(s, search_join(s, before, search_seconds(s, team->table, m, l)), rest) >= t->limit) continue;
        const uint8_t *parts;
        uint64_t bytes[SEGMENTS_MAX];
        for (uint32_t v = 0; (parts = search_vector(s, team->table, v)) != NULL; v++) {
            if (t->n_tries++ > TIGHT_TRIES_MAX) return;
            struct stage_time own = search_stage_time(s, team->table, team->devices, parts, m, l, bytes);
            if (own.busy_s >= t->limit || search_join(s, search_join(s, before, own.own_s), rest) >= t->limit) continue;
            if (!pools_take(t, team, bytes)) continue;
            t->layers[k - 1] = m;
            t->parts[k - 1] = parts;
            t->times[k - 1] = own;
            tight_try(t, k - 1, m, search_join(s, own.own_s, rest));
            for (uint32_t i = 0; i < s->grid.n_shards; i++) pool_move(t, team->devices[i], bytes[i], 0);
        }
    }
}

/* Better than `limit` with memory and quotas as they are: value, layers and shares; left alone if there is none. */
static err tight_solve(struct search *s, const struct search_order *o, double limit, double *value, uint32_t *layers,
                       const uint8_t **parts) {
    struct tight t = {.s = s, .o = o, .limit = limit, .best_parts = parts, .best_layers = layers};
    err e = NEW(t.left, s->n_pools);
    if (e == OK) e = NEW(t.layers, o->n_teams + 1);
    if (e == OK) e = NEW(t.parts, o->n_teams);
    if (e == OK) e = NEW(t.times, o->n_teams);
    if (e == OK) {
        memcpy(t.left, s->pools, s->n_pools * sizeof *t.left);
        t.layers[o->n_teams] = s->n_layers;
        tight_try(&t, o->n_teams, s->n_layers, back_value(s, o));
        s->n_steps += (uint64_t)t.n_tries * 1000;
        if (t.n_tries > TIGHT_TRIES_MAX) s->is_exact = 0;
        if (t.limit < limit) *value = t.limit;
    }
    free(t.left);
    free(t.layers);
    free(t.parts);
    free(t.times);
    return e;
}

/* ---- the plan of an order ---- */

static void best_keep(struct search *s, const struct search_order *o, double value, const uint32_t *layers,
                      const uint8_t *const *parts) {
    uint32_t n = s->grid.n_shards;
    s->best = value;
    s->best_stages = o->n_teams;
    s->best_shards = n;
    memcpy(s->best_layers, layers, (o->n_teams + 1) * sizeof *layers);
    for (uint32_t k = 0; k < o->n_teams; k++)
        for (uint32_t i = 0; i < n; i++) {
            s->best_devices[k * n + i] = o->teams[k].devices[i];
            s->best_shares[k * n + i] = parts[k][i];
        }
}

/* Of all layers whose slowest stage is as fast as can be, those with the smallest sum: the others do not idle for
 * nothing. */
static err layers_even(struct search *s, const struct search_order *o, double most, uint32_t *layers) {
    size_t n = (o->n_teams + 1) * width_of(s);
    double *value;
    uint32_t *from = NULL;
    err e = NEW(value, n);
    if (e == OK) e = NEW(from, n);
    for (uint32_t l = 1; e == OK && l <= s->n_layers; l++) value[l] = INFINITY;
    for (uint32_t k = 1; e == OK && k <= o->n_teams; k++) {
        struct row r = {.table = o->teams[k - 1].table, .most = most * (1 + 1e-12), .is_sum = 1, .k = k,
                        .first = k == o->n_teams ? s->n_layers : 1};
        for (uint32_t l = 0; l < r.first; l++) value[k * width_of(s) + l] = INFINITY;
        row_fill(s, &r, value, from);
    }
    if (e == OK) {
        uint32_t *even;
        e = NEW(even, o->n_teams + 1);
        if (e == OK && value[o->n_teams * width_of(s) + s->n_layers] < INFINITY) {
            layers_of(s, from, o->n_teams, even);
            if (layers_value(s, o, even, most) < INFINITY) memcpy(layers, even, (o->n_teams + 1) * sizeof *even);
        }
        free(even);
    }
    free(value);
    free(from);
    return e;
}

static int is_of_use(const struct search *s, const struct search_order *o, double value) {
    for (uint32_t k = 0; k < o->n_teams; k++)
        for (uint32_t i = 0; i < s->grid.n_shards; i++)
            if (value < s->best_with[o->teams[k].devices[i]]) return 1;
    return 0;
}

static void best_with_note(struct search *s, const struct search_order *o, double value) {
    for (uint32_t k = 0; k < o->n_teams; k++)
        for (uint32_t i = 0; i < s->grid.n_shards; i++) {
            double *with = &s->best_with[o->teams[k].devices[i]];
            if (value < *with) *with = value;
        }
}

static err order_value(struct search *s, struct search_order *o, double value, uint32_t *layers,
                       const uint8_t **parts) {
    layers_of(s, o->from, o->n_teams, layers);
    double least = value;
    value = layers_value(s, o, layers, value);
    if (value < INFINITY) {
        if (!search_is_latency(s) && value < s->best) TRY(layers_even(s, o, value, layers));
        for (uint32_t k = 0; k < o->n_teams; k++)
            parts[k] = search_shares(s, o->teams[k].table, layers[k], layers[k + 1]);
    }
    if (value > least) TRY(tight_solve(s, o, fmin(value, s->best), &value, layers, parts));
    best_with_note(s, o, value);
    if (value < s->best) best_keep(s, o, value, layers, parts);
    return OK;
}

err search_order_weigh(struct search *s, struct search_order *o) {
    double value = search_join(s, o->value[o->n_teams * width_of(s) + s->n_layers], back_value(s, o));
    s->n_tried++;
    if (!is_of_use(s, o, value)) return OK;
    uint32_t *layers;
    const uint8_t **parts = NULL;
    err e = NEW(layers, o->n_teams + 1);
    if (e == OK) e = NEW(parts, o->n_teams);
    if (e == OK) e = order_value(s, o, value, layers, parts);
    free(layers);
    free(parts);
    return e;
}
