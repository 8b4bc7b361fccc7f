/* The API against a service that answers by a script: every route, every refusal, streams against whole answers. */
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

static void set_script(const char *text) {
    service.script.n = 0;
    assert_int_equal(tokenizer_encode(model.tokenizer, text, strlen(text), 0, 0, &service.script), OK);
}

static void open_api(void) {
    const struct api_options o = {.config = &config, .model = &model, .service = &service, .metrics = metrics,
                                  .chat = has_template ? (const void *)&has_template : NULL, .commit = "c0ffee"};
    if (api_create(&o, &api) != OK) fail_msg("%s", err_text());
}

static void open_model(const char *path) {
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

static int setup(void **state) {
    (void)state;
    open_model("models/demo.gguf");
    return 0;
}

static int teardown(void **state) {
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

static void ask(struct exchange *x, const char *method, const char *path, const char *body) {
    *x = (struct exchange){.method = method, .path = path, .body = (const uint8_t *)body, .n_body = strlen(body),
                           .content_type = *method == 'P' ? "application/json; charset=utf-8" : "", .key = 3,
                           .priority = 2};
    api_request(api, x);
}

/* Until the answer is whole. */
static void wait_for(struct exchange *x) {
    for (int i = 0; i < 10000 && !x->is_ended; i++) api_events(api);
    assert_true(x->is_ended);
    assert_false(x->is_broken);
    assert_null(x->owner);
}

static json_t *parse(const char *text, size_t n) {
    json_error_t at;
    json_t *root = json_loadb(text, n, JSON_ALLOW_NUL, &at);
    if (!root) fail_msg("%s in: %.*s", at.text, (int)n, text);
    return root;
}

/* The answer of a request, whole. */
static json_t *answer_of(const char *method, const char *path, const char *body, int status) {
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

static json_t *post(const char *path, const char *body) { return answer_of("POST", path, body, 200); }

/* The value at "choices.0.text". */
static const json_t *at(const json_t *v, const char *path) {
    char word[64];
    for (int n; v && *path; path += n) {
        assert_int_equal(sscanf(path, "%63[^.]%n", word, &n), 1);
        v = json_is_array(v) ? json_array_get(v, (size_t)atoi(word)) : json_object_get(v, word);
        if (path[n] == '.') n++;
    }
    return v;
}

static const char *text_at(const json_t *v, const char *path) {
    const char *text = json_string_value(at(v, path));
    if (!text) fail_msg("no text at %s", path);
    return text;
}

static long long whole_at(const json_t *v, const char *path) {
    if (!json_is_integer(at(v, path))) fail_msg("no number at %s", path);
    return json_integer_value(at(v, path));
}

static void assert_is(json_t *root, const char *path, const char *want) {
    assert_string_equal(text_at(root, path), want);
}

/* ---- what is no request ---- */

static void assert_error(const char *method, const char *path, const char *body, int status, const char *param,
                         const char *message) {
    json_t *root = answer_of(method, path, body, status);
    const json_t *found = at(root, "error.param");
    if (param ? !json_is_string(found) || strcmp(json_string_value(found), param) != 0 : !json_is_null(found))
        fail_msg("%s %s: param \"%s\"; %s", path, body, json_string_value(found), text_at(root, "error.message"));
    if (!strstr(text_at(root, "error.message"), message))
        fail_msg("%s %s: \"%s\" lacks \"%s\"", path, body, text_at(root, "error.message"), message);
    json_decref(root);
}

static void test_routes(void **state) {
    (void)state;
    struct exchange x;
    assert_error("GET", "/nothing", "", 404, NULL, "/nothing");
    assert_error("POST", "/v1", "{}", 404, NULL, "/v1");
    assert_error("POST", "/health", "{}", 405, NULL, "GET");
    ask(&x, "DELETE", "/v1/completions", "");
    assert_int_equal(x.status, 405);
    assert_string_equal((char *)x.headers.data, "Allow: POST\n");
    assert_string_equal(x.route, "completions");
    exchange_free(&x);
    x = (struct exchange){.method = "POST", .path = "/v1/completions", .body = (const uint8_t *)"{}", .n_body = 2,
                          .content_type = "text/plain"};
    api_request(api, &x);
    assert_int_equal(x.status, 415);
    exchange_free(&x);
}

static void test_bad_bodies(void **state) {
    (void)state;
    static const char path[] = "/v1/completions";
    char deep[300];
    assert_error("POST", path, "", 400, NULL, "empty");
    assert_error("POST", path, "{\"prompt\": \"a\",\n  }", 400, NULL, "line 2, column 3");
    assert_error("POST", path, "{\"prompt\": \"\\ud800\"}", 400, NULL, "JSON");
    assert_error("POST", path, "{\"prompt\": \"a\\u0000b\"}", 400, NULL, "JSON");
    assert_error("POST", path, "{\"prompt\": \"a\", \"prompt\": \"b\"}", 400, NULL, "duplicate");
    assert_error("POST", path, "[]", 400, NULL, "object");
    assert_error("POST", path, "7", 400, NULL, "JSON");
    assert_error("POST", path, "{\"seed\": 99999999999999999999}", 400, NULL, "JSON");
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    assert_error("POST", path, deep, 400, NULL, "nested deeper");
    char *many = malloc(400000), *end = many;
    assert_non_null(many);
    end += sprintf(end, "{\"prompt\": [");
    for (int i = 0; i < 70000; i++) end += sprintf(end, "[],");
    assert_error("POST", path, many, 400, NULL, "arrays and objects");
    free(many);
}

struct refusal {
    const char *fields, *param, *message; /* fields beside prompt or messages */
};

static const struct refusal common_refusals[] = {
    {"\"model\": 1", "model", "expected a string, found 1"},
    {"\"temperature\": \"hot\"", "temperature", "expected a number from 0 to 2, found \"hot\""},
    {"\"temperature\": 2.1", "temperature", "2.1"},
    {"\"temperature\": -1", "temperature", "-1"},
    {"\"top_p\": 1.5", "top_p", "1.5"},
    {"\"top_p\": true", "top_p", "true"},
    {"\"min_p\": -0.1", "min_p", "-0.1"},
    {"\"top_k\": 1.5", "top_k", "1.5"},
    {"\"top_k\": -2", "top_k", "-2"},
    {"\"seed\": 1.5", "seed", "a whole number"},
    {"\"n\": 0", "n", "from 1 to 16"},
    {"\"n\": 17", "n", "from 1 to 16"},
    {"\"n\": \"1\"", "n", "found \"1\""},
    {"\"stream\": 1", "stream", "true or false"},
    {"\"stream_options\": {\"include_usage\": true}", "stream_options", "only with stream"},
    {"\"stream\": true, \"stream_options\": []", "stream_options", "an object"},
    {"\"stream\": true, \"stream_options\": {\"include_usage\": 1}", "stream_options.include_usage", "true or"},
    {"\"stop\": \"\"", "stop", "empty"},
    {"\"stop\": 5", "stop", "a string or an array"},
    {"\"stop\": [\"a\", 5]", "stop[1]", "a string"},
    {"\"stop\": [\"a\", \"\"]", "stop[1]", "empty"},
    {"\"stop\": [\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\",\"a\"]",
     "stop", "at most 16"},
    {"\"presence_penalty\": 3", "presence_penalty", "from -2 to 2"},
    {"\"frequency_penalty\": -3", "frequency_penalty", "from -2 to 2"},
    {"\"repetition_penalty\": 0", "repetition_penalty", "0.01"},
    {"\"logit_bias\": [1]", "logit_bias", "an object"},
    {"\"logit_bias\": {\"violin\": 1}", "logit_bias", "\"violin\""},
    {"\"logit_bias\": {\"8192\": 1}", "logit_bias", "from 0 to 8191"},
    {"\"logit_bias\": {\"5\": 101}", "logit_bias.5", "from -100 to 100"},
    {"\"logit_bias\": {\"5\": \"1\"}", "logit_bias.5", "a number"},
    {"\"max_tokens\": -1", "max_tokens", "found -1"},
    {"\"max_tokens\": 1.0", "max_tokens", "whole"},
    {"\"max_tokens\": 257", "max_tokens", "256 at most"},
    {"\"ignore_eos\": 1", "ignore_eos", "true or false"},
    {"\"response_format\": {\"type\": \"json_object\"}", "response_format.type", "only \"text\""},
    {"\"response_format\": {\"type\": 1}", "response_format.type", "a string"},
    {"\"response_format\": \"text\"", "response_format", "an object"},
    {"\"functions\": [{}]", "functions", "tools"},
    {"\"function_call\": \"auto\"", "function_call", "tool_choice"},
    {"\"grammar\": \"x\"", "grammar", "not supported"},
    {"\"guided_json\": {\"a\": 1}", "guided_json", "not supported"},
    {"\"stop_token_ids\": [1]", "stop_token_ids", "not supported"},
    {"\"min_tokens\": 5", "min_tokens", "not supported"},
    {"\"use_beam_search\": true", "use_beam_search", "not supported"},
    {"\"modalities\": [\"text\", \"audio\"]", "modalities", "text"},
    {"\"audio\": {\"voice\": \"x\"}", "audio", "not supported"},
    {"\"best_of\": 0", "best_of", "from 1"},
    {"\"n\": 2, \"best_of\": 1", "best_of", "less than n"},
};

static const struct refusal completion_refusals[] = {
    {"\"suffix\": \"x\"", "suffix", "not supported"},
    {"\"best_of\": 2, \"stream\": true", "best_of", "stream"},
    {"\"logprobs\": 21", "logprobs", "from 0 to 20"},
    {"\"logprobs\": true", "logprobs", "whole"},
    {"\"echo\": \"yes\"", "echo", "true or false"},
    {"\"max_tokens\": 0", "max_tokens", "echo"},
};

static const struct refusal chat_refusals[] = {
    {"\"best_of\": 2", "best_of", "chats"},
    {"\"echo\": true", "echo", "chats"},
    {"\"max_tokens\": 0", "max_tokens", "from 1"},
    {"\"max_completion_tokens\": \"5\"", "max_completion_tokens", "whole"},
    {"\"max_completion_tokens\": 0", "max_completion_tokens", "from 1"},
    {"\"max_tokens\": 5, \"max_completion_tokens\": 6", "max_completion_tokens", "differs"},
    {"\"logprobs\": 1", "logprobs", "true or false"},
    {"\"top_logprobs\": 1", "top_logprobs", "only with logprobs"},
    {"\"logprobs\": true, \"top_logprobs\": 21", "top_logprobs", "from 0 to 20"},
    {"\"tools\": {}", "tools", "an array"},
    {"\"tools\": [{\"type\": \"browser\"}]", "tools[0].type", "function"},
    {"\"tools\": [{\"type\": \"function\"}]", "tools[0].function.name", "a string"},
    {"\"tool_choice\": \"required\"", "tool_choice", "cannot be forced"},
    {"\"tool_choice\": {\"type\": \"function\"}", "tool_choice", "cannot be forced"},
    {"\"parallel_tool_calls\": false", "parallel_tool_calls", "not supported"},
    {"\"chat_template_kwargs\": []", "chat_template_kwargs", "an object"},
    {"\"continue_final_message\": 1", "continue_final_message", "true or false"},
    {"\"add_generation_prompt\": false", "add_generation_prompt", "only with"},
    {"\"continue_final_message\": true, \"add_generation_prompt\": true", "add_generation_prompt", "not together"},
    {"\"messages\": [{\"role\": \"user\", \"content\": \" \"}], \"continue_final_message\": true", "messages",
     "no text"},
    {"\"messages\": 5", "messages", "an array"},
    {"\"messages\": []", "messages", "one message"},
    {"\"messages\": [5]", "messages[0]", "an object"},
    {"\"messages\": [{\"content\": \"a\"}]", "messages[0].role", "expected"},
    {"\"messages\": [{\"role\": \"user\"}]", "messages[0].content", "expected"},
    {"\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"user\", \"content\": 5}]",
     "messages[1].content", "expected"},
    {"\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]", "messages[0].content[0].type",
     "text"},
    {"\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\"}]}]", "messages[0].content[0].text",
     "expected"},
    {"\"messages\": [{\"role\": \"nobody\", \"content\": \"a\"}]", "messages", "no such role"},
};

static void try_refusals(const char *path, const char *what, const struct refusal *list, size_t n) {
    char body[2000];
    for (size_t i = 0; i < n; i++) {
        const char *key = strncmp(list[i].fields, "\"messages\"", 10) == 0 ? "\"user\": \"x\"" : what;
        snprintf(body, sizeof body, "{%s, %s}", key, list[i].fields);
        assert_error("POST", path, body, 400, list[i].param, list[i].message);
    }
    assert_int_equal(service.n_requests, 0); /* none of them reached the service */
}

#define COUNT(list) (sizeof(list) / sizeof *(list))
#define PROMPT "\"prompt\": \"A violin\""
#define MESSAGES "\"messages\": [{\"role\": \"user\", \"content\": \"A violin\"}]"

static void test_refusals(void **state) {
    (void)state;
    static const char completions[] = "/v1/completions", chat[] = "/v1/chat/completions";
    try_refusals(completions, PROMPT, common_refusals, COUNT(common_refusals));
    try_refusals(completions, PROMPT, completion_refusals, COUNT(completion_refusals));
    try_refusals(chat, MESSAGES, common_refusals, COUNT(common_refusals));
    try_refusals(chat, MESSAGES, chat_refusals, COUNT(chat_refusals));
    assert_error("POST", completions, "{}", 400, "prompt", "missing");
    assert_error("POST", completions, "{\"prompt\": \"\"}", 400, "prompt", "empty");
    assert_error("POST", completions, "{\"prompt\": []}", 400, "prompt", "empty");
    assert_error("POST", completions, "{\"prompt\": 5}", 400, "prompt", "expected");
    assert_error("POST", completions, "{\"prompt\": [\"a\", 5]}", 400, "prompt[1]", "expected");
    assert_error("POST", completions, "{\"prompt\": [\"a\", []]}", 400, "prompt[1]", "empty");
    assert_error("POST", completions, "{\"prompt\": [5, \"a\"]}", 400, "prompt[1]", "a token");
    assert_error("POST", completions, "{\"prompt\": [5, 8192]}", 400, "prompt[1]", "found 8192");
    assert_error("POST", completions, "{\"prompt\": [[5], [6, -1]]}", 400, "prompt[1][1]", "found -1");
    assert_error("POST", completions, "{\"prompt\": [\"a\", \"b\", \"c\"], \"n\": 6}", 400, "n", "16");
    assert_error("POST", completions, "{\"prompt\": [\"a\", \"b\", \"c\"], \"best_of\": 6}", 400, "best_of", "16");
    assert_error("POST", chat, "{}", 400, "messages", "expected");
}

/* ---- completions ---- */

static void test_completion(void **state) {
    (void)state;
    json_t *root = post("/v1/completions", "{" PROMPT ", \"temperature\": 0, \"max_tokens\": 4, \"user\": \"me\","
                                           "\"suffix\": null, \"stop\": null, \"no_such_field\": {\"a\": [1]}}");
    assert_is(root, "object", "text_completion");
    assert_is(root, "model", "demo");
    assert_is(root, "system_fingerprint", "c0ffee");
    assert_is(root, "choices.0.text", "The violin has four");
    assert_is(root, "choices.0.finish_reason", "length");
    assert_true(json_is_null(at(root, "choices.0.logprobs")));
    assert_int_equal(whole_at(root, "choices.0.index"), 0);
    long long n_prompt = whole_at(root, "usage.prompt_tokens");
    assert_true(n_prompt >= 2 && n_prompt <= 5);
    assert_int_equal(whole_at(root, "usage.completion_tokens"), 4);
    assert_int_equal(whole_at(root, "usage.total_tokens"), n_prompt + 4);
    assert_int_equal(whole_at(root, "usage.prompt_tokens_details.cached_tokens"), n_prompt > 3 ? 3 : 0);
    assert_int_equal(strncmp(text_at(root, "id"), "cmpl-", 5), 0);
    json_t *again = post("/v1/completions", "{" PROMPT "}"); /* 16 tokens unless asked */
    assert_string_not_equal(text_at(root, "id"), text_at(again, "id"));
    json_decref(again);
    json_decref(root);
    const struct service_request *r = &service.requests[1].asked;
    assert_int_equal(r->sequence.max_tokens, 16);
    assert_true(r->sequence.temperature == 1 && r->sequence.top_p == 1 && r->sequence.repeat_penalty == 1);
    assert_int_equal(r->key, 3);
    assert_int_equal(r->priority, 2);
    root = post("/v1/completions", "{" PROMPT ", \"temperature\": 0, \"max_tokens\": 200}");
    assert_is(root, "choices.0.text", SCRIPT);
    assert_is(root, "choices.0.finish_reason", "stop");
    json_decref(root);
}

static void test_parameters_arrive(void **state) {
    (void)state;
    json_t *root = post("/v1/completions",
                        "{" PROMPT ", \"temperature\": 0.5, \"top_p\": 0.25, \"top_k\": 7, \"min_p\": 0.125,"
                        "\"presence_penalty\": 1, \"frequency_penalty\": -1, \"repetition_penalty\": 1.5,"
                        "\"seed\": -2, \"logit_bias\": {\"5\": -100, \"6\": 1.5}, \"ignore_eos\": true,"
                        "\"logprobs\": 2, \"max_tokens\": 3, \"stop\": [\"x\", \"y\"]}");
    json_decref(root);
    const struct sequence_options *o = &service.requests[0].asked.sequence;
    assert_true(o->temperature == 0.5f && o->top_p == 0.25f && o->min_p == 0.125f && o->top_k == 7);
    assert_true(o->presence_penalty == 1 && o->frequency_penalty == -1 && o->repeat_penalty == 1.5f);
    assert_true(o->seed == (uint64_t)-2);
    assert_int_equal(o->n_biases, 2);
    assert_int_equal(o->n_stops, 2);
    assert_int_equal(o->n_top, 2);
    assert_int_equal(o->n_vocab, 8192);
    assert_int_equal(o->context, CONTEXT);
    assert_true(o->ignores_end && !o->scores_prompt);
    json_decref(post("/v1/completions", "{" PROMPT ", \"top_k\": -1}"));
    assert_int_equal(service.requests[1].asked.sequence.top_k, 0);
}

static void test_prompts(void **state) {
    (void)state;
    json_t *root = post("/v1/completions", "{\"prompt\": [\"A\", \"violin\"], \"n\": 2, \"seed\": 7, \"max_tokens\": 2}");
    assert_int_equal(json_array_size(at(root, "choices")), 4);
    for (size_t i = 0; i < 4; i++) {
        char path[64];
        snprintf(path, sizeof path, "choices.%zu.index", i);
        assert_int_equal(whole_at(root, path), i);
        assert_int_equal(service.requests[i].asked.sequence.seed, 7 + i % 2); /* as each prompt alone */
        assert_memory_equal(service.requests[i].prompt, service.requests[i / 2 * 2].prompt, 4);
    }
    assert_string_equal(text_at(root, "choices.0.text"), text_at(root, "choices.2.text"));
    assert_string_not_equal(text_at(root, "choices.0.text"), text_at(root, "choices.1.text"));
    assert_int_equal(whole_at(root, "usage.completion_tokens"), 8);
    assert_int_equal(whole_at(root, "usage.prompt_tokens"), service.requests[0].asked.sequence.n_prompt +
                                                                service.requests[2].asked.sequence.n_prompt);
    json_decref(root);
    json_decref(post("/v1/completions", "{\"prompt\": [5, 6, 7]}"));
    assert_int_equal(service.requests[4].asked.sequence.n_prompt, 3);
    assert_int_equal(service.requests[4].prompt[2], 7);
    json_decref(post("/v1/completions", "{\"prompt\": [[5, 6], [8]]}"));
    assert_int_equal(service.requests[6].prompt[0], 8);
    json_decref(post("/v1/completions", "{\"prompt\": \"<|user|>\"}")); /* control tokens are written as text */
    assert_int_equal(service.requests[7].prompt[0], 2);
}

/* With temperature 0 choices are equal; else choice i is what seed + i gives alone. */
static void test_choices(void **state) {
    (void)state;
    char body[200];
    json_t *all = post("/v1/completions", "{" PROMPT ", \"n\": 3, \"seed\": 11, \"max_tokens\": 5}");
    for (int i = 0; i < 3; i++) {
        char path[64];
        snprintf(body, sizeof body, "{" PROMPT ", \"seed\": %d, \"max_tokens\": 5}", 11 + i);
        snprintf(path, sizeof path, "choices.%d.text", i);
        json_t *one = post("/v1/completions", body);
        assert_string_equal(text_at(one, "choices.0.text"), text_at(all, path));
        json_decref(one);
    }
    assert_string_not_equal(text_at(all, "choices.0.text"), text_at(all, "choices.1.text"));
    json_decref(all);
    all = post("/v1/completions", "{" PROMPT ", \"n\": 2, \"temperature\": 0}");
    assert_string_equal(text_at(all, "choices.0.text"), text_at(all, "choices.1.text"));
    json_decref(all);
    json_decref(post("/v1/completions", "{" PROMPT "}"));
    json_decref(post("/v1/completions", "{" PROMPT "}")); /* without a seed every request has its own */
    assert_true(service.requests[service.n_requests - 1].asked.sequence.seed !=
                service.requests[service.n_requests - 2].asked.sequence.seed);
}

/* The mean of the scores of an answer that begins at token `begin` of the script. */
static double mean_of(size_t begin, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += (double)fake_logprob(service.script.ids[begin + i]);
    return sum / (double)n;
}

static void test_best_of(void **state) {
    (void)state;
    json_t *root = post("/v1/completions", "{" PROMPT ", \"n\": 2, \"best_of\": 5, \"seed\": 0, \"max_tokens\": 3,"
                                           "\"logprobs\": 0}");
    assert_int_equal(json_array_size(at(root, "choices")), 2);
    assert_int_equal(service.n_requests, 5);
    assert_int_equal(whole_at(root, "usage.completion_tokens"), 15);
    assert_int_equal(whole_at(root, "choices.1.index"), 1);
    double got[2], best[2] = {-1e9, -1e9};
    for (size_t begin = 0; begin < 5; begin++) {
        double mean = mean_of(begin, 3);
        if (mean > best[0]) best[1] = best[0], best[0] = mean;
        else if (mean > best[1]) best[1] = mean;
    }
    for (int i = 0; i < 2; i++) {
        char path[64];
        got[i] = 0;
        for (int k = 0; k < 3; k++) {
            snprintf(path, sizeof path, "choices.%d.logprobs.token_logprobs.%d", i, k);
            got[i] += json_real_value(at(root, path)) / 3;
        }
        assert_true(fabs(got[i] - best[i]) < 1e-6);
    }
    json_decref(root);
}

static void test_stop(void **state) {
    (void)state;
    json_t *root = post("/v1/completions", "{" PROMPT ", \"temperature\": 0, \"stop\": \"r str\", \"max_tokens\": 50}");
    assert_is(root, "choices.0.text", "The violin has fou");
    assert_is(root, "choices.0.finish_reason", "stop");
    json_decref(root);
    root = post("/v1/completions", "{" PROMPT ", \"temperature\": 0, \"stop\": [\"zz\", \" has\"], \"max_tokens\": 50}");
    assert_is(root, "choices.0.text", "The violin");
    json_decref(root);
}

/* ---- log-probabilities ---- */

static void test_echo_scores(void **state) {
    (void)state;
    json_t *root = post("/v1/completions", "{\"prompt\": \"A violin\", \"temperature\": 0, \"max_tokens\": 2, "
                                           "\"echo\": true, \"logprobs\": 3}");
    assert_is(root, "choices.0.text", "A violinThe violin");
    const json_t *scores = at(root, "choices.0.logprobs");
    size_t n = json_array_size(at(scores, "tokens"));
    assert_int_equal(n, service.requests[0].asked.sequence.n_prompt + 2);
    assert_true(json_is_null(at(scores, "token_logprobs.0")) && json_is_null(at(scores, "top_logprobs.0")));
    char text[100] = "";
    for (size_t i = 0; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "text_offset.%zu", i);
        assert_int_equal(whole_at(scores, path), strlen(text));
        snprintf(path, sizeof path, "tokens.%zu", i);
        strcat(text, text_at(scores, path));
        snprintf(path, sizeof path, "top_logprobs.%zu", i);
        if (i) assert_int_equal(json_object_size(at(scores, path)), 3); /* the chosen one is among them */
    }
    assert_string_equal(text, "A violinThe violin");
    json_decref(root);
    root = post("/v1/completions", "{\"prompt\": \"A violin\", \"max_tokens\": 0, \"echo\": true, \"logprobs\": 0}");
    assert_is(root, "choices.0.text", "A violin");
    assert_is(root, "choices.0.finish_reason", "length");
    assert_int_equal(whole_at(root, "usage.completion_tokens"), 0);
    assert_int_equal(json_object_size(at(root, "choices.0.logprobs.top_logprobs.1")), 1); /* the token itself */
    json_decref(root);
    root = post("/v1/completions", "{\"prompt\": [\"A violin\", \"A bow\"], \"max_tokens\": 0, \"echo\": true}");
    assert_is(root, "choices.1.text", "A bow");
    assert_true(json_is_null(at(root, "choices.1.logprobs")));
    json_decref(root);
    root = post("/v1/completions", "{\"prompt\": [2, 5], \"max_tokens\": 1, \"temperature\": 0, \"echo\": true}");
    assert_is(root, "choices.0.text", "<|user|>!The");
    json_decref(root);
}

/* A first BOS is scored, but takes no place in the text. */
static void test_echo_bos(void **state) {
    (void)state;
    teardown(NULL);
    open_model("tests/golden/llama-gqa.f16.gguf");
    set_script("the rain");
    json_t *root = post("/v1/completions", "{\"prompt\": \"on the\", \"temperature\": 0, \"max_tokens\": 2, "
                                           "\"echo\": true, \"logprobs\": 1}");
    assert_int_equal(strncmp(text_at(root, "choices.0.text"), "on thethe", 9), 0);
    assert_int_equal(service.requests[0].prompt[0], tokenizer_bos(model.tokenizer));
    const json_t *scores = at(root, "choices.0.logprobs");
    size_t n = json_array_size(at(scores, "tokens"));
    assert_int_equal(whole_at(scores, "text_offset.1"), 0);
    char text[100] = "";
    for (size_t i = 1; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "text_offset.%zu", i);
        assert_int_equal(whole_at(scores, path), strlen(text));
        snprintf(path, sizeof path, "tokens.%zu", i);
        strcat(text, text_at(scores, path));
    }
    assert_string_equal(text, text_at(root, "choices.0.text"));
    json_decref(root);
}

/* Tokens that are parts of characters. */
static void test_partial_characters(void **state) {
    (void)state;
    set_script("\xF0\x9F\x8E\xBB\xE6\xBC\xA2!");
    assert_true(service.script.n > 3);
    json_t *root = post("/v1/completions", "{" PROMPT ", \"temperature\": 0, \"max_tokens\": 50, \"logprobs\": 1}");
    assert_is(root, "choices.0.text", "\xF0\x9F\x8E\xBB\xE6\xBC\xA2!");
    assert_int_equal(strncmp(text_at(root, "choices.0.logprobs.tokens.0"), "bytes:\\xf0", 10), 0);
    const json_t *offsets = at(root, "choices.0.logprobs.text_offset");
    assert_int_equal(json_integer_value(json_array_get(offsets, 1)), 0);
    /* "!" begins after two characters, the end token after three */
    assert_int_equal(json_integer_value(json_array_get(offsets, service.script.n - 1)), 2);
    assert_int_equal(json_integer_value(json_array_get(offsets, service.script.n)), 3);
    json_decref(root);
    root = post("/v1/chat/completions", "{" MESSAGES ", \"temperature\": 0, \"max_tokens\": 50, \"logprobs\": true}");
    const json_t *content = at(root, "choices.0.logprobs.content");
    char all[64] = "";
    size_t n_all = 0, i;
    const json_t *token, *byte;
    json_array_foreach(content, i, token) {
        size_t k;
        if (i == service.script.n) break; /* the end token */
        json_array_foreach(at(token, "bytes"), k, byte) all[n_all++] = (char)json_integer_value(byte);
    }
    assert_string_equal(all, "\xF0\x9F\x8E\xBB\xE6\xBC\xA2!");
    assert_int_equal(strncmp(text_at(content, "0.token"), "\xEF\xBF\xBD", 3), 0);
    json_decref(root);
}

static void test_chat_scores(void **state) {
    (void)state;
    json_t *root = post("/v1/chat/completions",
                        "{" MESSAGES ", \"temperature\": 0, \"max_tokens\": 2, \"logprobs\": true, \"top_logprobs\": 2}");
    const json_t *second = at(root, "choices.0.logprobs.content.1");
    assert_string_equal(text_at(second, "token"), " violin");
    assert_true(json_real_value(at(second, "logprob")) == (double)fake_logprob(service.script.ids[1]));
    assert_int_equal(json_array_size(at(second, "top_logprobs")), 2);
    assert_string_equal(text_at(second, "top_logprobs.1.token"), " violin");
    assert_int_equal(json_array_size(at(second, "bytes")), 7);
    json_decref(root);
}

/* ---- streams ---- */

/* What a stream said in all, in the shape of a whole answer: text and scores of each choice. */
struct heard {
    struct {
        char text[400], finish[16];
        json_t *scores; /* all lists, one after the other */
        int n_roles;
    } choices[8];
    json_t *usage;
    int n_chunks, n_null_usages, is_done;
};

static void heard_free(struct heard *h) {
    for (size_t i = 0; i < 8; i++) json_decref(h->choices[i].scores);
    json_decref(h->usage);
}

static void append_scores(json_t **all, const json_t *more) {
    const char *key;
    json_t *list;
    if (!*all) {
        *all = json_deep_copy(more);
        return;
    }
    json_object_foreach((json_t *)more, key, list) if (json_is_array(list))
        json_array_extend(json_object_get(*all, key), list);
}

static void hear_choice(struct heard *h, const json_t *c) {
    size_t i = (size_t)whole_at(c, "index");
    assert_true(i < 8);
    const json_t *text = at(c, "text");
    if (!text) text = at(c, "delta.content");
    if (text) strcat(h->choices[i].text, json_string_value(text));
    if (at(c, "delta.role")) h->choices[i].n_roles++;
    assert_string_equal(h->choices[i].finish, ""); /* nothing comes after it */
    if (json_is_string(at(c, "finish_reason"))) strcpy(h->choices[i].finish, text_at(c, "finish_reason"));
    if (json_is_object(at(c, "logprobs"))) append_scores(&h->choices[i].scores, at(c, "logprobs"));
}

static void hear(const struct exchange *x, struct heard *h) {
    const char *text = (char *)x->out.data, *end;
    *h = (struct heard){0};
    for (; (end = strstr(text, "\n\n")) != NULL; text = end + 2) {
        assert_int_equal(strncmp(text, "data: ", 6), 0);
        assert_false(h->is_done);
        if (strncmp(text, "data: [DONE]\n\n", 14) == 0) {
            h->is_done = 1;
            continue;
        }
        json_t *chunk = parse(text + 6, (size_t)(end - text) - 6);
        size_t i;
        const json_t *c;
        h->n_chunks++;
        assert_null(h->usage);
        json_array_foreach(at(chunk, "choices"), i, c) hear_choice(h, c);
        if (json_is_null(at(chunk, "usage"))) h->n_null_usages++;
        if (json_is_object(at(chunk, "usage"))) {
            assert_int_equal(json_array_size(at(chunk, "choices")), 0);
            h->usage = json_deep_copy(at(chunk, "usage"));
        }
        json_decref(chunk);
    }
    assert_string_equal(text, "");
}

/* The same request streamed and whole: the same text, scores and end of every choice. */
static void compare(const char *path, const char *fields) {
    char body[1000];
    struct exchange x;
    struct heard h;
    snprintf(body, sizeof body, "{%s}", fields);
    json_t *whole = post(path, body);
    snprintf(body, sizeof body, "{%s, \"stream\": true, \"stream_options\": {\"include_usage\": true}}", fields);
    ask(&x, "POST", path, body);
    assert_int_equal(x.status, 0); /* nothing is said before something is known */
    wait_for(&x);
    assert_int_equal(x.status, 200);
    assert_true(x.is_stream);
    assert_string_equal(x.answer_type, "text/event-stream");
    hear(&x, &h);
    assert_true(h.is_done);
    assert_int_equal(h.n_null_usages, h.n_chunks - 1);
    assert_true(json_equal(h.usage, (json_t *)at(whole, "usage")));
    size_t i;
    const json_t *c;
    json_array_foreach(at(whole, "choices"), i, c) {
        const json_t *text = at(c, "text") ? at(c, "text") : at(c, "message.content");
        assert_string_equal(h.choices[i].text, json_string_value(text));
        assert_string_equal(h.choices[i].finish, text_at(c, "finish_reason"));
        assert_int_equal(h.choices[i].n_roles, at(c, "message") ? 1 : 0);
        if (json_is_null(at(c, "logprobs"))) assert_null(h.choices[i].scores);
        else assert_true(json_equal(h.choices[i].scores, (json_t *)at(c, "logprobs")));
    }
    json_decref(whole);
    heard_free(&h);
    exchange_free(&x);
}

static void test_streams(void **state) {
    (void)state;
    static const char completions[] = "/v1/completions", chat[] = "/v1/chat/completions";
    static const char *const scripts[] = {SCRIPT, "\xF0\x9F\x8E\xBB\xE6\xBC\xA2!", "a", ""};
    static const char *const fields[] = {
        "\"temperature\": 0, \"max_tokens\": 30", "\"n\": 3, \"seed\": 4, \"max_tokens\": 30",
        "\"stop\": [\"r str\", \"bow\"], \"temperature\": 0, \"max_tokens\": 30",
        "\"max_tokens\": 1, \"seed\": 3", "\"ignore_eos\": true, \"max_tokens\": 60, \"temperature\": 0"};
    for (size_t s = 0; s < COUNT(scripts); s++) {
        set_script(scripts[s]);
        for (size_t i = 0; i < COUNT(fields); i++) {
            char body[600];
            snprintf(body, sizeof body, PROMPT ", %s", fields[i]);
            compare(completions, body);
            snprintf(body, sizeof body, PROMPT ", %s, \"logprobs\": 2", fields[i]);
            compare(completions, body);
            snprintf(body, sizeof body, "\"prompt\": [\"A\", \"b\"], %s, \"logprobs\": 0, \"echo\": true", fields[i]);
            compare(completions, body);
            snprintf(body, sizeof body, PROMPT ", %s, \"echo\": true", fields[i]);
            compare(completions, body);
            snprintf(body, sizeof body, MESSAGES ", %s", fields[i]);
            compare(chat, body);
            snprintf(body, sizeof body, MESSAGES ", %s, \"logprobs\": true, \"top_logprobs\": 3", fields[i]);
            compare(chat, body);
        }
    }
    compare(completions, PROMPT ", \"max_tokens\": 0, \"echo\": true, \"logprobs\": 1");
}

/* An event that shows nothing new gives no chunk. */
static void test_quiet_stream(void **state) {
    (void)state;
    struct exchange x;
    struct heard h;
    set_script("\xF0\x9F\x8E\xBB");
    ask(&x, "POST", "/v1/chat/completions", "{" MESSAGES ", \"temperature\": 0, \"max_tokens\": 50, \"stream\": true}");
    api_events(api);
    assert_int_equal(x.out.len, 0);
    wait_for(&x);
    hear(&x, &h);
    assert_int_equal(h.n_chunks, 2); /* the character, the end */
    assert_int_equal(h.n_null_usages, 0);
    assert_non_null(strstr((char *)x.headers.data, "no-cache"));
    heard_free(&h);
    exchange_free(&x);
}

/* ---- chat ---- */

static void show_prompt(size_t request, char *out) {
    struct bytes text = {0};
    assert_int_equal(tokenizer_decode(model.tokenizer, service.requests[request].prompt,
                                      service.requests[request].asked.sequence.n_prompt, 1, &text), OK);
    memcpy(out, text.data, text.len + 1);
    bytes_free(&text);
}

static void test_chat(void **state) {
    (void)state;
    char prompt[400];
    json_t *root = post("/v1/chat/completions",
                        "{\"model\": \"demo\", \"temperature\": 0, \"messages\": [{\"role\": \"developer\", \"content\": \"Hi\"},"
                        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"1\", \"type\": \"function\","
                        "\"function\": {\"name\": \"f\", \"arguments\": \"{}\"}}]},"
                        "{\"role\": \"assistant\", \"content\": \"c\", \"tool_calls\": null, \"refusal\": null},"
                        "{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"},"
                        "{\"type\": \"text\", \"text\": \"b\"}]}]}");
    assert_is(root, "object", "chat.completion");
    assert_is(root, "choices.0.message.role", "assistant");
    assert_is(root, "choices.0.message.content", SCRIPT); /* as long as there is room for */
    assert_is(root, "choices.0.finish_reason", "stop");
    assert_int_equal(strncmp(text_at(root, "id"), "chatcmpl-", 9), 0);
    show_prompt(0, prompt);
    assert_string_equal(prompt, "<|system|>Hi<|end|><|assistant|>none<|end|><|assistant|>c<|end|><|user|>a\nb<|end|>"
                                "<|assistant|>");
    const struct sequence_options *o = &service.requests[0].asked.sequence;
    assert_int_equal(o->max_tokens, CONTEXT - o->n_prompt);
    json_decref(root);
    json_decref(post("/v1/chat/completions", "{" MESSAGES ", \"max_completion_tokens\": 3, \"max_tokens\": 3}"));
    assert_int_equal(service.requests[1].asked.sequence.max_tokens, 3);
    json_decref(post("/v1/chat/completions",
                     "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\","
                     "\"content\": \"The vio \"}], \"continue_final_message\": true}"));
    show_prompt(2, prompt);
    assert_string_equal(prompt, "<|user|>a<|end|><|assistant|>The vio ");
}

