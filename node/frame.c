#include "node/frame.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "node/frame_json.h"

/* Bodies go out as they lie in memory. */
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little endian");
_Static_assert(sizeof(struct frame_header) == 16, "frame header");
_Static_assert(sizeof(struct step_out) == 56, "step_out has gaps");
_Static_assert(sizeof(struct step_edit) == 16, "step_edit has gaps");
_Static_assert(sizeof(struct result_top) == 8, "result_top has gaps");
_Static_assert(sizeof(struct result_out) == 24, "result_out has gaps");

#define PLAN_STAGES_MAX 4096
#define PLAN_SHARDS_MAX 1024
#define PLAN_CELLS_MAX 65536u
#define PLAN_INDEX_MAX 4096
#define PLAN_ROWS_MAX 65536
#define PLAN_THREADS_MAX 65536u
#define PLAN_DEADLINE_MAX_MS 86400000 /* a day */

/* Counts before the arrays of a step; after the int32 arrays `outs` begins at a multiple of 8. */
struct step_counts {
    uint32_t n_rows, n_table, n_outs, n_edits;
};

/* Before the arrays of a result: outs, tops, logits, hidden. */
struct result_counts {
    uint32_t n_outs, n_logit_rows, n_vocab, n_tops, n_hidden_rows, dim;
};

static uint64_t round_up_8(uint64_t n) { return (n + 7) & ~(uint64_t)7; }

static uint64_t step_ints_bytes(const struct step_counts *c) {
    return round_up_8(4 * (3 * (uint64_t)c->n_rows + c->n_table));
}

/* Counts are 32 bits wide, so 64 cannot overflow. */
static uint64_t step_body_bytes(const struct step_counts *c) {
    return sizeof *c + step_ints_bytes(c) + (uint64_t)c->n_outs * sizeof(struct step_out) +
           (uint64_t)c->n_edits * sizeof(struct step_edit);
}

/* Room for a frame with a body of n bytes, and its header. */
static err frame_begin(struct bytes *out, enum frame_kind kind, uint32_t id, uint64_t n) {
    if (n > FRAME_BYTES_MAX)
        return err_set(ERR_INTERNAL, "a frame of %llu bytes, at most %u are possible",
                       (unsigned long long)n, FRAME_BYTES_MAX);
    struct frame_header h = {FRAME_MAGIC, (uint32_t)kind, id, (uint32_t)n};
    TRY(bytes_reserve(out, sizeof h + (size_t)n));
    return bytes_append(out, &h, sizeof h);
}

err frame_put(struct bytes *out, enum frame_kind kind, uint32_t id, const void *body, size_t n) {
    TRY(frame_begin(out, kind, id, n));
    return bytes_append(out, body, n);
}

err frame_put_step(struct bytes *out, uint32_t id, const struct step *s) {
    struct step_counts c = {s->n_rows, s->n_table, s->n_outs, s->n_edits};
    TRY(frame_begin(out, FRAME_STEP, id, step_body_bytes(&c)));
    TRY(bytes_append(out, &c, sizeof c));
    TRY(bytes_append(out, s->token, (size_t)s->n_rows * 4));
    TRY(bytes_append(out, s->position, (size_t)s->n_rows * 4));
    TRY(bytes_append(out, s->table_begin, (size_t)s->n_rows * 4));
    TRY(bytes_append(out, s->table, (size_t)s->n_table * 4));
    uint64_t ints = 4 * (3 * (uint64_t)s->n_rows + s->n_table);
    TRY(bytes_append(out, &(uint64_t){0}, (size_t)(step_ints_bytes(&c) - ints)));
    TRY(bytes_append(out, s->outs, (size_t)s->n_outs * sizeof *s->outs));
    return bytes_append(out, s->edits, (size_t)s->n_edits * sizeof *s->edits);
}

