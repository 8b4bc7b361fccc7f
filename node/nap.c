#include "node/nap.h"

#include <dirent.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/mem.h"

#define SOCKETS_MAX 64      /* with more, looking at all of them costs more than it saves */
#define LOOK_UP_US 500000   /* between two looks at the open files */
#define LEAST_US 100
#define MOST_US 3200
#define VAIN_MAX 16         /* wakes without a message: a large one in pieces; more: nobody reads that socket */
#define LOOKS 3             /* of the caller after a wake: the library takes one to read, another to tell */

struct nap {
    struct pollfd sockets[SOCKETS_MAX];
    nfds_t n;
    int64_t looked_us, longest_us; /* longest_us: what sockets have earned */
    uint32_t n_vain, n_looks; /* wakes since the last message; calls since the last wake */
    enum { AWAKE, WOKEN, SLEPT } was; /* since the last message: the last nap */
};

struct nap *nap_create(void) {
    struct nap *n;
    if (NEW(n, 1) != OK) return NULL;
    n->longest_us = LEAST_US;
    return n;
}

void nap_free(struct nap *n) { free(n); }

/* A stream socket that is connected or listens. */
static int can_tell(int fd) {
    int type = 0;
    socklen_t size = sizeof type;
    struct pollfd p = {fd, POLLIN, 0};
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) != 0 || type != SOCK_STREAM) return 0;
    return poll(&p, 1, 0) >= 0 && !(p.revents & (POLLHUP | POLLERR | POLLNVAL));
}

static void sockets_find(struct nap *n) {
    DIR *files = opendir("/proc/self/fd");
    n->n = 0;
    if (!files) return;
    for (struct dirent *f; (f = readdir(files)) && n->n <= SOCKETS_MAX;) {
        int fd = f->d_name[0] == '.' ? -1 : atoi(f->d_name);
        if (fd < 0 || !can_tell(fd)) continue;
        if (n->n < SOCKETS_MAX) n->sockets[n->n] = (struct pollfd){.fd = fd};
        n->n++;
    }
    closedir(files);
    if (n->n > SOCKETS_MAX) n->n = 0;
}

/* A socket that takes nothing now may be what a message waits for that is only partly out: once it takes more, the
 * library has to go on. What has left and was not acknowledged yet does not count: an answer of its own may not come
 * for 40 ms. */
static void events_choose(struct nap *n) {
    for (nfds_t i = 0; i < n->n; i++) n->sockets[i].events = POLLOUT;
    int is_known = poll(n->sockets, n->n, 0) >= 0;
    for (nfds_t i = 0; i < n->n; i++)
        n->sockets[i].events = is_known && !(n->sockets[i].revents & POLLOUT) ? POLLIN | POLLOUT : POLLIN;
}

/* Something has come; not only room for what is to go. */
static int has_come(const struct nap *n) {
    for (nfds_t i = 0; i < n->n; i++)
        if (n->sockets[i].revents & ~POLLOUT) return 1;
    return 0;
}

void nap_take(struct nap *n, int64_t us) {
    if (!n || n->n_vain > VAIN_MAX) {
        clock_sleep_us(us);
        if (n) n->was = SLEPT;
        return;
    }
    if (n->was == WOKEN && n->n_looks++ < LOOKS) return;
    int64_t now = clock_us();
    if (n->looked_us == 0 || now - n->looked_us > LOOK_UP_US) {
        sockets_find(n);
        n->looked_us = now;
    }
    events_choose(n);
    if (n->longest_us > us) us = n->longest_us;
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    int n_awake = ppoll(n->sockets, n->n, &t, NULL);
    if (n_awake > 0 && !has_come(n)) return;
    n->was = n_awake > 0 ? WOKEN : SLEPT;
    if (n->was != WOKEN) return;
    n->n_vain++;
    n->n_looks = 0;
}

void nap_tell(struct nap *n) {
    if (!n || n->was == AWAKE) return;
    if (n->was == SLEPT) n->longest_us = LEAST_US;
    else if (n->longest_us < MOST_US) n->longest_us *= 2;
    n->was = AWAKE;
    n->n_vain = 0;
}
