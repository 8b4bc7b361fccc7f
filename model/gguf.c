#include "model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "model/gguf_parse.h"

struct file {
    char *path;
    int fd;
    uint64_t n_bytes;
};

struct gguf {
    struct file *files;
    size_t n_files, cap_files;
    struct gguf_arena arena;
    struct gguf_header header; /* of the first file, without its tensors */
    struct gguf_tensor *tensors; /* of all files, in their order */
    size_t n_tensors;
    const struct gguf_tensor **tensors_sorted; /* by name */
};

/* What a file says of its place in a split model. */
struct split {
    uint32_t n_parts; /* 0 or 1: not split */
    uint32_t part;
    uint32_t n_tensors;
    int has_n_tensors;
};

/* ---- files ---- */

/* Opens a regular file; `f->fd` is -1 or to be closed whatever comes out. */
static err file_open(struct file *f, const char *path) {
    f->fd = -1;
    f->path = strdup(path);
    if (!f->path) return err_set(ERR_MEMORY, "cannot allocate a path");
    /* O_NONBLOCK: a FIFO must not keep us waiting for its writer. */
    f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (f->fd < 0)
        return err_set(ERR_FILE, "cannot open %s: %s", path, strerror(errno));
    struct stat s;
    if (fstat(f->fd, &s) != 0)
        return err_set(ERR_FILE, "cannot stat %s: %s", path, strerror(errno));
    if (!S_ISREG(s.st_mode))
        return err_set(ERR_FILE, "%s is %s, not a regular file", path,
                       S_ISDIR(s.st_mode) ? "a directory" : "special");
    f->n_bytes = (uint64_t)s.st_size;
    return OK;
}

static err file_parse(const struct file *f, struct gguf_arena *a,
                      struct gguf_header *out) {
    if (f->n_bytes == 0) /* mmap refuses it */
        return gguf_header_parse(a, f->path, (const uint8_t *)"", 0, 0, out);
    if (f->n_bytes > SIZE_MAX)
        return err_set(ERR_UNSUPPORTED, "%s: %" PRIu64 " bytes are more than "
                       "this machine can address", f->path, f->n_bytes);
    void *map = mmap(NULL, (size_t)f->n_bytes, PROT_READ, MAP_PRIVATE, f->fd, 0);
    if (map == MAP_FAILED)
        return err_set(ERR_FILE, "cannot map %s: %s", f->path, strerror(errno));
    err e = gguf_header_parse(a, f->path, map, f->n_bytes, f->n_bytes, out);
    munmap(map, (size_t)f->n_bytes);
    return e;
}

/* One more, without anything. */
static err file_new(struct gguf *g, struct file **out) {
    if (g->n_files == g->cap_files) {
        size_t cap = g->cap_files ? g->cap_files * 2 : 4;
        struct file *files = mem_resized(g->files, cap, sizeof *files);
        if (!files) return ERR_MEMORY;
        g->files = files;
        g->cap_files = cap;
    }
    *out = &g->files[g->n_files++];
    **out = (struct file){NULL, -1, 0};
    return OK;
}

/* The tensors of the file added last move from its header to `g`. */
static err add_tensors(struct gguf *g, struct gguf_header *out) {
    err e = OK;
    uint32_t file = (uint32_t)g->n_files - 1;
    size_t n = g->n_tensors + out->n_tensors;
    struct gguf_tensor *tensors = mem_resized(g->tensors, n, sizeof *tensors);
    if (!tensors) {
        e = ERR_MEMORY;
        gguf_header_free(out);
        return e;
    }
    g->tensors = tensors;
    for (size_t i = 0; i < out->n_tensors; i++) {
        tensors[g->n_tensors + i] = out->tensors[i];
        tensors[g->n_tensors + i].file = file;
    }
    g->n_tensors = n;
    free(out->tensors);
    out->tensors = NULL;
    return e;
}

/* Appends the file and its tensors to `g`; the rest of its header to `out`. */
static err add_file(struct gguf *g, const char *path, struct gguf_header *out) {
    struct file *f;
    *out = (struct gguf_header){0};
    TRY(file_new(g, &f));
    TRY(file_open(f, path));
    TRY(file_parse(f, &g->arena, out));
    return add_tensors(g, out);
}

/* ---- split models ---- */

