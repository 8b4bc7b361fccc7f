/* The plain-C backend. It reads weights as the file has them and adds in the
 * order the contract fixes; every device must give these bits. Slow, simple. */
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/codes.h"
#include "kernels/number.h"
#include "model/packed.h"

struct buffer {
    uint8_t *data;
    size_t n_bytes;
    int is_part; /* the data is another's */
};

struct matrix {
    enum format format;
    uint32_t rows, cols;
    uint32_t block_first; /* blocks of 32 before the slice in the first file block */
    uint32_t col_first;   /* the same in columns, dense: 0 */
    size_t row_bytes;
    uint8_t *data;
};

struct cache {
    struct cache_shape shape;
    uint8_t *k, *v;
};

struct reference {
    struct backend base;
    struct codes *codes; /* [n_codes] one row of the widest matrix */
    float *dense;        /* the same, dense */
    uint32_t cap_cols;
};

static void reference_destroy(struct backend *b) {
    struct reference *r = (struct reference *)b;
    free(r->codes);
    free(r->dense);
    free(r);
}

static err reference_prepare(struct backend *b, const struct backend_limits *l) {
    (void)b;
    (void)l; /* nothing depends on them here */
    return OK;
}

static err buffer_create(struct backend *b, size_t n_bytes, struct buffer **out) {
    (void)b;
    struct buffer *m;
    TRY(NEW(m, 1));
    m->n_bytes = n_bytes;
    m->data = mem_zeroed(n_bytes, 1);
    if (!m->data) {
        free(m);
        return ERR_MEMORY;
    }
    *out = m;
    return OK;
}

static err buffer_part(struct backend *b, struct buffer *whole, size_t at, size_t n_bytes, struct buffer **out) {
    (void)b;
    TRY(NEW(*out, 1));
    **out = (struct buffer){whole->data + at, n_bytes, 1};
    return OK;
}

static void buffer_free(struct backend *b, struct buffer *m) {
    (void)b;
    if (!m) return;
    if (!m->is_part) free(m->data);
    free(m);
}

static err buffer_write(struct backend *b, struct buffer *m, size_t at, size_t n, const void *src) {
    (void)b;
    memcpy(m->data + at, src, n);
    return OK;
}

static err buffer_read(struct backend *b, struct buffer *m, size_t at, size_t n, void *dst) {
    (void)b;
    memcpy(dst, m->data + at, n);
    return OK;
}

static err buffer_await(struct backend *b, struct buffer *m, size_t at, size_t n, void *dst, const struct watch *w) {
    int64_t next_us;
    if (w->look) TRY(w->look(w->context, &next_us)); /* that there was nothing to wait for is no reason not to */
    return n ? buffer_read(b, m, at, n, dst) : OK;
}

static err finish(struct backend *b) {
    (void)b; /* every op is done when it returns */
    return OK;
}

static float *floats(struct buffer *m) { return (float *)(void *)m->data; }
static const int32_t *ints(const struct buffer *m) { return (const int32_t *)(const void *)m->data; }

static void matrix_free(struct backend *b, struct matrix *m) {
    (void)b;
    if (!m) return;
    free(m->data);
    free(m);
}

static err scratch_grow(struct reference *r, uint32_t cols) {
    if (cols <= r->cap_cols) return OK;
    struct codes *codes = mem_resized(r->codes, cols / 32 + 1, sizeof *codes);
    if (!codes) return ERR_MEMORY;
    r->codes = codes;
    float *dense = mem_resized(r->dense, cols, sizeof *dense);
    if (!dense) return ERR_MEMORY;
    r->dense = dense;
    r->cap_cols = cols;
    return OK;
}

static err matrix_prepare(struct backend *b, enum format f, int is_table) {
    (void)b;
    (void)f;
    (void)is_table; /* nothing is compiled here */
    return OK;
}

