/* Packing: file blocks of 16 rows into the planes of model/packed.h. */
#ifndef KERNELS_PACK_H
#define KERNELS_PACK_H

#include <stdint.h>

#include "model/packed.h"

/* The planes of one group, to be placed at group * (plane bytes of a group). */
struct packed_group {
    uint8_t *quants, *high, *scales, *supers;
};

/* Bytes of one group in each plane. */
void pack_group_bytes(const struct packed_layout *l, size_t *quants, size_t *high, size_t *scales,
                      size_t *supers);

/* Of all planes together. */
size_t pack_group_total(const struct packed_layout *l);

/* Groups of a part, the unit in which a matrix is loaded and kept on disk: what is read of it is packed out of
 * the core's cache. The last part of a matrix may have fewer. 0 where the matrix is empty. */
uint32_t pack_part_groups(const struct packed_layout *l);

/* Packs rows [0, n_rows <= 16) at `rows`, `row_bytes` apart, whose first file block holds
 * `block_first` blocks of 32 columns before the slice. Missing rows become zero. */
void pack_group(const struct packed_layout *l, const uint8_t *rows, size_t row_bytes,
                uint32_t n_rows, uint32_t block_first, const struct packed_group *out);

#endif
