#include "coordinator/api_read.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"
#include "coordinator/json_shape.h"

/* What was cut off to fit may have been the rest of a character. */
static void end_at_character(char *text) {
    size_t at = 0, len;
    uint32_t code;
    for (size_t n = strlen(text); at < n; at += len)
        if (utf8_next((uint8_t *)text + at, n - at, &len, &code) != UTF8_CHAR) break;
    text[at] = 0;
}

err api_refuse(struct api_fault *f, const char *name, const char *fmt, ...) {
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    snprintf(f->param, sizeof f->param, "%s%s", f->inside ? f->inside : "", name);
    end_at_character(text);
    end_at_character(f->param);
    return err_set(ERR_REQUEST, "%s: %s", f->param, text);
}

/* A value in few words, for messages. */
static void describe(const json_t *v, char *out, size_t cap) {
    switch (json_typeof(v)) {
    case JSON_INTEGER: snprintf(out, cap, "%lld", (long long)json_integer_value(v)); break;
    case JSON_REAL: snprintf(out, cap, "%g", json_real_value(v)); break;
    case JSON_TRUE: snprintf(out, cap, "true"); break;
    case JSON_FALSE: snprintf(out, cap, "false"); break;
    case JSON_NULL: snprintf(out, cap, "null"); break;
    case JSON_ARRAY: snprintf(out, cap, "an array of %zu", json_array_size(v)); break;
    case JSON_OBJECT: snprintf(out, cap, "an object"); break;
    case JSON_STRING:
        if (json_string_length(v) <= 40) snprintf(out, cap, "\"%s\"", json_string_value(v));
        else snprintf(out, cap, "a string of %zu bytes", json_string_length(v));
        break;
    }
}

err api_expected(struct api_fault *f, const char *name, const char *expected, const json_t *found) {
    char text[64];
    describe(found, text, sizeof text);
    return api_refuse(f, name, "expected %s, found %s", expected, text);
}

/* ---- the body ---- */

err api_parse(const uint8_t *body, size_t n, json_t **out) {
    json_error_t at;
    *out = NULL;
    if (n == 0) return err_set(ERR_REQUEST, "the body is empty; expected a JSON object");
    struct json_shape shape = {0};
    if (json_shape_add(&shape, body, n) != OK) return err_context(ERR_REQUEST, "the body");
    json_t *root = json_loadb((const char *)body, n, JSON_REJECT_DUPLICATES, &at);
    if (!root && json_error_code(&at) == json_error_out_of_memory)
        return err_set(ERR_MEMORY, "not enough memory for the body");
    if (!root)
        return err_set(ERR_REQUEST, "the body is no valid JSON: line %d, column %d: %s", at.line, at.column, at.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return err_set(ERR_REQUEST, "the body: expected a JSON object, found an array");
    }
    *out = root;
    return OK;
}

/* ---- fields ---- */

const json_t *api_field(const json_t *object, const char *name) {
    const json_t *v = json_object_get(object, name);
    return v && !json_is_null(v) ? v : NULL;
}

err api_read_whole(struct api_fault *f, const json_t *object, const char *name, int64_t least, int64_t most,
                   int64_t *out) {
    const json_t *v = api_field(object, name);
    if (!v) return OK;
    int64_t value = json_integer_value(v);
    if (!json_is_integer(v) || value < least || value > most) {
        char expected[96];
        if (least == INT64_MIN && most == INT64_MAX)
            snprintf(expected, sizeof expected, "a whole number");
        else
            snprintf(expected, sizeof expected, "a whole number from %lld to %lld", (long long)least,
                     (long long)most);
        return api_expected(f, name, expected, v);
    }
    *out = value;
    return OK;
}

err api_read_real(struct api_fault *f, const json_t *object, const char *name, double least, double most,
                  float *out) {
    const json_t *v = api_field(object, name);
    if (!v) return OK;
    double value = json_number_value(v);
    if (!json_is_number(v) || !(value >= least && value <= most)) {
        char expected[96];
        snprintf(expected, sizeof expected, "a number from %g to %g", least, most);
        return api_expected(f, name, expected, v);
    }
    *out = (float)value;
    return OK;
}

err api_read_bool(struct api_fault *f, const json_t *object, const char *name, int *out) {
    const json_t *v = api_field(object, name);
    if (!v) return OK;
    if (!json_is_boolean(v)) return api_expected(f, name, "true or false", v);
    *out = json_is_true(v);
    return OK;
}

err api_read_text(struct api_fault *f, const json_t *object, const char *name, const char **out) {
    const json_t *v = api_field(object, name);
    if (!v) return OK;
    if (!json_is_string(v)) return api_expected(f, name, "a string", v);
    *out = json_string_value(v);
    return OK;
}

err api_read_tokens(struct api_fault *f, const char *name, const json_t *array, uint32_t n_vocab,
                    struct token_list *out) {
    for (size_t i = 0; i < json_array_size(array); i++) {
        const json_t *v = json_array_get(array, i);
        json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < 0 || id >= (json_int_t)n_vocab) {
            char item[64], expected[64];
            snprintf(item, sizeof item, "%s[%zu]", name, i);
            snprintf(expected, sizeof expected, "a token from 0 to %u", n_vocab - 1);
            return api_expected(f, item, expected, v);
        }
        TRY(token_list_push(out, (int32_t)id));
    }
    return OK;
}
