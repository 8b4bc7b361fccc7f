/* Node: the loop of one MPI rank, from hello to stop.
 *
 * Frames come from the coordinator to rank 0, walk forward through the stages
 * (shard s of a stage sends to shard s of the next) and what they bring comes
 * from the last stage back to rank 0. One thread calls MPI and the backend. */
#ifndef NODE_NODE_H
#define NODE_NODE_H

#include "base/err.h"
#include "node/wire.h"

/* Runs until FRAME_STOP (OK) or a failure. `link_fd` is the connected stream
 * socket to the coordinator on rank 0, which is closed before return, and -1
 * elsewhere. A failure has been logged by the rank that met it and reported to the
 * coordinator when this returns; the caller then ends the job (wire_abort). */
err node_run(struct wire *w, int link_fd);

/* For commands: this process is to die with the one that started it. Call
 * early, in the main thread. */
err node_follow_parent(void);

#endif
