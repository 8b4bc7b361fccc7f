#include "coordinator/access_log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "coordinator/request.h"

#define METHOD_SHOWN 16
#define PATH_SHOWN 256

struct access_log {
    FILE *file; /* NULL: nowhere */
    struct bytes line; /* kept, so that a line allocates nothing */
};

err access_log_open(const char *path, struct access_log **out) {
    struct access_log *l;
    TRY(NEW(l, 1));
    if (!*path) l->file = stderr;
    else if (strcmp(path, "none") != 0 && !(l->file = fopen(path, "ae"))) {
        free(l);
        return err_set(ERR_CONFIG, "access_log: cannot open %s: %s", path, strerror(errno));
    }
    *out = l;
    return OK;
}

void access_log_close(struct access_log *l) {
    if (!l) return;
    if (l->file && l->file != stderr) fclose(l->file);
    bytes_free(&l->line);
    free(l);
}

static err print_time(struct bytes *out) {
    struct timespec now;
    struct tm utc;
    char text[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &utc);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &utc);
    return bytes_printf(out, "time=%s.%03ldZ", text, now.tv_nsec / 1000000);
}

static err print_line(const struct access_entry *a, struct bytes *out) {
    const struct exchange *x = a->exchange;
    TRY(print_time(out));
    TRY(bytes_printf(out, " client=%s method=", a->client));
    TRY(request_quote(x->method, METHOD_SHOWN, out));
    TRY(bytes_append_str(out, " path="));
    TRY(request_quote(x->path ? x->path : "", PATH_SHOWN, out));
    return bytes_printf(out,
                        " status=%d bytes=%llu seconds=%.6f route=%s prompt=%u cached=%u answer=%u key=%s end=%s\n",
                        a->status, (unsigned long long)a->n_bytes, a->seconds, x->route ? x->route : "other",
                        x->n_prompt, x->n_cached, x->n_answer, x->key_name, a->end);
}

void access_log_write(struct access_log *l, const struct access_entry *entry) {
    if (!l->file) return;
    l->line.len = 0;
    if (print_line(entry, &l->line) != OK) return;
    fwrite(l->line.data, 1, l->line.len, l->file); /* one write: lines of several processes do not mix */
    fflush(l->file);
}
