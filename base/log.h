/* Log: one event, one line, key=value, on stderr. Nothing per token. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

/* Who speaks; every line after this carries rank and host. */
void log_identify(int rank, const char *host);

/* Events under this level are dropped. 0 error, 1 warning, 2 info (default 1). */
void log_set_level(int level);

void log_error(const char *event, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void log_warn(const char *event, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void log_info(const char *event, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

#endif
