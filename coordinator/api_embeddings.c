/* POST /v1/embeddings: the last hidden state of each text, pooled. */
#include <math.h>
#include <stdio.h>
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

/* Nine digits tell all floats apart; a whole number keeps its point, so that readers see a number of one kind. */
static err write_float(float v, struct bytes *out) {
    char text[32];
    int n = snprintf(text, sizeof text - 2, "%.9g", (double)v);
    if (!strpbrk(text, ".e")) n += snprintf(text + n, 3, ".0");
    return bytes_append(out, text, (size_t)n);
}

static err write_values(const float *v, uint32_t n, struct bytes *out) {
    for (uint32_t i = 0; i < n; i++) {
        TRY(bytes_append_str(out, i ? "," : "["));
        TRY(write_float(v[i], out));
    }
    return bytes_append_str(out, "]");
}

/* float32, little endian, as every host has it that this program runs on. */
static err write_base64(const float *v, uint32_t n, struct bytes *out) {
    TRY(bytes_append_str(out, "\""));
    TRY(base64((const uint8_t *)v, n * sizeof *v, out));
    return bytes_append_str(out, "\"");
}

/* Written as each comes: a request has up to two thousand, and all at its end would take seconds, in which no other
 * answer could move. */
err api_take_embedding(struct api_choice *c, float *v, uint32_t n) {
    const struct api_params *p = &c->answer->params;
    for (uint32_t i = 0; i < n; i++) /* JSON has no number for what an overflow leaves */
        if (!isfinite(v[i])) return err_set(ERR_INTERNAL, "the embedding of input %u is not finite", c->index);
    if (p->is_normalised) normalise(v, n);
    return p->is_base64 ? write_base64(v, n, &c->text) : write_values(v, n, &c->text);
}

static err write_data(struct api_answer *w, struct bytes *out) {
    for (size_t i = 0; i < w->n_choices; i++) {
        struct bytes *text = &w->choices[i].text;
        TRY(bytes_printf(out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "", i));
        TRY(bytes_append(out, text->data, text->len));
        TRY(bytes_append_str(out, "}"));
        bytes_free(text);
    }
    return OK;
}

static err write_answer(struct api_answer *w, struct bytes *out) {
    json_int_t n = 0;
    for (size_t i = 0; i < w->n_choices; i++) n += w->choices[i].n_prompt;
    json_t *end = json_pack("{s:s, s:{s:I, s:I}}", "model", w->api->model, "usage", "prompt_tokens", n,
                            "total_tokens", n);
    char *text = end ? json_dumps(end, JSON_COMPACT) : NULL;
    json_decref(end);
    if (!text) return ERR_MEMORY;
    err e = bytes_append_str(out, "{\"object\":\"list\",\"data\":[");
    if (e == OK) e = write_data(w, out);
    if (e == OK) e = bytes_printf(out, "],%s", text + 1); /* after its brace */
    free(text);
    return e;
}

void api_write_embeddings(struct api_answer *w) {
    struct bytes out = {0};
    if (write_answer(w, &out) == OK) exchange_reply(w->x, 200, "application/json", out.data, out.len);
    else exchange_error(w->x, 500, NULL, "not enough memory for the answer");
    bytes_free(&out);
}
