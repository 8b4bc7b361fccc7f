/* How tokens of an answer are chosen, where the configuration says it: `generate` and `chat` alike. */
#ifndef COORDINATOR_SAMPLING_H
#define COORDINATOR_SAMPLING_H

#include <stdint.h>

#include "base/config.h"
#include "base/err.h"
#include "coordinator/sequence.h"

/* Fills the fields of `out` that keys of CONFIG_SAMPLING stand for. The seed, where none is set and one is
 * needed, is drawn. */
err sampling_read_config(const struct config *c, struct sequence_options *out);

/* A random seed, such as --seed takes. */
err sampling_draw_seed(uint64_t *out);

#endif
