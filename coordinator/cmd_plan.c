/* caravan plan: who would hold what. Nothing is launched. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/model.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "model/limits.h"

#define KV_TOKENS_MAX ((uint64_t)INT32_MAX * KV_BLOCK_TOKENS) /* blocks are numbered by int32 */

struct plan_command {
    struct config config;
    uint64_t kv_tokens; /* 0: as the key says */
    int wants_program, is_json;
};

static json_t *range_json(struct range r) {
    return json_pack("[I, I]", (json_int_t)r.begin, (json_int_t)r.end);
}

static json_t *cell_json(const struct program *p, const struct plan_cell *c) {
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

static err print_json(const struct program *p, const struct plan *plan, const struct bytes *ops) {
    json_t *ranks = json_array();
    for (uint32_t r = 0; r < plan->n_ranks; r++)
        json_array_append_new(ranks, cell_json(p, &plan->cells[r]));
    json_t *root = json_pack("{s:o, s:I, s:I, s:I, s:o}", "plan", report_plan(plan), "context",
                             (json_int_t)plan->context, "kv_tokens",
                             (json_int_t)plan->n_blocks * KV_BLOCK_TOKENS, "rows_max",
                             (json_int_t)plan->rows_max, "ranks", ranks);
    if (root && ops->len) json_object_set_new(root, "program", json_stringn((char *)ops->data, ops->len));
    return report_print_json(root);
}

static err print_text(const struct program *p, const struct plan *plan, const struct bytes *ops) {
    TRY(report_print_plan(p, plan, stdout));
    if (ops->len) printf("\n%s", (char *)ops->data);
    return OK;
}

/* With memory_mb every rank has that much; without it the hosts are not known yet. */
static err check_memory(const struct program *p, const struct plan *plan, const struct config *c) {
    if (!c->memory_mb) return OK;
    struct plan_pool *pools = NULL;
    uint32_t *pool_of = NULL;
    err e = NEW(pools, plan->n_ranks);
    if (e == OK) e = NEW(pool_of, plan->n_ranks);
    for (uint32_t r = 0; e == OK && r < plan->n_ranks; r++) {
        pools[r] = (struct plan_pool){"any", c->memory_mb << 20};
        pool_of[r] = r;
    }
    if (e == OK) e = plan_check_memory(p, plan, pools, plan->n_ranks, pool_of);
    free(pools);
    free(pool_of);
    return e;
}

/* A person sees the plan that does not fit; a program gets one answer. */
static err show(const struct plan_command *k, const struct program *p, const struct plan *plan) {
    struct bytes ops = {0};
    if (k->is_json) TRY(check_memory(p, plan, &k->config));
    err e = k->wants_program ? program_print(p, &ops) : OK;
    if (e == OK) e = k->is_json ? print_json(p, plan, &ops) : print_text(p, plan, &ops);
    bytes_free(&ops);
    return e == OK ? check_memory(p, plan, &k->config) : e;
}

static err plan_model(const struct plan_command *k, const struct model *m) {
    const struct config *c = &k->config;
    struct plan_request r = {.n_stages = (uint32_t)c->stages, .n_shards = (uint32_t)c->shards,
                             .n_ranks = (uint32_t)c->ranks,
                             .rows_max = (uint32_t)c->prefill_chunk};
    TRY(model_context(m, c, &r.context));
    uint64_t kv_tokens = k->kv_tokens ? k->kv_tokens : c->kv_tokens;
    if (kv_tokens > KV_TOKENS_MAX)
        return err_set(ERR_USAGE, "a KV cache of %lu tokens, at most %lu are possible", kv_tokens, KV_TOKENS_MAX);
    r.n_blocks = (uint32_t)((kv_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
    struct plan *plan;
    TRY(plan_create(m->program, &r, &plan));
    err e = show(k, m->program, plan);
    plan_free(plan);
    return e;
}

err cmd_plan(int argc, char **argv) {
    struct plan_command k = {0};
    struct option_result words;
    const struct option own[] = {
        {"kv-tokens", OPTION_WHOLE, &k.kv_tokens, "tokens",
         "positions of KV cache for all texts together; without it for one text", 1, (double)KV_TOKENS_MAX},
        {"program", OPTION_SWITCH, &k.wants_program, NULL, "also the list of ops that the model is", 0, 0},
        {"json", OPTION_SWITCH, &k.is_json, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct option_set set = {
        "plan MODEL [flags]",
        "Prints which rank would hold which layers, heads and bytes. Nothing is loaded. With\n"
        "--memory-mb it fails when a rank would need more.",
        CONFIG_GRID, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &k.config, &words));
    if (words.is_help) return OK;
    struct model m;
    TRY(model_open("plan", words.n_words ? words.words[0] : NULL, &k.config, &m));
    err e = plan_model(&k, &m);
    model_close(&m);
    return e;
}
