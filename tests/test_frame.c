/* Frames: what goes in comes out; nothing that is truncated, exaggerated or random gets through or
 * reads outside its bytes (run with SAN=1 as well). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "node/frame.h"

#define HEADER sizeof(struct frame_header)

static const struct step_limits limits = {16, 1000, 50, 256};

static const int32_t tokens[] = {5, 999, 0}, positions[] = {0, 31, 32}, begins[] = {0, 0, 1};
static const int32_t table[] = {3, 49, 7};
static const struct step_out outs[] = {
    {2, OUT_SAMPLE | OUT_SCORE, 17, 0.5f, 40, 0.9f, 0.1f, 33, 0x123456789abcdefull, 0, 2, 5, 0},
    {0, OUT_LOGITS | OUT_HIDDEN, 0, 0, 0, 1, 0, 0, 0, 2, 2, 0, 0}};
static const struct step_edit edits[] = {{7, -INFINITY, 1, 0}, {999, 1, 1.1f, 0.5f}};

static const struct step example = {3, 3, 2, 2, tokens, positions, begins, table, outs, edits};

/* An exact copy on the heap, so that a sanitizer sees every read beyond it. */
static uint8_t *copy_of(const void *data, size_t n) {
    uint8_t *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    if (n) memcpy(copy, data, n);
    return copy;
}

static err get_step(const void *body, size_t n) {
    struct step s;
    uint8_t *copy = copy_of(body, n);
    err e = frame_get_step(copy, n, &limits, &s);
    free(copy);
    return e;
}

static void test_step_round_trip(void **state) {
    (void)state;
    struct bytes b = {0};
    assert_int_equal(frame_put_step(&b, 77, &example), OK);
    struct frame_header h;
    memcpy(&h, b.data, sizeof h);
    assert_int_equal(frame_check(&h), OK);
    assert_int_equal(h.kind, FRAME_STEP);
    assert_int_equal(h.id, 77);
    assert_int_equal(h.n_bytes, b.len - HEADER);
    struct step s;
    assert_int_equal(frame_get_step(b.data + HEADER, h.n_bytes, &limits, &s), OK);
    assert_int_equal(s.n_rows, 3);
    assert_int_equal(s.n_table, 3);
    assert_memory_equal(s.token, tokens, sizeof tokens);
    assert_memory_equal(s.position, positions, sizeof positions);
    assert_memory_equal(s.table_begin, begins, sizeof begins);
    assert_memory_equal(s.table, table, sizeof table);
    assert_memory_equal(s.outs, outs, sizeof outs);
    assert_memory_equal(s.edits, edits, sizeof edits);
    assert_int_equal((uintptr_t)s.outs % 8, 0);
    bytes_free(&b);
}

static void test_step_truncated(void **state) {
    (void)state;
    struct bytes b = {0};
    assert_int_equal(frame_put_step(&b, 0, &example), OK);
    size_t whole = b.len - HEADER;
    for (size_t n = 0; n < whole; n++) assert_int_not_equal(get_step(b.data + HEADER, n), OK);
    assert_int_equal(get_step(b.data + HEADER, whole), OK);
    assert_int_equal(bytes_append(&b, "12345678", 8), OK);
    for (size_t n = whole + 1; n <= whole + 8; n++)
        assert_int_not_equal(get_step(b.data + HEADER, n), OK);
    bytes_free(&b);
}

static void test_step_hostile_counts(void **state) {
    (void)state;
    static const uint32_t counts[] = {0, 1, 2, 17, 64, 65, 0xffff, 0x40000000, 0x55555555,
                                      0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};
    enum { N = sizeof counts / sizeof *counts };
    struct bytes b = {0};
    assert_int_equal(frame_put_step(&b, 0, &example), OK);
    uint32_t original[4], c[4];
    memcpy(original, b.data + HEADER, sizeof original);
    for (int i = 0; i < N * N * N * N; i++) {
        c[0] = counts[i % N], c[1] = counts[i / N % N];
        c[2] = counts[i / N / N % N], c[3] = counts[i / N / N / N];
        memcpy(b.data + HEADER, c, sizeof c);
        struct step s;
        assert_int_not_equal(frame_get_step(b.data + HEADER, b.len - HEADER, &limits, &s), OK);
    }
    bytes_free(&b);
}