static err read_split(const char *path, const struct gguf_header *h,
                      struct split *out) {
    const struct gguf_kv *kv;
    *out = (struct split){0};
    if ((kv = gguf_header_find(h, "split.count")))
        TRY(gguf_kv_u32(path, kv, &out->n_parts));
    if ((kv = gguf_header_find(h, "split.no")))
        TRY(gguf_kv_u32(path, kv, &out->part));
    if ((kv = gguf_header_find(h, "split.tensors.count"))) {
        TRY(gguf_kv_u32(path, kv, &out->n_tensors));
        out->has_n_tensors = 1;
    }
    if (out->n_parts > 99999) /* the file names have five digits */
        return err_set(ERR_FORMAT,
                       "%s: key 'split.count' is %u, expected at most 99999",
                       path, out->n_parts);
    if (out->part >= out->n_parts && out->part > 0)
        return err_set(ERR_FORMAT,
                       "%s: key 'split.no' is %u, expected less than the "
                       "split.count %u",
                       path, out->part, out->n_parts);
    return OK;
}

/* "NAME-0000P-of-0000N.gguf" without what follows NAME, into `out`. */
static err split_prefix(const char *path, const struct split *s,
                        struct bytes *out) {
    char suffix[40];
    snprintf(suffix, sizeof suffix, "-%05u-of-%05u.gguf", s->part + 1,
             s->n_parts);
    size_t len = strlen(path), n = strlen(suffix);
    if (len < n || strcmp(path + len - n, suffix) != 0)
        return err_set(ERR_FORMAT,
                       "%s: is part %u of a model split into %u files: its name "
                       "must end in '%s' for the others to be found",
                       path, s->part + 1, s->n_parts, suffix);
    return bytes_append(out, path, len - n);
}

/* Part `i` must say what the first one said. */
static err check_part(const char *path, const struct split *first,
                      const struct split *part, uint32_t i) {
    if (part->n_parts != first->n_parts)
        return err_set(ERR_FORMAT,
                       "%s: key 'split.count' is %u, expected %u as in the "
                       "first file",
                       path, part->n_parts, first->n_parts);
    if (part->part != i)
        return err_set(ERR_FORMAT,
                       "%s: key 'split.no' is %u, expected %u as its name says",
                       path, part->part, i);
    if (part->has_n_tensors && first->has_n_tensors &&
        part->n_tensors != first->n_tensors)
        return err_set(ERR_FORMAT,
                       "%s: key 'split.tensors.count' is %u, expected %u as in "
                       "the first file",
                       path, part->n_tensors, first->n_tensors);
    return OK;
}

static err add_part(struct gguf *g, const char *path, const struct split *first,
                    uint32_t i) {
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return err_set(ERR_FILE, "%s: part %u of %u is missing: %s",
                       g->files[0].path, i + 1, first->n_parts, path);
    struct gguf_header h;
    struct split s;
    TRY(add_file(g, path, &h));
    err e = read_split(path, &h, &s);
    gguf_header_free(&h);
    TRY(e);
    return check_part(path, first, &s, i);
}

/* The other files of the model whose first file is open. */
static err add_parts(struct gguf *g) {
    const char *path = g->files[0].path;
    struct split s;
    TRY(read_split(path, &g->header, &s));
    struct bytes name = {0};
    err e = OK;
    if (s.n_parts > 1) {
        TRY_GOTO(split_prefix(path, &s, &name), end);
        size_t prefix = name.len;
        if (s.part != 0) {
            e = err_set(ERR_REQUEST,
                        "%s: is part %u of %u: give the first, %s-00001-of-"
                        "%05u.gguf",
                        path, s.part + 1, s.n_parts, (const char *)name.data,
                        s.n_parts);
            goto end;
        }
        for (uint32_t i = 1; i < s.n_parts; i++) {
            name.len = prefix;
            TRY_GOTO(bytes_printf(&name, "-%05u-of-%05u.gguf", i + 1, s.n_parts),
                     end);
            TRY_GOTO(add_part(g, (const char *)name.data, &s, i), end);
        }
    }
    if (s.n_parts > 0 && s.has_n_tensors && s.n_tensors != g->n_tensors)
        e = err_set(ERR_FORMAT,
                    "%s: key 'split.tensors.count' is %u, but the %zu files "
                    "hold %zu tensors",
                    g->files[0].path, s.n_tensors, g->n_files, g->n_tensors);
end:
    bytes_free(&name);
    return e;
}

/* ---- tensors ---- */

