#include "node/control_groups.h"

#include <stdio.h>
#include <string.h>

#define PATH_BYTES 2048

int control_group_line(const char *folder, const char *file, char *out, int cap) {
    char path[PATH_BYTES + 64];
    snprintf(path, sizeof path, "%s/%s", folder, file);
    FILE *f = fopen(path, "re");
    int is_read = f && fgets(out, cap, f) != NULL;
    if (f) fclose(f);
    return is_read;
}

/* Whether a list such as "cpu,cpuacct" has the controller. */
static int list_has(const char *list, const char *controller) {
    for (size_t n = strlen(controller);; list++) {
        size_t len = strcspn(list, ",");
        if (len == n && memcmp(list, controller, n) == 0) return 1;
        list += len;
        if (!*list) return 0;
    }
}

/* From a group up to the mount point. */
static void groups_visit(const char *mount, const char *group, int version, control_group_visit visit, void *context) {
    char folder[PATH_BYTES];
    size_t n_mount = strlen(mount);
    int n = snprintf(folder, sizeof folder, "%s%s", mount, strcmp(group, "/") == 0 ? "" : group);
    if (n < 0 || (size_t)n >= sizeof folder) return;
    for (char *end = folder + n; end; end = strrchr(folder + n_mount, '/')) {
        *end = 0;
        visit(context, folder, version);
    }
}

/* Lines of /proc/self/cgroup: "4:cpu,cpuacct:/a/b", "0::/a/b" in version 2. */
void control_groups_walk(const char *root, const char *controller, control_group_visit visit, void *context) {
    char file[PATH_BYTES], line[PATH_BYTES], mount[PATH_BYTES];
    snprintf(file, sizeof file, "%.900s/proc/self/cgroup", root);
    FILE *f = fopen(file, "re");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        char *list = strchr(line, ':'), *group = list ? strchr(list + 1, ':') : NULL;
        if (!group || group[1] != '/') continue;
        *group++ = 0;
        int version = list[1] ? 1 : 2;
        if (version == 1 && !list_has(list + 1, controller)) continue;
        snprintf(mount, sizeof mount, version == 1 ? "%.900s/sys/fs/cgroup/%s" : "%.900s/sys/fs/cgroup", root,
                 controller);
        groups_visit(mount, group, version, visit, context);
    }
    if (f) fclose(f);
}
