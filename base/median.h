/* Median of a few measurements. */
#ifndef BASE_MEDIAN_H
#define BASE_MEDIAN_H

#include <stddef.h>

/* Sorts values [n], the least first, and gives the one in the middle, of an even number the mean of two; n > 0. */
double median_of(double *values, size_t n);

#endif
