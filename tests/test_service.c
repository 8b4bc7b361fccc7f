/* The service over a real job: times in the queue, a launcher that is told to end, a job that never comes to be, and
 * closing and leaving while it is loaded. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "coordinator/service.h"

#define MODEL "tests/golden/llama-shards.f16.gguf"
#define N_TOKENS 24
#define LIMIT_US 60000000 /* of any wait here */
#define LOOK_US 2000

static struct config config;
static struct model model;
static struct metrics *metrics;
static struct service *service;
static atomic_int n_announced;

static void on_events(void *context) {
    (void)context;
    n_announced++;
}

static int setup(void **state) {
    (void)state;
    config_defaults(&config);
    config.context = 64;
    config.prefill_chunk = 32;
    n_announced = 0;
    return metrics_create(&metrics) == OK ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    service_close(service);
    service = NULL;
    metrics_free(metrics);
    return 0;
}

static void start(void) {
    struct service_options o = {.config = &config, .model = &model, .metrics = metrics, .is_reference = 1,
                                .on_events = on_events};
    if (service_open(&o, &service) != OK) fail_msg("%s", err_text());
}

static err submit(uint64_t *id) {
    static const int32_t prompt[] = {1, 2, 3, 4};
    const struct service_request r = {.sequence = {.prompt = prompt, .n_prompt = 4, .max_tokens = N_TOKENS,
                                                   .n_vocab = model.program->n_vocab, .top_p = 1,
                                                   .repeat_penalty = 1}};
    return service_submit(service, &r, id);
}

static void wait_for_state(enum service_state state) {
    struct service_status s;
    int64_t end_us = clock_us() + LIMIT_US;
    do {
        clock_sleep_us(LOOK_US);
        service_status(service, &s);
    } while (s.state != state && clock_us() < end_us);
    assert_int_equal(s.state, state);
}

/* Tokens of one request until it is done, or `most` of them. */
static size_t take_tokens(uint64_t id, int32_t *tokens, size_t n, size_t most) {
    int64_t end_us = clock_us() + LIMIT_US;
    for (int is_done = 0; !is_done && n < most; clock_sleep_us(LOOK_US)) {
        assert_true(clock_us() < end_us);
        for (struct service_event *e = service_take(service), *next; e; e = next) {
            next = e->next;
            assert_int_not_equal(e->kind, SERVICE_FAILED);
            if (e->id == id && e->kind == SERVICE_TOKEN && n < N_TOKENS) tokens[n++] = e->tokens->token;
            is_done |= e->id == id && e->kind == SERVICE_DONE;
            service_event_free(e);
        }
    }
    return n;
}

static void assert_metric(const char *line) {
    struct bytes text = {0};
    struct service_status s;
    service_status(service, &s);
    assert_int_equal(metrics_print(metrics, &s, NULL, &text), OK);
    if (!strstr((char *)text.data, line)) fail_msg("no %s in\n%s", line, (char *)text.data);
    bytes_free(&text);
}

/* mpirun, which is a child of this process. */
static pid_t find_launcher(void) {
    char line[64] = "", command[64];
    snprintf(command, sizeof command, "pgrep -P %d mpirun", getpid());
    FILE *f = popen(command, "r");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    pclose(f);
    return (pid_t)atol(line);
}

/* A request has one time in the queue, though the launcher is told to end and all is computed again; the launcher
 * hears of that although the service's thread leaves signals to others. The tokens are the same. */
static void test_launcher_is_told_to_end(void **state) {
    (void)state;
    int32_t alone[N_TOKENS], tokens[N_TOKENS];
    uint64_t id;
    start();
    assert_int_equal(submit(&id), OK); /* while loading */
    assert_int_equal(take_tokens(id, alone, 0, SIZE_MAX), N_TOKENS);
    pid_t launcher = find_launcher();
    assert_int_equal(submit(&id), OK);
    size_t n = take_tokens(id, tokens, 0, 1);
    assert_int_equal(kill(launcher, SIGTERM), 0);
    wait_for_state(SERVICE_RECOVERING);
    assert_int_equal(take_tokens(id, tokens, n, SIZE_MAX), N_TOKENS);
    assert_memory_equal(tokens, alone, sizeof alone);
    assert_metric("caravan_queue_time_seconds_count 2\n");
    assert_metric("caravan_job_relaunches_total 1\n");
}

/* The end is announced, although nobody has asked for anything yet; draining does not hide why. */
static void test_job_never_starts(void **state) {
    (void)state;
    struct service_status s;
    uint64_t id;
    snprintf(config.mpirun, sizeof config.mpirun, "false");
    start();
    wait_for_state(SERVICE_ENDED);
    for (int i = 0; i < 500 && !n_announced; i++) clock_sleep_us(LOOK_US);
    assert_int_not_equal(n_announced, 0);
    service_drain(service);
    service_status(service, &s);
    assert_int_equal(s.state, SERVICE_ENDED);
    assert_non_null(strstr(s.reason, "exit code 1"));
    assert_int_equal(submit(&id), ERR_JOB);
    assert_non_null(strstr(err_text(), "exit code 1"));
}

/* A launcher that starts nothing, in a file. */
static void make_sleeper(char *path) {
    int fd = mkstemp(path);
    static const char text[] = "#!/bin/sh\nexec sleep 600\n";
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    assert_int_equal(fchmod(fd, 0700), 0);
    close(fd);
}

/* Who leaves while the job is loaded makes room at once, and closing does not wait for the end of that. */
static void test_leaving_while_loading(void **state) {
    (void)state;
    char path[] = "/tmp/caravan-sleeper-XXXXXX";
    uint64_t first, id;
    make_sleeper(path);
    snprintf(config.mpirun, sizeof config.mpirun, "%s", path);
    config.max_queue = 2;
    start();
    assert_int_equal(submit(&first), OK);
    assert_int_equal(submit(&id), OK);
    assert_int_equal(submit(&id), ERR_BUSY);
    service_cancel(service, first);
    err e = ERR_BUSY;
    for (int i = 0; i < 1000 && e == ERR_BUSY; i++) {
        clock_sleep_us(LOOK_US);
        e = submit(&id);
    }
    assert_int_equal(e, OK);
    assert_int_equal(submit(&id), ERR_BUSY);
    int64_t begin_us = clock_us();
    service_close(service);
    service = NULL;
    assert_true(clock_us() - begin_us < 20000000); /* the launch alone may take 60 s */
    unlink(path);
}

int main(int argc, char **argv) {
    /* The engine starts its own program as the ranks, and here that is this test. */
    const char *binary = env_get("CARAVAN");
    if (argc > 1) return execv(binary ? binary : "build/caravan", argv);
    config_defaults(&config);
    if (model_open("test", MODEL, &config, &model) != OK) {
        fprintf(stderr, "%s\n", err_text());
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_launcher_is_told_to_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_job_never_starts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_leaving_while_loading, setup, teardown),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    model_close(&model);
    return rc;
}
