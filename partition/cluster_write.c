/* A cluster as the file that cluster_read reads. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "partition/cluster.h"

#define LABEL_BYTES 100

/* A number that libconfig takes for a real one. */
static err put_number(struct bytes *out, const char *key, double value) {
    char text[40];
    snprintf(text, sizeof text, "%.6g", value);
    return bytes_printf(out, "%s = %s%s; ", key, text, strpbrk(text, ".e") ? "" : ".0");
}

/* What is not known is left out. */
static err put_known(struct bytes *out, const char *key, double value) {
    return value > 0 ? put_number(out, key, value) : OK;
}

static err put_link(struct bytes *out, const char *name, struct cluster_link l) {
    TRY(bytes_printf(out, "%s = { ", name));
    TRY(put_known(out, "latency_us", l.latency_s * 1e6));
    TRY(put_known(out, "gbit_s", l.bytes_per_s * 8e-9));
    return bytes_append_str(out, "};\n");
}

static err put_text(struct bytes *out, const char *key, const char *text) {
    TRY(bytes_printf(out, "%s = \"", key));
    for (; *text; text++) {
        if ((unsigned char)*text < ' ') continue;
        TRY(bytes_printf(out, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text));
    }
    return bytes_append_str(out, "\"; ");
}

static err put_formats(struct bytes *out, const char *key, const double of[N_FORMATS], double unit) {
    int n = 0;
    for (int f = 0; f < N_FORMATS; f++) {
        if (!(of[f] > 0)) continue;
        if (!n++) TRY(bytes_printf(out, "\n          %s = { ", key));
        TRY(put_number(out, format_info((enum format)f)->name, of[f] / unit));
    }
    return n ? bytes_append_str(out, "}; ") : OK;
}

/* A comment to the end of the line. */
static err put_comment(struct bytes *out, const char *text) {
    TRY(bytes_append_str(out, " # "));
    for (; *text; text++) TRY(bytes_printf(out, "%c", (unsigned char)*text < ' ' ? ' ' : *text));
    return bytes_append_str(out, "\n");
}

static err put_device(struct bytes *out, const struct cluster_device *d, uint32_t i) {
    const struct device_rates *r = &d->rates;
    TRY(bytes_printf(out, "      device-%u = {", i));
    TRY(put_comment(out, d->name));
    TRY(bytes_append_str(out, "          "));
    if (*d->select) TRY(put_text(out, "device", d->select));
    if (d->has_index) TRY(bytes_printf(out, "index = %u; ", d->index));
    if (d->threads) TRY(bytes_printf(out, "threads = %u; ", d->threads));
    if (d->memory_bytes) TRY(put_number(out, "memory_gb", (double)d->memory_bytes * 1e-9));
    if (d->memory_bytes && d->is_host) TRY(bytes_append_str(out, "host_memory = true; "));
    TRY(put_known(out, "read_gb_s", r->read_per_s * 1e-9));
    TRY(put_known(out, "int8_gop_s", r->int8_per_s * 1e-9));
    TRY(put_known(out, "f32_gop_s", r->f32_per_s * 1e-9));
    TRY(put_known(out, "copy_gb_s", r->copy_per_s * 1e-9));
    TRY(put_known(out, "pack_gb_s", r->pack_per_s * 1e-9));
    TRY(put_known(out, "plain_g_s", r->plain_per_s * 1e-9));
    TRY(put_known(out, "launch_us", r->launch_s * 1e6));
    TRY(put_known(out, "step_us", r->step_s * 1e6));
    TRY(put_known(out, "quota_share", r->quota_share));
    TRY(put_known(out, "quota_spare_ms", r->quota_spare_s * 1e3));
    TRY(put_known(out, "quota_message_ms", r->quota_message_s * 1e3));
    TRY(put_known(out, "quota_link_gb_s", r->quota_link_per_s * 1e-9));
    TRY(put_formats(out, "row_gb_s", r->row_per_s, 1e9));
    TRY(put_formats(out, "alone_gb_s", r->alone_per_s, 1e9));
    TRY(put_formats(out, "few_gop_s", r->few_per_s, 1e9));
    TRY(put_formats(out, "products_gop_s", r->products_per_s, 1e9));
    return bytes_append_str(out, "\n      };\n");
}

