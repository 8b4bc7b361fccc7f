/* The loop of a node: take the next frame, compute, send on. */
#include "node/node.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "node/node_parts.h"

#define TIMER_SLACK_NS 5000    /* the kernel's 50 us would double the shortest sleeps */
#define BUSY_US 20000          /* after work, wait with short sleeps for so long */
#define PAUSE_BUSY_US 150
#define PAUSE_IDLE_US 1000
#define LOOK_LARGE_US 300      /* between two looks at messages while the device computes: at large ones, */
#define LOOK_FIRST_US 1000     /* on rank 0, where results of other steps pass through, */
#define LOOK_US 3000           /* and else: failures elsewhere; */
#define LOOK_ALONE_US 100000   /* of a sole rank, to whom nobody writes */
#define LARGE_BYTES 65536      /* beyond, MPI asks the receiver first (btl_tcp_eager_limit) */
#define GAP_MAX_US 1000000     /* steps that are further apart do not follow each other */
#define FLUSH_US 1000000
#define GRACE_US 3000000       /* for rank 0 to tell the coordinator and end the job */
#define GRACE_LOADING_US 15000000

err node_follow_parent(void) {
    pid_t parent = getppid();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
        return err_set(ERR_INTERNAL, "prctl: %s", strerror(errno));
    if (getppid() != parent) return err_set(ERR_JOB, "the launcher is gone");
    return OK;
}

/* ---- slots ---- */

static size_t hidden_at(const struct frame_header *h) {
    return (sizeof *h + h->n_bytes + 63) / 64 * 64;
}

/* Frees slots whose sends are done and posts receives, in the order of the ring. */
static err slots_turn(struct node *n) {
    for (int i = 0; i < SLOTS; i++) {
        struct slot *s = &n->slots[i];
        while (s->n_sends) {
            int is_done;
            TRY(wire_test(n->w, &s->sends[s->n_sends - 1], &is_done, NULL));
            if (!is_done) break;
            if (--s->n_sends == 0) s->is_busy = 0;
        }
    }
    if (n->rank == 0) return OK;
    int from = n->cell.stage == 0 ? 0 : n->rank - (int)n->cell.n_shards;
    for (struct slot *s = &n->slots[n->slot_post]; !s->is_busy; s = &n->slots[n->slot_post]) {
        TRY(wire_receive(n->w, from, WIRE_FORWARD, s->data, s->n_bytes, &s->receive));
        s->is_busy = 1;
        n->slot_post = (n->slot_post + 1) % SLOTS;
    }
    return OK;
}

/* The next message, or NULL. On rank 0 it is copied from the link: that is small, it has no rows. */
static err slot_next(struct node *n, struct slot **out, size_t *n_bytes) {
    struct slot *s = &n->slots[n->slot_head];
    *out = NULL;
    if (n->rank == 0) {
        struct frame_header h;
        const uint8_t *frame = gate_frame(n->gate, &h);
        if (!frame || s->is_busy) return OK;
        *n_bytes = sizeof h + h.n_bytes;
        if (*n_bytes > s->n_bytes)
            return err_set(ERR_INTERNAL, "a step of %zu bytes, the plan allows %zu", *n_bytes, s->n_bytes);
        memcpy(s->data, frame, *n_bytes);
        gate_pop(n->gate);
        s->is_busy = 1;
    } else {
        int is_done;
        if (s->receive == WIRE_NONE) return OK; /* still being sent on */
        TRY(wire_test(n->w, &s->receive, &is_done, n_bytes));
        if (!is_done) return OK;
    }
    n->slot_head = (n->slot_head + 1) % SLOTS;
    *out = s;
    return OK;
}

/* MPI moves large messages, and what a socket did not take at once, only while somebody looks; each look costs the
 * device some microseconds of its core. */
