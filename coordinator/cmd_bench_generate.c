/* caravan bench generate: tokens per second of a model on grids, against what memory gives. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/awake.h"
#include "base/clock.h"
#include "base/median.h"
#include "base/read_bandwidth.h"
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

#define LIST_MAX 16 /* items of a flag */
#define STAGES_MAX 4096
#define SHARDS_MAX 16
#define TOKENS_MAX (1 << 24)
#define REPEAT_MAX 99
#define TIMES_MAX (1 << 20) /* tokens that all streams write */
#define READ_S 0.5

/* A grid and a prompt, or a context that decoding goes on from; tokens per second are medians. */
struct row {
    uint32_t n_stages, n_shards, n_prompt;
    int is_context; /* n_prompt positions in the cache; its prefill is of one run */
    double load_s, prefill, decode;
    double kv_bytes; /* of one position, of all ranks */
    double read;     /* bytes per second */
    double of_read;  /* of what decoding reads per second */
    struct facts *facts;
};

/* Decoding between two readings of memory, which are close, since a shared machine is not as fast all the time. */
struct part {
    double tokens_per_s, read; /* the mean of both */
};

struct bench {
    struct config config;
    const char *grids_text, *prompts_text, *contexts_text;
    uint64_t n_tokens, n_repeats, n_streams;
    int is_json, is_verbose, is_reference;
    uint32_t grids[LIST_MAX][2], prompts[2 * LIST_MAX], n_grids, n_prompts; /* grid: stages, shards */
    uint32_t n_contexts; /* the last of the prompts */
    uint32_t prompt_max, written_max;
    struct model model;
    uint64_t weight_bytes; /* of the file, that a decoded token multiplies */
    int32_t *tokens;       /* [prompt_max + n_streams] stream i reads from i on */
    int64_t *times_us;     /* [n_streams * written_max + 2] of the texts that run */
    struct engine *engine;
    struct link_progress progress;
    struct part parts[REPEAT_MAX]; /* of a row */
    uint32_t n_parts;
    double read;                       /* as last seen */
    uint64_t part_begin, part_end;     /* of the text's tokens since all streams have one */
    int64_t part_us;                   /* when the part began */
    struct row rows[LIST_MAX * 2 * LIST_MAX];
    uint32_t n_rows;
    char device[256]; /* of rank 0 */
};

static const char about[] =
    "Reads a prompt and writes --tokens tokens, --repeat times on each grid of stages and\n"
    "shards, and prints medians, of all --streams together. GB/s are what decoding reads per\n"
    "second: the file's bytes of the weights, once for the streams of a step, and the KV cache of each\n"
    "text; \"of read\" is their share of a plain read of this host's memory by all its cores, taken\n"
    "before and after each repetition; forecasts are the plan's, for these lengths. For --contexts a text\n"
    "of that many tokens is read once (by each stream), and --repeat times --tokens are written after it:\n"
    "decoding at a depth.";

/* ---- the command line ---- */

static err add_grid(void *context, const char *item) {
    struct bench *t = context;
    return config_parse_pair(item, STAGES_MAX, SHARDS_MAX, t->grids[t->n_grids++]);
}

static err add_prompt(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, TOKENS_MAX, &n));
    t->prompts[t->n_prompts++] = (uint32_t)n;
    if (n > t->prompt_max) t->prompt_max = (uint32_t)n;
    return OK;
}

/* Something must be read before anything can be written: 0 stands for one token. */
static err add_context(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 0, TOKENS_MAX, &n));
    uint32_t n_read = n ? (uint32_t)n : 1;
    t->prompts[t->n_prompts++] = n_read;
    t->n_contexts++;
    if (n_read > t->prompt_max) t->prompt_max = n_read;
    return OK;
}

/* What each stream writes at most. */
static err check_written(struct bench *t) {
    uint64_t n = t->n_contexts ? t->n_tokens * t->n_repeats + 1 : t->n_tokens;
    if (n * t->n_streams > TIMES_MAX)
        return err_set(ERR_USAGE, "bench generate: %llu tokens would be written in one go, at most %d",
                       (unsigned long long)(n * t->n_streams), TIMES_MAX);
    t->written_max = (uint32_t)n;
    return OK;
}

