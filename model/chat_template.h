/* Chat template: messages to the text of a prompt, by the model's own Jinja template
 * (GGUF key tokenizer.chat_template) or a named one.
 *
 * Runs the part of Jinja that published templates use (https://jinja.palletsprojects.com/en/3.1.x/templates/),
 * with the settings of Hugging Face transformers: trim_blocks, lstrip_blocks, loop controls, raise_exception,
 * strftime_now, tojson as Python's json.dumps(ensure_ascii=False). What it cannot run is an error at creation where it
 * can be seen there, with the line. A created template is read-only: any thread may render. */
#ifndef MODEL_CHAT_TEMPLATE_H
#define MODEL_CHAT_TEMPLATE_H

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/err.h"
#include "base/mem.h"

struct chat_template;

/* ERR_UNSUPPORTED: "chat template, line 12: ..." */
err chat_template_create(const char *text, size_t n, struct chat_template **out);
void chat_template_free(struct chat_template *t);

/* The text of a template that comes with the program ("chatml", "llama3", ...), or NULL; and their names, "a, b, c". */
const char *chat_template_named(const char *name);
const char *chat_template_names(void);

struct chat_input {
    const json_t *messages;       /* array of objects, as a client sends them */
    const json_t *tools;          /* array, or NULL */
    const json_t *variables;      /* object of more variables (chat_template_kwargs), or NULL */
    const char *bos, *eos;        /* texts of the special tokens, "" where there is none */
    int adds_generation_prompt;   /* end with what opens the assistant's answer */
    int64_t now_s;                /* for strftime_now, in UTC */
};

/* Appends the prompt. ERR_REQUEST: what raise_exception said, or where an expression had no meaning, with
 * the line. Time and memory are bounded: a template that runs away is ERR_REQUEST too. On error `out` is as it was. */
err chat_template_render(const struct chat_template *t, const struct chat_input *in, struct bytes *out);

#endif
