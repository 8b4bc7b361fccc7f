/* caravan bench pipeline: how full the stages are: what each rank's time goes to while so many texts are under way,
 * and what a hop between stages costs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/awake.h"
#include "base/clock.h"
#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/facts.h"
#include "coordinator/link.h"
#include "coordinator/model.h"
#include "coordinator/numerics.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "coordinator/streams.h"
#include "coordinator/window.h"

#define LIST_MAX 16
#define TOKENS_MAX (1 << 20)
#define TOKENS_LEAST 8
#define WINDOW_LEAST 4 /* tokens of each stream that a window holds, about */

enum moment { AT_BEGIN, AT_DECODE, AT_END, N_MOMENTS };

/* The figures of all ranks as the prompts begin, as all streams decode, and before the first one ends. */
struct readings {
    struct engine_rank *ranks[N_MOMENTS]; /* [n_ranks] */
    int64_t asked_us[N_MOMENTS];
    uint64_t n_since[N_MOMENTS];          /* tokens when they were asked for */
    uint32_t n_most;                      /* of the stream that had most AT_DECODE */
    enum moment next;                     /* to come; N_MOMENTS: none */
    int is_asked;
    uint64_t n_answers;                   /* when it was asked */
};

/* One number of streams. */
struct run {
    uint32_t n_streams;
    double prefill, decode;              /* tokens per second, of all streams */
    double step_s, compute_s;            /* of a token of one stream: from one to the next, and of that computing */
    struct window *prefills, *decodes;   /* [n_ranks] */
    struct facts *facts;
};

struct bench {
    struct config config;
    const char *streams_text;
    uint64_t n_tokens, n_prompt;
    int is_json, is_verbose, is_reference;
    uint32_t n_runs, streams_max;
    struct run runs[LIST_MAX];
    struct model model;
    int32_t *tokens;
    int64_t *times_us;
    struct engine *engine;
    struct readings readings;
    struct link_progress progress;
};

static const char about[] =
    "Reads and writes --streams texts at once on the grid, and says what each rank's time went to:\n"
    "computing (busy), waiting for other shards of its stage, waiting for what it sent to leave, and\n"
    "waiting for something to compute (bubble), while prompts are read and while all texts are written.\n"
    "Each rank measures by its own clock, over the same steps. The time of one stream's token that no\n"
    "stage computes is the cost of its hops: from stage to stage, and from the last one back.";

/* ---- the command line ---- */

static err add_streams(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, STREAMS_MAX, &n));
    t->runs[t->n_runs++].n_streams = (uint32_t)n;
    if (n > t->streams_max) t->streams_max = (uint32_t)n;
    return OK;
}

static err parse(struct bench *t, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"streams", OPTION_TEXT, &t->streams_text, "N,...", "texts side by side; default 1,8", 0, 0},
        {"prompt-tokens", OPTION_WHOLE, &t->n_prompt, "N", "length of each prompt; default 64", 1, TOKENS_MAX},
        {"tokens", OPTION_WHOLE, &t->n_tokens, "N", "tokens that each writes; default 64", TOKENS_LEAST, TOKENS_MAX},
        {"json", OPTION_SWITCH, &t->is_json, NULL, "one JSON object on standard output", 0, 0},
        {"reference", OPTION_SWITCH, &t->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"verbose", OPTION_SWITCH, &t->is_verbose, NULL, "what the launcher says", 0, 0},
    };
    const struct option_set set = {"bench pipeline MODEL [flags]", about, CONFIG_GRID | CONFIG_JOB, own,
                                   sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &t->config, words));
    if (words->is_help) return OK;
    return config_parse_list("streams", t->streams_text ? t->streams_text : "1,8", LIST_MAX, add_streams, t);
}

/* ---- readings ---- */

static err reading_ask(struct bench *t, uint64_t n_since) {
    struct readings *r = &t->readings;
    engine_ranks(t->engine, &r->n_answers);
    r->asked_us[r->next] = clock_us();
    r->n_since[r->next] = n_since;
    r->is_asked = 1;
    return engine_ask_stats(t->engine);
}

static void reading_keep(struct bench *t, const struct engine_rank *ranks) {
    struct readings *r = &t->readings;
    memcpy(r->ranks[r->next++], ranks, engine_plan(t->engine)->n_ranks * sizeof *ranks);
    r->is_asked = 0;
}

