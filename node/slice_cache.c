#include "node/slice_cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include <xxhash.h>

#include "base/clock.h"
#include "base/env.h"
#include "base/log.h"
#include "base/mem.h"
#include "kernels/pack.h"

#define LAYOUT_VERSION 1 /* of packed bytes and of these files: another one finds none of the old */
#define PATH_BYTES 1500
#define NAME_BYTES 160 /* unfinished ones name host and process */
#define NAME_DIGITS 32
#define PAGE 4096
#define ABANDONED_S 86400 /* an unfinished file of another host */
#define LOCK_WAIT_US 5000000 /* somebody else looks after the folder: that takes milliseconds */
#define LOCK_PAUSE_US 10000

/* What a file begins with; then a checksum of each part; from a page's begin on the parts. */
struct head {
    char magic[8];
    uint64_t key[2], n_bytes, part_bytes, n_parts;
    uint64_t checksum; /* of what stands before it, and the parts' */
};
static const char magic[8] = "slice\n\1";

struct slice_copy {
    struct slice_cache *cache;
    struct slice_copy *next;
    char name[NAME_DIGITS + 8]; /* of the file */
    char beside[NAME_BYTES]; /* while it is written: its name until it is whole */
    const char *tensor;    /* for messages */
    struct head head;
    uint64_t *sums;        /* [n_parts] */
    int is_there;
    pthread_mutex_t lock;  /* of what follows */
    int fd;                /* -1: not open */
    uint64_t n_done;       /* parts; then it is closed */
    int is_given_up, is_warned;
};

struct slice_cache {
    char folder[PATH_BYTES], host[64];
    uint64_t most_bytes;
    struct slice_model model;
    struct slice_copy *copies;
    int is_full_told;
    atomic_int is_locked_out; /* another process keeps the folder's lock */
};

/* ---- the folder ---- */

/* With all that is above it. */
static err folder_make(char *path) {
    for (char *at = path + 1;; at++) {
        if (*at && *at != '/') continue;
        char was = *at;
        *at = 0;
        int is_bad = mkdir(path, 0700) != 0 && errno != EEXIST;
        *at = was;
        if (is_bad) return err_set(ERR_FILE, "cannot make the folder %s for cached slices: %s", path, strerror(errno));
        if (!was) break;
    }
    if (access(path, W_OK | X_OK) == 0) return OK;
    return err_set(ERR_FILE, "cannot write to the folder %s of cached slices: %s", path, strerror(errno));
}

static err folder_find(const char *folder, char out[PATH_BYTES]) {
    const char *xdg = env_get("XDG_CACHE_HOME"), *home = env_get("HOME");
    int n = -1;
    if (*folder) n = snprintf(out, PATH_BYTES, "%s", folder);
    else if (xdg && *xdg) n = snprintf(out, PATH_BYTES, "%s/caravan/slices", xdg);
    else if (home && *home) n = snprintf(out, PATH_BYTES, "%s/.cache/caravan/slices", home);
    if (n < 0) return err_set(ERR_FILE, "no folder for cached slices: neither cache_dir nor HOME is set");
    if (n > PATH_BYTES - NAME_BYTES - 1) return err_set(ERR_FILE, "the folder %.200s... has too long a name", out);
    return folder_make(out);
}

err slice_cache_open(const char *folder, uint64_t most_bytes, const struct slice_model *model,
                     struct slice_cache **out) {
    struct slice_cache *c;
    TRY(NEW(c, 1));
    c->most_bytes = most_bytes;
    c->model = *model;
    gethostname(c->host, sizeof c->host - 1);
    err e = folder_find(folder, c->folder);
    if (e == OK) *out = c;
    else free(c);
    return e;
}

static void path_make(const struct slice_cache *c, const char *name, char out[PATH_BYTES]) {
    snprintf(out, PATH_BYTES, "%.*s/%s", PATH_BYTES - NAME_BYTES - 2, c->folder, name);
}

