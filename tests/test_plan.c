/* Plans: the grid, layers by bytes, memory of a rank, and what is said when it does not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "partition/plan.h"

/* A program of n_layers layers: attention and a feed-forward part of one matrix each, an
 * embedding table and a head of n_vocab rows. F16 throughout. */
#define LAYERS_MAX 16
static struct gguf_tensor tensors[2 * LAYERS_MAX + 2];
static struct weight weights[2 * LAYERS_MAX + 2];
static struct op ops[4 * LAYERS_MAX + 4];
static struct value values[] = {
    {"x", AXIS_DIM, 256, VALUE_F32, ROWS_ALL, 0},
    {"logits", AXIS_VOCAB, 0, VALUE_F32, ROWS_OUT, 0},
};
static struct program program;

static int add_weight(uint32_t rows, uint32_t cols, enum axis out, enum axis in, int is_table) {
    uint32_t i = program.n_weights++;
    tensors[i] = (struct gguf_tensor){.name = "t", .format = FORMAT_F16, .n_dims = 2,
                                      .dims = {cols, rows, 1, 1}};
    weights[i] = (struct weight){.tensor = &tensors[i], .rows = rows, .cols = cols,
                                 .out_axis = out, .in_axis = in, .is_table = is_table};
    return (int)i;
}

static void add_op(enum op_kind kind, int layer, int weight) {
    ops[program.n_ops++] = (struct op){.kind = kind, .layer = layer, .in = {0, -1}, .out = 0,
                                       .weight = {weight, -1}};
}

static struct axis_info axis(const char *name, uint32_t size, uint32_t unit) {
    uint32_t n = (size + unit - 1) / unit;
    return (struct axis_info){name, size, unit, n, segment_count(n)};
}

static const struct program *make(uint32_t n_layers, uint32_t n_vocab) {
    program = (struct program){
        .arch = "test", .name = "", .n_layers = n_layers, .dim = 256, .n_heads = 8,
        .n_kv_heads = 4, .head_dim = 32, .ff = 512, .n_vocab = n_vocab, .n_context = 4096,
        .kv_format = FORMAT_F16, .values = values, .weights = weights, .ops = ops,
        .n_values = 2, .value_x = 0, .value_logits = 1};
    program.axes[AXIS_DIM] = axis("dim", 256, 32);
    program.axes[AXIS_HEADS] = axis("heads", 256, 32);
    program.axes[AXIS_KV] = axis("kv", 128, 32);
    program.axes[AXIS_FF] = axis("ff", 512, 32);
    program.axes[AXIS_VOCAB] = axis("vocab", n_vocab, 32);
    values[1].width = n_vocab;
    add_op(OP_EMBED, LAYER_BEFORE, add_weight(n_vocab, 256, AXIS_VOCAB, AXIS_DIM, 1));
    for (uint32_t l = 0; l < n_layers; l++) {
        add_op(OP_LINEAR, (int)l, add_weight(256, 256, AXIS_HEADS, AXIS_DIM, 0));
        add_op(OP_LINEAR, (int)l, add_weight(512, 256, AXIS_FF, AXIS_DIM, 0));
    }
    add_op(OP_LINEAR, (int)n_layers, add_weight(n_vocab, 256, AXIS_VOCAB, AXIS_DIM, 0));
    return &program;
}
#define LAYER_BYTES ((256 + 512) * 256 * 2)

static struct plan *plan_of(const struct program *p, uint32_t stages, uint32_t shards,
                            uint32_t context) {
    struct plan_request r = {stages, shards, 0, context, 0, 128};
    struct plan *plan = NULL;
    assert_int_equal(plan_create(p, &r, &plan), OK);
    return plan;
}

static void check_grid(uint32_t stages, uint32_t shards, uint32_t ranks, uint32_t want_stages,
                       uint32_t want_shards) {
    uint32_t p, t;
    assert_int_equal(plan_grid(&program, stages, shards, ranks, &p, &t), OK);
    assert_int_equal(p, want_stages);
    assert_int_equal(t, want_shards);
}

static void test_grid(void **state) {
    (void)state;
    make(6, 320);
    check_grid(0, 0, 0, 1, 1);
    check_grid(3, 0, 0, 3, 1);
    check_grid(0, 3, 0, 1, 3);
    check_grid(2, 3, 0, 2, 3);
    check_grid(2, 3, 6, 2, 3);
    check_grid(0, 0, 4, 4, 1);
    check_grid(0, 0, 12, 6, 2); /* no more stages than layers */
    check_grid(0, 0, 7, 1, 7);
    check_grid(2, 0, 8, 2, 4);
    check_grid(0, 4, 8, 2, 4);
}