static err matrix_read(struct reference *r, const struct matrix_order *o) {
    const struct matrix_source *source = &o->source;
    uint64_t per = format_info(source->format)->block_values;
    uint64_t read_begin = o->col_begin / per * per, read_end = (o->col_end + per - 1) / per * per;
    TRY(scratch_grow(r, (uint32_t)(o->col_end - o->col_begin) + 256));
    struct matrix *m;
    TRY(NEW(m, 1));
    *o->out = m;
    m->format = source->format;
    m->rows = (uint32_t)(o->row_end - o->row_begin);
    m->cols = (uint32_t)(o->col_end - o->col_begin);
    m->block_first = (uint32_t)((o->col_begin - read_begin) / 32);
    m->row_bytes = format_bytes(m->format, read_end - read_begin);
    TRY((m->data = mem_zeroed(m->rows, m->row_bytes)) ? OK : ERR_MEMORY);
    if (!m->rows || !m->cols) return OK;
    return source->read(source->context, o->row_begin, o->row_end, read_begin, read_end, m->data);
}

static err matrices_load(struct backend *b, const struct matrix_order *orders, uint32_t n) {
    err e = OK;
    for (uint32_t i = 0; i < n; i++) *orders[i].out = NULL;
    for (uint32_t i = 0; i < n && e == OK; i++) {
        e = matrix_read((struct reference *)b, &orders[i]);
        if (e != OK && orders[i].name) err_context(e, "tensor '%s'", orders[i].name);
    }
    for (uint32_t i = 0; i < n && e != OK; i++) {
        matrix_free(b, *orders[i].out);
        *orders[i].out = NULL;
    }
    return e;
}

static uint64_t matrix_bytes(const struct matrix *m) { return (uint64_t)m->rows * m->row_bytes; }

static void cache_free(struct backend *b, struct cache *c) {
    (void)b;
    if (!c) return;
    free(c->k);
    free(c->v);
    free(c);
}

static size_t cache_item_bytes(const struct cache_shape *s) { return s->format == FORMAT_F16 ? 2 : 4; }

static err cache_create(struct backend *b, const struct cache_shape *s, struct cache **out) {
    struct cache *c;
    TRY(NEW(c, 1));
    c->shape = *s;
    size_t n = (size_t)s->n_blocks * s->n_kv_heads * s->head_dim * KV_BLOCK_TOKENS;
    c->k = mem_zeroed(n, cache_item_bytes(s));
    c->v = mem_zeroed(n, cache_item_bytes(s));
    if (!c->k || !c->v) {
        cache_free(b, c);
        return ERR_MEMORY;
    }
    *out = c;
    return OK;
}

static void cache_put(const struct cache_shape *s, uint8_t *at, size_t i, float x) {
    if (s->format == FORMAT_F16) {
        uint16_t h = format_float_to_half(x);
        memcpy(at + i * 2, &h, 2);
    } else {
        memcpy(at + i * 4, &x, 4);
    }
}

static float cache_get(const struct cache_shape *s, const uint8_t *at, size_t i) {
    if (s->format == FORMAT_F16) {
        uint16_t h;
        memcpy(&h, at + i * 2, 2);
        return format_half_to_float(h);
    }
    float x;
    memcpy(&x, at + i * 4, 4);
    return x;
}

/* The codes of a quantised row, or its values where dense, into the scratch. */
static void row_unpack(struct reference *r, const struct matrix *m, uint32_t row) {
    const uint8_t *src = m->data + (size_t)row * m->row_bytes;
    if (!format_info(m->format)->is_quantised) {
        format_decode(m->format, src, r->dense, m->cols);
        return;
    }
    for (uint32_t i = 0; i < m->cols / 32; i++)
        codes_get(m->format, src, m->block_first + i, &r->codes[i]);
}

