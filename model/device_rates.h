/* Rates of a device: how fast it computes what programs are made of, as measured on it (kernels/probe.h) and as the
 * planner counts with (partition/cluster.h). Plain data. */
#ifndef MODEL_DEVICE_RATES_H
#define MODEL_DEVICE_RATES_H

#include "model/format.h"

#define RATES_ROWS 128 /* of products of many rows */
#define RATES_FEW 16   /* and of few */

/* All doubles. Sustained; seconds of wall time. 0: not known; cluster_complete fills it from what is. */
struct device_rates {
    double read_per_s;                /* bytes of a plain read of its memory */
    double int8_per_s, f32_per_s;     /* operations (2 per product) of dots of bytes, of fma */
    double row_per_s[N_FORMATS];      /* bytes of packed weights per second, products of one row */
    double alone_per_s[N_FORMATS];    /* row_per_s while all other ranks rest; 0: the same */
    double products_per_s[N_FORMATS]; /* multiplications and additions (2 per product) per second, of RATES_ROWS rows */
    double few_per_s[N_FORMATS];      /* the same of RATES_FEW rows; 0: on the line between one row and RATES_ROWS */
    double plain_per_s;               /* values that norms, gates, rotations of RATES_ROWS rows give; 0: not counted */
    double launch_s;                  /* an op that has next to nothing to do, in a queue of them */
    double step_s;                    /* to begin and to end a step: what goes to the device, the wait for it */
    double copy_per_s;                /* bytes between host and device; 0 where they share memory */
    double pack_per_s;                /* bytes of a file packed while loading */
    double quota_share;               /* of its threads' time, under 1, that a quota of processor time gives; 0: none */
    double quota_spare_s;             /* that one wait saves of it at most: node/quota.h */
    double quota_message_s;           /* in which it gives what a small message out, and one in, take of a processor, */
    double quota_link_per_s;          /* and bytes out or in for which it gives that in a second; 0: not counted */
};

#endif
