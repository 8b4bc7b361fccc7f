#include "coordinator/lines.h"

#include <errno.h>
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#include "base/clock.h"
#include "base/env.h"

#define TEXT_BYTES_MAX (16u << 20)
#define HISTORY_LINES 1000
#define PASTE_US 20000 /* nobody types the next line so soon */
#define ESCAPE "\1"    /* around what takes no room in a prompt */

struct lines {
    struct lines_options o;
    EditLine *edit; /* NULL: no terminal */
    History *history;
    struct bytes history_path;
    char prompt[64], more[64];
    int is_more;
};

int lines_is_terminal(const struct lines *l) { return l->edit != NULL; }

/* ---- the terminal ---- */

static char *prompt_of(EditLine *edit) {
    struct lines *l;
    el_get(edit, EL_CLIENTDATA, &l);
    return l->is_more ? l->more : l->prompt;
}

/* One character; unlike libedit's own it gives up when a signal came. */
static int read_character(EditLine *edit, wchar_t *out) {
    struct lines *l;
    mbstate_t state = {0};
    el_get(edit, EL_CLIENTDATA, &l);
    for (;;) {
        char byte;
        if (l->o.is_interrupted()) return -1;
        ssize_t n = read(STDIN_FILENO, &byte, 1);
        if (n == 0) return 0;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        size_t done = mbrtowc(out, &byte, 1, &state);
        if (done == (size_t)-1) memset(&state, 0, sizeof state); /* no character: passed over */
        else if (done != (size_t)-2) return 1;
    }
}

static void put_prompt(char *out, size_t cap, const char *text, int has_colours) {
    if (has_colours)
        snprintf(out, cap, ESCAPE "\033[1;32m" ESCAPE "%s" ESCAPE "\033[0m" ESCAPE, text);
    else
        snprintf(out, cap, "%s", text);
}

/* ---- history: $XDG_STATE_HOME/caravan/chat_history, or below ~/.local/state ---- */

static err history_place(struct bytes *out) {
    const char *state = env_get("XDG_STATE_HOME"), *home = env_get("HOME");
    if (state && *state == '/') return bytes_printf(out, "%s/caravan/chat_history", state);
    if (home && *home) return bytes_printf(out, "%s/.local/state/caravan/chat_history", home);
    return OK;
}

static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0700); /* one that is there is as good; saving says if it is not */
        *slash = '/';
    }
}

static err history_open(struct lines *l) {
    HistEvent event;
    l->history = history_init();
    if (!l->history) return err_set(ERR_MEMORY, "not enough memory for the history");
    history(l->history, &event, H_SETSIZE, HISTORY_LINES);
    history(l->history, &event, H_SETUNIQUE, 1);
    TRY(history_place(&l->history_path));
    if (!l->history_path.len) return OK;
    make_folders((char *)l->history_path.data);
    history(l->history, &event, H_LOAD, (const char *)l->history_path.data); /* none yet: an empty one */
    return OK;
}

static err terminal_open(struct lines *l) {
    setlocale(LC_CTYPE, "C.UTF-8"); /* models speak UTF-8 whatever the environment says */
    TRY(history_open(l));
    l->edit = el_init("caravan", stdin, stdout, stderr);
    if (!l->edit) return err_set(ERR_FILE, "cannot edit lines on this terminal");
    put_prompt(l->prompt, sizeof l->prompt, l->o.prompt, l->o.has_colours);
    put_prompt(l->more, sizeof l->more, l->o.more, l->o.has_colours);
    el_set(l->edit, EL_CLIENTDATA, l);
    el_set(l->edit, EL_PROMPT_ESC, prompt_of, *ESCAPE);
    el_set(l->edit, EL_EDITOR, "emacs");
    el_set(l->edit, EL_HIST, history, l->history);
    el_set(l->edit, EL_GETCFN, read_character);
    el_source(l->edit, NULL); /* a person's own keys */
    return OK;
}

err lines_open(const struct lines_options *o, struct lines **out) {
    struct lines *l;
    TRY(NEW(l, 1));
    l->o = *o;
    err e = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO) ? terminal_open(l) : OK;
    if (e != OK) {
        lines_close(l);
        return e;
    }
    *out = l;
    return OK;
}

void lines_close(struct lines *l) {
    if (!l) return;
    HistEvent event;
    if (l->history && l->history_path.len)
        history(l->history, &event, H_SAVE, (const char *)l->history_path.data); /* lost where it cannot be kept */
    if (l->edit) el_end(l->edit);
    if (l->history) history_end(l->history);
    bytes_free(&l->history_path);
    free(l);
}

/* ---- lines ---- */

static err too_long(void) { return err_set(ERR_REQUEST, "a text of over %u MiB", TEXT_BYTES_MAX >> 20); }

static err edit_line(struct lines *l, struct bytes *out, enum lines_end *end) {
    int n = 0;
    HistEvent event;
    el_resize(l->edit);
    const char *line = el_gets(l->edit, &n);
    *end = l->o.is_interrupted() ? LINES_INTERRUPTED : line && n > 0 ? LINES_TEXT : LINES_OVER;
    if (*end != LINES_TEXT) {
        printf("\n");
        return OK;
    }
    if (line[0] != '\n') history(l->history, &event, H_ENTER, line);
    if (line[n - 1] == '\n') n--;
    if (out->len + (size_t)n > TEXT_BYTES_MAX) return too_long();
    return bytes_append(out, line, (size_t)n);
}

static err pipe_line(struct lines *l, struct bytes *out, enum lines_end *end) {
    int c, n = 0;
    *end = LINES_TEXT;
    for (; (c = getc(stdin)) != '\n'; n++) {
        if (c == EOF && errno == EINTR && ferror(stdin) && !l->o.is_interrupted()) {
            clearerr(stdin);
            continue;
        }
        if (c == EOF) {
            if (n == 0 || l->o.is_interrupted()) *end = l->o.is_interrupted() ? LINES_INTERRUPTED : LINES_OVER;
            return OK;
        }
        if (out->len >= TEXT_BYTES_MAX) return too_long();
        TRY(bytes_append(out, &(char){(char)c}, 1));
    }
    if (n && out->data[out->len - 1] == '\r') out->data[--out->len] = 0;
    return OK;
}

/* Whether more lines are there already: they came with the last one. */
static int is_pasted(void) {
    int n = 0;
    clock_sleep_us(PASTE_US);
    return ioctl(STDIN_FILENO, FIONREAD, &n) == 0 && n > 0;
}

/* Whether the text goes on; takes the backslash that says so. */
static int goes_on(struct lines *l, struct bytes *text) {
    if (text->len && text->data[text->len - 1] == '\\') {
        text->data[--text->len] = 0;
        return 1;
    }
    return l->edit && text->len && text->data[0] != '/' && is_pasted();
}

err lines_next(struct lines *l, struct bytes *out, enum lines_end *end) {
    out->len = 0;
    TRY(bytes_append_str(out, ""));
    for (l->is_more = 0;; l->is_more = 1) {
        TRY(l->edit ? edit_line(l, out, end) : pipe_line(l, out, end));
        if (*end == LINES_INTERRUPTED) return OK;
        if (*end == LINES_OVER) {
            if (l->is_more) *end = LINES_TEXT; /* what there is of it */
            return OK;
        }
        if (!goes_on(l, out)) return OK;
        TRY(bytes_append(out, "\n", 1));
    }
}
