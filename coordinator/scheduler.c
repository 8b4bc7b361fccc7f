#include "coordinator/scheduler_parts.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define RUNNING_STEPS 2       /* outputs of so many steps of every group: more at once would only wait for each other */
#define PREEMPTIONS_PATIENT 2 /* who lost its blocks so often keeps them from now on */

/* ---- lists ---- */

void members_append(struct member_list *l, struct member *m) {
    m->prev = l->last;
    m->next = NULL;
    *(m->prev ? &m->prev->next : &l->first) = m;
    l->last = m;
}

void members_remove(struct member_list *l, struct member *m) {
    *(m->prev ? &m->prev->next : &l->first) = m->next;
    *(m->next ? &m->next->prev : &l->last) = m->prev;
}

/* Who keeps its blocks where only one of two can. */
static int is_before(const struct member *a, const struct member *b) {
    if (a->is_aged != b->is_aged) return a->is_aged;
    if (!a->is_aged && a->priority != b->priority) return a->priority > b->priority;
    return a->arrival < b->arrival;
}

/* ---- creation ---- */

static err check_options(const struct scheduler_options *o) {
    if (!o->rows_max || !o->n_groups || !o->context || !o->n_vocab)
        return err_set(ERR_INTERNAL, "a scheduler of %u rows, %u groups, context %u, vocabulary %u", o->rows_max,
                       o->n_groups, o->context, o->n_vocab);
    if (o->n_blocks < blocks_for(o->context))
        return err_set(ERR_CONFIG, "a cache of %u blocks holds %llu positions, fewer than the context of %u",
                       o->n_blocks, (unsigned long long)o->n_blocks * KV_BLOCK_TOKENS, o->context);
    return OK;
}

static err arrays_create(struct scheduler *s) {
    size_t rows_max = s->o.rows_max;
    TRY(blocks_create(s->o.n_blocks, &s->blocks));
    TRY(waiting_create(&s->waiting));
    TRY(NEW(s->running, s->running_max));
    TRY(NEW(s->tables, (size_t)s->running_max * s->table_cap));
    TRY(NEW(s->free_tables, s->running_max));
    for (uint32_t i = s->running_max; i-- > 0;)
        s->free_tables[s->n_free_tables++] = s->tables + (size_t)i * s->table_cap;
    TRY(NEW(s->touched, s->o.n_blocks));
    TRY(NEW(s->token, rows_max));
    TRY(NEW(s->position, rows_max));
    TRY(NEW(s->table_begin, rows_max));
    size_t n_parts = rows_max < s->running_max ? rows_max : s->running_max;
    TRY(NEW(s->table, n_parts * s->table_cap));
    TRY(NEW(s->outs, s->outs_max));
    return NEW(s->edits, s->edits_max);
}

err scheduler_create(const struct scheduler_options *o, struct scheduler **out) {
    struct scheduler *s;
    TRY(check_options(o));
    TRY(NEW(s, 1));
    s->o = *o;
    s->outs_max = o->rows_max < STEP_OUTS_MAX ? o->rows_max : STEP_OUTS_MAX;
    s->edits_max = frame_edits_max(&(struct step_limits){o->rows_max, o->n_vocab, o->n_blocks, o->context});
    s->table_cap = (uint32_t)blocks_for(o->context);
    s->running_max = RUNNING_STEPS * s->outs_max * o->n_groups;
    s->now = RUNNING_STEPS; /* after any step that a member or block could have been in */
    err e = arrays_create(s);
    if (e != OK) {
        scheduler_free(s);
        return e;
    }
    *out = s;
    return OK;
}

void scheduler_set_groups(struct scheduler *s, uint32_t n_groups) { s->o.n_groups = n_groups; }

void scheduler_free(struct scheduler *s) {
    if (!s) return;
    while (s->n_running) scheduler_remove(s, s->running[0]->q);
    int is_aged;
    struct waiting_place *p;
    while (s->waiting && (p = waiting_next(s->waiting, &is_aged))) scheduler_remove(s, ((struct member *)(void *)p)->q);
    for (uint32_t i = 0; i < s->cap_flights; i++) free(s->flights[i].parts);
    free(s->flights);
    blocks_free(s->blocks);
    waiting_free(s->waiting);
    free(s->running);
    free(s->tables);
    free(s->free_tables);
    free(s->touched);
    free(s->token);
    free(s->position);
    free(s->table_begin);
    free(s->table);
    free(s->outs);
    free(s->edits);
    free(s);
}

/* ---- coming and going ---- */

