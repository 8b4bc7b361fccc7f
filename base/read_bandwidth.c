#include "base/read_bandwidth.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/mem.h"

#define BUFFER_BYTES ((size_t)512 << 20)
#define PAGE_BYTES ((size_t)2 << 20)
#define UNROLL 8

/* Narrow registers do not keep the memory busy on every CPU. */
#if defined __x86_64__ && defined __gnu_linux__
#define FOR_EACH_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_WIDTH
#endif

/* One cache line, in whatever registers there are. */
typedef uint64_t line __attribute__((vector_size(64)));

/* What all readers share; they stop when is_over is set. */
struct reading {
    const line *data;
    size_t lines; /* of one reader */
    atomic_int is_begun, is_over;
    atomic_uint next;
    atomic_ullong n_bytes, sum; /* the sums are used, so that the loops stay */
};

FOR_EACH_WIDTH static void *reader_run(void *context) {
    struct reading *r = context;
    const line *begin = r->data + r->lines * atomic_fetch_add(&r->next, 1), *end = begin + r->lines;
    line sum[UNROLL] = {{0}};
    uint64_t n_bytes = 0;
    while (!atomic_load(&r->is_begun)) sched_yield();
    while (!atomic_load(&r->is_over)) {
        for (const line *p = begin; p < end; p += UNROLL)
            for (int i = 0; i < UNROLL; i++) sum[i] += p[i];
        n_bytes += r->lines * sizeof *begin;
    }
    for (int i = 0; i < UNROLL; i++) atomic_fetch_add(&r->sum, sum[i][0]);
    atomic_fetch_add(&r->n_bytes, n_bytes);
    return NULL;
}

static err readers_run(struct reading *r, uint32_t n_threads, double seconds, double *bytes_per_s) {
    pthread_t *threads;
    TRY(NEW(threads, n_threads));
    uint32_t n = 0;
    while (n < n_threads && pthread_create(&threads[n], NULL, reader_run, r) == 0) n++;
    double begin = clock_s();
    atomic_store(&r->is_begun, 1);
    if (n == n_threads) clock_sleep_us((int64_t)(seconds * 1e6));
    atomic_store(&r->is_over, 1);
    for (uint32_t i = 0; i < n; i++) pthread_join(threads[i], NULL);
    *bytes_per_s = (double)atomic_load(&r->n_bytes) / (clock_s() - begin);
    free(threads);
    return n == n_threads ? OK : err_set(ERR_MEMORY, "cannot start %u threads", n_threads);
}

err read_bandwidth_measure(uint32_t n_threads, double seconds, double *bytes_per_s) {
    return read_bandwidth_within(BUFFER_BYTES, n_threads, seconds, bytes_per_s);
}

err read_bandwidth_within(size_t n_bytes, uint32_t n_threads, double seconds, double *bytes_per_s) {
    cpu_set_t cores;
    if (n_threads == 0)
        n_threads = sched_getaffinity(0, sizeof cores, &cores) == 0 ? (uint32_t)CPU_COUNT(&cores) : 1;
    size_t n_pages = (n_bytes < BUFFER_BYTES ? n_bytes : BUFFER_BYTES) / PAGE_BYTES;
    n_bytes = (n_pages ? n_pages : 1) * PAGE_BYTES;
    void *data = mem_on_large_pages(n_bytes); /* as the weights of a CPU device */
    if (!data) return ERR_MEMORY;
    memset(data, 1, n_bytes); /* real pages, not the one zero page */
    struct reading r = {.data = data, .lines = n_bytes / sizeof(line) / n_threads / UNROLL * UNROLL};
    err e = readers_run(&r, n_threads, seconds, bytes_per_s);
    free(data);
    return e;
}
