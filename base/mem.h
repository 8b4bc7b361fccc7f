/* Host memory: allocation that reports, and growable bytes. */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* `n` zeroed items of `size` bytes, or NULL with the error text recorded (also
 * when n * size overflows). n == 0 gives a pointer that may be freed. */
void *mem_zeroed(size_t n, size_t size);

/* `p` resized to `n` items of `size`; NULL leaves `p` as it was. */
void *mem_resized(void *p, size_t n, size_t size);

/* `n_bytes` not zeroed, on pages as large as the system has where they fill one, for the processor to find
 * addresses fast; free() ends them. NULL with the error text recorded. */
void *mem_on_large_pages(size_t n_bytes);

/* Gives freed memory back to the system, after something large is over. */
void mem_return_unused(void);

/* NEW(p, n): OK with p pointing to n zeroed items of its type, or ERR_MEMORY. */
#define NEW(p, n)                                                              \
    (((p) = mem_zeroed((n), sizeof *(p))) != NULL ? OK : ERR_MEMORY)

/* Bytes that grow. Zero-initialised is empty; bytes_free ends it. When text is
 * appended, `data` stays NUL-terminated (the NUL is not counted in `len`). */
struct bytes {
    uint8_t *data;
    size_t len, cap;
};

err bytes_reserve(struct bytes *b, size_t extra);
err bytes_append(struct bytes *b, const void *data, size_t n);
err bytes_append_str(struct bytes *b, const char *s);
err bytes_printf(struct bytes *b, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
void bytes_free(struct bytes *b);

/* The whole of a file, NUL-terminated for convenience. */
err bytes_read_file(struct bytes *b, const char *path);

#endif
