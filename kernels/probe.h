/* Probe: how fast a device computes what models ask of it, as a planner counts. One thread.
 *
 * All figures are means over a good half second of wall time or a part of it, on weights that come from memory: a
 * control group's quota lets a process run at full speed for some of every 100 ms, so short runs show what does
 * not last, and windows of whole periods show what does. Products are of square matrices as wide as the model is,
 * at most 4096, smaller ones where the device would take long. On a simulated device, thousands of times slower
 * than others, only what every step needs is measured, on the smallest matrices. */
#ifndef KERNELS_PROBE_H
#define KERNELS_PROBE_H

#include "base/mem.h"
#include "kernels/backend.h"
#include "model/device_rates.h"

struct probe_request {
    const struct device_choice *choice; /* as the backend was opened; NULL: it is plain C */
    uint8_t has_format[N_FORMATS];  /* whose products to measure */
    int only_formats;               /* the other rates are known */
    int is_alone;                   /* only alone_per_s, and no other rank computes meanwhile */
    uint32_t side;                  /* of the products: probe_side */
    uint32_t n_threads;             /* of a CPU device */
    uint64_t memory_max_bytes;      /* to use at a time; 0: as much as is good */
    /* Before the first figure and after each; may be NULL. */
    void (*on_figure)(void *context, uint32_t n_done, uint32_t n_all);
    void *context;
};

/* The side of products that stand for a model whose matrices have about this one, 0: for any. A sum of fewer columns
 * has shorter segments, and takes longer for each. */
uint32_t probe_side(uint32_t side);

/* Fills what was asked for and leaves the rest of `out` as it is. */
err probe_device(struct backend *b, const struct probe_request *r, struct device_rates *out);

/* Which device that is, with all that its rates depend on here: names, driver, tunables, the kernels' texts. Appended
 * as one line of text; two are equal only where rates may be taken for each other's. NULL: plain C. */
err probe_identity(const struct device_choice *choice, struct bytes *out);

#endif
