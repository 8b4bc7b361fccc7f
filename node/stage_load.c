/* Loading a cell: its cut, its weights, its buffers. Everything a step needs
 * is allocated here. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/pack.h"
#include "node/slice_cache.h"
#include "node/stage_parts.h"

#define AHEAD_BYTES ((uint64_t)64 << 20) /* of the file, that the disk fetches before they are read */
#define AHEAD_STEP_BYTES ((uint64_t)4 << 20)

/* The bytes that gguf_read will read for a slice: whole blocks of the file. */
static uint64_t slice_file_bytes(const struct gguf_tensor *t, const struct slice *s) {
    uint64_t per = format_info(t->format)->block_values;
    uint64_t begin = s->col_begin / per * per, end = (s->col_end + per - 1) / per * per;
    if (s->col_begin == s->col_end) return 0;
    return (s->row_end - s->row_begin) * format_bytes(t->format, end - begin);
}

static int must_load(const struct holding *h) { return h->is_held && h->within < 0; }

err stage_file_bytes(const struct program *p, const struct cell *cell, uint64_t *out) {
    struct cut cut;
    cut_make(p, cell->n_shards, cell->shard, cell->shares, &cut);
    struct holding *h;
    TRY(NEW(h, p->n_weights));
    slice_holdings(p, &cut, cell->layer_begin, cell->layer_end, h);
    *out = 0;
    for (uint32_t i = 0; i < p->n_weights; i++)
        if (must_load(&h[i])) *out += slice_file_bytes(p->weights[i].tensor, &h[i].slice);
    free(h);
    return OK;
}

/* What is loaded for one cell, by several threads. */
struct reading {
    const struct source *source;
    atomic_ullong n_bytes, n_source, n_cached; /* of the model's blocks: all, from the source; of copies */
    void (*progress)(void *context, uint64_t bytes_loaded);
    void *context;
    /* What the disk was asked to fetch ahead: of orders before this one all, of it rows before this one. */
    const struct matrix_order *orders;
    uint32_t n_orders, ahead_order;
    uint64_t ahead_row, ahead_bytes;
    pthread_mutex_t ahead_lock;
};

/* One slice. */
struct tensor_reader {
    struct reading *reading;
    const struct gguf_tensor *tensor;
    struct source_range range; /* all of it, in whole blocks */
    uint64_t place;            /* of the range, once it is wanted */
    int is_wanted;
    struct slice_copy *kept;   /* of a matrix; NULL: there is no cache */
    struct packed_layout layout; /* where it is kept */
    struct packed_copy copy;
};

static void reader_make(struct tensor_reader *r, const struct gguf_tensor *t, const struct slice *s) {
    const struct gguf *g = r->reading->source->gguf;
    uint64_t per = format_info(t->format)->block_values;
    r->tensor = t;
    r->range = (struct source_range){(uint32_t)(t - gguf_tensor_at(g, 0)), 0, s->row_begin, s->row_end,
                                     s->col_begin / per * per, (s->col_end + per - 1) / per * per};
    if (s->col_begin == s->col_end) r->range.col_end = r->range.col_begin;
}

static err reader_want(struct tensor_reader *r) {
    const struct source *source = r->reading->source;
    r->is_wanted = 1;
    return source->want ? source->want(source->context, &r->range, &r->place) : OK;
}

/* So many more of the file's bytes are loaded, wherever they came from. */
static void reading_add(struct reading *r, uint64_t n) {
    n += atomic_fetch_add(&r->n_bytes, n);
    if (r->progress) r->progress(r->context, n);
}

