/* Sampling: one token from one row of logits, and log-probabilities.
 *
 * The same row, parameters, seed and position give the same token on every
 * host: sums run in a fixed order, exp and log are polynomials in fma form here,
 * and the random number is Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel
 * random numbers: as easy as 1, 2, 3", SC 2011) of (seed, position), so that a
 * token can be drawn again without any state.
 *
 * Order, as in Hugging Face transformers: edits; temperature 0 takes the largest logit
 * (the lowest id among equals); else the logits are divided by the temperature; top_k keeps
 * the k largest (exactly k: lower ids win ties); top_p keeps the fewest of those, from
 * the largest down, whose probabilities reach top_p of theirs (at least one); min_p keeps those
 * whose probability is at least min_p times the largest's; one is drawn in proportion.
 * (llama.cpp's default chain is the same but divides by the temperature last.)
 * NaN counts as -inf, +inf as the largest float. */
#ifndef NODE_SAMPLE_H
#define NODE_SAMPLE_H

#include <stdint.h>

#include "base/err.h"
#include "node/frame.h"

struct sampler; /* scratch for one vocabulary */

err sampler_create(uint32_t n_vocab, struct sampler **out);
void sampler_free(struct sampler *s);

/* Does what out->flags ask of `logits` [n_vocab], which the edits change in place.
 * `edits` is the step's whole array. `tops` [out->n_top] gets the most probable tokens and result->n_top their
 * number, fewer where the edits leave fewer tokens possible; top_begin is the caller's. Errors: ERR_DEVICE
 * "no finite logit" when the row came without one; ERR_REQUEST when the edits forbade every token, or for a
 * parameter that makes no sense (`result` then says token -1). */
err sample_row(struct sampler *s, const struct step_out *out, const struct step_edit *edits,
               float *logits, struct result_top *tops, struct result_out *result);

/* The generator: 10 rounds over a 128-bit counter with a 64-bit key. */
void sample_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);
/* Uniform in [0, 1), 53 bits, of a seed and a position. */
double sample_uniform(uint64_t seed, uint32_t position);

/* e^x for x <= 0 (0 under -708), and natural log for x > 0 and normal; both to
 * about 1 ulp and the same bits everywhere. */
double sample_exp(double x);
double sample_log(double x);

#endif
