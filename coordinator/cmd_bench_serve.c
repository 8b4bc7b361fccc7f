/* caravan bench serve: load over HTTP on a server that speaks OpenAI's API, and what its clients see. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/awake.h"
#include "coordinator/client.h"
#include "coordinator/commands.h"
#include "coordinator/load.h"
#include "coordinator/load_plot.h"
#include "coordinator/load_report.h"
#include "coordinator/load_watch.h"
#include "coordinator/options.h"
#include "coordinator/report.h"

#define RUNS_MAX 16
#define CLIENTS_MAX 4096
#define TOKENS_MAX (1 << 24)
#define REQUESTS_MAX (1 << 22)
#define RATE_MAX 1e6
#define DURATION_MAX_S 604800
#define DURATION_S 30
#define ASK_S 10 /* for the server's models */
#define PROGRESS_S 0.2
#define SOAK_S 180      /* shorter runs say nothing of memory: caches still fill */
#define GROWTH_MAX 0.02 /* of memory, from the second to the last fifth of a run */

struct run {
    uint32_t n_clients;
    double rate; /* 0: closed loop */
    struct load_result result;
    struct load_summary summary;
    struct load_watch watch;
};

/* Every whole answer beside the same request alone. */
struct verdict {
    uint64_t n_asked, n_different, n_failed;
    char first[240]; /* what the first difference is */
    double blocks_used; /* KV blocks after it all; NAN: the server does not say */
};

struct bench {
    struct config config; /* options_parse wants one; there are no keys */
    struct load_spec spec;
    const char *url, *commit, *api_key, *plot, *model;
    const char *clients_text, *rates_text, *prompt_text, *answer_text, *ids_text, *kind_text;
    uint64_t n_requests, n_warmup, n_max, n_shared, seed;
    double duration_s, deadline_s;
    int is_json, is_verifying;
    char model_name[256];
    struct client *client;
    struct run runs[RUNS_MAX], *running; /* running: for the progress line; NULL: the warm-up or the verification */
    uint32_t n_runs;
    const char *doing;
    uint64_t n_to_do;
    double shown_s;
    struct verdict verdict;
};

static const char about[] =
    "Sends completions to a server and measures what its clients see. --clients keeps so many requests\n"
    "under way (closed loop); --rate sends at random moments, so many a second, whatever the server does\n"
    "(open loop; a request counts from when it was due). Lists make one run each. The same seed asks the\n"
    "same. Times are between events with text; \"per token\" uses the server's own count. A server with this\n"
    "project's /metrics is watched while it works. --verify is a soak test: half of the requests are sampled,\n"
    "every whole answer is asked for again, alone, and must be the same bytes; no KV block may be left in\n"
    "use, and over three minutes and more no process may grow by 2%.";

/* ---- the command line ---- */

static err add_clients(void *context, const char *item) {
    struct bench *t = context;
    uint64_t n;
    TRY(config_parse_whole(item, 1, CLIENTS_MAX, &n));
    t->runs[t->n_runs++].n_clients = (uint32_t)n;
    return OK;
}

static err add_rate(void *context, const char *item) {
    struct bench *t = context;
    struct run *run = &t->runs[t->n_runs++];
    run->n_clients = (uint32_t)t->n_max;
    return config_parse_real(item, 1e-3, RATE_MAX, &run->rate);
}

/* "128" or "64-256". */
static err parse_range(const char *flag, const char *text, double least, uint32_t out[2]) {
    char first[32];
    uint64_t begin, end;
    size_t n = strcspn(text, "-");
    snprintf(first, sizeof first, "%.*s", (int)(n < sizeof first ? n : sizeof first - 1), text);
    err e = config_parse_whole(first, least, TOKENS_MAX, &begin);
    end = begin;
    if (e == OK && text[n]) e = config_parse_whole(text + n + 1, least, TOKENS_MAX, &end);
    if (e != OK) return err_context(e, "--%s", flag);
    if (end < begin) return err_set(ERR_USAGE, "--%s: %s ends before it begins", flag, text);
    out[0] = (uint32_t)begin;
    out[1] = (uint32_t)end;
    return OK;
}

