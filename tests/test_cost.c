/* Costs of cells and forecasts of plans, against sums done by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "model/limits.h"
#include "partition/cost.h"
#include "tests/planning.h"

static void assert_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * fabs(want) + 1e-15)) fail_msg("%.12g, expected %.12g", got, want);
}

static struct plan *plan_of(const struct program *p, uint32_t stages, uint32_t shards, const float *shares) {
    struct plan_request r = {stages, shards, 0, 1024, 0, 128};
    struct plan_choice choice = {.shares = shares};
    struct plan *plan = NULL;
    assert_int_equal(plan_create_with(p, &r, &choice, &plan), OK);
    return plan;
}

static struct cost cost_at(const struct program *p, const struct cluster *c, const struct plan *plan, uint32_t cell,
                           struct step_shape s) {
    struct cost out;
    assert_int_equal(cost_cell(p, c, plan, cell, &s, &out), OK);
    return out;
}

/* One device, one row: every weight is read once, the table is looked up. */
static void test_one_row(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 4, 320);
    struct cluster *c = test_cluster(1, 1);
    c->devices[0].rates.launch_s = 1e-5;
    c->devices[0].rates.step_s = 3e-4;
    struct plan *plan = plan_of(&t.p, 1, 1, NULL);
    struct cost got = cost_at(&t.p, c, plan, 0, (struct step_shape){1, 1, 100, 0});
    assert_near(got.weights_s, (4.0 * LAYER_WEIGHTS + 320 * 256) * 2 / 1e9);
    /* Keys and values of 128 values each, f16; or 4 operations for each of 256 values, at 0.6 of the peak. */
    assert_near(got.attend_s, 4 * 100 * fmax(128 * 2 * 2 / 1e9, 4 * 256 / (0.6 * 10e9)));
    /* A layer: q k v, kv-write, attend, o, reduce + add, up, act, down, reduce + add + the next norm; at the ends
     * the embedding, the first norm, and select, norm, head. */
    assert_near(got.launch_s, 3e-4 + (4 * 9 + 5) * 1e-5);
    assert_near(got.copy_s, 0);
    assert_near(got.share_s, 0);
    assert_near(got.total_s, got.weights_s + got.attend_s + got.launch_s);
    /* Without a wanted row there is no head. */
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){1, 0, 100, 0}).weights_s, 4.0 * LAYER_WEIGHTS * 2 / 1e9);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* Many rows are a matter of operations; their attention reads one text's cache. */
static void test_many_rows(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 64);
    struct cluster *c = test_cluster(1, 1);
    struct plan *plan = plan_of(&t.p, 1, 1, NULL);
    struct cost got = cost_at(&t.p, c, plan, 0, (struct step_shape){128, 1, 64, 0});
    assert_near(got.weights_s, 2.0 * LAYER_WEIGHTS * 2 * 128 / 10e9 + 64 * 256 * 2 / 1e9);
    assert_near(got.attend_s, 2 * 4.0 * 256 * 64 * 128 / (0.6 * 10e9));
    /* Between one row, that reads, and 128, that multiply, on the line between. */
    double one = 2 / 1e9, many = 128 * 2 / 10e9;
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){16, 0, 64, 0}).weights_s,
                2.0 * LAYER_WEIGHTS * (one + (many - one) * 15 / 127));
    /* Where 16 rows are known, too, on two lines, never above what more rows take. */
    c->devices[0].rates.few_per_s[FORMAT_F16] = 8e9;
    double few = 16 * 2 / 8e9;
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){1, 0, 64, 0}).weights_s, 2.0 * LAYER_WEIGHTS * one);
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){4, 0, 64, 0}).weights_s,
                2.0 * LAYER_WEIGHTS * (one + (few - one) * 3 / 15));
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){16, 0, 64, 0}).weights_s, 2.0 * LAYER_WEIGHTS * few);
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){44, 0, 64, 0}).weights_s,
                2.0 * LAYER_WEIGHTS * (few + (many - few) * 28 / 112));
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){256, 0, 64, 0}).weights_s, 2.0 * LAYER_WEIGHTS * 2 * many);
    c->devices[0].rates.few_per_s[FORMAT_F16] = 1e9;
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){44, 0, 64, 0}).weights_s, 2.0 * LAYER_WEIGHTS * many);
    /* Norms and gates: of a layer 256 and 512 values; the head's norm is of one row. */
    assert_near(got.plain_s, 0);
    c->devices[0].rates.plain_per_s = 1e6;
    struct cost counted = cost_at(&t.p, c, plan, 0, (struct step_shape){128, 1, 64, 0});
    assert_near(counted.plain_s, (128 * 2 * (256 + 512) + 256) / 1e6);
    assert_near(counted.total_s, got.total_s + counted.plain_s);
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){1, 1, 64, 0}).plain_s, (2 * (256 + 512) + 256) / 1e6);
    c->devices[0].rates.plain_per_s = 0;
    /* A window bounds what attention sees. */
    for (uint32_t i = 0; i < t.p.n_ops; i++)
        if (t.ops[i].kind == OP_ATTEND) t.ops[i].attend.window = 16;
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){128, 1, 64, 0}).attend_s, got.attend_s / 4);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* A launch more per layer for attention in several chunks; a stage that does not begin at 0 norms its own first row. */
static void test_launches(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 6, 64);
    struct cluster *c = test_cluster(1, 3);
    for (int i = 0; i < 3; i++) c->devices[i].rates.launch_s = 1;
    struct plan *plan = plan_of(&t.p, 3, 1, NULL);
    struct step_shape s = {1, 1, ATTEND_CHUNK, 0};
    assert_near(cost_at(&t.p, c, plan, 0, s).launch_s, 2 * 9 + 2);
    assert_near(cost_at(&t.p, c, plan, 1, s).launch_s, 2 * 9 + 1);
    assert_near(cost_at(&t.p, c, plan, 2, s).launch_s, 2 * 9 + 1 + 3);
    s.n_positions++;
    assert_near(cost_at(&t.p, c, plan, 1, s).launch_s, 2 * 9 + 1 + 2);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* Two shards own 3 and 1 quarters: results of 2 and 1 subtrees, of 8 segments of heads and 16 of ff. */
