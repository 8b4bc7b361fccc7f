#include "coordinator/keys.h"

#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/mem.h"

struct key {
    char name[KEY_NAME_BYTES];
    char key[KEY_BYTES]; /* zeros after it */
    int priority;
};

struct keys {
    struct key *items; /* [n] */
    size_t n, cap;
};

/* ---- the file ---- */

struct word {
    const char *text;
    size_t n;
};

static int is_blank(char c) { return c == ' ' || c == '\t' || c == '\r'; }

/* The words of a line [n], at most 4 of them: one more than a line may have. */
static size_t split(const char *line, size_t n, struct word words[4]) {
    size_t n_words = 0, i = 0;
    while (n_words < 4) {
        while (i < n && is_blank(line[i])) i++;
        if (i == n || line[i] == '#') break;
        size_t begin = i;
        while (i < n && !is_blank(line[i])) i++;
        words[n_words++] = (struct word){line + begin, i - begin};
    }
    return n_words;
}

static err take_word(struct word w, size_t least, size_t cap, const char *what, char *out) {
    if (w.n < least || w.n >= cap)
        return err_set(ERR_CONFIG, "the %s has %zu characters, not %zu to %zu", what, w.n, least, cap - 1);
    for (size_t i = 0; i < w.n; i++)
        if (w.text[i] <= ' ' || w.text[i] > '~')
            return err_set(ERR_CONFIG, "the %s has a character that is not visible ASCII", what);
    memcpy(out, w.text, w.n);
    return OK;
}

static err take_priority(struct word w, int *out) {
    char text[8] = "";
    uint64_t value;
    if (w.n < sizeof text) memcpy(text, w.text, w.n);
    if (w.n >= sizeof text || strlen(text) != w.n ||
        config_parse_whole(text, 0, KEY_PRIORITY_MAX, &value) != OK)
        return err_set(ERR_CONFIG, "the priority is no whole number from 0 to %d", KEY_PRIORITY_MAX);
    *out = (int)value;
    return OK;
}

/* Messages name the owner of a key, never the key. */
static err add_line(struct keys *k, const char *line, size_t n) {
    struct word words[4];
    size_t n_words = split(line, n, words);
    if (n_words == 0) return OK;
    if (n_words == 1 || n_words == 4)
        return err_set(ERR_CONFIG, "expected NAME KEY [PRIORITY], found %s", n_words == 1 ? "one word" : "more");
    if (k->n == KEYS_MAX) return err_set(ERR_CONFIG, "more than %d keys", KEYS_MAX);
    struct key *new = &k->items[k->n];
    memset(new, 0, sizeof *new);
    TRY(take_word(words[0], 1, KEY_NAME_BYTES, "name", new->name));
    TRY(take_word(words[1], KEY_LEAST_BYTES, KEY_BYTES, "key", new->key));
    if (n_words == 3) TRY(take_priority(words[2], &new->priority));
    for (size_t i = 0; i < k->n; i++) {
        if (strcmp(k->items[i].name, new->name) == 0)
            return err_set(ERR_CONFIG, "the name '%s' is there twice", new->name);
        if (strcmp(k->items[i].key, new->key) == 0)
            return err_set(ERR_CONFIG, "'%s' has the key of '%s'", new->name, k->items[i].name);
    }
    k->n++;
    return OK;
}

static err reserve(struct keys *k) {
    if (k->n < k->cap) return OK;
    struct key *grown = mem_resized(k->items, k->cap ? 2 * k->cap : 16, sizeof *grown);
    if (!grown) return ERR_MEMORY;
    k->items = grown;
    k->cap = k->cap ? 2 * k->cap : 16;
    return OK;
}

err keys_parse(const char *path, const char *text, size_t n, struct keys **out) {
    struct keys *k;
    TRY(NEW(k, 1));
    err e = OK;
    unsigned line = 1;
    for (size_t at = 0; at < n && e == OK; line++) {
        const char *end = memchr(text + at, '\n', n - at);
        size_t len = end ? (size_t)(end - text) - at : n - at;
        e = reserve(k);
        if (e == OK && (e = add_line(k, text + at, len)) != OK) err_context(e, "%s:%u", path, line);
        at += len + 1;
    }
    if (e == OK && k->n == 0) e = err_set(ERR_CONFIG, "%s: there is no key in it", path);
    if (e == OK) *out = k;
    else keys_free(k);
    return e;
}

err keys_load(const char *path, struct keys **out) {
    struct bytes text = {0};
    err e = bytes_read_file(&text, path);
    if (e == OK) e = keys_parse(path, (const char *)text.data, text.len, out);
    else if (e == ERR_FILE) e = err_context(ERR_CONFIG, "api_keys");
    if (text.data) explicit_bzero(text.data, text.len);
    bytes_free(&text);
    return e;
}

void keys_free(struct keys *k) {
    if (!k) return;
    if (k->items) explicit_bzero(k->items, k->cap * sizeof *k->items);
    free(k->items);
    free(k);
}

/* ---- looking up ---- */

/* All bytes of all keys are looked at, whatever was asked for. */
int keys_find(const struct keys *k, const char *key, size_t n) {
    char asked[KEY_BYTES] = {0};
    if (n == 0 || n >= sizeof asked || memchr(key, 0, n)) return -1;
    memcpy(asked, key, n);
    int found = -1;
    for (size_t i = 0; i < k->n; i++) {
        unsigned differs = 0;
        for (size_t b = 0; b < sizeof asked; b++)
            differs |= (unsigned)((unsigned char)asked[b] ^ (unsigned char)k->items[i].key[b]);
        unsigned mask = 0u - ((differs - 1) >> 31); /* all bits where nothing differs, else 0 */
        found = (int)(((unsigned)i & mask) | ((unsigned)found & ~mask));
    }
    return found;
}

const char *keys_name(const struct keys *k, uint32_t index) { return k->items[index].name; }
int keys_priority(const struct keys *k, uint32_t index) { return k->items[index].priority; }