/* Now: no step is under way. */
static err reading_take(struct bench *t, uint64_t n_since) {
    struct readings *r = &t->readings;
    const struct engine_rank *ranks;
    if (!r->is_asked) {
        r->asked_us[r->next] = clock_us();
        r->n_since[r->next] = n_since;
    }
    TRY(engine_stats(t->engine, &ranks));
    reading_keep(t, ranks);
    return OK;
}

static err on_result(void *context, const struct streams_state *s) {
    struct bench *t = context;
    struct readings *r = &t->readings;
    uint64_t n_answers;
    const struct engine_rank *ranks = engine_ranks(t->engine, &n_answers);
    if (r->is_asked && n_answers > r->n_answers) reading_keep(t, ranks);
    if (r->is_asked) return OK;
    if (r->next == AT_DECODE && s->n_since) r->n_most = s->n_most;
    int is_due = r->next == AT_DECODE ? s->n_since > 0 : r->next == AT_END && s->n_most + 2 >= t->n_tokens;
    return is_due ? reading_ask(t, s->n_since) : OK;
}

/* ---- running ---- */

static uint32_t rows_max(const struct bench *t) {
    uint64_t n = t->n_prompt * t->streams_max;
    return (uint32_t)(n < t->config.prefill_chunk ? n : t->config.prefill_chunk);
}

static struct streams streams_of(struct bench *t, uint32_t n, uint32_t n_prompt, uint32_t n_tokens) {
    return (struct streams){
        .engine = t->engine, .n = n, .n_prompt = n_prompt, .n_tokens = n_tokens, .rows_max = rows_max(t),
        .n_vocab = t->model.program->n_vocab, .tokens = t->tokens, .times_us = t->times_us};
}

static void windows_of(const struct readings *r, enum moment begin, uint32_t n_ranks, struct window *out) {
    for (uint32_t i = 0; i < n_ranks; i++) window_between(&r->ranks[begin][i], &r->ranks[begin + 1][i], &out[i]);
}

/* Of the whole run: forecasts are for the texts it had. */
static err facts_of(struct bench *t, struct run *run) {
    const struct plan *plan = engine_plan(t->engine);
    struct engine_rank *ranks;
    TRY(NEW(ranks, plan->n_ranks));
    for (uint32_t i = 0; i < plan->n_ranks; i++)
        window_difference(&t->readings.ranks[AT_BEGIN][i], &t->readings.ranks[AT_END][i], &ranks[i]);
    const struct facts_request r = {
        .program = t->model.program, .cluster = engine_cluster(t->engine), .plan = plan, .ranks = ranks,
        .n_texts = run->n_streams, .n_prompt = (uint32_t)t->n_prompt, .n_written = (uint32_t)t->n_tokens,
        .decode_per_s = run->n_streams == 1 ? run->decode : 0, .prefill_per_s = run->prefill,
        .load_s = engine_load_s(t->engine)};
    err e = facts_create(&r, &run->facts);
    free(ranks);
    return e;
}

static err run_one(struct bench *t, struct run *run) {
    const struct plan *plan = engine_plan(t->engine);
    struct readings *r = &t->readings;
    r->next = AT_BEGIN;
    TRY(reading_take(t, 0));
    struct streams s = streams_of(t, run->n_streams, (uint32_t)t->n_prompt, (uint32_t)t->n_tokens);
    s.on_result = on_result;
    s.context = t;
    TRY(streams_run(&s));
    if (r->n_most + WINDOW_LEAST > t->n_tokens)
        return err_set(ERR_REQUEST, "bench pipeline: with %u streams the first text was %u tokens long before the last "
                                    "prompt was read; more --tokens or fewer --prompt-tokens are needed",
                       run->n_streams, r->n_most);
    while (r->next < N_MOMENTS) TRY(reading_take(t, s.state.n_since));
    uint64_t n_written = r->n_since[AT_END] - r->n_since[AT_DECODE];
    double seconds = (double)(r->asked_us[AT_END] - r->asked_us[AT_DECODE]) * 1e-6;
    windows_of(r, AT_BEGIN, plan->n_ranks, run->prefills);
    windows_of(r, AT_DECODE, plan->n_ranks, run->decodes);
    run->prefill = (double)t->n_prompt * run->n_streams * 1e6 / (double)(t->times_us[1] - t->times_us[0]);
    run->decode = (double)n_written / seconds;
    run->step_s = run->n_streams / run->decode;
    run->compute_s = window_compute_s(run->decodes, plan->n_stages, plan->n_shards);
    return facts_of(t, run);
}

