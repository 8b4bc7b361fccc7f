/* Setting up a node: hello, measuring where it is asked for (probe.c), the plan, loading, ready.
 *
 * Until all ranks are ready rank 0 speaks to each of them directly (WIRE_SETUP): a plan, then signs
 * of life, then "all are ready"; they answer on WIRE_BACK. A failure anywhere reaches the coordinator at
 * once, also while rank 0 itself loads. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/env.h"
#include "base/log.h"
#include "kernels/backend.h"
#include "node/allowance.h"
#include "node/node_parts.h"
#include "node/probe.h"

#define TELL_US 200000       /* between two signs of progress */
#define HELLO_DEADLINE_MS 60000 /* at least: hosts of a large job do not start together */
#define LOAD_DEADLINE_MS 10000  /* at least: opening a large model shows no sign of life */
#define PAUSE_MAX_US 1000
/* A rank takes that beside its cell: the program, the OpenCL driver and its compiler (75 MB with PoCL 3.1). */
#define RANK_BYTES (80ull << 20)
#define LOAD_PAUSE_US 1000

/* ---- hello ---- */

static err json_back(struct node *n, enum frame_kind kind, json_t *take) {
    char *text = take ? json_dumps(take, JSON_COMPACT) : NULL;
    json_decref(take);
    if (!text) return err_set(ERR_INTERNAL, "cannot write a control frame as JSON");
    err e = back_put(n, kind, 0, text, strlen(text));
    free(text);
    return e;
}

uint32_t setup_ranks_here(const struct node *n) {
    uint32_t n_here = 0;
    for (int i = 0; i < n->size; i++) n_here += strcmp(wire_host(n->w, i), wire_host(n->w, n->rank)) == 0;
    return n_here;
}

/* For what is planned: cells of this host. */
static uint64_t memory_for_cells(const struct node *n) {
    uint64_t all = allowance_bytes(""), beside = (uint64_t)setup_ranks_here(n) * RANK_BYTES;
    return all > beside + RANK_BYTES ? all - beside : all / 2;
}

static err hello_put(struct node *n) {
    cpu_set_t cores;
    int n_cores = sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
    return json_back(n, FRAME_HELLO,
                     json_pack("{s:i,s:s,s:i,s:i,s:I}", "rank", n->rank, "host",
                               wire_host(n->w, n->rank), "pid", (int)getpid(), "n_cores", n_cores,
                               "memory_bytes", (json_int_t)memory_for_cells(n)));
}

static err ready_put(struct node *n) {
    struct stage_sizes s = {0};
    if (n->stage) stage_sizes(n->stage, &s);
    return json_back(
        n, FRAME_READY,
        json_pack("{s:i,s:s,s:s,s:s,s:I,s:i,s:i,s:i,s:I,s:I,s:I,s:I,s:I,s:f}", "rank", n->rank, "host",
                  wire_host(n->w, n->rank), "platform", n->backend ? n->backend->platform : "", "device",
                  n->backend ? n->backend->device : "", "memory_bytes",
                  n->backend ? (json_int_t)n->backend->memory_bytes : 0,
                  "layer_begin", (int)n->cell.layer_begin, "layer_end", (int)n->cell.layer_end,
                  "shard", (int)n->cell.shard, "weight_bytes", (json_int_t)s.weight_bytes, "kv_bytes",
                  (json_int_t)s.kv_bytes, "bytes_read", (json_int_t)s.bytes_read, "bytes_streamed",
                  (json_int_t)s.bytes_streamed, "bytes_from_cache", (json_int_t)s.bytes_cached, "load_s",
                  (double)n->load_us / 1e6));
}

/* ---- rank 0 and the others ---- */

static int64_t setup_deadline_us(const struct node *n) {
    uint32_t ms = wire_deadline_ms(n->w);
    uint32_t least = n->program ? LOAD_DEADLINE_MS : HELLO_DEADLINE_MS;
    return (int64_t)(ms > least ? ms : least) * 1000;
}

/* Rank 0: the same frame to every other rank. */
static err tell_all(struct node *n, enum frame_kind kind, const void *body, size_t n_bytes) {
    struct bytes frame = {0};
    err e = frame_put(&frame, kind, 0, body, n_bytes);
    for (int i = 1; i < n->size && e == OK; i++)
        e = wire_put(n->w, i, WIRE_SETUP, frame.data, frame.len);
    bytes_free(&frame);
    return e;
}

