#include "node/allowance.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define PATH_BYTES 1024

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

/* The files of a control group's memory, in both versions. */
struct group_files {
    const char *folder, *limit, *used, *idle;
};
static const struct group_files version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                             "total_inactive_file "};
static const struct group_files version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file "};

static uint64_t group_number(const char *root, const char *folder, const char *group, const char *name,
                             const char *key) {
    char path[PATH_BYTES];
    int n = snprintf(path, sizeof path, "%s%s/%s", folder, group, name);
    return n > 0 && (size_t)n < sizeof path ? file_number(root, path, key) : 0;
}

/* The least that a group or one above it leaves. A container sees its own group as the root, under a path that
 * may not exist inside: what cannot be read limits nothing. */
static uint64_t groups_leave(const char *root, const struct group_files *f, char *group) {
    uint64_t left = UINT64_MAX;
    for (;;) {
        uint64_t limit = group_number(root, f->folder, group, f->limit, ""); /* "max": none */
        if (limit) {
            uint64_t used = group_number(root, f->folder, group, f->used, "");
            uint64_t idle = group_number(root, f->folder, group, "memory.stat", f->idle);
            left = less(left, minus(limit, minus(used, idle)));
        }
        char *up = strrchr(group, '/');
        if (!up) return left;
        *up = 0;
    }
}

/* Lines of /proc/self/cgroup: "4:memory:/path", "0::/path" in version 2. */
static uint64_t all_groups_leave(const char *root) {
    char path[PATH_BYTES], line[PATH_BYTES];
    snprintf(path, sizeof path, "%.900s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    uint64_t left = UINT64_MAX;
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *kind = strchr(line, ':'), *group = kind ? strchr(kind + 1, ':') : NULL;
        if (!group) continue;
        *group++ = 0;
        if (strcmp(group, "/") == 0) *group = 0;
        if (!kind[1]) left = less(left, groups_leave(root, &version_2, group));
        else if (strcmp(kind + 1, "memory") == 0) left = less(left, groups_leave(root, &version_1, group));
    }
    if (f) fclose(f);
    return left;
}

static uint64_t limit_leaves(const char *root, int resource, const char *used_key) {
    struct rlimit l;
    if (getrlimit(resource, &l) != 0 || l.rlim_cur == RLIM_INFINITY) return UINT64_MAX;
    return minus(l.rlim_cur, file_number(root, "/proc/self/status", used_key) * 1024);
}

uint64_t allowance_bytes(const char *root) {
    uint64_t n = file_number(root, "/proc/meminfo", "MemAvailable:") * 1024;
    n = less(n, all_groups_leave(root));
    n = less(n, limit_leaves(root, RLIMIT_AS, "VmSize:"));
    return less(n, limit_leaves(root, RLIMIT_DATA, "VmData:"));
}