/* Keeps the disk busy beyond what the threads wait for themselves: they ask for small pieces, and each other's. */
static void reading_advise(struct reading *r) {
    if (!r->source->advise || pthread_mutex_trylock(&r->ahead_lock) != 0) return;
    while (r->ahead_order < r->n_orders && r->ahead_bytes < atomic_load(&r->n_source) + AHEAD_BYTES) {
        const struct matrix_order *o = &r->orders[r->ahead_order];
        struct source_range range = ((const struct tensor_reader *)o->source.context)->range;
        uint64_t row_bytes = source_range_bytes(r->source->gguf, &range) / (range.row_end - range.row_begin + 1) + 1;
        range.row_begin += r->ahead_row;
        if (range.row_end - range.row_begin > AHEAD_STEP_BYTES / row_bytes + 1)
            range.row_end = range.row_begin + AHEAD_STEP_BYTES / row_bytes + 1;
        int is_read = !o->copy || !o->copy->is_there;
        r->ahead_row += range.row_end - range.row_begin;
        if (is_read && range.row_begin < range.row_end) {
            r->source->advise(r->source->context, &range);
            r->ahead_bytes += source_range_bytes(r->source->gguf, &range);
        }
        if (is_read && r->ahead_row < o->row_end - o->row_begin) continue;
        r->ahead_order++;
        r->ahead_row = 0;
    }
    pthread_mutex_unlock(&r->ahead_lock);
}

static err tensor_read(void *context, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                       uint64_t col_end, void *dst) {
    const struct tensor_reader *r = context;
    const struct source *source = r->reading->source;
    struct source_range range = {r->range.tensor, 0, row_begin, row_end, col_begin, col_end};
    struct source_range before = {r->range.tensor, 0, r->range.row_begin, row_begin, col_begin, col_end};
    uint64_t place = r->place + source_range_bytes(source->gguf, &before), n = source_range_bytes(source->gguf, &range);
    /* A part of a copy that turned out to be damaged. */
    reading_advise(r->reading);
    if (!r->is_wanted && source->want) TRY(source->want(source->context, &range, &place));
    TRY(source->read(source->context, &range, place, dst));
    atomic_fetch_add(&r->reading->n_source, n);
    reading_add(r->reading, n);
    return OK;
}

/* ---- copies in the cache ---- */

/* Rows of a part, as file blocks. */
static uint64_t part_file_bytes(const struct tensor_reader *r, uint32_t part) {
    uint64_t per = (uint64_t)pack_part_groups(&r->layout) * PACKED_LANES, left = r->layout.rows - part * per;
    struct source_range range = r->range;
    range.row_end = range.row_begin + (left < per ? left : per);
    return source_range_bytes(r->reading->source->gguf, &range);
}

static err copy_read(void *context, uint32_t part, const struct iovec *planes, int n) {
    struct tensor_reader *r = context;
    TRY(slice_copy_read(r->kept, part, planes, n));
    for (int i = 0; i < n; i++) atomic_fetch_add(&r->reading->n_cached, planes[i].iov_len);
    reading_add(r->reading, part_file_bytes(r, part));
    return OK;
}

static void copy_write(void *context, uint32_t part, const struct iovec *planes, int n) {
    slice_copy_write(((struct tensor_reader *)context)->kept, part, planes, n);
}

static err copy_find(struct slice_cache *cache, struct matrix_order *o) {
    struct tensor_reader *r = o->source.context;
    const uint64_t range[4] = {o->row_begin, o->row_end, o->col_begin, o->col_end};
    packed_layout_make(o->source.format, o->row_end - o->row_begin, o->col_begin, o->col_end, &r->layout);
    TRY(slice_cache_find(cache, r->tensor->name, &r->layout, range, &r->kept));
    r->copy = (struct packed_copy){r, slice_copy_is_there(r->kept), copy_read, copy_write};
    o->copy = &r->copy;
    return OK;
}

static err vector_load(struct stage *s, struct tensor_reader *reader, struct buffer **out) {
    enum format format = reader->tensor->format;
    const struct source_range *r = &reader->range;
    uint64_t n = r->col_end - r->col_begin;
    struct bytes raw = {0};
    float *values = NULL;
    err e;
    TRY_GOTO(bytes_reserve(&raw, format_bytes(format, n)), done);
    TRY_GOTO(NEW(values, n), done);
    if (n) {
        TRY_GOTO(tensor_read(reader, r->row_begin, r->row_end, r->col_begin, r->col_end, raw.data), done);
        format_decode(format, raw.data, values, n);
    }
    TRY_GOTO(STAGE_OPS(s)->buffer_create(s->backend, n * sizeof *values, out), done);
    TRY_GOTO(STAGE_OPS(s)->buffer_write(s->backend, *out, 0, n * sizeof *values, values), done);
    s->sizes.weight_bytes += n * sizeof *values;
done:
    free(values);
    bytes_free(&raw);
    return e;
}

