#include "coordinator/sequence.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/u64map.h"
#include "model/limits.h"

/* What is known of one token of the vocabulary, for edits. */
struct mark {
    int32_t token;
    uint32_t n_answer; /* times in the answer */
    float bias;
    int is_seen; /* in prompt or answer */
};

struct sequence {
    struct sequence_options o; /* prompt and biases are not kept, stops are its own */
    void *owner, *place;
    int32_t *tokens; /* [cap_tokens] prompt, then answer */
    size_t n_prompt, n_tokens, cap_tokens, n_cached;
    size_t n_rows_taken; /* rows of the prompt whose scores or hidden states came */
    enum sequence_finish finish;
    /* Edits: tokens that have a mark, in order of appearance. */
    int has_edits;
    struct mark *marks; /* [cap_marks] */
    uint32_t n_marks, cap_marks;
    struct u64map mark_of; /* token -> index */
    struct token_score newest;
    struct token_score *prompt_scores; /* [n_prompt], where asked for */
    double *sum;                       /* [dim], where pooled by mean */
    float *embedding;                  /* [dim], where pooled */
    struct token_stream stream;
    struct bytes text;
    size_t n_visible;
};

/* ---- stop texts ---- */

static size_t stop_find(const char *text, size_t n, size_t from, const char *stop) {
    size_t len = strlen(stop), begin = from > len ? from - len : 0;
    const char *at = len && n > begin ? memmem(text + begin, n - begin, stop, len) : NULL;
    return at ? (size_t)(at - text) : n;
}

/* The longest tail of text that begins `stop`. */
static size_t stop_tail(const char *text, size_t n, const char *stop) {
    size_t len = strlen(stop), most = len ? len - 1 : 0;
    for (size_t tail = most < n ? most : n; tail > 0; tail--)
        if (memcmp(text + n - tail, stop, tail) == 0) return tail;
    return 0;
}

size_t stops_visible(const char *text, size_t n, size_t from, const char *const *stops,
                     size_t n_stops, int *is_stopped) {
    size_t first = n, tail = 0;
    for (size_t i = 0; i < n_stops; i++) {
        size_t at = stop_find(text, n, from, stops[i]);
        if (at < first) first = at;
        size_t held = stop_tail(text, n, stops[i]);
        if (held > tail) tail = held;
    }
    *is_stopped = first < n;
    return first < n ? first : n - tail;
}

/* ---- edits ---- */

static int needs_edits(const struct sequence_options *o) {
    return o->n_biases || o->repeat_penalty != 1 || o->presence_penalty != 0 ||
           o->frequency_penalty != 0;
}

/* Only tokens that appear have a mark: a vocabulary per sequence would be large. */
static err mark_get(struct sequence *s, int32_t token, struct mark **out) {
    uint64_t at = u64map_find(&s->mark_of, (uint64_t)token, s->n_marks);
    if (at == s->n_marks) {
        if (s->n_marks == s->cap_marks) {
            uint32_t cap = s->cap_marks ? 2 * s->cap_marks : 64;
            struct mark *grown = mem_resized(s->marks, cap, sizeof *grown);
            if (!grown) return ERR_MEMORY;
            s->marks = grown;
            s->cap_marks = cap;
        }
        TRY(u64map_add(&s->mark_of, (uint64_t)token, at));
        s->marks[s->n_marks++] = (struct mark){.token = token};
    }
    *out = &s->marks[at];
    return OK;
}

static err mark_seen(struct sequence *s, int32_t token, uint32_t n_answer) {
    struct mark *m;
    if (!s->has_edits) return OK;
    TRY(mark_get(s, token, &m));
    m->is_seen = 1;
    m->n_answer += n_answer;
    return OK;
}

static void edits_fill(const struct sequence *s, struct step_edit *edits) {
    for (uint32_t i = 0; i < s->n_marks; i++) {
        const struct mark *m = &s->marks[i];
        float subtract = (float)m->n_answer * s->o.frequency_penalty;
        if (m->n_answer) subtract += s->o.presence_penalty;
        edits[i] = (struct step_edit){m->token, m->bias, m->is_seen ? s->o.repeat_penalty : 1, subtract};
    }
}

