#include "coordinator/conversation.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/json_shape.h"
#include "model/gguf.h"

/* ---- the template ---- */

static err template_of_file(const char *path, struct chat_template **out) {
    struct bytes text = {0};
    err e = bytes_read_file(&text, path);
    if (e == OK) e = chat_template_create((const char *)text.data, text.len, out);
    bytes_free(&text);
    if (e != OK) return err_context(e, "chat_template \"%.200s\" (no name of %s)", path, chat_template_names());
    return OK;
}

static err template_of_model(const struct model *m, struct chat_template **out) {
    const struct gguf_kv *kv = gguf_find(m->gguf, "tokenizer.chat_template");
    if (!kv) return OK;
    if (kv->type != GGUF_STRING)
        return err_set(ERR_FORMAT, "%s: tokenizer.chat_template is no string", m->path);
    if (chat_template_create(kv->strings[0].data, kv->strings[0].len, out) == OK) return OK;
    return err_context(ERR_UNSUPPORTED, "%s (--chat-template FILE|NAME gives another)", m->path);
}

err conversation_template(const struct model *m, const struct config *c, struct chat_template **out) {
    *out = NULL;
    if (!*c->chat_template) return template_of_model(m, out);
    const char *text = chat_template_named(c->chat_template);
    return text ? chat_template_create(text, strlen(text), out) : template_of_file(c->chat_template, out);
}

/* ---- what clients send ---- */

static const char *found(const json_t *v) {
    if (!v) return "nothing";
    switch (json_typeof(v)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a text";
    case JSON_INTEGER:
    case JSON_REAL: return "a number";
    case JSON_NULL: return "null";
    default: return "true or false";
    }
}

static err out_of_memory(void) { return err_set(ERR_MEMORY, "not enough memory for the messages"); }

/* Joins the parts of an array; `i` is the message's place. */
static err join_parts(const json_t *parts, size_t i, struct bytes *out) {
    size_t at;
    const json_t *part;
    json_array_foreach(parts, at, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const json_t *text = json_object_get(part, "text");
        if (!type || strcmp(type, "text") != 0)
            return err_set(ERR_REQUEST, "messages[%zu].content[%zu].type: expected \"text\", the only kind of part "
                                        "that this model reads", i, at);
        if (!json_is_string(text))
            return err_set(ERR_REQUEST, "messages[%zu].content[%zu].text: expected a text, found %s", i, at,
                           found(text));
        if (at) TRY(bytes_append(out, "\n", 1));
        TRY(bytes_append(out, json_string_value(text), json_string_length(text)));
    }
    return OK;
}

static err read_parts(json_t *message, const json_t *parts, size_t i) {
    struct bytes text = {0};
    err e = bytes_append_str(&text, "");
    if (e == OK) e = join_parts(parts, i, &text);
    if (e == OK && json_object_set_new(message, "content", json_stringn((const char *)text.data, text.len)) != 0)
        e = out_of_memory();
    bytes_free(&text);
    return e;
}

static err read_content(json_t *message, size_t i) {
    const json_t *content = json_object_get(message, "content");
    if (json_is_string(content)) return OK;
    if (json_is_array(content)) return read_parts(message, content, i);
    if ((!content || json_is_null(content)) && json_object_get(message, "tool_calls")) return OK;
    return err_set(ERR_REQUEST, "messages[%zu].content: expected a text or an array of text parts, found %s", i,
                   found(content));
}

static json_t *parse_arguments(const json_t *text) {
    return json_loadb(json_string_value(text), json_string_length(text), 0, NULL);
}

static err read_call(json_t *call, struct json_shape *shape, size_t i, size_t at) {
    json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
    if (!json_is_string(json_object_get(function, "name")))
        return err_set(ERR_REQUEST, "messages[%zu].tool_calls[%zu].function.name: expected a text, found %s", i, at,
                       found(json_object_get(function, "name")));
    if (json_is_object(arguments)) return OK;
    if (json_shape_add(shape, json_string_value(arguments), json_string_length(arguments)) != OK)
        return err_context(ERR_REQUEST, "messages[%zu].tool_calls[%zu].function.arguments", i, at);
    json_t *parsed = json_is_string(arguments) ? parse_arguments(arguments) : NULL;
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return err_set(ERR_REQUEST, "messages[%zu].tool_calls[%zu].function.arguments: expected a JSON object or the "
                                    "text of one", i, at);
    }
    return json_object_set_new(function, "arguments", parsed) == 0 ? OK : out_of_memory();
}

static err read_calls(json_t *message, struct json_shape *shape, size_t i) {
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t at;
    if (calls && !json_is_array(calls))
        return err_set(ERR_REQUEST, "messages[%zu].tool_calls: expected an array, found %s", i, found(calls));
    json_array_foreach(calls, at, call) TRY(read_call(call, shape, i, at));
    return OK;
}

static err read_message(json_t *message, struct json_shape *shape, size_t i) {
    if (!json_is_object(message))
        return err_set(ERR_REQUEST, "messages[%zu]: expected an object with role and content, found %s", i,
                       found(message));
    /* Clients send answers back with every field they know. */
    if (json_is_null(json_object_get(message, "tool_calls"))) json_object_del(message, "tool_calls");
    const json_t *role = json_object_get(message, "role");
    if (!json_is_string(role) || json_string_length(role) == 0)
        return err_set(ERR_REQUEST, "messages[%zu].role: expected system, user, assistant or tool, found %s", i,
                       json_is_string(role) ? "an empty text" : found(role));
    if (strcmp(json_string_value(role), "developer") == 0 &&
        json_object_set_new(message, "role", json_string("system")) != 0)
        return out_of_memory();
    TRY(read_content(message, i));
    return read_calls(message, shape, i);
}