static int compare_names(const void *a, const void *b) {
    const struct gguf_tensor *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int compare_name(const void *name, const void *b) {
    const struct gguf_tensor *const *y = b;
    return strcmp(name, (*y)->name);
}

static int compare_places(const void *a, const void *b) {
    const struct gguf_tensor *x = *(const struct gguf_tensor *const *)a;
    const struct gguf_tensor *y = *(const struct gguf_tensor *const *)b;
    if (x->file != y->file) return x->file < y->file ? -1 : 1;
    if (x->file_offset == y->file_offset) return 0;
    return x->file_offset < y->file_offset ? -1 : 1;
}

/* Sorts by place to find overlaps, then by name to find duplicates and to stay. */
static err index_tensors(struct gguf *g) {
    TRY(NEW(g->tensors_sorted, g->n_tensors));
    const struct gguf_tensor **t = g->tensors_sorted;
    size_t n = g->n_tensors, item = sizeof *t;
    char one[GGUF_SHOWN_BYTES], two[GGUF_SHOWN_BYTES];
    for (size_t i = 0; i < n; i++) t[i] = &g->tensors[i];
    qsort(t, n, item, compare_places);
    for (size_t i = 1; i < n; i++) {
        uint64_t end = t[i - 1]->file_offset + t[i - 1]->n_bytes;
        if (t[i - 1]->file == t[i]->file && end > t[i]->file_offset)
            return err_set(
                ERR_FORMAT,
                "%s: tensor '%s' (bytes %" PRIu64 " to %" PRIu64
                ") overlaps tensor '%s' (from byte %" PRIu64 ")",
                g->files[t[i]->file].path,
                gguf_shown(t[i - 1]->name, strlen(t[i - 1]->name), one),
                t[i - 1]->file_offset, end,
                gguf_shown(t[i]->name, strlen(t[i]->name), two),
                t[i]->file_offset);
    }
    qsort(t, n, item, compare_names);
    for (size_t i = 1; i < n; i++)
        if (compare_names(&t[i - 1], &t[i]) == 0)
            return err_set(ERR_FORMAT, "%s: tensor '%s' appears twice%s%s",
                           g->files[t[i - 1]->file].path,
                           gguf_shown(t[i]->name, strlen(t[i]->name), one),
                           t[i - 1]->file == t[i]->file ? "" : ", also in ",
                           t[i - 1]->file == t[i]->file
                               ? ""
                               : g->files[t[i]->file].path);
    return OK;
}

static err open_all(struct gguf *g, const char *path) {
    TRY(add_file(g, path, &g->header));
    TRY(add_parts(g));
    return index_tensors(g);
}

static err finish_open(err e, struct gguf *g, struct gguf **out) {
    if (e == OK)
        *out = g;
    else
        gguf_close(g);
    return e;
}

err gguf_open(const char *path, struct gguf **out) {
    struct gguf *g;
    *out = NULL;
    TRY(NEW(g, 1));
    return finish_open(open_all(g, path), g, out);
}

static err open_header(struct gguf *g, const char *name, const void *header, size_t n) {
    struct file *f;
    TRY(file_new(g, &f));
    f->path = strdup(name);
    if (!f->path) return err_set(ERR_MEMORY, "cannot allocate a path");
    TRY(gguf_header_parse(&g->arena, name, header, n, INT64_MAX, &g->header));
    TRY(add_tensors(g, &g->header));
    return index_tensors(g);
}

err gguf_open_header(const char *name, const void *header, size_t n, struct gguf **out) {
    struct gguf *g;
    *out = NULL;
    TRY(NEW(g, 1));
    return finish_open(open_header(g, name, header, n), g, out);
}

static err describe(struct gguf *g, const char *path, const struct gguf_kv *kv, size_t n_kv,
                    const struct gguf_tensor *tensors, size_t n_tensors) {
    struct file *f;
    TRY(file_new(g, &f));
    f->path = strdup(path);
    if (!f->path) return err_set(ERR_MEMORY, "cannot allocate a path");
    TRY(NEW(g->header.kv, n_kv));
    TRY(NEW(g->header.kv_sorted, n_kv));
    TRY(NEW(g->tensors, n_tensors));
    memcpy(g->header.kv, kv, n_kv * sizeof *kv);
    g->header.n_kv = n_kv;
    gguf_header_sort(&g->header);
    uint64_t at = 0;
    for (; g->n_tensors < n_tensors; g->n_tensors++) {
        struct gguf_tensor *t = &g->tensors[g->n_tensors];
        *t = tensors[g->n_tensors];
        t->file = 0;
        t->file_offset = at;
        t->n_bytes = format_bytes(t->format, (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]));
        at += t->n_bytes;
    }
    f->n_bytes = at;
    return index_tensors(g);
}

