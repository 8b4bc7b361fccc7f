/* GGUF files: good ones written here and read back, split models, and hostile
 * ones: every truncation, every flipped bit, and a table of named lies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/gguf.h"

/* ---- a small writer ---- */

static void put(struct bytes *b, const void *p, size_t n) {
    assert_int_equal(bytes_append(b, p, n), OK);
}

static void put_u8(struct bytes *b, uint8_t v) { put(b, &v, 1); }
static void put_u16(struct bytes *b, uint16_t v) { put(b, &v, 2); }
static void put_u32(struct bytes *b, uint32_t v) { put(b, &v, 4); }
static void put_u64(struct bytes *b, uint64_t v) { put(b, &v, 8); }
static void put_f32(struct bytes *b, float v) { put(b, &v, 4); }
static void put_f64(struct bytes *b, double v) { put(b, &v, 8); }

static void put_bytes(struct bytes *b, const char *s, size_t n) {
    put_u64(b, n);
    put(b, s, n);
}

static void put_string(struct bytes *b, const char *s) {
    put_bytes(b, s, strlen(s));
}

static void put_header(struct bytes *b, uint32_t version, uint64_t n_tensors,
                       uint64_t n_kv) {
    put(b, "GGUF", 4);
    put_u32(b, version);
    put_u64(b, n_tensors);
    put_u64(b, n_kv);
}

static void put_key(struct bytes *b, const char *key, uint32_t type) {
    put_string(b, key);
    put_u32(b, type);
}

static void put_array(struct bytes *b, const char *key, uint32_t item_type,
                      uint64_t n) {
    put_key(b, key, GGUF_ARRAY);
    put_u32(b, item_type);
    put_u64(b, n);
}

static void put_key_u16(struct bytes *b, const char *key, uint16_t v) {
    put_key(b, key, GGUF_U16);
    put_u16(b, v);
}

static void put_key_u32(struct bytes *b, const char *key, uint32_t v) {
    put_key(b, key, GGUF_U32);
    put_u32(b, v);
}

static void put_tensor(struct bytes *b, const char *name, uint32_t n_dims,
                       const uint64_t *dims, uint32_t type, uint64_t offset) {
    put_string(b, name);
    put_u32(b, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) put_u64(b, dims[i]);
    put_u32(b, type);
    put_u64(b, offset);
}

static void put_padding(struct bytes *b, size_t alignment) {
    while (b->len % alignment) put_u8(b, 0);
}

static void put_pattern(struct bytes *b, size_t n) {
    for (size_t i = 0; i < n; i++) put_u8(b, (uint8_t)(i * 7 + 1));
}

/* ---- files ---- */

static char folder[64];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/test_gguf_XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    return system(command);
}

