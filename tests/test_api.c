/* The API: routes, what is refused and with which field, what the service cannot do, clients that leave, and what the
 * server says about itself. */
#include "tests/api_fixture.h"

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
    end = many + sprintf(many, "{\"a\": 0");
    for (int i = 0; i < 70000; i++) end += sprintf(end, ",\"\":");
    assert_error("POST", path, many, 400, NULL, "fields of objects");
    /* what a text holds counts, too, of all calls together */
    static const char call[] = "{\"function\": {\"name\": \"f\", \"arguments\": \"{\\\"a\\\": [";
    end = many + sprintf(many, "{\"messages\": [{\"role\": \"assistant\", \"tool_calls\": [");
    for (int k = 0; k < 2; k++) {
        end += sprintf(end, "%s%s[]", k ? "," : "", call);
        for (int i = 0; i < 40000; i++) end += sprintf(end, ",[]");
        end += sprintf(end, "]}\"}}");
    }
    sprintf(end, "]}]}");
    assert_error("POST", "/v1/chat/completions", many, 400, "messages[0].tool_calls[1].function.arguments",
                 "arrays and objects");
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
    char many[3 * CONTEXT + 40], *end = many + sprintf(many, "{\"content\": \"a");
    for (int i = 0; i < CONTEXT; i++) end += sprintf(end, ".a");
    sprintf(end, "\"}");
    assert_error("POST", "/tokenize", many, 400, "content", "context of 256");
    end = many + sprintf(many, "{\"tokens\": [5");
    for (int i = 0; i < CONTEXT; i++) end += sprintf(end, ",5");
    sprintf(end, "]}");
    assert_error("POST", "/detokenize", many, 400, "tokens", "context of 256");
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
    snprintf(config.api_keys, sizeof config.api_keys, "keys"); /* reasons are for those who have one */
    for (int has_key = 0; has_key < 2; has_key++) {
        struct exchange asked = {.method = "GET", .path = "/ready", .content_type = "",
                                 .key_name = has_key ? "alice" : "-"};
        api_request(api, &asked);
        assert_int_equal(strstr((char *)asked.out.data, "\"reason\":\"loading\"") != NULL, has_key);
        exchange_free(&asked);
    }
    config.api_keys[0] = 0;
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
    ask(&x, "GET", "/", "");
    assert_int_equal(x.status, 200);
    assert_string_equal(x.answer_type, "text/html; charset=utf-8");
    assert_int_equal(strncmp((char *)x.out.data, "<!doctype html>", 15), 0);
    assert_non_null(strstr((char *)x.headers.data, "Content-Security-Policy: default-src 'none'"));
    exchange_free(&x);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_API(test_routes), WITH_API(test_bad_bodies), WITH_API(test_refusals), WITH_API(test_lengths),
        WITH_API(test_busy), WITH_API(test_failures), WITH_API(test_gone), WITH_API(test_log_fields),
        WITH_API(test_models), WITH_API(test_tokenize), WITH_API(test_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
