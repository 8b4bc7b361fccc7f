#include "node/probe.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "kernels/probe.h"
#include "node/allowance.h"
#include "node/links.h"
#include "node/probe_cache.h"
#include "node/quota.h"

#define PAUSE_US 10000 /* a look takes time of a quota */
#define PARTS 100 /* of the work of one rank, for signs of progress */
#define MEMORY_SHARE 4 /* a quarter of what is free may be measured on */

/* The device is measured in a thread of its own, which touches neither MPI nor the link. */
struct probing {
    struct node *node;
    struct probe_message asked;
    struct probed_rank found;
    uint32_t n_here; /* ranks of this host, which all measure now */
    uint64_t memory_max_bytes;
    struct message_cost message;
    pthread_t thread;
    atomic_uint n_parts;
    atomic_int is_done;
    err result;
    char text[1024]; /* error texts belong to a thread */
};

static void on_figure(void *context, uint32_t n_done, uint32_t n_all) {
    struct probing *p = context;
    atomic_store(&p->n_parts, n_done * PARTS / n_all);
}

/* All that a device's rates depend on; two ranks with one key may take each other's. */
static err key_make(const struct probing *p, const struct device_choice *choice, struct bytes *out) {
    const struct node *n = p->node;
    struct quota q = quota_find("");
    TRY(bytes_printf(out, "host %s, %u ranks, cores %s, %u threads, quota %.3f in %g s, products of %u columns, ",
                     wire_host(n->w, n->rank), p->n_here, n->cores.text, n->cores.n_threads, q.processors, q.period_s,
                     probe_side(p->asked.side)));
    return probe_identity(choice, out);
}

/* What is known from before; `missing` are the formats that are not. 1: nothing is left to measure. */
static int cache_look(struct probing *p, const char *key, uint8_t missing[N_FORMATS], int *is_known) {
    struct probed_rank *f = &p->found, old = {0};
    int n_missing = 0;
    *is_known = !p->asked.is_again && probe_cache_get(key, &old);
    for (int i = 0; i < N_FORMATS; i++) {
        missing[i] = p->asked.has_format[i] && !(old.rates.row_per_s[i] > 0);
        n_missing += missing[i];
    }
    if (!*is_known) return 0;
    old.links = f->links;
    old.n_links = f->n_links;
    *f = old;
    f->is_cached = n_missing == 0;
    return f->is_cached;
}

static err backend_measure(struct probing *p, struct backend *b, const struct probe_request *r) {
    struct probed_rank *f = &p->found;
    snprintf(f->device, sizeof f->device, "%.60s / %.60s", b->platform, b->device);
    f->is_host = b->is_host;
    f->memory_bytes = b->memory_bytes;
    f->threads = b->is_host ? r->n_threads : 0;
    return probe_device(b, r, &f->rates);
}

static err device_open_and_measure(struct probing *p, const struct probe_request *r) {
    struct backend *b;
    TRY(r->choice ? backend_opencl_choice(r->choice, &b) : backend_reference(&b));
    err e = b->can_call ? setup_cores(p->node, p->asked.devices[p->node->rank].threads, 1) : OK;
    if (e == OK) e = backend_measure(p, b, r);
    b->ops->destroy(b);
    mem_return_unused();
    return e;
}

/* Ranks of a host are taken to be in one control group, alike. */
static void quota_take(struct probing *p) {
    struct quota q = quota_find("");
    double wanted = (double)p->found.threads * p->n_here;
    if (!p->found.is_host || q.processors <= 0 || q.processors >= wanted) return;
    p->found.rates.quota_share = q.processors / wanted;
    p->found.rates.quota_spare_s = quota_spare_s(&q, wanted);
    p->found.rates.quota_message_s = p->message.message_s * p->n_here / q.processors;
    if (p->message.byte_s > 0) p->found.rates.quota_link_per_s = q.processors / p->n_here / p->message.byte_s;
}

static err measure_together(struct probing *p, const char *key, struct probe_request *r) {
    if (cache_look(p, key, r->has_format, &r->only_formats)) return OK;
    TRY(device_open_and_measure(p, r));
    quota_take(p);
    probe_cache_put(key, &p->found);
    return OK;
}

