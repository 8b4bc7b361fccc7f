#include "partition/cost.h"

#include <math.h>
#include <stdlib.h>

#include "model/fuse.h"
#include "model/limits.h"
#include "model/packed.h"
#include "partition/cost_parts.h"

/* Measured, or of bench/quota.py: docs/measurements.md, 9.2. */
#define QUOTA_BLUR 0.75      /* of quota_spare_s, for a long wait; wait x wait / quota_spare_s for a short one */
#define ATTEND_SHARE 0.6     /* of f32_per_s */

/* ---- rates ---- */

static err rate_check(const struct cluster_device *d, const char *what, double value) {
    return value > 0 ? OK : err_set(ERR_CONFIG, "device '%s': its %s is not known", d->name, what);
}

static err device_check(const struct cluster_device *d) {
    const struct device_rates *r = &d->rates;
    TRY(rate_check(d, "rate of reading memory", r->read_per_s));
    TRY(rate_check(d, "rate of float operations", r->f32_per_s));
    for (int f = 0; f < N_FORMATS; f++) {
        TRY(rate_check(d, "rate of products of one row", r->row_per_s[f]));
        TRY(rate_check(d, "rate of products of many rows", r->products_per_s[f]));
    }
    return d->is_host ? OK : rate_check(d, "rate of copies from and to the host", r->copy_per_s);
}

static err link_check(const char *where, const struct cluster_link *l) {
    if (l->bytes_per_s > 0 && l->latency_s >= 0) return OK;
    return err_set(ERR_CONFIG, "links %s: their rate is not known", where);
}

/* Between two hosts, or of one; all ways between hosts are asked for by one of each. */
err cost_check(const struct cluster *c) {
    if (c->n_devices == 0) return err_set(ERR_CONFIG, "the cluster has no devices");
    for (uint32_t i = 0; i < c->n_devices; i++) {
        TRY(device_check(&c->devices[i]));
        struct cluster_link inside = cluster_link_of(c, i, i), on = cluster_link_of(c, 0, i);
        TRY(link_check("inside a host", &inside));
        TRY(link_check("between hosts", &on));
    }
    return OK;
}

/* ---- the program by layers ---- */

static uint32_t place_of(const struct op *op) { return (uint32_t)(op->layer + 1); }

static err ops_sort(struct cost_model *m) {
    const struct program *p = m->program;
    TRY(NEW(m->ops, p->n_ops));
    TRY(NEW(m->op_begin, p->n_layers + 3));
    for (uint32_t i = 0; i < p->n_ops; i++) m->op_begin[place_of(&p->ops[i]) + 1]++;
    for (uint32_t l = 0; l < p->n_layers + 2; l++) m->op_begin[l + 1] += m->op_begin[l];
    uint32_t *next;
    TRY(NEW(next, p->n_layers + 2));
    for (uint32_t l = 0; l < p->n_layers + 2; l++) next[l] = m->op_begin[l];
    for (uint32_t i = 0; i < p->n_ops; i++) m->ops[next[place_of(&p->ops[i])]++] = &p->ops[i];
    free(next);
    return OK;
}

static err groups_count(const struct program *p, uint32_t begin, uint32_t end, uint32_t *out) {
    struct fusion f;
    err e = fuse_create(p, begin, end, &f);
    *out = f.n_groups;
    fuse_free(&f);
    return e;
}

static void ops_count(const struct cost_model *m, uint32_t place, struct cost_before *to) {
    for (uint32_t i = m->op_begin[place]; i < m->op_begin[place + 1]; i++) {
        const struct op *op = m->ops[i];
        to->n_attends += op->kind == OP_ATTEND;
        to->n_exchanges += op->kind == OP_GATHER;
        if (op->kind == OP_REDUCE) to->n_reduces[m->program->weights[op->weight[0]].in_axis]++;
    }
}

