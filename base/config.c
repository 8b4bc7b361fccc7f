#include "base/config.h"

#include <libconfig.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct config_key config_keys[] = {
#define CONFIG_ROW(name, kind, groups, least, most, fallback, unit, help)      \
    {#name, CONFIG_KIND_##kind, groups, least, most, fallback, unit, help,     \
     offsetof(struct config, name)},
    CONFIG_LIST(CONFIG_ROW)
#undef CONFIG_ROW
};

err config_parse_whole(const char *text, double least, double most,
                       uint64_t *out) {
    uint64_t value = 0;
    int is_good = *text != 0;
    for (const char *c = text; *c && is_good; c++)
        is_good = *c >= '0' && *c <= '9' &&
                  !__builtin_mul_overflow(value, 10u, &value) &&
                  !__builtin_add_overflow(value, (uint64_t)(*c - '0'), &value);
    if (!is_good || (double)value < least || (double)value > most)
        return err_set(ERR_USAGE, "expected a whole number from %.16g to %.16g, found \"%s\"",
                       least, most, text);
    *out = value;
    return OK;
}

err config_parse_real(const char *text, double least, double most,
                      double *out) {
    char *end = NULL;
    /* strtod would take blanks, hexadecimal and "nan". */
    int is_good = *text && strspn(text, "0123456789.eE+-") == strlen(text);
    double value = is_good ? strtod(text, &end) : 0;
    if (!is_good || *end || !isfinite(value) || value < least || value > most)
        return err_set(ERR_USAGE, "expected a number from %.16g to %.16g, found \"%s\"",
                       least, most, text);
    *out = value;
    return OK;
}

err config_parse_pair(const char *text, uint32_t first_most, uint32_t second_most, uint32_t out[2]) {
    const char *x = strchr(text, 'x');
    char first[16];
    uint64_t n[2];
    if (!x || (size_t)(x - text) >= sizeof first)
        return err_set(ERR_USAGE, "expected two numbers such as 2x1, found \"%s\"", text);
    snprintf(first, sizeof first, "%.*s", (int)(x - text), text);
    TRY(config_parse_whole(first, 1, first_most, &n[0]));
    TRY(config_parse_whole(x + 1, 1, second_most, &n[1]));
    out[0] = (uint32_t)n[0];
    out[1] = (uint32_t)n[1];
    return OK;
}

err config_parse_list(const char *flag, const char *text, size_t n_most,
                      err (*add)(void *context, const char *item), void *context) {
    char item[64];
    for (size_t n = 0; n < n_most; n++) {
        size_t len = strcspn(text, ",");
        snprintf(item, sizeof item, "%.*s", (int)(len < sizeof item ? len : sizeof item - 1), text);
        if (add(context, item) != OK) return err_context(ERR_USAGE, "--%s", flag);
        if (!text[len]) return OK;
        text += len + 1;
    }
    return err_set(ERR_USAGE, "--%s: more than %zu items", flag, n_most);
}

err config_expected(const struct config_key *key, struct bytes *out) {
    if (key->kind == CONFIG_KIND_TEXT)
        return bytes_printf(out, "a text of %g to %g bytes", key->least,
                            key->most);
    return bytes_printf(out, "a %s from %.16g to %.16g",
                        key->kind == CONFIG_KIND_WHOLE ? "whole number" : "number",
                        key->least, key->most);
}

static err assign_text(const struct config_key *key, const char *text,
                       char *out) {
    size_t n = strlen(text);
    if ((double)n < key->least || (double)n > key->most)
        return err_set(ERR_USAGE, "expected a text of %g to %g bytes, found %zu",
                       key->least, key->most, n);
    memcpy(out, text, n + 1);
    return OK;
}

err config_assign(struct config *c, enum config_id id, const char *text) {
    const struct config_key *key = &config_keys[id];
    void *field = (char *)c + key->offset;
    switch (key->kind) {
    case CONFIG_KIND_WHOLE:
        TRY(config_parse_whole(text, key->least, key->most, field));
        break;
    case CONFIG_KIND_REAL:
        TRY(config_parse_real(text, key->least, key->most, field));
        break;
    case CONFIG_KIND_TEXT:
        TRY(assign_text(key, text, field));
        break;
    }
    c->is_set[id] = 1;
    return OK;
}

void config_defaults(struct config *c) {
    memset(c, 0, sizeof *c);
    for (int id = 0; id < N_CONFIG_KEYS; id++)
        if (config_keys[id].fallback)
            config_assign(c, (enum config_id)id, config_keys[id].fallback);
    memset(c->is_set, 0, sizeof c->is_set);
}

static int key_find(const char *name) {
    for (int id = 0; id < N_CONFIG_KEYS; id++)
        if (strcmp(config_keys[id].name, name) == 0) return id;
    return -1;
}

