/* Pre-tokenizers: how byte-level BPE cuts a text into words before merging, by
 * the regular expressions that each model publishes in its tokenizer.json.
 *
 * A list of expressions works like a sequence of splits: each cuts the words
 * that the one before left; what does not match stays a word of its own.
 *
 * Two changes to the published text. \s is written out: PCRE2 counts U+180E as a
 * space, the engines these were published for do not. And "\s+$" looks behind,
 * or a long run of spaces before anything else would cost quadratic time. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "base/utf8.h"
#include "model/tokenizer_parts.h"

#define PATTERNS_MAX 6

#define S "\\t-\\r\\x{85}\\p{Z}" /* inside a class: \s */
#define L "\\p{L}"
#define N "\\p{N}"

#define SPACES "[" S "]+(?![^" S "])|[" S "]+"
#define NEWLINES "[" S "]*[\\r\\n]+|" SPACES
#define SYMBOLS " ?[^" S L N "]+"
#define SHORT_FORMS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LETTERS "[^\\r\\n" L N "]?" L "+"

#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?" L "+| ?" N "+|" SYMBOLS "|" SPACES
#define LLAMA3 SHORT_FORMS "|" LETTERS "|" N "{1,3}|" SYMBOLS "[\\r\\n]*|" NEWLINES
#define QWEN2 SHORT_FORMS "|" LETTERS "|" N "|" SYMBOLS "[\\r\\n]*|" NEWLINES

#define UPPER "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define LOWER "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define CASED_1 "[^\\r\\n" L N "]?[" UPPER "]*[" LOWER "]+"
#define CASED_2 "[^\\r\\n" L N "]?[" UPPER "]+[" LOWER "]*"
#define GPT4O                                                                  \
    CASED_1 SHORT_FORMS "?|" CASED_2 SHORT_FORMS "?|" N "{1,3}|" SYMBOLS       \
    "[\\r\\n/]*|" NEWLINES
#define TEKKEN                                                                 \
    CASED_1 "|" CASED_2 "|" N "|" SYMBOLS "[\\r\\n/]*|" NEWLINES

#define DEEPSEEK_V3                                                            \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"                   \
    "[^\\r\\n" L "\\p{P}\\p{S}]?[" L "\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|"    \
    NEWLINES

/* DeepSeek's own list of cased letters, and of what it calls CJK. */
#define DEEPSEEK_LETTERS \
    "A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}" \
    "\\x{1C4}-\\x{293}\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}" \
    "\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}" \
    "\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-\\x{556}" \
    "\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}" \
    "\\x{1CBD}-\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}" \
    "\\x{1E00}-\\x{1F15}\\x{1F18}-\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}" \
    "\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}\\x{1F5F}-\\x{1F7D}" \
    "\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{1FBE}\\x{1FC2}-\\x{1FC4}" \
    "\\x{1FC6}-\\x{1FCC}\\x{1FD0}-\\x{1FD3}\\x{1FD6}-\\x{1FDB}\\x{1FE0}-\\x{1FEC}" \
    "\\x{1FF2}-\\x{1FF4}\\x{1FF6}-\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}" \
    "\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{2126}\\x{2128}\\x{212A}-\\x{212D}" \
    "\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}" \
    "\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}" \
    "\\x{2CF2}\\x{2CF3}\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}" \
    "\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}" \
    "\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}\\x{10400}-\\x{1044F}" \
    "\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}" \
    "\\x{10CC0}-\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}"
#define DEEPSEEK_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define DEEPSEEK_MARKS                                                         \
    "[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}"         \
    "\\x{3000}-\\x{3002}]+"

struct pretokenizer_info {
    const char *names; /* the first is the one to show, then aliases */
    int ignores_merges, adds_bos;
    const char *patterns[PATTERNS_MAX];
};

static const struct pretokenizer_info known[] = {
    {"default", 0, 0,
     {"[\\p{P}$+<=>^~|]+", GPT2, N "+", "[0-9][0-9][0-9]"}},
    {"gpt-2 phi-2 mpt olmo jais", 0, 0, {GPT2}},
    {"llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral", 1, 1, {LLAMA3}},
    {"dbrx smaug-bpe glm4 chatglm-bpe", 0, 0, {LLAMA3}},
    {"qwen2 stablelm2 deepseek-r1-qwen megrez", 0, 0, {QWEN2}},
    {"falcon", 0, 0, {"[\\p{P}$+<=>^~|`]+", GPT2, "[0-9][0-9][0-9]"}},
    {"deepseek-llm", 0, 0,
     {"[\\r\\n]", "[" S "]?[" DEEPSEEK_LETTERS "]+", "[" S "]?" DEEPSEEK_MARKS,
      "(?<![" S "])[" S "]++\\z", DEEPSEEK_CJK, N}},
    {"deepseek-coder", 0, 0,
     {"[\\r\\n]", "[" S "]?" L "+", "[" S "]?\\p{P}+", DEEPSEEK_CJK, N}},
    {"deepseek-v3", 0, 0,
     {N "{1,3}", "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{30FF}]+", DEEPSEEK_V3}},
    {"starcoder refact command-r smollm codeshell exaone minerva-7b", 0, 0,
     {N, GPT2}},
    {"gpt-4o llama4", 0, 0, {GPT4O}},
    {"tekken", 1, 1, {TEKKEN}},
};
#define N_KNOWN (sizeof known / sizeof *known)

struct pretokenizer {
    const struct pretokenizer_info *info;
    size_t n;
    pcre2_code *codes[PATTERNS_MAX];
};

