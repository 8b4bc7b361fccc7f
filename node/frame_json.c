#include "node/frame_json.h"

#include <stdlib.h>

err frame_json_take(json_t *root, struct bytes *out) {
    char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
    json_decref(root);
    if (!text) return err_set(ERR_INTERNAL, "cannot write a control frame as JSON");
    err e = bytes_append_str(out, text);
    free(text);
    return e;
}

err frame_json_number(const json_t *root, const char *what, const char *key, uint32_t least, uint32_t most,
                      uint32_t *out) {
    const json_t *v = json_object_get(root, key);
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < least || n > most)
        return err_set(ERR_INTERNAL, "%s: '%s' is no whole number from %u to %u", what, key, least, most);
    *out = (uint32_t)n;
    return OK;
}

err frame_json_list(const json_t *root, const char *what, const char *key, size_t least, size_t most,
                    const json_t **out) {
    *out = json_object_get(root, key);
    size_t n = json_array_size(*out);
    if (!json_is_array(*out) || n < least || n > most)
        return err_set(ERR_INTERNAL, "%s: '%s' is no list of %zu to %zu items", what, key, least, most);
    return OK;
}
