#include "coordinator/load_watch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

#define PATH "/metrics"
#define EVERY_S 1
#define ANSWER_S 10
#define BODY_MAX (4 << 20)
#define SETTLE_S 15 /* after a load: for the server to notice clients that left */
#define PARTS 5
#define PART_SAMPLES 3 /* fewer say nothing */

/* ---- one text ---- */

/* The value of a line "NAME VALUE" or "NAME{...} VALUE"; NAN: it is another's. *labels: what is in the braces. */
static double line_value(const char *line, const char *name, const char **labels) {
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0) return NAN;
    const char *at = line + n;
    *labels = at;
    if (*at == '{') {
        int is_quoted = 0;
        for (at++; *at && *at != '\n' && (is_quoted || *at != '}'); at++) {
            if (*at == '\\' && is_quoted && at[1]) at++;
            else if (*at == '"') is_quoted = !is_quoted;
        }
        if (*at++ != '}') return NAN;
    }
    return *at == ' ' ? strtod(at + 1, NULL) : NAN;
}

static void take_resident(struct load_watch_sample *out, uint32_t process, double bytes) {
    if (process >= LOAD_WATCH_PROCESSES_MAX) return;
    out->resident_bytes[process] = bytes;
    if (process >= out->n_processes) out->n_processes = process + 1;
}

int load_watch_parse(const char *text, struct load_watch_sample *out) {
    int has_blocks = 0;
    *out = (struct load_watch_sample){0};
    for (const char *line = text; line; line = strchr(line, '\n')) {
        const char *labels = NULL;
        unsigned rank;
        double value;
        line += *line == '\n';
        if (!isnan(value = line_value(line, "caravan_kv_blocks_used", &labels))) {
            out->blocks_used = value;
            has_blocks = 1;
        } else if (!isnan(value = line_value(line, "caravan_requests_queued", &labels)) ||
                   !isnan(value = line_value(line, "caravan_requests_running", &labels))) {
            out->requests += value;
        } else if (!isnan(value = line_value(line, "process_resident_memory_bytes", &labels))) {
            take_resident(out, 0, value);
        } else if (!isnan(value = line_value(line, "caravan_rank_resident_memory_bytes", &labels)) &&
                   sscanf(labels, "{rank=\"%u\"", &rank) == 1 && rank < LOAD_WATCH_PROCESSES_MAX) {
            take_resident(out, rank + 1, value);
        }
    }
    return has_blocks;
}

/* ---- asking ---- */

static err ask_alone(struct load_watch *w, struct load_watch_sample *out, int *is_known) {
    int status;
    if (w->call) client_cancel(w->client, w->call); /* it would write to the same place */
    w->call = NULL;
    w->body.len = 0;
    TRY(client_get(w->client, PATH, ANSWER_S, &status, &w->body));
    *is_known = status == 200 && w->body.len && load_watch_parse((const char *)w->body.data, out);
    return OK;
}

err load_watch_open(struct load_watch *w, struct client *client) {
    struct load_watch_sample sample;
    *w = (struct load_watch){.client = client, .asked_s = -EVERY_S};
    return ask_alone(w, &sample, &w->is_on);
}

static void on_data(void *context, int status, const void *data, size_t n) {
    struct load_watch *w = context;
    (void)status;
    if (w->body.len + n > BODY_MAX) w->error = err_set(ERR_FILE, PATH " has no end");
    else if (w->error == OK) w->error = bytes_append(&w->body, data, n);
}

/* A sample that does not come is none: the load's own requests say what is wrong. */
static void on_end(void *context, const struct client_end *end) {
    struct load_watch *w = context;
    struct load_watch_sample sample;
    w->call = NULL;
    if (end->failure || end->status != 200 || !w->body.len) return;
    if (!load_watch_parse((const char *)w->body.data, &sample)) return;
    sample.at_s = w->asked_s;
    if (w->error == OK) w->error = bytes_append(&w->samples, &sample, sizeof sample);
}

err load_watch_tick(struct load_watch *w, double now_s) {
    if (!w->is_on || w->error != OK) return w->error;
    if (w->call || now_s - w->asked_s < EVERY_S) return OK;
    w->asked_s = now_s;
    w->body.len = 0;
    struct client_request r = {
        .path = PATH, .deadline_s = ANSWER_S, .context = w, .on_data = on_data, .on_end = on_end};
    return client_start(w->client, &r, &w->call);
}

err load_watch_blocks_after(struct load_watch *w, double *blocks_used) {
    double end_s = clock_s() + SETTLE_S;
    struct load_watch_sample sample = {0};
    int is_known;
    do {
        TRY(ask_alone(w, &sample, &is_known));
        if (!is_known) return err_set(ERR_JOB, "the server's " PATH " is gone");
        if (sample.requests == 0 && sample.blocks_used == 0) break;
        clock_sleep_us(100000);
    } while (clock_s() < end_s);
    *blocks_used = sample.blocks_used;
    return OK;
}

void load_watch_close(struct load_watch *w) {
    if (w->call) client_cancel(w->client, w->call);
    bytes_free(&w->samples);
    bytes_free(&w->body);
    *w = (struct load_watch){0};
}

/* ---- memory ---- */

static const struct load_watch_sample *samples_of(const struct load_watch *w, size_t *n) {
    *n = w->samples.len / sizeof(struct load_watch_sample);
    return (const struct load_watch_sample *)(const void *)w->samples.data;
}

uint32_t load_watch_n_processes(const struct load_watch *w) {
    size_t n;
    const struct load_watch_sample *s = samples_of(w, &n);
    return n ? s[n - 1].n_processes : 0;
}

/* Mean over [begin_s, end_s); 0: too few samples. */
static double mean_between(const struct load_watch *w, uint32_t process, double begin_s, double end_s) {
    size_t n, n_taken = 0;
    const struct load_watch_sample *s = samples_of(w, &n);
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        if (s[i].at_s >= begin_s && s[i].at_s < end_s && s[i].resident_bytes[process] > 0) {
            sum += s[i].resident_bytes[process];
            n_taken++;
        }
    return n_taken >= PART_SAMPLES ? sum / (double)n_taken : 0;
}

int load_watch_memory(const struct load_watch *w, uint32_t process, double duration_s, struct load_watch_memory *out) {
    double part_s = duration_s / PARTS;
    out->second = mean_between(w, process, part_s, 2 * part_s);
    out->last = mean_between(w, process, duration_s - part_s, duration_s);
    return out->second > 0 && out->last > 0;
}

json_t *load_watch_json(const struct load_watch *w) {
    size_t n;
    const struct load_watch_sample *s = samples_of(w, &n);
    json_t *at = json_array(), *blocks = json_array(), *all = json_array();
    for (size_t i = 0; i < n; i++) {
        json_array_append_new(at, json_real(s[i].at_s));
        json_array_append_new(blocks, json_real(s[i].blocks_used));
    }
    for (uint32_t p = 0; p < load_watch_n_processes(w); p++) {
        json_t *one = json_array();
        for (size_t i = 0; i < n; i++) json_array_append_new(one, json_real(s[i].resident_bytes[p]));
        json_array_append_new(all, one);
    }
    return json_pack("{s:o, s:o, s:o}", "at_s", at, "kv_blocks_used", blocks, "resident_bytes", all);
}
