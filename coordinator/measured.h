/* Measured: the cluster that a job turned out to be, from what its ranks said and measured. Pure. */
#ifndef COORDINATOR_MEASURED_H
#define COORDINATOR_MEASURED_H

#include "coordinator/engine.h"
#include "node/frame.h"
#include "partition/cluster.h"

#define MEASURED_TURNS 4 /* each takes a second or two: of more ranks some measure at the same time */

/* `ranks` [n_ranks] as hello filled them (host, memory_bytes); `asked` is what FRAME_PROBE said; `body` [n] that of
 * FRAME_PROBED. Devices are by rank, hosts in the order of their first rank. Links stand in `measured`, and as
 * the slowest of each kind in `between` and `inside`. A rank that may use clearly less memory than
 * others of its host (a control group of its own) has that as its device's memory_bytes. Rates that nobody measured
 * stay 0; where devices of the same name and threads differ by a quarter at most, each has their median. */
err measured_cluster(const struct engine_rank *ranks, uint32_t n_ranks, const struct probe_message *asked,
                     const char *body, size_t n, struct cluster **out);

/* What those measured who took a turn: `asked` and `body` of that one. */
err measured_alone(struct cluster *c, const struct probe_message *asked, const char *body, size_t n);
/* How many turns are to be asked for, at most MEASURED_TURNS; 0: all is known. */
uint32_t measured_turns(const struct cluster *c, const struct probe_message *asked);

/* The same before anything is measured: `asked` [n_ranks]. Devices count as their host's. */
err measured_hello(const struct engine_rank *ranks, uint32_t n_ranks, const struct plan_device *asked,
                   struct cluster **out);

#endif
