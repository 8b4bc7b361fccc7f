/* Clusters: what a file says, what is refused and named with its line, what goes over measured figures, rates and
 * links that follow from others. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/mem.h"
#include "partition/cluster.h"
#include "tests/libconfig_file.h"

static err read_text(const char *text, struct cluster **out) {
    write_bytes(text, strlen(text));
    err e = cluster_read(path, out);
    unlink(path);
    return e;
}

static void expect_bad(const char *text, const char *line, const char *said) {
    struct cluster *c = NULL;
    check_said(text, read_text(text, &c), line, said);
    assert_null(c);
}

static struct cluster *good(const char *text) {
    struct cluster *c = NULL;
    if (read_text(text, &c) != OK) fail_msg("%s", err_text());
    return c;
}

static void near(double found, double expected) {
    if (!(found > expected * (1 - 1e-12) && found < expected * (1 + 1e-12)))
        fail_msg("found %.17g, expected %.17g", found, expected);
}

#define TWO \
    "links = { latency_us = 100; gbit_s = 1.0; };\n" \
    "inside = { latency_us = 2.0; gbit_s = 64; };\n" \
    "hosts = {\n" \
    "  big = {\n" \
    "    memory_gb = 64; file_gb_s = 2.5; gbit_s = 10; latency_us = 20;\n" \
    "    inside = { gbit_s = 400; };\n" \
    "    devices = {\n" \
    "      gpu = { device = \"NVIDIA\"; count = 2; memory_gb = 24.5; read_gb_s = 900; int8_gop_s = 80000; copy_gb_s = 20;\n" \
    "              row_gb_s = { Q4_K = 700.0; }; few_gop_s = { Q8_0 = 2345; }; products_gop_s = { q8_0 = 12345; };\n" \
    "              alone_gb_s = { Q4_K = 800.0; }; };\n" \
    "      cpu = { threads = 8; read_gb_s = 40; step_us = 100; launch_us = 7; pack_gb_s = 2; f32_gop_s = 500;" \
    "        quota_share = 0.5; quota_spare_ms = 3; quota_message_ms = 2; quota_link_gb_s = 0.5; };\n" \
    "    };\n" \
    "  };\n" \
    "  small = { count = 3; memory_gb = 16; devices = { cpu = { read_gb_s = 20; }; }; };\n" \
    "};\n"

static void test_good_file(void **state) {
    (void)state;
    struct cluster *c = good(TWO);
    assert_int_equal(c->n_hosts, 4);
    assert_int_equal(c->n_devices, 6);
    assert_string_equal(c->hosts[0].name, "big");
    assert_string_equal(c->hosts[1].name, "small-1");
    assert_string_equal(c->hosts[3].name, "small-3");
    assert_true(c->hosts[0].memory_bytes == 64000000000u && c->hosts[3].memory_bytes == 16000000000u);
    near(c->hosts[0].file_per_s, 2.5e9);
    const struct cluster_device *g = &c->devices[1], *cpu = &c->devices[2];
    assert_string_equal(g->name, "gpu-2");
    assert_string_equal(g->select, "NVIDIA");
    assert_int_equal(g->index, 1);
    assert_int_equal(g->rank, -1);
    assert_int_equal(g->host, 0);
    assert_false(g->is_host);
    assert_true(g->memory_bytes == 24500000000u);
    near(g->rates.read_per_s, 900e9);
    near(g->rates.int8_per_s, 80000e9);
    near(g->rates.copy_per_s, 20e9);
    near(g->rates.row_per_s[FORMAT_Q4_K], 700e9);
    near(g->rates.few_per_s[FORMAT_Q8_0], 2345e9);
    near(g->rates.alone_per_s[FORMAT_Q4_K], 800e9);
    near(g->rates.products_per_s[FORMAT_Q8_0], 12345e9);
    assert_string_equal(cpu->name, "cpu");
    assert_true(cpu->is_host);
    assert_int_equal(cpu->threads, 8);
    near(cpu->rates.step_s, 100e-6);
    near(cpu->rates.launch_s, 7e-6);
    near(cpu->rates.pack_per_s, 2e9);
    near(cpu->rates.f32_per_s, 500e9);
    near(cpu->rates.quota_share, 0.5);
    near(cpu->rates.quota_spare_s, 3e-3);
    near(cpu->rates.quota_message_s, 2e-3);
    near(cpu->rates.quota_link_per_s, 0.5e9);
    assert_int_equal(c->devices[5].host, 3);
    cluster_free(c);
}

/* What is not said follows from what is; what is said stays. */
static void test_complete(void **state) {
    (void)state;
    struct cluster *c = good(TWO);
    cluster_complete(c);
    const struct device_rates *g = &c->devices[0].rates, *s = &c->devices[5].rates;
    near(g->row_per_s[FORMAT_Q4_K], 700e9);
    near(g->row_per_s[FORMAT_Q8_0], 0.9 * 900e9);
    near(g->products_per_s[FORMAT_Q8_0], 12345e9);
    near(g->products_per_s[FORMAT_Q4_K], 0.6 * 80000e9);
    near(g->f32_per_s, 5 * 900e9);
    near(g->products_per_s[FORMAT_F16], 0.6 * 5 * 900e9);
    near(s->int8_per_s, 20 * 20e9);
    assert_true(s->launch_s > 0 && s->step_s > 0 && s->pack_per_s > 0);
    assert_true(s->copy_per_s == 0); /* shares its host's memory */
    assert_true(c->hosts[1].file_per_s > 0);
    cluster_free(c);
    struct cluster nothing = {.n_devices = 1, .devices = &(struct cluster_device){.is_host = 0}};
    cluster_complete(&nothing);
    const struct device_rates *r = &nothing.devices[0].rates;
    assert_true(r->read_per_s > 0 && r->int8_per_s > 0 && r->f32_per_s > 0 && r->copy_per_s > 0);
    for (int f = 0; f < N_FORMATS; f++) assert_true(r->row_per_s[f] > 0 && r->products_per_s[f] > 0);
}

