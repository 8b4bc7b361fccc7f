#include "model/jinja_syntax.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "base/mem.h"
#include "base/utf8.h"

#define BRACKETS_MAX 1000

struct lexer {
    struct jinja_arena *arena;
    const char *text; /* newlines are \n */
    size_t n, at;
    uint32_t line;
    int is_line_start; /* what was read last ended with a newline */
    struct jinja_token *tokens;
    size_t n_tokens, cap_tokens;
    char brackets[BRACKETS_MAX]; /* closing ones that are awaited */
    size_t n_brackets;
};

err jinja_syntax_error(uint32_t line, const char *fmt, ...) {
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return err_set(ERR_UNSUPPORTED, "chat template, line %u: %s", line, text);
}

static int has(const struct lexer *l, size_t at, const char *s) {
    size_t n = strlen(s);
    return at <= l->n && l->n - at >= n && memcmp(l->text + at, s, n) == 0;
}

/* The first place at or after `at` where `s` stands, or the end. */
static size_t find(const struct lexer *l, size_t at, const char *s) {
    const char *p = memmem(l->text + at, l->n - at, s, strlen(s));
    return p ? (size_t)(p - l->text) : l->n;
}

static size_t skip_space(const struct lexer *l, size_t at) {
    while (at < l->n && jinja_is_space(jinja_char_code(l->text + at))) at += jinja_char_bytes(l->text + at);
    return at;
}

static void advance(struct lexer *l, size_t to) {
    if (to > l->at) l->is_line_start = l->text[to - 1] == '\n';
    for (; l->at < to; l->at++) l->line += l->text[l->at] == '\n';
}

