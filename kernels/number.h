/* Numbers for the plain-C reference: the same text that devices compile. */
#ifndef KERNELS_NUMBER_H
#define KERNELS_NUMBER_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float number_as_float(int32_t i) {
    float f;
    memcpy(&f, &i, sizeof f);
    return f;
}

static inline int32_t number_as_int(float f) {
    int32_t i;
    memcpy(&i, &f, sizeof i);
    return i;
}

#define NUMBER_FUNCTION static inline __attribute__((unused))
#define NUMBER(name) number_##name
#define REAL float
#define AS_REAL(i) number_as_float(i)
#define AS_INT(f) number_as_int(f)
#define fma(a, b, c) fmaf(a, b, c)
#define fmin(a, b) fminf(a, b)
#define fmax(a, b) fmaxf(a, b)
#include "kernels/cl/number.cl"
#undef fma
#undef fmin
#undef fmax
#undef REAL
#undef AS_REAL
#undef AS_INT
#undef NUMBER

#endif
