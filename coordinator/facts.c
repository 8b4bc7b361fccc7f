#include "coordinator/facts.h"

#include <math.h>
#include <stdlib.h>

/* ---- measured ---- */

static double mean(double sum_s, uint64_t n) { return n ? sum_s / (double)n : 0; }

/* What a row takes beyond computing, for each hop; one stage has none. */
static double hop_measured(const struct facts_request *r) {
    const struct plan *plan = r->plan;
    double compute_s = 0;
    if (r->decode_per_s <= 0 || plan->n_stages < 2) return 0;
    for (uint32_t stage = 0; stage < plan->n_stages; stage++) {
        double most = 0;
        for (uint32_t i = stage * plan->n_shards; i < (stage + 1) * plan->n_shards; i++)
            most = fmax(most, mean(r->ranks[i].one_row_s, r->ranks[i].one_row_steps));
        if (most <= 0) return 0; /* no steps of one row */
        compute_s += most;
    }
    return fmax(0, 1 / r->decode_per_s - compute_s) / plan->n_stages;
}

static void take_measured(const struct facts_request *r, struct facts *f) {
    uint64_t n_rows = r->ranks[0].many_rows, n_steps = r->ranks[0].many_steps;
    f->rows = n_steps ? (uint32_t)((n_rows + n_steps / 2) / n_steps) : 0;
    f->decode_per_s.measured = r->decode_per_s;
    f->prefill_per_s.measured = r->prefill_per_s;
    f->load_s.measured = r->load_s;
    f->hop_s.measured = hop_measured(r);
    for (uint32_t i = 0; i < f->n_ranks; i++) {
        const struct engine_rank *rank = &r->ranks[i];
        f->ranks[i].decode_s.measured = mean(rank->one_row_s, rank->one_row_steps);
        f->ranks[i].prefill_s.measured = mean(rank->many_s, rank->many_steps);
        f->ranks[i].load_s.measured = rank->load_s;
        f->ranks[i].memory_bytes.measured = (double)rank->peak_rss_bytes;
    }
}

/* ---- forecast ---- */

/* A prompt in steps of f->rows rows: the first one passes all stages and hops, the slowest stage is next done with each
 * of the others. */
static double prompt_forecast_s(const struct facts_request *r, const struct facts *f, const struct forecast *forecast) {
    const struct plan *plan = r->plan;
    double first_s = 0, slowest_s = 0, n_steps = fmax(1, (double)r->n_prompt * r->n_texts / f->rows);
    double part = plan->rows_max > 1 ? (double)(f->rows - 1) / (plan->rows_max - 1) : 0; /* of a hop's bytes */
    for (uint32_t stage = 0; stage < plan->n_stages; stage++) {
        const struct forecast_cell *c = &forecast->cells[stage * plan->n_shards];
        double most = 0;
        for (uint32_t i = 0; i < plan->n_shards; i++)
            most = fmax(most, f->ranks[stage * plan->n_shards + i].prefill_s.forecast);
        int goes_on = stage + 1 < plan->n_stages;
        first_s += most + c->hop_decode_s + (goes_on ? part * (c->hop_prefill_s - c->hop_decode_s) : 0);
        slowest_s = fmax(slowest_s, most);
    }
    return first_s + (n_steps - 1) * slowest_s;
}

static err take_prefill(const struct facts_request *r, const struct forecast *forecast, struct facts *f) {
    const struct step_shape s = {.n_rows = f->rows, .n_outs = 1, .n_positions = r->n_prompt / 2 + 1};
    for (uint32_t i = 0; i < f->n_ranks; i++) {
        struct cost c;
        TRY(cost_cell(r->program, r->cluster, r->plan, i, &s, &c));
        f->ranks[i].prefill_s.forecast = c.total_s;
    }
    double seconds = prompt_forecast_s(r, f, forecast);
    if (seconds > 0) f->prefill_per_s.forecast = (double)r->n_prompt * r->n_texts / seconds;
    return OK;
}

static err take_forecast(const struct facts_request *r, const struct forecast *forecast, struct facts *f) {
    const struct plan *plan = r->plan;
    if (r->n_texts == 1) f->decode_per_s.forecast = forecast->decode_per_s;
    f->load_s.forecast = forecast->load_s;
    for (uint32_t i = 0; i < f->n_ranks; i++) {
        const struct forecast_cell *c = &forecast->cells[i];
        if (plan->n_stages > 1 && plan->cells[i].shard == 0) f->hop_s.forecast += c->hop_decode_s / plan->n_stages;
        f->ranks[i].decode_s.forecast = c->decode.total_s - (r->n_texts == 1 ? c->decode.rest_s : 0);
        f->ranks[i].load_s.forecast = c->load_s;
        if (r->cluster->devices[plan->cells[i].device].is_host)
            f->ranks[i].memory_bytes.forecast = (double)plan_cell_bytes(&plan->cells[i]);
    }
    return f->rows && r->n_prompt ? take_prefill(r, forecast, f) : OK;
}

err facts_create(const struct facts_request *r, struct facts **out) {
    struct facts *f;
    struct forecast *forecast = NULL;
    TRY(NEW(f, 1));
    f->n_ranks = r->plan->n_ranks;
    err e = NEW(f->ranks, f->n_ranks);
    if (e == OK) take_measured(r, f);
    if (e == OK && r->cluster && cost_check(r->cluster) == OK) {
        e = forecast_create_at(r->program, r->cluster, r->plan, r->n_prompt + r->n_written / 2 + 1, &forecast);
        if (e == OK) e = take_forecast(r, forecast, f);
        forecast_free(forecast);
    }
    if (e != OK) facts_free(f);
    else *out = f;
    return e;
}

