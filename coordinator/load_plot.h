/* A load as a picture: SVG of its own making, one colour per run, without scripts or anything from outside.
 * How times to the first token and between tokens are distributed, and tokens per second over time. */
#ifndef COORDINATOR_LOAD_PLOT_H
#define COORDINATOR_LOAD_PLOT_H

#include "base/err.h"
#include "base/mem.h"
#include "coordinator/load_report.h"

/* Appends the whole file. `title`: any text. */
err load_plot(const char *title, const struct load_summary *runs, size_t n_runs, struct bytes *out);

#endif
