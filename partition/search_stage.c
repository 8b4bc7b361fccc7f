/* What a team of devices needs for a run of layers, for every run, with the shares that suit it best. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/limits.h"
#include "partition/search_parts.h"

#define VECTORS_MAX 3003 /* of 16 parts for 6 shards */

/* ---- shares ---- */

/* The next way to write n_parts as a sum of n positive numbers, from 1, 1, ..., rest on; 0: that was the last. */
static int vector_next(uint8_t *v, uint32_t n) {
    for (uint32_t i = n - 1; i > 0; i--) {
        if (v[i] == 1) continue;
        uint8_t rest = (uint8_t)(v[i] - 1);
        v[i] = 1;
        v[i - 1]++;
        v[n - 1] = rest;
        return 1;
    }
    return 0;
}

static uint64_t vectors_count(uint32_t n_parts, uint32_t n) {
    double count = 1;
    for (uint32_t i = 1; i < n; i++) count = count * (n_parts - i) / i;
    return (uint64_t)(count + 0.5);
}

static err vectors_fill(struct search_grid *g) {
    uint64_t n = vectors_count(g->n_parts, g->n_shards);
    uint8_t v[SEGMENTS_MAX];
    if (n > VECTORS_MAX) return OK;
    TRY(NEW(g->vectors, n * g->n_shards));
    memset(v, 1, sizeof v);
    v[g->n_shards - 1] = (uint8_t)(g->n_parts - g->n_shards + 1);
    do memcpy(g->vectors + (size_t)g->n_vectors++ * g->n_shards, v, g->n_shards);
    while (vector_next(v, g->n_shards));
    return OK;
}

err search_grid_open(struct search *s, uint32_t n_shards, int all_shares) {
    const struct program *p = s->model.program;
    struct search_grid *g = &s->grid;
    *g = (struct search_grid){.n_shards = n_shards, .n_parts = n_shards};
    for (int a = 0; a < N_AXES; a++) /* of those that are cut by segments */
        if ((a == AXIS_HEADS || a == AXIS_FF) && p->axes[a].n_segments > g->n_parts) g->n_parts = p->axes[a].n_segments;
    s->sizes.n_shards = n_shards;
    s->shape.is_alone = search_is_latency(s) && n_shards == 1;
    TRY(NEW(g->profiles, (size_t)(g->n_parts + 1) * (g->n_parts + 1)));
    return all_shares ? vectors_fill(g) : OK;
}

static void profile_free(const struct search *s, struct part_profile *f) {
    for (uint32_t c = 0; f->seconds_before && c < s->n_classes; c++) free(f->seconds_before[c]);
    free(f->seconds_before);
    free(f->bytes_before);
}

void search_grid_close(struct search *s) {
    struct search_grid *g = &s->grid;
    for (uint32_t i = 0; g->profiles && i < (g->n_parts + 1) * (g->n_parts + 1); i++) profile_free(s, &g->profiles[i]);
    while (s->tables) {
        struct search_table *t = s->tables;
        s->tables = t->next;
        free(t->seconds);
        free(t->vectors);
        free(t);
    }
    free(g->profiles);
    free(g->vectors);
    *g = (struct search_grid){0};
}

/* ---- profiles ---- */

/* Three shards stand for [0, begin), [begin, end) and the rest: the cut depends on the borders only. */
static void profile_cut(const struct search *s, uint32_t begin, uint32_t end, struct cut *out) {
    const struct program *p = s->model.program;
    uint32_t n = s->grid.n_parts;
    const float shares[3] = {(float)begin, (float)(end - begin), (float)(n - end)};
    uint32_t first = begin == 0, n_shards = 3 - first - (end == n);
    cut_make(p, n_shards, 1 - first, shares + first, out);
}