static const char *path_of(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static const char *write_file(const char *name, const struct bytes *b) {
    const char *path = path_of(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(b->data, 1, b->len, f), b->len);
    assert_int_equal(fclose(f), 0);
    return path;
}

/* A file without a name: rewritten thousands of times. */
static const char *write_scratch(const void *data, size_t n) {
    static char path[64];
    static int fd = -1;
    if (fd < 0) fd = memfd_create("scratch", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(pwrite(fd, data, n, 0), (ssize_t)n);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}

static struct gguf *open_good(const char *path) {
    struct gguf *g;
    if (gguf_open(path, &g) != OK) fail_msg("%s", err_text());
    return g;
}

static void open_bad(const char *path, err code, const char *text) {
    struct gguf *g = (struct gguf *)folder; /* must be overwritten */
    err e = gguf_open(path, &g);
    if (e == OK) fail_msg("opened, expected '%s'", text);
    assert_null(g);
    if (e != code || !strstr(err_text(), text) || strchr(err_text(), '\n'))
        fail_msg("%s: %s; expected %s: %s", err_name(e), err_text(),
                 err_name(code), text);
}

/* ---- a good file: every type of value, three tensors ---- */

enum { N_GOOD_KV = 18 };

static void put_scalars(struct bytes *b) {
    put_key(b, "a.u8", GGUF_U8), put_u8(b, 200);
    put_key(b, "a.i8", GGUF_I8), put_u8(b, (uint8_t)-5);
    put_key(b, "a.u16", GGUF_U16), put_u16(b, 60000);
    put_key(b, "a.i16", GGUF_I16), put_u16(b, (uint16_t)-300);
    put_key(b, "a.u32", GGUF_U32), put_u32(b, 4000000000u);
    put_key(b, "a.i32", GGUF_I32), put_u32(b, (uint32_t)-70000);
    put_key(b, "a.f32", GGUF_F32), put_f32(b, 1.5f);
    put_key(b, "a.bool", GGUF_BOOL), put_u8(b, 1);
    put_key(b, "a.string", GGUF_STRING), put_string(b, "caravan");
    put_key(b, "a.u64", GGUF_U64), put_u64(b, 1ull << 60);
    put_key(b, "a.i64", GGUF_I64), put_u64(b, (uint64_t)-(1ll << 40));
    put_key(b, "a.f64", GGUF_F64), put_f64(b, 0.1);
    put_key(b, "a.small", GGUF_U64), put_u64(b, 42);
    put_key(b, "a.nul", GGUF_STRING), put_bytes(b, "a\0b", 3);
}

static void put_good(struct bytes *b, uint32_t version) {
    put_header(b, version, 3, N_GOOD_KV);
    put_scalars(b);
    put_array(b, "b.i16", GGUF_I16, 3);
    put_u16(b, 1), put_u16(b, (uint16_t)-2), put_u16(b, 3);
    put_array(b, "b.f32", GGUF_F32, 2);
    put_f32(b, -0.25f), put_f32(b, 8);
    put_array(b, "b.string", GGUF_STRING, 3);
    put_string(b, "one"), put_string(b, ""), put_bytes(b, "x\0y", 3);
    put_array(b, "b.empty", GGUF_STRING, 0);
    put_tensor(b, "blk.0.w", 2, (uint64_t[]){64, 3}, 8, 0);     /* Q8_0: 204 */
    put_tensor(b, "blk.0.norm", 1, (uint64_t[]){5}, 0, 224);    /* F32: 20 */
    put_tensor(b, "deep", 4, (uint64_t[]){2, 3, 2, 1}, 1, 256); /* F16: 24 */
    put_padding(b, 32);
    put_pattern(b, 256 + 24);
}

static void check_scalars(const struct gguf *g) {
    uint32_t u;
    float f;
    int flag;
    const char *s;
    assert_int_equal(gguf_item_i64(gguf_find(g, "a.u8"), 0), 200);
    assert_int_equal(gguf_item_i64(gguf_find(g, "a.i8"), 0), -5);
    assert_int_equal(gguf_item_i64(gguf_find(g, "a.i16"), 0), -300);
    assert_int_equal(gguf_item_i64(gguf_find(g, "a.i32"), 0), -70000);
    assert_true(gguf_item_i64(gguf_find(g, "a.i64"), 0) == -(1ll << 40));
    assert_true(gguf_item_i64(gguf_find(g, "a.u64"), 0) == 1ll << 60);
    assert_true(gguf_item_f64(gguf_find(g, "a.f64"), 0) == 0.1);
    assert_true(gguf_item_f64(gguf_find(g, "a.i8"), 0) == -5.0);
    assert_int_equal(gguf_get_u32(g, "a.u16", &u), OK);
    assert_int_equal(u, 60000);
    assert_int_equal(gguf_get_u32(g, "a.u32", &u), OK);
    assert_int_equal(u, 4000000000u);
    assert_int_equal(gguf_get_u32(g, "a.small", &u), OK);
    assert_int_equal(u, 42);
    assert_int_equal(gguf_get_f32(g, "a.f32", &f), OK);
    assert_true(f == 1.5f);
    assert_int_equal(gguf_get_f32(g, "a.f64", &f), OK);
    assert_true(f == 0.1f);
    assert_int_equal(gguf_get_bool(g, "a.bool", &flag), OK);
    assert_int_equal(flag, 1);
    assert_int_equal(gguf_get_string(g, "a.string", &s), OK);
    assert_string_equal(s, "caravan");
}

static void check_refusals(const struct gguf *g) {
    uint32_t u;
    float f;
    int flag;
    const char *s;
    assert_int_equal(gguf_get_u32(g, "a.u64", &u), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "1152921504606846976"));
    assert_int_equal(gguf_get_u32(g, "a.i32", &u), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "-70000"));
    assert_int_equal(gguf_get_u32(g, "a.f32", &u), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(g, "b.i16", &u), ERR_FORMAT);
    assert_int_equal(gguf_get_u32(g, "a.none", &u), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "'a.none' is missing"));
    assert_int_equal(gguf_get_f32(g, "a.u32", &f), ERR_FORMAT);
    assert_int_equal(gguf_get_bool(g, "a.u8", &flag), ERR_FORMAT);
    assert_int_equal(gguf_get_string(g, "a.bool", &s), ERR_FORMAT);
    assert_int_equal(gguf_get_string(g, "a.nul", &s), ERR_FORMAT);
    assert_int_equal(gguf_get_string(g, "b.string", &s), ERR_FORMAT);

    assert_int_equal(gguf_get_u32_or(g, "a.none", 7, &u), OK);
    assert_int_equal(u, 7);
    assert_int_equal(gguf_get_f32_or(g, "a.none", 0.5f, &f), OK);
    assert_true(f == 0.5f);
    assert_int_equal(gguf_get_bool_or(g, "a.none", 1, &flag), OK);
    assert_int_equal(flag, 1);
    assert_int_equal(gguf_get_string_or(g, "a.none", "else", &s), OK);
    assert_string_equal(s, "else");
    assert_int_equal(gguf_get_u32_or(g, "a.string", 7, &u), ERR_FORMAT);
}

