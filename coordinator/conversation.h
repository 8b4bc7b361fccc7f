/* Conversation: messages, as clients of chat interfaces send them, to the tokens
 * of a prompt. What the API and `caravan chat` must do alike is here. Pure: any thread. */
#ifndef COORDINATOR_CONVERSATION_H
#define COORDINATOR_CONVERSATION_H

#include <stdint.h>

#include <jansson.h>

#include "base/config.h"
#include "base/err.h"
#include "coordinator/model.h"
#include "model/chat_template.h"
#include "model/tokenizer.h"

/* The template that the key `chat_template` names (one that comes with the program, else a file), else the
 * model's own; NULL where there is none, which conversation_encode refuses. Errors name where it came from. */
err conversation_template(const struct model *m, const struct config *c, struct chat_template **out);

/* Checks the `messages` of a client and gives them as templates expect them, as a new reference:
 * - role: a text, "developer" becomes "system";
 * - content: a text, or an array of {"type": "text", "text": ...}, joined by line ends; null or absent only beside
 *   tool_calls;
 * - tool_calls[].function.arguments: an object, or the text of one, which is parsed.
 * Other fields stay, but tool_calls: null is as not there. ERR_REQUEST begins with the field:
 * "messages[2].content: expected ..., found ...". */
err conversation_read(const json_t *messages, json_t **out);

struct conversation {
    const json_t *messages;  /* as conversation_read gives them */
    const json_t *tools;     /* array, or NULL */
    const json_t *variables; /* object of more variables of the template, or NULL */
    int64_t now_s;           /* the date that templates may write, seconds of UTC */
    int goes_on;             /* the last message is not complete: the prompt ends with its text */
};

/* Appends the prompt that asks for the assistant's next message. Control tokens that the template writes are tokens;
 * the text of one inside a message is, too, since a template gives one text. Begins with the model's bos where
 * its vocabulary wants one, once, whether or not the template writes it; never ends with eos.
 * `t` may be NULL: ERR_REQUEST says that there is no template. On error `out` is as it was. */
err conversation_encode(const struct chat_template *t, const struct model *m, const struct conversation *c,
                        struct token_list *out);

/* The same in two steps, for who looks at the text between them. */
err conversation_render(const struct chat_template *t, const struct model *m, const struct conversation *c,
                        struct bytes *out);
err conversation_tokenize(const struct model *m, const struct bytes *text, struct token_list *out);

#endif
