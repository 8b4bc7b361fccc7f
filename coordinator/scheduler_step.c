/* The scheduler's step: which rows travel, in which blocks. */
#include "coordinator/scheduler_parts.h"

#include <string.h>

#define OUTS_OF_PROMPTS 8 /* outputs kept free for prompts while more sequences decode than fit one step */
#define STEP_ROWS 16      /* what a step costs beside its rows, in rows, about: its weights are read and unpacked */
#define TILE_ROWS 16      /* kernels take so many at once */
#define RECENT_STEPS 1    /* a block that was written so many steps ago is likely to be whole soon */

/* ---- blocks ---- */

static int32_t parent_of(const struct member *m, size_t i) { return i ? m->table[i - 1] : -1; }

/* Whose blocks `m` may have: the last by rank that has some, and comes after it. */
static struct member *find_victim(const struct scheduler *s, const struct member *m) {
    for (uint32_t i = s->n_running; i-- > 0 && s->running[i] != m;)
        if (s->running[i]->step != s->now && s->running[i]->n_table) return s->running[i];
    return NULL;
}

static int32_t get_block(struct scheduler *s, const struct member *m) {
    int32_t id;
    while ((id = blocks_take(s->blocks)) < 0) {
        struct member *victim = find_victim(s, m);
        if (!victim) return -1;
        member_preempt(s, victim);
    }
    return id;
}

/* Whether another computes this block just now, so that it is better to wait for it. */
static int comes_soon(const struct scheduler *s, int32_t id) {
    return s->may_wait && !blocks_is_known(s->blocks, id) && s->touched[id] + RECENT_STEPS >= s->now;
}

/* Takes over known blocks of its next rows. 0: wait a step, the next one is being computed. */
static int take_known(struct scheduler *s, struct member *m) {
    size_t n_rows, begin = m->n_given > m->n_reached ? m->n_given : m->n_reached;
    size_t n_skippable = sequence_n_skippable(m->q);
    const int32_t *rows = sequence_rows(m->q, &n_rows);
    int is_soon = 0;
    while (m->n_given == (size_t)m->n_table * KV_BLOCK_TOKENS && m->n_known == m->n_table &&
           m->n_given + KV_BLOCK_TOKENS <= n_skippable) {
        int32_t id = blocks_find(s->blocks, parent_of(m, m->n_table), rows + m->n_given);
        if (id < 0) break;
        is_soon = comes_soon(s, id);
        if (!blocks_is_known(s->blocks, id)) break;
        blocks_hold(s->blocks, id);
        m->table[m->n_table++] = id;
        m->n_known = m->n_indexed = m->n_table;
        m->n_given += KV_BLOCK_TOKENS;
    }
    if (m->n_given > begin) {
        sequence_count_cached(m->q, m->n_given - begin);
        s->n_prefix_tokens += m->n_given - begin;
        m->n_reached = m->n_given;
    }
    return !is_soon;
}

/* Gives `m` blocks for its rows before `end`; how far they reach. Stops before a block that need not be computed. */
static size_t grow_table(struct scheduler *s, struct member *m, size_t end) {
    size_t n_rows, n_skippable = sequence_n_skippable(m->q);
    const int32_t *rows = sequence_rows(m->q, &n_rows);
    for (size_t i; (i = m->n_table) * KV_BLOCK_TOKENS < end;) {
        size_t first = i * KV_BLOCK_TOKENS;
        int is_whole = m->n_indexed == i && first + KV_BLOCK_TOKENS <= n_rows;
        int32_t found = is_whole ? blocks_find(s->blocks, parent_of(m, i), rows + first) : -1;
        int is_inside = first > m->n_given || m->step == s->now; /* take_known has looked at the first of a step */
        if (found >= 0 && is_inside && first + KV_BLOCK_TOKENS <= n_skippable &&
            (blocks_is_known(s->blocks, found) || comes_soon(s, found)))
            return first;
        int32_t id = get_block(s, m);
        if (id < 0) return first;
        m->table[m->n_table++] = id;
        if (!is_whole || found >= 0) continue;
        blocks_begin(s->blocks, id, parent_of(m, i), rows + first);
        m->n_indexed++;
    }
    return end;
}

/* Puts the full block `i` of `m`, which is not in the index yet, there. One that another has computed, too, is given
 * up for the other's. 0: another is still at it. */
static int index_block(struct scheduler *s, struct member *m, uint32_t i, const int32_t *tokens) {
    int32_t other = blocks_find(s->blocks, parent_of(m, i), tokens);
    if (other >= 0 && !blocks_is_known(s->blocks, other)) return 0;
    if (other >= 0) {
        blocks_hold(s->blocks, other);
        blocks_release(s->blocks, m->table[i]);
        m->table[i] = other;
    } else {
        blocks_begin(s->blocks, m->table[i], parent_of(m, i), tokens);
    }
    m->n_indexed++;
    return 1;
}

