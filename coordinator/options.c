#include "coordinator/options.h"

#include <stdio.h>
#include <string.h>

#define FLAG_BYTES 64

static size_t least_of(size_t a, size_t b, size_t c) {
    size_t m = a < b ? a : b;
    return m < c ? m : c;
}

/* Levenshtein distance; words longer than a flag count as far away. */
static size_t distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), row[FLAG_BYTES];
    if (n >= FLAG_BYTES || m >= FLAG_BYTES) return FLAG_BYTES;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t above = row[j];
            row[j] = least_of(above + 1, row[j - 1] + 1,
                              diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[m];
}

const char *options_suggest(const char *word, const char *const *words,
                            size_t n) {
    const char *best = NULL;
    size_t best_distance = 3; /* as many slips as still look like one word */
    if (strlen(word) < 4) best_distance = 2;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, words[i]);
        if (d < best_distance) {
            best_distance = d;
            best = words[i];
        }
    }
    return best;
}

/* Key max_tokens as flag max-tokens. */
static void flag_name(const char *key, char *out) {
    snprintf(out, FLAG_BYTES, "%s", key);
    for (char *c = out; *c; c++)
        if (*c == '_') *c = '-';
}

static int is_taken(const struct option_set *set, int id) {
    return (config_keys[id].groups & set->groups) != 0;
}

/* ---- help ---- */

#define HELP_COLUMN 28

static void print_flag(const char *name, const char *value, const char *help,
                       const char *tail) {
    int n = printf("  --%s%s%s", name, *value ? " " : "", value);
    if (n > HELP_COLUMN - 2) n = printf("\n") - 1;
    printf("%*s%s%s\n", HELP_COLUMN - n, "", help, tail);
}

static void print_key_flag(const struct config_key *key) {
    char name[FLAG_BYTES], tail[CONFIG_TEXT_BYTES + 32] = "";
    flag_name(key->name, name);
    if (key->fallback && *key->fallback && strcmp(key->fallback, "0") != 0)
        snprintf(tail, sizeof tail, " (%s)", key->fallback);
    const char *value = *key->unit ? key->unit
                        : key->kind == CONFIG_KIND_TEXT ? "text" : "N";
    print_flag(name, value, key->help, tail);
}

static void print_help(const struct option_set *set) {
    printf("Usage: caravan %s\n\n%s\n\nFlags:\n", set->usage, set->about);
    for (size_t i = 0; i < set->n_own; i++)
        print_flag(set->own[i].name, set->own[i].value ? set->own[i].value : "",
                   set->own[i].help, "");
    if (set->groups)
        print_flag("config", "FILE", "keys from a file, as FILE.cfg in place of MODEL; flags win", "");
    print_flag("help", "", "this text", "");
    if (!set->groups) return;
    printf("\nKeys of the configuration (default):\n");
    for (int id = 0; id < N_CONFIG_KEYS; id++)
        if (is_taken(set, id)) print_key_flag(&config_keys[id]);
}

/* ---- parsing ---- */

struct parser {
    const struct option_set *set;
    struct config *c;
    const char *command;
    int argc, at;
    char **argv;
    int is_config_pass; /* files are read before any flag */
    int has_word;       /* in this pass */
};

static err unknown_flag(const struct parser *p, const char *name) {
    char names[N_CONFIG_KEYS][FLAG_BYTES];
    const char *known[N_CONFIG_KEYS + 64];
    size_t n = 0;
    for (int id = 0; id < N_CONFIG_KEYS; id++) {
        if (!is_taken(p->set, id)) continue;
        flag_name(config_keys[id].name, names[id]);
        known[n++] = names[id];
    }
    for (size_t i = 0; i < p->set->n_own && n < N_CONFIG_KEYS + 60; i++)
        known[n++] = p->set->own[i].name;
    if (p->set->groups) known[n++] = "config";
    known[n++] = "help";
    const char *near = options_suggest(name, known, n);
    if (near)
        return err_set(ERR_USAGE, "%s: unknown flag --%s; did you mean --%s?",
                       p->command, name, near);
    return err_set(ERR_USAGE, "%s: unknown flag --%s; caravan %s --help lists the flags",
                   p->command, name, p->command);
}

static int own_find(const struct option_set *set, const char *name) {
    for (size_t i = 0; i < set->n_own; i++)
        if (strcmp(name, set->own[i].name) == 0) return (int)i;
    return -1;
}

static int key_find(const struct option_set *set, const char *name) {
    for (int id = 0; id < N_CONFIG_KEYS; id++) {
        char flag[FLAG_BYTES];
        flag_name(config_keys[id].name, flag);
        if (is_taken(set, id) && strcmp(name, flag) == 0) return id;
    }
    return -1;
}

/* Whether an argument is a flag of this command: then a value was forgotten. */
static int is_flag(const struct option_set *set, const char *a) {
    char name[FLAG_BYTES];
    if (strncmp(a, "--", 2) != 0) return 0;
    size_t n = strcspn(a + 2, "=");
    if (n == 0 || n >= sizeof name) return n == 0;
    memcpy(name, a + 2, n);
    name[n] = 0;
    return own_find(set, name) >= 0 || key_find(set, name) >= 0;
}

