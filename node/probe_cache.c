#include "node/probe_cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/cache_file.h"
#include "base/log.h"

#define PATH_BYTES 800
#define FILE_BYTES_MAX ((size_t)1 << 20)

/* FNV-1a; the file has the whole key. */
static int path_make(const char *key, char out[PATH_BYTES]) {
    uint64_t h = 0xcbf29ce484222325u;
    if (!cache_folder_find("probe", out, PATH_BYTES - 32)) return 0;
    for (const char *c = key; *c; c++) h = (h ^ (uint8_t)*c) * 0x100000001b3u;
    size_t n = strlen(out);
    snprintf(out + n, PATH_BYTES - n, "/%016llx.json", (unsigned long long)h);
    return 1;
}

/* A file is {"key": text, "measured": what FRAME_PROBED would say of one rank}. */
static err file_take(const struct bytes *text, const char *key, struct probed_rank *out) {
    json_error_t why;
    json_t *root = json_loadb((const char *)text->data, text->len, JSON_REJECT_DUPLICATES, &why);
    if (!root) return err_set(ERR_FORMAT, "not JSON: %s", why.text);
    const char *found = json_string_value(json_object_get(root, "key"));
    char *measured = json_dumps(json_object_get(root, "measured"), JSON_COMPACT);
    struct bytes list = {0};
    struct probed p = {0};
    err e = OK;
    if (!found || strcmp(found, key) != 0) e = err_set(ERR_FORMAT, "it is of another device or another set-up");
    else if (!measured) e = err_set(ERR_FORMAT, "it has no 'measured'");
    if (e == OK) e = bytes_printf(&list, "[%s]", measured);
    if (e == OK) e = probed_get((const char *)list.data, list.len, &p);
    if (e == OK) *out = p.ranks[0];
    if (e == OK) out->links = NULL; /* of a list of one rank there are none */
    probed_free(&p);
    bytes_free(&list);
    free(measured);
    json_decref(root);
    return e;
}

int probe_cache_get(const char *key, struct probed_rank *out) {
    char path[PATH_BYTES];
    struct bytes text = {0};
    int is_there = 0;
    if (!path_make(key, path)) return 0;
    err e = cache_file_read(path, FILE_BYTES_MAX, &text, &is_there);
    if (e == OK && is_there) e = file_take(&text, key, out);
    bytes_free(&text);
    if (e != OK) log_warn("probe.cache", "file=%s text=\"%s: measured again\"", path, err_text());
    return e == OK && is_there;
}

static err file_text(const char *key, const struct probed_rank *r, struct bytes *out) {
    struct probed_rank alone = *r;
    alone.n_links = 0;
    json_t *name = json_string(key);
    char *quoted = name ? json_dumps(name, JSON_ENCODE_ANY) : NULL;
    json_decref(name);
    if (!quoted) return err_set(ERR_INTERNAL, "a key that is not valid UTF-8");
    err e = bytes_printf(out, "{\"key\":%s,\n\"measured\":", quoted);
    if (e == OK) e = probed_put_rank(0, &alone, out);
    if (e == OK) e = bytes_append_str(out, "}\n");
    free(quoted);
    return e;
}

void probe_cache_put(const char *key, const struct probed_rank *r) {
    char path[PATH_BYTES];
    struct bytes text = {0};
    if (!path_make(key, path)) return;
    err e = file_text(key, r, &text);
    if (e == OK) e = cache_file_write(path, text.data, text.len);
    bytes_free(&text);
    if (e != OK) log_warn("probe.cache", "text=\"%s\"", err_text());
}