static err embed(struct backend *b, const struct matrix *m, struct buffer *ids, uint32_t n_rows,
                 struct buffer *out) {
    struct reference *r = (struct reference *)b;
    int offset = (int)packed_info(m->format)->offset;
    for (uint32_t t = 0; t < n_rows; t++) {
        float *dst = floats(out) + (size_t)t * m->cols;
        row_unpack(r, m, (uint32_t)ints(ids)[t]);
        if (!format_info(m->format)->is_quantised) {
            memcpy(dst, r->dense, m->cols * sizeof *dst);
            continue;
        }
        for (uint32_t i = 0; i < m->cols; i++) {
            const struct codes *c = &r->codes[i / 32];
            int h = i % 32 / 16;
            float scaled = codes_scale(m->format, c, h) * (float)(c->q[i % 32] - offset);
            dst[i] = packed_info(m->format)->has_min ? scaled + codes_min(m->format, c, h) : scaled;
        }
    }
    return OK;
}

#define NORM_LANES 64

/* Lane l adds the values i with i % 64 == l in order, then lanes are halved. */
static float lanes_add(float lane[NORM_LANES]) {
    for (int half = NORM_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    return lane[0];
}

static float mean_of(const float *x, uint32_t n, float over_n) {
    float lane[NORM_LANES] = {0};
    for (uint32_t i = 0; i < n; i++) lane[i % NORM_LANES] += x[i];
    return lanes_add(lane) * over_n;
}

static float mean_square_of(const float *x, uint32_t n, float mean, float over_n) {
    float lane[NORM_LANES] = {0};
    for (uint32_t i = 0; i < n; i++) {
        float c = x[i] - mean;
        lane[i % NORM_LANES] = fmaf(c, c, lane[i % NORM_LANES]);
    }
    return lanes_add(lane) * over_n;
}

/* x and y may be the same. */
static void row_norm(enum norm_kind kind, float eps, const float *x, const float *w, const float *bias,
                     uint32_t width, float *y) {
    float over_n = 1.0f / (float)width;
    float mean = kind == NORM_LAYER ? mean_of(x, width, over_n) : 0;
    float scale = number_rsqrt(mean_square_of(x, width, mean, over_n) + eps);
    for (uint32_t i = 0; i < width; i++) {
        float n = (x[i] - mean) * scale * w[i];
        y[i] = bias ? n + bias[i] : n;
    }
}

/* What is not negative is in the order of its bits, a NaN above all. */
static float block_top(const float *x) {
    uint32_t top = 0, bits;
    float value;
    for (int k = 0; k < 32; k++) {
        value = fabsf(x[k]);
        memcpy(&bits, &value, sizeof bits);
        if (bits > top) top = bits;
    }
    memcpy(&value, &top, sizeof value);
    return value;
}

static void row_quantize(const float *x, uint32_t width, struct q8_block *block) {
    for (uint32_t i = 0; i < width / 32; i++, x += 32, block++) {
        float top = block_top(x);
        int is_zero = !(top > 1e-20f); /* also keeps every product normal */
        float inverse = is_zero ? 0 : 127.0f * number_recip(top);
        *block = (struct q8_block){.scale = is_zero ? 0 : top * (1.0f / 127)};
        for (int k = 0; k < 32; k++) {
            float v = fminf(fmaxf(rintf(x[k] * inverse), -127), 127); /* -127 where it is no number */
            block->q[k] = (int8_t)v;
            block->sum += Q8_SUM_TIMES * (int8_t)v;
            block->sum_half[k / 16] += Q8_SUM_HALF_TIMES * (int8_t)v;
        }
    }
}

static struct q8_block *q8_row(struct buffer *m, uint32_t row, uint32_t width) {
    return (struct q8_block *)(void *)m->data + (size_t)row * (width / 32);
}

static err quantize(struct backend *b, struct buffer *in, uint32_t n_rows, uint32_t width,
                    struct buffer *out) {
    (void)b;
    for (uint32_t t = 0; t < n_rows; t++)
        row_quantize(floats(in) + (size_t)t * width, width, q8_row(out, t, width));
    return OK;
}

/* Where the sums of one output element go through the tree. */
struct adder {
    const struct tree *tree;
    float stack[SEGMENTS_MAX];
    uint32_t depth, leaf, n_results;
};

/* Adds a leaf; returns 1 with *result when a result leaves. */
static int adder_push(struct adder *a, float sum, float *result) {
    a->stack[a->depth++] = sum;
    for (int m = a->tree->merges[a->leaf]; m > 0; m--) {
        a->depth--;
        a->stack[a->depth - 1] += a->stack[a->depth];
    }
    if (!a->tree->emits[a->leaf++]) return 0;
    *result = a->stack[--a->depth];
    a->n_results++;
    return 1;
}

/* acc plus the product of one block: integer dots, then fma in fixed order. The activations' scale multiplies the only
 * term there is, or the sum of all: least values', then the dots'. */
static float block_add(enum format f, const struct codes *c, const struct q8_block *x, float acc) {
    const struct packed_info *info = packed_info(f);
    int n = (int)info->n_scales;
    int32_t dot[2] = {0, 0};
    for (int k = 0; k < 32; k++) dot[n == 2 ? k / 16 : 0] += (c->q[k] - (int)info->offset) * x->q[k];
    if (n == 1 && !info->has_min) return fmaf((float)dot[0], codes_scale(f, c, 0) * x->scale, acc);
    float sum = 0;
    for (int h = 0; info->has_min && h < n; h++) {
        int32_t q = n == 2 ? x->sum_half[h] / Q8_SUM_HALF_TIMES : x->sum / Q8_SUM_TIMES;
        sum = fmaf((float)q, codes_min(f, c, h), sum);
    }
    for (int h = 0; h < n; h++) sum = fmaf((float)dot[h], codes_scale(f, c, h), sum);
    return fmaf(sum, x->scale, acc);
}

/* The sum over columns [begin, end) of the unpacked row. */
static float segment_add(const struct reference *r, const struct matrix *m, const struct q8_block *xq,
                         const float *xf, uint32_t begin, uint32_t end) {
    float acc = 0;
    if (xf)
        for (uint32_t c = begin; c < end; c++) acc = fmaf(r->dense[c], xf[c], acc);
    else
        for (uint32_t i = begin / 32; i < end / 32; i++)
            acc = block_add(m->format, &r->codes[i], &xq[i], acc);
    return acc;
}

static void product_run(struct reference *r, const struct product *p, struct buffer *in,
                        uint32_t n_rows, uint32_t segment_cols, const struct tree *tree) {
    const struct matrix *m = p->matrix;
    int is_quantised = format_info(m->format)->is_quantised;
    uint32_t n = p->row_end - p->row_begin;
    for (uint32_t row = 0; row < n; row++) {
        row_unpack(r, m, p->row_begin + row);
        for (uint32_t t = 0; t < n_rows; t++) {
            const struct q8_block *xq = (const struct q8_block *)(const void *)in->data + (size_t)t * (m->cols / 32);
            const float *xf = is_quantised ? NULL : floats(in) + (size_t)t * m->cols;
            struct adder a = {.tree = tree};
            for (uint32_t s = 0; s < tree->n_leaves; s++) {
                uint32_t begin = s * segment_cols, end = begin + segment_cols;
                float sum = segment_add(r, m, xq, xf, begin, end < m->cols ? end : m->cols);
                size_t at = ((size_t)a.n_results * n_rows + t) * n + row;
                adder_push(&a, sum, &floats(p->out)[at]);
            }
        }
    }
}

static err linear(struct backend *b, const struct product *products, uint32_t n_products,
                  struct buffer *in, uint32_t n_rows, uint32_t segment_cols, const struct tree *tree) {
    for (uint32_t i = 0; i < n_products; i++)
        product_run((struct reference *)b, &products[i], in, n_rows, segment_cols, tree);
    return OK;
}

static float tree_sum(const struct tree *tree, const float *leaf, size_t stride) {
    struct adder a = {.tree = tree};
    float sum = 0;
    for (uint32_t i = 0; i < tree->n_leaves; i++) adder_push(&a, leaf[i * stride], &sum);
    return sum;
}

static err sum_rows(struct backend *b, const struct row_sum *s, uint32_t n_rows, uint32_t width) {
    struct reference *r = (struct reference *)b;
    TRY(scratch_grow(r, width));
    for (uint32_t t = 0; t < n_rows; t++) {
        size_t at = (size_t)t * width;
        float *v = s->sum ? floats(s->sum) + at : floats(s->x) + at;
        for (uint32_t i = 0; s->sum && i < width; i++) {
            float f = s->leaves ? tree_sum(s->tree, floats(s->leaves) + at + i, (size_t)n_rows * width) : 0;
            if (s->vector) f = s->leaves ? f + floats(s->vector)[i] : floats(s->vector)[i];
            v[i] = s->x ? floats(s->x)[at + i] + f : f;
        }
        if (!s->weight) continue;
        float *out = s->out ? floats(s->out) + at : r->dense;
        row_norm(s->kind, s->eps, v, floats(s->weight), s->bias ? floats(s->bias) : NULL, width, out);
        if (s->q8) row_quantize(out, width, q8_row(s->q8, t, width));
    }
    return OK;
}

static void head_turn(float *h, const float *angles, uint32_t n_rot, enum rope_style style) {
    for (uint32_t i = 0; i < n_rot / 2; i++) {
        uint32_t i0 = style == ROPE_NORM ? 2 * i : i;
        uint32_t i1 = style == ROPE_NORM ? 2 * i + 1 : i + n_rot / 2;
        float x0 = h[i0], x1 = h[i1], c = angles[2 * i], s = angles[2 * i + 1];
        h[i0] = fmaf(x0, c, -(x1 * s));
        h[i1] = fmaf(x0, s, x1 * c);
    }
}

/* Adds the bias and turns: a head of row t, in place. */
static void head_prepare(float *h, const struct buffer *bias, uint32_t head, uint32_t head_dim,
                         const struct head_rows *rows, uint32_t n_rot, uint32_t t) {
    for (uint32_t d = 0; bias && d < head_dim; d++)
        h[d] += ((const float *)(const void *)bias->data)[head * head_dim + d];
    if (n_rot) head_turn(h, floats(rows->angles) + (size_t)t * n_rot, n_rot, rows->style);
}

/* Index of (position, kv head, d) in K, and in V. */
static size_t k_index(const struct cache_shape *s, size_t block, uint32_t head, uint32_t d, uint32_t slot) {
    return ((block * s->n_kv_heads + head) * s->head_dim + d) * KV_BLOCK_TOKENS + slot;
}

static size_t v_index(const struct cache_shape *s, size_t block, uint32_t head, uint32_t d, uint32_t slot) {
    return ((block * s->n_kv_heads + head) * KV_BLOCK_TOKENS + slot) * s->head_dim + d;
}

static size_t block_of(const struct row_places *at, uint32_t row, uint32_t position) {
    return (size_t)ints(at->table)[(uint32_t)ints(at->table_begin)[row] + position / KV_BLOCK_TOKENS];
}

/* k and v of row t and a KV head into the cache. */
static void head_store(struct reference *r, struct cache *c, const struct head_rows *h,
                       const struct row_places *at, uint32_t t, uint32_t head) {
    const struct cache_shape *s = &c->shape;
    uint32_t position = (uint32_t)ints(at->position)[t], slot = position % KV_BLOCK_TOKENS;
    size_t block = block_of(at, t, position), from = ((size_t)t * s->n_kv_heads + head) * s->head_dim;
    float *x = r->dense;
    memcpy(x, floats(h->k) + from, s->head_dim * sizeof *x);
    head_prepare(x, h->k_bias, head, s->head_dim, h, h->k_rot, t);
    for (uint32_t d = 0; d < s->head_dim; d++) cache_put(s, c->k, k_index(s, block, head, d, slot), x[d]);
    memcpy(x, floats(h->v) + from, s->head_dim * sizeof *x);
    head_prepare(x, h->v_bias, head, s->head_dim, h, 0, t);
    for (uint32_t d = 0; d < s->head_dim; d++) cache_put(s, c->v, v_index(s, block, head, d, slot), x[d]);
}

static err heads(struct backend *b, struct cache *c, const struct head_rows *h,
                 const struct row_places *at, uint32_t n_rows) {
    struct reference *r = (struct reference *)b;
    uint32_t head_dim = c->shape.head_dim;
    TRY(scratch_grow(r, head_dim));
    for (uint32_t t = 0; t < n_rows; t++) {
        for (uint32_t i = 0; h->q && i < h->n_heads; i++)
            head_prepare(floats(h->q) + ((size_t)t * h->n_heads + i) * head_dim, h->q_bias, i, head_dim, h,
                         h->q_rot, t);
        for (uint32_t i = 0; h->k && i < c->shape.n_kv_heads; i++) head_store(r, c, h, at, t, i);
    }
    return OK;
}

/* Attention of one row and head over one chunk: the highest score, the sum of
 * e^(score - highest) and the values weighted so (head_dim of them). */
struct partial {
    float top, sum;
    float value[1024];
};

static void attend_chunk(const struct cache *c, const struct row_places *at, uint32_t row,
                         const float *q, uint32_t kv_head, float scale, uint32_t begin, uint32_t end,
                         struct partial *out) {
    const struct cache_shape *s = &c->shape;
    float p[ATTEND_CHUNK], lane[16] = {0};
    uint32_t chunk = begin / ATTEND_CHUNK * ATTEND_CHUNK;
    out->top = -INFINITY;
    for (uint32_t j = begin; j < end; j++) {
        float dot = 0;
        size_t block = block_of(at, row, j);
        for (uint32_t d = 0; d < s->head_dim; d++)
            dot = fmaf(q[d], cache_get(s, c->k, k_index(s, block, kv_head, d, j % KV_BLOCK_TOKENS)), dot);
        p[j - chunk] = dot * scale;
        out->top = fmaxf(out->top, p[j - chunk]);
    }
    memset(out->value, 0, sizeof *out->value * s->head_dim);
    for (uint32_t j = begin; j < end; j++) {
        float e = number_exp(p[j - chunk] - out->top);
        lane[j % 16] += e;
        size_t block = block_of(at, row, j);
        for (uint32_t d = 0; d < s->head_dim; d++)
            out->value[d] = fmaf(e, cache_get(s, c->v, v_index(s, block, kv_head, d, j % KV_BLOCK_TOKENS)),
                                 out->value[d]);
    }
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++) lane[l] += lane[l + half];
    out->sum = lane[0];
}

