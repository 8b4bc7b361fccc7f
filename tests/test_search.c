/* The search: against all plans there are, on small clusters; what it promises, on large ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "partition/search.h"
#include "partition/slice.h"
#include "tests/planning.h"

static struct search_result result_of(const struct program *p, const struct cluster *c, struct search_request r) {
    struct search_result out;
    if (r.plan.context == 0) r.plan.context = 512;
    if (r.plan.rows_max == 0) r.plan.rows_max = 64;
    if (search_plan(p, c, &r, &out) != OK) fail_msg("no plan: %s", err_text());
    return out;
}

static double value_of(const struct forecast *f, enum goal goal) {
    return goal == GOAL_LATENCY ? f->decode_per_s : f->streams_per_s;
}

/* ---- brute force ---- */

struct brute {
    const struct program *p;
    const struct cluster *c;
    enum goal goal;
    uint32_t context, n_stages, n_shards, n_parts;
    uint32_t devices[8], layers[16];
    float shares[8];
    double best;
    uint64_t n_plans;
};

static int fits(const struct cluster *c, const struct plan *plan) {
    uint64_t of_host[8] = {0};
    for (uint32_t i = 0; i < plan->n_ranks; i++) {
        const struct cluster_device *d = &c->devices[plan->cells[i].device];
        uint64_t need = plan_cell_bytes(&plan->cells[i]);
        if (d->memory_bytes && need > d->memory_bytes) return 0;
        if (d->is_host) of_host[d->host] += need;
    }
    for (uint32_t h = 0; h < c->n_hosts; h++)
        if (of_host[h] > c->hosts[h].memory_bytes) return 0;
    return 1;
}

static void brute_weigh(struct brute *b) {
    struct plan_request r = {b->n_stages, b->n_shards, 0, b->context, 0, 64};
    struct plan_choice choice = {b->layers, b->shares, b->devices};
    struct plan *plan;
    struct forecast *f;
    assert_int_equal(plan_create_with(b->p, &r, &choice, &plan), OK);
    b->n_plans++;
    if (fits(b->c, plan)) {
        assert_int_equal(forecast_create(b->p, b->c, plan, &f), OK);
        double value = value_of(f, b->goal);
        if (value > b->best) b->best = value;
        forecast_free(f);
    }
    plan_free(plan);
}

static void brute_layers(struct brute *b, uint32_t stage) {
    if (stage == b->n_stages) {
        brute_weigh(b);
        return;
    }
    for (uint32_t l = b->layers[stage - 1] + 1; l + (b->n_stages - stage) <= b->p->n_layers; l++) {
        b->layers[stage] = l;
        brute_layers(b, stage + 1);
    }
}

static void brute_shares(struct brute *b, uint32_t cell, uint32_t left) {
    uint32_t shard = cell % b->n_shards, after = b->n_shards - 1 - shard;
    if (cell == b->n_stages * b->n_shards) {
        b->layers[0] = 0;
        b->layers[b->n_stages] = b->p->n_layers;
        brute_layers(b, 1);
        return;
    }
    if (shard == 0) left = b->n_parts;
    for (uint32_t n = after ? 1 : left; n + after <= left; n++) {
        b->shares[cell] = (float)n;
        brute_shares(b, cell + 1, left - n);
    }
}

static void brute_devices(struct brute *b, uint32_t cell, uint32_t used) {
    if (cell == b->n_stages * b->n_shards) {
        brute_shares(b, 0, 0);
        return;
    }
    for (uint32_t d = 0; d < b->c->n_devices; d++) {
        if (used & 1u << d) continue;
        if (cell == 0 && b->c->devices[0].rank == 0 && d != 0) continue;
        b->devices[cell] = d;
        brute_devices(b, cell + 1, used | 1u << d);
    }
}

/* Tokens per second of the best of all plans; 0: none fits. */
static double brute_best(struct brute *b) {
    for (b->n_stages = 1; b->n_stages <= b->c->n_devices && b->n_stages <= b->p->n_layers; b->n_stages++)
        for (b->n_shards = 1; b->n_stages * b->n_shards <= b->c->n_devices; b->n_shards++) brute_devices(b, 0, 0);
    return b->best;
}

static double between(double low, double high) { return low + (high - low) * (rand() % 1001) / 1000; }

