/* Forecast: what a whole plan reaches, from the costs of its cells. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "partition/cost.h"
#include "partition/cost_parts.h"

/* What the forecast is made of. */
struct forecasting {
    struct cost_model model;
    const struct plan *plan;
    uint32_t *devices; /* [n_ranks] */
    struct cut *cuts;  /* [n_ranks] */
    struct step_shape decode, prefill;
    struct forecast *out;
};

static void shards_of(const struct forecasting *f, uint32_t stage, struct cost_shards *out) {
    uint32_t n = f->plan->n_shards;
    *out = (struct cost_shards){n, f->devices + (size_t)stage * n, f->cuts + (size_t)stage * n};
}

static uint64_t share_bytes(const struct forecasting *f, const struct cost_shards *shards, const struct plan_cell *c) {
    const struct step_shape row = {1, 1, f->decode.n_positions, 0};
    const struct cost_before *b = &f->model.before[c->layer_begin], *e = &f->model.before[c->layer_end];
    struct cost_exchange x;
    uint64_t sum = 0;
    for (int a = 0; a < N_AXES; a++) {
        cost_exchange_make(&f->model, shards, c->shard, (enum axis)a, &row, &x);
        sum += (e->n_reduces[a] - b->n_reduces[a]) * x.sent_bytes;
    }
    if (c->layer_end < f->model.program->n_layers) return sum;
    cost_gather_make(&f->model, shards, c->shard, &row, &x);
    return sum + x.sent_bytes;
}

/* To the same shard of the next stage; of the last stage's shard 0 back to cell 0. */
static void cell_hop(const struct forecasting *f, const struct plan_cell *c, struct forecast_cell *out) {
    const struct plan *plan = f->plan;
    const struct cluster *cluster = f->model.cluster;
    struct cost_hop decode, prefill;
    if (plan->n_stages == 1) return;
    if (c->stage + 1 == plan->n_stages) {
        if (c->shard == 0) out->hop_decode_s = cluster_link_of(cluster, c->device, f->devices[0]).latency_s;
        return;
    }
    const uint32_t *from = f->devices + (size_t)c->stage * plan->n_shards, *to = from + plan->n_shards;
    cost_hop_make(&f->model, from, to, plan->n_shards, c->shard, &f->decode, &decode);
    cost_hop_make(&f->model, from, to, plan->n_shards, c->shard, &f->prefill, &prefill);
    out->hop_bytes = (uint64_t)f->model.program->dim * 4;
    out->hop_decode_s = decode.total_s;
    out->hop_prefill_s = prefill.total_s;
}

/* The cells of a host read its file together, and each packs for itself. */
static double cell_load_s(const struct forecasting *f, const struct plan_cell *c) {
    const struct cluster *cluster = f->model.cluster;
    const struct cluster_device *d = &cluster->devices[c->device];
    const struct cluster_host *h = &cluster->hosts[d->host];
    double own = (double)c->weight_bytes, of_host = 0, s = 0;
    for (uint32_t i = 0; i < f->plan->n_ranks; i++)
        if (cluster->devices[f->devices[i]].host == d->host) of_host += (double)f->plan->cells[i].weight_bytes;
    if (h->file_per_s > 0) s = fmax(s, of_host / h->file_per_s);
    if (d->rates.pack_per_s > 0) s = fmax(s, own / d->rates.pack_per_s);
    return d->is_host ? s : fmax(s, own / d->rates.copy_per_s);
}

static void cells_fill(const struct forecasting *f) {
    struct cost_shards shards;
    for (uint32_t i = 0; i < f->plan->n_ranks; i++) {
        const struct plan_cell *c = &f->plan->cells[i];
        struct forecast_cell *out = &f->out->cells[i];
        shards_of(f, c->stage, &shards);
        cost_of_cell(&f->model, &shards, c->shard, c->layer_begin, c->layer_end, &f->decode, &out->decode);
        cost_of_cell(&f->model, &shards, c->shard, c->layer_begin, c->layer_end, &f->prefill, &out->prefill);
        out->share_bytes = share_bytes(f, &shards, c);
        cell_hop(f, c, out);
        out->load_s = cell_load_s(f, c);
        f->out->load_s = fmax(f->out->load_s, out->load_s);
    }
}

/* The slowest shard of a stage, and the slowest of its hops. */
struct stage_times {
    double decode_s, alone_s, busy_s, spared_s, prefill_s, hop_s, hop_decode_bytes_s, hop_prefill_bytes_s;
    uint32_t slowest; /* cell, decoding */
};

static void stage_times(const struct forecasting *f, uint32_t stage, struct stage_times *out) {
    const struct plan *plan = f->plan;
    const uint32_t *from = f->devices + (size_t)stage * plan->n_shards;
    *out = (struct stage_times){.slowest = stage * plan->n_shards};
    for (uint32_t i = 0; i < plan->n_shards; i++) {
        uint32_t cell = stage * plan->n_shards + i;
        const struct forecast_cell *c = &f->out->cells[cell];
        if (c->decode.total_s > out->decode_s) out->slowest = cell;
        out->decode_s = fmax(out->decode_s, c->decode.total_s);
        out->alone_s = fmax(out->alone_s, c->decode.total_s - c->decode.rest_s);
        out->busy_s = fmax(out->busy_s, c->decode.total_s - c->decode.crowd_s);
        out->spared_s = fmax(out->spared_s, c->decode.rest_s - c->decode.crowd_s);
        out->prefill_s = fmax(out->prefill_s, c->prefill.total_s);
        out->hop_s = fmax(out->hop_s, c->hop_decode_s);
        if (stage + 1 == plan->n_stages) continue;
        struct cost_hop h;
        cost_hop_make(&f->model, from, from + plan->n_shards, plan->n_shards, i, &f->decode, &h);
        out->hop_decode_bytes_s = fmax(out->hop_decode_bytes_s, h.bytes_s);
        cost_hop_make(&f->model, from, from + plan->n_shards, plan->n_shards, i, &f->prefill, &h);
        out->hop_prefill_bytes_s = fmax(out->hop_prefill_bytes_s, h.bytes_s);
    }
}

