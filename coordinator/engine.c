#include "coordinator/engine.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/log.h"
#include "coordinator/job_plan.h"
#include "coordinator/link.h"
#include "coordinator/numerics.h"
#include "coordinator/supervisor.h"

#define SECOND_US 1000000
#define LAUNCH_DEADLINE_S 60  /* from mpirun to the hello of all ranks, at least */
#define LOAD_DEADLINE_FACTOR 5 /* kernels are built between two signs of progress */
#define LEAVE_US (5 * SECOND_US)
#define CACHE_SENT_MB 15258 /* 16 GB */
#define LOOK_US (SECOND_US / 4) /* between two looks at the clock while waiting */
#define NODES_FIRST_US (5 * SECOND_US) /* the ranks' own deadlines name the peer: they go first */

struct engine {
    struct engine_options o;
    struct job_plan *job;
    enum payload payload;
    struct supervisor *supervisor; /* NULL inside an MPI launch */
    struct link_watch quiet;       /* the watch inside an MPI launch */
    struct link_watch opening;     /* beside it until the job is ready */
    struct link *link;
    struct engine_rank *ranks; /* [job->n_ranks]; by cells once the plan went out, then those without one */
    int is_planned;
    struct link_progress progress;
    uint32_t first_id, next_id;    /* of pending steps: [first_id, next_id) */
    int64_t begin_us, sent_us, heard_us, looked_us;
    double load_s;
    uint64_t n_stats; /* how often figures came */
    int is_asked;     /* for figures, which have not come yet */
    int is_failed;
    char error[1024]; /* of FRAME_ERROR */
};

static int inside_fd = -1, inside_ranks; /* set once by main */
static int inside_is_used, inside_is_stopped;

void engine_use_inside(int link_fd, int n_ranks) {
    inside_fd = link_fd;
    inside_ranks = n_ranks;
}

int engine_n_inside(void) { return inside_ranks; }
int engine_signal(void) { return supervisor_signal(); }
void engine_hold_signals(int is_held) { supervisor_hold_signals(is_held); }
int engine_take_signal(void) { return supervisor_take_signal(); }

int engine_leave_inside(void) {
    if (!inside_is_used && !inside_is_stopped) {
        struct bytes frame = {0};
        if (frame_put(&frame, FRAME_STOP, 0, "", 0) == OK)
            inside_is_stopped = write(inside_fd, frame.data, frame.len) == (ssize_t)frame.len;
        bytes_free(&frame);
    }
    if (inside_is_stopped) link_await_close(inside_fd, LEAVE_US);
    return inside_is_stopped;
}

/* Inside an MPI launch only signals need to be watched for. */
static err on_quiet_tick(void *context) {
    (void)context;
    if (!supervisor_is_interrupted()) return OK;
    return err_set(ERR_JOB, "interrupted by %s", strsignal(supervisor_signal()));
}

/* Who waits for the job may have had enough: that needs no explanation. */
static err on_opening_tick(void *engine) {
    struct engine *e = engine;
    err code = e->o.on_wait ? e->o.on_wait(e->o.context_of_opening) : OK;
    if (code != OK) e->is_failed = 1;
    return code;
}

/* ---- why it failed ---- */

/* `host` may be NULL: as the rank's hello said, if it came so far. */
static const char *rank_text(const struct engine *e, int rank, const char *host, char *out, size_t cap) {
    if (rank < 0 || (uint32_t)rank >= e->job->n_ranks) {
        snprintf(out, cap, "a rank");
        return out;
    }
    if (!host) host = e->ranks[rank].host;
    char layers[48] = "";
    const struct plan *plan = e->job->plan;
    if (e->is_planned && (uint32_t)rank < plan->n_ranks)
        snprintf(layers, sizeof layers, "layers %u-%u", plan->cells[rank].layer_begin, plan->cells[rank].layer_end);
    else if (e->is_planned)
        snprintf(layers, sizeof layers, "no layers");
    snprintf(out, cap, "rank %d (%s%s%s%s)", rank, *host ? "host " : "", host, *host && *layers ? ", " : "", layers);
    return out;
}