static err push(struct lexer *l, enum jinja_token_type type, int op, struct jinja_value v) {
    if (l->n_tokens == l->cap_tokens) {
        size_t cap = l->cap_tokens ? 2 * l->cap_tokens : 256;
        struct jinja_token *grown = mem_resized(l->tokens, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        l->tokens = grown;
        l->cap_tokens = cap;
    }
    l->tokens[l->n_tokens++] = (struct jinja_token){type, l->line, op, v};
    return OK;
}

/* ---- text between tags ---- */

/* The end of text[begin, end) once what a tag with this sign strips on its left is gone. */
static size_t strip_left(const struct lexer *l, size_t begin, size_t end, char sign, int is_print) {
    if (sign == '-') {
        while (end > begin) {
            size_t at = end - 1;
            while (at > begin && ((uint8_t)l->text[at] & 0xC0) == 0x80) at--;
            if (!jinja_is_space(jinja_char_code(l->text + at))) break;
            end = at;
        }
    } else if (sign != '+' && !is_print) {
        size_t line = end;
        while (line > begin && l->text[line - 1] != '\n') line--;
        int is_whole_line = line > begin || l->is_line_start;
        if (is_whole_line && skip_space(l, line) >= end) return line;
    }
    return end;
}

static char sign_at(const struct lexer *l, size_t at) {
    return at < l->n && (l->text[at] == '-' || l->text[at] == '+') ? l->text[at] : 0;
}

/* The text up to `end` as a token, less what the tag there strips. */
static err push_text(struct lexer *l, size_t end, char sign, int is_print) {
    size_t stripped = strip_left(l, l->at, end, sign, is_print);
    if (stripped > l->at)
        TRY(push(l, JINJA_TEXT, 0, jinja_string(l->text + l->at, stripped - l->at)));
    advance(l, end);
    return OK;
}

/* Where the tag ends that closes with "-%}", "+%}" or "%}" at `at` (close: "%}" or "#}"); 0 where none does. The
 * newline after it, or after - all space, belongs to it. */
static size_t close_at(const struct lexer *l, size_t at, const char *close) {
    char sign = sign_at(l, at);
    if (sign && has(l, at + 1, close)) return sign == '-' ? skip_space(l, at + 3) : at + 3;
    if (!has(l, at, close)) return 0;
    return at + 2 < l->n && l->text[at + 2] == '\n' ? at + 3 : at + 2;
}

static err skip_comment(struct lexer *l) {
    uint32_t line = l->line;
    size_t body = l->at + 2 + (sign_at(l, l->at + 2) != 0);
    size_t end = find(l, body, "#}");
    if (end == l->n) return jinja_syntax_error(line, "a comment {# has no end #}");
    if (end > body && sign_at(l, end - 1)) end--;
    advance(l, close_at(l, end, "#}"));
    return OK;
}

/* Whether `{% word %}` stands at `at`; *end is where its word ends. */
static int is_tag(const struct lexer *l, size_t at, const char *word, size_t *end) {
    if (!has(l, at, "{%")) return 0;
    at = skip_space(l, at + 2 + (sign_at(l, at + 2) != 0));
    if (!has(l, at, word)) return 0;
    *end = skip_space(l, at + strlen(word));
    return close_at(l, *end, "%}") != 0;
}

static int is_raw(const struct lexer *l, size_t at, size_t *end) {
    size_t close;
    if (!is_tag(l, at, "raw", &close) || l->text[close] == '+') return 0;
    *end = l->text[close] == '-' ? skip_space(l, close + 3) : close + 2;
    return 1;
}

/* {% raw %} was read up to `begin`: the text up to {% endraw %}. */
static err lex_raw(struct lexer *l, size_t begin) {
    uint32_t line = l->line;
    advance(l, begin);
    for (size_t at = begin; (at = find(l, at, "{%")) < l->n; at += 2) {
        size_t close;
        if (!is_tag(l, at, "endraw", &close)) continue;
        TRY(push_text(l, at, sign_at(l, at + 2), 0));
        advance(l, close_at(l, close, "%}"));
        return OK;
    }
    return jinja_syntax_error(line, "{%% raw %%} has no {%% endraw %%}");
}

/* ---- inside a tag ---- */

static int is_digit(char c) { return c >= '0' && c <= '9'; }
static int is_word_byte(char c) {
    return is_digit(c) || c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static int is_word(uint32_t code) {
    if (code < 0x80) return is_word_byte((char)code);
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_MC) || c == UTF8PROC_CATEGORY_ND ||
           c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_PC;
}

static err lex_name(struct lexer *l) {
    size_t end = l->at;
    while (end < l->n && is_word(jinja_char_code(l->text + end))) end += jinja_char_bytes(l->text + end);
    if (end == l->at) {
        size_t n = jinja_char_bytes(l->text + l->at);
        return jinja_syntax_error(l->line, "unexpected character '%.*s'", (int)n, l->text + l->at);
    }
    TRY(push(l, JINJA_NAME, 0, jinja_string(l->text + l->at, end - l->at)));
    advance(l, end);
    return OK;
}

/* The end of digits with single _ between them; `at` where there is none. */
static size_t skip_digits(const struct lexer *l, size_t at) {
    size_t end = at;
    while (end < l->n && (is_digit(l->text[end]) ||
                          (l->text[end] == '_' && end > at && end + 1 < l->n && is_digit(l->text[end + 1]))))
        end++;
    return end;
}

/* The end of a float at `at`, or `at`. */
static size_t skip_float(const struct lexer *l, size_t at) {
    if (at > 0 && l->text[at - 1] == '.') return at;
    size_t whole = skip_digits(l, at), end = whole;
    if (whole == at) return at;
    if (whole < l->n && l->text[whole] == '.') {
        size_t part = skip_digits(l, whole + 1);
        if (part > whole + 1) end = part;
    }
    if (end < l->n && (l->text[end] | 32) == 'e') {
        size_t digits = end + 1 + (end + 1 < l->n && (l->text[end + 1] == '+' || l->text[end + 1] == '-'));
        size_t power = skip_digits(l, digits);
        if (power > digits) return power;
    }
    return end > whole ? end : at;
}

static int base_of(char letter) {
    letter |= 32;
    return letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
}

static int digit_value(char c) {
    return is_digit(c) ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 99;
}

static size_t skip_integer(const struct lexer *l, size_t at, int *base) {
    *base = 10;
    if (l->text[at] != '0') return skip_digits(l, at);
    int b = at + 1 < l->n ? base_of(l->text[at + 1]) : 0;
    size_t end = at + 2;
    while (b && end < l->n) {
        size_t digit = end + (l->text[end] == '_');
        if (digit >= l->n || digit_value(l->text[digit]) >= b) break;
        end = digit + 1;
    }
    if (b && end > at + 2) {
        *base = b;
        return end;
    }
    for (end = at + 1; end < l->n && (l->text[end] == '0' || (l->text[end] == '_' && end + 1 < l->n &&
                                                              l->text[end + 1] == '0'));)
        end++;
    return end;
}

static err lex_number(struct lexer *l) {
    char text[80];
    int base = 0;
    size_t n = 0, end = skip_float(l, l->at);
    int is_float = end > l->at;
    if (!is_float) end = skip_integer(l, l->at, &base);
    if (end - l->at >= sizeof text) return jinja_syntax_error(l->line, "a number of %zu digits", end - l->at);
    for (size_t i = l->at; i < end; i++)
        if (l->text[i] != '_') text[n++] = l->text[i];
    text[n] = 0;
    errno = 0;
    struct jinja_value v = is_float ? jinja_float(strtod(text, NULL))
                                    : jinja_int(strtoll(base == 10 ? text : text + 2, NULL, base));
    if (!is_float && errno) return jinja_syntax_error(l->line, "the number %s needs more than 64 bits", text);
    TRY(push(l, JINJA_CONSTANT, 0, v));
    advance(l, end);
    return OK;
}

/* The value of `n` hexadecimal digits at `s`, or -1. */
static int64_t hex(const char *s, size_t n, size_t n_there) {
    int64_t v = 0;
    for (size_t i = 0; i < n; i++) {
        if (i >= n_there || digit_value(s[i]) > 15) return -1;
        v = v * 16 + digit_value(s[i]);
    }
    return v;
}

/* One escape after a backslash, s[0, n), as Python reads it; *used is how much of s it was. */
static err unescape(struct lexer *l, const char *s, size_t n, char *out, size_t *n_out, size_t *used) {
    static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
    const char *simple = memchr(from, s[0], sizeof from - 1);
    *used = 1;
    *n_out = 0;
    if (s[0] == '\n') return OK;
    int64_t code = -1;
    if (simple) {
        code = to[simple - from];
    } else if (s[0] == 'x' || s[0] == 'u' || s[0] == 'U') {
        size_t n_digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : 8;
        code = hex(s + 1, n_digits, n - 1);
        if (code < 0 || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
            return jinja_syntax_error(l->line, "\\%c is not followed by %zu digits of a character", s[0], n_digits);
        *used = 1 + n_digits;
    } else if (s[0] >= '0' && s[0] <= '7') {
        for (code = 0, *used = 0; *used < 3 && *used < n && s[*used] >= '0' && s[*used] <= '7'; ++*used)
            code = code * 8 + (s[*used] - '0');
    } else if (s[0] == 'N') {
        return jinja_syntax_error(l->line, "characters by name (\\N) are not supported");
    } else { /* any other: the backslash stays */
        out[0] = '\\';
        *n_out = 1;
        *used = 0;
        return OK;
    }
    *n_out = utf8_write((uint32_t)code, (uint8_t *)out);
    return OK;
}

static err lex_string(struct lexer *l) {
    char quote = l->text[l->at];
    size_t begin = l->at + 1, end = begin, n = 0;
    while (end < l->n && l->text[end] != quote) end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->n) return jinja_syntax_error(l->line, "a string has no end");
    char *s; /* no escape is longer than its text */
    TRY(jinja_arena_text(l->arena, end - begin, &s));
    for (size_t i = begin; i < end;) {
        if (l->text[i] != '\\') {
            s[n++] = l->text[i++];
            continue;
        }
        size_t n_out, used;
        TRY(unescape(l, l->text + i + 1, end - i - 1, s + n, &n_out, &used));
        n += n_out;
        i += 1 + used;
    }
    TRY(push(l, JINJA_CONSTANT, 0, jinja_string(s, n)));
    advance(l, end + 1);
    return OK;
}

static err balance(struct lexer *l, char c) {
    if (c == '(' || c == '[' || c == '{') {
        if (l->n_brackets == BRACKETS_MAX) return jinja_syntax_error(l->line, "too many brackets inside each other");
        l->brackets[l->n_brackets++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (c == ')' || c == ']' || c == '}') {
        if (l->n_brackets == 0) return jinja_syntax_error(l->line, "unexpected '%c'", c);
        char awaited = l->brackets[--l->n_brackets];
        if (c != awaited) return jinja_syntax_error(l->line, "unexpected '%c', expected '%c'", c, awaited);
    }
    return OK;
}

static int is_double_operator(const char *s) {
    static const char *const all[] = {"**", "//", "==", "!=", "<=", ">="};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (s[0] == all[i][0] && s[1] == all[i][1]) return 1;
    return 0;
}

static err lex_operator(struct lexer *l) {
    const char *s = l->text + l->at;
    if (l->n - l->at >= 2 && is_double_operator(s)) {
        TRY(push(l, JINJA_OPERATOR, JINJA_OP2(s[0], s[1]), JINJA_NONE_VALUE));
        advance(l, l->at + 2);
        return OK;
    }
    if (!strchr("+-*/%~[](){}<>=.:|,;", s[0]) || !s[0]) return lex_name(l);
    TRY(balance(l, s[0]));
    TRY(push(l, JINJA_OPERATOR, s[0], JINJA_NONE_VALUE));
    advance(l, l->at + 1);
    return OK;
}

/* Tokens from behind {{ or {% to the end of the tag. */
static err lex_tag(struct lexer *l, int is_print) {
    uint32_t line = l->line;
    l->n_brackets = 0;
    while (l->at < l->n) {
        if (l->n_brackets == 0) {
            size_t end = 0;
            if (!is_print) end = close_at(l, l->at, "%}");
            else if (has(l, l->at, "-}}")) end = skip_space(l, l->at + 3);
            else if (has(l, l->at, "}}")) end = l->at + 2;
            if (end) {
                TRY(push(l, is_print ? JINJA_PRINT_END : JINJA_BLOCK_END, 0, JINJA_NONE_VALUE));
                advance(l, end);
                return OK;
            }
        }
        char c = l->text[l->at];
        if (jinja_is_space(jinja_char_code(l->text + l->at))) advance(l, skip_space(l, l->at));
        else if (is_digit(c)) TRY(lex_number(l));
        else if (c == '\'' || c == '"') TRY(lex_string(l));
        else TRY(lex_operator(l));
    }
    return jinja_syntax_error(line, is_print ? "{{ has no end }}" : "{%% has no end %%}");
}

static err lex_all(struct lexer *l) {
    while (l->at < l->n) {
        size_t tag = l->at;
        while ((tag = find(l, tag, "{")) < l->n && !has(l, tag, "{%") && !has(l, tag, "{{") && !has(l, tag, "{#"))
            tag++;
        if (tag == l->n) {
            TRY(push(l, JINJA_TEXT, 0, jinja_string(l->text + l->at, l->n - l->at)));
            advance(l, l->n);
            break;
        }
        char kind = l->text[tag + 1], sign = sign_at(l, tag + 2);
        TRY(push_text(l, tag, sign, kind == '{'));
        size_t raw;
        if (kind == '#') {
            TRY(skip_comment(l));
        } else if (kind == '%' && is_raw(l, tag, &raw)) {
            TRY(lex_raw(l, raw));
        } else {
            TRY(push(l, kind == '{' ? JINJA_PRINT_BEGIN : JINJA_BLOCK_BEGIN, 0, JINJA_NONE_VALUE));
            advance(l, tag + 2 + (sign != 0));
            TRY(lex_tag(l, kind == '{'));
        }
    }
    return push(l, JINJA_END, 0, JINJA_NONE_VALUE);
}

err jinja_lex(struct jinja_arena *a, const char *text, size_t n, struct jinja_token **tokens, size_t *n_tokens) {
    *tokens = NULL;
    if (n > JINJA_TEXT_BYTES) return jinja_syntax_error(1, "%zu bytes are too many for a template", n);
    if (!utf8_is_valid((const uint8_t *)text, n)) return jinja_syntax_error(1, "the text is not UTF-8");
    struct lexer l = {.arena = a, .line = 1, .is_line_start = 1};
    char *copy;
    TRY(jinja_arena_text(a, n + 1, &copy));
    for (size_t i = 0; i < n; i++)
        if (text[i] != '\r') copy[l.n++] = text[i];
        else if (i + 1 == n || text[i + 1] != '\n') copy[l.n++] = '\n';
    if (l.n && copy[l.n - 1] == '\n') l.n--; /* a file ends with a newline, its prompt does not */
    copy[l.n] = 0;
    l.text = copy;
    err e = lex_all(&l);
    *tokens = l.tokens;
    *n_tokens = l.n_tokens;
    if (e == OK) return OK;
    free(l.tokens);
    *tokens = NULL;
    return e;
}
