#include "coordinator/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "model/limits.h"

/* What is known of one token of the vocabulary, for edits. */
struct mark {
    uint32_t n_answer; /* times in the answer */
    uint8_t is_seen;   /* in prompt or answer */
    uint8_t is_listed;
    float bias;
};

struct sequence {
    struct sequence_options o; /* prompt and biases are not kept */
    int32_t *tokens;           /* [context] prompt, then answer */
    size_t n_prompt, n_tokens, n_sent; /* n_sent: rows given out in steps */
    uint32_t n_pending;
    enum sequence_finish finish;
    /* The step being given out. */
    int32_t *position, *zero, *table; /* [rows_max], [rows_max], [blocks] */
    struct step_out want;
    struct step_edit *edits; /* [n_vocab], or NULL where nothing is edited */
    /* Edits: tokens that have a mark, in order of appearance. */
    struct mark *marks; /* [n_vocab] */
    int32_t *marked;    /* [n_vocab] */
    uint32_t n_marked;
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

static struct mark *mark_of(struct sequence *s, int32_t token) {
    struct mark *m = &s->marks[token];
    if (!m->is_listed) s->marked[s->n_marked++] = token;
    m->is_listed = 1;
    return m;
}

static void mark_seen(struct sequence *s, int32_t token, uint32_t n_answer) {
    if (!s->marks) return;
    struct mark *m = mark_of(s, token);
    m->is_seen = 1;
    m->n_answer += n_answer;
}

static uint32_t edits_fill(struct sequence *s) {
    for (uint32_t i = 0; i < s->n_marked; i++) {
        int32_t token = s->marked[i];
        const struct mark *m = &s->marks[token];
        float subtract = (float)m->n_answer * s->o.frequency_penalty;
        if (m->n_answer) subtract += s->o.presence_penalty;
        s->edits[i] = (struct step_edit){token, m->bias, m->is_seen ? s->o.repeat_penalty : 1,
                                         subtract};
    }
    return s->n_marked;
}

static err edits_create(struct sequence *s, const struct sequence_options *o) {
    if (!needs_edits(o)) return OK;
    TRY(NEW(s->marks, o->n_vocab));
    TRY(NEW(s->marked, o->n_vocab));
    TRY(NEW(s->edits, o->n_vocab));
    for (size_t i = 0; i < o->n_biases; i++) mark_of(s, o->biases[i].token)->bias = o->biases[i].bias;
    for (size_t i = 0; i < o->n_prompt; i++) mark_seen(s, o->prompt[i], 0);
    return OK;
}

/* ---- creation ---- */

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

static err arrays_create(struct sequence *s) {
    uint32_t n_blocks = (s->o.context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    TRY(NEW(s->tokens, s->o.context));
    TRY(NEW(s->position, s->o.rows_max));
    TRY(NEW(s->zero, s->o.rows_max));
    TRY(NEW(s->table, n_blocks));
    for (uint32_t b = 0; b < n_blocks; b++) s->table[b] = (int32_t)(s->o.block_begin + b);
    return OK;
}

err sequence_create(const struct sequence_options *o, struct sequence **out) {
    if (o->n_prompt == 0) return err_set(ERR_REQUEST, "the prompt is empty");
    if (o->n_prompt >= o->context)
        return err_set(ERR_REQUEST, "the prompt has %zu tokens and the context is %u: no room for an answer",
                       o->n_prompt, o->context);
    struct sequence *s;
    TRY(NEW(s, 1));
    s->o = *o;
    s->o.prompt = NULL;
    s->o.biases = NULL;
    s->n_prompt = s->n_tokens = o->n_prompt;
    err e = arrays_create(s);
    if (e == OK) {
        memcpy(s->tokens, o->prompt, o->n_prompt * sizeof *s->tokens);
        e = edits_create(s, o);
    }
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
    free(s->tokens);
    free(s->position);
    free(s->zero);
    free(s->table);
    free(s->edits);
    free(s->marks);
    free(s->marked);
    if (s->o.tokenizer) token_stream_free(&s->stream);
    bytes_free(&s->text);
    free(s);
}

/* ---- steps ---- */

static void want_fill(struct sequence *s, uint32_t row, uint32_t n_edits) {
    s->want = (struct step_out){
        .row = (int32_t)row, .flags = OUT_SAMPLE, .temperature = s->o.temperature,
        .top_k = s->o.top_k, .top_p = s->o.top_p, .min_p = s->o.min_p,
        .position = (uint32_t)s->n_tokens, .seed = s->o.seed, .edit_end = n_edits};
}

err sequence_next(struct sequence *s, struct step *out, int *has_step) {
    *has_step = s->finish == SEQUENCE_RUNS && s->n_sent < s->n_tokens;
    if (!*has_step) return OK;
    size_t begin = s->n_sent, n = s->n_tokens - begin;
    if (n > s->o.rows_max) n = s->o.rows_max;
    for (size_t i = 0; i < n; i++) s->position[i] = (int32_t)(begin + i);
    s->n_sent += n;
    s->n_pending++;
    *out = (struct step){
        .n_rows = (uint32_t)n,
        .n_table = (uint32_t)((s->n_sent + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS),
        .token = s->tokens + begin, .position = s->position,
        .table_begin = s->zero, .table = s->table};
    if (s->n_sent < s->n_tokens) return OK;
    out->n_edits = s->marks ? edits_fill(s) : 0;
    out->edits = s->edits;
    want_fill(s, (uint32_t)n - 1, out->n_edits);
    out->outs = &s->want;
    out->n_outs = 1;
    return OK;
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

err sequence_commit(struct sequence *s, const struct result *r) {
    if (s->n_pending == 0) return err_set(ERR_INTERNAL, "a result without a step");
    s->n_pending--;
    if (r->n_outs == 0) return OK;
    int32_t token = r->outs[0].token;
    if (token < 0)
        return err_set(ERR_REQUEST, "penalties and biases leave no token to choose");
    if ((uint32_t)token >= s->o.n_vocab)
        return err_set(ERR_INTERNAL, "token %d of %u was chosen", token, s->o.n_vocab);
    s->tokens[s->n_tokens++] = token;
    mark_seen(s, token, 1);
    if (s->o.tokenizer && !s->o.ignores_end && tokenizer_is_end(s->o.tokenizer, token))
        return end_take(s);
    if (s->n_tokens - s->n_prompt >= s->o.max_tokens || s->n_tokens >= s->o.context)
        s->finish = SEQUENCE_LENGTH;
    return text_take(s, token);
}

enum sequence_finish sequence_finish(const struct sequence *s) { return s->finish; }

const int32_t *sequence_tokens(const struct sequence *s, size_t *n) {
    *n = s->n_tokens - s->n_prompt;
    return s->tokens + s->n_prompt;
}

const char *sequence_text(const struct sequence *s, size_t *n) {
    *n = s->n_visible;
    return s->text.data ? (const char *)s->text.data : "";
}
