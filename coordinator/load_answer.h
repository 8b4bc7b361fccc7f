/* What a server says to one completion: a stream of server-sent events, one `data:` line of JSON each, up to
 * `data: [DONE]`; or something else, with the reason. Takes bytes as they come. Pure. */
#ifndef COORDINATOR_LOAD_ANSWER_H
#define COORDINATOR_LOAD_ANSWER_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

#define LOAD_PROBLEM_BYTES 200

enum load_problem {
    LOAD_NO_PROBLEM,
    LOAD_REFUSED,   /* an HTTP status that is not 200 */
    LOAD_ERROR,     /* an error within the stream */
    LOAD_MALFORMED, /* no event stream */
    LOAD_CUT_SHORT  /* the stream ended without its end */
};

/* Zeroed is empty. */
struct load_answer {
    struct bytes line; /* not ended yet */
    struct bytes text; /* of the answer */
    uint32_t n_chunks; /* events with text */
    uint32_t n_prompt, n_cached, n_answer; /* tokens, as the server counts them */
    int has_usage, is_done;
    enum load_problem problem;
    char reason[LOAD_PROBLEM_BYTES]; /* of a problem */
};

err load_answer_take(struct load_answer *a, int status, const void *data, size_t n);
/* No more comes: sets `problem` where the answer is not whole. */
void load_answer_end(struct load_answer *a, int status);
/* For the next answer; keeps memory. */
void load_answer_reset(struct load_answer *a);
void load_answer_free(struct load_answer *a);

#endif