static err layers_count(struct cost_model *m) {
    const struct program *p = m->program;
    uint32_t own = 0, last = 0, both = 0;
    TRY(NEW(m->before, p->n_layers + 1));
    for (uint32_t l = 0; l < p->n_layers; l++, last = own) {
        struct cost_before *at = &m->before[l + 1];
        *at = m->before[l];
        TRY(groups_count(p, l, l + 1, &own));
        if (l > 0) TRY(groups_count(p, l - 1, l + 1, &both));
        if (l > 0) at->n_joined += last + own - both;
        at->n_groups += own;
        if (l == 0) ops_count(m, 0, at);
        ops_count(m, l + 1, at);
        if (l + 1 == p->n_layers) ops_count(m, l + 2, at);
    }
    return OK;
}

err cost_model_create(const struct program *p, const struct cluster *c, struct cost_model *out) {
    *out = (struct cost_model){.program = p, .cluster = c};
    err e = ops_sort(out);
    if (e == OK) e = layers_count(out);
    if (e != OK) cost_model_free(out);
    return e;
}

void cost_model_free(struct cost_model *m) {
    free(m->ops);
    free(m->op_begin);
    free(m->before);
    *m = (struct cost_model){0};
}

/* ---- computing ---- */

/* Of the experts of a mixture, those that any of the rows uses: each row draws n_used of them. */
static double experts_read(const struct weight *w, double n_rows) {
    return w->n_experts * (1 - pow(1 - (double)w->n_used / w->n_experts, n_rows));
}

/* On the line from one point to the other. */
static double between(double x, double begin, double end, double at_begin, double at_end) {
    return at_begin + (x - begin) * (at_end - at_begin) / (end - begin);
}

/* A matrix read in read_s, and one row's operations in row_s as where there are many: on the line from one row to
 * RATES_ROWS rows, where both were measured, by way of RATES_FEW rows, of few_s each, if that is known. */
static double matrix_s(double read_s, double few_s, double row_s, double n_rows) {
    double one_s = fmax(read_s, row_s), many_s = fmax(RATES_ROWS * row_s, one_s);
    double knot_s = fmin(fmax(RATES_FEW * few_s, one_s), many_s);
    if (n_rows > RATES_ROWS) return fmax(many_s, n_rows * row_s);
    if (!(few_s > 0)) return fmax(between(n_rows, 1, RATES_ROWS, one_s, many_s), n_rows * row_s);
    return n_rows < RATES_FEW ? between(n_rows, 1, RATES_FEW, one_s, knot_s)
                              : between(n_rows, RATES_FEW, RATES_ROWS, knot_s, many_s);
}

static double product_s(const struct weight *w, const struct cut *cut, const struct device_rates *r, double n_rows,
                        int is_alone) {
    if (n_rows <= 0) return 0;
    struct slice s;
    struct packed_layout layout;
    slice_make(w, cut, &s);
    packed_layout_make(w->tensor->format, s.row_end - s.row_begin, s.col_begin, s.col_end, &layout);
    double operations = 2.0 * (double)(s.row_end - s.row_begin) * (double)(s.col_end - s.col_begin);
    double n_read = w->n_experts ? experts_read(w, n_rows) : 1, n_done = w->n_experts ? n_rows * w->n_used : n_rows;
    enum format f = w->tensor->format;
    double read_per_s = is_alone && r->alone_per_s[f] > 0 ? r->alone_per_s[f] : r->row_per_s[f];
    return n_read * matrix_s((double)layout.n_bytes / read_per_s,
                             r->few_per_s[f] > 0 ? operations / r->few_per_s[f] : 0,
                             operations / r->products_per_s[f], n_done / n_read);
}

static double attend_s(const struct program *p, const struct op *op, const struct cut *cut,
                       const struct device_rates *r, const struct step_shape *s) {
    struct range heads = cut->values[AXIS_HEADS];
    double n = s->n_positions;
    if (op->attend.window && op->attend.window < n) n = op->attend.window;
    double n_texts = s->n_outs ? s->n_outs : 1;
    return fmax(n_texts * n * (double)plan_position_bytes(p, cut) / r->read_per_s,
                4.0 * (heads.end - heads.begin) * n * s->n_rows / (ATTEND_SHARE * r->f32_per_s));
}

