/* Numerics: whether a job keeps the promise of the same bits (`numerics`), and what may be rounded where it does not
 * (`payload`). Pure. */
#ifndef COORDINATOR_NUMERICS_H
#define COORDINATOR_NUMERICS_H

#include "base/config.h"
#include "node/frame.h"

/* Checks the two keys; how partial sums travel between hosts. */
err numerics_choose(const struct config *c, enum payload *out);

/* "reproducible", or "fast (f16 between hosts)": for reports. In one buffer of this thread. */
const char *numerics_text(const struct config *c);

#endif