/* A weight whose rows lie in a table that is loaded already. */
static void weight_share(struct stage *s, uint32_t id, const struct holding *h,
                         const struct holding *table) {
    s->weights[id].matrix = s->weights[h->within].matrix;
    s->weights[id].row_begin = (uint32_t)(h->slice.row_begin - table->slice.row_begin);
    s->weights[id].row_end = (uint32_t)(h->slice.row_end - table->slice.row_begin);
}

/* In the order of the file: disks and their read-ahead like that best. */
static int compare_places(const void *a, const void *b) {
    const struct matrix_order *x = a, *y = b;
    const struct gguf_tensor *s = ((const struct tensor_reader *)x->source.context)->tensor;
    const struct gguf_tensor *t = ((const struct tensor_reader *)y->source.context)->tensor;
    if (s->file != t->file) return s->file < t->file ? -1 : 1;
    if (s->file_offset != t->file_offset) return s->file_offset < t->file_offset ? -1 : 1;
    return x->row_begin < y->row_begin ? -1 : x->row_begin > y->row_begin;
}

/* All that is to be loaded for a cell. */
struct weights_load {
    struct tensor_reader *readers; /* [n_weights] */
    struct matrix_order *orders;   /* [n_orders] */
    uint32_t n_orders;
};

static void weights_order(struct stage *s, const struct holding *h, struct weights_load *l) {
    const struct program *p = s->program;
    for (uint32_t i = 0; i < p->n_weights; i++) {
        const struct weight *w = &p->weights[i];
        const struct slice *slice = &h[i].slice;
        struct stage_weight *out = &s->weights[i];
        if (!must_load(&h[i])) continue;
        out->is_owner = 1;
        reader_make(&l->readers[i], w->tensor, slice);
        if (w->is_vector) continue;
        out->row_end = (uint32_t)(slice->row_end - slice->row_begin);
        l->orders[l->n_orders++] =
            (struct matrix_order){{w->tensor->format, &l->readers[i], tensor_read}, slice->row_begin,
                                  slice->row_end, slice->col_begin, slice->col_end, &out->matrix, w->name, NULL};
    }
    qsort(l->orders, l->n_orders, sizeof *l->orders, compare_places);
}

static int is_loaded_vector(const struct stage *s, const struct holding *h, uint32_t weight) {
    return must_load(&h[weight]) && s->program->weights[weight].is_vector;
}

static err weights_find(const struct stage *s, struct slice_cache *cache, struct weights_load *l) {
    if (!cache || !s->backend->is_packed) return OK;
    for (uint32_t i = 0; i < l->n_orders; i++) TRY(copy_find(cache, &l->orders[i]));
    slice_cache_reserve(cache);
    return OK;
}

/* Says what will be read, in that order. */
static err weights_want(const struct stage *s, const struct holding *h, struct weights_load *l) {
    for (uint32_t i = 0; i < s->program->n_weights; i++)
        if (is_loaded_vector(s, h, i)) TRY(reader_want(&l->readers[i]));
    for (uint32_t i = 0; i < l->n_orders; i++)
        if (!l->orders[i].copy || !l->orders[i].copy->is_there) TRY(reader_want(l->orders[i].source.context));
    return OK;
}

static err weights_read(struct stage *s, const struct holding *h, struct weights_load *l) {
    for (uint32_t i = 0; i < s->program->n_weights; i++) {
        if (!is_loaded_vector(s, h, i)) continue;
        err e = vector_load(s, &l->readers[i], &s->weights[i].vector);
        if (e != OK) return err_context(e, "tensor '%s'", s->program->weights[i].name);
    }
    struct reading *r = l->readers[0].reading;
    r->orders = l->orders;
    r->n_orders = l->n_orders;
    TRY(STAGE_OPS(s)->matrices_load(s->backend, l->orders, l->n_orders));
    for (uint32_t i = 0; i < l->n_orders; i++)
        s->sizes.weight_bytes += STAGE_OPS(s)->matrix_bytes(*l->orders[i].out);
    return OK;
}

