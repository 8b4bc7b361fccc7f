/* What `caravan plan --cluster` prints: the tables of a plan for a cluster, and the same as JSON. */
#include <stdarg.h>
#include <string.h>

#include "coordinator/cluster_plan.h"
#include "coordinator/report.h"
#include "model/limits.h"

#define LEFT_OUT_SHOWN 16

static const struct cluster_device *device_of(const struct cluster_plan *c, uint32_t cell) {
    return &c->cluster->devices[c->result.plan->cells[cell].device];
}

static const char *host_of(const struct cluster_plan *c, uint32_t device) {
    return c->cluster->hosts[c->cluster->devices[device].host].name;
}

/* The cell that the same shard's rows go to, or shard 0's result; n_ranks: none. */
static uint32_t next_cell(const struct plan *plan, uint32_t cell) {
    if (plan->n_stages == 1) return plan->n_ranks;
    if (cell + plan->n_shards < plan->n_ranks) return cell + plan->n_shards;
    return plan->cells[cell].shard == 0 ? 0 : plan->n_ranks;
}

/* ---- tables ---- */

static void seconds_text(double s, char out[16]) {
    if (s >= 100) snprintf(out, 16, "%.0f s", s);
    else if (s >= 1) snprintf(out, 16, "%.2f s", s);
    else if (s >= 1e-3) snprintf(out, 16, "%.2f ms", s * 1e3);
    else snprintf(out, 16, "%.1f us", s * 1e6);
}

static void print_head(const struct cluster_plan *c, FILE *f) {
    const struct program *p = c->program;
    const struct plan *plan = c->result.plan;
    fprintf(f, "%s on %u hosts with %u devices, goal %s: %u stages x %u shards\n", *p->name ? p->name : p->arch,
            c->cluster->n_hosts, c->cluster->n_devices, c->goal == GOAL_LATENCY ? "latency" : "throughput",
            plan->n_stages, plan->n_shards);
    fprintf(f, "context %u, KV cache of %lu tokens, steps of at most %u rows; ranges are first-end, end not included\n",
            plan->context, (unsigned long)plan->n_blocks * KV_BLOCK_TOKENS, plan->rows_max);
    fprintf(f, "%s after %lu plans in %.2f s\n\n", c->result.is_exact ? "the best there is" : "the best that was found",
            (unsigned long)c->result.n_tried, c->search_s);
}

static void print_holdings(const struct cluster_plan *c, FILE *f) {
    const struct plan *plan = c->result.plan;
    fprintf(f, "%4s  %-16s %-12s %5s %5s  %-9s %-9s %-13s %10s %10s %10s %10s %10s\n", "rank", "host", "device",
            "stage", "shard", "layers", "heads", "ff", "weights", "kv", "work", "total", "available");
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        const struct plan_cell *at = &plan->cells[i];
        struct range heads, kv_heads, ff = at->cut.values[AXIS_FF];
        char layers[24], head[24], width[24], bytes[5][16];
        plan_cell_heads(c->program, at, &heads, &kv_heads);
        snprintf(layers, sizeof layers, "%u-%u", at->layer_begin, at->layer_end);
        snprintf(head, sizeof head, "%u-%u", heads.begin, heads.end);
        snprintf(width, sizeof width, "%u-%u", ff.begin, ff.end);
        plan_bytes_text(at->weight_bytes, bytes[0]);
        plan_bytes_text(at->kv_bytes, bytes[1]);
        plan_bytes_text(at->work_bytes, bytes[2]);
        plan_bytes_text(plan_cell_bytes(at), bytes[3]);
        plan_bytes_text(cluster_plan_available(c->cluster, at->device), bytes[4]);
        fprintf(f, "%4u  %-16.16s %-12.12s %5u %5u  %-9s %-9s %-13s %10s %10s %10s %10s %10s\n", i,
                host_of(c, at->device), device_of(c, i)->name, at->stage, at->shard, layers, head, width, bytes[0],
                bytes[1], bytes[2], bytes[3], bytes[4]);
    }
}

static void print_times(const struct cluster_plan *c, FILE *f) {
    const struct plan *plan = c->result.plan;
    const struct forecast *forecast = c->result.forecast;
    fprintf(f, "\na step of one row, with %u positions in the cache; of %u rows of a prompt of as many\n",
            forecast->n_positions, plan->rows_max);
    fprintf(f, "%4s %11s %11s %11s %11s %11s %11s  %11s %11s\n", "rank", "weights", "attention", "launches", "copies",
            "shards", "one row", "many rows", "loading");
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        const struct forecast_cell *at = &forecast->cells[i];
        const struct cost *d = &at->decode;
        const double seconds[8] = {d->weights_s, d->attend_s, d->launch_s, d->copy_s, d->share_s,
                                   d->total_s - d->rest_s, at->prefill.total_s, at->load_s};
        char text[8][16];
        for (int k = 0; k < 8; k++) seconds_text(seconds[k], text[k]);
        fprintf(f, "%4u %11s %11s %11s %11s %11s %11s  %11s %11s\n", i, text[0], text[1], text[2], text[3], text[4],
                text[5], text[6], text[7]);
    }
}

