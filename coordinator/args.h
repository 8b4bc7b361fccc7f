/* Args: the argument list of a program that this one starts. Plain data; the owner zeroes it but for
 * `what` and `full`, and calls args_free. */
#ifndef COORDINATOR_ARGS_H
#define COORDINATOR_ARGS_H

#include <stddef.h>

#include "base/err.h"
#include "base/mem.h"

#define ARGS_MAX 127

struct args {
    const char *what;   /* who gives too many, for the message: "mpirun_args" */
    err full;           /* the code of it */
    struct bytes text;  /* the arguments, each with its NUL */
    size_t at[ARGS_MAX]; /* where in it they begin: it moves as it grows */
    size_t n;
    char *list[ARGS_MAX + 1];
};

err args_add(struct args *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Words parted by any of the separators. */
err args_add_words(struct args *a, const char *words, const char *separators);
/* NULL-terminated, as execv() takes it; lasts until the next change of a. */
char **args_list(struct args *a);
void args_free(struct args *a);

#endif
