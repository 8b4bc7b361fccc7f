#include "kernels/program_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cache_file.h"

#define PATH_BYTES 700
#define PROGRAM_BYTES_MAX ((size_t)256 << 20)

/* What a file begins with; the program's bytes follow. */
struct head {
    char magic[8];
    uint64_t key[2];
    uint64_t n_bytes, sum; /* of the program */
};
static const char magic[8] = "caravan1";

/* FNV-1a, 64 bits. */
static uint64_t hash(uint64_t h, const void *data, size_t n) {
    const uint8_t *p = data;
    for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 0x100000001b3u;
    return h;
}

static void key_make(const struct device *d, const char *options, const struct bytes *source, uint64_t key[2]) {
    const char *const texts[] = {d->platform, d->name, d->version, d->driver, options};
    key[0] = 0xcbf29ce484222325u;
    key[1] = 0x9e3779b97f4a7c15u;
    for (int i = 0; i < 2; i++) {
        for (size_t t = 0; t < sizeof texts / sizeof *texts; t++) key[i] = hash(key[i], texts[t], strlen(texts[t]) + 1);
        key[i] = hash(key[i], source->data, source->len);
    }
}

static int path_make(const uint64_t key[2], char out[PATH_BYTES]) {
    if (!cache_folder_find("", out, PATH_BYTES - 40)) return 0;
    size_t n = strlen(out);
    snprintf(out + n, PATH_BYTES - n, "/%016llx%016llx", (unsigned long long)key[0], (unsigned long long)key[1]);
    return 1;
}

static int is_read(int fd, void *to, size_t n) {
    for (size_t at = 0; at < n;) {
        ssize_t got = read(fd, (uint8_t *)to + at, n - at);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        at += (size_t)got;
    }
    return 1;
}

/* The bytes of a program, or NULL. Compiled kernels are code: only a file that nobody else can write will do. */
static uint8_t *file_read(int fd, const uint64_t key[2], size_t *n_bytes) {
    struct stat s;
    struct head h;
    if (fstat(fd, &s) != 0 || !S_ISREG(s.st_mode) || s.st_uid != geteuid() || s.st_mode & (S_IWGRP | S_IWOTH))
        return NULL;
    if (!is_read(fd, &h, sizeof h) || memcmp(h.magic, magic, sizeof magic) != 0 ||
        memcmp(h.key, key, sizeof h.key) != 0 || h.n_bytes == 0 || h.n_bytes > PROGRAM_BYTES_MAX ||
        (uint64_t)s.st_size != sizeof h + h.n_bytes)
        return NULL;
    uint8_t *program = malloc(h.n_bytes);
    *n_bytes = h.n_bytes;
    if (program && is_read(fd, program, h.n_bytes) && hash(h.key[0], program, h.n_bytes) == h.sum) return program;
    free(program);
    return NULL;
}

static cl_program program_make(const struct device *d, const char *options, const uint8_t *binary, size_t n_bytes) {
    cl_int status = CL_SUCCESS, code;
    cl_program program = clCreateProgramWithBinary(d->context, 1, &d->id, &n_bytes, &binary, &status, &code);
    if (code == CL_SUCCESS && status == CL_SUCCESS &&
        clBuildProgram(program, 1, &d->id, options, NULL, NULL) == CL_SUCCESS)
        return program;
    if (program) clReleaseProgram(program);
    return NULL;
}

cl_program program_cache_get(const struct device *d, const char *options, const struct bytes *source) {
    uint64_t key[2];
    char path[PATH_BYTES];
    size_t n_bytes;
    key_make(d, options, source, key);
    if (!path_make(key, path)) return NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0) return NULL;
    uint8_t *binary = file_read(fd, key, &n_bytes);
    close(fd);
    cl_program program = binary ? program_make(d, options, binary, n_bytes) : NULL;
    free(binary);
    return program;
}

/* Written beside and renamed: other ranks start at the same time. */
static void file_write(const char *path, const struct head *h, const uint8_t *program) {
    char beside[PATH_BYTES + 16];
    snprintf(beside, sizeof beside, "%s.XXXXXX", path);
    int fd = mkostemp(beside, O_CLOEXEC);
    if (fd < 0) return;
    FILE *f = fdopen(fd, "w");
    if (!f) {
        close(fd);
        unlink(beside);
        return;
    }
    int is_written = fwrite(h, sizeof *h, 1, f) == 1 && fwrite(program, h->n_bytes, 1, f) == 1;
    if (fclose(f) != 0 || !is_written || rename(beside, path) != 0) unlink(beside);
}

void program_cache_put(const struct device *d, const char *options, const struct bytes *source,
                       cl_program program) {
    struct head h;
    char path[PATH_BYTES];
    size_t n_bytes = 0;
    memcpy(h.magic, magic, sizeof magic);
    key_make(d, options, source, h.key);
    if (clGetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, sizeof n_bytes, &n_bytes, NULL) != CL_SUCCESS ||
        n_bytes == 0 || n_bytes > PROGRAM_BYTES_MAX || !path_make(h.key, path))
        return;
    uint8_t *binary = malloc(n_bytes);
    if (binary && clGetProgramInfo(program, CL_PROGRAM_BINARIES, sizeof binary, &binary, NULL) == CL_SUCCESS) {
        h.n_bytes = n_bytes;
        h.sum = hash(h.key[0], binary, n_bytes);
        file_write(path, &h, binary);
    }
    free(binary);
}