err setup_go(struct node *n) { return tell_all(n, FRAME_READY, "", 0); }

/* Rank 0, now and then: the coordinator hears how far loading is, the others that rank 0 lives. */
static err tell_progress(struct node *n) {
    if (clock_us() - n->told_us < TELL_US) return OK;
    n->told_us = clock_us();
    uint64_t loaded = 0;
    for (int i = 0; i < n->size; i++) loaded += n->back.loaded_bytes[i];
    char text[96];
    int len = snprintf(text, sizeof text, n->is_measuring ? "{\"measured\":%lu,\"to_measure\":%lu}"
                                                          : "{\"loaded_bytes\":%lu,\"total_bytes\":%lu}",
                       loaded, n->back.total_bytes);
    TRY(gate_put(n->gate, FRAME_PROGRESS, 0, text, (size_t)len));
    return tell_all(n, FRAME_PING, "", 0);
}

/* Rank 0: blames the rank that has not answered and was not heard of for longest. */
static err check_missing(struct node *n, const char *what) {
    int worst = -1;
    for (int i = 1; i < n->size; i++)
        if (n->back.gather.text[i].len == 0 &&
            (worst < 0 || n->back.heard_us[i] < n->back.heard_us[worst]))
            worst = i;
    int64_t waited = worst < 0 ? 0 : wire_clock_us(n->w) - n->back.heard_us[worst];
    if (waited <= setup_deadline_us(n)) return OK;
    return wire_check_deadline(n->w, waited, worst, "%s", what);
}

err setup_gather(struct node *n, int is_long, const char *what) {
    int64_t start = clock_us();
    while (n->back.gather.n_missing > 0) {
        int is_busy;
        TRY(back_poll(n));
        TRY(weights_turn(n, &is_busy));
        /* Not after the last one answered: the coordinator has heard "ready". */
        if (is_long && n->back.gather.n_missing > 0) TRY(tell_progress(n));
        TRY(check_missing(n, what));
        if (!is_busy) wire_pause(n->w, clock_us() - start, weights_are_sent(n) ? WEIGHTS_PAUSE_US : PAUSE_MAX_US);
    }
    return OK;
}

/* Rank 0: the coordinator's next frame, passed on. Pings before it are answered. */
static err setup_from_coordinator(struct node *n, struct bytes *body, enum frame_kind *kind) {
    int64_t heard = wire_clock_us(n->w);
    for (;;) {
        TRY(back_poll(n));
        struct frame_header h;
        const uint8_t *frame = gate_frame(n->gate, &h);
        if (!frame) {
            if (wire_clock_us(n->w) - heard > setup_deadline_us(n))
                return err_set(ERR_TIMEOUT, "the coordinator sent no plan");
            gate_wait(n->gate, PAUSE_MAX_US);
            continue;
        }
        heard = wire_clock_us(n->w);
        *kind = (enum frame_kind)h.kind;
        if (h.kind != FRAME_PROBE && h.kind != FRAME_PLAN && h.kind != FRAME_PING && h.kind != FRAME_STOP)
            return err_set(ERR_INTERNAL, "frame %u came before a plan", h.kind);
        TRY(tell_all(n, *kind, frame + sizeof h, h.n_bytes));
        err e = h.kind == FRAME_PING ? gate_put(n->gate, FRAME_PONG, h.id, "", 0)
                                     : bytes_append(body, frame + sizeof h, h.n_bytes);
        gate_pop(n->gate);
        if (e != OK || h.kind != FRAME_PING) return e;
    }
}