static void expect_link(const struct cluster *c, uint32_t a, uint32_t b, double latency_s, double bytes_per_s) {
    struct cluster_link ab = cluster_link_of(c, a, b);
    near(ab.latency_s, latency_s);
    near(ab.bytes_per_s, bytes_per_s);
}

static void test_links(void **state) {
    (void)state;
    struct cluster *c = good(TWO);
    expect_link(c, 0, 1, 2e-6, 400e9 / 8);   /* inside big: its own width, everyone's latency */
    expect_link(c, 0, 5, 100e-6, 1e9 / 8);   /* the slower port */
    expect_link(c, 5, 0, 100e-6, 1e9 / 8);
    expect_link(c, 3, 4, 100e-6, 1e9 / 8);
    expect_link(c, 3, 3, 2e-6, 64e9 / 8);
    cluster_free(c);
    c = good("hosts = { a = { count = 2; memory_gb = 1; gbit_s = 100; latency_us = 3; devices = { d = { read_gb_s = 1; }; }; };\n"
             "b = { name = \"b.example.org\"; memory_gb = 1; devices = { d = { read_gb_s = 1; }; }; }; };\n"
             "pairs = { a-1 = { b = { gbit_s = 4; }; a-2 = { latency_us = 1; }; }; };");
    expect_link(c, 0, 1, 1e-6, 100e9 / 8);
    expect_link(c, 1, 0, 1e-6, 100e9 / 8);
    expect_link(c, 0, 2, 50e-6, 4e9 / 8);
    expect_link(c, 2, 0, 50e-6, 4e9 / 8);
    expect_link(c, 1, 2, 50e-6, 10e9 / 8);
    expect_link(c, 0, 0, 1e-6, 80e9 / 8);
    cluster_free(c);
}

#define DEVICE "d = { read_gb_s = 1.0; };"
#define HOST(keys) "hosts = {\n a = {\n" keys "\n devices = { " DEVICE " }; }; };\n"
#define DEV(keys) "hosts = { a = { memory_gb = 1.0; devices = { d = {\n" keys " }; }; }; };\n"

