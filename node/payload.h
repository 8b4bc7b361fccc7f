/* Payload: how floats travel from host to host. As they are; or, where numerics = fast gives up the promise of
 * the same bits, rounded to f16 (saturated at 65504) or to 8 bits, each 32 values with a scale of their own.
 * Pure functions. */
#ifndef NODE_PAYLOAD_H
#define NODE_PAYLOAD_H

#include <stddef.h>
#include <stdint.h>

#define PAYLOAD_LIST(X) X(F32, "f32") X(F16, "f16") X(INT8, "int8")

enum payload {
#define PAYLOAD_ENUM(id, name) PAYLOAD_##id,
    PAYLOAD_LIST(PAYLOAD_ENUM)
#undef PAYLOAD_ENUM
    N_PAYLOADS
};

#define PAYLOAD_BLOCK 32 /* values that share a scale */

extern const char *const payload_names[N_PAYLOADS];
/* By name; 0 where there is none of it. */
int payload_find(const char *name, enum payload *out);

size_t payload_bytes(enum payload p, size_t n);
/* `out` [payload_bytes(p, n)], at a multiple of 4 bytes. */
void payload_encode(enum payload p, const float *in, size_t n, void *out);
/* Values [begin, begin + n) of what was encoded; begin is a multiple of PAYLOAD_BLOCK. */
void payload_decode(enum payload p, const void *in, size_t begin, size_t n, float *out);

#endif
