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
#define SLOTS_MAX 65536u

/* ---- who there is ---- */

static struct place *host_find(const struct places *p, const char *name) {
    for (uint32_t i = 0; *name && i < p->n_hosts; i++)
        if (strcmp(p->list[i].host, name) == 0) return &p->list[i];
    return NULL;
}

static err host_add(void *places, const char *name) {
    struct places *p = places;
    if (host_find(p, name)) return OK;
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

/* The first word of every line that has one, and slots=N behind it; in PBS's file a line is a slot. */
static err hosts_of_file(const char *path, int is_slot_a_line, struct places *p) {
    struct bytes text = {0};
    err e = OK;
    if (bytes_read_file(&text, path) != OK) return OK;
    char *rest = (char *)text.data;
    for (char *line = strsep(&rest, "\n"); line && e == OK && p->n_hosts < HOSTS_MAX; line = strsep(&rest, "\n")) {
        line += strspn(line, " \t");
        size_t n = strcspn(line, " \t\r");
        const char *slots = strstr(line + n, "slots=");
        uint32_t n_slots = is_slot_a_line ? 1 : 0;
        unsigned long said = slots && strchr(" \t", slots[-1]) ? strtoul(slots + strlen("slots="), NULL, 10) : 0;
        if (said) n_slots = said < SLOTS_MAX ? (uint32_t)said : SLOTS_MAX;
        line[n] = 0;
        if (!*line || *line == '#') continue;
        e = host_add(p, line);
        if (e == OK) host_find(p, line)->n_slots += n_slots;
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

int places_slots(struct places *p, const char *tasks) {
    uint32_t host = 0;
    while (*tasks) {
        char *end;
        unsigned long n_slots = strtoul(tasks, &end, 10), n_times = 1;
        if (end == tasks) return 0;
        if (strncmp(end, "(x", 2) == 0) {
            n_times = strtoul(end + 2, &end, 10);
            if (*end++ != ')') return 0;
        }
        if (n_slots >= SLOTS_MAX || n_times > p->n_hosts - host) return 0;
        while (n_times--) p->list[host++].n_slots = (uint32_t)n_slots;
        if (*end && *end++ != ',') return 0;
        tasks = end;
    }
    return host == p->n_hosts;
}

/* Without tasks that were asked for, Slurm counts one for each processor: that says nothing about ranks. */
static void slots_of_slurm(struct places *p) {
    const char *asked = env_get("SLURM_NTASKS"), *per_host = env_get("SLURM_NTASKS_PER_NODE");
    const char *tasks = env_get("SLURM_TASKS_PER_NODE");
    if (tasks && (asked || per_host) && places_slots(p, tasks)) return;
    for (uint32_t i = 0; i < p->n_hosts; i++) p->list[i].n_slots = 0;
}

/* The number of nodes is what counts: names that do not agree with it are of no use. */
static err hosts_of_slurm(struct places *p) {
    const char *number = env_get("SLURM_JOB_NUM_NODES"), *names = env_get("SLURM_JOB_NODELIST");
    uint32_t n = number ? (uint32_t)strtoul(number, NULL, 10) : 0;
    if (n > HOSTS_MAX) n = 0;
    if (!n || !names || places_expand(names, HOSTS_MAX, host_add, p) != OK || p->n_hosts != n) {
        p->n_hosts = 0;
        for (uint32_t i = 0; i < n; i++) TRY(host_add(p, ""));
    }
    slots_of_slurm(p);
    return OK;
}

err places_find(const struct config *c, struct places *out) {
    struct places p = {0};
    char here[256] = "";
    const char *pbs = env_get("PBS_NODEFILE");
    gethostname(here, sizeof here - 1);
    err e = *c->hosts ? hosts_of_file(c->hosts, 0, &p) : hosts_of_slurm(&p);
    if (e == OK && !p.n_hosts && pbs && !*c->hosts) e = hosts_of_file(pbs, 1, &p);
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

static void ranks_count(struct places *p) {
    p->n_ranks = 0;
    p->is_named = p->n_hosts > 1;
    for (uint32_t i = 0; i < p->n_hosts; i++) {
        p->n_ranks += p->list[i].n_ranks;
        if (!*p->list[i].host) p->is_named = 0;
    }
}

/* Each stage on hosts of its own. */
static int spread_apart(struct places *p, uint32_t n_stages, uint32_t n_shards) {
    uint32_t each = p->n_hosts / n_stages; /* hosts of a stage */
    if (each > n_shards) each = n_shards;
    for (uint32_t i = 0; i < p->n_hosts; i++) {
        struct place *to = &p->list[i];
        uint32_t part = each ? i % each : 0;
        to->n_ranks = i < n_stages * each ? n_shards * (part + 1) / each - n_shards * part / each : 0;
        if (to->n_slots && to->n_ranks > to->n_slots) return 0;
    }
    return each > 0;
}

/* Whole stages, the next one always where the fewest are. */
static int spread_whole(struct places *p, uint32_t n_stages, uint32_t n_shards) {
    for (uint32_t i = 0; i < p->n_hosts; i++) p->list[i].n_ranks = 0;
    for (uint32_t s = 0; s < n_stages; s++) {
        struct place *to = NULL;
        for (struct place *h = p->list; h < p->list + p->n_hosts; h++)
            if ((!h->n_slots || h->n_ranks + n_shards <= h->n_slots) && (!to || h->n_ranks < to->n_ranks)) to = h;
        if (!to) return 0;
        to->n_ranks += n_shards;
    }
    return 1;
}

/* One host after the other. */
static void spread_full(struct places *p, uint32_t n_ranks) {
    for (uint32_t i = 0; i < p->n_hosts; i++) {
        struct place *to = &p->list[i];
        to->n_ranks = to->n_slots && to->n_slots < n_ranks ? to->n_slots : n_ranks;
        n_ranks -= to->n_ranks;
    }
}

err places_spread(struct places *p, uint32_t n_stages, uint32_t n_shards, int is_crowded) {
    uint32_t n_ranks = n_stages * n_shards, n_slots = 0;
    int is_said = 1;
    for (uint32_t i = 0; i < p->n_hosts; i++) {
        n_slots += p->list[i].n_slots;
        is_said &= p->list[i].n_slots > 0;
    }
    if (is_said && n_slots < n_ranks) {
        if (!is_crowded)
            return err_set(ERR_USAGE, "%u stages x %u shards are %u ranks, but the hosts have %u slots; "
                           "ask for more, or say --mpirun-args=--oversubscribe", n_stages, n_shards, n_ranks, n_slots);
        for (uint32_t i = 0; i < p->n_hosts; i++) p->list[i].n_slots = 0;
    }
    if (!spread_apart(p, n_stages, n_shards) && !spread_whole(p, n_stages, n_shards)) spread_full(p, n_ranks);
    ranks_count(p);
    return OK;
}

err places_by_devices(struct places *p, const char *cluster_path) {
    const char **names = NULL;
    uint32_t *counts = NULL;
    err e = NEW(names, p->n_hosts);
    if (e == OK) e = NEW(counts, p->n_hosts);
    for (uint32_t i = 0; e == OK && i < p->n_hosts; i++) names[i] = p->list[i].host;
    if (e == OK && *cluster_path) e = cluster_count_devices(cluster_path, names, p->n_hosts, counts);
    for (uint32_t i = 0; e == OK && i < p->n_hosts; i++) {
        struct place *h = &p->list[i];
        h->n_ranks = counts[i] ? counts[i] : h->n_slots ? h->n_slots : 1;
    }
    ranks_count(p);
    free(names);
    free(counts);
    return e;
}
