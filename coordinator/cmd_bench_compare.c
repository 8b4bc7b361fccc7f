/* caravan bench compare: this program and peers on the same file, in turn, as ratios. */
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/awake.h"
#include "base/median.h"
#include "base/read_bandwidth.h"
#include "coordinator/args.h"
#include "coordinator/child.h"
#include "coordinator/commands.h"
#include "coordinator/options.h"
#include "coordinator/peer.h"
#include "coordinator/report.h"

#define LIST_MAX 8 /* lengths of the prompt */
#define REPEAT_MAX 99
#define TOKENS_MAX (1 << 20)
#define READ_S 0.3
#define PATH_BYTES 1024

enum { OURS, LLAMA_BENCH, DLLAMA, N_ENGINES };
static const char *const names[N_ENGINES] = {"caravan", "llama-bench", "dllama"};

struct engine_runs {
    char path[PATH_BYTES], version[160];
    const char *more_args; /* parted by spaces */
    int is_used;
    uint32_t n_runs[LIST_MAX];
    struct peer_speed runs[LIST_MAX][REPEAT_MAX];
    uint32_t n_read[LIST_MAX]; /* tokens of the prompt, where the engine counts them itself */
};

struct compare {
    struct config config;
    const char *peers[N_ENGINES], *args[N_ENGINES]; /* of flags */
    const char *dllama_model, *dllama_tokenizer, *dllama_workers, *prompts_text;
    uint64_t n_tokens, n_repeats, run_deadline_s;
    int is_json;
    uint32_t prompts[LIST_MAX], n_prompts;
    const char *model, *commit;
    struct engine_runs engines[N_ENGINES];
    char device[256];
    double reads[LIST_MAX * REPEAT_MAX * N_ENGINES]; /* bytes per second, one before each run */
    uint32_t n_reads;
};

static const char about[] =
    "Runs this program and its peers on the same model, one after the other, --repeat times, and prints\n"
    "medians of tokens per second and ratios. Peers are llama-bench (of llama.cpp or its kin; with run-time\n"
    "repacking where it has that) and dllama, which needs the model in its own format. One that is missing, fails or\n"
    "hangs is left out with a line that says why. Ours writes its tokens after the prompt, llama-bench\n"
    "after none. The plain read of memory is measured before each run.";

/* ---- the command line ---- */

static err add_prompt(void *context, const char *item) {
    struct compare *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, TOKENS_MAX, &n));
    t->prompts[t->n_prompts++] = (uint32_t)n;
    return OK;
}

static err parse(struct compare *t, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"llama-bench", OPTION_TEXT, &t->peers[LLAMA_BENCH], "PATH", "else the one on the PATH", 0, 0},
        {"llama-bench-args", OPTION_TEXT, &t->args[LLAMA_BENCH], "TEXT", "more; -rtr 1 where known", 0, 0},
        {"dllama", OPTION_TEXT, &t->peers[DLLAMA], "PATH", "else the one on the PATH", 0, 0},
        {"dllama-model", OPTION_TEXT, &t->dllama_model, "FILE", "the same model for dllama", 0, 0},
        {"dllama-tokenizer", OPTION_TEXT, &t->dllama_tokenizer, "FILE", "and its tokenizer", 0, 0},
        {"dllama-workers", OPTION_TEXT, &t->dllama_workers, "HOST:PORT,...", "its workers, which run already", 0, 0},
        {"dllama-args", OPTION_TEXT, &t->args[DLLAMA], "TEXT", "more; default --buffer-float-type q80", 0, 0},
        {"prompt-tokens", OPTION_TEXT, &t->prompts_text, "N,...", "lengths of the prompt; default 256", 0, 0},
        {"tokens", OPTION_WHOLE, &t->n_tokens, "N", "tokens to write; default 64", 2, TOKENS_MAX},
        {"repeat", OPTION_WHOLE, &t->n_repeats, "N", "runs of each; default 3", 1, REPEAT_MAX},
        {"run-deadline-s", OPTION_WHOLE, &t->run_deadline_s, "s", "most of one run; default 600", 1, 86400},
        {"json", OPTION_SWITCH, &t->is_json, NULL, "one JSON object on standard output", 0, 0},
    };
    const struct option_set set = {"bench compare MODEL [flags]", about, CONFIG_GRID | CONFIG_JOB, own,
                                   sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &t->config, words));
    if (words->is_help) return OK;
    t->model = words->n_words ? words->words[0] : t->config.model;
    if (!*t->model) return err_set(ERR_USAGE, "bench compare: no model; usage: caravan %s", set.usage);
    return config_parse_list("prompt-tokens", t->prompts_text, LIST_MAX, add_prompt, t);
}

