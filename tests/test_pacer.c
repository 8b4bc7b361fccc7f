/* The pacer against a device whose times are known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "coordinator/pacer.h"

/* A step of a device that needs `base` for its weights and `row` for each row of a prompt. */
static double step_us(double base, double row, uint32_t n_decode, uint32_t n_prefill) {
    return base + 50.0 * n_decode + row * n_prefill;
}

/* The longest mixed step, in steps of decoding alone, once it has learned. */
static double worst_stretch(struct pacer *p, double base, double row, uint32_t n_decode) {
    double worst = 0;
    for (int i = 0; i < 400; i++) {
        uint32_t rows = pacer_rows(p, n_decode, 1);
        double us = step_us(base, row, n_decode, rows);
        pacer_learn(p, n_decode, rows, us);
        if (i >= 200 && us > worst) worst = us;
    }
    return worst / step_us(base, row, n_decode, 0);
}

static void test_stretch_is_kept(void **state) {
    (void)state;
    const double rows_us[] = {20, 100, 400};
    for (int i = 0; i < 3; i++) {
        struct pacer p;
        pacer_init(&p, 1.8, 512);
        for (uint32_t n = 1; n <= 4; n *= 2) pacer_learn(&p, n, 0, step_us(20000, 0, n, 0));
        double worst = worst_stretch(&p, 20000, rows_us[i], 4);
        assert_true(worst <= 1.95); /* a tile more is tried now and then */
        assert_true(worst >= 1.4); /* and used */
    }
}

static void test_alone_a_step_is_full(void **state) {
    (void)state;
    struct pacer p;
    pacer_init(&p, 1.8, 128);
    assert_int_equal(pacer_rows(&p, 0, 1), 128);
    assert_int_equal(pacer_rows(&p, 128, 1), 0); /* no room */
}

static void test_prompts_come_to_an_end(void **state) {
    (void)state;
    struct pacer p;
    pacer_init(&p, 1, 128); /* no stretch at all */
    pacer_learn(&p, 2, 0, 1000);
    pacer_learn(&p, 2, 14, 90000);
    uint32_t sum = 0;
    for (int i = 0; i < 100; i++) {
        uint32_t rows = pacer_rows(&p, 2, 1);
        sum += rows;
        pacer_learn(&p, 2, rows, 90000);
    }
    assert_true(sum > 300);
}

/* Where a whole tile is too long, a prompt goes in steps of few rows, and a tile is tried again some day. */
static void test_less_than_a_tile(void **state) {
    (void)state;
    struct pacer p;
    pacer_init(&p, 1.5, 512);
    pacer_learn(&p, 4, 0, 50000);
    pacer_learn(&p, 4, 12, 140000);
    assert_int_equal(pacer_rows(&p, 4, 1), 4);
    pacer_learn(&p, 4, 4, 70000);
    assert_int_equal(pacer_rows(&p, 4, 5), 12); /* more wait for a tile than it holds up */
    assert_int_equal(pacer_rows(&p, 5, 1), 11); /* too little room in a step of few rows */
    uint32_t n_tiles = 0;
    for (int i = 0; i < 10000; i++) n_tiles += pacer_rows(&p, 4, 1) > 4;
    assert_true(n_tiles > 0);
}

/* Decoding gets slower as contexts grow; mixed steps in a row must not hide it. */
static void test_decoding_is_measured_again(void **state) {
    (void)state;
    struct pacer p;
    pacer_init(&p, 1.8, 512);
    pacer_learn(&p, 4, 0, 1000);
    worst_stretch(&p, 20000, 100, 4);
    assert_true(p.alone_us[4] > 15000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stretch_is_kept),
        cmocka_unit_test(test_alone_a_step_is_full),
        cmocka_unit_test(test_prompts_come_to_an_end),
        cmocka_unit_test(test_less_than_a_tile),
        cmocka_unit_test(test_decoding_is_measured_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