static err parse_texts(struct bench *t) {
    struct load_spec *spec = &t->spec;
    TRY(parse_range("prompt-tokens", t->prompt_text, 1, spec->prompt_tokens));
    TRY(parse_range("tokens", t->answer_text, 1, spec->answer_tokens));
    TRY(parse_range("ids", t->ids_text, 0, spec->ids));
    if (spec->sampled_share < 0) spec->sampled_share = t->is_verifying ? 0.5 : 0;
    spec->is_text = strcmp(t->kind_text, "text") == 0;
    if (!spec->is_text && strcmp(t->kind_text, "ids") != 0)
        return err_set(ERR_USAGE, "--prompt-kind: %s: expected ids or text", t->kind_text);
    if (!t->duration_s && !t->n_requests) t->duration_s = DURATION_S;
    if (!t->n_requests) t->n_requests = REQUESTS_MAX;
    spec->n_shared = (uint32_t)t->n_shared;
    spec->seed = t->seed;
    if (t->clients_text && t->rates_text)
        return err_set(ERR_USAGE, "--clients is for a closed loop, --rate for an open one: give one of them");
    if (t->rates_text) return config_parse_list("rate", t->rates_text, RUNS_MAX, add_rate, t);
    return config_parse_list("clients", t->clients_text ? t->clients_text : "8", RUNS_MAX, add_clients, t);
}

static err parse(struct bench *t, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"clients", OPTION_TEXT, &t->clients_text, "N,...", "requests under way; default 8", 0, 0},
        {"rate", OPTION_TEXT, &t->rates_text, "R,...", "requests per second, in place of --clients", 0, 0},
        {"max-inflight", OPTION_WHOLE, &t->n_max, "N", "most under way with --rate; default 256", 1, CLIENTS_MAX},
        {"duration-s", OPTION_REAL, &t->duration_s, "s", "no new requests after it; default 30", 0.1, DURATION_MAX_S},
        {"requests", OPTION_WHOLE, &t->n_requests, "N", "of a run; default: as the duration says", 1, REQUESTS_MAX},
        {"prompt-tokens", OPTION_TEXT, &t->prompt_text, "N|A-B", "of a prompt's own; default 128", 0, 0},
        {"shared-prefix-tokens", OPTION_WHOLE, &t->n_shared, "N", "the same in front of all", 0, TOKENS_MAX},
        {"tokens", OPTION_TEXT, &t->answer_text, "N|A-B", "of an answer; default 128", 0, 0},
        {"prompt-kind", OPTION_TEXT, &t->kind_text, "ids|text", "text: words, about a token each; default ids", 0, 0},
        {"ids", OPTION_TEXT, &t->ids_text, "A-B", "tokens that prompts are drawn from; default 300-999", 0, 0},
        {"seed", OPTION_WHOLE, &t->seed, "N", "of prompts, lengths and moments; default 1", 0, CONFIG_WHOLE_MAX},
        {"sampled", OPTION_REAL, &t->spec.sampled_share, "SHARE",
         "of requests at temperature 0.8; default 0, with --verify 0.5", 0, 1},
        {"disconnect", OPTION_REAL, &t->spec.leaving_share, "SHARE",
         "of clients leave before the end; default 0", 0, 1},
        {"warmup", OPTION_WHOLE, &t->n_warmup, "N", "requests before, not counted; default 0", 0, REQUESTS_MAX},
        {"deadline-s", OPTION_REAL, &t->deadline_s, "s", "of a request; default 300", 0.1, DURATION_MAX_S},
        {"model", OPTION_TEXT, &t->model, "NAME", "else the server's first", 0, 0},
        {"api-key", OPTION_TEXT, &t->api_key, "KEY", "of the server", 0, 0},
        {"verify", OPTION_SWITCH, &t->is_verifying, NULL, "ask for every answer again, alone, and compare", 0, 0},
        {"json", OPTION_SWITCH, &t->is_json, NULL, "one JSON object on standard output", 0, 0},
        {"plot", OPTION_TEXT, &t->plot, "FILE.svg", "draw latencies, and tokens per second over time", 0, 0},
    };
    const struct option_set set = {"bench serve URL [flags]", about, 0, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &t->config, words));
    if (words->is_help) return OK;
    if (!words->n_words) return err_set(ERR_USAGE, "bench serve: no server; usage: caravan %s", set.usage);
    t->url = words->words[0];
    return parse_texts(t);
}