/* ---- arguments of children ---- */

/* Our own keys go on as they were given. */
static err args_add_config(struct args *a, const struct config *c) {
    for (int id = 0; id < N_CONFIG_KEYS; id++) {
        const struct config_key *key = &config_keys[id];
        const char *field = (const char *)c + key->offset;
        char name[64];
        if (!c->is_set[id] || !(key->groups & (CONFIG_GRID | CONFIG_JOB))) continue;
        snprintf(name, sizeof name, "%s", key->name);
        for (char *at = name; *at; at++)
            if (*at == '_') *at = '-';
        switch (key->kind) {
        case CONFIG_KIND_WHOLE: TRY(args_add(a, "--%s=%llu", name, *(const unsigned long long *)field)); break;
        case CONFIG_KIND_REAL: TRY(args_add(a, "--%s=%.17g", name, *(const double *)field)); break;
        case CONFIG_KIND_TEXT: TRY(args_add(a, "--%s=%s", name, field)); break;
        }
    }
    return OK;
}

/* Of all our ranks together: the share of the host that a peer gets, too. */
static uint32_t threads_of_all(const struct compare *t) {
    const struct config *c = &t->config;
    uint64_t grid = (c->stages ? c->stages : 1) * (c->shards ? c->shards : 1), n_ranks = c->ranks ? c->ranks : grid;
    cpu_set_t cores;
    if (c->threads) return (uint32_t)(c->threads * n_ranks);
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? (uint32_t)CPU_COUNT(&cores) : 1;
}

static err ours_args(const struct compare *t, uint32_t n_prompt, struct args *a) {
    TRY(args_add(a, "%s", t->engines[OURS].path));
    TRY(args_add_words(a, "bench generate --json --repeat 1", " "));
    TRY(args_add(a, "--prompt-tokens=%u", n_prompt));
    TRY(args_add(a, "--tokens=%llu", (unsigned long long)t->n_tokens));
    TRY(args_add_config(a, &t->config));
    TRY(args_add(a, "--"));
    return args_add(a, "%s", t->model);
}

static err llama_bench_args(const struct compare *t, uint32_t n_prompt, struct args *a) {
    TRY(args_add(a, "%s", t->engines[LLAMA_BENCH].path));
    TRY(args_add(a, "-m"));
    TRY(args_add(a, "%s", t->model));
    char numbers[128];
    snprintf(numbers, sizeof numbers, "-p %u -n %llu -t %u -r 1 -o json", n_prompt, (unsigned long long)t->n_tokens,
             threads_of_all(t));
    TRY(args_add_words(a, numbers, " "));
    return args_add_words(a, t->engines[LLAMA_BENCH].more_args, " ");
}

static uint32_t count_words(const char *list) {
    uint32_t n = *list != 0;
    for (; *list; list++) n += *list == ',';
    return n;
}

