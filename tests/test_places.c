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
    places_spread(&p, 3, 2);
    check_ranks(&p, "alpha:2 beta:2 gamma.example.org:2 ");
    assert_int_equal(p.n_ranks, 6);
    places_spread(&p, 4, 1); /* whole stages: two on the first, one on the last */
    check_ranks(&p, "alpha:2 beta:2 gamma.example.org:2 ");
    assert_int_equal(p.n_ranks, 4);
    places_spread(&p, 1, 6); /* more hosts than stages: it is parted */
    check_ranks(&p, "alpha:2 beta:2 gamma.example.org:2 ");
    assert_int_equal(places_by_devices(&p, ""), OK);
    check_ranks(&p, "alpha:1 beta:1 gamma.example.org:1 ");
    assert_false(p.is_named);
    const char *cluster = file_write("cluster", "hosts = { alpha = { devices = { a = {}; b = { count = 2; }; }; };\n"
                                                "gamma = { devices = { a = { device = \"x\"; }; }; };\n"
                                                "delta = { devices = { a = {}; b = {}; }; }; };\n");
    assert_int_equal(places_by_devices(&p, cluster), OK);
    check_ranks(&p, "alpha:3 beta:1 gamma.example.org:1 ");
    assert_int_equal(p.n_ranks, 5);
    assert_true(p.is_named);
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
    places_spread(&p, 2, 1);
    check_ranks(&p, ":1 :1 :1 ");
    places_free(&p);
    env_set("SLURM_JOB_NUM_NODES", "");
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
        places_spread(&p, 2, 3);
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
        cmocka_unit_test(test_this_host),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", folder);
    return system(command) == 0 ? rc : 1;
}
