/* libFuzzer harness of the GGUF parser: any bytes must open or be refused; what
 * opens must be readable throughout. Run: make fuzz && build-fuzz/fuzz_gguf */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "model/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A function the compiler cannot look through: every byte gets read. */
static uint64_t sum(const void *data, size_t n) {
    const uint8_t *p = data;
    uint64_t s = 0;
    for (size_t i = 0; i < n; i++) s = s * 31 + p[i];
    return s;
}

static uint64_t read_metadata(const struct gguf *g) {
    uint64_t s = 0;
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        uint32_t u;
        float f;
        int flag;
        const char *text;
        s += sum(kv->key, strlen(kv->key) + 1);
        if (gguf_find(g, kv->key) != kv) abort();
        for (uint64_t j = 0; j < kv->n; j++) {
            if (kv->strings)
                s += sum(kv->strings[j].data, kv->strings[j].len + 1);
            else
                s += (uint64_t)gguf_item_i64(kv, j) +
                     (gguf_item_f64(kv, j) > 0);
        }
        if (gguf_get_u32(g, kv->key, &u) == OK) s += u;
        if (gguf_get_f32(g, kv->key, &f) == OK) s += f > 0;
        if (gguf_get_bool(g, kv->key, &flag) == OK) s += flag != 0;
        if (gguf_get_string(g, kv->key, &text) == OK)
            s += sum(text, strlen(text) + 1);
    }
    return s;
}

static uint64_t read_tensors(const struct gguf *g) {
    uint64_t s = 0;
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        uint64_t block = format_info(t->format)->block_values;
        uint8_t *dst = malloc(t->n_bytes);
        float values[256];
        if (gguf_find_tensor(g, t->name) != t) abort();
        /* The whole tensor is in the file, so this must succeed. */
        if (gguf_read(g, t, 0, t->dims[1] * t->dims[2] * t->dims[3], 0,
                      t->dims[0], dst, NULL) != OK)
            abort();
        format_decode(t->format, dst, values, (size_t)block);
        s += sum(dst, t->n_bytes) + sum(values, block * sizeof *values);
        if (gguf_read(g, t, 0, 1, t->dims[0] - block, t->dims[0], dst, NULL) !=
            OK)
            abort();
        free(dst);
    }
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int fd = -1;
    static volatile uint64_t sink;
    char path[64];
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 0) != 0 ||
        pwrite(fd, data, size, 0) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    struct gguf *g;
    if (gguf_open_header("header", data, size, &g) == OK) { /* its tensors are elsewhere */
        sink += read_metadata(g);
        gguf_close(g);
    } else if (g || strchr(err_text(), '\n')) {
        abort();
    }
    if (gguf_open(path, &g) != OK) {
        if (g || strchr(err_text(), '\n')) abort();
        return 0;
    }
    sink += read_metadata(g) + read_tensors(g);
    struct bytes header = {0};
    struct gguf *sent;
    if (gguf_put_header(g, &header) != OK || gguf_open_header("sent", header.data, header.len, &sent) != OK) abort();
    gguf_close(sent);
    bytes_free(&header);
    gguf_close(g);
    return 0;
}
