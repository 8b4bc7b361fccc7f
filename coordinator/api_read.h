/* Reading a request's JSON field by field: the first thing that is wrong is named with its field and what was
 * expected. Fields that nobody reads are ignored; null is the same as not there. */
#ifndef COORDINATOR_API_READ_H
#define COORDINATOR_API_READ_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "model/tokenizer.h"

/* Which field a refusal is about; its text is err_text(). Zero-initialised is none. */
struct api_fault {
    char param[160];    /* "" where it is no field's fault */
    const char *code;   /* a constant, or NULL: as the status says */
    const char *inside; /* put before the names of fields: "stream_options."; NULL: nothing */
};

/* Names the field and records the text; returns ERR_REQUEST. */
err api_refuse(struct api_fault *f, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "expected ..., found ..." */
err api_expected(struct api_fault *f, const char *name, const char *expected, const json_t *found);

/* The object that a body holds: a new reference. ERR_REQUEST says where it is no JSON. Depth and number of values
 * are bounded, so that a small body takes no large memory. */
err api_parse(const uint8_t *body, size_t n, json_t **out);

/* A field's value, or NULL. */
const json_t *api_field(const json_t *object, const char *name);

/* These leave *out as it is where the field is not there. */
err api_read_whole(struct api_fault *f, const json_t *object, const char *name, int64_t least, int64_t most,
                   int64_t *out);
err api_read_real(struct api_fault *f, const json_t *object, const char *name, double least, double most, float *out);
err api_read_bool(struct api_fault *f, const json_t *object, const char *name, int *out);
/* The text belongs to the JSON. */
err api_read_text(struct api_fault *f, const json_t *object, const char *name, const char **out);

/* An array of token ids below n_vocab, appended; `name` is the array's. */
err api_read_tokens(struct api_fault *f, const char *name, const json_t *array, uint32_t n_vocab,
                    struct token_list *out);

#endif
