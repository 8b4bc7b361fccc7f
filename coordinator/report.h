/* Reports: what a command says about the job, as JSON and as a table. */
#ifndef COORDINATOR_REPORT_H
#define COORDINATOR_REPORT_H

#include <jansson.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "coordinator/engine.h"

/* {stages, shards} and [{rank, host, device, ...}] of a job. `ranks` as from engine_stats. New
 * references; NULL when memory ran out. */
json_t *report_plan(const struct plan *plan);
json_t *report_ranks(const struct plan *plan, const struct engine_rank *ranks);
/* What one rank of a plan would hold. */
json_t *report_cell(const struct program *p, const struct plan_cell *c);
json_t *report_tokens(const int32_t *tokens, size_t n);

/* One JSON object on standard output; takes `root` (NULL: ERR_MEMORY). */
err report_print_json(json_t *root);

/* Who holds what. */
err report_print_plan(const struct program *p, const struct plan *plan, FILE *f);

/* Who held and did what, on standard error. */
err report_print_ranks(const struct plan *plan, const struct engine_rank *ranks);

#endif
