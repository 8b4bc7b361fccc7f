/* Bodies of FRAME_PROBE and FRAME_PROBED. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "node/frame.h"
#include "node/frame_json.h"

#define RANKS_MAX 65536u
#define RATE_MAX 1e24
#define THREADS_MAX 65536

/* Rates that are one number, by the names of their fields. */
#define SCALAR(name) {#name, offsetof(struct device_rates, name)}
static const struct scalar {
    const char *key;
    size_t at;
} scalars[] = {SCALAR(read_per_s), SCALAR(int8_per_s), SCALAR(f32_per_s), SCALAR(plain_per_s),
               SCALAR(launch_s),   SCALAR(step_s),     SCALAR(copy_per_s), SCALAR(pack_per_s), SCALAR(quota_share),
               SCALAR(quota_spare_s), SCALAR(quota_message_s), SCALAR(quota_link_per_s)};
enum { N_SCALARS = sizeof scalars / sizeof *scalars };

static err json_read(const char *json, size_t n, json_t **out) {
    json_error_t why;
    *out = json_loadb(json, n, JSON_REJECT_DUPLICATES, &why);
    return *out ? OK : err_set(ERR_INTERNAL, "probe: not JSON: %s", why.text);
}

/* ---- values ---- */

static err get_text(const json_t *o, const char *key, char *out, size_t cap) {
    const json_t *v = json_object_get(o, key);
    size_t n = json_string_length(v);
    if (!json_is_string(v) || n >= cap || strlen(json_string_value(v)) != n)
        return err_set(ERR_INTERNAL, "probe: '%s' is no text of less than %zu bytes", key, cap);
    memcpy(out, json_string_value(v), n + 1);
    return OK;
}

static err get_whole(const json_t *o, const char *key, json_int_t least, json_int_t most, json_int_t *out) {
    const json_t *v = json_object_get(o, key);
    *out = json_integer_value(v);
    if (json_is_integer(v) && *out >= least && *out <= most) return OK;
    return err_set(ERR_INTERNAL, "probe: '%s' is no whole number from %" JSON_INTEGER_FORMAT " to %"
                   JSON_INTEGER_FORMAT, key, least, most);
}

static err get_u32(const json_t *o, const char *key, uint32_t least, uint32_t most, uint32_t *out) {
    json_int_t n;
    TRY(get_whole(o, key, least, most, &n));
    *out = (uint32_t)n;
    return OK;
}

static err get_rate(const json_t *o, const char *key, double *out) {
    const json_t *v = json_object_get(o, key);
    *out = json_number_value(v);
    if (json_is_number(v) && isfinite(*out) && *out >= 0 && *out <= RATE_MAX) return OK;
    return err_set(ERR_INTERNAL, "probe: '%s' is no number from 0 to %g", key, RATE_MAX);
}

/* ---- what is asked ---- */

static json_t *devices_json(const struct probe_message *m) {
    json_t *a = json_array();
    for (uint32_t i = 0; a && i < m->n_ranks; i++) {
        const struct plan_device *d = &m->devices[i];
        json_t *o = json_pack("{s:s, s:I, s:b, s:I}", "select", d->select, "index", (json_int_t)d->index,
                              "has_index", d->has_index, "threads", (json_int_t)d->threads);
        if (json_array_append_new(a, o) == 0) continue;
        json_decref(a);
        return NULL;
    }
    return a;
}

err probe_message_put(const struct probe_message *m, struct bytes *json) {
    json_t *formats = json_array(), *devices = devices_json(m);
    for (int f = 0; f < N_FORMATS; f++)
        if (m->has_format[f]) json_array_append_new(formats, json_string(format_info((enum format)f)->name));
    if (!devices) {
        json_decref(formats);
        return err_set(ERR_CONFIG, "the name of a device is not valid UTF-8");
    }
    return frame_json_take(json_pack("{s:b, s:b, s:I, s:I, s:I, s:I, s:o, s:o}", "is_again", m->is_again,
                               "is_reference", m->is_reference, "deadline_ms", (json_int_t)m->deadline_ms,
                               "turn", (json_int_t)m->turn, "n_turns", (json_int_t)m->n_turns,
                               "side", (json_int_t)m->side, "formats", formats, "devices", devices),
                     json);
}