static void test_tools(void **state) {
    (void)state;
#define TOOLS "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\"}}]"
    json_decref(post("/v1/chat/completions", "{" MESSAGES ", " TOOLS ", \"chat_template_kwargs\": {\"thinks\": true}}"));
    assert_string_equal(text_at(shown_tools, "0.function.name"), "f");
    assert_string_equal(shown_variables, "{\"thinks\":true}");
    json_decref(post("/v1/chat/completions", "{" MESSAGES ", " TOOLS ", \"tool_choice\": \"none\"}"));
    assert_null(shown_tools);
    json_decref(post("/v1/chat/completions", "{" MESSAGES ", " TOOLS ", \"tool_choice\": \"auto\"}"));
    assert_non_null(shown_tools);
    assert_string_equal(shown_variables, "");
}

static void test_no_template(void **state) {
    (void)state;
    api_free(api);
    has_template = 0;
    open_api();
    assert_error("POST", "/v1/chat/completions", "{" MESSAGES "}", 400, NULL, "--chat-template");
}

/* ---- lengths ---- */

static void test_lengths(void **state) {
    (void)state;
    char body[5000];
    json_t *root = answer_of("POST", "/v1/completions", "{" PROMPT ", \"max_tokens\": 255}", 400);
    assert_is(root, "error.code", "context_length_exceeded");
    assert_is(root, "error.param", "prompt");
    assert_non_null(strstr(text_at(root, "error.message"), "256"));
    json_decref(root);
    int n = sprintf(body, "{\"prompt\": [5");
    for (int i = 1; i < 255; i++) n += sprintf(body + n, ",5");
    sprintf(body + n, "]}");
    json_decref(post("/v1/completions", body)); /* one token fits, though 16 are usual */
    assert_int_equal(service.requests[0].asked.sequence.max_tokens, 1);
    sprintf(body + n, ",5]}");
    assert_error("POST", "/v1/completions", body, 400, "prompt", "256 tokens");
    sprintf(body + n, ",5], \"max_tokens\": 0, \"echo\": true}");
    json_decref(post("/v1/completions", body));
    config.max_output = 20;
    assert_error("POST", "/v1/completions", "{" PROMPT ", \"max_tokens\": 21}", 400, "max_tokens", "20 at most");
    json_decref(post("/v1/chat/completions", "{" MESSAGES "}"));
    assert_int_equal(service.requests[2].asked.sequence.max_tokens, 20);
    /* Refused by its bytes alone, and before a template sees it. */
    size_t n_big = 1 << 20;
    char *big = malloc(n_big + 200);
    assert_non_null(big);
    sprintf(big, "{\"prompt\": \"%*s\"}", (int)n_big, "");
    root = answer_of("POST", "/v1/completions", big, 400);
    assert_is(root, "error.code", "context_length_exceeded");
    assert_non_null(strstr(text_at(root, "error.message"), "bytes"));
    json_decref(root);
    sprintf(big, "{\"messages\": [{\"role\": \"nobody\", \"content\": \"%*s\"}]}", (int)n_big, "");
    assert_error("POST", "/v1/chat/completions", big, 400, "messages", "bytes");
    free(big);
}