/* Full blocks become known. */
static void learn_blocks(struct scheduler *s, struct member *m) {
    size_t n_rows;
    const int32_t *rows = sequence_rows(m->q, &n_rows);
    for (; m->n_known < m->n_given / KV_BLOCK_TOKENS; m->n_known++) {
        uint32_t i = m->n_known;
        if (i == m->n_indexed && !index_block(s, m, i, rows + (size_t)i * KV_BLOCK_TOKENS)) return;
        blocks_finish(s->blocks, m->table[i]);
    }
}

/* ---- rows ---- */

/* For how many of the next n rows of `m` the step has outputs and edits left. */
static size_t fit_rows(const struct scheduler *s, const struct member *m, size_t n) {
    while (n) {
        uint32_t n_outs, n_edits, room = s->outs_max - s->n_outs;
        sequence_wants(m->q, m->n_given, m->n_given + n, &n_outs, &n_edits);
        if (n_outs > room) n -= n_outs - room; /* each row wants one at most */
        else if (n_edits > s->edits_max - s->n_edits) n--; /* the last row's */
        else break;
    }
    return n;
}

/* Gives the next n rows of `m` to the step. */
static void give_rows(struct scheduler *s, struct member *m, size_t n, int is_decode) {
    struct flight *f = s->flight;
    uint32_t n_outs, n_edits;
    size_t begin = m->n_given, end = begin + n;
    sequence_wants(m->q, begin, end, &n_outs, &n_edits);
    if (m->step != s->now) {
        m->step = s->now;
        m->part = f->n_parts++;
        f->parts[m->part] = (struct part){.m = m, .begin = begin, .is_decode = is_decode};
    }
    f->parts[m->part].end = end;
    f->parts[m->part].n_outs += n_outs;
    f->has_decode |= is_decode;
    s->n_rows += (uint32_t)n;
    s->n_outs += n_outs;
    s->n_edits += n_edits;
    for (size_t i = begin / KV_BLOCK_TOKENS; i < blocks_for(end); i++) s->touched[m->table[i]] = s->now;
    if (!m->is_begun && s->o.on_begin) s->o.on_begin(s->o.context_of_begin, m->q);
    m->is_begun = 1;
    m->n_given = end;
    if (end > m->n_reached) m->n_reached = end;
    *(is_decode ? &s->n_decode_tokens : &s->n_prefill_tokens) += n;
}

/* Outputs that prompts find free in a step, or their last rows would wait while many decode; of one, in turn. */
static uint32_t outs_of_prompts(const struct scheduler *s) {
    if (!s->prompts.first) return 0;
    if (s->outs_max == 1) return s->now % 2 == 0;
    return s->outs_max < 2 * OUTS_OF_PROMPTS ? s->outs_max / 2 : OUTS_OF_PROMPTS;
}

/* The newest tokens of those that wait longest for a row, and not more of them than leave every group some. */
static void give_decode_rows(struct scheduler *s, uint32_t outs_max) {
    uint32_t most = (s->n_decoding + s->o.n_groups - 1) / s->o.n_groups;
    if (s->n_decode_flights >= s->o.n_groups) return;
    if (most > outs_max) most = outs_max;
    for (struct member *m = s->ready.first, *next; m && s->n_rows < most; m = next) {
        int is_given = fit_rows(s, m, 1) && grow_table(s, m, m->n_given + 1) > m->n_given;
        next = m->next; /* now: others may have lost their blocks */
        if (!is_given) continue;
        give_rows(s, m, 1, 1);
        members_remove(&s->ready, m);
        m->state = MEMBER_AWAY;
    }
}

/* At most `most` rows of what is left to be computed; how many there were. */
static uint32_t give_prompt_rows(struct scheduler *s, struct member *m, size_t most) {
    size_t n_rows;
    if (!take_known(s, m)) return 0;
    sequence_rows(m->q, &n_rows);
    size_t n = n_rows - m->n_given < most ? n_rows - m->n_given : most;
    n = fit_rows(s, m, n);
    if (n) n = grow_table(s, m, m->n_given + n) - m->n_given;
    if (n) give_rows(s, m, n, 0);
    return (uint32_t)n;
}

/* The prompt that is first by rank. */
static struct member *find_first_prompt(const struct scheduler *s) {
    uint32_t i = 0;
    while (s->running[i]->state != MEMBER_PROMPT) i++;
    return s->running[i];
}

/* Half of the rows for the prompt that is first by rank; the others in turn, who is served goes to the end of
 * the line; what they leave for the first again. */
