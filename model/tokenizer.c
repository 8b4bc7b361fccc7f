/* The tokenizers' front: creation, special tokens, encoding and decoding. */
#include "model/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "model/tokenizer_parts.h"

/* A longer text is refused: symbols count in 32 bits. */
#define TEXT_BYTES_MAX ((size_t)1 << 30)

static const char *const kind_names[] = {
    [KIND_SPM] = "llama", [KIND_BPE] = "gpt2", [KIND_WORDPIECE] = "bert"};

err token_list_push(struct token_list *l, int32_t id) {
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        int32_t *grown = mem_resized(l->ids, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        l->ids = grown;
        l->cap = cap;
    }
    l->ids[l->n++] = id;
    return OK;
}

void token_list_free(struct token_list *l) {
    free(l->ids);
    *l = (struct token_list){0};
}

/* ---- creation ---- */

static err find_kind(const struct gguf *g, enum tokenizer_kind *out) {
    const char *name;
    TRY(gguf_get_string(g, "tokenizer.ggml.model", &name));
    for (int k = KIND_SPM; k <= KIND_WORDPIECE; k++) {
        if (strcmp(name, kind_names[k]) != 0) continue;
        *out = (enum tokenizer_kind)k;
        return OK;
    }
    return err_set(ERR_UNSUPPORTED, "%s: tokenizer '%.100s' is not known; known "
                   "are: llama gpt2 bert", gguf_path(g), name);
}

static err load_special(struct tokenizer *t) {
    TRY(trie_init(&t->special));
    for (size_t i = 0; i < t->vocab.n; i++) {
        const struct vocab_token *token = &t->vocab.tokens[i];
        if (token->bytes_len == 0) continue;
        if (token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN ||
            token->type == TOKEN_USER_DEFINED)
            TRY(trie_add(&t->special, token->bytes, token->bytes_len,
                         (int32_t)i));
    }
    return OK;
}

static err load(struct tokenizer *t, const struct gguf *g) {
    enum tokenizer_kind kind = KIND_SPM;
    const char *pre = NULL;
    TRY(find_kind(g, &kind));
    if (kind == KIND_BPE) {
        TRY(gguf_get_string_or(g, "tokenizer.ggml.pre", "default", &pre));
        err e = pretokenizer_create(pre, &t->pre);
        if (e != OK) return err_context(e, "%s", gguf_path(g));
    }
    int add_bos = kind != KIND_BPE || pretokenizer_adds_bos(t->pre);
    TRY(vocab_load(&t->vocab, kind, add_bos, g));
    TRY(load_special(t));
    if (kind == KIND_BPE) TRY(bpe_load_merges(t, g));
    if (kind == KIND_WORDPIECE) TRY(wordpiece_load(t));
    return OK;
}

err tokenizer_create(const struct gguf *g, struct tokenizer **out) {
    struct tokenizer *t;
    TRY(NEW(t, 1));
    err e = load(t, g);
    if (e != OK) {
        tokenizer_free(t);
        return e;
    }
    *out = t;
    return OK;
}

void tokenizer_free(struct tokenizer *t) {
    if (!t) return;
    vocab_free(&t->vocab);
    trie_free(&t->special);
    trie_free(&t->pieces);
    u64map_free(&t->merges);
    pretokenizer_free(t->pre);
    free(t);
}

/* ---- encoding ---- */

/* The longest special token that begins at `text`, or -1. */
static int32_t match_special(const struct tokenizer *t, const uint8_t *text,
                             size_t len, int parse_special, size_t *match_len) {
    uint32_t node = 0;
    int32_t found = -1;
    for (size_t i = 0; i < len; i++) {
        node = trie_step(&t->special, node, text[i]);
        if (node == TRIE_NONE) break;
        int32_t id = t->special.values[node];
        if (id < 0) continue;
        if (!parse_special && t->vocab.tokens[id].type != TOKEN_USER_DEFINED)
            continue;
        found = id;
        *match_len = i + 1;
    }
    return found;
}

static err encode_plain(struct encoder *e, const uint8_t *text, size_t len,
                        int begins) {
    if (len == 0) return OK;
    switch (e->t->vocab.kind) {
    case KIND_SPM: return spm_encode(e, text, (uint32_t)len, begins);
    case KIND_BPE: return bpe_encode(e, text, (uint32_t)len);
    case KIND_WORDPIECE: return wordpiece_encode(e, text, (uint32_t)len);
    }
    return err_set(ERR_INTERNAL, "no such kind of tokenizer");
}

static err encode_text(struct encoder *e, const uint8_t *text, size_t len,
                       int parse_special) {
    size_t begin = 0, match_len = 0;
    int begins = 1;
    for (size_t i = 0; i < len;) {
        int32_t id =
            match_special(e->t, text + i, len - i, parse_special, &match_len);
        if (id < 0) {
            i++;
            continue;
        }
        TRY(encode_plain(e, text + begin, i - begin, begins));
        TRY(token_list_push(e->out, id));
        begin = i += match_len;
        begins = 1;
    }
    return encode_plain(e, text + begin, len - begin, begins);
}

static err encode_all(struct encoder *e, const uint8_t *text, size_t len,
                      int add_special, int parse_special) {
    const struct vocab *v = &e->t->vocab;
    if (add_special && v->add_bos && v->bos >= 0)
        TRY(token_list_push(e->out, v->bos));
    TRY(encode_text(e, text, len, parse_special));
    if (add_special && v->add_eos && v->eos >= 0)
        TRY(token_list_push(e->out, v->eos));
    return OK;
}

