/* caravan probe: what the devices of a job do and how fast messages go between its hosts, as planning takes it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "base/cache_file.h"
#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/job_plan.h"
#include "coordinator/model.h"
#include "coordinator/options.h"
#include "coordinator/report.h"

struct probe_command {
    struct config config;
    const char *formats, *out;
    int is_json, is_verbose, is_reference;
    struct job_products products;
};

/* ---- JSON ---- */

static json_t *formats_json(const double of[N_FORMATS]) {
    json_t *o = json_object();
    for (int f = 0; f < N_FORMATS; f++)
        if (of[f] > 0) json_object_set_new(o, format_info((enum format)f)->name, json_real(of[f]));
    return o;
}

static json_t *device_json(const struct cluster *c, const struct cluster_device *d) {
    const struct device_rates *r = &d->rates;
    return json_pack("{s:i, s:s, s:s, s:b, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:o, s:o,"
                     "s:o, s:o}", "rank", d->rank, "host", c->hosts[d->host].name, "device", d->name, "is_host",
                     d->is_host, "memory_bytes", (json_int_t)d->memory_bytes, "read_per_s", r->read_per_s, "int8_per_s",
                     r->int8_per_s, "f32_per_s", r->f32_per_s, "plain_per_s", r->plain_per_s, "launch_s", r->launch_s,
                     "step_s", r->step_s, "copy_per_s", r->copy_per_s, "pack_per_s", r->pack_per_s, "quota_share",
                     r->quota_share, "quota_spare_s", r->quota_spare_s, "quota_message_s", r->quota_message_s,
                     "quota_link_per_s", r->quota_link_per_s, "row_per_s", formats_json(r->row_per_s), "alone_per_s",
                     formats_json(r->alone_per_s), "few_per_s", formats_json(r->few_per_s), "products_per_s",
                     formats_json(r->products_per_s));
}

static struct cluster_link link_between(const struct cluster *c, uint32_t from, uint32_t to) {
    return c->measured ? c->measured[(size_t)from * c->n_hosts + to] : (struct cluster_link){0, 0};
}

static err print_json(const struct cluster *c) {
    json_t *devices = json_array(), *hosts = json_array(), *links = json_array();
    for (uint32_t i = 0; i < c->n_devices; i++) json_array_append_new(devices, device_json(c, &c->devices[i]));
    for (uint32_t i = 0; i < c->n_hosts; i++)
        json_array_append_new(hosts, json_pack("{s:s, s:I}", "name", c->hosts[i].name, "memory_bytes",
                                               (json_int_t)c->hosts[i].memory_bytes));
    for (uint32_t i = 0; i < c->n_hosts; i++)
        for (uint32_t k = 0; k < c->n_hosts; k++) {
            struct cluster_link l = link_between(c, i, k);
            if (!(l.bytes_per_s > 0)) continue;
            json_array_append_new(links, json_pack("{s:s, s:s, s:f, s:f}", "from", c->hosts[i].name, "to",
                                                   c->hosts[k].name, "latency_s", l.latency_s, "bytes_per_s",
                                                   l.bytes_per_s));
        }
    return report_print_json(json_pack("{s:o, s:o, s:o}", "hosts", hosts, "devices", devices, "links", links));
}

/* ---- text ---- */

static void print_known(const char *name, double value, const char *unit) {
    if (value > 0) printf("  %s %.4g %s", name, value, unit);
}

static void print_device(const struct cluster *c, const struct cluster_device *d) {
    const struct device_rates *r = &d->rates;
    printf("rank %d, host %s: %s", d->rank, c->hosts[d->host].name, d->name);
    if (!d->is_host) printf(", %.1f GB of its own", (double)d->memory_bytes * 1e-9);
    printf("\n");
    print_known("read", r->read_per_s * 1e-9, "GB/s");
    print_known("int8", r->int8_per_s * 1e-9, "GOP/s");
    print_known("f32", r->f32_per_s * 1e-9, "GOP/s");
    print_known("plain", r->plain_per_s * 1e-9, "10^9 values/s");
    print_known("op", r->launch_s * 1e6, "us");
    print_known("step", r->step_s * 1e6, "us");
    print_known("copy", r->copy_per_s * 1e-9, "GB/s");
    print_known("packing", r->pack_per_s * 1e-9, "GB/s");
    print_known("quota", r->quota_share * 100, "% of its threads' time");
    printf("\n");
    for (int f = 0; f < N_FORMATS; f++) {
        if (!(r->row_per_s[f] > 0)) continue;
        printf("  %-5s one row %8.4g GB/s", format_info((enum format)f)->name, r->row_per_s[f] * 1e-9);
        if (r->alone_per_s[f] > 0) printf("   alone %8.4g GB/s", r->alone_per_s[f] * 1e-9);
        if (r->few_per_s[f] > 0) printf("   few rows %8.4g GOP/s", r->few_per_s[f] * 1e-9);
        printf("   many rows %8.4g GOP/s\n", r->products_per_s[f] * 1e-9);
    }
}