static double plain_s(const struct value *v, const struct cut *cut, const struct device_rates *r, double n_rows) {
    if (!(r->plain_per_s > 0)) return 0;
    double width = v->axis == AXIS_DIM ? v->width : cut->values[v->axis].end - cut->values[v->axis].begin;
    return n_rows * width / r->plain_per_s;
}

static int is_plain(enum op_kind kind) {
    return kind == OP_NORM || kind == OP_GLU || kind == OP_ACT || kind == OP_ROPE;
}

void cost_add_layer(const struct cost_model *m, const struct cut *cut, const struct device_rates *r,
                    const struct step_shape *s, int layer, struct cost *out) {
    const struct program *p = m->program;
    for (uint32_t i = m->op_begin[layer + 1]; i < m->op_begin[layer + 2]; i++) {
        const struct op *op = m->ops[i];
        uint32_t n_rows = op->out >= 0 && p->values[op->out].rows == ROWS_OUT ? s->n_outs : s->n_rows;
        if (op->kind == OP_LINEAR) {
            const struct weight *w = &p->weights[op->weight[0]];
            double seconds = product_s(w, cut, r, n_rows, 0);
            out->weights_s += seconds;
            if (s->is_alone) out->crowd_s += seconds - product_s(w, cut, r, n_rows, 1);
        }
        if (is_plain(op->kind)) out->plain_s += plain_s(&p->values[op->out], cut, r, n_rows);
        if (op->kind == OP_ATTEND) out->attend_s += attend_s(p, op, cut, r, s);
    }
}

uint32_t cost_launches(const struct cost_model *m, uint32_t layer_begin, uint32_t layer_end,
                       const struct step_shape *s) {
    const struct cost_before *b = &m->before[layer_begin], *e = &m->before[layer_end];
    uint32_t n = e->n_groups - b->n_groups - (e->n_exchanges - b->n_exchanges);
    if (layer_begin + 1 < layer_end) n -= e->n_joined - m->before[layer_begin + 1].n_joined;
    return s->n_positions > ATTEND_CHUNK ? n + e->n_attends - b->n_attends : n;
}

/* ---- quotas ---- */

static double held_back(const struct device_rates *r) { return r->quota_share > 0 ? 1 - r->quota_share : 0; }

/* Bytes out and in. */
static double bytes_quota_s(const struct device_rates *r, double n_bytes) {
    return r->quota_link_per_s > 0 ? n_bytes / r->quota_link_per_s : 0;
}

double cost_neighbours_s(const struct device_rates *r, int n_neighbours, double row_bytes) {
    return n_neighbours ? r->quota_message_s + bytes_quota_s(r, n_neighbours * row_bytes) : 0;
}

struct cost_waits cost_wait_of(const struct device_rates *r, double wait_s, double messages_s) {
    double spare_s = r->quota_spare_s;
    struct cost_waits w = {fmin(wait_s - messages_s, spare_s), 0};
    if (spare_s > 0) w.blur_s = fmin(QUOTA_BLUR * spare_s, wait_s * wait_s / spare_s);
    return w;
}

struct cost_waits cost_waits_and(struct cost_waits a, double n, struct cost_waits b) {
    return (struct cost_waits){a.spared_s + n * b.spared_s, a.blur_s + n * b.blur_s};
}

/* Work begins at any moment of a quota's period: whether it is held back within it is no sharp limit. */
double cost_saved_s(const struct device_rates *r, double compute_s, struct cost_waits w) {
    double most = held_back(r) * compute_s, left_s = most - w.spared_s;
    if (fabs(left_s) >= w.blur_s) return fmin(w.spared_s, most);
    return most - (left_s + w.blur_s) * (left_s + w.blur_s) / (4 * w.blur_s);
}