err tokenizer_encode(const struct tokenizer *t, const char *text, size_t len,
                     int add_special, int parse_special,
                     struct token_list *out) {
    if (len > TEXT_BYTES_MAX)
        return err_set(ERR_REQUEST, "a text of %zu bytes is too long (at most "
                       "%zu)", len, TEXT_BYTES_MAX);
    struct encoder e = {.t = t, .out = out};
    size_t n_before = out->n;
    err result = encode_all(&e, (const uint8_t *)text, len, add_special,
                            parse_special);
    if (result != OK) out->n = n_before;
    free(e.symbols);
    free(e.heap);
    free(e.words.words);
    free(e.words_next.words);
    bytes_free(&e.text);
    return result;
}

/* ---- decoding ---- */

err tokenizer_decode_token(const struct tokenizer *t, int32_t id,
                           int with_special, struct bytes *out) {
    if (id < 0 || (size_t)id >= t->vocab.n)
        return err_set(ERR_REQUEST, "token %d is not in the vocabulary (0 to "
                       "%zu)", id, t->vocab.n - 1);
    const struct vocab_token *token = &t->vocab.tokens[id];
    if (token->type != TOKEN_CONTROL && token->type != TOKEN_UNKNOWN &&
        token->type != TOKEN_UNUSED)
        return bytes_append(out, token->bytes, token->bytes_len);
    if (!with_special) return OK;
    if (t->vocab.kind == KIND_WORDPIECE) TRY(bytes_append(out, " ", 1));
    return bytes_append(out, token->text, token->text_len);
}

/* One token of a text; drops the space that encoding put before its first word. */
static err decode_next(const struct tokenizer *t, int32_t id, int with_special,
                       int *is_first, struct bytes *out) {
    size_t begin = out->len;
    TRY(tokenizer_decode_token(t, id, with_special, out));
    if (!*is_first || out->len == begin) return OK;
    int type = t->vocab.tokens[id].type;
    int is_word = t->vocab.kind == KIND_WORDPIECE;
    if (type == TOKEN_CONTROL && !is_word) return OK; /* the space comes after */
    *is_first = 0;
    if (out->data[begin] != ' ' || type == TOKEN_USER_DEFINED) return OK;
    if (!is_word && !t->vocab.add_space_prefix) return OK;
    out->len--;
    memmove(out->data + begin, out->data + begin + 1, out->len - begin);
    out->data[out->len] = 0;
    return OK;
}

err tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n,
                     int with_special, struct bytes *out) {
    int is_first = 1;
    size_t begin = out->len;
    for (size_t i = 0; i < n; i++) {
        err e = decode_next(t, ids[i], with_special, &is_first, out);
        if (e == OK) continue;
        out->len = begin;
        if (out->data) out->data[begin] = 0;
        return e;
    }
    return bytes_append(out, "", 0);
}

/* ---- streaming ---- */

void token_stream_init(struct token_stream *s, const struct tokenizer *t,
                       int with_special) {
    *s = (struct token_stream){.t = t, .with_special = with_special,
                               .is_first = 1};
}

/* Moves what is complete from s->held to `out`; `at_end`: nothing follows. */
static err release(struct token_stream *s, int at_end, struct bytes *out) {
    size_t i = 0, len;
    uint32_t code;
    err e = OK;
    while (i < s->held.len && e == OK) {
        const uint8_t *p = s->held.data + i;
        enum utf8_state state = utf8_next(p, s->held.len - i, &len, &code);
        if (state == UTF8_INCOMPLETE && !at_end) break;
        e = state == UTF8_CHAR ? bytes_append(out, p, len)
                               : bytes_append_str(out, UTF8_REPLACEMENT);
        i += len;
    }
    if (i) memmove(s->held.data, s->held.data + i, s->held.len - i);
    s->held.len -= i;
    return e;
}

err token_stream_push(struct token_stream *s, int32_t id, struct bytes *out) {
    TRY(decode_next(s->t, id, s->with_special, &s->is_first, &s->held));
    return release(s, 0, out);
}

err token_stream_finish(struct token_stream *s, struct bytes *out) {
    return release(s, 1, out);
}

void token_stream_free(struct token_stream *s) { bytes_free(&s->held); }

/* ---- facts ---- */

size_t tokenizer_n_vocab(const struct tokenizer *t) { return t->vocab.n; }

int32_t tokenizer_bos(const struct tokenizer *t) { return t->vocab.bos; }

int32_t tokenizer_eos(const struct tokenizer *t) { return t->vocab.eos; }

int tokenizer_adds_bos(const struct tokenizer *t) {
    return t->vocab.add_bos && t->vocab.bos >= 0;
}

int tokenizer_is_end(const struct tokenizer *t, int32_t id) {
    return id >= 0 && (size_t)id < t->vocab.n && t->vocab.tokens[id].is_end;
}

enum token_type tokenizer_type(const struct tokenizer *t, int32_t id) {
    if (id < 0 || (size_t)id >= t->vocab.n) return TOKEN_UNDEFINED;
    return (enum token_type)t->vocab.tokens[id].type;
}

const char *tokenizer_kind(const struct tokenizer *t) {
    return kind_names[t->vocab.kind];
}
