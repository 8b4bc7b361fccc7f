/* POST /v1/embeddings: the last hidden state of each text, pooled. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api_parts.h"

#define INPUTS_MAX 2048 /* as OpenAI has it */

/* ---- the request ---- */

static err read_pooling(struct api_fault *f, const json_t *root, struct api_params *p) {
    const char *pooling = "last"; /* how decoders are made to embed: only the last row has seen all of the text */
    TRY(api_read_text(f, root, "pooling", &pooling));
    if (strcmp(pooling, "mean") != 0 && strcmp(pooling, "last") != 0)
        return api_refuse(f, "pooling", "expected \"mean\" or \"last\", found \"%.40s\"", pooling);
    p->pooling = *pooling == 'm' ? SEQUENCE_POOL_MEAN : SEQUENCE_POOL_LAST;
    p->is_normalised = 1;
    return api_read_bool(f, root, "normalize", &p->is_normalised);
}

static err read_params(struct api *a, struct api_fault *f, const json_t *root, struct api_params *p) {
    const char *format = "float";
    uint32_t dim = a->o.model->program->dim;
    int64_t dimensions = dim;
    TRY(api_check_model(a, f, root));
    TRY(api_read_text(f, root, "encoding_format", &format));
    if (strcmp(format, "float") != 0 && strcmp(format, "base64") != 0)
        return api_refuse(f, "encoding_format", "expected \"float\" or \"base64\", found \"%.40s\"", format);
    p->is_base64 = *format == 'b';
    TRY(api_read_whole(f, root, "dimensions", 1, INT32_MAX, &dimensions));
    if (dimensions != dim)
        return api_refuse(f, "dimensions", "the model's embeddings have %u, and no others are supported", dim);
    p->n = p->best_of = 1;
    p->sequence.top_p = p->sequence.repeat_penalty = 1;
    return read_pooling(f, root, p);
}

err api_embeddings(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct api_params p = {0};
    struct api_prompt *prompts;
    size_t n;
    TRY(read_params(a, f, root, &p));
    TRY(api_read_prompts(a, f, root, "input", INPUTS_MAX, &prompts, &n));
    return api_answer_start(a, x, f, NULL, &p, "input", prompts, n);
}

/* ---- the answer ---- */

static void normalise(float *v, uint32_t n) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    double scale = sum > 0 ? 1 / sqrt(sum) : 0;
    for (uint32_t i = 0; i < n; i++) v[i] = (float)((double)v[i] * scale);
}

/* RFC 4648, with padding. */
static err base64(const uint8_t *data, size_t n, struct bytes *out) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    TRY(bytes_reserve(out, (n + 2) / 3 * 4));
    for (size_t i = 0; i < n; i += 3) {
        size_t left = n - i < 3 ? n - i : 3;
        uint32_t bits = (uint32_t)data[i] << 16;
        if (left > 1) bits |= (uint32_t)data[i + 1] << 8;
        if (left > 2) bits |= data[i + 2];
        for (size_t k = 0; k < 4; k++)
            out->data[out->len++] = k <= left ? (uint8_t)digits[bits >> (18 - 6 * k) & 63] : '=';
    }
    return OK;
}

/* float32, little endian, as every host has it that this program runs on. */
static json_t *write_base64(const float *v, uint32_t n) {
    struct bytes text = {0};
    json_t *out = base64((const uint8_t *)v, n * sizeof *v, &text) == OK
                      ? json_stringn_nocheck((char *)text.data, text.len) : NULL;
    bytes_free(&text);
    return out;
}

static json_t *write_floats(const float *v, uint32_t n) {
    json_t *out = json_array();
    for (uint32_t i = 0; i < n; i++) json_array_append_new(out, json_real((double)v[i]));
    return out;
}

/* JSON has no number for what an overflow leaves. */
static int is_finite(const struct api_choice *c) {
    for (uint32_t i = 0; i < c->n_values; i++)
        if (!isfinite(c->values[i])) return 0;
    return 1;
}

void api_write_embeddings(struct api_answer *w) {
    json_t *data = json_array();
    json_int_t n_tokens = 0;
    for (size_t i = 0; i < w->n_choices; i++) {
        struct api_choice *c = &w->choices[i];
        if (!is_finite(c)) {
            json_decref(data);
            exchange_error(w->x, 500, NULL, "the embedding of input %zu is not finite", i);
            return;
        }
        if (w->params.is_normalised) normalise(c->values, c->n_values);
        json_array_append_new(data, json_pack("{s:s, s:I, s:o}", "object", "embedding", "index", (json_int_t)i,
                                              "embedding", w->params.is_base64
                                                               ? write_base64(c->values, c->n_values)
                                                               : write_floats(c->values, c->n_values)));
        n_tokens += c->n_prompt;
    }
    api_reply(w->x, 200, json_pack("{s:s, s:o, s:s, s:{s:I, s:I}}", "object", "list", "data", data, "model",
                                   w->api->model, "usage", "prompt_tokens", n_tokens, "total_tokens", n_tokens));
}
