/* What the tests of the API have in common: the API on a model file and a service that answers by a script
 * (fake_service.h), exchanges in memory, and JSON looked into by path. */
#ifndef TESTS_API_FIXTURE_H
#define TESTS_API_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>

#include "coordinator/api.h"
#include "tests/fake_service.h"

#define SCRIPT "The violin has four strings, and a bow."
#define CONTEXT 256
#define COUNT(list) (sizeof(list) / sizeof *(list))
#define PROMPT "\"prompt\": \"A violin\""
#define MESSAGES "\"messages\": [{\"role\": \"user\", \"content\": \"A violin\"}]"

static struct config config;
static struct model model;
static struct service service;
static struct metrics *metrics;
static struct api *api;

/* ---- a template whose text is easy to say ---- */

static int has_template = 1; /* any address that is not NULL stands for the template */
static json_t *shown_tools;
static char shown_variables[200];

err chat_template_render(const struct chat_template *t, const struct chat_input *in, struct bytes *out) {
    (void)t;
    size_t i;
    const json_t *m;
    json_decref(shown_tools);
    shown_tools = in->tools ? json_deep_copy(in->tools) : NULL;
    char *variables = in->variables ? json_dumps(in->variables, JSON_COMPACT) : NULL;
    snprintf(shown_variables, sizeof shown_variables, "%s", variables ? variables : "");
    free(variables);
    json_array_foreach(in->messages, i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        if (strcmp(role, "nobody") == 0) return err_set(ERR_REQUEST, "chat template, line 1: no such role");
        const char *text = json_string_value(json_object_get(m, "content"));
        TRY(bytes_printf(out, "<|%s|>%s<|end|>", role, text ? text : "none"));
    }
    return in->adds_generation_prompt ? bytes_append_str(out, "<|assistant|>") : OK;
}

/* ---- set-up ---- */

static inline void set_script(const char *text) {
    service.script.n = 0;
    assert_int_equal(tokenizer_encode(model.tokenizer, text, strlen(text), 0, 0, &service.script), OK);
}

static inline void open_api(void) {
    const struct api_options o = {.config = &config, .model = &model, .service = &service, .metrics = metrics,
                                  .chat = has_template ? (const void *)&has_template : NULL, .commit = "c0ffee"};
    if (api_create(&o, &api) != OK) fail_msg("%s", err_text());
}

static inline void open_model(const char *path) {
    config_defaults(&config);
    config.context = strstr(path, "demo") ? CONTEXT : 0;
    if (model_open("test", path, &config, &model) != OK) fail_msg("%s", err_text());
    service.model = &model;
    fake_reset(&service);
    set_script(SCRIPT);
    has_template = 1;
    assert_int_equal(metrics_create(&metrics), OK);
    open_api();
}

static inline int setup(void **state) {
    (void)state;
    open_model("models/demo.gguf");
    return 0;
}

static inline int teardown(void **state) {
    (void)state;
    api_free(api);
    fake_free(&service);
    metrics_free(metrics);
    model_close(&model);
    json_decref(shown_tools);
    shown_tools = NULL;
    return 0;
}

/* ---- exchanges ---- */

static inline void ask(struct exchange *x, const char *method, const char *path, const char *body) {
    *x = (struct exchange){.method = method, .path = path, .body = (const uint8_t *)body, .n_body = strlen(body),
                           .content_type = *method == 'P' ? "application/json; charset=utf-8" : "", .key = 3,
                           .priority = 2};
    api_request(api, x);
}

/* Until the answer is whole. */
static inline void wait_for(struct exchange *x) {
    for (int i = 0; i < 10000 && !x->is_ended; i++) api_events(api);
    assert_true(x->is_ended);
    assert_false(x->is_broken);
    assert_null(x->owner);
}

static inline json_t *parse(const char *text, size_t n) {
    json_error_t at;
    json_t *root = json_loadb(text, n, JSON_ALLOW_NUL, &at);
    if (!root) fail_msg("%s in: %.*s", at.text, (int)n, text);
    return root;
}

/* The answer of a request, whole. */
static inline json_t *answer_of(const char *method, const char *path, const char *body, int status) {
    struct exchange x;
    ask(&x, method, path, body);
    wait_for(&x);
    if (x.status != status) fail_msg("%s %s: %d, %.*s", path, body, x.status, (int)x.out.len, (char *)x.out.data);
    assert_string_equal(x.answer_type, "application/json");
    json_t *root = parse((char *)x.out.data, x.out.len);
    api_gone(api, &x);
    exchange_free(&x);
    assert_int_equal(service.n_running, 0);
    return root;
}

static inline json_t *post(const char *path, const char *body) { return answer_of("POST", path, body, 200); }

/* The value at "choices.0.text". */
static inline const json_t *at(const json_t *v, const char *path) {
    char word[64];
    for (int n; v && *path; path += n) {
        assert_int_equal(sscanf(path, "%63[^.]%n", word, &n), 1);
        v = json_is_array(v) ? json_array_get(v, (size_t)atoi(word)) : json_object_get(v, word);
        if (path[n] == '.') n++;
    }
    return v;
}

static inline const char *text_at(const json_t *v, const char *path) {
    const char *text = json_string_value(at(v, path));
    if (!text) fail_msg("no text at %s", path);
    return text;
}

static inline long long whole_at(const json_t *v, const char *path) {
    if (!json_is_integer(at(v, path))) fail_msg("no number at %s", path);
    return json_integer_value(at(v, path));
}

static inline void assert_is(json_t *root, const char *path, const char *want) {
    assert_string_equal(text_at(root, path), want);
}

/* ---- what is no request ---- */

static inline void assert_error(const char *method, const char *path, const char *body, int status, const char *param,
                         const char *message) {
    json_t *root = answer_of(method, path, body, status);
    const json_t *found = at(root, "error.param");
    if (param ? !json_is_string(found) || strcmp(json_string_value(found), param) != 0 : !json_is_null(found))
        fail_msg("%s %s: param \"%s\"; %s", path, body, json_string_value(found), text_at(root, "error.message"));
    if (!strstr(text_at(root, "error.message"), message))
        fail_msg("%s %s: \"%s\" lacks \"%s\"", path, body, text_at(root, "error.message"), message);
    json_decref(root);
}

#define WITH_API(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif
