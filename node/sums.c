#include "node/sums.h"

#include <stdlib.h>
#include <string.h>

#include "partition/slice.h"

#define CHUNK 512     /* values that go through a tree at a time: they stay in the nearest cache */
#define DEPTH 6       /* of a tree of SEGMENTS_MAX leaves, and one */
#define ALIGN 64

/* What shards and crews own of one axis. */
struct axis_sums {
    uint32_t *of_shard, *of_crew; /* subtrees */
    uint32_t n_all;                /* of all crews */
    struct tree join, finish;      /* shards of this crew to its subtrees; crews to the sum */
};

struct sums {
    struct sums_setup o;
    struct shard_crew *crews;
    uint32_t me; /* the crew of this shard */
    struct axis_sums axes[N_AXES];
    uint8_t *in, *out; /* messages between hosts */
    float *members;    /* sums of the crew's other shards, where they come as messages */
    float *joined;     /* the crew's subtrees */

    /* The exchange under way. */
    const struct axis_sums *axis;
    size_t n; /* values of one sum */
    int is_in_parts;
};

/* One leaf of a tree: values as they came. */
struct leaf {
    const void *data;
    enum payload payload;
};

/* ---- crews ---- */

static const struct shard_crew *my_crew(const struct sums *s) { return &s->crews[s->me]; }

int sums_is_first(const struct sums *s) { return my_crew(s)->begin == s->o.shard; }

static int has_messages_inside(const struct sums *s) {
    return !s->o.has_board && my_crew(s)->end - my_crew(s)->begin > 1;
}

/* ---- what is sent ---- */

/* Where part i of n values begins. */
static size_t part_begin(const struct sums *s, uint32_t i) {
    size_t blocks = (s->n + PAYLOAD_BLOCK - 1) / PAYLOAD_BLOCK, at = blocks * i / s->o.n_crews * PAYLOAD_BLOCK;
    return at < s->n ? at : s->n;
}

static size_t part_size(const struct sums *s, uint32_t i) { return part_begin(s, i + 1) - part_begin(s, i); }

static size_t bytes_of(const struct sums *s, size_t n) { return payload_bytes(s->o.payload, n); }

static size_t aligned(size_t n) { return (n + ALIGN - 1) / ALIGN * ALIGN; }

/* The most that one crew sends or receives, at once and in parts. */
static int parts_pay(const struct sums *s) {
    uint64_t whole = bytes_of(s, s->n), n = s->o.n_crews, at_once = 0, in_parts = 0;
    for (uint32_t g = 0; g < n; g++) {
        uint64_t mine = s->axis->of_crew[g], others = s->axis->n_all - mine, sent = mine * (n - 1);
        uint64_t most = sent > others ? sent : others;
        if (most * whole > at_once) at_once = most * whole;
        sent = mine * (n - 1) + n - 1;
        others += n - 1;
        most = sent > others ? sent : others;
        if (most * whole / n > in_parts) in_parts = most * whole / n;
    }
    return at_once > in_parts + s->o.hop_bytes;
}

static void exchange_set(struct sums *s, enum axis axis, uint32_t n_rows) {
    s->axis = &s->axes[axis];
    s->n = (size_t)n_rows * s->o.program->dim;
    s->is_in_parts = parts_pay(s);
}

/* Of every subtree that crew g sends here: all values, or those of this crew's part. */
static size_t wanted(const struct sums *s) { return s->is_in_parts ? part_size(s, s->me) : s->n; }

static size_t in_bytes(const struct sums *s, uint32_t g) {
    return g == s->me ? 0 : aligned(s->axis->of_crew[g] * bytes_of(s, wanted(s)));
}

static size_t in_at(const struct sums *s, uint32_t g) {
    size_t at = 0;
    for (uint32_t i = 0; i < g; i++) at += in_bytes(s, i);
    return at;
}

/* Behind those: other crews' finished parts, unless they come as floats. */
static size_t parts_at(const struct sums *s, uint32_t g) {
    size_t at = in_at(s, s->o.n_crews);
    for (uint32_t i = 0; i < g; i++) at += aligned(bytes_of(s, part_size(s, i)));
    return at;
}

/* Of the subtrees that go to crew g. */
static size_t out_bytes(const struct sums *s, uint32_t g) {
    size_t n = s->is_in_parts ? part_size(s, g) : s->n;
    return s->axis->of_crew[s->me] * bytes_of(s, n);
}

/* ---- adding ---- */

