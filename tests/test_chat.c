/* Conversations: what clients send, what a chat keeps, and the prompts that come of it, on the demo model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "coordinator/chat.h"

/* ---- messages of clients ---- */

static void read_gives(const char *in, const char *out) {
    json_t *messages = json_loads(in, 0, NULL), *read, *expected = json_loads(out, 0, NULL);
    assert_non_null(messages);
    assert_non_null(expected);
    if (conversation_read(messages, &read) != OK) fail_msg("%s: %s", in, err_text());
    if (!json_equal(read, expected)) fail_msg("%s became %s", in, json_dumps(read, 0));
    json_decref(messages);
    json_decref(read);
    json_decref(expected);
}

static void messages_become_what_templates_expect(void **state) {
    (void)state;
    read_gives("[{\"role\":\"user\",\"content\":\"Hi\"}]",
               "[{\"role\":\"user\",\"content\":\"Hi\"}]");
    read_gives("[{\"role\":\"developer\",\"content\":\"Be brief\"},{\"role\":\"user\",\"content\":\"Hi\","
    "\"name\":\"ann\"}]",
               "[{\"role\":\"system\",\"content\":\"Be brief\"},{\"role\":\"user\",\"content\":\"Hi\","
               "\"name\":\"ann\"}]");
    read_gives("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\","
    "\"text\":\"b\"}]}]",
               "[{\"role\":\"user\",\"content\":\"a\\nb\"}]");
    read_gives("[{\"role\":\"user\",\"content\":[]}]",
               "[{\"role\":\"user\",\"content\":\"\"}]");
    read_gives("[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
    "\"arguments\":\"{\\\"x\\\":1}\"}}]}]",
               "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
               "\"arguments\":{\"x\":1}}}]}]");
    read_gives("[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}]",
               "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{}}}]}]");
}

static void read_refuses(const char *in, const char *why) {
    json_t *messages = json_loads(in, JSON_DECODE_ANY, NULL), *read;
    assert_non_null(messages);
    assert_int_equal(conversation_read(messages, &read), ERR_REQUEST);
    assert_null(read);
    if (strncmp(err_text(), why, strlen(why)) != 0) fail_msg("%s: \"%s\", not \"%s\"", in, err_text(), why);
    json_decref(messages);
}

static void messages_that_are_wrong_name_the_field(void **state) {
    (void)state;
    read_refuses("{}",
                 "messages: expected an array, found an object");
    read_refuses("[]",
                 "messages: expected one message");
    read_refuses("[1]",
                 "messages[0]: expected an object");
    read_refuses("[{\"content\":\"a\"}]",
                 "messages[0].role: expected system, user, assistant or tool, found nothing");
    read_refuses("[{\"role\":\"\",\"content\":\"a\"}]",
                 "messages[0].role: expected");
    read_refuses("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\"}]",
                 "messages[1].content: expected a text or an array");
    read_refuses("[{\"role\":\"user\",\"content\":null}]",
                 "messages[0].content: expected");
    read_refuses("[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]",
                 "messages[0].content[0].type: expected \"text\"");
    read_refuses("[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":3}]}]",
                 "messages[0].content[0].text: expected a text, found a number");
    read_refuses("[{\"role\":\"assistant\",\"tool_calls\":3}]",
                 "messages[0].tool_calls: expected an array");
    read_refuses("[{\"role\":\"assistant\",\"tool_calls\":[{}]}]",
                 "messages[0].tool_calls[0].function.name: expected");
    read_refuses("[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":\"[1]\"}}]}]",
                 "messages[0].tool_calls[0].function.arguments: expected");
}

/* ---- a conversation ---- */

static void ask(struct chat *c, const char *text) { assert_int_equal(chat_ask(c, text, strlen(text)), OK); }
static void answer(struct chat *c, const char *text) { assert_int_equal(chat_answer(c, text, strlen(text)), OK); }