static int file_open(const struct slice_cache *c, const char *name, int flags) {
    char path[PATH_BYTES];
    path_make(c, name, path);
    return open(path, flags | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
}

static void file_remove(const struct slice_cache *c, const char *name) {
    char path[PATH_BYTES];
    path_make(c, name, path);
    unlink(path);
}

/* ---- bytes ---- */

static int read_whole(int fd, void *to, size_t n, uint64_t at) {
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(fd, (uint8_t *)to + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        done += (size_t)got;
    }
    return 1;
}

static int write_whole(int fd, const void *from, size_t n, uint64_t at) {
    for (size_t done = 0; done < n;) {
        ssize_t got = pwrite(fd, (const uint8_t *)from + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return 0;
        done += (size_t)got;
    }
    return 1;
}

static uint64_t parts_at(const struct head *h) {
    return (sizeof *h + h->n_parts * sizeof(uint64_t) + PAGE - 1) / PAGE * PAGE;
}

static uint64_t file_bytes(const struct head *h) { return parts_at(h) + h->n_bytes; }

static uint64_t head_checksum(const struct head *h, const uint64_t *sums) {
    return XXH3_64bits_withSeed(sums, h->n_parts * sizeof *sums, XXH3_64bits(h, offsetof(struct head, checksum)));
}

/* Several checksums as one: planes are hashed where they lie. */
static uint64_t planes_checksum(const struct iovec *planes, int n) {
    uint64_t sum = 0;
    for (int i = 0; i < n; i++) sum = XXH3_64bits_withSeed(planes[i].iov_base, planes[i].iov_len, sum);
    return sum;
}

/* ---- finding ---- */

static void key_make(const struct slice_cache *c, const char *tensor, const struct packed_layout *l,
                     const uint64_t range[4], uint64_t key[2]) {
    const uint64_t numbers[] = {LAYOUT_VERSION, c->model.hash[0], c->model.hash[1], c->model.hash[2], range[0],
                                range[1], range[2], range[3], l->n_bytes};
    XXH128_hash_t hash = XXH3_128bits_withSeed(format_info(l->format)->name, strlen(format_info(l->format)->name), 0);
    hash = XXH3_128bits_withSeed(numbers, sizeof numbers, hash.low64 ^ hash.high64);
    key[0] = hash.low64;
    hash = XXH3_128bits_withSeed(tensor, strlen(tensor), hash.low64 ^ (hash.high64 * 3));
    key[0] ^= hash.high64;
    key[1] = hash.low64;
}

static void warn_damaged(struct slice_copy *s, const char *what) {
    if (!s->is_warned)
        log_warn("slice_cache.damaged", "file=%s/%s tensor=%s text=\"%s: loaded from the model again\"",
                 s->cache->folder, s->name, s->tensor, what);
    s->is_warned = 1;
}

/* Opened and looked at; the file's own end is the end of who uses it. */
static void copy_look(struct slice_copy *s) {
    struct head h;
    struct stat st;
    int fd = file_open(s->cache, s->name, O_RDWR);
    if (fd < 0) return;
    s->is_there = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == file_bytes(&s->head) &&
                  read_whole(fd, &h, sizeof h, 0) && memcmp(&h, &s->head, offsetof(struct head, checksum)) == 0 &&
                  read_whole(fd, s->sums, h.n_parts * sizeof *s->sums, sizeof h) &&
                  head_checksum(&h, s->sums) == h.checksum;
    if (s->is_there) futimens(fd, NULL); /* used now */
    else warn_damaged(s, "its head is no good");
    close(fd);
}

err slice_cache_find(struct slice_cache *c, const char *tensor, const struct packed_layout *layout,
                     const uint64_t range[4], struct slice_copy **out) {
    struct slice_copy *s;
    TRY(NEW(s, 1));
    uint32_t groups = pack_part_groups(layout);
    size_t group = pack_group_total(layout);
    *s = (struct slice_copy){.cache = c, .tensor = tensor, .fd = -1};
    memcpy(s->head.magic, magic, sizeof magic);
    key_make(c, tensor, layout, range, s->head.key);
    s->head.n_bytes = (uint64_t)layout->n_groups * group;
    s->head.part_bytes = (uint64_t)groups * group;
    s->head.n_parts = groups ? (layout->n_groups + groups - 1) / groups : 0;
    pthread_mutex_init(&s->lock, NULL);
    s->next = c->copies;
    c->copies = s; /* and frees it */
    TRY(NEW(s->sums, s->head.n_parts));
    snprintf(s->name, sizeof s->name, "%016" PRIx64 "%016" PRIx64 ".slice", s->head.key[0], s->head.key[1]);
    if (s->head.n_parts) copy_look(s);
    *out = s;
    return OK;
}

int slice_copy_is_there(const struct slice_copy *s) { return s->is_there; }

/* ---- room ---- */

/* A file of the cache. */
struct entry {
    char name[NAME_BYTES];
    uint64_t n_bytes;
    struct timespec used;
};

struct listing {
    struct entry *entries;
    size_t n, cap;
    uint64_t n_bytes; /* of all, unfinished ones too */
};

/* Only what is named as this cache names its files; others are nobody's here. */
static int is_ours(const char *name, int *is_unfinished) {
    size_t digits = strspn(name, "0123456789abcdef");
    if (digits != NAME_DIGITS || strncmp(name + digits, ".slice", 6) != 0 || strlen(name) >= NAME_BYTES) return 0;
    *is_unfinished = name[digits + 6] == '.';
    return *is_unfinished || !name[digits + 6];
}

/* Its writer is gone: a process of this host, or for a day one of another. */
static int is_abandoned(const struct slice_cache *c, const char *name, const struct stat *s) {
    const char *host = name + NAME_DIGITS + 7, *pid = strrchr(name, '.') + 1;
    size_t n = strlen(c->host);
    if (strncmp(host, c->host, n) == 0 && host + n + 1 == pid)
        return kill((pid_t)atol(pid), 0) != 0 && errno == ESRCH;
    return time(NULL) - s->st_mtim.tv_sec > ABANDONED_S;
}

static void entry_add(const struct slice_cache *c, DIR *d, const char *name, struct listing *l) {
    struct stat s;
    int is_unfinished;
    if (!is_ours(name, &is_unfinished) || fstatat(dirfd(d), name, &s, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(s.st_mode))
        return;
    if (is_unfinished && is_abandoned(c, name, &s)) {
        unlinkat(dirfd(d), name, 0);
        return;
    }
    l->n_bytes += (uint64_t)s.st_size;
    if (is_unfinished) return; /* somebody writes it */
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 256;
        struct entry *grown = mem_resized(l->entries, cap, sizeof *grown);
        if (!grown) return;
        l->entries = grown;
        l->cap = cap;
    }
    struct entry *e = &l->entries[l->n++];
    snprintf(e->name, sizeof e->name, "%s", name);
    e->n_bytes = (uint64_t)s.st_size;
    e->used = s.st_mtim;
}

static int compare_use(const void *a, const void *b) {
    const struct entry *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec) return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    return x->used.tv_nsec < y->used.tv_nsec ? -1 : x->used.tv_nsec > y->used.tv_nsec;
}

static void folder_list(const struct slice_cache *c, struct listing *l) {
    DIR *d = opendir(c->folder);
    *l = (struct listing){0};
    if (!d) return;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) entry_add(c, d, e->d_name, l);
    closedir(d);
    if (l->n) qsort(l->entries, l->n, sizeof *l->entries, compare_use);
}