static err parse(struct bench *t, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"grids", OPTION_TEXT, &t->grids_text, "1x1,2x1", "stages x shards, each; else --stages, --shards", 0, 0},
        {"prompt-tokens", OPTION_TEXT, &t->prompts_text, "N,...", "lengths of the prompt; default 256", 0, 0},
        {"contexts", OPTION_TEXT, &t->contexts_text, "N,...", "decode with so many positions in the cache", 0, 0},
        {"tokens", OPTION_WHOLE, &t->n_tokens, "N", "tokens to write; default 64", 2, TOKENS_MAX},
        {"repeat", OPTION_WHOLE, &t->n_repeats, "N", "runs of each; default 3", 1, REPEAT_MAX},
        {"streams", OPTION_WHOLE, &t->n_streams, "N", "texts side by side, in a group for each stage; default 1", 1,
         STREAMS_MAX},
        {"json", OPTION_SWITCH, &t->is_json, NULL, "one JSON object on standard output", 0, 0},
        {"reference", OPTION_SWITCH, &t->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"verbose", OPTION_SWITCH, &t->is_verbose, NULL, "what the launcher says", 0, 0},
    };
    const struct option_set set = {"bench generate MODEL [flags]", about, CONFIG_GRID | CONFIG_JOB, own,
                                   sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &t->config, words));
    if (words->is_help) return OK;
    /* Contexts alone, where only they are asked for. */
    if (t->prompts_text || !t->contexts_text)
        TRY(config_parse_list("prompt-tokens", t->prompts_text ? t->prompts_text : "256", LIST_MAX, add_prompt, t));
    if (t->contexts_text) TRY(config_parse_list("contexts", t->contexts_text, LIST_MAX, add_context, t));
    TRY(check_written(t));
    if (t->grids_text) return config_parse_list("grids", t->grids_text, LIST_MAX, add_grid, t);
    t->n_grids = 1; /* as the configuration says */
    return OK;
}

/* ---- one grid ---- */

/* All but what is only looked up; a tied head is a weight of its own. */
static uint64_t weight_bytes(const struct program *p) {
    uint64_t n = 0;
    for (uint32_t i = 0; i < p->n_weights; i++) {
        const struct weight *w = &p->weights[i];
        if (!w->is_table) n += format_bytes(w->tensor->format, (size_t)w->rows * w->cols);
    }
    return n;
}

static err prepare(struct bench *t, const char *path) {
    TRY(model_open("bench generate", path, &t->config, &t->model));
    const struct program *p = t->model.program;
    if (t->prompt_max + t->written_max > p->n_context)
        return err_set(ERR_REQUEST, "%u tokens of prompt and %u written, but the model was made for %u",
                       t->prompt_max, t->written_max, p->n_context);
    t->weight_bytes = weight_bytes(p);
    uint32_t n_tokens = t->prompt_max + (uint32_t)t->n_streams;
    TRY(NEW(t->tokens, n_tokens));
    TRY(NEW(t->times_us, t->n_streams * t->written_max + 2));
    streams_fill(t->tokens, n_tokens, p->n_vocab);
    return OK;
}

static uint32_t rows_max(const struct bench *t) {
    uint64_t n = t->prompt_max > t->n_streams ? t->prompt_max : t->n_streams;
    return (uint32_t)(n < t->config.prefill_chunk ? n : t->config.prefill_chunk);
}

static double tokens_per_s(uint64_t n, int64_t begin_us, int64_t end_us) {
    return (double)n * 1e6 / (double)(end_us - begin_us);
}

/* When the text had its first n tokens since all streams have one. */
static int64_t had_us(const struct bench *t, uint64_t n) { return t->times_us[1 + n]; }

