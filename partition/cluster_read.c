/* The file of a cluster. What it says is collected with 0 for what it does not say, copies of a `count` as one; then
 * it becomes a cluster of its own or goes over a measured one. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/mem.h"
#include "base/strmap.h"
#include "partition/cluster.h"

#define HOSTS_MAX 4096u
#define DEVICES_MAX 4096u
#define PAIRS_MAX 65536u
#define PARTS_MAX 7 /* of a path */
#define LABEL_BYTES 128

struct said_device {
    struct cluster_device d;
    uint32_t host, count; /* host: index of said_host */
    int has_host_memory;  /* d.is_host was said */
    unsigned line;
};

struct said_host {
    char label[LABEL_BYTES], name[256];
    uint32_t count;
    struct cluster_host h;
    unsigned line;
};

struct said_pair {
    char from[LABEL_BYTES], to[LABEL_BYTES];
    struct cluster_link link;
    unsigned line;
};

struct said {
    const char *path;
    struct said_host *hosts;
    struct said_device *devices;
    struct said_pair *pairs;
    uint32_t n_hosts, n_devices, n_pairs;
    uint32_t all_hosts, all_devices; /* with copies */
    struct cluster_link between, inside;
};

static void said_free(struct said *s) {
    free(s->hosts);
    free(s->devices);
    free(s->pairs);
}

/* ---- keys ---- */

#define LINK_FIELDS(type, member) \
    {"latency_us", CONFIG_FIELD_NUMBER, 0.001, 1e8, 1e-6, offsetof(type, member.latency_s)}, \
    {"gbit_s", CONFIG_FIELD_NUMBER, 1e-6, 1e6, 1e9 / 8, offsetof(type, member.bytes_per_s)}

struct said_link {
    struct cluster_link link;
};
static const struct config_field link_fields[] = {LINK_FIELDS(struct said_link, link)};

static const struct config_field host_fields[] = {
    {"name", CONFIG_FIELD_TEXT, 1, 255, 1, offsetof(struct said_host, name)},
    {"count", CONFIG_FIELD_WHOLE, 1, HOSTS_MAX, 1, offsetof(struct said_host, count)},
    {"memory_gb", CONFIG_FIELD_BYTES, 0.001, 1e6, 1e9, offsetof(struct said_host, h.memory_bytes)},
    {"file_gb_s", CONFIG_FIELD_NUMBER, 1e-6, 1e6, 1e9, offsetof(struct said_host, h.file_per_s)},
    LINK_FIELDS(struct said_host, h.port),
};

#define RATE(name, most, scale, field) \
    {name, CONFIG_FIELD_NUMBER, 1e-6, most, scale, offsetof(struct said_device, d.rates.field)}
static const struct config_field device_fields[] = {
    {"device", CONFIG_FIELD_TEXT, 1, 255, 1, offsetof(struct said_device, d.select)},
    {"index", CONFIG_FIELD_WHOLE, 0, 255, 1, offsetof(struct said_device, d.index)},
    {"threads", CONFIG_FIELD_WHOLE, 1, 4096, 1, offsetof(struct said_device, d.threads)},
    {"count", CONFIG_FIELD_WHOLE, 1, DEVICES_MAX, 1, offsetof(struct said_device, count)},
    {"memory_gb", CONFIG_FIELD_BYTES, 0.001, 1e6, 1e9, offsetof(struct said_device, d.memory_bytes)},
    {"host_memory", CONFIG_FIELD_FLAG, 0, 1, 1, offsetof(struct said_device, d.is_host)},
    RATE("read_gb_s", 1e6, 1e9, read_per_s),
    RATE("int8_gop_s", 1e9, 1e9, int8_per_s),
    RATE("f32_gop_s", 1e9, 1e9, f32_per_s),
    RATE("copy_gb_s", 1e6, 1e9, copy_per_s),
    RATE("pack_gb_s", 1e6, 1e9, pack_per_s),
    RATE("plain_g_s", 1e6, 1e9, plain_per_s),
    RATE("launch_us", 1e6, 1e-6, launch_s),
    RATE("step_us", 1e6, 1e-6, step_s),
    RATE("quota_share", 1, 1, quota_share),
    RATE("quota_spare_ms", 1e6, 1e-3, quota_spare_s),
    RATE("quota_message_ms", 1e6, 1e-3, quota_message_s),
    RATE("quota_link_gb_s", 1e6, 1e9, quota_link_per_s),
};
#define N_FIELDS(fields) (sizeof(fields) / sizeof *(fields))

