/* caravan chat: a conversation in the terminal, or through a pipe. */
#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "coordinator/chat.h"
#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/lines.h"
#include "coordinator/options.h"
#include "coordinator/sampling.h"
#include "coordinator/service.h"
#include "coordinator/supervisor.h"

#define LOOK_MS 100 /* between two looks at signals, while an answer is under way */

struct talk {
    struct config config;
    const char *system;
    int is_reference, is_verbose;
    struct model model;
    struct chat_template *template;
    struct service *service;
    struct chat *chat;
    struct lines *lines;
    sem_t has_events;
    uint32_t context;
    int is_terminal, has_colours, is_over;
    struct { /* the last answer */
        uint32_t n_prompt, n_cached, n_answer;
        uint64_t seed;
        int64_t begin_us, first_us, last_us;
    } last;
};

static const char about[] =
    "Talks with the model, line by line. The answer appears as it comes; Ctrl-C stops it and keeps what\n"
    "there is, Ctrl-D or /exit ends. A line that ends with a backslash goes on in the next one; pasted\n"
    "lines stay together. /help lists the commands, among them /retry, /undo, /save and /set. Where the\n"
    "conversation outgrows the context, the oldest questions and answers are left out, which is said. An\n"
    "answer may fill the context, unless --max-tokens is given.\n"
    "Without a terminal each line of standard input is a question or command and each answer a line\n"
    "or more of standard output; the first error ends the program then.";

/* ---- what is said beside answers ---- */

static void dim(const struct talk *t, FILE *f, int is_begin) {
    if (t->has_colours) fputs(is_begin ? "\033[2m" : "\033[0m", f);
}

static void note(const struct talk *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void note(const struct talk *t, const char *fmt, ...) {
    va_list args;
    dim(t, stderr, 1);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    dim(t, stderr, 0);
    fputc('\n', stderr);
}

/* An answer's text as it is; on a terminal without what would steer it. */
static err show(const struct talk *t, const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        int steers = t->is_terminal && (c < ' ' || c == 127) && c != '\n' && c != '\t';
        putchar(steers ? '?' : c);
    }
    return fflush(stdout) == 0 ? OK : err_set(ERR_FILE, "cannot write to standard output");
}

/* ---- an answer ---- */

static void on_events(void *context) { sem_post(&((struct talk *)context)->has_events); }

static void wait_for_events(struct talk *t) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    sem_timedwait(&t->has_events, &until); /* however it ends, the caller looks */
}

/* Unless told otherwise an answer may fill the context, and a quarter of it is kept free for one. */
static uint32_t answer_room(const struct talk *t) {
    uint32_t quarter = t->context > 4 ? t->context / 4 : 1;
    return t->config.is_set[CONFIG_max_tokens] && t->config.max_tokens < quarter ? (uint32_t)t->config.max_tokens
                                                                                 : quarter;
}

static err submit(struct talk *t, const struct token_list *prompt, uint64_t *id) {
    uint32_t room = t->context - (uint32_t)prompt->n;
    struct service_request r = {.sequence = {
        .tokenizer = t->model.tokenizer, .prompt = prompt->ids, .n_prompt = prompt->n,
        .n_vocab = t->model.program->n_vocab, .context = t->context}};
    TRY(sampling_read_config(&t->config, &r.sequence));
    if (!t->config.is_set[CONFIG_max_tokens] || t->config.max_tokens > room) r.sequence.max_tokens = room;
    t->last.seed = r.sequence.seed;
    t->last.n_prompt = (uint32_t)prompt->n;
    t->last.n_cached = t->last.n_answer = 0;
    t->last.begin_us = t->last.first_us = t->last.last_us = clock_us();
    return service_submit(t->service, &r, id);
}

