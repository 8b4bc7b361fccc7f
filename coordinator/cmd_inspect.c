/* caravan inspect: what a model file says of itself. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <utf8proc.h>

#include "base/mem.h"
#include "coordinator/commands.h"
#include "model/gguf.h"

#define SHOWN_ITEMS 8  /* of an array, in text */
#define SHOWN_BYTES 96 /* of a string, in text */

static const char help[] =
    "usage: caravan inspect MODEL [--json]\n"
    "\n"
    "Prints the metadata and tensors of a GGUF file (of a split model: its first\n"
    "file, -00001-of-0000N.gguf). The first dimension is the length of a row.\n"
    "\n"
    "  --json   one JSON object: path, version, metadata, tensors (name, format,\n"
    "           shape, bytes, offset, file), n_parameters, tensor_bytes.\n"
    "           Arrays are complete; bytes that are no UTF-8 become U+FFFD, and\n"
    "           numbers that JSON does not have (nan, inf) become null.\n";

/* ---- text ---- */

/* What a terminal might act upon, or a reader not see. */
static int is_invisible(utf8proc_int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return 1;
    default:
        return 0;
    }
}

/* One character of `s`, escaped where needed; returns the bytes it took. */
static size_t print_char(const uint8_t *s, size_t len) {
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(s, (utf8proc_ssize_t)len, &c);
    if (n <= 0) {
        printf("\\x%02x", s[0]);
        return 1;
    }
    if (c == '\n')
        printf("\\n");
    else if (c == '\t')
        printf("\\t");
    else if (c == '"' || c == '\\')
        printf("\\%c", (char)c);
    else if (c < 0x80 && is_invisible(c))
        printf("\\x%02x", (unsigned)c);
    else if (is_invisible(c))
        printf("\\u{%x}", (unsigned)c);
    else
        fwrite(s, 1, (size_t)n, stdout);
    return (size_t)n;
}

static void print_plain(const char *s) {
    size_t len = strlen(s);
    for (size_t i = 0; i < len;)
        i += print_char((const uint8_t *)s + i, len - i);
}

static void print_string(const struct gguf_string *s) {
    size_t i = 0;
    putchar('"');
    while (i < s->len && i < SHOWN_BYTES)
        i += print_char((const uint8_t *)s->data + i, s->len - i);
    putchar('"');
    if (i < s->len) printf("... (%zu bytes)", s->len);
}

/* The shortest decimal that reads back as the same float. */
static void print_f32(double v) {
    char text[40];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtof(text, NULL) == (float)v) break;
    }
    fputs(text, stdout);
}

static void print_item(const struct gguf_kv *kv, uint64_t i) {
    switch (kv->item_type) {
    case GGUF_STRING:
        print_string(&kv->strings[i]);
        break;
    case GGUF_F32:
        print_f32(gguf_item_f64(kv, i));
        break;
    case GGUF_F64:
        printf("%.17g", gguf_item_f64(kv, i));
        break;
    case GGUF_BOOL:
        fputs(gguf_item_i64(kv, i) ? "true" : "false", stdout);
        break;
    case GGUF_U64:
        printf("%" PRIu64, (uint64_t)gguf_item_i64(kv, i));
        break;
    default:
        printf("%" PRId64, gguf_item_i64(kv, i));
    }
}

static void print_kv(const struct gguf_kv *kv) {
    printf("  ");
    print_plain(kv->key);
    if (kv->type != GGUF_ARRAY) {
        printf(" (%s) = ", gguf_type_name(kv->type));
        print_item(kv, 0);
    } else {
        printf(" (%s[%" PRIu64 "]) = [", gguf_type_name(kv->item_type), kv->n);
        for (uint64_t i = 0; i < kv->n && i < SHOWN_ITEMS; i++) {
            if (i) printf(", ");
            print_item(kv, i);
        }
        if (kv->n > SHOWN_ITEMS) printf(", ...");
        putchar(']');
    }
    putchar('\n');
}

static uint64_t count_values(const struct gguf_tensor *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

static void print_tensor(const struct gguf *g, const struct gguf_tensor *t) {
    char dims[96];
    int n = 0;
    for (uint32_t i = 0; i < t->n_dims; i++)
        n += snprintf(dims + n, sizeof dims - (size_t)n, "%s%" PRIu64,
                      i ? " x " : "", t->dims[i]);
    printf("  %-6s  %-20s  %12" PRIu64 "  %12" PRIu64 "  ",
           format_info(t->format)->name, dims, t->n_bytes, t->file_offset);
    print_plain(t->name);
    if (gguf_n_files(g) > 1) printf("  (file %u)", t->file + 1);
    putchar('\n');
}

static void print_totals(const struct gguf *g) {
    uint64_t all_values = 0, all_bytes = 0;
    printf("\ntotals:\n  %-6s  %8s  %15s  %15s\n", "format", "tensors",
           "parameters", "bytes");
    for (int f = 0; f < N_FORMATS; f++) {
        uint64_t n = 0, values = 0, bytes = 0;
        for (size_t i = 0; i < gguf_n_tensors(g); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(g, i);
            if ((int)t->format != f) continue;
            n++;
            values += count_values(t);
            bytes += t->n_bytes;
        }
        if (n == 0) continue;
        printf("  %-6s  %8" PRIu64 "  %15" PRIu64 "  %15" PRIu64 "\n",
               format_info((enum format)f)->name, n, values, bytes);
        all_values += values;
        all_bytes += bytes;
    }
    printf("  %-6s  %8zu  %15" PRIu64 "  %15" PRIu64 "\n", "all",
           gguf_n_tensors(g), all_values, all_bytes);
}

static void print_text(const struct gguf *g) {
    print_plain(gguf_path(g));
    printf(": GGUF version %u, %" PRIu64 " bytes", gguf_version(g),
           gguf_file_bytes(g));
    if (gguf_n_files(g) > 1) printf(" in %zu files", gguf_n_files(g));
    printf("\n\nmetadata (%zu keys):\n", gguf_n_kv(g));
    for (size_t i = 0; i < gguf_n_kv(g); i++) print_kv(gguf_kv_at(g, i));
    printf("\ntensors (%zu):\n  %-6s  %-20s  %12s  %12s  %s\n",
           gguf_n_tensors(g), "format", "dimensions", "bytes", "offset", "name");
    for (size_t i = 0; i < gguf_n_tensors(g); i++)
        print_tensor(g, gguf_tensor_at(g, i));
    print_totals(g);
}

/* ---- JSON ---- */

/* A JSON string; bytes that are no UTF-8 become U+FFFD. NULL: no memory. */
static json_t *json_text(const char *s, size_t len) {
    json_t *json = json_stringn(s, len);
    if (json) return json;
    struct bytes clean = {0};
    err e = OK;
    for (size_t i = 0; i < len && e == OK;) {
        utf8proc_int32_t c;
        utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)s + i,
                                              (utf8proc_ssize_t)(len - i), &c);
        e = n > 0 ? bytes_append(&clean, s + i, (size_t)n)
                  : bytes_append_str(&clean, "\xef\xbf\xbd");
        i += n > 0 ? (size_t)n : 1;
    }
    if (e == OK) json = json_stringn((const char *)clean.data, clean.len);
    bytes_free(&clean);
    return json;
}

