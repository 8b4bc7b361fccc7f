/* The engine over a real job of two ranks: waits that end early, figures between results, and a job that dies or
 * stands still while nobody computes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "coordinator/engine.h"
#include "model/gguf.h"

#define MODEL "tests/golden/llama-shards.f16.gguf"
#define HOUR_US (3600 * (int64_t)1000000) /* a wait that must end before */
#define N_TOKENS 4

static struct gguf *gguf;
static struct program *program;
static struct config config;

struct heard {
    uint64_t loaded, total;
    int n;
};

static void on_progress(void *context, uint64_t loaded, uint64_t total) {
    struct heard *h = context;
    h->loaded = loaded;
    h->total = total;
    h->n++;
}

static struct engine *open_engine(int wake_fd, struct heard *heard) {
    struct engine_options o = {
        .config = &config, .program = program, .model = MODEL, .is_reference = 1, .context = 32,
        .rows_max = N_TOKENS, .wake_fd = wake_fd, .on_progress = on_progress, .context_of_opening = heard};
    struct engine *e = NULL;
    if (engine_open(&o, &e) != OK) fail_msg("%s", err_text());
    return e;
}

/* The first tokens of a text, scored; the same each time. */
static void submit(struct engine *e) {
    static const int32_t tokens[N_TOKENS] = {1, 2, 3, 4}, positions[N_TOKENS] = {0, 1, 2, 3}, zeros[N_TOKENS];
    const struct step_out out = {.row = N_TOKENS - 1, .flags = OUT_SAMPLE, .top_p = 1};
    const struct step s = {.n_rows = N_TOKENS, .n_table = 1, .n_outs = 1, .token = tokens, .position = positions,
                           .table_begin = zeros, .table = zeros, .outs = &out};
    if (engine_submit(e, &s) != OK) fail_msg("%s", err_text());
}

static int32_t token_of(const struct result *r) {
    assert_int_equal(r->n_outs, 1);
    assert_true(r->outs[0].token >= 0);
    return r->outs[0].token;
}

static int32_t next(struct engine *e) {
    struct result r;
    if (engine_next(e, &r) != OK) fail_msg("%s", err_text());
    return token_of(&r);
}

/* One poll that must not fail; the token, or -1 without a result. */
static int32_t poll_once(struct engine *e, int64_t timeout_us) {
    struct result r;
    int has_result;
    if (engine_poll(e, timeout_us, &r, &has_result) != OK) fail_msg("%s", err_text());
    return has_result ? token_of(&r) : -1;
}

/* Longer than a rank waits for a sign of life: polling alone keeps the job. */
static void test_idle(void **state) {
    (void)state;
    struct heard heard = {0};
    struct engine *e = open_engine(-1, &heard);
    assert_true(heard.n > 0 && heard.loaded <= heard.total && heard.total > 0);
    submit(e);
    int32_t token = next(e);
    int64_t end_us = clock_us() + 3000000;
    while (clock_us() < end_us) assert_int_equal(poll_once(e, 20000), -1);
    assert_int_equal(poll_once(e, 1500000), -1);
    submit(e);
    assert_int_equal(poll_once(e, HOUR_US), token);
    assert_int_equal(engine_n_pending(e), 0);
    engine_close(e);
}

/* A wait ends while the descriptor is readable, and results come nevertheless. */
static void test_wake(void **state) {
    (void)state;
    struct heard heard = {0};
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    struct engine *e = open_engine(ends[0], &heard);
    assert_int_equal(write(ends[1], "x", 1), 1);
    assert_int_equal(poll_once(e, HOUR_US), -1);
    submit(e);
    int32_t token = -1;
    while (token < 0) token = poll_once(e, HOUR_US);
    submit(e);
    assert_int_equal(next(e), token); /* is not woken */
    char byte;
    assert_int_equal(read(ends[0], &byte, 1), 1);
    submit(e);
    assert_int_equal(poll_once(e, HOUR_US), token); /* nothing wakes it before the result */
    engine_close(e);
    close(ends[0]);
    close(ends[1]);
}

/* Asked for with steps before and behind it, answered in between. */
static void test_figures(void **state) {
    (void)state;
    struct heard heard = {0};
    struct engine *e = open_engine(-1, &heard);
    uint64_t n_times = 7;
    engine_ranks(e, &n_times);
    assert_int_equal(n_times, 0);
    submit(e);
    submit(e);
    assert_int_equal(engine_ask_stats(e), OK);
    assert_int_equal(engine_ask_stats(e), OK); /* the first answer serves both */
    submit(e);
    int32_t token = next(e);
    assert_int_equal(next(e), token);
    assert_int_equal(next(e), token);
    while (n_times == 0) {
        assert_int_equal(poll_once(e, 10000), -1);
        engine_ranks(e, &n_times);
    }
    const struct engine_rank *ranks = engine_ranks(e, &n_times);
    assert_int_equal(n_times, 1);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(ranks[i].n_steps, 2);
        assert_true(ranks[i].rss_bytes > 0 && ranks[i].rss_bytes <= ranks[i].peak_rss_bytes);
        assert_true(ranks[i].bytes_sent > 0 && ranks[i].bytes_received > 0);
    }
    assert_int_equal(engine_stats(e, &ranks), OK);
    engine_ranks(e, &n_times);
    assert_int_equal(n_times, 2);
    assert_int_equal(ranks[0].n_steps, 3);
    assert_int_equal(ranks[1].n_steps, 3);
    engine_close(e);
}

/* Polls a job with nothing to do until it fails. */
static err poll_to_the_end(struct engine *e) {
    struct result r;
    int has_result;
    err code;
    do code = engine_poll(e, 100000, &r, &has_result);
    while (code == OK);
    return code;
}

static void test_killed_while_idle(void **state) {
    (void)state;
    struct heard heard = {0};
    struct engine *e = open_engine(-1, &heard);
    assert_int_equal(poll_once(e, 100000), -1);
    assert_int_equal(kill(engine_ranks(e, NULL)[1].pid, SIGKILL), 0);
    assert_int_equal(poll_to_the_end(e), ERR_JOB);
    assert_non_null(strstr(err_text(), "rank 1 (host "));
    assert_non_null(strstr(err_text(), "signal 9"));
    engine_close(e);
}

static void test_stopped_while_idle(void **state) {
    (void)state;
    struct heard heard = {0};
    struct engine *e = open_engine(-1, &heard);
    assert_int_equal(kill(engine_ranks(e, NULL)[1].pid, SIGSTOP), 0);
    err code = poll_to_the_end(e);
    assert_true(code == ERR_JOB || code == ERR_TIMEOUT);
    assert_non_null(strstr(err_text(), "rank 1 (host "));
    engine_close(e);
}

int main(int argc, char **argv) {
    /* The engine starts its own program as the ranks, and here that is this test. */
    const char *binary = env_get("CARAVAN");
    if (argc > 1) return execv(binary ? binary : "build/caravan", argv);
    config_defaults(&config);
    config.stages = 2;
    config.deadline_s = 1;
    if (gguf_open(MODEL, &gguf) != OK || program_create(gguf, &program) != OK) {
        fprintf(stderr, "%s\n", err_text());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_wake),
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_killed_while_idle),
        cmocka_unit_test(test_stopped_while_idle),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    program_free(program);
    gguf_close(gguf);
    return rc;
}