/* Chunks are added in increasing order, weighted by e^(top - highest top). */
static void attend_row(const struct cache *c, const struct row_places *at, uint32_t row,
                       const float *q, uint32_t kv_head, float scale, uint32_t window,
                       struct partial *parts, float *out) {
    uint32_t end = (uint32_t)ints(at->position)[row] + 1;
    uint32_t begin = window && end > window ? end - window : 0;
    uint32_t first = begin / ATTEND_CHUNK, last = (end - 1) / ATTEND_CHUNK, hd = c->shape.head_dim;
    float top = -INFINITY, sum = 0;
    for (uint32_t i = first; i <= last; i++) {
        uint32_t from = i * ATTEND_CHUNK, to = from + ATTEND_CHUNK;
        attend_chunk(c, at, row, q, kv_head, scale, from > begin ? from : begin, to < end ? to : end,
                     &parts[i]);
        top = fmaxf(top, parts[i].top);
    }
    memset(out, 0, hd * sizeof *out);
    for (uint32_t i = first; i <= last; i++) {
        float w = number_exp(parts[i].top - top);
        sum = fmaf(w, parts[i].sum, sum);
        for (uint32_t d = 0; d < hd; d++) out[d] = fmaf(w, parts[i].value[d], out[d]);
    }
    float over_sum = number_recip(sum);
    for (uint32_t d = 0; d < hd; d++) out[d] = number_unsigned_zero(out[d] * over_sum);
}