/* Bytes of a result's body, or more than a frame can hold. */
static uint64_t result_body_bytes(const struct result_counts *c) {
    uint64_t n_logits = (uint64_t)c->n_logit_rows * c->n_vocab, n_hidden = (uint64_t)c->n_hidden_rows * c->dim;
    if (n_logits > FRAME_BYTES_MAX / 4 || n_hidden > FRAME_BYTES_MAX / 4) return (uint64_t)FRAME_BYTES_MAX + 1;
    return sizeof *c + (uint64_t)c->n_outs * sizeof(struct result_out) +
           (uint64_t)c->n_tops * sizeof(struct result_top) + 4 * (n_logits + n_hidden);
}

err frame_put_result(struct bytes *out, uint32_t id, const struct result *r) {
    struct result_counts c = {r->n_outs, r->n_logit_rows, r->n_vocab, r->n_tops, r->n_hidden_rows, r->dim};
    TRY(frame_begin(out, FRAME_RESULT, id, result_body_bytes(&c)));
    TRY(bytes_append(out, &c, sizeof c));
    TRY(bytes_append(out, r->outs, (size_t)r->n_outs * sizeof *r->outs));
    TRY(bytes_append(out, r->tops, (size_t)r->n_tops * sizeof *r->tops));
    TRY(bytes_append(out, r->logits, (size_t)r->n_logit_rows * r->n_vocab * sizeof *r->logits));
    return bytes_append(out, r->hidden, (size_t)r->n_hidden_rows * r->dim * sizeof *r->hidden);
}

err frame_check(const struct frame_header *h) {
    if (h->magic != FRAME_MAGIC)
        return err_set(ERR_INTERNAL, "a frame begins with %08x, not %08x: the stream is out of step",
                       h->magic, FRAME_MAGIC);
    int is_up = h->kind >= FRAME_HELLO && h->kind <= FRAME_ERROR;
    int is_down = h->kind >= FRAME_PLAN && h->kind <= FRAME_STOP;
    if (!is_up && !is_down)
        return err_set(ERR_INTERNAL, "a frame of unknown kind %u", h->kind);
    if (h->n_bytes > FRAME_BYTES_MAX)
        return err_set(ERR_INTERNAL, "a frame of %u bytes, at most %u are possible", h->n_bytes,
                       FRAME_BYTES_MAX);
    return OK;
}

static err check_count(const char *what, uint64_t n, uint64_t least, uint64_t most) {
    if (n >= least && n <= most) return OK;
    return err_set(ERR_INTERNAL, "a step with %llu %s, %llu to %llu are possible",
                   (unsigned long long)n, what, (unsigned long long)least,
                   (unsigned long long)most);
}

static err check_rows(const struct step *s, const struct step_limits *l) {
    for (uint32_t i = 0; i < s->n_rows; i++) {
        if (s->token[i] < 0 || (uint32_t)s->token[i] >= l->n_vocab)
            return err_set(ERR_INTERNAL, "row %u: token %d of %u", i, s->token[i], l->n_vocab);
        if (s->position[i] < 0 || (uint32_t)s->position[i] >= l->context_max)
            return err_set(ERR_INTERNAL, "row %u: position %d, the context ends at %u", i,
                           s->position[i], l->context_max);
        int64_t last = (int64_t)s->table_begin[i] + s->position[i] / KV_BLOCK_TOKENS;
        if (s->table_begin[i] < 0 || last >= s->n_table)
            return err_set(ERR_INTERNAL, "row %u: block table at %d reaches beyond %u entries", i,
                           s->table_begin[i], s->n_table);
    }
    for (uint32_t i = 0; i < s->n_table; i++)
        if (s->table[i] < 0 || (uint32_t)s->table[i] >= l->n_blocks)
            return err_set(ERR_INTERNAL, "block %d of %u", s->table[i], l->n_blocks);
    return OK;
}

