/* The command line of one command: its own options and, by group, every key of
 * the configuration as a flag. Parses, explains (--help) and suggests. */
#ifndef COORDINATOR_OPTIONS_H
#define COORDINATOR_OPTIONS_H

#include <stddef.h>
#include <stdint.h>

#include "base/config.h"
#include "base/err.h"

enum option_kind {
    OPTION_SWITCH, /* int *target = 1 */
    OPTION_TEXT,   /* const char **target */
    OPTION_WHOLE,  /* uint64_t *target */
    OPTION_REAL,   /* double *target */
    OPTION_LIST    /* struct option_texts *target: may be given again */
};

struct option {
    const char *name; /* without -- */
    enum option_kind kind;
    void *target;
    const char *value; /* what --help calls the value */
    const char *help;
    double least, most; /* OPTION_WHOLE and OPTION_REAL */
};

#define OPTION_TEXTS_MAX 16
struct option_texts {
    const char *texts[OPTION_TEXTS_MAX];
    size_t n;
};

struct option_set {
    const char *usage;  /* "generate MODEL [flags]" */
    const char *about;  /* sentences for --help */
    unsigned groups;    /* of config keys; 0: no file of them either */
    const struct option *own;
    size_t n_own;
    size_t n_words; /* words that are no flags: at most so many */
};

#define OPTION_WORDS_MAX 4
struct option_result {
    const char *words[OPTION_WORDS_MAX];
    size_t n_words;
    int is_help; /* --help was printed: nothing more to do */
};

/* Fills `c` (defaults, --config FILE, flags) and the targets. A first word FILE.cfg is the
 * same as --config FILE.cfg: the model may be named there. ERR_USAGE or ERR_CONFIG.
 * argv[0] is the command's name. */
err options_parse(const struct option_set *set, int argc, char **argv,
                  struct config *c, struct option_result *out);

/* The word of `words` [n] most like `word`, or NULL when none is near. */
const char *options_suggest(const char *word, const char *const *words, size_t n);

#endif
