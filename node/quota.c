#include "node/quota.h"

#include <stdio.h>
#include <stdlib.h>

#include "node/control_groups.h"

#define KEPT_S 2e-3 /* quota.h says why */

/* Of one group, in us: cpu.max says "50000 100000" or "max 100000"; version 1 has two files, and -1. */
static void group_quota(void *least, const char *folder, int version) {
    struct quota *to = least;
    char text[64], period_text[64];
    double quota_us = 0, period_us = 0;
    if (version == 2) {
        if (!control_group_line(folder, "cpu.max", text, sizeof text)) return;
        if (sscanf(text, "%lf %lf", &quota_us, &period_us) != 2) return;
    } else {
        if (!control_group_line(folder, "cpu.cfs_quota_us", text, sizeof text)) return;
        if (!control_group_line(folder, "cpu.cfs_period_us", period_text, sizeof period_text)) return;
        quota_us = strtod(text, NULL);
        period_us = strtod(period_text, NULL);
    }
    if (!(quota_us > 0 && period_us > 0)) return;
    if (to->processors > 0 && to->processors <= quota_us / period_us) return;
    *to = (struct quota){quota_us / period_us, period_us * 1e-6};
}

double quota_spare_s(const struct quota *q, double processors) {
    double share = q->processors / processors;
    return share > 0 && share < 1 ? (1 - share) * q->period_s + KEPT_S : 0;
}

struct quota quota_find(const char *root) {
    struct quota least = {0};
    control_groups_walk(root, "cpu", group_quota, &least);
    return least;
}
