/* Packed: the device layout of a weight matrix. Geometry only, shared by the
 * planner (sizes) and kernels/ (contents). Pure arithmetic.
 *
 * Rows are interleaved in groups of PACKED_LANES lanes; the last group is padded with
 * zero rows. A buffer holds up to four planes, each 64-byte aligned; inside a
 * plane group follows group, block (32 columns) follows block:
 *   quants  [group][block][word][lane] u32. 8 bit: word j = columns 4j..4j+3.
 *           4 bit: word j = columns 4j..4j+3 in the low nibbles, 16+4j.. in
 *           the high ones. 2 bit: word p, field f (bits 2f of each byte) = columns 4(4p+f)...
 *           dense: [group][column][lane] f32, f16 or bf16
 *   high    [group][block][word][lane] u32: the fifth bit (Q5), bits j of byte i = column 4j+i;
 *           2 upper bits as above (Q6_K); the third bit (Q3_K)
 *   scales  [group][block]: f16 d [lane] (then f16 m [lane]); K formats: u8 codes [2][lane]
 *           (Q4_K, Q5_K: scale, min; Q2_K: scale | min << 4 of each half; Q6_K: int8 of each
 *           half), Q3_K: low nibbles of both halves [lane]
 *   supers  [group][super-block of 256 columns that the slice touches]: f16 d [lane] (then dmin [lane]);
 *           Q3_K: also the upper two bits of its 16 scales as u32 [lane], after all d
 * Signed quants are stored with an offset as unsigned. */
#ifndef MODEL_PACKED_H
#define MODEL_PACKED_H

#include <stddef.h>
#include <stdint.h>

#include "model/format.h"

#define PACKED_LANES 16
#define PACKED_BLOCK 32 /* columns */
#define Q8_BLOCK_BYTES 48 /* of 32 activations, see struct q8_block in kernels/ */

/* What sums of activations stand times in a q8_block: minus the offsets of Q4_0 and of Q6_K, so that their dots
 * can begin with a sum as it stands. The other offsets are a power of two away. */
#define Q8_SUM_TIMES (-8)
#define Q8_SUM_HALF_TIMES (-32)

/* How a format is packed. All "bytes" are per lane. */
struct packed_info {
    uint32_t quant_bytes; /* per block; dense: per column */
    uint32_t high_bytes;  /* per block */
    uint32_t scale_bytes; /* per block */
    uint32_t super_bytes; /* per super-block */
    uint32_t offset;      /* subtracted from the unsigned quants */
    uint32_t has_min;     /* value = scale * q + min */
    uint32_t n_scales;    /* per block: 1, or 2 for groups of 16 */
};

const struct packed_info *packed_info(enum format f);

/* A packed slice: rows x columns [col_begin, col_end) of a tensor. */
struct packed_layout {
    enum format format;
    uint32_t rows, cols;
    uint32_t n_groups, n_blocks;
    uint32_t super_first; /* blocks of the first super-block before the slice */
    uint32_t n_supers;
    size_t quants_at, high_at, scales_at, supers_at; /* bytes */
    size_t n_bytes;
};

/* col_begin is a multiple of 32 for quantised formats. rows or cols may be 0. */
void packed_layout_make(enum format f, uint64_t rows, uint64_t col_begin,
                        uint64_t col_end, struct packed_layout *out);

#endif
