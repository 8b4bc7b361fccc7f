/* Byte-level BPE ("gpt2"): a word's bytes merge by the file's list of merges, the
 * earliest first (Sennrich et al. 2016; Radford et al. 2019). */
#include <string.h>

#include "base/log.h"
#include "base/utf8.h"
#include "model/tokenizer_parts.h"

/* The token of a part of a merge, or -1. */
static int32_t part_id(const struct vocab *v, const uint8_t *text, size_t len,
                       struct bytes *scratch, err *e) {
    size_t n;
    if (len > TOKEN_BYTES_MAX) return -1;
    if ((*e = bytes_reserve(scratch, len)) != OK) return -1;
    if (!vocab_bytes_of_letters(text, len, scratch->data, &n)) {
        memcpy(scratch->data, text, len);
        n = len;
    }
    return strmap_find(&v->by_bytes, scratch->data, n, -1);
}

/* Adds merge number `rank`, "left right". Sets `*added` unless it names a token
 * that the vocabulary lacks. */
static err add_merge(struct tokenizer *t, const struct gguf_string *merge,
                     uint64_t rank, struct bytes *joint, struct bytes *scratch,
                     int *added) {
    const uint8_t *text = (const uint8_t *)merge->data;
    *added = 0;
    if (merge->len < 3) return OK;
    const uint8_t *space = memchr(text + 1, ' ', merge->len - 1);
    if (!space) return OK;
    size_t left_len = (size_t)(space - text);
    size_t right_len = merge->len - left_len - 1;
    err e = OK;
    int32_t left = part_id(&t->vocab, text, left_len, scratch, &e);
    int32_t right = part_id(&t->vocab, space + 1, right_len, scratch, &e);
    if (e != OK || left < 0 || right < 0) return e;
    joint->len = 0;
    TRY(bytes_append(joint, text, left_len));
    TRY(bytes_append(joint, space + 1, right_len));
    int32_t id = part_id(&t->vocab, joint->data, joint->len, scratch, &e);
    if (e != OK || id < 0) return e;
    *added = 1;
    return u64map_add(&t->merges, (uint64_t)left << 32 | (uint32_t)right,
                      rank << 32 | (uint32_t)id);
}

err bpe_load_merges(struct tokenizer *t, const struct gguf *g) {
    const char *key = "tokenizer.ggml.merges";
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv) return err_set(ERR_FORMAT, "%s: no %s", gguf_path(g), key);
    if (kv->type != GGUF_ARRAY || kv->item_type != GGUF_STRING ||
        kv->n > INT32_MAX)
        return err_set(ERR_FORMAT, "%s: %s is no list of strings",
                       gguf_path(g), key);
    struct bytes joint = {0}, scratch = {0};
    uint64_t n_unknown = 0;
    err e = OK;
    for (uint64_t i = 0; i < kv->n; i++) {
        int added;
        TRY_GOTO(add_merge(t, &kv->strings[i], i, &joint, &scratch, &added),
                 done);
        n_unknown += !added;
    }
    if (n_unknown)
        log_warn("merges_ignored", "file=%s n=%llu of=%llu reason=\"they name "
                 "tokens that the vocabulary lacks\"", gguf_path(g),
                 (unsigned long long)n_unknown, (unsigned long long)kv->n);
done:
    bytes_free(&joint);
    bytes_free(&scratch);
    return e;
}

static int find_merge(const struct tokenizer *t, const uint8_t *text,
                      const struct merge_symbol *left,
                      const struct merge_symbol *right, uint32_t *rank,
                      int32_t *id) {
    (void)text;
    if (left->id < 0 || right->id < 0) return 0;
    uint64_t found =
        u64map_find(&t->merges, (uint64_t)left->id << 32 | (uint32_t)right->id,
                    UINT64_MAX);
    if (found == UINT64_MAX) return 0;
    *rank = (uint32_t)(found >> 32);
    *id = (int32_t)(uint32_t)found;
    return 1;
}

/* A byte that the vocabulary lacks: unknown, or U+FFFD where that can be said. */
static err push_missing(struct encoder *e) {
    const struct vocab *v = &e->t->vocab;
    if (v->unk >= 0) return token_list_push(e->out, v->unk);
    for (const char *p = UTF8_REPLACEMENT; *p; p++)
        if (v->byte_ids[(uint8_t)*p] < 0) return OK;
    for (const char *p = UTF8_REPLACEMENT; *p; p++)
        TRY(token_list_push(e->out, v->byte_ids[(uint8_t)*p]));
    return OK;
}

static err encode_word(struct encoder *e, const uint8_t *word, uint32_t len) {
    const struct vocab *v = &e->t->vocab;
    if (pretokenizer_ignores_merges(e->t->pre) && len <= v->bytes_max) {
        int32_t id = strmap_find(&v->by_bytes, word, len, -1);
        if (id >= 0) return token_list_push(e->out, id);
    }
    e->n_symbols = 0;
    for (uint32_t i = 0; i < len; i++)
        TRY(merge_add_symbol(e, i, 1, v->byte_ids[word[i]]));
    TRY(merge_symbols(e, word, find_merge));
    for (size_t i = 0; i < e->n_symbols; i++) {
        const struct merge_symbol *s = &e->symbols[i];
        if (s->len == 0) continue;
        if (s->id < 0) TRY(push_missing(e));
        else TRY(token_list_push(e->out, s->id));
    }
    return OK;
}

err bpe_encode(struct encoder *e, const uint8_t *text, uint32_t len) {
    TRY(pretokenizer_split(e->t->pre, text, len, e));
    uint32_t begin = 0;
    for (size_t i = 0; i < e->words.n; i++) {
        uint32_t end = e->words.words[i].end;
        TRY(encode_word(e, text + begin, end - begin));
        begin = end;
    }
    return OK;
}