static void take_error(struct engine *e, const struct frame *f) {
    if (*e->error) return; /* the first one is the cause */
    json_t *root = json_loadb(f->body, f->n_bytes, 0, NULL);
    const char *text = "unknown error", *host = "?";
    int rank = -1;
    json_unpack(root, "{s?i, s?s, s?s}", "rank", &rank, "host", &host, "text", &text);
    char self[32];
    snprintf(self, sizeof self, "rank %d (", rank);
    if (strstr(text, self)) /* it names itself */
        snprintf(e->error, sizeof e->error, "%s", text);
    else
        snprintf(e->error, sizeof e->error, "rank %d (host %s): %s", rank, host, text);
    json_decref(root);
}

/* What the job had still said when it ended. */
static void drain(struct engine *e) {
    struct frame f;
    while (e->link && link_receive(e->link, 0, -1, &f) == OK)
        if (f.kind == FRAME_ERROR) take_error(e, &f);
}

/* The launcher counts ranks as it started them, the plan by cells. */
static int rank_of_launch(const struct engine *e, int rank) {
    for (uint32_t i = 0; e->is_planned && i < e->job->n_ranks; i++)
        if (e->job->order[i] == (uint32_t)rank) return (int)i;
    return rank;
}

/* A rank of this host that is stopped, or -1. */
static int find_stopped(const struct engine *e) {
    char here[256] = "", path[64], stat[512];
    gethostname(here, sizeof here - 1);
    for (uint32_t r = 0; r < e->job->n_ranks; r++) {
        if (strcmp(e->ranks[r].host, here) != 0) continue;
        snprintf(path, sizeof path, "/proc/%d/stat", e->ranks[r].pid);
        FILE *f = fopen(path, "re");
        size_t n = f ? fread(stat, 1, sizeof stat - 1, f) : 0;
        if (f) fclose(f);
        stat[n] = 0;
        const char *end = strrchr(stat, ')');
        if (end && (end[2] == 'T' || end[2] == 't')) return (int)r;
    }
    return -1;
}

static err explain_timeout(struct engine *e, const char *text) {
    char who[400];
    int rank = find_stopped(e);
    if (rank < 0) return err_set(ERR_TIMEOUT, "%s", text);
    return err_set(ERR_TIMEOUT, "%s does not answer: process %d is stopped",
                   rank_text(e, rank, e->ranks[rank].host, who, sizeof who), e->ranks[rank].pid);
}

static err explain_host(const struct engine *e, const char *host) {
    char who[400];
    for (uint32_t r = 0; r < e->job->n_ranks; r++)
        if (strcmp(e->ranks[r].host, host) == 0)
            return err_set(ERR_JOB, "host %s does not answer any more: %s is lost", host,
                           rank_text(e, (int)r, NULL, who, sizeof who));
    return err_set(ERR_JOB, "host %s does not answer any more", host);
}

/* Rank 0 of an allocation that this host, say a login node, is no part of. */
static const char *elsewhere_text(const struct engine *e, const struct verdict *v) {
    char here[256] = "";
    gethostname(here, sizeof here - 1);
    if (e->link || v->rank != 0 || strcmp(v->host, here) == 0) return "";
    return "; rank 0 must run on the host of this command: start it inside the allocation, "
           "by sbatch or srun --mpi=pmix";
}

static err explain_end(struct engine *e) {
    char who[400];
    struct verdict v;
    supervisor_wait(e->supervisor, 3 * SECOND_US);
    supervisor_verdict(e->supervisor, &v);
    if (v.kind == VERDICT_SIGNAL)
        return err_set(ERR_JOB, "%s was ended by signal %d (%s)",
                       rank_text(e, rank_of_launch(e, v.rank), v.host, who, sizeof who), v.number, strsignal(v.number));
    if (v.kind == VERDICT_HOST) return explain_host(e, v.host);
    if (*e->error) return err_set(ERR_JOB, "%s", e->error);
    const char *mpirun = e->o.config->mpirun;
    switch (v.kind) {
    case VERDICT_NODE:
        if (v.rank < 0) return err_set(ERR_JOB, "%s", v.text);
        return err_set(ERR_JOB, "rank %d (host %s): %s%s", v.rank, v.host, v.text, elsewhere_text(e, &v));
    case VERDICT_EXIT:
        return err_set(ERR_JOB, "%s ended with exit code %d: %s",
                       rank_text(e, rank_of_launch(e, v.rank), NULL, who, sizeof who), v.number,
                       *v.text ? v.text : "it gave no reason; --verbose shows what there is");
    case VERDICT_LAUNCHER_SIGNAL:
        return err_set(ERR_JOB, "the launcher %s was ended by signal %d (%s), and all ranks with it",
                       mpirun, v.number, strsignal(v.number));
    case VERDICT_LAUNCHER:
        return err_set(ERR_JOB, "the launcher %s ended with exit code %d%s%s", mpirun, v.number,
                       *v.text ? ": " : "", v.text);
    default:
        return err_set(ERR_JOB, "the job closed its link, and its launcher does not end");
    }
}

