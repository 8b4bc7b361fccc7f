/* The demo model's tokenizer against the library that trained it
 * (models/demo_tokens.json: [{text, ids}]). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>
#include <jansson.h>

#include "model/tokenizer.h"

static void case_check(const struct tokenizer *t, const json_t *item) {
    const char *text = json_string_value(json_object_get(item, "text"));
    const json_t *ids = json_object_get(item, "ids");
    size_t len = json_string_length(json_object_get(item, "text"));
    struct token_list got = {0};
    assert_int_equal(tokenizer_encode(t, text, len, 0, 1, &got), OK);
    assert_int_equal(got.n, json_array_size(ids));
    for (size_t i = 0; i < got.n; i++)
        assert_int_equal(got.ids[i], json_integer_value(json_array_get(ids, i)));
    struct bytes back = {0};
    assert_int_equal(tokenizer_decode(t, got.ids, got.n, 1, &back), OK);
    assert_int_equal(back.len, len);
    if (len) assert_memory_equal(back.data, text, len);
    token_list_free(&got);
    bytes_free(&back);
}

static void tokens_are_the_trainers(void **state) {
    (void)state;
    json_error_t error;
    json_t *cases = json_load_file("models/demo_tokens.json", JSON_ALLOW_NUL, &error);
    if (!cases) fail_msg("models/demo_tokens.json: %s", error.text);
    struct gguf *g;
    struct tokenizer *t;
    assert_int_equal(gguf_open("models/demo.gguf", &g), OK);
    assert_int_equal(tokenizer_create(g, &t), OK);
    size_t i;
    json_t *item;
    assert_true(json_array_size(cases) > 5);
    json_array_foreach(cases, i, item) case_check(t, item);
    tokenizer_free(t);
    gguf_close(g);
    json_decref(cases);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(tokens_are_the_trainers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
