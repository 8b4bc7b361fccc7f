/* DOT(acc, w, x): acc += the dots of the four unsigned bytes of w, lane by lane,
 * and the four signed bytes of *x. acc, w: VI. DOTS_BEGIN(sum): what dots of unsigned weights begin
 * with, so that their offset is taken back, from the sum of their activations (SUM_TIMES); SUM_FLOAT(x):
 * the sum *x in each lane. Exact, so every form gives the same. One row per device kind (enum dot_form): */
#if defined(DOT_AVX512_VNNI) && LPI == 16
/* The compiler may not know the instruction, the assembler does. */
#define DOT(acc, w, x)                                                                 \
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w), "m"(*(x)))
/* Of two groups of lanes: *x is read once. */
#define DOT_PAIR(acc0, acc1, w0, w1, x)                                                \
    {                                                                                  \
        VI x_;                                                                         \
        __asm__("vpbroadcastd %5, %2\n\tvpdpbusd %2, %3, %0\n\tvpdpbusd %2, %4, %1"    \
                : "+v"(acc0), "+v"(acc1), "=&v"(x_) : "v"(w0), "v"(w1), "m"(*(x)));    \
    }
#define SUM_FLOAT(x) sum_float(x) /* where the compiler takes three or four */
INLINE float16 sum_float(global const int *x) {
    float16 f;
    __asm__("vcvtdq2ps %1%{1to16%}, %0" : "=v"(f) : "m"(*x));
    return f;
}

#elif (defined(DOT_AVX_VNNI) || defined(DOT_AVX2)) && LPI == 16
#ifdef DOT_AVX_VNNI
INLINE int8 dot8(int8 acc, int8 w, int8 x) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(acc) : "x"(w), "x"(x));
    return acc;
}
#else
/* Pairs of products in 16 bits: they hold 127 * 127 * 2, so of eight bits the highest goes
 * its own way. */
INLINE int8 dot8_pairs(int8 acc, int8 w, int8 x, short16 unit) {
    int8 pairs, sums;
    __asm__("vpmaddubsw %2, %1, %0" : "=x"(pairs) : "x"(w), "x"(x));
    __asm__("vpmaddwd %2, %1, %0" : "=x"(sums) : "x"(pairs), "x"(unit));
    return acc + sums;
}

INLINE int8 dot8(int8 acc, int8 w, int8 x) {
#if OFFSET == 128
    acc = dot8_pairs(acc, w >> 7 & 0x01010101, x, (short16)(128));
    w &= 0x7F7F7F7F;
#endif
    return dot8_pairs(acc, w, x, (short16)(1));
}
#endif
#define DOT(acc, w, x)                                                                 \
    {                                                                                  \
        int8 x_ = *(x);                                                                \
        acc.lo = dot8(acc.lo, (w).lo, x_);                                             \
        acc.hi = dot8(acc.hi, (w).hi, x_);                                             \
    }

#elif defined(DOT_DP4A) && LPI == 1
/* NVIDIA, compute capability 6.1; see the PTX reference. */
#define DOT(acc, w, x) __asm__("dp4a.u32.s32 %0, %1, %2, %0;" : "+r"(acc) : "r"(w), "r"(*(x)))

#elif defined(DOT_KHR) && LPI == 1
/* cl_khr_integer_dot_product */
#define DOT(acc, w, x) acc += dot_4x8packed_us_int(as_uint(w), as_uint(*(x)))

#else
#define DOT(acc, w, x)                                                                 \
    {                                                                                  \
        int x_ = *(x);                                                                 \
        acc += ((w) & 255) * (x_ << 24 >> 24) + ((w) >> 8 & 255) * (x_ << 16 >> 24) +  \
               ((w) >> 16 & 255) * (x_ << 8 >> 24) + ((w) >> 24 & 255) * (x_ >> 24);   \
    }
#endif

#if HAS_MIN
#define DOTS_BEGIN(sum) 0
#elif OFFSET < -SUM_TIMES
#define DOTS_BEGIN(sum) ((sum) / (-SUM_TIMES / OFFSET))
#else
#define DOTS_BEGIN(sum) ((sum) * (OFFSET / -SUM_TIMES))
#endif
#ifndef SUM_FLOAT
#define SUM_FLOAT(x) ((VF)((float)*(x)))
#endif
