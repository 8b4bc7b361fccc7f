#include "coordinator/chat.h"

#include <stdlib.h>
#include <string.h>

struct chat {
    json_t *messages;  /* without the system's */
    json_t *system;    /* a string */
    size_t n_left_out; /* messages at the beginning that are not read any more */
};

static err out_of_memory(void) { return err_set(ERR_MEMORY, "not enough memory for the conversation"); }

err chat_create(struct chat **out) {
    struct chat *c;
    TRY(NEW(c, 1));
    c->messages = json_array();
    c->system = json_string("");
    if (!c->messages || !c->system) {
        chat_free(c);
        return out_of_memory();
    }
    *out = c;
    return OK;
}

void chat_free(struct chat *c) {
    if (!c) return;
    json_decref(c->messages);
    json_decref(c->system);
    free(c);
}

void chat_clear(struct chat *c) {
    json_array_clear(c->messages);
    c->n_left_out = 0;
}

static err make_text(const char *text, size_t n, json_t **out) {
    if (memchr(text, 0, n)) return err_set(ERR_REQUEST, "the text holds a zero byte");
    *out = json_stringn(text, n);
    return *out ? OK : err_set(ERR_REQUEST, "the text is not UTF-8");
}

err chat_set_system(struct chat *c, const char *text) {
    json_t *system;
    TRY(make_text(text, strlen(text), &system));
    json_decref(c->system);
    c->system = system;
    return OK;
}

const char *chat_system(const struct chat *c) { return json_string_value(c->system); }

/* ---- messages ---- */

size_t chat_n_messages(const struct chat *c) { return json_array_size(c->messages); }
size_t chat_n_left_out(const struct chat *c) { return c->n_left_out; }

static const char *role_at(const struct chat *c, size_t i) {
    return json_string_value(json_object_get(json_array_get(c->messages, i), "role"));
}

static int is_user(const struct chat *c, size_t i) { return strcmp(role_at(c, i), "user") == 0; }

static void forget_after(struct chat *c, size_t n) {
    while (chat_n_messages(c) > n) json_array_remove(c->messages, chat_n_messages(c) - 1);
    if (c->n_left_out > n) c->n_left_out = 0;
}

/* Where the last question stands; ERR_REQUEST where there is none. */
static err find_question(const struct chat *c, size_t *out) {
    for (size_t i = chat_n_messages(c); i-- > 0;)
        if (is_user(c, i)) {
            *out = i;
            return OK;
        }
    return err_set(ERR_REQUEST, "nothing was asked yet");
}

static err append(struct chat *c, const char *role, json_t *content) {
    json_t *message = json_pack("{s:s, s:o}", "role", role, "content", content);
    return message && json_array_append_new(c->messages, message) == 0 ? OK : out_of_memory();
}

/* Templates want a question and an answer in turn. */
static err join_question(json_t *message, const char *text, size_t n) {
    struct bytes whole = {0};
    const json_t *before = json_object_get(message, "content");
    err e = bytes_append(&whole, json_string_value(before), json_string_length(before));
    if (e == OK) e = bytes_append_str(&whole, "\n\n");
    if (e == OK) e = bytes_append(&whole, text, n);
    if (e == OK && json_object_set_new(message, "content", json_stringn((char *)whole.data, whole.len)) != 0)
        e = out_of_memory();
    bytes_free(&whole);
    return e;
}

err chat_ask(struct chat *c, const char *text, size_t n) {
    json_t *content;
    size_t n_messages = chat_n_messages(c);
    TRY(make_text(text, n, &content));
    if (n_messages == 0 || !is_user(c, n_messages - 1)) return append(c, "user", content);
    json_decref(content);
    return join_question(json_array_get(c->messages, n_messages - 1), text, n);
}

err chat_answer(struct chat *c, const char *text, size_t n) {
    json_t *content;
    if (n == 0) return OK;
    TRY(make_text(text, n, &content));
    return append(c, "assistant", content);
}

err chat_reopen(struct chat *c) {
    size_t at;
    TRY(find_question(c, &at));
    forget_after(c, at + 1);
    return OK;
}

err chat_undo(struct chat *c) {
    size_t at;
    TRY(find_question(c, &at));
    forget_after(c, at);
    return OK;
}