void facts_free(struct facts *f) {
    if (!f) return;
    free(f->ranks);
    free(f);
}

/* ---- as JSON ---- */

static json_t *number_json(double x) { return x > 0 ? json_real(x) : json_null(); }

static json_t *fact_json(const struct fact *f) {
    return json_pack("{s:o, s:o}", "forecast", number_json(f->forecast), "measured", number_json(f->measured));
}

static json_t *rank_json(const struct facts *f, uint32_t i) {
    const struct rank_facts *r = &f->ranks[i];
    return json_pack("{s:I, s:o, s:o, s:o, s:o}", "rank", (json_int_t)i, "decode_s", fact_json(&r->decode_s),
                     "prefill_s", fact_json(&r->prefill_s), "load_s", fact_json(&r->load_s), "memory_bytes",
                     fact_json(&r->memory_bytes));
}

json_t *facts_json(const struct facts *f) {
    json_t *ranks = json_array();
    for (uint32_t i = 0; i < f->n_ranks; i++) json_array_append_new(ranks, rank_json(f, i));
    return json_pack("{s:o, s:o, s:o, s:o, s:I, s:o}", "decode_tokens_per_s", fact_json(&f->decode_per_s),
                     "prefill_tokens_per_s", fact_json(&f->prefill_per_s), "hop_s", fact_json(&f->hop_s), "load_s",
                     fact_json(&f->load_s), "prefill_rows", (json_int_t)f->rows, "ranks", ranks);
}

static int set_number(json_t *o, const char *key, double x) {
    return x > 0 && json_object_set_new(o, key, json_real(x)) != 0;
}

err facts_add(json_t *ranks, const struct plan *plan, const struct engine_rank *figures,
              const struct forecast *forecast) {
    int is_bad = 0;
    for (uint32_t i = 0; i < plan->n_ranks && i < json_array_size(ranks); i++) {
        json_t *o = json_array_get(ranks, i);
        const struct engine_rank *r = &figures[i];
        const struct forecast_cell *c = forecast ? &forecast->cells[i] : NULL;
        is_bad |= set_number(o, "decode_s", mean(r->one_row_s, r->one_row_steps));
        is_bad |= set_number(o, "prefill_s", mean(r->many_s, r->many_steps));
        is_bad |= set_number(o, "prefill_rows", mean((double)r->many_rows, r->many_steps));
        is_bad |= set_number(o, "load_s", r->load_s);
        if (!c) continue;
        is_bad |= set_number(o, "forecast_decode_s", c->decode.total_s - c->decode.rest_s);
        is_bad |= set_number(o, "forecast_prefill_s", c->prefill.total_s);
        if (plan->n_stages > 1) is_bad |= set_number(o, "forecast_hop_s", c->hop_decode_s);
        is_bad |= set_number(o, "forecast_load_s", c->load_s);
        is_bad |= set_number(o, "forecast_memory_bytes", (double)plan_cell_bytes(&plan->cells[i]));
    }
    return is_bad ? err_set(ERR_MEMORY, "cannot write the figures of the ranks") : OK;
}

/* ---- as text ---- */

#define PAIR_BYTES 40

static const char *number_text(double x, double scale, char out[16]) {
    if (x > 0) snprintf(out, 16, "%.*f", x * scale < 100 ? 2 : 1, x * scale);
    else snprintf(out, 16, "-");
    return out;
}

static const char *pair_text(const struct fact *f, double scale, char out[PAIR_BYTES]) {
    char a[16], b[16];
    snprintf(out, PAIR_BYTES, "%s / %s", number_text(f->forecast, scale, a), number_text(f->measured, scale, b));
    return out;
}

static err table(const struct facts *f, struct bytes *out) {
    char rows[32], a[PAIR_BYTES], b[PAIR_BYTES], c[PAIR_BYTES], d[PAIR_BYTES];
    snprintf(rows, sizeof rows, "%u rows, ms", f->rows);
    TRY(bytes_printf(out, "forecast / measured\n%4s  %19s %19s %19s %19s\n", "rank", "one row, ms", f->rows ? rows : "",
                     "load, s", "memory, MB"));
    for (uint32_t i = 0; i < f->n_ranks; i++) {
        const struct rank_facts *r = &f->ranks[i];
        TRY(bytes_printf(out, "%4u  %19s %19s %19s %19s\n", i, pair_text(&r->decode_s, 1e3, a),
                         f->rows ? pair_text(&r->prefill_s, 1e3, b) : "", pair_text(&r->load_s, 1, c),
                         pair_text(&r->memory_bytes, 1e-6, d)));
    }
    TRY(bytes_printf(out, "tokens/s read %s, written %s; loaded in %s s", pair_text(&f->prefill_per_s, 1, a),
                     pair_text(&f->decode_per_s, 1, b), pair_text(&f->load_s, 1, c)));
    if (f->hop_s.measured > 0) TRY(bytes_printf(out, "; a hop %s ms", pair_text(&f->hop_s, 1e3, d)));
    return bytes_append_str(out, "\n");
}

err facts_print(const struct facts *f, FILE *file) {
    struct bytes text = {0};
    err e = table(f, &text);
    if (e == OK) fwrite(text.data, 1, text.len, file);
    bytes_free(&text);
    return e;
}
