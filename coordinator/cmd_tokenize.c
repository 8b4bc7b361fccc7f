/* caravan tokenize, caravan detokenize: text to tokens and back. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "coordinator/commands.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

static const char tokenize_help[] =
    "usage: caravan tokenize MODEL (--text TEXT | --file FILE) [flags]\n"
    "\n"
    "Prints the tokens of a text on one line, separated by commas. The text is\n"
    "taken as it is: no token is added, and what looks like a control token\n"
    "(\"<|im_end|>\") is text like any other.\n"
    "\n"
    "  --text TEXT       the text\n"
    "  --file FILE       the text is in FILE, to its last byte (- is standard\n"
    "                    input)\n"
    "  --add-special     the tokens that the model wants at the beginning and\n"
    "                    the end of a text, as generate adds them\n"
    "  --parse-special   control tokens written in the text become those tokens\n"
    "  --json            {\"tokens\": [1, 2], \"n_tokens\": 2, \"pieces\": [\"a\", \"b\"]};\n"
    "                    a piece that is only a part of a character is a list of\n"
    "                    bytes: [240, 159]\n";

static const char detokenize_help[] =
    "usage: caravan detokenize MODEL --tokens 1,2,3 [flags]\n"
    "\n"
    "Prints the text of tokens, and a newline after it. Control tokens are\n"
    "written out (\"<|im_end|>\").\n"
    "\n"
    "  --tokens LIST     token ids, separated by commas\n"
    "  --skip-special    leave control tokens out\n"
    "  --json            {\"text\": \"...\"}; bytes that are no UTF-8 become U+FFFD\n";

struct arguments {
    const char *model, *text, *file, *tokens;
    int add_special, parse_special, skip_special, json, help;
};

/* An option: exactly one of `value` and `flag`; NULL name ends a list. */
struct option {
    const char *name;
    const char **value;
    int *flag;
};

/* ---- arguments ---- */

static err parse_option(const struct option *options, const char *command,
                        int argc, char **argv, int *i) {
    const char *name = argv[*i];
    size_t len = strcspn(name, "=");
    for (const struct option *o = options; o->name; o++) {
        if (strlen(o->name) != len || memcmp(o->name, name, len) != 0) continue;
        if (o->flag) {
            if (name[len])
                return err_set(ERR_USAGE, "%s: %s takes no value", command,
                               o->name);
            *o->flag = 1;
            return OK;
        }
        if (name[len] == '=') {
            *o->value = name + len + 1;
            return OK;
        }
        if (*i + 1 >= argc)
            return err_set(ERR_USAGE, "%s: %s needs a value", command, name);
        *o->value = argv[++*i];
        return OK;
    }
    return err_set(ERR_USAGE, "%s: no option '%s'", command, name);
}

static err parse(const struct option *options, int argc, char **argv,
                 struct arguments *a) {
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            a->help = 1;
            return OK;
        }
        if (argv[i][0] == '-')
            TRY(parse_option(options, argv[0], argc, argv, &i));
        else if (a->model)
            return err_set(ERR_USAGE, "%s: one MODEL, not '%s' as well", argv[0],
                           argv[i]);
        else
            a->model = argv[i];
    }
    if (!a->model)
        return err_set(ERR_USAGE, "%s: which MODEL? See caravan %s --help",
                       argv[0], argv[0]);
    return OK;
}

/* "1,2, 3"; an empty list is no token. */
static err parse_tokens(const char *text, struct token_list *out) {
    const char *p = text + strspn(text, " \t\n");
    while (*p) {
        char *end;
        errno = 0;
        long id = strtol(p, &end, 10);
        if (end == p || errno || id < 0 || id > INT32_MAX)
            return err_set(ERR_USAGE, "--tokens: '%.40s' does not begin with a "
                           "token id", p);
        TRY(token_list_push(out, (int32_t)id));
        p = end + strspn(end, " \t\n");
        if (*p == ',') {
            p++;
            p += strspn(p, " \t\n");
            if (*p) continue;
        } else if (!*p) {
            return OK;
        }
        return err_set(ERR_USAGE, "--tokens: expected a comma and a token id at "
                       "'%.40s'", p);
    }
    return OK;
}

static err read_text(const struct arguments *a, struct bytes *out) {
    if (!a->file) return bytes_append_str(out, a->text);
    const char *path = strcmp(a->file, "-") == 0 ? "/dev/stdin" : a->file;
    return bytes_read_file(out, path);
}

static err open_tokenizer(const char *path, struct tokenizer **out) {
    struct gguf *g;
    TRY(gguf_open(path, &g));
    err e = tokenizer_create(g, out);
    gguf_close(g);
    return e;
}

/* ---- output ---- */

static err finish_output(void) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return OK;
    return err_set(ERR_FILE, "cannot write the output: %s", strerror(errno));
}