static err profile_make(struct search *s, uint32_t begin, uint32_t end, struct part_profile *f) {
    const struct program *p = s->model.program;
    profile_cut(s, begin, end, &f->cut);
    TRY(NEW(f->bytes_before, s->n_layers + 1));
    TRY(NEW(f->seconds_before, s->n_classes));
    for (uint32_t l = 0; l < s->n_layers; l++)
        f->bytes_before[l + 1] = f->bytes_before[l] + plan_weight_bytes(p, &f->cut, l, l + 1, s->holdings);
    f->all_bytes = plan_weight_bytes(p, &f->cut, 0, s->n_layers, s->holdings);
    f->layer_kv_bytes = plan_position_bytes(p, &f->cut) * s->sizes.n_blocks * KV_BLOCK_TOKENS;
    for (int is_last = 0; is_last < 2; is_last++)
        for (uint32_t is_first = 0; is_first < 2; is_first++) {
            const struct plan_cell c = {.shard = !is_first, .cut = f->cut, .layer_end = is_last ? s->n_layers : 0};
            f->work_bytes[is_first][is_last] = plan_work_bytes(p, &s->sizes, &c);
        }
    f->is_known = 1;
    return OK;
}

static err profile_seconds(struct search *s, struct part_profile *f, uint32_t device) {
    double **seconds = &f->seconds_before[s->class_of[device]];
    if (*seconds) return OK;
    TRY(NEW(*seconds, s->n_layers + 1));
    for (uint32_t l = 0; l < s->n_layers; l++) {
        struct cost c = {0};
        const struct device_rates *r = &s->model.cluster->devices[device].rates;
        cost_add_layer(&s->model, &f->cut, r, &s->shape, (int)l, &c);
        if (l + 1 == s->n_layers) cost_add_layer(&s->model, &f->cut, r, &s->shape, (int)s->n_layers, &c);
        (*seconds)[l + 1] = (*seconds)[l] + c.weights_s - c.crowd_s + c.attend_s + c.plain_s;
    }
    return OK;
}

/* The profile of a shard on this device. */
static err profile_get(struct search *s, uint32_t begin, uint32_t end, uint32_t device, struct part_profile **out) {
    struct part_profile *f = &s->grid.profiles[begin * (s->grid.n_parts + 1) + end];
    if (!f->is_known) TRY(profile_make(s, begin, end, f));
    *out = f;
    return profile_seconds(s, f, device);
}

err search_all_seconds(struct search *s, uint32_t device, double *out) {
    struct part_profile *f;
    TRY(profile_get(s, 0, s->grid.n_parts, device, &f));
    *out = f->seconds_before[s->class_of[device]][s->n_layers];
    return OK;
}

/* ---- a stage ---- */

/* What a shard needs, apart from the layers. */
struct shard_terms {
    const struct part_profile *profile;
    const double *seconds_before;
    const struct device_rates *rates;
    double row_copy_s, gather_s, gather_copy_s;
    double exchange_s[N_AXES], exchange_copy_s[N_AXES];
    struct cost_waits exchange_waits[N_AXES];
    uint64_t cap_bytes;
};

static void terms_exchanges(const struct search *s, const struct search_table *t, struct shard_terms *terms) {
    uint32_t n = s->grid.n_shards;
    struct range own[SEGMENTS_MAX];
    double logits[SEGMENTS_MAX];
    for (uint32_t i = 0; i < n; i++) logits[i] = cost_logits_bytes(&terms[i].profile->cut, &s->shape);
    for (uint32_t i = 0; i < n; i++) {
        const struct cluster_device *d = &s->model.cluster->devices[t->devices[i]];
        double copy_s = d->is_host ? 0 : 1 / d->rates.copy_per_s;
        struct cost_exchange x;
        for (int a = 0; a < N_AXES; a++) {
            terms[i].exchange_s[a] = terms[i].exchange_copy_s[a] = 0;
            terms[i].exchange_waits[a] = (struct cost_waits){0};
            if (n == 1 || s->model.before[s->n_layers].n_reduces[a] == 0) continue;
            for (uint32_t k = 0; k < n; k++) own[k] = terms[k].profile->cut.segments[a];
            cost_exchange_of(&t->ways, i, s->model.program->axes[a].n_segments, own,
                             s->shape.n_rows * 4.0 * s->model.program->dim, &x);
            terms[i].exchange_s[a] = x.share_s;
            terms[i].exchange_waits[a] = x.waits;
            terms[i].exchange_copy_s[a] = (double)x.copy_bytes * copy_s;
        }
        cost_gather_of(&t->ways, n, i, logits, &x);
        terms[i].gather_s = x.share_s;
        terms[i].gather_copy_s = (double)x.copy_bytes * copy_s;
        terms[i].row_copy_s = s->shape.n_rows * 4.0 * s->model.program->dim * copy_s;
    }
}

