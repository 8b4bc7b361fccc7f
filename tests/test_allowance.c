/* How much memory a process may take: what the host has, control groups of both versions, limits of its own; in a
 * folder that looks like a system. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "node/allowance.h"

#define MIB (1ull << 20)
#define TIB (1ull << 40) /* more than a sanitizer's own needs */

static char root[64];

static void put(const char *path, const char *text) {
    char whole[512];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    for (char *at = strchr(whole + strlen(root) + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = 0;
        mkdir(whole, 0700);
        *at = '/';
    }
    FILE *f = fopen(whole, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int system_begin(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/allowance-XXXXXX");
    assert_non_null(mkdtemp(root));
    put("/proc/meminfo", "MemTotal: 99999999 kB\nMemAvailable: 1048576 kB\n");
    put("/proc/self/status", "VmSize: 1024 kB\nVmData: 512 kB\n");
    return 0;
}

static int system_end(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", root);
    return system(command);
}

static void the_host(void **state) {
    (void)state;
    assert_int_equal(allowance_bytes(root), 1024 * MIB);
    put("/proc/self/cgroup", "");
    assert_int_equal(allowance_bytes(root), 1024 * MIB);
    put("/proc/meminfo", "");
    assert_int_equal(allowance_bytes(root), 0);
}

static void groups_of_version_2(void **state) {
    (void)state;
    put("/proc/self/cgroup", "0::/job/rank\n");
    put("/sys/fs/cgroup/job/rank/memory.max", "max\n");
    put("/sys/fs/cgroup/job/rank/memory.current", "999999999\n");
    assert_int_equal(allowance_bytes(root), 1024 * MIB);
    /* The group above leaves less than the host; pages of files that are not in use do not count. */
    put("/sys/fs/cgroup/job/memory.max", "524288000\n");
    put("/sys/fs/cgroup/job/memory.current", "209715200\n");
    assert_int_equal(allowance_bytes(root), 300 * MIB);
    put("/sys/fs/cgroup/job/memory.stat", "anon 1\ninactive_file 104857600\n");
    assert_int_equal(allowance_bytes(root), 400 * MIB);
    put("/sys/fs/cgroup/job/memory.current", "999999999\n");
    assert_int_equal(allowance_bytes(root), 0);
}

static void groups_of_version_1(void **state) {
    (void)state;
    put("/proc/self/cgroup", "9:cpu,cpuacct:/elsewhere\n4:memory:/h1\n0::/\n");
    put("/sys/fs/cgroup/memory/h1/memory.limit_in_bytes", "209715200\n");
    put("/sys/fs/cgroup/memory/h1/memory.usage_in_bytes", "104857600\n");
    put("/sys/fs/cgroup/memory/h1/memory.stat", "cache 7\ntotal_inactive_file 52428800\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    assert_int_equal(allowance_bytes(root), 150 * MIB);
}

/* A container's own group is the root to it, whatever path its processes are told. */
static void container(void **state) {
    (void)state;
    put("/proc/self/cgroup", "4:memory:/docker/0123\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "104857600\n");
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
    assert_int_equal(allowance_bytes(root), 100 * MIB);
}

static void garbage(void **state) {
    (void)state;
    char line[4000];
    memset(line, 'a', sizeof line - 1);
    line[sizeof line - 1] = 0;
    put("/proc/self/cgroup", "\n::\nmemory\n4:memory\n4:memory:\n0::relative/path\n");
    assert_int_equal(allowance_bytes(root), 1024 * MIB);
    put("/proc/self/cgroup", line);
    assert_int_equal(allowance_bytes(root), 1024 * MIB);
    memcpy(line, "0::/", 4);
    put("/proc/self/cgroup", line);
    assert_int_equal(allowance_bytes(root), 1024 * MIB);
}

/* In a child, which alone has the limit. */
static void limits_of_its_own(void **state) {
    (void)state;
    put("/proc/meminfo", "MemAvailable: 999999999999 kB\n");
    pid_t child = fork();
    if (child == 0) {
        struct rlimit l = {100 * TIB, RLIM_INFINITY};
        setrlimit(RLIMIT_DATA, &l);
        _exit(allowance_bytes(root) == 100 * TIB - (512 << 10) ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_host, system_begin, system_end),
        cmocka_unit_test_setup_teardown(groups_of_version_2, system_begin, system_end),
        cmocka_unit_test_setup_teardown(groups_of_version_1, system_begin, system_end),
        cmocka_unit_test_setup_teardown(container, system_begin, system_end),
        cmocka_unit_test_setup_teardown(garbage, system_begin, system_end),
        cmocka_unit_test_setup_teardown(limits_of_its_own, system_begin, system_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