/* ---- what the service cannot do ---- */

static void test_busy(void **state) {
    (void)state;
    struct exchange x;
    service.queue = 2;
    ask(&x, "POST", "/v1/completions", "{" PROMPT ", \"n\": 3}");
    assert_int_equal(x.status, 429);
    assert_non_null(strstr((char *)x.headers.data, "Retry-After: "));
    assert_int_equal(service.n_running, 0); /* those that were let in are gone again */
    assert_int_equal(service.n_cancelled, 2);
    assert_null(x.owner);
    exchange_free(&x);
    service.refusal = ERR_JOB;
    ask(&x, "POST", "/v1/completions", "{" PROMPT "}");
    assert_int_equal(x.status, 503);
    exchange_free(&x);
    service.refusal = ERR_REQUEST;
    assert_error("POST", "/v1/completions", "{" PROMPT "}", 400, NULL, "refused");
    service.refusal = OK;
    json_decref(post("/v1/completions", "{" PROMPT ", \"n\": 2}"));
}

static void test_failures(void **state) {
    (void)state;
    struct exchange x;
    service.failure = ERR_JOB;
    assert_error("POST", "/v1/completions", "{" PROMPT ", \"n\": 3}", 503, NULL, "it failed");
    assert_int_equal(service.n_cancelled, 2);
    assert_error("POST", "/v1/embeddings", "{\"input\": \"a\", \"model\": \"x\"}", 404, "model", "demo");
    service.failure = ERR_DEVICE;
    assert_error("POST", "/v1/completions", "{" PROMPT "}", 500, NULL, "it failed");
    service.failure = ERR_DEVICE;
    ask(&x, "POST", "/v1/completions", "{" PROMPT ", \"stream\": true, \"n\": 2}");
    wait_for(&x);
    assert_int_equal(x.status, 200);
    const char *last = strstr((char *)x.out.data, "data: {\"error\"");
    assert_non_null(last);
    assert_null(strstr((char *)x.out.data, "[DONE]"));
    exchange_free(&x);
    assert_int_equal(service.n_running, 0);
}

