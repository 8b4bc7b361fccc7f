/* Whole rows: sums of partial results, norms.
 *
 * A row is added in 64 lanes, which then are halved: lane l adds the values i
 * with i % 64 == l, in order. ROW_ITEMS work-items share a row: one that has
 * all lanes in four vectors, or 64 with a lane each. */

#define LANES 64 /* part of the result, not a tunable */

#if LPI == 16
#define ROW_ITEMS 1
#define VECTORS 4 /* of a work-item */
#define ROW_LANES local float *lanes = 0;
typedef float16 VR;
#define LOAD(x, i, n) load16(x, i, n)
#define STORE(v, x, i, n) store16(v, x, i, n)
#else
#define ROW_ITEMS 64
#define VECTORS 1
#define ROW_LANES local float lanes[LANES];
typedef float VR;
#define LOAD(x, i, n) ((x)[i])
#define STORE(v, x, i, n) (x)[i] = (v)
#endif

/* Runs the code for each vector of the row that is this work-item's: `i` its first value. */
#define EACH_VECTOR(...)                                                               \
    for (uint at = get_local_id(0) * LPI; at < width; at += LANES)                     \
        _Pragma("unroll") for (int k = 0; k < VECTORS; k++) {                          \
            uint i = at + k * LPI;                                                     \
            if (i < width) { __VA_ARGS__ }                                             \
        }

/* The sum of all lanes, the same in each work-item of the row. After it all see what any wrote. */
INLINE float lanes_add(VR lane[VECTORS], local float *lanes) {
#if LPI == 16
    float16 a = (lane[0] + lane[2]) + (lane[1] + lane[3]);
#else
    barrier(CLK_LOCAL_MEM_FENCE); /* the sum before has been read */
    lanes[get_local_id(0)] = lane[0];
    barrier(CLK_LOCAL_MEM_FENCE | CLK_GLOBAL_MEM_FENCE);
    float16 a = (vload16(0, lanes) + vload16(2, lanes)) + (vload16(1, lanes) + vload16(3, lanes));
#endif
    float8 b = a.lo + a.hi;
    float4 c = b.lo + b.hi;
    float2 d = c.lo + c.hi;
    return d.x + d.y;
}

/* x - mean; beyond the row's end 0, which adds nothing. */
INLINE VR centred(global const float *x, uint i, uint width, float mean) {
#if LPI == 16
    if (i + 16 > width) {
        int16 at = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) + (int)i;
        return at < (int)width ? load16(x, i, width) - mean : (float16)(0.0f);
    }
#endif
    return LOAD(x, i, width) - mean;
}

/* The last sums of a tree: leaf after leaf `stride` values apart. */
INLINE VR tree_sum(global const float *leaves, size_t stride, ulong merges, uint n_leaves, uint i, uint width) {
    VR stack[TREE_DEPTH];
    uint depth = 0;
    for (uint leaf = 0; leaf < n_leaves; leaf++) {
        stack[depth++] = LOAD(leaves + leaf * stride, i, width);
        for (uint m = merges >> (4 * leaf) & 15; m > 0; m--) {
            depth--;
            stack[depth - 1] += stack[depth];
        }
    }
    return stack[0];
}

/* struct row_sum of kernels/backend.h, a work-group per row: v = tree over `leaves` + vector + x
 * into `sum`, then its norm. What is NULL is left out. */
kernel void sum_rows(
    global const float *leaves, ulong merges, uint n_leaves, global const float *vector,
    global const float *x, global float *sum, uint width, uint n_rows, int is_layer, float eps, float over_width,
    global const float *w, global const float *b, global float *out, global int *q8 ITEM_PARAMS) {
    ROW_LANES
    size_t row = get_global_id(0) / ROW_ITEMS, row_at = row * width, stride = n_rows * (size_t)width;
    if (sum) {
        sum += row_at;
        EACH_VECTOR(
            VR f = leaves ? tree_sum(leaves + row_at, stride, merges, n_leaves, i, width) : (VR)(0.0f);
            if (vector && leaves) f += LOAD(vector, i, width);
            else if (vector) f = LOAD(vector, i, width);
            STORE(x ? LOAD(x + row_at, i, width) + f : f, sum, i, width);
        )
    }
    if (!w) return;
    global const float *v = sum ? sum : x + row_at;
    VR lane[VECTORS];
    float mean = 0.0f;
    if (is_layer) {
        for (int k = 0; k < VECTORS; k++) lane[k] = 0.0f;
        EACH_VECTOR(lane[k] += LOAD(v, i, width);)
        mean = lanes_add(lane, lanes) * over_width;
    }
    for (int k = 0; k < VECTORS; k++) lane[k] = 0.0f;
    EACH_VECTOR(VR c = centred(v, i, width, mean); lane[k] = fma(c, c, lane[k]);)
    float scale = number_rsqrt(lanes_add(lane, lanes) * over_width + eps);
    if (out) out += row_at;
    if (q8) q8 += row_at / 32 * Q8_WORDS;
    for (uint i = get_local_id(0) * 32 * ITEM_BLOCKS; i < width; i += ROW_ITEMS * 32 * ITEM_BLOCKS) {
        float16 n[2 * ITEM_BLOCKS];
        for (uint k = 0; k < 2 * ITEM_BLOCKS; k++) {
            n[k] = (load16(v, i + 16 * k, width) - mean) * scale * load16(w, i + 16 * k, width);
            if (b) n[k] += load16(b, i + 16 * k, width);
        }
        store_blocks(n, i, width, out, q8);
    }
}

/* A work-item per ITEM_BLOCKS blocks of 32, n blocks in all. */
kernel void quantize(global const float *in, global int *out, uint n ITEM_PARAMS) {
    size_t i = get_global_id(0) * ITEM_BLOCKS;
    if (i >= n) return;
    float16 x[2 * ITEM_BLOCKS];
    for (size_t k = 0; k < 2 * ITEM_BLOCKS; k++) x[k] = load16(in, 32 * i + 16 * k, (size_t)n * 32);
    quantize_blocks(x, n - (uint)i, out + i * Q8_WORDS);
}

#undef LANES
#undef LOAD
#undef STORE
