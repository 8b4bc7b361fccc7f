/* Control groups: those that this process is in, from its own up to the root, in version 1 and 2. Reads files, holds
 * nothing; any thread. Format: the kernel's Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst. */
#ifndef NODE_CONTROL_GROUPS_H
#define NODE_CONTROL_GROUPS_H

/* A group's folder. `version` is 1 or 2: their files differ. */
typedef void (*control_group_visit)(void *context, const char *folder, int version);

/* Of every hierarchy that rules `controller` ("cpu", "memory"), each group once. `root` stands before every path
 * that is read: "", or a test's folder. A container sees its own group as the root, under a path that may not exist
 * inside: a folder may lack any file. */
void control_groups_walk(const char *root, const char *controller, control_group_visit visit, void *context);

/* The first line of a group's file; 0 where there is none. */
int control_group_line(const char *folder, const char *file, char *out, int cap);

#endif
