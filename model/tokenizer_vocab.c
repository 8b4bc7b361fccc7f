/* The vocabulary of a model file: tokens, their types, scores and bytes, and the
 * special ids. All that a file can get wrong is found here. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "model/tokenizer_parts.h"

#define KEY(name) "tokenizer.ggml." name
#define SPACE_LETTER "\xE2\x96\x81" /* U+2581 */
#define ID_ABSENT UINT32_MAX        /* how some files write "none" */

int vocab_is_plain(const struct vocab_token *token) {
    return token->type == TOKEN_NORMAL || token->type == TOKEN_USER_DEFINED ||
           token->type == TOKEN_UNUSED;
}

/* ---- bytes of a token ---- */

/* The byte that a character of GPT-2's table stands for, or -1: printable Latin-1
 * stands for itself, the other bytes follow from U+0100 on, in order. */
static int byte_of_letter(uint32_t c) {
    if ((c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF && c != 0xAD))
        return (int)c;
    if (c < 0x100 || c > 0x143) return -1;
    uint32_t i = c - 0x100;
    if (i <= 0x20) return (int)i;             /* 00..20 */
    if (i <= 0x42) return (int)(i - 0x21 + 0x7F); /* 7F..A0 */
    return 0xAD;
}

int vocab_bytes_of_letters(const uint8_t *text, size_t len, uint8_t *dst,
                           size_t *dst_len) {
    size_t char_len, n = 0;
    uint32_t code;
    for (size_t i = 0; i < len; i += char_len) {
        if (utf8_next(text + i, len - i, &char_len, &code) != UTF8_CHAR)
            return 0;
        int byte = byte_of_letter(code);
        if (byte < 0) return 0;
        dst[n++] = (uint8_t)byte;
    }
    *dst_len = n;
    return 1;
}

static size_t bytes_with_spaces(const uint8_t *text, size_t len, uint8_t *dst) {
    size_t n = 0;
    for (size_t i = 0; i < len;) {
        if (len - i >= 3 && memcmp(text + i, SPACE_LETTER, 3) == 0) {
            dst[n++] = ' ';
            i += 3;
        } else {
            dst[n++] = text[i++];
        }
    }
    return n;
}