/* ---- the server ---- */

static err model_ask(struct bench *t) {
    struct bytes body = {0};
    int status = 0;
    err e = client_get(t->client, "/v1/models", ASK_S, &status, &body);
    json_t *root = e == OK && status == 200 ? json_loadb((const char *)body.data, body.len, 0, NULL) : NULL;
    const char *id = json_string_value(json_object_get(json_array_get(json_object_get(root, "data"), 0), "id"));
    snprintf(t->model_name, sizeof t->model_name, "%s", t->model ? t->model : id ? id : "");
    if (*t->model_name) t->spec.model = t->model_name;
    json_decref(root);
    bytes_free(&body);
    if (e == OK && (status == 401 || status == 403))
        return err_set(ERR_REQUEST, "%s: HTTP %d: --api-key is missing or wrong", t->url, status);
    return e;
}

/* ---- runs ---- */

static void show_progress(struct bench *t, const struct load_result *r, double now_s) {
    if (!isatty(STDERR_FILENO) || fabs(now_s - t->shown_s) < PROGRESS_S) return;
    t->shown_s = now_s;
    size_t n_bins = r->bins.len / sizeof(struct load_bin), n_back = (size_t)(1 / LOAD_BIN_S), n_chunks = 0;
    const struct load_bin *bins = (const struct load_bin *)(const void *)r->bins.data;
    for (size_t i = n_bins > n_back ? n_bins - n_back : 0; i < n_bins; i++) n_chunks += bins[i].n_chunks;
    fprintf(stderr, "\r\033[K%s: %.0f s", t->doing, now_s);
    if (t->running && t->duration_s > 0) fprintf(stderr, " of %.0f", t->duration_s);
    fprintf(stderr, ", %llu", (unsigned long long)r->n_done);
    if (t->n_to_do < REQUESTS_MAX) fprintf(stderr, " of %llu", (unsigned long long)t->n_to_do);
    fprintf(stderr, " answered, %u under way, %llu failed, %zu tokens/s", r->n_under_way,
            (unsigned long long)r->n_failed, n_chunks);
}

static void on_tick(void *context, const struct load_result *so_far, double now_s) {
    struct bench *t = context;
    if (t->running) (void)load_watch_tick(&t->running->watch, now_s); /* its error stays in it */
    show_progress(t, so_far, now_s);
}

static err run_load(struct bench *t, const char *doing, struct load_options *o, struct load_result *out) {
    o->spec = &t->spec;
    o->deadline_s = t->deadline_s;
    o->context = t;
    o->on_tick = on_tick;
    t->doing = doing;
    t->n_to_do = o->n_requests;
    err e = load_run(t->client, o, out);
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    return e;
}

static err warm_up(struct bench *t) {
    struct load_result result = {0};
    struct load_options o = {.n_clients = t->runs[0].n_clients, .n_requests = t->n_warmup, .is_staying = 1};
    if (!t->n_warmup) return OK;
    err e = run_load(t, "warming up", &o, &result);
    load_result_free(&result);
    return e;
}

