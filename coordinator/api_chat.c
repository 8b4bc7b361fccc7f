/* POST /v1/chat/completions: messages become a prompt by the model's template; what follows is a completion. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "coordinator/api_parts.h"
#include "model/limits.h"

/* ---- the answer ---- */

static json_t *write_choice(struct api_choice *c, const struct api_piece *p) {
    int has_scores = c->answer->params.has_scores && (p->is_whole || p->n_scores);
    json_t *said = json_object(); /* the message, or what is new of it */
    if (p->is_first) json_object_set_new(said, "role", json_string("assistant"));
    if (p->is_first || p->n_text) json_object_set_new(said, "content", json_stringn(p->text, p->n_text));
    if (p->is_whole) json_object_set_new(said, "refusal", json_null());
    return json_pack("{s:I, s:o, s:o, s:s?}", "index", (json_int_t)c->index, p->is_whole ? "message" : "delta", said,
                     "logprobs", has_scores ? api_chat_scores(c, p->scores, p->n_scores) : json_null(),
                     "finish_reason", p->finish);
}

const struct api_form api_chat_form = {"chatcmpl", "chat.completion", "chat.completion.chunk", write_choice};

/* ---- parameters ---- */

static err read_scores(struct api_fault *f, const json_t *root, struct api_params *p) {
    int64_t n_top = 0;
    TRY(api_read_bool(f, root, "logprobs", &p->has_scores));
    TRY(api_read_whole(f, root, "top_logprobs", 0, TOP_LOGPROBS_MAX, &n_top));
    if (n_top && !p->has_scores) return api_refuse(f, "top_logprobs", "only with logprobs: true");
    p->sequence.n_top = (uint32_t)n_top;
    return OK;
}

static err read_params(struct api *a, struct api_fault *f, const json_t *root, struct api_params *p) {
    static const char *const max_names[] = {"max_tokens", "max_completion_tokens", NULL};
    const json_t *best_of = api_field(root, "best_of"), *echo = api_field(root, "echo");
    p->max_tokens = -1;
    TRY(api_read_params(a, f, root, max_names, p));
    if (p->max_tokens == 0) return api_refuse(f, "max_tokens", "expected a whole number from 1, found 0");
    if (best_of && p->best_of != p->n) return api_refuse(f, "best_of", "not supported for chats; n is");
    if (echo && !json_is_false(echo)) return api_refuse(f, "echo", "not supported for chats");
    return read_scores(f, root, p);
}

/* ---- tools: shown to the model; its calls come back as the text that it writes ---- */

static err check_tool_choice(struct api_fault *f, const json_t *root, int *shows_tools) {
    const json_t *choice = api_field(root, "tool_choice");
    const char *text = json_string_value(choice);
    int is_parallel = 1;
    *shows_tools = !text || strcmp(text, "none") != 0;
    if (choice && (!text || (strcmp(text, "none") != 0 && strcmp(text, "auto") != 0)))
        return api_refuse(f, "tool_choice", "only \"none\" and \"auto\" are supported: a call cannot be forced");
    TRY(api_read_bool(f, root, "parallel_tool_calls", &is_parallel));
    if (!is_parallel)
        return api_refuse(f, "parallel_tool_calls", "false is not supported: the number of calls cannot be held");
    return OK;
}

static err read_tools(struct api_fault *f, const json_t *root, const json_t **out) {
    const json_t *tools = api_field(root, "tools");
    int shows_tools;
    TRY(check_tool_choice(f, root, &shows_tools));
    *out = NULL;
    if (!tools) return OK;
    if (!json_is_array(tools)) return api_expected(f, "tools", "an array", tools);
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        const char *type = json_string_value(json_object_get(tool, "type"));
        char name[48];
        snprintf(name, sizeof name, "tools[%zu].type", i);
        if (!type || strcmp(type, "function") != 0) return api_refuse(f, name, "only \"function\" is supported");
        snprintf(name, sizeof name, "tools[%zu].function.name", i);
        if (!json_is_string(json_object_get(function, "name"))) return api_refuse(f, name, "expected a string");
    }
    if (shows_tools && json_array_size(tools)) *out = tools;
    return OK;
}

/* ---- the prompt ---- */

