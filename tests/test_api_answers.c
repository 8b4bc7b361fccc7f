/* The API's answers: completions, chats and embeddings, streams against whole answers, log-probabilities. */
#include "tests/api_fixture.h"

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
#define BEST_OF PROMPT ", \"n\": 2, \"best_of\": 5, \"seed\": 0, \"max_tokens\": 3"
    json_t *untold = post("/v1/completions", "{" BEST_OF "}"); /* the same are chosen */
    fake_reset(&service);
    json_t *root = post("/v1/completions", "{" BEST_OF ", \"logprobs\": 0}");
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
        snprintf(path, sizeof path, "choices.%d.text", i);
        assert_is(untold, path, json_string_value(at(root, path)));
    }
    json_decref(untold);
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

/* The tokens from `first` on make up `want`, each at its offset. */
static void assert_offsets(const json_t *scores, size_t first, const char *want) {
    char text[100] = "";
    for (size_t i = first; i < json_array_size(at(scores, "tokens")); i++) {
        char path[64];
        snprintf(path, sizeof path, "text_offset.%zu", i);
        assert_int_equal(whole_at(scores, path), strlen(text));
        snprintf(path, sizeof path, "tokens.%zu", i);
        strcat(text, text_at(scores, path));
    }
    assert_string_equal(text, want);
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
    assert_offsets(scores, 0, "A violinThe violin");
    for (size_t i = 1; i < n; i++) {
        char path[64];
        snprintf(path, sizeof path, "top_logprobs.%zu", i);
        assert_int_equal(json_object_size(at(scores, path)), 3); /* the chosen one is among them */
    }
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
    assert_offsets(scores, 1, text_at(root, "choices.0.text"));
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

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH_API(test_completion), WITH_API(test_parameters_arrive), WITH_API(test_prompts),
        WITH_API(test_choices), WITH_API(test_best_of), WITH_API(test_stop), WITH_API(test_echo_scores),
        WITH_API(test_echo_bos), WITH_API(test_partial_characters), WITH_API(test_chat_scores),
        WITH_API(test_streams), WITH_API(test_quiet_stream), WITH_API(test_chat), WITH_API(test_tools),
        WITH_API(test_no_template), WITH_API(test_embeddings), WITH_API(test_embedding_refusals),
        WITH_API(test_many_embeddings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
