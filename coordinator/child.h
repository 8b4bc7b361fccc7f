/* A child program: runs to its end or to a deadline, its output is kept. It ends with this process, however
 * that ends. For programs that are compared with ours; the job has a launcher of its own (supervisor.h). */
#ifndef COORDINATOR_CHILD_H
#define COORDINATOR_CHILD_H

#include "base/err.h"
#include "base/mem.h"

struct child_output {
    struct bytes out;     /* standard output, NUL-terminated */
    char last_words[160]; /* the last line of standard error */
};

/* Runs argv (NULL-terminated; a name without a slash is looked for on the PATH) without standard input.
 * end_signal: what it gets where this process dies first (SIGTERM lets it clean up). ERR_FILE where it
 * cannot be started, ERR_TIMEOUT where it was ended at the deadline, ERR_JOB where it failed: the text says how,
 * without the program's name. */
err child_run(const char *const *argv, double deadline_s, int end_signal, struct child_output *out);
void child_output_free(struct child_output *o);

/* Whether a program of this name or path can be run; `path` gets where it is. */
int child_find(const char *name, char *path, size_t cap);

#endif