/* Every single wrong value is found. */
#define WITH(change)                                                           \
    do {                                                                       \
        struct step s = example;                                               \
        int32_t token[3], position[3], begin[3], blocks[3];                    \
        struct step_out out[2];                                                \
        struct step_edit edit[2];                                              \
        memcpy(token, tokens, sizeof token);                                   \
        memcpy(position, positions, sizeof position);                          \
        memcpy(begin, begins, sizeof begin);                                   \
        memcpy(blocks, table, sizeof blocks);                                  \
        memcpy(out, outs, sizeof out);                                         \
        memcpy(edit, edits, sizeof edit);                                      \
        s.token = token, s.position = position, s.table_begin = begin;         \
        s.table = blocks, s.outs = out, s.edits = edit;                        \
        change;                                                                \
        struct bytes b = {0};                                                  \
        assert_int_equal(frame_put_step(&b, 0, &s), OK);                       \
        assert_int_not_equal(get_step(b.data + HEADER, b.len - HEADER), OK);   \
        bytes_free(&b);                                                        \
    } while (0)

static void test_step_bad_values(void **state) {
    (void)state;
    WITH(token[1] = 1000);
    WITH(token[0] = -1);
    WITH(position[2] = 256);
    WITH(position[2] = -1);
    WITH(position[2] = 96); /* block 3 of the row's table: beyond its end */
    WITH(begin[0] = -1);
    WITH(begin[0] = INT32_MAX);
    WITH(begin[2] = 2);
    WITH(blocks[0] = 50);
    WITH(blocks[0] = -1);
    WITH(out[0].n_top = TOP_LOGPROBS_MAX + 1);
    WITH(out[0].row = 3);
    WITH(out[0].row = -1);
    WITH(out[0].flags = 32);
    WITH(out[0].target = 1000);
    WITH(out[0].target = -1);
    WITH(out[0].edit_end = 3);
    WITH(out[1].edit_begin = 3);
    WITH(out[0].temperature = NAN);
    WITH(out[0].temperature = INFINITY);
    WITH(out[0].temperature = -1);
    WITH(out[0].top_p = NAN);
    WITH(out[0].min_p = NAN);
    WITH(edit[0].token = -1);
    WITH(edit[1].token = 1000);
}

