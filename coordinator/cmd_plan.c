/* caravan plan: who would hold what, for a grid or for a described cluster. Nothing is launched. */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include "coordinator/cluster_plan.h"
#include "coordinator/commands.h"
#include "coordinator/model.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "model/limits.h"
#include "model/shape.h"

#define KV_TOKENS_MAX ((uint64_t)INT32_MAX * KV_BLOCK_TOKENS) /* blocks are numbered by int32 */

struct plan_command {
    struct config config;
    const char *shape;  /* file of a described model, or NULL */
    uint64_t kv_tokens; /* 0: as the key says */
    int wants_program, is_json;
};

/* Takes `root`; the list of ops goes along where it is wanted. */
static err print_json(json_t *root, const struct bytes *ops) {
    if (root && ops->len) json_object_set_new(root, "program", json_stringn((char *)ops->data, ops->len));
    return report_print_json(root);
}

static json_t *plan_json(const struct program *p, const struct plan *plan) {
    json_t *ranks = json_array();
    for (uint32_t r = 0; r < plan->n_ranks; r++) json_array_append_new(ranks, report_cell(p, &plan->cells[r]));
    return json_pack("{s:o, s:I, s:I, s:I, s:o}", "plan", report_plan(plan), "context", (json_int_t)plan->context,
                     "kv_tokens", (json_int_t)plan->n_blocks * KV_BLOCK_TOKENS, "rows_max", (json_int_t)plan->rows_max,
                     "ranks", ranks);
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
static err show_grid(const struct plan_command *k, const struct program *p, const struct plan *plan,
                     const struct bytes *ops) {
    if (k->is_json) TRY(check_memory(p, plan, &k->config));
    if (k->is_json) return print_json(plan_json(p, plan), ops);
    TRY(report_print_plan(p, plan, stdout));
    if (ops->len) printf("\n%s", (char *)ops->data);
    return check_memory(p, plan, &k->config);
}

static err plan_grid_of(const struct plan_command *k, const struct program *p, const struct plan_request *r,
                        const struct bytes *ops) {
    struct plan *plan;
    TRY(plan_create(p, r, &plan));
    err e = show_grid(k, p, plan, ops);
    plan_free(plan);
    return e;
}

static err plan_for_cluster(const struct plan_command *k, const struct program *p, const struct plan_request *r,
                            const struct bytes *ops) {
    struct cluster_plan c;
    TRY(cluster_plan_make(p, &k->config, r, &c));
    err e = k->is_json ? print_json(cluster_plan_json(&c), ops) : cluster_plan_print(&c, stdout);
    if (!k->is_json && ops->len) printf("\n%s", (char *)ops->data);
    cluster_plan_free(&c);
    return e;
}

static err plan_program(const struct plan_command *k, const struct program *p) {
    const struct config *c = &k->config;
    struct plan_request r = {.n_stages = (uint32_t)c->stages, .n_shards = (uint32_t)c->shards,
                             .n_ranks = (uint32_t)c->ranks,
                             .rows_max = (uint32_t)c->prefill_chunk};
    enum goal goal;
    TRY(cluster_plan_goal(c, &goal));
    TRY(model_program_context(p, c, &r.context));
    uint64_t kv_tokens = k->kv_tokens ? k->kv_tokens : c->kv_tokens;
    if (kv_tokens > KV_TOKENS_MAX)
        return err_set(ERR_USAGE, "a KV cache of %lu tokens, at most %lu are possible", kv_tokens, KV_TOKENS_MAX);
    r.n_blocks = (uint32_t)((kv_tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS);
    struct bytes ops = {0};
    err e = k->wants_program ? program_print(p, &ops) : OK;
    if (e == OK) e = *c->cluster ? plan_for_cluster(k, p, &r, &ops) : plan_grid_of(k, p, &r, &ops);
    bytes_free(&ops);
    return e;
}

static err plan_shape(const struct plan_command *k) {
    struct shape *s;
    TRY(shape_read(k->shape, &s));
    err e = plan_program(k, shape_program(s));
    shape_free(s);
    return e;
}

static err plan_model(const struct plan_command *k, const char *path) {
    struct model m;
    TRY(model_open("plan", path, &k->config, &m));
    err e = plan_program(k, m.program);
    model_close(&m);
    return e;
}

err cmd_plan(int argc, char **argv) {
    struct plan_command k = {0};
    struct option_result words;
    const struct option own[] = {
        {"shape", OPTION_TEXT, &k.shape, "FILE", "a described model in place of MODEL; configs/shapes/ has some", 0, 0},
        {"kv-tokens", OPTION_WHOLE, &k.kv_tokens, "tokens",
         "positions of KV cache for all texts together; without it for one text", 1, (double)KV_TOKENS_MAX},
        {"program", OPTION_SWITCH, &k.wants_program, NULL, "also the list of ops that the model is", 0, 0},
        {"json", OPTION_SWITCH, &k.is_json, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct option_set set = {
        "plan MODEL [flags]",
        "Prints which rank would hold which layers, heads and bytes. Nothing is loaded. With\n"
        "--memory-mb it fails when a rank would need more. With --cluster FILE, a description of hosts,\n"
        "devices and links that need not be there, it searches the best plan for them and says how fast it\n"
        "would be, what holds it up, and what one host more or fewer would change.",
        CONFIG_GRID, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &k.config, &words));
    if (words.is_help) return OK;
    const char *path = words.n_words ? words.words[0] : NULL;
    if (k.shape && path)
        return err_set(ERR_USAGE, "plan: a model and a shape; give %s or --shape %s", path, k.shape);
    return k.shape ? plan_shape(&k) : plan_model(&k, path);
}
