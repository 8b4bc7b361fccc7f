#include "coordinator/supervisor.h"

#include <ctype.h>
#include <linux/close_range.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"
#include "coordinator/args.h"

#define LINE_BYTES 1500
#define WARNINGS_MAX 32
#define END_POLITELY_US 3000000
#define END_HARD_US 5000000

struct supervisor {
    pid_t pid;      /* of mpirun; 0 once reaped */
    int status;     /* of waitpid, once reaped */
    int listen_fd;
    char dir[128], path[160]; /* of the socket; "" once removed */
    int is_verbose, is_connected;
    struct link_watch watch;
    char line[LINE_BYTES];
    size_t line_len;
    struct verdict verdict; /* the best known so far */
    char noise[512];        /* first words of mpirun that say something */
    int noise_is_open, rank_of_exit;
    char warnings[WARNINGS_MAX][160]; /* shown already */
    int n_warnings;
};

/* ---- signals ---- */

/* Set by a handler, taken by any thread: atomic, so that none is lost between. */
static atomic_int signal_caught;

static void on_signal(int number) { atomic_store(&signal_caught, number); }

void supervisor_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

int supervisor_signal(void) { return atomic_load(&signal_caught); }

static atomic_int is_signal_held;

void supervisor_hold_signals(int is_held) { atomic_store(&is_signal_held, is_held); }

int supervisor_take_signal(void) { return atomic_exchange(&signal_caught, 0); }

int supervisor_is_interrupted(void) { return supervisor_signal() && !atomic_load(&is_signal_held); }

/* ---- what the launcher says ---- */

/* mpirun names the first failure only, so a signal it reports is the cause and
 * what nodes say about it a consequence. */
static void verdict_offer(struct supervisor *s, const struct verdict *v) {
    if (s->verdict.kind == VERDICT_NONE || v->kind < s->verdict.kind) s->verdict = *v;
}

static void hear_node_error(struct supervisor *s, const char *line) {
    struct verdict v = {.kind = VERDICT_NODE, .rank = -1};
    int at = 0;
    if (sscanf(line, "caravan error rank=%d host=%255s %n", &v.rank, v.host, &at) == 2 && at)
        snprintf(v.text, sizeof v.text, "%s", line + at);
    else
        snprintf(v.text, sizeof v.text, "%s", line + strlen("caravan error "));
    verdict_offer(s, &v);
}

/* A line once, however many ranks say it. */
static void pass_warning(struct supervisor *s, const char *line) {
    const char *said = strstr(line, "host=");
    if (!said) said = line;
    for (int i = 0; i < s->n_warnings; i++)
        if (strncmp(s->warnings[i], said, sizeof s->warnings[i] - 1) == 0) return;
    if (s->n_warnings == WARNINGS_MAX) return;
    snprintf(s->warnings[s->n_warnings++], sizeof s->warnings[0], "%.159s", said);
    fprintf(stderr, "%s\n", line);
}

/* The texts of Open MPI's help-orterun.txt and help-errmgr-base.txt that say who failed. */
static int hear_failure(struct supervisor *s, const char *line) {
    struct verdict v = {.kind = VERDICT_SIGNAL};
    const char *at = strstr(line, "process rank ");
    long pid;
    if (at && sscanf(at, "process rank %d with PID %ld on node %255s exited on signal %d",
                     &v.rank, &pid, v.host, &v.number) == 4) {
        verdict_offer(s, &v);
        return 1;
    }
    at = strstr(line, "Remote daemon:");
    at = at ? strstr(at, " on node ") : NULL;
    if (at && sscanf(at, " on node %255s", v.host) == 1) {
        v.kind = VERDICT_HOST;
        verdict_offer(s, &v);
        return 1;
    }
    unsigned job, part;
    if (sscanf(line, " Process name: [[%u,%u],%d]", &job, &part, &s->rank_of_exit) == 3) return 1;
    if (sscanf(line, " Exit code: %d", &v.number) == 1) {
        v.kind = VERDICT_EXIT;
        v.rank = s->rank_of_exit;
        verdict_offer(s, &v);
        return 1;
    }
    return 0;
}

/* Keeps the first paragraph that says more than that something failed, as one line. */
static void hear_noise(struct supervisor *s, const char *line) {
    if (strncmp(line, "-----", 5) == 0) return;
    if (strncmp(line, "Primary job ", 12) == 0 || strncmp(line, "mpirun detected that", 20) == 0)
        s->noise_is_open = 0;
    while (isspace((unsigned char)*line)) line++;
    if (!*line) {
        if (*s->noise) s->noise_is_open = 0;
        return;
    }
    if (!s->noise_is_open) return;
    size_t n = strlen(s->noise);
    snprintf(s->noise + n, sizeof s->noise - n, "%s%s", n ? " " : "", line);
}

