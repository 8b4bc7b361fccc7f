/* What completions and chat have in common: how many answers, how their tokens are chosen, in what form they come. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api_parts.h"
#include "coordinator/sampling.h"

#define STOP_BYTES_MAX 1024

/* ---- fields that are refused ---- */

static const struct {
    const char *name, *why;
} refused[] = {
    {"suffix", "text after the answer is not supported"},
    {"functions", "give tools in its place"},
    {"function_call", "give tool_choice in its place"},
    {"audio", "only text is supported"},
    {"web_search_options", "there is no web search"},
    {"grammar", "answers held to a grammar are not supported"},
    {"json_schema", "answers held to a schema are not supported"},
    {"structured_outputs", "answers held to a schema are not supported"},
    {"guided_json", "answers held to a schema are not supported"},
    {"guided_regex", "answers held to a pattern are not supported"},
    {"guided_choice", "answers held to a choice are not supported"},
    {"guided_grammar", "answers held to a grammar are not supported"},
    {"stop_token_ids", "give stop or logit_bias in its place"},
    {"bad_words", "give logit_bias in its place"},
    {"min_tokens", "give ignore_eos in its place"},
    {"use_beam_search", "beam search is not supported"},
    {"length_penalty", "beam search is not supported"},
    {"prompt_logprobs", "give echo and logprobs in its place"},
};

/* Nothing, as clients write it that send every field. */
static int is_off(const json_t *v) {
    return !v || json_is_null(v) || json_is_false(v) || (json_is_integer(v) && json_integer_value(v) == 0) ||
           (json_is_string(v) && json_string_length(v) == 0) || (json_is_array(v) && json_array_size(v) == 0) ||
           (json_is_object(v) && json_object_size(v) == 0);
}

/* "text" is what there is. */
static err check_format(struct api_fault *f, const json_t *root) {
    const json_t *format = api_field(root, "response_format"), *modalities = api_field(root, "modalities");
    const char *type = NULL;
    if (format && !json_is_object(format)) return api_expected(f, "response_format", "an object", format);
    if (format) {
        f->inside = "response_format.";
        TRY(api_read_text(f, format, "type", &type));
        if (!type || strcmp(type, "text") != 0)
            return api_refuse(f, "type", "only \"text\" is supported: answers held to a schema are not");
        f->inside = NULL;
    }
    if (modalities && !json_is_array(modalities)) return api_expected(f, "modalities", "an array", modalities);
    for (size_t i = 0; i < json_array_size(modalities); i++) {
        const char *text = json_string_value(json_array_get(modalities, i));
        if (!text || strcmp(text, "text") != 0) return api_refuse(f, "modalities", "only \"text\" is supported");
    }
    return OK;
}

err api_refuse_unknown(struct api_fault *f, const json_t *root) {
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (!is_off(json_object_get(root, refused[i].name)))
            return api_refuse(f, refused[i].name, "not supported: %s", refused[i].why);
    return check_format(f, root);
}

err api_check_model(struct api *a, struct api_fault *f, const json_t *root) {
    const char *name = NULL;
    TRY(api_read_text(f, root, "model", &name));
    if (!name || strcmp(name, a->model) == 0) return OK;
    const char *path = a->o.model->path, *slash = strrchr(path, '/'), *file = slash ? slash + 1 : path;
    size_t n = strlen(file), n_stem = n > 5 && strcmp(file + n - 5, ".gguf") == 0 ? n - 5 : n;
    if (strcmp(name, file) == 0 || (strlen(name) == n_stem && memcmp(name, file, n_stem) == 0)) return OK;
    f->code = API_NO_MODEL;
    return api_refuse(f, "model", "there is no model \"%.200s\"; this server has \"%s\"", name, a->model);
}

/* ---- fields that are lists ---- */

static err read_stops(struct api_fault *f, const json_t *root, struct api_params *p) {
    const json_t *stop = api_field(root, "stop");
    if (!stop) return OK;
    int is_list = json_is_array(stop);
    size_t n = is_list ? json_array_size(stop) : 1;
    if (!is_list && !json_is_string(stop))
        return api_expected(f, "stop", "a string or an array of strings", stop);
    if (n > API_STOPS_MAX) return api_refuse(f, "stop", "at most %d strings, found %zu", API_STOPS_MAX, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = is_list ? json_array_get(stop, i) : stop;
        char name[24] = "stop";
        if (is_list) snprintf(name, sizeof name, "stop[%zu]", i);
        if (!json_is_string(v)) return api_expected(f, name, "a string", v);
        if (json_string_length(v) == 0) return api_refuse(f, name, "the string is empty");
        if (json_string_length(v) > STOP_BYTES_MAX)
            return api_refuse(f, name, "at most %d bytes, found %zu", STOP_BYTES_MAX, json_string_length(v));
        p->stops[i] = json_string_value(v);
    }
    p->sequence.n_stops = n;
    return OK;
}

