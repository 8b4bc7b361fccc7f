#include "base/cache_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/env.h"

#define PATH_BYTES 1024

int cache_folder_make(const char *path) {
    struct stat s;
    if (mkdir(path, 0700) == 0) return 1;
    return errno == EEXIST && stat(path, &s) == 0 && s.st_uid == geteuid() && access(path, W_OK) == 0;
}

int cache_folder_find(const char *name, char *out, size_t cap) {
    const char *pocl = env_get("POCL_CACHE_DIR"), *xdg = env_get("XDG_CACHE_HOME"), *home = env_get("HOME");
    int n = -1;
    if (xdg && *xdg) n = snprintf(out, cap, "%s", xdg);
    else if (pocl && *pocl) n = snprintf(out, cap, "%s", pocl);
    else if (home && *home) n = snprintf(out, cap, "%s/.cache", home);
    const char *const parts[] = {"", "/caravan", *name ? "/" : "", name};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (n < 0 || (size_t)n + strlen(parts[i]) >= cap) return 0;
        memcpy(out + n, parts[i], strlen(parts[i]) + 1);
        n += (int)strlen(parts[i]);
        if (i != 2 && !cache_folder_make(out)) return 0;
    }
    return 1;
}

static err read_all(int fd, const char *path, size_t n, struct bytes *out) {
    TRY(bytes_reserve(out, n + 1));
    for (size_t at = 0; at < n;) {
        ssize_t got = read(fd, out->data + out->len, n - at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return err_set(ERR_FILE, "cannot read %s: %s", path, got ? strerror(errno) : "it ends early");
        at += (size_t)got;
        out->len += (size_t)got;
    }
    out->data[out->len] = 0;
    return OK;
}

err cache_file_read(const char *path, size_t most_bytes, struct bytes *out, int *is_there) {
    struct stat s;
    *is_there = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 && errno == ENOENT) return OK;
    if (fd < 0) return err_set(ERR_FILE, "cannot open %s: %s", path, strerror(errno));
    err e = OK;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || s.st_uid != geteuid() || s.st_mode & (S_IWGRP | S_IWOTH))
        e = err_set(ERR_FILE, "%s is no file that only this user can write", path);
    else if ((uint64_t)s.st_size > most_bytes)
        e = err_set(ERR_FILE, "%s has %lld bytes, at most %zu are expected", path, (long long)s.st_size, most_bytes);
    else
        e = read_all(fd, path, (size_t)s.st_size, out);
    close(fd);
    *is_there = e == OK;
    return e;
}

err cache_file_write(const char *path, const void *data, size_t n) {
    char beside[PATH_BYTES + 16];
    snprintf(beside, sizeof beside, "%.*s.XXXXXX", PATH_BYTES, path);
    int fd = mkostemp(beside, O_CLOEXEC);
    FILE *f = fd >= 0 ? fdopen(fd, "w") : NULL;
    int is_written = f && fwrite(data, 1, n, f) == n;
    if (f && fclose(f) != 0) is_written = 0;
    if (!f && fd >= 0) close(fd);
    if (is_written && rename(beside, path) == 0) return OK;
    err e = err_set(ERR_FILE, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0) unlink(beside);
    return e;
}