err setup_receive(struct node *n, struct bytes *frame, struct frame_header *h) {
    int64_t heard = wire_clock_us(n->w);
    for (;;) {
        int from;
        TRY(wire_take(n->w, WIRE_SETUP, frame, &from));
        TRY(wire_progress(n->w));
        int64_t waited = wire_clock_us(n->w) - heard;
        if (from < 0) {
            n->is_rank_0_lost = waited > setup_deadline_us(n);
            if (n->is_rank_0_lost)
                return wire_check_deadline(n->w, waited, 0, "to go on with the set-up");
            wire_pause(n->w, waited, PAUSE_MAX_US);
            continue;
        }
        heard = wire_clock_us(n->w);
        if (frame->len < sizeof *h) return err_set(ERR_INTERNAL, "a set-up frame of %zu bytes", frame->len);
        memcpy(h, frame->data, sizeof *h);
        TRY(frame_check(h));
        if (h->kind != FRAME_PING) return OK;
    }
}

static err setup_from_rank_0(struct node *n, struct bytes *body, enum frame_kind *kind) {
    struct bytes frame = {0};
    struct frame_header h = {0};
    err e = setup_receive(n, &frame, &h);
    *kind = (enum frame_kind)h.kind;
    if (e == OK) e = bytes_append(body, frame.data + sizeof h, frame.len - sizeof h);
    bytes_free(&frame);
    return e;
}

/* What is to be measured before there is a plan, and the plan. */
static err plan_await(struct node *n) {
    struct bytes body = {0};
    enum frame_kind kind = FRAME_STOP;
    err e;
    do {
        body.len = 0;
        e = n->rank == 0 ? setup_from_coordinator(n, &body, &kind) : setup_from_rank_0(n, &body, &kind);
        if (e == OK && kind == FRAME_PROBE) e = probe_run(n, (const char *)body.data, body.len);
    } while (e == OK && kind == FRAME_PROBE);
    n->is_stopped = kind == FRAME_STOP;
    if (e == OK && kind == FRAME_PLAN) e = plan_message_get((const char *)body.data, body.len, &n->plan);
    else if (e == OK && !n->is_stopped) e = err_set(ERR_INTERNAL, "frame %d came in place of a plan", kind);
    bytes_free(&body);
    return e;
}

/* ---- the plan ---- */

/* From here on ranks count by cells. */
static err ranks_renumber(struct node *n) {
    const struct plan_message *m = &n->plan;
    uint64_t n_cells = (uint64_t)m->n_stages * m->n_shards;
    if (n_cells > (uint64_t)n->size)
        return err_set(ERR_JOB, "a plan of %u stages with %u shards needs %lu ranks, the job has %d",
                       m->n_stages, m->n_shards, n_cells, n->size);
    TRY(wire_renumber(n->w, m->order, (uint32_t)n_cells));
    n->n_cells = (int)n_cells;
    n->rank = wire_rank(n->w);
    if (n->rank != 0) log_identify(n->rank, wire_host(n->w, n->rank)); /* rank 0 stays so, and may have other threads */
    for (int i = 0; n->rank == 0 && i < n->size; i++) n->back.heard_us[i] = wire_clock_us(n->w);
    return OK;
}

static err cells_place(struct node *n) {
    const struct plan_message *m = &n->plan;
    uint32_t n_layers = n->program->n_layers;
    if (m->layer_begin[m->n_stages] != n_layers)
        return err_set(ERR_JOB, "the plan has %u layers, %s has %u", m->layer_begin[m->n_stages], m->model,
                       n_layers);
    for (int i = n->n_cells; i < n->size; i++) wire_describe(n->w, i, "no layers");
    for (int i = 0; i < n->n_cells; i++) {
        uint32_t stage = (uint32_t)i / m->n_shards, shard = (uint32_t)i % m->n_shards;
        struct cell c = {m->n_stages, m->n_shards, stage, shard, m->layer_begin[stage],
                         m->layer_begin[stage + 1], m->shares + (size_t)stage * m->n_shards};
        char place[48];
        int len = snprintf(place, sizeof place, "layers %u-%u", c.layer_begin, c.layer_end);
        if (m->n_shards > 1)
            snprintf(place + len, sizeof place - (size_t)len, ", shard %u", shard);
        wire_describe(n->w, i, place);
        if (i == n->rank) n->cell = c;
        uint64_t bytes = 0;
        if (n->rank == 0) TRY(stage_file_bytes(n->program, &c, &bytes));
        n->back.total_bytes += bytes;
    }
    n->first = (int)(n->cell.stage * m->n_shards);
    n->next = is_last_stage(n) ? -1 : n->rank + (int)m->n_shards;
    return OK;
}