/* What may stand left of a "=": else a made-up one, and the name as a key. */
static int is_label(const char *name) {
    size_t n = strlen(name);
    if (n == 0 || n > LABEL_BYTES || !isalpha((unsigned char)*name)) return 0;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && *name != '-' && *name != '_') return 0;
    return 1;
}

static err put_label(struct bytes *out, const struct cluster *c, uint32_t host) {
    if (is_label(c->hosts[host].name)) return bytes_append_str(out, c->hosts[host].name);
    return bytes_printf(out, "host-%u", host);
}

static struct cluster_link measured(const struct cluster *c, uint32_t from, uint32_t to) {
    return c->measured ? c->measured[(size_t)from * c->n_hosts + to] : (struct cluster_link){0, 0};
}

static err put_host(struct bytes *out, const struct cluster *c, uint32_t host) {
    const struct cluster_host *h = &c->hosts[host];
    struct cluster_link inside = measured(c, host, host);
    TRY(bytes_append_str(out, "  "));
    TRY(put_label(out, c, host));
    TRY(bytes_append_str(out, " = {\n    "));
    if (!is_label(h->name)) TRY(put_text(out, "name", h->name));
    if (h->memory_bytes) TRY(put_number(out, "memory_gb", (double)h->memory_bytes * 1e-9));
    TRY(put_known(out, "file_gb_s", h->file_per_s * 1e-9));
    TRY(put_known(out, "latency_us", h->port.latency_s * 1e6));
    TRY(put_known(out, "gbit_s", h->port.bytes_per_s * 8e-9));
    TRY(bytes_append_str(out, "\n"));
    if (!(inside.bytes_per_s > 0)) inside = h->inside;
    if (inside.latency_s > 0 || inside.bytes_per_s > 0) {
        TRY(bytes_append_str(out, "    "));
        TRY(put_link(out, "inside", inside));
    }
    TRY(bytes_append_str(out, "    devices = {\n"));
    for (uint32_t i = 0, n = 0; i < c->n_devices; i++)
        if (c->devices[i].host == host) TRY(put_device(out, &c->devices[i], n++));
    return bytes_append_str(out, "    };\n  };\n");
}

/* The file knows both ways as one: the slower one. */
static err put_pairs_of(struct bytes *out, const struct cluster *c, uint32_t host) {
    int n = 0;
    for (uint32_t to = host + 1; to < c->n_hosts; to++) {
        struct cluster_link l = measured(c, host, to), back = measured(c, to, host);
        if (!(l.bytes_per_s > 0)) continue;
        if (back.bytes_per_s > 0 && back.bytes_per_s < l.bytes_per_s) l.bytes_per_s = back.bytes_per_s;
        if (back.latency_s > l.latency_s) l.latency_s = back.latency_s;
        if (!n++) {
            TRY(bytes_append_str(out, "  "));
            TRY(put_label(out, c, host));
            TRY(bytes_append_str(out, " = {\n"));
        }
        TRY(bytes_append_str(out, "    "));
        TRY(put_label(out, c, to));
        TRY(put_link(out, "", l));
    }
    return n ? bytes_append_str(out, "  };\n") : OK;
}

err cluster_write(const struct cluster *c, struct bytes *out) {
    if (c->between.bytes_per_s > 0) TRY(put_link(out, "links", c->between));
    if (c->inside.bytes_per_s > 0) TRY(put_link(out, "inside", c->inside));
    TRY(bytes_append_str(out, "hosts = {\n"));
    for (uint32_t i = 0; i < c->n_hosts; i++) TRY(put_host(out, c, i));
    TRY(bytes_append_str(out, "};\n"));
    if (!c->measured || c->n_hosts < 2) return OK;
    TRY(bytes_append_str(out, "pairs = {\n"));
    for (uint32_t i = 0; i < c->n_hosts; i++) TRY(put_pairs_of(out, c, i));
    return bytes_append_str(out, "};\n");
}
