/* Peers: other programs that run the same model, how they are called and what they print. Pure functions. */
#ifndef COORDINATOR_PEER_H
#define COORDINATOR_PEER_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Tokens per second of one run. */
struct peer_speed {
    double prefill, decode;
};

/* Standard output of `llama-bench -p n_prompt -n n_tokens -o json`. `version`: its commit and build number.
 * ERR_FORMAT says what is missing. */
err peer_parse_llama_bench(const char *out, uint32_t n_prompt, uint32_t n_tokens, struct peer_speed *speed,
                           char *version, size_t cap);

/* Standard output of `dllama inference`: the figures at its end, or, where there are none, the sums of
 * its lines per step. *n_prompt: tokens that it read. */
err peer_parse_dllama(const char *out, struct peer_speed *speed, uint32_t *n_prompt);

/* Standard output of `caravan bench generate --json` with one grid and one prompt. */
err peer_parse_caravan(const char *out, struct peer_speed *speed, char *device, size_t cap);

#endif