/* A receive is posted for the largest step that the plan allows; what is not used of it takes no memory. */
static err slots_create(struct node *n) {
    const struct program *p = n->program;
    size_t cap = (frame_step_bytes_max(&n->limits) + 63) / 64 * 64 + (size_t)n->limits.rows_max * p->dim * 4;
    for (int i = 0; i < SLOTS; i++) {
        struct slot *s = &n->slots[i];
        s->receive = WIRE_NONE;
        s->n_bytes = cap;
        TRY(NEW(s->data, cap));
        TRY(NEW(s->sends, n->cell.n_shards + 1));
    }
    return OK;
}

/* ---- loading ---- */

/* Loading runs in a thread of its own, which touches neither MPI nor the link: kernels may compile
 * for many seconds, and meanwhile this rank goes on to show and to watch for signs of life. */
struct loading {
    struct node *node;
    pthread_t thread;
    atomic_ullong bytes_read;
    atomic_int is_done;
    err result;
    char text[1024]; /* error texts belong to a thread */
};

static void on_loaded(void *context, uint64_t bytes_read) {
    struct loading *l = context;
    unsigned long long known = atomic_load(&l->bytes_read);
    while (known < bytes_read && !atomic_compare_exchange_weak(&l->bytes_read, &known, bytes_read)) {}
}

/* PoCL takes every core that it may use, whoever else is on the host. Before its first call the ranks
 * of this host that may use the same cores share them by number. Once the device is open, and is threads
 * of this process (other drivers' may wait for each other and stand still on too few cores), each stays on its
 * own. A launcher that has given each rank its own is left alone, and so is the driver's setting. */
err setup_cores(struct node *n, uint32_t n_threads, int must_bind) {
    const char *set = env_get("POCL_MAX_PTHREAD_COUNT");
    uint32_t place, n_ranks;
    if (n->cores.is_bound) return OK; /* when the device was measured */
    if (!n_threads && set) n_threads = (uint32_t)strtoul(set, NULL, 10);
    wire_mates(n->w, &place, &n_ranks);
    struct cores c;
    if ((must_bind ? cores_take : cores_share)(place, n_ranks, n_threads, &c) != OK) {
        log_warn("node.cores", "text=\"%s\"", err_text());
        c = (struct cores){.n_threads = n_threads ? n_threads : 1, .text = "?"};
    }
    n->cores = c;
    n->cores.is_bound &= must_bind;
    if (must_bind)
        log_info("node.cores", "cores=%s bound=%s threads=%u", c.text, c.is_bound ? "yes" : "no", c.n_threads);
    char text[16];
    snprintf(text, sizeof text, "%u", c.n_threads);
    return env_set("POCL_MAX_PTHREAD_COUNT", text);
}

/* A compiler that stays in this process as long as its backend does would be held beside the
 * weights. A first backend fills the driver's cache and takes the compiler with it. */
static err kernels_compile(struct node *n) {
    const struct plan_device *d = &n->plan.devices[n->rank];
    const struct device_choice choice = {d->select, d->index, d->has_index};
    TRY(backend_opencl_choice(&choice, &n->backend));
    if (n->backend->can_call) TRY(setup_cores(n, d->threads, 1));
    TRY(stage_prepare(n->backend, n->program, &n->cell));
    if (!n->backend->keeps_compiler) return OK;
    n->backend->ops->destroy(n->backend);
    n->backend = NULL;
    mem_return_unused();
    return backend_opencl_choice(&choice, &n->backend);
}

static err load(struct loading *l) {
    struct node *n = l->node;
    const struct plan_message *m = &n->plan;
    const struct exchange exchange = meet_exchange(n);
    struct stage_limits limits = {m->rows_max, m->n_blocks, m->context_max};
    TRY(m->is_reference ? backend_reference(&n->backend) : kernels_compile(n));
    TRY(stage_create(n->backend, weights_source(n), n->program, &n->cell, &limits, &exchange, on_loaded, l,
                     &n->stage));
    if (!is_last_stage(n) || n->cell.shard != 0) return OK;
    TRY(sampler_create(n->program->n_vocab, &n->sampler));
    uint32_t rows = m->rows_max < STEP_OUTS_MAX ? m->rows_max : STEP_OUTS_MAX;
    return NEW(n->logits, (size_t)rows * n->program->n_vocab);
}

