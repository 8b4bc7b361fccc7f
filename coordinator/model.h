/* An opened model file with what is made of it: program and tokenizer. One owner;
 * read-only after model_open. */
#ifndef COORDINATOR_MODEL_H
#define COORDINATOR_MODEL_H

#include "base/config.h"
#include "base/err.h"
#include "model/gguf.h"
#include "model/program.h"
#include "model/tokenizer.h"

struct model {
    const char *path;
    struct gguf *gguf;
    struct program *program;
    struct tokenizer *tokenizer; /* NULL where the file carries none */
};

/* The file named on the command line (or NULL) or by the key `model`. */
err model_open(const char *command, const char *path, const struct config *c, struct model *out);
void model_close(struct model *m);

/* ERR_UNSUPPORTED when the file carries no tokenizer. */
err model_need_tokenizer(const struct model *m);

/* The context asked for: the key's, or the model's own but at most 4096.
 * ERR_REQUEST when it is longer than the model was made for. */
err model_context(const struct model *m, const struct config *c, uint32_t *out);
err model_program_context(const struct program *p, const struct config *c, uint32_t *out);

/* "1,2,3", each a token of the vocabulary. */
err model_parse_tokens(const struct model *m, const char *text, struct token_list *out);

#endif