static err check_out(const struct step *s, const struct step_out *o, const struct step_limits *l) {
    const uint32_t known = OUT_SAMPLE | OUT_SCORE | OUT_LOGITS | OUT_HIDDEN | OUT_LOGPROB;
    if (o->row < 0 || (uint32_t)o->row >= s->n_rows)
        return err_set(ERR_INTERNAL, "output of row %d of %u", o->row, s->n_rows);
    if (o->flags & ~known) return err_set(ERR_INTERNAL, "output flags %x", o->flags);
    if ((o->flags & OUT_SCORE) && (o->target < 0 || (uint32_t)o->target >= l->n_vocab))
        return err_set(ERR_INTERNAL, "score of token %d of %u", o->target, l->n_vocab);
    if (o->edit_begin > o->edit_end || o->edit_end > s->n_edits)
        return err_set(ERR_INTERNAL, "edits %u to %u of %u", o->edit_begin, o->edit_end,
                       s->n_edits);
    if (o->n_top > TOP_LOGPROBS_MAX)
        return err_set(ERR_INTERNAL, "%u most probable tokens, at most %d are possible", o->n_top, TOP_LOGPROBS_MAX);
    if (!isfinite(o->temperature) || o->temperature < 0 || isnan(o->top_p) || isnan(o->min_p))
        return err_set(ERR_INTERNAL, "temperature %g, top_p %g, min_p %g", (double)o->temperature,
                       (double)o->top_p, (double)o->min_p);
    return OK;
}

static uint32_t outs_max(const struct step_limits *l) {
    return l->rows_max < STEP_OUTS_MAX ? l->rows_max : STEP_OUTS_MAX;
}