static err message_read(const json_t *root, struct probe_message *m) {
    const json_t *formats, *devices;
    m->is_again = json_is_true(json_object_get(root, "is_again"));
    m->is_reference = json_is_true(json_object_get(root, "is_reference"));
    TRY(get_u32(root, "deadline_ms", 1, INT32_MAX, &m->deadline_ms));
    TRY(get_u32(root, "n_turns", 0, RANKS_MAX, &m->n_turns));
    TRY(get_u32(root, "turn", 0, m->n_turns, &m->turn));
    TRY(get_u32(root, "side", 0, INT32_MAX, &m->side));
    TRY(frame_json_list(root, "probe", "formats", 0, N_FORMATS, &formats));
    TRY(frame_json_list(root, "probe", "devices", 1, RANKS_MAX, &devices));
    for (size_t i = 0; i < json_array_size(formats); i++) {
        const char *name = json_string_value(json_array_get(formats, i));
        enum format f;
        TRY(format_from_name(name ? name : "", &f));
        m->has_format[f] = 1;
    }
    m->n_ranks = (uint32_t)json_array_size(devices);
    TRY(NEW(m->devices, m->n_ranks));
    for (uint32_t i = 0; i < m->n_ranks; i++) {
        const json_t *o = json_array_get(devices, i);
        TRY(get_text(o, "select", m->devices[i].select, sizeof m->devices[i].select));
        TRY(get_u32(o, "index", 0, RANKS_MAX, &m->devices[i].index));
        TRY(get_u32(o, "threads", 0, THREADS_MAX, &m->devices[i].threads));
        m->devices[i].has_index = json_is_true(json_object_get(o, "has_index"));
    }
    return OK;
}

err probe_message_get(const char *json, size_t n, struct probe_message *out) {
    struct probe_message m = {0};
    json_t *root;
    TRY(json_read(json, n, &root));
    err e = message_read(root, &m);
    json_decref(root);
    if (e == OK) *out = m;
    else probe_message_free(&m);
    return e;
}

void probe_message_free(struct probe_message *m) {
    free(m->devices);
    *m = (struct probe_message){0};
}

/* ---- what is answered ---- */

/* A rate of each format, those that are known. */
static json_t *formats_json(const double of[N_FORMATS]) {
    json_t *o = json_object();
    for (int f = 0; f < N_FORMATS; f++)
        if (of[f] > 0) json_object_set_new(o, format_info((enum format)f)->name, json_real(of[f]));
    return o;
}

static json_t *rates_json(const struct device_rates *r) {
    json_t *o = json_object();
    for (int i = 0; i < N_SCALARS; i++) {
        double v;
        memcpy(&v, (const char *)r + scalars[i].at, sizeof v);
        json_object_set_new(o, scalars[i].key, json_real(v));
    }
    json_object_set_new(o, "row_per_s", formats_json(r->row_per_s));
    json_object_set_new(o, "few_per_s", formats_json(r->few_per_s));
    json_object_set_new(o, "alone_per_s", formats_json(r->alone_per_s));
    json_object_set_new(o, "products_per_s", formats_json(r->products_per_s));
    return o;
}

static json_t *links_json(const struct probed_rank *r) {
    json_t *a = json_array();
    for (uint32_t i = 0; i < r->n_links; i++)
        json_array_append_new(a, json_pack("{s:I, s:f, s:f, s:f}", "to", (json_int_t)r->links[i].to, "latency_s",
                                           r->links[i].latency_s, "bytes_per_s", r->links[i].bytes_per_s,
                                           "back_per_s", r->links[i].back_per_s));
    return a;
}

err probed_put_rank(int rank, const struct probed_rank *r, struct bytes *json) {
    char clean[sizeof r->device]; /* jansson takes UTF-8 only */
    size_t n = 0;
    for (; n < sizeof clean - 1 && r->device[n]; n++)
        clean[n] = (unsigned char)r->device[n] < 128 ? r->device[n] : '?';
    clean[n] = 0;
    return frame_json_take(json_pack("{s:i, s:s, s:b, s:b, s:I, s:I, s:o, s:o}", "rank", rank, "device", clean,
                               "is_host",
                               r->is_host, "is_cached", r->is_cached, "memory_bytes", (json_int_t)r->memory_bytes,
                               "threads", (json_int_t)r->threads, "rates", rates_json(&r->rates), "links",
                               links_json(r)),
                     json);
}