static err weights_load(struct stage *s, struct reading *r, const struct holding *h) {
    struct weights_load l = {0};
    err e;
    TRY_GOTO(NEW(l.readers, s->program->n_weights), done);
    TRY_GOTO(NEW(l.orders, s->program->n_weights), done);
    for (uint32_t i = 0; i < s->program->n_weights; i++) l.readers[i].reading = r;
    weights_order(s, h, &l);
    TRY_GOTO(weights_find(s, r->source->cache, &l), done);
    TRY_GOTO(weights_want(s, h, &l), done);
    TRY_GOTO(weights_read(s, h, &l), done);
done:
    free(l.readers);
    free(l.orders);
    return e;
}

/* All that the cell holds. */
static err holdings_load(struct stage *s, struct reading *r) {
    const struct program *p = s->program;
    struct holding *h;
    TRY(NEW(h, p->n_weights));
    slice_holdings(p, &s->cut, s->cell.layer_begin, s->cell.layer_end, h);
    err e = weights_load(s, r, h);
    for (uint32_t i = 0; i < p->n_weights && e == OK; i++)
        if (h[i].is_held && h[i].within >= 0) weight_share(s, i, &h[i], &h[h[i].within]);
    *(r->source->want ? &s->sizes.bytes_streamed : &s->sizes.bytes_read) = atomic_load(&r->n_source);
    s->sizes.bytes_cached = atomic_load(&r->n_cached);
    free(h);
    return e;
}

static err sum_make(struct stage *s, enum axis axis) {
    const struct axis_info *a = &s->program->axes[axis];
    struct stage_sum *sum = &s->sums[axis];
    sum->segment_cols = a->n_units / a->n_segments * a->unit;
    struct range *own;
    TRY(NEW(own, s->cell.n_shards));
    err e = NEW(sum->n_results, s->cell.n_shards);
    for (uint32_t i = 0; i < s->cell.n_shards && e == OK; i++) {
        struct cut cut;
        struct tree tree;
        cut_make(s->program, s->cell.n_shards, i, s->cell.shares, &cut);
        own[i] = cut.segments[axis];
        tree_own(a->n_segments, own[i], &tree);
        sum->n_results[i] = tree.n_results;
        if (i == s->cell.shard) sum->own = tree;
    }
    if (e == OK) tree_join(a->n_segments, own, s->cell.n_shards, &sum->finish);
    free(own);
    return e;
}

static err buffer_new(struct stage *s, size_t n_items, struct buffer **out) {
    return STAGE_OPS(s)->buffer_create(s->backend, n_items * 4, out);
}

/* The most partial sums per row that this shard makes, and that all make. */
static void partial_counts(const struct stage *s, uint32_t *mine, uint32_t *all) {
    static const enum axis cut_axes[] = {AXIS_HEADS, AXIS_FF};
    *mine = *all = 1;
    for (size_t i = 0; i < sizeof cut_axes / sizeof *cut_axes; i++) {
        const struct stage_sum *sum = &s->sums[cut_axes[i]];
        if (sum->own.n_results > *mine) *mine = sum->own.n_results;
        if (sum->finish.n_leaves > *all) *all = sum->finish.n_leaves;
    }
}

static err values_create(struct stage *s) {
    const struct program *p = s->program;
    uint32_t mine, all;
    partial_counts(s, &mine, &all);
    for (uint32_t i = 0; i < p->n_values; i++) {
        const struct value *v = &p->values[i];
        struct range r = s->cut.values[v->axis];
        s->widths[i] = r.end - r.begin;
        uint32_t rows = v->rows == ROWS_OUT ? s->outs_max : s->limits.rows_max;
        if ((int)i == p->value_logits) continue; /* on the host */
        size_t items = (size_t)rows * s->widths[i] * (v->is_partial ? mine : 1);
        if (v->kind == VALUE_Q8) items = (q8_bytes(rows, s->widths[i]) + 3) / 4;
        TRY(buffer_new(s, items, &s->values[i]));
    }
    if (s->cell.n_shards == 1) return OK; /* nobody to meet */
    size_t sum = (size_t)s->limits.rows_max * p->dim, logits = (size_t)s->outs_max * p->n_vocab;
    TRY(buffer_new(s, sum, &s->gathered));
    TRY(NEW(s->host_mine, sum * mine > logits ? sum * mine : logits));
    TRY(NEW(s->host_sum, sum));
    return s->cell.shard == 0 && s->cell.layer_end == p->n_layers ? NEW(s->host_logits, logits) : OK;
}

