/* Time: monotonic, and sleeping. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

/* Microseconds of a clock that never goes back. */
int64_t clock_us(void);

/* The same in seconds. */
double clock_s(void);

void clock_sleep_us(int64_t us);

#endif
