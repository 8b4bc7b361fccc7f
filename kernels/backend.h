/* Backend: where ops are computed. Two implementations stand behind one table:
 * OpenCL devices (opencl.c) and plain C (reference.c), which defines the result
 * of every op to the bit. One thread uses a backend.
 *
 * Shapes: [rows, width] row-major f32 unless said so; `n_rows` counts rows of the step.
 * Ops are enqueued in order and return at once; buffer_read, buffer_write and finish wait. What
 * an op needs is allocated before: a step allocates nothing. */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "model/format.h"
#include "model/limits.h"
#include "model/packed.h"
#include "model/program.h"
#include "model/segment.h"

struct buffer; /* bytes on the device */
struct matrix; /* a weight slice in the backend's own layout */
struct cache;  /* KV cache of one layer */

#define CALL_BYTES 64 /* of the arguments of a call */
#define BUFFER_PART_ALIGN 512 /* bytes; what OpenCL devices ask for at most */

struct backend_limits {
    uint32_t rows_max;      /* rows of a step */
    uint32_t context_max;   /* positions of a sequence */
    uint32_t n_heads_max, head_dim_max; /* of attend, local */
};

/* The KV cache of one layer: K [block][kv head][head_dim][KV_BLOCK_TOKENS],
 * V [block][kv head][KV_BLOCK_TOKENS][head_dim], f16 or f32. */
struct cache_shape {
    uint32_t n_blocks, n_kv_heads, head_dim;
    enum format format; /* FORMAT_F16 or FORMAT_F32 */
};

/* Where the rows of a step stand; all int32. */
struct row_places {
    struct buffer *position;    /* [rows] */
    struct buffer *table_begin; /* [rows] index into table of the row's sequence */
    struct buffer *table;       /* block ids, one per KV_BLOCK_TOKENS positions */
};

struct attend_shape {
    uint32_t n_heads, n_kv_heads, head_dim; /* local */
    uint32_t head_begin;                    /* first local query head, counted in the model */
    uint32_t kv_begin;                      /* first local KV head */
    uint32_t group;                         /* query heads per KV head of the model */
    uint32_t window;                        /* 0: all */
    uint32_t n_chunks;                      /* ceil((highest position + 1) / ATTEND_CHUNK) of the step */
};

/* Where a matrix comes from: `read` fills dst with rows x columns as file
 * blocks, row after row; columns are whole blocks of the format. Several threads of
 * the loader call it at a time. */
struct matrix_source {
    enum format format;
    void *context;
    err (*read)(void *context, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                uint64_t col_end, void *dst);
};

/* A copy of a packed matrix that is kept elsewhere, in parts (kernels/pack.h). Several threads of the loader call
 * these, for a part's planes in order. */
struct packed_copy {
    void *context;
    int is_there; /* else it is made while the matrix is packed */
    err (*read)(void *context, uint32_t part, const struct iovec *planes, int n); /* fails: the part is damaged */
    void (*write)(void *context, uint32_t part, const struct iovec *planes, int n);
};

/* A matrix to load: rows x columns of a source. col_begin is a multiple of 32 where the format is
 * quantised. */
struct matrix_order {
    struct matrix_source source;
    uint64_t row_begin, row_end, col_begin, col_end;
    struct matrix **out;
    const char *name; /* for messages; may be NULL */
    const struct packed_copy *copy; /* NULL: none. Only where the backend is_packed */
};

/* One of the matrices that a linear op multiplies: its rows [row_begin, row_end) into `out`. */
struct product {
    const struct matrix *matrix;
    uint32_t row_begin, row_end; /* begin: a multiple of PACKED_LANES; one row at least */
    struct buffer *out;          /* [tree results][rows][row_end - row_begin] */
};
#define PRODUCTS_MAX 3

/* A value of whole rows: v = sum of `tree` over `leaves` + vector + x, in this order, and what
 * becomes of it. What is NULL is left out. */
struct row_sum {
    struct buffer *leaves; /* [tree leaves][rows][width] */
    const struct tree *tree;
    struct buffer *vector; /* [width] */
    struct buffer *x;      /* [rows][width] */
    struct buffer *sum;    /* = v; may be x or the only leaf; must be there where v is not just x */
    /* The norm of v: weight, bias f32 [width]. */
    enum norm_kind kind;
    float eps;
    struct buffer *weight, *bias;
    struct buffer *out, *q8; /* the norm, as floats and quantised as by quantize; out may be x */
};

/* q, k and v of a step before attention: biases are added, the first q_rot values of each head of q
 * and k_rot of k turn by the row's angles; q stays where it is, k and v go into the cache. */