/* The value as config_assign reads it, or 0 where its type is another one. */
static int setting_text(const struct config_key *key, const config_setting_t *s,
                        char *out, size_t cap) {
    int type = config_setting_type(s);
    if (key->kind == CONFIG_KIND_TEXT) {
        if (type != CONFIG_TYPE_STRING) return 0;
        snprintf(out, cap, "%s", config_setting_get_string(s));
        return 1;
    }
    if (type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64) {
        snprintf(out, cap, "%lld", config_setting_get_int64(s));
        return 1;
    }
    if (type != CONFIG_TYPE_FLOAT || key->kind != CONFIG_KIND_REAL) return 0;
    snprintf(out, cap, "%.17g", config_setting_get_float(s));
    return 1;
}

static const char *type_name(const config_setting_t *s) {
    switch (config_setting_type(s)) {
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64: return "a whole number";
    case CONFIG_TYPE_FLOAT: return "a number with a point";
    case CONFIG_TYPE_STRING: return "a text in quotes";
    case CONFIG_TYPE_BOOL: return "true or false";
    case CONFIG_TYPE_GROUP: return "a group";
    default: return "a list";
    }
}

static err load_setting(struct config *c, const char *path,
                        const config_setting_t *s) {
    const char *name = config_setting_name(s);
    const char *file = config_setting_source_file(s);
    unsigned line = config_setting_source_line(s);
    if (!file) file = path;
    int id = key_find(name);
    if (id < 0)
        return err_set(ERR_CONFIG, "%s:%u: unknown key %s; caravan config --example lists them",
                       file, line, name);
    const struct config_key *key = &config_keys[id];
    char text[CONFIG_TEXT_BYTES * 2];
    err e;
    if (setting_text(key, s, text, sizeof text)) {
        e = config_assign(c, (enum config_id)id, text);
    } else {
        struct bytes expected = {0};
        e = config_expected(key, &expected);
        if (e == OK)
            e = err_set(ERR_CONFIG, "expected %s, found %s",
                        (char *)expected.data, type_name(s));
        bytes_free(&expected);
    }
    if (e == OK) return OK;
    return err_context(ERR_CONFIG, "%s:%u: %s", file, line, name);
}

/* Read whole first: the scanner of libconfig ends the process when reading
 * fails half-way (a directory, a broken disk). */
static err file_parse(const char *path, config_t *parsed, struct bytes *text) {
    TRY(bytes_read_file(text, path));
    if (memchr(text->data, 0, text->len))
        return err_set(ERR_CONFIG, "%s: not a text file", path);
    if (config_read_string(parsed, (char *)text->data) != CONFIG_TRUE) {
        const char *file = config_error_file(parsed);
        return err_set(ERR_CONFIG, "%s:%d: %s", file ? file : path,
                       config_error_line(parsed), config_error_text(parsed));
    }
    return OK;
}

static err load_settings(struct config *c, const char *path, config_t *parsed,
                         struct bytes *text) {
    TRY(file_parse(path, parsed, text));
    const config_setting_t *root = config_root_setting(parsed);
    int n = config_setting_length(root);
    for (int i = 0; i < n; i++)
        TRY(load_setting(c, path, config_setting_get_elem(root, (unsigned)i)));
    return OK;
}

err config_load(struct config *c, const char *path) {
    config_t parsed;
    config_init(&parsed);
    struct bytes text = {0};
    err e = load_settings(c, path, &parsed, &text);
    bytes_free(&text);
    config_destroy(&parsed);
    return e;
}

#define WALK_PATH_BYTES 256

struct walk {
    const char *file;
    err (*each)(void *context, const struct config_item *item);
    void *context;
    int wants_groups;
};

static err walk_value(const struct walk *w, const config_setting_t *s, const char *path) {
    int type = config_setting_type(s);
    const char *file = config_setting_source_file(s); /* of an included file */
    struct config_item item = {.path = path, .type = type_name(s), .line = config_setting_source_line(s)};
    if (type == CONFIG_TYPE_STRING) item.text = config_setting_get_string(s);
    item.is_group = type == CONFIG_TYPE_GROUP;
    item.is_flag = type == CONFIG_TYPE_BOOL;
    item.is_whole = type == CONFIG_TYPE_INT || type == CONFIG_TYPE_INT64;
    item.is_number = item.is_whole || type == CONFIG_TYPE_FLOAT;
    if (item.is_whole) item.whole = config_setting_get_int64(s);
    if (item.is_flag) item.whole = config_setting_get_bool(s) != 0;
    item.number = item.is_whole ? (double)item.whole : config_setting_get_float(s);
    if (w->each(w->context, &item) == OK) return OK;
    return err_context(ERR_CONFIG, "%s:%u: %s", file ? file : w->file, item.line, path);
}

/* Lists go to `each` as values that are neither text nor number. */
static err walk_group(const struct walk *w, const config_setting_t *group, const char *above) {
    int n = config_setting_length(group);
    for (int i = 0; i < n; i++) {
        const config_setting_t *s = config_setting_get_elem(group, (unsigned)i);
        char path[WALK_PATH_BYTES];
        int len = snprintf(path, sizeof path, "%s%s%s", above, *above ? "." : "", config_setting_name(s));
        if (len >= (int)sizeof path)
            return err_set(ERR_CONFIG, "%s:%u: a name that is too long", w->file, config_setting_source_line(s));
        if (!config_setting_is_group(s) || w->wants_groups) TRY(walk_value(w, s, path));
        if (config_setting_is_group(s)) TRY(walk_group(w, s, path));
    }
    return OK;
}

