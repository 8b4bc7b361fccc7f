/* What a device can do at most: chains of products that wait for nothing but themselves, and a plain read. */

#define CHAINS 12 /* enough to fill the units of every device tried, few enough for its registers */

/* n_rounds x CHAINS dots of four 8-bit pairs, in each of LPI lanes, in the form of dot.cl that the device uses. The
 * activations come from a cache and change, so that no dot is left out. */
kernel void peak_dot(global const int *in, uint n_rounds, global int *out) {
    VI acc[CHAINS], w = in[0] + (int)get_global_id(0);
#pragma unroll
    for (int c = 0; c < CHAINS; c++) acc[c] = c;
    for (uint i = 0; i < n_rounds; i++) {
#pragma unroll
        for (int c = 0; c < CHAINS; c++) DOT(acc[c], w, in + (i & 63) * CHAINS + c);
    }
    VI sum = 0;
#pragma unroll
    for (int c = 0; c < CHAINS; c++) sum ^= acc[c];
#if LPI == 16
    vstore16(sum, get_global_id(0), out);
#else
    out[get_global_id(0)] = sum;
#endif
}

/* n_rounds x CHAINS fma, in each of LPI lanes. */
kernel void peak_fma(global const float *in, uint n_rounds, global float *out) {
    VF acc[CHAINS], w = in[0], x = in[1];
#pragma unroll
    for (int c = 0; c < CHAINS; c++) acc[c] = (float)c;
    for (uint i = 0; i < n_rounds; i++) {
#pragma unroll
        for (int c = 0; c < CHAINS; c++) acc[c] = fma(w, acc[c], x);
    }
    VF sum = 0.0f;
#pragma unroll
    for (int c = 0; c < CHAINS; c++) sum += acc[c];
#if LPI == 16
    vstore16(sum, get_global_id(0), out);
#else
    out[get_global_id(0)] = sum;
#endif
}

/* Neighbours read neighbouring 16 bytes; n of them in all. */
kernel void peak_read(global const uint4 *in, uint n, global uint *out) {
    uint4 a = 0, b = 0;
    uint step = get_global_size(0), i = get_global_id(0);
    for (; i + step < n; i += 2 * step) {
        a ^= in[i];
        b ^= in[i + step];
    }
    if (i < n) a ^= in[i];
    a ^= b;
    out[get_global_id(0)] = a.x ^ a.y ^ a.z ^ a.w;
}
