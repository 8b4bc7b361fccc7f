/* A whole grid of cells in one process: a thread per shard, stages one after
 * the other, exchanges through memory. No MPI: what it tests is the cut. */
#ifndef TESTS_GRID_H
#define TESTS_GRID_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "node/stage.h"

#define GRID_SHARDS_MAX 16

struct grid {
    struct gguf *gguf;
    struct program *program;
    uint32_t n_stages, n_shards, rows_max;
    const char *device; /* NULL: the plain-C reference */
    struct backend *backends[GRID_SHARDS_MAX * 4];
    struct stage *stages[GRID_SHARDS_MAX * 4];
    uint64_t layer_begin[64];
    pthread_barrier_t barrier;
    const float *shared[GRID_SHARDS_MAX];
    uint32_t context;
    float *last_hidden; /* [n_outs, dim] of the next step that wants them */
};

struct grid_shard {
    struct grid *grid;
    uint32_t shard, stage;
    const struct step *step;
    float *hidden, *logits;
    err e;
    char text[1024];
};

static inline err grid_share(void *context, int layer, const float *mine, const size_t *n, float *all) {
    struct grid_shard *s = context;
    (void)layer;
    s->grid->shared[s->shard] = mine;
    pthread_barrier_wait(&s->grid->barrier);
    for (uint32_t i = 0; all && i < s->grid->n_shards; i++) {
        memcpy(all, s->grid->shared[i], n[i] * sizeof *all);
        all += n[i];
    }
    pthread_barrier_wait(&s->grid->barrier);
    return OK;
}

static struct grid_shard grid_shards[GRID_SHARDS_MAX * 4];

static inline err grid_cell_create(struct grid *g, uint32_t stage, uint32_t shard, uint32_t n_blocks) {
    uint32_t i = stage * g->n_shards + shard;
    if (g->device) TRY(backend_opencl(g->device, &g->backends[i]));
    else TRY(backend_reference(&g->backends[i]));
    struct cell cell = {g->n_stages, g->n_shards, stage, shard,
                        g->program->n_layers * stage / g->n_stages,
                        g->program->n_layers * (stage + 1) / g->n_stages, NULL};
    struct stage_limits limits = {g->rows_max, n_blocks, g->context};
    struct exchange ex = {.context = &grid_shards[i], .share = grid_share, .collect = grid_share};
    return stage_create(g->backends[i], g->gguf, g->program, &cell, &limits, &ex, NULL, NULL,
                        &g->stages[i]);
}

static inline err grid_open(struct grid *g, const char *path, const char *device, uint32_t n_stages,
                            uint32_t n_shards, uint32_t rows_max, uint32_t context) {
    memset(g, 0, sizeof *g);
    g->n_stages = n_stages;
    g->n_shards = n_shards;
    g->rows_max = rows_max;
    g->device = device;
    g->context = context;
    TRY(gguf_open(path, &g->gguf));
    TRY(program_create(g->gguf, &g->program));
    pthread_barrier_init(&g->barrier, NULL, n_shards);
    for (uint32_t p = 0; p < n_stages; p++)
        for (uint32_t t = 0; t < n_shards; t++)
            TRY(grid_cell_create(g, p, t, context / KV_BLOCK_TOKENS + 2));
    return OK;
}

static inline void grid_close(struct grid *g) {
    for (uint32_t i = 0; i < g->n_stages * g->n_shards; i++) {
        stage_free(g->stages[i]);
        if (g->backends[i]) g->backends[i]->ops->destroy(g->backends[i]);
    }
    program_free(g->program);
    gguf_close(g->gguf);
}

static inline void *grid_thread(void *arg) {
    struct grid_shard *s = arg;
    s->e = stage_run(s->grid->stages[s->stage * s->grid->n_shards + s->shard], s->step, s->hidden,
                     s->logits);
    if (s->e != OK) snprintf(s->text, sizeof s->text, "%s", err_text());
    return NULL;
}

/* One step through the whole grid; logits [n_outs, n_vocab]. What nobody wrote is NaN. */
static inline err grid_step(struct grid *g, const struct step *step, float *logits) {
    size_t n = (size_t)g->rows_max * g->program->dim;
    float *hidden;
    TRY(NEW(hidden, n * g->n_shards));
    memset(hidden, 0xff, n * g->n_shards * sizeof *hidden);
    err e = OK;
    for (uint32_t p = 0; p < g->n_stages && e == OK; p++) {
        pthread_t threads[GRID_SHARDS_MAX];
        for (uint32_t t = 0; t < g->n_shards; t++) {
            struct grid_shard *s = &grid_shards[p * g->n_shards + t];
            *s = (struct grid_shard){.grid = g, .shard = t, .stage = p, .step = step,
                                     .hidden = hidden + t * n,
                                     .logits = p == g->n_stages - 1 && t == 0 ? logits : NULL};
            pthread_create(&threads[t], NULL, grid_thread, s);
        }
        for (uint32_t t = 0; t < g->n_shards; t++) {
            pthread_join(threads[t], NULL);
            struct grid_shard *s = &grid_shards[p * g->n_shards + t];
            if (s->e != OK) e = err_set(s->e, "%s", s->text);
        }
    }
    if (g->last_hidden) memcpy(g->last_hidden, hidden, (size_t)step->n_outs * g->program->dim * sizeof *hidden);
    free(hidden);
    return e;
}

/* Logits and last hidden states (each may be NULL) of every position of one sequence, prefilled in pieces of
 * `chunk`. Blocks are handed out in a scrambled order, so that paging is tested too. */
static inline err grid_rows(struct grid *g, const int32_t *tokens, uint32_t n, uint32_t chunk, float *logits,
                            float *last_hidden) {
    int32_t table[256], zero[STEP_OUTS_MAX] = {0}, position[STEP_OUTS_MAX];
    uint32_t n_blocks = n / KV_BLOCK_TOKENS + 1;
    for (uint32_t i = 0; i < n_blocks; i++) table[i] = (int32_t)(n_blocks - 1 - i);
    for (uint32_t at = 0; at < n; at += chunk) {
        uint32_t rows = n - at < chunk ? n - at : chunk;
        struct step_out outs[STEP_OUTS_MAX];
        for (uint32_t i = 0; i < rows; i++) {
            position[i] = (int32_t)(at + i);
            outs[i] = (struct step_out){.row = (int32_t)i,
                                        .flags = (logits ? OUT_LOGITS : 0) | (last_hidden ? OUT_HIDDEN : 0)};
        }
        struct step step = {.n_rows = rows, .n_table = n_blocks, .n_outs = rows, .token = tokens + at,
                            .position = position, .table_begin = zero, .table = table, .outs = outs};
        g->last_hidden = last_hidden ? last_hidden + (size_t)at * g->program->dim : NULL;
        TRY(grid_step(g, &step, logits ? logits + (size_t)at * g->program->n_vocab : NULL));
    }
    return OK;
}

/* Numbers separated by commas; returns how many. */
static inline uint32_t grid_read_tokens(const char *path, int32_t *out, uint32_t cap) {
    FILE *f = fopen(path, "r");
    uint32_t n = 0;
    while (f && n < cap && fscanf(f, "%d%*[,]", &out[n]) == 1) n++;
    if (f) fclose(f);
    return n;
}

#endif
