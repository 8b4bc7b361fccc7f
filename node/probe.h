/* Probe: what a job measures before it is planned: the links between its hosts, and the device of every rank.
 *
 * Each rank opens the device that it would compute with, on the cores and with the threads that it would have, and
 * measures it (kernels/probe.h). All ranks do so at the same time: those of a host share its memory, its caches and
 * perhaps its quota of processor time, as they will when they compute as shards or as stages that are all busy. Then
 * the coordinator asks for turns: how fast each reads weights while others rest, as stages of one stream do. Links
 * are measured before, while the devices are idle (links.h), and every time; what a device does is kept
 * (probe_cache.h). */
#ifndef NODE_PROBE_H
#define NODE_PROBE_H

#include "node/node_parts.h"

/* Every rank, with the body of FRAME_PROBE. Ends when this rank has answered; on rank 0 when all have, and the
 * coordinator has FRAME_PROBED. Shows signs of life meanwhile. */
err probe_run(struct node *n, const char *body, size_t n_bytes);

#endif
