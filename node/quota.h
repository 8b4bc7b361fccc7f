/* Quota: how much processor time the control groups of this process give it. */
#ifndef NODE_QUOTA_H
#define NODE_QUOTA_H

struct quota {
    double processors; /* worth of time; 0: no limit */
    double period_s;   /* in which that time may be used up, and after which it is given anew */
};

/* Seconds that a wait saves at most, for what wants so many processors: 0 where the quota gives them. The quota is a
 * token bucket that a wait fills: work of c seconds of processors takes c / q - (1 - q) x period then, q being the
 * share that is given; and 2 ms less, since a thread that works when a period ends keeps what it took of it, and is
 * stopped at ticks of the system's clock only (bench/quota.py). */
double quota_spare_s(const struct quota *q, double processors);

/* The least along the path to the root. `root` stands before every path that is read: "", or a test's folder. */
struct quota quota_find(const char *root);

#endif
