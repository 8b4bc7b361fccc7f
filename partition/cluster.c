#include "partition/cluster.h"

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

/* What is taken where nothing else is known; sources: docs/planning.md. */
#define READ_PER_S 10e9     /* bytes, of a device of which nothing is known: all such devices are alike */
#define INT8_PER_BYTE 20.0  /* operations on bytes in the time in which one byte is read */
#define F32_PER_BYTE 5.0    /* the same of floats */
#define ROW_SHARE 0.9       /* of a plain read, that products of one row reach */
#define PRODUCTS_SHARE 0.6  /* of the peak of dots, that products of many rows reach */
#define LAUNCH_S 5e-6
#define STEP_S 40e-6
#define COPY_PER_S 12e9     /* bytes; a device with memory of its own */
#define PACK_PER_S 0.5e9    /* bytes */
#define FILE_PER_S 1e9      /* bytes */

void cluster_free(struct cluster *c) {
    if (!c) return;
    free(c->hosts);
    free(c->devices);
    free(c->measured);
    free(c);
}

static void fill(double *rate, double value) {
    if (!(*rate > 0)) *rate = value;
}

static void rates_complete(struct device_rates *r, int is_host) {
    fill(&r->read_per_s, READ_PER_S);
    fill(&r->int8_per_s, r->read_per_s * INT8_PER_BYTE);
    fill(&r->f32_per_s, r->read_per_s * F32_PER_BYTE);
    for (int f = 0; f < N_FORMATS; f++) {
        fill(&r->row_per_s[f], r->read_per_s * ROW_SHARE);
        fill(&r->products_per_s[f],
             PRODUCTS_SHARE * (format_info((enum format)f)->is_quantised ? r->int8_per_s : r->f32_per_s));
    }
    fill(&r->launch_s, LAUNCH_S);
    fill(&r->step_s, STEP_S);
    if (!is_host) fill(&r->copy_per_s, COPY_PER_S);
    fill(&r->pack_per_s, PACK_PER_S);
}

void cluster_bound_memory(struct cluster *c, uint64_t most) {
    for (uint32_t i = 0; most && i < c->n_devices; i++)
        if (!c->devices[i].memory_bytes || c->devices[i].memory_bytes > most) c->devices[i].memory_bytes = most;
}

/* What is said of one end, else what is said of all. */
static struct cluster_link link_or(struct cluster_link said, struct cluster_link all) {
    return (struct cluster_link){said.latency_s > 0 ? said.latency_s : all.latency_s,
                                 said.bytes_per_s > 0 ? said.bytes_per_s : all.bytes_per_s};
}

void cluster_complete(struct cluster *c) {
    for (uint32_t i = 0; i < c->n_devices; i++) rates_complete(&c->devices[i].rates, c->devices[i].is_host);
    for (uint32_t i = 0; i < c->n_hosts; i++) fill(&c->hosts[i].file_per_s, FILE_PER_S);
    c->between = link_or(c->between, CLUSTER_BETWEEN);
    c->inside = link_or(c->inside, CLUSTER_INSIDE);
}

/* ---- links ---- */

struct cluster_link cluster_link_of(const struct cluster *c, uint32_t a, uint32_t b) {
    uint32_t from = c->devices[a].host, to = c->devices[b].host;
    if (c->measured) {
        struct cluster_link m = c->measured[(size_t)from * c->n_hosts + to];
        if (m.bytes_per_s > 0) return m;
    }
    if (from == to) return link_or(c->hosts[from].inside, c->inside);
    struct cluster_link one = link_or(c->hosts[from].port, c->between), two = link_or(c->hosts[to].port, c->between);
    return (struct cluster_link){one.latency_s > two.latency_s ? one.latency_s : two.latency_s,
                                 one.bytes_per_s < two.bytes_per_s ? one.bytes_per_s : two.bytes_per_s};
}

/* ---- a part of it, or more ---- */

static uint32_t devices_on(const struct cluster *c, uint32_t host) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_devices; i++) n += c->devices[i].host == host;
    return n;
}

/* The ways between the picked hosts; nothing is known of the way from a host to its copy. */
static void pick_links(const struct cluster *c, const uint32_t *hosts, uint32_t n, struct cluster_link *out) {
    for (uint32_t a = 0; a < n; a++)
        for (uint32_t b = 0; b < n; b++)
            if (a == b || hosts[a] != hosts[b])
                out[(size_t)a * n + b] = c->measured[(size_t)hosts[a] * c->n_hosts + hosts[b]];
}

static err pick_fill(const struct cluster *c, const uint32_t *hosts, uint32_t n, struct cluster *out) {
    uint32_t n_devices = 0;
    for (uint32_t i = 0; i < n; i++) n_devices += devices_on(c, hosts[i]);
    TRY(NEW(out->hosts, n));
    TRY(NEW(out->devices, n_devices));
    if (c->measured) TRY(NEW(out->measured, (size_t)n * n));
    if (c->measured) pick_links(c, hosts, n, out->measured);
    for (uint32_t i = 0; i < n; i++, out->n_hosts++) {
        out->hosts[i] = c->hosts[hosts[i]];
        for (uint32_t d = 0; d < c->n_devices; d++) {
            if (c->devices[d].host != hosts[i]) continue;
            out->devices[out->n_devices] = c->devices[d];
            out->devices[out->n_devices].rank = -1;
            out->devices[out->n_devices++].host = i;
        }
    }
    return OK;
}

err cluster_pick(const struct cluster *c, const uint32_t *hosts, uint32_t n, struct cluster **out) {
    struct cluster *picked;
    TRY(NEW(picked, 1));
    picked->between = c->between;
    picked->inside = c->inside;
    err e = pick_fill(c, hosts, n, picked);
    if (e != OK) {
        cluster_free(picked);
        return e;
    }
    *out = picked;
    return OK;
}

static int links_alike(const struct cluster_link *a, const struct cluster_link *b) {
    return a->latency_s == b->latency_s && a->bytes_per_s == b->bytes_per_s;
}

static int devices_alike(const struct cluster_device *a, const struct cluster_device *b) {
    return a->is_host == b->is_host && a->memory_bytes == b->memory_bytes &&
           memcmp(&a->rates, &b->rates, sizeof a->rates) == 0; /* doubles only: no holes */
}

int cluster_hosts_alike(const struct cluster *c, uint32_t a, uint32_t b) {
    const struct cluster_host *x = &c->hosts[a], *y = &c->hosts[b];
    if (x->memory_bytes != y->memory_bytes || x->file_per_s != y->file_per_s || !links_alike(&x->port, &y->port) ||
        !links_alike(&x->inside, &y->inside))
        return 0;
    uint32_t i = 0, k = 0;
    for (;; i++, k++) {
        while (i < c->n_devices && c->devices[i].host != a) i++;
        while (k < c->n_devices && c->devices[k].host != b) k++;
        if (i == c->n_devices || k == c->n_devices) return i == k;
        if (!devices_alike(&c->devices[i], &c->devices[k])) return 0;
    }
}
