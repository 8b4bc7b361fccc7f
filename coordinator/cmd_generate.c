/* caravan generate: continues one text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/facts.h"
#include "coordinator/model.h"
#include "coordinator/numerics.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "coordinator/sampling.h"
#include "coordinator/scheduler.h"
#include "coordinator/sequence.h"

#define BIASES_MAX 4096

struct generate {
    struct config config;
    const char *prompt, *prompt_file, *tokens;
    struct option_texts stops, biases;
    int ignores_end, is_json, is_verbose, wants_stats, is_reference;
    struct model model;
    struct token_list prompt_tokens;
    struct sequence_bias bias[BIASES_MAX];
    size_t n_biases;
    uint32_t context, rows_max;
    uint64_t seed;
    struct engine *engine;
    struct sequence *sequence;
    struct scheduler *scheduler;
    err taken; /* what came of the newest result */
    size_t n_shown; /* bytes of the text that are on standard output */
    int64_t begin_us, first_us, last_us;
};

static const char about[] =
    "Continues a text. Without --json the answer appears as it comes; with --json one\n"
    "object is printed at the end. Unless told otherwise the most probable token is\n"
    "taken each time (--temperature 0), so the same prompt gives the same answer. The\n"
    "grid of stages and shards never changes a token.";

static err parse(struct generate *g, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"prompt", OPTION_TEXT, &g->prompt, "TEXT", "the text; \"<|name|>\" may be special tokens", 0, 0},
        {"prompt-file", OPTION_TEXT, &g->prompt_file, "FILE", "the text, from a file", 0, 0},
        {"tokens", OPTION_TEXT, &g->tokens, "1,2,3", "the prompt as token ids; nothing is added", 0, 0},
        {"stop", OPTION_LIST, &g->stops, "TEXT", "ends the answer before this text; may be given again", 0, 0},
        {"logit-bias", OPTION_LIST, &g->biases, "ID=V,...", "added to the logits of tokens; -inf forbids", 0, 0},
        {"ignore-eos", OPTION_SWITCH, &g->ignores_end, NULL, "go on when the model ends its answer", 0, 0},
        {"json", OPTION_SWITCH, &g->is_json, NULL, "one JSON object on standard output", 0, 0},
        {"stats", OPTION_SWITCH, &g->wants_stats, NULL, "who held and did what, also where there is no terminal", 0, 0},
        {"reference", OPTION_SWITCH, &g->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"verbose", OPTION_SWITCH, &g->is_verbose, NULL, "the plan, and what the launcher says", 0, 0},
    };
    const struct option_set set = {
        "generate MODEL --prompt TEXT|--prompt-file FILE|--tokens 1,2,3 [flags]", about,
        CONFIG_GRID | CONFIG_JOB | CONFIG_SAMPLING, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &g->config, words));
    if (words->is_help) return OK;
    int n_prompts = (g->prompt != NULL) + (g->prompt_file != NULL) + (g->tokens != NULL);
    if (n_prompts != 1)
        return err_set(ERR_USAGE, "generate: give one of --prompt, --prompt-file and --tokens");
    return OK;
}

/* "ID=V,ID=V" */
static err parse_biases(struct generate *g, const char *text) {
    for (const char *at = text; *at;) {
        char id_text[24], value_text[32];
        int n = 0;
        uint64_t id;
        double value;
        if (sscanf(at, "%23[^=,]=%31[^,]%n", id_text, value_text, &n) != 2)
            return err_set(ERR_USAGE, "--logit-bias: expected ID=V,..., found \"%.40s\"", at);
        if (config_parse_whole(id_text, 0, (double)g->model.program->n_vocab - 1, &id) != OK)
            return err_context(ERR_USAGE, "--logit-bias");
        if (strcmp(value_text, "-inf") == 0)
            value = -INFINITY;
        else if (config_parse_real(value_text, -1e4, 1e4, &value) != OK)
            return err_context(ERR_USAGE, "--logit-bias of token %llu", (unsigned long long)id);
        if (g->n_biases == BIASES_MAX)
            return err_set(ERR_USAGE, "--logit-bias: at most %d tokens", BIASES_MAX);
        g->bias[g->n_biases++] = (struct sequence_bias){(int32_t)id, (float)value};
        at += n;
        if (*at == ',') at++;
    }
    return OK;
}

static err encode(struct generate *g, const char *text, size_t len) {
    TRY(model_need_tokenizer(&g->model));
    return tokenizer_encode(g->model.tokenizer, text, len, 1, 1, &g->prompt_tokens);
}

static err read_prompt(struct generate *g) {
    if (g->tokens) return model_parse_tokens(&g->model, g->tokens, &g->prompt_tokens);
    if (g->prompt) return encode(g, g->prompt, strlen(g->prompt));
    struct bytes text = {0};
    err e = bytes_read_file(&text, g->prompt_file);
    if (e == OK) e = encode(g, (char *)text.data, text.len);
    bytes_free(&text);
    return e;
}

