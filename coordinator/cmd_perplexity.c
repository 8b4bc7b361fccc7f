/* caravan perplexity: how well a model predicts a text.
 *
 * The text's tokens are cut into windows of N that do not overlap; each begins with an
 * empty cache; its first token is given, the other N - 1 are scored; what is left
 * at the end and fills no window is dropped. Windows stand in one long run of rows, so a step
 * may hold the end of one and the beginning of the next. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/link.h"
#include "coordinator/model.h"
#include "coordinator/numerics.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "model/limits.h"

struct perplexity {
    struct config config;
    const char *file;
    int is_json, is_verbose, is_reference;
    struct model model;
    struct token_list tokens;
    uint32_t window;             /* tokens */
    uint64_t n_windows, n_rows;  /* n_windows * (window - 1) */
    uint32_t rows_max, n_slots;  /* windows of one step have different slots */
    struct engine *engine;
    struct link_progress progress;
    double nll; /* sum, in the order of rows */
    uint64_t n_scored;
    /* One step. */
    int32_t *token, *position, *table_begin, *table;
    struct step_out *outs;
};

static err parse(struct perplexity *x, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"file", OPTION_TEXT, &x->file, "FILE", "the text", 0, 0},
        {"json", OPTION_SWITCH, &x->is_json, NULL, "one JSON object on standard output", 0, 0},
        {"reference", OPTION_SWITCH, &x->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"verbose", OPTION_SWITCH, &x->is_verbose, NULL, "what the launcher says", 0, 0},
    };
    const struct option_set set = {
        "perplexity MODEL --file FILE [--context N] [flags]",
        "Scores a text in windows of --context tokens that do not overlap. The first token of\n"
        "each window is given, not scored; tokens at the end that fill no window are dropped.\n"
        "A begin token is added to the text where the model's file says so.",
        CONFIG_GRID | CONFIG_JOB, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &x->config, words));
    if (words->is_help) return OK;
    if (!x->file) return err_set(ERR_USAGE, "perplexity: --file is missing");
    return OK;
}

static err read_text(struct perplexity *x) {
    TRY(model_need_tokenizer(&x->model));
    struct bytes text = {0};
    err e = bytes_read_file(&text, x->file);
    if (e == OK)
        e = tokenizer_encode(x->model.tokenizer, (char *)text.data, text.len, 1, 0, &x->tokens);
    bytes_free(&text);
    TRY(e);
    for (size_t i = 0; i < x->tokens.n; i++)
        if (x->tokens.ids[i] < 0 || (uint32_t)x->tokens.ids[i] >= x->model.program->n_vocab)
            return err_set(ERR_REQUEST, "token %d of the text is beyond the model's %u", x->tokens.ids[i],
                           x->model.program->n_vocab);
    return OK;
}

static err prepare(struct perplexity *x, const char *path) {
    TRY(model_open("perplexity", path, &x->config, &x->model));
    TRY(model_context(&x->model, &x->config, &x->window));
    if (x->window < 2) return err_set(ERR_USAGE, "perplexity: --context must be at least 2");
    TRY(read_text(x));
    x->n_windows = x->tokens.n / x->window;
    if (x->n_windows == 0)
        return err_set(ERR_REQUEST, "%s has %zu tokens, fewer than a window of %u; --context may be smaller",
                       x->file, x->tokens.n, x->window);
    x->n_rows = x->n_windows * (x->window - 1);
    x->rows_max = (uint32_t)x->config.prefill_chunk;
    if (x->rows_max > STEP_OUTS_MAX) x->rows_max = STEP_OUTS_MAX; /* every row is scored */
    /* A step that begins inside a window touches at most so many. */
    x->n_slots = (x->rows_max + x->window - 3) / (x->window - 1) + 1;
    if (x->n_slots > x->n_windows) x->n_slots = (uint32_t)x->n_windows;
    uint32_t slot_blocks = plan_context_blocks(x->window);
    TRY(NEW(x->token, x->rows_max));
    TRY(NEW(x->position, x->rows_max));
    TRY(NEW(x->table_begin, x->rows_max));
    TRY(NEW(x->outs, x->rows_max));
    TRY(NEW(x->table, (size_t)slot_blocks * x->n_slots));
    for (uint32_t b = 0; b < slot_blocks * x->n_slots; b++) x->table[b] = (int32_t)b;
    return OK;
}

