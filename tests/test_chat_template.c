/* Chat templates: what Python's jinja2 makes of the same template and conversation, errors, limits, the templates
 * that come with the program. Runs from the repository's root.
 *
 * CARAVAN_CHAT_GOLDEN=FILE replays another file of tests/golden/make_template_golden.py. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/env.h"
#include "base/mem.h"
#include "model/chat_template.h"

/* Renders; the text, or NULL with the error recorded. */
static char *render(const char *text, const struct chat_input *in, err *e) {
    struct chat_template *t;
    struct bytes out = {0};
    *e = chat_template_create(text, strlen(text), &t);
    if (*e != OK) return NULL;
    *e = chat_template_render(t, in, &out);
    chat_template_free(t);
    if (*e == OK && bytes_reserve(&out, 1) == OK) {
        out.data[out.len] = 0;
        return (char *)out.data;
    }
    bytes_free(&out);
    return NULL;
}

static void assert_renders(const char *text, const struct chat_input *in, const char *expected) {
    err e;
    char *got = render(text, in, &e);
    if (!got) fail_msg("%s: %s", text, err_text());
    assert_string_equal(got, expected);
    free(got);
}

static void assert_fails(const char *text, err code, const char *message) {
    err e;
    char *got = render(text, &(struct chat_input){.bos = "", .eos = ""}, &e);
    if (got) fail_msg("%.100s: no error", text);
    assert_int_equal(e, code);
    if (!strstr(err_text(), message)) fail_msg("%.100s: '%s' should say '%s'", text, err_text(), message);
}

/* ---- golden ---- */

static struct chat_input input_of(const json_t *j, const json_t *now) {
    return (struct chat_input){
        .messages = json_object_get(j, "messages"),
        .tools = json_object_get(j, "tools"),
        .variables = json_object_get(j, "variables"),
        .bos = json_string_value(json_object_get(j, "bos")),
        .eos = json_string_value(json_object_get(j, "eos")),
        .adds_generation_prompt = json_is_true(json_object_get(j, "add")),
        .now_s = json_integer_value(now),
    };
}

/* What is wrong with a case, or NULL. */
static const char *wrong_with(const json_t *outcome, const char *got) {
    const json_t *error = json_object_get(outcome, "error");
    if (json_is_string(outcome)) return got && strcmp(got, json_string_value(outcome)) == 0 ? NULL : "differs";
    if (got) return "must be an error";
    return json_is_string(error) && strcmp(err_text(), json_string_value(error)) != 0 ? "another error" : NULL;
}

static void test_golden(void **state) {
    (void)state;
    const char *path = env_get("CARAVAN_CHAT_GOLDEN");
    json_error_t why;
    json_t *file = json_load_file(path ? path : "tests/golden/chat_templates.json", JSON_ALLOW_NUL, &why);
    if (!file) fail_msg("line %d: %s", why.line, why.text);
    json_t *templates = json_object_get(file, "templates"), *inputs = json_object_get(file, "inputs"), *one;
    size_t i, n_wrong = 0, n = 0;
    json_array_foreach(json_object_get(file, "cases"), i, one) {
        const json_t *t = json_array_get(templates, (size_t)json_integer_value(json_array_get(one, 0)));
        const json_t *in = json_array_get(inputs, (size_t)json_integer_value(json_array_get(one, 1)));
        struct chat_input input = input_of(in, json_object_get(file, "now"));
        err e;
        char *got = render(json_string_value(t), &input, &e);
        const char *wrong = wrong_with(json_array_get(one, 2), got);
        n++;
        if (wrong && n_wrong++ < 10)
            print_error("case %zu %s: %s\n  expected %s\n  got %s\n", i, wrong, json_string_value(t),
                        json_string_value(json_array_get(one, 2)), got ? got : err_text());
        free(got);
    }
    json_decref(file);
    if (n_wrong) fail_msg("%zu of %zu cases", n_wrong, n);
    assert_true(n > 100);
}

/* ---- by name ---- */

static void test_named(void **state) {
    (void)state;
    char names[400];
    size_t n = 0;
    json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:[{s:s, s:s}]}]", "role", "system", "content", "Be brief.", "role",
                                 "user", "content", "type", "text", "text", "Why?");
    struct chat_input in = {.messages = messages, .bos = "<s>", .eos = "</s>", .adds_generation_prompt = 1};
    snprintf(names, sizeof names, "%s", chat_template_names());
    for (char *name = strtok(names, ", "); name; name = strtok(NULL, ", "), n++) {
        err e;
        const char *text = chat_template_named(name);
        assert_non_null(text);
        char *got = render(text, &in, &e);
        if (!got) fail_msg("%s: %s", name, err_text());
        if (!strstr(got, "Be brief.") || !strstr(got, "Why?")) fail_msg("%s: %s", name, got);
        free(got);
    }
    assert_int_equal(n, 12);
    assert_null(chat_template_named("nosuch"));
    assert_renders(chat_template_named("chatml"), &in,
                   "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n");
    assert_renders(chat_template_named("llama2"), &in, "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhy? [/INST]");
    json_decref(messages);
}

/* ---- errors ---- */