/* What is kept has all other rates, and gets this one, too. */
static err measure_alone(struct probing *p, const char *key, struct probe_request *r) {
    int is_kept = probe_cache_get(key, &p->found), n_missing = 0;
    for (int i = 0; i < N_FORMATS; i++) {
        r->has_format[i] = p->asked.has_format[i] && (p->asked.is_again || !(p->found.rates.alone_per_s[i] > 0));
        n_missing += r->has_format[i];
    }
    if (!n_missing || !probe_takes_turn(&p->asked, (uint32_t)p->node->rank)) return OK;
    r->is_alone = 1;
    TRY(device_open_and_measure(p, r));
    if (is_kept) probe_cache_put(key, &p->found);
    return OK;
}

static err device_measure(struct probing *p) {
    const struct plan_device *d = &p->asked.devices[p->node->rank];
    const struct device_choice named = {d->select, d->index, d->has_index};
    const struct device_choice *choice = p->asked.is_reference ? NULL : &named;
    struct probe_request r = {.choice = choice, .side = probe_side(p->asked.side),
                              .n_threads = choice ? p->node->cores.n_threads : 1,
                              .memory_max_bytes = p->memory_max_bytes, .on_figure = on_figure, .context = p};
    struct bytes key = {0};
    err e = key_make(p, choice, &key);
    if (e == OK) e = (p->asked.turn ? measure_alone : measure_together)(p, (const char *)key.data, &r);
    bytes_free(&key);
    return e;
}

static void *probe_thread(void *probing) {
    struct probing *p = probing;
    p->result = device_measure(p);
    if (p->result != OK) snprintf(p->text, sizeof p->text, "%s", err_text());
    atomic_store(&p->is_done, 1);
    return NULL;
}

/* On failure of the watch the job ends: the thread keeps `p`. */
static err device_watch(struct probing *p) {
    TRY(setup_cores(p->node, p->asked.devices[p->node->rank].threads, 0));
    if (pthread_create(&p->thread, NULL, probe_thread, p) != 0)
        return err_set(ERR_INTERNAL, "cannot start a thread that measures");
    while (!atomic_load(&p->is_done)) {
        TRY(setup_watch(p->node, atomic_load(&p->n_parts)));
        clock_sleep_us(PAUSE_US);
    }
    pthread_join(p->thread, NULL);
    if (p->result != OK) return err_set(p->result, "%s", p->text);
    return setup_watch(p->node, PARTS);
}

static err answer(struct probing *p) {
    struct bytes json = {0};
    err e = probed_put_rank(p->node->rank, &p->found, &json);
    if (e == OK) e = back_put(p->node, FRAME_PROBED, 0, json.data, json.len);
    bytes_free(&json);
    return e;
}

static err probe_all(struct probing *p) {
    struct node *n = p->node;
    if (p->asked.n_ranks != (uint32_t)n->size)
        return err_set(ERR_JOB, "%u ranks are to be measured, the job has %d", p->asked.n_ranks, n->size);
    if (p->asked.deadline_ms > wire_deadline_ms(n->w)) wire_set_deadline(n->w, p->asked.deadline_ms);
    p->n_here = setup_ranks_here(n);
    p->memory_max_bytes = allowance_bytes("") / MEMORY_SHARE / p->n_here;
    if (!p->asked.turn) TRY(links_measure(n->w, &p->found.links, &p->found.n_links, &p->message));
    TRY(device_watch(p));
    TRY(answer(p));
    return n->rank == 0 ? setup_gather(n, 1, "to measure its device") : OK;
}

err probe_run(struct node *n, const char *body, size_t n_bytes) {
    struct probing *p;
    TRY(NEW(p, 1));
    p->node = n;
    TRY(probe_message_get(body, n_bytes, &p->asked));
    n->is_measuring = 1;
    if (n->rank == 0) {
        back_gather(n, FRAME_PROBED, 0);
        n->back.total_bytes = (uint64_t)n->size * PARTS;
        memset(n->back.loaded_bytes, 0, (size_t)n->size * sizeof *n->back.loaded_bytes);
    }
    TRY(probe_all(p)); /* the job ends: its other thread may go on with `p` */
    if (n->rank == 0) {
        n->back.total_bytes = 0;
        memset(n->back.loaded_bytes, 0, (size_t)n->size * sizeof *n->back.loaded_bytes);
    }
    n->is_measuring = 0;
    free(p->found.links);
    probe_message_free(&p->asked);
    free(p);
    return OK;
}