/* A client that leaves takes its requests with it, and no other's. */
static void test_gone(void **state) {
    (void)state;
    struct exchange one, two;
    ask(&one, "POST", "/v1/completions", "{" PROMPT ", \"n\": 3, \"max_tokens\": 30, \"temperature\": 0, \"stream\": true}");
    ask(&two, "POST", "/v1/completions", "{" PROMPT ", \"max_tokens\": 30, \"temperature\": 0}");
    api_events(api);
    assert_int_equal(service.n_running, 4);
    assert_int_equal(one.n_answer, 3);
    api_gone(api, &one);
    assert_int_equal(service.n_running, 1);
    assert_int_equal(service.n_cancelled, 3);
    size_t n = one.out.len;
    wait_for(&two);
    assert_int_equal(one.out.len, n);
    json_t *root = parse((char *)two.out.data, two.out.len);
    assert_is(root, "choices.0.text", SCRIPT);
    json_decref(root);
    api_gone(api, &two); /* after its end */
    exchange_free(&one);
    exchange_free(&two);
    ask(&one, "POST", "/v1/embeddings", "{\"input\": [\"a\", \"b\"]}");
    api_free(api);
    api = NULL;
    assert_int_equal(service.n_running, 0);
    exchange_free(&one);
}

static void test_log_fields(void **state) {
    (void)state;
    struct exchange x;
    struct bytes text = {0};
    ask(&x, "POST", "/v1/completions", "{\"prompt\": [5, 6, 7, 8], \"n\": 2, \"max_tokens\": 5, \"temperature\": 0}");
    wait_for(&x);
    assert_string_equal(x.route, "completions");
    assert_int_equal(x.n_prompt, 4);
    assert_int_equal(x.n_cached, FAKE_CACHED);
    assert_int_equal(x.n_answer, 10);
    exchange_free(&x);
    assert_int_equal(metrics_print(metrics, &service.status, NULL, &text), OK);
    assert_non_null(strstr((char *)text.data, "time_to_first_token_seconds_count 2\n"));
    assert_non_null(strstr((char *)text.data, "inter_token_latency_seconds_count 8\n"));
    bytes_free(&text);
}