struct head_rows {
    struct buffer *q, *k, *v;                /* [rows][heads][head_dim]; k, v are read only; NULL: none */
    struct buffer *q_bias, *k_bias, *v_bias; /* f32 [heads][head_dim] or NULL */
    uint32_t n_heads;                        /* of q; the cache knows the others */
    uint32_t q_rot, k_rot;                   /* equal, or 0: nothing turns */
    enum rope_style style;
    struct buffer *angles;                   /* f32 [rows][rot / 2][2] cos, sin; NULL where nothing turns */
};

/* act(gate + gate_bias) * (up + up_bias); without `up` only the first factor. */
struct activation {
    enum act_kind kind;
    struct buffer *gate, *up;           /* [rows][width] */
    struct buffer *gate_bias, *up_bias; /* f32 [width] or NULL */
    struct buffer *out, *q8;            /* as floats, quantised; either may be NULL */
};

/* What else there is to do while a device computes: done at once, then again after *next_us. An error ends the
 * wait; the device may then still write where the result was to go. */
struct watch {
    err (*look)(void *context, int64_t *next_us); /* NULL: nothing */
    void *context;
};

struct backend {
    const char *platform, *device, *driver; /* names */
    uint32_t lanes_per_item;                /* of its kernels, see kernel_forms */
    int has_amx;                            /* likewise */
    uint64_t memory_bytes;         /* of the device */
    const char *tuning;            /* the file that its tunables come from; "": defaults */
    int is_host;                   /* the device is this host's CPU and memory */
    int keeps_compiler;            /* it compiled in this process, where the compiler stays until the end */
    int is_packed;                 /* its matrices lie in the layout of model/packed.h */
    int can_chain;                 /* ops of a few rows are launched together, once there are a matrix and a cache */
    int can_call;                  /* buffer_wrap and call are there: the device is threads of this process */
    const struct backend_ops *ops;
};

struct backend_ops {
    void (*destroy)(struct backend *b);
    err (*prepare)(struct backend *b, const struct backend_limits *l);

    err (*buffer_create)(struct backend *b, size_t n_bytes, struct buffer **out);
    /* n_bytes of a buffer from `at` on, a multiple of BUFFER_PART_ALIGN, as a buffer of their own; freed
     * before the whole is. */
    err (*buffer_part)(struct backend *b, struct buffer *whole, size_t at, size_t n_bytes, struct buffer **out);
    void (*buffer_free)(struct backend *b, struct buffer *m);
    /* The data is copied before return. */
    err (*buffer_write)(struct backend *b, struct buffer *m, size_t at, size_t n, const void *src);
    /* Returns at once: src stays as it is until the next buffer_read, buffer_await or finish has returned. */
    err (*buffer_send)(struct backend *b, struct buffer *m, size_t at, size_t n, const void *src);
    err (*buffer_read)(struct backend *b, struct buffer *m, size_t at, size_t n, void *dst);
    /* The same with something else to do meanwhile; of 0 bytes: waits for all that was enqueued. */
    err (*buffer_await)(struct backend *b, struct buffer *m, size_t at, size_t n, void *dst, const struct watch *w);
    err (*finish)(struct backend *b); /* waits for all that was enqueued */
    /* Only where can_call. A buffer of memory that is there already and outlives it: */
    err (*buffer_wrap)(struct backend *b, void *memory, size_t n_bytes, struct buffer **out);
    /* Enqueues run(args, in's bytes), on a thread of the device, which may wait there; args [n_bytes, at
     * most CALL_BYTES] are copied. */
    err (*call)(struct backend *b, void (*run)(const void *args, const void *in), const void *args,
                size_t n_bytes, struct buffer *in);

    /* Builds and checks what ops on a format need; is_table: embed too. matrices_load does so where
     * it was not done. */
    err (*matrix_prepare)(struct backend *b, enum format f, int is_table);
    /* Reads and packs, in the order given as far as threads go; after a failure none is loaded. */
    err (*matrices_load)(struct backend *b, const struct matrix_order *orders, uint32_t n);
    void (*matrix_free)(struct backend *b, struct matrix *m);
    uint64_t (*matrix_bytes)(const struct matrix *m);

    err (*cache_create)(struct backend *b, const struct cache_shape *s, struct cache **out);
    void (*cache_free)(struct backend *b, struct cache *c);

