/* KV blocks: who holds them, what is known, what is forgotten first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "coordinator/blocks.h"

static struct blocks *b;

static int setup(void **state) {
    (void)state;
    return blocks_create(6, &b) == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    blocks_free(b);
    return 0;
}

static void check(uint32_t n_used, uint32_t n_cached) {
    if (blocks_check(b) != OK) fail_msg("%s", err_text());
    assert_int_equal(blocks_n_used(b), n_used);
    assert_int_equal(blocks_n_cached(b), n_cached);
    assert_int_equal(blocks_n_free(b), 6 - n_used - n_cached);
}

static const int32_t *tokens(int32_t first) {
    static int32_t t[4][KV_BLOCK_TOKENS];
    static int next;
    int32_t *out = t[next++ % 4];
    for (int32_t i = 0; i < KV_BLOCK_TOKENS; i++) out[i] = first + i;
    return out;
}

static int32_t take_known(int32_t parent, int32_t first) {
    int32_t id = blocks_take(b);
    assert_int_not_equal(id, -1);
    blocks_begin(b, id, parent, tokens(first));
    blocks_finish(b, id);
    return id;
}

static void test_take(void **state) {
    (void)state;
    int32_t ids[6];
    for (int i = 0; i < 6; i++) {
        ids[i] = blocks_take(b);
        assert_in_range(ids[i], 0, 5);
        for (int k = 0; k < i; k++) assert_int_not_equal(ids[i], ids[k]);
    }
    assert_int_equal(blocks_take(b), -1);
    check(6, 0);
    blocks_release(b, ids[2]);
    check(5, 0);
    assert_int_equal(blocks_take(b), ids[2]);
    check(6, 0);
}

static void test_find(void **state) {
    (void)state;
    int32_t head = take_known(-1, 100), tail = take_known(head, 200);
    assert_int_equal(blocks_find(b, -1, tokens(100)), head);
    assert_int_equal(blocks_find(b, head, tokens(200)), tail);
    assert_int_equal(blocks_find(b, -1, tokens(200)), -1); /* the same tokens elsewhere in a text */
    assert_int_equal(blocks_find(b, tail, tokens(200)), -1);
    int32_t other[KV_BLOCK_TOKENS];
    memcpy(other, tokens(100), sizeof other);
    other[31]++;
    assert_int_equal(blocks_find(b, -1, other), -1);
    blocks_hold(b, head);
    blocks_hold(b, tail);
    assert_int_equal(blocks_n_holders(b, tail), 2);
    check(2, 0);
    for (int i = 0; i < 2; i++) {
        blocks_release(b, tail);
        blocks_release(b, head);
    }
    check(0, 2);
    assert_int_equal(blocks_find(b, head, tokens(200)), tail); /* known, though nobody holds it */
    blocks_hold(b, head);
    check(1, 1);
    blocks_release(b, head);
}

static void test_begun(void **state) {
    (void)state;
    int32_t id = blocks_take(b);
    blocks_begin(b, id, -1, tokens(1));
    assert_int_equal(blocks_find(b, -1, tokens(1)), id);
    assert_false(blocks_is_known(b, id));
    check(1, 0);
    blocks_release(b, id); /* never finished: nothing to know */
    assert_int_equal(blocks_find(b, -1, tokens(1)), -1);
    check(0, 0);
}

/* The least recently used is forgotten first, the tail of a text before its head. */
static void test_eviction(void **state) {
    (void)state;
    int32_t head = take_known(-1, 100), middle = take_known(head, 200), tail = take_known(middle, 300);
    int32_t other = take_known(-1, 400);
    blocks_release(b, other);
    blocks_release(b, tail);
    blocks_release(b, middle);
    blocks_release(b, head);
    check(0, 4);
    assert_int_not_equal(blocks_take(b), -1);
    assert_int_not_equal(blocks_take(b), -1); /* the two free ones */
    check(2, 4);
    blocks_hold(b, other); /* used again: now the newest */
    blocks_release(b, other);
    assert_int_equal(blocks_take(b), tail);
    assert_int_equal(blocks_find(b, middle, tokens(300)), -1);
    assert_int_equal(blocks_take(b), middle);
    assert_int_equal(blocks_find(b, -1, tokens(100)), head);
    check(4, 2);
    assert_int_equal(blocks_take(b), head);
    assert_int_equal(blocks_take(b), other);
    assert_int_equal(blocks_take(b), -1);
    check(6, 0);
}

static void test_reset(void **state) {
    (void)state;
    int32_t head = take_known(-1, 100);
    take_known(head, 200);
    blocks_release(b, take_known(-1, 300));
    blocks_reset(b);
    check(0, 0);
    assert_int_equal(blocks_find(b, -1, tokens(100)), -1);
    assert_int_equal(blocks_find(b, -1, tokens(300)), -1);
    struct blocks *none;
    assert_int_equal(blocks_create(0, &none), ERR_INTERNAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_take, setup, teardown),
        cmocka_unit_test_setup_teardown(test_find, setup, teardown),
        cmocka_unit_test_setup_teardown(test_begun, setup, teardown),
        cmocka_unit_test_setup_teardown(test_eviction, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reset, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