/* The value of a flag: after '=' or the next argument. */
static err take_value(struct parser *p, const char *name, const char *inline_value,
                      const char **out) {
    if (inline_value) {
        *out = inline_value;
        return OK;
    }
    if (p->at + 1 >= p->argc || is_flag(p->set, p->argv[p->at + 1]))
        return err_set(ERR_USAGE, "%s: --%s needs a value", p->command, name);
    *out = p->argv[++p->at];
    return OK;
}

static err set_own(struct parser *p, const struct option *o, const char *value) {
    switch (o->kind) {
    case OPTION_SWITCH:
        *(int *)o->target = 1;
        return OK;
    case OPTION_TEXT:
        *(const char **)o->target = value;
        return OK;
    case OPTION_LIST: {
        struct option_texts *list = o->target;
        if (list->n == OPTION_TEXTS_MAX)
            return err_set(ERR_USAGE, "%s: --%s may stand at most %d times",
                           p->command, o->name, OPTION_TEXTS_MAX);
        list->texts[list->n++] = value;
        return OK;
    }
    case OPTION_WHOLE:
        if (config_parse_whole(value, o->least, o->most, o->target) != OK)
            return err_context(ERR_USAGE, "%s: --%s", p->command, o->name);
        return OK;
    case OPTION_REAL:
        if (config_parse_real(value, o->least, o->most, o->target) != OK)
            return err_context(ERR_USAGE, "%s: --%s", p->command, o->name);
        return OK;
    }
    return OK;
}

static err parse_own(struct parser *p, const struct option *o, const char *inline_value) {
    const char *value = NULL;
    if (o->kind != OPTION_SWITCH)
        TRY(take_value(p, o->name, inline_value, &value));
    else if (inline_value)
        return err_set(ERR_USAGE, "%s: --%s takes no value", p->command, o->name);
    return p->is_config_pass ? OK : set_own(p, o, value);
}

static err parse_key(struct parser *p, int id, const char *name, const char *inline_value) {
    const char *value;
    TRY(take_value(p, name, inline_value, &value));
    if (p->is_config_pass) return OK;
    if (config_assign(p->c, (enum config_id)id, value) != OK)
        return err_context(ERR_USAGE, "%s: --%s", p->command, name);
    return OK;
}

static err parse_flag(struct parser *p, const char *text) {
    char name[FLAG_BYTES];
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);
    if (n >= sizeof name)
        return err_set(ERR_USAGE, "%s: unknown flag --%.40s...", p->command, text);
    memcpy(name, text, n);
    name[n] = 0;
    const char *inline_value = equals ? equals + 1 : NULL;
    if (strcmp(name, "config") == 0 && p->set->groups) {
        const char *path;
        TRY(take_value(p, name, inline_value, &path));
        return p->is_config_pass ? config_load(p->c, path) : OK;
    }
    int own = own_find(p->set, name), id = key_find(p->set, name);
    if (own >= 0) return parse_own(p, &p->set->own[own], inline_value);
    if (id >= 0) return parse_key(p, id, name, inline_value);
    return unknown_flag(p, name);
}

static int is_config_file(const char *word) {
    size_t n = strlen(word);
    return n > 4 && strcmp(word + n - 4, ".cfg") == 0;
}

static err take_word(struct parser *p, const char *word, struct option_result *out) {
    int is_first = !p->has_word;
    p->has_word = 1;
    if (is_first && p->set->groups && is_config_file(word)) return p->is_config_pass ? config_load(p->c, word) : OK;
    if (p->is_config_pass) return OK;
    if (out->n_words == p->set->n_words)
        return err_set(ERR_USAGE, "%s: unexpected argument \"%s\"; usage: caravan %s",
                       p->command, word, p->set->usage);
    out->words[out->n_words++] = word;
    return OK;
}

static err parse_pass(struct parser *p, struct option_result *out) {
    int is_flags_end = 0;
    p->has_word = 0;
    for (p->at = 1; p->at < p->argc; p->at++) {
        const char *a = p->argv[p->at];
        if (is_flags_end || a[0] != '-' || a[1] == 0) {
            TRY(take_word(p, a, out));
        } else if (strcmp(a, "--") == 0) {
            is_flags_end = 1;
        } else if (a[1] != '-') {
            return err_set(ERR_USAGE, "%s: unknown flag %s; flags begin with --",
                           p->command, a);
        } else {
            TRY(parse_flag(p, a + 2));
        }
    }
    return OK;
}

err options_parse(const struct option_set *set, int argc, char **argv,
                  struct config *c, struct option_result *out) {
    memset(out, 0, sizeof *out);
    config_defaults(c);
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) continue;
        print_help(set);
        out->is_help = 1;
        return OK;
    }
    struct parser p = {.set = set, .c = c, .command = argv[0], .argc = argc, .argv = argv};
    p.is_config_pass = 1;
    TRY(parse_pass(&p, out));
    p.is_config_pass = 0;
    return parse_pass(&p, out);
}
