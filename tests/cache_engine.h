/* An engine without a model: it keeps what steps write into the blocks of a KV cache and makes tokens of all that a
 * row can read there, so that any mistake of paging, sharing, eviction or preemption changes an answer. */
#ifndef TESTS_CACHE_ENGINE_H
#define TESTS_CACHE_ENGINE_H

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "node/frame.h"

#define ENGINE_DIM 2

/* The results of one step. */
struct engine_answer {
    struct result r;
    struct result_out outs[STEP_OUTS_MAX];
    float hidden[STEP_OUTS_MAX * ENGINE_DIM];
};

struct cache_engine {
    uint32_t n_vocab, n_blocks;
    uint64_t (*cells)[KV_BLOCK_TOKENS]; /* [n_blocks] "keys and values": of the token and all before it */
    uint64_t *sums;                     /* [n_blocks] of the block's cells */
    uint64_t (*written)[KV_BLOCK_TOKENS]; /* the step that wrote a cell, and where its table began in it */
    uint64_t n_steps, hash;               /* of all steps */
};

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ b * 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
    return x ^ x >> 29;
}

static void cache_engine_create(struct cache_engine *e, uint32_t n_vocab, uint32_t n_blocks) {
    *e = (struct cache_engine){.n_vocab = n_vocab, .n_blocks = n_blocks};
    assert_int_equal(NEW(e->cells, n_blocks), OK);
    assert_int_equal(NEW(e->written, n_blocks), OK);
    assert_int_equal(NEW(e->sums, n_blocks), OK);
}

static void cache_engine_free(struct cache_engine *e) {
    free(e->cells);
    free(e->written);
    free(e->sums);
}

/* The cache is lost. */
static void cache_engine_reset(struct cache_engine *e) {
    memset(e->cells, 0xee, e->n_blocks * sizeof *e->cells);
    for (uint32_t i = 0; i < e->n_blocks; i++) e->sums[i] = KV_BLOCK_TOKENS * e->cells[i][0];
}

static void engine_write(struct cache_engine *e, const struct step *s, uint32_t row) {
    const int32_t *table = s->table + s->table_begin[row];
    uint32_t at = (uint32_t)s->position[row];
    int32_t block = table[at / KV_BLOCK_TOKENS];
    uint64_t before = at ? e->cells[table[(at - 1) / KV_BLOCK_TOKENS]][(at - 1) % KV_BLOCK_TOKENS] : 1;
    uint64_t *cell = &e->cells[block][at % KV_BLOCK_TOKENS], *written = &e->written[block][at % KV_BLOCK_TOKENS];
    if (*written >> 32 == e->n_steps) fail_msg("two rows of a step write to block %d", block);
    *written = e->n_steps << 32 | (uint32_t)s->table_begin[row];
    e->sums[block] -= *cell;
    *cell = mix(before, (uint64_t)s->token[row] * 8191 + at);
    e->sums[block] += *cell;
}

/* All that a row reads: its whole past, through its table. */
static uint64_t engine_read(const struct cache_engine *e, const struct step *s, uint32_t row) {
    const int32_t *table = s->table + s->table_begin[row];
    uint32_t n = (uint32_t)s->position[row] + 1, n_whole = n / KV_BLOCK_TOKENS;
    uint64_t seen = n;
    for (uint32_t i = 0; i < n_whole; i++) seen = mix(seen, e->sums[table[i]]);
    for (uint32_t i = n_whole * KV_BLOCK_TOKENS; i < n; i++)
        seen = mix(seen, e->cells[table[n_whole]][i % KV_BLOCK_TOKENS]);
    /* What another wrote in this very step might not be there yet. */
    for (uint32_t i = 0; i < n; i += i + KV_BLOCK_TOKENS < n ? KV_BLOCK_TOKENS : 1) {
        uint64_t written = e->written[table[i / KV_BLOCK_TOKENS]][i % KV_BLOCK_TOKENS];
        if (written >> 32 == e->n_steps && (uint32_t)written != (uint32_t)s->table_begin[row])
            fail_msg("a row reads what another sequence writes in the same step");
    }
    return seen;
}

static void engine_answer_out(const struct cache_engine *e, const struct step *s, const struct step_out *o,
                              struct engine_answer *a) {
    uint64_t seen = engine_read(e, s, (uint32_t)o->row), edits = 0;
    for (uint32_t i = o->edit_begin; i < o->edit_end; i++)
        edits += mix((uint64_t)s->edits[i].token, (uint64_t)(s->edits[i].subtract * 64 + s->edits[i].repeat * 8192));
    struct result_out *out = &a->outs[a->r.n_outs++];
    *out = (struct result_out){.token = -1};
    uint64_t drawn = mix(mix(mix(seen, o->seed), o->position), edits);
    if (o->flags & OUT_SAMPLE) out->token = (int32_t)(drawn % e->n_vocab);
    if (o->flags & OUT_SCORE) out->score = -(double)(mix(seen, (uint64_t)o->target) % 1000);
    if (!(o->flags & OUT_HIDDEN)) return;
    float *hidden = a->hidden + a->r.n_hidden_rows++ * ENGINE_DIM;
    for (uint32_t i = 0; i < ENGINE_DIM; i++) hidden[i] = (float)(mix(seen, i) % 1000);
}

/* Computes a step at once: the job does so in the order in which steps are given out. */
static void cache_engine_run(struct cache_engine *e, const struct step *s, struct engine_answer *a) {
    e->n_steps++;
    for (uint32_t i = 0; i < s->n_rows; i++) engine_write(e, s, i);
    a->r = (struct result){.dim = ENGINE_DIM, .outs = a->outs, .hidden = a->hidden};
    for (uint32_t i = 0; i < s->n_outs; i++) engine_answer_out(e, s, &s->outs[i], a);
    e->hash = mix(e->hash, s->n_rows);
    for (uint32_t i = 0; i < s->n_rows; i++) {
        uint64_t place = (uint64_t)s->position[i] << 32 | (uint32_t)s->table_begin[i];
        e->hash = mix(e->hash, mix((uint64_t)s->token[i], place));
    }
    for (uint32_t i = 0; i < s->n_table; i++) e->hash = mix(e->hash, (uint64_t)s->table[i]);
}

#endif
