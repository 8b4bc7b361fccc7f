#include "coordinator/report.h"

#include <stdlib.h>

json_t *report_plan(const struct plan *plan) {
    return json_pack("{s:I, s:I}", "stages", (json_int_t)plan->n_stages, "shards",
                     (json_int_t)plan->n_shards);
}

static json_t *range_json(struct range r) {
    return json_pack("[I, I]", (json_int_t)r.begin, (json_int_t)r.end);
}

json_t *report_cell(const struct program *p, const struct plan_cell *c) {
    struct range heads, kv_heads;
    plan_cell_heads(p, c, &heads, &kv_heads);
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:I, s:I, s:I, s:I}", "rank", (json_int_t)c->rank,
        "stage", (json_int_t)c->stage, "shard", (json_int_t)c->shard, "layer_begin",
        (json_int_t)c->layer_begin, "layer_end", (json_int_t)c->layer_end, "heads",
        range_json(heads), "kv_heads", range_json(kv_heads), "ff",
        range_json(c->cut.values[AXIS_FF]), "weight_bytes", (json_int_t)c->weight_bytes,
        "kv_bytes", (json_int_t)c->kv_bytes, "work_bytes", (json_int_t)c->work_bytes,
        "total_bytes", (json_int_t)plan_cell_bytes(c));
}

static json_t *rank_json(const struct plan_cell *c, const struct engine_rank *r) {
    return json_pack(
        "{s:I, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:I, s:I, s:I, s:I, s:I, s:f,"
        " s:f, s:f, s:f}", "rank", (json_int_t)c->rank, "host", r->host, "device", r->device, "layer_begin",
        (json_int_t)c->layer_begin, "layer_end", (json_int_t)c->layer_end, "stage",
        (json_int_t)c->stage, "shard", (json_int_t)c->shard, "weight_bytes",
        (json_int_t)r->weight_bytes, "kv_bytes", (json_int_t)r->kv_bytes, "bytes_read",
        (json_int_t)r->bytes_read, "bytes_streamed", (json_int_t)r->bytes_streamed, "bytes_from_cache",
        (json_int_t)r->bytes_from_cache, "load_s", r->load_s, "peak_rss_bytes",
        (json_int_t)r->peak_rss_bytes, "rss_bytes",
        (json_int_t)r->rss_bytes, "n_steps", (json_int_t)r->n_steps, "bytes_sent",
        (json_int_t)r->bytes_sent, "bytes_received", (json_int_t)r->bytes_received, "compute_s",
        r->compute_s, "wait_s", r->wait_s, "send_s", r->send_s, "share_s", r->share_s);
}

json_t *report_ranks(const struct plan *plan, const struct engine_rank *ranks) {
    json_t *list = json_array();
    for (uint32_t i = 0; list && i < plan->n_ranks; i++)
        if (json_array_append_new(list, rank_json(&plan->cells[i], &ranks[i])) != 0) {
            json_decref(list);
            return NULL;
        }
    return list;
}

json_t *report_tokens(const int32_t *tokens, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(tokens[i]));
    return list;
}

err report_print_json(json_t *root) {
    if (!root) return err_set(ERR_MEMORY, "cannot write the result as JSON");
    int is_bad = json_dumpf(root, stdout, 0) != 0;
    json_decref(root);
    if (is_bad || fputc('\n', stdout) == EOF)
        return err_set(ERR_FILE, "cannot write to standard output");
    return OK;
}

/* Prints a text and ends it; `e`: how making it went. */
static err print_text(err e, struct bytes *text, FILE *f) {
    if (e == OK) fwrite(text->data, 1, text->len, f);
    bytes_free(text);
    return e;
}

err report_print_plan(const struct program *p, const struct plan *plan, FILE *f) {
    struct bytes text = {0};
    err e = plan_print(p, plan, &text);
    return print_text(e, &text, f);
}

static err ranks_table(const struct plan *plan, const struct engine_rank *ranks, struct bytes *out) {
    TRY(bytes_printf(out, "%4s  %-16s %-28s %-7s %5s %10s %10s %9s %9s %9s\n", "rank", "host", "device",
                     "layers", "shard", "weights", "kv", "compute", "wait", "shards"));
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        const struct plan_cell *c = &plan->cells[i];
        const struct engine_rank *r = &ranks[i];
        char layers[32], weights[16], kv[16];
        snprintf(layers, sizeof layers, "%u-%u", c->layer_begin, c->layer_end);
        plan_bytes_text(r->weight_bytes, weights);
        plan_bytes_text(r->kv_bytes, kv);
        TRY(bytes_printf(out, "%4u  %-16.16s %-28.28s %-7s %5u %10s %10s %7.2f s %7.2f s %7.2f s\n", i,
                         r->host, r->device, layers, c->shard, weights, kv, r->compute_s,
                         r->wait_s, r->share_s));
    }
    return OK;
}

err report_print_ranks(const struct plan *plan, const struct engine_rank *ranks) {
    struct bytes text = {0};
    err e = ranks_table(plan, ranks, &text);
    return print_text(e, &text, stderr);
}