/* Values [begin, end) of the tree's results, each [s->n] after the other; begin is a multiple of PAYLOAD_BLOCK. The
 * leaves hold values from leaf_begin on. */
static void tree_add(const struct tree *t, const struct leaf *leaves, size_t leaf_begin, size_t begin, size_t end,
                     float *results, size_t stride) {
    float stack[DEPTH][CHUNK] = {{0}};
    for (size_t at = begin; at < end; at += CHUNK) {
        size_t n = end - at < CHUNK ? end - at : CHUNK, depth = 0, result = 0;
        for (uint32_t i = 0; i < t->n_leaves; i++) {
            payload_decode(leaves[i].payload, leaves[i].data, at - leaf_begin, n, stack[depth++]);
            for (int m = t->merges[i]; m > 0; m--, depth--)
                for (size_t k = 0; k < CHUNK; k++) stack[depth - 2][k] += stack[depth - 1][k];
            if (t->emits[i]) memcpy(results + result++ * stride + at, stack[--depth], n * sizeof(float));
        }
    }
}

/* ---- inside a crew ---- */

static err member_finish(struct sums *s, int layer, const float *mine, float *sum) {
    const struct sum_link *link = &s->o.link;
    uint32_t first = my_crew(s)->begin, n = s->axis->of_shard[s->o.shard];
    TRY(link->receive(link->context, SUM_BACK, first, sum, s->n * sizeof *sum));
    if (n) TRY(link->send(link->context, SUM_OF_CREW, first, mine, n * s->n * sizeof *mine));
    TRY(link->wait(link->context, SUM_OF_CREW, layer));
    return link->wait(link->context, SUM_BACK, layer);
}

static err members_receive(struct sums *s) {
    const struct sum_link *link = &s->o.link;
    float *to = s->members;
    for (uint32_t i = my_crew(s)->begin + 1; has_messages_inside(s) && i < my_crew(s)->end; i++) {
        size_t n = s->axis->of_shard[i] * s->n;
        if (n) TRY(link->receive(link->context, SUM_OF_CREW, i, to, n * sizeof *to));
        to += n;
    }
    return OK;
}

static err members_answer(struct sums *s, int layer, const float *sum) {
    const struct sum_link *link = &s->o.link;
    if (!has_messages_inside(s)) return OK;
    for (uint32_t i = my_crew(s)->begin + 1; i < my_crew(s)->end; i++)
        TRY(link->send(link->context, SUM_BACK, i, sum, s->n * sizeof *sum));
    return link->wait(link->context, SUM_BACK, layer);
}

/* The crew's subtrees: s->joined, or what came if the crew is one shard. */
static err crew_join(struct sums *s, int layer, const float **mine) {
    struct leaf leaves[SEGMENTS_MAX];
    const float *from = *mine;
    uint32_t n = 0;
    if (my_crew(s)->end - my_crew(s)->begin == 1) return OK;
    if (!s->o.has_board) TRY(s->o.link.wait(s->o.link.context, SUM_OF_CREW, layer));
    for (uint32_t i = my_crew(s)->begin; i < my_crew(s)->end; i++) {
        if (!s->o.has_board && i == my_crew(s)->begin + 1) from = s->members;
        for (uint32_t k = 0; k < s->axis->of_shard[i]; k++, from += s->n)
            leaves[n++] = (struct leaf){from, PAYLOAD_F32};
    }
    tree_add(&s->axis->join, leaves, 0, 0, s->n, s->joined, s->n);
    *mine = s->joined;
    return OK;
}

/* ---- between crews ---- */

static err crews_receive(struct sums *s) {
    const struct sum_link *link = &s->o.link;
    for (uint32_t g = 0; g < s->o.n_crews; g++) {
        size_t n = s->axis->of_crew[g] * bytes_of(s, wanted(s));
        if (g != s->me && n)
            TRY(link->receive(link->context, SUM_OF_HOSTS, s->crews[g].begin, s->in + in_at(s, g), n));
    }
    return OK;
}

/* The leaves of the whole tree; own ones are those of `mine`, each [stride] bytes after the other. */
static void leaves_list(const struct sums *s, const void *mine, enum payload payload, size_t stride, struct leaf *out) {
    for (uint32_t g = 0; g < s->o.n_crews; g++)
        for (uint32_t k = 0; k < s->axis->of_crew[g]; k++)
            *out++ = g == s->me ? (struct leaf){(const uint8_t *)mine + k * stride, payload}
                                : (struct leaf){s->in + in_at(s, g) + k * bytes_of(s, wanted(s)), s->o.payload};
}