static err open_engine(struct bench *t) {
    uint32_t context = (uint32_t)(t->n_prompt + t->n_tokens);
    struct engine_options o = {
        .config = &t->config, .program = t->model.program, .model = t->model.path,
        .is_reference = t->is_reference, .is_verbose = t->is_verbose, .context = context,
        .n_blocks = t->streams_max * plan_context_blocks(context), .rows_max = rows_max(t)};
    TRY(engine_open(&o, &t->engine));
    uint32_t n_ranks = engine_plan(t->engine)->n_ranks;
    for (int i = 0; i < N_MOMENTS; i++) TRY(NEW(t->readings.ranks[i], n_ranks));
    for (uint32_t i = 0; i < t->n_runs; i++) {
        TRY(NEW(t->runs[i].prefills, n_ranks));
        TRY(NEW(t->runs[i].decodes, n_ranks));
    }
    return OK;
}

static err runs_all(struct bench *t) {
    struct streams warm = streams_of(t, 1, (uint32_t)t->n_prompt, 2);
    TRY(streams_run(&warm)); /* drivers finish building kernels */
    for (uint32_t i = 0; i < t->n_runs; i++) {
        link_progress_show(&t->progress, "measuring", i, t->n_runs, 0);
        TRY(run_one(t, &t->runs[i]));
    }
    return OK;
}

static err prepare(struct bench *t, const char *path) {
    TRY(model_open("bench pipeline", path, &t->config, &t->model));
    const struct program *p = t->model.program;
    uint64_t n_tokens = t->n_prompt + t->streams_max;
    if (t->n_prompt + t->n_tokens > p->n_context)
        return err_set(ERR_REQUEST, "%llu tokens of prompt and %llu written, but the model was made for %u",
                       (unsigned long long)t->n_prompt, (unsigned long long)t->n_tokens, p->n_context);
    TRY(NEW(t->tokens, n_tokens));
    TRY(NEW(t->times_us, t->streams_max * t->n_tokens + 2));
    streams_fill(t->tokens, (uint32_t)n_tokens, p->n_vocab);
    return OK;
}

/* ---- the report ---- */

/* A hop's share of what a token of one stream takes and nobody computes; one stage has none. */
static double hop_s(const struct bench *t, const struct run *run) {
    uint32_t n_stages = engine_plan(t->engine)->n_stages;
    double rest = run->step_s - run->compute_s;
    return n_stages > 1 && rest > 0 ? rest / n_stages : 0;
}

static const struct run *one_stream(const struct bench *t) {
    for (uint32_t i = 0; i < t->n_runs; i++)
        if (t->runs[i].n_streams == 1) return &t->runs[i];
    return NULL;
}

static void print_rank(const struct bench *t, const struct run *run, uint32_t i) {
    const struct plan_cell *c = &engine_plan(t->engine)->cells[i];
    const struct engine_rank *r = &t->readings.ranks[AT_END][i];
    const struct window *p = &run->prefills[i], *d = &run->decodes[i];
    char layers[32];
    snprintf(layers, sizeof layers, "%u-%u", c->layer_begin, c->layer_end);
    printf("%5u %5u  %-16.16s %-7s %7.1f%% %7.1f%% %7.1f%% %7.1f%% %9.2f ms %11.1f%% %7.1f%%\n", c->stage, c->shard,
           r->host, layers, 100 * d->busy, 100 * d->share, 100 * d->sending, 100 * d->bubble, d->step_s * 1e3,
           100 * p->busy, 100 * p->bubble);
}

static err print_text(const struct bench *t, const char *commit) {
    const struct plan *plan = engine_plan(t->engine);
    printf("%s on %ux%u: %llu tokens read and %llu written by each stream; %s, commit %s%s\n", t->model.path,
           plan->n_stages, plan->n_shards, (unsigned long long)t->n_prompt, (unsigned long long)t->n_tokens,
           t->readings.ranks[AT_END][0].device, commit, awake_text());
    for (uint32_t i = 0; i < t->n_runs; i++) {
        const struct run *run = &t->runs[i];
        printf("\n%u stream%s: %.1f tokens/s read, %.1f written\n", run->n_streams, run->n_streams == 1 ? "" : "s",
               run->prefill, run->decode);
        printf("%5s %5s  %-16s %-7s %8s %8s %8s %8s %12s %12s %8s\n", "stage", "shard", "host", "layers", "busy",
               "shards", "sending", "bubble", "a step", "read: busy", "bubble");
        for (uint32_t k = 0; k < plan->n_ranks; k++) print_rank(t, run, k);
    }
    const struct run *one = one_stream(t);
    if (one && plan->n_stages > 1)
        printf("\na token of one stream: %.2f ms, of which %.2f ms computing; a hop: %.0f us\n", one->step_s * 1e3,
               one->compute_s * 1e3, hop_s(t, one) * 1e6);
    if (!one) return OK;
    printf("\none stream, ");
    return facts_print(one->facts, stdout);
}

