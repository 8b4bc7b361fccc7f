/* A whole grid of cells in one process: a thread per shard, stages one after
 * the other, messages through memory. No MPI: what it tests is the cut, and how shards on any hosts make one sum. */
#ifndef TESTS_GRID_H
#define TESTS_GRID_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"
#include "node/stage.h"

#define GRID_SHARDS_MAX 16

/* A message on its way; those of one sender and receiver stay in order. */
struct grid_message {
    struct grid_message *next;
    size_t n_bytes;
    uint8_t data[];
};

/* How shards meet; zero: on one host. */
struct grid_network {
    uint32_t host_of[GRID_SHARDS_MAX];
    float shares[GRID_SHARDS_MAX]; /* the first 0: equal ones */
    enum payload payload;
    size_t hop_bytes;
};

struct grid {
    struct gguf *gguf;
    struct program *program;
    uint32_t n_stages, n_shards, rows_max;
    const char *device; /* NULL: the plain-C reference */
    struct grid_network network;
    struct backend *backends[GRID_SHARDS_MAX * 4];
    struct stage *stages[GRID_SHARDS_MAX * 4];
    struct sums *sums[GRID_SHARDS_MAX * 4];
    uint64_t layer_begin[64];
    pthread_mutex_t lock;
    pthread_cond_t has_come;
    struct grid_message *messages[GRID_SHARDS_MAX][GRID_SHARDS_MAX]; /* from, to */
    uint64_t bytes_sent[GRID_SHARDS_MAX][N_SUM_ROUNDS]; /* by each shard, of all stages */
    uint32_t context;
    float *last_hidden; /* [n_outs, dim] of the next step that wants them */
};

/* A receive that is posted. */
struct grid_receive {
    enum sum_round round;
    uint32_t from;
    void *data;
    size_t n_bytes;
};

struct grid_shard {
    struct grid *grid;
    uint32_t shard, stage;
    const struct step *step;
    float *hidden, *logits;
    struct grid_receive receives[4 * GRID_SHARDS_MAX];
    uint32_t n_receives;
    err e;
    char text[1024];
};

static inline err grid_send(void *context, enum sum_round round, uint32_t to, const void *data, size_t n) {
    struct grid_shard *s = context;
    struct grid *g = s->grid;
    struct grid_message *m = malloc(sizeof *m + n), **end = &g->messages[s->shard][to];
    *m = (struct grid_message){.n_bytes = n};
    memcpy(m->data, data, n);
    pthread_mutex_lock(&g->lock);
    while (*end) end = &(*end)->next;
    *end = m;
    g->bytes_sent[s->shard][round] += n;
    pthread_cond_broadcast(&g->has_come);
    pthread_mutex_unlock(&g->lock);
    return OK;
}

static inline err grid_receive(void *context, enum sum_round round, uint32_t from, void *data, size_t n) {
    struct grid_shard *s = context;
    s->receives[s->n_receives++] = (struct grid_receive){round, from, data, n};
    return OK;
}

static inline err grid_take(struct grid_shard *s, const struct grid_receive *r) {
    struct grid *g = s->grid;
    pthread_mutex_lock(&g->lock);
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += 60;
    while (!g->messages[r->from][s->shard])
        if (pthread_cond_timedwait(&g->has_come, &g->lock, &limit) != 0) {
            pthread_mutex_unlock(&g->lock);
            return err_set(ERR_TIMEOUT, "shard %u waits for shard %u", s->shard, r->from);
        }
    struct grid_message *m = g->messages[r->from][s->shard];
    g->messages[r->from][s->shard] = m->next;
    pthread_mutex_unlock(&g->lock);
    err e = m->n_bytes == r->n_bytes ? OK : err_set(ERR_INTERNAL, "shard %u sent %zu bytes to %u, which expects %zu",
                                                    r->from, m->n_bytes, s->shard, r->n_bytes);
    if (e == OK) memcpy(r->data, m->data, m->n_bytes);
    free(m);
    return e;
}

static inline err grid_wait(void *context, enum sum_round round, int layer) {
    struct grid_shard *s = context;
    uint32_t kept = 0;
    err e = OK;
    (void)layer;
    for (uint32_t i = 0; i < s->n_receives; i++)
        if (s->receives[i].round != round) s->receives[kept++] = s->receives[i];
        else if (e == OK) e = grid_take(s, &s->receives[i]);
    s->n_receives = kept;
    return e;
}