static void print_links(const struct cluster *c) {
    for (uint32_t i = 0; i < c->n_hosts; i++)
        for (uint32_t k = 0; k < c->n_hosts; k++) {
            struct cluster_link l = link_between(c, i, k);
            if (!(l.bytes_per_s > 0)) continue;
            if (i == k) printf("inside %s", c->hosts[i].name);
            else printf("%s to %s", c->hosts[i].name, c->hosts[k].name);
            printf(": %.4g us, %.4g Gbit/s\n", l.latency_s * 1e6, l.bytes_per_s * 8e-9);
        }
}

static void print_text(const struct cluster *c) {
    for (uint32_t i = 0; i < c->n_devices; i++) print_device(c, &c->devices[i]);
    print_links(c);
}

/* ---- the command ---- */

static err add_format(void *context, const char *name) {
    struct probe_command *k = context;
    enum format f;
    TRY(format_from_name(name, &f));
    k->products.has_format[f] = 1;
    return OK;
}

/* As a job of the model would measure them, where one is named. */
static err products_choose(struct probe_command *k, const char *path) {
    struct model m;
    if (path) {
        TRY(model_open("probe", path, &k->config, &m));
        k->products = job_products_of(m.program);
        model_close(&m);
        if (!k->formats) return OK;
        memset(k->products.has_format, 0, sizeof k->products.has_format);
    }
    return config_parse_list("formats", k->formats ? k->formats : "Q4_0,Q8_0,Q4_K,Q6_K,F16", N_FORMATS, add_format, k);
}

static err write_out(const struct probe_command *k, const struct cluster *c) {
    struct bytes text = {0};
    err e = cluster_write(c, &text);
    if (e == OK) e = cache_file_write(k->out, text.data, text.len);
    bytes_free(&text);
    return e;
}

static err probe(struct probe_command *k) {
    const struct engine_options o = {.config = &k->config, .products = &k->products, .wake_fd = -1,
                                     .is_reference = k->is_reference, .is_verbose = k->is_verbose};
    struct cluster *c;
    TRY(engine_probe(&o, &c));
    err e = k->out ? write_out(k, c) : OK;
    if (e == OK && k->is_json) e = print_json(c);
    else if (e == OK) print_text(c);
    cluster_free(c);
    return e;
}

err cmd_probe(int argc, char **argv) {
    struct probe_command k = {0};
    struct option_result words;
    const struct option own[] = {
        {"formats", OPTION_TEXT, &k.formats, "LIST",
         "whose products to measure: \"Q4_0,F16\"; without it the model's, or the usual ones", 0, 0},
        {"out", OPTION_TEXT, &k.out, "FILE", "write a file of the cluster, for --cluster", 0, 0},
        {"json", OPTION_SWITCH, &k.is_json, NULL, "one JSON object on standard output", 0, 0},
        {"reference", OPTION_SWITCH, &k.is_reference, NULL, "plain C in place of devices", 0, 0},
        {"verbose", OPTION_SWITCH, &k.is_verbose, NULL, "what the launcher says", 0, 0},
    };
    const struct option_set set = {
        "probe [MODEL] [flags]",
        "Launches a job that measures: each rank its device, hosts in pairs the links between them. Of a MODEL\n"
        "it measures what generate and serve take: its formats, products as wide. What a device did before\n"
        "is known; --probe again measures it anew. --hosts, --ranks and --cluster say which ranks there are.",
        CONFIG_GRID | CONFIG_JOB, own, sizeof own / sizeof *own, 1};
    TRY(options_parse(&set, argc, argv, &k.config, &words));
    if (words.is_help) return OK;
    TRY(products_choose(&k, words.n_words ? words.words[0] : *k.config.model ? k.config.model : NULL));
    return probe(&k);
}
