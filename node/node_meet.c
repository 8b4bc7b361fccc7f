/* How the shards of a stage meet: on a board where they run on one host, by messages between hosts. */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "node/node_parts.h"

#define HOP_BYTES 65536 /* that a link carries in the time of its latency, where the plan does not say */

/* Messages of one exchange under way. */
struct meet {
    wire_ticket *tickets[N_SUM_ROUNDS]; /* [2 * n_shards] each */
    uint32_t n[N_SUM_ROUNDS];
    struct sums *sums; /* NULL: one shard, or all on one board */
    struct shard_crew crew; /* of this shard, on its board */
};

/* Of the deadline: who waits for a shard of its own host speaks first, then who waits for a host, then who waits for
 * what its own host hears of others. All before the stage after does (lease_us in node.c). */
static int64_t round_patience_us(const struct node *n, enum sum_round round) {
    static const int twelfths[N_SUM_ROUNDS] = {0, 1, 1, 2};
    return (int64_t)wire_deadline_ms(n->w) * 1000 / 12 * twelfths[round];
}

static err round_receive(void *context, enum sum_round round, uint32_t shard, void *data, size_t n_bytes) {
    struct node *n = context;
    struct meet *m = n->meet;
    return wire_receive(n->w, n->first + (int)shard, WIRE_SHARE, data, n_bytes, &m->tickets[round][m->n[round]++]);
}

static err round_send(void *context, enum sum_round round, uint32_t shard, const void *data, size_t n_bytes) {
    struct node *n = context;
    struct meet *m = n->meet;
    return wire_send(n->w, n->first + (int)shard, WIRE_SHARE, -1, data, n_bytes, &m->tickets[round][m->n[round]++]);
}

static err round_wait(void *context, enum sum_round round, int layer) {
    struct node *n = context;
    struct meet *m = n->meet;
    uint32_t n_tickets = m->n[round];
    m->n[round] = 0;
    return wire_wait(n->w, m->tickets[round], n_tickets, round_patience_us(n, round), layer,
                     round == SUM_BACK ? "the sums" : "its partial sums");
}

static err sum_begin(void *context, enum axis axis, uint32_t n_rows) {
    return sums_begin(((struct node *)context)->meet->sums, axis, n_rows);
}

static err sum_finish(void *context, int layer, const float *mine, float *sum) {
    return sums_finish(((struct node *)context)->meet->sums, layer, mine, sum);
}

static err collect_begin(void *context, const size_t *n_floats, float *all) {
    struct node *n = context;
    struct meet *m = n->meet;
    m->n[0] = 0;
    for (uint32_t i = 0; all && i < n->cell.n_shards; all += n_floats[i++])
        if (i != n->cell.shard && n_floats[i])
            TRY(wire_receive(n->w, n->first + (int)i, WIRE_COLLECT, all, n_floats[i] * sizeof *all,
                             &m->tickets[0][m->n[0]++]));
    return OK;
}

static err collect(void *context, int layer, const float *mine, const size_t *n_floats, float *all) {
    struct node *n = context;
    struct meet *m = n->meet;
    size_t n_mine = n_floats[n->cell.shard] * sizeof *mine;
    if (all) memcpy(all, mine, n_mine); /* shard 0's are the first */
    else if (n_mine) TRY(wire_send(n->w, n->first, WIRE_COLLECT, layer, mine, n_mine, &m->tickets[0][m->n[0]++]));
    return wire_wait(n->w, m->tickets[0], m->n[0], 0, layer, "its logits");
}

static err watch(void *context, int64_t *next_us) {
    struct node *n = context;
    struct board_missing m;
    if (n->board && board_missing(n->board, &m))
        return wire_check_deadline(n->w, m.waited_us, n->first + (int)(n->meet->crew.begin + m.shard),
                                   "for its partial sums of layer %d", m.layer);
    return node_look(n, next_us);
}

struct exchange meet_exchange(struct node *n) {
    return (struct exchange){n, sum_begin, sum_finish, collect_begin, collect, watch, round_patience_us(n, SUM_BACK)};
}

/* ---- how they will meet ---- */

/* What a shard says to others of its host before they use a board. */
struct offer {
    struct board_name name; /* of the first of them */
    uint64_t is_able;
};

/* The offers of all shards of the crew, in order. */
static err offers_share(struct node *n, const struct offer *mine, struct offer *all) {
    struct meet *m = n->meet;
    uint32_t n_tickets = 0;
    for (uint32_t i = m->crew.begin; i < m->crew.end; i++, all++) {
        int rank = n->first + (int)i;
        if (i == n->cell.shard) {
            *all = *mine;
            continue;
        }
        TRY(wire_receive(n->w, rank, WIRE_SHARE, all, sizeof *all, &m->tickets[0][n_tickets++]));
        TRY(wire_send(n->w, rank, WIRE_SHARE, -1, mine, sizeof *mine, &m->tickets[0][n_tickets++]));
    }
    return wire_wait(n->w, m->tickets[0], n_tickets, 0, -1, "what it says of how shards will meet");
}

