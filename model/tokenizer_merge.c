/* Merging of neighbours in order of rank: a linked list of symbols and a heap of
 * the pairs that may merge. A pair in the heap is stale once one of its symbols
 * has grown; symbols only grow, so their joint length tells. */
#include "model/tokenizer_parts.h"

err merge_add_symbol(struct encoder *e, uint32_t begin, uint32_t len,
                     int32_t id) {
    if (e->n_symbols == e->cap_symbols) {
        size_t cap = e->cap_symbols ? e->cap_symbols * 2 : 64;
        struct merge_symbol *grown =
            mem_resized(e->symbols, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        e->symbols = grown;
        e->cap_symbols = cap;
    }
    uint32_t i = (uint32_t)e->n_symbols++;
    e->symbols[i] = (struct merge_symbol){
        begin, len, i ? i - 1 : SYMBOL_NONE, SYMBOL_NONE, id};
    if (i) e->symbols[i - 1].next = i;
    return OK;
}

static err heap_push(struct encoder *e, struct merge_candidate c) {
    if (e->n_heap == e->cap_heap) {
        size_t cap = e->cap_heap ? e->cap_heap * 2 : 64;
        struct merge_candidate *grown = mem_resized(e->heap, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        e->heap = grown;
        e->cap_heap = cap;
    }
    size_t i = e->n_heap++;
    for (; i > 0 && e->heap[(i - 1) / 2].order > c.order; i = (i - 1) / 2)
        e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = c;
    return OK;
}

static struct merge_candidate heap_pop(struct encoder *e) {
    struct merge_candidate top = e->heap[0], last = e->heap[--e->n_heap];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= e->n_heap) break;
        if (child + 1 < e->n_heap &&
            e->heap[child + 1].order < e->heap[child].order)
            child++;
        if (last.order <= e->heap[child].order) break;
        e->heap[i] = e->heap[child];
        i = child;
    }
    e->heap[i] = last;
    return top;
}

/* Puts the pair that begins with symbol `i` into the heap, if it may merge. */
static err propose(struct encoder *e, const uint8_t *text, merge_find find,
                   uint32_t i) {
    if (i == SYMBOL_NONE || e->symbols[i].next == SYMBOL_NONE) return OK;
    const struct merge_symbol *left = &e->symbols[i];
    const struct merge_symbol *right = &e->symbols[left->next];
    uint32_t rank;
    struct merge_candidate c = {.len = left->len + right->len};
    if (!find(e->t, text, left, right, &rank, &c.id)) return OK;
    c.order = (uint64_t)rank << 32 | i;
    return heap_push(e, c);
}

err merge_symbols(struct encoder *e, const uint8_t *text, merge_find find) {
    e->n_heap = 0;
    for (size_t i = 0; i < e->n_symbols; i++)
        TRY(propose(e, text, find, (uint32_t)i));
    while (e->n_heap) {
        struct merge_candidate c = heap_pop(e);
        uint32_t i = (uint32_t)c.order;
        struct merge_symbol *left = &e->symbols[i];
        if (left->len == 0 || left->next == SYMBOL_NONE) continue;
        struct merge_symbol *right = &e->symbols[left->next];
        if (left->len + right->len != c.len) continue;
        left->len = c.len;
        left->id = c.id;
        left->next = right->next;
        right->len = 0;
        if (right->next != SYMBOL_NONE) e->symbols[right->next].prev = i;
        TRY(propose(e, text, find, left->prev));
        TRY(propose(e, text, find, i));
    }
    return OK;
}