/* What one event says; `text` gathers the answer. */
static err take_event(struct talk *t, const struct service_event *e, struct bytes *text, int *is_done) {
    if (e->kind == SERVICE_TOKEN) {
        t->last.last_us = clock_us();
        if (t->last.n_answer++ == 0) t->last.first_us = t->last.last_us;
    }
    if (e->kind == SERVICE_TOKEN || e->kind == SERVICE_DONE) {
        TRY(bytes_append(text, e->text ? e->text : "", e->n_text));
        TRY(show(t, e->text, e->n_text));
    }
    *is_done = e->kind == SERVICE_DONE;
    if (e->kind == SERVICE_DONE) {
        t->last.n_cached = e->n_cached;
        t->last.n_answer = e->n_answer;
        if (e->finish == SEQUENCE_LENGTH && t->is_terminal) note(t, "\n(the limit of tokens is reached)");
    }
    return e->kind == SERVICE_FAILED ? err_set(e->code, "%s", e->text ? e->text : err_name(e->code)) : OK;
}

/* All events there are; those of an earlier, stopped answer are passed over. */
static err take_events(struct talk *t, uint64_t id, struct bytes *text, int *is_done) {
    err e = OK;
    for (struct service_event *event = service_take(t->service), *next; event; event = next) {
        next = event->next;
        if (e == OK && event->id == id && !*is_done) e = take_event(t, event, text, is_done);
        service_event_free(event);
    }
    return e;
}

static err follow(struct talk *t, uint64_t id, struct bytes *text) {
    for (int is_done = 0; !is_done;) {
        TRY(take_events(t, id, text, &is_done));
        if (is_done) break;
        if (engine_signal()) {
            service_cancel(t->service, id);
            if (!t->is_terminal || engine_signal() != SIGINT) return err_set(ERR_JOB, "interrupted");
            engine_take_signal();
            note(t, " (stopped)");
            return OK;
        }
        wait_for_events(t);
    }
    return OK;
}

static err make_prompt(struct talk *t, struct token_list *prompt) {
    size_t n_before = chat_n_left_out(t->chat);
    TRY(chat_encode(t->chat, t->template, &t->model, t->context, answer_room(t), time(NULL), prompt));
    size_t n_left_out = chat_n_left_out(t->chat);
    if (n_left_out > n_before)
        note(t, "(the conversation has outgrown the context of %u tokens: its first %zu messages are left out)",
             t->context, n_left_out);
    return OK;
}

/* Answers the question that is open. What came until an error or Ctrl-C is kept. */
static err answer(struct talk *t) {
    struct token_list prompt = {0};
    struct bytes text = {0};
    uint64_t id;
    err e = make_prompt(t, &prompt);
    if (e == OK) e = submit(t, &prompt, &id);
    if (e == OK) {
        e = follow(t, id, &text);
        if (text.len) chat_answer(t->chat, (const char *)text.data, text.len);
        putchar('\n');
        fflush(stdout);
    }
    bytes_free(&text);
    token_list_free(&prompt);
    return e;
}

/* ---- commands ---- */

static err need_argument(const char *command, const char *argument, const char *what) {
    return *argument ? OK : err_set(ERR_USAGE, "/%s: %s is missing", command, what);
}

static err do_exit(struct talk *t, const char *argument) {
    (void)argument;
    t->is_over = 1;
    return OK;
}

static err do_new(struct talk *t, const char *argument) {
    (void)argument;
    chat_clear(t->chat);
    if (t->is_terminal) note(t, "(a new conversation)");
    return OK;
}

static err do_system(struct talk *t, const char *argument) {
    if (!*argument) {
        printf("%s\n", *chat_system(t->chat) ? chat_system(t->chat) : "(no system prompt)");
        return OK;
    }
    return chat_set_system(t->chat, strcmp(argument, "-") == 0 ? "" : argument);
}

static err do_retry(struct talk *t, const char *argument) {
    (void)argument;
    TRY(chat_reopen(t->chat));
    return answer(t);
}

static err do_undo(struct talk *t, const char *argument) {
    (void)argument;
    TRY(chat_undo(t->chat));
    const char *last = chat_last(t->chat, "user");
    if (t->is_terminal) note(t, last ? "(the last question is now: %.200s)" : "(nothing is left)", last);
    return OK;
}