static void test_shares(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 128);
    struct cluster *c = test_cluster(2, 1);
    const float shares[] = {3, 1};
    struct plan *plan = plan_of(&t.p, 1, 2, shares);
    struct step_shape s = {1, 1, 100, 0};
    struct cost big = cost_at(&t.p, c, plan, 0, s), small = cost_at(&t.p, c, plan, 1, s);
    /* Heads 6 of 8, kv heads 3 of 4, ff 12 of 16; of the head 96 of 128 rows. */
    assert_near(big.weights_s, 2 * 0.75 * LAYER_WEIGHTS * 2 / 1e9 + 96 * 256 * 2 / 1e9);
    assert_near(small.weights_s, 2 * 0.25 * LAYER_WEIGHTS * 2 / 1e9 + 32 * 256 * 2 / 1e9);
    /* Four exchanges: the first shard sends 2 sums of 256 floats and gets one; then 32 logits to it. */
    assert_near(big.share_s, 4 * (1e-3 + 2 * 1024 / 100e6) + 1e-3 + 32 * 4 / 100e6);
    assert_near(small.share_s, 4 * (1e-3 + 2 * 1024 / 100e6));
    /* By messages the device stops each time; inside a host its memory is where they meet. */
    c->devices[0].rates.step_s = 1;
    assert_near(cost_at(&t.p, c, plan, 0, s).share_s, big.share_s + 4);
    c->devices[1].host = 0;
    assert_near(cost_at(&t.p, c, plan, 0, s).share_s, 4 * (1e-6 + 2 * 1024 / 10e9) + 1e-6 + 32 * 4 / 10e9);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* A quota of half the time, of which a wait spares 2 ms at most, and a message takes some: all together at most half of the
 * computing; a stage saves once more while others compute. */
