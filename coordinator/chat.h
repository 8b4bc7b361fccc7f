/* Chat: the conversation of `caravan chat`, and what its commands do to it. Owned
 * by the command, one thread; knows neither terminal nor job. */
#ifndef COORDINATOR_CHAT_H
#define COORDINATOR_CHAT_H

#include <stdint.h>

#include "base/err.h"
#include "coordinator/conversation.h"

struct chat;

err chat_create(struct chat **out);
void chat_free(struct chat *c);

/* All messages are forgotten; the system's words stay. */
void chat_clear(struct chat *c);
/* What comes before every conversation; "": nothing. */
err chat_set_system(struct chat *c, const char *text);
const char *chat_system(const struct chat *c);

/* A question, or more of one that has no answer yet. ERR_REQUEST: not UTF-8. */
err chat_ask(struct chat *c, const char *text, size_t n);
/* What came of it; may be half of an answer; nothing leaves the question open. */
err chat_answer(struct chat *c, const char *text, size_t n);
/* Forgets the last answer, so that its question is open again. ERR_REQUEST: nothing was asked. */
err chat_reopen(struct chat *c);
/* Forgets the last question and its answer. ERR_REQUEST: nothing was asked. */
err chat_undo(struct chat *c);
/* The last question or answer, or NULL where there is none. */
const char *chat_last(const struct chat *c, const char *role);
size_t chat_n_messages(const struct chat *c);
/* Messages at the beginning that chat_encode leaves out. */
size_t chat_n_left_out(const struct chat *c);

/* {"messages": [...]}, as the body of a request to /v1/chat/completions. Loading replaces everything, or on error
 * nothing. */
err chat_save(const struct chat *c, const char *path);
err chat_load(struct chat *c, const char *path);

/* Appends the prompt for the next answer. Where it would leave less than `reserve` of `context` tokens free, the
 * oldest questions with their answers are no longer read, as many as free half of the context, so that it is
 * long before this happens again and until then each prompt begins as the one before.
 * ERR_REQUEST: the last question alone is too long. */
err chat_encode(struct chat *c, const struct chat_template *t, const struct model *m, uint32_t context,
                uint32_t reserve, int64_t now_s, struct token_list *out);

#endif
