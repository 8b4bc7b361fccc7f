/* How fast threads can read memory: the roof over decoding, which reads each weight once per token.
 *
 *     read_bandwidth [THREADS [MEGABYTES [SECONDS]]]      0: all cores, 512, 1
 *
 * Each thread adds up its own part of a buffer far larger than any cache, again and again for
 * SECONDS; printed is the bytes of all threads over the time, in GB/s (10^9). */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define THREADS_MAX 1024
#define UNROLL 8

/* One cache line; what the compiler makes of it is for the machine it runs on. */
typedef uint64_t line __attribute__((vector_size(64)));

struct reader {
    pthread_t thread;
    const line *begin, *end;
    uint64_t bytes;
    line sum;
};

static atomic_int is_over;
static pthread_barrier_t start;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void *reader_run(void *reader) {
    struct reader *r = reader;
    line sum[UNROLL] = {{0}};
    pthread_barrier_wait(&start);
    while (!atomic_load(&is_over)) {
        for (const line *p = r->begin; p + UNROLL <= r->end; p += UNROLL)
            for (int i = 0; i < UNROLL; i++) sum[i] += p[i];
        r->bytes += (uint64_t)(r->end - r->begin) / UNROLL * UNROLL * sizeof(line);
    }
    for (int i = 0; i < UNROLL; i++) r->sum += sum[i];
    return NULL;
}

static uint64_t argument(int argc, char **argv, int i, uint64_t fallback, uint64_t most) {
    if (argc <= i) return fallback;
    char *end;
    uint64_t n = strtoull(argv[i], &end, 10);
    if (*end || n > most) {
        fprintf(stderr, "read_bandwidth: \"%s\" is no number from 0 to %llu\n", argv[i], (unsigned long long)most);
        exit(2);
    }
    return n ? n : fallback;
}

static uint64_t n_cores(void) {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? (uint64_t)CPU_COUNT(&set) : 1;
}

int main(int argc, char **argv) {
    uint64_t n_threads = argument(argc, argv, 1, n_cores(), THREADS_MAX);
    uint64_t n_bytes = argument(argc, argv, 2, 512, 1 << 20) << 20;
    uint64_t seconds = argument(argc, argv, 3, 1, 3600);
    line *data = aligned_alloc(4096, n_bytes);
    static struct reader readers[THREADS_MAX];
    if (!data || pthread_barrier_init(&start, NULL, (unsigned)n_threads + 1) != 0) {
        fprintf(stderr, "read_bandwidth: not enough memory\n");
        return 1;
    }
    memset(data, 1, n_bytes); /* real pages, not the one zero page */
    uint64_t lines = n_bytes / sizeof *data / n_threads;
    for (uint64_t i = 0; i < n_threads; i++) {
        readers[i].begin = data + i * lines;
        readers[i].end = data + (i + 1) * lines;
        if (pthread_create(&readers[i].thread, NULL, reader_run, &readers[i]) != 0) {
            fprintf(stderr, "read_bandwidth: cannot start %llu threads\n", (unsigned long long)n_threads);
            return 1;
        }
    }
    pthread_barrier_wait(&start);
    double begin = now_s();
    struct timespec pause = {(time_t)seconds, 0};
    nanosleep(&pause, NULL);
    atomic_store(&is_over, 1);
    uint64_t bytes = 0, sum = 0;
    for (uint64_t i = 0; i < n_threads; i++) {
        pthread_join(readers[i].thread, NULL);
        bytes += readers[i].bytes;
        sum += readers[i].sum[0];
    }
    double gb_per_s = (double)bytes / (now_s() - begin) * 1e-9;
    printf("%.2f\n", gb_per_s);
    free(data);
    return sum == 1; /* the sums are used, so that the loops stay */
}
