/* caravan serve: the model behind HTTP. */
#include <stdio.h>
#include <stdlib.h>

#include "base/log.h"
#include "coordinator/api.h"
#include "coordinator/commands.h"
#include "coordinator/conversation.h"
#include "coordinator/http.h"
#include "coordinator/numerics.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "partition/plan.h"

struct serve {
    struct config config;
    int is_check, is_reference, is_verbose;
    struct model model;
    struct chat_template *chat;
    struct metrics *metrics;
    struct http *http;
    struct service *service;
    struct api *api;
    int is_stopping, was_ready;
    const char *commit;
};

static const char about[] =
    "Serves the model over HTTP with the API of OpenAI: /v1/completions, /v1/chat/completions,\n"
    "/v1/embeddings, /v1/models; /tokenize, /detokenize; /health, /ready, /metrics, /cluster; and a\n"
    "web page to chat with at /. Texts of many clients run side by side; their tokens are what each\n"
    "would have got alone. A first SIGINT or SIGTERM lets running answers end (--drain-s), a second\n"
    "one does not.";

static err parse(struct serve *s, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"check", OPTION_SWITCH, &s->is_check, NULL, "check model, plan, keys, certificates, template; no more", 0, 0},
        {"reference", OPTION_SWITCH, &s->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"verbose", OPTION_SWITCH, &s->is_verbose, NULL, "the plan, and what the launcher says", 0, 0},
    };
    const struct option_set set = {
        "serve MODEL|FILE.cfg [flags]", about, CONFIG_GRID | CONFIG_JOB | CONFIG_CACHE | CONFIG_SERVE,
        own, sizeof own / sizeof *own, 1};
    return options_parse(&set, argc, argv, &s->config, words);
}

/* ---- what the transport calls ---- */

static void on_request(void *context, struct exchange *x) { api_request(((struct serve *)context)->api, x); }
static void on_gone(void *context, struct exchange *x) { api_gone(((struct serve *)context)->api, x); }

static void on_events(void *context) { http_wake(((struct serve *)context)->http); }

static void on_wake(void *context) {
    struct serve *s = context;
    struct service_status status;
    api_events(s->api);
    service_status(s->service, &status);
    if (status.state == SERVICE_READY && !s->was_ready) {
        s->was_ready = 1;
        log_info("ready", "load_s=%.2f context=%u kv_tokens=%llu numerics=\"%s\"", status.load_s, status.context,
                 (unsigned long long)status.n_blocks * KV_BLOCK_TOKENS, numerics_text(&s->config));
    }
    int number = engine_take_signal();
    if (number && !s->is_stopping) log_info("draining", "signal=%d limit_s=%.0f", number, s->config.drain_s);
    if (number) service_drain(s->service);
    if (number || (status.state == SERVICE_ENDED && !s->is_stopping)) http_stop(s->http);
    if (number || status.state == SERVICE_ENDED) s->is_stopping = 1;
}

/* ---- running ---- */

/* The plan that the service will make. */
static err check_plan(const struct serve *s) {
    struct plan *plan;
    uint32_t context;
    enum plan_weights weights;
    TRY(plan_weights_from_name(s->config.weights, &weights));
    TRY(model_context(&s->model, &s->config, &context));
    struct plan_request r = {.context = context, .n_blocks = service_count_blocks(&s->config, context),
                             .rows_max = (uint32_t)s->config.prefill_chunk};
    const struct engine_options o = {.config = &s->config, .program = s->model.program, .context = context,
                                     .n_blocks = r.n_blocks, .rows_max = r.rows_max, .is_reference = s->is_reference};
    struct engine_bounds b;
    TRY(engine_foresee(&o, &b));
    if (!b.n_stages) {
        printf("%u ranks; the plan is made once their devices are known\n", b.n_ranks);
        return OK;
    }
    r.n_stages = b.n_stages;
    r.n_shards = b.n_shards;
    TRY(plan_create(s->model.program, &r, &plan));
    err e = report_print_plan(s->model.program, plan, stdout);
    plan_free(plan);
    return e;
}

static err transport_open(struct serve *s) {
    struct http_options o = {&s->config, s->metrics, s, on_request, on_gone, on_wake};
    return http_open(&o, &s->http);
}

/* All that can be known to be wrong before anything starts. */
static err check(struct serve *s) {
    enum payload payload;
    TRY(http_check(&s->config));
    TRY(numerics_choose(&s->config, &payload));
    TRY(check_plan(s));
    printf("%s is good: model, plan, keys, certificates and template\n", s->model.path);
    return OK;
}

static err run(struct serve *s) {
    TRY(transport_open(s));
    struct service_options so = {.config = &s->config, .model = &s->model, .metrics = s->metrics,
                                 .is_reference = s->is_reference, .is_verbose = s->is_verbose,
                                 .on_events = on_events, .context = s};
    TRY(service_open(&so, &s->service));
    struct api_options ao = {.config = &s->config, .model = &s->model, .service = s->service,
                             .metrics = s->metrics, .chat = s->chat, .commit = s->commit};
    TRY(api_create(&ao, &s->api));
    printf("listening at %s\n", http_url(s->http));
    fflush(stdout);
    TRY(http_run(s->http));
    struct service_status status;
    service_status(s->service, &status);
    return status.state == SERVICE_ENDED ? err_set(ERR_JOB, "%s", status.reason) : OK;
}

static err serve(struct serve *s, const char *path) {
    TRY(model_open("serve", path, &s->config, &s->model));
    TRY(model_need_tokenizer(&s->model));
    TRY(conversation_template(&s->model, &s->config, &s->chat));
    TRY(metrics_create(&s->metrics));
    return s->is_check ? check(s) : run(s);
}

static void serve_end(struct serve *s) {
    api_free(s->api); /* cancels what runs; its exchanges are nobody's then */
    s->api = NULL;
    service_close(s->service); /* it may wake the transport until then */
    http_close(s->http);
    metrics_free(s->metrics);
    chat_template_free(s->chat);
    model_close(&s->model);
}

err cmd_serve(int argc, char **argv, const char *commit) {
    struct serve *s;
    struct option_result words;
    TRY(NEW(s, 1));
    s->commit = commit;
    err e = parse(s, argc, argv, &words);
    if (e == OK && !words.is_help) {
        log_set_level(2);
        e = serve(s, words.n_words ? words.words[0] : NULL);
        serve_end(s);
    }
    free(s);
    return e;
}
