#include "node/quota.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_BYTES 2048

/* The first words of a file. */
static int line_read(const char *folder, const char *file, char *out, int cap) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "re");
    int is_read = f && fgets(out, cap, f) != NULL;
    if (f) fclose(f);
    return is_read;
}

/* Of one group: cpu.max says "50000 100000" or "max 100000"; v1 has two files and -1. */
static double group_quota(const char *folder) {
    char text[64], period_text[64];
    double quota = 0, period = 0;
    if (line_read(folder, "cpu.max", text, sizeof text)) {
        if (sscanf(text, "%lf %lf", &quota, &period) != 2) return 0;
    } else if (line_read(folder, "cpu.cfs_quota_us", text, sizeof text) &&
               line_read(folder, "cpu.cfs_period_us", period_text, sizeof period_text)) {
        quota = strtod(text, NULL);
        period = strtod(period_text, NULL);
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

/* The least from a group up to the mount point. */
static double path_quota(const char *mount, const char *group) {
    char folder[PATH_BYTES];
    double least = 0;
    int n = snprintf(folder, sizeof folder, "%s%s", mount, group);
    if (n < 0 || (size_t)n >= sizeof folder) return 0;
    for (;;) {
        double q = group_quota(folder);
        if (q > 0 && (least <= 0 || q < least)) least = q;
        char *end = strrchr(folder, '/');
        if (!end || (size_t)(end - folder) < strlen(mount)) return least;
        *end = 0;
    }
}

/* Of a controller's list "cpu,cpuacct". */
static int has_cpu(const char *controllers, size_t n) {
    for (const char *at = controllers, *end = controllers + n; at < end;) {
        size_t len = strcspn(at, ",:");
        if (len == 3 && strncmp(at, "cpu", 3) == 0) return 1;
        at += len + 1;
    }
    return 0;
}

double quota_processors(const char *root) {
    char line[PATH_BYTES], file[PATH_BYTES], v1[PATH_BYTES], v2[PATH_BYTES];
    double least = 0;
    snprintf(file, sizeof file, "%.900s/proc/self/cgroup", root);
    snprintf(v1, sizeof v1, "%.900s/sys/fs/cgroup/cpu", root);
    snprintf(v2, sizeof v2, "%.900s/sys/fs/cgroup", root);
    FILE *f = fopen(file, "re");
    while (f && fgets(line, sizeof line, f)) { /* "0::/a/b", or "4:cpu,cpuacct:/a/b" */
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group) continue;
        group[strcspn(group, "\n")] = 0;
        size_t n = (size_t)(group - controllers - 1);
        double q = 0;
        if (n == 0) q = path_quota(v2, group + 1);
        else if (has_cpu(controllers + 1, n)) q = path_quota(v1, group + 1);
        if (q > 0 && (least <= 0 || q < least)) least = q;
    }
    if (f) fclose(f);
    return least;
}