/* Requests of every run are others: a server that knows the prompts of the last one would seem faster. */
static err run_one(struct bench *t, uint32_t i) {
    struct run *run = &t->runs[i];
    char label[48];
    snprintf(label, sizeof label, run->rate > 0 ? "%g requests/s" : "%g clients",
             run->rate > 0 ? run->rate : (double)run->n_clients);
    struct load_options o = {
        .n_clients = run->n_clients, .rate = run->rate, .duration_s = t->duration_s, .n_requests = t->n_requests,
        .index_begin = (uint64_t)(i + 1) << 32, .keeps_text = t->is_verifying};
    TRY(load_watch_open(&run->watch, t->client));
    t->running = run;
    err e = run_load(t, label, &o, &run->result);
    t->running = NULL;
    TRY(e);
    TRY(run->watch.error);
    return load_summarise(&run->result, label, &run->summary);
}

/* ---- the same again, alone ---- */

static size_t first_difference(const struct load_record *a, const struct load_record *b) {
    size_t i = 0;
    while (i < a->n_text && i < b->n_text && a->text[i] == b->text[i]) i++;
    return i;
}

static void compare(struct verdict *v, const struct load_record *was, const struct load_record *alone) {
    v->n_asked++;
    if (alone->outcome != LOAD_DONE) {
        v->n_failed++;
        return;
    }
    size_t at = first_difference(was, alone);
    if (at == was->n_text && at == alone->n_text) return;
    if (!v->n_different++)
        snprintf(v->first, sizeof v->first, "request %llu (%u tokens read, %u written, %s): byte %zu of %zu and %zu",
                 (unsigned long long)was->request.index, was->request.n_prompt, was->request.n_answer,
                 was->request.is_sampled ? "sampled" : "greedy", at, was->n_text, alone->n_text);
}

/* One client asks in the order of the list, so that answers stand in it, too. */
static err verify_run(struct bench *t, const struct run *run) {
    size_t n, n_whole = 0, n_alone;
    const struct load_record *records = load_records(&run->result, &n);
    struct load_result result = {0};
    const struct load_record **whole;
    uint64_t *indices;
    TRY(NEW(whole, n));
    err e = NEW(indices, n);
    for (size_t i = 0; i < n && e == OK; i++)
        if (records[i].outcome == LOAD_DONE) {
            whole[n_whole] = &records[i];
            indices[n_whole++] = records[i].request.index;
        }
    struct load_options o = {
        .n_clients = 1, .n_requests = n_whole, .indices = indices, .keeps_text = 1, .is_staying = 1};
    if (e == OK) e = run_load(t, "each again, alone", &o, &result);
    if (e == OK) {
        const struct load_record *alone = load_records(&result, &n_alone);
        for (size_t i = 0; i < n_alone; i++) compare(&t->verdict, whole[i], &alone[i]);
    }
    load_result_free(&result);
    free(indices);
    free(whole);
    return e;
}

static err verify(struct bench *t) {
    struct load_watch *w = &t->runs[t->n_runs - 1].watch;
    t->verdict.blocks_used = NAN;
    if (w->is_on) TRY(load_watch_blocks_after(w, &t->verdict.blocks_used));
    for (uint32_t i = 0; i < t->n_runs; i++) TRY(verify_run(t, &t->runs[i]));
    double used = 0;
    if (w->is_on) TRY(load_watch_blocks_after(w, &used));
    if (used > 0) t->verdict.blocks_used = used;
    return OK;
}

/* ---- the report ---- */

static double run_duration_s(const struct bench *t, const struct run *run) {
    return t->duration_s > 0 && t->duration_s < run->result.seconds ? t->duration_s : run->result.seconds;
}

static void print_memory(const struct bench *t, const struct run *run) {
    struct load_watch_memory m;
    for (uint32_t p = 0; p < load_watch_n_processes(&run->watch); p++) {
        if (!load_watch_memory(&run->watch, p, run_duration_s(t, run), &m)) continue;
        char name[32] = "coordinator";
        if (p) snprintf(name, sizeof name, "rank %u", p - 1);
        printf("  memory of %-12s %9.1f MB in the second fifth, %9.1f MB in the last: %+.2f%%\n", name, m.second * 1e-6,
               m.last * 1e-6, 100 * (m.last / m.second - 1));
    }
}