static err do_save(struct talk *t, const char *argument) {
    TRY(need_argument("save", argument, "a file"));
    TRY(chat_save(t->chat, argument));
    if (t->is_terminal) note(t, "(%zu messages are in %s)", chat_n_messages(t->chat), argument);
    return OK;
}

static err do_load(struct talk *t, const char *argument) {
    TRY(need_argument("load", argument, "a file"));
    TRY(chat_load(t->chat, argument));
    if (t->is_terminal) note(t, "(%zu messages)", chat_n_messages(t->chat));
    return OK;
}

static int is_settable(int id) { return (config_keys[id].groups & CONFIG_SAMPLING) != 0; }

static void print_keys(const struct talk *t) {
    for (int id = 0; id < N_CONFIG_KEYS; id++) {
        const struct config_key *k = &config_keys[id];
        const void *field = (const char *)&t->config + k->offset;
        if (!is_settable(id)) continue;
        if (!k->fallback && !t->config.is_set[id])
            printf("  %-18s %-10s %s\n", k->name, "-", k->help);
        else if (id == CONFIG_max_tokens && !t->config.is_set[id])
            printf("  %-18s %-10s %s\n", k->name, "-", "longest answer; unset: what the context holds");
        else if (k->kind == CONFIG_KIND_WHOLE)
            printf("  %-18s %-10llu %s\n", k->name, (unsigned long long)*(const config_WHOLE *)field, k->help);
        else
            printf("  %-18s %-10g %s\n", k->name, *(const config_REAL *)field, k->help);
    }
}

static err unknown_key(const char *name) {
    const char *known[N_CONFIG_KEYS];
    size_t n = 0;
    for (int id = 0; id < N_CONFIG_KEYS; id++)
        if (is_settable(id)) known[n++] = config_keys[id].name;
    const char *near = options_suggest(name, known, n);
    return near ? err_set(ERR_USAGE, "/set: no key \"%.40s\"; did you mean %s?", name, near)
                : err_set(ERR_USAGE, "/set: no key \"%.40s\"; /set alone lists them", name);
}

/* "KEY VALUE" */
static err do_set(struct talk *t, const char *argument) {
    char name[64];
    size_t n = strcspn(argument, " ="), n_name = n < sizeof name ? n : sizeof name - 1;
    if (!n) {
        print_keys(t);
        return OK;
    }
    for (size_t i = 0; i < n_name; i++) name[i] = argument[i] == '-' ? '_' : argument[i];
    name[n_name] = 0;
    const char *value = argument + n + strspn(argument + n, " =");
    for (int id = 0; id < N_CONFIG_KEYS; id++)
        if (is_settable(id) && strcmp(config_keys[id].name, name) == 0) {
            TRY(need_argument("set", value, "a value"));
            if (config_assign(&t->config, (enum config_id)id, value) == OK) return OK;
            return err_context(ERR_USAGE, "/set: %s", name);
        }
    return unknown_key(name);
}

static void print_ranks(struct talk *t) {
    json_t *ranks = service_ranks(t->service), *r;
    size_t i;
    json_array_foreach(ranks, i, r) {
        const char *host = json_string_value(json_object_get(r, "host"));
        const char *device = json_string_value(json_object_get(r, "device"));
        printf("rank %zu: %s, %s, layers %lld-%lld, shard %lld, %.0f%% busy\n", i, host ? host : "?",
               device ? device : "?", json_integer_value(json_object_get(r, "layer_begin")),
               json_integer_value(json_object_get(r, "layer_end")), json_integer_value(json_object_get(r, "shard")),
               100 * json_number_value(json_object_get(r, "busy")));
    }
    json_decref(ranks);
}

