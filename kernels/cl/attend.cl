/* Attention over the paged KV cache, see kernels/backend.h for its layout.
 *
 * The cache is walked in chunks of CHUNK positions, counted from position 0;
 * each (row, head, chunk) gives a partial: highest score, sum of weights, the weighted
 * values. A second kernel adds the partials of a row in increasing order. So
 * prefill and decode, and every cut, add in one order. Where the step has one chunk only, the
 * first kernel ends it, too.
 *
 * A query is a row and one of its heads. Up to QUERIES of them that read the same KV head,
 * of one row or of neighbouring rows of a sequence, share each load of the cache. attend_wide.cl
 * has the kernels for devices that want vectors, attend_lanes.cl for those that make vectors of
 * their work-items; both take the same arguments. KV_F16 or not. */

#define BLOCK 32
#define CHUNK_BLOCKS (CHUNK / BLOCK)
#define CONCAT_(a, b) a##b
#define CONCAT(a, b) CONCAT_(a, b)

#ifdef KV_F16
typedef ushort KV;
#define KV_LOAD16(p) HALF16(p)
#define KV_LOAD(p) HALF1(p)
#else
typedef float KV;
#define KV_LOAD16(p) vload16(0, p)
#define KV_LOAD(p) (*(p))
#endif

/* A block and head of K, or of V, is a page or two: too short for a CPU to see in time where reading
 * goes on. So 32 values are fetched early, by ATTEND_FETCH_BLOCKS; 0: never. */
#if ATTEND_FETCH_BLOCKS == 0
#define FETCH32(p)
#elif defined(KV_F16)
#define FETCH32(p) FETCH(p)
#else
#define FETCH32(p)                                                                     \
    {                                                                                  \
        FETCH(p);                                                                      \
        FETCH((p) + 16);                                                               \
    }
#endif

/* As vstore16, which PoCL's compiler cuts in three; values stand where floats may. */
typedef float16 floats16 __attribute__((aligned(4)));
#define STORE16(v, p) (*(floats16 *)(p) = (v))

/* float to f16, to nearest even, by integers: exact on every device. */
#if LPI == 16
INLINE ushort16 half16_from(float16 f) {
    uint16 u = as_uint16(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFF;
    uint16 normal = (a + 0xFFF + (a >> 13 & 1) - 0x38000000) >> 13;
    uint16 small = as_uint16(as_float16(a) + 0.5f) - 0x3F000000; /* denormal or zero, in steps of 2^-24 */
    uint16 large = a > 0x7F800000 ? (uint16)(0x7E00) : (uint16)(0x7C00);
    return convert_ushort16(sign | (a >= 0x47800000 ? large : a < 0x38800000 ? small : normal));
}
INLINE ushort half_from(float f) { return half16_from((float16)(f)).s0; }
#else
INLINE ushort half_from(float f) {
    uint u = as_uint(f), sign = u >> 16 & 0x8000, a = u & 0x7FFFFFFF;
    if (a >= 0x47800000) return (ushort)(sign | (a > 0x7F800000 ? 0x7E00 : 0x7C00));
    if (a < 0x38800000) { /* denormal or zero: a multiple of 2^-24 */
        uint e = a >> 23;
        if (e < 102) return (ushort)sign;
        uint m = (a & 0x7FFFFF) | 0x800000, shift = 126 - e;
        uint low = m & ((1u << shift) - 1), tie = 1u << (shift - 1);
        m >>= shift;
        return (ushort)(sign | (m + (low > tie || (low == tie && (m & 1)))));
    }
    uint r = a + 0xFFF + (a >> 13 & 1);
    return (ushort)(sign | (r - 0x38000000) >> 13);
}
#endif

/* The positions that a row sees: [x, y). */
INLINE uint2 row_sees(int position, uint window) {
    uint end = position + 1;
    return (uint2)(window && end > window ? end - window : 0, end);
}

/* The local query heads of part `part` of a KV head, at most `cap`: [x, y). A cell's first and last KV
 * head may serve fewer heads here than in the model. */
INLINE uint2 part_heads(uint kv_head, uint part, uint cap, uint n_heads, uint head_begin, uint group) {
    uint begin = max(kv_head * group, head_begin), end = min((kv_head + 1) * group, head_begin + n_heads);
    uint first = begin + part * cap;
    return first < end ? (uint2)(first, min(first + cap, end)) - head_begin : (uint2)(0, 0);
}