static uint64_t table_max(const struct step_limits *l) {
    uint64_t blocks = ((uint64_t)l->context_max + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    return blocks * l->rows_max;
}

/* Enough for one output that edits every token, and some thousands for each of the others. */
uint32_t frame_edits_max(const struct step_limits *l) { return l->n_vocab + 4096 * outs_max(l); }

size_t frame_step_bytes_max(const struct step_limits *l) {
    uint64_t table = table_max(l) < FRAME_BYTES_MAX / 4 ? table_max(l) : FRAME_BYTES_MAX / 4;
    struct step_counts c = {l->rows_max, (uint32_t)table, outs_max(l), frame_edits_max(l)};
    uint64_t n = step_body_bytes(&c);
    return sizeof(struct frame_header) + (size_t)(n < FRAME_BYTES_MAX ? n : FRAME_BYTES_MAX);
}

err frame_get_step(const void *body, size_t n, const struct step_limits *limits, struct step *out) {
    struct step_counts c;
    if (n < sizeof c) return err_set(ERR_INTERNAL, "a step of %zu bytes has no counts", n);
    memcpy(&c, body, sizeof c);
    TRY(check_count("rows", c.n_rows, 1, limits->rows_max));
    TRY(check_count("block table entries", c.n_table, 1, table_max(limits)));
    TRY(check_count("outputs", c.n_outs, 0, outs_max(limits)));
    TRY(check_count("edits", c.n_edits, 0, frame_edits_max(limits)));
    if (n != step_body_bytes(&c))
        return err_set(ERR_INTERNAL, "a step of %zu bytes, its counts say %llu", n,
                       (unsigned long long)step_body_bytes(&c));
    const uint8_t *at = (const uint8_t *)body + sizeof c;
    const int32_t *ints = (const int32_t *)(const void *)at;
    struct step s = {
        .n_rows = c.n_rows, .n_table = c.n_table, .n_outs = c.n_outs, .n_edits = c.n_edits,
        .token = ints,
        .position = ints + c.n_rows,
        .table_begin = ints + 2 * (size_t)c.n_rows,
        .table = ints + 3 * (size_t)c.n_rows,
    };
    at += step_ints_bytes(&c);
    s.outs = (const struct step_out *)(const void *)at;
    s.edits = (const struct step_edit *)(const void *)(s.outs + c.n_outs);
    TRY(check_rows(&s, limits));
    for (uint32_t i = 0; i < c.n_outs; i++) TRY(check_out(&s, &s.outs[i], limits));
    for (uint32_t i = 0; i < c.n_edits; i++)
        if (s.edits[i].token < 0 || (uint32_t)s.edits[i].token >= limits->n_vocab)
            return err_set(ERR_INTERNAL, "edit of token %d of %u", s.edits[i].token,
                           limits->n_vocab);
    *out = s;
    return OK;
}

err frame_get_result(const void *body, size_t n, struct result *out) {
    struct result_counts c;
    if (n < sizeof c) return err_set(ERR_INTERNAL, "a result of %zu bytes has no counts", n);
    memcpy(&c, body, sizeof c);
    if (n != result_body_bytes(&c) || c.n_logit_rows > c.n_outs || c.n_hidden_rows > c.n_outs)
        return err_set(ERR_INTERNAL,
                       "a result of %zu bytes with %u outputs, %u tops, %u rows of %u logits, %u of %u values", n,
                       c.n_outs, c.n_tops, c.n_logit_rows, c.n_vocab, c.n_hidden_rows, c.dim);
    struct result r = {.n_outs = c.n_outs, .n_logit_rows = c.n_logit_rows, .n_vocab = c.n_vocab, .n_tops = c.n_tops,
                       .n_hidden_rows = c.n_hidden_rows, .dim = c.dim};
    r.outs = (const struct result_out *)(const void *)((const uint8_t *)body + sizeof c);
    r.tops = (const struct result_top *)(const void *)(r.outs + c.n_outs);
    r.logits = (const float *)(const void *)(r.tops + c.n_tops);
    r.hidden = r.logits + (size_t)c.n_logit_rows * c.n_vocab;
    for (uint32_t i = 0; i < c.n_outs; i++)
        if (r.outs[i].top_begin > c.n_tops || r.outs[i].n_top > c.n_tops - r.outs[i].top_begin)
            return err_set(ERR_INTERNAL, "result %u: tops %u and %u more, of %u", i, r.outs[i].top_begin,
                           r.outs[i].n_top, c.n_tops);
    *out = r;
    return OK;
}

err frame_error_put(int rank, const char *host, err code, const char *text, struct bytes *json) {
    /* A text may quote bytes of a broken file: jansson takes UTF-8 only. */
    char clean[1024];
    size_t n = 0;
    for (; text[n] && n < sizeof clean - 1; n++)
        clean[n] = (unsigned char)text[n] < 128 ? text[n] : '?';
    clean[n] = 0;
    return frame_json_take(json_pack("{s:i,s:s,s:s,s:s}", "rank", rank, "host", host, "code",
                               err_name(code), "text", clean), json);
}

err frame_error_get(const char *json, size_t n, char *text, size_t cap) {
    json_t *root = json_loadb(json, n, 0, NULL);
    const char *found = NULL;
    int is_good = root && json_unpack(root, "{s:s}", "text", &found) == 0;
    if (is_good && cap) {
        size_t len = strlen(found) < cap ? strlen(found) : cap - 1;
        memcpy(text, found, len);
        text[len] = 0;
    }
    json_decref(root);
    return is_good ? OK : err_set(ERR_INTERNAL, "an error frame without a text");
}

static const char *const weights_names[] = {"shared", "local", "send"};

err plan_weights_from_name(const char *name, enum plan_weights *out) {
    for (size_t i = 0; i < sizeof weights_names / sizeof *weights_names; i++)
        if (strcmp(name, weights_names[i]) == 0) {
            *out = (enum plan_weights)i;
            return OK;
        }
    return err_set(ERR_USAGE, "weights is \"%.40s\", expected shared, local or send", name);
}

static json_t *json_layers(const struct plan_message *m) {
    json_t *a = json_array();
    for (uint32_t i = 0; i <= m->n_stages; i++)
        json_array_append_new(a, json_integer(m->layer_begin[i]));
    return a;
}

static json_t *json_shares(const struct plan_message *m) {
    json_t *a = json_array();
    for (size_t i = 0; i < (size_t)m->n_stages * m->n_shards; i++)
        json_array_append_new(a, json_real((double)m->shares[i]));
    return a;
}

static json_t *json_order(const struct plan_message *m) {
    json_t *a = json_array();
    for (size_t i = 0; i < (size_t)m->n_stages * m->n_shards; i++)
        json_array_append_new(a, json_integer(m->order[i]));
    return a;
}

static int is_same_device(const struct plan_device *a, const struct plan_device *b) {
    return a->index == b->index && a->has_index == b->has_index && a->threads == b->threads &&
           strcmp(a->select, b->select) == 0;
}

/* Neighbours that say the same go out as one. */
static json_t *json_devices(const struct plan_message *m) {
    json_t *a = json_array();
    size_t n_cells = (size_t)m->n_stages * m->n_shards;
    for (size_t i = 0, end; i < n_cells; i = end) {
        const struct plan_device *d = &m->devices[i];
        for (end = i + 1; end < n_cells && is_same_device(d, &m->devices[end]);) end++;
        json_t *o = json_pack("{s:s, s:I, s:b, s:I, s:I}", "select", d->select, "index", (json_int_t)d->index,
                              "has_index", d->has_index, "threads", (json_int_t)d->threads, "n_cells",
                              (json_int_t)(end - i));
        if (!o) {
            json_decref(a);
            return NULL;
        }
        json_array_append_new(a, o);
    }
    return a;
}

err plan_message_put(const struct plan_message *m, struct bytes *json) {
    json_t *root = json_pack(
        "{s:s%, s:o, s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:b, s:s, s:s, s:I, s:I, s:s}", "model", m->model,
        strlen(m->model), "layer_begin", json_layers(m), "shares", json_shares(m), "order", json_order(m),
        "devices", json_devices(m), "rows_max", (json_int_t)m->rows_max, "n_blocks",
        (json_int_t)m->n_blocks, "context_max", (json_int_t)m->context_max, "deadline_ms",
        (json_int_t)m->deadline_ms, "is_reference", m->is_reference, "weights", weights_names[m->weights],
        "payload", payload_names[m->payload], "hop_bytes", (json_int_t)m->hop_bytes, "cache_mb",
        (json_int_t)m->cache_mb, "cache_dir", m->cache_dir);
    if (!root)
        return err_set(ERR_CONFIG, "the model's path or a device's name is not valid UTF-8");
    return frame_json_take(root, json);
}

static err get_text(const json_t *root, const char *key, int may_be_empty, char *out, size_t cap) {
    const json_t *v = json_object_get(root, key);
    if (!json_is_string(v)) return err_set(ERR_INTERNAL, "plan: no text '%s'", key);
    size_t n = json_string_length(v);
    if (n >= cap || (n == 0 && !may_be_empty))
        return err_set(ERR_INTERNAL, "plan: '%s' has %zu bytes, at most %zu are possible", key, n,
                       cap - 1);
    memcpy(out, json_string_value(v), n + 1);
    return OK;
}

static err get_count(const json_t *root, const char *key, uint32_t most, uint32_t *out) {
    return frame_json_number(root, "plan", key, 1, most, out);
}

static err get_layers(const json_t *root, struct plan_message *m) {
    const json_t *a;
    TRY(frame_json_list(root, "plan", "layer_begin", 2, PLAN_STAGES_MAX + 1, &a));
    m->n_stages = (uint32_t)json_array_size(a) - 1;
    TRY(NEW(m->layer_begin, m->n_stages + 1));
    for (uint32_t i = 0; i <= m->n_stages; i++) {
        const json_t *v = json_array_get(a, i);
        json_int_t layer = json_integer_value(v);
        json_int_t least = i ? (json_int_t)m->layer_begin[i - 1] + 1 : 0;
        if (!json_is_integer(v) || layer < least || layer > (i ? INT32_MAX : 0))
            return err_set(ERR_INTERNAL, "plan: layer_begin must rise from 0");
        m->layer_begin[i] = (uint32_t)layer;
    }
    return OK;
}

static err get_shares(const json_t *root, struct plan_message *m) {
    const json_t *a;
    TRY(frame_json_list(root, "plan", "shares", m->n_stages, (size_t)m->n_stages * PLAN_SHARDS_MAX, &a));
    size_t n = json_array_size(a);
    if (n % m->n_stages)
        return err_set(ERR_INTERNAL, "plan: %zu shares for %u stages", n, m->n_stages);
    if (n > PLAN_CELLS_MAX) return err_set(ERR_INTERNAL, "plan: %zu cells, at most %u are possible", n, PLAN_CELLS_MAX);
    m->n_shards = (uint32_t)(n / m->n_stages);
    TRY(NEW(m->shares, n));
    for (size_t i = 0; i < n; i++) {
        float share = (float)json_number_value(json_array_get(a, i));
        if (!isfinite(share) || share <= 0)
            return err_set(ERR_INTERNAL, "plan: share %zu is no positive number", i);
        m->shares[i] = share;
    }
    return OK;
}

/* That no rank is named twice, or one that the job has not, is found out by who knows the job (wire_renumber). */
static err get_order(const json_t *root, struct plan_message *m) {
    const json_t *a;
    size_t n = (size_t)m->n_stages * m->n_shards;
    TRY(frame_json_list(root, "plan", "order", n, n, &a));
    TRY(NEW(m->order, n));
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(a, i);
        json_int_t rank = json_integer_value(v);
        if (!json_is_integer(v) || rank < 0 || rank > INT32_MAX || (i == 0) != (rank == 0))
            return err_set(ERR_INTERNAL, "plan: order must be ranks, of which rank 0 is the first");
        m->order[i] = (uint32_t)rank;
    }
    return OK;
}