static err do_stats(struct talk *t, const char *argument) {
    (void)argument;
    struct service_status s;
    service_status(t->service, &s);
    if (t->last.begin_us) {
        double first_s = (double)(t->last.first_us - t->last.begin_us) * 1e-6;
        double rest_s = (double)(t->last.last_us - t->last.first_us) * 1e-6;
        printf("last answer: %u tokens read, %u of them known already; first token after %.2f s; %u written",
               t->last.n_prompt, t->last.n_cached, first_s, t->last.n_answer);
        if (rest_s > 0 && t->last.n_answer > 1) printf(", %.1f/s", (t->last.n_answer - 1) / rest_s);
        if (t->config.temperature > 0) printf("; seed %llu", (unsigned long long)t->last.seed);
        printf("\n");
    }
    printf("context: %u of %u tokens; KV blocks: %u of %u in use, %u kept for reuse\n",
           t->last.n_prompt + t->last.n_answer, t->context, s.n_blocks_used, s.n_blocks, s.n_blocks_cached);
    print_ranks(t);
    return OK;
}

static err do_help(struct talk *t, const char *argument);

static const struct command {
    const char *name, *argument, *help;
    err (*run)(struct talk *t, const char *argument);
} commands[] = {
    {"help", "", "this list", do_help},
    {"new", "", "forget the conversation and begin another", do_new},
    {"system", "[TEXT]", "what comes before every conversation; - for nothing; alone: show it", do_system},
    {"retry", "", "answer the last question again", do_retry},
    {"undo", "", "take the last question and its answer back", do_undo},
    {"save", "FILE", "write the conversation, as the body of a chat request", do_save},
    {"load", "FILE", "go on with a conversation that was saved", do_load},
    {"set", "[KEY VALUE]", "how tokens are chosen; alone: what is set", do_set},
    {"stats", "", "the last answer in figures, and what the ranks do", do_stats},
    {"exit", "", "end (so does Ctrl-D)", do_exit},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static err do_help(struct talk *t, const char *argument) {
    (void)argument;
    (void)t;
    for (int i = 0; i < N_COMMANDS; i++)
        printf("  /%-8s%-13s%s\n", commands[i].name, commands[i].argument, commands[i].help);
    printf("Two slashes begin a question with one. A backslash at the end of a line lets it go on in the next.\n"
           "Ctrl-C stops an answer and keeps what there is of it.\n");
    return OK;
}

static err do_command(struct talk *t, const char *line) {
    const char *known[N_COMMANDS];
    char name[32];
    size_t n = strcspn(line, " \t\n");
    snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : sizeof name - 1), line);
    for (int i = 0; i < N_COMMANDS; i++) {
        known[i] = commands[i].name;
        if (strcmp(name, known[i]) == 0) return commands[i].run(t, line + n + strspn(line + n, " \t\n"));
    }
    const char *near = options_suggest(name, known, N_COMMANDS);
    return near ? err_set(ERR_USAGE, "no command /%s; did you mean /%s?", name, near)
                : err_set(ERR_USAGE, "no command /%s; /help lists them", name);
}

/* ---- the conversation ---- */

static err do_text(struct talk *t, const struct bytes *text) {
    const char *line = (const char *)text->data;
    if (line[strspn(line, " \t\r\n")] == 0 && strlen(line) == text->len) return OK; /* nothing was asked */
    if (line[0] == '/' && line[1] != '/') return do_command(t, line + 1);
    size_t n_skipped = line[0] == '/';
    TRY(chat_ask(t->chat, line + n_skipped, text->len - n_skipped));
    return answer(t);
}

static int is_job_gone(struct talk *t) {
    struct service_status s;
    service_status(t->service, &s);
    return s.state == SERVICE_ENDED;
}

/* A person reads what went wrong and goes on; a script does not. */
static err take_error(struct talk *t, err e) {
    if (e == OK || !t->is_terminal || engine_signal() || is_job_gone(t)) return e;
    if (t->has_colours) fputs("\033[31m", stderr);
    fprintf(stderr, "%s", err_text());
    if (t->has_colours) fputs("\033[0m", stderr);
    fputc('\n', stderr);
    return OK;
}