/* A prompt of single letters: about a token each, and dllama counts them. Its steps are prompt and answer. */
static err dllama_args(const struct compare *t, uint32_t n_prompt, struct args *a) {
    struct bytes prompt = {0};
    uint32_t threads = threads_of_all(t) / (1 + count_words(t->dllama_workers));
    TRY(args_add(a, "%s", t->engines[DLLAMA].path));
    TRY(args_add_words(a, "inference --temperature 0 --prompt", " "));
    err e = OK;
    for (uint32_t i = 0; i < n_prompt && e == OK; i++) e = bytes_append_str(&prompt, i ? " a" : "a");
    if (e == OK) e = args_add(a, "%s", prompt.data ? (const char *)prompt.data : "");
    bytes_free(&prompt);
    TRY(e);
    TRY(args_add(a, "--steps"));
    TRY(args_add(a, "%llu", n_prompt + (unsigned long long)t->n_tokens));
    TRY(args_add(a, "--model"));
    TRY(args_add(a, "%s", t->dllama_model));
    TRY(args_add(a, "--tokenizer"));
    TRY(args_add(a, "%s", t->dllama_tokenizer));
    TRY(args_add(a, "--nthreads"));
    TRY(args_add(a, "%u", threads ? threads : 1));
    TRY(args_add_words(a, t->engines[DLLAMA].more_args, " "));
    if (!*t->dllama_workers) return OK;
    TRY(args_add(a, "--workers"));
    return args_add_words(a, t->dllama_workers, ",");
}

/* ---- who takes part ---- */

static void leave_out(struct engine_runs *e, const char *name, const char *why) {
    fprintf(stderr, "%s is left out: %s\n", name, why);
    e->is_used = 0;
}

/* ik_llama.cpp packs weights for its fast kernels as it loads, where it is asked to. */
static void ask_repacking(struct compare *t, struct engine_runs *e) {
    struct child_output help;
    const char *const argv[] = {e->path, "--help", NULL};
    if (child_run(argv, (double)t->run_deadline_s, SIGKILL, &help) != OK) return; /* the run will say why */
    if (help.out.data && strstr((const char *)help.out.data, "-rtr")) e->more_args = "-rtr 1";
    child_output_free(&help);
}

static err peers_find(struct compare *t) {
    ssize_t n = readlink("/proc/self/exe", t->engines[OURS].path, PATH_BYTES - 1);
    if (n < 0) return err_set(ERR_INTERNAL, "/proc/self/exe cannot be read");
    t->engines[OURS].path[n] = 0;
    t->engines[OURS].is_used = 1;
    for (int i = LLAMA_BENCH; i < N_ENGINES; i++) {
        struct engine_runs *e = &t->engines[i];
        int is_found = child_find(t->peers[i] ? t->peers[i] : names[i], e->path, sizeof e->path);
        e->is_used = 1;
        e->more_args = t->args[i] ? t->args[i] : i == DLLAMA ? "--buffer-float-type q80" : "";
        if (!is_found && t->peers[i]) leave_out(e, names[i], "there is no such program; look at its option");
        else if (!is_found) leave_out(e, names[i], "it is not on the PATH, and no option names it");
        else if (i == DLLAMA && (!t->dllama_model || !t->dllama_tokenizer))
            leave_out(e, names[i], "it needs --dllama-model and --dllama-tokenizer");
        else if (i == LLAMA_BENCH && !t->args[i])
            ask_repacking(t, e);
    }
    return OK;
}

/* ---- runs ---- */

static err result_take(struct compare *t, int engine, uint32_t prompt, const char *out) {
    struct engine_runs *e = &t->engines[engine];
    struct peer_speed *speed = &e->runs[prompt][e->n_runs[prompt]];
    uint32_t n_prompt = t->prompts[prompt], n_tokens = (uint32_t)t->n_tokens;
    e->n_read[prompt] = n_prompt;
    if (engine == OURS) TRY(peer_parse_caravan(out, speed, t->device, sizeof t->device));
    if (engine == LLAMA_BENCH)
        TRY(peer_parse_llama_bench(out, n_prompt, n_tokens, speed, e->version, sizeof e->version));
    if (engine == DLLAMA) TRY(peer_parse_dllama(out, speed, &e->n_read[prompt]));
    e->n_runs[prompt]++;
    return OK;
}