static void *load_thread(void *loading) {
    struct loading *l = loading;
    l->result = load(l);
    if (l->result != OK) snprintf(l->text, sizeof l->text, "%s", err_text());
    atomic_store(&l->is_done, 1);
    return NULL;
}

/* Rank 0 while it loads or measures: frames of the coordinator that cannot wait. */
static err load_link(struct node *n) {
    struct frame_header h;
    if (!gate_frame(n->gate, &h)) return OK;
    if (h.kind == FRAME_STOP) {
        n->is_reported = 1;
        return err_set(ERR_JOB, "stopped during the set-up");
    }
    if (h.kind != FRAME_PING) return OK;
    gate_pop(n->gate);
    return gate_put(n->gate, FRAME_PONG, h.id, "", 0);
}

err setup_watch(struct node *n, uint64_t done) {
    if (n->rank == 0) {
        n->back.loaded_bytes[0] = done;
        TRY(back_poll(n));
        TRY(load_link(n));
        return tell_progress(n);
    }
    TRY(wire_progress(n->w));
    if (clock_us() - n->told_us < TELL_US) return OK;
    n->told_us = clock_us();
    return back_put(n, FRAME_PROGRESS, 0, &done, sizeof done);
}

static err load_all(struct node *n) {
    int64_t start = clock_us();
    struct loading *l;
    TRY(setup_cores(n, n->plan.devices[n->rank].threads, 0));
    TRY(NEW(l, 1));
    l->node = n;
    if (pthread_create(&l->thread, NULL, load_thread, l) != 0) {
        free(l);
        return err_set(ERR_INTERNAL, "cannot start a thread that loads");
    }
    while (!atomic_load(&l->is_done)) {
        int is_busy;
        TRY(setup_watch(n, atomic_load(&l->bytes_read))); /* the job ends: the thread keeps `l` */
        TRY(weights_turn(n, &is_busy));
        if (!is_busy) clock_sleep_us(weights_are_sent(n) ? WEIGHTS_PAUSE_US : LOAD_PAUSE_US);
    }
    pthread_join(l->thread, NULL);
    err e = l->result;
    if (e != OK) err_set(e, "%s", l->text);
    if (e == OK) e = weights_finish(n);
    if (n->rank == 0) n->back.loaded_bytes[0] = atomic_load(&l->bytes_read);
    n->load_us = clock_us() - start;
    free(l);
    return e;
}

static err plan_obey(struct node *n) {
    const struct plan_message *m = &n->plan;
    wire_set_deadline(n->w, m->deadline_ms);
    TRY(ranks_renumber(n));
    if (!has_cell(n)) return OK;
    TRY(weights_open(n));
    TRY(program_create(n->gguf, &n->program));
    n->limits = (struct step_limits){m->rows_max, n->program->n_vocab, m->n_blocks, m->context_max};
    TRY(cells_place(n));
    TRY(slots_create(n));
    return load_all(n);
}

static err all_ready(struct node *n) {
    TRY(ready_put(n));
    if (n->rank == 0) TRY(setup_gather(n, 1, "to load its part of the model"));
    TRY(weights_close(n));
    if (n->rank == 0) return OK;
    struct bytes frame = {0};
    struct frame_header h = {0};
    err e = setup_receive(n, &frame, &h);
    bytes_free(&frame);
    if (e == OK && h.kind != FRAME_READY)
        e = err_set(ERR_INTERNAL, "frame %u came before all ranks were ready", h.kind);
    return e;
}

err node_setup(struct node *n) {
    if (n->rank == 0) back_gather(n, FRAME_HELLO, 0);
    TRY(hello_put(n));
    if (n->rank == 0) TRY(setup_gather(n, 0, "to say hello"));
    TRY(plan_await(n));
    if (n->is_stopped) return OK;
    if (n->rank == 0) back_gather(n, FRAME_READY, 0);
    TRY(plan_obey(n));
    TRY(all_ready(n));
    if (has_cell(n)) TRY(meet_begin(n));
    n->is_ready = 1;
    return OK;
}