double cost_step_s(double stages_s, double busy_s, double spared_s) {
    double more_s = stages_s - busy_s, blur_s = QUOTA_BLUR * spared_s;
    if (fabs(more_s) >= blur_s) return fmax(stages_s, busy_s);
    return busy_s + (more_s + blur_s) * (more_s + blur_s) / (4 * blur_s);
}

/* ---- what passes between shards, and stages ---- */

/* On one host partial sums of devices that are the host meet in its memory, and no device stops. */
static int meet_in_memory(const struct cluster *c, const uint32_t *devices, uint32_t n_shards) {
    for (uint32_t i = 0; i < n_shards; i++)
        if (!c->devices[devices[i]].is_host || c->devices[devices[i]].host != c->devices[devices[0]].host) return 0;
    return 1;
}

void cost_ways_make(const struct cluster *c, const uint32_t *devices, uint32_t n_shards, struct cost_ways *out) {
    out->in_memory = meet_in_memory(c, devices, n_shards);
    uint32_t host_of[SEGMENTS_MAX] = {0};
    for (uint32_t i = 0; i < n_shards; i++) host_of[i] = c->devices[devices[i]].host;
    out->n_crews = crew_find(host_of, n_shards, out->crews);
    for (uint32_t g = 0; g < out->n_crews; g++)
        out->has_board[g] = meet_in_memory(c, devices + out->crews[g].begin, out->crews[g].end - out->crews[g].begin);
    for (uint32_t i = 0; i < n_shards; i++) {
        out->latency_s[i] = 0;
        out->rates[i] = &c->devices[devices[i]].rates;
    }
    for (uint32_t i = 0; i < n_shards; i++)
        for (uint32_t k = 0; k < n_shards; k++) {
            if (i == k) continue;
            struct cluster_link l = cluster_link_of(c, devices[i], devices[k]);
            out->s_per_byte[i][k] = 1 / l.bytes_per_s;
            out->latency_s[i] = fmax(out->latency_s[i], l.latency_s);
            out->latency_s[k] = fmax(out->latency_s[k], l.latency_s);
        }
}

/* What one crew's first shard sends to and gets of the others, in seconds: subtrees at once, or `extra` sums of a part
 * beside them, of so many parts. */
static double ports_s(const struct cost_ways *w, const uint32_t *n_results, uint32_t me, uint32_t extra,
                      double part_bytes) {
    double in_s = 0, out_s = 0;
    for (uint32_t g = 0; g < w->n_crews; g++) {
        if (g == me) continue;
        in_s += (n_results[g] + extra) * part_bytes * w->s_per_byte[w->crews[g].begin][w->crews[me].begin];
        out_s += (n_results[me] + extra) * part_bytes * w->s_per_byte[w->crews[me].begin][w->crews[g].begin];
    }
    return fmax(in_s, out_s);
}

/* Between a crew's first shard and the others, where they do not meet in memory: their subtrees, then the sum. */
static void crew_messages(const struct cost_ways *w, uint32_t crew, uint32_t shard, uint32_t n_segments,
                          const struct range *own, double row_bytes, struct cost_exchange *out) {
    const struct shard_crew c = w->crews[crew];
    struct tree tree;
    for (uint32_t i = c.begin + 1; i < c.end && !w->has_board[crew]; i++) {
        tree_own(n_segments, own[i], &tree);
        out->share_s += (tree.n_results + 1) * row_bytes * w->s_per_byte[i][c.begin];
        if (i == shard) out->sent_bytes = (uint64_t)(tree.n_results * row_bytes);
        if (c.begin == shard) out->sent_bytes += (uint64_t)row_bytes;
    }
}

/* What the messages of an exchange take of a quota, with as many bytes in as out. Half of what a small one takes is the
 * wait, of which there is one. */
static double messages_quota_s(const struct cost_ways *w, uint32_t crew, uint32_t shard, double sent_bytes) {
    const struct device_rates *r = w->rates[shard];
    double n_trips = shard == w->crews[crew].begin ? w->n_crews / 2.0 : !w->has_board[crew];
    return w->in_memory ? 0 : n_trips * r->quota_message_s + bytes_quota_s(r, 2 * sent_bytes);
}

