/* One launch multiplies up to three matrices with the same rows: their groups of
 * output rows stand one after the other in the global range. Of each: the
 * packed planes, where in them (high bits, scales, supers in bytes; the first
 * group), the rows wanted (0: there is none), the result. */
#define PRODUCTS                                                                       \
    global const uchar *w0, global const uchar *w1, global const uchar *w2,            \
        ulong4 at0, ulong4 at1, ulong4 at2, uint4 n_outs,                              \
        global float *out0, global float *out1, global float *out2

#define PRODUCT_NEXT(i, n, unit)                                                       \
    if (out_row >= (n_out + unit - 1) / unit * unit) {                                 \
        out_row -= (n_out + unit - 1) / unit * unit;                                   \
        w = w##i;                                                                      \
        at = at##i;                                                                    \
        n_out = n;                                                                     \
        out = out##i;                                                                  \
    }

/* The product that holds output row `first` of all: w, at, n_out, out, and in it
 * out_row. Each takes whole units of rows. */
#define PRODUCT_FIND_AT(first, unit)                                                   \
    global const uchar *w = w0;                                                        \
    ulong4 at = at0;                                                                   \
    uint n_out = n_outs.x, out_row = first;                                            \
    global float *out = out0;                                                          \
    PRODUCT_NEXT(1, n_outs.y, unit)                                                    \
    PRODUCT_NEXT(2, n_outs.z, unit)

/* That of this work-item. */
#define PRODUCT_FIND PRODUCT_FIND_AT(get_global_id(0) * LPI, 16)
