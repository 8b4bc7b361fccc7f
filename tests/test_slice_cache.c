/* Packed slices on disk: found again, damaged ones told and put right, the bound kept, writers at the same time,
 * files of others left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/pack.h"
#include "node/slice_cache.h"

#define GB ((uint64_t)1 << 30)
#define ROWS 2000 /* several parts, the last one short */
#define COLS 512

static char folder[64];
static const struct slice_model model = {{1, 2, 3}};
static const uint64_t range[4] = {0, ROWS, 0, COLS};
static struct packed_layout layout;
static uint32_t n_parts;

static int folder_begin(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/caravan-slices-XXXXXX");
    packed_layout_make(FORMAT_Q8_0, ROWS, 0, COLS, &layout);
    uint32_t per = pack_part_groups(&layout);
    n_parts = (layout.n_groups + per - 1) / per;
    return mkdtemp(folder) && n_parts > 2 ? 0 : -1;
}

static int folder_end(void **state) {
    char command[128];
    (void)state;
    snprintf(command, sizeof command, "rm -rf %s", folder);
    return system(command);
}

/* What part `i` of tensor `seed` is: any bytes that are easy to know again. */
static size_t part_make(uint32_t seed, uint32_t i, uint8_t **out) {
    uint32_t per = pack_part_groups(&layout), left = layout.n_groups - i * per;
    size_t n = (left < per ? left : per) * pack_group_total(&layout);
    *out = malloc(n);
    for (size_t k = 0; k < n; k++) (*out)[k] = (uint8_t)(k * 31 + k / 251 + i * 7 + seed * 13);
    return n;
}

static void part_write(struct slice_copy *s, uint32_t seed, uint32_t i) {
    uint8_t *data;
    size_t n = part_make(seed, i, &data);
    struct iovec planes[3] = {{data, n / 3}, {data + n / 3, 0}, {data + n / 3, n - n / 3}};
    slice_copy_write(s, i, planes, 3);
    free(data);
}

/* Whether it comes back as it was written. */
static int part_is_good(struct slice_copy *s, uint32_t seed, uint32_t i) {
    uint8_t *data;
    size_t n = part_make(seed, i, &data);
    uint8_t *got = calloc(1, n);
    struct iovec planes[3] = {{got, n / 3}, {got + n / 3, 0}, {got + n / 3, n - n / 3}};
    int is_good = slice_copy_read(s, i, planes, 3) == OK;
    if (is_good) assert_memory_equal(got, data, n); /* never anything else */
    free(got);
    free(data);
    return is_good;
}

static struct slice_cache *cache_open(uint64_t most) {
    struct slice_cache *c;
    assert_int_equal(slice_cache_open(folder, most, &model, &c), OK);
    return c;
}

static struct slice_copy *copy_find(struct slice_cache *c, uint32_t seed) {
    static char names[64][32]; /* stay while the cache does */
    struct slice_copy *s;
    snprintf(names[seed % 64], 32, "blk.%u.weight", seed);
    assert_int_equal(slice_cache_find(c, names[seed % 64], &layout, range, &s), OK);
    return s;
}

/* Makes the copies [begin, end) of one job. */
static void job_write(uint32_t begin, uint32_t end, uint64_t most) {
    struct slice_cache *c = cache_open(most);
    struct slice_copy *copies[64];
    for (uint32_t i = begin; i < end; i++) copies[i] = copy_find(c, i);
    slice_cache_reserve(c);
    for (uint32_t i = begin; i < end; i++)
        for (uint32_t p = 0; p < n_parts && !slice_copy_is_there(copies[i]); p++) part_write(copies[i], i, p);
    slice_cache_close(c);
}

/* How many of [begin, end) are there and good. */
static uint32_t job_read(uint32_t begin, uint32_t end) {
    struct slice_cache *c = cache_open(GB);
    uint32_t n = 0;
    for (uint32_t i = begin; i < end; i++) {
        struct slice_copy *s = copy_find(c, i);
        if (!slice_copy_is_there(s)) continue;
        n++;
        for (uint32_t p = 0; p < n_parts; p++) assert_true(part_is_good(s, i, p));
    }
    slice_cache_close(c);
    return n;
}

/* Bytes of all files; the n-th name that holds `part` to `name`. */
static uint64_t folder_bytes(const char *part, char *name, uint32_t *n_files) {
    uint64_t sum = 0;
    uint32_t n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        struct stat s;
        if (fstatat(dirfd(d), e->d_name, &s, 0) != 0 || !S_ISREG(s.st_mode) || !strstr(e->d_name, part)) continue;
        sum += (uint64_t)s.st_size;
        n++;
        if (name) snprintf(name, 512, "%s/%.400s", folder, e->d_name);
    }
    closedir(d);
    if (n_files) *n_files = n;
    return sum;
}

