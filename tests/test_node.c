/* Real jobs of nodes under mpirun, driven frame by frame by a coordinator of a few lines: the same results
 * for every grid, and what a job does when a rank, a plan, a step or the coordinator fails. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/clock.h"
#include "base/env.h"
#include "model/gguf.h"
#include "model/program.h"
#include "node/frame.h"

#define MODEL "tests/golden/llama-shards.f16.gguf"
#define PATIENCE_MS 30000
#define POCL "Portable Computing Language"

#define N_TOP 3

static uint32_t n_layers, n_vocab, dim; /* of MODEL */
static int must_probe;             /* the next job, before its plan */
static const char *device;         /* of the next job; NULL: plain C */
static const uint32_t *order;      /* of the next plan; NULL: rank i has cell i */
static uint32_t n_idle;            /* ranks of the next job that get no cell */
static const char *hosts;          /* of its ranks, "a,a,b"; NULL: all on this one */

/* A job, and the frame received last. */
struct job {
    pid_t mpirun;
    int fd, listen_fd;
    struct frame_header h;
    uint8_t *body; /* NUL-terminated */
    json_t *hello;
    uint32_t n_pongs, n_shards;
};

static void job_exec(int n_ranks, const char *path) {
    char n[12];
    snprintf(n, sizeof n, "%d", n_ranks);
    const char *binary = env_get("CARAVAN");
    env_set("OMPI_ALLOW_RUN_AS_ROOT", "1");
    env_set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
    env_set("ASAN_OPTIONS", "detect_leaks=0"); /* Open MPI leaks */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (!env_get("VERBOSE")) {
        int null_fd = open("/dev/null", O_WRONLY);
        if (null_fd < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0) _exit(126);
    }
    const char *args[24] = {"mpirun", "-n", n, "--oversubscribe", "--bind-to", "none", "--mca",
                            "mpi_yield_when_idle", "1", "--mca", "odls_base_sigkill_timeout", "0"};
    size_t at = 0;
    while (args[at]) at++;
    if (hosts) args[at++] = "tests/on_hosts";
    if (hosts) args[at++] = hosts;
    args[at++] = binary ? binary : "build/caravan";
    args[at++] = "node";
    args[at++] = "--socket";
    args[at] = path;
    execvp("mpirun", (char *const *)(uintptr_t)args);
    _exit(127);
}