/* The byte of "<0x0A>", or -1. */
static int byte_of_name(const uint8_t *text, size_t len) {
    if (len != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        int c = text[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                           : -1;
        if (digit < 0) return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Writes to `dst` what a token stands for; returns its length, at most text_len.
 * May set the token's type to TOKEN_BYTE. */
static size_t token_bytes(enum tokenizer_kind kind, struct vocab_token *token,
                          uint8_t *dst) {
    size_t n;
    int byte = kind == KIND_SPM && token->type != TOKEN_USER_DEFINED
                   ? byte_of_name(token->text, token->text_len)
                   : -1;
    if (byte >= 0) {
        token->type = TOKEN_BYTE;
        dst[0] = (uint8_t)byte;
        return 1;
    }
    if (token->type == TOKEN_BYTE) token->type = TOKEN_NORMAL; /* no name of one */
    int is_special =
        token->type == TOKEN_CONTROL || token->type == TOKEN_UNKNOWN;
    if (kind != KIND_BPE && !is_special)
        return bytes_with_spaces(token->text, token->text_len, dst);
    if (kind == KIND_BPE && token->type == TOKEN_NORMAL &&
        vocab_bytes_of_letters(token->text, token->text_len, dst, &n))
        return n;
    memcpy(dst, token->text, token->text_len);
    return token->text_len;
}

/* ---- arrays ---- */

/* An array with one item per token, or NULL when the file has none. */
static err find_array(const struct gguf *g, const char *key, size_t n,
                      int is_float, const struct gguf_kv **out) {
    const struct gguf_kv *kv = gguf_find(g, key);
    *out = kv;
    if (!kv) return OK;
    int has_float = kv->item_type == GGUF_F32 || kv->item_type == GGUF_F64;
    if (kv->type != GGUF_ARRAY || kv->item_type == GGUF_STRING ||
        kv->item_type == GGUF_BOOL || has_float != is_float)
        return err_set(ERR_FORMAT, "%s: %s is no list of %s", gguf_path(g), key,
                       is_float ? "floats" : "integers");
    if (kv->n != n)
        return err_set(ERR_FORMAT, "%s: %s has %llu items, for %zu tokens",
                       gguf_path(g), key, (unsigned long long)kv->n, n);
    return OK;
}

static err load_texts(struct vocab *v, const struct gguf *g) {
    const char *key = KEY("tokens");
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv) return err_set(ERR_FORMAT, "%s: no %s", gguf_path(g), key);
    if (kv->type != GGUF_ARRAY || kv->item_type != GGUF_STRING)
        return err_set(ERR_FORMAT, "%s: %s is no list of strings", gguf_path(g),
                       key);
    if (kv->n == 0 || kv->n > INT32_MAX)
        return err_set(ERR_FORMAT, "%s: %s has %llu items", gguf_path(g), key,
                       (unsigned long long)kv->n);
    size_t total = 0;
    for (uint64_t i = 0; i < kv->n; i++) {
        if (kv->strings[i].len > TOKEN_BYTES_MAX)
            return err_set(ERR_FORMAT, "%s: token %llu has %zu bytes, more than "
                           "%d", gguf_path(g), (unsigned long long)i,
                           kv->strings[i].len, TOKEN_BYTES_MAX);
        total += kv->strings[i].len;
    }
    v->n = (size_t)kv->n;
    TRY(NEW(v->tokens, v->n));
    TRY(NEW(v->arena, 2 * total + 1)); /* text and bytes */
    uint8_t *dst = v->arena;
    for (size_t i = 0; i < v->n; i++) {
        const struct gguf_string *s = &kv->strings[i];
        memcpy(dst, s->data, s->len);
        v->tokens[i].text = dst;
        v->tokens[i].text_len = (uint32_t)s->len;
        dst += s->len;
    }
    return OK;
}

static err load_types(struct vocab *v, const struct gguf *g) {
    const char *key = KEY("token_type");
    const struct gguf_kv *kv;
    TRY(find_array(g, key, v->n, 0, &kv));
    for (size_t i = 0; i < v->n; i++) {
        int64_t type = kv ? gguf_item_i64(kv, i) : TOKEN_NORMAL;
        if (type < TOKEN_UNDEFINED || type > TOKEN_BYTE)
            return err_set(ERR_FORMAT, "%s: %s of token %zu is %lld",
                           gguf_path(g), key, i, (long long)type);
        v->tokens[i].type =
            (uint8_t)(type == TOKEN_UNDEFINED ? TOKEN_NORMAL : type);
    }
    if (kv) return OK;
    if (v->bos >= 0) v->tokens[v->bos].type = TOKEN_CONTROL;
    if (v->eos >= 0) v->tokens[v->eos].type = TOKEN_CONTROL;
    if (v->unk >= 0) v->tokens[v->unk].type = TOKEN_UNKNOWN;
    return OK;
}

static err load_scores(struct vocab *v, const struct gguf *g) {
    const char *key = KEY("scores");
    const struct gguf_kv *kv;
    TRY(find_array(g, key, v->n, 1, &kv));
    if (!kv) return err_set(ERR_FORMAT, "%s: no %s", gguf_path(g), key);
    for (size_t i = 0; i < v->n; i++) {
        v->tokens[i].score = (float)gguf_item_f64(kv, i);
        if (isnan(v->tokens[i].score))
            return err_set(ERR_FORMAT, "%s: the score of token %zu is not a "
                           "number", gguf_path(g), i);
    }
    return OK;
}

/* ---- special ids ---- */

static int32_t find_text(const struct vocab *v, const char *text) {
    size_t len = strlen(text);
    for (size_t i = 0; i < v->n; i++)
        if (v->tokens[i].text_len == len &&
            memcmp(v->tokens[i].text, text, len) == 0)
            return (int32_t)i;
    return -1;
}

/* The id under `key`; when absent, that of the token written `text` (or NULL). */
static err load_id(const struct vocab *v, const struct gguf *g, const char *key,
                   const char *text, int32_t *out) {
    uint32_t id;
    TRY(gguf_get_u32_or(g, key, ID_ABSENT, &id));
    if (id == ID_ABSENT) {
        *out = text ? find_text(v, text) : -1;
        return OK;
    }
    if (id >= v->n)
        return err_set(ERR_FORMAT, "%s: %s is %u, but there are %zu tokens",
                       gguf_path(g), key, id, v->n);
    *out = (int32_t)id;
    return OK;
}

static err load_ids(struct vocab *v, const struct gguf *g) {
    const char *unk = KEY("unknown_token_id");
    if (v->kind == KIND_WORDPIECE) {
        TRY(load_id(v, g, KEY("cls_token_id"), "[CLS]", &v->bos));
        /* The misspelt key is the one in the files. */
        const char *sep = gguf_find(g, KEY("seperator_token_id"))
                              ? KEY("seperator_token_id")
                              : KEY("separator_token_id");
        TRY(load_id(v, g, sep, "[SEP]", &v->eos));
        TRY(load_id(v, g, unk, "[UNK]", &v->unk));
        TRY(gguf_get_bool_or(g, KEY("add_bos_token"), 1, &v->add_bos));
        return gguf_get_bool_or(g, KEY("add_sep_token"), 1, &v->add_eos);
    }
    int is_spm = v->kind == KIND_SPM;
    TRY(load_id(v, g, KEY("bos_token_id"), is_spm ? "<s>" : NULL, &v->bos));
    TRY(load_id(v, g, KEY("eos_token_id"), is_spm ? "</s>" : NULL, &v->eos));
    TRY(load_id(v, g, unk, is_spm ? "<unk>" : NULL, &v->unk));
    TRY(gguf_get_bool_or(g, KEY("add_bos_token"), v->add_bos, &v->add_bos));
    TRY(gguf_get_bool_or(g, KEY("add_eos_token"), 0, &v->add_eos));
    return gguf_get_bool_or(g, KEY("add_space_prefix"), is_spm,
                            &v->add_space_prefix);
}

/* Names under which models end a turn, a message or a text. */
static const char *const end_names[] = {
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>",
    "<|endoftext|>", "<|end_of_text|>", "<|eot|>", "<|eom|>", "<EOT>", "_<EOT>",
    "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<end_of_utterance>",
    "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
    "<|return|>", "<|call|>",
};

static err mark_ends(struct vocab *v, const struct gguf *g) {
    int32_t eot, eom;
    TRY(load_id(v, g, KEY("eot_token_id"), NULL, &eot));
    TRY(load_id(v, g, KEY("eom_token_id"), NULL, &eom));
    if (v->eos >= 0) v->tokens[v->eos].is_end = 1;
    if (eot >= 0) v->tokens[eot].is_end = 1;
    if (eom >= 0) v->tokens[eom].is_end = 1;
    if (v->kind == KIND_WORDPIECE) return OK;
    /* Where <|return|> and <|call|> exist, <|end|> closes one message of several. */
    int32_t ret = find_text(v, "<|return|>"), call = find_text(v, "<|call|>");
    int is_harmony = ret >= 0 && call >= 0;
    for (size_t i = 0; i < sizeof end_names / sizeof *end_names; i++) {
        int32_t id = find_text(v, end_names[i]);
        if (id < 0 || (is_harmony && strcmp(end_names[i], "<|end|>") == 0))
            continue;
        v->tokens[id].is_end = 1;
        /* Some files call them normal: a user must not be able to write them. */
        v->tokens[id].type = TOKEN_CONTROL;
    }
    return OK;
}

/* ---- all of it ---- */

static void fill_bytes(struct vocab *v) {
    uint8_t *dst = v->arena;
    for (size_t i = 0; i < v->n; i++) dst += v->tokens[i].text_len;
    for (size_t i = 0; i < v->n; i++) {
        struct vocab_token *token = &v->tokens[i];
        token->bytes = dst;
        token->bytes_len = (uint32_t)token_bytes(v->kind, token, dst);
        dst += token->bytes_len;
    }
}

/* Of tokens with equal bytes the first counts, and a normal one before others. */
static err fill_by_bytes(struct vocab *v) {
    for (int is_normal = 1; is_normal >= 0; is_normal--)
        for (size_t i = 0; i < v->n; i++) {
            const struct vocab_token *token = &v->tokens[i];
            if ((token->type == TOKEN_NORMAL) != is_normal ||
                !vocab_is_plain(token) || token->bytes_len == 0)
                continue;
            TRY(strmap_add(&v->by_bytes, token->bytes, token->bytes_len,
                           (int32_t)i));
            if (token->bytes_len > v->bytes_max)
                v->bytes_max = token->bytes_len;
        }
    return OK;
}

static void fill_byte_ids(struct vocab *v) {
    for (size_t i = 0; i < 256; i++) v->byte_ids[i] = -1;
    for (size_t i = 0; i < v->n; i++) {
        const struct vocab_token *token = &v->tokens[i];
        int is_byte = v->kind == KIND_SPM   ? token->type == TOKEN_BYTE
                      : v->kind == KIND_BPE ? token->type == TOKEN_NORMAL
                                            : 0;
        if (is_byte && token->bytes_len == 1 && v->byte_ids[token->bytes[0]] < 0)
            v->byte_ids[token->bytes[0]] = (int32_t)i;
    }
}

err vocab_load(struct vocab *v, enum tokenizer_kind kind, int add_bos,
               const struct gguf *g) {
    v->kind = kind;
    v->add_bos = add_bos;
    TRY(load_texts(v, g));
    TRY(load_ids(v, g));
    TRY(load_types(v, g));
    if (kind == KIND_SPM) TRY(load_scores(v, g));
    TRY(mark_ends(v, g));
    fill_bytes(v);
    fill_byte_ids(v);
    return fill_by_bytes(v);
}

void vocab_free(struct vocab *v) {
    strmap_free(&v->by_bytes);
    free(v->tokens);
    free(v->arena);
}