static void test_grid_bad(void **state) {
    (void)state;
    make(6, 320);
    uint32_t p, t;
    assert_int_equal(plan_grid(&program, 2, 3, 5, &p, &t), ERR_USAGE);
    assert_int_equal(plan_grid(&program, 4, 0, 6, &p, &t), ERR_USAGE);
    assert_int_equal(plan_grid(&program, 0, 4, 6, &p, &t), ERR_USAGE);
    assert_int_equal(plan_grid(&program, 7, 1, 0, &p, &t), ERR_USAGE);
    assert_non_null(strstr(err_text(), "6 layers"));
    assert_int_equal(plan_grid(&program, 1, 17, 0, &p, &t), ERR_USAGE);
}

/* Equal layers, small embedding: as evenly as whole layers go. */
static void test_layers_even(void **state) {
    (void)state;
    struct plan *plan = plan_of(make(8, 32), 4, 1, 128);
    for (uint32_t s = 0; s <= 4; s++) assert_int_equal(plan->layer_begin[s], 2 * s);
    plan_free(plan);
    /* 8 over 3: the largest stage cannot be smaller than 3. */
    plan = plan_of(&program, 3, 1, 128);
    uint32_t most = 0, least = 8;
    for (uint32_t s = 0; s < 3; s++) {
        uint32_t n = plan->layer_begin[s + 1] - plan->layer_begin[s];
        if (n > most) most = n;
        if (n < least) least = n;
    }
    assert_int_equal(most, 3);
    assert_int_equal(least, 2);
    plan_free(plan);
}

/* A head as heavy as four layers leaves fewer layers to the last stage, and the same for the
 * embedding and the first one. */
static void test_layers_weighed(void **state) {
    (void)state;
    struct plan *plan = plan_of(make(12, 4 * (256 + 512)), 4, 1, 128);
    assert_int_equal(plan->layer_begin[1], 1);
    assert_int_equal(plan->layer_begin[2], 6);
    assert_int_equal(plan->layer_begin[3], 11);
    uint64_t sum = 0;
    for (uint32_t r = 0; r < 4; r++) {
        assert_int_equal(plan->cells[r].weight_bytes, 5 * LAYER_BYTES);
        sum += plan->cells[r].weight_bytes;
    }
    assert_int_equal(sum, 20 * LAYER_BYTES);
    plan_free(plan);
}

static void test_memory(void **state) {
    (void)state;
    struct plan *plan = plan_of(make(4, 64), 2, 2, 1000);
    assert_int_equal(plan->n_blocks, 32);
    for (uint32_t r = 0; r < 4; r++) {
        const struct plan_cell *c = &plan->cells[r];
        assert_int_equal(c->stage, r / 2);
        assert_int_equal(c->shard, r % 2);
        /* 2 layers, half of 4 KV heads of 32, keys and values, f16, 1024 positions. */
        assert_int_equal(c->kv_bytes, 2 * 64 * 2 * 2 * 1024);
        /* Half of 2 layers; the embedding whole on the first stage, half the head on the last. */
        uint64_t ends = c->stage == 0 ? 64 * 256 * 2 : 32 * 256 * 2;
        assert_int_equal(c->weight_bytes, LAYER_BYTES + ends);
        assert_true(c->work_bytes > 0);
    }
    plan_free(plan);
}

/* More shards than KV heads: each keeps the one it reads. */
static void test_memory_replicated(void **state) {
    (void)state;
    struct plan *plan = plan_of(make(1, 64), 1, 8, 32);
    for (uint32_t r = 0; r < 8; r++)
        assert_int_equal(plan->cells[r].kv_bytes, 32 * 2 * 2 * 32);
    plan_free(plan);
}

/* The cache is for as many sequences as were asked for, one at least. */
static void test_blocks(void **state) {
    (void)state;
    struct plan_request r = {1, 1, 0, 33, 7, 128};
    struct plan *plan;
    assert_int_equal(plan_context_blocks(32), 1);
    assert_int_equal(plan_context_blocks(33), 2);
    assert_int_equal(plan_create(make(1, 64), &r, &plan), OK);
    assert_int_equal(plan->n_blocks, 7);
    uint64_t seven = plan->cells[0].kv_bytes;
    plan_free(plan);
    r.n_blocks = 0;
    assert_int_equal(plan_create(make(1, 64), &r, &plan), OK);
    assert_int_equal(plan->n_blocks, 2);
    assert_int_equal(plan->cells[0].kv_bytes * 7, seven * 2);
    plan_free(plan);
    r.n_blocks = 1;
    assert_int_equal(plan_create(make(1, 64), &r, &plan), ERR_USAGE);
}

