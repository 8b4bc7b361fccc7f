/* f16 to float. Some devices lose denormals in their own conversion: then by
 * integers (INTEGER_HALF). */
INLINE float half_by_integers(ushort h) {
    uint sign = (uint)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023;
    if (e == 0) { /* m * 2^-24, exact in normal floats */
        float f = (float)(int)m * 5.9604644775390625e-8f;
        return as_float(as_uint(f) | sign);
    }
    return as_float(sign | (e == 31 ? 0x7F800000u : (e + 112) << 23) | m << 13);
}
#ifdef INTEGER_HALF
#define HALF1(p) half_by_integers(*(p))
INLINE float16 half16_by_integers(global const ushort *p) {
    float f[16];
    for (int i = 0; i < 16; i++) f[i] = half_by_integers(p[i]);
    return vload16(0, f);
}
#define HALF16(p) half16_by_integers(p)
#else
#define HALF1(p) vload_half(0, (global const half *)(p))
#if defined(DOT_AVX512_VNNI) && LPI == 16
/* In one instruction, where the compiler takes three. */
INLINE float16 half16_by_assembly(global const ushort *p) {
    float16 f;
    __asm__("vcvtph2ps %1, %0" : "=v"(f) : "m"(*(global const ushort16 *)p));
    return f;
}
#define HALF16(p) half16_by_assembly(p)
#else
#define HALF16(p) vload_half16(0, (global const half *)(p))
#endif
#endif
