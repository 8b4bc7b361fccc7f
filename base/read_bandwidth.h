/* How fast the threads of this host read memory: the roof over decoding, which reads
 * each weight once per token. Benchmarks give their figures as a share of it. */
#ifndef BASE_READ_BANDWIDTH_H
#define BASE_READ_BANDWIDTH_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Each of n_threads (0: one per core that this process may use) adds up its own part of a
 * buffer far larger than any cache, again and again for `seconds`. */
err read_bandwidth_measure(uint32_t n_threads, double seconds, double *bytes_per_s);
/* The same in a buffer of at most n_bytes. */
err read_bandwidth_within(size_t n_bytes, uint32_t n_threads, double seconds, double *bytes_per_s);

#endif