static void check_arrays(const struct gguf *g) {
    const struct gguf_kv *kv = gguf_find(g, "b.i16");
    assert_int_equal(kv->type, GGUF_ARRAY);
    assert_int_equal(kv->item_type, GGUF_I16);
    assert_int_equal(kv->n, 3);
    assert_int_equal(gguf_item_i64(kv, 1), -2);
    assert_int_equal(gguf_item_i64(kv, 2), 3);
    kv = gguf_find(g, "b.f32");
    assert_true(gguf_item_f64(kv, 0) == -0.25 && gguf_item_f64(kv, 1) == 8.0);
    kv = gguf_find(g, "b.string");
    assert_int_equal(kv->n, 3);
    assert_string_equal(kv->strings[0].data, "one");
    assert_int_equal(kv->strings[1].len, 0);
    assert_int_equal(kv->strings[2].len, 3);
    assert_memory_equal(kv->strings[2].data, "x\0y", 4);
    assert_int_equal(gguf_find(g, "b.empty")->n, 0);
    assert_null(gguf_find(g, "b"));
}

static void check_tensors(const struct gguf *g, const struct bytes *b) {
    const uint8_t *data = b->data + b->len - 280;
    assert_int_equal(gguf_n_tensors(g), 3);
    const struct gguf_tensor *t = gguf_find_tensor(g, "blk.0.w");
    assert_ptr_equal(t, gguf_tensor_at(g, 0));
    assert_int_equal(t->format, FORMAT_Q8_0);
    assert_int_equal(t->n_bytes, 204);
    assert_int_equal(t->file_offset, b->len - 280);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[3], 1);
    uint8_t got[256];
    uint64_t n_read = 5;
    assert_int_equal(gguf_read(g, t, 1, 3, 0, 64, got, &n_read), OK);
    assert_memory_equal(got, data + 68, 136);
    assert_int_equal(n_read, 5 + 136);
    n_read = 0;
    assert_int_equal(gguf_read(g, t, 1, 3, 32, 64, got, &n_read), OK);
    assert_memory_equal(got, data + 68 + 34, 34);
    assert_memory_equal(got + 34, data + 136 + 34, 34);
    assert_int_equal(n_read, 68);
    assert_int_equal(gguf_read(g, t, 2, 2, 0, 64, got, &n_read), OK);
    assert_int_equal(gguf_read(g, t, 0, 3, 32, 32, got, &n_read), OK);
    assert_int_equal(n_read, 68);
    t = gguf_find_tensor(g, "deep");
    assert_int_equal(gguf_read(g, t, 4, 6, 1, 2, got, NULL), OK);
    assert_memory_equal(got, data + 256 + 4 * 4 + 2, 2);
    assert_memory_equal(got + 2, data + 256 + 5 * 4 + 2, 2);
    assert_null(gguf_find_tensor(g, "blk.0"));

    assert_int_equal(gguf_read(g, t, 0, 7, 0, 2, got, NULL), ERR_INTERNAL);
    assert_int_equal(gguf_read(g, t, 2, 1, 0, 2, got, NULL), ERR_INTERNAL);
    assert_int_equal(gguf_read(g, t, 0, 1, 0, 3, got, NULL), ERR_INTERNAL);
    t = gguf_find_tensor(g, "blk.0.w");
    assert_int_equal(gguf_read(g, t, 0, 1, 16, 32, got, NULL), ERR_INTERNAL);
}

