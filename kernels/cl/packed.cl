/* Packed: one block of 32 columns x LPI lanes of a matrix, see model/packed.h.
 *
 * LPI lanes belong to one work-item: 16 (a vector register of a CPU) or 1 (work-items
 * of a GPU side by side). VI, VF: int and float of LPI lanes. The format
 * comes as -D: QUANT_BITS 8, 4 or 2; HIGH_BITS 0, 1 or 2; SCALES one of S_F16,
 * S_K45, S_Q6, S_Q3, S_Q2; OFFSET; HAS_MIN; N_SCALES. */

#if LPI == 16
typedef int16 VI;
typedef float16 VF;
#define LOAD_I(p, i) vload16(0, (global const int *)(p) + (size_t)(i) * 16)
#define LOAD_U8(p, i) convert_int16(vload16(0, (global const uchar *)(p) + (size_t)(i) * 16))
#define LOAD_S8(p, i) convert_int16(vload16(0, (global const char *)(p) + (size_t)(i) * 16))
#define LOAD_HALF(p, i) HALF16((global const ushort *)(p) + (size_t)(i) * 16)
#define TO_F(v) convert_float16(v)
#else
typedef int VI;
typedef float VF;
#define LOAD_I(p, i) (((global const int *)(p))[(size_t)(i) * 16 + lane])
#define LOAD_U8(p, i) ((int)((global const uchar *)(p))[(size_t)(i) * 16 + lane])
#define LOAD_S8(p, i) ((int)((global const char *)(p))[(size_t)(i) * 16 + lane])
#define LOAD_HALF(p, i) HALF1((global const ushort *)(p) + (size_t)(i) * 16 + lane)
#define TO_F(v) ((float)(v))
#endif

#ifdef QUANT_BITS

#if SCALES == S_Q3
#define SCALE_BYTES 16 /* of a block, all lanes */
#else
#define SCALE_BYTES (SCALES == S_F16 && HAS_MIN ? 64 : 32)
#endif

#define N_TERMS (N_SCALES * (1 + HAS_MIN)) /* that a block adds to a sum */

/* Where the sums stand, in a block of activations, that concern the first scale and the second, and times what. */
#if N_SCALES == 2
#define SUM_AT 10
#define SUM_TIMES Q8_SUM_HALF_TIMES
#else
#define SUM_AT 9
#define SUM_TIMES Q8_SUM_TIMES
#endif

/* Where a matrix lies: planes in one buffer. */
struct planes {
    global const uchar *w;
    ulong high_at, scales_at, supers_at;
    uint n_blocks, super_first, n_supers;
};

/* The unsigned quants, four columns a word, in column order: word j = 4j.. */
INLINE void block_quants(const struct planes *p, size_t at, uint lane, VI word[8]) {
    global const uchar *q = p->w + at * (16 * 4 * QUANT_BITS);
#if QUANT_BITS == 8
#pragma unroll
    for (int j = 0; j < 8; j++) word[j] = LOAD_I(q, j);
#elif QUANT_BITS == 4
#pragma unroll
    for (int j = 0; j < 4; j++) {
        VI v = LOAD_I(q, j);
        word[j] = v & 0x0F0F0F0F;
        word[j + 4] = v >> 4 & 0x0F0F0F0F;
    }
#else
#pragma unroll
    for (int j = 0; j < 2; j++) {
        VI v = LOAD_I(q, j);
#pragma unroll
        for (int f = 0; f < 4; f++) word[4 * j + f] = v >> (2 * f) & 0x03030303;
    }
#endif
#if HIGH_BITS == 1
    VI h = LOAD_I(p->w + p->high_at + at * 64, 0);
#pragma unroll
    for (int j = 0; j < 8; j++) word[j] |= (h >> j & 0x01010101) << QUANT_BITS;
#elif HIGH_BITS == 2
#pragma unroll
    for (int j = 0; j < 2; j++) {
        VI h = LOAD_I(p->w + p->high_at + at * 128, j);
#pragma unroll
        for (int f = 0; f < 4; f++) word[4 * j + f] |= (h >> (2 * f) & 0x03030303) << 4;
    }
#endif
}