/* ---- embeddings ---- */

static double sum_of_squares(const json_t *list) {
    double sum = 0;
    size_t i;
    const json_t *v;
    json_array_foreach(list, i, v) sum += json_real_value(v) * json_real_value(v);
    return sum;
}

static void test_embeddings(void **state) {
    (void)state;
    uint32_t dim = model.program->dim;
    json_t *root = post("/v1/embeddings", "{\"input\": \"A violin\", \"normalize\": false, \"pooling\": \"mean\"}");
    double n = (double)service.requests[0].asked.sequence.n_prompt;
    assert_is(root, "object", "list");
    assert_is(root, "data.0.object", "embedding");
    assert_int_equal(json_array_size(at(root, "data.0.embedding")), dim);
    assert_true(json_real_value(at(root, "data.0.embedding.1")) == 2 * n);
    assert_int_equal(whole_at(root, "usage.prompt_tokens"), (long long)n);
    assert_int_equal(service.requests[0].asked.sequence.pooling, SEQUENCE_POOL_MEAN);
    assert_int_equal(service.requests[0].asked.sequence.max_tokens, 0);
    json_decref(root);
    root = post("/v1/embeddings", "{\"input\": [\"A\", \"violin\"]}");
    assert_true(fabs(sum_of_squares(at(root, "data.1.embedding")) - 1) < 1e-6);
    assert_int_equal(service.requests[1].asked.sequence.pooling, SEQUENCE_POOL_LAST);
    assert_int_equal(whole_at(root, "data.1.index"), 1);
    json_decref(root);
    /* 1, 2, 3 as float32: 00 00 80 3f, 00 00 00 40, 00 00 40 40 */
    root = post("/v1/embeddings", "{\"input\": [5], \"normalize\": false, \"encoding_format\": \"base64\"}");
    assert_int_equal(strncmp(text_at(root, "data.0.embedding"), "AACAPwAAAEAAAEBA", 16), 0);
    assert_int_equal(strlen(text_at(root, "data.0.embedding")), (dim * 4 + 2) / 3 * 4);
    json_decref(root);
}

