/* The environment: the only file that reads or writes it. */
#ifndef BASE_ENV_H
#define BASE_ENV_H

#include "base/err.h"

/* The value of a variable, or NULL. */
const char *env_get(const char *name);

/* Sets a variable for this process and its children. */
err env_set(const char *name, const char *value);

#endif