/* A few hosts of one to three devices, no two alike, or all. */
static struct cluster *random_cluster(uint32_t n_devices, uint64_t model_bytes) {
    struct cluster *c = test_cluster(1 + (uint32_t)rand() % n_devices, n_devices);
    uint32_t host = 0;
    int is_alike = rand() % 4 == 0, is_tight = rand() % 2;
    c->n_devices = n_devices;
    for (uint32_t i = 0; i < n_devices; i++) {
        struct cluster_device *d = &c->devices[i];
        if (i && host + 1 < c->n_hosts && rand() % 2) host++;
        d->host = host;
        if (is_alike) continue;
        test_scale(d, between(0.2, 2));
        d->rates.launch_s = between(0, 1e-5);
        d->rates.step_s = between(0, 1e-4);
        for (int f = 0; f < N_FORMATS; f++)
            d->rates.alone_per_s[f] = rand() % 2 * d->rates.row_per_s[f] * between(1, 3);
        if (rand() % 2) {
            d->rates.quota_share = between(0.1, 0.9);
            d->rates.quota_spare_s = between(0, 1e-2);
            d->rates.quota_message_s = between(0, 2e-3);
            d->rates.quota_link_per_s = between(1e6, 1e9);
        }
        d->is_host = rand() % 3 != 0;
        d->rates.copy_per_s = d->is_host ? 0 : between(1e8, 1e9);
        if (is_tight && rand() % 2) d->memory_bytes = (uint64_t)(between(0.2, 1.1) * (double)model_bytes);
    }
    c->between = (struct cluster_link){between(0, 1e-3), between(1e7, 1e9)};
    for (uint32_t h = 0; h < c->n_hosts && is_tight; h++)
        c->hosts[h].memory_bytes = (uint64_t)(between(0.4, 1.6) * (double)model_bytes);
    if (rand() % 2 == 0) c->devices[0].rank = 0;
    return c;
}

static void check_against_brute(const struct program *p, uint32_t n_devices, uint64_t model_bytes, uint32_t n_parts) {
    struct cluster *c = random_cluster(n_devices, model_bytes);
    struct brute b = {.p = p, .c = c, .goal = rand() % 2 ? GOAL_LATENCY : GOAL_THROUGHPUT, .context = 512,
                      .n_parts = n_parts};
    struct search_request r = {.goal = b.goal, .plan = {.context = 512, .rows_max = 64}};
    struct search_result out;
    double best = brute_best(&b);
    err e = search_plan(p, c, &r, &out);
    if (best <= 0) {
        assert_int_equal(e, ERR_MEMORY);
    } else {
        if (e != OK) fail_msg("%s, but %g tokens/s is possible", err_text(), best);
        assert_true(out.is_exact);
        assert_true(fits(c, out.plan));
        double got = value_of(out.forecast, b.goal);
        if (fabs(got - best) > 1e-9 * best)
            fail_msg("%u devices: %.9g tokens/s, %.9g are possible (%lu plans)", n_devices, got, best, b.n_plans);
        if (c->devices[0].rank == 0) assert_int_equal(out.plan->cells[0].device, 0);
        for (uint32_t i = 0; i < out.n_left_out; i++) assert_true(strlen(out.left_out[i].why) > 0);
        assert_int_equal(out.plan->n_ranks + out.n_left_out, c->n_devices);
        search_result_free(&out);
    }
    cluster_free(c);
}

static void test_brute_force(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 5, 640);
    t.p.axes[AXIS_HEADS].n_segments = t.p.axes[AXIS_FF].n_segments = 4; /* coarser, for fewer plans */
    struct plan_request r = {1, 1, 0, 512, 0, 64};
    struct plan *plan;
    assert_int_equal(plan_create(&t.p, &r, &plan), OK);
    uint64_t bytes = plan_cell_bytes(&plan->cells[0]);
    plan_free(plan);
    srand(1);
    for (int i = 0; i < 300; i++) check_against_brute(&t.p, 1 + (uint32_t)rand() % 3, bytes, 4);
    for (int i = 0; i < 12; i++) check_against_brute(&t.p, 4, bytes, 4);
    test_program_free(&t);
}

/* ---- one thing at a time ---- */

/* One stream: a device of a hundredth of the speed would only slow it; many streams the same, in a stage of its own. */
static void test_slow_device_left_out(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 8, 64);
    struct cluster *c = test_cluster(3, 1);
    test_scale(&c->devices[1], 0.01);
    struct search_result r = result_of(&t.p, c, (struct search_request){.goal = GOAL_THROUGHPUT});
    assert_int_equal(r.plan->n_ranks, 2);
    assert_int_equal(r.n_left_out, 1);
    assert_int_equal(r.left_out[0].device, 1);
    assert_non_null(strstr(r.left_out[0].why, "would slow the rest: "));
    assert_non_null(strstr(r.left_out[0].why, " with it, "));
    double best = r.forecast->streams_per_s;
    search_result_free(&r);
    /* Unless all are to be used; then it has the fewest layers. */
    r = result_of(&t.p, c, (struct search_request){.goal = GOAL_THROUGHPUT, .all_devices = 1});
    assert_int_equal(r.n_left_out, 0);
    assert_int_equal(r.plan->n_ranks, 3);
    assert_true(r.forecast->streams_per_s < best);
    search_result_free(&r);
    cluster_free(c);
    test_program_free(&t);
}

