#include "model/packed.h"

/* Sums of bytes per 256 values, against the file: Q8_0 272/272, Q4_0 144/144,
 * Q4_1 160/160, Q5_0 176/176, Q5_1 192/192, Q2_K 84/84, Q3_K 110/110,
 * Q4_K 148/144, Q5_K 180/176, Q6_K 210/210. */
static const struct packed_info infos[N_FORMATS] = {
    /*              quant high scale super offset min scales */
    [FORMAT_F32] = {4, 0, 0, 0, 0, 0, 0},
    [FORMAT_F16] = {2, 0, 0, 0, 0, 0, 0},
    [FORMAT_BF16] = {2, 0, 0, 0, 0, 0, 0},
    [FORMAT_Q8_0] = {32, 0, 2, 0, 128, 0, 1},
    [FORMAT_Q4_0] = {16, 0, 2, 0, 8, 0, 1},
    [FORMAT_Q4_1] = {16, 0, 4, 0, 0, 1, 1},
    [FORMAT_Q5_0] = {16, 4, 2, 0, 16, 0, 1},
    [FORMAT_Q5_1] = {16, 4, 4, 0, 0, 1, 1},
    [FORMAT_Q2_K] = {8, 0, 2, 4, 0, 1, 2},
    [FORMAT_Q3_K] = {8, 4, 1, 6, 4, 0, 2},
    [FORMAT_Q4_K] = {16, 0, 2, 4, 0, 1, 1},
    [FORMAT_Q5_K] = {16, 4, 2, 4, 0, 1, 1},
    [FORMAT_Q6_K] = {16, 8, 2, 2, 32, 0, 2},
};

const struct packed_info *packed_info(enum format f) { return &infos[f]; }

static size_t align64(size_t n) { return (n + 63) / 64 * 64; }

void packed_layout_make(enum format f, uint64_t rows, uint64_t col_begin, uint64_t col_end,
                        struct packed_layout *out) {
    const struct packed_info *info = &infos[f];
    *out = (struct packed_layout){.format = f, .rows = (uint32_t)rows,
                                  .cols = (uint32_t)(col_end - col_begin)};
    out->n_groups = (out->rows + PACKED_LANES - 1) / PACKED_LANES;
    size_t lanes = (size_t)out->n_groups * PACKED_LANES;
    if (!format_info(f)->is_quantised) {
        out->n_blocks = out->cols; /* a dense plane is per column */
        out->n_bytes = align64(lanes * out->cols * info->quant_bytes);
        out->high_at = out->scales_at = out->supers_at = out->n_bytes;
        return;
    }
    out->n_blocks = out->cols / PACKED_BLOCK;
    uint64_t block = col_begin / PACKED_BLOCK;
    if (info->super_bytes && out->n_blocks) {
        out->super_first = (uint32_t)(block % 8);
        out->n_supers = (out->super_first + out->n_blocks + 7) / 8;
    }
    out->high_at = align64(lanes * out->n_blocks * info->quant_bytes);
    out->scales_at = out->high_at + align64(lanes * out->n_blocks * info->high_bytes);
    out->supers_at = out->scales_at + align64(lanes * out->n_blocks * info->scale_bytes);
    out->n_bytes = out->supers_at + align64(lanes * out->n_supers * info->super_bytes);
}