static void share_prompt_rows(struct scheduler *s, uint32_t n_rows) {
    if (!n_rows || !s->prompts.first) return;
    struct member *first = find_first_prompt(s);
    uint32_t part_begin = s->flight->n_parts;
    uint32_t half = (n_rows + (uint32_t)(s->now & 1)) / 2; /* one row alone: in turn */
    n_rows -= give_prompt_rows(s, first, half);
    for (struct member *m = s->prompts.first, *next; m && n_rows; m = next) {
        if (m != first) n_rows -= give_prompt_rows(s, m, n_rows);
        next = m->next;
    }
    size_t n_left;
    sequence_rows(first->q, &n_left);
    if (n_rows && first->n_given < n_left) give_prompt_rows(s, first, n_rows);
    for (uint32_t i = part_begin; i < s->flight->n_parts; i++) {
        struct member *m = s->flight->parts[i].m;
        sequence_rows(m->q, &n_left);
        members_remove(&s->prompts, m);
        if (m->n_given < n_left) members_append(&s->prompts, m);
        else m->state = MEMBER_AWAY;
    }
}

/* Of a step of prompts alone, of n rows altogether, over k stages: the last stage waits for the first step to come
 * through, the first one for the last step. With steps of r rows all takes (n / r + k - 1) * (STEP_ROWS + r), which
 * is least for r^2 = n * STEP_ROWS / (k - 1). */
static uint32_t pipeline_rows(const struct scheduler *s) {
    uint64_t n = 0, rows = TILE_ROWS, n_more = s->o.n_groups - 1;
    for (const struct member *m = s->prompts.first; m; m = m->next) {
        size_t n_rows;
        sequence_rows(m->q, &n_rows); /* all: steps should not become smaller and smaller */
        n += n_rows;
    }
    while (rows < s->o.rows_max && rows * rows * n_more < n * STEP_ROWS) rows += TILE_ROWS;
    return rows < s->o.rows_max ? (uint32_t)rows : s->o.rows_max;
}

/* Rows of prompts that a step may have beside those it has. While others decode, a step of prompts alone only
 * fills a stage that would have no work. */
static uint32_t prompt_room(const struct scheduler *s, uint32_t prefill_rows) {
    uint32_t room = s->o.rows_max - s->n_rows;
    if (!s->n_decoding && s->o.n_groups == 1) return room;
    if (!s->n_decoding) {
        uint32_t rows = pipeline_rows(s);
        return rows < room ? rows : room;
    }
    if (!s->n_rows && s->n_flights >= s->o.n_groups) return 0;
    return prefill_rows < room ? prefill_rows : room;
}

/* ---- the step ---- */

static void fill_part(struct scheduler *s, struct part *p, uint32_t *row, uint32_t *n_hidden) {
    size_t n_rows, n_blocks = blocks_for(p->end);
    const int32_t *rows = sequence_rows(p->m->q, &n_rows);
    uint32_t n_outs, n_edits, out_begin = s->n_outs;
    sequence_wants(p->m->q, p->begin, p->end, &n_outs, &n_edits);
    sequence_want(p->m->q, p->begin, p->end, *row, s->n_edits, s->outs + out_begin, s->edits + s->n_edits);
    p->out_begin = out_begin;
    p->hidden_begin = *n_hidden;
    for (uint32_t i = out_begin; i < out_begin + n_outs; i++) *n_hidden += (s->outs[i].flags & OUT_HIDDEN) != 0;
    for (size_t i = p->begin; i < p->end; i++, (*row)++) {
        s->token[*row] = rows[i];
        s->position[*row] = (int32_t)i;
        s->table_begin[*row] = (int32_t)s->n_table;
    }
    memcpy(s->table + s->n_table, p->m->table, n_blocks * sizeof *s->table);
    s->n_table += (uint32_t)n_blocks;
    s->n_outs += n_outs;
    s->n_edits += n_edits;
}

void step_build(struct scheduler *s, uint32_t prefill_rows) {
    struct flight *f = s->flight;
    f->n_parts = 0;
    f->has_decode = 0;
    s->n_rows = s->n_outs = s->n_edits = s->n_table = 0;
    s->may_wait = 1;
    give_decode_rows(s, s->outs_max - outs_of_prompts(s));
    share_prompt_rows(s, prompt_room(s, prefill_rows));
    if (!f->n_parts && !s->n_flights) { /* all wait for somebody who waits for a block: no more */
        s->may_wait = 0;
        give_decode_rows(s, s->outs_max);
        share_prompt_rows(s, prompt_room(s, prefill_rows ? prefill_rows : 1));
    }
    f->n_outs = s->n_outs;
    uint32_t row = 0, n_hidden = 0;
    s->n_outs = s->n_edits = 0;
    for (uint32_t i = 0; i < f->n_parts; i++) fill_part(s, &f->parts[i], &row, &n_hidden);
    /* From the next step on: steps follow each other through every stage in order. */
    for (uint32_t i = 0; i < f->n_parts; i++) learn_blocks(s, f->parts[i].m);
}
