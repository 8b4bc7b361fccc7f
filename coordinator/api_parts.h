/* What the files of the API share; nobody else includes it.
 *
 * A request becomes an answer (struct api_answer) with one choice per text that is asked for; each choice is one
 * request of the service, found again by its id when events come. A form (struct api_form) says how choices look
 * as JSON: completions and chat differ in nothing else once they run. */
#ifndef COORDINATOR_API_PARTS_H
#define COORDINATOR_API_PARTS_H

#include <stdint.h>

#include <jansson.h>

#include "base/mem.h"
#include "coordinator/api.h"
#include "coordinator/api_read.h"

#define API_BUCKETS 1024    /* of the table of choices that run */
#define API_STOPS_MAX 16
#define API_BIASES_MAX 1024

/* Codes that clients look for. */
#define API_NO_MODEL "model_not_found"
#define API_TOO_LONG "context_length_exceeded"

struct api_answer;
struct api_choice;

struct api {
    struct api_options o;
    uint32_t context;           /* positions of a sequence */
    uint32_t n_vocab;           /* tokens a client may name */
    size_t token_bytes_max;     /* of a token's text; 0: not known to bound a prompt */
    char model[256];            /* as /v1/models calls it */
    uint64_t instance;          /* random: answers of two runs have different ids */
    uint64_t n_answers;         /* so far */
    int64_t created_s;          /* since 1970 */
    struct api_choice *running[API_BUCKETS]; /* by id of the service */
    struct api_answer *answers;              /* all under way */
};

/* ---- errors (api.c) ---- */

/* Answers with err_text(): the status that `e` means, the fault's field and code. */
void api_fail(struct exchange *x, err e, const struct api_fault *f);
/* A whole answer; takes `root` (NULL: memory ran out). */
void api_reply(struct exchange *x, int status, json_t *root);

/* ---- what a request asks for (api_params.c) ---- */

struct api_params {
    int64_t n, best_of;
    int64_t max_tokens;         /* of each answer; -1: not said */
    uint32_t tokens_unless_asked; /* then; 0: as many as there is room for */
    uint32_t tokens_least;      /* that may be asked for */
    int is_stream, has_usage;   /* has_usage: of a stream */
    int has_scores;             /* log-probabilities of tokens */
    int is_echo;                /* the prompt goes before the answer */
    enum sequence_pooling pooling;
    int is_normalised, is_base64; /* of embeddings */
    struct sequence_options sequence; /* how tokens are chosen; prompt and lengths are filled in later */
    struct sequence_bias biases[API_BIASES_MAX];
    const char *stops[API_STOPS_MAX]; /* belong to the request's JSON */
};

/* What completions and chat have in common. `max_names`: names of the field for the length, NULL at the end. */
err api_read_params(struct api *a, struct api_fault *f, const json_t *root, const char *const *max_names,
                    struct api_params *p);
/* "model": ours, or not given. */
err api_check_model(struct api *a, struct api_fault *f, const json_t *root);
/* Refuses fields that other servers know and this one cannot do, rather than to ignore what they ask for. */
err api_refuse_unknown(struct api_fault *f, const json_t *root);

/* ---- prompts (api_prompt.c) ---- */

struct api_prompt {
    struct token_list tokens;
    const char *given; /* the text as it was sent, belongs to the request's JSON; NULL: it came as tokens */
    struct bytes text; /* what echo shows */
    uint32_t max_tokens; /* of an answer to it */
};

/* The prompts of field `name`: a string, tokens, or an array of either. At most n_max. */
err api_read_prompts(struct api *a, struct api_fault *f, const json_t *root, const char *name, size_t n_max,
                     struct api_prompt **out, size_t *n);
/* Refuses a text of n bytes that can never fit, before it costs time. */
err api_check_bytes(struct api *a, struct api_fault *f, const char *name, size_t n);
/* Appends the tokens of a text. */
err api_encode(struct api *a, struct api_fault *f, const char *name, const char *text, size_t n, int add_special,
               struct token_list *out);