static err get_devices(const json_t *root, struct plan_message *m) {
    const json_t *a;
    uint32_t n_cells = m->n_stages * m->n_shards, at = 0, n;
    TRY(frame_json_list(root, "plan", "devices", 1, n_cells, &a));
    TRY(NEW(m->devices, n_cells));
    for (size_t i = 0; i < json_array_size(a); i++) {
        const json_t *o = json_array_get(a, i);
        struct plan_device d = {0};
        TRY(get_text(o, "select", 1, d.select, sizeof d.select));
        TRY(frame_json_number(o, "plan", "index", 0, PLAN_INDEX_MAX, &d.index));
        TRY(frame_json_number(o, "plan", "threads", 0, PLAN_THREADS_MAX, &d.threads));
        TRY(get_count(o, "n_cells", n_cells - at, &n));
        d.has_index = json_is_true(json_object_get(o, "has_index"));
        while (n--) m->devices[at++] = d;
    }
    return at == n_cells ? OK : err_set(ERR_INTERNAL, "plan: devices of %u cells, there are %u", at, n_cells);
}

static err plan_read(const json_t *root, struct plan_message *m) {
    TRY(get_text(root, "model", 0, m->model, sizeof m->model));
    TRY(get_layers(root, m));
    TRY(get_shares(root, m));
    TRY(get_order(root, m));
    TRY(get_devices(root, m));
    TRY(get_count(root, "rows_max", PLAN_ROWS_MAX, &m->rows_max));
    TRY(get_count(root, "n_blocks", INT32_MAX, &m->n_blocks));
    TRY(get_count(root, "context_max", INT32_MAX, &m->context_max));
    TRY(get_count(root, "deadline_ms", PLAN_DEADLINE_MAX_MS, &m->deadline_ms));
    m->is_reference = json_is_true(json_object_get(root, "is_reference"));
    const char *payload = json_string_value(json_object_get(root, "payload"));
    if (payload && !payload_find(payload, &m->payload))
        return err_set(ERR_INTERNAL, "plan: no payload '%s'", payload);
    if (json_integer_value(json_object_get(root, "hop_bytes")) != 0)
        TRY(get_count(root, "hop_bytes", INT32_MAX, &m->hop_bytes));
    char weights[16];
    TRY(get_text(root, "weights", 0, weights, sizeof weights));
    TRY(plan_weights_from_name(weights, &m->weights));
    TRY(frame_json_number(root, "plan", "cache_mb", 0, UINT32_MAX, &m->cache_mb));
    return get_text(root, "cache_dir", 1, m->cache_dir, sizeof m->cache_dir);
}

err plan_message_get(const char *json, size_t n, struct plan_message *out) {
    json_error_t why;
    json_t *root = json_loadb(json, n, 0, &why);
    if (!root) return err_set(ERR_INTERNAL, "plan: not JSON: %s", why.text);
    struct plan_message m = {0};
    err e = plan_read(root, &m);
    json_decref(root);
    if (e == OK)
        *out = m;
    else
        plan_message_free(&m);
    return e;
}

void plan_message_free(struct plan_message *m) {
    free(m->layer_begin);
    free(m->shares);
    free(m->order);
    free(m->devices);
    *m = (struct plan_message){0};
}