static err read_bias(struct api *a, struct api_fault *f, const char *key, const json_t *value,
                     struct sequence_bias *out) {
    char name[64];
    uint64_t id;
    if (config_parse_whole(key, 0, (double)a->n_vocab - 1, &id) != OK)
        return api_refuse(f, "logit_bias", "expected tokens from 0 to %u as keys, found \"%.40s\"", a->n_vocab - 1,
                          key);
    snprintf(name, sizeof name, "logit_bias.%llu", (unsigned long long)id);
    double bias = json_number_value(value);
    if (!json_is_number(value) || !(bias >= -100 && bias <= 100))
        return api_expected(f, name, "a number from -100 to 100", value);
    *out = (struct sequence_bias){(int32_t)id, (float)bias};
    return OK;
}

static err read_biases(struct api *a, struct api_fault *f, const json_t *root, struct api_params *p) {
    const json_t *map = api_field(root, "logit_bias");
    if (!map) return OK;
    if (!json_is_object(map)) return api_expected(f, "logit_bias", "an object of tokens and numbers", map);
    if (json_object_size(map) > API_BIASES_MAX)
        return api_refuse(f, "logit_bias", "at most %d tokens, found %zu", API_BIASES_MAX, json_object_size(map));
    const char *key;
    json_t *value;
    size_t n = 0;
    json_object_foreach((json_t *)map, key, value) TRY(read_bias(a, f, key, value, &p->biases[n++]));
    p->sequence.n_biases = n;
    return OK;
}

/* ---- all of them ---- */

/* The fields that say how a token is chosen. */
static err read_sampling(struct api *a, struct api_fault *f, const json_t *root, struct api_params *p) {
    struct sequence_options *s = &p->sequence;
    int64_t top_k = 0, seed = 0;
    s->temperature = s->top_p = s->repeat_penalty = 1;
    TRY(api_read_real(f, root, "temperature", 0, 2, &s->temperature));
    TRY(api_read_real(f, root, "top_p", 0, 1, &s->top_p));
    TRY(api_read_real(f, root, "min_p", 0, 1, &s->min_p));
    TRY(api_read_real(f, root, "presence_penalty", -2, 2, &s->presence_penalty));
    TRY(api_read_real(f, root, "frequency_penalty", -2, 2, &s->frequency_penalty));
    TRY(api_read_real(f, root, "repetition_penalty", 0.01, 100, &s->repeat_penalty));
    TRY(api_read_whole(f, root, "top_k", -1, INT32_MAX, &top_k)); /* -1: all, as vLLM has it */
    TRY(api_read_whole(f, root, "seed", INT64_MIN, INT64_MAX, &seed));
    TRY(api_read_bool(f, root, "ignore_eos", &s->ignores_end));
    s->top_k = top_k > 0 ? (uint32_t)top_k : 0;
    s->seed = (uint64_t)seed;
    if (!api_field(root, "seed")) TRY(sampling_draw_seed(&s->seed));
    TRY(read_stops(f, root, p));
    return read_biases(a, f, root, p);
}

static err read_stream(struct api_fault *f, const json_t *root, struct api_params *p) {
    const json_t *options = api_field(root, "stream_options");
    TRY(api_read_bool(f, root, "stream", &p->is_stream));
    if (!options) return OK;
    if (!json_is_object(options)) return api_expected(f, "stream_options", "an object", options);
    if (!p->is_stream) return api_refuse(f, "stream_options", "only with stream: true");
    f->inside = "stream_options.";
    TRY(api_read_bool(f, options, "include_usage", &p->has_usage));
    f->inside = NULL;
    return OK;
}

/* The length of an answer, which may have two names. */
static err read_length(struct api *a, struct api_fault *f, const json_t *root, const char *const *names,
                       struct api_params *p) {
    const char *first = NULL;
    uint64_t most = a->o.config->max_output;
    if (most == 0 || most > a->context) most = a->context;
    for (; *names; names++) {
        int64_t value = -1;
        TRY(api_read_whole(f, root, *names, p->tokens_least, INT32_MAX, &value));
        if (value < 0) continue;
        if (first && value != p->max_tokens) return api_refuse(f, *names, "differs from %s", first);
        if ((uint64_t)value > most)
            return api_refuse(f, *names, "%lld tokens, but an answer may have %llu at most", (long long)value,
                              (unsigned long long)most);
        first = *names;
        p->max_tokens = value;
    }
    return OK;
}

static err read_counts(struct api *a, struct api_fault *f, const json_t *root, struct api_params *p) {
    int64_t most = (int64_t)a->o.config->max_choices;
    p->n = 1;
    TRY(api_read_whole(f, root, "n", 1, most, &p->n));
    p->best_of = p->n;
    TRY(api_read_whole(f, root, "best_of", 1, most, &p->best_of));
    if (p->best_of < p->n)
        return api_refuse(f, "best_of", "%lld, less than n, which is %lld", (long long)p->best_of, (long long)p->n);
    if (p->best_of > p->n && p->is_stream)
        return api_refuse(f, "best_of", "a stream cannot choose the best: give best_of = n or stream: false");
    return OK;
}

err api_read_params(struct api *a, struct api_fault *f, const json_t *root, const char *const *max_names,
                    struct api_params *p) {
    TRY(api_check_model(a, f, root));
    TRY(api_refuse_unknown(f, root));
    TRY(read_stream(f, root, p));
    TRY(read_counts(a, f, root, p));
    TRY(read_length(a, f, root, max_names, p));
    return read_sampling(a, f, root, p);
}
