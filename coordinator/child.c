#include "coordinator/child.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/env.h"

#define OUTPUT_MAX ((off_t)64 << 20) /* more is no report */
#define WORDS_MAX ((off_t)4096)      /* of standard error, its end */
#define TICK_US 2000
#define GRACE_S 3.0 /* between SIGTERM and SIGKILL */

static volatile sig_atomic_t caught;

static void on_signal(int number) { caught = number; }

/* The signals that end this process end the child first. */
static const int endings[] = {SIGINT, SIGTERM, SIGHUP};
enum { N_ENDINGS = sizeof endings / sizeof *endings };

static void catch_signals(struct sigaction *before) {
    struct sigaction action = {.sa_handler = on_signal};
    caught = 0;
    for (int i = 0; i < N_ENDINGS; i++) sigaction(endings[i], &action, &before[i]);
}

static void release_signals(const struct sigaction *before) {
    for (int i = 0; i < N_ENDINGS; i++) sigaction(endings[i], &before[i], NULL);
}

/* In the child, between fork and exec: only calls that are safe there. The number of what went wrong comes
 * back through fail_fd, which exec closes. A group of its own, so that what it starts can be ended with it. */
static void child_exec(char *const *argv, const int *fds, int fail_fd, pid_t parent, int end_signal) {
    struct sigaction action = {.sa_handler = SIG_DFL};
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, end_signal);
    if (getppid() != parent) _exit(1);
    for (int i = 0; i < N_ENDINGS; i++) sigaction(endings[i], &action, NULL);
    sigaction(SIGPIPE, &action, NULL);
    int null_fd = open("/dev/null", O_RDONLY);
    if (null_fd >= 0 && dup2(null_fd, 0) >= 0 && dup2(fds[0], 1) >= 0 && dup2(fds[1], 2) >= 0) {
        close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
        execvp(argv[0], argv);
    }
    int reason = errno;
    if (write(fail_fd, &reason, sizeof reason) < 0) _exit(126);
    _exit(127);
}

static err child_start(const char *const *argv, const int *fds, int end_signal, pid_t *pid) {
    int fail[2], reason = 0;
    if (pipe2(fail, O_CLOEXEC) != 0) return err_set(ERR_INTERNAL, "pipe: %s", strerror(errno));
    pid_t parent = getpid();
    *pid = fork();
    if (*pid == 0) child_exec((char *const *)argv, fds, fail[1], parent, end_signal);
    close(fail[1]);
    ssize_t n = *pid < 0 ? 0 : read(fail[0], &reason, sizeof reason);
    close(fail[0]);
    if (*pid < 0) return err_set(ERR_MEMORY, "cannot fork: %s", strerror(errno));
    if (n != (ssize_t)sizeof reason) return OK;
    waitpid(*pid, NULL, 0);
    return err_set(ERR_FILE, "cannot be run: %s", strerror(reason));
}

/* Whether the child has ended; it stays a zombie, so that its number and its group are still its own. */
static int has_ended(pid_t pid) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* What it left behind goes, then itself. */
static int child_reap(pid_t pid) {
    int status = 0;
    kill(-pid, SIGKILL);
    waitpid(pid, &status, 0);
    return status;
}

static void group_end(pid_t pid) {
    double begin = clock_s();
    kill(-pid, SIGTERM);
    while (!has_ended(pid) && clock_s() - begin < GRACE_S) clock_sleep_us(TICK_US);
    child_reap(pid);
}

static err child_await(pid_t pid, int out_fd, double deadline_s, int *status) {
    double begin = clock_s();
    struct stat s;
    for (;;) {
        if (has_ended(pid)) {
            *status = child_reap(pid);
            return OK;
        }
        const char *why = caught ? "interrupted" : clock_s() - begin > deadline_s ? "deadline" : NULL;
        if (!why && fstat(out_fd, &s) == 0 && s.st_size > OUTPUT_MAX) why = "output";
        if (!why) {
            clock_sleep_us(TICK_US);
            continue;
        }
        group_end(pid);
        if (*why == 'i') return err_set(ERR_JOB, "interrupted by %s", strsignal(caught));
        if (*why == 'o') return err_set(ERR_JOB, "printed without end, and was ended");
        return err_set(ERR_TIMEOUT, "did not end within %.0f s, and was ended", deadline_s);
    }
}

