#include "model/chat_template.h"

#include <stdlib.h>
#include <string.h>

#include "model/jinja_run.h"

struct chat_template {
    struct jinja_template t;
};

/* The templates that come with the program: model/chat_templates/NAME.jinja. */
static const struct {
    const char *name, *text;
} named[] = {
#include "model/chat_templates.inc"
};

const char *chat_template_named(const char *name) {
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (strcmp(named[i].name, name) == 0) return named[i].text;
    return NULL;
}

const char *chat_template_names(void) {
    static const char names[] =
#define CHAT_TEMPLATE_NAMES
#include "model/chat_templates.inc"
        "";
    return names;
}

err chat_template_create(const char *text, size_t n, struct chat_template **out) {
    *out = NULL;
    struct chat_template *t;
    TRY(NEW(t, 1));
    err e = jinja_parse(&t->t, text, n);
    if (e != OK) {
        chat_template_free(t);
        return e;
    }
    *out = t;
    return OK;
}

void chat_template_free(struct chat_template *t) {
    if (!t) return;
    jinja_template_free(&t->t);
    free(t);
}

/* Sets a variable, unless the template does not mention it. */
static err set(struct jinja_run *r, struct jinja_scope *s, const char *name, struct jinja_value v) {
    int32_t number = strmap_find(&r->t->names, name, strlen(name), -1);
    return number < 0 ? OK : jinja_set_variable(r, s, number, v);
}

static err set_json(struct jinja_run *r, struct jinja_scope *s, const char *name, const json_t *j) {
    struct jinja_value v = JINJA_NONE_VALUE;
    if (strmap_find(&r->t->names, name, strlen(name), -1) < 0) return OK;
    if (j) TRY(jinja_from_json(r, j, &v));
    return set(r, s, name, v);
}

static err set_input(struct jinja_run *r, struct jinja_scope *s, const struct chat_input *in) {
    TRY(set_json(r, s, "messages", in->messages));
    TRY(set_json(r, s, "tools", in->tools));
    TRY(set_json(r, s, "documents", NULL));
    TRY(set(r, s, "bos_token", jinja_literal(in->bos ? in->bos : "")));
    TRY(set(r, s, "eos_token", jinja_literal(in->eos ? in->eos : "")));
    TRY(set(r, s, "add_generation_prompt", jinja_bool(in->adds_generation_prompt)));
    json_t *variables = (json_t *)(uintptr_t)in->variables; /* jansson's iterators take no const */
    for (void *at = variables ? json_object_iter(variables) : NULL; at; at = json_object_iter_next(variables, at))
        TRY(set_json(r, s, json_object_iter_key(at), json_object_iter_value(at)));
    return OK;
}

err chat_template_render(const struct chat_template *t, const struct chat_input *in, struct bytes *out) {
    struct jinja_scope *s;
    struct bytes text = {0};
    struct jinja_run r = {.t = &t->t, .out = &text, .n_steps_left = JINJA_STEPS, .now_s = in->now_s, .line = 1};
    r.arena.limit = JINJA_RUN_BYTES;
    err e = jinja_new_scope(&r, NULL, &s);
    if (e == OK) e = set_input(&r, s, in);
    if (e == OK) e = jinja_execute(&r, s, t->t.body);
    if (e == OK) e = bytes_append(out, text.data, text.len);
    bytes_free(&text);
    jinja_arena_free(&r.arena);
    return e;
}