/* Own sums go through the payload too: all crews add the same numbers. */
static err finish_at_once(struct sums *s, int layer, const float *mine, float *sum) {
    const struct sum_link *link = &s->o.link;
    struct leaf leaves[SEGMENTS_MAX];
    uint32_t n = s->axis->of_crew[s->me];
    size_t n_bytes = bytes_of(s, s->n);
    const void *sent = s->o.payload == PAYLOAD_F32 ? (const void *)mine : s->out;
    for (uint32_t k = 0; sent != mine && k < n; k++)
        payload_encode(s->o.payload, mine + k * s->n, s->n, s->out + k * n_bytes);
    for (uint32_t g = 0; n && g < s->o.n_crews; g++)
        if (g != s->me) TRY(link->send(link->context, SUM_OF_HOSTS, s->crews[g].begin, sent, n * n_bytes));
    TRY(link->wait(link->context, SUM_OF_HOSTS, layer));
    leaves_list(s, sent, s->o.payload, n_bytes, leaves);
    tree_add(&s->axis->finish, leaves, 0, 0, s->n, sum, 0);
    return OK;
}

/* To each crew the values of its part, of all subtrees. */
static err parts_send(struct sums *s, const float *mine) {
    const struct sum_link *link = &s->o.link;
    uint32_t n = s->axis->of_crew[s->me];
    uint8_t *to = s->out;
    for (uint32_t g = 0; n && g < s->o.n_crews; g++) {
        const float *from = mine + part_begin(s, g);
        size_t size = part_size(s, g), n_bytes = bytes_of(s, size);
        if (g == s->me || !size) continue;
        const void *sent = n == 1 && s->o.payload == PAYLOAD_F32 ? (const void *)from : to;
        for (uint32_t k = 0; sent == to && k < n; k++)
            payload_encode(s->o.payload, from + k * s->n, size, to + k * n_bytes);
        TRY(link->send(link->context, SUM_OF_HOSTS, s->crews[g].begin, sent, n * n_bytes));
        to += aligned(n * n_bytes);
    }
    return OK;
}

/* Finished parts come as they will stay, or encoded. */
static void *part_place(const struct sums *s, uint32_t g, float *sum) {
    return s->o.payload == PAYLOAD_F32 ? (void *)(sum + part_begin(s, g)) : s->in + parts_at(s, g);
}

static err parts_exchange(struct sums *s, int layer, float *sum) {
    const struct sum_link *link = &s->o.link;
    size_t n_mine = part_size(s, s->me);
    void *mine = part_place(s, s->me, sum);
    if (s->o.payload != PAYLOAD_F32) payload_encode(s->o.payload, sum + part_begin(s, s->me), n_mine, mine);
    for (uint32_t g = 0; n_mine && g < s->o.n_crews; g++)
        if (g != s->me) TRY(link->send(link->context, SUM_OF_PARTS, s->crews[g].begin, mine, bytes_of(s, n_mine)));
    TRY(link->wait(link->context, SUM_OF_PARTS, layer));
    for (uint32_t g = 0; s->o.payload != PAYLOAD_F32 && g < s->o.n_crews; g++)
        payload_decode(s->o.payload, part_place(s, g, sum), 0, part_size(s, g), sum + part_begin(s, g));
    return OK;
}

static err finish_in_parts(struct sums *s, int layer, const float *mine, float *sum) {
    const struct sum_link *link = &s->o.link;
    struct leaf leaves[SEGMENTS_MAX];
    size_t begin = part_begin(s, s->me);
    for (uint32_t g = 0; g < s->o.n_crews; g++)
        if (g != s->me && part_size(s, g))
            TRY(link->receive(link->context, SUM_OF_PARTS, s->crews[g].begin, part_place(s, g, sum),
                              bytes_of(s, part_size(s, g))));
    TRY(parts_send(s, mine));
    TRY(link->wait(link->context, SUM_OF_HOSTS, layer));
    leaves_list(s, mine + begin, PAYLOAD_F32, s->n * sizeof *mine, leaves);
    tree_add(&s->axis->finish, leaves, begin, begin, begin + part_size(s, s->me), sum, 0);
    return parts_exchange(s, layer, sum);
}

err sums_begin(struct sums *s, enum axis axis, uint32_t n_rows) {
    exchange_set(s, axis, n_rows);
    if (!sums_is_first(s)) return OK;
    TRY(members_receive(s));
    return crews_receive(s);
}

