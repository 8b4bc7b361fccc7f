/* `caravan node`: one rank of a job that the coordinator launched. */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "node/commands.h"
#include "node/node.h"
#include "node/wire.h"

enum { CODE_GOOD = 0, CODE_FAILED = 1, CODE_USAGE = 2 };

static const char usage[] =
    "Usage: caravan node --socket PATH\n\n"
    "One rank of a job. The other commands start it through mpirun; rank 0 connects to\n"
    "the coordinator's Unix socket PATH (@NAME: an abstract one).\n";

static err coordinator_connect(const char *path, int *out) {
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof at.sun_path)
        return err_set(ERR_USAGE, "--socket: a path of 1 to %zu bytes", sizeof at.sun_path - 1);
    memcpy(at.sun_path, path, n);
    if (*path == '@') at.sun_path[0] = 0; /* abstract: no file */
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return err_set(ERR_JOB, "socket: %s", strerror(errno));
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (*path != '@'));
    if (connect(fd, (struct sockaddr *)&at, len) != 0) {
        err e = err_set(ERR_JOB, "cannot reach the coordinator at %s: %s", path, strerror(errno));
        close(fd);
        return e;
    }
    *out = fd;
    return OK;
}

static int fail(err code) {
    log_error("failed:", "%s", err_text());
    return code == ERR_USAGE ? CODE_USAGE : CODE_FAILED;
}

int cmd_node(int argc, char **argv) {
    const char *path = argc == 3 && strcmp(argv[1], "--socket") == 0 ? argv[2] : NULL;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage, stdout);
        return CODE_GOOD;
    }
    if (!path)
        return fail(err_set(ERR_USAGE, "caravan node needs --socket PATH; other commands start it"));
    err e = node_follow_parent();
    if (e != OK) return fail(e);
    struct wire *w = NULL;
    e = wire_init(&argc, &argv, 0, &w);
    if (e != OK) {
        fail(e);
        wire_abort(CODE_FAILED);
    }
    log_identify(wire_rank(w), wire_host(w, wire_rank(w)));
    int fd = -1;
    e = wire_rank(w) == 0 ? coordinator_connect(path, &fd) : OK;
    if (e != OK)
        fail(e);
    else
        e = node_run(w, fd); /* says itself what failed */
    if (e != OK) wire_abort(CODE_FAILED);
    e = wire_finish(w);
    return e == OK ? CODE_GOOD : fail(e);
}