static void test_embedding_refusals(void **state) {
    (void)state;
    static const char path[] = "/v1/embeddings";
    assert_error("POST", path, "{}", 400, "input", "missing");
    assert_error("POST", path, "{\"input\": {}}", 400, "input", "expected");
    assert_error("POST", path, "{\"input\": [\"\"]}", 400, "input[0]", "empty");
    assert_error("POST", path, "{\"input\": [[5, 9000]]}", 400, "input[0][1]", "9000");
    assert_error("POST", path, "{\"input\": \"a\", \"encoding_format\": \"int8\"}", 400, "encoding_format", "int8");
    assert_error("POST", path, "{\"input\": \"a\", \"dimensions\": 8}", 400, "dimensions", "256");
    assert_error("POST", path, "{\"input\": \"a\", \"pooling\": \"cls\"}", 400, "pooling", "cls");
    assert_error("POST", path, "{\"input\": \"a\", \"normalize\": 1}", 400, "normalize", "true or false");
    json_decref(post(path, "{\"input\": \"a\", \"dimensions\": 256, \"encoding_format\": \"float\"}"));
}

/* Many texts share a queue that holds few. */
static void test_many_embeddings(void **state) {
    (void)state;
    char body[2000];
    int n = sprintf(body, "{\"input\": [[5]");
    for (int i = 1; i < 100; i++) n += sprintf(body + n, ",[%d,6]", 5 + i);
    sprintf(body + n, "], \"normalize\": false}");
    for (size_t queue = 1; queue <= 64; queue *= 8) {
        service.queue = queue;
        service.n_most = 0;
        json_t *root = post("/v1/embeddings", body);
        assert_int_equal(json_array_size(at(root, "data")), 100);
        assert_true(json_real_value(at(root, "data.0.embedding.0")) == 1);
        assert_true(json_real_value(at(root, "data.99.embedding.0")) == 2);
        assert_int_equal(service.n_most, queue < config.max_choices ? queue : config.max_choices);
        json_decref(root);
    }
}