err conversation_read(const json_t *messages, json_t **out) {
    *out = NULL;
    if (!json_is_array(messages))
        return err_set(ERR_REQUEST, "messages: expected an array, found %s", found(messages));
    if (json_array_size(messages) == 0) return err_set(ERR_REQUEST, "messages: expected one message at least");
    json_t *own = json_deep_copy(messages), *message;
    if (!own) return out_of_memory();
    struct json_shape shape = {0}; /* of all arguments: their texts were no values when the body was looked at */
    err e = OK;
    size_t i;
    json_array_foreach(own, i, message)
        if (e == OK) e = read_message(message, &shape, i);
    if (e == OK)
        *out = own;
    else
        json_decref(own);
    return e;
}

/* ---- the prompt ---- */

/* How a special token is written in a text; "" where there is none. */
static err special_text(const struct tokenizer *t, int32_t id, struct bytes *out) {
    TRY(bytes_append_str(out, ""));
    return id < 0 ? OK : tokenizer_decode_token(t, id, 1, out);
}

/* Where `find` [n] occurs last in text [n_text], or n_text. Both are read backwards, so that it is the first match of
 * Knuth, Morris and Pratt 1977, "Fast pattern matching in strings": linear, whatever clients send.
 * border[i]: the longest proper border of the last i + 1 bytes. */
static size_t find_last(const char *text, size_t n_text, const char *find, size_t n, uint32_t *border) {
    const char *last = find + n - 1;
    for (size_t i = 1, k = 0; i < n; i++) {
        while (k && last[-(ptrdiff_t)i] != last[-(ptrdiff_t)k]) k = border[k - 1];
        k += last[-(ptrdiff_t)i] == last[-(ptrdiff_t)k];
        border[i] = (uint32_t)k;
    }
    for (size_t at = n_text, k = 0; at-- > 0;) {
        while (k && text[at] != last[-(ptrdiff_t)k]) k = border[k - 1];
        k += text[at] == last[-(ptrdiff_t)k];
        if (k == n) return at;
    }
    return n_text;
}

/* Cuts what the template wrote behind the last message. It may have trimmed the message, so the trimmed text is
 * looked for, and what the message ended with is put back. */
static err cut_after_message(const json_t *messages, struct bytes *text) {
    const json_t *last = json_array_get(messages, json_array_size(messages) - 1);
    const char *content = json_string_value(json_object_get(last, "content"));
    if (!content || !content[strspn(content, " \t\r\n")])
        return err_set(ERR_REQUEST, "the last message has no text to go on with");
    const char *first = content + strspn(content, " \t\r\n"), *end = content + strlen(content);
    while (strchr(" \t\r\n", end[-1])) end--;
    size_t n = (size_t)(end - first);
    uint32_t *border;
    TRY(NEW(border, n));
    size_t at = find_last((const char *)text->data, text->len, first, n, border);
    free(border);
    if (at == text->len) return err_set(ERR_REQUEST, "the chat template does not write the last message as it is");
    text->len = at + n;
    return bytes_append_str(text, end);
}

err conversation_render(const struct chat_template *t, const struct model *m, const struct conversation *c,
                        struct bytes *out) {
    if (!t)
        return err_set(ERR_REQUEST, "this model carries no chat template, and --chat-template names none");
    TRY(model_need_tokenizer(m));
    struct bytes bos = {0}, eos = {0};
    err e = special_text(m->tokenizer, tokenizer_bos(m->tokenizer), &bos);
    if (e == OK) e = special_text(m->tokenizer, tokenizer_eos(m->tokenizer), &eos);
    if (e == OK) {
        struct chat_input in = {
            .messages = c->messages, .tools = c->tools, .variables = c->variables,
            .bos = (const char *)bos.data, .eos = (const char *)eos.data,
            .adds_generation_prompt = !c->goes_on, .now_s = c->now_s};
        e = chat_template_render(t, &in, out);
        if (e == OK && c->goes_on) e = cut_after_message(c->messages, out);
    }
    bytes_free(&bos);
    bytes_free(&eos);
    return e;
}

/* The file's tokenizer may know more tokens than its embedding has rows. */
static err check_ids(const struct token_list *l, uint32_t n_vocab) {
    for (size_t i = 0; i < l->n; i++)
        if (l->ids[i] < 0 || (uint32_t)l->ids[i] >= n_vocab)
            return err_set(ERR_REQUEST, "token %d of the prompt is beyond the model's %u", l->ids[i], n_vocab);
    return l->n ? OK : err_set(ERR_REQUEST, "the chat template made an empty prompt of these messages");
}

static err append(const struct model *m, const struct token_list *prompt, struct token_list *out) {
    int32_t bos = tokenizer_bos(m->tokenizer);
    size_t n_before = out->n;
    err e = check_ids(prompt, m->program->n_vocab);
    if (e == OK && tokenizer_adds_bos(m->tokenizer) && prompt->ids[0] != bos) e = token_list_push(out, bos);
    for (size_t i = 0; e == OK && i < prompt->n; i++) e = token_list_push(out, prompt->ids[i]);
    if (e != OK) out->n = n_before;
    return e;
}

err conversation_tokenize(const struct model *m, const struct bytes *text, struct token_list *out) {
    struct token_list prompt = {0};
    err e = tokenizer_encode(m->tokenizer, (const char *)text->data, text->len, 0, 1, &prompt);
    if (e == OK) e = append(m, &prompt, out);
    token_list_free(&prompt);
    return e;
}

err conversation_encode(const struct chat_template *t, const struct model *m, const struct conversation *c,
                        struct token_list *out) {
    struct bytes text = {0};
    err e = conversation_render(t, m, c, &text);
    if (e == OK) e = conversation_tokenize(m, &text, out);
    bytes_free(&text);
    return e;
}
