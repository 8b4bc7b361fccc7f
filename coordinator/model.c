#include "coordinator/model.h"

#include <string.h>

#define CONTEXT_UNLESS_ASKED 4096

err model_open(const char *command, const char *path, const struct config *c, struct model *out) {
    *out = (struct model){.path = path ? path : c->model};
    if (!*out->path)
        return err_set(ERR_USAGE, "%s: no model; name a GGUF file, as in: caravan %s model.gguf ...",
                       command, command);
    err e = gguf_open(out->path, &out->gguf);
    if (e == OK) e = program_create(out->gguf, &out->program);
    if (e == OK && gguf_find(out->gguf, "tokenizer.ggml.model"))
        e = tokenizer_create(out->gguf, &out->tokenizer);
    if (e != OK) model_close(out);
    return e;
}

void model_close(struct model *m) {
    tokenizer_free(m->tokenizer);
    program_free(m->program);
    gguf_close(m->gguf);
    *m = (struct model){0};
}

err model_need_tokenizer(const struct model *m) {
    if (m->tokenizer) return OK;
    return err_set(ERR_UNSUPPORTED, "%s carries no tokenizer; give --tokens in place of a text", m->path);
}

err model_context(const struct model *m, const struct config *c, uint32_t *out) {
    return model_program_context(m->program, c, out);
}

err model_program_context(const struct program *p, const struct config *c, uint32_t *out) {
    uint32_t most = p->n_context;
    if (c->context > most)
        return err_set(ERR_REQUEST, "a context of %llu, but the model was made for %u at most",
                       (unsigned long long)c->context, most);
    *out = c->context ? (uint32_t)c->context
                      : most < CONTEXT_UNLESS_ASKED ? most : CONTEXT_UNLESS_ASKED;
    return OK;
}

static err parse_token(const struct model *m, const char *word, struct token_list *out) {
    uint64_t id;
    if (config_parse_whole(word, 0, (double)m->program->n_vocab - 1, &id) != OK)
        return err_context(ERR_USAGE, "--tokens");
    return token_list_push(out, (int32_t)id);
}

err model_parse_tokens(const struct model *m, const char *text, struct token_list *out) {
    char word[32];
    for (const char *at = text;; at++) {
        while (*at == ' ' || *at == '\n') at++;
        size_t n = strcspn(at, ", \n");
        if (n >= sizeof word) n = sizeof word - 1; /* too long to be a number: refused below */
        memcpy(word, at, n);
        word[n] = 0;
        TRY(parse_token(m, word, out));
        at += n;
        while (*at == ' ' || *at == '\n') at++;
        if (!*at) return OK;
        if (*at != ',') return err_set(ERR_USAGE, "--tokens: expected numbers parted by commas, found \"%.20s\"", at);
    }
}