static err print_json(json_t *all) {
    if (!all) return err_set(ERR_MEMORY, "cannot build the JSON");
    json_dumpf(all, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(all);
    return finish_output();
}

/* A string, or bytes where it is none. */
static json_t *json_piece(const struct bytes *b) {
    if (utf8_is_valid(b->data, b->len))
        return json_stringn((const char *)b->data, b->len);
    json_t *list = json_array();
    for (size_t i = 0; i < b->len; i++)
        json_array_append_new(list, json_integer(b->data[i]));
    return list;
}

static err print_tokens_json(const struct tokenizer *t,
                             const struct token_list *l) {
    json_t *tokens = json_array(), *pieces = json_array();
    struct bytes b = {0};
    err e = OK;
    for (size_t i = 0; i < l->n; i++) {
        b.len = 0;
        TRY_GOTO(bytes_append(&b, "", 0), done);
        TRY_GOTO(tokenizer_decode_token(t, l->ids[i], 1, &b), done);
        if (json_array_append_new(tokens, json_integer(l->ids[i])) != 0 ||
            json_array_append_new(pieces, json_piece(&b)) != 0)
            TRY_GOTO(err_set(ERR_MEMORY, "cannot build the JSON"), done);
    }
    e = print_json(json_pack("{s:O, s:I, s:O}", "tokens", tokens, "n_tokens",
                             (json_int_t)l->n, "pieces", pieces));
done:
    json_decref(tokens);
    json_decref(pieces);
    bytes_free(&b);
    return e;
}

static err print_tokens(const struct token_list *l) {
    for (size_t i = 0; i < l->n; i++)
        printf(i ? ",%d" : "%d", l->ids[i]);
    putchar('\n');
    return finish_output();
}

static err print_text(const struct tokenizer *t, const struct token_list *l,
                      int with_special) {
    struct bytes b = {0};
    err e = tokenizer_decode(t, l->ids, l->n, with_special, &b);
    if (e == OK) {
        fwrite(b.data, 1, b.len, stdout);
        putchar('\n');
        e = finish_output();
    }
    bytes_free(&b);
    return e;
}

static err print_text_json(const struct tokenizer *t, const struct token_list *l,
                           int with_special) {
    struct bytes b = {0};
    struct token_stream s;
    err e = OK;
    token_stream_init(&s, t, with_special);
    TRY_GOTO(bytes_append(&b, "", 0), done);
    for (size_t i = 0; i < l->n; i++)
        TRY_GOTO(token_stream_push(&s, l->ids[i], &b), done);
    TRY_GOTO(token_stream_finish(&s, &b), done);
    e = print_json(json_pack("{s:o}", "text",
                             json_stringn((const char *)b.data, b.len)));
done:
    token_stream_free(&s);
    bytes_free(&b);
    return e;
}

/* ---- commands ---- */

static err tokenize(const struct arguments *a) {
    struct tokenizer *t = NULL;
    struct token_list l = {0};
    struct bytes text = {0};
    err e = OK;
    TRY_GOTO(read_text(a, &text), done);
    TRY_GOTO(open_tokenizer(a->model, &t), done);
    TRY_GOTO(tokenizer_encode(t, (const char *)text.data, text.len,
                              a->add_special, a->parse_special, &l),
             done);
    e = a->json ? print_tokens_json(t, &l) : print_tokens(&l);
done:
    tokenizer_free(t);
    token_list_free(&l);
    bytes_free(&text);
    return e;
}

static err detokenize(const struct arguments *a) {
    struct tokenizer *t = NULL;
    struct token_list l = {0};
    err e = OK;
    TRY_GOTO(parse_tokens(a->tokens, &l), done);
    TRY_GOTO(open_tokenizer(a->model, &t), done);
    e = a->json ? print_text_json(t, &l, !a->skip_special)
                : print_text(t, &l, !a->skip_special);
done:
    tokenizer_free(t);
    token_list_free(&l);
    return e;
}

err cmd_tokenize(int argc, char **argv) {
    struct arguments a = {0};
    const struct option options[] = {
        {"--text", &a.text, NULL},
        {"--file", &a.file, NULL},
        {"--add-special", NULL, &a.add_special},
        {"--parse-special", NULL, &a.parse_special},
        {"--json", NULL, &a.json},
        {NULL, NULL, NULL},
    };
    TRY(parse(options, argc, argv, &a));
    if (a.help) {
        fputs(tokenize_help, stdout);
        return OK;
    }
    if (!a.text == !a.file)
        return err_set(ERR_USAGE, "tokenize: one of --text and --file");
    return tokenize(&a);
}

err cmd_detokenize(int argc, char **argv) {
    struct arguments a = {0};
    const struct option options[] = {
        {"--tokens", &a.tokens, NULL},
        {"--skip-special", NULL, &a.skip_special},
        {"--json", NULL, &a.json},
        {NULL, NULL, NULL},
    };
    TRY(parse(options, argc, argv, &a));
    if (a.help) {
        fputs(detokenize_help, stdout);
        return OK;
    }
    if (!a.tokens)
        return err_set(ERR_USAGE, "detokenize: which --tokens?");
    return detokenize(&a);
}