static json_t *window_json(const struct window *w) {
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:I, s:f, s:I}", "seconds", w->seconds, "busy", w->busy, "shards",
                     w->share, "sending", w->sending, "bubble", w->bubble, "steps", (json_int_t)w->n_steps, "step_s",
                     w->step_s, "bytes_sent", (json_int_t)w->bytes_sent);
}

static json_t *run_json(const struct bench *t, const struct run *run) {
    const struct plan *plan = engine_plan(t->engine);
    json_t *ranks = json_array();
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        const struct plan_cell *c = &plan->cells[i];
        json_array_append_new(ranks, json_pack(
            "{s:I, s:s, s:I, s:I, s:I, s:I, s:o, s:o}", "rank", (json_int_t)i, "host",
            t->readings.ranks[AT_END][i].host, "stage", (json_int_t)c->stage, "shard", (json_int_t)c->shard,
            "layer_begin", (json_int_t)c->layer_begin, "layer_end", (json_int_t)c->layer_end,
            "prefill", window_json(&run->prefills[i]), "decode", window_json(&run->decodes[i])));
    }
    return json_pack("{s:I, s:f, s:f, s:f, s:f, s:o, s:o}", "streams", (json_int_t)run->n_streams,
                     "prefill_tokens_per_s", run->prefill, "decode_tokens_per_s", run->decode, "token_s", run->step_s,
                     "compute_s", run->compute_s, "ranks", ranks, "facts", facts_json(run->facts));
}

static err print_json(const struct bench *t, const char *commit) {
    const struct run *one = one_stream(t);
    const struct plan *plan = engine_plan(t->engine);
    json_t *runs = json_array(), *hop = json_null();
    for (uint32_t i = 0; i < t->n_runs; i++) json_array_append_new(runs, run_json(t, &t->runs[i]));
    if (one && plan->n_stages > 1) hop = json_real(hop_s(t, one));
    return report_print_json(json_pack(
        "{s:s, s:s, s:s, s:b, s:s, s:o, s:I, s:I, s:I, s:o, s:o}", "model", t->model.path, "device",
        t->readings.ranks[AT_END][0].device, "commit", commit, "awake", awake_is_on(), "numerics",
        numerics_text(&t->config), "plan", report_plan(plan), "prompt_tokens",
        (json_int_t)t->n_prompt, "tokens", (json_int_t)t->n_tokens, "rows_max", (json_int_t)plan->rows_max,
        "hop_s", hop, "runs", runs));
}

static err bench(struct bench *t, const char *path, const char *commit) {
    TRY(prepare(t, path));
    TRY(open_engine(t));
    err e = runs_all(t);
    link_progress_clear(&t->progress);
    TRY(e);
    if (t->is_json) return print_json(t, commit);
    return print_text(t, commit);
}

static void bench_end(struct bench *t) {
    engine_close(t->engine);
    model_close(&t->model);
    for (int i = 0; i < N_MOMENTS; i++) free(t->readings.ranks[i]);
    for (uint32_t i = 0; i < t->n_runs; i++) {
        free(t->runs[i].prefills);
        free(t->runs[i].decodes);
        facts_free(t->runs[i].facts);
    }
    free(t->tokens);
    free(t->times_us);
}

err cmd_bench_pipeline(int argc, char **argv, const char *commit) {
    struct bench *t;
    struct option_result words;
    TRY(NEW(t, 1));
    static char name[] = "bench pipeline";
    argv[0] = name; /* for messages */
    t->n_prompt = t->n_tokens = 64;
    err e = parse(t, argc, argv, &words);
    if (e == OK && !words.is_help) e = bench(t, words.n_words ? words.words[0] : NULL, commit);
    bench_end(t);
    free(t);
    return e;
}
