/* Forecast beside fact: what is measured is what the ranks counted, what is forecast is for the steps there were. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

#include "coordinator/facts.h"
#include "tests/planning.h"

static void assert_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-9 * fabs(want))) fail_msg("%.12g, expected %.12g", got, want);
}

static struct test_program t;
static struct cluster *cluster;
static struct plan *plan;

/* Two stages on two hosts; figures of a text of 100 tokens in steps of 25 that wrote 11. */
static struct facts_request request(struct engine_rank *ranks) {
    for (int i = 0; i < 2; i++)
        ranks[i] = (struct engine_rank){.one_row_steps = 10, .one_row_s = 0.02 + 0.01 * i, .many_steps = 4,
                                        .many_rows = 100, .many_s = 0.4, .load_s = 3, .peak_rss_bytes = 1000000};
    return (struct facts_request){.program = &t.p, .cluster = cluster, .plan = plan, .ranks = ranks, .n_texts = 1,
                                  .n_prompt = 100, .n_written = 10, .decode_per_s = 100, .prefill_per_s = 200,
                                  .load_s = 4};
}

static int setup(void **state) {
    (void)state;
    struct plan_request r = {2, 1, 0, 1024, 0, 128};
    test_program_make(&t, 4, 320);
    cluster = test_cluster(2, 1);
    test_scale(&cluster->devices[1], 0.5);
    return plan_create(&t.p, &r, &plan) == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    plan_free(plan);
    cluster_free(cluster);
    test_program_free(&t);
    return 0;
}

static void test_measured(void **state) {
    (void)state;
    struct engine_rank ranks[2];
    struct facts_request r = request(ranks);
    struct facts *f;
    r.cluster = NULL;
    assert_int_equal(facts_create(&r, &f), OK);
    assert_near(f->ranks[0].decode_s.measured, 0.002);
    assert_near(f->ranks[1].prefill_s.measured, 0.1);
    assert_int_equal(f->rows, 25);
    assert_near(f->hop_s.measured, (0.01 - 0.002 - 0.003) / 2); /* a token less computing, two hops */
    assert_true(f->decode_per_s.forecast == 0 && f->ranks[0].decode_s.forecast == 0);
    facts_free(f);
    ranks[1].one_row_steps = 0; /* nothing can be said of hops */
    assert_int_equal(facts_create(&r, &f), OK);
    assert_true(f->hop_s.measured == 0);
    facts_free(f);
}

static void test_forecast(void **state) {
    (void)state;
    struct engine_rank ranks[2];
    struct facts_request r = request(ranks);
    struct facts *f;
    struct forecast *forecast;
    struct cost c[2];
    assert_int_equal(facts_create(&r, &f), OK);
    assert_int_equal(forecast_create_at(&t.p, cluster, plan, 106, &forecast), OK); /* half of what was written */
    const struct step_shape s = {.n_rows = 25, .n_outs = 1, .n_positions = 51};
    for (uint32_t i = 0; i < 2; i++) {
        assert_int_equal(cost_cell(&t.p, cluster, plan, i, &s, &c[i]), OK);
        assert_near(f->ranks[i].prefill_s.forecast, c[i].total_s);
        assert_near(f->ranks[i].decode_s.forecast, forecast->cells[i].decode.total_s);
        assert_near(f->ranks[i].memory_bytes.forecast, (double)plan_cell_bytes(&plan->cells[i]));
    }
    assert_near(f->decode_per_s.forecast, forecast->decode_per_s);
    double back_s = forecast->cells[1].hop_decode_s, one_s = forecast->cells[0].hop_decode_s;
    assert_near(f->hop_s.forecast, (one_s + back_s) / 2);
    /* The first of four steps passes both stages and hops, the slower stage is then done with one after the other. */
    double hop_s = one_s + (forecast->cells[0].hop_prefill_s - one_s) * 24 / 127;
    double seconds = c[0].total_s + hop_s + c[1].total_s + back_s + 3 * fmax(c[0].total_s, c[1].total_s);
    assert_near(f->prefill_per_s.forecast, 100 / seconds);
    forecast_free(forecast);
    facts_free(f);
}

/* Decoding of one text is not compared with that of several; JSON has null where nothing is known. */
static void test_several_texts(void **state) {
    (void)state;
    struct engine_rank ranks[2];
    struct facts_request r = request(ranks);
    struct facts *f;
    r.n_texts = 8;
    r.decode_per_s = 0;
    assert_int_equal(facts_create(&r, &f), OK);
    assert_true(f->decode_per_s.forecast == 0 && f->hop_s.measured == 0 && f->prefill_per_s.forecast > 0);
    json_t *o = facts_json(f);
    assert_true(json_is_null(json_object_get(json_object_get(o, "decode_tokens_per_s"), "forecast")));
    assert_true(json_is_real(json_object_get(json_object_get(o, "prefill_tokens_per_s"), "measured")));
    assert_int_equal(json_array_size(json_object_get(o, "ranks")), 2);
    json_decref(o);
    facts_free(f);
}

/* What /cluster and /metrics get of each rank. */
static void test_added(void **state) {
    (void)state;
    struct engine_rank ranks[2];
    struct forecast *forecast;
    request(ranks);
    json_t *list = json_pack("[{s:i}, {s:i}]", "rank", 0, "rank", 1), *o = json_array_get(list, 1);
    assert_int_equal(facts_add(list, plan, ranks, NULL), OK);
    assert_near(json_real_value(json_object_get(o, "decode_s")), 0.003);
    assert_near(json_real_value(json_object_get(o, "prefill_rows")), 25);
    assert_null(json_object_get(o, "forecast_decode_s"));
    assert_int_equal(forecast_create(&t.p, cluster, plan, &forecast), OK);
    assert_int_equal(facts_add(list, plan, ranks, forecast), OK);
    assert_near(json_real_value(json_object_get(o, "forecast_decode_s")), forecast->cells[1].decode.total_s);
    assert_near(json_real_value(json_object_get(o, "forecast_hop_s")), forecast->cells[1].hop_decode_s);
    forecast_free(forecast);
    json_decref(list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_measured),
        cmocka_unit_test(test_forecast),
        cmocka_unit_test(test_several_texts),
        cmocka_unit_test(test_added),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
