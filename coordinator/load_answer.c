#include "coordinator/load_answer.h"

#include <stdio.h>
#include <string.h>

#include <jansson.h>

#define STATUS_GOOD 200
#define LINE_MAX_BYTES (1 << 20)
#define TEXT_MAX_BYTES (16 << 20)
#define REFUSAL_BYTES 4096 /* of a body that is no stream, so much is kept */

static void set_problem(struct load_answer *a, enum load_problem problem, const char *reason) {
    if (a->problem != LOAD_NO_PROBLEM) return; /* the first one explains the others */
    a->problem = problem;
    snprintf(a->reason, sizeof a->reason, "%s", reason);
}

/* The message of {"error": {"message": ...}} or {"error": "..."}. */
static const char *error_message(const json_t *root) {
    const json_t *error = json_object_get(root, "error");
    const json_t *message = json_is_object(error) ? json_object_get(error, "message") : error;
    return json_is_string(message) ? json_string_value(message) : error ? "an error without a message" : NULL;
}

static uint32_t count_of(const json_t *object, const char *key) {
    json_int_t n = json_integer_value(json_object_get(object, key));
    return n > 0 && n < UINT32_MAX ? (uint32_t)n : 0;
}

static void take_usage(struct load_answer *a, const json_t *usage) {
    if (!json_is_object(usage)) return;
    a->has_usage = 1;
    a->n_prompt = count_of(usage, "prompt_tokens");
    a->n_answer = count_of(usage, "completion_tokens");
    a->n_cached = count_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
}

static err take_event(struct load_answer *a, const char *data, size_t n) {
    if (n == 6 && memcmp(data, "[DONE]", 6) == 0) {
        a->is_done = 1;
        return OK;
    }
    json_t *root = json_loadb(data, n, JSON_ALLOW_NUL, NULL); /* a token may be a zero byte */
    const char *message = error_message(root);
    const json_t *text = json_object_get(json_array_get(json_object_get(root, "choices"), 0), "text");
    err e = OK;
    if (!json_is_object(root)) set_problem(a, LOAD_MALFORMED, "an event that is no JSON object");
    if (message) set_problem(a, LOAD_ERROR, message);
    take_usage(a, json_object_get(root, "usage"));
    size_t n_text = json_string_length(text);
    if (a->text.len + n_text > TEXT_MAX_BYTES) {
        set_problem(a, LOAD_MALFORMED, "an answer without end");
    } else if (n_text) {
        a->n_chunks++;
        e = bytes_append(&a->text, json_string_value(text), n_text);
    }
    json_decref(root);
    return e;
}

/* Other fields, and comments, say nothing here. */
static err take_line(struct load_answer *a, const char *line, size_t n) {
    if (n && line[n - 1] == '\r') n--;
    if (n < 5 || memcmp(line, "data:", 5) != 0) {
        /* llama-server sends `error: {...}` */
        if (n > 6 && memcmp(line, "error:", 6) == 0) return take_event(a, line + 6, n - 6);
        return OK;
    }
    size_t skip = n > 5 && line[5] == ' ' ? 6 : 5;
    return take_event(a, line + skip, n - skip);
}

err load_answer_take(struct load_answer *a, int status, const void *data, size_t n) {
    if (status != STATUS_GOOD) {
        size_t room = a->line.len < REFUSAL_BYTES ? REFUSAL_BYTES - a->line.len : 0;
        return bytes_append(&a->line, data, n < room ? n : room);
    }
    const char *at = data, *end = at + n;
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t n_part = (size_t)((line_end ? line_end : end) - at);
        if (a->line.len + n_part > LINE_MAX_BYTES) {
            set_problem(a, LOAD_MALFORMED, "a line without end");
            return OK;
        }
        TRY(bytes_append(&a->line, at, n_part));
        at += n_part;
        if (!line_end) break;
        TRY(take_line(a, (const char *)a->line.data, a->line.len));
        a->line.len = 0;
        at++;
    }
    return OK;
}

void load_answer_end(struct load_answer *a, int status) {
    const char *body = a->line.len ? (const char *)a->line.data : "";
    if (status != STATUS_GOOD) {
        json_t *root = json_loadb(body, a->line.len, 0, NULL);
        const char *message = error_message(root);
        set_problem(a, LOAD_REFUSED, message ? message : body);
        json_decref(root);
    } else if (!a->is_done) {
        set_problem(a, LOAD_CUT_SHORT, "the stream ended without [DONE]");
    }
}

void load_answer_reset(struct load_answer *a) {
    struct load_answer empty = {.line = a->line, .text = a->text};
    empty.line.len = empty.text.len = 0;
    *a = empty;
}

void load_answer_free(struct load_answer *a) {
    bytes_free(&a->line);
    bytes_free(&a->text);
}