err scheduler_add(struct scheduler *s, struct sequence *q, uint32_t key, int priority) {
    size_t n_rows;
    uint32_t queue;
    sequence_rows(q, &n_rows);
    if (n_rows > s->o.context)
        return err_set(ERR_REQUEST, "a text of %zu tokens, the context is %u", n_rows, s->o.context);
    if (sequence_place(q)) return err_set(ERR_INTERNAL, "a sequence was added twice");
    TRY(waiting_queue(s->waiting, key, priority, &queue));
    struct member *m;
    TRY(NEW(m, 1));
    m->q = q;
    m->queue = queue;
    m->priority = priority;
    m->arrival = s->n_arrived++;
    sequence_set_place(q, m);
    waiting_add(s->waiting, &m->place, queue, 0);
    return OK;
}

/* Out of everything that runs; its blocks are free, what is under way of it is dropped as it comes. */
static void leave_running(struct scheduler *s, struct member *m) {
    for (uint32_t i = 0; i < s->n_flights; i++) {
        struct flight *f = &s->flights[(s->first_flight + i) % s->cap_flights];
        for (uint32_t p = 0; p < f->n_parts; p++)
            if (f->parts[p].m == m) f->parts[p].m = NULL;
    }
    uint32_t at = 0;
    while (s->running[at] != m) at++;
    memmove(s->running + at, s->running + at + 1, (--s->n_running - at) * sizeof *s->running);
    if (m->state == MEMBER_PROMPT) members_remove(&s->prompts, m);
    if (m->state == MEMBER_READY) members_remove(&s->ready, m);
    s->n_decoding -= (uint32_t)m->is_decoding;
    while (m->n_table) blocks_release(s->blocks, m->table[--m->n_table]);
    s->free_tables[s->n_free_tables++] = m->table;
    m->table = NULL;
    m->n_known = m->n_indexed = 0;
    m->n_given = 0;
    m->is_decoding = 0;
    m->state = MEMBER_WAITS;
}

void scheduler_remove(struct scheduler *s, struct sequence *q) {
    struct member *m = sequence_place(q);
    if (!m) return;
    if (m->state == MEMBER_WAITS) waiting_remove(s->waiting, &m->place);
    else leave_running(s, m);
    sequence_set_place(q, NULL);
    free(m);
}

void member_preempt(struct scheduler *s, struct member *m) {
    leave_running(s, m);
    m->n_preemptions++;
    s->n_preemptions++;
    waiting_add(s->waiting, &m->place, m->queue, 1);
}

void scheduler_reset(struct scheduler *s) {
    s->n_flights = s->n_decode_flights = 0;
    while (s->n_running) { /* the last first: each goes to the front */
        struct member *m = s->running[s->n_running - 1];
        leave_running(s, m);
        waiting_add(s->waiting, &m->place, m->queue, 1);
    }
    blocks_reset(s->blocks);
}

/* ---- letting in ---- */

/* Blocks that those who run will need for rows they have, and for the next token of each. */
static size_t n_blocks_promised(const struct scheduler *s) {
    size_t sum = 0;
    for (uint32_t i = 0; i < s->n_running; i++) {
        size_t n_rows;
        sequence_rows(s->running[i]->q, &n_rows);
        size_t need = blocks_for(n_rows < s->o.context ? n_rows + 1 : n_rows);
        if (need > s->running[i]->n_table) sum += need - s->running[i]->n_table;
    }
    return sum;
}

/* Whether there are blocks for all rows of `m`. Those that others hold and that it can share take none. */
static int has_blocks(const struct scheduler *s, const struct member *m) {
    size_t n_rows, n_skippable = sequence_n_skippable(m->q);
    const int32_t *rows = sequence_rows(m->q, &n_rows);
    size_t need = blocks_for(n_rows) + n_blocks_promised(s);
    size_t n_available = (size_t)blocks_n_free(s->blocks) + blocks_n_cached(s->blocks);
    int32_t id = -1;
    for (size_t end = KV_BLOCK_TOKENS; need > n_available && end <= n_skippable; end += KV_BLOCK_TOKENS) {
        id = blocks_find(s->blocks, id, rows + end - KV_BLOCK_TOKENS);
        if (id < 0 || !blocks_is_known(s->blocks, id)) break;
        if (blocks_n_holders(s->blocks, id)) need--;
    }
    return need <= n_available;
}

static void let_in(struct scheduler *s, struct member *m, int is_aged) {
    waiting_let_in(s->waiting, &m->place);
    m->is_aged |= is_aged || m->n_preemptions >= PREEMPTIONS_PATIENT;
    m->table = s->free_tables[--s->n_free_tables];
    m->state = MEMBER_PROMPT;
    members_append(&s->prompts, m);
    uint32_t at = s->n_running++;
    for (; at > 0 && is_before(m, s->running[at - 1]); at--) s->running[at] = s->running[at - 1];
    s->running[at] = m;
}