static int is_mine(const struct slice_cache *c, const char *name) {
    for (const struct slice_copy *s = c->copies; s; s = s->next)
        if (s->is_there && strcmp(s->name, name) == 0) return 1;
    return 0;
}

/* The oldest go, until `more` bytes have room; what this cache is going to read stays. */
static void room_make(const struct slice_cache *c, struct listing *l, uint64_t more, uint64_t most) {
    for (size_t i = 0; i < l->n && l->n_bytes + more > most; i++) {
        if (is_mine(c, l->entries[i].name)) continue;
        file_remove(c, l->entries[i].name);
        l->n_bytes -= l->entries[i].n_bytes;
    }
}

static uint64_t bound(const struct slice_cache *c, uint64_t used) {
    struct statvfs v;
    if (statvfs(c->folder, &v) != 0) return c->most_bytes;
    uint64_t half = used + (uint64_t)v.f_bavail * v.f_frsize / 2;
    return half < c->most_bytes ? half : c->most_bytes;
}

/* With its final size from the start, so that others count it. */
static int copy_begin(struct slice_copy *s) {
    static atomic_uint count; /* of this process */
    snprintf(s->beside, sizeof s->beside, "%s.%s.%d-%u", s->name, s->cache->host, (int)getpid(),
             atomic_fetch_add(&count, 1));
    int fd = file_open(s->cache, s->beside, O_RDWR | O_CREAT | O_TRUNC);
    int is_good = fd >= 0 && ftruncate(fd, (off_t)file_bytes(&s->head)) == 0;
    if (fd >= 0) close(fd);
    if (is_good) return 1;
    file_remove(s->cache, s->beside);
    *s->beside = 0;
    return 0;
}