/* ---- collecting ---- */

static err need_group(const struct config_item *item) {
    return item->is_group ? OK : err_set(ERR_CONFIG, "expected a group { ... }, found %s", item->type);
}

/* Room for one more, by doubling; `*list` grows. */
static err list_grow(void **list, uint32_t n, uint32_t most, size_t item_bytes, const char *what) {
    if (n >= most) return err_set(ERR_CONFIG, "too many %s, expected at most %u", what, most);
    if (n & (n - 1)) return OK;
    void *grown = mem_resized(*list, n ? (size_t)n * 2 : 1, item_bytes);
    if (!grown) return ERR_MEMORY;
    *list = grown;
    return OK;
}

static err host_begin(struct said *s, const char *label, const struct config_item *item) {
    TRY(need_group(item));
    void *list = s->hosts;
    err e = list_grow(&list, s->n_hosts, HOSTS_MAX, sizeof *s->hosts, "hosts");
    s->hosts = list;
    TRY(e);
    struct said_host *h = &s->hosts[s->n_hosts++];
    *h = (struct said_host){.line = item->line, .count = 1};
    snprintf(h->label, sizeof h->label, "%s", label);
    snprintf(h->name, sizeof h->name, "%s", label);
    return OK;
}

static err device_begin(struct said *s, const char *label, const struct config_item *item) {
    TRY(need_group(item));
    void *list = s->devices;
    err e = list_grow(&list, s->n_devices, DEVICES_MAX, sizeof *s->devices, "devices");
    s->devices = list;
    TRY(e);
    struct said_device *d = &s->devices[s->n_devices++];
    *d = (struct said_device){.line = item->line, .host = s->n_hosts - 1, .count = 1, .d.rank = -1};
    snprintf(d->d.name, sizeof d->d.name, "%s", label);
    return OK;
}

static err pair_begin(struct said *s, const char *from, const char *to, const struct config_item *item) {
    TRY(need_group(item));
    void *list = s->pairs;
    err e = list_grow(&list, s->n_pairs, PAIRS_MAX, sizeof *s->pairs, "pairs");
    s->pairs = list;
    TRY(e);
    struct said_pair *p = &s->pairs[s->n_pairs++];
    *p = (struct said_pair){.line = item->line};
    snprintf(p->from, sizeof p->from, "%s", from);
    snprintf(p->to, sizeof p->to, "%s", to);
    return OK;
}

static err take_link(struct cluster_link *link, char **parts, uint32_t n, const struct config_item *item) {
    if (n == 0) return need_group(item);
    struct said_link l = {*link};
    TRY(config_take(link_fields, N_FIELDS(link_fields), parts[0], item, &l));
    *link = l.link;
    return OK;
}

/* A rate per format: row_gb_s = { Q4_K = 30.0; }. */
static err take_formats(double *rates, char **parts, uint32_t n, const struct config_item *item) {
    if (n == 0) return need_group(item);
    enum format f;
    if (format_from_name(parts[0], &f) != OK) return ERR_CONFIG;
    const struct config_field field = {parts[0], CONFIG_FIELD_NUMBER, 1e-6, 1e9, 1e9, 0};
    return config_take(&field, 1, parts[0], item, &rates[f]);
}

/* `parts`: from the key on. */
static err take_device(struct said *s, char **parts, uint32_t n, const struct config_item *item) {
    struct said_device *d = &s->devices[s->n_devices - 1];
    if (strcmp(parts[0], "row_gb_s") == 0) return take_formats(d->d.rates.row_per_s, parts + 1, n - 1, item);
    if (strcmp(parts[0], "alone_gb_s") == 0) return take_formats(d->d.rates.alone_per_s, parts + 1, n - 1, item);
    if (strcmp(parts[0], "few_gop_s") == 0) return take_formats(d->d.rates.few_per_s, parts + 1, n - 1, item);
    if (strcmp(parts[0], "products_gop_s") == 0)
        return take_formats(d->d.rates.products_per_s, parts + 1, n - 1, item);
    if (strcmp(parts[0], "host_memory") == 0) d->has_host_memory = 1;
    if (strcmp(parts[0], "index") == 0) d->d.has_index = 1;
    return config_take(device_fields, N_FIELDS(device_fields), parts[0], item, d);
}