void api_prompts_free(struct api_prompt *prompts, size_t n);
/* Fills what echo shows: the text as it was sent; of tokens also the control tokens, but not a first BOS. */
err api_prompt_show(struct api *a, struct api_prompt *p);
/* Whether prompt and answer fit the context; settles max_tokens of this prompt. */
err api_check_length(struct api *a, struct api_fault *f, const char *name, size_t n_prompt,
                     const struct api_params *p, uint32_t *max_tokens);

/* ---- answers under way (api_answer.c) ---- */

/* What is to be written of a choice: all of it, or what is new. */
struct api_piece {
    const char *text;
    size_t n_text;
    const struct token_score *scores; /* [n_scores] */
    size_t n_scores;
    const char *finish;               /* "stop", "length", or NULL: not yet */
    int is_whole, is_first;
};

struct api_form {
    const char *id_prefix, *object, *chunk_object;
    json_t *(*write_choice)(struct api_choice *c, const struct api_piece *p); /* a new reference */
};
extern const struct api_form api_completion_form, api_chat_form;

struct api_choice {
    struct api_answer *answer;
    struct api_choice *next;  /* in the table */
    uint64_t id;              /* of the service */
    uint32_t index;           /* as the client sees it */
    const struct api_prompt *prompt;
    int is_running, has_begun, has_written; /* has_written: a piece of a stream */
    int64_t last_us;          /* when its newest token came; 0: none yet */
    struct bytes text;        /* not written yet; of an embedding its JSON */
    struct token_score *scores;
    size_t n_scores, cap_scores;
    size_t n_written;         /* scores that were written before these */
    struct token_stream place; /* shows where in the text each scored token begins */
    size_t n_place_chars;
    double logprob_sum;
    enum sequence_finish finish;
    uint32_t n_prompt, n_cached, n_answer;
};

struct api_answer {
    struct api *api;
    struct exchange *x;
    struct api_answer *next, *previous;
    const struct api_form *form; /* NULL: embeddings */
    struct api_params params;
    struct api_prompt *prompts;
    size_t n_prompts;
    struct api_choice *choices; /* [n_choices], those of one prompt together */
    size_t n_choices, n_submitted, n_running, n_done;
    int64_t begin_us;
    int64_t created_s;
    char id[64];
};

/* Takes the prompts, submits every choice and makes the answer x's owner. On error nothing is left. `name` is the
 * field that the prompts came from. */
err api_answer_start(struct api *a, struct exchange *x, struct api_fault *f, const struct api_form *form,
                     const struct api_params *p, const char *name, struct api_prompt *prompts, size_t n_prompts);
/* Cancels what runs and forgets the answer; its exchange has no owner then. */
void api_answer_free(struct api_answer *w);
/* Gives an event to its choice; an event that is nobody's any more is dropped. */
void api_answer_event(struct api *a, struct service_event *e);

/* ---- writing (api_write.c, api_scores.c) ---- */

/* What of a choice is not out yet, as one event of a stream; nothing where there is nothing to show. */
void api_write_piece(struct api_choice *c, const char *finish);
/* The end of a stream, or the whole answer. */
void api_write_end(struct api_answer *w);
const char *api_finish_name(enum sequence_finish finish);

/* "logprobs" of completions and of chat. New references. */
json_t *api_completion_scores(struct api_choice *c, const struct token_score *scores, size_t n);
json_t *api_chat_scores(struct api_choice *c, const struct token_score *scores, size_t n);

/* ---- routes: each answers, or returns why not ---- */

err api_completions(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_chat(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_embeddings(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
/* Takes the values of an embedding, which change. */
err api_take_embedding(struct api_choice *c, float *values, uint32_t n);
void api_write_embeddings(struct api_answer *w);
err api_tokenize(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_detokenize(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_models(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_health(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_ready(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_metrics(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_page(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);
err api_cluster(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f);

#endif