static err places_create(struct stage *s) {
    const uint32_t align = BUFFER_PART_ALIGN / sizeof(int32_t), n_rot = s->program->rope.n_rot;
    struct buffer **const parts[] = {&s->tokens, &s->places.position, &s->places.table_begin, &s->out_rows,
                                     &s->places.table};
    const uint32_t n_parts = sizeof parts / sizeof *parts;
    s->part_ints = (s->limits.rows_max + align - 1) / align * align;
    size_t n_ints = (size_t)s->part_ints * (n_parts - 1) + s->table_max;
    TRY(buffer_new(s, n_ints, &s->step_data));
    for (uint32_t i = 0; i < n_parts; i++) {
        size_t at = (size_t)i * s->part_ints, n = i + 1 < n_parts ? s->part_ints : s->table_max;
        TRY(STAGE_OPS(s)->buffer_part(s->backend, s->step_data, at * 4, n * 4, parts[i]));
    }
    TRY(NEW(s->host_step, n_ints));
    TRY(buffer_new(s, (size_t)s->limits.rows_max * n_rot, &s->angles));
    return NEW(s->host_angles, (size_t)s->limits.rows_max * n_rot);
}

static err caches_create(struct stage *s) {
    const struct program *p = s->program;
    struct range kv = s->cut.values[AXIS_KV];
    struct cache_shape shape = {s->limits.n_blocks, (kv.end - kv.begin) / p->head_dim, p->head_dim,
                                p->kv_format};
    uint64_t bytes = format_bytes(p->kv_format, (size_t)2 * shape.n_kv_heads * shape.head_dim) *
                     KV_BLOCK_TOKENS * shape.n_blocks;
    for (uint32_t i = s->cell.layer_begin; i < s->cell.layer_end; i++) {
        if (shape.n_kv_heads) TRY(STAGE_OPS(s)->cache_create(s->backend, &shape, &s->caches[i]));
        s->sizes.kv_bytes += bytes;
    }
    return OK;
}

static err formats_prepare(struct backend *b, const struct program *p, const struct holding *h) {
    for (uint32_t i = 0; i < p->n_weights; i++) {
        const struct weight *w = &p->weights[i];
        if (h[i].is_held && !w->is_vector)
            TRY(b->ops->matrix_prepare(b, w->tensor->format, w->is_table));
    }
    /* A cache of one block brings attention's kernels. */
    struct cache_shape shape = {1, 1, p->head_dim, p->kv_format};
    struct cache *cache;
    TRY(b->ops->cache_create(b, &shape, &cache));
    b->ops->cache_free(b, cache);
    return OK;
}

err stage_prepare(struct backend *b, const struct program *p, const struct cell *cell) {
    struct cut cut;
    struct holding *h;
    cut_make(p, cell->n_shards, cell->shard, cell->shares, &cut);
    TRY(NEW(h, p->n_weights));
    slice_holdings(p, &cut, cell->layer_begin, cell->layer_end, h);
    err e = formats_prepare(b, p, h);
    free(h);
    return e;
}

static err stage_fill(struct stage *s, const struct source *source,
                      void (*progress)(void *context, uint64_t bytes_loaded), void *context) {
    const struct program *p = s->program;
    uint32_t n_shards = s->cell.n_shards;
    cut_make(p, n_shards, s->cell.shard, s->cell.shares, &s->cut);
    TRY(fuse_create(p, s->cell.layer_begin, s->cell.layer_end, &s->fusion));
    for (uint32_t i = 0; i < p->n_ops; i++)
        if (p->ops[i].out == p->value_hidden) s->last_norm = &p->ops[i];
    TRY(NEW(s->weights, p->n_weights));
    TRY(NEW(s->values, p->n_values));
    TRY(NEW(s->widths, p->n_values));
    TRY(NEW(s->caches, p->n_layers));
    TRY(NEW(s->vocab_widths, n_shards));
    TRY(NEW(s->counts, n_shards));
    for (uint32_t i = 0; i < n_shards; i++) {
        struct cut cut;
        cut_make(p, n_shards, i, s->cell.shares, &cut);
        s->vocab_widths[i] = cut.values[AXIS_VOCAB].end - cut.values[AXIS_VOCAB].begin;
    }
    TRY(sum_make(s, AXIS_DIM));
    TRY(sum_make(s, AXIS_HEADS));
    TRY(sum_make(s, AXIS_FF));
    struct range heads = s->cut.values[AXIS_HEADS];
    struct backend_limits limits = {s->limits.rows_max, s->limits.context_max,
                                    (heads.end - heads.begin) / p->head_dim, p->head_dim};
    TRY(STAGE_OPS(s)->prepare(s->backend, &limits));
    TRY(caches_create(s));
    struct reading reading = {.source = source, .progress = progress, .context = context,
                              .ahead_lock = PTHREAD_MUTEX_INITIALIZER};
    TRY(holdings_load(s, &reading));
    TRY(values_create(s));
    return places_create(s);
}

