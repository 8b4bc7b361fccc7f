/* Hosts of a job and ranks on each: host files, Slurm's lists, devices of a cluster's file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/mem.h"
#include "coordinator/places.h"

static char folder[] = "/tmp/test_places_XXXXXX";

static const char *file_write(const char *name, const char *text) {
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static err name_put(void *bytes, const char *name) { return bytes_printf(bytes, "%s ", name); }

static void test_expand(void **state) {
    (void)state;
    static const struct {
        const char *names, *want; /* NULL: refused */
    } cases[] = {{"alpha", "alpha "},
                 {"a,b", "a b "},
                 {"vh[1-3]", "vh1 vh2 vh3 "},
                 {"vh[08-10,2],gpu[7]x,z", "vh08 vh09 vh10 vh2 gpu7x z "},
                 {"n[0099-0101]", "n0099 n0100 n0101 "},
                 {"", ""},
                 {"vh[1-3", NULL},
                 {"vh[3-1]", NULL},
                 {"vh[]", NULL},
                 {"vh[a]", NULL},
                 {"vh[1-]", NULL},
                 {"vh[1,]", "vh1 "},
                 {"vh[1][2]", NULL},
                 {"vh[1-99999999999]", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes got = {0};
        assert_int_equal(bytes_append_str(&got, ""), OK);
        err e = places_expand(cases[i].names, 100, name_put, &got);
        assert_int_equal(e == OK, cases[i].want != NULL);
        if (e == OK) assert_string_equal((char *)got.data, cases[i].want);
        bytes_free(&got);
    }
}

static void check_ranks(const struct places *p, const char *want) {
    struct bytes got = {0};
    for (uint32_t i = 0; i < p->n_hosts; i++)
        assert_int_equal(bytes_printf(&got, "%s:%u ", p->list[i].host, p->list[i].n_ranks), OK);
    assert_string_equal((char *)got.data, want);
    bytes_free(&got);
}

static void test_hosts_of_a_file(void **state) {
    (void)state;
    struct config c;
    struct places p;
    config_defaults(&c);
    snprintf(c.hosts, sizeof c.hosts, "%s",
             file_write("hosts", "# a comment\n\n  alpha slots=4\nbeta\t# slow\r\nalpha\ngamma.example.org"));
    assert_int_equal(places_find(&c, &p), OK);
    assert_int_equal(places_spread(&p, 3, 2, 0), OK);
    check_ranks(&p, "alpha:2 beta:2 gamma.example.org:2 ");
    assert_int_equal(p.n_ranks, 6);
    assert_int_equal(places_spread(&p, 4, 1, 0), OK); /* whole stages */
    check_ranks(&p, "alpha:2 beta:1 gamma.example.org:1 ");
    assert_int_equal(p.n_ranks, 4);
    assert_int_equal(places_spread(&p, 1, 6, 0), OK); /* more hosts than stages: it is parted */
    check_ranks(&p, "alpha:2 beta:2 gamma.example.org:2 ");
    assert_true(p.is_named);
    assert_int_equal(places_by_devices(&p, ""), OK);
    check_ranks(&p, "alpha:4 beta:1 gamma.example.org:1 ");
    const char *cluster = file_write("cluster", "hosts = { alpha = { devices = { a = {}; b = { count = 2; }; }; };\n"
                                                "gamma = { devices = { a = { device = \"x\"; }; }; };\n"
                                                "delta = { devices = { a = {}; b = {}; }; }; };\n");
    assert_int_equal(places_by_devices(&p, cluster), OK);
    check_ranks(&p, "alpha:3 beta:1 gamma.example.org:1 ");
    assert_int_equal(p.n_ranks, 5);
    assert_int_equal(places_by_devices(&p, file_write("bad", "hosts = { alpha = 3; };")), ERR_CONFIG);
    places_free(&p);
}

static void test_hosts_of_slurm(void **state) {
    (void)state;
    struct config c;
    struct places p;
    config_defaults(&c);
    env_set("SLURM_JOB_NUM_NODES", "3");
    env_set("SLURM_JOB_NODELIST", "n[1-2],m");
    assert_int_equal(places_find(&c, &p), OK);
    assert_int_equal(places_by_devices(&p, ""), OK);
    check_ranks(&p, "n1:1 n2:1 m:1 ");
    places_free(&p);
    env_set("SLURM_JOB_NODELIST", "n[1-2]"); /* a list that does not agree */
    assert_int_equal(places_find(&c, &p), OK);
    assert_int_equal(places_spread(&p, 2, 1, 0), OK);
    check_ranks(&p, ":1 :1 :0 ");
    assert_false(p.is_named);
    places_free(&p);
    env_set("SLURM_JOB_NUM_NODES", "");
}

