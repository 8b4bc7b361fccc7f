#include "coordinator/load_request.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#define SHARED UINT64_MAX /* the index of the shared tokens' own stream */

enum { DRAW_PROMPT, DRAW_ANSWER, DRAW_SAMPLED, DRAW_LEAVES, DRAW_WHEN, DRAW_SEED, DRAW_TOKENS };

/* SplitMix64's finaliser, Steele et al. 2014, "Fast splittable pseudorandom number generators". */
static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

double load_random(uint64_t seed, uint64_t index, uint64_t n) {
    const uint64_t step = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t x = mix(mix(mix(seed + step) + (index + 1) * step) + (n + 1) * step);
    return (double)(x >> 11) * 0x1p-53;
}

static uint32_t draw(const uint32_t range[2], double random) {
    return range[0] + (uint32_t)(random * ((double)range[1] - range[0] + 1));
}

void load_request_make(const struct load_spec *spec, uint64_t index, struct load_request *out) {
    uint64_t seed = spec->seed;
    *out = (struct load_request){.index = index, .leaves = -1};
    out->n_prompt = spec->n_shared + draw(spec->prompt_tokens, load_random(seed, index, DRAW_PROMPT));
    out->n_answer = draw(spec->answer_tokens, load_random(seed, index, DRAW_ANSWER));
    out->is_sampled = load_random(seed, index, DRAW_SAMPLED) < spec->sampled_share;
    if (load_random(seed, index, DRAW_LEAVES) < spec->leaving_share) out->leaves = load_random(seed, index, DRAW_WHEN);
}

/* Short, plain and frequent: most vocabularies have each as one token. */
static const char *const words[] = {
    "the", "of", "and", "to", "in", "is", "was", "for", "on", "that", "with", "as", "it", "by", "at", "from",
    "his", "he", "are", "an", "were", "which", "be", "this", "has", "also", "had", "one", "new", "first", "two", "city",
    "time", "year", "school", "state", "after", "not", "or", "its", "who", "but", "have", "they", "world", "war", "all",
    "more", "when", "can", "there", "into", "most", "some", "during", "may", "other", "many", "only", "between", "used",
    "over", "about", "people"};

static err add_token(const struct load_spec *spec, double random, int is_first, struct bytes *out) {
    static const uint32_t all_words[2] = {0, sizeof words / sizeof *words - 1};
    if (!spec->is_text) return bytes_printf(out, "%s%u", is_first ? "" : ",", draw(spec->ids, random));
    TRY(bytes_append_str(out, is_first ? "" : " "));
    return bytes_append_str(out, words[draw(all_words, random)]);
}

static err add_prompt(const struct load_spec *spec, const struct load_request *r, struct bytes *out) {
    TRY(bytes_append_str(out, spec->is_text ? "\"" : "["));
    for (uint32_t i = 0; i < r->n_prompt; i++) {
        uint64_t index = i < spec->n_shared ? SHARED : r->index;
        TRY(add_token(spec, load_random(spec->seed, index, DRAW_TOKENS + i), i == 0, out));
    }
    return bytes_append_str(out, spec->is_text ? "\"" : "]");
}

static err add_model(const char *model, struct bytes *out) {
    if (!model) return OK;
    json_t *name = json_string(model);
    char *text = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    err e = text ? bytes_printf(out, "\"model\":%s,", text) : err_set(ERR_REQUEST, "--model is no UTF-8");
    free(text);
    json_decref(name);
    return e;
}

err load_request_body(const struct load_spec *spec, const struct load_request *r, struct bytes *out) {
    TRY(bytes_append_str(out, "{"));
    TRY(add_model(spec->model, out));
    TRY(bytes_append_str(out, "\"prompt\":"));
    TRY(add_prompt(spec, r, out));
    TRY(bytes_printf(out, ",\"max_tokens\":%u,\"ignore_eos\":true,\"stream\":true,"
                          "\"stream_options\":{\"include_usage\":true},", r->n_answer));
    if (!r->is_sampled) return bytes_append_str(out, "\"temperature\":0}");
    return bytes_printf(out, "\"temperature\":0.8,\"top_p\":0.95,\"seed\":%u}",
                        (unsigned)(load_random(spec->seed, r->index, DRAW_SEED) * 1e9));
}