static err edits_create(struct sequence *s, const struct sequence_options *o) {
    struct mark *m;
    s->has_edits = needs_edits(o);
    for (size_t i = 0; i < o->n_biases; i++) {
        TRY(mark_get(s, o->biases[i].token, &m));
        m->bias = o->biases[i].bias;
    }
    for (size_t i = 0; i < o->n_prompt; i++) TRY(mark_seen(s, o->prompt[i], 0));
    return OK;
}

/* ---- creation ---- */

static err check_sizes(const struct sequence_options *o) {
    if (o->n_prompt == 0) return err_set(ERR_REQUEST, "the prompt is empty");
    if (o->max_tokens && o->n_prompt >= o->context)
        return err_set(ERR_REQUEST, "the prompt has %zu tokens and the context is %u: no room for an answer",
                       o->n_prompt, o->context);
    if (o->n_prompt > o->context)
        return err_set(ERR_REQUEST, "the prompt has %zu tokens and the context is %u", o->n_prompt, o->context);
    if (o->pooling != SEQUENCE_POOL_NONE && (o->max_tokens || o->dim == 0))
        return err_set(ERR_INTERNAL, "an embedding of %u values with an answer of %u tokens", o->dim, o->max_tokens);
    if (o->n_top > TOP_LOGPROBS_MAX)
        return err_set(ERR_REQUEST, "the %u most probable tokens are asked for, at most %d are possible", o->n_top,
                       TOP_LOGPROBS_MAX);
    return OK;
}

/* A job ends when a step holds a token or a number that makes no sense: it must not get so far. */
static err check_values(const struct sequence_options *o) {
    for (size_t i = 0; i < o->n_prompt; i++)
        if (o->prompt[i] < 0 || (uint32_t)o->prompt[i] >= o->n_vocab)
            return err_set(ERR_REQUEST, "token %d of the prompt is beyond the model's %u", o->prompt[i], o->n_vocab);
    for (size_t i = 0; i < o->n_biases; i++) {
        if (o->biases[i].token < 0 || (uint32_t)o->biases[i].token >= o->n_vocab)
            return err_set(ERR_REQUEST, "the bias of token %d is beyond the model's %u", o->biases[i].token,
                           o->n_vocab);
        if (isnan(o->biases[i].bias) || o->biases[i].bias == INFINITY)
            return err_set(ERR_REQUEST, "the bias of token %d is no number", o->biases[i].token);
    }
    if (!isfinite(o->temperature) || o->temperature < 0 || isnan(o->top_p) || isnan(o->min_p))
        return err_set(ERR_REQUEST, "temperature %g, top_p %g, min_p %g: not numbers to sample with",
                       (double)o->temperature, (double)o->top_p, (double)o->min_p);
    if (!isfinite(o->repeat_penalty) || o->repeat_penalty <= 0 || !isfinite(o->presence_penalty) ||
        !isfinite(o->frequency_penalty))
        return err_set(ERR_REQUEST, "penalties of %g (repeat), %g (presence), %g (frequency): not numbers to use",
                       (double)o->repeat_penalty, (double)o->presence_penalty, (double)o->frequency_penalty);
    return OK;
}

/* SentencePiece drops the blank before the first word of a text; an answer that
 * follows other words keeps it. */
static err stream_create(struct sequence *s) {
    if (!s->o.tokenizer) return OK;
    token_stream_init(&s->stream, s->o.tokenizer, 0);
    struct bytes piece = {0};
    err e = OK;
    for (size_t i = 0; i < s->n_prompt && piece.len == 0 && e == OK; i++)
        e = tokenizer_decode_token(s->o.tokenizer, s->tokens[i], 0, &piece);
    if (piece.len) s->stream.is_first = 0;
    bytes_free(&piece);
    return e;
}