/* Shards of a stage in a host as far as slots go. */
static void test_spread(void **state) {
    (void)state;
    static const struct {
        uint32_t slots[4], n_stages, n_shards;
        const char *want; /* NULL: refused */
    } cases[] = {{{2, 2, 0, 0}, 2, 2, "a:2 b:2 "},
                 {{1, 1, 1, 1}, 2, 2, "a:1 b:1 c:1 d:1 "},
                 {{1, 1, 1, 1}, 4, 1, "a:1 b:1 c:1 d:1 "},
                 {{4, 4, 4, 0}, 2, 2, "a:2 b:2 c:0 "}, /* no stage of two hosts, where one has room */
                 {{4, 2, 2, 0}, 4, 2, "a:4 b:2 c:2 "}, /* uneven */
                 {{2, 4, 2, 0}, 4, 2, "a:2 b:4 c:2 "},
                 {{2, 1, 1, 0}, 2, 2, "a:2 b:1 c:1 "}, /* nowhere room for the second stage */
                 {{1, 3, 0, 0}, 2, 2, "a:1 b:3 "},
                 {{3, 3, 0, 0}, 1, 6, "a:3 b:3 "},
                 {{8, 8, 0, 0}, 5, 1, "a:3 b:2 "},
                 {{2, 2, 0, 0}, 2, 3, NULL},
                 {{2, 1, 0, 0}, 4, 1, NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct place list[4] = {{"a", 0, 0}, {"b", 0, 0}, {"c", 0, 0}, {"d", 0, 0}};
        struct places p = {.list = list};
        while (p.n_hosts < 4 && cases[i].slots[p.n_hosts]) {
            list[p.n_hosts].n_slots = cases[i].slots[p.n_hosts];
            p.n_hosts++;
        }
        err e = places_spread(&p, cases[i].n_stages, cases[i].n_shards, 0);
        assert_int_equal(e, cases[i].want ? OK : ERR_USAGE);
        if (e == OK) check_ranks(&p, cases[i].want);
        if (e == OK) assert_int_equal(p.n_ranks, cases[i].n_stages * cases[i].n_shards);
        assert_int_equal(places_spread(&p, cases[i].n_stages, cases[i].n_shards, 1), OK);
        assert_int_equal(p.n_ranks, cases[i].n_stages * cases[i].n_shards);
    }
}

static void test_slots(void **state) {
    (void)state;
    static const struct {
        const char *tasks, *want; /* NULL: refused */
    } cases[] = {{"2(x3)", "222"}, {"2(x2),1", "221"}, {"1,2,3", "123"}, {"4,1(x2)", "411"},
                 {"", NULL}, {"2(x4)", NULL}, {"2(x2)", NULL}, {"1,1", NULL}, {"1,1,1,1", NULL}, {"x", NULL},
                 {"2(x3", NULL}, {"2(x", NULL}, {"2(3)", NULL}, {"99999999999999999999(x3)", NULL},
                 {"1(x99999999999999999999)", NULL}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct place list[3] = {{"", 0, 0}, {"", 0, 0}, {"", 0, 0}};
        struct places p = {.list = list, .n_hosts = 3};
        assert_int_equal(places_slots(&p, cases[i].tasks), cases[i].want != NULL);
        for (int h = 0; cases[i].want && h < 3; h++) assert_int_equal(list[h].n_slots, cases[i].want[h] - '0');
    }
}

static void test_slots_of_allocations(void **state) {
    (void)state;
    struct config c;
    struct places p;
    config_defaults(&c);
    env_set("SLURM_JOB_NUM_NODES", "2");
    env_set("SLURM_JOB_NODELIST", "n[1-2]");
    env_set("SLURM_TASKS_PER_NODE", "8(x2)"); /* of processors: nobody asked for tasks */
    assert_int_equal(places_find(&c, &p), OK);
    assert_int_equal(p.list[0].n_slots + p.list[1].n_slots, 0);
    places_free(&p);
    env_set("SLURM_NTASKS", "3");
    env_set("SLURM_TASKS_PER_NODE", "2,1");
    assert_int_equal(places_find(&c, &p), OK);
    assert_int_equal(places_by_devices(&p, ""), OK);
    check_ranks(&p, "n1:2 n2:1 ");
    places_free(&p);
    env_set("SLURM_JOB_NUM_NODES", "");
    env_set("PBS_NODEFILE", file_write("nodes", "m1\nm1\nm2\nm2\nm2\n"));
    assert_int_equal(places_find(&c, &p), OK);
    assert_int_equal(places_by_devices(&p, ""), OK);
    check_ranks(&p, "m1:2 m2:3 ");
    assert_true(p.is_named);
    places_free(&p);
    env_set("PBS_NODEFILE", "/nowhere/nodes");
}

static void test_this_host(void **state) {
    (void)state;
    struct config c;
    struct places p;
    char want[300], here[256] = "";
    gethostname(here, sizeof here - 1);
    config_defaults(&c);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(places_find(&c, &p), OK);
        assert_int_equal(places_spread(&p, 2, 3, 0), OK);
        snprintf(want, sizeof want, "%s:6 ", here);
        check_ranks(&p, want);
        places_free(&p);
        snprintf(c.hosts, sizeof c.hosts, "/nowhere/hosts"); /* the launcher will say so */
    }
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expand),
        cmocka_unit_test(test_hosts_of_a_file),
        cmocka_unit_test(test_hosts_of_slurm),
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_slots),
        cmocka_unit_test(test_slots_of_allocations),
        cmocka_unit_test(test_this_host),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) == 0 ? rc : 1;
}