static void test_quota(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 128);
    struct cluster *c = test_cluster(2, 1);
    for (int i = 0; i < 2; i++) {
        test_scale(&c->devices[i], 1e-2);
        c->devices[i].rates.quota_share = 0.5;
        c->devices[i].rates.quota_spare_s = 2e-3;
    }
    struct plan *one = plan_of(&t.p, 1, 1, NULL), *shards = plan_of(&t.p, 1, 2, NULL), *stages = plan_of(&t.p, 2, 1, NULL);
    struct step_shape s = {1, 1, 100, 0};
    struct cost alone = cost_at(&t.p, c, one, 0, s);
    assert_near(alone.saved_s, 0);
    assert_near(alone.rest_s, 0);
    struct cost shard = cost_at(&t.p, c, shards, 1, s); /* waits of 1.01 ms */
    assert_near(shard.saved_s, shard.share_s);
    c->devices[1].rates.quota_message_s = 0.5e-3;
    assert_near(cost_at(&t.p, c, shards, 1, s).saved_s, shard.share_s - 4 * 0.5e-3);
    c->devices[1].rates.quota_link_per_s = 1e8; /* 1024 bytes out and as many in */
    assert_near(cost_at(&t.p, c, shards, 1, s).saved_s, shard.share_s - 4 * (0.5e-3 + 2 * 1024 / 1e8));
    c->devices[1].rates.quota_link_per_s = 0;
    c->devices[1].rates.quota_message_s = 3e-3; /* more than a wait gives */
    shard = cost_at(&t.p, c, shards, 1, s);
    assert_near(shard.total_s, shard.weights_s + shard.attend_s + shard.launch_s + 4 * 3e-3);
    c->devices[1].rates.quota_message_s = 0;
    c->between.latency_s = 1;
    shard = cost_at(&t.p, c, shards, 1, s);
    assert_near(shard.saved_s, fmin(4 * 2e-3, 0.5 * (shard.weights_s + shard.attend_s + shard.launch_s)));
    c->devices[1].rates.quota_message_s = 0.5; /* a long wait pays for its messages */
    assert_near(cost_at(&t.p, c, shards, 1, s).saved_s, shard.saved_s);
    c->devices[1].rates.quota_message_s = 0;
    struct cost stage = cost_at(&t.p, c, stages, 0, s);
    assert_near(stage.saved_s, 0);
    assert_near(stage.rest_s, 2e-3);
    c->devices[0].rates.quota_message_s = 1e-3; /* to and from the other stage, in every step */
    assert_near(cost_at(&t.p, c, stages, 0, s).total_s, stage.total_s + 1e-3);
    assert_near(cost_at(&t.p, c, stages, 0, s).rest_s, 2e-3);
    c->devices[0].rates.quota_link_per_s = 1e8;
    assert_near(cost_at(&t.p, c, stages, 0, s).total_s, stage.total_s + 1e-3 + 1024 / 1e8);
    assert_near(cost_at(&t.p, c, one, 0, s).total_s, alone.total_s);
    c->devices[0].rates.quota_message_s = c->devices[0].rates.quota_link_per_s = 0;
    struct forecast *f;
    assert_int_equal(forecast_create_at(&t.p, c, stages, 100, &f), OK);
    double sum = stage.total_s + cost_at(&t.p, c, stages, 1, s).total_s;
    assert_near(f->decode_per_s, 1 / (sum - 2 * 2e-3 + 2 * 1 + 1024 / 100e6));
    assert_near(f->streams_per_s, 1 / fmax(stage.total_s, cost_at(&t.p, c, stages, 1, s).total_s));
    forecast_free(f);
    c->between.latency_s = 0; /* a rest spares no more than what is given meanwhile */
    c->devices[0].rates.quota_spare_s = c->devices[1].rates.quota_spare_s = 1e3;
    test_scale(&c->devices[1], 1e3);
    assert_int_equal(forecast_create_at(&t.p, c, stages, 100, &f), OK);
    assert_near(f->decode_per_s, 1 / stage.total_s);
    test_scale(&c->devices[1], 1e-3);
    c->between.latency_s = 1;
    c->devices[0].rates.quota_spare_s = stage.total_s / 2; /* just enough: held back in some of its periods */
    assert_near(cost_at(&t.p, c, stages, 0, s).rest_s, stage.total_s / 2 * (1 - 0.75 / 4));
    c->devices[0].rates.quota_spare_s = 1e3; /* a burst longer than the work: as without a quota */
    assert_near(cost_at(&t.p, c, stages, 0, s).rest_s, stage.total_s / 2);
    c->devices[1].rates.quota_spare_s = 1; /* short waits, just enough */
    c->between.latency_s = (shard.total_s - shard.share_s + shard.saved_s) / 8 - 1024 / 100e6;
    shard = cost_at(&t.p, c, shards, 1, s);
    double wait = shard.share_s / 4;
    assert_near(shard.saved_s, 4 * wait - 4 * wait * wait / 4);
    forecast_free(f);
    plan_free(one);
    plan_free(shards);
    plan_free(stages);
    cluster_free(c);
    test_program_free(&t);
}