/* A file's tokenizer may know more tokens than its embedding has rows. */
static err check_prompt(struct generate *g) {
    uint32_t n_vocab = g->model.program->n_vocab;
    size_t n = g->prompt_tokens.n;
    if (n == 0) return err_set(ERR_REQUEST, "the prompt is empty");
    for (size_t i = 0; i < n; i++)
        if (g->prompt_tokens.ids[i] < 0 || (uint32_t)g->prompt_tokens.ids[i] >= n_vocab)
            return err_set(ERR_REQUEST, "token %d of the prompt is beyond the model's %u",
                           g->prompt_tokens.ids[i], n_vocab);
    TRY(model_context(&g->model, &g->config, &g->context));
    if (n >= g->context)
        return err_set(ERR_REQUEST, "the prompt has %zu tokens, the context %u; the prompt must be shorter%s",
                       n, g->context,
                       g->context < g->model.program->n_context ? ", or --context longer" : "");
    /* No more cache than this answer can fill, unless a size was asked for. */
    if (!g->config.context && n + g->config.max_tokens < g->context)
        g->context = (uint32_t)(n + g->config.max_tokens);
    g->rows_max = n < g->config.prefill_chunk ? (uint32_t)n : (uint32_t)g->config.prefill_chunk;
    return OK;
}

static err prepare(struct generate *g, const char *path) {
    TRY(model_open("generate", path, &g->config, &g->model));
    for (size_t i = 0; i < g->biases.n; i++) TRY(parse_biases(g, g->biases.texts[i]));
    TRY(read_prompt(g));
    return check_prompt(g);
}

static err create_sequence(struct generate *g) {
    struct sequence_options o = {
        .tokenizer = g->model.tokenizer, .prompt = g->prompt_tokens.ids, .n_prompt = g->prompt_tokens.n,
        .n_vocab = g->model.program->n_vocab, .context = g->context, .biases = g->bias, .n_biases = g->n_biases,
        .stops = g->stops.texts, .n_stops = g->stops.n, .ignores_end = g->ignores_end};
    TRY(sampling_read_config(&g->config, &o));
    g->seed = o.seed;
    return sequence_create(&o, &g->sequence);
}

static err open_engine(struct generate *g) {
    struct engine_options o = {
        .config = &g->config, .program = g->model.program, .model = g->model.path,
        .is_reference = g->is_reference, .is_verbose = g->is_verbose, .context = g->context,
        .rows_max = g->rows_max};
    TRY(engine_open(&o, &g->engine));
    const struct plan *plan = engine_plan(g->engine);
    struct scheduler_options of_steps = {
        .n_blocks = plan->n_blocks, .rows_max = g->rows_max, .n_groups = plan->n_stages, .context = g->context,
        .n_vocab = g->model.program->n_vocab};
    TRY(scheduler_create(&of_steps, &g->scheduler));
    return scheduler_add(g->scheduler, g->sequence, 0, 0);
}

/* What became visible of the answer, at once. */
static err show_text(struct generate *g) {
    if (g->is_json) return OK;
    size_t n;
    const char *text = sequence_text(g->sequence, &n);
    if (n == g->n_shown) return OK;
    size_t written = fwrite(text + g->n_shown, 1, n - g->n_shown, stdout);
    if (written != n - g->n_shown || fflush(stdout) != 0)
        return err_set(ERR_FILE, "cannot write to standard output");
    g->n_shown = n;
    return OK;
}

static void on_taken(void *context, struct sequence *q, err e) {
    struct generate *g = context;
    (void)q;
    g->last_us = clock_us();
    if (!g->first_us) g->first_us = g->last_us;
    g->taken = e;
}

static err take_result(struct generate *g) {
    struct result r;
    TRY(engine_next(g->engine, &r));
    TRY(scheduler_commit(g->scheduler, &r, on_taken, g));
    TRY(g->taken);
    return show_text(g);
}

static err run(struct generate *g) {
    g->begin_us = clock_us();
    while (scheduler_n_sequences(g->scheduler)) {
        int has_step = 1;
        while (has_step && engine_n_pending(g->engine) < engine_depth(g->engine)) {
            struct step s;
            TRY(scheduler_next(g->scheduler, g->rows_max, &s, &has_step));
            if (has_step) TRY(engine_submit(g->engine, &s));
        }
        TRY(take_result(g));
    }
    if (!g->is_json && putchar('\n') == EOF)
        return err_set(ERR_FILE, "cannot write to standard output");
    return OK;
}

/* ---- the report ---- */

static double per_s(size_t n, int64_t us) { return us > 0 ? (double)n * 1e6 / (double)us : 0; }

struct timings {
    double load_s, prefill_tokens_per_s, decode_tokens_per_s, time_to_first_token_s;
};