static err take_host(struct said *s, char **parts, uint32_t n, const struct config_item *item) {
    if (n == 0) return need_group(item);
    if (n == 1) return host_begin(s, parts[0], item);
    struct said_host *h = &s->hosts[s->n_hosts - 1];
    if (strcmp(parts[1], "inside") == 0) return take_link(&h->h.inside, parts + 2, n - 2, item);
    if (strcmp(parts[1], "devices") != 0) return config_take(host_fields, N_FIELDS(host_fields), parts[1], item, h);
    if (n == 2) return need_group(item);
    return n == 3 ? device_begin(s, parts[2], item) : take_device(s, parts + 3, n - 3, item);
}

static err take_pair(struct said *s, char **parts, uint32_t n, const struct config_item *item) {
    if (n < 2) return need_group(item);
    if (n == 2) return pair_begin(s, parts[0], parts[1], item);
    return take_link(&s->pairs[s->n_pairs - 1].link, parts + 2, n - 2, item);
}

static err take_item(void *context, const struct config_item *item) {
    struct said *s = context;
    char path[256], *parts[PARTS_MAX];
    uint32_t n = 0;
    snprintf(path, sizeof path, "%s", item->path);
    for (char *at = path, *next; at; at = next) {
        next = strchr(at, '.');
        if (next) *next++ = 0;
        if (n == PARTS_MAX) return err_set(ERR_CONFIG, "a group inside too many others");
        if (strlen(at) >= LABEL_BYTES) return err_set(ERR_CONFIG, "a name of more than %d bytes", LABEL_BYTES - 1);
        parts[n++] = at;
    }
    if (strcmp(parts[0], "links") == 0) return take_link(&s->between, parts + 1, n - 1, item);
    if (strcmp(parts[0], "inside") == 0) return take_link(&s->inside, parts + 1, n - 1, item);
    if (strcmp(parts[0], "hosts") == 0) return take_host(s, parts + 1, n - 1, item);
    if (strcmp(parts[0], "pairs") == 0) return take_pair(s, parts + 1, n - 1, item);
    return err_set(ERR_CONFIG, "unknown key; expected one of links, inside, hosts, pairs");
}

static err bad_host(const struct said *s, const struct said_host *h) {
    return err_context(ERR_CONFIG, "%s:%u: hosts.%s", s->path, h->line, h->label);
}

static uint32_t devices_of_host(const struct said *s, uint32_t host) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_devices; i++)
        if (s->devices[i].host == host) n += s->devices[i].count;
    return n;
}

/* Hosts and devices with all their copies. */
static err said_count(struct said *s) {
    uint64_t hosts = 0, devices = 0;
    for (uint32_t i = 0; i < s->n_hosts; i++) {
        const struct said_host *h = &s->hosts[i];
        hosts += h->count;
        devices += (uint64_t)h->count * devices_of_host(s, i);
        if (hosts <= HOSTS_MAX && devices <= DEVICES_MAX) continue;
        err_set(ERR_CONFIG, "makes %lu hosts and %lu devices with those before it, expected at most %u and %u", hosts,
                devices, HOSTS_MAX, DEVICES_MAX);
        return bad_host(s, h);
    }
    s->all_hosts = (uint32_t)hosts;
    s->all_devices = (uint32_t)devices;
    return OK;
}

static err said_read(const char *path, struct said *out) {
    *out = (struct said){.path = path};
    err e = config_walk_groups(path, take_item, out);
    if (e == OK) e = said_count(out);
    if (e != OK) said_free(out);
    return e;
}

/* Name of copy i: NAME-1 .. NAME-COUNT, one alone as it is. */
static err copy_name(char *out, size_t cap, const char *name, uint32_t i, uint32_t count) {
    int n = count > 1 ? snprintf(out, cap, "%s-%u", name, i + 1) : snprintf(out, cap, "%s", name);
    return n < (int)cap ? OK : err_set(ERR_CONFIG, "a name of more than %zu bytes", cap - 1);
}

/* ---- a cluster of its own ---- */

