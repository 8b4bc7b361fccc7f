/* Facts: what a job did beside what was forecast of it, for the very steps that it computed: forecasts of a plan are
 * for texts of half the context, these for the texts there were. Plain data; pure. */
#ifndef COORDINATOR_FACTS_H
#define COORDINATOR_FACTS_H

#include <jansson.h>
#include <stdio.h>

#include "coordinator/engine.h"
#include "partition/cost.h"

/* Either may be 0: not known. */
struct fact {
    double forecast, measured;
};

struct rank_facts {
    struct fact decode_s;     /* a step of one row */
    struct fact prefill_s;    /* a step of `rows` rows */
    struct fact load_s;
    struct fact memory_bytes; /* of the process; no forecast where the device has memory of its own */
};

struct facts {
    struct fact decode_per_s;  /* tokens per second of one text */
    struct fact prefill_per_s; /* of all texts */
    struct fact hop_s;        /* mean of a row's hops from stage to stage and back to the first */
    struct fact load_s;
    uint32_t rows;            /* of the steps of several rows, on average; 0: there were none */
    uint32_t n_ranks;
    struct rank_facts *ranks; /* [n_ranks] of the plan */
};

struct facts_request {
    const struct program *program;
    const struct cluster *cluster; /* NULL or without rates: nothing can be forecast */
    const struct plan *plan;
    const struct engine_rank *ranks; /* [plan->n_ranks] */
    uint32_t n_texts, n_prompt, n_written; /* texts that were read together; tokens of each */
    double decode_per_s, prefill_per_s, load_s; /* as measured; decode: of one text alone, 0: there were several */
};

err facts_create(const struct facts_request *r, struct facts **out);
void facts_free(struct facts *f);

/* {decode_tokens_per_s: {forecast, measured}, ..., ranks: [...]}; null for what is not known. NULL: no memory. */
json_t *facts_json(const struct facts *f);
/* A line per rank and one for all: "forecast / measured". */
err facts_print(const struct facts *f, FILE *file);

/* Adds to [{rank, ...}] of a running job what is forecast and measured of each rank, on average of all it did:
 * decode_s, prefill_s (steps of one row; of several, prefill_rows of them), and with forecast_ before the name these,
 * hop_s, load_s and memory_bytes. forecast: NULL where there is none. */
err facts_add(json_t *ranks, const struct plan *plan, const struct engine_rank *figures,
              const struct forecast *forecast);

#endif
