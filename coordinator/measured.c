#include "coordinator/measured.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/median.h"

#define OWN_LIMIT 0.9 /* ranks of a host say what is free at different moments: less than this is another limit */

#define N_RATES (sizeof(struct device_rates) / sizeof(double))
#define SAME_QUOTA 1e-3 /* of shares, which are set, not measured */
#define NOISE 0.25 /* of one measurement: on machines that others use, too, the same device is now faster, now slower */

/* The hosts of all ranks, each once. */
static void hosts_take(const struct engine_rank *ranks, struct cluster *c) {
    for (uint32_t r = 0; r < c->n_devices; r++) {
        uint32_t h = 0;
        while (h < c->n_hosts && strcmp(c->hosts[h].name, ranks[r].host) != 0) h++;
        struct cluster_host *host = &c->hosts[h];
        if (h == c->n_hosts) snprintf(c->hosts[c->n_hosts++].name, sizeof host->name, "%s", ranks[r].host);
        if (ranks[r].memory_bytes > host->memory_bytes) host->memory_bytes = ranks[r].memory_bytes;
        c->devices[r].host = h;
    }
}

static void device_take(const struct probed_rank *p, struct cluster_device *d) {
    snprintf(d->name, sizeof d->name, "%s", p->device);
    d->is_host = p->is_host;
    d->rates = p->rates;
    if (!p->is_host) d->memory_bytes = p->memory_bytes;
}

static void slowest_take(struct cluster_link *slowest, const struct cluster_link *l) {
    if (l->latency_s > slowest->latency_s) slowest->latency_s = l->latency_s;
    if (slowest->bytes_per_s <= 0 || l->bytes_per_s < slowest->bytes_per_s) slowest->bytes_per_s = l->bytes_per_s;
}

static void way_take(struct cluster *c, uint32_t from, uint32_t to, struct cluster_link l) {
    if (!(l.bytes_per_s > 0)) return;
    slowest_take(from == to ? &c->inside : &c->between, &l);
    c->measured[(size_t)from * c->n_hosts + to] = l;
}

static void link_take(struct cluster *c, uint32_t from, const struct probed_link *p) {
    uint32_t a = c->devices[from].host, b = c->devices[p->to].host;
    way_take(c, a, b, (struct cluster_link){p->latency_s, p->bytes_per_s});
    if (a != b) way_take(c, b, a, (struct cluster_link){p->latency_s, p->back_per_s});
}

/* Hosts and devices as they were asked for, nothing measured. */
static err cluster_begin(const struct engine_rank *ranks, uint32_t n_ranks, const struct plan_device *asked,
                         struct cluster *c) {
    TRY(NEW(c->hosts, n_ranks));
    TRY(NEW(c->devices, n_ranks));
    c->n_devices = n_ranks;
    hosts_take(ranks, c);
    for (uint32_t r = 0; r < n_ranks; r++) {
        struct cluster_device *d = &c->devices[r];
        double host_bytes = (double)c->hosts[d->host].memory_bytes;
        d->rank = (int)r;
        snprintf(d->name, sizeof d->name, "%s", *asked[r].select ? asked[r].select : "any device");
        snprintf(d->select, sizeof d->select, "%s", asked[r].select);
        d->index = asked[r].index;
        d->has_index = asked[r].has_index;
        d->threads = asked[r].threads;
        d->is_host = 1;
        if ((double)ranks[r].memory_bytes < OWN_LIMIT * host_bytes) d->memory_bytes = ranks[r].memory_bytes;
    }
    return NEW(c->measured, (size_t)c->n_hosts * c->n_hosts);
}

/* Takes the error or the cluster. */
static err finish(err e, struct cluster *c, struct cluster **out) {
    if (e == OK) *out = c;
    else cluster_free(c);
    return e;
}

err measured_hello(const struct engine_rank *ranks, uint32_t n_ranks, const struct plan_device *asked,
                   struct cluster **out) {
    struct cluster *c;
    TRY(NEW(c, 1));
    return finish(cluster_begin(ranks, n_ranks, asked, c), c, out);
}