static void test_bad_files(void **state) {
    (void)state;
    expect_bad("", "", "no hosts; expected hosts = {");
    expect_bad("hosts = {};\n", "", "no hosts");
    expect_bad("hosts = 3;\n", "1: hosts", "expected a group { ... }, found a whole number");
    expect_bad("hosts = ( { a = 1; } );\n", "1: hosts", "expected a group { ... }, found a list");
    expect_bad("hosts = {\n a = {}; };\n", "2: hosts.a", "no devices");
    expect_bad("hosts = {\n a = { memory_gb = 1.0; devices = {}; }; };\n", "2: hosts.a", "no devices");
    expect_bad("hosts = {\n a = 1; };\n", "2: hosts.a", "expected a group");
    expect_bad("hosts = {\n a = { devices = 3; }; };\n", "2: hosts.a.devices", "expected a group");
    expect_bad("hosts = {\n a = { devices = {\n d = \"gpu\"; }; }; };\n", "3: hosts.a.devices.d", "found a text");
    expect_bad("host = { };\n", "1: host", "unknown key; expected one of links, inside, hosts, pairs");
    expect_bad(HOST("memry_gb = 1.0;"), "3: hosts.a.memry_gb", "unknown key; expected one of name, count, memory_gb");
    expect_bad(HOST("memory_gb = -1.0;"), "3: hosts.a.memory_gb", "expected a number from 0.001 to 1000000, found -1");
    expect_bad(HOST("memory_gb = 0;"), "3: hosts.a.memory_gb", "expected a number");
    expect_bad(HOST("memory_gb = 1e300;"), "3: hosts.a.memory_gb", "found 1");
    expect_bad(HOST("memory_gb = \"64\";"), "3: hosts.a.memory_gb", "found a text");
    expect_bad(HOST("memory_gb = true;"), "3: hosts.a.memory_gb", "found true or false");
    expect_bad(HOST("memory_gb = [1.0];"), "3: hosts.a.memory_gb", "found a list");
    expect_bad(HOST("memory_gb = { x = 1; };"), "3: hosts.a.memory_gb", "found a group");
    expect_bad(HOST("count = 0;"), "3: hosts.a.count", "expected a whole number from 1 to 4096, found 0");
    expect_bad(HOST("count = 1.5;"), "3: hosts.a.count", "found a number with a point");
    expect_bad(HOST("count = 9999999999L;"), "3: hosts.a.count", "from 1 to 4096");
    expect_bad(HOST("name = \"\";"), "3: hosts.a.name", "expected a text of 1 to 255 bytes, found 0");
    expect_bad(HOST("latency_us = -5;"), "3: hosts.a.latency_us", "found -5");
    expect_bad(HOST("gbit_s = 0.0;"), "3: hosts.a.gbit_s", "expected a number");
    expect_bad(HOST("inside = 3;"), "3: hosts.a.inside", "expected a group");
    expect_bad(HOST("inside = { gbits = 3; };"), "3: hosts.a.inside.gbits", "expected one of latency_us, gbit_s");
    expect_bad(HOST(""), "4: hosts.a.devices.d", "neither the device nor its host has memory_gb");
    expect_bad(DEV("memory_gb = 8;"), "1: hosts.a.devices.d", "read_gb_s is missing");
    expect_bad(DEV("read_gb_s = 8; host_memory = false;"), "1: hosts.a.devices.d", "memory_gb is missing");
    expect_bad(DEV("read_gb_s = 8; host_memory = 1;"), "2:", "expected true or false, found a whole number");
    expect_bad(DEV("read_gb_s = 8;\nspeed = 3;"), "3: hosts.a.devices.d.speed", "unknown key; expected one of device, index");
    expect_bad(DEV("read_gb_s = 8;\nrow_gb_s = 3.0;"), "3: hosts.a.devices.d.row_gb_s", "expected a group");
    expect_bad(DEV("read_gb_s = 8;\nrow_gb_s = { Q9 = 3.0; };"), "3: hosts.a.devices.d.row_gb_s.Q9", "Q9");
    expect_bad(DEV("read_gb_s = 8;\nproducts_gop_s = { Q4_K = -3.0; };"), "3:", "found -3");
    expect_bad(DEV("read_gb_s = 8;\nindex = -1;"), "3: hosts.a.devices.d.index", "from 0 to 255");
    expect_bad(DEV("read_gb_s = 8;\ncount = 4097;"), "3: hosts.a.devices.d.count", "from 1 to 4096");
    expect_bad("links = 3;\n" HOST("memory_gb = 1;"), "1: links", "expected a group");
    expect_bad("links = { gbit_s = 1; gbit_s = 2; };\n", "1", "duplicate");
    expect_bad("hosts = {\n", "2:", "syntax error");
    expect_bad("hosts = { \xff = 1 };\n", "1:", "syntax error");
}