static void slices_are_found_again(void **state) {
    (void)state;
    uint32_t n;
    assert_int_equal(job_read(0, 3), 0);
    job_write(0, 3, GB);
    assert_int_equal(job_read(0, 3), 3);
    assert_int_equal(job_read(0, 5), 3);
    folder_bytes(".slice", NULL, &n);
    assert_int_equal(n, 3);
    /* another model, range or format is another slice */
    static const struct slice_model other = {{1, 2, 4}};
    struct slice_cache *c;
    struct slice_copy *s;
    assert_int_equal(slice_cache_open(folder, GB, &other, &c), OK);
    assert_false(slice_copy_is_there(copy_find(c, 0)));
    slice_cache_close(c);
    c = cache_open(GB);
    const uint64_t rows[4] = {16, ROWS + 16, 0, COLS};
    assert_int_equal(slice_cache_find(c, "blk.0.weight", &layout, rows, &s), OK);
    assert_false(slice_copy_is_there(s));
    struct packed_layout q4;
    packed_layout_make(FORMAT_Q4_0, ROWS, 0, COLS, &q4);
    assert_int_equal(slice_cache_find(c, "blk.0.weight", &q4, range, &s), OK);
    assert_false(slice_copy_is_there(s));
    slice_cache_close(c);
}

/* One byte, at each of these places in turn, is found; what is written in its place stays. */
static void flipped_bytes_are_put_right(void **state) {
    (void)state;
    char name[512];
    job_write(0, 1, GB);
    uint64_t size = folder_bytes(".slice", name, NULL);
    const uint64_t places[] = {0, 8, 17, 40, 50, 55, 56 + 8 * n_parts - 1, 4096, size / 2, size - 1};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int fd = open(name, O_RDWR);
        uint8_t byte;
        assert_int_equal(pread(fd, &byte, 1, (off_t)places[i]), 1);
        byte ^= 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)places[i]), 1);
        close(fd);
        struct slice_cache *c = cache_open(GB);
        struct slice_copy *s = copy_find(c, 0);
        uint32_t n_bad = 0;
        slice_cache_reserve(c);
        assert_int_equal(slice_copy_is_there(s), places[i] >= 4096);
        for (uint32_t p = 0; p < n_parts; p++) {
            if (slice_copy_is_there(s) && part_is_good(s, 0, p)) continue;
            part_write(s, 0, p);
            n_bad++;
        }
        assert_int_equal(n_bad, places[i] >= 4096 ? 1 : n_parts);
        slice_cache_close(c);
        assert_int_equal(job_read(0, 1), 1);
    }
}

static void cut_files_are_not_there(void **state) {
    (void)state;
    char name[512];
    job_write(0, 1, GB);
    uint64_t size = folder_bytes(".slice", name, NULL);
    const uint64_t cuts[] = {0, 5, 63, 70, 4096, size - 1, size + 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        assert_int_equal(truncate(name, (off_t)cuts[i]), 0);
        assert_int_equal(job_read(0, 1), 0);
        job_write(0, 1, GB);
        assert_int_equal(job_read(0, 1), 1);
    }
}

/* What was used last stays, and nothing is kept that has no room. */
static void bound_is_kept(void **state) {
    (void)state;
    uint32_t n;
    job_write(0, 1, GB);
    uint64_t one = folder_bytes(".slice", NULL, NULL), most = 4 * one + one / 2;
    job_write(1, 4, most);
    assert_true(folder_bytes("", NULL, NULL) <= most);
    usleep(20000);
    assert_int_equal(job_read(0, 1), 1); /* used now */
    usleep(20000);
    job_write(4, 6, most);
    assert_true(folder_bytes("", NULL, NULL) <= most);
    assert_int_equal(job_read(0, 1), 1);
    assert_int_equal(job_read(4, 6), 2);
    assert_int_equal(job_read(1, 4), 1);
    job_write(10, 20, most); /* more than there is room for: the first ones */
    assert_true(folder_bytes("", NULL, NULL) <= most);
    assert_int_equal(job_read(10, 20), 4);
    job_write(30, 31, one / 2);
    assert_int_equal(job_read(30, 31), 0);
    folder_bytes(".slice", NULL, &n);
    assert_true(n <= 4);
}