static void print_range(const char *name, const uint32_t range[2]) {
    printf(range[0] == range[1] ? ", %s of %u" : ", %s of %u-%u", name, range[0], range[1]);
}

static void print_text(const struct bench *t) {
    const struct verdict *v = &t->verdict;
    printf("%s, model %s", t->url, *t->model_name ? t->model_name : "unnamed");
    print_range("prompts", t->spec.prompt_tokens);
    if (t->n_shared) printf(" behind %llu shared ones", (unsigned long long)t->n_shared);
    print_range("answers", t->spec.answer_tokens);
    printf(" tokens, seed %llu, commit %s%s\n\n", (unsigned long long)t->seed, t->commit, awake_text());
    for (uint32_t i = 0; i < t->n_runs; i++) {
        load_print_text(&t->runs[i].summary);
        print_memory(t, &t->runs[i]);
        putchar('\n');
    }
    if (!t->is_verifying) return;
    printf("asked again, alone: %llu, of which %llu differ and %llu failed\n", (unsigned long long)v->n_asked,
           (unsigned long long)v->n_different, (unsigned long long)v->n_failed);
    if (!isnan(v->blocks_used)) printf("KV blocks in use at the end: %.0f\n", v->blocks_used);
    else printf("the server does not say how many KV blocks it uses\n");
}