err node_look(struct node *n, int64_t *next_us) {
    int is_sending = 0;
    TRY(slots_turn(n));
    TRY(wire_progress(n->w));
    TRY(wire_poll(n->w));
    if (n->rank == 0) TRY(idle_watch(n)); /* a step may take longer than those without a cell wait */
    for (int i = 0; i < SLOTS; i++) is_sending |= n->slots[i].n_sends > 0;
    int64_t rarely_us = n->size == 1 ? LOOK_ALONE_US : n->back.n_in_flight > 1 ? LOOK_FIRST_US : LOOK_US;
    *next_us = is_sending || n->has_large ? LOOK_LARGE_US : rarely_us;
    return OK;
}

static err slot_send(struct node *n, struct slot *s, int to, size_t n_bytes) {
    TRY(wire_send(n->w, to, WIRE_FORWARD, (int)n->cell.layer_end, s->data, n_bytes, &s->sends[s->n_sends]));
    s->n_sends++;
    return OK;
}

/* ---- a step ---- */

/* Samples what the step wants; raw_logits and raw_hidden get copies of the rows that are sent back. */
static err outs_fill(struct node *n, const struct step *step, const float *hidden, struct result *r) {
    uint32_t n_vocab = n->program->n_vocab, dim = n->program->dim;
    n->raw_logits.len = n->raw_hidden.len = 0;
    *r = (struct result){.n_outs = step->n_outs, .n_vocab = n_vocab, .dim = dim, .outs = n->outs,
                         .tops = n->tops};
    for (uint32_t i = 0; i < step->n_outs; i++) {
        float *row = n->logits + (size_t)i * n_vocab;
        n->outs[i] = (struct result_out){.token = -1, .top_begin = r->n_tops};
        if (step->outs[i].flags & OUT_HIDDEN) {
            TRY(bytes_append(&n->raw_hidden, hidden + (size_t)i * dim, dim * sizeof *hidden));
            r->n_hidden_rows++;
        }
        if (!(step->outs[i].flags & OUT_OF_LOGITS)) continue; /* there may be none */
        if (step->outs[i].flags & OUT_LOGITS) {
            TRY(bytes_append(&n->raw_logits, row, n_vocab * sizeof *row));
            r->n_logit_rows++;
        }
        err e = sample_row(n->sampler, &step->outs[i], step->edits, row, n->tops + r->n_tops, &n->outs[i]);
        if (e != OK && e != ERR_REQUEST) return e; /* a request's mistake harms nobody else */
        n->outs[i].top_begin = r->n_tops;
        r->n_tops += n->outs[i].n_top;
    }
    r->logits = (const float *)(const void *)n->raw_logits.data;
    r->hidden = (const float *)(const void *)n->raw_hidden.data;
    return OK;
}

static err step_finish(struct node *n, uint32_t id, const struct step *step, const float *hidden) {
    struct result r;
    TRY(outs_fill(n, step, hidden, &r));
    n->result.len = 0;
    TRY(frame_put_result(&n->result, id, &r));
    return back_put_frame(n, &n->result);
}

/* Spent waiting for other shards of this stage, by message and on the board. */
static int64_t share_us(const struct node *n) {
    struct wire_counts c;
    wire_counts(n->w, &c);
    return c.share_wait_us + (n->board ? board_waited_us(n->board) : 0);
}

static void tally_step(struct node *n, uint32_t n_rows, int64_t us, int64_t shared_us) {
    struct step_tally *kind = n_rows == 1 ? &n->tally.one_row : &n->tally.many;
    n->tally.busy_us += us - shared_us;
    kind->n_steps++;
    kind->n_rows += n_rows;
    kind->us += us;
}

static err step_run(struct node *n, struct slot *s, const struct frame_header *h, size_t n_bytes) {
    struct step step;
    TRY(frame_get_step(s->data + sizeof *h, h->n_bytes, &n->limits, &step));
    size_t rows_bytes = (size_t)step.n_rows * n->program->dim * sizeof(float);
    size_t expected = n->cell.stage ? hidden_at(h) + rows_bytes : sizeof *h + h->n_bytes;
    if (n_bytes != expected)
        return err_set(ERR_INTERNAL, "a step of %zu bytes came where %zu were expected", n_bytes, expected);
    if (n->rank == 0) {
        back_step(n);
        for (uint32_t i = 1; i < n->cell.n_shards; i++) TRY(slot_send(n, s, (int)i, n_bytes));
    }
    int64_t start = clock_us(), shared_us = share_us(n);
    float *hidden = (float *)(void *)(s->data + hidden_at(h));
    TRY(stage_run(n->stage, &step, hidden, n->logits));
    if (n->next >= 0) TRY(slot_send(n, s, n->next, hidden_at(h) + rows_bytes));
    else if (n->cell.shard == 0) TRY(step_finish(n, h->id, &step, hidden));
    tally_step(n, step.n_rows, clock_us() - start, share_us(n) - shared_us);
    return OK;
}

