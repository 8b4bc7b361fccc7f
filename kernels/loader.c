#include "kernels/loader.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/pack.h"

#define THREADS_MAX 8
#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define MATRIX_ALIGN ((size_t)4096) /* CPU drivers take a pointer as it is when a page begins there */

/* ---- memory of a CPU device ---- */

/* One piece of host memory for all that is loaded together: in huge pages without rounding up each
 * matrix, since every first touch of a small page costs a fault, and decoding a walk of its table. */
struct slab {
    void *mapping;
    size_t n_bytes;
    atomic_uint n_users; /* buffers */
};

static void slab_leave(struct slab *s) {
    if (!s || atomic_fetch_sub(&s->n_users, 1) > 1) return;
    munmap(s->mapping, s->n_bytes);
    free(s);
}

/* The driver is done with a buffer: later than its release where commands were under way. */
static void CL_CALLBACK on_buffer_gone(cl_mem mem, void *slab) {
    (void)mem;
    slab_leave(slab);
}

static uint8_t *slab_begin(const struct slab *s) {
    return (uint8_t *)(((uintptr_t)s->mapping + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES);
}

/* The caller is its first user. */
static err slab_create(size_t n_bytes, struct slab **out) {
    struct slab *s;
    TRY(NEW(s, 1));
    s->n_bytes = n_bytes + HUGE_PAGE_BYTES;
    atomic_init(&s->n_users, 1);
    s->mapping = mmap(NULL, s->n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (s->mapping == MAP_FAILED) {
        free(s);
        return err_set(ERR_MEMORY, "cannot allocate %zu MB for weights", n_bytes >> 20);
    }
    size_t huge = n_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    if (huge) madvise(slab_begin(s), huge, MADV_HUGEPAGE); /* a wish */
    *out = s;
    return OK;
}

/* ---- what is to be done ---- */

enum { QUANTS, HIGH, SCALES, SUPERS, N_PLANES };

/* One matrix on its way. */
struct piece {
    const struct matrix_order *order;
    struct matrix *matrix;
    uint8_t *mapped; /* its memory, on a CPU device; else NULL */
    uint64_t col_begin, col_end; /* to read: whole file blocks */
    size_t row_bytes;
    uint32_t block_first;
    size_t plane_at[N_PLANES], group_bytes[N_PLANES];
    uint32_t batch_groups; /* a batch is a part, see pack_part_groups */
    uint32_t batch_begin, batch_end; /* counted over all pieces */
};

struct loader {
    struct device *d;
    struct piece *pieces;
    uint32_t n_pieces;
    size_t rows_bytes, staging_bytes; /* that the largest batch needs */
    atomic_uint batch;                /* the next one to take */
    atomic_int has_failed;
    pthread_mutex_t lock; /* of what follows */
    uint32_t *damaged;    /* [n_damaged] batches whose copies were no good, to be loaded when all others are */
    uint32_t n_damaged;
    err result;
    char text[1024]; /* error texts belong to a thread */
};

static void piece_make(const struct matrix_order *o, struct matrix *m, uint32_t batch_begin, struct piece *p) {
    const struct packed_layout *l = &m->layout;
    uint64_t per = format_info(o->source.format)->block_values;
    *p = (struct piece){.order = o, .matrix = m, .col_begin = o->col_begin / per * per,
                        .col_end = (o->col_end + per - 1) / per * per,
                        .plane_at = {l->quants_at, l->high_at, l->scales_at, l->supers_at}};
    p->row_bytes = format_bytes(o->source.format, p->col_end - p->col_begin);
    p->block_first = (uint32_t)((o->col_begin - p->col_begin) / PACKED_BLOCK);
    pack_group_bytes(l, &p->group_bytes[QUANTS], &p->group_bytes[HIGH], &p->group_bytes[SCALES],
                     &p->group_bytes[SUPERS]);
    p->batch_groups = pack_part_groups(l);
    uint32_t n_batches = p->batch_groups ? (l->n_groups + p->batch_groups - 1) / p->batch_groups : 0;
    p->batch_begin = batch_begin;
    p->batch_end = batch_begin + n_batches;
}

/* ---- threads ---- */

/* A thread's own place for a batch, and where it stands. */
struct worker {
    uint32_t piece;
    uint8_t *rows, *staging;
};

/* Groups [group, group + n_groups) of a piece, and where their planes go: to its memory, or first to staging. */
struct batch {
    const struct piece *p;
    uint32_t part, group, n_groups;
    uint64_t row; /* of the matrix */
    uint32_t n_rows;
    struct iovec planes[N_PLANES];
};

static void batch_make(const struct piece *p, uint32_t number, const struct worker *w, struct batch *b) {
    const struct packed_layout *l = &p->matrix->layout;
    uint8_t *staging = w->staging;
    *b = (struct batch){.p = p, .part = number - p->batch_begin};
    b->group = b->part * p->batch_groups;
    b->n_groups = l->n_groups - b->group < p->batch_groups ? l->n_groups - b->group : p->batch_groups;
    b->row = (uint64_t)b->group * PACKED_LANES;
    uint64_t rows_left = l->rows - b->row, most = (uint64_t)b->n_groups * PACKED_LANES;
    b->n_rows = (uint32_t)(rows_left < most ? rows_left : most);
    for (int i = 0; i < N_PLANES; i++) {
        size_t n = b->n_groups * p->group_bytes[i];
        b->planes[i].iov_base = p->mapped ? p->mapped + p->plane_at[i] + b->group * p->group_bytes[i] : staging;
        b->planes[i].iov_len = n;
        if (!p->mapped) staging += n;
    }
}

static err batch_send(struct device *d, const struct batch *b) {
    const struct piece *p = b->p;
    for (int i = 0; i < N_PLANES && !p->mapped; i++) {
        size_t n = b->planes[i].iov_len, at = p->plane_at[i] + b->group * p->group_bytes[i];
        if (n) TRY(device_check(d, clEnqueueWriteBuffer(d->queue, p->matrix->mem, CL_TRUE, at, n,
                                                        b->planes[i].iov_base, 0, NULL, NULL), "write weights"));
    }
    return OK;
}

static void batch_pack(const struct batch *b, const uint8_t *rows) {
    const struct piece *p = b->p;
    for (uint32_t g = 0; g < b->n_groups; g++) {
        uint32_t first = g * PACKED_LANES, left = b->n_rows - first;
        uint8_t *at[N_PLANES];
        for (int i = 0; i < N_PLANES; i++) at[i] = (uint8_t *)b->planes[i].iov_base + g * p->group_bytes[i];
        struct packed_group out = {at[QUANTS], at[HIGH], at[SCALES], at[SUPERS]};
        pack_group(&p->matrix->layout, rows + first * p->row_bytes, p->row_bytes,
                   left < PACKED_LANES ? left : PACKED_LANES, p->block_first, &out);
    }
}

/* From the model; what is packed goes to the copy, too. */
static err batch_load(struct device *d, const struct batch *b, const struct worker *w) {
    const struct matrix_order *o = b->p->order;
    uint64_t row = o->row_begin + b->row;
    TRY(o->source.read(o->source.context, row, row + b->n_rows, b->p->col_begin, b->p->col_end, w->rows));
    batch_pack(b, w->rows);
    if (o->copy) o->copy->write(o->copy->context, b->part, b->planes, N_PLANES);
    return batch_send(d, b);
}

/* From the copy, where it is good. */
static err batch_copy(struct loader *l, const struct batch *b, uint32_t number) {
    const struct packed_copy *copy = b->p->order->copy;
    if (copy->read(copy->context, b->part, b->planes, N_PLANES) == OK) return batch_send(l->d, b);
    pthread_mutex_lock(&l->lock);
    err e = OK;
    uint32_t *grown = mem_resized(l->damaged, l->n_damaged + 1, sizeof *grown);
    if (grown) {
        l->damaged = grown;
        l->damaged[l->n_damaged++] = number;
    } else {
        e = ERR_MEMORY;
    }
    pthread_mutex_unlock(&l->lock);
    return e;
}

static const struct piece *piece_find(const struct loader *l, uint32_t number) {
    uint32_t i = 0;
    while (number >= l->pieces[i].batch_end) i++;
    return &l->pieces[i];
}

/* What is left over: a source that streams has the rest before it. */
static err damaged_load(struct loader *l, struct worker *w) {
    for (;;) {
        pthread_mutex_lock(&l->lock);
        uint32_t number = l->n_damaged ? l->damaged[--l->n_damaged] : UINT32_MAX;
        pthread_mutex_unlock(&l->lock);
        if (number == UINT32_MAX || atomic_load(&l->has_failed)) return OK;
        struct batch b;
        batch_make(piece_find(l, number), number, w, &b);
        TRY(batch_load(l->d, &b, w));
    }
}

/* Takes batches in order until none is left, or another thread failed. */
static err batches_load(struct loader *l, struct worker *w) {
    TRY(NEW(w->rows, l->rows_bytes));
    TRY(NEW(w->staging, l->staging_bytes));
    while (!atomic_load(&l->has_failed)) {
        uint32_t batch = atomic_fetch_add(&l->batch, 1);
        while (w->piece < l->n_pieces && batch >= l->pieces[w->piece].batch_end) w->piece++;
        if (w->piece == l->n_pieces) break;
        const struct matrix_order *o = l->pieces[w->piece].order;
        struct batch b;
        batch_make(&l->pieces[w->piece], batch, w, &b);
        err e = o->copy && o->copy->is_there ? batch_copy(l, &b, batch) : batch_load(l->d, &b, w);
        if (e != OK && o->name) err_context(e, "tensor '%s'", o->name);
        TRY(e);
    }
    return damaged_load(l, w);
}

/* The first failure ends all of them. */
static void *worker_thread(void *loader) {
    struct loader *l = loader;
    struct worker w = {0};
    err e = batches_load(l, &w);
    free(w.rows);
    free(w.staging);
    if (e == OK) return NULL;
    pthread_mutex_lock(&l->lock);
    if (l->result == OK) {
        l->result = e;
        snprintf(l->text, sizeof l->text, "%s", err_text());
    }
    pthread_mutex_unlock(&l->lock);
    atomic_store(&l->has_failed, 1);
    return NULL;
}

/* As many threads as a CPU device itself uses, but two, so that one packs while the other waits for a disk. */
static uint32_t threads_count(const struct loader *l) {
    uint32_t n_batches = l->n_pieces ? l->pieces[l->n_pieces - 1].batch_end : 0;
    cl_uint n = 2;
    if (l->d->is_cpu && clGetDeviceInfo(l->d->id, CL_DEVICE_MAX_COMPUTE_UNITS, sizeof n, &n, NULL) != CL_SUCCESS)
        n = 2;
    n = n < 2 ? 2 : n > THREADS_MAX ? THREADS_MAX : n;
    return n < n_batches ? n : n_batches;
}

/* This thread is one of them, so that all is loaded even where no other can be started. */
static err threads_run(struct loader *l) {
    pthread_t threads[THREADS_MAX];
    uint32_t n = threads_count(l), n_started = 0;
    pthread_mutex_init(&l->lock, NULL);
    while (n_started + 1 < n && pthread_create(&threads[n_started], NULL, worker_thread, l) == 0) n_started++;
    worker_thread(l);
    for (uint32_t i = 0; i < n_started; i++) pthread_join(threads[i], NULL);
    pthread_mutex_destroy(&l->lock);
    return l->result == OK ? OK : err_set(l->result, "%s", l->text);
}

/* ---- matrices ---- */

static size_t slab_bytes(const struct packed_layout *l) {
    return (l->n_bytes + MATRIX_ALIGN - 1) / MATRIX_ALIGN * MATRIX_ALIGN;
}

/* A buffer whose memory is `at` in the slab. */
static err slab_memory(struct device *d, struct slab *s, uint8_t *at, size_t n_bytes, cl_mem *out) {
    TRY(device_memory_at(d, at, n_bytes, out));
    atomic_fetch_add(&s->n_users, 1);
    cl_int code = clSetMemObjectDestructorCallback(*out, on_buffer_gone, s);
    if (code == CL_SUCCESS) return OK;
    clReleaseMemObject(*out);
    slab_leave(s);
    return device_check(d, code, "watch memory");
}

/* `at` is NULL without a slab: the device has its own memory. */
static err matrix_create(struct device *d, const struct packed_layout *l, struct slab *slab, uint8_t *at,
                         struct matrix **out) {
    struct matrix *m;
    TRY(NEW(m, 1));
    m->layout = *l;
    err e = at && l->n_bytes ? slab_memory(d, slab, at, l->n_bytes, &m->mem) : device_memory(d, l->n_bytes, &m->mem);
    if (e != OK) {
        free(m);
        return e;
    }
    *out = m;
    return OK;
}

void loader_matrix_free(struct matrix *m) {
    if (!m) return;
    clReleaseMemObject(m->mem);
    free(m);
}

static void order_layout(const struct matrix_order *o, struct packed_layout *out) {
    packed_layout_make(o->source.format, o->row_end - o->row_begin, o->col_begin, o->col_end, out);
}

static err pieces_create(struct loader *l, const struct matrix_order *orders) {
    struct packed_layout layout;
    struct slab *slab = NULL;
    size_t n_bytes = 0, at = 0;
    err e = OK;
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        order_layout(&orders[i], &layout);
        n_bytes += slab_bytes(&layout);
    }
    if (l->d->is_cpu && n_bytes) TRY(slab_create(n_bytes, &slab));
    for (uint32_t i = 0; i < l->n_pieces && e == OK; i++) {
        struct piece *p = &l->pieces[i];
        order_layout(&orders[i], &layout);
        e = matrix_create(l->d, &layout, slab, slab ? slab_begin(slab) + at : NULL, orders[i].out);
        if (e != OK) {
            if (orders[i].name) err_context(e, "tensor '%s'", orders[i].name);
            break;
        }
        at += slab_bytes(&layout);
        piece_make(&orders[i], *orders[i].out, i ? p[-1].batch_end : 0, p);
        size_t group = 0, rows = p->batch_groups * PACKED_LANES * p->row_bytes;
        for (int k = 0; k < N_PLANES && !slab; k++) group += p->group_bytes[k];
        if (rows > l->rows_bytes) l->rows_bytes = rows;
        if (p->batch_groups * group > l->staging_bytes) l->staging_bytes = p->batch_groups * group;
    }
    slab_leave(slab);
    return e;
}

/* The device gives a CPU's memory to us for a while. */
static err pieces_map(struct loader *l) {
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        struct piece *p = &l->pieces[i];
        size_t n = p->matrix->layout.n_bytes;
        cl_int code;
        if (n == 0) continue;
        p->mapped = clEnqueueMapBuffer(l->d->queue, p->matrix->mem, CL_TRUE, CL_MAP_WRITE_INVALIDATE_REGION, 0, n,
                                       0, NULL, NULL, &code);
        TRY(device_check(l->d, code, "map weights"));
    }
    return OK;
}