err gguf_describe(const char *path, const struct gguf_kv *kv, size_t n_kv, const struct gguf_tensor *tensors,
                  size_t n_tensors, struct gguf **out) {
    struct gguf *g;
    *out = NULL;
    TRY(NEW(g, 1));
    return finish_open(describe(g, path, kv, n_kv, tensors, n_tensors), g, out);
}

void gguf_close(struct gguf *g) {
    if (!g) return;
    for (size_t i = 0; i < g->n_files; i++) {
        if (g->files[i].fd >= 0) close(g->files[i].fd);
        free(g->files[i].path);
    }
    free(g->files);
    free(g->tensors);
    free(g->tensors_sorted);
    gguf_header_free(&g->header);
    gguf_arena_free(&g->arena);
    free(g);
}

/* ---- looking up ---- */

const char *gguf_path(const struct gguf *g) { return g->files[0].path; }

uint32_t gguf_version(const struct gguf *g) { return g->header.version; }

uint64_t gguf_file_bytes(const struct gguf *g) {
    uint64_t n = 0;
    for (size_t i = 0; i < g->n_files; i++) n += g->files[i].n_bytes;
    return n;
}

uint64_t gguf_part_bytes(const struct gguf *g, size_t file) { return g->files[file].n_bytes; }

/* Of a file that is open: the path may lead to another one by now. */
uint64_t gguf_change_stamp(const struct gguf *g) {
    uint64_t stamp = g->n_files;
    struct stat s;
    for (size_t i = 0; i < g->n_files; i++)
        if (g->files[i].fd >= 0 && fstat(g->files[i].fd, &s) == 0)
            stamp = (stamp * 0x9e3779b97f4a7c15u + (uint64_t)s.st_mtim.tv_sec) * 0x9e3779b97f4a7c15u +
                    (uint64_t)s.st_mtim.tv_nsec;
    return stamp;
}

size_t gguf_n_files(const struct gguf *g) { return g->n_files; }

const char *gguf_file_path(const struct gguf *g, size_t file) {
    return g->files[file].path;
}

size_t gguf_n_kv(const struct gguf *g) { return g->header.n_kv; }

const struct gguf_kv *gguf_kv_at(const struct gguf *g, size_t i) {
    return &g->header.kv[i];
}

const struct gguf_kv *gguf_find(const struct gguf *g, const char *key) {
    return gguf_header_find(&g->header, key);
}

size_t gguf_n_tensors(const struct gguf *g) { return g->n_tensors; }

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i) {
    return &g->tensors[i];
}

const struct gguf_tensor *gguf_find_tensor(const struct gguf *g,
                                           const char *name) {
    const struct gguf_tensor **hit =
        g->n_tensors == 0 ? NULL
                          : bsearch(name, g->tensors_sorted, g->n_tensors,
                                    sizeof *g->tensors_sorted, compare_name);
    return hit ? *hit : NULL;
}

static err key_missing(const struct gguf *g, const char *key) {
    return err_set(ERR_FORMAT, "%s: key '%s' is missing", gguf_path(g), key);
}

static err key_mistyped(const struct gguf *g, const struct gguf_kv *kv,
                        const char *expected) {
    return err_set(ERR_FORMAT, "%s: key '%s' is %s, expected %s", gguf_path(g),
                   kv->key, gguf_type_name(kv->type), expected);
}

err gguf_get_u32(const struct gguf *g, const char *key, uint32_t *out) {
    const struct gguf_kv *kv = gguf_find(g, key);
    return kv ? gguf_kv_u32(gguf_path(g), kv, out) : key_missing(g, key);
}

err gguf_get_f32(const struct gguf *g, const char *key, float *out) {
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv) return key_missing(g, key);
    if (kv->type != GGUF_F32 && kv->type != GGUF_F64)
        return key_mistyped(g, kv, "f32");
    double v = gguf_item_f64(kv, 0);
    if (isfinite(v) && fabs(v) > (double)FLT_MAX)
        return err_set(ERR_FORMAT, "%s: key '%s' is %g, expected an f32",
                       gguf_path(g), kv->key, v);
    *out = (float)v;
    return OK;
}

err gguf_get_bool(const struct gguf *g, const char *key, int *out) {
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv) return key_missing(g, key);
    if (kv->type != GGUF_BOOL) return key_mistyped(g, kv, "bool");
    *out = gguf_item_i64(kv, 0) != 0;
    return OK;
}

err gguf_get_string(const struct gguf *g, const char *key, const char **out) {
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv) return key_missing(g, key);
    if (kv->type != GGUF_STRING) return key_mistyped(g, kv, "string");
    if (strlen(kv->strings->data) != kv->strings->len)
        return key_mistyped(g, kv, "one without NUL bytes");
    *out = kv->strings->data;
    return OK;
}

