#include "coordinator/pacer.h"

#define WEIGHT 0.2      /* of a new time in a mean */
#define ALONE_EVERY 48  /* of mixed steps that follow each other, one is for measuring */
#define FEW_ROWS 8      /* of a step that kernels for few rows take at once */
#define FORGET 0.9995   /* of a time that was too long, at each step: it is tried again some day */

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

/* Of so many tiles: as seen, or each as long as those of the largest number below that was. */
static double tiles_us(const struct pacer *p, uint32_t n_tiles, double alone) {
    uint32_t seen = n_tiles;
    while (seen && p->tiles_us[seen] <= 0) seen--;
    if (seen == n_tiles) return p->tiles_us[seen];
    return seen ? alone + (p->tiles_us[seen] - alone) * n_tiles / seen : 0;
}

/* The most tiles that fit the time; `least` where none does, or nothing is known. */
static uint32_t choose_tiles(struct pacer *p, uint32_t least, double alone) {
    uint32_t n = least;
    if (alone <= 0 || p->tiles_us[least] <= 0) return n;
    /* At most one tile beyond what was seen: the second may cost far more than the first, half full of answers. */
    while (n < PACER_TILES_MAX && p->tiles_us[n] > 0 && tiles_us(p, n + 1, alone) <= p->stretch * alone) n++;
    if (n < PACER_TILES_MAX) p->tiles_us[n + 1] *= FORGET;
    return n;
}

/* Where even one tile is too long and fewer wait for it than are held up by it, half of a step of few rows is for
 * prompts. Beside more answers than that their part would be too small to get anywhere. */
static int is_tile_too_long(const struct pacer *p, uint32_t n_decode, uint32_t n_prompts, double alone) {
    return n_prompts <= n_decode && n_decode <= FEW_ROWS / 2 && p->tiles_us[1] > p->stretch * alone;
}

uint32_t pacer_rows(struct pacer *p, uint32_t n_decode, uint32_t n_prompts) {
    uint32_t most = n_decode < p->rows_max ? p->rows_max - n_decode : 0;
    if (n_decode == 0) return most;
    double alone = alone_us(p, n_decode);
    if (alone > 0 && p->n_mixed >= ALONE_EVERY) return 0;
    uint32_t least = n_decode / PACER_TILE_ROWS + 1; /* tiles with room for a row of a prompt */
    if (least > PACER_TILES_MAX) return PACER_TILE_ROWS < most ? PACER_TILE_ROWS : most;
    uint32_t rows = choose_tiles(p, least, alone) * PACER_TILE_ROWS - n_decode;
    if (is_tile_too_long(p, n_decode, n_prompts, alone)) {
        p->tiles_us[1] *= FORGET;
        rows = FEW_ROWS - n_decode;
    }
    return rows < most ? rows : most;
}

static void mean(double *m, double value) { *m = *m > 0 ? *m + WEIGHT * (value - *m) : value; }

void pacer_learn(struct pacer *p, uint32_t n_decode, uint32_t n_prefill, double us) {
    if (n_decode == 0) return; /* full of prompts: nobody waits for it */
    if (n_prefill == 0) {
        p->n_mixed = 0;
        mean(&p->alone_us[slot_of(n_decode)], us);
        return;
    }
    p->n_mixed++;
    if (n_decode + n_prefill <= FEW_ROWS) return; /* no tile */
    uint32_t n_tiles = (n_decode + n_prefill + PACER_TILE_ROWS - 1) / PACER_TILE_ROWS;
    if (n_tiles <= PACER_TILES_MAX) mean(&p->tiles_us[n_tiles], us);
}