static void test_errors_at_creation(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a\n{% include 'x' %}", "chat template, line 2: unknown tag 'include'"},
        {"{{ x|nosuch }}", "line 1: no filter is named 'nosuch'"},
        {"\n\n{{ x is nosuch }}", "line 3: no test is named 'nosuch'"},
        {"{% if x %}\n", "came before {% endif %}"},
        {"{% for x in y %}{% endif %}", "unknown tag 'endif'; expected was else or endfor"},
        {"{{ 1 +\n}}", "line 2: expected an expression, found the end of the tag"},
        {"{{ 'abc }}", "a string has no end"},
        {"{{ (1] }}", "unexpected ']', expected ')'"},
        {"{{ x ? y }}", "unexpected character '?'"},
        {"{# x", "has no end #}"},
        {"{% raw %}{{", "has no {% endraw %}"},
        {"{% break %}", "need a loop"},
        {"{% set true = 1 %}", "cannot assign to true"},
        {"{% macro m(a=1, b) %}{% endmacro %}", "without a default follows"},
        {"{{ 99999999999999999999 }}", "64 bits"},
        {"{{ '\\ud800' }}", "\\u is not followed by 4 digits of a character"},
        {"\xff", "not UTF-8"},
        {"{{ f(a=1, 2) }}", "order"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_fails(cases[i][0], ERR_UNSUPPORTED, cases[i][1]);
}

static void test_errors_at_rendering(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"a\n{{ x.y }}", "chat template, line 2: 'x' is undefined"},
        {"{{ none.x.y }}", "'None' has no attribute 'x'"},
        {"{{ {}.a.b }}", "'dict object' has no attribute 'a'"},
        {"{{ 'a' + 1 }}", "'+' cannot take a str and a int"},
        {"{{ 1 < 'a' }}", "'<' cannot compare a int with a str"},
        {"{{ 1 // 0 }}", "division by zero"},
        {"{{ 9223372036854775807 + 1 }}", "64 bits"},
        {"{{ [].append(1) }}", "would change a list"},
        {"{% set x.y = 1 %}", "only a namespace"},
        {"{% for x in 5 %}{% endfor %}", "a int cannot be walked through"},
        {"{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "takes 1 arguments at most"},
        {"{{ 'a'.replace('b') }}", "replace needs the argument 'new'"},
        {"{% if true %}{{ 1|nosuch }}{% endif %}", "no filter is named 'nosuch'"},
        {"{{ range|tojson }}", "cannot be written as JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_fails(cases[i][0], ERR_REQUEST, cases[i][1]);
}

static void test_raise_exception(void **state) {
    (void)state;
    struct chat_template *t;
    struct bytes out = {0};
    const char *text = "abc{{ raise_exception('No: ' ~ 7) }}";
    assert_int_equal(bytes_append_str(&out, "before"), OK);
    assert_int_equal(chat_template_create(text, strlen(text), &t), OK);
    assert_int_equal(chat_template_render(t, &(struct chat_input){0}, &out), ERR_REQUEST);
    assert_string_equal(err_text(), "No: 7");
    assert_int_equal(out.len, 6); /* nothing was added */
    bytes_free(&out);
    chat_template_free(t);
}

static void test_unrun_branches(void **state) {
    (void)state;
    struct chat_input in = {.bos = "B", .eos = "E", .now_s = 1700000000};
    assert_renders("{% if false %}{{ x|nosuch }}{% endif %}ok", &in, "ok");
    assert_renders("{{ strftime_now('%d %B %Y') }} {{ bos_token }}{{ eos_token }}{{ tools }}", &in,
                   "14 November 2023 BENone");
}

/* ---- limits ---- */

static void test_limits(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{% set r = range(90000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}", "runs too long"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "levels deep"},
        {"{{ range(1000000000) }}", "a range of more than"},
        {"{{ 'x' * 1000000000000 }}", "is too much"},
        {"{% set ns = namespace(s='x') %}{% for i in range(90) %}{% set ns.s = ns.s ~ 1 ~ ns.s %}{% endfor %}", "MiB"},
        {"{% set s = 'x' * 50000000 %}{{ s }}{{ s }}", "MiB"},
        {"{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}",
         "levels deep"},
        {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "levels deep"},
        {"{% set s = 'ab' * 5000000 %}{% for i in range(99999) %}{{ s|replace('a', '') |length }}{% endfor %}",
         "chat template, line 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_fails(cases[i][0], ERR_REQUEST, cases[i][1]);
}

static void test_limits_of_nesting(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"(", ")"}, {"[", "]"}, {"not ", ""}, {"-", ""}, {"1 if 1 else ", ""}};
    for (size_t k = 0; k < sizeof pairs / sizeof *pairs; k++) {
        struct bytes text = {0};
        assert_int_equal(bytes_append_str(&text, "{{ "), OK);
        for (int i = 0; i < 900; i++) assert_int_equal(bytes_append_str(&text, pairs[k][0]), OK);
        assert_int_equal(bytes_append_str(&text, "1"), OK);
        for (int i = 0; i < 900; i++) assert_int_equal(bytes_append_str(&text, pairs[k][1]), OK);
        assert_int_equal(bytes_append_str(&text, " }}"), OK);
        assert_fails((char *)text.data, ERR_UNSUPPORTED, "nested more than");
        bytes_free(&text);
    }
    struct bytes sum = {0}; /* a tree that leans to the left is as deep as it is long */
    assert_int_equal(bytes_append_str(&sum, "{{ 1"), OK);
    for (int i = 0; i < 100000; i++) assert_int_equal(bytes_append_str(&sum, "+1"), OK);
    assert_int_equal(bytes_append_str(&sum, " }}"), OK);
    assert_fails((char *)sum.data, ERR_REQUEST, "levels deep");
    bytes_free(&sum);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),           cmocka_unit_test(test_named),
        cmocka_unit_test(test_errors_at_creation), cmocka_unit_test(test_errors_at_rendering),
        cmocka_unit_test(test_raise_exception),  cmocka_unit_test(test_unrun_branches),
        cmocka_unit_test(test_limits),           cmocka_unit_test(test_limits_of_nesting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