static err formats_read(const json_t *rates, const char *key, double of[N_FORMATS]) {
    const json_t *o = json_object_get(rates, key);
    if (!json_is_object(o)) return err_set(ERR_INTERNAL, "probe: '%s' is no list of formats", key);
    for (int f = 0; f < N_FORMATS; f++) {
        const char *name = format_info((enum format)f)->name;
        if (json_object_get(o, name)) TRY(get_rate(o, name, &of[f]));
    }
    return OK;
}

static err rates_read(const json_t *o, struct device_rates *r) {
    for (int i = 0; i < N_SCALARS; i++) {
        double v;
        TRY(get_rate(o, scalars[i].key, &v));
        memcpy((char *)r + scalars[i].at, &v, sizeof v);
    }
    TRY(formats_read(o, "row_per_s", r->row_per_s));
    TRY(formats_read(o, "few_per_s", r->few_per_s));
    TRY(formats_read(o, "alone_per_s", r->alone_per_s));
    return formats_read(o, "products_per_s", r->products_per_s);
}

static err links_read(const json_t *o, uint32_t rank, uint32_t n_ranks, struct probed_rank *r) {
    const json_t *links;
    TRY(frame_json_list(o, "probe", "links", 0, n_ranks, &links));
    r->n_links = (uint32_t)json_array_size(links);
    TRY(NEW(r->links, r->n_links));
    for (uint32_t i = 0; i < r->n_links; i++) {
        const json_t *l = json_array_get(links, i);
        TRY(get_u32(l, "to", 0, n_ranks - 1, &r->links[i].to));
        TRY(get_rate(l, "latency_s", &r->links[i].latency_s));
        TRY(get_rate(l, "bytes_per_s", &r->links[i].bytes_per_s));
        TRY(get_rate(l, "back_per_s", &r->links[i].back_per_s));
        if (r->links[i].to == rank) return err_set(ERR_INTERNAL, "probe: a link of rank %u to itself", rank);
    }
    return OK;
}

/* One object of the array; `seen` [n_ranks] are the ranks that came before. */
static err rank_read(const json_t *o, struct probed *p, uint8_t *seen) {
    uint32_t rank;
    json_int_t memory;
    TRY(get_u32(o, "rank", 0, p->n_ranks - 1, &rank));
    if (seen[rank]++) return err_set(ERR_INTERNAL, "probe: rank %u answers twice", rank);
    struct probed_rank *r = &p->ranks[rank];
    TRY(get_text(o, "device", r->device, sizeof r->device));
    r->is_host = json_is_true(json_object_get(o, "is_host"));
    r->is_cached = json_is_true(json_object_get(o, "is_cached"));
    TRY(get_whole(o, "memory_bytes", 0, INT64_MAX, &memory));
    r->memory_bytes = (uint64_t)memory;
    TRY(get_u32(o, "threads", 0, THREADS_MAX, &r->threads));
    TRY(rates_read(json_object_get(o, "rates"), &r->rates));
    return links_read(o, rank, p->n_ranks, r);
}

static err ranks_read(const json_t *root, struct probed *p) {
    size_t n = json_array_size(root);
    uint8_t *seen;
    if (!json_is_array(root) || n < 1 || n > RANKS_MAX)
        return err_set(ERR_INTERNAL, "probe: no list of 1 to %u ranks", RANKS_MAX);
    p->n_ranks = (uint32_t)n;
    TRY(NEW(p->ranks, n));
    TRY(NEW(seen, n));
    err e = OK;
    for (size_t i = 0; e == OK && i < n; i++) e = rank_read(json_array_get(root, i), p, seen);
    free(seen);
    return e;
}

err probed_get(const char *json, size_t n, struct probed *out) {
    struct probed p = {0};
    json_t *root;
    TRY(json_read(json, n, &root));
    err e = ranks_read(root, &p);
    json_decref(root);
    if (e == OK) *out = p;
    else probed_free(&p);
    return e;
}

void probed_free(struct probed *p) {
    for (uint32_t i = 0; p->ranks && i < p->n_ranks; i++) free(p->ranks[i].links);
    free(p->ranks);
    *p = (struct probed){0};
}
