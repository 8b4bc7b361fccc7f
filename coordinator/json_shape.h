/* The shape of a JSON text, known before it is parsed: a value in memory takes many times its bytes in the text, so
 * depth and number of values are bounded. */
#ifndef COORDINATOR_JSON_SHAPE_H
#define COORDINATOR_JSON_SHAPE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* No sane request nests or holds so many. */
#define JSON_DEPTH_MAX 128
#define JSON_CONTAINERS_MAX 65536 /* arrays and objects */
#define JSON_MEMBERS_MAX 16384    /* of all objects: each takes as long as twenty numbers */
#define JSON_VALUES_MAX (1 << 19) /* tokens are many */

/* What was counted so far; zero-initialised is nothing. One for all texts of a request. */
struct json_shape {
    size_t n_containers, n_members, n_values;
};

/* Adds a text. ERR_REQUEST: nested too deep, or too many. */
err json_shape_add(struct json_shape *s, const void *text, size_t n);

#endif
