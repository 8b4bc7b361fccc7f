/* The line in front of a scheduler: priorities, keys in turn, order of arrival, who waits longest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "coordinator/waiting.h"

#define N 2000

static struct waiting *w;
static struct waiting_place places[N];

static int setup(void **state) {
    (void)state;
    return waiting_create(&w) == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    waiting_free(w);
    return 0;
}

static void add(int i, uint32_t key, int priority, int is_front) {
    uint32_t queue;
    assert_int_equal(waiting_queue(w, key, priority, &queue), OK);
    waiting_add(w, &places[i], queue, is_front);
}

static int let_in(void) {
    int is_aged;
    struct waiting_place *p = waiting_next(w, &is_aged);
    if (!p) return -1;
    waiting_let_in(w, p);
    return (int)(p - places);
}

static void expect(const int *order, int n) {
    for (int i = 0; i < n; i++) assert_int_equal(let_in(), order[i]);
}

static void test_order(void **state) {
    (void)state;
    add(0, 1, 0, 0);
    add(1, 1, 0, 0);
    add(2, 1, 5, 0);
    add(3, 2, 0, 0);
    add(4, 1, -100, 0);
    add(5, 1, 0, 1); /* back at the front */
    assert_int_equal(waiting_n(w), 6);
    expect((int[]){2, 5, 3, 0, 1, 4, -1}, 7);
    assert_int_equal(waiting_n(w), 0);
}

/* One key with a thousand does not keep another out. */
static void test_keys(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) add(i, 7, 0, 0);
    expect((int[]){0, 1, 2}, 3);
    add(1000, 8, 0, 0);
    add(1001, 8, 0, 0);
    add(1002, 9, 0, 0);
    expect((int[]){3, 1000, 1002, 4, /* who waits longest: */ 5, /* the turn stays: */ 1001, 6, 7}, 8);
}

static void test_remove(void **state) {
    (void)state;
    for (int i = 0; i < 6; i++) add(i, (uint32_t)i % 3, 0, 0);
    waiting_remove(w, &places[0]);
    waiting_remove(w, &places[3]); /* the queue whose turn it is has none left */
    waiting_remove(w, &places[5]);
    expect((int[]){1, 2, 4, -1}, 4);
    uint32_t queue;
    assert_int_equal(waiting_queue(w, 0, 101, &queue), ERR_REQUEST);
    assert_non_null(strstr(err_text(), "-100 to 100"));
}

/* A stream of higher priority that never ends: one with m before it is in with the next 8 * (m + 1). */
static void test_bound(void **state) {
    (void)state;
    for (int i = 0; i < 20; i++) add(i, 1, 0, 0);
    int n_let_in = 0, last = 0;
    for (int i = 20; i < N; i++) {
        add(i, 2, 9, 0);
        int who = let_in();
        n_let_in++;
        if (who >= 20) continue;
        assert_int_equal(who, last++); /* the oldest first */
        assert_in_range(n_let_in, 1, WAITING_AGED_EVERY * (who + 1));
    }
    assert_int_equal(last, 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keys, setup, teardown),
        cmocka_unit_test_setup_teardown(test_remove, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bound, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