static err engine_run(struct compare *t, int engine, uint32_t prompt) {
    static err (*const make[N_ENGINES])(const struct compare *, uint32_t, struct args *) = {
        [OURS] = ours_args, [LLAMA_BENCH] = llama_bench_args, [DLLAMA] = dllama_args};
    struct args args = {.what = "bench compare", .full = ERR_USAGE};
    struct child_output out = {.out = {0}};
    err e = make[engine](t, t->prompts[prompt], &args);
    /* Ours ends its own ranks; a peer that this process leaves behind is ended hard. */
    int end_signal = engine == OURS ? SIGTERM : SIGKILL;
    if (e == OK) e = child_run((const char *const *)args_list(&args), (double)t->run_deadline_s, end_signal, &out);
    if (e == OK) e = result_take(t, engine, prompt, out.out.data ? (const char *)out.out.data : "");
    child_output_free(&out);
    args_free(&args);
    return e;
}

static int is_interruption(err e) { return e == ERR_JOB && strncmp(err_text(), "interrupted", 11) == 0; }

static err turn_run(struct compare *t, uint32_t prompt, uint32_t turn) {
    for (int i = 0; i < N_ENGINES; i++) {
        struct engine_runs *engine = &t->engines[i];
        if (!engine->is_used) continue;
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\r\033[Kprompt of %u, turn %u of %u: %s", t->prompts[prompt], turn + 1,
                    (unsigned)t->n_repeats, names[i]);
        TRY(read_bandwidth_measure(0, READ_S, &t->reads[t->n_reads]));
        t->n_reads++;
        err e = engine_run(t, i, prompt);
        if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
        if (e != OK && (i == OURS || is_interruption(e))) return err_context(e, "%s", names[i]);
        if (e != OK) leave_out(engine, names[i], err_text());
    }
    return OK;
}

/* ---- the report ---- */

struct summary {
    double median, least, most; /* 0 where there is no run */
};

static struct summary summary_of(double *values, uint32_t n) {
    if (n == 0) return (struct summary){0};
    double median = median_of(values, n);
    return (struct summary){median, values[0], values[n - 1]};
}

static struct summary speed_of(const struct engine_runs *e, uint32_t prompt, int is_decode) {
    double values[REPEAT_MAX];
    for (uint32_t i = 0; i < e->n_runs[prompt]; i++)
        values[i] = is_decode ? e->runs[prompt][i].decode : e->runs[prompt][i].prefill;
    return summary_of(values, e->n_runs[prompt]);
}

static void grid_text(const struct compare *t, char out[64]) {
    const struct config *c = &t->config;
    snprintf(out, 64, "%llux%llu, %u threads", (unsigned long long)(c->stages ? c->stages : 1),
             (unsigned long long)(c->shards ? c->shards : 1), threads_of_all(t));
}

static void print_speed(const struct summary *s, const struct summary *ours) {
    char cell[64], ratio[16] = "";
    snprintf(cell, sizeof cell, "%.1f (%.1f-%.1f)", s->median, s->least, s->most);
    if (ours) snprintf(ratio, sizeof ratio, "%.2f", ours->median / s->median);
    printf(" %26s %10s", cell, ratio);
}

static void print_text(struct compare *t) {
    char grid[64];
    struct summary read = summary_of(t->reads, t->n_reads);
    grid_text(t, grid);
    printf("%s on %s, grid %s, commit %s%s; %u tokens written, medians of %u runs in turn (least-most)\n", t->model,
           t->device, grid, t->commit, awake_text(), (unsigned)t->n_tokens, (unsigned)t->n_repeats);
    printf("plain read of memory %.2f GB/s (%.2f-%.2f)\n", read.median * 1e-9, read.least * 1e-9, read.most * 1e-9);
    for (int i = LLAMA_BENCH; i < N_ENGINES; i++)
        if (t->engines[i].n_runs[0])
            printf("%s: %s %s %s\n", names[i], t->engines[i].path, t->engines[i].version, t->engines[i].more_args);
    printf("\n%-12s %6s %26s %10s %26s %10s\n", "engine", "prompt", "prefill tok/s", "ours/peer", "decode tok/s",
           "ours/peer");
    for (uint32_t p = 0; p < t->n_prompts; p++) {
        struct summary ours[2] = {speed_of(&t->engines[OURS], p, 0), speed_of(&t->engines[OURS], p, 1)};
        for (int i = 0; i < N_ENGINES; i++) {
            if (!t->engines[i].n_runs[p]) continue;
            printf("%-12s %6u", names[i], t->engines[i].n_read[p]);
            for (int is_decode = 0; is_decode < 2; is_decode++) {
                struct summary s = speed_of(&t->engines[i], p, is_decode);
                print_speed(&s, i == OURS ? NULL : &ours[is_decode]);
            }
            putchar('\n');
        }
    }
}