err gguf_get_u32_or(const struct gguf *g, const char *key, uint32_t fallback,
                    uint32_t *out) {
    *out = fallback;
    return gguf_find(g, key) ? gguf_get_u32(g, key, out) : OK;
}

err gguf_get_f32_or(const struct gguf *g, const char *key, float fallback,
                    float *out) {
    *out = fallback;
    return gguf_find(g, key) ? gguf_get_f32(g, key, out) : OK;
}

err gguf_get_bool_or(const struct gguf *g, const char *key, int fallback,
                     int *out) {
    *out = fallback;
    return gguf_find(g, key) ? gguf_get_bool(g, key, out) : OK;
}

err gguf_get_string_or(const struct gguf *g, const char *key,
                       const char *fallback, const char **out) {
    *out = fallback;
    return gguf_find(g, key) ? gguf_get_string(g, key, out) : OK;
}

/* ---- reading ---- */

static err read_exactly(const struct file *f, const char *tensor, uint64_t offset,
                        uint8_t *dst, uint64_t n) {
    if (f->fd < 0)
        return err_set(ERR_INTERNAL, "%s: tensor '%s': only the header is here", f->path, tensor);
    for (uint64_t done = 0; done < n;) {
        ssize_t got =
            pread(f->fd, dst + done, (size_t)(n - done), (off_t)(offset + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            const char *why = got < 0 ? strerror(errno)
                                      : "the file has become shorter";
            return err_set(ERR_FILE,
                           "%s: tensor '%s': cannot read %" PRIu64
                           " bytes at offset %" PRIu64 ": %s",
                           f->path, tensor, n - done, offset + done, why);
        }
        done += (uint64_t)got;
    }
    return OK;
}

err gguf_read(const struct gguf *g, const struct gguf_tensor *t,
              uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
              uint64_t col_end, void *dst, uint64_t *n_read) {
    const struct format_info *f = format_info(t->format);
    uint64_t n_rows = t->dims[1] * t->dims[2] * t->dims[3];
    if (row_begin > row_end || row_end > n_rows || col_begin > col_end ||
        col_end > t->dims[0] || col_begin % f->block_values ||
        col_end % f->block_values)
        return err_set(ERR_INTERNAL,
                       "%s: tensor '%s': rows [%" PRIu64 ", %" PRIu64
                       ") and columns [%" PRIu64 ", %" PRIu64
                       ") do not fit [%" PRIu64 ", %" PRIu64 "] in blocks of %u",
                       g->files[t->file].path, t->name, row_begin, row_end,
                       col_begin, col_end, n_rows, t->dims[0], f->block_values);
    uint64_t row_bytes = t->dims[0] / f->block_values * f->block_bytes;
    uint64_t skip = col_begin / f->block_values * f->block_bytes;
    uint64_t n = (col_end - col_begin) / f->block_values * f->block_bytes;
    uint64_t n_reads = row_end - row_begin;
    if (n == row_bytes) { /* whole rows follow each other */
        n *= n_reads;
        n_reads = n ? 1 : 0;
    }
    uint8_t *p = dst;
    uint64_t offset = t->file_offset + row_begin * row_bytes + skip;
    for (uint64_t i = 0; n > 0 && i < n_reads; i++)
        TRY(read_exactly(&g->files[t->file], t->name, offset + i * row_bytes,
                         p + i * n, n));
    if (n_read) *n_read += n * n_reads;
    return OK;
}

err gguf_read_bytes(const struct gguf *g, const struct gguf_tensor *t, uint64_t at, uint64_t n, void *dst) {
    if (at > t->n_bytes || n > t->n_bytes - at)
        return err_set(ERR_INTERNAL, "%s: tensor '%s': bytes %" PRIu64 " to %" PRIu64 " of %" PRIu64,
                       g->files[t->file].path, t->name, at, at + n, t->n_bytes);
    return read_exactly(&g->files[t->file], t->name, t->file_offset + at, dst, n);
}

void gguf_advise(const struct gguf *g, const struct gguf_tensor *t, uint64_t row_begin, uint64_t row_end) {
    uint64_t row_bytes = format_bytes(t->format, (size_t)t->dims[0]);
    if (g->files[t->file].fd >= 0)
        posix_fadvise(g->files[t->file].fd, (off_t)(t->file_offset + row_begin * row_bytes),
                      (off_t)((row_end - row_begin) * row_bytes), POSIX_FADV_WILLNEED);
}
