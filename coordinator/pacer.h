/* Pacer: how many rows of prompts a step may carry so that running answers do not
 * stutter. Learns from measured steps what a step of decoding alone takes and what a step of so
 * many tiles of rows does, and allows the most that take at most `stretch` times as long as decoding
 * alone; some at least, or a prompt would never be read. Plain state, no clock of its own:
 * times are given. One thread. */
#ifndef COORDINATOR_PACER_H
#define COORDINATOR_PACER_H

#include <stdint.h>

#include "model/limits.h"

#define PACER_TILE_ROWS 16 /* kernels take so many rows at once: part of a tile costs as much as all of it */
#define PACER_TILES_MAX 64

struct pacer {
    double stretch;
    uint32_t rows_max;                  /* of a step */
    double alone_us[STEP_OUTS_MAX + 1]; /* a step of n decoding rows and nothing else; 0: not seen yet */
    double tiles_us[PACER_TILES_MAX + 1]; /* a step of n tiles, prompts in it; 0: not seen yet */
    uint32_t n_mixed;                   /* steps since the last one of decoding alone */
};

void pacer_init(struct pacer *p, double stretch, uint32_t rows_max);
/* Rows of prompts beside n_decode decoding rows, with n_prompts prompts not wholly read; 0 now and then, to measure
 * decoding alone again. */
uint32_t pacer_rows(struct pacer *p, uint32_t n_decode, uint32_t n_prompts);
/* A step that took `us`, from the later of its start and the end of the one before. */
void pacer_learn(struct pacer *p, uint32_t n_decode, uint32_t n_prefill, double us);

#endif
