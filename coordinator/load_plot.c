#include "coordinator/load_plot.h"

#include <math.h>
#include <stdio.h>

/* Pixels. */
#define WIDTH 880
#define PANEL_HEIGHT 260
#define TITLE_HEIGHT 44
#define LEGEND_ROW 18
#define LEFT 76
#define RIGHT 24
#define TOP 34    /* of a panel, above its frame */
#define BOTTOM 48 /* below it: the labels of its x axis */

#define CURVE_POINTS 200
#define TIME_LEAST_S 1e-4 /* left end of a logarithmic axis */
#define TICKS_MAX 8

/* Dark enough on white, and told apart by colour-blind readers (Okabe and Ito's palette). */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"};
enum { N_COLOURS = sizeof colours / sizeof *colours };

struct axis {
    double least, most, begin, end; /* values, and the pixels they stand at */
    int is_log;
};

struct panel {
    struct axis x, y;
    const char *title, *x_label, *y_label;
};

static double at(const struct axis *a, double value) {
    double part = a->is_log ? log(value / a->least) / log(a->most / a->least)
                            : (value - a->least) / (a->most - a->least);
    return a->begin + (part < 0 ? 0 : part > 1 ? 1 : part) * (a->end - a->begin);
}

static err add_text(struct bytes *out, const char *text) {
    for (; *text; text++) {
        if (*text == '&') TRY(bytes_append_str(out, "&amp;"));
        else if (*text == '<') TRY(bytes_append_str(out, "&lt;"));
        else if (*text == '>') TRY(bytes_append_str(out, "&gt;"));
        else if ((unsigned char)*text >= ' ') TRY(bytes_append(out, text, 1));
    }
    return OK;
}