/* Nobody passes one that does not fit yet, or a long text might wait for ever. */
static void let_in_all(struct scheduler *s) {
    int is_aged;
    struct waiting_place *p;
    while (s->n_running < s->running_max && (p = waiting_next(s->waiting, &is_aged))) {
        struct member *m = (struct member *)(void *)p;
        if (!has_blocks(s, m)) return;
        let_in(s, m, is_aged);
    }
}

/* ---- steps ---- */

/* Room for one more step under way. */
static err reserve_flight(struct scheduler *s) {
    if (s->n_flights < s->cap_flights) return OK;
    uint32_t cap = s->cap_flights + 1;
    struct flight *grown;
    struct part *parts;
    TRY(NEW(parts, s->o.rows_max));
    if (NEW(grown, cap) != OK) {
        free(parts);
        return ERR_MEMORY;
    }
    for (uint32_t i = 0; i < s->n_flights; i++) grown[i] = s->flights[(s->first_flight + i) % s->cap_flights];
    grown[s->n_flights].parts = parts;
    free(s->flights);
    s->flights = grown;
    s->first_flight = 0;
    s->cap_flights = cap;
    return OK;
}

err scheduler_next(struct scheduler *s, uint32_t prefill_rows, struct step *out, int *has_step) {
    *has_step = 0;
    TRY(reserve_flight(s));
    s->flight = &s->flights[(s->first_flight + s->n_flights) % s->cap_flights];
    s->now++;
    let_in_all(s);
    step_build(s, prefill_rows);
    if (!s->n_rows) return OK;
    s->n_flights++;
    s->n_decode_flights += (uint32_t)s->flight->has_decode;
    *has_step = 1;
    *out = (struct step){.n_rows = s->n_rows, .n_table = s->n_table, .n_outs = s->n_outs, .n_edits = s->n_edits,
                         .token = s->token, .position = s->position, .table_begin = s->table_begin,
                         .table = s->table, .outs = s->outs, .edits = s->edits};
    return OK;
}

static void take_part(struct scheduler *s, const struct part *p, const struct result *r,
                      void (*each)(void *context, struct sequence *q, err e), void *context) {
    struct member *m = p->m;
    struct sequence *q = m->q;
    size_t n_rows;
    err e = sequence_take(q, p->begin, p->end, r, p->out_begin, p->hidden_begin);
    int is_over = e != OK || sequence_finish(q) != SEQUENCE_RUNS;
    sequence_rows(q, &n_rows);
    if (is_over) {
        scheduler_remove(s, q);
    } else if (m->state == MEMBER_AWAY && m->n_given < n_rows) {
        m->state = MEMBER_READY;
        members_append(&s->ready, m);
        s->n_decoding += !m->is_decoding;
        m->is_decoding = 1;
    }
    if (is_over || p->n_outs) each(context, q, e);
}

err scheduler_commit(struct scheduler *s, const struct result *r,
                     void (*each)(void *context, struct sequence *q, err e), void *context) {
    if (!s->n_flights) return err_set(ERR_INTERNAL, "a result without a step");
    struct flight *f = &s->flights[s->first_flight];
    if (r->n_outs != f->n_outs)
        return err_set(ERR_INTERNAL, "a result of %u outputs, %u were wanted", r->n_outs, f->n_outs);
    /* `each` may remove others: their parts are gone by the time they are looked at. */
    for (uint32_t i = 0; i < f->n_parts; i++)
        if (f->parts[i].m) take_part(s, &f->parts[i], r, each, context);
    s->n_decode_flights -= (uint32_t)f->has_decode;
    s->first_flight = (s->first_flight + 1) % s->cap_flights;
    s->n_flights--;
    return OK;
}

void scheduler_counts(const struct scheduler *s, struct scheduler_counts *out) {
    *out = (struct scheduler_counts){
        .n_waiting = waiting_n(s->waiting), .n_running = s->n_running,
        .n_decoding = s->n_decoding, .n_blocks_used = blocks_n_used(s->blocks),
        .n_blocks_cached = blocks_n_cached(s->blocks), .n_preemptions = s->n_preemptions,
        .n_prefix_tokens = s->n_prefix_tokens, .n_prefill_tokens = s->n_prefill_tokens,
        .n_decode_tokens = s->n_decode_tokens};
}

uint32_t scheduler_n_sequences(const struct scheduler *s) { return waiting_n(s->waiting) + s->n_running; }
