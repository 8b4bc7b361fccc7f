/* Sequence: one text being generated. Gives steps (the prompt in pieces, then
 * one token at a time), takes results, edits logits by its history, and knows
 * when to stop. Pure state: whoever owns it moves the steps. One thread.
 *
 *     while (sequence_finish(s) == SEQUENCE_RUNS) {
 *         while (fewer steps under way than the engine holds, and sequence_next gives one) submit it
 *         sequence_commit(s, the oldest result)
 *     }
 */
#ifndef COORDINATOR_SEQUENCE_H
#define COORDINATOR_SEQUENCE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/tokenizer.h"
#include "node/frame.h"

struct sequence;

struct sequence_bias {
    int32_t token;
    float bias; /* added to the logit; -inf forbids */
};

struct sequence_options {
    const struct tokenizer *tokenizer; /* NULL: no text, no end token */
    const int32_t *prompt;             /* [n_prompt], at least one; copied */
    size_t n_prompt;
    uint32_t n_vocab;
    uint32_t context;    /* prompt and answer together; n_prompt < context */
    uint32_t max_tokens; /* of the answer */
    uint32_t rows_max;   /* of a step */
    uint32_t block_begin; /* its KV blocks follow each other from here */
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    float repeat_penalty;                      /* of tokens of prompt and answer */
    float presence_penalty, frequency_penalty; /* of tokens of the answer */
    const struct sequence_bias *biases;        /* [n_biases] */
    size_t n_biases;
    const char *const *stops; /* [n_stops] texts that end the answer; must outlive it */
    size_t n_stops;
    int ignores_end; /* end tokens do not end the answer */
};

err sequence_create(const struct sequence_options *o, struct sequence **out);
void sequence_free(struct sequence *s);

/* The next step, if one may start before more results come: *has_step. Its
 * arrays are valid until the next call. */
err sequence_next(struct sequence *s, struct step *out, int *has_step);
/* The result of the oldest step that has none yet. */
err sequence_commit(struct sequence *s, const struct result *r);

enum sequence_finish {
    SEQUENCE_RUNS,
    SEQUENCE_STOP,  /* an end token or a stop text */
    SEQUENCE_LENGTH /* max_tokens, or the context is full */
};
enum sequence_finish sequence_finish(const struct sequence *s);

/* Tokens chosen so far, an end token included. */
const int32_t *sequence_tokens(const struct sequence *s, size_t *n);

/* The answer's text so far, whole characters, without what follows a stop text or might yet
 * become one. Only ever grows. */
const char *sequence_text(const struct sequence *s, size_t *n);

/* How much of text[0, n) may be shown: up to the first stop text that ends after
 * byte `from` (*is_stopped), else without the tail that begins one. */
size_t stops_visible(const char *text, size_t n, size_t from, const char *const *stops,
                     size_t n_stops, int *is_stopped);

#endif
