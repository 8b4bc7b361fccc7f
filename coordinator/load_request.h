/* What a load asks for: the n-th request of a seed is always the same, whoever sends it and when. Pure. */
#ifndef COORDINATOR_LOAD_REQUEST_H
#define COORDINATOR_LOAD_REQUEST_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* How requests are made. Ranges are both ends included. */
struct load_spec {
    const char *model; /* NULL: the body names none */
    uint64_t seed;
    uint32_t prompt_tokens[2], answer_tokens[2];
    uint32_t n_shared;      /* tokens in front of every prompt, the same in all, beside prompt_tokens */
    uint32_t ids[2];        /* tokens of prompts are drawn from these */
    int is_text;            /* prompts are words, about a token each, in place of token ids */
    double sampled_share;   /* of requests that are sampled, with a seed of their own; the others are greedy */
    double leaving_share;   /* of clients that leave before their answer ends */
};

struct load_request {
    uint64_t index;
    uint32_t n_prompt, n_answer; /* n_prompt: with the shared ones */
    int is_sampled;
    double leaves; /* in [0, 0.5): while it waits for the first token, [0.5, 1): within the answer; -1: stays */
};

void load_request_make(const struct load_spec *spec, uint64_t index, struct load_request *out);
/* Its body for POST /v1/completions, appended. */
err load_request_body(const struct load_spec *spec, const struct load_request *r, struct bytes *out);

/* Uniform in [0, 1): number `n` of a stream of its own for every (seed, index). */
double load_random(uint64_t seed, uint64_t index, uint64_t n);

#endif
