/* libFuzzer harness of the API: requests that nobody meant, against a service that answers a few tokens. Run:
 * make fuzz && build-fuzz/fuzz_api
 *
 * The first byte of an input is the route, the second says when the client leaves, the rest is the body, or for GET
 * the path. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "coordinator/api.h"
#include "coordinator/conversation.h"
#include "tests/fake_service.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct config config;
static struct model model;
static struct service service;
static struct api *api;

static void require(int holds) {
    if (!holds) abort();
}

static void open_api(void) {
    struct chat_template *chat;
    config_defaults(&config);
    config.context = 64;
    require(model_open("fuzz", "models/demo.gguf", &config, &model) == OK);
    require(conversation_template(&model, &config, &chat) == OK && chat);
    service.model = &model;
    require(tokenizer_encode(model.tokenizer, "a \xF0\x9F\x8E\xBB b", 8, 0, 0, &service.script) == OK);
    struct api_options o = {.config = &config, .model = &model, .service = &service, .chat = chat, .commit = "c"};
    require(api_create(&o, &api) == OK);
}

/* What the transport relies on. */
static void check_answer(const struct exchange *x) {
    require(x->status >= 200 && x->status < 600 && !x->is_broken);
    require(utf8_is_valid(x->out.data, x->out.len));
    if (strcmp(x->answer_type, "application/json") != 0) return;
    json_t *root = json_loadb((char *)x->out.data, x->out.len, JSON_ALLOW_NUL, NULL);
    require(root != NULL);
    require(x->status == 200 || x->status == 503 || json_is_object(json_object_get(root, "error")));
    json_decref(root);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const paths[] = {"/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize",
                                        "/detokenize", NULL};
    if (!api) open_api();
    if (size < 2) return 0;
    fake_reset(&service);
    const char *path = paths[data[0] % (sizeof paths / sizeof *paths)];
    uint8_t patience = data[1];
    char *body = malloc(size - 1); /* a copy, so that reading beyond it is seen */
    require(body != NULL);
    memcpy(body, data + 2, size - 2);
    body[size - 2] = 0;
    struct exchange x = {.method = path ? "POST" : "GET", .path = path ? path : body, .body = (uint8_t *)body,
                         .n_body = path ? size - 2 : 0, .content_type = path ? "application/json" : ""};
    api_request(api, &x);
    for (int i = 0; i < patience && !x.is_ended; i++) api_events(api);
    require(x.is_ended || x.owner);
    if (x.is_ended) check_answer(&x);
    api_gone(api, &x);
    require(service.n_running == 0 && !x.owner);
    exchange_free(&x);
    free(body);
    return 0;
}
