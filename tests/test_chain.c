/* Chains of launches (kernels/chain.h): every op gives the reference's bits when it is called by one, and calls that
 * follow each other see what those before have written, however many there are and whatever comes between. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/backend.h"
#include "kernels/op_table.h"
#include "kernels/op_time.h"

#define WIDTH 8192
#define N_SUMS 10000 /* several tables full */

/* A backend that launches in chains: PoCL. */
static struct backend *chained(struct cache **cache) {
    struct backend *b;
    if (backend_opencl("Portable Computing Language", &b) != OK) skip();
    if (!b->can_chain) {
        b->ops->destroy(b);
        skip();
    }
    assert_int_equal(b->ops->cache_create(b, &(struct cache_shape){1, 1, 32, FORMAT_F16}, cache), OK);
    return b;
}

static void chained_free(struct backend *b, struct cache *cache) {
    assert_true(b->can_chain); /* none of its checks failed */
    b->ops->cache_free(b, cache);
    b->ops->destroy(b);
}

/* Matrices of a format bring its chain, lookups included. */
static struct op_time *matrix_of(struct backend *b, enum format f) {
    const struct op_row row = {.op = OP_LINEAR, .variant = "", .format = f, .n_rows = 1, .out = 32, .in = 256};
    struct op_time *t;
    assert_int_equal(b->ops->matrix_prepare(b, f, 1), OK);
    assert_int_equal(op_time_create(b, &row, 0, &t), OK);
    return t;
}

static void ops_agree(void **state) {
    (void)state;
    static const enum format formats[] = {FORMAT_Q6_K, FORMAT_Q5_1, FORMAT_F16};
    struct cache *cache;
    struct backend *b = chained(&cache);
    uint32_t n, n_run = 0;
    const struct op_row *rows = op_table(&n);
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
        struct op_time *t = matrix_of(b, formats[f]);
        for (uint32_t i = 0; i < n; i++) {
            int is_product = rows[i].op == OP_LINEAR || rows[i].op == OP_EMBED;
            int is_cached = rows[i].op == OP_KV_WRITE || rows[i].op == OP_ATTEND;
            if (is_product ? rows[i].format != formats[f] : is_cached && rows[i].format != FORMAT_F16) continue;
            if (op_row_check(&rows[i], b) != OK) fail_msg("%s", err_text());
            n_run++;
        }
        op_time_free(t);
    }
    assert_true(n_run > 100);
    chained_free(b, cache);
}

static struct buffer *values(struct backend *b, float value) {
    struct buffer *m;
    static float v[WIDTH];
    for (int i = 0; i < WIDTH; i++) v[i] = value * (float)(i % 64 + 1);
    assert_int_equal(b->ops->buffer_create(b, sizeof v, &m), OK);
    assert_int_equal(b->ops->buffer_write(b, m, 0, sizeof v, v), OK);
    return m;
}

static void expect_values(struct backend *b, struct buffer *m, float value) {
    static float v[WIDTH];
    assert_int_equal(b->ops->buffer_read(b, m, 0, sizeof v, v), OK);
    for (int i = 0; i < WIDTH; i++) assert_float_equal(v[i], value * (float)(i % 64 + 1), 0);
}

/* x += one, again and again: each sum is a call of one work-item, which any thread may take. */
struct sums {
    struct backend *b;
    struct cache *cache;
    struct op_time *t; /* of a launch of another kind */
    struct buffer *x, *one;
};

static struct sums sums_create(void) {
    struct sums s = {.b = chained(&s.cache)};
    s.t = matrix_of(s.b, FORMAT_Q8_0);
    s.x = values(s.b, 0);
    s.one = values(s.b, 1);
    return s;
}

static void sums_free(struct sums *s) {
    s->b->ops->buffer_free(s->b, s->x);
    s->b->ops->buffer_free(s->b, s->one);
    op_time_free(s->t);
    chained_free(s->b, s->cache);
}

static void sums_add(struct sums *s) {
    const struct row_sum sum = {.x = s->x, .vector = s->one, .sum = s->x};
    assert_int_equal(s->b->ops->sum_rows(s->b, &sum, 1, WIDTH), OK);
}

static void calls_keep_their_order(void **state) {
    (void)state;
    struct sums s = sums_create();
    for (int i = 1; i <= N_SUMS; i++) {
        sums_add(&s);
        if (i == 3 || i == 700 || i % 1999 == 0) expect_values(s.b, s.x, (float)i);
        if (i % 900 == 0) { /* between two of a chain's */
            double seconds;
            assert_int_equal(op_time_mean(s.t, 1, 0, &seconds), OK);
        }
    }
    expect_values(s.b, s.x, N_SUMS);
    sums_free(&s);
}

/* What is sent while sums are under way is there for those that follow only; at rest it is there at once. */
static void buffers_wait_their_turn(void **state) {
    (void)state;
    struct sums s = sums_create();
    static float v[2][WIDTH];
    for (int i = 0; i < 2 * WIDTH; i++) v[i / WIDTH][i % WIDTH] = (float)((i / WIDTH + 2) * (i % 64 + 1));
    for (int i = 0; i < 600; i++) {
        if (i == 200 || i == 400) assert_int_equal(s.b->ops->buffer_send(s.b, s.one, 0, sizeof *v, v[i / 200 - 1]), OK);
        sums_add(&s);
    }
    expect_values(s.b, s.x, 200 * (1 + 2 + 3));
    expect_values(s.b, s.one, 3);
    assert_int_equal(s.b->ops->buffer_send(s.b, s.one, 0, sizeof *v, v[0]), OK);
    expect_values(s.b, s.one, 2);
    sums_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(ops_agree), cmocka_unit_test(calls_keep_their_order),
                                       cmocka_unit_test(buffers_wait_their_turn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
