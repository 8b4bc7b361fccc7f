#include "coordinator/load.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define POLL_MS 20
#define PAUSE_S 0.25 /* of a client that failed */
#define FAILURES_IN_ROW 10 /* and one of each client: then the server is gone */
#define FIRST_GUESS_S 1.0  /* to a first token, before there was one */
#define RECORDS_MAX (4u << 20)
#define STATUS_BUSY 429

enum slot_state { SLOT_FREE, SLOT_BUSY, SLOT_OVER };

/* A client of a closed loop, or room for one request of an open one. */
struct slot {
    struct load *load;
    enum slot_state state;
    struct call *call;
    struct client_end end;
    struct load_request request;
    struct load_answer answer;
    struct bytes body;
    double begin_s, first_s, last_s, end_s; /* last: of the newest chunk */
    double leave_s;         /* while it waits; infinite: it does not */
    uint32_t leave_chunks;  /* after so many; UINT32_MAX */
    double pause_until_s;
    err error;              /* of taking the answer */
};

struct load {
    const struct load_options *o;
    struct client *client;
    struct load_result *r;
    struct slot *slots;
    double start_s;   /* on the clock */
    double due_s;     /* of the next request of an open loop */
    double first_sum_s; /* of times to the first token, to guess when one that waits might leave */
    uint64_t n_firsts;
    uint32_t n_in_row; /* failures since something good came */
};

static double now_s(const struct load *l) { return clock_s() - l->start_s; }

/* ---- figures ---- */

static struct load_bin *bin_at(struct load_result *r, double at_s) {
    size_t i = at_s > 0 ? (size_t)(at_s / LOAD_BIN_S) : 0, n = r->bins.len / sizeof(struct load_bin);
    struct load_bin bin = {.n_under_way = r->n_under_way};
    for (; n <= i; n++)
        if (bytes_append(&r->bins, &bin, sizeof bin) != OK) return NULL;
    return (struct load_bin *)(void *)r->bins.data + i;
}

static struct load_failure *failure_of(struct load_result *r, const char *what) {
    for (uint32_t i = 0; i < r->n_failures; i++)
        if (strcmp(r->failures[i].what, what) == 0) return &r->failures[i];
    if (r->n_failures == LOAD_FAILURES_MAX) return &r->failures[LOAD_FAILURES_MAX - 1];
    struct load_failure *f = &r->failures[r->n_failures++];
    snprintf(f->what, sizeof f->what, "%s", r->n_failures == LOAD_FAILURES_MAX ? "others" : what);
    return f;
}

/* What and why; an answer's own problem says more than the transport's. */
static void count_failure(struct load *l, const struct slot *s) {
    static const char *const problems[] = {
        [LOAD_ERROR] = "error in the stream", [LOAD_MALFORMED] = "malformed stream", [LOAD_CUT_SHORT] = "cut short"};
    const struct load_answer *a = &s->answer;
    const char *reason = a->reason, *what = problems[a->problem];
    char status[32];
    snprintf(status, sizeof status, "HTTP %d", s->end.status);
    if (a->problem == LOAD_REFUSED) what = status;
    if (s->end.failure && a->problem != LOAD_ERROR) {
        what = s->end.is_late ? "deadline" : s->end.is_unreachable ? "unreachable" : "connection broken";
        reason = s->end.failure;
    }
    struct load_failure *f = failure_of(l->r, what);
    if (!f->n++) snprintf(f->reason, sizeof f->reason, "%s", reason);
    f->is_expected = s->end.status == STATUS_BUSY && l->o->rate > 0;
    l->r->n_failed++;
    l->r->n_unexpected += !f->is_expected;
    l->n_in_row = f->is_expected ? 0 : l->n_in_row + 1;
}

static err keep_record(struct load *l, const struct slot *s, enum load_outcome outcome) {
    const struct load_answer *a = &s->answer;
    struct load_record record = {
        .request = s->request, .outcome = outcome, .n_prompt = a->has_usage ? a->n_prompt : s->request.n_prompt,
        .n_cached = a->n_cached, .n_answer = a->n_answer > a->n_chunks ? a->n_answer : a->n_chunks,
        .n_chunks = a->n_chunks, .begin_s = s->begin_s, .first_s = s->first_s, .end_s = s->end_s};
    if (l->r->records.len / sizeof record >= RECORDS_MAX)
        return err_set(ERR_MEMORY, "more than %u requests in one run", RECORDS_MAX);
    if (l->o->keeps_text && outcome == LOAD_DONE) {
        TRY(NEW(record.text, a->text.len + 1));
        if (a->text.len) memcpy(record.text, a->text.data, a->text.len);
        record.n_text = a->text.len;
    }
    err e = bytes_append(&l->r->records, &record, sizeof record);
    if (e != OK) free(record.text);
    return e;
}