/* Turns the first failure into the line that names its cause. */
static err explain(struct engine *e, err code) {
    if (e->is_failed || (code != ERR_JOB && code != ERR_TIMEOUT)) return code;
    e->is_failed = 1;
    link_progress_clear(&e->progress);
    if (supervisor_is_interrupted()) return code;
    char text[sizeof e->error];
    snprintf(text, sizeof text, "%s", err_text()); /* to drain may fail, too */
    drain(e);
    if (code == ERR_TIMEOUT && !*e->error) return explain_timeout(e, text);
    if (e->supervisor) return explain_end(e);
    return err_set(*e->error ? ERR_JOB : code, "%s", *e->error ? e->error : text);
}

/* ---- frames ---- */

static int64_t deadline_us(const struct engine *e) {
    return (int64_t)(e->o.config->deadline_s * SECOND_US) + NODES_FIRST_US;
}

static err send_frame(struct engine *e, enum frame_kind kind, const void *body, size_t n) {
    e->sent_us = clock_us();
    return link_send(e->link, kind, 0, body, n);
}

/* How long to wait for a frame. */
struct patience {
    int64_t silence_us; /* of the job, before it counts as lost */
    int64_t until_us;   /* clock: then without a frame */
    int wake_fd;        /* the same while this is readable; -1: none */
    int pings;          /* one every second keeps the job from giving up on this side */
};

/* The job's silence is that of the time in which somebody listened: not of a suspended process, nor of a
 * caller that was busy with other things. */
static err check_silence(struct engine *e, const struct patience *p, int64_t now) {
    if (now - e->looked_us > SECOND_US) e->heard_us += now - e->looked_us;
    e->looked_us = now;
    if (now - e->heard_us > p->silence_us)
        return err_set(ERR_TIMEOUT, "no answer from the job for %.0f s; --deadline-s may raise the limit",
                       (double)(now - e->heard_us) * 1e-6);
    return p->pings && now - e->sent_us >= SECOND_US ? send_frame(e, FRAME_PING, "", 0) : OK;
}

/* The next frame other than pongs: *has_frame. Every wait for the job ends up here. */
static err frame_wait(struct engine *e, const struct patience *p, struct frame *out, int *has_frame) {
    *has_frame = 0;
    for (;;) {
        int64_t begin = clock_us(), left = p->until_us - begin;
        int64_t wait = left < LOOK_US ? left : LOOK_US;
        err code = link_receive(e->link, wait, p->wake_fd, out);
        int64_t now = clock_us();
        if (code == OK) {
            e->heard_us = e->looked_us = now;
            if (out->kind == FRAME_PONG) continue;
            *has_frame = out->kind != FRAME_ERROR;
            if (*has_frame) return OK;
            take_error(e, out);
            return err_set(ERR_JOB, "%s", e->error);
        }
        if (code != ERR_TIMEOUT) return code;
        TRY(check_silence(e, p, now));
        if (now >= p->until_us || now < begin + wait) return OK; /* the time is up, or it was woken */
    }
}

/* The next frame, however long that takes while the job shows signs of life. */
static err receive(struct engine *e, int64_t limit_us, int pings, struct frame *out) {
    const struct patience p = {limit_us, INT64_MAX, -1, pings};
    int has_frame = 0;
    while (!has_frame) TRY(frame_wait(e, &p, out, &has_frame));
    return OK;
}