/* ---- noise ---- */

static int are_of_a_kind(const struct cluster_device *a, const struct cluster_device *b) {
    return strcmp(a->name, b->name) == 0 && a->threads == b->threads && a->is_host == b->is_host &&
           fabs(a->rates.quota_share - b->rates.quota_share) < SAME_QUOTA;
}

/* One rate of all devices of the kind of `first`. */
static void rate_join(struct cluster *c, const struct cluster_device *first, size_t rate, double *values) {
    size_t n = 0;
    for (uint32_t i = 0; i < c->n_devices; i++)
        if (are_of_a_kind(first, &c->devices[i])) values[n++] = ((const double *)&c->devices[i].rates)[rate];
    double middle = median_of(values, n);
    for (uint32_t i = 0; i < c->n_devices; i++) {
        double *at = &((double *)&c->devices[i].rates)[rate];
        if (are_of_a_kind(first, &c->devices[i]) && fabs(*at - middle) <= NOISE * middle) *at = middle;
    }
}

/* Devices of a kind that differ by no more than noise count as alike. */
static err rates_join(struct cluster *c) {
    double *values;
    TRY(NEW(values, c->n_devices));
    for (uint32_t i = 0; i < c->n_devices; i++) {
        uint32_t first = 0;
        while (!are_of_a_kind(&c->devices[first], &c->devices[i])) first++;
        for (size_t rate = 0; first == i && rate < N_RATES; rate++) rate_join(c, &c->devices[i], rate, values);
    }
    free(values);
    return OK;
}

static err cluster_fill(const struct engine_rank *ranks, const struct probe_message *asked, const struct probed *p,
                        struct cluster *c) {
    TRY(cluster_begin(ranks, p->n_ranks, asked->devices, c));
    for (uint32_t r = 0; r < p->n_ranks; r++) device_take(&p->ranks[r], &c->devices[r]);
    for (uint32_t r = 0; r < p->n_ranks; r++)
        for (uint32_t i = 0; i < p->ranks[r].n_links; i++) link_take(c, r, &p->ranks[r].links[i]);
    return rates_join(c);
}

err measured_cluster(const struct engine_rank *ranks, uint32_t n_ranks, const struct probe_message *asked,
                     const char *body, size_t n, struct cluster **out) {
    struct probed p;
    struct cluster *c = NULL;
    TRY(probed_get(body, n, &p));
    err e = OK;
    if (p.n_ranks != n_ranks || asked->n_ranks != n_ranks)
        e = err_set(ERR_JOB, "%u ranks of %u were measured, %u were asked", p.n_ranks, n_ranks, asked->n_ranks);
    if (e == OK) e = NEW(c, 1);
    if (e == OK) e = cluster_fill(ranks, asked, &p, c);
    probed_free(&p);
    return finish(e, c, out);
}

err measured_alone(struct cluster *c, const struct probe_message *asked, const char *body, size_t n) {
    struct probed p;
    TRY(probed_get(body, n, &p));
    err e = p.n_ranks == c->n_devices ? OK : err_set(ERR_JOB, "%u ranks of %u were measured", p.n_ranks, c->n_devices);
    for (uint32_t r = 0; e == OK && r < p.n_ranks; r++)
        if (probe_takes_turn(asked, r))
            memcpy(c->devices[r].rates.alone_per_s, p.ranks[r].rates.alone_per_s, sizeof p.ranks[r].rates.alone_per_s);
    if (e == OK) e = rates_join(c);
    probed_free(&p);
    return e;
}

uint32_t measured_turns(const struct cluster *c, const struct probe_message *asked) {
    int is_missing = asked->is_again;
    for (uint32_t r = 0; r < c->n_devices; r++)
        for (int f = 0; f < N_FORMATS; f++)
            is_missing |= asked->has_format[f] && !(c->devices[r].rates.alone_per_s[f] > 0);
    if (c->n_devices == 1 || !is_missing) return 0;
    return c->n_devices < MEASURED_TURNS ? c->n_devices : MEASURED_TURNS;
}