static uint32_t random_next(uint64_t *s) {
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

/* Random bytes, and a good frame with a few bytes changed. */
static void test_random_bytes(void **state) {
    (void)state;
    uint64_t seed = 1;
    struct bytes good = {0};
    assert_int_equal(frame_put_step(&good, 0, &example), OK);
    for (int i = 0; i < 200000; i++) {
        uint8_t body[320];
        size_t n = good.len - HEADER;
        memcpy(body, good.data + HEADER, n);
        if (i % 2)
            for (size_t k = 0; k < n; k++) body[k] = (uint8_t)random_next(&seed);
        else
            for (int k = 0; k < 3; k++) body[random_next(&seed) % n] = (uint8_t)random_next(&seed);
        uint8_t *copy = copy_of(body, n);
        struct step s;
        if (frame_get_step(copy, n, &limits, &s) == OK)
            for (uint32_t r = 0; r < s.n_rows; r++)
                assert_in_range(s.table[s.table_begin[r] + s.position[r] / KV_BLOCK_TOKENS], 0, 49);
        struct result result;
        frame_get_result(copy, n, &result);
        free(copy);
    }
    bytes_free(&good);
}

static void test_result(void **state) {
    (void)state;
    struct result_out ro[] = {{3, -0.5f, -1.25, 0, 2}, {-1, 0, -7, 2, 1}};
    const struct result_top tops[] = {{3, -0.5f}, {0, -2}, {1, -0.25f}};
    float logits[] = {1, 2, 3, 4, 5, 6}, hidden[] = {7, 8, 9, 10, 11};
    struct result r = {.n_outs = 2, .n_logit_rows = 2, .n_vocab = 3, .n_tops = 3, .n_hidden_rows = 1, .dim = 5,
                       .outs = ro, .tops = tops, .logits = logits, .hidden = hidden}, got;
    struct bytes b = {0};
    assert_int_equal(frame_put_result(&b, 9, &r), OK);
    size_t n = b.len - HEADER;
    assert_int_equal(frame_get_result(b.data + HEADER, n, &got), OK);
    assert_int_equal(got.n_outs, 2);
    assert_int_equal(got.n_vocab, 3);
    assert_memory_equal(got.outs, ro, sizeof ro);
    assert_memory_equal(got.logits, logits, sizeof logits);
    assert_int_equal(got.n_tops, 3);
    assert_memory_equal(got.tops, tops, sizeof tops);
    assert_int_equal(got.n_hidden_rows, 1);
    assert_int_equal(got.dim, 5);
    assert_memory_equal(got.hidden, hidden, sizeof hidden);
    for (size_t k = 0; k < n; k++) {
        uint8_t *copy = copy_of(b.data + HEADER, k);
        assert_int_not_equal(frame_get_result(copy, k, &got), OK);
        free(copy);
    }
    /* n_outs, n_logit_rows, n_vocab, n_tops, n_hidden_rows, dim */
    const uint32_t wrong[][6] = {{2, 0x80000000, 0x80000000, 0, 0, 0}, {2, 0, 0, 0, 0x80000000, 0x80000000},
                                 {2, 2, 3, 0xffffffff, 1, 5}, {2, 2, 3, 3, 5, 1}, {2, 3, 2, 3, 1, 5}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        memcpy(b.data + HEADER, wrong[i], sizeof wrong[i]);
        assert_int_not_equal(frame_get_result(b.data + HEADER, n, &got), OK);
    }
    ro[1].top_begin = 3; /* the fourth of three */
    b.len = 0;
    assert_int_equal(frame_put_result(&b, 9, &r), OK);
    assert_int_not_equal(frame_get_result(b.data + HEADER, b.len - HEADER, &got), OK);
    r.n_logit_rows = r.n_vocab = 0xffffffff;
    assert_int_not_equal(frame_put_result(&b, 9, &r), OK);
    bytes_free(&b);
}

static void test_empty_step_parts(void **state) {
    (void)state;
    struct step s = {1, 1, 0, 0, tokens, positions, begins, table, NULL, NULL}, got;
    struct bytes b = {0};
    assert_int_equal(frame_put_step(&b, 0, &s), OK);
    assert_int_equal(frame_get_step(b.data + HEADER, b.len - HEADER, &limits, &got), OK);
    assert_int_equal(got.n_outs, 0);
    struct result r = {0}, back;
    b.len = 0;
    assert_int_equal(frame_put_result(&b, 0, &r), OK);
    assert_int_equal(frame_get_result(b.data + HEADER, b.len - HEADER, &back), OK);
    bytes_free(&b);
}

static void test_headers(void **state) {
    (void)state;
    struct frame_header h = {FRAME_MAGIC, FRAME_STEP, 0, 0};
    assert_int_equal(frame_check(&h), OK);
    static const uint32_t bad[] = {0, FRAME_ERROR + 1, FRAME_PLAN - 1, FRAME_STOP + 1, 0xffffffff};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        h.kind = bad[i];
        assert_int_not_equal(frame_check(&h), OK);
    }
    h.kind = FRAME_STEP;
    h.n_bytes = FRAME_BYTES_MAX + 1;
    assert_int_not_equal(frame_check(&h), OK);
    h.n_bytes = 0;
    h.magic ^= 1;
    assert_int_not_equal(frame_check(&h), OK);
}