/* Whether `name` is one of the words in `names`. */
static int is_named(const char *names, const char *name) {
    size_t len = strlen(name);
    for (const char *p = names; *p;) {
        size_t n = strcspn(p, " ");
        if (n == len && memcmp(p, name, n) == 0) return 1;
        p += n;
        p += *p == ' ';
    }
    return 0;
}

static err unknown_name(const char *name) {
    struct bytes names = {0};
    for (size_t i = 0; i < N_KNOWN; i++)
        TRY(bytes_printf(&names, "%s%s", i ? " " : "", known[i].names));
    err e = err_set(ERR_UNSUPPORTED,
                    "pre-tokenizer '%.100s' is not known; known are: %s", name,
                    (const char *)names.data);
    bytes_free(&names);
    return e;
}

static err compile(const char *pattern, pcre2_code **out) {
    int code;
    PCRE2_SIZE offset;
    *out = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                         PCRE2_UTF | PCRE2_UCP, &code, &offset, NULL);
    if (!*out)
        return err_set(ERR_INTERNAL, "PCRE2 error %d at %zu of %s", code,
                       offset, pattern);
    pcre2_jit_compile(*out, PCRE2_JIT_COMPLETE); /* without it: slower */
    return OK;
}

err pretokenizer_create(const char *name, struct pretokenizer **out) {
    if (!name || !*name) name = "default";
    const struct pretokenizer_info *info = NULL;
    for (size_t i = 0; i < N_KNOWN && !info; i++)
        if (is_named(known[i].names, name)) info = &known[i];
    if (!info) return unknown_name(name);
    struct pretokenizer *p;
    TRY(NEW(p, 1));
    p->info = info;
    for (; p->n < PATTERNS_MAX && info->patterns[p->n]; p->n++) {
        err e = compile(info->patterns[p->n], &p->codes[p->n]);
        if (e != OK) {
            pretokenizer_free(p);
            return e;
        }
    }
    *out = p;
    return OK;
}

void pretokenizer_free(struct pretokenizer *p) {
    if (!p) return;
    for (size_t i = 0; i < p->n; i++) pcre2_code_free(p->codes[i]);
    free(p);
}

int pretokenizer_ignores_merges(const struct pretokenizer *p) {
    return p->info->ignores_merges;
}

int pretokenizer_adds_bos(const struct pretokenizer *p) {
    return p->info->adds_bos;
}

/* Ends a word at `end`, unless it would be empty. */
static err add_word(struct word_list *l, size_t end, int is_text) {
    if (end == (l->n ? l->words[l->n - 1].end : 0)) return OK;
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        struct word *grown = mem_resized(l->words, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        l->words = grown;
        l->cap = cap;
    }
    l->words[l->n++] = (struct word){(uint32_t)end, is_text != 0};
    return OK;
}

/* Runs of UTF-8 and runs of what is none. */
static err split_valid(const uint8_t *text, size_t n, struct word_list *l) {
    size_t len;
    uint32_t code;
    int was_text = 1;
    l->n = 0;
    for (size_t i = 0; i < n; i += len) {
        int is_text = utf8_next(text + i, n - i, &len, &code) == UTF8_CHAR;
        if (is_text != was_text) TRY(add_word(l, i, was_text));
        was_text = is_text;
    }
    return add_word(l, n, was_text);
}

static int match(const pcre2_code *code, const uint8_t *text, size_t n,
                 size_t at, pcre2_match_data *data) {
    int found = pcre2_match(code, text, n, at, PCRE2_NO_UTF_CHECK, data, NULL);
    if (found != PCRE2_ERROR_JIT_STACKLIMIT) return found;
    return pcre2_match(code, text, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                       data, NULL);
}

/* Cuts the word [begin, end) by one expression. */
static err split_word(const pcre2_code *code, const uint8_t *text, size_t begin,
                      size_t end, pcre2_match_data *data, struct word_list *l) {
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(data);
    for (size_t at = 0; begin + at < end; at = range[1]) {
        int found = match(code, text + begin, end - begin, at, data);
        if (found == PCRE2_ERROR_NOMATCH) break;
        if (found < 0 || range[1] <= range[0] || range[1] <= at)
            return err_set(ERR_INTERNAL, "PCRE2 answered %d to a text of %zu "
                           "bytes", found, end - begin);
        TRY(add_word(l, begin + range[0], 1));
        TRY(add_word(l, begin + range[1], 1));
    }
    return add_word(l, end, 1);
}

static err split_words(const pcre2_code *code, const uint8_t *text,
                       const struct word_list *from, struct word_list *to) {
    pcre2_match_data *data = pcre2_match_data_create_from_pattern(code, NULL);
    if (!data) return err_set(ERR_MEMORY, "no memory for a PCRE2 match");
    err e = OK;
    size_t begin = 0;
    to->n = 0;
    for (size_t i = 0; i < from->n && e == OK; i++) {
        struct word w = from->words[i];
        e = w.is_text ? split_word(code, text, begin, w.end, data, to)
                      : add_word(to, w.end, 0);
        begin = w.end;
    }
    pcre2_match_data_free(data);
    return e;
}

err pretokenizer_split(const struct pretokenizer *p, const uint8_t *text,
                       uint32_t len, struct encoder *e) {
    TRY(split_valid(text, len, &e->words));
    for (size_t i = 0; i < p->n; i++) {
        TRY(split_words(p->codes[i], text, &e->words, &e->words_next));
        struct word_list cut = e->words_next;
        e->words_next = e->words;
        e->words = cut;
    }
    return OK;
}