static void hear_line(struct supervisor *s, const char *line) {
    if (s->is_verbose) fprintf(stderr, "%s\n", line);
    if (strncmp(line, "caravan error ", 14) == 0)
        hear_node_error(s, line);
    else if (strncmp(line, "caravan warning ", 16) == 0)
        s->is_verbose ? (void)0 : pass_warning(s, line);
    else if (!hear_failure(s, line))
        hear_noise(s, line);
}

static void hear_bytes(struct supervisor *s, const char *data, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (data[i] != '\n' && s->line_len < LINE_BYTES - 1) {
            s->line[s->line_len++] = data[i];
            continue;
        }
        s->line[s->line_len] = 0;
        s->line_len = 0;
        hear_line(s, s->line);
    }
}

static err on_output(void *context) {
    struct supervisor *s = context;
    char data[4096];
    for (;;) {
        ssize_t n = read(s->watch.fd, data, sizeof data);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return OK;
        if (n <= 0) break;
        hear_bytes(s, data, (size_t)n);
    }
    if (s->line_len) hear_bytes(s, "\n", 1);
    close(s->watch.fd);
    s->watch.fd = -1;
    return OK;
}

/* 1 once the launcher has ended. */
static int launcher_reap(struct supervisor *s) {
    if (s->pid > 0 && waitpid(s->pid, &s->status, WNOHANG) == s->pid) s->pid = 0;
    return s->pid == 0;
}

static err on_tick(void *context) {
    struct supervisor *s = context;
    if (supervisor_is_interrupted()) return err_set(ERR_JOB, "interrupted by %s", strsignal(supervisor_signal()));
    if (!launcher_reap(s)) return OK;
    if (s->watch.fd >= 0) on_output(s);
    return err_set(ERR_JOB, "the job has ended");
}

/* ---- launching ---- */

/* mpirun takes an MCA parameter once: what mpirun_args sets is left to it. */
static err args_add_mca(struct args *a, const struct config *c, const char *name, const char *value) {
    if (strstr(c->mpirun_args, name)) return OK;
    TRY(args_add(a, "--mca"));
    TRY(args_add(a, "%s", name));
    return args_add(a, "%s", value);
}

/* Hosts and their ranks, in the order of the ranks. */
static err args_add_named(struct args *a, const struct places *p) {
    struct bytes list = {0};
    err e = OK;
    for (uint32_t i = 0; e == OK && i < p->n_hosts; i++)
        if (p->list[i].n_ranks)
            e = bytes_printf(&list, "%s%s:%u", list.len ? "," : "", p->list[i].host, p->list[i].n_ranks);
    if (e == OK) e = args_add(a, "--host");
    if (e == OK) e = args_add(a, "%s", (const char *)list.data);
    bytes_free(&list);
    TRY(e);
    TRY(args_add(a, "--map-by"));
    return args_add(a, "slot");
}

/* Which host a rank gets: what mpirun_args say about it wins. */
static err args_add_hosts(struct args *a, const struct config *c, const struct places *p) {
    const char *file = *c->hosts ? c->hosts : env_get("PBS_NODEFILE");
    int is_mapped = strstr(c->mpirun_args, "--map-by") != NULL;
    if (p->is_named && !is_mapped) return args_add_named(a, p);
    if (p->n_hosts > 1 && !is_mapped) {
        uint32_t most = 0;
        for (uint32_t i = 0; i < p->n_hosts; i++)
            if (p->list[i].n_ranks > most) most = p->list[i].n_ranks;
        /* The default would fill the first host before it uses the second. */
        TRY(args_add(a, "--map-by"));
        TRY(args_add(a, "ppr:%u:node", most));
    }
    if (!file) return OK;
    TRY(args_add(a, "--hostfile"));
    return args_add(a, "%s", file);
}

/* How many ranks, and which host and cores each gets. */
static err args_add_places(struct args *a, const struct config *c, const struct places *p) {
    TRY(args_add(a, "-n"));
    TRY(args_add(a, "%u", p->n_ranks));
    if (!strstr(c->mpirun_args, "--bind-to")) {
        /* The default would put all threads of a rank on one core. */
        TRY(args_add(a, "--bind-to"));
        TRY(args_add(a, "none"));
    }
    if (!strstr(c->mpirun_args, "oversubscribe")) TRY(args_add(a, "--oversubscribe"));
    return args_add_hosts(a, c, p);
}