static json_t *json_item(const struct gguf_kv *kv, uint64_t i) {
    switch (kv->item_type) {
    case GGUF_STRING:
        return json_text(kv->strings[i].data, kv->strings[i].len);
    case GGUF_F32:
    case GGUF_F64: {
        double v = gguf_item_f64(kv, i);
        return isfinite(v) ? json_real(v) : json_null();
    }
    case GGUF_BOOL:
        return json_boolean(gguf_item_i64(kv, i));
    case GGUF_U64: /* JSON integers here are signed; beyond them, a real */
        if (gguf_item_i64(kv, i) < 0) return json_real(gguf_item_f64(kv, i));
        return json_integer(gguf_item_i64(kv, i));
    default:
        return json_integer(gguf_item_i64(kv, i));
    }
}

static json_t *json_kv(const struct gguf_kv *kv) {
    if (kv->type != GGUF_ARRAY) return json_item(kv, 0);
    json_t *array = json_array();
    for (uint64_t i = 0; i < kv->n; i++)
        if (json_array_append_new(array, json_item(kv, i)) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *json_metadata(const struct gguf *g) {
    json_t *object = json_object();
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        json_t *key = json_text(kv->key, strlen(kv->key));
        int failed = !key || json_object_set_new(object, json_string_value(key),
                                                 json_kv(kv)) != 0;
        json_decref(key);
        if (failed) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

static json_t *json_tensor(const struct gguf *g, const struct gguf_tensor *t) {
    const char *path = gguf_file_path(g, t->file);
    json_t *shape = json_array();
    for (uint32_t i = 0; i < t->n_dims; i++)
        json_array_append_new(shape, json_integer((json_int_t)t->dims[i]));
    return json_pack("{s:o, s:s, s:o, s:I, s:I, s:o}", "name",
                     json_text(t->name, strlen(t->name)), "format",
                     format_info(t->format)->name, "shape", shape, "bytes",
                     (json_int_t)t->n_bytes, "offset",
                     (json_int_t)t->file_offset, "file",
                     json_text(path, strlen(path)));
}

static err print_json(const struct gguf *g) {
    uint64_t n_values = 0, n_bytes = 0;
    json_t *tensors = json_array();
    int failed = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        n_values += count_values(t);
        n_bytes += t->n_bytes;
        failed |= json_array_append_new(tensors, json_tensor(g, t)) != 0;
    }
    json_t *all = json_pack(
        "{s:o, s:i, s:o, s:o, s:I, s:I}", "path",
        json_text(gguf_path(g), strlen(gguf_path(g))), "version",
        (int)gguf_version(g), "metadata", json_metadata(g), "tensors", tensors,
        "n_parameters", (json_int_t)n_values, "tensor_bytes",
        (json_int_t)n_bytes);
    if (failed || !all) {
        json_decref(all);
        return err_set(ERR_MEMORY, "cannot build the JSON of %s", gguf_path(g));
    }
    json_dumpf(all, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(all);
    return OK;
}

/* ---- command ---- */

err cmd_inspect(int argc, char **argv) {
    const char *path = NULL;
    int json = 0;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(help, stdout);
            return OK;
        }
        if (strcmp(argv[i], "--json") == 0)
            json = 1;
        else if (argv[i][0] == '-')
            return err_set(ERR_USAGE, "inspect: no option '%s'", argv[i]);
        else if (path)
            return err_set(ERR_USAGE, "inspect: one MODEL, not '%s' as well",
                           argv[i]);
        else
            path = argv[i];
    }
    if (!path)
        return err_set(ERR_USAGE, "inspect: which MODEL? See caravan inspect "
                                  "--help");
    struct gguf *g;
    TRY(gguf_open(path, &g));
    err e = OK;
    if (json)
        e = print_json(g);
    else
        print_text(g);
    gguf_close(g);
    if (e == OK && (fflush(stdout) != 0 || ferror(stdout)))
        e = err_set(ERR_FILE, "cannot write the output: %s", strerror(errno));
    return e;
}