/* *lock is -1 where there can be none: then the bound may be missed. 0: a process that stands still has it; it is
 * waited for once. */
static int folder_lock(struct slice_cache *c, int *lock) {
    int64_t begin = clock_us();
    if (c->is_locked_out) return 0;
    *lock = file_open(c, "lock", O_RDWR | O_CREAT);
    if (*lock < 0) return 1;
    while (flock(*lock, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) {
            log_warn("slice_cache.lock", "text=\"%s\"", strerror(errno));
            return 1;
        }
        if (clock_us() - begin > LOCK_WAIT_US) {
            log_warn("slice_cache.lock", "file=%s/lock text=\"held by another process for %d s: slices are not kept\"",
                     c->folder, LOCK_WAIT_US / 1000000);
            close(*lock);
            c->is_locked_out = 1;
            return 0;
        }
        clock_sleep_us(LOCK_PAUSE_US);
    }
    return 1;
}

void slice_cache_reserve(struct slice_cache *c) {
    struct listing l;
    uint64_t more = 0;
    int lock;
    if (!folder_lock(c, &lock)) return;
    folder_list(c, &l);
    uint64_t most = bound(c, l.n_bytes);
    for (struct slice_copy *s = c->copies; s; s = s->next)
        if (!s->is_there && s->head.n_parts) more += file_bytes(&s->head);
    room_make(c, &l, more, most);
    for (struct slice_copy *s = c->copies; s; s = s->next) {
        uint64_t n = file_bytes(&s->head);
        if (s->is_there || !s->head.n_parts || l.n_bytes + n > most || !copy_begin(s)) continue;
        l.n_bytes += n;
    }
    if (lock >= 0) close(lock);
    free(l.entries);
}

/* ---- parts ---- */

static size_t part_bytes(const struct head *h, uint32_t part) {
    uint64_t at = part * h->part_bytes, left = h->n_bytes - at;
    return (size_t)(left < h->part_bytes ? left : h->part_bytes);
}

/* The file, open while some of its parts are still to come: a cell may have more slices than a process files. */
static int copy_open(struct slice_copy *s) {
    pthread_mutex_lock(&s->lock);
    if (s->fd < 0 && !s->is_given_up) {
        s->fd = file_open(s->cache, s->is_there ? s->name : s->beside, O_RDWR);
        if (s->fd >= 0 && s->is_there) posix_fadvise(s->fd, 0, 0, POSIX_FADV_WILLNEED);
    }
    int fd = s->is_given_up ? -1 : s->fd;
    pthread_mutex_unlock(&s->lock);
    return fd;
}