err sums_finish(struct sums *s, int layer, const float *mine, float *sum) {
    if (!sums_is_first(s)) return member_finish(s, layer, mine, sum);
    TRY(crew_join(s, layer, &mine));
    TRY(s->is_in_parts ? finish_in_parts(s, layer, mine, sum) : finish_at_once(s, layer, mine, sum));
    return members_answer(s, layer, sum);
}

/* ---- making ---- */

static err axis_make(struct sums *s, enum axis axis) {
    const struct axis_info *info = &s->o.program->axes[axis];
    struct axis_sums *a = &s->axes[axis];
    struct range *own, *runs;
    struct cut cut;
    struct tree tree;
    err e = NEW(own, s->o.n_shards);
    TRY(e);
    TRY_GOTO(NEW(runs, s->o.n_crews), done);
    TRY_GOTO(NEW(a->of_shard, s->o.n_shards), done);
    TRY_GOTO(NEW(a->of_crew, s->o.n_crews), done);
    for (uint32_t i = 0; i < s->o.n_shards; i++) {
        cut_make(s->o.program, s->o.n_shards, i, s->o.shares, &cut);
        own[i] = cut.segments[axis];
        tree_own(info->n_segments, own[i], &tree);
        a->of_shard[i] = tree.n_results;
    }
    for (uint32_t g = 0; g < s->o.n_crews; g++) {
        struct shard_crew crew = s->crews[g];
        runs[g] = (struct range){own[crew.begin].begin, own[crew.end - 1].end};
        tree_join(info->n_segments, own + crew.begin, crew.end - crew.begin, &tree);
        a->of_crew[g] = tree.n_results;
        a->n_all += tree.n_results;
        if (g == s->me) a->join = tree;
    }
    tree_join(info->n_segments, runs, s->o.n_crews, &a->finish);
done:
    free(own);
    free(runs);
    return e;
}

/* The most room that any exchange needs. */
static err buffers_make(struct sums *s) {
    static const enum axis cut_axes[] = {AXIS_HEADS, AXIS_FF};
    size_t n_in = 0, n_out = 0, n_joined = 0, n_members = 0;
    for (size_t a = 0; a < sizeof cut_axes / sizeof *cut_axes; a++)
        for (uint32_t rows = 1; rows <= s->o.rows_max; rows++) {
            exchange_set(s, cut_axes[a], rows);
            size_t in = s->is_in_parts ? parts_at(s, s->o.n_crews) : in_at(s, s->o.n_crews), out = 0;
            for (uint32_t g = 0; g < s->o.n_crews; g++)
                if (!s->is_in_parts) out = out_bytes(s, g);
                else out += aligned(out_bytes(s, g));
            if (in > n_in) n_in = in;
            if (out > n_out) n_out = out;
            uint32_t inside = 0;
            for (uint32_t i = my_crew(s)->begin + 1; i < my_crew(s)->end; i++) inside += s->axis->of_shard[i];
            if (inside * s->n > n_members) n_members = inside * s->n;
            if (s->axis->of_crew[s->me] * s->n > n_joined) n_joined = s->axis->of_crew[s->me] * s->n;
        }
    if (!sums_is_first(s)) return OK;
    TRY(NEW(s->in, n_in));
    TRY(NEW(s->out, n_out));
    TRY(NEW(s->members, has_messages_inside(s) ? n_members : 0));
    return NEW(s->joined, my_crew(s)->end - my_crew(s)->begin > 1 ? n_joined : 0);
}

err sums_create(const struct sums_setup *setup, struct sums **out) {
    struct sums *s;
    TRY(NEW(s, 1));
    s->o = *setup;
    err e = NEW(s->crews, setup->n_crews);
    if (e == OK) memcpy(s->crews, setup->crews, setup->n_crews * sizeof *s->crews);
    s->o.crews = s->crews;
    while (e == OK && s->crews[s->me].end <= setup->shard) s->me++;
    if (e == OK) e = axis_make(s, AXIS_HEADS);
    if (e == OK) e = axis_make(s, AXIS_FF);
    if (e == OK) e = buffers_make(s);
    if (e == OK) *out = s;
    else sums_free(s);
    return e;
}

void sums_free(struct sums *s) {
    if (!s) return;
    for (int a = 0; a < N_AXES; a++) {
        free(s->axes[a].of_shard);
        free(s->axes[a].of_crew);
    }
    free(s->crews);
    free(s->in);
    free(s->out);
    free(s->members);
    free(s->joined);
    free(s);
}