static err output_read(int fd, off_t most, struct bytes *out) {
    struct stat s;
    if (fstat(fd, &s) != 0) return err_set(ERR_FILE, "cannot read the output: %s", strerror(errno));
    off_t begin = s.st_size > most ? s.st_size - most : 0;
    size_t n = (size_t)(s.st_size - begin);
    TRY(bytes_reserve(out, n + 1));
    ssize_t got = pread(fd, out->data, n, begin);
    out->len = got < 0 ? 0 : (size_t)got;
    out->data[out->len] = 0;
    return OK;
}

/* The last line that says something. */
static err last_words_take(int fd, struct child_output *out) {
    struct bytes text = {0};
    TRY(output_read(fd, WORDS_MAX, &text));
    char *c = (char *)text.data, *end = c + text.len;
    while (end > c && (unsigned char)end[-1] <= ' ') *--end = 0;
    char *line = strrchr(c, '\n');
    snprintf(out->last_words, sizeof out->last_words, "%s", line ? line + 1 : c);
    bytes_free(&text);
    return OK;
}

static err ending_check(int status, const char *words) {
    const char *colon = *words ? ": " : "";
    if (WIFSIGNALED(status))
        return err_set(ERR_JOB, "was ended by signal %d (%s)%s%s", WTERMSIG(status), strsignal(WTERMSIG(status)), colon,
                       words);
    if (WEXITSTATUS(status)) return err_set(ERR_JOB, "exit code %d%s%s", WEXITSTATUS(status), colon, words);
    return OK;
}

static err child_run_into(const char *const *argv, const int *fds, double deadline_s, int end_signal,
                          struct child_output *out) {
    pid_t pid = 0;
    int status = 0;
    TRY(child_start(argv, fds, end_signal, &pid));
    TRY(child_await(pid, fds[0], deadline_s, &status));
    TRY(output_read(fds[0], OUTPUT_MAX, &out->out));
    TRY(last_words_take(fds[1], out));
    return ending_check(status, out->last_words);
}

err child_run(const char *const *argv, double deadline_s, int end_signal, struct child_output *out) {
    struct sigaction before[N_ENDINGS];
    *out = (struct child_output){.out = {0}};
    int fds[2] = {memfd_create("out", MFD_CLOEXEC), memfd_create("err", MFD_CLOEXEC)};
    err e = ERR_MEMORY;
    if (fds[0] < 0 || fds[1] < 0) {
        err_set(e, "cannot keep a child's output: %s", strerror(errno));
    } else {
        catch_signals(before);
        e = child_run_into(argv, fds, deadline_s, end_signal, out);
        release_signals(before);
    }
    for (int i = 0; i < 2; i++)
        if (fds[i] >= 0) close(fds[i]);
    if (e != OK) child_output_free(out);
    return e;
}

void child_output_free(struct child_output *o) { bytes_free(&o->out); }

static int is_program(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISREG(s.st_mode) && access(path, X_OK) == 0;
}

int child_find(const char *name, char *path, size_t cap) {
    const char *at = env_get("PATH");
    snprintf(path, cap, "%s", name);
    if (strchr(name, '/')) return is_program(path);
    for (; at && *at; at += *at == ':') {
        size_t n = strcspn(at, ":");
        snprintf(path, cap, "%.*s/%s", (int)n, at, name);
        if (n && is_program(path)) return 1;
        at += n;
    }
    snprintf(path, cap, "%s", name);
    return 0;
}