static err args_make(struct args *a, const struct supervisor *s, const struct config *c,
                     const struct places *p) {
    char exe[1024];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0) return err_set(ERR_INTERNAL, "/proc/self/exe: %s", strerror(errno));
    exe[n] = 0;
    TRY(args_add(a, "%s", c->mpirun));
    TRY(args_add_places(a, c, p));
    TRY(args_add_mca(a, c, "mpi_yield_when_idle", "1"));
    TRY(args_add_mca(a, c, "odls_base_sigkill_timeout", "0"));
    /* A host that lost power is noticed after seconds, not minutes. */
    TRY(args_add_mca(a, c, "oob_tcp_keepalive_time", "2"));
    TRY(args_add_mca(a, c, "oob_tcp_keepalive_intvl", "1"));
    TRY(args_add_mca(a, c, "oob_tcp_keepalive_probes", "3"));
    TRY(args_add_words(a, c->mpirun_args, " "));
    TRY(args_add(a, "%s", exe));
    TRY(args_add(a, "node"));
    TRY(args_add(a, "--socket"));
    return args_add(a, "%s", s->path);
}

/* In the child, between fork and exec: only calls that are safe there. */
static void child_exec(char *const *argv, int out_fd, int fail_fd, pid_t parent) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* mpirun then ends its ranks itself */
    if (getppid() != parent) _exit(1);
    struct sigaction action = {.sa_handler = SIG_DFL};
    static const int numbers[] = {SIGPIPE, SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaction(numbers[i], &action, NULL);
    sigset_t none; /* the thread that forked may keep signals from itself; mpirun must hear SIGTERM */
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(out_fd, 1) < 0 || dup2(out_fd, 2) < 0) goto fail;
    close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
    execvp(argv[0], argv);
fail:;
    int reason = errno;
    if (write(fail_fd, &reason, sizeof reason) < 0) _exit(126);
    _exit(127);
}

/* Forks and waits until the launcher has started or could not. */
static err launch(struct supervisor *s, char *const *argv) {
    int out[2], fail[2];
    if (pipe2(out, O_CLOEXEC) != 0) return err_set(ERR_INTERNAL, "pipe: %s", strerror(errno));
    if (pipe2(fail, O_CLOEXEC) != 0) {
        close(out[0]);
        close(out[1]);
        return err_set(ERR_INTERNAL, "pipe: %s", strerror(errno));
    }
    pid_t parent = getpid();
    s->pid = fork();
    if (s->pid == 0) child_exec(argv, out[1], fail[1], parent);
    close(out[1]);
    close(fail[1]);
    s->watch.fd = out[0];
    fcntl(out[0], F_SETFL, O_NONBLOCK);
    int reason = errno;
    int is_failed = s->pid < 0 || read(fail[0], &reason, sizeof reason) == sizeof reason;
    close(fail[0]);
    if (!is_failed) return OK;
    if (s->pid > 0) waitpid(s->pid, NULL, 0);
    s->pid = 0;
    return err_set(ERR_JOB, "cannot start %s: %s; install openmpi-bin or name it with --mpirun",
                   argv[0], strerror(reason));
}

/* A socket in a folder that only this user can enter. */
static err listen_open(struct supervisor *s) {
    const char *base = env_get("TMPDIR");
    if (!base || !*base || strlen(base) > 60) base = "/tmp";
    snprintf(s->dir, sizeof s->dir, "%s/caravan-XXXXXX", base);
    if (!mkdtemp(s->dir)) {
        err e = err_set(ERR_FILE, "cannot make a folder in %s: %s", base, strerror(errno));
        *s->dir = 0;
        return e;
    }
    snprintf(s->path, sizeof s->path, "%s/job", s->dir);
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(at.sun_path, sizeof at.sun_path, "%.100s", s->path);
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&at, sizeof at) != 0 ||
        listen(s->listen_fd, 1) != 0)
        return err_set(ERR_JOB, "cannot listen on %s: %s", s->path, strerror(errno));
    return OK;
}

static void listen_close(struct supervisor *s) {
    if (s->listen_fd >= 0) close(s->listen_fd);
    s->listen_fd = -1;
    if (*s->path) unlink(s->path);
    if (*s->dir) rmdir(s->dir);
    *s->path = *s->dir = 0;
}

