/* Files of tunables: what is read, what is refused and named with its line, what is found at a start; and what
 * peers print. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/env.h"
#include "coordinator/peer.h"
#include "kernels/tune.h"

static char path[] = "/tmp/caravan-test-tune-XXXXXX";
static const struct tune_device device = {"A Platform", "pthread-fast (R) 3 \"x\"", "3.1"};

#define HEAD "platform = \"Platform\";\ndevice = \"fast\";\n"
#define DIRECT "clblast = { XgemmDirect = { KWID = 2; MDIMAD = 8; MDIMCD = 8; NDIMBD = 8; NDIMCD = 8; PADA = 1;\n" \
               "PADB = 1; VWMD = 4; VWND = 1; "

static err read_text(const char *text, struct tuning *out, int *is_for_device) {
    snprintf(path, sizeof path, "/tmp/caravan-test-tune-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    err e = tune_read(path, &device, out, is_for_device);
    unlink(path);
    return e;
}

/* Refused with the line, and nothing of the file is left. */
static void expect_bad(const char *text, const char *line, const char *said) {
    struct tuning t, defaults;
    int is_for_device = 1;
    char where[64];
    tune_defaults(&defaults);
    assert_int_equal(read_text(text, &t, &is_for_device), ERR_CONFIG);
    assert_false(is_for_device);
    assert_memory_equal(&t, &defaults, sizeof t);
    snprintf(where, sizeof where, "%s:%s", path, line);
    if (strncmp(err_text(), where, strlen(where)) != 0 || !strstr(err_text(), said))
        fail_msg("said \"%s\", expected \"%s ... %s\"", err_text(), where, said);
}

static void test_good_file(void **state) {
    (void)state;
    struct tuning t;
    int is_for_device;
    assert_int_equal(read_text(HEAD "driver = \"3.1\";\ntunables = { GROUP_ITEMS = 128; };\n" DIRECT "WGD = 32; }; };\n",
                               &t, &is_for_device), OK);
    assert_true(is_for_device);
    assert_int_equal(t.values[TUNE_GROUP_ITEMS], 128);
    assert_int_equal(t.values[TUNE_TILE_WIDE], tunables[TUNE_TILE_WIDE].fallback);
    assert_true(t.has_clblast[CLBLAST_DIRECT]);
    assert_false(t.has_clblast[CLBLAST_XGEMM]);
    assert_int_equal(t.clblast[CLBLAST_DIRECT][9], 32);
    assert_string_equal(t.source, path);
}

static void test_other_device(void **state) {
    (void)state;
    struct tuning t;
    int is_for_device;
    assert_int_equal(read_text("platform = \"Platform\";\ndevice = \"slow\";\ntunables = { GROUP_ITEMS = 128; };\n", &t,
                               &is_for_device), OK);
    assert_false(is_for_device);
    assert_int_equal(t.values[TUNE_GROUP_ITEMS], tunables[TUNE_GROUP_ITEMS].fallback);
}

static void test_bad_files(void **state) {
    (void)state;
    expect_bad(HEAD "driver = \"2.0\";\n", "3: driver", "made for driver \"2.0\", this one is \"3.1\"");
    expect_bad(HEAD "tunables = {\n GROUP_ITEMS = 63; };\n", "4: tunables.GROUP_ITEMS", "no value");
    expect_bad(HEAD "tunables = {\n GROUP_ITEMS = \"64\"; };\n", "4:", "no value");
    expect_bad(HEAD "tunables = {\n GROUP_ITEMS = -64; };\n", "4:", "no value");
    expect_bad(HEAD "tunables = {\n GROUP_ITEMS = 4294967360L; };\n", "4:", "no value");
    expect_bad(HEAD "tunables = {\n GROUP_ITEMS = [64]; };\n", "4:", "no value");
    expect_bad(HEAD "tunables = {\n GROUPS = 64; };\n", "4:", "no such tunable");
    expect_bad(HEAD "tuneables = { GROUP_ITEMS = 64; };\n", "3:", "unknown key");
    expect_bad(HEAD "clblast = { Xgem = { MWG = 64; }; };\n", "3:", "no such kernel");
    expect_bad(HEAD "clblast = { Xgemm = 3; };\n", "3:", "no such kernel");
    expect_bad(HEAD "clblast = { Xgemm = { MWG = 63; }; };\n", "3: clblast.Xgemm.MWG", "no value");
    expect_bad(HEAD "clblast = { Xgemm = { WGD = 64; }; };\n", "3:", "no such parameter");
    expect_bad(HEAD "clblast = { Xgemm = { MWG = 64; }; };\n", "3: clblast.Xgemm", "GEMMK is missing");
    expect_bad(HEAD DIRECT "WGD = 16; }; };\n", "4: clblast.XgemmDirect", "WGD is no multiple of MDIMCD * VWMD");
    expect_bad("platform = \"Platform\";\n", "", "no platform or no device");
    expect_bad("platform = 3;\ndevice = \"fast\";\n", "1:", "expected a text");
    expect_bad(HEAD "tunables = {\n", "4:", "syntax error");
    expect_bad(HEAD "\x01\x02\n", "3:", "syntax error");
}

