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

/* One work-item per block of 32, n blocks in all. A block of q8 is 12 words:
 * 32 int8, the f32 scale, the sum of all, the sum of the second 16, one unused. */
kernel void quantize(global const float *in, global int *out, uint n) {
    size_t i = get_global_id(0);
    if (i >= n) return;
    global const float *x = in + i * 32;
    global int *block = out + i * 12;
    global char *q = (global char *)block;
    float top = 0.0f;
    for (int k = 0; k < 32; k++) top = fmax(top, fabs(x[k]));
    int is_zero = !(top > 1e-20f); /* also keeps every product normal */
    float inverse = is_zero ? 0.0f : 127.0f * number_recip(top);
    int sum[2] = {0, 0};
    for (int k = 0; k < 32; k++) {
        float v = fmin(fmax(rint(x[k] * inverse), -127.0f), 127.0f);
        q[k] = (char)v;
        sum[k / 16] += (int)v;
    }
    block[8] = as_int(is_zero ? 0.0f : top * (1.0f / 127));
    block[9] = sum[0] + sum[1];
    block[10] = sum[1];
    block[11] = 0;
}