/* ---- about the server ---- */

static void test_models(void **state) {
    (void)state;
    json_t *root = answer_of("GET", "/v1/models", "", 200);
    assert_is(root, "object", "list");
    assert_is(root, "data.0.id", "demo");
    assert_is(root, "data.0.object", "model");
    assert_int_equal(whole_at(root, "data.0.max_model_len"), CONTEXT);
    json_decref(root);
    root = answer_of("GET", "/v1/models/demo", "", 200);
    assert_is(root, "id", "demo");
    json_decref(root);
    assert_error("GET", "/v1/models/other", "", 404, "model", "other");
    assert_error("GET", "/v1/models/\xFF", "", 400, NULL, "UTF-8");
    root = answer_of("POST", "/v1/completions", "{" PROMPT ", \"model\": \"gpt-4\"}", 404);
    assert_is(root, "error.code", "model_not_found");
    json_decref(root);
    api_free(api);
    strcpy(config.model_name, "the/violin");
    open_api();
    root = answer_of("GET", "/v1/models/the/violin", "", 200);
    assert_is(root, "id", "the/violin");
    json_decref(root);
    static const char *const names[] = {"the/violin", "demo", "demo.gguf"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char body[100];
        snprintf(body, sizeof body, "{" PROMPT ", \"model\": \"%s\"}", names[i]);
        root = post("/v1/completions", body);
        assert_is(root, "model", "the/violin");
        json_decref(root);
    }
    api_free(api);
    api = NULL;
    strcpy(config.model_name, "\xFF");
    struct api_options o = {.config = &config, .model = &model, .service = &service, .commit = ""};
    assert_int_equal(api_create(&o, &api), ERR_CONFIG);
}

