#include "coordinator/exchange.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/utf8.h"

#define EVENT_STREAM "text/event-stream"

static void check(struct exchange *x, err e) {
    if (e != OK) x->is_broken = 1;
}

/* ---- answers ---- */

void exchange_header(struct exchange *x, const char *name, const char *value) {
    if (x->status || x->is_broken) return;
    if (strpbrk(value, "\r\n")) {
        err_set(ERR_INTERNAL, "header %s: a value of several lines", name);
        x->is_broken = 1;
        return;
    }
    check(x, bytes_printf(&x->headers, "%s: %s\n", name, value));
}

static void begin(struct exchange *x, int status, const char *type) {
    x->status = status;
    x->answer_type = type;
}

void exchange_reply(struct exchange *x, int status, const char *type, const void *data, size_t n) {
    if (x->status || x->is_broken) return;
    begin(x, status, type);
    check(x, bytes_append(&x->out, data, n));
    x->is_ended = 1;
}

void exchange_begin(struct exchange *x, int status, const char *type) {
    if (x->status || x->is_broken) return;
    begin(x, status, type);
    x->is_stream = 1;
}

void exchange_write(struct exchange *x, const void *data, size_t n) {
    if (!x->status || x->is_ended || x->is_broken) return;
    check(x, bytes_append(&x->out, data, n));
}

void exchange_end(struct exchange *x) { x->is_ended = 1; }

size_t exchange_unsent(const struct exchange *x) { return x->out.len - x->out_at; }

void exchange_take(struct exchange *x, size_t n) {
    x->out_at += n;
    if (x->out_at < x->out.len / 2) return;
    size_t left = exchange_unsent(x); /* moved at most as often as bytes were taken */
    if (left) memmove(x->out.data, x->out.data + x->out_at, left);
    x->out.len = left;
    x->out_at = 0;
}

void exchange_free(struct exchange *x) {
    bytes_free(&x->headers);
    bytes_free(&x->out);
    x->out_at = 0;
}

/* ---- errors ---- */

struct error_kind {
    int status;
    const char *type, *code;
};

static struct error_kind kind_of(int status) {
    static const struct error_kind kinds[] = {
        {401, "authentication_error", "invalid_api_key"},
        {403, "permission_error", NULL},
        {429, "rate_limit_error", "rate_limit_exceeded"},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (kinds[i].status == status) return kinds[i];
    return (struct error_kind){status, status < 500 ? "invalid_request_error" : "server_error", NULL};
}

/* A message may quote what a client sent, which need not be UTF-8; JSON must be. */
static json_t *text_of(const char *s) {
    struct bytes b = {0};
    size_t n = strlen(s), len;
    uint32_t code;
    err e = OK;
    for (size_t i = 0; i < n && e == OK; i += len) {
        int is_char = utf8_next((const uint8_t *)s + i, n - i, &len, &code) == UTF8_CHAR;
        e = is_char ? bytes_append(&b, s + i, len) : bytes_append_str(&b, UTF8_REPLACEMENT);
    }
    json_t *text = e == OK ? json_stringn(b.data ? (const char *)b.data : "", b.len) : NULL;
    bytes_free(&b);
    return text;
}

static char *error_text(int status, const char *code, const char *param, const char *message) {
    struct error_kind kind = kind_of(status);
    json_t *param_text = param ? text_of(param) : json_null();
    json_t *o = json_pack("{s:{s:o,s:s,s:o,s:s?}}", "error", "message", text_of(message), "type", kind.type,
                          "param", param_text, "code", code ? code : kind.code);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

static void write_error(struct exchange *x, int status, const char *text) {
    if (!x->status) {
        if (status == 401) exchange_header(x, "WWW-Authenticate", "Bearer");
        exchange_reply(x, status, "application/json", text, strlen(text));
    } else if (strcmp(x->answer_type, EVENT_STREAM) == 0) {
        exchange_write(x, "data: ", 6);
        exchange_write(x, text, strlen(text));
        exchange_write(x, "\n\n", 2);
        exchange_end(x);
    } else {
        x->is_broken = 1;
    }
}

static void set_error(struct exchange *x, int status, const char *code, const char *param, const char *fmt,
                      va_list args) {
    char message[2048];
    if (x->is_ended || x->is_broken) return;
    vsnprintf(message, sizeof message, fmt, args);
    char *text = error_text(status, code, param, message);
    if (text) write_error(x, status, text);
    else x->is_broken = 1;
    free(text);
}

void exchange_error(struct exchange *x, int status, const char *param, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    set_error(x, status, NULL, param, fmt, args);
    va_end(args);
}

void exchange_error_code(struct exchange *x, int status, const char *code, const char *param, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    set_error(x, status, code, param, fmt, args);
    va_end(args);
}