static int all_able(const struct shard_crew *g, const struct offer *all) {
    for (uint32_t i = 0; i < g->end - g->begin; i++)
        if (!all[i].is_able) return 0;
    return 1;
}

/* The crew's first shard makes a board, the others open it; each says whether it has it. */
static err board_agree(struct node *n, struct offer *all, int *is_agreed) {
    const struct shard_crew *g = &n->meet->crew;
    uint32_t n_shards = g->end - g->begin, place = n->cell.shard - g->begin;
    size_t n_bytes = stage_board_bytes(n->stage);
    struct offer mine = {.is_able = (uint64_t)stage_can_use_board(n->stage)};
    *is_agreed = 0;
    if (place == 0 && mine.is_able && board_create(n_bytes, n_shards, &n->board, &mine.name) != OK) mine.is_able = 0;
    TRY(offers_share(n, &mine, all));
    if (!all_able(g, all)) return OK;
    if (place != 0 && board_open(&all[0].name, n_bytes, n_shards, place, &n->board) != OK) mine.is_able = 0;
    if (!mine.is_able) log_info("node.board", "used=no text=\"%s\"", err_text());
    TRY(offers_share(n, &mine, all));
    *is_agreed = all_able(g, all);
    return OK;
}

static err board_begin(struct node *n) {
    const struct shard_crew *g = &n->meet->crew;
    struct offer *all;
    int is_agreed = 0;
    if (g->end - g->begin == 1) return OK;
    TRY(NEW(all, g->end - g->begin));
    err e = board_agree(n, all, &is_agreed);
    free(all);
    TRY(e);
    if (is_agreed) {
        board_set_deadline(n->board, (int64_t)wire_deadline_ms(n->w) * 1000);
        return stage_use_board(n->stage, n->board, *g);
    }
    board_free(n->board);
    n->board = NULL;
    return OK;
}

/* Numbers for the hosts of this stage's shards; whether there is but one. */
static int hosts_number(const struct node *n, uint32_t *host_of) {
    int is_one = 1;
    for (uint32_t i = 0; i < n->cell.n_shards; i++) {
        const char *host = wire_host(n->w, n->first + (int)i);
        host_of[i] = 0;
        while (strcmp(wire_host(n->w, n->first + (int)host_of[i]), host) != 0) host_of[i]++;
        is_one &= host_of[i] == 0;
    }
    return is_one;
}

static err meet_with(struct node *n, const uint32_t *host_of, struct shard_crew *crews, int is_one_host) {
    struct meet *m = n->meet;
    uint32_t n_crews = crew_find(host_of, n->cell.n_shards, crews), g = 0;
    while (crews[g].end <= n->cell.shard) g++;
    m->crew = is_one_host ? (struct shard_crew){0, n->cell.n_shards} : crews[g];
    TRY(board_begin(n));
    if (is_one_host && n->board) return OK;
    const struct sums_setup setup = {
        .program = n->program,
        .shares = n->cell.shares,
        .n_shards = n->cell.n_shards,
        .shard = n->cell.shard,
        .crews = crews,
        .n_crews = n_crews,
        .rows_max = n->limits.rows_max,
        .has_board = n->board != NULL,
        .payload = is_one_host ? PAYLOAD_F32 : n->plan.payload,
        .hop_bytes = n->plan.hop_bytes ? n->plan.hop_bytes : HOP_BYTES,
        .link = {n, round_receive, round_send, round_wait},
    };
    return sums_create(&setup, &m->sums);
}

err meet_begin(struct node *n) {
    uint32_t n_shards = n->cell.n_shards;
    struct shard_crew *crews = NULL;
    uint32_t *host_of = NULL;
    if (n_shards == 1) return OK;
    err e = NEW(n->meet, 1);
    for (int i = 0; i < N_SUM_ROUNDS && e == OK; i++) e = NEW(n->meet->tickets[i], 2 * (size_t)n_shards);
    if (e == OK) e = NEW(crews, n_shards);
    if (e == OK) e = NEW(host_of, n_shards);
    if (e == OK) e = meet_with(n, host_of, crews, hosts_number(n, host_of));
    free(crews);
    free(host_of);
    return e;
}

void meet_free(struct meet *m) {
    if (!m) return;
    for (int i = 0; i < N_SUM_ROUNDS; i++) free(m->tickets[i]);
    sums_free(m->sums);
    free(m);
}