/* The step of the only stream does not share memory with other stages, but with shards of its own. */
static void test_alone(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 128);
    struct cluster *c = test_cluster(3, 1);
    struct plan *stages = plan_of(&t.p, 2, 1, NULL), *shards = plan_of(&t.p, 1, 2, NULL);
    struct step_shape s = {1, 0, 100, 1};
    struct cost unknown = cost_at(&t.p, c, stages, 0, s);
    assert_near(unknown.rest_s, 0);
    for (int i = 0; i < 3; i++) c->devices[i].rates.alone_per_s[FORMAT_F16] = 1.25e9; /* together 1e9 */
    struct cost stage = cost_at(&t.p, c, stages, 0, s);
    assert_near(stage.weights_s, unknown.weights_s);
    assert_near(stage.total_s, unknown.total_s);
    assert_near(stage.crowd_s, stage.weights_s * (1 - 1 / 1.25));
    assert_near(stage.rest_s, stage.crowd_s);
    struct forecast *f;
    assert_int_equal(forecast_create_at(&t.p, c, stages, 100, &f), OK);
    assert_near(f->cells[0].decode.total_s - f->cells[0].decode.rest_s, stage.total_s - stage.crowd_s);
    assert_near(f->streams_per_s, 1 / fmax(f->cells[0].decode.total_s, f->cells[1].decode.total_s));
    forecast_free(f);
    assert_int_equal(forecast_create_at(&t.p, c, shards, 100, &f), OK);
    assert_near(f->cells[1].decode.rest_s, 0);
    assert_near(f->decode_per_s, f->streams_per_s);
    forecast_free(f);
    plan_free(stages);
    plan_free(shards);
    cluster_free(c);
    test_program_free(&t);
}

/* Four equal shards of one subtree each: at once, in parts where rows are many, a crew of two as one. */
static void test_crews(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 128);
    struct cluster *apart = test_cluster(4, 1), *pairs = test_cluster(2, 2);
    struct plan *plan = plan_of(&t.p, 1, 4, NULL);
    struct step_shape few = {1, 0, 100, 0}, many = {1000, 0, 100, 0};
    const double sum_s = 1024 / 100e6; /* of one row */
    assert_near(cost_at(&t.p, apart, plan, 1, few).share_s, 4 * (1e-3 + 3 * sum_s));
    assert_near(cost_at(&t.p, apart, plan, 1, many).share_s, 4 * (2e-3 + 2 * 3 * 1000 * sum_s / 4));
    assert_near(cost_at(&t.p, pairs, plan, 0, few).share_s, 4 * (1e-3 + sum_s));
    assert_near(cost_at(&t.p, pairs, plan, 2, many).share_s, 4 * (1e-3 + 1000 * sum_s));
    for (int i = 0; i < 4; i++) /* messages take more than waits give */
        apart->devices[i].rates.quota_message_s = pairs->devices[i].rates.quota_message_s = 1;
    assert_near(cost_at(&t.p, apart, plan, 1, few).saved_s, 4 * (1e-3 + 3 * sum_s - 2));
    assert_near(cost_at(&t.p, pairs, plan, 2, few).saved_s, 4 * (1e-3 + sum_s - 1));
    assert_near(cost_at(&t.p, pairs, plan, 3, few).saved_s, 0); /* waits on a board */
    plan_free(plan);
    cluster_free(apart);
    cluster_free(pairs);
    test_program_free(&t);
}

