/* How the shards of a stage meet: by messages, or on a board where all of them run on one host. */
#include <string.h>

#include "base/log.h"
#include "node/node_parts.h"

static err share(void *context, int layer, const float *mine, const size_t *n_floats, float *all) {
    struct node *n = context;
    return wire_share(n->w, n->first, (int)n->cell.n_shards, layer, mine, n_floats, all);
}

static err collect(void *context, int layer, const float *mine, const size_t *n_floats, float *all) {
    struct node *n = context;
    return wire_collect(n->w, n->first, (int)n->cell.n_shards, layer, mine, n_floats, all);
}

static err watch(void *context) {
    struct node *n = context;
    struct board_missing m;
    if (board_missing(n->board, &m))
        return wire_check_deadline(n->w, m.waited_us, n->first + (int)m.shard,
                                   "for its partial sums of layer %d", m.layer);
    return wire_poll(n->w);
}

struct exchange meet_exchange(struct node *n) { return (struct exchange){n, share, collect, watch}; }

/* What a shard says to the others before they use a board. */
struct offer {
    struct board_name name; /* of shard 0 */
    uint32_t is_able;
    uint32_t unused;
};

#define OFFER_FLOATS (sizeof(struct offer) / sizeof(float))

/* Every shard's offer, in order of shards. */
static err offers_share(struct node *n, const struct offer *mine, struct offer *all) {
    size_t counts[SEGMENTS_MAX];
    float own[OFFER_FLOATS], others[SEGMENTS_MAX * OFFER_FLOATS];
    for (uint32_t i = 0; i < n->cell.n_shards; i++) counts[i] = OFFER_FLOATS;
    memcpy(own, mine, sizeof own);
    TRY(wire_share(n->w, n->first, (int)n->cell.n_shards, -1, own, counts, others));
    memcpy(all, others, n->cell.n_shards * sizeof *all);
    return OK;
}

static int all_able(const struct node *n, const struct offer *all) {
    for (uint32_t i = 0; i < n->cell.n_shards; i++)
        if (!all[i].is_able || strcmp(wire_host(n->w, n->first + (int)i), wire_host(n->w, n->rank)) != 0)
            return 0;
    return 1;
}

/* Shard 0 makes a board, the others open it; each says whether it has it. */
static err board_agree(struct node *n, int *is_agreed) {
    uint32_t n_shards = n->cell.n_shards, shard = n->cell.shard;
    size_t n_bytes = stage_board_bytes(n->stage);
    struct offer mine = {.is_able = (uint32_t)stage_can_use_board(n->stage)}, all[SEGMENTS_MAX];
    *is_agreed = 0;
    if (shard == 0 && mine.is_able && board_create(n_bytes, n_shards, &n->board, &mine.name) != OK) mine.is_able = 0;
    TRY(offers_share(n, &mine, all));
    if (!all_able(n, all)) return OK;
    if (shard != 0 && board_open(&all[0].name, n_bytes, n_shards, shard, &n->board) != OK) mine.is_able = 0;
    if (!mine.is_able) log_info("node.board", "used=no text=\"%s\"", err_text());
    TRY(offers_share(n, &mine, all));
    *is_agreed = all_able(n, all);
    return OK;
}

err meet_begin(struct node *n) {
    int is_agreed = 0;
    if (n->cell.n_shards == 1 || n->cell.n_shards > SEGMENTS_MAX) return OK; /* no more have sums */
    TRY(board_agree(n, &is_agreed));
    if (is_agreed) {
        board_set_deadline(n->board, (int64_t)wire_deadline_ms(n->w) * 1000);
        return stage_use_board(n->stage, n->board);
    }
    board_free(n->board);
    n->board = NULL;
    return OK;
}