static void questions_and_answers_take_turns(void **state) {
    (void)state;
    struct chat *c;
    assert_int_equal(chat_create(&c), OK);
    assert_int_equal(chat_reopen(c), ERR_REQUEST);
    assert_int_equal(chat_undo(c), ERR_REQUEST);
    ask(c, "one");
    answer(c, ""); /* stopped before anything came */
    ask(c, "more of one");
    assert_int_equal(chat_n_messages(c), 1);
    assert_string_equal(chat_last(c, "user"), "one\n\nmore of one");
    answer(c, "first");
    ask(c, "two");
    answer(c, "second");
    assert_int_equal(chat_n_messages(c), 4);
    assert_int_equal(chat_reopen(c), OK);
    assert_int_equal(chat_n_messages(c), 3);
    assert_string_equal(chat_last(c, "assistant"), "first");
    answer(c, "another second");
    assert_int_equal(chat_undo(c), OK);
    assert_string_equal(chat_last(c, "user"), "one\n\nmore of one");
    assert_int_equal(chat_ask(c, "a\0b", 3), ERR_REQUEST);
    assert_int_equal(chat_ask(c, "\xff", 1), ERR_REQUEST);
    assert_int_equal(chat_n_messages(c), 2);
    chat_clear(c);
    assert_int_equal(chat_n_messages(c), 0);
    chat_free(c);
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void what_is_saved_is_loaded(void **state) {
    (void)state;
    char path[] = "/tmp/test_chat_XXXXXX";
    struct chat *c, *other;
    close(mkstemp(path));
    assert_int_equal(chat_create(&c), OK);
    assert_int_equal(chat_create(&other), OK);
    assert_int_equal(chat_set_system(c, "Be brief."), OK);
    ask(c, "What is \"this\"?\nAnd that \xe2\x82\xac?");
    answer(c, "A test.");
    assert_int_equal(chat_save(c, path), OK);
    assert_int_equal(chat_load(other, path), OK);
    assert_string_equal(chat_system(other), "Be brief.");
    assert_string_equal(chat_last(other, "user"), chat_last(c, "user"));
    assert_string_equal(chat_last(other, "assistant"), "A test.");
    assert_int_equal(chat_n_messages(other), 2);
    static const struct { const char *text; err e; } bad[] = {
        {"", ERR_FORMAT}, {"{", ERR_FORMAT}, {"3", ERR_FORMAT}, {"{}", ERR_REQUEST}, {"{\"messages\": 3}", ERR_REQUEST},
        {"[{\"role\": \"user\"}]", ERR_REQUEST},
        {"[{\"role\": \"system\", \"content\": null, \"tool_calls\": []}]", ERR_REQUEST}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        write_file(path, bad[i].text);
        assert_int_equal(chat_load(other, path), bad[i].e);
        assert_int_equal(chat_n_messages(other), 2); /* untouched */
        assert_string_equal(chat_system(other), "Be brief.");
    }
    unlink(path);
    assert_int_equal(chat_load(other, path), ERR_FILE);
    assert_int_equal(chat_save(c, "/nowhere/at/all"), ERR_FILE);
    chat_free(c);
    chat_free(other);
}

/* ---- prompts ---- */

struct setting {
    struct model model;
    struct chat_template *template;
};

static int open_demo(void **state) {
    static struct setting s;
    static struct config config;
    config_defaults(&config);
    if (model_open("test", "models/demo.gguf", &config, &s.model) != OK) return -1;
    *state = &s;
    return conversation_template(&s.model, &config, &s.template) == OK && s.template ? 0 : -1;
}

static int close_demo(void **state) {
    struct setting *s = *state;
    chat_template_free(s->template);
    model_close(&s->model);
    return 0;
}

static void expect_prompt(const struct setting *s, const struct token_list *got, const char *text) {
    struct token_list expected = {0};
    assert_int_equal(tokenizer_encode(s->model.tokenizer, text, strlen(text), 0, 1, &expected), OK);
    assert_int_equal(got->n, expected.n);
    assert_memory_equal(got->ids, expected.ids, got->n * sizeof *got->ids);
    token_list_free(&expected);
}

static void a_prompt_is_what_the_template_writes(void **state) {
    struct setting *s = *state;
    struct chat *c;
    struct token_list prompt = {0};
    assert_int_equal(chat_create(&c), OK);
    ask(c, "What is a violin?");
    assert_int_equal(chat_encode(c, s->template, &s->model, 1024, 100, 0, &prompt), OK);
    expect_prompt(s, &prompt, "<|user|>What is a violin?<|end|><|assistant|>");
    answer(c, "A toy.");
    ask(c, "And a piano?");
    assert_int_equal(chat_set_system(c, "Be brief."), OK);
    prompt.n = 0;
    assert_int_equal(chat_encode(c, s->template, &s->model, 1024, 100, 0, &prompt), OK);
    expect_prompt(s, &prompt, "<|system|>Be brief.<|end|><|user|>What is a violin?<|end|><|assistant|>A toy.<|end|>"
                              "<|user|>And a piano?<|end|><|assistant|>");
    assert_int_equal(chat_n_left_out(c), 0);
    assert_int_equal(chat_encode(c, NULL, &s->model, 1024, 100, 0, &prompt), ERR_REQUEST);
    token_list_free(&prompt);
    chat_free(c);
}

/* Long conversations: prompts always leave room, begin with the system's words, end with the last question; what is
 * left out grows in leaps, so that most prompts begin as the one before. */
static void the_oldest_turns_are_left_out(void **state) {
    struct setting *s = *state;
    struct chat *c;
    struct token_list prompt = {0};
    size_t n_leaps = 0, left_out = 0;
    assert_int_equal(chat_create(&c), OK);
    assert_int_equal(chat_set_system(c, "Be brief."), OK);
    for (int i = 0; i < 60; i++) {
        ask(c, "What is a mountain?");
        prompt.n = 0;
        assert_int_equal(chat_encode(c, s->template, &s->model, 256, 64, 0, &prompt), OK);
        assert_true(prompt.n <= 256 - 64);
        struct bytes text = {0};
        assert_int_equal(tokenizer_decode(s->model.tokenizer, prompt.ids, prompt.n, 1, &text), OK);
        assert_int_equal(strncmp((char *)text.data, "<|system|>Be brief.<|end|><|user|>", 34), 0);
        assert_non_null(strstr((char *)text.data + text.len - 60, "What is a mountain?<|end|><|assistant|>"));
        bytes_free(&text);
        assert_true(chat_n_left_out(c) >= left_out && chat_n_left_out(c) % 2 == 0);
        if (chat_n_left_out(c) > left_out) n_leaps++;
        left_out = chat_n_left_out(c);
        answer(c, "A mountain is a land mass that projects well above its surroundings.");
    }
    assert_int_equal(chat_n_messages(c), 120); /* none is forgotten */
    assert_true(left_out > 80 && n_leaps > 5 && n_leaps < 20);
    chat_clear(c);
    assert_int_equal(chat_n_left_out(c), 0);
    token_list_free(&prompt);
    chat_free(c);
}

static void a_question_that_is_too_long_is_refused(void **state) {
    struct setting *s = *state;
    struct chat *c;
    struct token_list prompt = {0};
    char text[4000];
    memset(text, 'a', sizeof text);
    for (size_t i = 1; i < sizeof text; i += 2) text[i] = ' ';
    assert_int_equal(chat_create(&c), OK);
    ask(c, "What is a violin?");
    answer(c, "A toy.");
    assert_int_equal(chat_ask(c, text, sizeof text), OK);
    assert_int_equal(chat_encode(c, s->template, &s->model, 256, 64, 0, &prompt), ERR_REQUEST);
    assert_non_null(strstr(err_text(), "the context of 256 leaves room for"));
    assert_int_equal(prompt.n, 0);
    assert_int_equal(chat_undo(c), OK);
    ask(c, "What is a piano?");
    assert_int_equal(chat_encode(c, s->template, &s->model, 256, 64, 0, &prompt), OK);
    assert_int_equal(chat_n_left_out(c), 0);
    token_list_free(&prompt);
    chat_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_become_what_templates_expect),
        cmocka_unit_test(messages_that_are_wrong_name_the_field),
        cmocka_unit_test(questions_and_answers_take_turns),
        cmocka_unit_test(what_is_saved_is_loaded),
        cmocka_unit_test(a_prompt_is_what_the_template_writes),
        cmocka_unit_test(the_oldest_turns_are_left_out),
        cmocka_unit_test(a_question_that_is_too_long_is_refused),
    };
    return cmocka_run_group_tests(tests, open_demo, close_demo);
}
