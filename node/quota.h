/* Quota: how much processor time the control groups of this process give it. */
#ifndef NODE_QUOTA_H
#define NODE_QUOTA_H

struct quota {
    double processors; /* worth of time; 0: no limit */
    double period_s;   /* in which that time may be used up, and after which it is given anew */
};

/* The least along the path to the root. `root` stands before every path that is read: "", or a test's folder. */
struct quota quota_find(const char *root);

#endif