static json_t *memory_json(const struct bench *t, const struct run *run) {
    json_t *list = json_array();
    for (uint32_t p = 0; p < load_watch_n_processes(&run->watch); p++) {
        struct load_watch_memory m;
        int is_known = load_watch_memory(&run->watch, p, run_duration_s(t, run), &m);
        json_t *one = json_null();
        if (is_known) one = json_pack("{s:f, s:f}", "second_fifth_bytes", m.second, "last_fifth_bytes", m.last);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *runs_json(const struct bench *t) {
    json_t *list = json_array();
    for (uint32_t i = 0; i < t->n_runs; i++) {
        const struct run *run = &t->runs[i];
        json_t *one = load_json(&run->summary);
        json_object_set_new(one, "clients", json_integer(run->n_clients));
        json_object_set_new(one, "rate", run->rate > 0 ? json_real(run->rate) : json_null());
        json_object_set_new(one, "metrics", run->watch.is_on ? load_watch_json(&run->watch) : json_null());
        json_object_set_new(one, "memory", memory_json(t, run));
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *verdict_json(const struct bench *t) {
    const struct verdict *v = &t->verdict;
    if (!t->is_verifying) return json_null();
    return json_pack("{s:I, s:I, s:I, s:s, s:o}", "asked", (json_int_t)v->n_asked, "different",
                     (json_int_t)v->n_different, "failed", (json_int_t)v->n_failed, "first_difference", v->first,
                     "kv_blocks_used", isnan(v->blocks_used) ? json_null() : json_real(v->blocks_used));
}

static err print_json(const struct bench *t) {
    const struct load_spec *s = &t->spec;
    return report_print_json(json_pack(
        "{s:s, s:s, s:s, s:b, s:I, s:[I, I], s:[I, I], s:I, s:s, s:f, s:f, s:o, s:o}", "url", t->url, "model",
        t->model_name, "commit", t->commit, "awake", awake_is_on(), "seed", (json_int_t)t->seed, "prompt_tokens",
        (json_int_t)s->prompt_tokens[0], (json_int_t)s->prompt_tokens[1], "tokens",
        (json_int_t)s->answer_tokens[0], (json_int_t)s->answer_tokens[1],
        "shared_prefix_tokens", (json_int_t)s->n_shared, "prompt_kind", t->kind_text, "disconnect", s->leaving_share,
        "sampled", s->sampled_share, "runs", runs_json(t), "verify", verdict_json(t)));
}

static err write_plot(const struct bench *t) {
    struct load_summary runs[RUNS_MAX];
    struct bytes out = {0};
    char title[512];
    for (uint32_t i = 0; i < t->n_runs; i++) runs[i] = t->runs[i].summary;
    snprintf(title, sizeof title, "%s at %s", *t->model_name ? t->model_name : "a model", t->url);
    err e = load_plot(title, runs, t->n_runs, &out);
    FILE *f = e == OK ? fopen(t->plot, "we") : NULL;
    if (f) {
        int is_bad = fwrite(out.data, 1, out.len, f) != out.len;
        if (fclose(f) != 0 || is_bad) e = err_set(ERR_FILE, "cannot write %s: %s", t->plot, strerror(errno));
    } else if (e == OK) {
        e = err_set(ERR_FILE, "cannot write %s: %s", t->plot, strerror(errno));
    }
    bytes_free(&out);
    return e;
}

/* ---- the verdict ---- */

static err judge_memory(const struct bench *t, const struct run *run) {
    struct load_watch_memory m;
    if (run_duration_s(t, run) < SOAK_S) return OK;
    for (uint32_t p = 0; p < load_watch_n_processes(&run->watch); p++)
        if (load_watch_memory(&run->watch, p, run_duration_s(t, run), &m) && m.last > m.second * (1 + GROWTH_MAX))
            return err_set(ERR_JOB, "memory of %s %u grew by %.1f%%", p ? "rank" : "coordinator", p ? p - 1 : 0,
                           100 * (m.last / m.second - 1));
    return OK;
}

static err judge(const struct bench *t) {
    const struct verdict *v = &t->verdict;
    for (uint32_t i = 0; i < t->n_runs; i++) {
        const struct load_result *r = &t->runs[i].result;
        const struct load_failure *f = r->failures;
        if (!r->n_unexpected) continue;
        while (f->is_expected) f++;
        return err_set(ERR_JOB, "%llu of %llu requests failed (%s: %s)", (unsigned long long)r->n_unexpected,
                       (unsigned long long)r->n_begun, f->what, f->reason);
    }
    if (!t->is_verifying) return OK;
    if (v->n_different)
        return err_set(ERR_JOB, "%llu of %llu answers differ from the same request alone; first %s",
                       (unsigned long long)v->n_different, (unsigned long long)v->n_asked, v->first);
    if (v->n_failed) return err_set(ERR_JOB, "%llu requests failed alone", (unsigned long long)v->n_failed);
    if (v->blocks_used > 0) return err_set(ERR_JOB, "%.0f KV blocks are in use at the end", v->blocks_used);
    for (uint32_t i = 0; i < t->n_runs; i++) TRY(judge_memory(t, &t->runs[i]));
    return OK;
}

static err bench(struct bench *t) {
    TRY(client_open(t->url, t->api_key, &t->client));
    TRY(model_ask(t));
    TRY(warm_up(t));
    for (uint32_t i = 0; i < t->n_runs; i++) TRY(run_one(t, i));
    if (t->is_verifying) TRY(verify(t));
    if (t->is_json) TRY(print_json(t));
    else print_text(t);
    if (t->plot) TRY(write_plot(t));
    return judge(t);
}

err cmd_bench_serve(int argc, char **argv, const char *commit) {
    struct bench *t;
    struct option_result words;
    static char name[] = "bench serve";
    TRY(NEW(t, 1));
    argv[0] = name; /* for messages */
    t->commit = commit;
    t->prompt_text = t->answer_text = "128";
    t->ids_text = "300-999";
    t->kind_text = "ids";
    t->n_max = 256;
    t->seed = 1;
    t->deadline_s = 300;
    t->spec.sampled_share = -1; /* not given */
    err e = parse(t, argc, argv, &words);
    if (e == OK && !words.is_help) e = bench(t);
    for (uint32_t i = 0; i < t->n_runs; i++) {
        load_summary_free(&t->runs[i].summary);
        load_result_free(&t->runs[i].result);
        load_watch_close(&t->runs[i].watch);
    }
    client_close(t->client);
    free(t);
    return e;
}