const struct load_record *load_records(const struct load_result *r, size_t *n) {
    *n = r->records.len / sizeof(struct load_record);
    return (const struct load_record *)(const void *)r->records.data;
}

void load_result_free(struct load_result *r) {
    size_t n;
    const struct load_record *records = load_records(r, &n);
    for (size_t i = 0; i < n; i++) free(records[i].text);
    bytes_free(&r->records);
    bytes_free(&r->gaps);
    bytes_free(&r->bins);
    *r = (struct load_result){0};
}

/* ---- one request ---- */

static void on_data(void *context, int status, const void *data, size_t n) {
    struct slot *s = context;
    struct load_result *r = s->load->r;
    double now = now_s(s->load);
    uint32_t n_before = s->answer.n_chunks;
    if (s->error == OK) s->error = load_answer_take(&s->answer, status, data, n);
    uint32_t n_new = s->answer.n_chunks - n_before;
    for (uint32_t i = n_before; i < s->answer.n_chunks && s->error == OK; i++) {
        float gap = (float)(now - s->last_s);
        if (i) s->error = bytes_append(&r->gaps, &gap, sizeof gap);
        else s->first_s = now;
        s->last_s = now;
    }
    if (!n_new) return;
    r->n_chunks += n_new;
    struct load_bin *bin = bin_at(r, now);
    if (bin) bin->n_chunks += n_new;
}

static void on_end(void *context, const struct client_end *end) {
    struct slot *s = context;
    s->end = *end;
    s->end_s = now_s(s->load);
    s->state = SLOT_OVER;
    load_answer_end(&s->answer, end->status);
}

static void plan_to_leave(struct load *l, struct slot *s) {
    double when = l->o->is_staying ? -1 : s->request.leaves;
    double first = l->n_firsts ? l->first_sum_s / (double)l->n_firsts : FIRST_GUESS_S;
    s->leave_s = INFINITY;
    s->leave_chunks = UINT32_MAX;
    if (when >= 0.5) s->leave_chunks = 1 + (uint32_t)((when - 0.5) * 2 * (s->request.n_answer - 1));
    else if (when >= 0) s->leave_s = s->begin_s + when * 2 * 2 * first; /* on average as the first token comes */
}

/* due_s: when it should have gone out; below 0: now. */
static err slot_start(struct load *l, struct slot *s, double due_s) {
    const struct load_options *o = l->o;
    uint64_t n = l->r->n_begun++;
    load_request_make(o->spec, o->indices ? o->indices[n] : o->index_begin + n, &s->request);
    load_answer_reset(&s->answer);
    s->body.len = 0;
    TRY(load_request_body(o->spec, &s->request, &s->body));
    s->begin_s = due_s < 0 ? now_s(l) : due_s;
    s->first_s = s->last_s = 0;
    s->error = OK;
    plan_to_leave(l, s);
    struct client_request r = {
        .path = "/v1/completions", .body = (const char *)s->body.data, .n_body = s->body.len,
        .deadline_s = o->deadline_s, .context = s, .on_data = on_data, .on_end = on_end};
    TRY(client_start(l->client, &r, &s->call));
    s->state = SLOT_BUSY;
    l->r->n_under_way++;
    return OK;
}

static err slot_end(struct load *l, struct slot *s, enum load_outcome outcome) {
    TRY(s->error);
    s->state = SLOT_FREE;
    l->r->n_under_way--;
    if (outcome == LOAD_FAILED) {
        count_failure(l, s);
        s->pause_until_s = s->end_s + PAUSE_S;
    } else {
        l->n_in_row = 0;
        l->r->n_done += outcome == LOAD_DONE;
        l->r->n_left += outcome == LOAD_LEFT;
    }
    if (s->first_s > 0) {
        l->first_sum_s += s->first_s - s->begin_s;
        l->n_firsts++;
    }
    struct load_bin *bin = bin_at(l->r, s->end_s);
    if (bin && outcome == LOAD_DONE) bin->n_done++;
    if (s->end_s > l->r->seconds) l->r->seconds = s->end_s;
    return keep_record(l, s, outcome);
}