static void test_fits(void **state) {
    (void)state;
    struct plan *plan = plan_of(make(4, 64), 2, 1, 1024);
    uint64_t a = plan_cell_bytes(&plan->cells[0]), b = plan_cell_bytes(&plan->cells[1]);
    const uint32_t own[] = {0, 1}, shared[] = {0, 0};
    struct plan_pool pools[] = {{"a", a}, {"b", b}};
    assert_int_equal(plan_check_memory(&program, plan, pools, 2, own), OK);
    pools[1].available = b - 1;
    assert_int_equal(plan_check_memory(&program, plan, pools, 2, own), ERR_MEMORY);
    assert_non_null(strstr(err_text(), "rank 1 (host b)"));
    pools[0].available = a + b;
    assert_int_equal(plan_check_memory(&program, plan, pools, 1, shared), OK);
    pools[0].available = a + b - 1;
    assert_int_equal(plan_check_memory(&program, plan, pools, 1, shared), ERR_MEMORY);
    assert_non_null(strstr(err_text(), "ranks 0, 1 (host a)"));
    plan_free(plan);
}

/* What the message says would fit does. */
static void test_what_would_fit(void **state) {
    (void)state;
    struct plan *plan = plan_of(make(8, 64), 1, 1, 4096);
    const uint32_t own[] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct plan_pool pools[8];
    for (int i = 0; i < 8; i++)
        pools[i] = (struct plan_pool){"a", plan->cells[0].weight_bytes + plan->cells[0].work_bytes +
                                               plan->cells[0].kv_bytes / 2};
    assert_int_equal(plan_check_memory(&program, plan, pools, 1, own), ERR_MEMORY);
    const char *context = strstr(err_text(), "a context of "), *stages = strstr(err_text(), " or ");
    assert_non_null(context);
    assert_non_null(stages);
    uint32_t n_context = (uint32_t)atoi(context + strlen("a context of "));
    uint32_t n_stages = (uint32_t)atoi(stages + strlen(" or "));
    plan_free(plan);
    assert_true(n_context >= 2048 && n_context < 4096);
    plan = plan_of(&program, 1, 1, n_context);
    assert_int_equal(plan_check_memory(&program, plan, pools, 1, own), OK);
    plan_free(plan);
    plan = plan_of(&program, 1, 1, n_context + 32);
    assert_int_equal(plan_check_memory(&program, plan, pools, 1, own), ERR_MEMORY);
    plan_free(plan);
    assert_true(n_stages > 1 && n_stages <= 8);
    plan = plan_of(&program, n_stages, 1, 4096);
    assert_int_equal(plan_check_memory(&program, plan, pools, n_stages, own), OK);
    plan_free(plan);
}

/* With a cache for several sequences it is the cache that gives way first. */
static void test_what_cache_would_fit(void **state) {
    (void)state;
    struct plan_request r = {1, 1, 0, 1024, 128, 128};
    struct plan *plan;
    const uint32_t own[] = {0};
    assert_int_equal(plan_create(make(8, 64), &r, &plan), OK);
    const struct plan_cell *c = &plan->cells[0];
    struct plan_pool pool = {"a", c->weight_bytes + c->work_bytes + c->kv_bytes / 2};
    assert_int_equal(plan_check_memory(&program, plan, &pool, 1, own), ERR_MEMORY);
    assert_non_null(strstr(err_text(), "; a KV cache of 2048 tokens or "));
    pool.available = c->weight_bytes + c->work_bytes + c->kv_bytes / 8; /* half a sequence's */
    assert_int_equal(plan_check_memory(&program, plan, &pool, 1, own), ERR_MEMORY);
    assert_non_null(strstr(err_text(), "; a context and a KV cache of "));
    plan_free(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_grid),           cmocka_unit_test(test_grid_bad),
        cmocka_unit_test(test_layers_even),    cmocka_unit_test(test_layers_weighed),
        cmocka_unit_test(test_memory),         cmocka_unit_test(test_memory_replicated),
        cmocka_unit_test(test_blocks),         cmocka_unit_test(test_fits),
        cmocka_unit_test(test_what_would_fit), cmocka_unit_test(test_what_cache_would_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
