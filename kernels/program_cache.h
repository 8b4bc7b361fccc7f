/* Program cache: compiled programs as files of the user, so that a driver's compiler is not even loaded
 * where nothing changed. One file per device, driver, options and source, named by their hash. Private to
 * kernels/. */
#ifndef KERNELS_PROGRAM_CACHE_H
#define KERNELS_PROGRAM_CACHE_H

#include "kernels/device.h"

/* The built program, or NULL: not there, not ours, damaged, or refused by the driver. */
cl_program program_cache_get(const struct device *d, const char *options, const struct bytes *source);

/* Keeps a built program. What fails here is only slower the next time. */
void program_cache_put(const struct device *d, const char *options, const struct bytes *source,
                       cl_program program);

#endif