/* Ends the part that runs, if one does, with the text's first n tokens. */
static err part_close(struct bench *t, uint64_t n) {
    double before = t->read;
    TRY(read_bandwidth_measure(0, READ_S, &t->read));
    if (n > t->part_begin && t->n_parts < t->n_repeats)
        t->parts[t->n_parts++] = (struct part){tokens_per_s(n - t->part_begin, t->part_us, had_us(t, n)),
                                               (before + t->read) / 2};
    return OK;
}

/* Memory is read between two parts, but not while a step is under way: with several groups before and after a text. */
static err on_result(void *context, const struct streams_state *s) {
    struct bench *t = context;
    if (s->n_begun < t->n_streams || s->n_since < t->part_end || engine_n_pending(t->engine)) return OK;
    TRY(part_close(t, s->n_since));
    t->part_begin = s->n_since;
    t->part_end = s->n_since + t->n_tokens * t->n_streams;
    t->part_us = clock_us();
    return OK;
}

/* Texts of all streams, from the first row of the prompt to the last token. */
static err text_run(struct bench *t, uint32_t n_prompt, uint32_t n_tokens) {
    struct streams s = {
        .engine = t->engine, .n = (uint32_t)t->n_streams, .n_prompt = n_prompt, .n_tokens = n_tokens,
        .rows_max = rows_max(t), .n_vocab = t->model.program->n_vocab, .tokens = t->tokens, .times_us = t->times_us,
        .on_result = on_result, .context = t};
    t->part_begin = t->part_end = 0;
    t->part_us = 0;
    TRY(streams_run(&s));
    if (!t->part_us) t->part_us = had_us(t, 0);
    return part_close(t, s.state.n_since);
}

/* Of a token. Streams form a group per stage; the weights are read once for each group, the KV cache for each text. */
static double decode_bytes(const struct bench *t, const struct row *r) {
    double n_streams = (double)t->n_streams, n_groups = r->n_stages < t->n_streams ? r->n_stages : n_streams;
    double n_written = (double)(r->is_context ? t->n_tokens * t->n_repeats : t->n_tokens);
    return (double)t->weight_bytes * n_groups / n_streams + r->kv_bytes * ((double)r->n_prompt + n_written / 2);
}

/* Medians of the parts. */
static void row_decode(const struct bench *t, struct row *r) {
    double decode[REPEAT_MAX], read[REPEAT_MAX], of_read[REPEAT_MAX];
    for (uint32_t i = 0; i < t->n_parts; i++) {
        decode[i] = t->parts[i].tokens_per_s;
        read[i] = t->parts[i].read;
        of_read[i] = decode[i] * decode_bytes(t, r) / read[i];
    }
    r->decode = median_of(decode, t->n_parts);
    r->read = median_of(read, t->n_parts);
    r->of_read = median_of(of_read, t->n_parts);
}

/* A text for each repetition, or one for all of them, in as many parts, where decoding goes on from a context. */
static err prompt_run(struct bench *t, uint32_t p, struct row *row) {
    double prefill[REPEAT_MAX];
    uint64_t n = t->n_repeats, n_texts = row->is_context ? 1 : n;
    t->n_parts = 0;
    for (uint64_t i = 0; i < n_texts; i++) {
        link_progress_show(&t->progress, "measuring", p * n + i, t->n_prompts * n, 0);
        TRY(text_run(t, t->prompts[p], (uint32_t)(row->is_context ? n * t->n_tokens + 1 : t->n_tokens)));
        prefill[i] = tokens_per_s(t->prompts[p] * t->n_streams, t->times_us[0], had_us(t, 0));
    }
    row->prefill = median_of(prefill, n_texts);
    row_decode(t, row);
    return OK;
}