static err walk_file(struct walk w) {
    struct bytes text = {0};
    config_t parsed;
    config_init(&parsed);
    err e = file_parse(w.file, &parsed, &text);
    if (e == OK) e = walk_group(&w, config_root_setting(&parsed), "");
    bytes_free(&text);
    config_destroy(&parsed);
    return e;
}

err config_walk(const char *path, err (*each)(void *context, const struct config_item *item), void *context) {
    return walk_file((struct walk){path, each, context, 0});
}

err config_walk_groups(const char *path, err (*each)(void *context, const struct config_item *item), void *context) {
    return walk_file((struct walk){path, each, context, 1});
}

err config_item_text(const struct config_item *item, char *out, size_t cap) {
    if (!item->text) return err_set(ERR_CONFIG, "expected a text in quotes, found %s", item->type);
    size_t n = strlen(item->text);
    if (n < 1 || n >= cap)
        return err_set(ERR_CONFIG, "expected a text of 1 to %zu bytes, found %zu", cap - 1, n);
    memcpy(out, item->text, n + 1);
    return OK;
}

static err check_number(const struct config_field *f, const struct config_item *item) {
    const char *what = f->kind == CONFIG_FIELD_WHOLE ? "whole number" : "number";
    int has_kind = f->kind == CONFIG_FIELD_WHOLE ? item->is_whole : item->is_number;
    if (!has_kind)
        return err_set(ERR_CONFIG, "expected a %s from %.16g to %.16g, found %s", what, f->least, f->most, item->type);
    if (!(item->number >= f->least && item->number <= f->most))
        return err_set(ERR_CONFIG, "expected a %s from %.16g to %.16g, found %.16g", what, f->least, f->most,
                       item->number);
    return OK;
}

static err field_set(const struct config_field *f, const struct config_item *item, void *at) {
    switch (f->kind) {
    case CONFIG_FIELD_WHOLE:
        TRY(check_number(f, item));
        *(uint32_t *)at = (uint32_t)item->whole;
        return OK;
    case CONFIG_FIELD_BYTES:
        TRY(check_number(f, item));
        *(uint64_t *)at = (uint64_t)(item->number * f->scale + 0.5);
        return OK;
    case CONFIG_FIELD_NUMBER:
        TRY(check_number(f, item));
        *(double *)at = item->number * f->scale;
        return OK;
    case CONFIG_FIELD_FLAG:
        if (!item->is_flag) return err_set(ERR_CONFIG, "expected true or false, found %s", item->type);
        *(int *)at = (int)item->whole;
        return OK;
    case CONFIG_FIELD_TEXT:
        return config_item_text(item, at, (size_t)f->most + 1);
    }
    return OK;
}

err config_take(const struct config_field *fields, size_t n, const char *name, const struct config_item *item,
                void *object) {
    char known[512] = "";
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(fields[i].name, name) == 0) return field_set(&fields[i], item, (char *)object + fields[i].offset);
        if (at < sizeof known)
            at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", fields[i].name);
    }
    return err_set(ERR_CONFIG, "unknown key; expected one of %s", known);
}

err config_example(struct bytes *out) {
    TRY(bytes_append_str(
        out, "# Every key of Caravan with its default; --config FILE reads such a file.\n"
             "# A flag (max_tokens: --max-tokens) wins over the file. Made by\n"
             "# `caravan config --example`.\n"));
    for (int id = 0; id < N_CONFIG_KEYS; id++) {
        const struct config_key *key = &config_keys[id];
        TRY(bytes_printf(out, "\n# %s%s%s%s.\n# ", key->help,
                         *key->unit ? " (" : "", key->unit, *key->unit ? ")" : ""));
        TRY(config_expected(key, out));
        TRY(bytes_append_str(out, "\n"));
        const char *quote = key->kind == CONFIG_KIND_TEXT ? "\"" : "";
        if (key->fallback)
            TRY(bytes_printf(out, "%s = %s%s%s;\n", key->name, quote,
                             key->fallback, quote));
        else
            TRY(bytes_printf(out, "# %s = 1;\n", key->name));
    }
    return bytes_append_str(
        out, "\n# The tunables of a device are no keys of this file: `caravan tune` keeps them in\n"
             "# ~/.config/caravan/tune/DEVICE.cfg, and configs/tune/ has some. Such a file says\n"
             "#   platform = \"Portable Computing Language\";  # a part of the platform's name\n"
             "#   device = \"skylake-avx512\";                 # and of the device's\n"
             "#   driver = \"3.1\";                            # the whole of it; left out: any\n"
             "#   tunables = { GROUP_ITEMS = 128; };           # kernels/tune.h lists them\n"
             "#   clblast = { GemmRoutine = { XGEMM_MIN_INDIRECT_SIZE = 64; }; };\n");
}