static void job_start(struct job *j, int n_ranks) {
    static int n_jobs;
    *j = (struct job){.fd = -1};
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    char path[64];
    int n = snprintf(path, sizeof path, "@caravan-test-%d-%d", (int)getpid(), n_jobs++);
    memcpy(at.sun_path + 1, path + 1, (size_t)n - 1); /* abstract */
    j->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n);
    assert_int_equal(bind(j->listen_fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(listen(j->listen_fd, 1), 0);
    j->mpirun = fork();
    if (j->mpirun == 0) job_exec(n_ranks, path);
    struct pollfd p = {j->listen_fd, POLLIN, 0};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    j->fd = accept4(j->listen_fd, NULL, NULL, SOCK_CLOEXEC);
    assert_true(j->fd >= 0);
}

static int read_all(int fd, void *to, size_t n) {
    for (size_t at = 0; at < n;) {
        struct pollfd p = {fd, POLLIN, 0};
        if (poll(&p, 1, PATIENCE_MS) != 1) return 0;
        ssize_t got = read(fd, (uint8_t *)to + at, n - at);
        if (got <= 0) return 0;
        at += (size_t)got;
    }
    return 1;
}

/* The next frame's kind; 0 when the link closed. */
static uint32_t job_receive(struct job *j) {
    free(j->body);
    j->body = NULL;
    if (!read_all(j->fd, &j->h, sizeof j->h)) return 0;
    assert_int_equal(frame_check(&j->h), OK);
    j->body = malloc(j->h.n_bytes + 1);
    j->body[j->h.n_bytes] = 0;
    return read_all(j->fd, j->body, j->h.n_bytes) ? j->h.kind : 0;
}

static void job_write(struct job *j, const void *data, size_t n) {
    assert_int_equal(send(j->fd, data, n, MSG_NOSIGNAL), n);
}

static void job_send(struct job *j, enum frame_kind kind, uint32_t id, const char *body) {
    struct bytes b = {0};
    assert_int_equal(frame_put(&b, kind, id, body, strlen(body)), OK);
    job_write(j, b.data, b.len);
    bytes_free(&b);
}

/* Waits for mpirun; its exit code. Fails the test when that takes longer than limit_s. */
static int job_end(struct job *j, double limit_s) {
    int status = 0;
    double start = clock_s();
    if (j->fd >= 0) close(j->fd);
    close(j->listen_fd);
    while (waitpid(j->mpirun, &status, WNOHANG) == 0) {
        if (clock_s() - start > limit_s) {
            kill(j->mpirun, SIGKILL);
            waitpid(j->mpirun, &status, 0);
            fail_msg("the job had not ended after %g s", limit_s);
        }
        clock_sleep_us(5000);
    }
    free(j->body);
    json_decref(j->hello);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void job_plan(struct job *j, const char *model, uint32_t n_stages, uint32_t n_shards,
                     uint32_t deadline_ms) {
    uint32_t begin[8];
    float shares[64];
    uint32_t ranks[64];
    struct plan_device devices[64] = {0};
    for (uint32_t i = 0; i < n_stages * n_shards; i++) {
        ranks[i] = order ? order[i] : i;
        snprintf(devices[i].select, sizeof devices[i].select, "%s", device ? device : "");
    }
    for (uint32_t i = 0; i <= n_stages; i++) begin[i] = n_layers * i / n_stages;
    for (uint32_t i = 0; i < n_stages * n_shards; i++) shares[i] = 1.0f + (float)i / 2; /* unequal */
    struct plan_message m = {.n_stages = n_stages, .n_shards = n_shards, .layer_begin = begin,
                             .shares = shares, .order = ranks, .devices = devices, .rows_max = 32, .n_blocks = 16, .context_max = 256,
                             .deadline_ms = deadline_ms, .is_reference = !device};
    char *whole = realpath(model, NULL);
    snprintf(m.model, sizeof m.model, "%s", whole ? whole : model);
    free(whole);
    struct bytes json = {0};
    assert_int_equal(plan_message_put(&m, &json), OK);
    job_send(j, FRAME_PLAN, 0, (char *)json.data);
    bytes_free(&json);
}

/* Between hello and plan. Returns the signs of progress. */
static uint32_t job_ask(struct job *j, uint32_t n_ranks, int is_again, uint32_t turn, struct probed *p) {
    struct plan_device devices[8] = {0};
    struct probe_message m = {.is_again = is_again, .is_reference = !device, .deadline_ms = 20000, .turn = turn,
                              .n_turns = turn ? n_ranks : 0, .n_ranks = n_ranks, .devices = devices};
    m.has_format[FORMAT_F16] = 1;
    for (uint32_t i = 0; i < n_ranks; i++)
        snprintf(devices[i].select, sizeof devices[i].select, "%s", device ? device : "");
    struct bytes json = {0};
    uint32_t kind, n_signs = 0;
    assert_int_equal(probe_message_put(&m, &json), OK);
    job_send(j, FRAME_PROBE, 0, (char *)json.data);
    bytes_free(&json);
    for (; (kind = job_receive(j)) == FRAME_PROGRESS; n_signs++)
        assert_non_null(strstr((char *)j->body, "to_measure"));
    if (kind != FRAME_PROBED) fail_msg("frame %u: %s", kind, j->body ? (char *)j->body : "");
    assert_int_equal(probed_get((char *)j->body, j->h.n_bytes, p), OK);
    assert_int_equal(p->n_ranks, n_ranks);
    return n_signs;
}

/* Figures come from `again` or, as the job says, from before. */
static void job_probe(struct job *j, uint32_t n_ranks, int is_again) {
    struct probed p;
    uint32_t n_signs = job_ask(j, n_ranks, is_again, 0, &p);
    assert_true(n_signs > 0 || !is_again);
    for (uint32_t i = 0; i < n_ranks; i++) {
        const struct device_rates *r = &p.ranks[i].rates;
        assert_non_null(strstr(p.ranks[i].device, device ? device : "plain C"));
        assert_true(p.ranks[i].is_host && p.ranks[i].threads > 0);
        assert_int_equal(p.ranks[i].is_cached, !is_again);
        assert_true(r->read_per_s > 1e7 && r->launch_s > 0 && r->step_s > 0 && r->pack_per_s > 1e5);
        assert_true(r->row_per_s[FORMAT_F16] > 1e6 && r->products_per_s[FORMAT_F16] > 1e6);
        assert_true(r->few_per_s[FORMAT_F16] > 1e6);
        assert_true(r->row_per_s[FORMAT_Q8_0] == 0 && r->copy_per_s == 0);
        assert_int_equal(r->alone_per_s[FORMAT_F16] > 1e6, !is_again); /* kept from the turns between */
    }
    /* All ranks are of this host: its first two know how fast messages go inside. */
    assert_int_equal(p.ranks[0].n_links, n_ranks > 1);
    if (n_ranks > 1) {
        const struct probed_link *l = p.ranks[0].links;
        assert_int_equal(l->to, 1);
        assert_true(l->latency_s > 1e-8 && l->latency_s < 1 && l->bytes_per_s > 1e6 && l->back_per_s > 1e6);
        assert_int_equal(p.ranks[1].n_links, 0);
    }
    probed_free(&p);
}

/* Each measures while the others rest. */
static void job_turns(struct job *j, uint32_t n_ranks) {
    for (uint32_t turn = 1; turn <= n_ranks; turn++) {
        struct probed p;
        job_ask(j, n_ranks, 1, turn, &p);
        assert_true(p.ranks[turn - 1].rates.alone_per_s[FORMAT_F16] > 1e6 && p.ranks[turn - 1].n_links == 0);
        probed_free(&p);
    }
}

/* From mpirun to a loaded model. */
static void job_open(struct job *j, uint32_t n_stages, uint32_t n_shards, uint32_t deadline_ms) {
    uint32_t n_cells = n_stages * n_shards, n_ranks = n_cells + n_idle;
    job_start(j, (int)n_ranks);
    assert_int_equal(job_receive(j), FRAME_HELLO);
    j->hello = json_loads((char *)j->body, 0, NULL);
    assert_int_equal(json_array_size(j->hello), n_ranks);
    j->n_shards = n_shards;
    if (must_probe) job_probe(j, n_ranks, 1), job_turns(j, n_ranks), job_probe(j, n_ranks, 0);
    job_plan(j, MODEL, n_stages, n_shards, deadline_ms);
    uint32_t kind;
    while ((kind = job_receive(j)) == FRAME_PROGRESS) {}
    if (kind != FRAME_READY) fail_msg("frame %u: %s", kind, j->body ? (char *)j->body : "");
    json_t *ready = json_loads((char *)j->body, 0, NULL);
    assert_int_equal(json_array_size(ready), n_ranks);
    for (size_t i = 0; i < json_array_size(ready); i++) {
        json_t *o = json_array_get(ready, i);
        assert_int_equal(json_integer_value(json_object_get(o, "rank")), i);
        assert_int_equal(json_integer_value(json_object_get(o, "weight_bytes")) > 0, i < n_cells);
    }
    json_decref(ready);
}

/* Gone, or dead and not yet reaped by whoever inherited it. */
static int is_dead(pid_t pid) {
    char path[64], line[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (int i = 0; i < 100; i++) {
        FILE *f = fopen(path, "re");
        if (!f) return 1;
        const char *got = fgets(line, sizeof line, f), *after = got ? strrchr(line, ')') : NULL;
        fclose(f);
        if (after && after[2] == 'Z') return 1;
        clock_sleep_us(10000);
    }
    return 0;
}

static pid_t job_pid(const struct job *j, size_t rank) {
    return (pid_t)json_integer_value(json_object_get(json_array_get(j->hello, rank), "pid"));
}

/* Rows [begin, begin + n) of one sequence; `flags` say what is wanted of the last one. */
static void send_rows(struct job *j, uint32_t id, int32_t begin, uint32_t n, uint32_t flags, float temperature,
                      const struct step_edit *edits, uint32_t n_edits) {
    int32_t token[32], position[32], first[32] = {0}, table[8] = {3, 1, 4, 5, 9, 2, 6, 8};
    for (uint32_t i = 0; i < n; i++) {
        position[i] = begin + (int32_t)i;
        token[i] = (position[i] * 7 + 3) % (int32_t)n_vocab;
    }
    struct step_out out = {(int32_t)n - 1, flags, 5, temperature, 0, 1, 0, (uint32_t)begin + n, 99, 0, n_edits,
                           N_TOP, 0};
    struct step s = {n, 8, 1, n_edits, token, position, first, table, &out, edits};
    struct bytes b = {0};
    assert_int_equal(frame_put_step(&b, id, &s), OK);
    job_write(j, b.data, b.len);
    bytes_free(&b);
}

/* All that can be wanted. */
static void send_step(struct job *j, uint32_t id, int32_t begin, uint32_t n, float temperature,
                      const struct step_edit *edits, uint32_t n_edits) {
    send_rows(j, id, begin, n, OUT_SAMPLE | OUT_SCORE | OUT_LOGITS | OUT_HIDDEN, temperature, edits, n_edits);
}

/* Pongs may come between results: a ping is answered when it has come through every rank. */
static void expect_result(struct job *j, uint32_t id, struct result *r) {
    uint32_t kind;
    while ((kind = job_receive(j)) == FRAME_PONG) assert_int_equal(j->h.id, 1000 + ++j->n_pongs);
    if (kind != FRAME_RESULT) fail_msg("frame %u: %s", kind, j->body ? (char *)j->body : "");
    assert_int_equal(j->h.id, id);
    assert_int_equal(frame_get_result(j->body, j->h.n_bytes, r), OK);
    assert_int_equal(r->n_outs, 1);
    assert_int_equal(r->n_logit_rows, 1);
    assert_int_equal(r->n_vocab, n_vocab);
    assert_int_equal(r->n_hidden_rows, 1);
    assert_int_equal(r->dim, dim);
}

/* The row once more, for its hidden state alone: the same as beside the logits, `want`. */
static void check_hidden_alone(struct job *j, uint32_t id, int32_t position, const float *want) {
    struct result r;
    send_rows(j, id, position, 1, OUT_HIDDEN, 0, NULL, 0);
    assert_int_equal(job_receive(j), FRAME_RESULT);
    assert_int_equal(frame_get_result(j->body, j->h.n_bytes, &r), OK);
    assert_int_equal(r.n_logit_rows, 0);
    assert_int_equal(r.n_hidden_rows, 1);
    assert_int_equal(r.outs[0].token, -1);
    assert_int_equal(r.outs[0].n_top, 0);
    assert_memory_equal(r.hidden, want, dim * sizeof *want);
}

/* What a second reading adds to `before` fits into the time between the two. */
static void check_times(struct job *j, const json_t *before) {
    static const char *const parts[] = {"compute_s", "wait_s", "send_s", "share_s"};
    job_send(j, FRAME_GET_STATS, 8, "");
    assert_int_equal(job_receive(j), FRAME_STATS);
    json_t *after = json_loads((char *)j->body, 0, NULL);
    for (size_t i = 0; i < json_array_size(after); i++) {
        const json_t *a = json_array_get(before, i), *b = json_array_get(after, i);
        double seconds = json_real_value(json_object_get(b, "clock_s")) - json_real_value(json_object_get(a, "clock_s"));
        double sum = 0, busy = json_real_value(json_object_get(b, "compute_s"));
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            double more = json_real_value(json_object_get(b, parts[k])) - json_real_value(json_object_get(a, parts[k]));
            assert_true(more >= 0);
            sum += more;
        }
        assert_true(sum <= seconds + 1e-5); /* all are whole microseconds */
        double kinds = json_real_value(json_object_get(b, "one_row_s")) + json_real_value(json_object_get(b, "many_s"));
        double shared = json_real_value(json_object_get(b, "share_s")); /* also as shards agreed how to meet */
        assert_true(kinds > busy - 1e-5 && kinds < busy + shared + 1e-5); /* all steps were of the two kinds */
    }
    json_decref(after);
}

/* The host of a cell; names of hosts have one letter. */
static char cell_host(size_t cell) { return hosts[2 * (order ? order[cell] : cell)]; }

/* Whether a shard that stands next to this one in its stage is on the same host. */
static int has_neighbour(size_t cell, size_t n_shards) {
    return (cell % n_shards > 0 && cell_host(cell - 1) == cell_host(cell)) ||
           (cell % n_shards < n_shards - 1 && cell_host(cell + 1) == cell_host(cell));
}

/* A prompt of 32 rows, then more steps than the job may hold, sent at once. Appends all results. */
static void run_steps(struct job *j, struct bytes *out) {
    enum { STEPS = 12 };
    struct result r;
    send_step(j, 0, 0, 32, 0, NULL, 0);
    for (uint32_t i = 1; i < STEPS; i++) {
        send_step(j, i, 31 + (int32_t)i, 1, 0.8f, NULL, 0);
        if (i % 4 == 0) job_send(j, FRAME_PING, 1000 + i / 4, "");
    }
    for (uint32_t i = 0; i < STEPS; i++) {
        expect_result(j, i, &r);
        assert_in_range(r.outs[0].token, 0, n_vocab - 1);
        assert_int_equal(r.outs[0].n_top, N_TOP);
        for (uint32_t k = 1; k < N_TOP; k++) assert_true(r.tops[k - 1].logprob >= r.tops[k].logprob);
        assert_true(r.tops[0].logprob < 0 && isfinite(r.tops[N_TOP - 1].logprob));
        for (uint32_t k = 0; k < dim; k++) assert_true(isfinite(r.hidden[k]));
        assert_true(isfinite(r.outs[0].score) && r.outs[0].score < 0);
        bytes_append(out, j->body, j->h.n_bytes);
    }
    float *hidden = malloc(dim * sizeof *hidden); /* of the last row */
    memcpy(hidden, r.hidden, dim * sizeof *hidden);
    for (; j->n_pongs < (STEPS - 1) / 4; j->n_pongs++) assert_int_equal(job_receive(j), FRAME_PONG);
    check_hidden_alone(j, STEPS, 31 + STEPS - 1, hidden);
    free(hidden);
    job_send(j, FRAME_GET_STATS, 7, "");
    assert_int_equal(job_receive(j), FRAME_STATS);
    assert_int_equal(j->h.id, 7);
    json_t *stats = json_loads((char *)j->body, 0, NULL);
    assert_int_equal(json_array_size(stats), json_array_size(j->hello));
    for (size_t i = 0; i < json_array_size(stats); i++) {
        json_t *o = json_array_get(stats, i);
        assert_int_equal(json_integer_value(json_object_get(o, "rank")), i);
        int has_cell = i < json_array_size(stats) - n_idle;
        assert_int_equal(json_integer_value(json_object_get(o, "n_steps")), has_cell ? STEPS + 1 : 0);
        assert_true(json_integer_value(json_object_get(o, "peak_rss_bytes")) > 1 << 20);
        assert_int_equal(json_integer_value(json_object_get(o, "one_row_steps")), has_cell ? STEPS : 0);
        assert_int_equal(json_integer_value(json_object_get(o, "many_steps")), has_cell);
        assert_int_equal(json_integer_value(json_object_get(o, "many_rows")), has_cell ? 32 : 0);
        assert_int_equal(json_is_true(json_object_get(o, "has_board")),
                         has_cell && device && (hosts ? has_neighbour(i, j->n_shards) : j->n_shards > 1));
    }
    check_times(j, stats);
    json_decref(stats);
}

static int can_have_hosts(void) { return system("tests/on_hosts --check 2>/dev/null") == 0; }

/* In plain C shards meet by messages, on PoCL on a board; on several hosts on a board in each and by messages. */
static void test_every_grid_gives_the_same(void **state) {
    (void)state;
    static const struct {
        const char *device;
        uint32_t n_stages, n_shards, order[4], n_idle; /* order {0}: as the ranks come */
        const char *hosts;
    } grids[] = {{NULL, 1, 1, {0}, 0, NULL}, {NULL, 2, 1, {0}, 0, NULL}, {NULL, 1, 2, {0}, 0, NULL},
                 {NULL, 2, 2, {0}, 0, NULL}, {NULL, 1, 3, {0}, 0, NULL}, {POCL, 1, 2, {0}, 0, NULL},
                 {POCL, 1, 3, {0}, 0, NULL}, {POCL, 1, 4, {0}, 0, NULL}, {POCL, 2, 2, {0}, 0, NULL},
                 {NULL, 2, 2, {0, 3, 1, 2}, 0, NULL}, {NULL, 1, 1, {0}, 2, NULL}, {NULL, 2, 1, {0, 3}, 2, NULL},
                 {POCL, 1, 2, {0, 2}, 1, NULL}, {POCL, 2, 2, {0, 4, 5, 2}, 2, NULL},
                 {POCL, 1, 2, {0}, 0, "a,b"}, {POCL, 1, 3, {0}, 0, "a,b,b"}, {POCL, 1, 4, {0}, 0, "a,b,b,a"},
                 {POCL, 1, 4, {0, 2, 1, 3}, 0, "a,b,a,b"}, {POCL, 2, 2, {0}, 0, "a,b,a,b"},
                 {NULL, 1, 4, {0}, 0, "a,a,b,b"}};
    struct bytes first = {0};
    for (size_t g = 0; g < sizeof grids / sizeof *grids; g++) {
        struct job j;
        struct bytes all = {0};
        device = grids[g].device;
        order = grids[g].order[1] ? grids[g].order : NULL;
        n_idle = grids[g].n_idle;
        hosts = grids[g].hosts;
        if (hosts && !can_have_hosts()) {
            print_message("no host names of one's own here: %s is not tried\n", hosts);
            continue;
        }
        job_open(&j, grids[g].n_stages, grids[g].n_shards, 20000);
        run_steps(&j, &all);
        job_send(&j, FRAME_STOP, 0, "");
        assert_int_equal(job_receive(&j), 0); /* nothing more */
        assert_int_equal(job_end(&j, 5), 0);
        if (g == 0) first = all;
        assert_int_equal(all.len, first.len);
        assert_memory_equal(all.data, first.data, all.len);
        if (g) bytes_free(&all);
    }
    bytes_free(&first);
    device = hosts = NULL, order = NULL;
    n_idle = 0;
}

/* A device that was measured computes as one that was not, on as many threads. */
static void test_probed_and_planned(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct bytes results[2] = {0};
        device = i ? POCL : NULL;
        for (must_probe = 0; must_probe <= 1; must_probe++) {
            struct job j;
            job_open(&j, i ? 1 : 3, i ? 2 : 1, 20000);
            run_steps(&j, &results[must_probe]);
            job_send(&j, FRAME_STOP, 0, "");
            assert_int_equal(job_receive(&j), 0);
            assert_int_equal(job_end(&j, 5), 0);
        }
        assert_int_equal(results[0].len, results[1].len);
        assert_memory_equal(results[0].data, results[1].data, results[0].len);
        bytes_free(&results[0]);
        bytes_free(&results[1]);
    }
    device = NULL;
    must_probe = 0;
}

static void test_stop_before_plan(void **state) {
    (void)state;
    struct job j;
    job_start(&j, 3);
    assert_int_equal(job_receive(&j), FRAME_HELLO);
    job_send(&j, FRAME_PING, 5, "");
    assert_int_equal(job_receive(&j), FRAME_PONG);
    assert_int_equal(j.h.id, 5);
    job_send(&j, FRAME_STOP, 0, "");
    assert_int_equal(job_end(&j, 5), 0);
}

/* An error frame that holds `needle`, and the end of the job soon after. */
static void expect_failure(struct job *j, const char *needle) {
    char text[1000] = "";
    uint32_t kind;
    do kind = job_receive(j);
    while (kind && kind != FRAME_ERROR);
    assert_int_equal(kind, FRAME_ERROR);
    assert_int_equal(frame_error_get((char *)j->body, j->h.n_bytes, text, sizeof text), OK);
    if (!strstr(text, needle)) fail_msg("no \"%s\" in: %s", needle, text);
    assert_int_not_equal(job_end(j, 5), 0);
}

static void test_plans_that_cannot_be(void **state) {
    (void)state;
    struct job j;
    job_start(&j, 2);
    assert_int_equal(job_receive(&j), FRAME_HELLO);
    job_send(&j, FRAME_PLAN, 0, "{\"model\":");
    expect_failure(&j, "not JSON");

    job_start(&j, 2);
    assert_int_equal(job_receive(&j), FRAME_HELLO);
    job_plan(&j, "/nowhere/model.gguf", 2, 1, 20000);
    expect_failure(&j, "/nowhere/model.gguf");

    job_start(&j, 2);
    assert_int_equal(job_receive(&j), FRAME_HELLO);
    job_plan(&j, MODEL, 1, 3, 20000);
    expect_failure(&j, "needs 3 ranks, the job has 2");

    static const uint32_t twice[] = {0, 1, 1}, beyond[] = {0, 3, 1};
    for (int i = 0; i < 2; i++) {
        job_start(&j, 3);
        assert_int_equal(job_receive(&j), FRAME_HELLO);
        order = i ? twice : beyond;
        job_plan(&j, MODEL, 3, 1, 20000);
        order = NULL;
        expect_failure(&j, i ? "cell 2 to rank 1, which has one" : "cell 1 to rank 3, which has one or is none of 3");
    }

    job_start(&j, 1);
    assert_int_equal(job_receive(&j), FRAME_HELLO);
    job_send(&j, FRAME_GET_STATS, 0, "");
    expect_failure(&j, "before a plan");
}

static void test_bad_frames(void **state) {
    (void)state;
    struct job j;
    job_open(&j, 2, 2, 20000);
    job_send(&j, FRAME_STEP, 0, "no step");
    expect_failure(&j, "no counts");

    job_open(&j, 1, 2, 20000);
    static const uint8_t noise[64] = {1, 2, 3};
    job_write(&j, noise, sizeof noise);
    expect_failure(&j, "out of step");
}

/* A request that forbids every token gets none; the job goes on. */
static void test_forbidden_tokens(void **state) {
    (void)state;
    struct job j;
    struct result r;
    struct step_edit *edits = calloc(n_vocab, sizeof *edits);
    for (uint32_t i = 0; i < n_vocab; i++) edits[i] = (struct step_edit){(int32_t)i, -INFINITY, 1, 0};
    job_open(&j, 2, 1, 20000);
    send_step(&j, 0, 0, 4, 1, edits, n_vocab);
    expect_result(&j, 0, &r);
    assert_int_equal(r.outs[0].token, -1);
    assert_true(isfinite(r.logits[0])); /* before edits */
    send_step(&j, 1, 4, 1, 1, edits, n_vocab - 1);
    expect_result(&j, 1, &r);
    assert_int_equal(r.outs[0].token, n_vocab - 1);
    job_send(&j, FRAME_STOP, 0, "");
    assert_int_equal(job_end(&j, 5), 0);
    free(edits);
}

/* A stopped process is noticed by the pings alone, and it is the one that is named. */
static void test_stopped_rank(void **state) {
    (void)state;
    for (size_t rank = 1; rank < 4; rank++) {
        struct job j;
        char needle[64];
        job_open(&j, 2, 2, 1000);
        pid_t pid = job_pid(&j, rank);
        assert_int_equal(kill(pid, SIGSTOP), 0);
        double start = clock_s();
        for (int i = 0; clock_s() - start < 8; i++) {
            struct pollfd p = {j.fd, POLLIN, 0};
            struct bytes ping = {0};
            frame_put(&ping, FRAME_PING, (uint32_t)i, "", 0);
            if (send(j.fd, ping.data, ping.len, MSG_NOSIGNAL) < 0) i = 0; /* it has ended */
            bytes_free(&ping);
            if (poll(&p, 1, 200) == 1 && job_receive(&j) == FRAME_ERROR) break;
        }
        assert_true(clock_s() - start < 4);
        char text[1000] = "";
        assert_non_null(j.body);
        frame_error_get((char *)j.body, j.h.n_bytes, text, sizeof text);
        snprintf(needle, sizeof needle, " for rank %zu ", rank);
        if (!strstr(text, needle) || !strstr(text, "layers")) fail_msg("%s", text);
        assert_int_not_equal(job_end(&j, 5), 0);
        assert_true(is_dead(pid));
    }
}

static void test_stopped_gateway(void **state) {
    (void)state;
    struct job j;
    job_open(&j, 2, 1, 1000);
    pid_t pid = job_pid(&j, 0);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    int fd = j.fd;
    j.fd = -1; /* stays open: only the other rank can notice */
    assert_int_not_equal(job_end(&j, 8), 0);
    close(fd);
    assert_true(is_dead(pid));
}

/* One shard is stopped, the other waits for it on the board: in the midst of a step, on a thread of the
 * device. */
static void test_stopped_shard_on_board(void **state) {
    (void)state;
    struct job j;
    struct result r;
    device = POCL;
    job_open(&j, 1, 3, 1000);
    device = NULL;
    pid_t pid = job_pid(&j, 1);
    send_step(&j, 0, 0, 32, 0, NULL, 0);
    expect_result(&j, 0, &r);
    assert_int_equal(kill(pid, SIGSTOP), 0);
    double start = clock_s();
    send_step(&j, 1, 32, 1, 0, NULL, 0);
    char text[1000] = "";
    assert_int_equal(job_receive(&j), FRAME_ERROR);
    assert_true(clock_s() - start > 0.9 && clock_s() - start < 3);
    frame_error_get((char *)j.body, j.h.n_bytes, text, sizeof text);
    if (!strstr(text, "s for rank 1 (") || !strstr(text, "its partial sums of layer 0")) fail_msg("%s", text);
    assert_int_not_equal(job_end(&j, 5), 0);
    assert_true(is_dead(pid));
}

/* Two hosts of two shards each: each of the other shards is stopped in turn. Who shares its host, or else the first
 * of the other host's shards, names it; those who wait for what the two have to say are more patient. */
static void test_stopped_shard_of_two_hosts(void **state) {
    (void)state;
    if (!can_have_hosts()) skip();
    for (size_t rank = 1; rank < 4; rank++) {
        struct job j;
        struct result r;
        char needle[64], text[1000] = "";
        device = rank == 1 ? NULL : POCL;
        hosts = "a,a,b,b";
        job_open(&j, 1, 4, 1200);
        device = hosts = NULL;
        send_step(&j, 0, 0, 32, 0, NULL, 0);
        expect_result(&j, 0, &r);
        assert_int_equal(kill(job_pid(&j, rank), SIGSTOP), 0);
        send_step(&j, 1, 32, 1, 0, NULL, 0);
        assert_int_equal(job_receive(&j), FRAME_ERROR);
        frame_error_get((char *)j.body, j.h.n_bytes, text, sizeof text);
        snprintf(needle, sizeof needle, "s for rank %zu (host %c", rank, rank < 2 ? 'a' : 'b');
        if (!strstr(text, needle) || !strstr(text, "sums of layer 0")) fail_msg("%s", text);
        assert_int_not_equal(job_end(&j, 5), 0);
    }
}

/* The same with rank 0: who waits for it on the board cannot tell the coordinator, but ends the job. */
static void test_stopped_gateway_on_board(void **state) {
    (void)state;
    struct job j;
    struct result r;
    device = POCL;
    job_open(&j, 1, 2, 1000);
    device = NULL;
    pid_t pid = job_pid(&j, 0);
    send_step(&j, 0, 0, 32, 0, NULL, 0);
    expect_result(&j, 0, &r);
    for (uint32_t i = 1; i < 100; i++) send_step(&j, i, 31 + (int32_t)i, 1, 0, NULL, 0);
    expect_result(&j, 1, &r); /* the others are on their way */
    assert_int_equal(kill(pid, SIGSTOP), 0);
    int fd = j.fd;
    j.fd = -1;
    assert_int_not_equal(job_end(&j, 8), 0);
    close(fd);
    assert_true(is_dead(pid));
}

/* A shard dies while another waits for it on the board. */
static void test_killed_shard_on_board(void **state) {
    (void)state;
    for (size_t rank = 0; rank < 2; rank++) {
        struct job j;
        struct result r;
        device = POCL;
        job_open(&j, 1, 2, 60000);
        device = NULL;
        pid_t other = job_pid(&j, 1 - rank);
        send_step(&j, 0, 0, 32, 0, NULL, 0);
        expect_result(&j, 0, &r);
        for (uint32_t i = 1; i < 100; i++) send_step(&j, i, 31 + (int32_t)i, 1, 0, NULL, 0);
        expect_result(&j, 1, &r);
        assert_int_equal(kill(job_pid(&j, rank), SIGKILL), 0);
        assert_int_not_equal(job_end(&j, 5), 0);
        assert_true(is_dead(other));
    }
}

/* While steps go on, which it sees nothing of. */
static void test_stopped_rank_without_a_cell(void **state) {
    (void)state;
    struct job j;
    struct result r;
    n_idle = 1;
    job_open(&j, 2, 1, 1000);
    n_idle = 0;
    double start = clock_s();
    for (uint32_t i = 0; clock_s() - start < 3; i++) { /* longer than it waits for a sign of life */
        send_step(&j, i, 0, 32, 0, NULL, 0);
        expect_result(&j, i, &r);
        clock_sleep_us(20000);
    }
    assert_int_equal(kill(job_pid(&j, 2), SIGSTOP), 0);
    const struct frame_header ping = {FRAME_MAGIC, FRAME_PING, 1, 0};
    for (int i = 0; i < 20 && send(j.fd, &ping, sizeof ping, MSG_NOSIGNAL) > 0; i++) clock_sleep_us(100000);
    expect_failure(&j, "no layers) to answer a sign of life");
}

static void test_coordinator_gone(void **state) {
    (void)state;
    struct job j;
    job_open(&j, 2, 2, 60000);
    assert_int_not_equal(job_end(&j, 2), 0); /* closes the link first */
    job_start(&j, 3);
    assert_int_equal(job_receive(&j), FRAME_HELLO);
    assert_int_not_equal(job_end(&j, 2), 0);
}

static void test_coordinator_silent(void **state) {
    (void)state;
    struct job j;
    job_open(&j, 1, 2, 1000);
    expect_failure(&j, "coordinator sent nothing");
}

static double cpu_seconds(pid_t pid) {
    char path[64], line[1024] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(fgets(line, sizeof line, f));
    fclose(f);
    unsigned long user = 0, system = 0;
    const char *after = strrchr(line, ')');
    sscanf(after + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

static void test_idle_is_cheap(void **state) {
    (void)state;
    struct job j;
    n_idle = 1;
    job_open(&j, 2, 2, 20000);
    n_idle = 0;
    double before = 0, after = 0;
    for (size_t r = 0; r < 5; r++) before += cpu_seconds(job_pid(&j, r));
    for (uint32_t i = 0; i < 2; i++) {
        job_send(&j, FRAME_PING, i, "");
        assert_int_equal(job_receive(&j), FRAME_PONG);
        clock_sleep_us(1000000);
    }
    for (size_t r = 0; r < 5; r++) after += cpu_seconds(job_pid(&j, r));
    print_message("idle: %.3f cores per rank\n", (after - before) / 10);
    assert_true((after - before) / 10 < 0.1);
    job_send(&j, FRAME_STOP, 0, "");
    assert_int_equal(job_end(&j, 5), 0);
}

static int model_read(void **state) {
    (void)state;
    struct gguf *g;
    struct program *p;
    if (gguf_open(MODEL, &g) != OK || program_create(g, &p) != OK) return -1;
    n_layers = p->n_layers;
    n_vocab = p->n_vocab;
    dim = p->dim;
    program_free(p);
    gguf_close(g);
    return 0;
}

/* test_node [PATTERN] runs the tests whose names match; VERBOSE=1 shows what ranks say. */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_grid_gives_the_same),
        cmocka_unit_test(test_probed_and_planned),
        cmocka_unit_test(test_stop_before_plan),
        cmocka_unit_test(test_plans_that_cannot_be),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_forbidden_tokens),
        cmocka_unit_test(test_stopped_rank),
        cmocka_unit_test(test_stopped_gateway),
        cmocka_unit_test(test_stopped_shard_on_board),
        cmocka_unit_test(test_stopped_shard_of_two_hosts),
        cmocka_unit_test(test_stopped_gateway_on_board),
        cmocka_unit_test(test_killed_shard_on_board),
        cmocka_unit_test(test_stopped_rank_without_a_cell),
        cmocka_unit_test(test_coordinator_gone),
        cmocka_unit_test(test_coordinator_silent),
        cmocka_unit_test(test_idle_is_cheap),
    };
    return cmocka_run_group_tests(tests, model_read, NULL);
}
