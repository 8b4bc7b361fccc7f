/* A switch in user space whose frames wait: tests/hosts.sh gives its virtual hosts a delay with it, since many
 * kernels come without sch_netem.
 *
 *     delay_switch RULES PORT...     ports are network interfaces that are in no bridge; runs until SIGTERM
 *
 * RULES holds a line "DELAY_US IS_CUT" for each port, in their order; it is read again on SIGHUP. A frame from one port
 * to another leaves after the longer one of their delays. Nothing passes a port that is cut, and nobody is told.
 *
 * Frames keep the kernel's offload header, so that a TCP segment of 64 KiB crosses in one piece, without checksums:
 * 1 Gbit/s is two thousand frames a second. Rates are not done here, but by tbf on the interfaces. */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/virtio_net.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PORTS_MAX 128
#define FRAME_BYTES (80 << 10)
#define BATCH 64            /* frames taken from a port before the others have their turn */
#define QUEUE_BYTES (64u << 20) /* that wait for one port; more are dropped, as a switch does */

struct frame {
    struct frame *next;
    int64_t leave_ns;
    size_t len; /* with the offload header, which comes first */
    unsigned char data[];
};

struct port {
    int fd, is_cut;
    int64_t delay_ns;
    unsigned char address[ETH_ALEN]; /* of the one host behind it, once heard */
    struct frame *head, *tail;       /* what is to leave here, by time */
    size_t queued_bytes;
};

static struct port ports[PORTS_MAX];
static nfds_t n_ports;
static volatile sig_atomic_t is_told_to_read = 1, is_told_to_end;

static void on_signal(int number) {
    if (number == SIGHUP) is_told_to_read = 1;
    else is_told_to_end = 1;
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int rules_read(const char *path) {
    FILE *file = fopen(path, "r");
    for (nfds_t i = 0; file && i < n_ports; i++) {
        double delay_us;
        int is_cut;
        if (fscanf(file, "%lf %d", &delay_us, &is_cut) != 2) break;
        ports[i].delay_ns = (int64_t)(delay_us * 1e3);
        ports[i].is_cut = is_cut;
    }
    if (!file) return perror(path), -1;
    fclose(file);
    return 0;
}

static int port_open(struct port *p, const char *name) {
    int one = 1, big = 32 << 20;
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
                             .sll_ifindex = (int)if_nametoindex(name)};
    struct packet_mreq all = {.mr_ifindex = at.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    p->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (!at.sll_ifindex || p->fd < 0 ||
        setsockopt(p->fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof one) != 0 ||
        setsockopt(p->fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) != 0 ||
        setsockopt(p->fd, SOL_SOCKET, SO_RCVBUFFORCE, &big, sizeof big) != 0 ||
        setsockopt(p->fd, SOL_SOCKET, SO_SNDBUFFORCE, &big, sizeof big) != 0 ||
        setsockopt(p->fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) != 0 ||
        bind(p->fd, (struct sockaddr *)&at, sizeof at) != 0)
        return perror(name), -1;
    return 0;
}

/* A copy of the frame waits for its time; those of one sender stay in order. */
static void frame_queue(struct port *from, struct port *to, const unsigned char *data, size_t len, int64_t now) {
    int64_t delay_ns = from->delay_ns > to->delay_ns ? from->delay_ns : to->delay_ns;
    if (from->is_cut || to->is_cut || to->queued_bytes + len > QUEUE_BYTES) return;
    struct frame *f = malloc(sizeof *f + len), **at;
    if (!f) return;
    f->leave_ns = now + delay_ns;
    f->len = len;
    memcpy(f->data, data, len);
    to->queued_bytes += len;
    if (!to->tail || to->tail->leave_ns <= f->leave_ns) {
        at = to->tail ? &to->tail->next : &to->head;
    } else {
        for (at = &to->head; (*at)->leave_ns <= f->leave_ns;) at = &(*at)->next;
    }
    f->next = *at;
    *at = f;
    if (!f->next) to->tail = f;
}

/* To the port whose host has the address; to all others while that is not known. */
static void frame_route(struct port *from, const unsigned char *data, size_t len, int64_t now) {
    const unsigned char *destination = data + sizeof(struct virtio_net_hdr);
    memcpy(from->address, destination + ETH_ALEN, ETH_ALEN);
    for (nfds_t i = 0; i < n_ports; i++) {
        if (memcmp(ports[i].address, destination, ETH_ALEN) != 0) continue;
        if (&ports[i] != from) frame_queue(from, &ports[i], data, len, now);
        return;
    }
    for (nfds_t i = 0; i < n_ports; i++)
        if (&ports[i] != from) frame_queue(from, &ports[i], data, len, now);
}

static void port_receive(struct port *p) {
    static unsigned char data[FRAME_BYTES];
    for (int i = 0; i < BATCH; i++) {
        ssize_t n = recv(p->fd, data, sizeof data, 0);
        if (n < 0) return;
        if ((size_t)n >= sizeof(struct virtio_net_hdr) + ETH_HLEN) frame_route(p, data, (size_t)n, now_ns());
    }
}

/* Sends what is due; when the next one is, or INT64_MAX. A frame that the interface does not take is lost. */
static int64_t port_send(struct port *p) {
    for (struct frame *f = p->head; f; f = p->head) {
        if (f->leave_ns > now_ns()) return f->leave_ns;
        if (send(p->fd, f->data, f->len, 0) < 0 && errno == EAGAIN) return f->leave_ns + 100000;
        p->head = f->next;
        if (!p->head) p->tail = NULL;
        p->queued_bytes -= f->len;
        free(f);
    }
    return INT64_MAX;
}

static void run(const char *rules, const sigset_t *while_waiting) {
    struct pollfd polls[PORTS_MAX];
    for (nfds_t i = 0; i < n_ports; i++) polls[i] = (struct pollfd){.fd = ports[i].fd, .events = POLLIN};
    while (!is_told_to_end) {
        if (is_told_to_read) {
            is_told_to_read = 0;
            if (rules_read(rules) != 0) return;
        }
        int64_t next = INT64_MAX;
        for (nfds_t i = 0; i < n_ports; i++) {
            int64_t due = port_send(&ports[i]);
            if (due < next) next = due;
        }
        int64_t wait = next == INT64_MAX ? 1000000000 : next - now_ns();
        struct timespec t = {.tv_sec = wait > 0 ? wait / 1000000000 : 0, .tv_nsec = wait > 0 ? wait % 1000000000 : 0};
        if (ppoll(polls, n_ports, &t, while_waiting) <= 0) continue;
        for (nfds_t i = 0; i < n_ports; i++)
            if (polls[i].revents) port_receive(&ports[i]);
    }
}

int main(int argc, char **argv) {
    if (argc < 3 || argc - 2 > PORTS_MAX) return fprintf(stderr, "usage: delay_switch RULES PORT...\n"), 2;
    n_ports = (nfds_t)(argc - 2);
    for (nfds_t i = 0; i < n_ports; i++)
        if (port_open(&ports[i], argv[i + 2]) != 0) return 1;
    /* Signals come while it waits, so that none is lost between. */
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t blocked, before;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGHUP);
    sigaddset(&blocked, SIGTERM);
    sigprocmask(SIG_BLOCK, &blocked, &before);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    /* Ranks that poll would hold it up, and timers are rounded to 50 us unless told. */
    prctl(PR_SET_TIMERSLACK, 1ul);
    struct sched_param first = {.sched_priority = 10};
    if (sched_setscheduler(0, SCHED_FIFO, &first) != 0) perror("no real time: messages take longer than they should");
    run(argv[1], &before);
    return 0;
}
