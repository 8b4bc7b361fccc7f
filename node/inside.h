/* Inside: a command such as `generate` that mpirun or srun started in all ranks.
 *
 * Rank 0 then is coordinator and node in one process: the coordinator stays in
 * the main thread, the node runs in a second one, and they speak the usual
 * frames over a socket pair. The other ranks are nodes. Used by main.c only:
 *
 *     if (inside_is_mpi_launch()) {
 *         err e = inside_start(&argc, &argv, &is_gateway, &n_ranks, &link_fd);
 *         if (e == OK && is_gateway) e = ... the coordinator, over link_fd ...
 *         return inside_finish(e);
 *     }
 *
 * All calls from the main thread. */
#ifndef NODE_INSIDE_H
#define NODE_INSIDE_H

#include "base/err.h"

/* Whether a launcher of MPI jobs (Open MPI, PMIx, PMI of Slurm) started this
 * process as one rank of several, or as the only rank of mpirun. */
int inside_is_mpi_launch(void);

/* Initialises MPI. On rank 0 starts the node's thread and returns at once:
 * `*is_gateway` is 1, `*n_ranks` the size of the job and `*link_fd` the
 * coordinator's end of the link, which inside_finish closes. On other ranks it
 * returns when the node has ended, with `*is_gateway` 0. */
err inside_start(int *argc, char ***argv, int *is_gateway, int *n_ranks, int *link_fd);

/* Ends MPI and returns the exit code. `outcome` of the coordinator or of
 * inside_start. Where FRAME_STOP was sent all ranks finish in good order; else, or
 * when that takes long after a failure, the whole job is ended. */
int inside_finish(err outcome);

#endif