/* A device of half the speed gets half as many layers, as a stage, and half as many segments, as a shard. */
static void test_half_speed_half_share(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 24, 64);
    struct cluster *c = test_cluster(1, 2);
    c->inside = (struct cluster_link){0, 1e15};
    test_scale(&c->devices[1], 0.5);
    struct search_result r = result_of(&t.p, c, (struct search_request){.plan = {.n_stages = 2, .n_shards = 1},
                                                                        .goal = GOAL_THROUGHPUT});
    for (uint32_t i = 0; i < 2; i++) {
        const struct plan_cell *cell = &r.plan->cells[i];
        assert_int_equal(cell->layer_end - cell->layer_begin, cell->device == 0 ? 16 : 8);
    }
    double own = r.forecast->streams_per_s;
    search_result_free(&r);
    r = result_of(&t.p, c, (struct search_request){.plan = {.n_stages = 2, .n_shards = 1}, .is_equal = 1,
                                                   .goal = GOAL_THROUGHPUT});
    assert_int_equal(r.plan->layer_begin[1], 12);
    assert_true(own > 1.4 * r.forecast->streams_per_s);
    search_result_free(&r);
    r = result_of(&t.p, c, (struct search_request){.plan = {.n_stages = 1, .n_shards = 2}, .goal = GOAL_LATENCY});
    double share = (double)r.plan->shares[0] / (double)(r.plan->shares[0] + r.plan->shares[1]);
    if (r.plan->cells[0].device != 0) share = 1 - share;
    assert_true(fabs(share - 2.0 / 3) <= 1.0 / 16);
    search_result_free(&r);
    cluster_free(c);
    test_program_free(&t);
}

/* Each device holds three of eight layers at most: three stages, though one device alone would be the fastest. */
static void test_memory_is_obeyed(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 8, 64);
    struct cluster *c = test_cluster(4, 1);
    c->between = (struct cluster_link){0.1, 1e6};
    uint64_t layer = LAYER_WEIGHTS * 2 + 128 * 2 * 2 * 512;
    struct search_result r = result_of(&t.p, c, (struct search_request){.goal = GOAL_LATENCY});
    assert_int_equal(r.plan->n_ranks, 1);
    uint64_t all = plan_cell_bytes(&r.plan->cells[0]);
    search_result_free(&r);
    uint64_t room = all - 5 * layer;
    for (int i = 0; i < 4; i++) c->hosts[i].memory_bytes = room;
    r = result_of(&t.p, c, (struct search_request){.goal = GOAL_LATENCY});
    assert_true(r.plan->n_ranks == 3 && r.plan->n_shards == 1);
    for (uint32_t i = 0; i < 3; i++) assert_true(plan_cell_bytes(&r.plan->cells[i]) <= room);
    search_result_free(&r);
    /* A cache for two texts asks for more of them. */
    struct search_request more = {.goal = GOAL_LATENCY, .plan = {.context = 512, .n_blocks = 16 * 2, .rows_max = 64}};
    r = result_of(&t.p, c, more);
    assert_int_equal(r.plan->n_ranks, 4);
    search_result_free(&r);
    more.plan.n_blocks = 16 * 1000;
    assert_int_equal(search_plan(&t.p, c, &more, &r), ERR_MEMORY);
    assert_non_null(strstr(err_text(), "missing; a context of "));
    for (int i = 0; i < 4; i++) c->hosts[i].memory_bytes = 1000;
    assert_int_equal(search_plan(&t.p, c, &more, &r), ERR_MEMORY);
    assert_non_null(strstr(err_text(), "more hosts or a smaller format"));
    cluster_free(c);
    test_program_free(&t);
}

/* Two fast devices have room for three of eight layers each, but their host for five in all: the slow one of another
 * host gets three, not two. */
