/* The plan of a job, step by step: how many ranks, which devices, what is measured, which rank has which cell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/job_plan.h"
#include "model/gguf.h"

#define MODEL "tests/golden/llama-shards-q4.q4_0.gguf"

static struct gguf *gguf;
static struct program *program;
static struct config config;
static char path[] = "/tmp/test_job_plan_XXXXXX";

static void file_write(const char *devices) {
    FILE *f = fopen(path, "w");
    char here[256] = "";
    gethostname(here, sizeof here - 1);
    assert_non_null(f);
    fprintf(f, "hosts = { here = { name = \"%s\"; devices = { %s }; }; };\n", here, devices);
    fclose(f);
    snprintf(config.cluster, sizeof config.cluster, "%s", path);
}

/* As the job would answer. */
static void measure(struct job_plan *j, const struct engine_rank *ranks, const double *read_per_s) {
    struct bytes body = {0};
    assert_int_equal(bytes_append_str(&body, "["), OK);
    for (uint32_t i = 0; i < j->n_ranks; i++) {
        struct probed_rank r = {.device = "some device", .is_host = i > 0, .memory_bytes = 8u << 20,
                                .rates = {.read_per_s = read_per_s[i], .copy_per_s = 1e15, .launch_s = 1e-12,
                                          .step_s = 1e-12}};
        if (i) assert_int_equal(bytes_append_str(&body, ","), OK);
        assert_int_equal(probed_put_rank((int)i, &r, &body), OK);
    }
    assert_int_equal(bytes_append_str(&body, "]"), OK);
    do
        if (job_plan_answer(j, ranks, (const char *)body.data, body.len) != OK) fail_msg("%s", err_text());
    while (!j->is_measured);
    bytes_free(&body);
}

/* From the request to the plan; read_per_s [n_ranks]: as measured, or NULL. */
static struct job_plan *make_measured(uint32_t n_ranks, int must_probe, const double *read_per_s) {
    const struct job_request r = {.config = &config, .program = program, .context = 64, .rows_max = 16};
    struct engine_rank ranks[8] = {{0}};
    struct job_plan *j;
    if (job_plan_begin(&r, &j) != OK) fail_msg("%s", err_text());
    assert_int_equal(j->n_ranks, n_ranks);
    for (uint32_t i = 0; i < n_ranks; i++) {
        gethostname(ranks[i].host, sizeof ranks[i].host - 1);
        ranks[i].memory_bytes = 1 << 30;
    }
    if (job_plan_hello(j, ranks) != OK) fail_msg("%s", err_text());
    assert_int_equal(job_plan_must_probe(j), must_probe);
    if (read_per_s) measure(j, ranks, read_per_s);
    if (job_plan_make(j) != OK) fail_msg("%s", err_text());
    uint8_t is_seen[8] = {0};
    assert_int_equal(j->order[0], 0);
    for (uint32_t i = 0; i < n_ranks; i++) assert_int_equal(is_seen[j->order[i]]++, 0);
    return j;
}

static struct job_plan *make(uint32_t n_ranks, int must_probe) { return make_measured(n_ranks, must_probe, NULL); }

/* Nothing named, nothing known: the plan that plan_create makes, cells in the order of ranks. */
static void test_alike(void **state) {
    (void)state;
    config_defaults(&config);
    config.stages = 2;
    config.shards = 2;
    struct job_plan *j = make(4, 0);
    struct plan_request r = {2, 2, 4, 64, 0, 16};
    struct plan *plan;
    assert_int_equal(plan_create(program, &r, &plan), OK);
    assert_memory_equal(plan->layer_begin, j->plan->layer_begin, 3 * sizeof *plan->layer_begin);
    assert_memory_equal(plan->shares, j->plan->shares, 4 * sizeof *plan->shares);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(j->order[i], i);
        assert_int_equal(j->devices[i].index, i); /* turns */
        assert_false(j->devices[i].has_index);
    }
    assert_null(j->found.forecast);
    plan_free(plan);
    job_plan_free(j);
}

/* A rank for each device of the file, each with its own. */
static void test_devices(void **state) {
    (void)state;
    config_defaults(&config);
    config.threads = 3;
    file_write("a = { device = \"x\"; }; b = { device = \"y\"; index = 2; threads = 5; }; c = { device = \"x\"; };");
    struct job_plan *j = make(3, 1);
    static const struct plan_device want[] = {{"x", 0, 3, 0}, {"y", 2, 5, 1}, {"x", 1, 3, 0}};
    for (int i = 0; i < 3; i++) {
        assert_string_equal(j->devices[i].select, want[i].select);
        assert_int_equal(j->devices[i].index, want[i].index);
        assert_int_equal(j->devices[i].has_index, want[i].has_index);
        assert_int_equal(j->devices[i].threads, want[i].threads);
    }
    struct plan_message m = {0};
    assert_int_equal(job_plan_cells(j, &m), OK);
    assert_string_equal(m.devices[1].select, "y");
    free(m.order);
    free(m.devices);
    job_plan_free(j);
}

/* Rates of the file: the fast device gets more layers; one that only slows the rest stays out, unless it was
 * asked for. */