/* ---- other frames ---- */

/* Of this process, now and at most so far. */
static void rss_bytes(uint64_t *now, uint64_t *peak) {
    FILE *f = fopen("/proc/self/status", "re");
    char line[256];
    uint64_t n;
    *now = *peak = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "VmHWM: %lu", &n) == 1) *peak = n * 1024;
        if (sscanf(line, "VmRSS: %lu", &n) == 1) *now = n * 1024;
    }
    if (f) fclose(f);
}

err stats_put(struct node *n, uint32_t id) {
    const struct tally *t = &n->tally;
    struct wire_counts c;
    uint64_t rss, peak_rss;
    wire_counts(n->w, &c);
    rss_bytes(&rss, &peak_rss);
    json_t *o = json_pack(
        "{s:i,s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:I,s:I,s:f,s:I,s:I,s:f,s:I,s:I,s:b}", "rank", n->rank,
        "peak_rss_bytes", (json_int_t)peak_rss, "rss_bytes", (json_int_t)rss,
        "clock_s", (double)clock_us() / 1e6, "compute_s", (double)t->busy_us / 1e6, "wait_s", (double)t->wait_us / 1e6,
        "send_s", (double)t->send_us / 1e6, "share_s", (double)share_us(n) / 1e6,
        "n_steps", (json_int_t)(t->one_row.n_steps + t->many.n_steps),
        "one_row_steps", (json_int_t)t->one_row.n_steps, "one_row_s", (double)t->one_row.us / 1e6,
        "many_steps", (json_int_t)t->many.n_steps, "many_rows", (json_int_t)t->many.n_rows,
        "many_s", (double)t->many.us / 1e6,
        "bytes_sent", (json_int_t)c.bytes_sent, "bytes_received", (json_int_t)c.bytes_received,
        "has_board", n->board != NULL);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!text) return err_set(ERR_MEMORY, "cannot write the figures of this rank");
    err e = back_put(n, FRAME_STATS, id, text, strlen(text));
    free(text);
    return e;
}

/* A frame that every rank sees: passed on first, then obeyed. */
static err control_run(struct node *n, const struct frame_header *h) {
    for (uint32_t i = 1; n->rank == 0 && i < n->cell.n_shards; i++)
        TRY(wire_put(n->w, (int)i, WIRE_FORWARD, h, sizeof *h));
    if (n->next >= 0) TRY(wire_put(n->w, n->next, WIRE_FORWARD, h, sizeof *h));
    if (n->rank == 0 && h->kind != FRAME_PING) TRY(idle_tell(n, h));
    if (h->kind == FRAME_STOP) n->is_stopped = 1;
    if (h->kind == FRAME_GET_STATS) return stats_put(n, h->id);
    if (h->kind == FRAME_PING && is_last_stage(n)) return back_put(n, FRAME_PONG, h->id, "", 0);
    return OK;
}

static err frame_run(struct node *n, struct slot *s, size_t n_bytes) {
    struct frame_header h;
    if (n_bytes < sizeof h) return err_set(ERR_INTERNAL, "a message of %zu bytes", n_bytes);
    memcpy(&h, s->data, sizeof h);
    TRY(frame_check(&h));
    if (n_bytes - sizeof h < h.n_bytes)
        return err_set(ERR_INTERNAL, "a frame of %u bytes has %zu", h.n_bytes, n_bytes - sizeof h);
    err e;
    switch (h.kind) {
    case FRAME_STEP: e = step_run(n, s, &h, n_bytes); break;
    case FRAME_PING:
        if (n->rank == 0 && !back_ping(n, h.id)) e = OK; /* the peers are already late */
        else e = control_run(n, &h);
        break;
    case FRAME_GET_STATS:
        if (n->rank == 0) back_gather(n, FRAME_STATS, h.id);
        e = control_run(n, &h);
        break;
    case FRAME_STOP: e = control_run(n, &h); break;
    default: e = err_set(ERR_INTERNAL, "frame %u came after the plan", h.kind);
    }
    s->is_busy = s->n_sends > 0;
    return e;
}

