/* caravan logits: the raw logits of every position, as a file of float32. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/model.h"
#include "coordinator/numerics.h"
#include "coordinator/options.h"
#include "coordinator/report.h"
#include "model/limits.h"

#define RESULT_BYTES_MAX (8u << 20) /* of one step: small frames keep memory small */

struct logits {
    struct config config;
    const char *tokens_text, *out_path;
    int is_reference, is_verbose, is_json;
    struct model model;
    struct token_list tokens;
    uint32_t rows_max;
    struct engine *engine;
    FILE *out;
    char part_path[CONFIG_TEXT_BYTES + 32];
    /* One step. */
    int32_t *position, *zero, *table;
    struct step_out *outs;
};

static err parse(struct logits *l, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"tokens", OPTION_TEXT, &l->tokens_text, "1,2,3", "token ids; nothing is added", 0, 0},
        {"out", OPTION_TEXT, &l->out_path, "FILE", "gets float32 [n_tokens, n_vocab], row after row", 0, 0},
        {"reference", OPTION_SWITCH, &l->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"json", OPTION_SWITCH, &l->is_json, NULL, "shape and plan as JSON on standard output", 0, 0},
        {"verbose", OPTION_SWITCH, &l->is_verbose, NULL, "what the launcher says", 0, 0},
    };
    const struct option_set set = {
        "logits MODEL --tokens 1,2,3 --out FILE [flags]",
        "Writes the logits that the model gives after each of the tokens: float32, little\n"
        "endian, [n_tokens, n_vocab]. The file appears whole or not at all.",
        CONFIG_GRID | CONFIG_JOB, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &l->config, words));
    if (words->is_help) return OK;
    if (!l->tokens_text) return err_set(ERR_USAGE, "logits: --tokens is missing");
    if (!l->out_path) return err_set(ERR_USAGE, "logits: --out is missing");
    return OK;
}

static err prepare(struct logits *l, const char *path, uint32_t *context) {
    TRY(model_open("logits", path, &l->config, &l->model));
    TRY(model_parse_tokens(&l->model, l->tokens_text, &l->tokens));
    TRY(model_context(&l->model, &l->config, context));
    if (l->tokens.n > *context)
        return err_set(ERR_REQUEST, "%zu tokens, but the context is %u%s", l->tokens.n, *context,
                       *context < l->model.program->n_context ? "; --context may be longer" : "");
    if (!l->config.context) *context = (uint32_t)l->tokens.n;
    uint64_t fit = RESULT_BYTES_MAX / (4 * (uint64_t)l->model.program->n_vocab) + 1;
    l->rows_max = (uint32_t)l->config.prefill_chunk;
    if (l->rows_max > STEP_OUTS_MAX) l->rows_max = STEP_OUTS_MAX;
    if (l->rows_max > fit) l->rows_max = (uint32_t)fit;
    if (l->rows_max > l->tokens.n) l->rows_max = (uint32_t)l->tokens.n;
    uint32_t n_blocks = plan_context_blocks(*context);
    TRY(NEW(l->position, l->rows_max));
    TRY(NEW(l->zero, l->rows_max));
    TRY(NEW(l->outs, l->rows_max));
    TRY(NEW(l->table, n_blocks));
    for (uint32_t b = 0; b < n_blocks; b++) l->table[b] = (int32_t)b;
    return OK;
}

static err open_out(struct logits *l) {
    int n = snprintf(l->part_path, sizeof l->part_path, "%s.part-%ld", l->out_path, (long)getpid());
    if (n < 0 || (size_t)n >= sizeof l->part_path)
        return err_set(ERR_USAGE, "logits: --out is too long");
    l->out = fopen(l->part_path, "wbe");
    if (!l->out) return err_set(ERR_FILE, "cannot write %s: %s", l->part_path, strerror(errno));
    return OK;
}

static err submit(struct logits *l, uint32_t begin, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        l->position[i] = (int32_t)(begin + i);
        l->outs[i] = (struct step_out){.row = (int32_t)i, .flags = OUT_LOGITS, .top_p = 1,
                                       .position = begin + i + 1};
    }
    struct step s = {.n_rows = n, .n_table = plan_context_blocks(begin + n),
                     .n_outs = n, .token = l->tokens.ids + begin, .position = l->position,
                     .table_begin = l->zero, .table = l->table, .outs = l->outs};
    return engine_submit(l->engine, &s);
}

static err take(struct logits *l) {
    struct result r;
    TRY(engine_next(l->engine, &r));
    if (r.n_vocab != l->model.program->n_vocab || r.n_logit_rows != r.n_outs)
        return err_set(ERR_INTERNAL, "%u rows of %u logits came", r.n_logit_rows, r.n_vocab);
    size_t n = (size_t)r.n_logit_rows * r.n_vocab;
    if (fwrite(r.logits, sizeof(float), n, l->out) != n)
        return err_set(ERR_FILE, "cannot write %s: %s", l->part_path, strerror(errno));
    return OK;
}

static err run(struct logits *l) {
    uint32_t n = (uint32_t)l->tokens.n;
    for (uint32_t begin = 0; begin < n; begin += l->rows_max) {
        if (engine_n_pending(l->engine) == engine_depth(l->engine)) TRY(take(l));
        TRY(submit(l, begin, n - begin < l->rows_max ? n - begin : l->rows_max));
    }
    while (engine_n_pending(l->engine)) TRY(take(l));
    int is_bad = fclose(l->out) != 0;
    l->out = NULL;
    if (is_bad || rename(l->part_path, l->out_path) != 0)
        return err_set(ERR_FILE, "cannot write %s: %s", l->out_path, strerror(errno));
    *l->part_path = 0;
    return OK;
}

static err logits(struct logits *l, const char *path) {
    uint32_t context;
    TRY(prepare(l, path, &context));
    TRY(open_out(l));
    struct engine_options o = {
        .config = &l->config, .program = l->model.program, .model = l->model.path,
        .is_reference = l->is_reference, .is_verbose = l->is_verbose, .context = context,
        .rows_max = l->rows_max};
    TRY(engine_open(&o, &l->engine));
    TRY(run(l));
    if (!l->is_json) return OK;
    return report_print_json(json_pack("{s:I, s:I, s:s, s:s, s:o}", "n_tokens", (json_int_t)l->tokens.n,
                                       "n_vocab", (json_int_t)l->model.program->n_vocab, "out",
                                       l->out_path, "numerics", numerics_text(&l->config), "plan",
                                       report_plan(engine_plan(l->engine))));
}

static void logits_end(struct logits *l) {
    engine_close(l->engine);
    if (l->out) fclose(l->out);
    if (*l->part_path) unlink(l->part_path);
    free(l->position);
    free(l->zero);
    free(l->table);
    free(l->outs);
    token_list_free(&l->tokens);
    model_close(&l->model);
}

err cmd_logits(int argc, char **argv) {
    struct logits l = {0};
    struct option_result words;
    TRY(parse(&l, argc, argv, &words));
    if (words.is_help) return OK;
    err e = logits(&l, words.n_words ? words.words[0] : NULL);
    logits_end(&l);
    return e;
}
