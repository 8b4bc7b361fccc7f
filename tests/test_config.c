/* Configuration: the table, files with good and bad keys, numbers, the example. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config.h"
#include "coordinator/options.h"

static char path[] = "/tmp/caravan-test-config-XXXXXX";

static err load(struct config *c, const char *text) {
    snprintf(path, sizeof path, "/tmp/caravan-test-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    config_defaults(c);
    err e = config_load(c, path);
    unlink(path);
    return e;
}

static void expect_bad(const char *text, const char *line, const char *said) {
    struct config c;
    assert_int_equal(load(&c, text), ERR_CONFIG);
    char where[64];
    snprintf(where, sizeof where, "%s:%s:", path, line);
    if (strncmp(err_text(), where, strlen(where)) != 0 || !strstr(err_text(), said))
        fail_msg("said \"%s\", expected \"%s ... %s\"", err_text(), where, said);
}

static void test_defaults(void **state) {
    (void)state;
    struct config c;
    config_defaults(&c);
    assert_int_equal(c.prefill_chunk, 128);
    assert_int_equal(c.max_tokens, 128);
    assert_true(c.temperature == 0);
    assert_true(c.top_p == 1);
    assert_string_equal(c.mpirun, "mpirun");
    assert_string_equal(c.device, "");
    assert_false(c.is_set[CONFIG_seed]);
}

static void test_file(void **state) {
    (void)state;
    struct config c;
    assert_int_equal(load(&c, "stages = 3;\n# more\ntemperature = 1;\ntop_p = 0.25;\n"
                              "device = \"llvmpipe\";\nseed = 9007199254740991L;\n"), OK);
    assert_int_equal(c.stages, 3);
    assert_true(c.temperature == 1);
    assert_true(c.top_p == 0.25);
    assert_string_equal(c.device, "llvmpipe");
    assert_true(c.seed == 9007199254740991u);
    assert_true(c.is_set[CONFIG_seed]);
    assert_false(c.is_set[CONFIG_shards]);
}

static void test_bad_files(void **state) {
    (void)state;
    expect_bad("stages = 1;\nstagse = 2;\n", "2", "unknown key stagse");
    expect_bad("\n\nstages = \"2\";\n", "3", "expected a whole number from 0 to 4096, found a text");
    expect_bad("stages = -1;\n", "1", "found \"-1\"");
    expect_bad("stages = 2.5;\n", "1", "found a number with a point");
    expect_bad("shards = 17;\n", "1", "from 0 to 16");
    expect_bad("top_p = 1.5;\n", "1", "from 0 to 1");
    expect_bad("device = 3;\n", "1", "expected a text");
    expect_bad("model = { a = 1; };\n", "1", "found a group");
    expect_bad("stages = 99999999999999999999;\n", "1", "stages");
    expect_bad("stages = ;\n", "1", "syntax error");
    expect_bad("stages = 1;\nstages = 2;\n", "2", "duplicate");
}

static void test_bad_paths(void **state) {
    (void)state;
    struct config c;
    config_defaults(&c);
    assert_int_equal(config_load(&c, "/nonexistent/x.cfg"), ERR_FILE);
    assert_int_equal(config_load(&c, "/tmp"), ERR_FILE);
}

static void test_numbers(void **state) {
    (void)state;
    uint64_t n;
    double x;
    assert_int_equal(config_parse_whole("0", 0, 10, &n), OK);
    assert_int_equal(config_parse_whole("9007199254740991", 0, CONFIG_WHOLE_MAX, &n), OK);
    assert_true(n == 9007199254740991u);
    static const char *const bad_whole[] = {"", " 1", "1 ", "12x", "-1", "+1", "0x10", "1e3", "11",
                                            "99999999999999999999", "9007199254740992"};
    for (size_t i = 0; i < sizeof bad_whole / sizeof *bad_whole; i++)
        assert_int_equal(config_parse_whole(bad_whole[i], 0, i < 10 ? 10 : CONFIG_WHOLE_MAX, &n), ERR_USAGE);
    assert_int_equal(config_parse_real("-0.5", -1, 1, &x), OK);
    assert_int_equal(config_parse_real("1e-1", -1, 1, &x), OK);
    static const char *const bad_real[] = {"", "nan", "inf", "-inf", "1.5", "0x1p-3", "1e400", "0.5x", " 0", "-", "1e"};
    for (size_t i = 0; i < sizeof bad_real / sizeof *bad_real; i++)
        assert_int_equal(config_parse_real(bad_real[i], -1, 1, &x), ERR_USAGE);
}

/* The committed example is what the table says, and changes nothing when read. */
static void test_example(void **state) {
    (void)state;
    struct bytes made = {0}, committed = {0};
    assert_int_equal(config_example(&made), OK);
    assert_int_equal(bytes_read_file(&committed, "configs/example.cfg"), OK);
    if (strcmp((char *)made.data, (char *)committed.data) != 0)
        fail_msg("configs/example.cfg is old; run: caravan config --example > configs/example.cfg");
    struct config read, fallback;
    config_defaults(&fallback);
    assert_int_equal(load(&read, (char *)made.data), OK);
    memset(read.is_set, 0, sizeof read.is_set);
    assert_memory_equal(&read, &fallback, sizeof read);
    bytes_free(&made);
    bytes_free(&committed);
}

