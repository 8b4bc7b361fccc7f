/* Ops on rows: norms, and the quantisation of activations. */

#define LANES 64 /* partial sums of a row; part of the result, not a tunable */

float lanes_add(float *lane) {
    for (int half_lanes = LANES / 2; half_lanes > 0; half_lanes /= 2)
        for (int l = 0; l < half_lanes; l++) lane[l] += lane[l + half_lanes];
    return lane[0];
}

/* One work-item per vector of `width`. Lane l adds the values i with
 * i % 64 == l in order, then the lanes are halved. is_layer: minus the mean. */
kernel void norm(int is_layer, float eps, global const float *in, global const float *w,
                 global const float *b, int has_bias, uint width, float over_width,
                 global float *out) {
    size_t v = get_global_id(0);
    global const float *x = in + v * width;
    global float *y = out + v * width;
    float lane[LANES];
    float mean = 0.0f;
    uint whole = width / LANES * LANES;
    if (is_layer) {
        for (int l = 0; l < LANES; l++) lane[l] = 0.0f;
        for (uint i = 0; i < whole; i += LANES)
            for (int l = 0; l < LANES; l++) lane[l] += x[i + l];
        for (uint i = whole; i < width; i++) lane[i - whole] += x[i];
        mean = lanes_add(lane) * over_width;
    }
    for (int l = 0; l < LANES; l++) lane[l] = 0.0f;
    for (uint i = 0; i < whole; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] = fma(x[i + l] - mean, x[i + l] - mean, lane[l]);
    for (uint i = whole; i < width; i++)
        lane[i - whole] = fma(x[i] - mean, x[i] - mean, lane[i - whole]);
    float scale = number_rsqrt(lanes_add(lane) * over_width + eps);
    for (uint i = 0; i < width; i++) {
        float n = (x[i] - mean) * scale * w[i];
        y[i] = has_bias ? n + b[i] : n;
    }
}

float highest16(float16 v) {
    float8 a = fmax(v.lo, v.hi);
    float4 b = fmax(a.lo, a.hi);
    float2 c = fmax(b.lo, b.hi);
    return fmax(c.x, c.y);
}

int sum16(int16 v) {
    int8 a = v.lo + v.hi;
    int4 b = a.lo + a.hi;
    int2 c = b.lo + b.hi;
    return c.x + c.y;
}

/* One work-item per block of 32, n blocks in all. A block of q8 is 12 words:
 * 32 int8, the f32 scale, the sum of all, the sum of the second 16, one unused. */
kernel void quantize(global const float *in, global int *out, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    float16 x0 = vload16(2 * i, in), x1 = vload16(2 * i + 1, in);
    global int *block = out + i * 12;
    float top = highest16(fmax(fabs(x0), fabs(x1)));
    int is_zero = !(top > 1e-20f); /* also keeps every product normal */
    float inverse = is_zero ? 0.0f : 127.0f * number_recip(top);
    int16 q0 = convert_int16(fmin(fmax(rint(x0 * inverse), -127.0f), 127.0f));
    int16 q1 = convert_int16(fmin(fmax(rint(x1 * inverse), -127.0f), 127.0f));
    vstore16(convert_char16(q0), 0, (global char *)block);
    vstore16(convert_char16(q1), 1, (global char *)block);
    int second = sum16(q1);
    block[8] = as_int(is_zero ? 0.0f : top * (1.0f / 127));
    block[9] = sum16(q0) + second;
    block[10] = second;
    block[11] = 0;
}
