/* SentencePiece BPE ("llama"): neighbours merge when together they are a piece,
 * the best score first (Kudo and Richardson 2018; github.com/google/sentencepiece,
 * bpe_model). A character that is no piece becomes the pieces of its bytes.
 *
 * Pieces write a space as U+2581; vocab.bytes has real spaces, so a U+2581 in the
 * text is read as a space, as in the original. */
#include <string.h>

#include "base/utf8.h"
#include "model/tokenizer_parts.h"

#define SPACE_LETTER "\xE2\x96\x81" /* U+2581 */

/* A rank that is lower for a higher score: the bits of a float, ordered. */
static uint32_t rank_of_score(float score) {
    uint32_t bits;
    score += 0.0f; /* one zero */
    memcpy(&bits, &score, 4);
    return bits & 0x80000000u ? bits : 0x7FFFFFFFu - bits;
}

static int find_piece(const struct tokenizer *t, const uint8_t *text,
                      const struct merge_symbol *left,
                      const struct merge_symbol *right, uint32_t *rank,
                      int32_t *id) {
    uint32_t len = left->len + right->len;
    if (len > t->vocab.bytes_max) return 0;
    *id = strmap_find(&t->vocab.by_bytes, text + left->begin, len, -1);
    if (*id < 0) return 0;
    *rank = rank_of_score(t->vocab.tokens[*id].score);
    return 1;
}

/* The text with the space that begins it and with real spaces. */
static err normalise(struct encoder *e, const uint8_t *text, uint32_t len,
                     int begins) {
    e->text.len = 0;
    TRY(bytes_reserve(&e->text, (size_t)len + 1));
    uint8_t *dst = e->text.data;
    if (begins && e->t->vocab.add_space_prefix) *dst++ = ' ';
    for (uint32_t i = 0; i < len;) {
        if (len - i >= 3 && memcmp(text + i, SPACE_LETTER, 3) == 0) {
            *dst++ = ' ';
            i += 3;
        } else {
            *dst++ = text[i++];
        }
    }
    e->text.len = (size_t)(dst - e->text.data);
    return OK;
}

static err push_bytes(struct encoder *e, const uint8_t *text, uint32_t len,
                      int *after_unknown) {
    const struct vocab *v = &e->t->vocab;
    for (uint32_t i = 0; i < len; i++) {
        int32_t id = v->byte_ids[text[i]];
        if (id >= 0) {
            TRY(token_list_push(e->out, id));
            *after_unknown = 0;
        } else if (v->unk >= 0 && !*after_unknown) { /* one for a run */
            TRY(token_list_push(e->out, v->unk));
            *after_unknown = 1;
        }
    }
    return OK;
}

err spm_encode(struct encoder *e, const uint8_t *src, uint32_t src_len,
               int begins) {
    TRY(normalise(e, src, src_len, begins));
    const struct vocab *v = &e->t->vocab;
    const uint8_t *text = e->text.data;
    size_t n = e->text.len, char_len;
    uint32_t code;
    e->n_symbols = 0;
    for (size_t i = 0; i < n; i += char_len) {
        if (utf8_next(text + i, n - i, &char_len, &code) != UTF8_CHAR)
            char_len = 1;
        int32_t id = strmap_find(&v->by_bytes, text + i, char_len, -1);
        TRY(merge_add_symbol(e, (uint32_t)i, (uint32_t)char_len, id));
    }
    TRY(merge_symbols(e, text, find_piece));
    int after_unknown = 0;
    for (size_t i = 0; i < e->n_symbols; i++) {
        const struct merge_symbol *s = &e->symbols[i];
        if (s->len == 0) continue;
        if (s->id < 0) {
            TRY(push_bytes(e, text + s->begin, s->len, &after_unknown));
            continue;
        }
        TRY(token_list_push(e->out, s->id));
        after_unknown = 0;
    }
    return OK;
}