static void test_good(void **state) {
    (void)state;
    for (uint32_t version = 2; version <= 3; version++) {
        struct bytes b = {0};
        put_good(&b, version);
        struct gguf *g = open_good(write_file("good.gguf", &b));
        assert_int_equal(gguf_version(g), version);
        assert_int_equal(gguf_file_bytes(g), b.len);
        assert_int_equal(gguf_n_files(g), 1);
        assert_string_equal(gguf_path(g), path_of("good.gguf"));
        assert_int_equal(gguf_n_kv(g), N_GOOD_KV);
        assert_string_equal(gguf_kv_at(g, 0)->key, "a.u8");
        check_scalars(g);
        check_refusals(g);
        check_arrays(g);
        check_tensors(g, &b);
        gguf_close(g);
        bytes_free(&b);
    }
    gguf_close(NULL);
}

static void test_empty_and_aligned(void **state) {
    (void)state;
    struct bytes b = {0};
    put_header(&b, 3, 0, 0); /* no keys, no tensors, no data */
    struct gguf *g = open_good(write_scratch(b.data, b.len));
    assert_int_equal(gguf_n_kv(g) + gguf_n_tensors(g), 0);
    assert_null(gguf_find(g, "x"));
    assert_null(gguf_find_tensor(g, "x"));
    gguf_close(g);
    b.len = 0;
    put_header(&b, 3, 1, 1);
    put_key_u32(&b, "general.alignment", 4);
    put_tensor(&b, "t", 1, (uint64_t[]){2}, 0, 4);
    put_padding(&b, 4);
    put_f32(&b, 0), put_f32(&b, 1), put_f32(&b, 2);
    g = open_good(write_scratch(b.data, b.len));
    float got[2];
    assert_int_equal(gguf_read(g, gguf_tensor_at(g, 0), 0, 1, 0, 2, got, NULL),
                     OK);
    assert_true(got[0] == 1 && got[1] == 2);
    gguf_close(g);
    bytes_free(&b);
}

/* The file loses its end after it was opened. */
static void test_short_read(void **state) {
    (void)state;
    struct bytes b = {0};
    put_good(&b, 3);
    const char *path = write_file("short.gguf", &b);
    struct gguf *g = open_good(path);
    assert_int_equal(truncate(path, (off_t)b.len - 10), 0);
    uint8_t got[64];
    const struct gguf_tensor *t = gguf_find_tensor(g, "deep");
    assert_int_equal(gguf_read(g, t, 0, 6, 0, 2, got, NULL), ERR_FILE);
    assert_non_null(strstr(err_text(), "deep"));
    assert_non_null(strstr(err_text(), "shorter"));
    gguf_close(g);
    bytes_free(&b);
}

static void test_no_file(void **state) {
    (void)state;
    open_bad(path_of("absent.gguf"), ERR_FILE, "No such file");
    open_bad(folder, ERR_FILE, "directory");
    char fifo[256];
    snprintf(fifo, sizeof fifo, "%s", path_of("fifo"));
    assert_int_equal(mkfifo(fifo, 0600), 0);
    open_bad(fifo, ERR_FILE, "special");
}

/* ---- hostile: truncation and flipped bits ---- */