int stage_can_use_board(const struct stage *s) { return s->cell.n_shards > 1 && s->backend->can_call; }

size_t stage_board_bytes(const struct stage *s) {
    uint32_t mine, all;
    partial_counts(s, &mine, &all);
    return (size_t)all * s->limits.rows_max * s->program->dim * sizeof(float);
}

err stage_use_board(struct stage *s, struct board *board, struct shard_crew crew) {
    for (uint32_t i = 0; i < 2; i++)
        TRY(STAGE_OPS(s)->buffer_wrap(s->backend, board_area(board, i), stage_board_bytes(s), &s->areas[i]));
    STAGE_OPS(s)->buffer_free(s->backend, s->gathered);
    s->gathered = NULL;
    s->board = board;
    s->crew = crew;
    return OK;
}

err stage_create(struct backend *b, const struct source *source, const struct program *p,
                 const struct cell *cell, const struct stage_limits *limits,
                 const struct exchange *exchange,
                 void (*progress)(void *context, uint64_t bytes_loaded), void *progress_context,
                 struct stage **out) {
    struct stage *s;
    TRY(NEW(s, 1));
    s->backend = b;
    s->program = p;
    s->cell = *cell;
    s->limits = *limits;
    s->exchange = *exchange;
    s->outs_max = limits->rows_max < STEP_OUTS_MAX ? limits->rows_max : STEP_OUTS_MAX;
    uint32_t per_sequence = (limits->context_max + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    s->table_max = limits->rows_max * per_sequence;
    err e = stage_fill(s, source, progress, progress_context);
    if (e != OK) {
        stage_free(s);
        return e;
    }
    *out = s;
    return OK;
}

static void weights_free(struct stage *s) {
    for (uint32_t i = 0; s->weights && i < s->program->n_weights; i++) {
        if (!s->weights[i].is_owner) continue;
        STAGE_OPS(s)->matrix_free(s->backend, s->weights[i].matrix);
        STAGE_OPS(s)->buffer_free(s->backend, s->weights[i].vector);
    }
    free(s->weights);
}

void stage_free(struct stage *s) {
    if (!s) return;
    const struct backend_ops *ops = STAGE_OPS(s);
    ops->finish(s->backend); /* after a step that failed, what was sent may still be on its way */
    weights_free(s);
    fuse_free(&s->fusion);
    for (uint32_t i = 0; s->values && i < s->program->n_values; i++)
        ops->buffer_free(s->backend, s->values[i]);
    for (uint32_t i = 0; s->caches && i < s->program->n_layers; i++)
        ops->cache_free(s->backend, s->caches[i]);
    for (int a = 0; a < N_AXES; a++) free(s->sums[a].n_results);
    struct buffer *const buffers[] = {s->tokens, s->out_rows, s->places.position, s->places.table_begin,
                                      s->places.table, s->step_data, s->angles, s->gathered, s->areas[0], s->areas[1]};
    for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++)
        ops->buffer_free(s->backend, buffers[i]);
    free(s->values);
    free(s->widths);
    free(s->caches);
    free(s->vocab_widths);
    free(s->counts);
    free(s->host_step);
    free(s->host_angles);
    free(s->host_mine);
    free(s->host_sum);
    free(s->host_logits);
    free(s);
}

void stage_sizes(const struct stage *s, struct stage_sizes *out) { *out = s->sizes; }