static err terms_make(struct search *s, const struct search_table *t, const uint8_t *parts, struct shard_terms *terms) {
    uint32_t begin = 0;
    for (uint32_t i = 0; i < s->grid.n_shards; i++) {
        uint32_t device = t->devices[i];
        struct part_profile *f;
        TRY(profile_get(s, begin, begin + parts[i], device, &f));
        begin += parts[i];
        terms[i].rates = &s->model.cluster->devices[device].rates;
        terms[i].profile = f;
        terms[i].seconds_before = f->seconds_before[s->class_of[device]];
    }
    terms_exchanges(s, t, terms);
    return OK;
}

static uint64_t shard_bytes(const struct search *s, const struct part_profile *f, uint32_t shard, uint32_t begin,
                            uint32_t end) {
    int is_all = begin == 0 && end == s->n_layers;
    return (is_all ? f->all_bytes : f->bytes_before[end] - f->bytes_before[begin]) +
           (end - begin) * f->layer_kv_bytes + f->work_bytes[shard == 0][end == s->n_layers];
}

/* By their own limits and, together, by those of what they share. */
static int shards_fit(const struct search *s, const uint32_t *devices, const uint64_t *bytes) {
    for (uint32_t i = 0; i < s->grid.n_shards; i++) {
        uint32_t pool = s->pool_of[devices[i]];
        double sum = 0, n = 0;
        if (bytes[i] > s->caps[devices[i]]) return 0;
        for (uint32_t k = 0; k < s->grid.n_shards; k++)
            if (s->pool_of[devices[k]] == pool) sum += (double)bytes[k], n++;
        if (s->pools[pool] == UINT64_MAX) continue;
        double part = s->pool_parts[pool] * n;
        if (sum > (double)s->pools[pool] * (part < 1 ? part : 1)) return 0;
    }
    return 1;
}

static struct stage_time shard_time(const struct search *s, const struct shard_terms *x, uint32_t begin,
                                    uint32_t end, uint32_t n_launches) {
    const struct cost_before *b = &s->model.before[begin], *e = &s->model.before[end];
    int is_first = begin == 0, is_last = end == s->n_layers;
    double share_s = is_last ? x->gather_s : 0;
    double row_bytes = 4.0 * s->shape.n_rows * s->model.program->dim;
    struct cost_waits waits = {-cost_neighbours_s(x->rates, !is_first + !is_last, row_bytes), 0};
    double compute_s = x->rates->step_s + x->seconds_before[end] - x->seconds_before[begin] +
                       n_launches * x->rates->launch_s + (is_first ? 0 : x->row_copy_s) +
                       (is_last ? x->gather_copy_s : x->row_copy_s);
    for (int a = AXIS_HEADS; a <= AXIS_FF; a++) {
        double n = e->n_reduces[a] - b->n_reduces[a];
        share_s += n * x->exchange_s[a];
        compute_s += n * x->exchange_copy_s[a];
        waits = cost_waits_and(waits, n, x->exchange_waits[a]);
    }
    double busy_s = compute_s + share_s - cost_saved_s(x->rates, compute_s, waits);
    if (!search_is_latency(s) || (is_first && is_last)) return (struct stage_time){busy_s, busy_s, 0};
    waits = cost_waits_and(waits, 1, cost_wait_of(x->rates, INFINITY, 0));
    double own_s = compute_s + share_s - cost_saved_s(x->rates, compute_s, waits);
    return (struct stage_time){own_s, busy_s, busy_s - own_s};
}

static struct stage_time stage_time(const struct search *s, const struct shard_terms *terms, const uint32_t *devices,
                                    uint32_t begin, uint32_t end, uint64_t *bytes) {
    uint32_t n_launches = cost_launches(&s->model, begin, end, &s->shape);
    struct stage_time slowest = {0};
    for (uint32_t i = 0; i < s->grid.n_shards; i++) {
        bytes[i] = shard_bytes(s, terms[i].profile, i, begin, end);
        struct stage_time t = shard_time(s, &terms[i], begin, end, n_launches);
        slowest = (struct stage_time){fmax(slowest.own_s, t.own_s), fmax(slowest.busy_s, t.busy_s),
                                      fmax(slowest.spared_s, t.spared_s)};
    }
    return shards_fit(s, devices, bytes) ? slowest : (struct stage_time){INFINITY, INFINITY, 0};
}