static void touch_all(const struct gguf *g) {
    volatile double sum = 0;
    for (size_t i = 0; i < gguf_n_kv(g); i++) {
        const struct gguf_kv *kv = gguf_kv_at(g, i);
        sum += (double)strlen(kv->key);
        for (uint64_t j = 0; j < kv->n; j++)
            sum += kv->strings ? (double)kv->strings[j].data[kv->strings[j].len]
                               : gguf_item_f64(kv, j);
    }
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        uint8_t *dst = malloc(t->n_bytes);
        assert_non_null(dst);
        if (gguf_read(g, t, 0, t->dims[1] * t->dims[2] * t->dims[3], 0,
                      t->dims[0], dst, NULL) != OK)
            fail_msg("%s", err_text());
        free(dst);
    }
}

static void test_every_truncation(void **state) {
    (void)state;
    struct bytes b = {0};
    put_good(&b, 3);
    for (size_t n = 0; n < b.len; n++) {
        struct gguf *g;
        err e = gguf_open(write_scratch(b.data, n), &g);
        if (e != ERR_FORMAT || !strstr(err_text(), "truncated"))
            fail_msg("%zu of %zu bytes: %s: %s", n, b.len, err_name(e),
                     err_text());
    }
    gguf_close(open_good(write_scratch(b.data, b.len)));
    bytes_free(&b);
}