static err start_job(struct supervisor *s, const struct config *c, const struct places *p) {
    TRY(listen_open(s));
    if (geteuid() == 0) {
        TRY(env_set("OMPI_ALLOW_RUN_AS_ROOT", "1"));
        TRY(env_set("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"));
    }
    /* Ranks whose launcher was killed become children of this process, so that it
     * can end and reap them. */
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    supervisor_catch_signals();
    struct args a = {.what = "mpirun_args", .full = ERR_CONFIG};
    err e = args_make(&a, s, c, p);
    if (e == OK) e = launch(s, args_list(&a));
    args_free(&a);
    return e;
}

err supervisor_start(const struct config *c, const struct places *p, int is_verbose, struct supervisor **out) {
    struct supervisor *s;
    TRY(NEW(s, 1));
    s->listen_fd = -1;
    s->is_verbose = is_verbose;
    s->noise_is_open = 1;
    s->watch = (struct link_watch){s, -1, on_output, on_tick, NULL};
    err e = start_job(s, c, p);
    if (e != OK) {
        supervisor_free(s);
        return e;
    }
    *out = s;
    return OK;
}

struct link_watch *supervisor_watch(struct supervisor *s) { return &s->watch; }

err supervisor_accept(struct supervisor *s, int64_t timeout_us, int *fd) {
    int64_t deadline_us = clock_us() + timeout_us;
    for (;;) {
        int is_ready;
        TRY(link_watch_poll(&s->watch, s->listen_fd, &is_ready, 100));
        if (is_ready) *fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (is_ready && *fd >= 0) break;
        if (clock_us() > deadline_us)
            return err_set(ERR_TIMEOUT, "the job's first rank has not answered for %.0f s; it must run on this host",
                           (double)timeout_us * 1e-6);
    }
    listen_close(s);
    return OK;
}

/* ---- ending ---- */

int supervisor_wait(struct supervisor *s, int64_t timeout_us) {
    int64_t deadline_us = clock_us() + timeout_us;
    while (!launcher_reap(s) && clock_us() < deadline_us) {
        struct pollfd out = {.fd = s->watch.fd, .events = POLLIN};
        if (poll(&out, 1, 20) > 0) on_output(s);
    }
    if (s->pid == 0 && s->watch.fd >= 0) on_output(s);
    return s->pid == 0;
}

void supervisor_verdict(const struct supervisor *s, struct verdict *out) {
    *out = s->verdict;
    if (out->kind == VERDICT_EXIT) snprintf(out->text, sizeof out->text, "%s", s->noise);
    if ((out->kind != VERDICT_NONE && out->kind <= VERDICT_NODE) || s->pid) return;
    if (WIFSIGNALED(s->status)) {
        out->kind = VERDICT_LAUNCHER_SIGNAL;
        out->number = WTERMSIG(s->status);
    } else if (out->kind == VERDICT_NONE) {
        out->kind = VERDICT_LAUNCHER;
        out->number = WEXITSTATUS(s->status);
        snprintf(out->text, sizeof out->text, "%s", s->noise);
    }
}

/* Whether process `name` of /proc is a child of this one. */
static int is_child(const char *name) {
    char path[300], stat[512];
    snprintf(path, sizeof path, "/proc/%s/stat", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t n = read(fd, stat, sizeof stat - 1);
    close(fd);
    if (n <= 0) return 0;
    stat[n] = 0;
    const char *end = strrchr(stat, ')'); /* the command may hold blanks */
    int parent = 0;
    return end && sscanf(end, ") %*c %d", &parent) == 1 && parent == getpid();
}

/* Ranks that lost their launcher: this process is their parent now, and has
 * no other children. */
static void orphans_kill(void) {
    DIR *proc = opendir("/proc");
    if (!proc) return;
    for (struct dirent *d = readdir(proc); d; d = readdir(proc))
        if (isdigit((unsigned char)d->d_name[0]) && is_child(d->d_name))
            kill((pid_t)atol(d->d_name), SIGKILL);
    closedir(proc);
}

/* Kills and reaps until no child is left. */
static void job_kill(struct supervisor *s) {
    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        if (!supervisor_wait(s, END_POLITELY_US)) kill(-s->pid, SIGKILL);
        supervisor_wait(s, END_HARD_US);
    }
    int64_t deadline_us = clock_us() + END_HARD_US;
    while (clock_us() < deadline_us) {
        orphans_kill();
        pid_t pid = waitpid(-1, NULL, WNOHANG);
        if (pid < 0 && errno == ECHILD) return;
        if (pid == 0) clock_sleep_us(10000);
    }
}

void supervisor_free(struct supervisor *s) {
    if (!s) return;
    job_kill(s);
    listen_close(s);
    if (s->watch.fd >= 0) close(s->watch.fd);
    free(s);
}