static void copy_close(struct slice_copy *s) {
    if (s->fd >= 0) close(s->fd);
    s->fd = -1;
}

/* With the lock, once no part is missing. */
static int copy_complete(struct slice_copy *s) {
    char from[PATH_BYTES], to[PATH_BYTES];
    s->head.checksum = head_checksum(&s->head, s->sums);
    if (!write_whole(s->fd, &s->head, sizeof s->head, 0) ||
        !write_whole(s->fd, s->sums, s->head.n_parts * sizeof *s->sums, sizeof s->head))
        return 0;
    path_make(s->cache, s->beside, from);
    path_make(s->cache, s->name, to);
    /* Who lists the folder meanwhile might see the file under neither name, and make too little room. */
    int lock;
    if (!folder_lock(s->cache, &lock)) {
        errno = EBUSY;
        return 0;
    }
    int is_renamed = rename(from, to) == 0;
    if (lock >= 0) close(lock);
    if (is_renamed) *s->beside = 0;
    return is_renamed;
}

static void copy_give_up(struct slice_copy *s, const char *why) {
    if (!s->is_given_up && !s->cache->is_full_told)
        log_warn("slice_cache.write", "folder=%s text=\"%s: slices are not kept\"", s->cache->folder, why);
    s->cache->is_full_told = 1;
    s->is_given_up = 1;
}

/* One part more is done with. */
static void copy_count(struct slice_copy *s, int is_written) {
    pthread_mutex_lock(&s->lock);
    int error = errno;
    if (!is_written) copy_give_up(s, error ? strerror(error) : "short write");
    if (++s->n_done == s->head.n_parts) {
        if (!s->is_there && !s->is_given_up && !copy_complete(s)) copy_give_up(s, strerror(errno));
        copy_close(s);
    }
    pthread_mutex_unlock(&s->lock);
}

static size_t planes_bytes(const struct iovec *planes, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += planes[i].iov_len;
    return sum;
}

err slice_copy_read(struct slice_copy *s, uint32_t part, const struct iovec *planes, int n) {
    int fd = copy_open(s);
    uint64_t at = parts_at(&s->head) + part * s->head.part_bytes;
    size_t want = part < s->head.n_parts ? part_bytes(&s->head, part) : 0;
    ssize_t got = fd >= 0 && want == planes_bytes(planes, n) ? preadv(fd, planes, n, (off_t)at) : -1;
    int is_good = got == (ssize_t)want && planes_checksum(planes, n) == s->sums[part];
    if (is_good) {
        copy_count(s, 1);
        return OK;
    }
    pthread_mutex_lock(&s->lock);
    warn_damaged(s, "a part of it is damaged");
    pthread_mutex_unlock(&s->lock);
    return ERR_FORMAT;
}

void slice_copy_write(struct slice_copy *s, uint32_t part, const struct iovec *planes, int n) {
    if (!s->is_there && !*s->beside) return; /* there was no room */
    uint64_t sum = planes_checksum(planes, n), at = parts_at(&s->head) + part * s->head.part_bytes;
    size_t want = part_bytes(&s->head, part);
    if (s->is_there && s->sums[part] != sum) { /* not what was kept: no slice of this model */
        file_remove(s->cache, s->name);
        copy_count(s, 1);
        return;
    }
    s->sums[part] = sum;
    errno = 0;
    int fd = copy_open(s);
    copy_count(s, fd >= 0 && want == planes_bytes(planes, n) && pwritev(fd, planes, n, (off_t)at) == (ssize_t)want);
}

void slice_cache_close(struct slice_cache *c) {
    if (!c) return;
    while (c->copies) {
        struct slice_copy *s = c->copies;
        c->copies = s->next;
        copy_close(s);
        if (*s->beside) file_remove(c, s->beside);
        pthread_mutex_destroy(&s->lock);
        free(s->sums);
        free(s);
    }
    free(c);
}
