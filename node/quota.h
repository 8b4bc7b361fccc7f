/* Quota: how much processor time the control groups of this process give it. */
#ifndef NODE_QUOTA_H
#define NODE_QUOTA_H

/* Processors' worth of time, the least along the path to the root; 0: no limit. Of cgroup v2, or of v1's cpu
 * controller. `root` stands before every path that is read: "", or a test's folder. */
double quota_processors(const char *root);

#endif