static void test_bad_whole(void **state) {
    (void)state;
    expect_bad("hosts = { a = { count = 4096; memory_gb = 1;\n devices = { d = { count = 2; read_gb_s = 1; }; }; }; };",
               "1: hosts.a", "4096 hosts and 8192 devices");
    expect_bad("hosts = { a = { count = 4000; memory_gb = 1; devices = { d = { read_gb_s = 1; }; }; };\n"
               "b = { count = 4000; memory_gb = 1; devices = { d = { read_gb_s = 1; }; }; }; };",
               "2: hosts.b", "8000 hosts");
    expect_bad("hosts = { a-1 = { memory_gb = 1; devices = { d = { read_gb_s = 1; }; }; };\n"
               "a = { count = 2; memory_gb = 1; devices = { d = { read_gb_s = 1; }; }; }; };",
               "2: hosts.a", "a second host \"a-1\"");
    expect_bad(HOST("memory_gb = 1;") "pairs = { a = { b = { gbit_s = 1; }; }; };\n", "5: pairs.a.b", "no host \"b\"");
    expect_bad(HOST("memory_gb = 1;") "pairs = { a = { a = { gbit_s = 1; }; }; };\n", "5: pairs.a.a", "one host");
    expect_bad(HOST("memory_gb = 1;") "pairs = { a = 1; };\n", "5: pairs.a", "expected a group");
    expect_bad(HOST("memory_gb = 1;") "pairs = { a = { b = { gbits = 1; }; }; };\n", "5: pairs.a.b.gbits", "unknown key");
    struct cluster *c = NULL;
    assert_int_equal(cluster_read("/nonexistent/c.cfg", &c), ERR_FILE);
    assert_int_equal(cluster_read("/", &c), ERR_FILE);
    assert_null(c);
}

/* A measured cluster: three ranks on "left", one on "right.example.org". */
static struct cluster *measured(void) {
    struct cluster *c;
    assert_int_equal(NEW(c, 1), OK);
    assert_int_equal(NEW(c->hosts, 2), OK);
    assert_int_equal(NEW(c->devices, 4), OK);
    assert_int_equal(NEW(c->measured, 4), OK);
    c->n_hosts = 2;
    c->n_devices = 4;
    strcpy(c->hosts[0].name, "left");
    strcpy(c->hosts[1].name, "right.example.org");
    static const uint32_t host_of[] = {0, 1, 0, 0};
    for (int i = 0; i < 4; i++) {
        c->devices[i] = (struct cluster_device){.host = host_of[i], .rank = i, .is_host = 1, .memory_bytes = 7};
        c->devices[i].rates.read_per_s = 5e9;
        c->devices[i].rates.alone_per_s[FORMAT_Q4_K] = 6e9;
        c->measured[i] = (struct cluster_link){30e-6, 1e9};
    }
    return c;
}

static err correct(struct cluster *c, const char *text) {
    write_bytes(text, strlen(text));
    err e = cluster_correct(c, path);
    unlink(path);
    return e;
}