static void test_every_flipped_bit(void **state) {
    (void)state;
    struct bytes b = {0};
    put_good(&b, 3);
    size_t n_opened = 0, n_bits = (b.len - 280) * 8;
    for (size_t i = 0; i < n_bits; i++) {
        b.data[i / 8] ^= (uint8_t)(1 << i % 8);
        struct gguf *g;
        err e = gguf_open(write_scratch(b.data, b.len), &g);
        if (e == OK) {
            touch_all(g);
            gguf_close(g);
            n_opened++;
        } else if (e == ERR_MEMORY || e == ERR_INTERNAL || e == ERR_FILE) {
            fail_msg("bit %zu: %s: %s", i, err_name(e), err_text());
        }
        b.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    assert_true(n_opened > 0 && n_opened < n_bits); /* both must happen */
    bytes_free(&b);
}

/* ---- hostile: lies ---- */

#define HUGE_COUNT (1ull << 60)

static void lie_magic(struct bytes *b) {
    put(b, "PK\3\4", 4);
    put_pattern(b, 60);
}
static void lie_ggml(struct bytes *b) {
    put(b, "lmgg", 4);
    put_pattern(b, 60);
}
static void lie_version_1(struct bytes *b) { put_header(b, 1, 0, 0); }
static void lie_version_9(struct bytes *b) { put_header(b, 9, 0, 0); }
static void lie_big_endian(struct bytes *b) { put_header(b, 3u << 24, 0, 0); }
static void lie_n_kv(struct bytes *b) {
    put_header(b, 3, 0, HUGE_COUNT);
    put_pattern(b, 999);
}
static void lie_n_tensors(struct bytes *b) {
    put_header(b, 3, HUGE_COUNT, 0);
    put_pattern(b, 999);
}
static void lie_n_items(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_array(b, "k", GGUF_U64, HUGE_COUNT);
}
static void lie_n_items_wrap(struct bytes *b) { /* times 8 is 0 in 64 bits */
    put_header(b, 3, 0, 1);
    put_array(b, "k", GGUF_F64, 1ull << 61);
}
static void lie_n_strings(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_array(b, "k", GGUF_STRING, HUGE_COUNT);
}
static void lie_string_length(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_key(b, "k", GGUF_STRING);
    put_u64(b, UINT64_MAX);
}
static void lie_key_length(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_u64(b, HUGE_COUNT);
    put_pattern(b, 99);
}
static void lie_key_empty(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_key_u32(b, "", 1);
}
static void lie_key_long(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_u64(b, 65536);
    put_pattern(b, 66000);
}
static void lie_key_nul(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_bytes(b, "a\0b", 3);
    put_u32(b, GGUF_U8), put_u8(b, 1);
}
static void lie_key_twice(struct bytes *b) {
    put_header(b, 3, 0, 3);
    put_key_u32(b, "same\n", 1);
    put_key_u32(b, "other", 1);
    put_key_u32(b, "same\n", 2);
}
static void lie_type(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_key(b, "k", 13), put_u64(b, 0);
}
static void lie_item_type(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_array(b, "k", 4000000000u, 1), put_u64(b, 0);
}
static void lie_nested(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_array(b, "k", GGUF_ARRAY, 1);
    put_u32(b, GGUF_U8), put_u64(b, 1), put_u8(b, 1);
}
static void lie_bool(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_key(b, "k", GGUF_BOOL), put_u8(b, 2);
}
static void put_alignment(struct bytes *b, uint32_t v) {
    put_header(b, 3, 0, 1);
    put_key_u32(b, "general.alignment", v);
}
static void lie_alignment_0(struct bytes *b) { put_alignment(b, 0); }
static void lie_alignment_24(struct bytes *b) { put_alignment(b, 24); }
static void lie_alignment_type(struct bytes *b) {
    put_header(b, 3, 0, 1);
    put_key(b, "general.alignment", GGUF_STRING), put_string(b, "32");
}

/* One tensor 't' and 64 bytes of data. */
static void put_one(struct bytes *b, uint32_t n_dims, const uint64_t *dims,
                    uint32_t type, uint64_t offset) {
    put_header(b, 3, 1, 0);
    put_tensor(b, "t", n_dims, dims, type, offset);
    put_padding(b, 32);
    put_pattern(b, 64);
}
static void lie_type_tensor(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){4}, 77, 0);
}
static void lie_type_unsupported(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){256}, 23, 0);
}
static void lie_no_dims(struct bytes *b) { put_one(b, 0, NULL, 0, 0); }
static void lie_five_dims(struct bytes *b) {
    put_one(b, 5, (uint64_t[]){1, 1, 1, 1, 1}, 0, 0);
}
static void lie_zero_dim(struct bytes *b) {
    put_one(b, 2, (uint64_t[]){4, 0}, 0, 0);
}
static void lie_dims_wrap(struct bytes *b) { /* product 2^64 */
    put_one(b, 2, (uint64_t[]){1ull << 32, 1ull << 32}, 0, 0);
}
static void lie_bytes_wrap(struct bytes *b) { /* times 4 bytes is 2^64 */
    put_one(b, 1, (uint64_t[]){1ull << 62}, 0, 0);
}
static void lie_huge(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){HUGE_COUNT}, 0, 0);
}
static void lie_row_length(struct bytes *b) {
    put_one(b, 2, (uint64_t[]){16, 2}, 8, 0);
}
static void lie_misaligned(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){4}, 0, 4);
}
static void lie_offset(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){4}, 0, 64);
}
static void lie_offset_wrap(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){4}, 0, UINT64_MAX - 31);
}
static void lie_end(struct bytes *b) {
    put_one(b, 1, (uint64_t[]){17}, 0, 0);
}
static void put_two(struct bytes *b, const char *second, uint64_t offset) {
    put_header(b, 3, 2, 0);
    put_tensor(b, "one", 1, (uint64_t[]){9}, 0, 0);
    put_tensor(b, second, 1, (uint64_t[]){4}, 0, offset);
    put_padding(b, 32);
    put_pattern(b, 128);
}
static void lie_overlap(struct bytes *b) { put_two(b, "two", 32); }
static void lie_same_place(struct bytes *b) { put_two(b, "two", 0); }
static void lie_name_twice(struct bytes *b) { put_two(b, "one", 64); }
static void lie_name_empty(struct bytes *b) { put_two(b, "", 64); }
static void lie_name_long(struct bytes *b) {
    put_two(b, "0123456789012345678901234567890123456789"
               "01234567890123456789012345", 64);
}

