/* Attention on an OpenCL device: the paged KV cache and the kernels that fill and read it, one
 * program per format of the cache. Private to kernels/. */
#ifndef KERNELS_ATTEND_H
#define KERNELS_ATTEND_H

#include "kernels/backend.h"
#include "kernels/device.h"

struct cache {
    struct cache_shape shape;
    cl_mem k, v;
};

struct attend_kernels {
    struct kernel_forms forms;
    cl_program program; /* NULL: not built */
    cl_kernel heads, chunk, combine;
};

/* What the kernels of a step pass on, [tile rows][heads][chunks][2 + head_dim]: rows of a step that
 * need more are taken in tiles. */
struct attend_scratch {
    cl_mem partials;
    size_t n_bytes;
};

/* struct row_places, as memory of the device. */
struct attend_places {
    cl_mem position, table_begin, table;
};

/* How the texts are compiled for a cache's format, and those of the form with vectors, after half.cl. */
#define ATTEND_QUERIES 8 /* that share each load of the cache: what registers hold */
const char *attend_defines(enum format kv);
#define ATTEND_WIDE_TEXTS                                                                                  \
    "attend.cl", "#define T 1\n", "attend_tile.cl", "#undef T\n#define T 2\n", "attend_tile.cl",          \
        "#undef T\n#define T 4\n", "attend_tile.cl", "#undef T\n#define T 8\n", "attend_tile.cl", "#undef T\n", \
        "attend_wide.cl", "heads.cl"

/* Builds with k->forms. */
err attend_kernels_build(struct device *d, enum format kv, struct attend_kernels *k);
void attend_kernels_release(struct attend_kernels *k);

/* Room for the steps that `l` describes; grows only. */
err attend_scratch_prepare(struct device *d, const struct backend_limits *l, struct attend_scratch *s);
void attend_scratch_release(struct attend_scratch *s);

err attend_cache_create(struct device *d, const struct cache_shape *s, struct cache **out);
void attend_cache_free(struct cache *c);

/* The ops heads and attend of struct backend_ops. */
err attend_heads(struct device *d, const struct attend_kernels *kernels, const struct cache *c,
                 const struct head_rows *h, const struct attend_places *at, uint32_t n_rows);
err attend_run(struct device *d, const struct attend_kernels *kernels, const struct attend_scratch *scratch,
               const struct cache *c, cl_mem q, const struct attend_places *at, const struct attend_shape *s,
               uint32_t n_rows, cl_mem out);

#endif
