#include "coordinator/pacer.h"

#define WEIGHT 0.2        /* of a new time in a mean */
#define FIRST_ROWS 16     /* before anything is known */
#define TILE_ROWS 16      /* kernels take so many rows at once: part of a tile costs as much as all of it */
#define ALONE_EVERY 48    /* of mixed steps that follow each other, one is for measuring */

void pacer_init(struct pacer *p, double stretch, uint32_t rows_max) {
    *p = (struct pacer){.stretch = stretch, .rows_max = rows_max};
}

static uint32_t slot_of(uint32_t n_decode) { return n_decode < STEP_OUTS_MAX ? n_decode : STEP_OUTS_MAX; }

/* Of n rows, or of the nearest number that was seen. */
static double alone_us(const struct pacer *p, uint32_t n_decode) {
    int at = (int)slot_of(n_decode);
    for (int away = 0; away <= STEP_OUTS_MAX; away++) {
        if (at - away > 0 && p->alone_us[at - away] > 0) return p->alone_us[at - away];
        if (at + away <= STEP_OUTS_MAX && p->alone_us[at + away] > 0) return p->alone_us[at + away];
    }
    return 0;
}

/* To whole tiles of the step: down, but not to none. */
static uint32_t whole_tiles(uint32_t n_decode, uint32_t n_prefill) {
    uint32_t n = (n_decode + n_prefill) / TILE_ROWS * TILE_ROWS;
    return (n > n_decode ? n : n_decode / TILE_ROWS * TILE_ROWS + TILE_ROWS) - n_decode;
}

uint32_t pacer_rows(struct pacer *p, uint32_t n_decode) {
    uint32_t most = n_decode < p->rows_max ? p->rows_max - n_decode : 0;
    if (n_decode == 0) return most;
    double alone = alone_us(p, n_decode);
    if (alone > 0 && p->n_mixed >= ALONE_EVERY) return 0;
    uint32_t rows = FIRST_ROWS;
    if (alone > 0 && p->row_us > 0) {
        double fit = (p->stretch - 1) * alone / p->row_us;
        rows = fit < (double)p->rows_max ? (uint32_t)fit : p->rows_max;
    }
    rows = whole_tiles(n_decode, rows);
    return rows < most ? rows : most;
}

static void mean(double *m, double value) { *m = *m > 0 ? *m + WEIGHT * (value - *m) : value; }

void pacer_learn(struct pacer *p, uint32_t n_decode, uint32_t n_prefill, double us) {
    if (n_prefill == 0) {
        p->n_mixed = 0;
        if (n_decode) mean(&p->alone_us[slot_of(n_decode)], us);
        return;
    }
    if (n_decode == 0) return; /* full of prompts: nobody waits for it */
    p->n_mixed++;
    double alone = alone_us(p, n_decode);
    if (alone <= 0) return;
    double added = (us - alone) / n_prefill, least = alone * 1e-3; /* noise must not make rows free */
    mean(&p->row_us, added > least ? added : least);
}