static err expect(struct engine *e, enum frame_kind kind, int64_t limit_us, int pings,
                  struct frame *out) {
    TRY(receive(e, limit_us, pings, out));
    if (out->kind == kind) return OK;
    return err_set(ERR_INTERNAL, "the job sent frame %d where %d was expected", out->kind, kind);
}

static uint64_t field_u64(const json_t *o, const char *key) {
    json_int_t n = json_integer_value(json_object_get(o, key));
    return n > 0 ? (uint64_t)n : 0;
}

static double field_real(const json_t *o, const char *key) {
    return json_number_value(json_object_get(o, key));
}

static void field_text(const json_t *o, const char *key, char *out, size_t cap) {
    const char *text = json_string_value(json_object_get(o, key));
    if (text) snprintf(out, cap, "%s", text);
}

/* Fields that a frame does not carry stay as they were. */
static void rank_take(struct engine_rank *r, const json_t *o) {
    if (json_object_get(o, "pid")) r->pid = (int)field_u64(o, "pid");
    field_text(o, "host", r->host, sizeof r->host);
    field_text(o, "platform", r->platform, sizeof r->platform);
    field_text(o, "device", r->device, sizeof r->device);
    struct { const char *key; uint64_t *at; } counts[] = {
        {"memory_bytes", &r->memory_bytes}, {"weight_bytes", &r->weight_bytes},
        {"kv_bytes", &r->kv_bytes},         {"bytes_read", &r->bytes_read},
        {"bytes_streamed", &r->bytes_streamed}, {"bytes_from_cache", &r->bytes_from_cache},
        {"peak_rss_bytes", &r->peak_rss_bytes}, {"rss_bytes", &r->rss_bytes},
        {"n_steps", &r->n_steps},           {"bytes_sent", &r->bytes_sent},
        {"bytes_received", &r->bytes_received}, {"one_row_steps", &r->one_row_steps},
        {"many_steps", &r->many_steps}, {"many_rows", &r->many_rows}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (json_object_get(o, counts[i].key)) *counts[i].at = field_u64(o, counts[i].key);
    struct { const char *key; double *at; } times[] = {
        {"load_s", &r->load_s}, {"clock_s", &r->clock_s}, {"compute_s", &r->compute_s}, {"wait_s", &r->wait_s},
        {"send_s", &r->send_s}, {"share_s", &r->share_s}, {"one_row_s", &r->one_row_s}, {"many_s", &r->many_s}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        if (json_object_get(o, times[i].key)) *times[i].at = field_real(o, times[i].key);
}

/* An array with one object per rank. */
static err ranks_take(struct engine *e, const struct frame *f) {
    json_t *root = json_loadb(f->body, f->n_bytes, 0, NULL);
    size_t n = json_array_size(root);
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(root, i);
        uint64_t rank = field_u64(o, "rank");
        if (rank < e->job->n_ranks) rank_take(&e->ranks[rank], o);
    }
    json_decref(root);
    if (n == e->job->n_ranks) return OK;
    return err_set(ERR_JOB, "the job has %zu ranks, the plan %u", n, e->job->n_ranks);
}

/* ---- opening ---- */

/* Waits for a frame that comes after signs of progress; `keys`: how those are called, `what`: how it is shown. */
static err await(struct engine *e, enum frame_kind kind, const char *what, const char *const keys[2], struct frame *f) {
    for (;;) {
        TRY(receive(e, deadline_us(e) * LOAD_DEADLINE_FACTOR, 0, f));
        if (f->kind == kind) break;
        if (f->kind != FRAME_PROGRESS) continue;
        json_t *o = json_loadb(f->body, f->n_bytes, 0, NULL);
        uint64_t done = field_u64(o, keys[0]), total = field_u64(o, keys[1]);
        json_decref(o);
        link_progress_show(&e->progress, what, done, total, kind == FRAME_READY);
        if (kind == FRAME_READY && e->o.on_progress) e->o.on_progress(e->o.context_of_opening, done, total);
    }
    link_progress_clear(&e->progress);
    return OK;
}

/* Ranks may have another current folder, and another host other links at the same path. */
static err path_of_ranks(const char *path, int is_same_file, char *out, size_t cap) {
    char folder[PATH_MAX];
    char *whole = is_same_file ? realpath(path, NULL) : NULL;
    int n = whole || *path == '/' || !getcwd(folder, sizeof folder)
                ? snprintf(out, cap, "%s", whole ? whole : path) : snprintf(out, cap, "%s/%s", folder, path);
    free(whole);
    return (size_t)n < cap ? OK : err_set(ERR_CONFIG, "a path longer than %zu bytes: %.60s...", cap - 1, path);
}

/* A file that is at hand is as good as a copy of its slices; a network is not. */
static uint32_t cache_mb(const struct config *c, enum plan_weights weights) {
    if (!c->is_set[CONFIG_cache_gb]) return weights == WEIGHTS_SEND ? CACHE_SENT_MB : 0;
    double mb = c->cache_gb * 1e9 / (1 << 20);
    return c->cache_gb > 0 && mb < 1 ? 1 : (uint32_t)mb;
}

static err probe_once(struct engine *e) {
    static const char *const keys[] = {"measured", "to_measure"};
    struct bytes json = {0};
    struct frame f;
    err code = job_plan_ask(e->job, &json);
    if (code == OK) code = send_frame(e, FRAME_PROBE, json.data, json.len);
    bytes_free(&json);
    TRY(code);
    TRY(await(e, FRAME_PROBED, "measuring", keys, &f));
    return job_plan_answer(e->job, e->ranks, f.body, f.n_bytes);
}

static err probe(struct engine *e) {
    do TRY(probe_once(e));
    while (!e->job->is_measured);
    return OK;
}

/* What was chosen, where there was a choice; loud where a device stays out. */
static err plan_log(const struct engine *e) {
    struct bytes text = {0};
    err code = job_plan_print(e->job, &text);
    if (code == OK) (e->job->found.n_left_out ? log_warn : log_info)("plan", "%s", (const char *)text.data);
    bytes_free(&text);
    return code;
}

/* What a link between hosts carries in the time of its latency; 0: nobody knows. */
static uint32_t hop_bytes(const struct cluster *c) {
    double n = c->n_hosts > 1 ? c->between.latency_s * c->between.bytes_per_s : 0;
    return n < INT32_MAX ? (uint32_t)n : INT32_MAX;
}

static err send_plan(struct engine *e) {
    const struct plan *plan = e->job->plan;
    struct plan_message m = {
        .n_stages = plan->n_stages, .n_shards = plan->n_shards,
        .layer_begin = plan->layer_begin, .shares = plan->shares,
        .rows_max = plan->rows_max, .n_blocks = plan->n_blocks, .context_max = plan->context,
        .deadline_ms = (uint32_t)(e->o.config->deadline_s * 1000),
        .is_reference = e->o.is_reference, .payload = e->payload, .hop_bytes = hop_bytes(e->job->cluster)};
    struct bytes json = {0};
    err code = plan_weights_from_name(e->o.config->weights, &m.weights);
    m.cache_mb = cache_mb(e->o.config, m.weights);
    if (code == OK) code = path_of_ranks(e->o.model, m.weights != WEIGHTS_LOCAL, m.model, sizeof m.model);
    if (code == OK && *e->o.config->cache_dir)
        code = path_of_ranks(e->o.config->cache_dir, 0, m.cache_dir, sizeof m.cache_dir);
    if (code == OK) code = job_plan_cells(e->job, &m);
    if (code == OK) code = plan_message_put(&m, &json);
    if (code == OK) code = send_frame(e, FRAME_PLAN, json.data, json.len);
    bytes_free(&json);
    free(m.order);
    free(m.devices);
    return code;
}

/* From here on ranks count by cells. */
static err ranks_renumber(struct engine *e) {
    struct engine_rank *ranks;
    TRY(NEW(ranks, e->job->n_ranks));
    for (uint32_t i = 0; i < e->job->n_ranks; i++) ranks[i] = e->ranks[e->job->order[i]];
    free(e->ranks);
    e->ranks = ranks;
    e->is_planned = 1;
    return OK;
}

static err load(struct engine *e) {
    static const char *const keys[] = {"loaded_bytes", "total_bytes"};
    struct frame f;
    TRY(send_plan(e));
    TRY(ranks_renumber(e));
    TRY(await(e, FRAME_READY, "loading", keys, &f));
    return ranks_take(e, &f);
}

static err connect_inside(struct engine *e) {
    int fd = fcntl(inside_fd, F_DUPFD_CLOEXEC, 0); /* main closes its own */
    if (fd < 0) return err_set(ERR_INTERNAL, "no link to the node of this process");
    e->quiet = (struct link_watch){NULL, -1, NULL, on_quiet_tick, &e->opening};
    supervisor_catch_signals();
    inside_is_used = 1;
    return link_open(fd, &e->quiet, &e->link);
}

static err connect_launched(struct engine *e) {
    int fd = -1;
    double limit_s = e->o.config->deadline_s > LAUNCH_DEADLINE_S ? e->o.config->deadline_s : LAUNCH_DEADLINE_S;
    TRY(supervisor_start(e->o.config, &e->job->places, e->o.is_verbose, &e->supervisor));
    supervisor_watch(e->supervisor)->also = &e->opening;
    TRY(supervisor_accept(e->supervisor, (int64_t)(limit_s * SECOND_US), &fd));
    return link_open(fd, supervisor_watch(e->supervisor), &e->link);
}

/* To a job whose ranks have said hello. */
static err join(struct engine *e) {
    struct frame f;
    TRY(inside_ranks ? connect_inside(e) : connect_launched(e));
    e->heard_us = e->looked_us = clock_us();
    TRY(expect(e, FRAME_HELLO, deadline_us(e), 0, &f));
    TRY(ranks_take(e, &f));
    return job_plan_hello(e->job, e->ranks);
}

static err start(struct engine *e) {
    TRY(join(e));
    if (job_plan_must_probe(e->job)) TRY(probe(e));
    TRY(job_plan_make(e->job));
    TRY(plan_log(e));
    TRY(load(e));
    *(e->supervisor ? &supervisor_watch(e->supervisor)->also : &e->quiet.also) = NULL;
    e->load_s = (double)(clock_us() - e->begin_us) * 1e-6;
    return OK;
}

/* Before a job is started. */
static err settings_take(struct engine *e) {
    enum plan_weights weights;
    TRY(plan_weights_from_name(e->o.config->weights, &weights));
    return numerics_choose(e->o.config, &e->payload);
}

static err job_begin(const struct engine_options *o, struct job_plan **out) {
    const struct job_request r = {o->config, o->program, o->context, o->n_blocks, o->rows_max,
                                  (uint32_t)inside_ranks, o->is_reference, o->products};
    return job_plan_begin(&r, out);
}

err engine_foresee(const struct engine_options *o, struct engine_bounds *out) {
    struct job_plan *j;
    TRY(job_begin(o, &j));
    *out = (struct engine_bounds){j->n_stages, j->n_shards, j->n_ranks, job_plan_stages_max(j)};
    job_plan_free(j);
    return OK;
}

/* Before the launch. On failure there is nothing to close. */
static err prepare(const struct engine_options *o, struct engine **out) {
    struct engine *e;
    TRY(NEW(e, 1));
    e->o = *o;
    e->begin_us = clock_us();
    e->opening = (struct link_watch){e, -1, NULL, on_opening_tick, NULL};
    err code = settings_take(e);
    if (code == OK) code = job_begin(o, &e->job);
    if (code == OK) code = NEW(e->ranks, e->job->n_ranks);
    if (code == OK) *out = e;
    else engine_close(e);
    return code;
}

err engine_open(const struct engine_options *o, struct engine **out) {
    if (o->program->n_experts)
        return err_set(ERR_UNSUPPORTED, "%s is a mixture of experts, which can be planned but not run yet", o->model);
    struct engine *e;
    TRY(prepare(o, &e));
    err code = explain(e, start(e));
    if (code == OK) {
        *out = e;
        return OK;
    }
    e->is_failed = 1;
    engine_close(e);
    return code;
}

static err measure(struct engine *e) {
    TRY(join(e));
    return probe(e);
}

err engine_probe(const struct engine_options *o, struct cluster **out) {
    struct engine *e;
    TRY(prepare(o, &e));
    err code = explain(e, measure(e));
    e->is_failed = code != OK;
    if (code == OK) {
        *out = e->job->cluster;
        e->job->cluster = NULL;
    }
    engine_close(e);
    return code;
}

void engine_close(struct engine *e) {
    if (!e) return;
    link_progress_clear(&e->progress);
    if (e->link && !e->is_failed && send_frame(e, FRAME_STOP, "", 0) == OK &&
        link_flush(e->link, SECOND_US) == OK) {
        inside_is_stopped = 1;
        if (e->supervisor) supervisor_wait(e->supervisor, 5 * SECOND_US);
    }
    supervisor_free(e->supervisor);
    link_close(e->link);
    job_plan_free(e->job);
    free(e->ranks);
    free(e);
}

const struct plan *engine_plan(const struct engine *e) { return e->job->plan; }
const struct cluster *engine_cluster(const struct engine *e) { return e->job->cluster; }
const struct forecast *engine_forecast(const struct engine *e) { return e->job->found.forecast; }
uint32_t engine_n_ranks(const struct engine *e) { return e->job->n_ranks; }
double engine_load_s(const struct engine *e) { return e->load_s; }
uint32_t engine_depth(const struct engine *e) { return e->job->plan->n_stages + 1; }

/* ---- steps ---- */

err engine_submit(struct engine *e, const struct step *s) {
    e->sent_us = clock_us();
    return explain(e, link_send_step(e->link, e->next_id++, s));
}

uint32_t engine_n_pending(const struct engine *e) { return e->next_id - e->first_id; }

static err take_stats(struct engine *e, const struct frame *f) {
    e->is_asked = 0;
    e->n_stats++;
    return ranks_take(e, f);
}

static err take_result(struct engine *e, const struct frame *f, struct result *out) {
    if (f->kind != FRAME_RESULT || e->first_id == e->next_id)
        return err_set(ERR_INTERNAL, "the job sent frame %d where %s was expected", f->kind,
                       e->first_id == e->next_id ? "none" : "a result");
    if (f->id != e->first_id)
        return err_set(ERR_INTERNAL, "the result of step %u came, that of step %u was due", f->id, e->first_id);
    e->first_id++;
    return frame_get_result(f->body, f->n_bytes, out);
}

static err poll_result(struct engine *e, int64_t until_us, int wake_fd, struct result *out, int *has_result) {
    const struct patience p = {deadline_us(e), until_us, wake_fd, 1};
    struct frame f;
    *has_result = 0;
    for (;;) {
        int has_frame;
        TRY(frame_wait(e, &p, &f, &has_frame));
        if (!has_frame) return OK;
        if (f.kind == FRAME_STATS) {
            TRY(take_stats(e, &f));
            continue;
        }
        TRY(take_result(e, &f, out));
        *has_result = 1;
        return OK;
    }
}

err engine_poll(struct engine *e, int64_t timeout_us, struct result *out, int *has_result) {
    return explain(e, poll_result(e, clock_us() + timeout_us, e->o.wake_fd, out, has_result));
}

err engine_next(struct engine *e, struct result *out) {
    int has_result;
    return explain(e, poll_result(e, INT64_MAX, -1, out, &has_result));
}

/* ---- figures ---- */

/* One question at a time: an answer that is still to come will be as good. */
static err ask_stats(struct engine *e) {
    if (e->is_asked) return OK;
    e->is_asked = 1;
    return send_frame(e, FRAME_GET_STATS, "", 0);
}

err engine_ask_stats(struct engine *e) { return explain(e, ask_stats(e)); }

static err wait_stats(struct engine *e) {
    struct frame f;
    while (e->is_asked) {
        TRY(expect(e, FRAME_STATS, deadline_us(e), 1, &f));
        TRY(take_stats(e, &f));
    }
    return OK;
}

static err fresh_stats(struct engine *e) {
    TRY(wait_stats(e));
    TRY(ask_stats(e));
    return wait_stats(e);
}

err engine_stats(struct engine *e, const struct engine_rank **out) {
    *out = e->ranks;
    return explain(e, fresh_stats(e));
}

const struct engine_rank *engine_ranks(const struct engine *e, uint64_t *n_times) {
    if (n_times) *n_times = e->n_stats;
    return e->ranks;
}