static err attend(struct backend *b, struct cache *c, struct buffer *q, const struct row_places *at,
                  const struct attend_shape *s, uint32_t n_rows, struct buffer *out) {
    (void)b;
    struct partial *parts;
    TRY(NEW(parts, s->n_chunks));
    float scale = 1.0f / sqrtf((float)s->head_dim);
    for (uint32_t row = 0; row < n_rows; row++)
        for (uint32_t h = 0; h < s->n_heads; h++) {
            size_t v = ((size_t)row * s->n_heads + h) * s->head_dim;
            uint32_t kv_head = (s->head_begin + h) / s->group - s->kv_begin;
            attend_row(c, at, row, floats(q) + v, kv_head, scale, s->window, parts, floats(out) + v);
        }
    free(parts);
    return OK;
}

static float activate(enum act_kind kind, float x) {
    switch (kind) {
    case ACT_SILU: return number_silu(x);
    case ACT_GELU_TANH: return number_gelu_tanh(x);
    case ACT_RELU: return fmaxf(x, 0);
    }
    return x;
}

static err activate_rows(struct backend *b, const struct activation *a, uint32_t n_rows, uint32_t width) {
    struct reference *r = (struct reference *)b;
    TRY(scratch_grow(r, width));
    for (uint32_t t = 0; t < n_rows; t++) {
        size_t at = (size_t)t * width;
        float *out = a->out ? floats(a->out) + at : r->dense;
        for (uint32_t i = 0; i < width; i++) {
            float gate = floats(a->gate)[at + i], up = a->up ? floats(a->up)[at + i] : 0;
            if (a->gate_bias) gate += floats(a->gate_bias)[i];
            if (a->up_bias) up += floats(a->up_bias)[i];
            out[i] = a->up ? activate(a->kind, gate) * up : activate(a->kind, gate);
        }
        if (a->q8) row_quantize(out, width, q8_row(a->q8, t, width));
    }
    return OK;
}