static err pieces_unmap(struct loader *l) {
    err e = OK;
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        struct piece *p = &l->pieces[i];
        if (!p->mapped) continue;
        cl_int code = clEnqueueUnmapMemObject(l->d->queue, p->matrix->mem, p->mapped, 0, NULL, NULL);
        if (e == OK) e = device_check(l->d, code, "unmap weights");
    }
    cl_int code = clFinish(l->d->queue); /* what is freed after a failure is unmapped by then */
    return e != OK ? e : device_check(l->d, code, "finish loading");
}

err loader_run(struct device *d, const struct matrix_order *orders, uint32_t n) {
    struct loader l = {.d = d, .n_pieces = n};
    for (uint32_t i = 0; i < n; i++) *orders[i].out = NULL;
    TRY(NEW(l.pieces, n));
    err e = pieces_create(&l, orders);
    if (e == OK) {
        if (d->is_cpu) e = pieces_map(&l);
        if (e == OK) e = threads_run(&l);
        err end = pieces_unmap(&l);
        if (e == OK) e = end;
    }
    for (uint32_t i = 0; i < n && e != OK; i++) {
        loader_matrix_free(*orders[i].out);
        *orders[i].out = NULL;
    }
    free(l.pieces);
    free(l.damaged);
    return e;
}
