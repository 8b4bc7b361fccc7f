#include "node/board.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"

#define PAGE_BYTES 4096
#define LINE_BYTES 64
#define SPIN_US 20        /* of a wait; then others get the core, the thread that enqueues among them */
#define NAP_US 50000      /* of one sleep: a shard that comes ends it sooner */
#define UNSEEN_US 1000000 /* longer than any nap: this process was stopped, the time does not count */

/* What one shard writes and all read: a cache line each. */
struct place {
    _Alignas(LINE_BYTES) _Atomic uint32_t n_meetings; /* that this shard came to; a futex */
    _Atomic uint32_t n_sleepers;                      /* who wait for it to come */
};

/* The shared memory: this, from the next page on the two areas. */
struct shared {
    uint64_t number;
    struct place places[];
};

struct board {
    struct shared *shared;
    size_t n_bytes, area_bytes; /* of all; of an area, whole pages */
    size_t area_at;
    uint32_t n_shards, shard;
    int fd;
    int64_t deadline_us;
    struct board_missing missing;
    atomic_int is_missing;
    _Atomic int64_t waited_us;
};

/* ---- futex ---- */

/* Sleeps while *word is `seen`, at most `us`. */
static void futex_wait(_Atomic uint32_t *word, uint32_t seen, int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &t, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word) { syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0); }

/* ---- making and opening ---- */

static size_t pages(size_t n) { return (n + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES; }

static err board_map(int fd, size_t n_bytes, uint32_t n_shards, uint32_t shard, struct board **out) {
    struct board *b;
    TRY(NEW(b, 1));
    b->fd = fd;
    b->n_shards = n_shards;
    b->shard = shard;
    b->area_bytes = pages(n_bytes);
    b->area_at = pages(sizeof *b->shared + n_shards * sizeof *b->shared->places);
    b->n_bytes = b->area_at + 2 * b->area_bytes;
    if (shard == 0 && ftruncate(fd, (off_t)b->n_bytes) != 0) goto fail;
    void *m = mmap(NULL, b->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (m == MAP_FAILED) goto fail;
    b->shared = m;
    *out = b;
    return OK;
fail:;
    err e = err_set(ERR_FILE, "%zu bytes of shared memory: %s", b->n_bytes, strerror(errno));
    free(b);
    return e;
}

err board_create(size_t n_bytes, uint32_t n_shards, struct board **out, struct board_name *name) {
    int fd = memfd_create("caravan-board", MFD_CLOEXEC);
    if (fd < 0) return err_set(ERR_FILE, "shared memory: %s", strerror(errno));
    err e = board_map(fd, n_bytes, n_shards, 0, out);
    if (e != OK) {
        close(fd);
        return e;
    }
    *name = (struct board_name){0, (int32_t)getpid(), fd};
    if (getrandom(&name->number, sizeof name->number, 0) < 0) name->number = (uint64_t)clock_us();
    name->number |= 1; /* 0 is none */
    (*out)->shared->number = name->number;
    return OK;
}

/* The file may be any other where the process is one of another host or container. */
static err board_check(int fd, const struct board_name *name, size_t n_bytes, uint32_t n_shards,
                       uint32_t shard, struct board **out) {
    uint64_t number = 0;
    if (pread(fd, &number, sizeof number, 0) != sizeof number || number != name->number)
        return err_set(ERR_FILE, "process %d has other memory", name->pid);
    return board_map(fd, n_bytes, n_shards, shard, out);
}

err board_open(const struct board_name *name, size_t n_bytes, uint32_t n_shards, uint32_t shard,
               struct board **out) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/fd/%d", name->pid, name->fd);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_set(ERR_FILE, "%s: %s", path, strerror(errno));
    err e = board_check(fd, name, n_bytes, n_shards, shard, out);
    if (e != OK) close(fd);
    return e;
}

void board_free(struct board *b) {
    if (!b) return;
    munmap(b->shared, b->n_bytes);
    close(b->fd);
    free(b);
}

void board_set_deadline(struct board *b, int64_t us) { b->deadline_us = us; }

void *board_area(struct board *b, uint32_t i) { return (uint8_t *)b->shared + b->area_at + i * b->area_bytes; }

/* ---- meeting ---- */

/* Whether the shard of that place has been at meeting `number`. */
static int has_come(struct place *p, uint32_t number, uint32_t *seen) {
    *seen = atomic_load(&p->n_meetings);
    return (int32_t)(*seen - number) > 0;
}

static inline void spin_once(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* 0 when the deadline passes. */
static int await(struct board *b, uint32_t shard, const struct board_meeting *m, int64_t *waited_us) {
    struct place *p = &b->shared->places[shard];
    uint32_t number = m->number;
    int64_t last = clock_us();
    uint32_t seen;
    while (!has_come(p, number, &seen)) {
        if (*waited_us < SPIN_US) {
            for (int i = 0; i < 16; i++) spin_once();
        } else {
            atomic_fetch_add(&p->n_sleepers, 1);
            if (!has_come(p, number, &seen)) futex_wait(&p->n_meetings, seen, NAP_US);
            atomic_fetch_sub(&p->n_sleepers, 1);
        }
        int64_t now = clock_us();
        if (now - last < UNSEEN_US) *waited_us += now - last;
        last = now;
        if (*waited_us > b->deadline_us + m->patience_us && !has_come(p, number, &seen)) return 0;
    }
    return 1;
}

void board_come(struct board *b, uint32_t number) {
    struct place *own = &b->shared->places[b->shard];
    atomic_store(&own->n_meetings, number + 1);
    if (atomic_load(&own->n_sleepers)) futex_wake(&own->n_meetings);
}

void board_meet(const struct board_meeting *m, const void *mine) {
    struct board *b = m->board;
    int64_t waited_us = 0;
    if (atomic_load(&b->is_missing)) return;
    memcpy((uint8_t *)board_area(b, m->number % 2) + m->at, mine, m->n_bytes);
    board_come(b, m->number);
    for (uint32_t i = 0; i < b->n_shards; i++) {
        if (i == b->shard || await(b, i, m, &waited_us)) continue;
        b->missing = (struct board_missing){i, m->layer, waited_us - m->patience_us};
        atomic_store(&b->is_missing, 1);
        break;
    }
    atomic_fetch_add(&b->waited_us, waited_us);
}

int board_missing(struct board *b, struct board_missing *out) {
    if (!atomic_load(&b->is_missing)) return 0;
    *out = b->missing;
    return 1;
}

int64_t board_waited_us(struct board *b) { return atomic_load(&b->waited_us); }