static err select_rows(struct backend *b, struct buffer *in, struct buffer *index, uint32_t n_out,
                       uint32_t width, struct buffer *out) {
    (void)b;
    for (uint32_t i = 0; i < n_out; i++)
        memcpy(floats(out) + (size_t)i * width, floats(in) + (size_t)ints(index)[i] * width,
               width * sizeof(float));
    return OK;
}

static const struct backend_ops reference_ops = {
    .destroy = reference_destroy, .prepare = reference_prepare,
    .buffer_create = buffer_create, .buffer_part = buffer_part, .buffer_free = buffer_free,
    .buffer_write = buffer_write, .buffer_send = buffer_write, .buffer_read = buffer_read,
    .buffer_await = buffer_await, .finish = finish,
    .matrix_prepare = matrix_prepare, .matrices_load = matrices_load,
    .matrix_free = matrix_free, .matrix_bytes = matrix_bytes,
    .cache_create = cache_create, .cache_free = cache_free,
    .embed = embed, .quantize = quantize, .linear = linear, .sum_rows = sum_rows, .heads = heads,
    .attend = attend, .activate = activate_rows, .select = select_rows,
};

err backend_reference(struct backend **out) {
    struct reference *r;
    TRY(NEW(r, 1));
    r->base = (struct backend){.platform = "plain C", .device = "reference", .driver = "", .tuning = "",
                               .is_host = 1, .ops = &reference_ops};
    *out = &r->base;
    return OK;
}