void cost_exchange_of(const struct cost_ways *w, uint32_t shard, uint32_t n_segments, const struct range *own,
                      double row_bytes, struct cost_exchange *out) {
    uint32_t n_results[SEGMENTS_MAX], n = w->n_crews, me = 0;
    struct tree tree;
    for (uint32_t g = 0; g < n; g++) {
        tree_own(n_segments, (struct range){own[w->crews[g].begin].begin, own[w->crews[g].end - 1].end}, &tree);
        n_results[g] = tree.n_results;
        if (w->crews[g].end <= shard) me++;
    }
    tree_own(n_segments, own[shard], &tree);
    double at_once_s = ports_s(w, n_results, me, 0, row_bytes), part_bytes = row_bytes / n;
    double in_parts_s = w->latency_s[shard] + ports_s(w, n_results, me, 1, part_bytes);
    *out = (struct cost_exchange){.share_s = w->latency_s[shard] + fmin(at_once_s, in_parts_s) +
                                             (w->in_memory ? 0 : w->rates[shard]->step_s),
                                  .copy_bytes = (uint64_t)((tree.n_results + 1) * row_bytes)};
    crew_messages(w, me, shard, n_segments, own, row_bytes, out);
    if (shard == w->crews[me].begin) {
        double sent = at_once_s <= in_parts_s ? n_results[me] * row_bytes : (n_results[me] + 1) * part_bytes;
        out->sent_bytes += (uint64_t)(sent * (n - 1));
    }
    out->waits = cost_wait_of(w->rates[shard], out->share_s, messages_quota_s(w, me, shard, (double)out->sent_bytes));
}

void cost_exchange_make(const struct cost_model *m, const struct cost_shards *shards, uint32_t shard, enum axis axis,
                        const struct step_shape *s, struct cost_exchange *out) {
    *out = (struct cost_exchange){0};
    if (shards->n_shards == 1) return;
    struct range own[SEGMENTS_MAX];
    struct cost_ways ways;
    for (uint32_t i = 0; i < shards->n_shards; i++) own[i] = shards->cuts[i].segments[axis];
    cost_ways_make(m->cluster, shards->devices, shards->n_shards, &ways);
    cost_exchange_of(&ways, shard, m->program->axes[axis].n_segments, own, (double)s->n_rows * m->program->dim * 4,
                     out);
}

double cost_logits_bytes(const struct cut *cut, const struct step_shape *s) {
    return (double)(cut->values[AXIS_VOCAB].end - cut->values[AXIS_VOCAB].begin) * s->n_outs * 4;
}

void cost_gather_of(const struct cost_ways *w, uint32_t n_shards, uint32_t shard, const double *bytes,
                    struct cost_exchange *out) {
    *out = (struct cost_exchange){.copy_bytes = (uint64_t)bytes[shard]};
    if (shard > 0) out->sent_bytes = out->copy_bytes;
    if (shard > 0 || n_shards == 1) return;
    out->share_s = w->latency_s[0];
    for (uint32_t i = 1; i < n_shards; i++) out->share_s += bytes[i] * w->s_per_byte[i][0];
}

void cost_gather_make(const struct cost_model *m, const struct cost_shards *shards, uint32_t shard,
                      const struct step_shape *s, struct cost_exchange *out) {
    struct cost_ways ways;
    double bytes[SEGMENTS_MAX];
    *out = (struct cost_exchange){0};
    if (s->n_outs == 0) return;
    cost_ways_make(m->cluster, shards->devices, shards->n_shards, &ways);
    for (uint32_t i = 0; i < shards->n_shards; i++) bytes[i] = cost_logits_bytes(&shards->cuts[i], s);
    cost_gather_of(&ways, shards->n_shards, shard, bytes, out);
}

