/* Exchange: one HTTP request and its answer, as plain data between the transport
 * (http.c), which moves the bytes, and the API (api.c), which knows what they
 * mean. Owned by the transport, used on its thread only. */
#ifndef COORDINATOR_EXCHANGE_H
#define COORDINATOR_EXCHANGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

struct exchange {
    /* The request, whole and read-only. */
    const char *method, *path;   /* "POST", "/v1/completions": decoded, without what follows a '?'; HEAD comes as GET */
    const char *content_type;    /* "" where none was sent */
    const uint8_t *body;         /* [n_body], then a NUL; gone when the API has looked at it */
    size_t n_body;
    uint32_t key;                /* index of the API key, from 0; 0 where keys are not asked for */
    int priority;                /* of that key: higher goes first */
    const char *key_name;        /* of that key; "-" where none was given */

    /* The answer. */
    int status;                  /* 0: not begun */
    const char *answer_type;     /* a constant: "application/json" */
    struct bytes headers;        /* more of them, "Name: value\n" each */
    struct bytes out;            /* [out_at, len) is not yet taken by the transport */
    size_t out_at;
    int is_stream, is_ended;     /* a stream goes out as it is written */
    int is_broken;               /* memory ran out on the way: the transport ends it */

    /* For the access log and the metrics; the API fills it as far as it knows. */
    const char *route;           /* a constant: "chat", "completions", ... */
    uint32_t n_prompt, n_cached, n_answer; /* tokens */

    void *owner;                 /* the API's own */
};

/* None of these fails: an answer that runs out of memory is broken off. What comes after the end is dropped. */

/* The whole answer at once. */
void exchange_reply(struct exchange *x, int status, const char *type, const void *data, size_t n);
/* Before the answer begins: one more header. */
void exchange_header(struct exchange *x, const char *name, const char *value);
/* An answer in pieces. */
void exchange_begin(struct exchange *x, int status, const char *type);
void exchange_write(struct exchange *x, const void *data, size_t n);
void exchange_end(struct exchange *x);
/* Bytes written that the client has not taken yet: how far it lags behind. */
size_t exchange_unsent(const struct exchange *x);

/* What the transport has handed on. */
void exchange_take(struct exchange *x, size_t n);
void exchange_free(struct exchange *x); /* what the answer holds, not `x` */

/* OpenAI's shape: {"error": {"message", "type", "param", "code"}}. `param` may be NULL; type and
 * code follow from the status. An event stream that has begun gets it as its last event; another answer
 * that has begun can only break off. */
void exchange_error(struct exchange *x, int status, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* With a code of its own: "context_length_exceeded". */
void exchange_error_code(struct exchange *x, int status, const char *code, const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

#endif