static json_t *runs_json(const struct engine_runs *e, uint32_t prompt, int is_decode) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < e->n_runs[prompt]; i++)
        json_array_append_new(list, json_real(is_decode ? e->runs[prompt][i].decode : e->runs[prompt][i].prefill));
    return list;
}

static json_t *row_json(const struct compare *t, int engine, uint32_t prompt) {
    const struct engine_runs *e = &t->engines[engine], *ours = &t->engines[OURS];
    struct summary prefill = speed_of(e, prompt, 0), decode = speed_of(e, prompt, 1);
    return json_pack("{s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:o, s:o}", "engine", names[engine], "prompt_tokens",
                     (json_int_t)t->prompts[prompt], "tokens_read", (json_int_t)e->n_read[prompt],
                     "prefill_tokens_per_s", prefill.median, "decode_tokens_per_s", decode.median, "ours_to_prefill",
                     speed_of(ours, prompt, 0).median / prefill.median, "ours_to_decode",
                     speed_of(ours, prompt, 1).median / decode.median, "prefill_runs", runs_json(e, prompt, 0),
                     "decode_runs", runs_json(e, prompt, 1));
}

static err print_json(struct compare *t) {
    json_t *rows = json_array(), *peers = json_array();
    char grid[64];
    struct summary read = summary_of(t->reads, t->n_reads);
    grid_text(t, grid);
    for (int i = LLAMA_BENCH; i < N_ENGINES; i++)
        if (t->engines[i].n_runs[0])
            json_array_append_new(peers, json_pack("{s:s, s:s, s:s, s:s}", "name", names[i], "path", t->engines[i].path,
                                                   "version", t->engines[i].version, "args", t->engines[i].more_args));
    for (uint32_t p = 0; p < t->n_prompts; p++)
        for (int i = 0; i < N_ENGINES; i++)
            if (t->engines[i].n_runs[p]) json_array_append_new(rows, row_json(t, i, p));
    return report_print_json(json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:f, s:o, s:o}", "model", t->model, "device", t->device, "grid", grid,
        "commit", t->commit, "awake", awake_is_on(), "tokens", (json_int_t)t->n_tokens, "repeat",
        (json_int_t)t->n_repeats, "read_gb_per_s", read.median * 1e-9, "peers", peers, "rows", rows));
}

static err compare(struct compare *t) {
    TRY(peers_find(t));
    for (uint32_t p = 0; p < t->n_prompts; p++)
        for (uint32_t i = 0; i < t->n_repeats; i++) TRY(turn_run(t, p, i));
    if (t->is_json) return print_json(t);
    print_text(t);
    return OK;
}

err cmd_bench_compare(int argc, char **argv, const char *commit) {
    struct compare *t;
    struct option_result words;
    TRY(NEW(t, 1));
    static char name[] = "bench compare";
    argv[0] = name; /* for messages */
    t->commit = commit;
    t->prompts_text = "256";
    t->dllama_workers = "";
    t->n_tokens = 64;
    t->n_repeats = 3;
    t->run_deadline_s = 600;
    err e = parse(t, argc, argv, &words);
    if (e == OK && !words.is_help) e = compare(t);
    free(t);
    return e;
}