    /* out [rows, cols] = row ids[i] of m, decoded exactly. ids int32 [rows]. */
    err (*embed)(struct backend *b, const struct matrix *m, struct buffer *ids, uint32_t n_rows,
                 struct buffer *out);
    /* out: struct q8_block [rows][width / 32]. */
    err (*quantize)(struct backend *b, struct buffer *in, uint32_t n_rows, uint32_t width,
                    struct buffer *out);
    /* Products of the same rows, 1 to PRODUCTS_MAX of them: sums over the matrices' columns in
     * segments of segment_cols (the last may be short), added by `tree`. `in` is q8 for quantised
     * matrices, else f32. One launch where the formats are the same. */
    err (*linear)(struct backend *b, const struct product *products, uint32_t n_products,
                  struct buffer *in, uint32_t n_rows, uint32_t segment_cols, const struct tree *tree);
    err (*sum_rows)(struct backend *b, const struct row_sum *s, uint32_t n_rows, uint32_t width);
    err (*heads)(struct backend *b, struct cache *c, const struct head_rows *h,
                 const struct row_places *at, uint32_t n_rows);
    err (*attend)(struct backend *b, struct cache *c, struct buffer *q, const struct row_places *at,
                  const struct attend_shape *s, uint32_t n_rows, struct buffer *out);
    err (*activate)(struct backend *b, const struct activation *a, uint32_t n_rows, uint32_t width);
    /* out row i = in row index[i]. index int32 [n_out]. */
    err (*select)(struct backend *b, struct buffer *in, struct buffer *index, uint32_t n_out,
                  uint32_t width, struct buffer *out);
};

/* One matrix alone. */
static inline err matrix_load(struct backend *b, const struct matrix_source *source, uint64_t row_begin,
                              uint64_t row_end, uint64_t col_begin, uint64_t col_end, struct matrix **out) {
    struct matrix_order order = {*source, row_begin, row_end, col_begin, col_end, out, NULL, NULL};
    return b->ops->matrices_load(b, &order, 1);
}

/* 32 activations in 8 bits: value[i] = scale * q[i]. */
struct q8_block {
    int8_t q[32];
    float scale;
    int32_t sum, sum_half[2]; /* of all q, Q8_SUM_TIMES; of the first and the second 16, Q8_SUM_HALF_TIMES */
};
_Static_assert(sizeof(struct q8_block) == Q8_BLOCK_BYTES, "kernels and planner must agree");

/* Bytes of a q8 value of `n_rows` rows. */
static inline size_t q8_bytes(uint32_t n_rows, uint32_t width) {
    return (size_t)n_rows * (width / 32) * sizeof(struct q8_block);
}

/* Plain C on the host. */
err backend_reference(struct backend **out);

/* Which OpenCL device of this host: one whose "PLATFORM / DEVICE" holds `select`, in any case (NULL or "": any).
 * With has_index the one at `index` of those that fit, in the order of `caravan devices`. Else GPUs go before
 * others and `index` counts round them, so that ranks that count up take turns; where there is no GPU all
 * share the first that fits. A text that names rusticl or llvmpipe lets Mesa offer its device on the processor, as
 * RUSTICL_ENABLE=llvmpipe does, if this is the first use of OpenCL and the variable is not set. */
struct device_choice {
    const char *select;
    uint32_t index;
    int has_index;
};

/* The OpenCL device that `c` says. Its kernels are checked against the reference
 * as they are built: a form that fails is replaced by the portable one with a warning
 * that names the op; a device that fails in the portable form is refused. */
err backend_opencl_choice(const struct device_choice *c, struct backend **out);
/* The first that holds `substring`. */
err backend_opencl(const char *substring, struct backend **out);

/* How four products of bytes are added, see kernels/cl/dot.cl. */
enum dot_form { DOT_PLAIN, DOT_AVX2, DOT_AVX_VNNI, DOT_AVX512_VNNI, DOT_DP4A, DOT_KHR, N_DOT_FORMS };

/* How a device's kernels are written. */
struct kernel_forms {
    uint32_t lanes_per_item; /* 16: a group of packed lanes per work-item; 1: one lane */
    enum dot_form dot;       /* an x86 form needs 16 lanes, the others one */
    int has_amx;             /* products of many rows by Intel AMX */
    int has_half;            /* the device's own f16 conversion is exact */
    int has_gemm;            /* dense products of many rows by CLBlast, unmeasured: for tests */
    int is_free;             /* additions in whichever order the compiler likes: what the fixed order costs */
};

/* The same with given forms (NULL: the device's own choice), for tests and measurements: these are
 * not checked, and where one does not build, that is the error. With 0 lanes_per_item all but is_free is the
 * device's own choice, too. */
err backend_opencl_forms(const char *substring, const struct kernel_forms *forms, struct backend **out);
/* The same with given tunables, for whoever searches them. */
struct tuning;
err backend_opencl_tuned(const char *substring, const struct kernel_forms *forms, const struct tuning *tuning,
                         struct backend **out);

/* Every OpenCL device, for `caravan devices`; *n of them, freed with free(). */
struct device_description {
    char platform[128], name[128], version[128], driver[128], type[16];
    uint64_t memory_bytes, allocation_bytes;
    uint32_t compute_units, local_bytes;
};
err backend_list(struct device_description **out, uint32_t *n);

#endif