/* ---- the command line ---- */

static double share;

static err parse(struct config *c, struct option_result *words, const char **text, ...) {
    char *argv[16] = {"cmd"};
    int argc = 1;
    va_list list;
    va_start(list, text);
    for (char *a = va_arg(list, char *); a; a = va_arg(list, char *)) argv[argc++] = a;
    va_end(list);
    const struct option own[] = {{"text", OPTION_TEXT, text, "TEXT", "a text", 0, 0},
                                 {"share", OPTION_REAL, &share, "SHARE", "a number", 0, 1}};
    const struct option_set set = {"cmd MODEL", "Test.", CONFIG_GRID, own, 2, 1};
    return options_parse(&set, argc, argv, c, words);
}

static void test_flags(void **state) {
    (void)state;
    struct config c;
    struct option_result words;
    const char *text = NULL;
    assert_int_equal(parse(&c, &words, &text, "m.gguf", "--stages", "2", "--prefill-chunk=7",
                           "--text", "-x", NULL), OK);
    assert_int_equal(c.stages, 2);
    assert_int_equal(c.prefill_chunk, 7);
    assert_string_equal(text, "-x");
    assert_int_equal(words.n_words, 1);
    assert_string_equal(words.words[0], "m.gguf");
    assert_int_equal(parse(&c, &words, &text, "--", "--stages", NULL), OK);
    assert_string_equal(words.words[0], "--stages");
    assert_int_equal(parse(&c, &words, &text, "--share", "0.25", NULL), OK);
    assert_true(share == 0.25);
}

static void expect_usage(const char *said, const char *a, const char *b) {
    struct config c;
    struct option_result words;
    const char *text = NULL;
    assert_int_equal(parse(&c, &words, &text, a, b, NULL), ERR_USAGE);
    if (!strstr(err_text(), said)) fail_msg("said \"%s\", expected \"%s\"", err_text(), said);
}

static void test_bad_flags(void **state) {
    (void)state;
    expect_usage("did you mean --stages?", "--stagse", "1");
    expect_usage("--help lists", "--frobnicate", "1");
    expect_usage("--stages needs a value", "--stages", NULL);
    expect_usage("--stages needs a value", "--stages", "--text");
    expect_usage("found \"12x\"", "--stages", "12x");
    expect_usage("cmd: --share: expected a number from 0 to 1", "--share", "1.5");
    expect_usage("unexpected argument \"b\"", "a", "b");
    expect_usage("unknown flag -x", "-x", NULL);
    /* A key of another group is no flag here. */
    expect_usage("unknown flag --temperature", "--temperature", "1");
}

/* A flag wins over the file, wherever it stands. */
static void test_order(void **state) {
    (void)state;
    struct config c;
    struct option_result words;
    const char *text = NULL;
    char file[] = "/tmp/caravan-test-order-XXXXXX";
    int fd = mkstemp(file);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "stages = 5;\nshards = 3;\n", 24), 24);
    close(fd);
    assert_int_equal(parse(&c, &words, &text, "--stages", "2", "--config", file, NULL), OK);
    assert_int_equal(c.stages, 2);
    assert_int_equal(c.shards, 3);
    unlink(file);
}

/* A file in place of the model: its keys, and the model may still be named. */
static void test_config_word(void **state) {
    (void)state;
    struct config c;
    struct option_result words;
    const char *text = NULL;
    char file[] = "/tmp/caravan-test-word-XXXXXX.cfg";
    int fd = mkstemps(file, 4);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "stages = 5;\nshards = 3;\n", 24), 24);
    close(fd);
    assert_int_equal(parse(&c, &words, &text, "--stages", "2", file, NULL), OK);
    assert_int_equal(c.stages, 2);
    assert_int_equal(c.shards, 3);
    assert_int_equal(words.n_words, 0);
    assert_int_equal(parse(&c, &words, &text, file, "m.gguf", NULL), OK);
    assert_string_equal(words.words[0], "m.gguf");
    expect_usage("unexpected argument", "m.gguf", file);
    unlink(file);
    assert_int_equal(parse(&c, &words, &text, "none.cfg", NULL), ERR_FILE);
    assert_int_equal(parse(&c, &words, &text, "--text", "none.cfg", NULL), OK);
    assert_string_equal(text, "none.cfg");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),  cmocka_unit_test(test_file),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_numbers),   cmocka_unit_test(test_example),
        cmocka_unit_test(test_flags),     cmocka_unit_test(test_bad_flags),
        cmocka_unit_test(test_order),     cmocka_unit_test(test_config_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