/* Of the steps since `before` [n_ranks]. */
static err row_facts(struct bench *t, const struct engine_rank *before, struct row *row) {
    const struct plan *plan = engine_plan(t->engine);
    const struct engine_rank *now;
    struct engine_rank *ranks;
    TRY(engine_stats(t->engine, &now));
    TRY(NEW(ranks, plan->n_ranks));
    for (uint32_t i = 0; i < plan->n_ranks; i++) window_difference(&before[i], &now[i], &ranks[i]);
    const struct facts_request r = {
        .program = t->model.program, .cluster = engine_cluster(t->engine), .plan = plan, .ranks = ranks,
        .n_texts = (uint32_t)t->n_streams, .n_prompt = row->n_prompt,
        .n_written = (uint32_t)(row->is_context ? t->n_tokens * t->n_repeats : t->n_tokens),
        .decode_per_s = t->n_streams == 1 ? row->decode : 0, .prefill_per_s = row->prefill, .load_s = row->load_s};
    err e = facts_create(&r, &row->facts);
    free(ranks);
    return e;
}

static err row_run(struct bench *t, uint32_t p, struct engine_rank *before, struct row *row) {
    const struct engine_rank *ranks;
    TRY(engine_stats(t->engine, &ranks));
    memcpy(before, ranks, engine_plan(t->engine)->n_ranks * sizeof *ranks);
    TRY(prompt_run(t, p, row));
    return row_facts(t, before, row);
}

static err prompts_run(struct bench *t, struct row *rows) {
    struct engine_rank *before;
    uint32_t n_first = t->prompts[0] < rows_max(t) ? t->prompts[0] : rows_max(t);
    TRY(text_run(t, n_first, 2)); /* drivers finish building kernels */
    TRY(NEW(before, engine_plan(t->engine)->n_ranks));
    err e = OK;
    for (uint32_t p = 0; p < t->n_prompts && e == OK; p++) e = row_run(t, p, before, &rows[p]);
    free(before);
    return e;
}

static err job_run(struct bench *t, struct row *rows) {
    struct engine_options o = {
        .config = &t->config, .program = t->model.program, .model = t->model.path,
        .is_reference = t->is_reference, .is_verbose = t->is_verbose,
        .context = t->prompt_max + t->written_max,
        .n_blocks = (uint32_t)t->n_streams * plan_context_blocks(t->prompt_max + t->written_max),
        .rows_max = rows_max(t)};
    const struct engine_rank *ranks;
    TRY(engine_open(&o, &t->engine));
    const struct plan *plan = engine_plan(t->engine);
    double kv_bytes = 0;
    for (uint32_t i = 0; i < plan->n_ranks; i++)
        kv_bytes += (double)plan->cells[i].kv_bytes / ((double)plan->n_blocks * KV_BLOCK_TOKENS);
    for (uint32_t p = 0; p < t->n_prompts; p++)
        rows[p] = (struct row){.n_stages = plan->n_stages, .n_shards = plan->n_shards, .n_prompt = t->prompts[p],
                               .is_context = p + t->n_contexts >= t->n_prompts, .kv_bytes = kv_bytes,
                               .load_s = engine_load_s(t->engine)};
    err e = prompts_run(t, rows);
    link_progress_clear(&t->progress);
    TRY(e);
    TRY(engine_stats(t->engine, &ranks));
    snprintf(t->device, sizeof t->device, "%s", ranks[0].device);
    return OK;
}

static err grid_run(struct bench *t, const uint32_t *grid) {
    struct row *rows = t->rows + t->n_rows;
    if (grid[0]) {
        t->config.stages = grid[0];
        t->config.shards = grid[1];
        t->config.ranks = 0;
    }
    err e = job_run(t, rows);
    engine_close(t->engine);
    t->engine = NULL;
    TRY(e);
    t->n_rows += t->n_prompts;
    return OK;
}

/* ---- the report ---- */

static void forecast_text(double x, char out[16]) {
    if (x > 0) snprintf(out, 16, "%.1f", x);
    else snprintf(out, 16, "-");
}

