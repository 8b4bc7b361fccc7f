/* Control frames as JSON: what writing and checking them has in common. Private to frame.c and frame_probe.c. In
 * messages `what` is the frame, "plan", and `key` the value's name. */
#ifndef NODE_FRAME_JSON_H
#define NODE_FRAME_JSON_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* Text appended; takes `root`, which may be NULL (memory ran out). */
err frame_json_take(json_t *root, struct bytes *out);
/* A whole number from least to most. */
err frame_json_number(const json_t *root, const char *what, const char *key, uint32_t least, uint32_t most,
                      uint32_t *out);
/* A list of least to most items; borrowed. */
err frame_json_list(const json_t *root, const char *what, const char *key, size_t least, size_t most,
                    const json_t **out);

#endif