static err check_device(const struct said *s, struct said_device *d) {
    const struct said_host *h = &s->hosts[d->host];
    if (!d->has_host_memory) d->d.is_host = d->d.memory_bytes == 0;
    err e = OK;
    if (!(d->d.rates.read_per_s > 0))
        e = err_set(ERR_CONFIG, "read_gb_s is missing: how fast the device reads its memory, in GB/s");
    else if (!d->d.is_host && !d->d.memory_bytes)
        e = err_set(ERR_CONFIG, "memory_gb is missing: the device has memory of its own");
    else if (d->d.is_host && !h->h.memory_bytes)
        e = err_set(ERR_CONFIG, "neither the device nor its host has memory_gb");
    if (e == OK) return OK;
    return err_context(ERR_CONFIG, "%s:%u: hosts.%s.devices.%s", s->path, d->line, h->label, d->d.name);
}

static err check_said(const struct said *s) {
    if (!s->n_hosts) return err_set(ERR_CONFIG, "%s: no hosts; expected hosts = { NAME = { ... }; };", s->path);
    for (uint32_t i = 0; i < s->n_hosts; i++)
        if (!devices_of_host(s, i)) {
            err_set(ERR_CONFIG, "no devices; expected devices = { NAME = { ... }; };");
            return bad_host(s, &s->hosts[i]);
        }
    for (uint32_t i = 0; i < s->n_devices; i++) TRY(check_device(s, &s->devices[i]));
    return OK;
}

/* Devices of one host, appended. */
static err add_devices(const struct said *s, uint32_t said_host, uint32_t host, struct cluster *c) {
    for (uint32_t i = 0; i < s->n_devices; i++) {
        const struct said_device *d = &s->devices[i];
        if (d->host != said_host) continue;
        for (uint32_t k = 0; k < d->count; k++) {
            struct cluster_device *out = &c->devices[c->n_devices++];
            *out = d->d;
            out->host = host;
            out->index += k;
            TRY(copy_name(out->name, sizeof out->name, d->d.name, k, d->count));
        }
    }
    return OK;
}

static err add_hosts(const struct said *s, struct strmap *names, struct cluster *c) {
    for (uint32_t i = 0; i < s->n_hosts; i++) {
        const struct said_host *h = &s->hosts[i];
        for (uint32_t k = 0; k < h->count; k++) {
            uint32_t index = c->n_hosts++;
            struct cluster_host *out = &c->hosts[index];
            *out = h->h;
            err e = copy_name(out->name, sizeof out->name, h->name, k, h->count);
            if (e == OK && strmap_find(names, out->name, strlen(out->name), -1) >= 0)
                e = err_set(ERR_CONFIG, "a second host \"%s\"", out->name);
            if (e != OK) return bad_host(s, h);
            TRY(strmap_add(names, out->name, strlen(out->name), (int32_t)index));
            TRY(add_devices(s, i, index, c));
        }
    }
    return OK;
}

/* ---- pairs ---- */

/* A host by its name, or by its label in the file. */
static int32_t host_find(const struct said *s, const struct strmap *names, const char *label) {
    int32_t found = strmap_find(names, label, strlen(label), -1);
    for (uint32_t i = 0; found < 0 && i < s->n_hosts; i++)
        if (strcmp(s->hosts[i].label, label) == 0 && s->hosts[i].count == 1)
            found = strmap_find(names, s->hosts[i].name, strlen(s->hosts[i].name), -1);
    return found;
}

static void over(struct cluster_link *link, struct cluster_link said) {
    if (said.latency_s > 0) link->latency_s = said.latency_s;
    if (said.bytes_per_s > 0) link->bytes_per_s = said.bytes_per_s;
}

/* The first device of a host, or n_devices. */
static uint32_t first_device(const struct cluster *c, uint32_t host) {
    uint32_t d = 0;
    while (d < c->n_devices && c->devices[d].host != host) d++;
    return d;
}

static void pair_set(struct cluster *c, uint32_t from, uint32_t to, struct cluster_link said) {
    uint32_t a = first_device(c, from), b = first_device(c, to);
    if (a == c->n_devices || b == c->n_devices) return;
    struct cluster_link link = cluster_link_of(c, a, b);
    over(&link, said);
    c->measured[(size_t)from * c->n_hosts + to] = link;
}

