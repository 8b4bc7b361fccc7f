/* The parts that the tokenizers are made of; private to tokenizer*.c and
 * pretokenize.c. Everything here is read-only once tokenizer_create is done,
 * except struct encoder, which lives as long as one tokenizer_encode. */
#ifndef MODEL_TOKENIZER_PARTS_H
#define MODEL_TOKENIZER_PARTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "base/strmap.h"
#include "base/u64map.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

/* ---- vocabulary: tokenizer_vocab.c ---- */

enum tokenizer_kind { KIND_SPM, KIND_BPE, KIND_WORDPIECE };

/* A longer token than this is no token: the file is damaged. */
#define TOKEN_BYTES_MAX 65536

struct vocab_token {
    const uint8_t *text;  /* as in the file */
    const uint8_t *bytes; /* as in a text: " the" where the file says "_the" or "Gthe" */
    uint32_t text_len, bytes_len;
    float score;
    uint8_t type; /* enum token_type */
    uint8_t is_end;
};

struct vocab {
    enum tokenizer_kind kind;
    struct vocab_token *tokens;
    size_t n;
    uint8_t *arena;          /* what text and bytes point into */
    struct strmap by_bytes;  /* normal, user-defined and unused tokens */
    uint32_t bytes_max;      /* of the longest of those */
    int32_t byte_ids[256];   /* the token of a single byte, or -1 */
    int32_t bos, eos, unk;   /* for WordPiece: cls, sep, unk */
    int add_bos, add_eos, add_space_prefix;
};

/* `add_bos`: what holds when the file does not say. */
err vocab_load(struct vocab *v, enum tokenizer_kind kind, int add_bos,
               const struct gguf *g);
void vocab_free(struct vocab *v);

/* Whether the token may come out of plain text. */
int vocab_is_plain(const struct vocab_token *token);

/* Byte-level BPE writes bytes as printable characters (GPT-2's table). Turns
 * them back into bytes at `dst` (`len` bytes at least); 0 when a character
 * stands for no byte. */
int vocab_bytes_of_letters(const uint8_t *text, size_t len, uint8_t *dst,
                           size_t *dst_len);

/* ---- trie: tokenizer_trie.c ---- */

#define TRIE_NONE UINT32_MAX

struct trie {
    struct u64map children; /* node << 8 | byte -> node; the root is 0 */
    int32_t *values;        /* [n_nodes], -1: no string ends here */
    size_t n_nodes, cap;
    uint32_t root[256];     /* the root's children, or TRIE_NONE */
};

err trie_init(struct trie *t);
/* Adds a string (not empty); the first value of equal strings stays. */
err trie_add(struct trie *t, const uint8_t *key, size_t len, int32_t value);
uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte);
void trie_free(struct trie *t);

/* ---- one encoding ---- */

struct merge_symbol {
    uint32_t begin, len; /* bytes of the text; len 0: merged into a neighbour */
    uint32_t prev, next; /* SYMBOL_NONE at the ends */
    int32_t id;          /* token, or -1 */
};
#define SYMBOL_NONE UINT32_MAX

struct merge_candidate {
    uint64_t order; /* rank << 32 | left symbol: lowest first, then leftmost */
    uint32_t len;   /* of both symbols: tells whether one changed meanwhile */
    int32_t id;     /* what they become */
};

struct word {
    uint32_t end;    /* it begins where the one before ends */
    uint8_t is_text; /* 0: bytes that are not UTF-8 */
};

struct word_list {
    struct word *words;
    size_t n, cap;
};

/* Scratch of one tokenizer_encode; buffers are kept from word to word. */
struct encoder {
    const struct tokenizer *t;
    struct token_list *out;
    struct merge_symbol *symbols;
    size_t n_symbols, cap_symbols;
    struct merge_candidate *heap;
    size_t n_heap, cap_heap;
    struct word_list words, words_next;
    struct bytes text; /* the text as the kind sees it */
};

/* ---- merging: tokenizer_merge.c ---- */

/* Whether two neighbours may merge, and then their rank (lower is earlier) and
 * the token they become. */
typedef int (*merge_find)(const struct tokenizer *t, const uint8_t *text,
                          const struct merge_symbol *left,
                          const struct merge_symbol *right, uint32_t *rank,
                          int32_t *id);

/* Symbols are added in the order of the text, then merged until no pair can be;
 * afterwards those with len > 0 remain. O(n log n). */
err merge_add_symbol(struct encoder *e, uint32_t begin, uint32_t len,
                     int32_t id);
err merge_symbols(struct encoder *e, const uint8_t *text, merge_find find);

/* ---- pre-tokenizers: pretokenize.c ---- */

struct pretokenizer;

/* By the name in tokenizer.ggml.pre; NULL or "": "default". ERR_UNSUPPORTED
 * lists the known names. */
err pretokenizer_create(const char *name, struct pretokenizer **out);
void pretokenizer_free(struct pretokenizer *p);
/* Whether a word that is a token is taken whole, without merging. */
int pretokenizer_ignores_merges(const struct pretokenizer *p);
/* Whether such models start with bos when the file does not say. */
int pretokenizer_adds_bos(const struct pretokenizer *p);
/* Cuts a text into words; together they are the whole text. */
err pretokenizer_split(const struct pretokenizer *p, const uint8_t *text,
                       uint32_t len, struct encoder *e);

/* ---- the kinds ---- */

struct tokenizer {
    struct vocab vocab;
    struct trie special;  /* control, unknown, user-defined: by text */
    struct trie pieces;   /* WordPiece: every plain token */
    struct u64map merges; /* BPE: left << 32 | right -> rank << 32 | id */
    struct pretokenizer *pre; /* BPE */
};

/* Encode a text that holds no special token. `begins`: it begins the text or
 * follows a special token. */
err spm_encode(struct encoder *e, const uint8_t *text, uint32_t len,
               int begins);
err bpe_load_merges(struct tokenizer *t, const struct gguf *g);
err bpe_encode(struct encoder *e, const uint8_t *text, uint32_t len);
err wordpiece_load(struct tokenizer *t);
err wordpiece_encode(struct encoder *e, const uint8_t *text, uint32_t len);

#endif
