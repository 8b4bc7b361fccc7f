/* Sequence: one text being generated, or one being embedded. Knows what it wants of
 * a step's rows, takes the results, edits logits by its history, and knows when to
 * stop. Pure state: the scheduler decides when its rows travel, and may compute them again. One thread. */
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

/* What becomes of the last hidden states, where no text is asked for. */
enum sequence_pooling { SEQUENCE_POOL_NONE, SEQUENCE_POOL_MEAN, SEQUENCE_POOL_LAST };

struct sequence_options {
    const struct tokenizer *tokenizer; /* NULL: no text, no end token */
    const int32_t *prompt;             /* [n_prompt], at least one; copied */
    size_t n_prompt;
    uint32_t n_vocab;
    uint32_t context;    /* prompt and answer together; n_prompt < context, or <= where max_tokens is 0 */
    uint32_t max_tokens; /* of the answer; 0: only the prompt's scores or its embedding */
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed;
    float repeat_penalty;                      /* of tokens of prompt and answer */
    float presence_penalty, frequency_penalty; /* of tokens of the answer */
    const struct sequence_bias *biases;        /* [n_biases]; copied */
    size_t n_biases;
    const char *const *stops; /* [n_stops] texts that end the answer; copied */
    size_t n_stops;
    int ignores_end;          /* end tokens do not end the answer */
    uint32_t n_top;           /* most probable tokens beside each one, at most TOP_LOGPROBS_MAX */
    int scores_answer;        /* the log-probability of every token of the answer */
    int scores_prompt;        /* and of the prompt */
    enum sequence_pooling pooling;
    uint32_t dim;             /* of a hidden state, where pooled */
};

/* ERR_REQUEST: what is wrong with the options. */
err sequence_create(const struct sequence_options *o, struct sequence **out);
void sequence_free(struct sequence *s);

/* The owner's own; NULL at first. */
void sequence_set_owner(struct sequence *s, void *owner);
void *sequence_owner(const struct sequence *s);

/* ---- for the scheduler ---- */

/* Prompt and answer so far: the rows there are. */
const int32_t *sequence_rows(const struct sequence *s, size_t *n);
size_t sequence_n_prompt(const struct sequence *s);
/* Rows [0, n) give nothing that is still wanted: they need not be computed if their KV blocks are known.
 * Always less than the number of rows. */
size_t sequence_n_skippable(const struct sequence *s);
/* Outputs and edits that rows [begin, end) want. */
void sequence_wants(const struct sequence *s, size_t begin, size_t end, uint32_t *n_outs, uint32_t *n_edits);
/* Fills them; row `begin` is row `first_row` of the step, its edits begin at `edit_begin` of the step's. */
void sequence_want(struct sequence *s, size_t begin, size_t end, uint32_t first_row, uint32_t edit_begin,
                   struct step_out *outs, struct step_edit *edits);
/* What came of rows [begin, end): outputs [out_begin, ...) of `r`, as many as it wanted, and hidden states
 * [hidden_begin, ...). Rows are taken in order, and none are wanted again before those given out are taken or
 * dropped. ERR_REQUEST: the edits left no token to choose. */
err sequence_take(struct sequence *s, size_t begin, size_t end, const struct result *r, uint32_t out_begin,
                  uint32_t hidden_begin);
/* n more rows of the prompt were not computed, since their blocks were known. */
void sequence_count_cached(struct sequence *s, size_t n);
/* The scheduler's own; NULL at first. */
void sequence_set_place(struct sequence *s, void *place);
void *sequence_place(const struct sequence *s);

/* ---- for who asked ---- */

enum sequence_finish {
    SEQUENCE_RUNS,
    SEQUENCE_STOP,  /* an end token or a stop text */
    SEQUENCE_LENGTH /* max_tokens, or the context is full */
};
enum sequence_finish sequence_finish(const struct sequence *s);

/* Tokens of the prompt that were not computed, since their blocks were known. */
size_t sequence_n_cached(const struct sequence *s);

/* Tokens chosen so far, an end token included. */
const int32_t *sequence_tokens(const struct sequence *s, size_t *n);

/* A token with its natural log-probability (NAN: not asked for, or the first of a prompt) and the most probable
 * ones in its place, the best first. */
struct token_score {
    int32_t token;
    float logprob;
    uint32_t n_top;
    struct result_top top[TOP_LOGPROBS_MAX];
};
/* Of the newest token of the answer; there is one. */
const struct token_score *sequence_score(const struct sequence *s);
/* Of the prompt's tokens that are scored so far, in order: [n] of n_prompt, where asked for. */
const struct token_score *sequence_prompt_scores(const struct sequence *s, size_t *n);
/* The pooled hidden state [dim], once finished; not normalised. Sums are in double, in order of rows. */
const float *sequence_embedding(const struct sequence *s);

/* The answer's text so far, whole characters, without what follows a stop text or might yet
 * become one. Only ever grows. */
const char *sequence_text(const struct sequence *s, size_t *n);

/* How much of text[0, n) may be shown: up to the first stop text that ends after
 * byte `from` (*is_stopped), else without the tail that begins one. */
size_t stops_visible(const char *text, size_t n, size_t from, const char *const *stops,
                     size_t n_stops, int *is_stopped);

#endif
