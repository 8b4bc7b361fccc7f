/* Cluster: the hosts, devices and links that a plan is made for: measured by a job (node/probe.h), described by a
 * file, or measured and corrected by a file. Plain data; pure functions.
 *
 * A file of it (libconfig; configs/clusters/ has examples, docs/planning.md explains every key):
 *
 *     links = { latency_us = 50.0; gbit_s = 10.0; };      between hosts, where nothing else is said
 *     inside = { latency_us = 1.0; gbit_s = 80.0; };      between ranks of a host
 *     hosts = {
 *         alpha = {                                       by name; count = 4 makes alpha-1 .. alpha-4
 *             name = "alpha.example.org";                 where the name is none that may stand left of a =
 *             memory_gb = 64.0; file_gb_s = 2.0;          GB are 10^9 bytes
 *             gbit_s = 1.0; latency_us = 500.0;           of this host's own port: the slower of two ports counts
 *             inside = { gbit_s = 400.0; };               of this host
 *             devices = {                                 the i-th rank of the host takes the i-th of them
 *                 gpu = { device = "NVIDIA"; index = 0; memory_gb = 24.0; read_gb_s = 900.0; int8_gop_s = 200000.0; };
 *                 cpu = { device = "pthread"; threads = 8; read_gb_s = 40.0; row_gb_s = { Q4_K = 33.0; }; };
 *             };                                          a device without memory_gb has that of its host
 *         };
 *     };
 *     pairs = { alpha = { beta = { gbit_s = 40.0; }; }; };  between two hosts, both ways
 *
 * In a run only what a file says replaces what was measured, so a file may just choose devices. */
#ifndef PARTITION_CLUSTER_H
#define PARTITION_CLUSTER_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/device_rates.h"

struct cluster_device {
    uint32_t host;         /* index */
    int rank;              /* of the job; -1: described only */
    char name[128];        /* "PLATFORM / DEVICE", or the name in the file */
    char select[256];      /* part of that name by which the rank finds it; "": the best */
    uint32_t index;        /* of those that fit `select`, from 0 */
    int has_index;         /* else ranks of a host that select alike take turns */
    uint32_t threads;      /* of a CPU device; 0: its share of the host's cores */
    int is_host;           /* its memory is the host's */
    uint64_t memory_bytes; /* of its own; is_host: the most this rank may take, 0: what the host has */
    struct device_rates rates; /* 0: not known; cluster_complete fills it from what is */
};

/* One way: a message of n bytes takes latency_s + n / bytes_per_s. */
struct cluster_link {
    double latency_s, bytes_per_s;
};

struct cluster_host {
    char name[256];
    uint64_t memory_bytes;    /* free for the job */
    double file_per_s;        /* bytes of the model's file that it reads per second; 0: not known */
    struct cluster_link port;   /* described; 0: as the cluster's `between` */
    struct cluster_link inside; /* the same of `inside` */
};

struct cluster {
    uint32_t n_hosts, n_devices;
    struct cluster_host *hosts;
    struct cluster_device *devices; /* of a job: [n_ranks], by rank */
    struct cluster_link between, inside; /* hosts; ranks of a host */
    struct cluster_link *measured;  /* [n_hosts][n_hosts] or NULL, from row to column, in a host on the diagonal;
                                       bytes_per_s 0 where not measured */
};

/* Where nothing is said: a cable of 10 Gbit/s; memory of a host. */
#define CLUSTER_BETWEEN ((struct cluster_link){50e-6, 10e9 / 8})
#define CLUSTER_INSIDE ((struct cluster_link){1e-6, 80e9 / 8})

void cluster_free(struct cluster *c);

/* Reads a description. ERR_CONFIG names file, line and key. */
err cluster_read(const char *path, struct cluster **out);
/* Whether a file can be read, for cluster_correct; the same errors. */
err cluster_check(const char *path);
/* The text of a file that says the same, appended; of two ways between hosts the slower one. */
err cluster_write(const struct cluster *c, struct bytes *out);
/* Puts what a file says over what was measured, hosts by name; the i-th device of a host of the file is that of
 * the i-th rank there. Hosts that the job does not have are passed over. */
err cluster_correct(struct cluster *c, const char *path);
/* Fills rates that are not known from those that are (row_per_s from read_per_s, products from int8 and f32), and
 * where nothing is known with the same for all, so that every one but copy_per_s of a host device is positive. */
void cluster_complete(struct cluster *c);
/* No rank may take more than `most` bytes; 0: as it is. */
void cluster_bound_memory(struct cluster *c, uint64_t most);
/* Devices that a file lists for each of the hosts: counts [n_hosts], 0 for one that it has not got. */
err cluster_count_devices(const char *path, const char *const *hosts, uint32_t n_hosts, uint32_t *counts);

/* The way from device a to device b: what was measured between their hosts, else what is described. */
struct cluster_link cluster_link_of(const struct cluster *c, uint32_t a, uint32_t b);

/* A cluster of some of its hosts, hosts [n], in that order; one may stand there twice. Described: of no ranks. */
err cluster_pick(const struct cluster *c, const uint32_t *hosts, uint32_t n, struct cluster **out);
/* Whether two hosts differ by name only; what was measured between them does not count. */
int cluster_hosts_alike(const struct cluster *c, uint32_t a, uint32_t b);

#endif
