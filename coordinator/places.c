#include "coordinator/places.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/env.h"
#include "base/mem.h"
#include "partition/cluster.h"

#define HOSTS_MAX 65536u

/* ---- who there is ---- */

static err host_add(void *places, const char *name) {
    struct places *p = places;
    for (uint32_t i = 0; *name && i < p->n_hosts; i++)
        if (strcmp(p->list[i].host, name) == 0) return OK;
    if ((p->n_hosts & (p->n_hosts - 1)) == 0) { /* full: it doubles */
        struct place *grown = mem_resized(p->list, p->n_hosts ? 2 * (size_t)p->n_hosts : 1, sizeof *grown);
        if (!grown) return ERR_MEMORY;
        p->list = grown;
    }
    struct place *to = &p->list[p->n_hosts++];
    *to = (struct place){0};
    snprintf(to->host, sizeof to->host, "%s", name);
    return OK;
}

/* The first word of every line that has one. */
static err hosts_of_file(const char *path, struct places *p) {
    struct bytes text = {0};
    err e = OK;
    if (bytes_read_file(&text, path) != OK) return OK;
    char *rest = (char *)text.data;
    for (char *line = strsep(&rest, "\n"); line && e == OK && p->n_hosts < HOSTS_MAX; line = strsep(&rest, "\n")) {
        line += strspn(line, " \t");
        line[strcspn(line, " \t\r")] = 0;
        if (*line && *line != '#') e = host_add(p, line);
    }
    bytes_free(&text);
    return e;
}

static err bad_list(const char *list) {
    return err_set(ERR_JOB, "SLURM_JOB_NODELIST: \"%.64s\" is no list of numbers", list);
}

/* One list in brackets: "1-3,07" gives 1 2 3 07, each between `before` and `after`. */
static err expand_list(const char *before, int n_before, const char *list, const char *after, int n_after,
                       uint32_t *left, err (*each)(void *context, const char *name), void *context) {
    const char *at = list;
    do {
        char name[256], *end;
        if (!isdigit((unsigned char)*at)) return bad_list(list);
        unsigned long first = strtoul(at, &end, 10), last = first;
        int width = (int)(end - at);
        if (*end == '-') {
            at = end + 1;
            if (!isdigit((unsigned char)*at)) return bad_list(list);
            last = strtoul(at, &end, 10);
        }
        if ((*end != ',' && *end != ']') || last < first) return bad_list(list);
        for (unsigned long i = first; i <= last; i++) {
            if ((*left)-- == 0) return err_set(ERR_JOB, "SLURM_JOB_NODELIST: too many hosts");
            snprintf(name, sizeof name, "%.*s%0*lu%.*s", n_before, before, width, i, n_after, after);
            TRY(each(context, name));
        }
        at = *end == ',' ? end + 1 : end;
    } while (*at != ']');
    return OK;
}

err places_expand(const char *names, uint32_t n_most, err (*each)(void *context, const char *name), void *context) {
    for (const char *at = names; *at;) {
        size_t n_before = strcspn(at, "[,");
        if (at[n_before] == '[') {
            const char *list = at + n_before + 1, *close = strchr(list, ']');
            if (!close) return err_set(ERR_JOB, "SLURM_JOB_NODELIST: \"%.64s\" has no ]", at);
            size_t n_after = strcspn(close + 1, ",[");
            TRY(expand_list(at, (int)n_before, list, close + 1, (int)n_after, &n_most, each, context));
            at = close + 1 + n_after;
            if (*at == '[') return err_set(ERR_JOB, "SLURM_JOB_NODELIST: two lists in one name");
        } else {
            char name[256];
            if (n_most-- == 0) return err_set(ERR_JOB, "SLURM_JOB_NODELIST: too many hosts");
            snprintf(name, sizeof name, "%.*s", (int)n_before, at);
            if (*name) TRY(each(context, name));
            at += n_before;
        }
        at += *at == ',';
    }
    return OK;
}

/* The number of nodes is what counts: names that do not agree with it are of no use. */
static err hosts_of_slurm(struct places *p) {
    const char *number = env_get("SLURM_JOB_NUM_NODES"), *names = env_get("SLURM_JOB_NODELIST");
    uint32_t n = number ? (uint32_t)strtoul(number, NULL, 10) : 0;
    if (n > HOSTS_MAX) n = 0;
    if (n && names && places_expand(names, HOSTS_MAX, host_add, p) == OK && p->n_hosts == n) return OK;
    p->n_hosts = 0;
    for (uint32_t i = 0; i < n; i++) TRY(host_add(p, ""));
    return OK;
}

err places_find(const struct config *c, struct places *out) {
    struct places p = {0};
    char here[256] = "";
    gethostname(here, sizeof here - 1);
    err e = *c->hosts ? hosts_of_file(c->hosts, &p) : hosts_of_slurm(&p);
    if (e == OK && !p.n_hosts) e = host_add(&p, here);
    if (e == OK) *out = p;
    else places_free(&p);
    return e;
}

void places_free(struct places *p) {
    free(p->list);
    *p = (struct places){0};
}

/* ---- ranks ---- */

void places_spread(struct places *p, uint32_t n_stages, uint32_t n_shards) {
    uint32_t n_ranks = n_stages * n_shards, each = (n_ranks + p->n_hosts - 1) / p->n_hosts;
    if (n_stages >= p->n_hosts) each = (n_stages + p->n_hosts - 1) / p->n_hosts * n_shards;
    for (uint32_t i = 0; i < p->n_hosts; i++) p->list[i].n_ranks = each; /* the last ones may get fewer */
    p->n_ranks = n_ranks;
    p->is_named = 0;
}

err places_by_devices(struct places *p, const char *cluster_path) {
    const char **names = NULL;
    uint32_t *counts = NULL;
    err e = NEW(names, p->n_hosts);
    if (e == OK) e = NEW(counts, p->n_hosts);
    for (uint32_t i = 0; e == OK && i < p->n_hosts; i++) names[i] = p->list[i].host;
    if (e == OK && *cluster_path) e = cluster_count_devices(cluster_path, names, p->n_hosts, counts);
    p->n_ranks = 0;
    p->is_named = 0;
    for (uint32_t i = 0; e == OK && i < p->n_hosts; i++) {
        p->list[i].n_ranks = counts[i] ? counts[i] : 1;
        p->n_ranks += p->list[i].n_ranks;
        if (p->list[i].n_ranks != p->list[0].n_ranks) p->is_named = 1;
    }
    free(names);
    free(counts);
    return e;
}