static err stops_copy(struct sequence *s, const struct sequence_options *o) {
    char **stops;
    TRY(NEW(stops, o->n_stops));
    s->o.stops = (const char *const *)stops;
    for (; s->o.n_stops < o->n_stops; s->o.n_stops++) {
        size_t n = strlen(o->stops[s->o.n_stops]) + 1;
        TRY(NEW(stops[s->o.n_stops], n));
        memcpy(stops[s->o.n_stops], o->stops[s->o.n_stops], n);
    }
    return OK;
}

static err tokens_reserve(struct sequence *s, size_t n) {
    if (n <= s->cap_tokens) return OK;
    size_t cap = n + n / 2 + 64;
    int32_t *grown = mem_resized(s->tokens, cap, sizeof *grown);
    if (!grown) return ERR_MEMORY;
    s->tokens = grown;
    s->cap_tokens = cap;
    return OK;
}

static err arrays_create(struct sequence *s, const struct sequence_options *o) {
    TRY(tokens_reserve(s, o->n_prompt));
    memcpy(s->tokens, o->prompt, o->n_prompt * sizeof *s->tokens);
    if (o->pooling != SEQUENCE_POOL_NONE) TRY(NEW(s->embedding, o->dim));
    if (o->pooling == SEQUENCE_POOL_MEAN) TRY(NEW(s->sum, o->dim));
    if (!o->scores_prompt) return OK;
    TRY(NEW(s->prompt_scores, o->n_prompt));
    s->prompt_scores[0] = (struct token_score){.token = o->prompt[0], .logprob = NAN};
    return OK;
}

err sequence_create(const struct sequence_options *o, struct sequence **out) {
    TRY(check_sizes(o));
    TRY(check_values(o));
    struct sequence *s;
    TRY(NEW(s, 1));
    s->o = *o;
    s->o.prompt = NULL;
    s->o.biases = NULL;
    s->o.n_stops = 0;
    s->n_prompt = s->n_tokens = o->n_prompt;
    err e = stops_copy(s, o);
    if (e == OK) e = arrays_create(s, o);
    if (e == OK) e = edits_create(s, o);
    if (e == OK) e = stream_create(s);
    if (e != OK) {
        sequence_free(s);
        return e;
    }
    *out = s;
    return OK;
}

void sequence_free(struct sequence *s) {
    if (!s) return;
    char **stops = (char **)(uintptr_t)s->o.stops;
    for (size_t i = 0; i < s->o.n_stops; i++) free(stops[i]);
    free(stops);
    free(s->tokens);
    free(s->marks);
    u64map_free(&s->mark_of);
    free(s->prompt_scores);
    free(s->sum);
    free(s->embedding);
    if (s->o.tokenizer) token_stream_free(&s->stream);
    bytes_free(&s->text);
    free(s);
}

void sequence_set_owner(struct sequence *s, void *owner) { s->owner = owner; }
void *sequence_owner(const struct sequence *s) { return s->owner; }
void sequence_set_place(struct sequence *s, void *place) { s->place = place; }
void *sequence_place(const struct sequence *s) { return s->place; }
void sequence_count_cached(struct sequence *s, size_t n) { s->n_cached += n; }
size_t sequence_n_cached(const struct sequence *s) { return s->n_cached; }

/* ---- steps ---- */

const int32_t *sequence_rows(const struct sequence *s, size_t *n) {
    *n = s->n_tokens;
    return s->tokens;
}

size_t sequence_n_prompt(const struct sequence *s) { return s->n_prompt; }

/* Rows of the prompt that each give something: a score of the next token, or a hidden state. */
static size_t n_rows_wanted(const struct sequence *s) {
    if (s->o.pooling == SEQUENCE_POOL_MEAN) return s->n_prompt;
    return s->o.scores_prompt ? s->n_prompt - 1 : 0;
}

/* What row i is wanted for, or 0. */
static uint32_t row_flags(const struct sequence *s, size_t i) {
    uint32_t flags = 0;
    int is_new = i >= s->n_rows_taken;
    if (s->o.scores_prompt && is_new && i + 1 < s->n_prompt) flags |= OUT_SCORE;
    if (s->o.pooling == SEQUENCE_POOL_MEAN && is_new && i < s->n_prompt) flags |= OUT_HIDDEN;
    if (s->o.pooling == SEQUENCE_POOL_LAST && i + 1 == s->n_prompt) flags |= OUT_HIDDEN;
    if (s->o.max_tokens && i + 1 == s->n_tokens) flags |= OUT_SAMPLE | (s->o.scores_answer ? OUT_LOGPROB : 0u);
    return flags;
}