void cost_hop_make(const struct cost_model *m, const uint32_t *from, const uint32_t *to, uint32_t n_shards,
                   uint32_t shard, const struct step_shape *s, struct cost_hop *out) {
    const struct cluster *c = m->cluster;
    uint32_t here = c->devices[from[shard]].host, there = c->devices[to[shard]].host, n_there = 1;
    for (uint32_t i = 0; i < n_shards; i++)
        n_there += i != shard && here != there && c->devices[from[i]].host == here && c->devices[to[i]].host == there;
    struct cluster_link l = cluster_link_of(c, from[shard], to[shard]);
    out->bytes_s = (double)n_there * s->n_rows * m->program->dim * 4 / l.bytes_per_s;
    out->total_s = l.latency_s + out->bytes_s;
}

/* ---- a cell ---- */

void cost_of_cell(const struct cost_model *m, const struct cost_shards *shards, uint32_t shard, uint32_t layer_begin,
                  uint32_t layer_end, const struct step_shape *s, struct cost *out) {
    const struct program *p = m->program;
    const struct cluster_device *d = &m->cluster->devices[shards->devices[shard]];
    const struct cost_before *b = &m->before[layer_begin], *e = &m->before[layer_end];
    int is_first = layer_begin == 0, is_last = layer_end == p->n_layers;
    double row_bytes = (double)s->n_rows * p->dim * 4, copied = (!is_first + !is_last) * row_bytes;
    struct cost_waits waits = {-cost_neighbours_s(&d->rates, !is_first + !is_last, row_bytes), 0};
    struct cost_exchange x;
    *out = (struct cost){0};
    for (uint32_t l = layer_begin; l < layer_end; l++)
        cost_add_layer(m, &shards->cuts[shard], &d->rates, s, (int)l, out);
    if (is_last) cost_add_layer(m, &shards->cuts[shard], &d->rates, s, (int)p->n_layers, out);
    out->launch_s = d->rates.step_s + cost_launches(m, layer_begin, layer_end, s) * d->rates.launch_s;
    for (int a = 0; a < N_AXES; a++) {
        double n = e->n_reduces[a] - b->n_reduces[a];
        if (n <= 0) continue;
        cost_exchange_make(m, shards, shard, (enum axis)a, s, &x);
        out->share_s += n * x.share_s;
        waits = cost_waits_and(waits, n, x.waits);
        copied += n * (double)x.copy_bytes;
    }
    if (is_last) {
        cost_gather_make(m, shards, shard, s, &x);
        out->share_s += x.share_s;
        copied += (double)x.copy_bytes;
    }
    if (!d->is_host) out->copy_s = copied / d->rates.copy_per_s;
    double compute_s = out->weights_s + out->attend_s + out->plain_s + out->launch_s + out->copy_s;
    out->saved_s = cost_saved_s(&d->rates, compute_s, waits);
    out->total_s = compute_s + out->share_s - out->saved_s;
    if (!is_first || !is_last) waits = cost_waits_and(waits, 1, cost_wait_of(&d->rates, INFINITY, 0));
    out->rest_s = out->crowd_s - out->saved_s + cost_saved_s(&d->rates, compute_s - out->crowd_s, waits);
}

err cost_cell(const struct program *p, const struct cluster *c, const struct plan *plan, uint32_t cell,
              const struct step_shape *s, struct cost *out) {
    const struct plan_cell *at = &plan->cells[cell];
    const struct plan_cell *first = &plan->cells[at->stage * plan->n_shards];
    uint32_t devices[SEGMENTS_MAX];
    struct cut cuts[SEGMENTS_MAX];
    struct cost_model m;
    TRY(cost_check(c));
    TRY(cost_model_create(p, c, &m));
    for (uint32_t i = 0; i < plan->n_shards; i++) {
        devices[i] = first[i].device;
        cuts[i] = first[i].cut;
    }
    const struct cost_shards shards = {plan->n_shards, devices, cuts};
    cost_of_cell(&m, &shards, at->shard, at->layer_begin, at->layer_end, s, out);
    cost_model_free(&m);
    return OK;
}
