/* What a device can do at most, measured by small kernels on it: the roofs that benchmarks show shares of. */
#ifndef KERNELS_PEAK_H
#define KERNELS_PEAK_H

#include <stdint.h>

#include "kernels/backend.h"

struct peak {
    double int8_per_s; /* additions and multiplications of 8-bit dot products, in the form the device uses */
    const char *int8_form; /* "AVX512-VNNI", "portable", ...; Intel AMX is another unit, and reaches more */
    double f32_per_s;      /* of f32 fma: two each */
    double read_per_s;     /* bytes of a large buffer */
};

/* The device as backend_opencl() finds it; opened for this alone. The best of short runs. */
err peak_measure(const char *substring, struct peak *out);
/* Means over mean_s seconds each: under a quota of processor time short runs show more than lasts. Of a CPU
 * read_per_s stays 0: base/read_bandwidth.h knows better. */
err peak_sustained(const struct device_choice *c, double mean_s, struct peak *out);

#endif