/* ---- waiting ---- */

/* A rank that hears nothing ends. A quarter more than the shards' waits, and later stages
 * later, so that the neighbour of the rank at fault is the first to speak. */
static int64_t lease_us(const struct node *n, uint32_t stage) {
    return (int64_t)wire_deadline_ms(n->w) * 1250 + ((int64_t)stage + (n->rank != 0)) * 100000;
}

static err check_lease(struct node *n) {
    int64_t now = wire_clock_us(n->w), waited = now - n->heard_us;
    int stage = (int)n->cell.stage, n_shards = (int)n->cell.n_shards;
    int missing = n->rank == 0 ? back_missing(n) : -1;
    if (missing >= 0) { /* the coordinator may rightly be waiting too */
        waited = now - n->back.waiting_us;
        if (waited <= lease_us(n, n->cell.n_stages + 1)) return OK;
        return wire_check_deadline(n->w, waited, missing, "for the answer to a %s",
                                   n->back.n_in_flight ? "step" : "ping");
    }
    if (waited <= lease_us(n, n->cell.stage)) return OK;
    if (n->rank == 0)
        return err_set(ERR_TIMEOUT, "%s: the coordinator sent nothing for %.3g s", wire_name(n->w, 0),
                       (double)waited / 1e6);
    n->is_rank_0_lost = n->rank == n_shards || stage == 0; /* the rank before is rank 0 */
    if (stage == 0) return wire_check_deadline(n->w, waited, 0, "for the next step");
    return wire_check_deadline(n->w, waited, n->rank - n_shards, "for the step's rows at layer %u",
                               n->cell.layer_begin);
}

static void node_pause(struct node *n) {
    int is_busy = n->rank == 0 && n->back.n_in_flight > 0;
    int64_t waited = wire_clock_us(n->w) - (is_busy ? n->back.waiting_us : n->heard_us);
    if (n->rank != 0) is_busy = waited < BUSY_US || waited < 2 * n->gap_us;
    if (n->rank == 0 && !is_busy && n->size == 1)
        gate_wait(n->gate, PAUSE_IDLE_US * 100); /* nobody else can have something to say */
    else if (n->rank == 0 && !is_busy)
        gate_wait(n->gate, waited < BUSY_US ? PAUSE_BUSY_US : PAUSE_IDLE_US);
    else
        wire_pause(n->w, waited, is_busy ? PAUSE_BUSY_US : PAUSE_IDLE_US);
}

/* Whether a message may be there that no slot is free for. */
static int is_held_up(const struct node *n) {
    const struct slot *s = &n->slots[n->slot_head];
    struct frame_header h;
    return s->n_sends > 0 && (n->rank != 0 || gate_frame(n->gate, &h) != NULL);
}

static void tally_idle(struct node *n, int64_t *since) {
    int64_t now = clock_us();
    *(is_held_up(n) ? &n->tally.send_us : &n->tally.wait_us) += now - *since;
    *since = now;
}

static err node_loop(struct node *n) {
    int64_t since = clock_us();
    n->heard_us = wire_clock_us(n->w);
    while (!n->is_stopped || (n->rank == 0 && n->back.n_in_flight)) {
        struct slot *s = NULL;
        size_t n_bytes = 0;
        TRY(slots_turn(n));
        TRY(wire_progress(n->w));
        if (n->rank == 0) TRY(back_poll(n));
        if (n->rank == 0) TRY(idle_watch(n));
        if (!n->is_stopped) TRY(slot_next(n, &s, &n_bytes));
        if (!s) {
            TRY(check_lease(n));
            node_pause(n);
            tally_idle(n, &since);
            continue;
        }
        n->tally.wait_us += clock_us() - since;
        int64_t gap = wire_clock_us(n->w) - n->heard_us;
        n->gap_us = gap < GAP_MAX_US ? gap : 0;
        n->has_large = n_bytes > LARGE_BYTES;
        TRY(frame_run(n, s, n_bytes));
        since = clock_us();
        n->heard_us = wire_clock_us(n->w);
    }
    return OK;
}

