#include "node/inside.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/env.h"
#include "base/log.h"
#include "node/node.h"
#include "node/wire.h"

#define EXIT_GRACE_S 3

/* MPI is once per process, and so is this. Main thread, except `outcome`, which the node's
 * thread writes and the join makes visible. */
static struct {
    struct wire *wire;
    pthread_t thread;
    int has_thread, node_fd, link_fd;
    err outcome;
} inside = {.node_fd = -1, .link_fd = -1};

int inside_is_mpi_launch(void) {
    if (env_get("OMPI_COMM_WORLD_SIZE")) return 1;
    /* srun sets PMIX_RANK or PMI_RANK with its MPI plugins only. */
    return env_get("PMIX_RANK") != NULL || env_get("PMI_RANK") != NULL;
}

static void *node_thread(void *unused) {
    (void)unused;
    inside.outcome = node_run(inside.wire, inside.node_fd);
    return NULL;
}

static err gateway_start(int *link_fd) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
        return err_set(ERR_JOB, "socketpair: %s", strerror(errno));
    inside.node_fd = ends[0]; /* node_run closes it */
    inside.link_fd = *link_fd = ends[1];
    int rc = pthread_create(&inside.thread, NULL, node_thread, NULL);
    if (rc != 0) return err_set(ERR_JOB, "cannot start the node's thread: %s", strerror(rc));
    inside.has_thread = 1;
    return OK;
}

err inside_start(int *argc, char ***argv, int *is_gateway, int *n_ranks, int *link_fd) {
    *is_gateway = 0;
    TRY(node_follow_parent());
    TRY(wire_init(argc, argv, 1, &inside.wire));
    int rank = wire_rank(inside.wire);
    log_identify(rank, wire_host(inside.wire, rank));
    *n_ranks = wire_size(inside.wire);
    if (rank != 0) return node_run(inside.wire, -1);
    TRY(gateway_start(link_fd));
    *is_gateway = 1;
    return OK;
}

/* Whether the node's thread ended by itself within the grace. */
static int thread_join(err outcome) {
    struct timespec end;
    if (outcome == OK) return pthread_join(inside.thread, NULL) == 0;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += EXIT_GRACE_S; /* it may be in the middle of a long step */
    return pthread_timedjoin_np(inside.thread, NULL, &end) == 0;
}

int inside_finish(err outcome) {
    if (!inside.wire) {
        if (outcome != OK) log_error("failed:", "%s", err_text());
        wire_abort(1);
    }
    if (inside.link_fd >= 0) close(inside.link_fd); /* without a stop before it, the node ends the job */
    inside.link_fd = -1;
    int is_joined = !inside.has_thread || thread_join(outcome);
    /* A coordinator that failed may have stopped its job in good order nevertheless. */
    err node = inside.has_thread ? inside.outcome : outcome;
    if (!is_joined || node != OK) wire_abort(1);
    err e = wire_finish(inside.wire);
    inside.wire = NULL;
    if (e != OK) log_error("failed:", "%s", err_text());
    return e == OK && outcome == OK ? 0 : 1;
}
