/* Lines: what a person writes, with editing and history on a terminal (libedit),
 * or what a pipe brings. One thread. The only user of libedit. */
#ifndef COORDINATOR_LINES_H
#define COORDINATOR_LINES_H

#include "base/err.h"
#include "base/mem.h"

struct lines;

struct lines_options {
    const char *prompt, *more;      /* before a text, and before its further lines; on a terminal only */
    int has_colours;
    int (*is_interrupted)(void);    /* whether a signal came: a wait for input ends then */
};

/* Standard input. Where it is a terminal, so must standard output be. */
err lines_open(const struct lines_options *o, struct lines **out);
void lines_close(struct lines *l); /* keeps the history */
int lines_is_terminal(const struct lines *l);

enum lines_end { LINES_TEXT, LINES_INTERRUPTED, LINES_OVER };

/* One text, without its last line end: a line; where it ends with a backslash, the next one too; where lines were
 * pasted on a terminal, all of them (unless the first begins with a slash: commands are single lines).
 * ERR_REQUEST: over 16 MiB. */
err lines_next(struct lines *l, struct bytes *out, enum lines_end *end);

#endif