/* A step as large as the limits allow passes, and fits the promise. */
static void test_largest_step(void **state) {
    (void)state;
    int32_t row[16] = {0}, *blocks = calloc(16 * 8, sizeof *blocks);
    uint32_t n_edits = frame_edits_max(&limits);
    struct step_out *o = calloc(16, sizeof *o);
    struct step_edit *e = calloc(n_edits, sizeof *e);
    struct step s = {16, 16 * 8, 16, n_edits, row, row, row, blocks, o, e}, got;
    struct bytes b = {0};
    assert_int_equal(frame_put_step(&b, 0, &s), OK);
    assert_int_equal(frame_get_step(b.data + HEADER, b.len - HEADER, &limits, &got), OK);
    assert_true(b.len <= frame_step_bytes_max(&limits));
    s.n_table++;
    b.len = 0;
    int32_t *more = calloc(16 * 8 + 1, sizeof *more);
    s.table = more;
    assert_int_equal(frame_put_step(&b, 0, &s), OK);
    assert_int_not_equal(frame_get_step(b.data + HEADER, b.len - HEADER, &limits, &got), OK);
    bytes_free(&b);
    free(blocks);
    free(more);
    free(o);
    free(e);
}

static void test_plan_round_trip(void **state) {
    (void)state;
    uint32_t begin[] = {0, 3, 8};
    float shares[] = {1, 0.3f, 2, 4, 1, 0.5f};
    uint32_t order[] = {0, 7, 1, 2, 9, 4};
    struct plan_device devices[6] = {{"NVIDIA", 1, 0, 1}, {"NVIDIA", 1, 0, 1}, {"NVIDIA", 1, 0, 0},
                                     {"ü \"quoted\"", 0, 3, 0}, {"", 0, 3, 0}, {"", 0, 3, 0}};
    struct plan_message m = {.model = "/models/\"quoted\" \\ ü.gguf", .n_stages = 2, .n_shards = 3,
                             .layer_begin = begin, .shares = shares, .order = order, .devices = devices,
                             .rows_max = 512, .n_blocks = 100000, .context_max = 131072, .deadline_ms = 60000,
                             .is_reference = 1, .weights = WEIGHTS_LOCAL, .payload = PAYLOAD_INT8, .hop_bytes = 12345};
    struct plan_message got;
    struct bytes b = {0};
    assert_int_equal(plan_message_put(&m, &b), OK);
    assert_int_equal(plan_message_get((char *)b.data, b.len, &got), OK);
    assert_string_equal(got.model, m.model);
    assert_memory_equal(got.order, order, sizeof order);
    for (int i = 0; i < 6; i++) {
        assert_string_equal(got.devices[i].select, devices[i].select);
        assert_int_equal(got.devices[i].index, devices[i].index);
        assert_int_equal(got.devices[i].has_index, devices[i].has_index);
        assert_int_equal(got.devices[i].threads, devices[i].threads);
    }
    assert_int_equal(got.n_stages, 2);
    assert_int_equal(got.n_shards, 3);
    assert_memory_equal(got.layer_begin, begin, sizeof begin);
    assert_memory_equal(got.shares, shares, sizeof shares); /* to the bit */
    assert_int_equal(got.rows_max, 512);
    assert_int_equal(got.n_blocks, 100000);
    assert_int_equal(got.context_max, 131072);
    assert_int_equal(got.deadline_ms, 60000);
    assert_int_equal(got.is_reference, 1);
    assert_int_equal(got.weights, WEIGHTS_LOCAL);
    assert_int_equal(got.payload, PAYLOAD_INT8);
    assert_int_equal(got.hop_bytes, 12345);
    plan_message_free(&got);
    for (size_t n = 0; n < b.len; n++) {
        char *copy = (char *)copy_of(b.data, n);
        assert_int_not_equal(plan_message_get(copy, n, &got), OK);
        free(copy);
    }
    bytes_free(&b);
}