struct chat {
    struct api *api;
    struct api_fault *f;
    json_t *messages;
    const json_t *tools, *variables;
    int opens_answer; /* add_generation_prompt */
    int goes_on;      /* continue_final_message: the answer goes on with the last message */
    struct bytes text;
};

static err read_prompt_fields(struct chat *c, const json_t *root) {
    c->variables = api_field(root, "chat_template_kwargs");
    if (c->variables && !json_is_object(c->variables))
        return api_expected(c->f, "chat_template_kwargs", "an object", c->variables);
    TRY(api_read_bool(c->f, root, "continue_final_message", &c->goes_on));
    c->opens_answer = !c->goes_on;
    TRY(api_read_bool(c->f, root, "add_generation_prompt", &c->opens_answer));
    if (c->goes_on && c->opens_answer)
        return api_refuse(c->f, "continue_final_message", "not together with add_generation_prompt");
    TRY(read_tools(c->f, root, &c->tools));
    return api_read_messages(c->f, root, &c->messages);
}

/* Cuts what the template wrote behind the last message. Templates may trim a message, so its trimmed text is looked
 * for, and what it ended with is put back. */
static err cut_after_message(struct chat *c) {
    const json_t *last = json_array_get(c->messages, json_array_size(c->messages) - 1);
    const char *content = json_string_value(json_object_get(last, "content")), *found = NULL;
    size_t n = content ? strlen(content) : 0;
    while (n && strchr(" \t\r\n", content[n - 1])) n--;
    if (n == 0) return api_refuse(c->f, "continue_final_message", "the last message has no text to go on with");
    size_t lead = strspn(content, " \t\r\n");
    const char *begin = (char *)c->text.data, *at = begin;
    while ((at = memmem(at, c->text.len - (size_t)(at - begin), content + lead, n - lead)) != NULL) found = at++;
    if (!found)
        return api_refuse(c->f, "continue_final_message", "the template does not write the last message as it is");
    c->text.len = (size_t)(found - begin) + n - lead;
    return bytes_append_str(&c->text, content + n);
}

static err render(struct chat *c) {
    struct api *a = c->api;
    const struct chat_input in = {
        .messages = c->messages, .tools = c->tools, .variables = c->variables, .bos = a->bos, .eos = a->eos,
        .adds_generation_prompt = c->opens_answer, .now_s = time(NULL)};
    err e = chat_template_render(a->o.chat, &in, &c->text);
    if (e == ERR_REQUEST) return api_refuse(c->f, "messages", "%s", err_text());
    if (e == OK && c->goes_on) e = cut_after_message(c);
    return e;
}

/* The template's text is the whole prompt: only a BOS that the model wants and the template leaves out is added. */
static err encode(struct chat *c, struct token_list *out) {
    const struct tokenizer *t = c->api->o.model->tokenizer;
    size_t n_bos = c->api->bos ? strlen(c->api->bos) : 0;
    int has_bos = n_bos && c->text.len >= n_bos && memcmp(c->text.data, c->api->bos, n_bos) == 0;
    if (t && tokenizer_adds_bos(t) && tokenizer_bos(t) >= 0 && !has_bos)
        TRY(token_list_push(out, tokenizer_bos(t)));
    TRY(api_encode(c->api, c->f, "messages", c->text.data ? (char *)c->text.data : "", c->text.len, 0, out));
    if (out->n == 0) return api_refuse(c->f, "messages", "the template made an empty prompt of them");
    return OK;
}

static err make_prompt(struct chat *c, const json_t *root, struct api_prompt **out) {
    struct api_prompt *p;
    TRY(read_prompt_fields(c, root));
    if (!c->api->o.chat)
        return err_set(ERR_UNSUPPORTED, "the model carries no chat template; start the server with --chat-template "
                                        "FILE|NAME, or use /v1/completions");
    TRY(render(c));
    TRY(NEW(p, 1));
    err e = encode(c, &p->tokens);
    if (e == OK) *out = p;
    else api_prompts_free(p, 1);
    return e;
}

err api_chat(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct api_params p = {0};
    struct api_prompt *prompt = NULL;
    struct chat c = {.api = a, .f = f};
    TRY(read_params(a, f, root, &p));
    err e = make_prompt(&c, root, &prompt);
    json_decref(c.messages);
    bytes_free(&c.text);
    return e == OK ? api_answer_start(a, x, f, &api_chat_form, &p, "messages", prompt, 1) : e;
}
