/* Streams: texts that are read and written side by side on a job, for benchmarks. Each is a prompt of its own, or
 * blocks would be shared; greedy, of a fixed length. One thread. */
#ifndef COORDINATOR_STREAMS_H
#define COORDINATOR_STREAMS_H

#include <stdint.h>

#include "coordinator/engine.h"

#define STREAMS_MAX 64

/* How far they are. */
struct streams_state {
    uint32_t n_begun; /* that have a first token */
    uint64_t n_since; /* tokens since all have */
    uint32_t n_most;  /* tokens of the stream that has the most */
};

struct streams {
    struct engine *engine;
    uint32_t n, n_prompt, n_tokens; /* streams; tokens that each reads and writes */
    uint32_t rows_max, n_vocab;     /* rows_max: of a step */
    const int32_t *tokens;          /* [n + n_prompt] stream i reads from i on */
    int64_t *times_us;              /* [n * n_tokens + 2] when they began, when all had a first token, and when each
                                       token since came */
    /* After every result; may be NULL. */
    err (*on_result)(void *context, const struct streams_state *s);
    void *context;
    struct streams_state state;     /* out */
};

/* From the first row of the prompts to the last token. */
err streams_run(struct streams *s);

/* Tokens [n] of prompts that are all different. */
void streams_fill(int32_t *tokens, uint32_t n, uint32_t n_vocab);

#endif
