#include "base/env.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const char *env_get(const char *name) { return getenv(name); }

err env_set(const char *name, const char *value) {
    if (setenv(name, value, 1) != 0)
        return err_set(ERR_INTERNAL, "cannot set %s: %s", name,
                       strerror(errno));
    return OK;
}