static void print_hop(const struct cluster_plan *c, uint32_t cell, uint32_t next, FILE *f) {
    const struct plan *plan = c->result.plan;
    const struct forecast_cell *at = &c->result.forecast->cells[cell];
    struct cluster_link link = cluster_link_of(c->cluster, plan->cells[cell].device, plan->cells[next].device);
    char ways[32], bytes[16], latency[16], rate[16], decode[16], prefill[16];
    snprintf(ways, sizeof ways, "%u -> %u", cell, next);
    plan_bytes_text(at->hop_bytes, bytes);
    plan_bytes_text((uint64_t)link.bytes_per_s, rate);
    seconds_text(link.latency_s, latency);
    seconds_text(at->hop_decode_s, decode);
    seconds_text(at->hop_prefill_s, prefill);
    fprintf(f, "%-13s  %-16.16s %-16.16s %12s %10s %10s/s %11s %11s\n", ways, host_of(c, plan->cells[cell].device),
            host_of(c, plan->cells[next].device), bytes, latency, rate, decode, prefill);
}

static void print_links(const struct cluster_plan *c, FILE *f) {
    const struct plan *plan = c->result.plan;
    if (plan->n_stages > 1)
        fprintf(f, "\n%-13s  %-16s %-16s %12s %10s %12s %11s %11s\n", "from stage to stage", "", "", "per token",
                "latency", "rate", "one row", "many rows");
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        uint32_t next = next_cell(plan, i);
        if (next < plan->n_ranks) print_hop(c, i, next, f);
    }
    if (plan->n_shards == 1) return;
    fprintf(f, "\n%-13s  %12s %11s\n", "between shards", "per token", "one row");
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        const struct forecast_cell *at = &c->result.forecast->cells[i];
        char bytes[16], seconds[16];
        plan_bytes_text(at->share_bytes, bytes);
        seconds_text(at->decode.share_s, seconds);
        fprintf(f, "rank %-8u  %12s %11s\n", i, bytes, seconds);
    }
}

static void print_speeds(const struct cluster_plan *c, FILE *f) {
    const struct forecast *forecast = c->result.forecast;
    char load[16];
    seconds_text(forecast->load_s, load);
    fprintf(f, "\none stream: %.4g tokens/s; %u streams, one for each stage: %.4g tokens/s; prompts: %.4g tokens/s; "
               "ready after %s\n",
            forecast->decode_per_s, c->result.plan->n_stages, forecast->streams_per_s, forecast->prefill_per_s, load);
    fprintf(f, "bottleneck: %s\n", forecast->bottleneck);
    for (uint32_t i = 0; i < c->result.n_left_out && i < LEFT_OUT_SHOWN; i++) {
        const struct left_out *l = &c->result.left_out[i];
        fprintf(f, "left out: %s of %s: %s\n", c->cluster->devices[l->device].name, host_of(c, l->device), l->why);
    }
    if (c->result.n_left_out > LEFT_OUT_SHOWN)
        fprintf(f, "left out: %u devices more (--json lists all)\n", c->result.n_left_out - LEFT_OUT_SHOWN);
}

static double percent(double now, double before) { return before > 0 ? (now / before - 1) * 100 : 0; }

static void print_changes(const struct cluster_plan *c, FILE *f) {
    const struct forecast *base = c->result.forecast;
    for (uint32_t i = 0; i < c->n_changes; i++) {
        const struct cluster_change *at = &c->changes[i];
        fprintf(f, "%s %s: ", at->is_more ? "with one more host like" : "without host",
                c->cluster->hosts[at->host].name);
        if (!at->n_stages) {
            fprintf(f, "no plan: %s\n", at->why);
            continue;
        }
        fprintf(f, "%u x %u, one stream %.4g tokens/s (%+.0f%%), all streams %.4g (%+.0f%%), prompts %.4g (%+.0f%%)\n",
                at->n_stages, at->n_shards, at->decode_per_s, percent(at->decode_per_s, base->decode_per_s),
                at->streams_per_s, percent(at->streams_per_s, base->streams_per_s), at->prefill_per_s,
                percent(at->prefill_per_s, base->prefill_per_s));
    }
    if (c->is_cut_short) fprintf(f, "other kinds of hosts were not tried with one more or fewer: it takes too long\n");
}

err cluster_plan_print(const struct cluster_plan *c, FILE *f) {
    print_head(c, f);
    print_holdings(c, f);
    print_times(c, f);
    print_links(c, f);
    print_speeds(c, f);
    print_changes(c, f);
    return ferror(f) ? err_set(ERR_FILE, "cannot write the plan") : OK;
}

/* ---- JSON ---- */