static void test_rates(void **state) {
    (void)state;
    config_defaults(&config);
    snprintf(config.probe, sizeof config.probe, "off");
    file_write("a = { read_gb_s = 1.0; }; b = { read_gb_s = 100.0; };");
    config.stages = 2;
    struct job_plan *j = make(2, 0);
    assert_non_null(j->found.forecast);
    assert_true(j->plan->layer_begin[1] < program->n_layers - j->plan->layer_begin[1]);
    job_plan_free(j);
    config.stages = 0;
    file_write("a = { read_gb_s = 100.0; }; b = { read_gb_s = 0.001; };");
    j = make(2, 0);
    assert_int_equal(j->plan->n_ranks, 1);
    assert_int_equal(j->found.n_left_out, 1);
    assert_int_equal(j->order[1], 1);
    struct bytes text = {0};
    assert_int_equal(job_plan_print(j, &text), OK);
    assert_non_null(strstr((char *)text.data, "left_out="));
    bytes_free(&text);
    job_plan_free(j);
    config.ranks = 2;
    j = make(2, 0);
    assert_int_equal(j->plan->n_ranks, 2);
    job_plan_free(j);
}

/* Devices that differ by noise get the plan of like ones; a real difference counts. */
static void test_noise(void **state) {
    (void)state;
    const double noise[] = {10e9, 10.2e9}, real[] = {10e9, 100e9};
    struct plan_request r = {2, 1, 2, 64, 0, 16};
    struct plan *plan;
    config_defaults(&config);
    snprintf(config.probe, sizeof config.probe, "on");
    config.stages = 2;
    assert_int_equal(plan_create(program, &r, &plan), OK);
    struct job_plan *j = make_measured(2, 1, noise);
    assert_non_null(j->found.forecast);
    assert_int_equal(j->plan->layer_begin[1], plan->layer_begin[1]);
    job_plan_free(j);
    j = make_measured(2, 1, real);
    assert_true(j->plan->layer_begin[1] < plan->layer_begin[1]);
    job_plan_free(j);
    plan_free(plan);
}

/* memory_mb is a limit more: a device of its own memory has no more for it. */
static void test_memory_mb(void **state) {
    (void)state;
    const double alike[] = {10e9, 10e9};
    config_defaults(&config);
    snprintf(config.probe, sizeof config.probe, "on");
    config.stages = 2;
    config.memory_mb = 64;
    struct job_plan *j = make_measured(2, 1, alike);
    assert_int_equal(j->cluster->devices[0].memory_bytes, 8 << 20);
    assert_int_equal(j->cluster->devices[1].memory_bytes, 64 << 20);
    job_plan_free(j);
}

/* A file's limits count also where it says no rates: the model needs 1.2 MB. */
static void test_file_memory(void **state) {
    (void)state;
    const struct job_request r = {.config = &config, .program = program, .context = 4096, .rows_max = 128};
    struct engine_rank rank = {.memory_bytes = 1 << 30};
    static const char *const limits[] = {"a = { memory_gb = 0.001; };",
                                        "a = { memory_gb = 0.001; host_memory = true; };"};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        struct job_plan *j;
        config_defaults(&config);
        snprintf(config.probe, sizeof config.probe, "off");
        config.stages = 1;
        file_write(limits[i]);
        assert_int_equal(job_plan_begin(&r, &j), OK);
        gethostname(rank.host, sizeof rank.host - 1);
        assert_int_equal(job_plan_hello(j, &rank), OK);
        assert_int_equal(job_plan_make(j), ERR_MEMORY);
        job_plan_free(j);
    }
}

/* What is wrong with a file is said before anything starts, whatever the grid. */
static void test_broken_file(void **state) {
    (void)state;
    const struct job_request r = {.config = &config, .program = program, .context = 64, .rows_max = 16};
    struct job_plan *j;
    config_defaults(&config);
    config.stages = 2;
    file_write("a = { speed = 1.0; };");
    assert_int_equal(job_plan_begin(&r, &j), ERR_CONFIG);
    assert_non_null(strstr(err_text(), "speed: unknown key"));
    snprintf(config.cluster, sizeof config.cluster, "/nowhere/cluster.cfg");
    assert_int_not_equal(job_plan_begin(&r, &j), OK);
}

static void test_words(void **state) {
    (void)state;
    const struct job_request r = {.config = &config, .program = program, .context = 64, .rows_max = 16};
    struct job_plan *j;
    config_defaults(&config);
    snprintf(config.probe, sizeof config.probe, "maybe");
    assert_int_equal(job_plan_begin(&r, &j), ERR_USAGE);
    assert_non_null(strstr(err_text(), "probe: expected auto"));
    config_defaults(&config);
    snprintf(config.goal, sizeof config.goal, "fun");
    assert_int_equal(job_plan_begin(&r, &j), ERR_USAGE);
    config_defaults(&config);
    config.stages = 99;
    assert_int_equal(job_plan_begin(&r, &j), ERR_USAGE);
}

int main(void) {
    int fd = mkstemp(path);
    if (fd < 0 || gguf_open(MODEL, &gguf) != OK || program_create(gguf, &program) != OK) return 1;
    close(fd);
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_alike), cmocka_unit_test(test_devices),
                                       cmocka_unit_test(test_rates), cmocka_unit_test(test_noise),
                                       cmocka_unit_test(test_memory_mb), cmocka_unit_test(test_file_memory),
                                       cmocka_unit_test(test_broken_file),
                                       cmocka_unit_test(test_words)};
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    program_free(program);
    gguf_close(gguf);
    return rc;
}
