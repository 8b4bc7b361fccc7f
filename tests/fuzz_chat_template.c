/* libFuzzer harness of the chat templates. Run: make fuzz && build-fuzz/fuzz_chat_template tests/corpus/chat_template
 *
 * The input is a template; what can be created is rendered with one conversation that has tools in it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "model/chat_template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"},"
    "{\"role\": \"user\", \"content\": \" \\u00fcber {{ x }} <b>\\n\"},"
    "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"call00001\", \"function\":"
    " {\"name\": \"get\", \"arguments\": {\"city\": \"Paris\", \"days\": [1, 2.5, null, true]}}}]},"
    "{\"role\": \"tool\", \"content\": [{\"type\": \"text\", \"text\": \"20\"}]}],"
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"get\", \"parameters\": {\"type\": \"object\"}}}],"
    "\"variables\": {\"s\": \"h\\u00e9llo, World\", \"n\": 5, \"f\": 2.5, \"l\": [3, 1, 2], \"d\": {\"k\": 1}}}";

static json_t *input;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct chat_template *t;
    struct bytes out = {0};
    if (!input) input = json_loads(conversation, 0, NULL);
    struct chat_input in = {.messages = json_object_get(input, "messages"),
                            .tools = json_object_get(input, "tools"),
                            .variables = json_object_get(input, "variables"),
                            .bos = "<s>",
                            .eos = "</s>",
                            .adds_generation_prompt = 1};
    if (!in.messages) abort();
    if (chat_template_create((const char *)data, size, &t) != OK) return 0;
    if (chat_template_render(t, &in, &out) == OK && !utf8_is_valid(out.data, out.len)) abort();
    chat_template_free(t);
    bytes_free(&out);
    return 0;
}
