/* Keys: who may use the server. A file of API keys, one `NAME KEY [PRIORITY]` per
 * line, # begins a comment. Read once at start, read-only after: any thread. */
#ifndef COORDINATOR_KEYS_H
#define COORDINATOR_KEYS_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define KEYS_MAX 4096      /* keys of a file */
#define KEY_NAME_BYTES 64  /* with a NUL */
#define KEY_BYTES 256      /* with a NUL */
#define KEY_LEAST_BYTES 8
#define KEY_PRIORITY_MAX 1000

struct keys;

/* ERR_CONFIG names file and line. */
err keys_load(const char *path, struct keys **out);
/* The same of a text [n]; `path` is for messages. */
err keys_parse(const char *path, const char *text, size_t n, struct keys **out);
void keys_free(struct keys *k);

/* The key's index in the file's order, or -1. The time it takes depends neither on what the keys are nor on
 * how much of one `key` [n] has right. */
int keys_find(const struct keys *k, const char *key, size_t n);
const char *keys_name(const struct keys *k, uint32_t index);
int keys_priority(const struct keys *k, uint32_t index); /* 0..KEY_PRIORITY_MAX: higher goes first */

#endif
