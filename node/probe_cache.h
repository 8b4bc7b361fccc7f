/* Probe cache: what a device of this host turned out to do, kept for the next start, one small JSON file per key under
 * ~/.cache/caravan/probe. The key is a line of text: host, device, driver, kernels, threads, cores, quota, ranks beside
 * it. Whatever is wrong with a file costs a new measurement and a warning, never the job. One thread. */
#ifndef NODE_PROBE_CACHE_H
#define NODE_PROBE_CACHE_H

#include "node/frame.h"

/* 1: *out is what was kept under this key, without links; else it is left as it is. */
int probe_cache_get(const char *key, struct probed_rank *out);

/* Without links. What fails here is only slower the next time. */
void probe_cache_put(const char *key, const struct probed_rank *r);

#endif
