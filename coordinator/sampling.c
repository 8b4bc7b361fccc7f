#include "coordinator/sampling.h"

#include <sys/random.h>

err sampling_draw_seed(uint64_t *out) {
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return err_set(ERR_INTERNAL, "the system gives no random seed; choose one");
    *out = random & ((uint64_t)CONFIG_WHOLE_MAX);
    return OK;
}

err sampling_read_config(const struct config *c, struct sequence_options *out) {
    out->max_tokens = (uint32_t)c->max_tokens;
    out->temperature = (float)c->temperature;
    out->top_k = (uint32_t)c->top_k;
    out->top_p = (float)c->top_p;
    out->min_p = (float)c->min_p;
    out->repeat_penalty = (float)c->repeat_penalty;
    out->presence_penalty = (float)c->presence_penalty;
    out->frequency_penalty = (float)c->frequency_penalty;
    out->seed = c->seed;
    return c->is_set[CONFIG_seed] || c->temperature == 0 ? OK : sampling_draw_seed(&out->seed);
}