size_t sequence_n_skippable(const struct sequence *s) {
    size_t last = s->n_tokens - 1;
    return s->n_rows_taken < n_rows_wanted(s) && s->n_rows_taken < last ? s->n_rows_taken : last;
}

void sequence_wants(const struct sequence *s, size_t begin, size_t end, uint32_t *n_outs, uint32_t *n_edits) {
    size_t first = begin > s->n_rows_taken ? begin : s->n_rows_taken, most = n_rows_wanted(s);
    size_t each_end = end < most ? end : most;
    *n_outs = first < each_end ? (uint32_t)(each_end - first) : 0;
    *n_edits = 0;
    size_t last = s->n_tokens - 1; /* what it is wanted for beside that */
    if (begin > last || end <= last) return;
    if (last >= each_end || last < first) *n_outs += row_flags(s, last) != 0;
    if (s->o.max_tokens) *n_edits = s->n_marks;
}

void sequence_want(struct sequence *s, size_t begin, size_t end, uint32_t first_row, uint32_t edit_begin,
                   struct step_out *outs, struct step_edit *edits) {
    for (size_t i = begin; i < end; i++) {
        uint32_t flags = row_flags(s, i);
        if (!flags) continue;
        struct step_out *out = outs++;
        *out = (struct step_out){.row = (int32_t)(first_row + (i - begin)), .flags = flags, .top_p = 1,
                                 .position = (uint32_t)i + 1};
        if (flags & (OUT_SCORE | OUT_SAMPLE)) out->n_top = s->o.n_top;
        if (flags & OUT_SCORE) out->target = s->tokens[i + 1];
        if (!(flags & OUT_SAMPLE)) continue;
        out->temperature = s->o.temperature;
        out->top_k = s->o.top_k;
        out->top_p = s->o.top_p;
        out->min_p = s->o.min_p;
        out->seed = s->o.seed;
        out->edit_begin = edit_begin;
        out->edit_end = edit_begin + s->n_marks;
        edits_fill(s, edits);
    }
}

/* The token's text, unless it ends the answer. */
static err text_take(struct sequence *s, int32_t token) {
    if (!s->o.tokenizer) return OK;
    size_t before = s->text.len;
    TRY(token_stream_push(&s->stream, token, &s->text));
    if (s->finish != SEQUENCE_RUNS) TRY(token_stream_finish(&s->stream, &s->text));
    if (!s->text.len) return OK;
    int is_stopped;
    size_t visible = stops_visible((char *)s->text.data, s->text.len, before, s->o.stops,
                                   s->o.n_stops, &is_stopped);
    if (is_stopped) {
        s->finish = SEQUENCE_STOP;
        s->text.len = visible;
    }
    s->n_visible = s->finish == SEQUENCE_RUNS ? visible : s->text.len;
    return OK;
}

static err end_take(struct sequence *s) {
    s->finish = SEQUENCE_STOP;
    TRY(token_stream_finish(&s->stream, &s->text));
    s->n_visible = s->text.len;
    return OK;
}

/* ---- results ---- */

static void score_fill(const struct sequence *s, const struct result *r, const struct result_out *out, int32_t token,
                       double logprob, struct token_score *score) {
    *score = (struct token_score){.token = token, .logprob = (float)logprob};
    score->n_top = out->n_top < s->o.n_top ? out->n_top : s->o.n_top;
    for (uint32_t i = 0; i < score->n_top; i++) score->top[i] = r->tops[out->top_begin + i];
}

static void hidden_take(struct sequence *s, size_t row, const float *hidden) {
    int is_last = row + 1 == s->n_prompt;
    for (uint32_t i = 0; i < s->o.dim; i++) {
        if (s->sum) s->sum[i] += (double)hidden[i];
        if (is_last) s->embedding[i] = s->sum ? (float)(s->sum[i] / (double)s->n_prompt) : hidden[i];
    }
}

