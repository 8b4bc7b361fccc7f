/* `caravan tune`: finds what makes a device of this host fast, and keeps it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/config.h"
#include "base/mem.h"
#include "kernels/tune_search.h"
#include "node/commands.h"

#define FORMATS_MAX 8
#define BAR 24

static const char usage[] =
    "Usage: caravan tune [--device TEXT] [--minutes N] [--formats F,...] [--out FILE]\n\n"
    "Searches the tunables of a device's kernels, and CLBlast's, for the fastest values that keep\n"
    "the bits; says what it chose, and keeps it in a file that every later start on this device and driver uses.\n"
    "Other work on the machine misleads it.\n\n"
    "  --device TEXT     a part of \"PLATFORM / DEVICE\"; without it the best\n"
    "  --minutes N       about how long, may have a point; default 6\n"
    "  --formats F,...   of the products that are timed; CLBlast is searched where a dense one is among\n"
    "                    them; default Q8_0,Q4_K,F16\n"
    "  --out FILE        where to keep it; default $XDG_CONFIG_HOME/caravan/tune/DEVICE.cfg, or under ~/.config\n";

struct tune {
    const char *device, *minutes_text, *formats_text, *path;
    double minutes;
    enum format formats[FORMATS_MAX];
    uint32_t n_formats;
    char shown[96];
    struct tune_report report;
};

static err add_format(void *context, const char *item) {
    struct tune *t = context;
    return format_from_name(item, &t->formats[t->n_formats++]);
}

static err parse(struct tune *t, int argc, char **argv) {
    const struct { const char *name, **target; } flags[] = {
        {"--device", &t->device}, {"--minutes", &t->minutes_text},
        {"--formats", &t->formats_text}, {"--out", &t->path}};
    enum { N_FLAGS = sizeof flags / sizeof *flags };
    for (int i = 1; i < argc; i++) {
        int k = 0;
        while (k < N_FLAGS && strcmp(argv[i], flags[k].name) != 0) k++;
        if (k == N_FLAGS)
            return err_set(ERR_USAGE, "tune: unknown argument %s; caravan tune --help lists them", argv[i]);
        if (++i == argc) return err_set(ERR_USAGE, "tune: %s needs a value", flags[k].name);
        *flags[k].target = argv[i];
    }
    if (config_parse_real(t->minutes_text, 0.01, 600, &t->minutes) != OK) return err_context(ERR_USAGE, "--minutes");
    return config_parse_list("formats", t->formats_text, FORMATS_MAX, add_format, t);
}

/* A bar on a terminal, elsewhere a line for each new thing. */
static void show(void *context, const char *what, double share) {
    struct tune *t = context;
    int n = (int)(share * BAR);
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r\033[K[%.*s%.*s] %3.0f%%  %s", n, "########################", BAR - n,
                "........................", share * 100, what);
    else if (strcmp(t->shown, what) != 0)
        fprintf(stderr, "%3.0f%%  %s\n", share * 100, what);
    snprintf(t->shown, sizeof t->shown, "%s", what);
}

static const char *us_text(double us, char out[24]) {
    if (us > 0) snprintf(out, 24, "%.1f", us);
    else snprintf(out, 24, "-");
    return out;
}

static void print_line(const char *name, const char *fallback, const char *chosen, const struct tune_choice *c,
                       const char *help) {
    char before[24], after[24];
    printf("%-20s %9s %9s %12s %12s %6u %8u  %s\n", name, fallback, chosen, us_text(c->before_us, before),
           us_text(c->after_us, after), c->n_tried, c->n_refused, help);
}

static void print_parameters(const struct tuning *t) {
    for (int k = 0; k < N_CLBLAST_KERNELS; k++) {
        if (!t->has_clblast[k]) continue;
        printf("CLBlast %s:", clblast_kernels[k].name);
        for (uint32_t i = 0; i < clblast_kernels[k].n_parameters; i++)
            printf(" %s=%u", clblast_kernels[k].parameters[i].name, t->clblast[k][i]);
        putchar('\n');
    }
}

static void print_report(const struct tune_report *r) {
    printf("%s / %s, driver %s\n\n%-20s %9s %9s %12s %12s %6s %8s\n", r->platform, r->device, r->driver, "tunable",
           "default", "chosen", "before us", "after us", "tried", "refused");
    for (uint32_t i = 0; i < r->n_choices; i++) {
        const struct tune_choice *c = &r->choices[i];
        char fallback[16], chosen[16];
        if (c->tunable < 0) {
            int is_ours = !r->tuning.has_clblast[CLBLAST_ROUTINE];
            print_line("CLBlast", "its own", is_ours ? "its own" : "below", c, "parameters of a product of 256 rows");
            continue;
        }
        const struct tunable *t = &tunables[c->tunable];
        snprintf(fallback, sizeof fallback, "%u", t->fallback);
        snprintf(chosen, sizeof chosen, "%u", r->tuning.values[c->tunable]);
        print_line(t->name, fallback, chosen, c, t->help);
    }
    print_parameters(&r->tuning);
    if (r->own_us > 0 && r->library_us > 0)
        printf("a dense product of 256 rows takes %.0f us with our kernel, %.0f us with CLBlast: a start takes the "
               "faster\n", r->own_us, r->library_us);
}

static err tune(struct tune *t, const char *commit) {
    struct tune_request request = {.device = t->device, .seconds = t->minutes * 60, .formats = t->formats,
                                   .n_formats = t->n_formats, .progress = show, .context = t};
    err e = tune_search(&request, &t->report);
    if (isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    TRY(e);
    struct tune_device device = {t->report.platform, t->report.device, t->report.driver};
    char path[TUNE_SOURCE_BYTES], made_by[96], date[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%F", gmtime_r(&now, &utc));
    snprintf(made_by, sizeof made_by, ", commit %.40s, %s", commit, date);
    if (!t->path) TRY(tune_user_path(&device, path, sizeof path));
    TRY(tune_store(&t->report.tuning, &device, made_by, t->path ? t->path : path));
    print_report(&t->report);
    printf("kept in %s\n", t->path ? t->path : path);
    return OK;
}

err cmd_tune(int argc, char **argv, const char *commit) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            fputs(usage, stdout);
            return OK;
        }
    struct tune *t;
    TRY(NEW(t, 1));
    t->minutes_text = "6";
    t->formats_text = "Q8_0,Q4_K,F16";
    err e = parse(t, argc, argv);
    if (e == OK) e = tune(t, commit);
    free(t);
    return e;
}
