/* Supervisor: launches mpirun, hears its output, and ends the job whatever
 * happens: no process of it outlives supervisor_free. One thread. */
#ifndef COORDINATOR_SUPERVISOR_H
#define COORDINATOR_SUPERVISOR_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "coordinator/link.h"
#include "coordinator/places.h"

struct supervisor;

/* Starts `mpirun ... caravan node --socket PATH` with the ranks of `p`. */
err supervisor_start(const struct config *c, const struct places *p, int is_verbose, struct supervisor **out);
/* Ends what still runs (first politely) and reaps it. NULL is fine. */
void supervisor_free(struct supervisor *s);

/* To be served during every wait. Its tick fails with ERR_JOB when the launcher
 * has ended or a signal asks to stop. */
struct link_watch *supervisor_watch(struct supervisor *s);

/* Waits for rank 0 to connect. */
err supervisor_accept(struct supervisor *s, int64_t timeout_us, int *fd);

/* Waits at most timeout_us for the launcher to end by itself; 1 when it has. */
int supervisor_wait(struct supervisor *s, int64_t timeout_us);

/* Why the job ended, as far as the launcher's words tell. */
enum verdict_kind {
    VERDICT_NONE,       /* nothing is known */
    VERDICT_SIGNAL,     /* rank `rank` on `host` was ended by signal `number` */
    VERDICT_HOST,       /* `host` does not answer any more */
    VERDICT_NODE,       /* a node said why: text */
    VERDICT_EXIT,       /* rank `rank` ended with exit code `number`, saying text */
    VERDICT_LAUNCHER_SIGNAL, /* mpirun itself was ended by signal `number` */
    VERDICT_LAUNCHER    /* mpirun ended with code `number`, saying text */
};
struct verdict {
    enum verdict_kind kind;
    int rank, number;
    char host[256], text[512];
};
void supervisor_verdict(const struct supervisor *s, struct verdict *out);

/* Catches SIGINT, SIGTERM and SIGHUP from now on; the signal caught, or 0. */
void supervisor_catch_signals(void);
int supervisor_signal(void);
/* While held, a signal ends no wait: who holds them looks for it, by taking it. */
void supervisor_hold_signals(int is_held);
int supervisor_take_signal(void);
/* Whether one was caught that waits must end for. */
int supervisor_is_interrupted(void);

#endif