/* A processor's own prefetching ends at pages, and rests while many rows use a run of blocks: weights are read at
 * memory speed only where a later block is fetched while one is used. */
INLINE void block_fetch(const struct planes *p, size_t at) {
    global const uchar *q = p->w + at * (16 * 4 * QUANT_BITS);
#pragma unroll
    for (int i = 0; i < QUANT_BITS; i++) FETCH(q + 64 * i);
#if HIGH_BITS
    q = p->w + p->high_at + at * (64 * HIGH_BITS);
#pragma unroll
    for (int i = 0; i < HIGH_BITS; i++) FETCH(q + 64 * i);
#endif
    FETCH(p->w + p->scales_at + at * SCALE_BYTES);
}

/* Scale and min / SUM_TIMES of each half block; both exact. Formats with one scale set
 * index 0 only. */
INLINE void block_scales(const struct planes *p, size_t group, uint block, uint lane, VF scale[2], VF least[2]) {
    size_t at = group * p->n_blocks + block;
    uint super = (p->super_first + block) / 8;
    size_t super_at = group * p->n_supers + super;
    global const uchar *s = p->w + p->scales_at, *u = p->w + p->supers_at;
#if SCALES == S_F16
    scale[0] = LOAD_HALF(s, at * (1 + HAS_MIN));
#if HAS_MIN
    least[0] = LOAD_HALF(s, at * 2 + 1) * (1.0f / SUM_TIMES);
#endif
#elif SCALES == S_K45
    scale[0] = LOAD_HALF(u, super_at * 2) * TO_F(LOAD_U8(s, at * 2));
    least[0] = LOAD_HALF(u, super_at * 2 + 1) * TO_F(LOAD_U8(s, at * 2 + 1)) * (-1.0f / SUM_TIMES);
#elif SCALES == S_Q6
    VF d = LOAD_HALF(u, super_at);
    scale[0] = d * TO_F(LOAD_S8(s, at * 2));
    scale[1] = d * TO_F(LOAD_S8(s, at * 2 + 1));
#elif SCALES == S_Q3
    VI low = LOAD_U8(s, at);
    VI high = LOAD_I(u + super_at * 96 + 32, 0) >> (int)((p->super_first + block) % 8 * 4);
    VF d = LOAD_HALF(u + super_at * 96, 0);
    scale[0] = d * TO_F(((low & 15) | (high & 3) << 4) - 32);
    scale[1] = d * TO_F((low >> 4 | (high & 12) << 2) - 32);
#elif SCALES == S_Q2
    VF d = LOAD_HALF(u, super_at * 2), m = LOAD_HALF(u, super_at * 2 + 1);
    VI c0 = LOAD_U8(s, at * 2), c1 = LOAD_U8(s, at * 2 + 1);
    scale[0] = d * TO_F(c0 & 15);
    scale[1] = d * TO_F(c1 & 15);
    least[0] = m * TO_F(c0 >> 4) * (-1.0f / SUM_TIMES);
    least[1] = m * TO_F(c1 >> 4) * (-1.0f / SUM_TIMES);
#endif
}

#else /* dense: one of DENSE_F32, DENSE_F16, DENSE_BF16 is defined */

#if LPI == 16
#define DENSE_AT(c) (((size_t)(c)) * 16)
#if defined(DENSE_F32)
#define DENSE(w, c) vload16(0, (global const float *)(w) + DENSE_AT(c))
#elif defined(DENSE_F16)
#define DENSE(w, c) HALF16((global const ushort *)(w) + DENSE_AT(c))
#else
#define DENSE(w, c) as_float16(convert_uint16(vload16(0, (global const ushort *)(w) + DENSE_AT(c))) << 16)
#endif
#else
#define DENSE_AT(c) (((size_t)(c)) * 16 + lane)
#if defined(DENSE_F32)
#define DENSE(w, c) (((global const float *)(w))[DENSE_AT(c)])
#elif defined(DENSE_F16)
#define DENSE(w, c) HALF1((global const ushort *)(w) + DENSE_AT(c))
#else
#define DENSE(w, c) as_float((uint)((global const ushort *)(w))[DENSE_AT(c)] << 16)
#endif
#endif

#endif