static json_t *cost_json(const struct cost *c) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "weights_s", c->weights_s, "attend_s",
                     c->attend_s, "plain_s", c->plain_s, "launch_s", c->launch_s, "copy_s", c->copy_s, "share_s",
                     c->share_s, "saved_s", c->saved_s, "total_s", c->total_s, "rest_s", c->rest_s);
}

static json_t *hop_json(const struct cluster_plan *c, uint32_t cell) {
    const struct plan *plan = c->result.plan;
    const struct forecast_cell *at = &c->result.forecast->cells[cell];
    uint32_t next = next_cell(plan, cell);
    if (next == plan->n_ranks) return json_null();
    struct cluster_link link = cluster_link_of(c->cluster, plan->cells[cell].device, plan->cells[next].device);
    return json_pack("{s:I, s:I, s:f, s:f, s:f, s:f}", "to_rank", (json_int_t)next, "bytes_per_token",
                     (json_int_t)at->hop_bytes, "latency_s", link.latency_s, "bytes_per_s", link.bytes_per_s,
                     "decode_s", at->hop_decode_s, "prefill_s", at->hop_prefill_s);
}

static json_t *rank_json(const struct cluster_plan *c, uint32_t cell) {
    const struct plan_cell *at = &c->result.plan->cells[cell];
    const struct forecast_cell *f = &c->result.forecast->cells[cell];
    json_t *rank = report_cell(c->program, at);
    json_t *more = json_pack("{s:s, s:s, s:I, s:b, s:o, s:o, s:o, s:I, s:f}", "host", host_of(c, at->device), "device",
                             device_of(c, cell)->name, "available_bytes",
                             (json_int_t)cluster_plan_available(c->cluster, at->device), "is_host_memory",
                             device_of(c, cell)->is_host, "decode", cost_json(&f->decode), "prefill",
                             cost_json(&f->prefill), "hop", hop_json(c, cell), "share_bytes_per_token",
                             (json_int_t)f->share_bytes, "load_s", f->load_s);
    if (rank && more) json_object_update(rank, more);
    json_decref(more);
    return rank;
}

static json_t *changes_json(const struct cluster_plan *c) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < c->n_changes; i++) {
        const struct cluster_change *at = &c->changes[i];
        json_t *change = json_pack("{s:s, s:s}", "change", at->is_more ? "one more" : "without", "host",
                                   c->cluster->hosts[at->host].name);
        json_t *more = at->n_stages
                           ? json_pack("{s:I, s:I, s:f, s:f, s:f}", "stages", (json_int_t)at->n_stages, "shards",
                                       (json_int_t)at->n_shards, "decode_tokens_per_s", at->decode_per_s,
                                       "streams_tokens_per_s", at->streams_per_s, "prefill_tokens_per_s",
                                       at->prefill_per_s)
                           : json_pack("{s:s}", "no_plan", at->why);
        if (change && more) json_object_update(change, more);
        json_decref(more);
        json_array_append_new(list, change);
    }
    return list;
}

static json_t *forecast_json(const struct cluster_plan *c) {
    const struct forecast *f = c->result.forecast;
    return json_pack("{s:I, s:f, s:I, s:f, s:f, s:f, s:I, s:s}", "positions", (json_int_t)f->n_positions,
                     "decode_tokens_per_s", f->decode_per_s, "streams", (json_int_t)c->result.plan->n_stages,
                     "streams_tokens_per_s", f->streams_per_s, "prefill_tokens_per_s", f->prefill_per_s, "load_s",
                     f->load_s, "slowest_stage", (json_int_t)f->slowest_stage, "bottleneck", f->bottleneck);
}

static json_t *left_out_json(const struct cluster_plan *c) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < c->result.n_left_out; i++) {
        const struct left_out *l = &c->result.left_out[i];
        json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "host", host_of(c, l->device), "device",
                                              c->cluster->devices[l->device].name, "why", l->why));
    }
    return list;
}

json_t *cluster_plan_json(const struct cluster_plan *c) {
    const struct plan *plan = c->result.plan;
    json_t *ranks = json_array();
    for (uint32_t i = 0; i < plan->n_ranks; i++) json_array_append_new(ranks, rank_json(c, i));
    return json_pack("{s:s, s:s, s:I, s:I, s:o, s:I, s:I, s:I, s:o, s:b, s:I, s:f, s:o, s:o, s:o}", "model",
                     c->program->name, "goal", c->goal == GOAL_LATENCY ? "latency" : "throughput", "hosts",
                     (json_int_t)c->cluster->n_hosts, "devices", (json_int_t)c->cluster->n_devices, "plan",
                     report_plan(plan), "context", (json_int_t)plan->context, "kv_tokens",
                     (json_int_t)plan->n_blocks * KV_BLOCK_TOKENS, "rows_max", (json_int_t)plan->rows_max, "forecast",
                     forecast_json(c), "is_exact", c->result.is_exact, "n_tried", (json_int_t)c->result.n_tried,
                     "search_s", c->search_s, "ranks", ranks, "left_out", left_out_json(c), "changes",
                     changes_json(c));
}
