/* Windows between two readings of the ranks' figures: sums that can be done by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "coordinator/window.h"

static void test_shares(void **state) {
    (void)state;
    struct engine_rank a = {.clock_s = 1000, .compute_s = 3, .share_s = 1, .send_s = 0.5, .wait_s = 7, .n_steps = 10,
                            .bytes_sent = 100};
    struct engine_rank b = {.clock_s = 1010, .compute_s = 8, .share_s = 2, .send_s = 1, .wait_s = 10, .n_steps = 22,
                            .bytes_sent = 1300};
    struct window w;
    window_between(&a, &b, &w);
    assert_float_equal(w.seconds, 10, 1e-9);
    assert_float_equal(w.busy, 0.5, 1e-9);
    assert_float_equal(w.share, 0.1, 1e-9);
    assert_float_equal(w.sending, 0.05, 1e-9);
    assert_float_equal(w.bubble, 0.3, 1e-9);
    assert_float_equal(w.step_s, 0.5, 1e-9); /* 6 s of 12 steps */
    assert_int_equal(w.n_steps, 12);
    assert_int_equal(w.bytes_sent, 1200);
}

/* A rank that did nothing, and one that was started again between the readings. */
static void test_nothing(void **state) {
    (void)state;
    struct engine_rank a = {.clock_s = 5, .compute_s = 3}, b = {.clock_s = 5}, c = {.clock_s = 6};
    struct window w;
    window_between(&a, &b, &w);
    assert_true(w.busy == 0 && w.bubble == 0 && w.step_s == 0 && w.n_steps == 0);
    window_between(&a, &c, &w);
    assert_true(w.busy == 0 && w.seconds == 1);
}

/* Stages follow each other, shards work side by side. */
static void test_compute(void **state) {
    (void)state;
    const struct window w[] = {{.step_s = 1}, {.step_s = 3}, {.step_s = 4}, {.step_s = 2}};
    assert_float_equal(window_compute_s(w, 4, 1), 10, 1e-9);
    assert_float_equal(window_compute_s(w, 2, 2), 7, 1e-9);
    assert_float_equal(window_compute_s(w, 1, 4), 4, 1e-9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_compute),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
