/* Text to tokens and back, from a model file's own metadata.
 *
 * Kinds (tokenizer.ggml.model): "llama" SentencePiece BPE, "gpt2" byte-level
 * BPE with a named pre-tokenizer (tokenizer.ggml.pre; "default" when absent),
 * "bert" WordPiece. Encoding costs O(n log n) in the length of the text.
 * Read-only after creation: any thread. */
#ifndef MODEL_TOKENIZER_H
#define MODEL_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/gguf.h"

struct tokenizer;

enum token_type { /* numbers as in tokenizer.ggml.token_type */
    TOKEN_UNDEFINED, TOKEN_NORMAL, TOKEN_UNKNOWN, TOKEN_CONTROL,
    TOKEN_USER_DEFINED, TOKEN_UNUSED, TOKEN_BYTE
};

struct token_list { /* zero-initialised is empty; token_list_free ends it */
    int32_t *ids;
    size_t n, cap;
};

err token_list_push(struct token_list *l, int32_t id);
void token_list_free(struct token_list *l);

/* Copies what it needs; `g` may be closed afterwards. ERR_UNSUPPORTED names a
 * kind or pre-tokenizer that is not known, and the ones that are. */
err tokenizer_create(const struct gguf *g, struct tokenizer **out);
void tokenizer_free(struct tokenizer *t);

/* Appends the tokens of `text` (any bytes; of what is no UTF-8, SentencePiece and
 * byte-level BPE encode the bytes, WordPiece nothing). add_special: bos/eos,
 * cls/sep as the file's add_bos_token/add_eos_token say. parse_special: control
 * tokens written in the text ("<|end|>") become those tokens; otherwise they are
 * plain text. User-defined tokens always match; the longest at the leftmost
 * place does. ERR_REQUEST: the text is over 1 GiB. On error `out` is as it was. */
err tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                     int add_special, int parse_special,
                     struct token_list *out);

/* Appends the bytes of one token as they appear in text. with_special: control,
 * unknown and unused tokens are written out; otherwise they give nothing. May be
 * part of a character: use a token_stream to show text as it comes. ERR_REQUEST:
 * no such token. */
err tokenizer_decode_token(const struct tokenizer *t, int32_t id,
                           int with_special, struct bytes *out);

/* Whole lists, with the kind's rule at the beginning: SentencePiece and WordPiece
 * drop the space that encoding put before the first word. The bytes are those
 * that were encoded: not UTF-8 where the tokens are not. */
err tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n,
                     int with_special, struct bytes *out);

/* Streaming decode: never emits a part of a UTF-8 character. The stream begins a
 * text; where it goes on with one (a completion after its prompt), clear is_first
 * after token_stream_init, or the first word loses the space before it. */
struct token_stream {
    const struct tokenizer *t;
    int with_special;
    int is_first; /* nothing was decoded yet */
    struct bytes held; /* bytes of an incomplete character */
};

void token_stream_init(struct token_stream *s, const struct tokenizer *t,
                       int with_special);
/* Appends to `out` what became complete. Bytes that can no longer become a
 * character come out as U+FFFD. */
err token_stream_push(struct token_stream *s, int32_t id, struct bytes *out);
/* At the end: what was held comes out as U+FFFD. */
err token_stream_finish(struct token_stream *s, struct bytes *out);
void token_stream_free(struct token_stream *s);

size_t tokenizer_n_vocab(const struct tokenizer *t);
/* Ids, -1 where the model has none; WordPiece: cls and sep. */
int32_t tokenizer_bos(const struct tokenizer *t);
int32_t tokenizer_eos(const struct tokenizer *t);
/* Whether add_special puts bos first (a chat template that writes it itself must
 * not get two). */
int tokenizer_adds_bos(const struct tokenizer *t);
/* TOKEN_UNDEFINED when there is no such token. */
enum token_type tokenizer_type(const struct tokenizer *t, int32_t id);
/* Whether generation ends with this token (eos, eot, eom and tokens named as such). */
int tokenizer_is_end(const struct tokenizer *t, int32_t id);
/* "llama", "gpt2", "bert". */
const char *tokenizer_kind(const struct tokenizer *t);

#endif