/* A device with memory of its own: rows in and out, sums of shards, logits. */
static void test_copies(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 3, 64);
    struct cluster *c = test_cluster(1, 3);
    for (int i = 0; i < 3; i++) {
        c->devices[i].is_host = 0;
        c->devices[i].rates.copy_per_s = 1e6;
    }
    struct plan *plan = plan_of(&t.p, 3, 1, NULL);
    struct step_shape s = {4, 2, 10, 0};
    assert_near(cost_at(&t.p, c, plan, 0, s).copy_s, 4 * 1024 / 1e6);
    assert_near(cost_at(&t.p, c, plan, 1, s).copy_s, 2 * 4 * 1024 / 1e6);
    assert_near(cost_at(&t.p, c, plan, 2, s).copy_s, (4 * 1024 + 2 * 64 * 4) / 1e6);
    plan_free(plan);
    plan = plan_of(&t.p, 1, 2, NULL);
    /* Six exchanges of one own sum, the whole comes back; half the logits. */
    assert_near(cost_at(&t.p, c, plan, 1, s).copy_s, (6 * 2 * 4 * 1024 + 2 * 32 * 4) / 1e6);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* Of 8 experts with 2 each: one row reads 2, many rows read all; memory holds all. */
static void test_experts(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 1, 64);
    struct cluster *c = test_cluster(1, 1);
    struct plan *dense = plan_of(&t.p, 1, 1, NULL);
    uint32_t up = 5, down = 6; /* after the table and q, k, v, o */
    for (uint32_t i = up; i <= down; i++) t.weights[i].n_experts = 8, t.weights[i].n_used = 2;
    struct plan *plan = plan_of(&t.p, 1, 1, NULL);
    double ff = 2 * 512 * 256, rest = LAYER_WEIGHTS - ff;
    assert_int_equal(plan->cells[0].weight_bytes, dense->cells[0].weight_bytes + (uint64_t)(7 * ff * 2));
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){1, 0, 1, 0}).weights_s, (rest + 2 * ff) * 2 / 1e9);
    /* Two rows hit 8 x (1 - 0.75^2) = 3.5 experts, which have 4 / 3.5 rows each. Seconds of a value: */
    double one = 2 / 1e9, more = (128 * 2 / 10e9 - one) / 127;
    assert_near(cost_at(&t.p, c, plan, 0, (struct step_shape){2, 0, 1, 0}).weights_s,
                rest * (one + more) + ff * (3.5 * one + 0.5 * more));
    double many = cost_at(&t.p, c, plan, 0, (struct step_shape){1000, 0, 1, 0}).weights_s;
    assert_near(many, (rest + 2 * ff) * 2 * 1000 / 10e9);
    plan_free(dense);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* Two stages on two hosts: what one stream, many streams and a prompt reach. */
static void test_forecast(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 4, 64);
    struct cluster *c = test_cluster(2, 1);
    test_scale(&c->devices[1], 0.5);
    c->hosts[0].file_per_s = 1e6;
    c->devices[1].rates.pack_per_s = 1e6;
    struct plan *plan = plan_of(&t.p, 2, 1, NULL);
    struct forecast *f;
    assert_int_equal(forecast_create(&t.p, c, plan, &f), OK);
    assert_int_equal(f->n_positions, 512);
    double a = cost_at(&t.p, c, plan, 0, (struct step_shape){1, 1, 512, 0}).total_s;
    double b = cost_at(&t.p, c, plan, 1, (struct step_shape){1, 1, 512, 0}).total_s;
    assert_near(b, (2 * LAYER_WEIGHTS * 2 + 64 * 256 * 2 + 2 * 512 * 512) / 0.5e9);
    double hop = 1e-3 + 1024 / 100e6;
    assert_near(f->decode_per_s, 1 / (a + hop + b + 1e-3));
    assert_near(f->streams_per_s, 1 / b);
    assert_near(f->prefill_per_s, 128 / cost_at(&t.p, c, plan, 1, (struct step_shape){128, 0, 256, 0}).total_s);
    assert_int_equal(f->slowest_stage, 1);
    assert_non_null(strstr(f->bottleneck, "stage 1, shard 0 on host-1 (device-1)"));
    assert_non_null(strstr(f->bottleneck, "reading weights"));
    assert_int_equal(f->cells[0].hop_bytes, 1024);
    assert_int_equal(f->cells[1].hop_bytes, 0);
    assert_near(f->cells[0].hop_decode_s, hop);
    assert_near(f->cells[1].hop_decode_s, 1e-3);
    assert_near(f->cells[0].load_s, (double)plan->cells[0].weight_bytes / 1e6);
    assert_near(f->cells[1].load_s, (double)plan->cells[1].weight_bytes / 1e6);
    assert_near(f->load_s, fmax(f->cells[0].load_s, f->cells[1].load_s));
    forecast_free(f);
    /* Over a thin wire the hop is what counts. */
    c->between.bytes_per_s = 1e3;
    assert_int_equal(forecast_create(&t.p, c, plan, &f), OK);
    assert_near(f->streams_per_s, 1e3 / 1024);
    assert_near(f->prefill_per_s, 1e3 / 1024);
    assert_non_null(strstr(f->bottleneck, "the way from stage 0 (host-0) to stage 1 (host-1)"));
    forecast_free(f);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* Two shards of a stage on one host send over one wire. */
