/* Log-probabilities as JSON, in the two shapes that completions and chat have. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "coordinator/api_parts.h"

/* JSON has no infinity; a forbidden token has this, as elsewhere. */
#define LOGPROB_LEAST (-9999.0)

static json_t *write_logprob(float value) {
    if (isnan(value)) return json_null(); /* the first token of a prompt has none */
    return json_real((double)value < LOGPROB_LEAST ? LOGPROB_LEAST : (double)value);
}

/* The bytes of a token, as in text; control tokens are written out. */
static err token_bytes(struct api *a, int32_t id, struct bytes *out) {
    const struct tokenizer *t = a->o.model->tokenizer;
    out->len = 0;
    if (t && id >= 0 && (size_t)id < tokenizer_n_vocab(t)) TRY(tokenizer_decode_token(t, id, 1, out));
    return bytes_append_str(out, "");
}

/* ---- completions: four lists beside each other ---- */

/* A token as text. Parts of characters become "bytes:\xe2\x80", so that no two of them look alike; bytes[] is
 * scratch. */
static err token_name(struct api *a, int32_t id, struct bytes *out) {
    struct bytes raw = {0};
    err e = token_bytes(a, id, &raw);
    out->len = 0;
    if (e == OK && utf8_is_valid(raw.data, raw.len) && !memchr(raw.data, 0, raw.len)) {
        e = bytes_append(out, raw.data, raw.len);
    } else if (e == OK) {
        e = bytes_append_str(out, "bytes:");
        for (size_t i = 0; i < raw.len && e == OK; i++) e = bytes_printf(out, "\\x%02x", raw.data[i]);
    }
    bytes_free(&raw);
    return e;
}

/* Where in the text the next scored token begins, in characters. A first BOS is not part of a prompt's text. */
static err place_token(struct api_choice *c, int32_t id, size_t *out) {
    struct api *a = c->answer->api;
    const struct tokenizer *t = a->o.model->tokenizer;
    int is_prompt = c->answer->params.is_echo && c->n_written < c->prompt->tokens.n;
    int is_bos = is_prompt && c->n_written == 0 && t && id == tokenizer_bos(t);
    *out = c->n_place_chars;
    c->n_written++;
    if (!t || is_bos || id < 0 || (size_t)id >= tokenizer_n_vocab(t)) return OK;
    struct bytes text = {0};
    c->place.with_special = is_prompt;
    err e = token_stream_push(&c->place, id, &text);
    for (size_t i = 0; i < text.len; i++) c->n_place_chars += (text.data[i] & 0xC0) != 0x80;
    bytes_free(&text);
    return e;
}

/* {token: logprob} of the most probable ones, and of the chosen one where it is not among them. */
static json_t *write_top_map(struct api *a, const struct token_score *s, struct bytes *name) {
    if (isnan(s->logprob)) return json_null();
    json_t *map = json_object();
    for (uint32_t i = 0; i < s->n_top && map; i++)
        if (token_name(a, s->top[i].token, name) == OK && !json_object_get(map, (char *)name->data))
            json_object_set_new(map, (char *)name->data, write_logprob(s->top[i].logprob));
    if (map && token_name(a, s->token, name) == OK)
        json_object_set_new(map, (char *)name->data, write_logprob(s->logprob));
    return map;
}

json_t *api_completion_scores(struct api_choice *c, const struct token_score *scores, size_t n) {
    struct api *a = c->answer->api;
    json_t *tokens = json_array(), *logprobs = json_array(), *tops = json_array(), *offsets = json_array();
    struct bytes name = {0};
    size_t offset = 0;
    err e = OK;
    for (size_t i = 0; i < n && e == OK; i++) {
        e = token_name(a, scores[i].token, &name);
        if (e == OK) e = place_token(c, scores[i].token, &offset);
        if (e != OK) break;
        json_array_append_new(tokens, json_stringn((char *)name.data, name.len));
        json_array_append_new(logprobs, write_logprob(scores[i].logprob));
        json_array_append_new(tops, write_top_map(a, &scores[i], &name));
        json_array_append_new(offsets, json_integer((json_int_t)offset));
    }
    bytes_free(&name);
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs, "top_logprobs", tops,
                     "text_offset", offsets);
}

/* ---- chat: one list of objects ---- */

/* {token, logprob, bytes}: U+FFFD where the token is part of a character. */
static json_t *write_token(struct api *a, int32_t id, float logprob) {
    struct bytes raw = {0}, text = {0};
    json_t *bytes = json_array();
    err e = token_bytes(a, id, &raw);
    for (size_t i = 0, len; i < raw.len && e == OK; i += len) {
        uint32_t code;
        int is_char = utf8_next(raw.data + i, raw.len - i, &len, &code) == UTF8_CHAR;
        e = is_char ? bytes_append(&text, raw.data + i, len) : bytes_append_str(&text, UTF8_REPLACEMENT);
        for (size_t k = i; k < i + len; k++) json_array_append_new(bytes, json_integer(raw.data[k]));
    }
    json_t *out = json_pack("{s:s%, s:o, s:o}", "token", text.data ? (char *)text.data : "", text.len, "logprob",
                            write_logprob(logprob), "bytes", bytes);
    bytes_free(&raw);
    bytes_free(&text);
    return out;
}

json_t *api_chat_scores(struct api_choice *c, const struct token_score *scores, size_t n) {
    struct api *a = c->answer->api;
    json_t *content = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *token = write_token(a, scores[i].token, scores[i].logprob), *tops = json_array();
        for (uint32_t k = 0; k < scores[i].n_top; k++)
            json_array_append_new(tops, write_token(a, scores[i].top[k].token, scores[i].top[k].logprob));
        json_object_set_new(token, "top_logprobs", tops);
        json_array_append_new(content, token);
    }
    return json_pack("{s:o, s:n}", "content", content, "refusal");
}