/* What is written is read again, whatever the device is called. */
static void test_round_trip(void **state) {
    (void)state;
    struct tuning t, again;
    int is_for_device;
    struct bytes text = {0};
    tune_defaults(&t);
    t.values[TUNE_TILE_WIDE] = 12;
    t.has_clblast[CLBLAST_ROUTINE] = 1;
    t.clblast[CLBLAST_ROUTINE][0] = 64;
    assert_int_equal(tune_text(&t, &device, " for a test", &text), OK);
    assert_int_equal(read_text((const char *)text.data, &again, &is_for_device), OK);
    assert_true(is_for_device);
    assert_memory_equal(again.values, t.values, sizeof t.values);
    assert_memory_equal(again.clblast, t.clblast, sizeof t.clblast);
    bytes_free(&text);
}

/* The user's file is found under its name; a bad one does no harm. */
static void test_found(void **state) {
    (void)state;
    char folder[] = "/tmp/caravan-test-tune-XXXXXX", file[TUNE_SOURCE_BYTES], command[64];
    struct tuning t, found;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(env_set("XDG_CONFIG_HOME", folder), OK);
    tune_find(&device, &found);
    assert_string_equal(found.source, "");
    tune_defaults(&t);
    t.values[TUNE_TILE_WIDE] = 12;
    assert_int_equal(tune_user_path(&device, file, sizeof file), OK);
    assert_non_null(strstr(file, "/caravan/tune/a-platform-pthread-fast-r-3-x.cfg"));
    assert_int_equal(tune_store(&t, &device, "", file), OK);
    tune_find(&device, &found);
    assert_string_equal(found.source, file);
    assert_int_equal(found.values[TUNE_TILE_WIDE], 12);
    assert_int_equal(truncate(file, 20), 0);
    tune_find(&device, &found);
    assert_string_equal(found.source, "");
    assert_int_equal(found.values[TUNE_TILE_WIDE], tunables[TUNE_TILE_WIDE].fallback);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}

/* Every default and every legal value can be written into a file. */
static void test_table(void **state) {
    (void)state;
    for (int i = 0; i < N_TUNABLES; i++) assert_true(tune_is_legal(&tunables[i], tunables[i].fallback));
    /* The op table has products of 70 rows: a higher threshold would leave CLBlast unchecked. */
    for (uint32_t i = 0; i < tunables[TUNE_GEMM_ROWS_MIN].n_values; i++)
        assert_true(tunables[TUNE_GEMM_ROWS_MIN].values[i] <= 70);
}

static void test_llama_bench(void **state) {
    (void)state;
    struct peer_speed s;
    char version[64];
    const char *good = "log\n[{\"build_commit\":\"ab1\",\"build_number\":7,\"n_prompt\":16,\"n_gen\":0,\"avg_ts\":100.5},"
                       "{\"n_prompt\":0,\"n_gen\":4,\"avg_ts\":20,\"build_commit\":\"ab1\",\"build_number\":7}]\n";
    assert_int_equal(peer_parse_llama_bench(good, 16, 4, &s, version, sizeof version), OK);
    assert_true(s.prefill > 100.4 && s.prefill < 100.6 && s.decode > 19.9 && s.decode < 20.1);
    assert_string_equal(version, "ab1 (7)");
    assert_int_equal(peer_parse_llama_bench(good, 32, 4, &s, version, sizeof version), ERR_FORMAT);
    assert_int_equal(peer_parse_llama_bench("", 16, 4, &s, version, sizeof version), ERR_FORMAT);
    assert_int_equal(peer_parse_llama_bench("[{]", 16, 4, &s, version, sizeof version), ERR_FORMAT);
    assert_int_equal(peer_parse_llama_bench("[3, null]", 16, 4, &s, version, sizeof version), ERR_FORMAT);
}

static void test_dllama(void **state) {
    (void)state;
    struct peer_speed s;
    uint32_t n;
    const char *steps = "a a\nx Eval  100 ms Sync    0 ms | Sent     0 kB Recv     0 kB | (16 tokens)\n"
                        "y Pred   40 ms Sync   10 ms | Sent     0 kB Recv     0 kB | (odd)\n"
                        "y Pred   50 ms Sync    0 ms | Sent     0 kB Recv     0 kB | ~\n";
    char whole[1024];
    assert_int_equal(peer_parse_dllama(steps, &s, &n), OK);
    assert_int_equal(n, 16);
    assert_true(s.prefill == 160 && s.decode == 20);
    snprintf(whole, sizeof whole, "%s\nEvaluation\n   nBatches: 32\n    nTokens: 17\n   tokens/s: 123.50 (8 ms/tok)\n"
             "Prediction\n    nTokens: 2\n   tokens/s: 21.25 (47 ms/tok)\n", steps);
    assert_int_equal(peer_parse_dllama(whole, &s, &n), OK);
    assert_int_equal(n, 17);
    assert_true(s.prefill == 123.5 && s.decode == 21.25);
    assert_int_equal(peer_parse_dllama("", &s, &n), ERR_FORMAT);
    assert_int_equal(peer_parse_dllama("Pred 1 ms\nEval x\n", &s, &n), ERR_FORMAT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file), cmocka_unit_test(test_other_device), cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_found), cmocka_unit_test(test_table),
        cmocka_unit_test(test_llama_bench), cmocka_unit_test(test_dllama),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