/* Rows [begin, begin + n) of the long run. Steps follow each other through every stage
 * in order, so a slot may be used again by a later step while an earlier one is under way. */
static err submit(struct perplexity *x, uint64_t begin, uint32_t n) {
    uint32_t slot_blocks = plan_context_blocks(x->window);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t window = (begin + i) / (x->window - 1);
        uint32_t at = (uint32_t)((begin + i) % (x->window - 1));
        const int32_t *token = x->tokens.ids + window * x->window + at;
        x->token[i] = token[0];
        x->position[i] = (int32_t)at;
        x->table_begin[i] = (int32_t)(window % x->n_slots * slot_blocks);
        x->outs[i] = (struct step_out){.row = (int32_t)i, .flags = OUT_SCORE, .target = token[1],
                                       .top_p = 1, .position = at + 1};
    }
    struct step s = {.n_rows = n, .n_table = slot_blocks * x->n_slots, .n_outs = n,
                     .token = x->token, .position = x->position, .table_begin = x->table_begin,
                     .table = x->table, .outs = x->outs};
    return engine_submit(x->engine, &s);
}

static err take(struct perplexity *x) {
    struct result r;
    TRY(engine_next(x->engine, &r));
    for (uint32_t i = 0; i < r.n_outs; i++) x->nll -= r.outs[i].score;
    x->n_scored += r.n_outs;
    link_progress_show(&x->progress, "scoring", x->n_scored, x->n_rows, 0);
    return OK;
}

static err run(struct perplexity *x) {
    for (uint64_t begin = 0; begin < x->n_rows; begin += x->rows_max) {
        if (engine_n_pending(x->engine) == engine_depth(x->engine)) TRY(take(x));
        uint64_t left = x->n_rows - begin;
        TRY(submit(x, begin, left < x->rows_max ? (uint32_t)left : x->rows_max));
    }
    while (engine_n_pending(x->engine)) TRY(take(x));
    link_progress_clear(&x->progress);
    return OK;
}

static err report(const struct perplexity *x, double seconds) {
    double nll = x->nll / (double)x->n_scored;
    if (!isfinite(nll)) return err_set(ERR_DEVICE, "the scores are not finite");
    if (x->is_json)
        return report_print_json(json_pack(
            "{s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:s, s:o}", "perplexity", exp(nll), "nll", nll,
            "n_scored", (json_int_t)x->n_scored, "n_windows", (json_int_t)x->n_windows,
            "context", (json_int_t)x->window, "n_tokens", (json_int_t)x->tokens.n, "seconds",
            seconds, "numerics", numerics_text(&x->config), "plan", report_plan(engine_plan(x->engine))));
    printf("perplexity %.4f  (mean negative log-likelihood %.6f; %llu tokens scored in %llu windows of %u)\n",
           exp(nll), nll, (unsigned long long)x->n_scored, (unsigned long long)x->n_windows, x->window);
    return OK;
}

static err perplexity(struct perplexity *x, const char *path) {
    TRY(prepare(x, path));
    struct engine_options o = {
        .config = &x->config, .program = x->model.program, .model = x->model.path,
        .is_reference = x->is_reference, .is_verbose = x->is_verbose, .context = x->window,
        .n_blocks = x->n_slots * plan_context_blocks(x->window), .rows_max = x->rows_max};
    TRY(engine_open(&o, &x->engine));
    int64_t begin_us = clock_us();
    TRY(run(x));
    return report(x, (double)(clock_us() - begin_us) * 1e-6);
}

static void perplexity_end(struct perplexity *x) {
    link_progress_clear(&x->progress);
    engine_close(x->engine);
    free(x->token);
    free(x->position);
    free(x->table_begin);
    free(x->table);
    free(x->outs);
    token_list_free(&x->tokens);
    model_close(&x->model);
}

err cmd_perplexity(int argc, char **argv) {
    struct perplexity x = {0};
    struct option_result words;
    TRY(parse(&x, argc, argv, &words));
    if (words.is_help) return OK;
    err e = perplexity(&x, words.n_words ? words.words[0] : NULL);
    perplexity_end(&x);
    return e;
}
