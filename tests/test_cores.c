/* Which cores ranks get, on hosts that hwloc makes up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <string.h>

#include "base/env.h"
#include "node/cores.h"

/* Rank `place` of n_ranks on a host, each wanting n_threads. */
static struct cores on(const char *host, uint32_t place, uint32_t n_ranks, uint32_t n_threads) {
    struct cores c;
    assert_int_equal(env_set("HWLOC_SYNTHETIC", host), OK);
    assert_int_equal(cores_share(place, n_ranks, n_threads, &c), OK);
    return c;
}

static void expect(struct cores c, const char *text, uint32_t n_threads, int is_bound) {
    assert_string_equal(c.text, text);
    assert_int_equal(c.n_threads, n_threads);
    assert_int_equal(c.is_bound, is_bound);
}

static const char two_sockets[] = "numa:2 core:4 pu:2";

/* One thread per core, though each core has two processors. */
static void test_alone(void **state) {
    (void)state;
    expect(on(two_sockets, 0, 1, 0), "0-15", 8, 0);
    expect(on(two_sockets, 0, 1, 3), "0-15", 3, 0);
}

static void test_neighbours(void **state) {
    (void)state;
    expect(on(two_sockets, 0, 2, 0), "0-7", 4, 1);
    expect(on(two_sockets, 1, 2, 0), "8-15", 4, 1);
    expect(on(two_sockets, 1, 4, 0), "4-7", 2, 1);
    expect(on(two_sockets, 7, 8, 0), "14-15", 1, 1);
    expect(on(two_sockets, 1, 2, 2), "8-15", 2, 1);
}

/* Every core belongs to one rank, also where the number divides nothing. */
static void test_disjoint(void **state) {
    (void)state;
    for (uint32_t n = 2; n <= 8; n++) {
        uint32_t n_threads = 0;
        for (uint32_t i = 0; i < n; i++) {
            struct cores c = on(two_sockets, i, n, 0);
            assert_true(c.is_bound);
            for (uint32_t k = 0; k < i; k++) assert_string_not_equal(c.text, on(two_sockets, k, n, 0).text);
            n_threads += c.n_threads;
        }
        assert_int_equal(n_threads, 8);
    }
}

/* Nobody is bound where ranks or threads are more than cores. */
static void test_crowded(void **state) {
    (void)state;
    expect(on("core:2 pu:1", 0, 3, 0), "0-1", 1, 0);
    expect(on("core:2 pu:1", 1, 2, 0), "1", 1, 1);
    expect(on("core:2 pu:1", 1, 2, 2), "0-1", 2, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alone), cmocka_unit_test(test_neighbours),
                                       cmocka_unit_test(test_disjoint), cmocka_unit_test(test_crowded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