/* Both ways. Hosts that a job does not have are passed over. */
static err set_pairs(const struct said *s, const struct strmap *names, int may_lack, struct cluster *c) {
    if (s->n_pairs && !c->measured) TRY(NEW(c->measured, (size_t)c->n_hosts * c->n_hosts));
    for (uint32_t i = 0; i < s->n_pairs; i++) {
        const struct said_pair *p = &s->pairs[i];
        int32_t from = host_find(s, names, p->from), to = host_find(s, names, p->to);
        if (from >= 0 && to >= 0 && from != to) {
            pair_set(c, (uint32_t)from, (uint32_t)to, p->link);
            pair_set(c, (uint32_t)to, (uint32_t)from, p->link);
        } else if (from == to && from >= 0) {
            return err_set(ERR_CONFIG, "%s:%u: pairs.%s.%s: one host; its key inside says what is inside it", s->path,
                           p->line, p->from, p->to);
        } else if (!may_lack) {
            return err_set(ERR_CONFIG, "%s:%u: pairs.%s.%s: no host \"%s\" in this file", s->path, p->line, p->from,
                           p->to, from < 0 ? p->from : p->to);
        }
    }
    return OK;
}

static err cluster_make(const struct said *s, struct cluster *c) {
    struct strmap names = {0};
    TRY(check_said(s));
    TRY(NEW(c->hosts, s->all_hosts));
    TRY(NEW(c->devices, s->all_devices));
    c->between = CLUSTER_BETWEEN;
    c->inside = CLUSTER_INSIDE;
    over(&c->between, s->between);
    over(&c->inside, s->inside);
    err e = add_hosts(s, &names, c);
    if (e == OK) e = set_pairs(s, &names, 0, c);
    strmap_free(&names);
    return e;
}

err cluster_read(const char *path, struct cluster **out) {
    struct said s;
    struct cluster *c;
    TRY(said_read(path, &s));
    err e = NEW(c, 1);
    if (e == OK) e = cluster_make(&s, c);
    said_free(&s);
    if (e != OK) {
        cluster_free(c);
        return e;
    }
    *out = c;
    return OK;
}

/* ---- over a measured one ---- */

static void correct_device(struct cluster_device *d, const struct said_device *said, uint32_t copy) {
    if (*said->d.select) snprintf(d->select, sizeof d->select, "%s", said->d.select);
    d->index = said->d.index + copy;
    d->has_index = said->d.has_index;
    if (said->d.threads) d->threads = said->d.threads;
    if (said->d.memory_bytes) d->memory_bytes = said->d.memory_bytes;
    if (said->has_host_memory) d->is_host = said->d.is_host;
    const struct device_rates *from = &said->d.rates;
    struct device_rates *to = &d->rates;
#define OVER(field) if (from->field > 0) to->field = from->field
    OVER(read_per_s);
    OVER(int8_per_s);
    OVER(f32_per_s);
    OVER(plain_per_s);
    OVER(launch_s);
    OVER(step_s);
    OVER(copy_per_s);
    OVER(pack_per_s);
    OVER(quota_share);
    OVER(quota_spare_s);
    OVER(quota_message_s);
    OVER(quota_link_per_s);
    for (int f = 0; f < N_FORMATS; f++) {
        if (from->row_per_s[f] > 0) to->alone_per_s[f] = 0; /* what was measured belongs to the other */
        OVER(row_per_s[f]);
        OVER(alone_per_s[f]);
        OVER(few_per_s[f]);
        OVER(products_per_s[f]);
    }
#undef OVER
}

/* Its devices in the order of their ranks. */
static void correct_host(const struct said *s, uint32_t said_host, uint32_t host, struct cluster *c) {
    struct cluster_host *h = &c->hosts[host];
    const struct cluster_host *said = &s->hosts[said_host].h;
    if (said->memory_bytes) h->memory_bytes = said->memory_bytes;
    if (said->file_per_s > 0) h->file_per_s = said->file_per_s;
    over(&h->port, said->port);
    over(&h->inside, said->inside);
    uint32_t at = 0, copy = 0;
    for (uint32_t d = 0; d < c->n_devices; d++) {
        if (c->devices[d].host != host) continue;
        while (at < s->n_devices && (s->devices[at].host != said_host || copy == s->devices[at].count)) {
            at++;
            copy = 0;
        }
        if (at == s->n_devices) return;
        correct_device(&c->devices[d], &s->devices[at], copy++);
    }
}

/* What is said goes over what was measured: of two ports the slower. ports, insides [n_hosts]: of this file; 0 where
 * it says nothing. */