static const char *host_of(const struct forecasting *f, uint32_t cell) {
    const struct cluster *c = f->model.cluster;
    return c->hosts[c->devices[f->devices[cell]].host].name;
}

static void bottleneck_cell(const struct forecasting *f, uint32_t cell) {
    const struct cost *c = &f->out->cells[cell].decode;
    const struct {
        const char *what;
        double s;
    } terms[] = {{"reading weights", c->weights_s},
                 {"attention", c->attend_s},
                 {"norms, gates and rotations", c->plain_s},
                 {"launches", c->launch_s},
                 {"copies between host and device", c->copy_s},
                 {"exchanges with the other shards", c->share_s}};
    size_t most = 0;
    for (size_t i = 1; i < sizeof terms / sizeof *terms; i++)
        if (terms[i].s > terms[most].s) most = i;
    const struct plan_cell *at = &f->plan->cells[cell];
    snprintf(f->out->bottleneck, sizeof f->out->bottleneck,
             "stage %u, shard %u on %.64s (%.64s): %.3g of its %.3g ms for a row are %s", at->stage, at->shard,
             host_of(f, cell), f->model.cluster->devices[at->device].name, terms[most].s * 1e3, c->total_s * 1e3,
             terms[most].what);
}

static void bottleneck_hop(const struct forecasting *f, uint32_t stage, double s) {
    uint32_t from = stage * f->plan->n_shards;
    snprintf(f->out->bottleneck, sizeof f->out->bottleneck,
             "the way from stage %u (%.64s) to stage %u (%.64s): %.3g ms for the bytes of a row", stage,
             host_of(f, from), stage + 1, host_of(f, from + f->plan->n_shards), s * 1e3);
}

static void speeds_fill(const struct forecasting *f) {
    double sum_s = 0, step_s = 0, decode_s = 0, prefill_s = 0, slowest_s = 0, hop_s = 0;
    uint32_t slowest_cell = 0, slowest_hop = 0;
    for (uint32_t i = 0; i < f->plan->n_stages; i++) {
        struct stage_times t;
        stage_times(f, i, &t);
        sum_s += t.alone_s + t.hop_s;
        prefill_s = fmax(prefill_s, fmax(t.prefill_s, t.hop_prefill_bytes_s));
        if (t.decode_s > slowest_s) slowest_cell = t.slowest;
        if (t.hop_decode_bytes_s > hop_s) slowest_hop = i;
        slowest_s = fmax(slowest_s, t.decode_s);
        hop_s = fmax(hop_s, t.hop_decode_bytes_s);
    }
    decode_s = fmax(slowest_s, hop_s);
    for (uint32_t i = 0; i < f->plan->n_stages; i++) {
        struct stage_times t;
        stage_times(f, i, &t);
        step_s = fmax(step_s, cost_step_s(sum_s, t.busy_s, t.spared_s));
    }
    f->out->decode_per_s = 1 / step_s;
    f->out->streams_per_s = 1 / decode_s;
    f->out->prefill_per_s = f->prefill.n_rows / prefill_s;
    f->out->slowest_stage = f->plan->cells[slowest_cell].stage;
    if (hop_s > slowest_s) bottleneck_hop(f, slowest_hop, hop_s);
    else bottleneck_cell(f, slowest_cell);
}

static err forecast_fill(struct forecasting *f) {
    uint32_t n = f->plan->n_ranks;
    TRY(NEW(f->devices, n));
    TRY(NEW(f->cuts, n));
    TRY(NEW(f->out->cells, n));
    for (uint32_t i = 0; i < n; i++) {
        f->devices[i] = f->plan->cells[i].device;
        f->cuts[i] = f->plan->cells[i].cut;
        if (f->devices[i] >= f->model.cluster->n_devices)
            return err_set(ERR_INTERNAL, "cell %u is on device %u, the cluster has %u", i, f->devices[i],
                           f->model.cluster->n_devices);
    }
    cells_fill(f);
    speeds_fill(f);
    return OK;
}

err forecast_create(const struct program *p, const struct cluster *c, const struct plan *plan, struct forecast **out) {
    return forecast_create_at(p, c, plan, plan->context / 2 ? plan->context / 2 : 1, out);
}

err forecast_create_at(const struct program *p, const struct cluster *c, const struct plan *plan, uint32_t n_positions,
                       struct forecast **out) {
    struct forecasting f = {.plan = plan, .decode = {1, 1, n_positions, plan->n_shards == 1},
                            .prefill = {plan->rows_max, 0, n_positions / 2 ? n_positions / 2 : 1, 0}};
    TRY(cost_check(c));
    TRY(cost_model_create(p, c, &f.model));
    err e = NEW(f.out, 1);
    if (e == OK) {
        f.out->n_positions = n_positions;
        e = forecast_fill(&f);
    }
    free(f.devices);
    free(f.cuts);
    cost_model_free(&f.model);
    if (e != OK) forecast_free(f.out);
    else *out = f.out;
    return e;
}

void forecast_free(struct forecast *f) {
    if (!f) return;
    free(f->cells);
    free(f);
}
