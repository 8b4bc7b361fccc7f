#include "coordinator/json_shape.h"

static err check_counts(const struct json_shape *s) {
    if (s->n_containers > JSON_CONTAINERS_MAX)
        return err_set(ERR_REQUEST, "more than %d arrays and objects", JSON_CONTAINERS_MAX);
    if (s->n_members > JSON_MEMBERS_MAX)
        return err_set(ERR_REQUEST, "more than %d fields of objects", JSON_MEMBERS_MAX);
    if (s->n_values > JSON_VALUES_MAX) return err_set(ERR_REQUEST, "more than %d values", JSON_VALUES_MAX);
    return OK;
}

/* Texts are skipped; outside of them each mark is a container, a member or one more value. */
err json_shape_add(struct json_shape *s, const void *text, size_t n) {
    const uint8_t *c = text;
    int in_text = 0;
    size_t depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (in_text) {
            if (c[i] == '\\') i++;
            else if (c[i] == '"') in_text = 0;
            continue;
        }
        switch (c[i]) {
        case '"': in_text = 1; continue;
        case '{':
        case '[':
            if (++depth > JSON_DEPTH_MAX)
                return err_set(ERR_REQUEST, "arrays and objects are nested deeper than %d at byte %zu",
                               JSON_DEPTH_MAX, i);
            s->n_containers++;
            break;
        case '}':
        case ']': depth -= depth > 0; continue;
        case ':': s->n_members++; break;
        case ',': s->n_values++; break;
        default: continue;
        }
        TRY(check_counts(s));
    }
    return OK;
}