static void timings_fill(const struct generate *g, struct timings *t) {
    size_t n;
    sequence_tokens(g->sequence, &n);
    t->load_s = engine_load_s(g->engine);
    t->time_to_first_token_s = (double)(g->first_us - g->begin_us) * 1e-6;
    t->prefill_tokens_per_s = per_s(g->prompt_tokens.n, g->first_us - g->begin_us);
    t->decode_tokens_per_s = per_s(n - 1, g->last_us - g->first_us);
}

static err print_json(struct generate *g, const struct engine_rank *ranks, const struct facts *facts) {
    size_t n_tokens, n_text;
    struct timings t;
    timings_fill(g, &t);
    const int32_t *tokens = sequence_tokens(g->sequence, &n_tokens);
    const char *text = sequence_text(g->sequence, &n_text);
    const struct plan *plan = engine_plan(g->engine);
    return report_print_json(json_pack(
        "{s:o, s:o, s:s%, s:s, s:I, s:{s:f, s:f, s:f, s:f}, s:s, s:o, s:o, s:o}",
        "prompt_tokens", report_tokens(g->prompt_tokens.ids, g->prompt_tokens.n),
        "tokens", report_tokens(tokens, n_tokens), "text", text, n_text,
        "finish_reason", sequence_finish(g->sequence) == SEQUENCE_STOP ? "stop" : "length",
        "seed", (json_int_t)g->seed, "timings", "load_s", t.load_s,
        "prefill_tokens_per_s", t.prefill_tokens_per_s, "decode_tokens_per_s",
        t.decode_tokens_per_s, "time_to_first_token_s", t.time_to_first_token_s,
        "numerics", numerics_text(&g->config), "plan", report_plan(plan), "ranks", report_ranks(plan, ranks),
        "facts", facts_json(facts)));
}

static err print_table(struct generate *g, const struct engine_rank *ranks, const struct facts *facts) {
    size_t n;
    struct timings t;
    timings_fill(g, &t);
    sequence_tokens(g->sequence, &n);
    fprintf(stderr, "\n");
    TRY(report_print_ranks(engine_plan(g->engine), ranks));
    fprintf(stderr, "loaded in %.2f s; %zu tokens read, %.1f/s (first answer after %.2f s); %zu written, %.1f/s",
            t.load_s, g->prompt_tokens.n, t.prefill_tokens_per_s, t.time_to_first_token_s, n,
            t.decode_tokens_per_s);
    if (g->config.temperature > 0) fprintf(stderr, "; seed %llu", (unsigned long long)g->seed);
    if (g->config.is_set[CONFIG_numerics]) fprintf(stderr, "; numerics %s", numerics_text(&g->config));
    fprintf(stderr, "\n");
    if (facts->decode_per_s.forecast <= 0) return OK; /* the devices' rates are not known */
    fprintf(stderr, "\n");
    return facts_print(facts, stderr);
}

static err make_facts(const struct generate *g, const struct engine_rank *ranks, struct facts **out) {
    size_t n;
    struct timings t;
    timings_fill(g, &t);
    sequence_tokens(g->sequence, &n);
    const struct facts_request r = {
        .program = g->model.program, .cluster = engine_cluster(g->engine), .plan = engine_plan(g->engine),
        .ranks = ranks, .n_texts = 1, .n_prompt = (uint32_t)g->prompt_tokens.n, .n_written = (uint32_t)n,
        .decode_per_s = t.decode_tokens_per_s, .prefill_per_s = t.prefill_tokens_per_s, .load_s = t.load_s};
    return facts_create(&r, out);
}

static err report(struct generate *g) {
    const struct engine_rank *ranks;
    int shows_table = g->wants_stats || isatty(STDERR_FILENO);
    if (!g->is_json && !shows_table) return OK;
    struct facts *facts;
    TRY(engine_stats(g->engine, &ranks));
    TRY(make_facts(g, ranks, &facts));
    err e = shows_table ? print_table(g, ranks, facts) : OK;
    if (e == OK && g->is_json) e = print_json(g, ranks, facts);
    facts_free(facts);
    return e;
}

static err generate(struct generate *g, const char *path) {
    TRY(prepare(g, path));
    TRY(create_sequence(g));
    TRY(open_engine(g));
    if (g->is_verbose) TRY(report_print_plan(g->model.program, engine_plan(g->engine), stderr));
    TRY(run(g));
    return report(g);
}

static void generate_end(struct generate *g, err e) {
    if (e != OK && g->n_shown) { /* the message begins a line of its own */
        putchar('\n');
        fflush(stdout);
    }
    engine_close(g->engine);
    scheduler_free(g->scheduler);
    sequence_free(g->sequence);
    token_list_free(&g->prompt_tokens);
    model_close(&g->model);
}

err cmd_generate(int argc, char **argv) {
    struct generate *g;
    struct option_result words;
    TRY(NEW(g, 1));
    err e = parse(g, argc, argv, &words);
    if (e == OK && !words.is_help) {
        e = generate(g, words.n_words ? words.words[0] : NULL);
        generate_end(g, e);
    }
    free(g);
    return e;
}