static const struct lie {
    void (*make)(struct bytes *);
    err code;
    const char *text;
} lies[] = {
    {lie_magic, ERR_FORMAT, "'PK\\x03\\x04', expected 'GGUF'"},
    {lie_ggml, ERR_UNSUPPORTED, "before GGUF"},
    {lie_version_1, ERR_UNSUPPORTED, "version 1"},
    {lie_version_9, ERR_UNSUPPORTED, "version 9"},
    {lie_big_endian, ERR_UNSUPPORTED, "big-endian"},
    {lie_n_kv, ERR_FORMAT, "1152921504606846976 keys"},
    {lie_n_tensors, ERR_FORMAT, "1152921504606846976 tensors"},
    {lie_n_items, ERR_FORMAT, "key 'k' has 1152921504606846976 items of u64"},
    {lie_n_items_wrap, ERR_FORMAT, "key 'k' has 2305843009213693952 items"},
    {lie_n_strings, ERR_FORMAT, "1152921504606846976 strings"},
    {lie_string_length, ERR_FORMAT, "needs 18446744073709551615 bytes"},
    {lie_key_length, ERR_FORMAT, "key number 0"},
    {lie_key_empty, ERR_FORMAT, "name of 0 bytes"},
    {lie_key_long, ERR_FORMAT, "name of 65536 bytes"},
    {lie_key_nul, ERR_FORMAT, "NUL"},
    {lie_key_twice, ERR_FORMAT, "'same\\x0a' appears twice"},
    {lie_type, ERR_FORMAT, "has type 13"},
    {lie_item_type, ERR_FORMAT, "has type 4000000000"},
    {lie_nested, ERR_UNSUPPORTED, "array of arrays"},
    {lie_bool, ERR_FORMAT, "bool 2"},
    {lie_alignment_0, ERR_FORMAT, "power of two"},
    {lie_alignment_24, ERR_FORMAT, "is 24, expected a power of two"},
    {lie_alignment_type, ERR_FORMAT, "is string, expected an integer"},
    {lie_type_tensor, ERR_UNSUPPORTED, "tensor 't' cannot be read: type 77"},
    {lie_type_unsupported, ERR_UNSUPPORTED, "IQ4_XS"},
    {lie_no_dims, ERR_FORMAT, "has 0 dimensions"},
    {lie_five_dims, ERR_FORMAT, "has 5 dimensions"},
    {lie_zero_dim, ERR_FORMAT, "dimension 1 of size 0"},
    {lie_dims_wrap, ERR_FORMAT, "more values than can be counted"},
    {lie_bytes_wrap, ERR_FORMAT, "more bytes than can be counted"},
    {lie_huge, ERR_FORMAT, "truncated"},
    {lie_row_length, ERR_FORMAT, "rows of 16 values, expected a multiple of 32"},
    {lie_misaligned, ERR_FORMAT, "data offset 4, expected a multiple"},
    {lie_offset, ERR_FORMAT, "truncated (or the offset corrupt)"},
    {lie_offset_wrap, ERR_FORMAT, "beyond any file"},
    {lie_end, ERR_FORMAT, "the file ends at"},
    {lie_overlap, ERR_FORMAT, "tensor 'one' (bytes"},
    {lie_same_place, ERR_FORMAT, "overlaps tensor"},
    {lie_name_twice, ERR_FORMAT, "tensor 'one' appears twice"},
    {lie_name_empty, ERR_FORMAT, "name of 0 bytes"},
    {lie_name_long, ERR_FORMAT, "name of 66 bytes"},
};

static void test_lies(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        struct bytes b = {0};
        lies[i].make(&b);
        open_bad(write_scratch(b.data, b.len), lies[i].code, lies[i].text);
        bytes_free(&b);
    }
}

/* ---- split models ---- */

struct part {
    uint16_t no, count;
    uint32_t n_tensors;
    const char *tensor;
};

static void write_part(const char *name, const struct part *p) {
    struct bytes b = {0};
    put_header(&b, 3, p->tensor ? 1 : 0, 4);
    put_key_u16(&b, "split.no", p->no);
    put_key_u16(&b, "split.count", p->count);
    put_key(&b, "split.tensors.count", GGUF_I32), put_u32(&b, p->n_tensors);
    put_key_u32(&b, "who", p->no);
    if (p->tensor) put_tensor(&b, p->tensor, 1, (uint64_t[]){8}, 0, 0);
    put_padding(&b, 32);
    for (int i = 0; i < 8; i++) put_f32(&b, (float)(p->no * 10 + i));
    write_file(name, &b);
    bytes_free(&b);
}