static void print_text(const struct bench *t, const char *commit) {
    char bytes[16];
    plan_bytes_text(t->weight_bytes, bytes);
    printf("%s: %s of weights per token; %llu tokens written by each of %llu streams, medians of %llu; %s, "
           "commit %s%s\n\n", t->model.path, bytes, (unsigned long long)t->n_tokens, (unsigned long long)t->n_streams,
           (unsigned long long)t->n_repeats, t->device, commit, awake_text());
    printf("%-7s %8s %8s %14s %9s %13s %9s %9s %10s %9s %10s\n", "grid", "prompt", "load s", "prefill tok/s",
           "forecast", "decode tok/s", "forecast", "GB/s", "read GB/s", "of read", "of 1st");
    for (uint32_t i = 0; i < t->n_rows; i++) {
        const struct row *r = &t->rows[i];
        char grid[32], prompt[16], prefill[16], decode[16];
        double rate = r->decode * decode_bytes(t, r), first = t->rows[i % t->n_prompts].decode;
        snprintf(grid, sizeof grid, "%ux%u", r->n_stages, r->n_shards);
        snprintf(prompt, sizeof prompt, "%s%u", r->is_context ? "at " : "", r->n_prompt);
        forecast_text(r->facts->prefill_per_s.forecast, prefill);
        forecast_text(r->facts->decode_per_s.forecast, decode);
        printf("%-7s %8s %8.2f %14.1f %9s %13.1f %9s %9.2f %10.2f %8.1f%% %9.1f%%\n", grid, prompt, r->load_s,
               r->prefill, prefill, r->decode, decode, rate * 1e-9, r->read * 1e-9, 100 * r->of_read,
               100 * r->decode / first);
    }
}

static err print_json(const struct bench *t, const char *commit) {
    json_t *rows = json_array();
    for (uint32_t i = 0; i < t->n_rows; i++) {
        const struct row *r = &t->rows[i];
        double rate = r->decode * decode_bytes(t, r);
        json_array_append_new(rows, json_pack(
            "{s:I, s:I, s:I, s:b, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o}", "stages", (json_int_t)r->n_stages, "shards",
            (json_int_t)r->n_shards, "prompt_tokens", (json_int_t)r->n_prompt, "is_context", r->is_context,
            "load_s", r->load_s,
            "prefill_tokens_per_s", r->prefill, "decode_tokens_per_s", r->decode, "decode_gb_per_s", rate * 1e-9,
            "read_gb_per_s", r->read * 1e-9, "of_read", r->of_read, "of_first_grid",
            r->decode / t->rows[i % t->n_prompts].decode, "facts", facts_json(r->facts)));
    }
    return report_print_json(json_pack(
        "{s:s, s:I, s:s, s:s, s:b, s:s, s:I, s:I, s:I, s:o}", "model", t->model.path, "weight_bytes",
        (json_int_t)t->weight_bytes, "device", t->device, "commit", commit, "awake", awake_is_on(),
        "numerics", numerics_text(&t->config), "tokens", (json_int_t)t->n_tokens, "repeat", (json_int_t)t->n_repeats,
        "streams", (json_int_t)t->n_streams, "rows", rows));
}

static err bench(struct bench *t, const char *path, const char *commit) {
    TRY(prepare(t, path));
    for (uint32_t g = 0; g < t->n_grids; g++) TRY(grid_run(t, t->grids[g]));
    if (t->is_json) return print_json(t, commit);
    print_text(t, commit);
    return OK;
}

err cmd_bench_generate(int argc, char **argv, const char *commit) {
    struct bench *t;
    struct option_result words;
    TRY(NEW(t, 1));
    static char name[] = "bench generate";
    argv[0] = name; /* for messages */
    t->n_tokens = 64;
    t->n_repeats = 3;
    t->n_streams = 1;
    err e = parse(t, argc, argv, &words);
    if (e == OK && !words.is_help) e = bench(t, words.n_words ? words.words[0] : NULL, commit);
    for (uint32_t i = 0; i < sizeof t->rows / sizeof *t->rows; i++) facts_free(t->rows[i].facts);
    model_close(&t->model);
    free(t->tokens);
    free(t->times_us);
    free(t);
    return e;
}
