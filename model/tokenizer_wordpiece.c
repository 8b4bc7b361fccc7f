/* WordPiece ("bert"): the text is cleaned and cut into words, each word becomes
 * the longest pieces that fit, from its left (Devlin et al. 2018, uncased).
 *
 * GGUF files write a piece that begins a word with U+2581 and one that continues
 * it bare (the original: bare and "##"); vocab.bytes has a space for U+2581. */
#include <utf8proc.h>

#include "base/utf8.h"
#include "model/tokenizer_parts.h"

/* Longest decomposition of one character is 4 (Unicode 15); room to spare. */
#define DECOMPOSED_MAX 32

err wordpiece_load(struct tokenizer *t) {
    TRY(trie_init(&t->pieces));
    for (size_t i = 0; i < t->vocab.n; i++) {
        const struct vocab_token *token = &t->vocab.tokens[i];
        if (vocab_is_plain(token) && token->bytes_len)
            TRY(trie_add(&t->pieces, token->bytes, token->bytes_len,
                         (int32_t)i));
    }
    return OK;
}

static int is_cjk(uint32_t c) {
    /* Ranges of the original; 0x2B920 (not 0x2B820) as widely deployed. */
    return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) ||
           (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2B73F) ||
           (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
           (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

static int is_punctuation(uint32_t c) {
    if (c < 0x80)
        return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) ||
               (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static int is_space(uint32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') return 1;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_ZS && k <= UTF8PROC_CATEGORY_ZP;
}

/* Characters that cleaning takes away: controls, formats, private use, U+FFFD. */
static int is_dropped(uint32_t c) {
    if (c == 0 || c == 0xFFFD) return 1;
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF ||
           k == UTF8PROC_CATEGORY_CS || k == UTF8PROC_CATEGORY_CO;
}

/* Ends the word in e->text: its pieces, or one unknown token. The word begins
 * with the space that stands for its beginning. */
static err end_word(struct encoder *e) {
    const struct trie *pieces = &e->t->pieces;
    const uint8_t *word = e->text.data;
    size_t n = e->text.len, n_before = e->out->n;
    if (n <= 1) return OK;
    for (size_t i = 0; i < n;) {
        uint32_t node = 0;
        int32_t id = -1;
        size_t best = 0;
        for (size_t j = i; j < n; j++) {
            node = trie_step(pieces, node, word[j]);
            if (node == TRIE_NONE) break;
            if (pieces->values[node] < 0) continue;
            id = pieces->values[node];
            best = j + 1;
        }
        if (id < 0) {
            e->out->n = n_before;
            if (e->t->vocab.unk >= 0)
                TRY(token_list_push(e->out, e->t->vocab.unk));
            break;
        }
        TRY(token_list_push(e->out, id));
        i = best;
    }
    e->text.len = 1;
    return OK;
}

/* One character, cleaned: decomposed, without accents, in lower case. The order
 * of combining marks is left as it is: those that order matters for are gone. */
static err add_char(struct encoder *e, uint32_t code) {
    if (is_space(code)) return end_word(e);
    if (is_dropped(code)) return OK;
    utf8proc_int32_t parts[DECOMPOSED_MAX];
    int boundary = 0;
    utf8proc_ssize_t n =
        utf8proc_decompose_char((utf8proc_int32_t)code, parts, DECOMPOSED_MAX,
                                UTF8PROC_DECOMPOSE, &boundary);
    if (n < 0 || n > DECOMPOSED_MAX) {
        parts[0] = (utf8proc_int32_t)code;
        n = 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++) {
        if (utf8proc_category(parts[i]) == UTF8PROC_CATEGORY_MN) continue;
        uint32_t part = (uint32_t)utf8proc_tolower(parts[i]);
        uint8_t utf8[4];
        int alone = is_cjk(part) || is_punctuation(part);
        if (alone) TRY(end_word(e));
        TRY(bytes_append(&e->text, utf8, utf8_write(part, utf8)));
        if (alone) TRY(end_word(e));
    }
    return OK;
}

err wordpiece_encode(struct encoder *e, const uint8_t *text, uint32_t len) {
    e->text.len = 0;
    TRY(bytes_append(&e->text, " ", 1));
    size_t char_len;
    uint32_t code;
    for (size_t i = 0; i < len; i += char_len)
        if (utf8_next(text + i, len - i, &char_len, &code) == UTF8_CHAR)
            TRY(add_char(e, code));
    return end_word(e);
}