static void test_hops_share_a_wire(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 64);
    struct cluster *c = test_cluster(2, 2);
    struct plan *plan = plan_of(&t.p, 2, 2, NULL);
    struct forecast *f;
    assert_int_equal(forecast_create(&t.p, c, plan, &f), OK);
    assert_near(f->cells[0].hop_decode_s, 1e-3 + 2 * 1024 / 100e6);
    assert_near(f->cells[1].hop_decode_s, 1e-3 + 2 * 1024 / 100e6);
    assert_near(f->cells[2].hop_decode_s, 1e-3);
    assert_near(f->cells[3].hop_decode_s, 0);
    /* Two exchanges of a layer, one subtree each, to one other; shard 1 of the last stage also half the logits. */
    assert_int_equal(f->cells[0].share_bytes, 2 * 1024);
    assert_int_equal(f->cells[3].share_bytes, 2 * 1024 + 32 * 4);
    forecast_free(f);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

/* What is faster anywhere makes nothing slower. */
static void test_monotone(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 6, 640);
    struct cluster *c = test_cluster(2, 2);
    struct plan *plan = plan_of(&t.p, 2, 2, NULL);
    struct forecast *f, *g;
    srand(3);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(forecast_create(&t.p, c, plan, &f), OK);
        double factor = 1 + (double)(rand() % 100) / 50;
        switch (rand() % 4) {
        case 0: c->between.bytes_per_s *= factor; break;
        case 1: c->between.latency_s /= factor; break;
        default: test_scale(&c->devices[rand() % 4], factor);
        }
        assert_int_equal(forecast_create(&t.p, c, plan, &g), OK);
        assert_true(g->decode_per_s >= f->decode_per_s * (1 - 1e-12));
        assert_true(g->streams_per_s >= f->streams_per_s * (1 - 1e-12));
        assert_true(g->prefill_per_s >= f->prefill_per_s * (1 - 1e-12));
        forecast_free(f);
        forecast_free(g);
        if (i % 10 == 9) { /* back to where it began */
            cluster_free(c);
            c = test_cluster(2, 2);
        }
    }
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

static void test_unknown_rates(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 2, 64);
    struct cluster *c = test_cluster(1, 1);
    struct plan *plan = plan_of(&t.p, 1, 1, NULL);
    struct forecast *f;
    c->devices[0].rates.f32_per_s = 0;
    assert_int_equal(forecast_create(&t.p, c, plan, &f), ERR_CONFIG);
    assert_non_null(strstr(err_text(), "device-0"));
    c->devices[0].rates.f32_per_s = 1;
    c->inside.bytes_per_s = 0;
    assert_int_equal(forecast_create(&t.p, c, plan, &f), ERR_CONFIG);
    plan_free(plan);
    cluster_free(c);
    test_program_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_row),  cmocka_unit_test(test_many_rows),
        cmocka_unit_test(test_launches), cmocka_unit_test(test_shares),
        cmocka_unit_test(test_quota), cmocka_unit_test(test_alone),
        cmocka_unit_test(test_crews),
        cmocka_unit_test(test_copies),   cmocka_unit_test(test_experts),
        cmocka_unit_test(test_forecast), cmocka_unit_test(test_hops_share_a_wire),
        cmocka_unit_test(test_monotone), cmocka_unit_test(test_unknown_rates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