static void test_tokenize(void **state) {
    (void)state;
    json_t *root = post("/tokenize", "{\"content\": \"A violin<|end|>\"}"), *list;
    size_t n = json_array_size(at(root, "tokens"));
    assert_int_equal(whole_at(root, "count"), n);
    list = json_deep_copy(at(root, "tokens"));
    assert_int_equal(json_integer_value(json_array_get(list, n - 1)), 1);
    json_t *body = json_pack("{s:o}", "tokens", list);
    char *text = json_dumps(body, 0);
    json_decref(root);
    root = post("/detokenize", text);
    assert_is(root, "content", "A violin<|end|>");
    free(text);
    json_decref(body);
    json_decref(root);
    root = post("/tokenize", "{\"text\": \"a\xF0\x9F\x8E\xBB\", \"with_pieces\": true}");
    assert_is(root, "tokens.0.piece", "a");
    assert_int_equal(whole_at(root, "tokens.1.piece.0"), 0xF0);
    json_decref(root);
    assert_error("POST", "/tokenize", "{}", 400, "content", "missing");
    assert_error("POST", "/tokenize", "{\"content\": 1}", 400, "content", "a string");
    assert_error("POST", "/tokenize", "{\"content\": \"a\", \"text\": \"b\"}", 400, "text", "not both");
    assert_error("POST", "/tokenize", "{\"content\": \"a\", \"add_special\": 1}", 400, "add_special", "true");
    assert_error("POST", "/detokenize", "{}", 400, "tokens", "missing");
    assert_error("POST", "/detokenize", "{\"tokens\": 1}", 400, "tokens", "array");
    assert_error("POST", "/detokenize", "{\"tokens\": [8192]}", 400, "tokens[0]", "8192");
}

static void test_state(void **state) {
    (void)state;
    json_t *root = answer_of("GET", "/health", "", 200);
    json_decref(root);
    root = answer_of("GET", "/ready", "", 200);
    assert_is(root, "status", "ready");
    json_decref(root);
    service.status = (struct service_status){.state = SERVICE_LOADING, .reason = "loading", .loaded_bytes = 1,
                                             .total_bytes = 4, .n_blocks = 9, .n_queued = 2, .n_stages = 3,
                                             .answer_tokens_per_s = 2.5};
    root = answer_of("GET", "/ready", "", 503);
    assert_is(root, "status", "loading");
    assert_is(root, "reason", "loading");
    assert_true(json_real_value(at(root, "progress")) == 0.25);
    json_decref(root);
    root = answer_of("GET", "/cluster", "", 200);
    assert_is(root, "state", "loading");
    assert_int_equal(json_array_size(at(root, "ranks")), 0);
    assert_int_equal(whole_at(root, "plan.stages"), 3);
    assert_int_equal(whole_at(root, "queue.waiting"), 2);
    assert_int_equal(whole_at(root, "kv.blocks"), 9);
    assert_true(json_real_value(at(root, "tokens_per_s.answer")) == 2.5);
    json_decref(root);
    service.ranks = json_pack("[{s:i}]", "rank", 0);
    root = answer_of("GET", "/cluster", "", 200);
    assert_int_equal(whole_at(root, "ranks.0.rank"), 0);
    json_decref(root);
    struct exchange x;
    ask(&x, "GET", "/metrics", "");
    assert_int_equal(x.status, 200);
    assert_string_equal(x.answer_type, "text/plain; version=0.0.4; charset=utf-8");
    assert_non_null(strstr((char *)x.out.data, "time_to_first_token_seconds"));
    exchange_free(&x);
}

#define WITH_API(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_API(test_routes), WITH_API(test_bad_bodies), WITH_API(test_refusals), WITH_API(test_completion),
        WITH_API(test_parameters_arrive), WITH_API(test_prompts), WITH_API(test_choices), WITH_API(test_best_of),
        WITH_API(test_stop), WITH_API(test_echo_scores), WITH_API(test_echo_bos), WITH_API(test_partial_characters),
        WITH_API(test_chat_scores), WITH_API(test_streams), WITH_API(test_quiet_stream), WITH_API(test_chat),
        WITH_API(test_tools), WITH_API(test_no_template), WITH_API(test_lengths), WITH_API(test_busy),
        WITH_API(test_failures), WITH_API(test_gone), WITH_API(test_log_fields), WITH_API(test_embeddings),
        WITH_API(test_embedding_refusals), WITH_API(test_many_embeddings), WITH_API(test_models),
        WITH_API(test_tokenize), WITH_API(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