const char *chat_last(const struct chat *c, const char *role) {
    for (size_t i = chat_n_messages(c); i-- > 0;)
        if (strcmp(role_at(c, i), role) == 0)
            return json_string_value(json_object_get(json_array_get(c->messages, i), "content"));
    return NULL;
}

/* ---- files ---- */

/* The system's message and those from `begin` on: a new reference, or NULL. */
static json_t *all_from(const struct chat *c, size_t begin) {
    json_t *all = json_array();
    int is_lost = !all;
    if (!is_lost && *chat_system(c))
        is_lost = json_array_append_new(all, json_pack("{s:s, s:O}", "role", "system", "content", c->system)) != 0;
    for (size_t i = begin; !is_lost && i < chat_n_messages(c); i++)
        is_lost = json_array_append(all, json_array_get(c->messages, i)) != 0;
    if (!is_lost) return all;
    json_decref(all);
    return NULL;
}

err chat_save(const struct chat *c, const char *path) {
    json_t *all = all_from(c, 0), *root = all ? json_pack("{s:o}", "messages", all) : NULL;
    if (!root) return out_of_memory();
    int failed = json_dump_file(root, path, JSON_INDENT(2));
    json_decref(root);
    return failed ? err_set(ERR_FILE, "cannot write %s", path) : OK;
}

static err take_loaded(struct chat *c, json_t *messages, const char *path) {
    const json_t *first = json_array_get(messages, 0);
    const char *role = json_string_value(json_object_get(first, "role"));
    json_t *system = strcmp(role, "system") == 0 ? json_incref(json_object_get(first, "content")) : json_string("");
    if (!json_is_string(system)) {
        json_decref(system);
        return err_set(ERR_REQUEST, "%s: messages[0].content: expected a text", path);
    }
    if (strcmp(role, "system") == 0) json_array_remove(messages, 0);
    json_decref(c->messages);
    json_decref(c->system);
    *c = (struct chat){.messages = json_incref(messages), .system = system};
    return OK;
}

err chat_load(struct chat *c, const char *path) {
    json_error_t why;
    struct bytes text = {0};
    TRY(bytes_read_file(&text, path));
    json_t *root = json_loadb((const char *)text.data, text.len, 0, &why), *messages = NULL;
    bytes_free(&text);
    if (!root) return err_set(ERR_FORMAT, "%s: line %d: %s", path, why.line, why.text);
    err e = conversation_read(json_is_array(root) ? root : json_object_get(root, "messages"), &messages);
    e = e == OK ? take_loaded(c, messages, path) : err_context(e, "%s", path);
    json_decref(messages);
    json_decref(root);
    return e;
}

/* ---- the prompt ---- */

static err encode_from(const struct chat *c, size_t begin, const struct chat_template *t, const struct model *m,
                       int64_t now_s, struct token_list *out) {
    struct conversation conversation = {.messages = all_from(c, begin), .now_s = now_s};
    if (!conversation.messages) return out_of_memory();
    err e = conversation_encode(t, m, &conversation, out);
    json_decref((json_t *)(uintptr_t)conversation.messages);
    return e;
}

/* The question after the one at `at`, or `at` where it is the last. */
static size_t next_question(const struct chat *c, size_t at) {
    for (size_t i = at + 1; i < chat_n_messages(c); i++)
        if (is_user(c, i)) return i;
    return at;
}

err chat_encode(struct chat *c, const struct chat_template *t, const struct model *m, uint32_t context,
                uint32_t reserve, int64_t now_s, struct token_list *out) {
    size_t n_before = out->n, begin = c->n_left_out;
    uint32_t most = context - (reserve < context ? reserve : context - 1);
    for (;;) {
        TRY(encode_from(c, begin, t, m, now_s, out));
        size_t n = out->n - n_before, next = next_question(c, begin);
        if (n <= most) break;
        out->n = n_before;
        if (next == begin)
            return err_set(ERR_REQUEST, "this question alone has %zu tokens, and the context of %u leaves room for %u; "
                                        "/undo takes it back", n, context, most);
        begin = next;
        if (most > context / 2) most = context / 2;
    }
    c->n_left_out = begin;
    return OK;
}