static err add_label(struct bytes *out, double x, double y, const char *attributes, const char *text) {
    TRY(bytes_printf(out, "<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, attributes));
    TRY(add_text(out, text));
    return bytes_append_str(out, "</text>\n");
}

/* ---- axes ---- */

static err add_x_tick(const struct panel *p, double value, const char *text, struct bytes *out) {
    double x = at(&p->x, value);
    TRY(bytes_printf(out, "<path d=\"M%.1f %.1fV%.1f\" stroke=\"#ddd\"/>\n", x, p->y.begin, p->y.end));
    return add_label(out, x, p->y.begin + 16, "text-anchor=\"middle\"", text);
}

static err add_y_tick(const struct panel *p, double value, const char *text, struct bytes *out) {
    double y = at(&p->y, value);
    TRY(bytes_printf(out, "<path d=\"M%.1f %.1fH%.1f\" stroke=\"#ddd\"/>\n", p->x.begin, y, p->x.end));
    return add_label(out, p->x.begin - 8, y + 4, "text-anchor=\"end\"", text);
}

/* 1, 2 or 5 times a power of ten, so that at most TICKS_MAX fit. */
static double nice_step(double span) {
    double power = pow(10, floor(log10(span / TICKS_MAX)));
    for (int i = 0; i < 3; i++)
        if (span / ((double[]){1, 2, 5}[i] * power) <= TICKS_MAX) return (double[]){1, 2, 5}[i] * power;
    return 10 * power;
}

static err add_even_ticks(const struct panel *p, int is_x, const char *unit, struct bytes *out) {
    const struct axis *a = is_x ? &p->x : &p->y;
    double step = nice_step(a->most - a->least);
    char text[32];
    for (int i = 0; i * step <= a->most * (1 + 1e-9); i++) {
        snprintf(text, sizeof text, "%g%s", i * step, unit);
        TRY((is_x ? add_x_tick : add_y_tick)(p, i * step, text, out));
    }
    return OK;
}

/* Seconds in the unit that reads best. */
static void time_text(double seconds, char out[32]) {
    if (seconds < 0.9995) snprintf(out, 32, "%.4g ms", seconds * 1e3);
    else snprintf(out, 32, "%.4g s", seconds);
}

static err add_log_ticks(const struct panel *p, struct bytes *out) {
    int is_wide = log10(p->x.most / p->x.least) > 2.5; /* then powers of ten alone */
    char text[32];
    for (int power = -5; power < 6; power++)
        for (int i = 0; i < (is_wide ? 1 : 3); i++) {
            double value = (double[]){1, 2, 5}[i] * pow(10, power);
            if (value < p->x.least * (1 - 1e-9) || value > p->x.most * (1 + 1e-9)) continue;
            time_text(value, text);
            TRY(add_x_tick(p, value, text, out));
        }
    return OK;
}

static err add_frame(const struct panel *p, struct bytes *out) {
    TRY(bytes_printf(out, "<path d=\"M%.1f %.1fH%.1fV%.1fH%.1fz\" fill=\"none\" stroke=\"#666\"/>\n", p->x.begin,
                     p->y.end, p->x.end, p->y.begin, p->x.begin));
    TRY(add_label(out, p->x.begin, p->y.end - 10, "font-weight=\"bold\"", p->title));
    TRY(add_label(out, (p->x.begin + p->x.end) / 2, p->y.begin + 36, "text-anchor=\"middle\"", p->x_label));
    char turned[96];
    double y = (p->y.begin + p->y.end) / 2;
    snprintf(turned, sizeof turned, "text-anchor=\"middle\" transform=\"rotate(-90 %.1f %.1f)\"", 18.0, y);
    return add_label(out, 18, y, turned, p->y_label);
}

/* ---- panels ---- */

static struct panel panel_at(double top) {
    return (struct panel){.x = {.begin = LEFT, .end = WIDTH - RIGHT},
                          .y = {.begin = top + PANEL_HEIGHT - BOTTOM, .end = top + TOP}};
}

static err begin_line(size_t run, struct bytes *out) {
    return bytes_printf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"",
                        colours[run % N_COLOURS]);
}

static double time_shown(double seconds) { return seconds > TIME_LEAST_S ? seconds : TIME_LEAST_S; }

/* Which share came within which time. */
static err add_curve(const struct panel *p, const struct load_times *t, size_t run, struct bytes *out) {
    if (!t->n) return OK;
    TRY(begin_line(run, out));
    for (int i = 0; i <= CURVE_POINTS; i++) {
        double share = (double)i / CURVE_POINTS;
        double value = (double)t->sorted[(size_t)(share * (double)(t->n - 1))];
        TRY(bytes_printf(out, "%.1f,%.1f ", at(&p->x, time_shown(value)), at(&p->y, 100 * share)));
    }
    return bytes_append_str(out, "\"/>\n");
}

static err add_distribution(double top, enum load_kind kind, const struct load_summary *runs, size_t n_runs,
                            struct bytes *out) {
    struct panel p = panel_at(top);
    p.title = kind == LOAD_FIRST ? "Time to the first token" : "Time between two tokens of an answer";
    p.x_label = "time";
    p.y_label = "share within that time";
    p.y.most = 100;
    p.x.is_log = 1;
    p.x.least = INFINITY;
    for (size_t i = 0; i < n_runs; i++) {
        const struct load_times *t = &runs[i].times[kind];
        if (!t->n) continue;
        p.x.least = fmin(p.x.least, time_shown((double)t->sorted[t->n / 100]));
        p.x.most = fmax(p.x.most, time_shown(t->max));
    }
    if (!(p.x.least < p.x.most)) p.x.least = fmax(p.x.most, TIME_LEAST_S) / 2; /* one value, or none */
    p.x.least *= 0.8;
    p.x.most = fmax(p.x.most * 1.25, p.x.least * 4);
    TRY(add_log_ticks(&p, out));
    TRY(add_even_ticks(&p, 0, "%", out));
    for (size_t i = 0; i < n_runs; i++) TRY(add_curve(&p, &runs[i].times[kind], i, out));
    return add_frame(&p, out);
}

static err add_rate(const struct panel *p, const struct load_series *s, size_t run, struct bytes *out) {
    TRY(begin_line(run, out));
    for (size_t i = 0; i < s->n; i++)
        TRY(bytes_printf(out, "%.1f,%.1f ", at(&p->x, ((double)i + 0.5) * s->bin_s), at(&p->y, s->tokens_per_s[i])));
    return bytes_append_str(out, "\"/>\n");
}

static err add_rates(double top, const struct load_summary *runs, size_t n_runs, struct bytes *out) {
    struct panel p = panel_at(top);
    struct load_series series;
    p.title = "Tokens written per second";
    p.x_label = "seconds since the run began";
    p.y_label = "tokens/s";
    p.x.most = p.y.most = 1e-3;
    for (size_t i = 0; i < n_runs; i++) {
        err e = load_series_make(&runs[i], &series);
        p.x.most = fmax(p.x.most, runs[i].result->seconds);
        for (size_t k = 0; k < series.n && e == OK; k++) p.y.most = fmax(p.y.most, series.tokens_per_s[k] * 1.08);
        load_series_free(&series);
        TRY(e);
    }
    TRY(add_even_ticks(&p, 1, "", out));
    TRY(add_even_ticks(&p, 0, "", out));
    for (size_t i = 0; i < n_runs; i++) {
        err e = load_series_make(&runs[i], &series);
        if (e == OK) e = add_rate(&p, &series, i, out);
        load_series_free(&series);
        TRY(e);
    }
    return add_frame(&p, out);
}

static err add_legend(const struct load_summary *runs, size_t n_runs, struct bytes *out) {
    char text[160];
    for (size_t i = 0; i < n_runs; i++) {
        const struct load_summary *s = &runs[i];
        double y = TITLE_HEIGHT + (double)i * LEGEND_ROW, seconds = s->result->seconds;
        const struct load_times *first = &s->times[LOAD_FIRST], *between = &s->times[LOAD_BETWEEN];
        snprintf(text, sizeof text,
                 "%s: %.1f tokens/s; first token p50 %.0f ms, p99 %.0f ms; between tokens p50 %.1f ms, p99 %.1f ms",
                 s->label, seconds > 0 ? (double)s->n_answer / seconds : 0, first->p50 * 1e3, first->p99 * 1e3,
                 between->p50 * 1e3, between->p99 * 1e3);
        TRY(bytes_printf(out, "<path d=\"M%d %.1fh24\" stroke=\"%s\" stroke-width=\"3\"/>\n", LEFT, y + 6,
                         colours[i % N_COLOURS]));
        TRY(add_label(out, LEFT + 32, y + 10, "", text));
    }
    return OK;
}

err load_plot(const char *title, const struct load_summary *runs, size_t n_runs, struct bytes *out) {
    double top = TITLE_HEIGHT + (double)n_runs * LEGEND_ROW;
    double height = top + 3 * PANEL_HEIGHT;
    TRY(bytes_printf(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%.0f\" ", WIDTH, height));
    TRY(bytes_printf(out, "viewBox=\"0 0 %d %.0f\"", WIDTH, height));
    TRY(bytes_append_str(out, " font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n<title>"));
    TRY(add_text(out, title));
    TRY(bytes_append_str(out, "</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"));
    TRY(add_label(out, LEFT, 26, "font-size=\"15\" font-weight=\"bold\"", title));
    TRY(add_legend(runs, n_runs, out));
    TRY(add_distribution(top, LOAD_BETWEEN, runs, n_runs, out));
    TRY(add_distribution(top + PANEL_HEIGHT, LOAD_FIRST, runs, n_runs, out));
    TRY(add_rates(top + 2 * PANEL_HEIGHT, runs, n_runs, out));
    return bytes_append_str(out, "</svg>\n");
}
