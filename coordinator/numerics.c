#include "coordinator/numerics.h"

#include <stdio.h>
#include <string.h>

err numerics_choose(const struct config *c, enum payload *out) {
    int is_fast = strcmp(c->numerics, "fast") == 0;
    if (!is_fast && strcmp(c->numerics, "reproducible") != 0)
        return err_set(ERR_CONFIG, "numerics = \"%s\": expected reproducible or fast", c->numerics);
    if (!payload_find(c->payload, out))
        return err_set(ERR_CONFIG, "payload = \"%s\": expected f32, f16 or int8", c->payload);
    if (*out == PAYLOAD_F32 || is_fast) return OK;
    return err_set(ERR_CONFIG, "payload = \"%s\" rounds sums between hosts: it needs numerics = \"fast\"", c->payload);
}

const char *numerics_text(const struct config *c) {
    static _Thread_local char text[64];
    if (strcmp(c->numerics, "fast") != 0) return "reproducible";
    snprintf(text, sizeof text, "fast (%.16s between hosts)", c->payload);
    return text;
}