static void files_of_others_stay(void **state) {
    (void)state;
    char path[600], name[512];
    static const char *const names[] = {"notes.txt", "0123.slice", "0123456789abcdef0123456789abcdeg.slice",
                                        "0123456789abcdef0123456789abcdef.slicer"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        int fd = open(path, O_RDWR | O_CREAT, 0600);
        assert_int_equal(ftruncate(fd, 1 << 20), 0);
        close(fd);
    }
    job_write(0, 1, GB);
    job_write(1, 3, folder_bytes(".slice", NULL, NULL) / 2); /* all of the cache's own goes, if it must */
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        assert_int_equal(access(path, F_OK), 0);
    }
    /* a foreign file with the name of a slice: no slice, and replaced */
    folder_end(NULL);
    assert_int_equal(mkdir(folder, 0700), 0);
    job_write(0, 1, GB);
    folder_bytes(".slice", name, NULL);
    int fd = open(name, O_RDWR | O_TRUNC);
    assert_int_equal(write(fd, "hello", 5), 5);
    close(fd);
    assert_int_equal(job_read(0, 1), 0);
    job_write(0, 1, GB);
    assert_int_equal(job_read(0, 1), 1);
    /* one that cannot be opened at all */
    assert_int_equal(unlink(name), 0);
    assert_int_equal(symlink("/etc/passwd", name), 0);
    assert_int_equal(job_read(0, 1), 0);
}

/* All that the folder holds while nothing comes or gets another name. */
static uint64_t locked_bytes(void) {
    char path[600];
    snprintf(path, sizeof path, "%s/lock", folder);
    int lock = open(path, O_RDWR);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    uint64_t n = folder_bytes("", NULL, NULL);
    close(lock);
    return n;
}

/* Processes that write, read and make room at the same time. */
static void many_at_once(void **state) {
    (void)state;
    job_write(0, 1, GB);
    uint64_t one = folder_bytes(".slice", NULL, NULL), most = 6 * one;
    pid_t pids[4];
    for (uint32_t i = 0; i < 4; i++) {
        pids[i] = fork();
        if (pids[i] != 0) continue;
        for (uint32_t round = 0; round < 12; round++) {
            uint32_t begin = (round * 3 + i * 2) % 10;
            job_write(begin, begin + 3, most);
            struct slice_cache *c = cache_open(most);
            for (uint32_t k = begin; k < begin + 3; k++) {
                struct slice_copy *s = copy_find(c, k);
                /* it may be gone by now; what is read is right */
                for (uint32_t p = 0; p < n_parts && slice_copy_is_there(s); p++) part_is_good(s, k, p);
            }
            slice_cache_close(c);
            if (locked_bytes() > most) _exit(3);
        }
        _exit(0);
    }
    for (uint32_t i = 0; i < 4; i++) {
        int status;
        assert_int_equal(waitpid(pids[i], &status, 0), pids[i]);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    uint32_t n;
    folder_bytes(".slice.", NULL, &n);
    assert_int_equal(n, 0); /* nothing unfinished is left */
}

/* A job that was killed leaves files that nobody finishes. */
static void unfinished_files_go(void **state) {
    (void)state;
    uint32_t n;
    pid_t pid = fork();
    if (pid == 0) {
        struct slice_cache *c = cache_open(GB);
        struct slice_copy *s = copy_find(c, 0);
        slice_cache_reserve(c);
        part_write(s, 0, 0);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    folder_bytes(".slice.", NULL, &n);
    assert_int_equal(n, 1);
    assert_int_equal(job_read(0, 1), 0);
    job_write(1, 2, GB);
    folder_bytes(".slice.", NULL, &n);
    assert_int_equal(n, 0);
}

/* Of a process that stands still, say: the job goes on without. */
static void held_lock_ends_no_job(void **state) {
    (void)state;
    char path[128];
    uint32_t n;
    snprintf(path, sizeof path, "%s/lock", folder);
    int lock = open(path, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    job_write(0, 1, GB);
    folder_bytes(".slice", NULL, &n);
    assert_int_equal(n, 0);
    close(lock);
    job_write(0, 1, GB);
    assert_int_equal(job_read(0, 1), 1);
}

static void folders_that_cannot_be(void **state) {
    (void)state;
    struct slice_cache *c;
    assert_int_equal(slice_cache_open("/proc/slices", GB, &model, &c), ERR_FILE);
    assert_non_null(strstr(err_text(), "/proc/slices"));
    char deep[128];
    snprintf(deep, sizeof deep, "%s/a/b/c", folder);
    assert_int_equal(slice_cache_open(deep, GB, &model, &c), OK);
    slice_cache_close(c);
    assert_int_equal(access(deep, W_OK), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_begin, folder_end)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(slices_are_found_again), TEST(flipped_bytes_are_put_right), TEST(cut_files_are_not_there),
        TEST(bound_is_kept),          TEST(files_of_others_stay),        TEST(many_at_once),
        TEST(unfinished_files_go),    TEST(folders_that_cannot_be),      TEST(held_lock_ends_no_job)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