/* Hosts by name, devices in the order of ranks; what is not said stays. */
static void test_correct(void **state) {
    (void)state;
    struct cluster *c = measured();
    assert_int_equal(correct(c, "hosts = { left = { memory_gb = 2; devices = {\n"
                                "  a = { device = \"Clover\"; read_gb_s = 9; row_gb_s = { Q4_K = 3.0; }; };\n"
                                "  b = { count = 2; threads = 3; memory_gb = 1; }; }; };\n"
                                "right = { file_gb_s = 3; }; other = { devices = { x = { read_gb_s = 1; }; }; }; };"), OK);
    assert_true(c->hosts[0].memory_bytes == 2000000000u && c->hosts[1].memory_bytes == 0);
    near(c->hosts[1].file_per_s, 3e9);
    assert_string_equal(c->devices[0].select, "Clover");
    near(c->devices[0].rates.read_per_s, 9e9);
    assert_int_equal(c->devices[0].memory_bytes, 7);
    assert_string_equal(c->devices[1].select, "");
    near(c->devices[1].rates.read_per_s, 5e9);
    assert_true(c->devices[0].rates.alone_per_s[FORMAT_Q4_K] == 0); /* measured beside another row_gb_s */
    near(c->devices[1].rates.alone_per_s[FORMAT_Q4_K], 6e9);
    assert_int_equal(c->devices[2].threads, 3);
    assert_true(c->devices[3].memory_bytes == 1000000000u && c->devices[3].is_host);
    assert_int_equal(c->devices[2].index, 0);
    assert_int_equal(c->devices[3].index, 1);
    assert_int_equal(c->devices[3].rank, 3);
    expect_link(c, 0, 1, 30e-6, 1e9);
    cluster_free(c);
}

static void test_correct_links(void **state) {
    (void)state;
    struct cluster *c = measured();
    assert_int_equal(correct(c, "hosts = { left = { gbit_s = 4; }; };"), OK);
    expect_link(c, 0, 1, 30e-6, 4e9 / 8);
    expect_link(c, 1, 0, 30e-6, 4e9 / 8);
    expect_link(c, 0, 2, 30e-6, 1e9);
    assert_int_equal(correct(c, "links = { gbit_s = 2; latency_us = 5; }; inside = { gbit_s = 800; };"), OK);
    expect_link(c, 0, 1, 5e-6, 2e9 / 8); /* the slower of all links and left's port */
    expect_link(c, 0, 2, 30e-6, 800e9 / 8);
    assert_int_equal(correct(c, "pairs = { right = { left = { latency_us = 9; }; gone = { gbit_s = 1; }; }; };"), OK);
    expect_link(c, 0, 1, 9e-6, 2e9 / 8);
    cluster_free(c);
    c = measured();
    assert_int_equal(correct(c, "hosts = { left = { gbit_s = \"4\"; }; };"), ERR_CONFIG);
    assert_non_null(strstr(err_text(), ":1: hosts.left.gbit_s: expected a number"));
    expect_link(c, 0, 1, 30e-6, 1e9);
    cluster_free(c);
}

/* Bytes of a good file changed, cut and doubled: read or refused with one line, nothing else. */
static void test_mutations(void **state) {
    (void)state;
    static const char spice[] = "{}();:=,.\"#@-09eE\n\\\x01\xff";
    uint32_t seed = 1;
    size_t n = strlen(TWO);
    char text[sizeof TWO * 2];
    for (int i = 0; i < 4000; i++) {
        struct cluster *c = NULL;
        size_t len = n;
        memcpy(text, TWO, n);
        for (int k = i % 3; k >= 0; k--) {
            seed = seed * 1664525u + 1013904223u;
            size_t at = (seed >> 8) % len;
            switch (seed >> 4 & 3) {
            case 0: text[at] = spice[(seed >> 24) % (sizeof spice - 1)]; break;
            case 1: len = at + 1; break;
            case 2: memmove(text + at, text + at + 1, --len - at); break;
            default: memmove(text + at + 1, text + at, len - at); len++;
            }
        }
        write_bytes(text, len);
        err e = cluster_read(path, &c);
        unlink(path);
        if ((e == OK) != (c != NULL)) fail_msg("error %d beside a result", e);
        if (e != OK && (strncmp(err_text(), path, strlen(path)) != 0 || strchr(err_text(), '\n')))
            fail_msg("said \"%s\"", err_text());
        if (c) cluster_complete(c);
        cluster_free(c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_file), cmocka_unit_test(test_complete), cmocka_unit_test(test_links),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_bad_whole), cmocka_unit_test(test_correct),
        cmocka_unit_test(test_correct_links), cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