/* ---- the end ---- */

/* Everything that was sent has left, and no receive is posted any more. */
static err node_settle(struct node *n) {
    int64_t start = clock_us();
    TRY(wire_drain(n->w));
    for (int i = 0; i < SLOTS; i++) {
        struct slot *s = &n->slots[i];
        if (!s->data) continue;
        wire_cancel(n->w, &s->receive);
        while (s->n_sends) {
            int is_done;
            TRY(wire_test(n->w, &s->sends[s->n_sends - 1], &is_done, NULL));
            if (is_done) s->n_sends--;
            else wire_pause(n->w, clock_us() - start, PAUSE_IDLE_US);
        }
    }
    if (n->gate) gate_flush(n->gate, FLUSH_US);
    return OK;
}

/* One line here, the text to the coordinator. Other ranks then wait for rank 0 to end the job, as
 * it would be too late for their text once they had. */
static void node_fail(struct node *n, err code) {
    char text[900];
    if (n->is_reported) return;
    snprintf(text, sizeof text, "%s", *err_text() ? err_text() : err_name(code));
    log_error("failed:", "%s", text);
    struct bytes json = {0}, frame = {0};
    if (frame_error_put(n->rank, wire_host(n->w, n->rank), code, text, &json) == OK &&
        frame_put(&frame, FRAME_ERROR, 0, json.data, json.len) == OK) {
        if (n->gate) {
            gate_put_bytes(n->gate, frame.data, frame.len);
            gate_flush(n->gate, FLUSH_US);
        } else if (n->rank != 0 && !n->is_rank_0_lost &&
                   wire_put(n->w, 0, WIRE_BACK, frame.data, frame.len) == OK) {
            int64_t start = clock_us(), grace = n->is_ready ? GRACE_US : GRACE_LOADING_US;
            while (clock_us() - start < grace && wire_progress(n->w) == OK)
                clock_sleep_us(PAUSE_IDLE_US);
        }
    }
    bytes_free(&json);
    bytes_free(&frame);
}

static void node_free(struct node *n) {
    for (int i = 0; i < SLOTS; i++) {
        free(n->slots[i].data);
        free(n->slots[i].sends);
    }
    stage_free(n->stage);
    if (n->backend) n->backend->ops->destroy(n->backend);
    board_free(n->board);
    meet_free(n->meet);
    sampler_free(n->sampler);
    free(n->logits);
    program_free(n->program);
    gguf_close(n->gguf);
    plan_message_free(&n->plan);
    bytes_free(&n->raw_logits);
    bytes_free(&n->raw_hidden);
    bytes_free(&n->result);
    back_free(n);
    gate_free(n->gate);
    free(n);
}

err node_run(struct wire *w, int link_fd) {
    struct node *n;
    TRY(NEW(n, 1));
    n->w = w;
    n->rank = wire_rank(w);
    n->size = wire_size(w);
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    err e = n->rank == 0 ? gate_open(link_fd, &n->gate) : OK;
    if (e == OK) e = back_init(n);
    if (e == OK && n->rank == 0) wire_on_wait(w, back_poll, n);
    if (e == OK) e = node_setup(n);
    if (e == OK && !n->is_stopped) e = has_cell(n) ? node_loop(n) : idle_run(n);
    if (e == OK) e = node_settle(n);
    if (e != OK) {
        node_fail(n, e);
        gate_free(n->gate); /* the rest may still be MPI's; the process ends */
        return e;
    }
    wire_on_wait(w, NULL, NULL);
    node_free(n);
    return OK;
}
