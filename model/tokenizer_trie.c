/* A trie over bytes, its edges in one hash map. */
#include <stdlib.h>

#include "model/tokenizer_parts.h"

static err add_node(struct trie *t, uint32_t *node) {
    if (t->n_nodes >= TRIE_NONE)
        return err_set(ERR_MEMORY, "a trie of %zu nodes is too large",
                       t->n_nodes);
    if (t->n_nodes == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        int32_t *grown = mem_resized(t->values, cap, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        t->values = grown;
        t->cap = cap;
    }
    t->values[t->n_nodes] = -1;
    *node = (uint32_t)t->n_nodes++;
    return OK;
}

err trie_init(struct trie *t) {
    uint32_t root;
    for (size_t i = 0; i < 256; i++) t->root[i] = TRIE_NONE;
    return add_node(t, &root);
}

err trie_add(struct trie *t, const uint8_t *key, size_t len, int32_t value) {
    uint32_t node = 0;
    for (size_t i = 0; i < len; i++) {
        uint32_t child = trie_step(t, node, key[i]);
        if (child == TRIE_NONE) {
            TRY(add_node(t, &child));
            if (node == 0) t->root[key[i]] = child;
            else TRY(u64map_add(&t->children, (uint64_t)node << 8 | key[i], child));
        }
        node = child;
    }
    if (t->values[node] < 0) t->values[node] = value;
    return OK;
}

uint32_t trie_step(const struct trie *t, uint32_t node, uint8_t byte) {
    if (node == 0) return t->root[byte];
    return (uint32_t)u64map_find(&t->children, (uint64_t)node << 8 | byte,
                                 TRIE_NONE);
}

void trie_free(struct trie *t) {
    u64map_free(&t->children);
    free(t->values);
    t->values = NULL;
}
