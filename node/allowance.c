#include "node/allowance.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "node/control_groups.h"

#define PATH_BYTES 2560

/* The number behind `key` at the beginning of a line; 0 where there is none. */
static uint64_t file_number(const char *root, const char *path, const char *key) {
    char whole[PATH_BYTES], line[256];
    uint64_t found = 0;
    size_t n = strlen(key);
    int n_path = snprintf(whole, sizeof whole, "%s%s", root, path);
    FILE *f = n_path > 0 && (size_t)n_path < sizeof whole ? fopen(whole, "re") : NULL;
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, n) == 0 && sscanf(line + n, "%lu", &found) == 1) break;
    if (f) fclose(f);
    return found;
}

static uint64_t less(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t minus(uint64_t a, uint64_t b) { return a > b ? a - b : 0; }

/* What a group leaves of its limit. */
static void group_leaves(void *least, const char *folder, int version) {
    static const struct {
        const char *limit, *used, *idle;
    } versions[] = {{"/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file "},
                    {"/memory.max", "/memory.current", "inactive_file "}};
    uint64_t *left = least, limit = file_number(folder, versions[version - 1].limit, ""); /* "max": none */
    if (!limit) return;
    uint64_t used = file_number(folder, versions[version - 1].used, "");
    uint64_t idle = file_number(folder, "/memory.stat", versions[version - 1].idle);
    *left = less(*left, minus(limit, minus(used, idle)));
}

static uint64_t limit_leaves(const char *root, int resource, const char *used_key) {
    struct rlimit l;
    if (getrlimit(resource, &l) != 0 || l.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
    return minus(l.rlim_cur, file_number(root, "/proc/self/status", used_key) * 1024);
}

uint64_t allowance_bytes(const char *root) {
    uint64_t n = file_number(root, "/proc/meminfo", "MemAvailable:") * 1024;
    control_groups_walk(root, "memory", group_leaves, &n);
    n = less(n, limit_leaves(root, RLIMIT_AS, "VmSize:"));
    return less(n, limit_leaves(root, RLIMIT_DATA, "VmData:"));
}
