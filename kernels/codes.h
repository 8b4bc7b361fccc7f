/* Codes: the integers of one block of 32 columns as a quantised format stores
 * them, whatever its super-block. Both the packer and the reference start
 * here; format_decode() is the independent check of it. */
#ifndef KERNELS_CODES_H
#define KERNELS_CODES_H

#include <stdint.h>

#include "model/format.h"

/* value[i] = scale[i / 16] * (q[i] - offset) + min[i / 16], offset from
 * packed_info(). Formats with one scale per 32 repeat it. */
struct codes {
    uint8_t q[32];
    uint16_t d, m; /* f16: scale of the block or super-block, and min */
    int8_t scale[2];
    uint8_t min[2];
};

/* Block `block` (of 32 columns) of a row of file blocks. */
void codes_get(enum format f, const uint8_t *row, uint32_t block, struct codes *out);

/* The float scale and min of half h (0, 1); both exact. */
float codes_scale(enum format f, const struct codes *c, int h);
float codes_min(enum format f, const struct codes *c, int h);

#endif