struct stage_time search_stage_time(struct search *s, const struct search_table *t, const uint32_t *devices,
                                    const uint8_t *parts, uint32_t layer_begin, uint32_t layer_end, uint64_t *bytes) {
    struct shard_terms terms[SEGMENTS_MAX];
    if (terms_make(s, t, parts, terms) != OK) return (struct stage_time){INFINITY, INFINITY, 0};
    return stage_time(s, terms, devices, layer_begin, layer_end, bytes);
}

/* ---- tables ---- */

static size_t table_size(const struct search *s, int is_full) {
    size_t n = s->n_layers + 1;
    return is_full ? n * n : 2 * n;
}

static size_t table_at(const struct search *s, const struct search_table *t, uint32_t begin, uint32_t end) {
    size_t n = s->n_layers + 1;
    return t->is_full ? begin * n + end : begin == 0 ? end : n + begin;
}

double search_seconds(const struct search *s, const struct search_table *t, uint32_t layer_begin, uint32_t layer_end) {
    return t->seconds[table_at(s, t, layer_begin, layer_end)];
}

const uint8_t *search_vector(const struct search *s, const struct search_table *t, uint32_t i) {
    if (s->grid.n_vectors) return i < s->grid.n_vectors ? s->grid.vectors + (size_t)i * s->grid.n_shards : NULL;
    return i < t->n_own ? t->own[i] : NULL;
}

const uint8_t *search_shares(const struct search *s, const struct search_table *t, uint32_t layer_begin,
                             uint32_t layer_end) {
    return search_vector(s, t, t->vectors[table_at(s, t, layer_begin, layer_end)]);
}

static void table_try(const struct search *s, struct search_table *t, const struct shard_terms *terms, uint16_t vector,
                      uint32_t begin, uint32_t end) {
    uint64_t bytes[SEGMENTS_MAX];
    size_t at = table_at(s, t, begin, end);
    double seconds = stage_time(s, terms, t->devices, begin, end, bytes).own_s;
    if (seconds >= t->seconds[at]) return;
    t->seconds[at] = seconds;
    t->vectors[at] = vector;
}

static err table_fill(struct search *s, struct search_table *t) {
    size_t n = table_size(s, t->is_full);
    TRY(NEW(t->seconds, n));
    TRY(NEW(t->vectors, n));
    for (size_t i = 0; i < n; i++) t->seconds[i] = INFINITY;
    const uint8_t *parts;
    for (uint16_t v = 0; (parts = search_vector(s, t, v)) != NULL; v++) {
        struct shard_terms terms[SEGMENTS_MAX];
        TRY(terms_make(s, t, parts, terms));
        s->n_steps += (n + s->grid.n_shards) * s->grid.n_shards * 10;
        for (uint32_t b = 0; b < s->n_layers; b++)
            for (uint32_t e = b + 1; e <= s->n_layers; e++)
                if (t->is_full || b == 0 || e == s->n_layers) table_try(s, t, terms, v, b, e);
                else e = s->n_layers - 1;
    }
    return OK;
}

/* ---- shares that suit a team ---- */

static void vector_add(const struct search *s, struct search_table *t, const uint8_t *parts) {
    for (uint32_t i = 0; i < t->n_own; i++)
        if (memcmp(t->own[i], parts, s->grid.n_shards) == 0) return;
    memcpy(t->own[t->n_own++], parts, s->grid.n_shards);
}

/* In proportion to weights: each gets the part that lacks most, one at least. */
static void vector_divide(const struct search *s, const double *weights, uint8_t *parts) {
    uint32_t n = s->grid.n_shards;
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += weights[i], parts[i] = 1;
    for (uint32_t given = n; given < s->grid.n_parts; given++) {
        uint32_t most = 0;
        double lack = -INFINITY;
        for (uint32_t i = 0; i < n; i++) {
            double own = weights[i] / sum * s->grid.n_parts - parts[i];
            if (own > lack + 1e-9) lack = own, most = i;
        }
        parts[most]++;
    }
}

