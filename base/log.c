#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Set once at start, before any second thread exists. */
static int log_rank = -1;
static char log_host[256];
static int log_level = 1;

void log_identify(int rank, const char *host) {
    log_rank = rank;
    snprintf(log_host, sizeof log_host, "%s", host);
}

void log_set_level(int level) { log_level = level; }

/* One write, so that lines of several processes do not mix. */
static void log_line(const char *level, const char *event, const char *fmt,
                     va_list args) {
    char line[1400];
    size_t cap = sizeof line - 1;
    int n = log_rank >= 0 ? snprintf(line, cap, "caravan %s rank=%d host=%s %s ",
                                     level, log_rank, log_host, event)
                          : snprintf(line, cap, "caravan %s %s ", level, event);
    if (n < 0) return;
    size_t len = (size_t)n < cap ? (size_t)n : cap - 1;
    n = vsnprintf(line + len, cap - len, fmt, args);
    if (n > 0) len += (size_t)n < cap - len ? (size_t)n : cap - len - 1;
    line[len++] = '\n';
    fwrite(line, 1, len, stderr);
}

#define LOG_FUNCTION(name, level, text)                                        \
    void name(const char *event, const char *fmt, ...) {                       \
        if (log_level < (level)) return;                                       \
        va_list args;                                                          \
        va_start(args, fmt);                                                   \
        log_line(text, event, fmt, args);                                      \
        va_end(args);                                                          \
    }

LOG_FUNCTION(log_error, 0, "error")
LOG_FUNCTION(log_warn, 1, "warning")
LOG_FUNCTION(log_info, 2, "info")