static int is_leaving(const struct slot *s, double now) {
    return s->answer.n_chunks >= s->leave_chunks || (s->answer.n_chunks == 0 && now >= s->leave_s);
}

/* Those that are over, and those that leave now. */
static err collect(struct load *l) {
    double now = now_s(l);
    for (uint32_t i = 0; i < l->o->n_clients; i++) {
        struct slot *s = &l->slots[i];
        if (s->state == SLOT_OVER) {
            int is_good = !s->end.failure && s->answer.problem == LOAD_NO_PROBLEM;
            TRY(slot_end(l, s, is_good ? LOAD_DONE : LOAD_FAILED));
        } else if (s->state == SLOT_BUSY && is_leaving(s, now)) {
            client_cancel(l->client, s->call);
            s->end_s = now;
            TRY(slot_end(l, s, LOAD_LEFT));
        }
    }
    if (l->n_in_row >= l->o->n_clients + FAILURES_IN_ROW)
        return err_set(ERR_JOB, "gave up: %u requests in a row failed (%s: %s)", l->n_in_row,
                       l->r->failures[l->r->n_failures - 1].what, l->r->failures[l->r->n_failures - 1].reason);
    return OK;
}

/* ---- the loop ---- */

static int has_more(const struct load *l, double now) {
    return l->r->n_begun < l->o->n_requests && (l->o->duration_s <= 0 || now < l->o->duration_s);
}

/* Moments of a Poisson process: the times between them are exponential. */
static void next_due(struct load *l) {
    double random = load_random(l->o->spec->seed ^ UINT64_C(0x5ca1ab1e), l->r->n_begun, 0);
    l->due_s -= log1p(-random) / l->o->rate;
}

/* A free slot takes the next request; in an open loop when it is due, and it counts from then even where all
 * slots were busy. */
static err start_due(struct load *l) {
    double now = now_s(l);
    for (uint32_t i = 0; i < l->o->n_clients && has_more(l, now); i++) {
        struct slot *s = &l->slots[i];
        if (s->state != SLOT_FREE || (l->o->rate <= 0 && now < s->pause_until_s)) continue;
        if (l->o->rate <= 0) {
            TRY(slot_start(l, s, -1));
            continue;
        }
        if (l->due_s > now) break;
        l->r->n_delayed += now - l->due_s > 2e-3 * POLL_MS;
        TRY(slot_start(l, s, l->due_s));
        next_due(l);
    }
    return OK;
}

static int wait_ms(const struct load *l, double now) {
    if (l->o->rate <= 0 || l->r->n_under_way == l->o->n_clients || !has_more(l, now)) return POLL_MS;
    double wait = ceil((l->due_s - now) * 1000);
    return wait > POLL_MS ? POLL_MS : wait < 1 ? 1 : (int)wait;
}

static err loop(struct load *l) {
    for (;;) {
        TRY(start_due(l));
        double now = now_s(l);
        if (!l->r->n_under_way && !has_more(l, now)) return OK;
        TRY(client_poll(l->client, wait_ms(l, now)));
        TRY(collect(l));
        now = now_s(l);
        struct load_bin *bin = bin_at(l->r, now);
        if (bin) bin->n_under_way = l->r->n_under_way;
        if (l->o->on_tick) l->o->on_tick(l->o->context, l->r, now);
    }
}

err load_run(struct client *client, const struct load_options *o, struct load_result *out) {
    struct load l = {.o = o, .client = client, .r = out, .start_s = clock_s()};
    *out = (struct load_result){0};
    TRY(NEW(l.slots, o->n_clients));
    for (uint32_t i = 0; i < o->n_clients; i++) l.slots[i].load = &l;
    if (o->rate > 0) next_due(&l);
    err e = loop(&l);
    for (uint32_t i = 0; i < o->n_clients; i++) {
        struct slot *s = &l.slots[i];
        if (s->state == SLOT_BUSY) client_cancel(client, s->call);
        load_answer_free(&s->answer);
        bytes_free(&s->body);
    }
    free(l.slots);
    return e;
}