static err token_take(struct sequence *s, const struct result *r, const struct result_out *out) {
    int32_t token = out->token;
    if (token < 0)
        return err_set(ERR_REQUEST, "penalties and biases leave no token to choose");
    if ((uint32_t)token >= s->o.n_vocab)
        return err_set(ERR_INTERNAL, "token %d of %u was chosen", token, s->o.n_vocab);
    TRY(tokens_reserve(s, s->n_tokens + 1));
    TRY(mark_seen(s, token, 1));
    s->tokens[s->n_tokens++] = token;
    score_fill(s, r, out, token, s->o.scores_answer ? (double)out->logprob : NAN, &s->newest);
    if (s->o.tokenizer && !s->o.ignores_end && tokenizer_is_end(s->o.tokenizer, token))
        return end_take(s);
    if (s->n_tokens - s->n_prompt >= s->o.max_tokens || s->n_tokens >= s->o.context)
        s->finish = SEQUENCE_LENGTH;
    return text_take(s, token);
}

static err check_result(const struct sequence *s, size_t begin, size_t end, const struct result *r,
                        uint32_t out_begin, uint32_t hidden_begin) {
    uint32_t n_outs, n_edits, n_hidden = 0;
    sequence_wants(s, begin, end, &n_outs, &n_edits);
    if (out_begin > r->n_outs || n_outs > r->n_outs - out_begin)
        return err_set(ERR_INTERNAL, "a result of %u outputs, %u were wanted from %u on", r->n_outs, n_outs, out_begin);
    if (s->o.pooling == SEQUENCE_POOL_NONE) return OK;
    for (size_t i = begin; i < end; i++) n_hidden += (row_flags(s, i) & OUT_HIDDEN) != 0;
    if (hidden_begin > r->n_hidden_rows || n_hidden > r->n_hidden_rows - hidden_begin ||
        (n_hidden && r->dim != s->o.dim))
        return err_set(ERR_INTERNAL, "a result of %u hidden states of %u values; %u of %u were wanted from %u on",
                       r->n_hidden_rows, r->dim, n_hidden, s->o.dim, hidden_begin);
    return OK;
}

err sequence_take(struct sequence *s, size_t begin, size_t end, const struct result *r, uint32_t out_begin,
                  uint32_t hidden_begin) {
    TRY(check_result(s, begin, end, r, out_begin, hidden_begin));
    for (size_t i = begin; i < end; i++) {
        uint32_t flags = row_flags(s, i);
        if (!flags) continue;
        const struct result_out *out = &r->outs[out_begin++];
        if (flags & OUT_SCORE) score_fill(s, r, out, s->tokens[i + 1], out->score, &s->prompt_scores[i + 1]);
        if (flags & OUT_HIDDEN) hidden_take(s, i, r->hidden + (size_t)hidden_begin++ * r->dim);
        if (flags & (OUT_SCORE | OUT_HIDDEN)) s->n_rows_taken = i + 1;
        if (flags & OUT_SAMPLE) return token_take(s, r, out);
    }
    if (!s->o.max_tokens && end == s->n_prompt) s->finish = SEQUENCE_LENGTH;
    return OK;
}

enum sequence_finish sequence_finish(const struct sequence *s) { return s->finish; }

const int32_t *sequence_tokens(const struct sequence *s, size_t *n) {
    *n = s->n_tokens - s->n_prompt;
    return s->tokens + s->n_prompt;
}

const struct token_score *sequence_score(const struct sequence *s) { return &s->newest; }

const struct token_score *sequence_prompt_scores(const struct sequence *s, size_t *n) {
    *n = !s->prompt_scores ? 0 : s->n_rows_taken + 1 < s->n_prompt ? s->n_rows_taken + 1 : s->n_prompt;
    return s->prompt_scores;
}

const float *sequence_embedding(const struct sequence *s) { return s->embedding; }

const char *sequence_text(const struct sequence *s, size_t *n) {
    *n = s->n_visible;
    return s->text.data ? (const char *)s->text.data : "";
}