static void test_memory_is_shared(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 8, 64);
    struct cluster *c = test_cluster(2, 2);
    struct plan_request sizes = {3, 1, 0, 512, 0, 64};
    const uint32_t layers[] = {0, 3, 5, 8};
    struct plan *plan;
    assert_int_equal(plan_create_with(&t.p, &sizes, &(struct plan_choice){.layer_begin = layers}, &plan), OK);
    uint64_t three = plan_cell_bytes(&plan->cells[0]), two = plan_cell_bytes(&plan->cells[1]);
    plan_free(plan);
    c->n_devices = 3;
    c->devices[0].memory_bytes = c->devices[1].memory_bytes = three;
    c->hosts[0].memory_bytes = three + two;
    test_scale(&c->devices[2], 0.1);
    struct search_result r = result_of(&t.p, c, (struct search_request){.plan = {.n_shards = 1}});
    assert_int_equal(r.plan->n_ranks, 3);
    for (uint32_t i = 0; i < 3; i++)
        if (r.plan->cells[i].device == 2) assert_int_equal(r.plan->cells[i].layer_end - r.plan->cells[i].layer_begin, 3);
    search_result_free(&r);
    cluster_free(c);
    test_program_free(&t);
}

static void test_requests(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 4, 64);
    struct cluster *c = test_cluster(2, 2);
    struct search_result r;
    struct search_request bad = {.plan = {.context = 512, .rows_max = 64}};
    const struct { uint32_t stages, shards, ranks; } grids[] = {{5, 1, 0}, {0, 17, 0}, {3, 2, 0}, {2, 2, 3}, {3, 0, 2}};
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        bad.plan.n_stages = grids[i].stages, bad.plan.n_shards = grids[i].shards, bad.plan.n_ranks = grids[i].ranks;
        assert_int_equal(search_plan(&t.p, c, &bad, &r), ERR_USAGE);
    }
    r = result_of(&t.p, c, (struct search_request){.plan = {.n_stages = 2, .n_shards = 2}});
    assert_true(r.plan->n_stages == 2 && r.plan->n_shards == 2);
    search_result_free(&r);
    r = result_of(&t.p, c, (struct search_request){.plan = {.n_shards = 3}});
    assert_true(r.plan->n_stages == 1 && r.plan->n_shards == 3);
    search_result_free(&r);
    r = result_of(&t.p, c, (struct search_request){.plan = {.n_ranks = 1}, .goal = GOAL_THROUGHPUT});
    assert_int_equal(r.plan->n_ranks, 1);
    assert_int_equal(r.n_left_out, 3);
    search_result_free(&r);
    cluster_free(c);
    test_program_free(&t);
}

/* Shards inside hosts, stages across. */
static void test_shards_stay_inside(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 4, 64);
    struct cluster *c = test_cluster(2, 2);
    struct search_result r = result_of(&t.p, c, (struct search_request){.plan = {.n_stages = 2, .n_shards = 2},
                                                                        .goal = GOAL_LATENCY});
    for (uint32_t i = 0; i < 4; i += 2)
        assert_int_equal(c->devices[r.plan->cells[i].device].host, c->devices[r.plan->cells[i + 1].device].host);
    search_result_free(&r);
    cluster_free(c);
    test_program_free(&t);
}

/* 256 hosts of 8 devices, each with room for a few layers: found by few tries, and shards stay inside hosts. */
static void test_thousands(void **state) {
    (void)state;
    struct test_program t;
    test_program_make(&t, 120, 640);
    struct cluster *c = test_cluster(256, 8);
    c->inside = (struct cluster_link){1e-6, 100e9};
    for (uint32_t i = 0; i < c->n_devices; i++) {
        c->devices[i].is_host = 0;
        c->devices[i].rates.copy_per_s = 1e11;
        c->devices[i].memory_bytes = 6000000;
    }
    for (int goal = 0; goal < 2; goal++) {
        struct search_result r = result_of(&t.p, c, (struct search_request){.goal = (enum goal)goal});
        assert_false(r.is_exact);
        assert_true(r.n_tried < 5000);
        for (uint32_t i = 0; i < r.plan->n_ranks; i++) {
            const struct plan_cell *cell = &r.plan->cells[i], *first = &r.plan->cells[cell->stage * r.plan->n_shards];
            assert_true(plan_cell_bytes(cell) <= 6000000);
            if (r.plan->n_shards <= 8)
                assert_int_equal(c->devices[cell->device].host, c->devices[first->device].host);
        }
        assert_int_equal(r.plan->n_ranks + r.n_left_out, c->n_devices);
        search_result_free(&r);
    }
    cluster_free(c);
    test_program_free(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brute_force),           cmocka_unit_test(test_slow_device_left_out),
        cmocka_unit_test(test_half_speed_half_share), cmocka_unit_test(test_memory_is_obeyed),
        cmocka_unit_test(test_memory_is_shared),      cmocka_unit_test(test_requests),
        cmocka_unit_test(test_shards_stay_inside),    cmocka_unit_test(test_thousands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
