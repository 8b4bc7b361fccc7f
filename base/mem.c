#include "base/mem.h"

#include <errno.h>
#include <malloc.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES ((size_t)4096)
#define LARGE_PAGE_BYTES ((size_t)2 << 20)

void *mem_zeroed(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p)
        err_set(ERR_MEMORY, "cannot allocate %zu items of %zu bytes", n, size);
    return p;
}

void *mem_resized(void *p, size_t n, size_t size) {
    size_t total;
    if (__builtin_mul_overflow(n, size, &total)) total = SIZE_MAX;
    void *grown = total == SIZE_MAX ? NULL : realloc(p, total ? total : 1);
    if (!grown)
        err_set(ERR_MEMORY, "cannot allocate %zu items of %zu bytes", n, size);
    return grown;
}

void *mem_on_large_pages(size_t n_bytes) {
    size_t whole = n_bytes / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    void *at = NULL;
    if (posix_memalign(&at, whole ? LARGE_PAGE_BYTES : PAGE_BYTES, n_bytes) != 0) {
        err_set(ERR_MEMORY, "cannot allocate %zu bytes", n_bytes);
        return NULL;
    }
    if (whole) madvise(at, whole, MADV_HUGEPAGE); /* a wish */
    return at;
}

void mem_return_unused(void) { malloc_trim(0); }

err bytes_reserve(struct bytes *b, size_t extra) {
    size_t need;
    if (__builtin_add_overflow(b->len, extra, &need) || need == SIZE_MAX)
        return err_set(ERR_MEMORY, "a buffer of %zu + %zu bytes is too large",
                       b->len, extra);
    if (need + 1 <= b->cap) return OK; /* one more for the closing NUL */
    size_t cap = b->cap ? b->cap : 64;
    while (cap < need + 1) cap = cap > SIZE_MAX / 2 ? need + 1 : cap * 2;
    uint8_t *grown = mem_resized(b->data, cap, 1);
    if (!grown) return ERR_MEMORY;
    b->data = grown;
    b->cap = cap;
    return OK;
}

err bytes_append(struct bytes *b, const void *data, size_t n) {
    TRY(bytes_reserve(b, n));
    if (n) memcpy(b->data + b->len, data, n);
    b->len += n;
    b->data[b->len] = 0;
    return OK;
}

err bytes_append_str(struct bytes *b, const char *s) {
    return bytes_append(b, s, strlen(s));
}

err bytes_printf(struct bytes *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) return err_set(ERR_INTERNAL, "bad format string '%s'", fmt);
    TRY(bytes_reserve(b, (size_t)n));
    va_start(args, fmt);
    vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    b->len += (size_t)n;
    return OK;
}

void bytes_free(struct bytes *b) {
    free(b->data);
    *b = (struct bytes){0};
}

err bytes_read_file(struct bytes *b, const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f)
        return err_set(ERR_FILE, "cannot open %s: %s", path, strerror(errno));
    err e = OK;
    for (;;) {
        if ((e = bytes_reserve(b, 65536)) != OK) break;
        size_t n = fread(b->data + b->len, 1, b->cap - b->len - 1, f);
        b->len += n;
        b->data[b->len] = 0;
        if (n == 0) break;
    }
    if (e == OK && ferror(f))
        e = err_set(ERR_FILE, "cannot read %s: %s", path, strerror(errno));
    fclose(f);
    return e;
}
