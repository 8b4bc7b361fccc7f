/* POST /v1/chat/completions: messages become a prompt by the model's template; what follows is a completion. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "coordinator/api_parts.h"
#include "coordinator/conversation.h"
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
    p->tokens_least = 1;
    TRY(api_read_params(a, f, root, max_names, p));
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

/* Errors of a conversation begin with the field: "messages[2].content: expected ...". */
static err name_field(struct api_fault *f, err e) {
    const char *text = err_text(), *end = strchr(text, ':');
    int is_named = e == ERR_REQUEST && strncmp(text, "messages", 8) == 0 && end;
    if (is_named) snprintf(f->param, sizeof f->param, "%.*s", (int)(end - text), text);
    return e == ERR_REQUEST && !is_named ? api_refuse(f, "messages", "%s", text) : e;
}

static err check_flags(struct api_fault *f, const json_t *root, struct conversation *c) {
    int opens_answer, goes_on = 0;
    TRY(api_read_bool(f, root, "continue_final_message", &goes_on));
    opens_answer = !goes_on;
    TRY(api_read_bool(f, root, "add_generation_prompt", &opens_answer));
    if (opens_answer == goes_on)
        return api_refuse(f, "add_generation_prompt", goes_on ? "not together with continue_final_message"
                                                              : "false only with continue_final_message");
    c->goes_on = goes_on;
    c->variables = api_field(root, "chat_template_kwargs");
    if (c->variables && !json_is_object(c->variables))
        return api_expected(f, "chat_template_kwargs", "an object", c->variables);
    return read_tools(f, root, &c->tools);
}

/* Templates write messages as they are or leave them out: what their number or their texts alone make too long is
 * refused before it is rendered. */
static err check_bytes(struct api *a, struct api_fault *f, const json_t *messages) {
    size_t n = 0;
    if (json_array_size(messages) > a->context) {
        f->code = API_TOO_LONG;
        return api_refuse(f, "messages", "%zu messages are longer than the context of %u tokens",
                          json_array_size(messages), a->context);
    }
    for (size_t i = 0; i < json_array_size(messages); i++)
        n += json_string_length(json_object_get(json_array_get(messages, i), "content"));
    return api_check_bytes(a, f, "messages", n);
}

/* Tools, roles and other fields may have made it too long, too. */
static err encode(struct api *a, struct api_fault *f, const struct conversation *c, struct token_list *out) {
    struct bytes text = {0};
    err e = name_field(f, conversation_render(a->o.chat, a->o.model, c, &text));
    if (e == OK) e = api_check_bytes(a, f, "messages", text.len);
    if (e == OK) e = name_field(f, conversation_tokenize(a->o.model, &text, out));
    bytes_free(&text);
    return e;
}

static err make_prompt(struct api *a, struct api_fault *f, const json_t *root, struct api_prompt *out) {
    struct conversation c = {.now_s = time(NULL)};
    json_t *messages;
    TRY(check_flags(f, root, &c));
    if (!a->o.chat)
        return err_set(ERR_REQUEST, "this model carries no chat template; start the server with --chat-template "
                                    "FILE|NAME, or ask /v1/completions");
    err e = name_field(f, conversation_read(json_object_get(root, "messages"), &messages));
    if (e != OK) return e;
    c.messages = messages;
    e = check_bytes(a, f, messages);
    if (e == OK) e = encode(a, f, &c, &out->tokens);
    json_decref(messages);
    return e;
}

err api_chat(struct api *a, struct exchange *x, const json_t *root, struct api_fault *f) {
    struct api_params p = {0};
    struct api_prompt *prompt;
    TRY(read_params(a, f, root, &p));
    TRY(NEW(prompt, 1));
    err e = make_prompt(a, f, root, prompt);
    if (e == OK) return api_answer_start(a, x, f, &api_chat_form, &p, "messages", prompt, 1);
    api_prompts_free(prompt, 1);
    return e;
}