/* A good plan, and texts of it that are replaced by bad ones. */
static void test_plan_bad(void **state) {
    (void)state;
    static const char good[] =
        "{\"model\":\"m\",\"layer_begin\":[0,1,3],\"shares\":[1,2],\"order\":[0,4],\"devices\":[{\"select\":\"\",\"index\":0,"
        "\"threads\":0,\"n_cells\":2}],\"rows_max\":1,\"n_blocks\":1,\"context_max\":1,\"deadline_ms\":1,"
        "\"weights\":\"send\",\"cache_mb\":7,\"cache_dir\":\"\"}";
    static const char *const not_at_all[] = {"", "[]", "null", "{}", "{\"model\":1}"};
    static const struct {
        const char *from, *to;
    } changes[] = {
        {"\"m\"", "\"\""}, {"\"m\"", "1"},
        {"[0,1,3]", "[0]"}, {"[0,1,3]", "[1,2,3]"}, {"[0,1,3]", "[0,2,2]"}, {"[0,1,3]", "[0,1,\"x\"]"},
        {"[0,1,3]", "[0,1,99999999999]"},
        {"[1,2]", "[]"}, {"[1,2]", "[1,0]"}, {"[1,2]", "[1,1e300]"}, {"[1,2]", "[1,2,3]"}, {"[1,2]", "[1]"},
        {"[0,4]", "[0]"}, {"[0,4]", "[4,0]"}, {"[0,4]", "[0,0]"}, {"[0,4]", "[0,-1]"}, {"[0,4]", "[0,1,2]"},
        {"[0,4]", "[0,1.5]"}, {"[0,4]", "[0,99999999999]"}, {"[0,4]", "{}"},
        {"\"n_cells\":2", "\"n_cells\":1"}, {"\"n_cells\":2", "\"n_cells\":3"}, {"\"n_cells\":2", "\"n_cells\":0"},
        {"\"index\":0", "\"index\":-1"}, {"\"index\":0", "\"index\":99999"}, {"\"threads\":0", "\"threads\":-1"},
        {"\"select\":\"\"", "\"select\":7"}, {"\"devices\":[", "\"devices\":[1,"}, {"\"devices\"", "\"device\""},
        {"\"rows_max\":1", "\"rows_max\":0"}, {"\"n_blocks\":1", "\"n_blocks\":-1"},
        {"\"context_max\":1", "\"context_max\":1.5"}, {"\"deadline_ms\"", "\"deadline\""},
        {"\"send\"", "\"sent\""}, {"\"weights\"", "\"weight\""}, {"\"cache_mb\":7", "\"cache_mb\":-1"}, {"\"cache_dir\"", "\"cache\""}};
    struct plan_message m;
    assert_int_equal(plan_message_get(good, strlen(good), &m), OK);
    plan_message_free(&m);
    for (size_t i = 0; i < sizeof not_at_all / sizeof *not_at_all; i++)
        if (plan_message_get(not_at_all[i], strlen(not_at_all[i]), &m) == OK) fail_msg("accepted: %s", not_at_all[i]);
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        char bad[sizeof good + 64];
        const char *at = strstr(good, changes[i].from);
        assert_non_null(at);
        snprintf(bad, sizeof bad, "%.*s%s%s", (int)(at - good), good, changes[i].to, at + strlen(changes[i].from));
        if (plan_message_get(bad, strlen(bad), &m) == OK) fail_msg("accepted: %s", bad);
    }
}

static void test_error_frame(void **state) {
    (void)state;
    struct bytes b = {0};
    char text[64];
    assert_int_equal(frame_error_put(3, "host", ERR_FILE, "cannot \"open\" \xff\n", &b), OK);
    assert_int_equal(frame_error_get((char *)b.data, b.len, text, sizeof text), OK);
    assert_string_equal(text, "cannot \"open\" ?\n");
    assert_int_equal(frame_error_get((char *)b.data, b.len, text, 5), OK);
    assert_string_equal(text, "cann");
    assert_int_not_equal(frame_error_get("{}", 2, text, sizeof text), OK);
    bytes_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_step_round_trip),
        cmocka_unit_test(test_step_truncated),
        cmocka_unit_test(test_step_hostile_counts),
        cmocka_unit_test(test_step_bad_values),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_result),
        cmocka_unit_test(test_empty_step_parts),
        cmocka_unit_test(test_headers),
        cmocka_unit_test(test_largest_step),
        cmocka_unit_test(test_plan_round_trip),
        cmocka_unit_test(test_plan_bad),
        cmocka_unit_test(test_error_frame),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