static void write_parts(const struct part p[3]) {
    write_part("m-00001-of-00003.gguf", &p[0]);
    write_part("m-00002-of-00003.gguf", &p[1]);
    write_part("m-00003-of-00003.gguf", &p[2]);
}

static void test_split_good(void **state) {
    (void)state;
    write_parts((struct part[]){{0, 3, 2, NULL}, {1, 3, 2, "a"}, {2, 3, 2, "b"}});
    struct gguf *g = open_good(path_of("m-00001-of-00003.gguf"));
    assert_int_equal(gguf_n_files(g), 3);
    assert_string_equal(gguf_file_path(g, 2), path_of("m-00003-of-00003.gguf"));
    assert_int_equal(gguf_n_tensors(g), 2);
    uint32_t who;
    assert_int_equal(gguf_get_u32(g, "who", &who), OK);
    assert_int_equal(who, 0);
    const struct gguf_tensor *t = gguf_find_tensor(g, "b");
    assert_int_equal(t->file, 2);
    float got[8];
    assert_int_equal(gguf_read(g, t, 0, 1, 0, 8, got, NULL), OK);
    assert_true(got[0] == 20 && got[7] == 27);
    gguf_close(g);

    write_part("whole.gguf", &(struct part){0, 1, 1, "a"});
    gguf_close(open_good(path_of("whole.gguf")));
}

static void test_split_bad(void **state) {
    (void)state;
    char first[256];
    snprintf(first, sizeof first, "%s", path_of("m-00001-of-00003.gguf"));
    write_parts((struct part[]){{0, 3, 3, "x"}, {1, 3, 3, "a"}, {2, 3, 3, "b"}});
    gguf_close(open_good(first));
    open_bad(path_of("m-00002-of-00003.gguf"), ERR_REQUEST,
             "m-00001-of-00003.gguf");
    rename(first, path_of("other.gguf"));
    open_bad(path_of("other.gguf"), ERR_FORMAT, "'-00001-of-00003.gguf'");

    write_parts((struct part[]){{0, 3, 4, "x"}, {1, 3, 4, "a"}, {2, 3, 4, "b"}});
    open_bad(first, ERR_FORMAT, "'split.tensors.count' is 4");
    write_parts((struct part[]){{0, 3, 3, "x"}, {1, 3, 2, "a"}, {2, 3, 3, "b"}});
    open_bad(first, ERR_FORMAT, "'split.tensors.count' is 2");
    write_parts((struct part[]){{0, 3, 3, "x"}, {1, 4, 3, "a"}, {2, 3, 3, "b"}});
    open_bad(first, ERR_FORMAT, "'split.count' is 4");
    write_parts((struct part[]){{0, 3, 3, "x"}, {2, 3, 3, "a"}, {2, 3, 3, "b"}});
    open_bad(first, ERR_FORMAT, "'split.no' is 2");
    write_parts((struct part[]){{3, 3, 3, "x"}, {1, 3, 3, "a"}, {2, 3, 3, "b"}});
    open_bad(first, ERR_FORMAT, "'split.no' is 3");
    write_parts((struct part[]){{0, 3, 3, "x"}, {1, 3, 3, "a"}, {2, 3, 3, "x"}});
    open_bad(first, ERR_FORMAT, "tensor 'x' appears twice, also in");
    write_parts((struct part[]){{0, 3, 3, "x"}, {1, 3, 3, "a"}, {2, 3, 3, "b"}});
    assert_int_equal(truncate(path_of("m-00002-of-00003.gguf"), 150), 0);
    open_bad(first, ERR_FORMAT, "truncated");
    unlink(path_of("m-00002-of-00003.gguf"));
    open_bad(first, ERR_FILE, "part 2 of 3 is missing");
    open_bad(first, ERR_FILE, "m-00002-of-00003.gguf");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_empty_and_aligned),
        cmocka_unit_test(test_short_read),
        cmocka_unit_test(test_no_file),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_every_flipped_bit),
        cmocka_unit_test(test_lies),
        cmocka_unit_test(test_split_good),
        cmocka_unit_test(test_split_bad),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
