/* The messages of a chat: what each may hold, and in which form templates expect it. */
#include <stdio.h>
#include <string.h>

#include "coordinator/api_parts.h"

/* A message under way: f->inside names it, "messages[2].". */
struct message {
    struct api_fault *f;
    json_t *object;
};

static err check_role(struct message *m, const char **role) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function"};
    *role = NULL;
    TRY(api_read_text(m->f, m->object, "role", role));
    for (size_t i = 0; *role && i < sizeof roles / sizeof *roles; i++)
        if (strcmp(*role, roles[i]) == 0) return OK;
    if (!*role) return api_refuse(m->f, "role", "missing");
    return api_refuse(m->f, "role", "expected system, developer, user, assistant, tool or function, found \"%.40s\"",
                      *role);
}

/* ---- content ---- */

static err part_text(struct message *m, size_t i, const json_t *part, struct bytes *out) {
    char name[64];
    snprintf(name, sizeof name, "content[%zu]", i);
    if (!json_is_object(part)) return api_expected(m->f, name, "an object", part);
    const json_t *type = json_object_get(part, "type"), *text = json_object_get(part, "text");
    snprintf(name, sizeof name, "content[%zu].type", i);
    if (!json_is_string(type) || strcmp(json_string_value(type), "text") != 0)
        return api_refuse(m->f, name, "only parts of type \"text\" are supported");
    snprintf(name, sizeof name, "content[%zu].text", i);
    if (!json_is_string(text)) return api_refuse(m->f, name, "expected a string");
    if (i) TRY(bytes_append_str(out, "\n"));
    return bytes_append(out, json_string_value(text), json_string_length(text));
}

/* Templates are written for strings: parts become lines. */
static err join_parts(struct message *m, const json_t *parts) {
    struct bytes text = {0};
    err e = bytes_append_str(&text, "");
    for (size_t i = 0; i < json_array_size(parts) && e == OK; i++)
        e = part_text(m, i, json_array_get(parts, i), &text);
    if (e == OK && json_object_set_new(m->object, "content", json_stringn((char *)text.data, text.len)) != 0)
        e = err_set(ERR_MEMORY, "not enough memory for a message");
    bytes_free(&text);
    return e;
}

/* A call of a tool has no text beside it; templates ask whether content is none. */
static err read_content(struct message *m, const char *role) {
    const json_t *content = api_field(m->object, "content");
    int may_lack = strcmp(role, "assistant") == 0 && api_field(m->object, "tool_calls");
    if (json_is_string(content)) return OK;
    if (json_is_array(content)) return join_parts(m, content);
    if (content) return api_expected(m->f, "content", "a string or an array of parts", content);
    if (!may_lack) return api_refuse(m->f, "content", "missing; expected a string or an array of parts");
    json_object_set_new(m->object, "content", json_null());
    return OK;
}

/* ---- calls of tools ---- */

/* Clients send arguments as JSON text, templates write them out as an object. */
static err read_call(struct message *m, size_t i, json_t *call) {
    char name[64];
    json_error_t at;
    json_t *function = json_object_get(call, "function"), *arguments = json_object_get(function, "arguments");
    snprintf(name, sizeof name, "tool_calls[%zu].function", i);
    if (!json_is_object(function)) return api_refuse(m->f, name, "expected an object with name and arguments");
    snprintf(name, sizeof name, "tool_calls[%zu].function.name", i);
    if (!json_is_string(json_object_get(function, "name"))) return api_refuse(m->f, name, "expected a string");
    if (!json_is_string(arguments)) return OK;
    json_t *value = json_loadb(json_string_value(arguments), json_string_length(arguments), 0, &at);
    snprintf(name, sizeof name, "tool_calls[%zu].function.arguments", i);
    if (!json_is_object(value)) {
        json_decref(value);
        return api_refuse(m->f, name, "expected the text of a JSON object");
    }
    json_object_set_new(function, "arguments", value);
    return OK;
}

static err read_calls(struct message *m) {
    const json_t *calls = api_field(m->object, "tool_calls");
    if (!calls) return OK;
    if (!json_is_array(calls)) return api_expected(m->f, "tool_calls", "an array", calls);
    json_t *copy = json_deep_copy(calls);
    if (!copy || json_object_set_new(m->object, "tool_calls", copy) != 0)
        return err_set(ERR_MEMORY, "not enough memory for a message");
    for (size_t i = 0; i < json_array_size(copy); i++) TRY(read_call(m, i, json_array_get(copy, i)));
    return OK;
}

/* ---- all ---- */

static err read_message(struct api_fault *f, size_t i, const json_t *v, json_t *list) {
    char inside[40];
    snprintf(inside, sizeof inside, "messages[%zu]", i);
    if (!json_is_object(v)) return api_expected(f, inside, "an object", v);
    struct message m = {f, json_copy((json_t *)v)};
    if (!m.object || json_array_append_new(list, m.object) != 0)
        return err_set(ERR_MEMORY, "not enough memory for the messages");
    strcat(inside, ".");
    f->inside = inside;
    const char *role, *text = NULL;
    err e = check_role(&m, &role);
    if (e == OK) e = api_read_text(f, v, "name", &text);
    if (e == OK) e = api_read_text(f, v, "tool_call_id", &text);
    if (e == OK) e = read_content(&m, role);
    if (e == OK) e = read_calls(&m);
    f->inside = NULL;
    return e;
}

err api_read_messages(struct api_fault *f, const json_t *root, json_t **out) {
    const json_t *messages = api_field(root, "messages");
    if (!messages) return api_refuse(f, "messages", "missing; expected an array of messages");
    if (!json_is_array(messages)) return api_expected(f, "messages", "an array", messages);
    if (json_array_size(messages) == 0) return api_refuse(f, "messages", "the array is empty");
    json_t *list = json_array();
    err e = list ? OK : err_set(ERR_MEMORY, "not enough memory for the messages");
    for (size_t i = 0; i < json_array_size(messages) && e == OK; i++)
        e = read_message(f, i, json_array_get(messages, i), list);
    if (e == OK) *out = list;
    else json_decref(list);
    return e;
}