static void correct_measured(const struct cluster_link *ports, const struct cluster_link *insides, struct cluster *c) {
    for (uint32_t a = 0; a < c->n_hosts; a++)
        for (uint32_t b = 0; b < c->n_hosts; b++) {
            struct cluster_link *m = &c->measured[(size_t)a * c->n_hosts + b], said = insides[a];
            if (!(m->bytes_per_s > 0)) continue;
            if (a != b) {
                struct cluster_link one = ports[a], two = ports[b];
                int is_first = two.bytes_per_s == 0 || (one.bytes_per_s > 0 && one.bytes_per_s < two.bytes_per_s);
                said.latency_s = one.latency_s > two.latency_s ? one.latency_s : two.latency_s;
                said.bytes_per_s = is_first ? one.bytes_per_s : two.bytes_per_s;
            }
            over(m, said);
        }
}

/* Names of the job's hosts, also without their domain. */
static err host_names(const struct cluster *c, struct strmap *out) {
    for (int is_short = 0; is_short < 2; is_short++)
        for (uint32_t i = 0; i < c->n_hosts; i++) {
            const char *name = c->hosts[i].name;
            TRY(strmap_add(out, name, is_short ? strcspn(name, ".") : strlen(name), (int32_t)i));
        }
    return OK;
}

static err correct_hosts(const struct said *s, const struct strmap *names, struct cluster_link *ports,
                         struct cluster_link *insides, struct cluster *c) {
    for (uint32_t h = 0; h < c->n_hosts; h++) {
        ports[h] = s->between;
        insides[h] = s->inside;
    }
    for (uint32_t i = 0; i < s->n_hosts; i++)
        for (uint32_t k = 0; k < s->hosts[i].count; k++) {
            char name[256];
            if (copy_name(name, sizeof name, s->hosts[i].name, k, s->hosts[i].count) != OK)
                return bad_host(s, &s->hosts[i]);
            int32_t host = strmap_find(names, name, strlen(name), -1);
            if (host < 0) continue;
            correct_host(s, i, (uint32_t)host, c);
            over(&ports[host], s->hosts[i].h.port);
            over(&insides[host], s->hosts[i].h.inside);
        }
    return OK;
}

static err correct_all(const struct said *s, const struct strmap *names, struct cluster *c) {
    struct cluster_link *ports = NULL, *insides = NULL;
    err e = NEW(ports, c->n_hosts);
    if (e == OK) e = NEW(insides, c->n_hosts);
    if (e == OK) e = correct_hosts(s, names, ports, insides, c);
    if (e == OK) {
        over(&c->between, s->between);
        over(&c->inside, s->inside);
        if (c->measured) correct_measured(ports, insides, c);
        e = set_pairs(s, names, 1, c);
    }
    free(ports);
    free(insides);
    return e;
}

err cluster_correct(struct cluster *c, const char *path) {
    struct said s;
    struct strmap names = {0};
    TRY(said_read(path, &s));
    err e = host_names(c, &names);
    if (e == OK) e = correct_all(&s, &names, c);
    strmap_free(&names);
    said_free(&s);
    return e;
}

err cluster_check(const char *path) {
    struct said s;
    TRY(said_read(path, &s));
    said_free(&s);
    return OK;
}

/* ---- counting ---- */

static err count_copies(const struct said *s, const struct strmap *names, uint32_t said_host, uint32_t *counts) {
    const struct said_host *h = &s->hosts[said_host];
    uint32_t n = devices_of_host(s, said_host);
    for (uint32_t k = 0; k < h->count; k++) {
        char name[256];
        if (copy_name(name, sizeof name, h->name, k, h->count) != OK) return bad_host(s, h);
        int32_t host = strmap_find(names, name, strlen(name), -1);
        if (host >= 0) counts[host] = n;
    }
    return OK;
}

err cluster_count_devices(const char *path, const char *const *hosts, uint32_t n_hosts, uint32_t *counts) {
    struct said s;
    struct strmap names = {0};
    memset(counts, 0, n_hosts * sizeof *counts);
    TRY(said_read(path, &s));
    err e = OK;
    for (int is_short = 0; is_short < 2; is_short++)
        for (uint32_t i = 0; e == OK && i < n_hosts; i++)
            e = strmap_add(&names, hosts[i], is_short ? strcspn(hosts[i], ".") : strlen(hosts[i]), (int32_t)i);
    for (uint32_t i = 0; e == OK && i < s.n_hosts; i++) e = count_copies(&s, &names, i, counts);
    strmap_free(&names);
    said_free(&s);
    return e;
}