static err converse(struct talk *t) {
    struct bytes text = {0};
    err e = OK;
    while (e == OK && !t->is_over) {
        enum lines_end end = LINES_TEXT;
        e = lines_next(t->lines, &text, &end);
        if (end == LINES_OVER) break;
        if (end == LINES_INTERRUPTED) {
            if (!t->is_terminal || engine_signal() != SIGINT) break;
            engine_take_signal();
            note(t, "(Ctrl-D or /exit ends)");
            continue;
        }
        if (e == OK) e = do_text(t, &text);
        e = take_error(t, e);
    }
    bytes_free(&text);
    return e;
}

/* ---- beginning and end ---- */

static err parse(struct talk *t, int argc, char **argv, struct option_result *words) {
    const struct option own[] = {
        {"system", OPTION_TEXT, &t->system, "TEXT", "what comes before every conversation", 0, 0},
        {"reference", OPTION_SWITCH, &t->is_reference, NULL, "compute in plain C, without a device", 0, 0},
        {"verbose", OPTION_SWITCH, &t->is_verbose, NULL, "the plan, and what the launcher says", 0, 0},
    };
    static char text[sizeof about + 512];
    snprintf(text, sizeof text, "%s\nNames for --chat-template: %s.", about, chat_template_names());
    const struct option_set set = {
        "chat MODEL|FILE.cfg [flags]", text, CONFIG_GRID | CONFIG_JOB | CONFIG_SAMPLING | CONFIG_CACHE, own,
        sizeof own / sizeof *own, 1};
    return options_parse(&set, argc, argv, &t->config, words);
}

static err wait_until_ready(struct talk *t) {
    for (;;) {
        struct service_status s;
        service_status(t->service, &s);
        if (s.state == SERVICE_READY) return OK;
        if (s.state == SERVICE_ENDED) return err_set(ERR_JOB, "%s", s.reason);
        if (engine_signal()) return err_set(ERR_JOB, "interrupted by %s", strsignal(engine_signal()));
        wait_for_events(t);
    }
}

static err start(struct talk *t, const char *path) {
    TRY(model_open("chat", path, &t->config, &t->model));
    TRY(model_need_tokenizer(&t->model));
    TRY(conversation_template(&t->model, &t->config, &t->template));
    if (!t->template)
        return err_set(ERR_UNSUPPORTED, "%s carries no chat template; give one with --chat-template FILE|NAME (%s)",
                       t->model.path, chat_template_names());
    TRY(model_context(&t->model, &t->config, &t->context));
    TRY(chat_create(&t->chat));
    if (t->system) TRY(chat_set_system(t->chat, t->system));
    supervisor_catch_signals();
    engine_hold_signals(1); /* Ctrl-C is about the answer, not the job */
    struct service_options so = {.config = &t->config, .model = &t->model, .is_reference = t->is_reference,
                                 .is_verbose = t->is_verbose, .on_events = on_events, .context = t};
    TRY(service_open(&so, &t->service));
    struct lines_options lo = {.prompt = "> ", .more = ". ", .has_colours = t->has_colours,
                               .is_interrupted = engine_signal};
    TRY(lines_open(&lo, &t->lines));
    TRY(wait_until_ready(t));
    if (t->is_terminal) note(t, "(%s; /help lists commands, Ctrl-D ends)", t->model.path);
    return OK;
}

static int wants_colours(void) {
    const char *no = env_get("NO_COLOR"), *term = env_get("TERM");
    return !(no && *no) && term && strcmp(term, "dumb") != 0;
}

err cmd_chat(int argc, char **argv) {
    struct talk *t;
    struct option_result words;
    TRY(NEW(t, 1));
    err e = parse(t, argc, argv, &words);
    if (e == OK && !words.is_help) {
        t->is_terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
        t->has_colours = t->is_terminal && isatty(STDERR_FILENO) && wants_colours();
        sem_init(&t->has_events, 0, 0);
        e = start(t, words.n_words ? words.words[0] : NULL);
        if (e == OK) e = converse(t);
        lines_close(t->lines);
        service_close(t->service); /* first: it may still post */
        sem_destroy(&t->has_events);
        chat_free(t->chat);
        chat_template_free(t->template);
        model_close(&t->model);
    }
    free(t);
    return e;
}
