/* Prompts: from a request's JSON to tokens, and whether they fit. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/api_parts.h"

err api_check_bytes(struct api *a, struct api_fault *f, const char *name, size_t n) {
    if (!a->token_bytes_max || n / a->token_bytes_max <= a->context) return OK;
    f->code = API_TOO_LONG;
    return api_refuse(f, name, "a text of %zu bytes is longer than the context of %u tokens", n, a->context);
}

err api_encode(struct api *a, struct api_fault *f, const char *name, const char *text, size_t n, int add_special,
               struct token_list *out) {
    if (!a->o.model->tokenizer)
        return api_refuse(f, name, "the model carries no tokenizer: give tokens in place of a text");
    TRY(api_check_bytes(a, f, name, n));
    return tokenizer_encode(a->o.model->tokenizer, text, n, add_special, 1, out);
}

static err read_text(struct api *a, struct api_fault *f, const char *name, const json_t *v, struct api_prompt *out) {
    out->given = json_string_value(v);
    TRY(api_encode(a, f, name, out->given, json_string_length(v), 1, &out->tokens));
    if (out->tokens.n == 0) return api_refuse(f, name, "the prompt is empty");
    /* A file's tokenizer may know more tokens than its embedding has rows. */
    for (size_t i = 0; i < out->tokens.n; i++)
        if ((uint32_t)out->tokens.ids[i] >= a->n_vocab)
            return api_refuse(f, name, "token %d of the prompt is beyond the model's %u", out->tokens.ids[i],
                              a->n_vocab);
    return OK;
}

static err read_one(struct api *a, struct api_fault *f, const char *name, const json_t *v, struct api_prompt *out) {
    if (json_is_string(v)) return read_text(a, f, name, v, out);
    if (!json_is_array(v)) return api_expected(f, name, "a string or an array of tokens", v);
    if (json_array_size(v) == 0) return api_refuse(f, name, "the prompt is empty");
    return api_read_tokens(f, name, v, a->n_vocab, &out->tokens);
}

static err read_all(struct api *a, struct api_fault *f, const char *name, const json_t *list,
                    struct api_prompt *out) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        char item[48];
        snprintf(item, sizeof item, "%s[%zu]", name, i);
        TRY(read_one(a, f, item, json_array_get(list, i), &out[i]));
    }
    return OK;
}

err api_read_prompts(struct api *a, struct api_fault *f, const json_t *root, const char *name, size_t n_max,
                     struct api_prompt **out, size_t *n) {
    const json_t *v = api_field(root, name);
    if (!v) return api_refuse(f, name, "missing; expected a string, tokens, or an array of either");
    int is_list = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t count = is_list ? json_array_size(v) : 1;
    if (count == 0) return api_refuse(f, name, "the array is empty");
    if (count > n_max) return api_refuse(f, name, "%zu prompts, at most %zu", count, n_max);
    struct api_prompt *prompts;
    TRY(NEW(prompts, count));
    err e = is_list ? read_all(a, f, name, v, prompts) : read_one(a, f, name, v, prompts);
    if (e != OK) {
        api_prompts_free(prompts, count);
        return e;
    }
    *out = prompts;
    *n = count;
    return OK;
}

void api_prompts_free(struct api_prompt *prompts, size_t n) {
    for (size_t i = 0; prompts && i < n; i++) {
        token_list_free(&prompts[i].tokens);
        bytes_free(&prompts[i].text);
    }
    free(prompts);
}

err api_prompt_show(struct api *a, struct api_prompt *p) {
    const struct tokenizer *t = a->o.model->tokenizer;
    if (p->given) return bytes_append_str(&p->text, p->given);
    if (!t) return OK;
    struct token_stream s;
    token_stream_init(&s, t, 1);
    err e = OK;
    size_t i = p->tokens.n && p->tokens.ids[0] == tokenizer_bos(t) ? 1 : 0;
    for (; i < p->tokens.n && e == OK; i++)
        if ((size_t)p->tokens.ids[i] < tokenizer_n_vocab(t)) e = token_stream_push(&s, p->tokens.ids[i], &p->text);
    if (e == OK) e = token_stream_finish(&s, &p->text);
    token_stream_free(&s);
    return e;
}

err api_check_length(struct api *a, struct api_fault *f, const char *name, size_t n_prompt,
                     const struct api_params *p, uint32_t *max_tokens) {
    uint64_t most = a->o.config->max_output;
    int is_open = p->max_tokens < 0;
    size_t n_answer = is_open ? 1 : (size_t)p->max_tokens;
    if (n_prompt + n_answer > a->context) {
        f->code = API_TOO_LONG;
        return api_refuse(f, name, "the prompt has %zu tokens, the answer %s %zu; the context holds %u together",
                          n_prompt, is_open ? "at least" : "may have", n_answer, a->context);
    }
    if (is_open) n_answer = a->context - n_prompt;
    if (is_open && most && n_answer > most) n_answer = (size_t)most;
    if (is_open && p->tokens_unless_asked && n_answer > p->tokens_unless_asked) n_answer = p->tokens_unless_asked;
    *max_tokens = (uint32_t)n_answer;
    return OK;
}