static inline struct sums *grid_sums(void *context) {
    struct grid_shard *s = context;
    return s->grid->sums[s->stage * s->grid->n_shards + s->shard];
}

static inline err grid_begin(void *context, enum axis axis, uint32_t n_rows) {
    return sums_begin(grid_sums(context), axis, n_rows);
}

static inline err grid_sum(void *context, int layer, const float *mine, float *sum) {
    return sums_finish(grid_sums(context), layer, mine, sum);
}

static inline err grid_collect_begin(void *context, const size_t *n, float *all) {
    struct grid_shard *s = context;
    for (uint32_t i = 0; all && i < s->grid->n_shards; all += n[i++])
        if (i && n[i]) grid_receive(context, SUM_BACK, i, all, n[i] * sizeof *all);
    return OK;
}

static inline err grid_collect(void *context, int layer, const float *mine, const size_t *n, float *all) {
    struct grid_shard *s = context;
    if (all) memcpy(all, mine, n[0] * sizeof *all);
    else if (n[s->shard]) grid_send(context, SUM_BACK, 0, mine, n[s->shard] * sizeof *mine);
    return grid_wait(context, SUM_BACK, layer);
}

static struct grid_shard grid_shards[GRID_SHARDS_MAX * 4];

static inline err grid_cell_create(struct grid *g, uint32_t stage, uint32_t shard, uint32_t n_blocks) {
    uint32_t i = stage * g->n_shards + shard;
    if (g->device) TRY(backend_opencl(g->device, &g->backends[i]));
    else TRY(backend_reference(&g->backends[i]));
    const float *shares = g->network.shares[0] > 0 ? g->network.shares : NULL;
    struct cell cell = {g->n_stages, g->n_shards, stage, shard,
                        g->program->n_layers * stage / g->n_stages,
                        g->program->n_layers * (stage + 1) / g->n_stages, shares};
    struct stage_limits limits = {g->rows_max, n_blocks, g->context};
    struct exchange ex = {.context = &grid_shards[i], .begin = grid_begin, .sum = grid_sum,
                          .collect_begin = grid_collect_begin, .collect = grid_collect};
    struct source source = source_file(g->gguf);
    TRY(stage_create(g->backends[i], &source, g->program, &cell, &limits, &ex, NULL, NULL, &g->stages[i]));
    struct shard_crew crews[GRID_SHARDS_MAX];
    const struct sums_setup setup = {.program = g->program, .shares = shares, .n_shards = g->n_shards, .shard = shard,
                                     .crews = crews,
                                     .n_crews = crew_find(g->network.host_of, g->n_shards, crews),
                                     .rows_max = g->rows_max, .payload = g->network.payload,
                                     .hop_bytes = g->network.hop_bytes,
                                     .link = {&grid_shards[i], grid_receive, grid_send, grid_wait}};
    return g->n_shards == 1 ? OK : sums_create(&setup, &g->sums[i]);
}

static inline err grid_open_network(struct grid *g, const char *path, const char *device, uint32_t n_stages,
                                    uint32_t n_shards, uint32_t rows_max, uint32_t context,
                                    const struct grid_network *network) {
    memset(g, 0, sizeof *g);
    g->n_stages = n_stages;
    g->n_shards = n_shards;
    g->rows_max = rows_max;
    g->device = device;
    g->context = context;
    g->network = *network;
    TRY(gguf_open(path, &g->gguf));
    TRY(program_create(g->gguf, &g->program));
    pthread_mutex_init(&g->lock, NULL);
    pthread_cond_init(&g->has_come, NULL);
    for (uint32_t p = 0; p < n_stages; p++)
        for (uint32_t t = 0; t < n_shards; t++)
            TRY(grid_cell_create(g, p, t, context / KV_BLOCK_TOKENS + 2));
    return OK;
}

static inline err grid_open(struct grid *g, const char *path, const char *device, uint32_t n_stages,
                            uint32_t n_shards, uint32_t rows_max, uint32_t context) {
    const struct grid_network network = {0};
    return grid_open_network(g, path, device, n_stages, n_shards, rows_max, context, &network);
}

static inline void grid_close(struct grid *g) {
    for (uint32_t i = 0; i < g->n_stages * g->n_shards; i++) {
        stage_free(g->stages[i]);
        sums_free(g->sums[i]);
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