/* From the slowest shard to any other, as long as the stage gets faster. */
static err vector_climb(struct search *s, const struct search_table *t, uint8_t *parts) {
    uint32_t n = s->grid.n_shards, middle = s->n_layers / 2;
    struct shard_terms terms[SEGMENTS_MAX];
    for (int is_better = 1; is_better;) {
        uint32_t slowest = 0, to = 0;
        double worst = 0, best;
        is_better = 0;
        TRY(terms_make(s, t, parts, terms));
        uint32_t n_launches = cost_launches(&s->model, middle, middle + 1, &s->shape);
        for (uint32_t i = 0; i < n; i++) {
            double own = shard_time(s, &terms[i], middle, middle + 1, n_launches).own_s - terms[i].rates->step_s;
            if (own > worst) worst = own, slowest = i;
        }
        best = worst;
        for (uint32_t i = 0; i < n && parts[slowest] > 1; i++) {
            if (i == slowest) continue;
            parts[slowest]--, parts[i]++;
            double most = 0;
            TRY(terms_make(s, t, parts, terms));
            for (uint32_t k = 0; k < n; k++)
                most = fmax(most, shard_time(s, &terms[k], middle, middle + 1, n_launches).own_s -
                                      terms[k].rates->step_s);
            if (most < best * (1 - 1e-9)) best = most, to = i, is_better = 1;
            parts[slowest]++, parts[i]--;
        }
        if (is_better) parts[slowest]--, parts[to]++;
    }
    return OK;
}

static err vectors_suggest(struct search *s, struct search_table *t) {
    uint8_t parts[SEGMENTS_MAX];
    double equal[SEGMENTS_MAX], speed[SEGMENTS_MAX], memory[SEGMENTS_MAX];
    for (uint32_t i = 0; i < s->grid.n_shards; i++) {
        uint32_t d = t->devices[i];
        struct part_profile *f;
        TRY(profile_get(s, 0, 1, d, &f));
        uint64_t pool = s->pools[s->pool_of[d]], room = pool < s->caps[d] ? pool : s->caps[d];
        equal[i] = 1;
        speed[i] = 1 / f->seconds_before[s->class_of[d]][s->n_layers];
        memory[i] = (double)room;
    }
    vector_divide(s, speed, parts);
    TRY(vector_climb(s, t, parts));
    vector_add(s, t, parts);
    vector_divide(s, equal, parts);
    vector_add(s, t, parts);
    vector_divide(s, memory, parts);
    vector_add(s, t, parts);
    return OK;
}

static int links_equal(struct cluster_link a, struct cluster_link b) {
    return a.latency_s == b.latency_s && a.bytes_per_s == b.bytes_per_s;
}

/* Whether what one team needs is what another one does. */
static int team_is_like(const struct search *s, const uint32_t *a, const uint32_t *b) {
    const struct cluster *c = s->model.cluster;
    for (uint32_t i = 0; i < s->grid.n_shards; i++) {
        if (s->class_of[a[i]] != s->class_of[b[i]] || s->caps[a[i]] != s->caps[b[i]]) return 0;
        if (s->pools[s->pool_of[a[i]]] != s->pools[s->pool_of[b[i]]]) return 0;
        if (s->pool_parts[s->pool_of[a[i]]] != s->pool_parts[s->pool_of[b[i]]]) return 0;
        for (uint32_t k = 0; k < i; k++) {
            if ((s->pool_of[a[i]] == s->pool_of[a[k]]) != (s->pool_of[b[i]] == s->pool_of[b[k]])) return 0;
            if ((c->devices[a[i]].host == c->devices[a[k]].host) != (c->devices[b[i]].host == c->devices[b[k]].host))
                return 0;
            if (!links_equal(cluster_link_of(c, a[i], a[k]), cluster_link_of(c, b[i], b[k]))) return 0;
            if (!links_equal(cluster_link_of(c, a[k], a[i]), cluster_link_of(c, b[k], b[i]))) return 0;
        }
    }
    return 1;
}

err search_table_get(struct search *s, const uint32_t *devices, int is_full, struct search_table **out) {
    struct search_table *t;
    for (t = s->tables; t; t = t->next)
        if (t->is_full >= is_full && team_is_like(s, devices, t->devices)) break;
    *out = t;
    if (t) return OK;
    TRY(NEW(t, 1));
    t->next = s->tables;
    s->tables = t;
    t->is_full = is_full;
    memcpy(t->devices, devices, s->grid.n_shards * sizeof *devices);
    cost_ways_make(s->model.cluster, devices, s->grid.n_shards, &t->ways);
    if (s->grid.n_vectors == 0) TRY(vectors_suggest(s, t));
    *out = t;
    return table_fill(s, t);
}
