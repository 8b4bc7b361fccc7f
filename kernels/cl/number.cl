/* Numbers: the transcendental functions of every op, in explicit fma form, so
 * that each device and the plain-C reference give the same bits. This text is
 * compiled by both: REAL and INT are a type pair (float/int, float16/int16),
 * AS_REAL, AS_INT their bits, NUMBER(name) the function's name. */

/* e^x. Below -80 it is 0, above 80 it is e^80: no result is denormal or
 * infinite. Degree-7 Taylor series of the remainder, |error| < 2 ulp. */
NUMBER_FUNCTION REAL NUMBER(exp)(REAL x) {
    REAL c = fmin(fmax(x, -80.0f), 80.0f);
    REAL near = c * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to an integer, which stays in the low bits */
    REAL n = near - 12582912.0f;
    REAL r = fma(n, -0.693145752f, c); /* ln 2 in two parts */
    r = fma(n, -1.42860677e-6f, r);
    REAL p = fma(r, 1.98412698e-4f, 1.38888889e-3f);
    p = fma(p, r, 8.33333333e-3f);
    p = fma(p, r, 4.16666667e-2f);
    p = fma(p, r, 1.66666667e-1f);
    p = fma(p, r, 0.5f);
    p = fma(p, r, 1.0f);
    p = fma(p, r, 1.0f);
    p = p * AS_REAL((AS_INT(near) - 0x4B400000 + 127) << 23);
    return x < -80.0f ? (REAL)(0.0f) : p;
}

/* 1 / d for d in (1e-38, 1e38): a guess from the bits, four Newton steps, written out: compilers left the loop. */
NUMBER_FUNCTION REAL NUMBER(recip)(REAL d) {
    REAL y = AS_REAL(0x7EF311C7 - AS_INT(d));
    y = fma(y, fma(-d, y, 1.0f), y);
    y = fma(y, fma(-d, y, 1.0f), y);
    y = fma(y, fma(-d, y, 1.0f), y);
    return fma(y, fma(-d, y, 1.0f), y);
}

/* 1 / sqrt(d), likewise. */
NUMBER_FUNCTION REAL NUMBER(rsqrt)(REAL d) {
    REAL y = AS_REAL(0x5F3759DF - (AS_INT(d) >> 1));
    REAL h = 0.5f * d;
    y = fma(y, fma(-h * y, y, 0.5f), y);
    y = fma(y, fma(-h * y, y, 0.5f), y);
    y = fma(y, fma(-h * y, y, 0.5f), y);
    return fma(y, fma(-h * y, y, 0.5f), y);
}

/* x, but +0 for -0: compilers that drop "+ 0" leave the sign of a zero open.
 * By integers, so that they leave this alone. */
NUMBER_FUNCTION REAL NUMBER(unsigned_zero)(REAL x) {
    return AS_REAL((AS_INT(x) & 0x7FFFFFFF) == 0 ? (AS_INT(x) & 0x7FFFFFFF) : AS_INT(x));
}

/* x * sigmoid(x). */
NUMBER_FUNCTION REAL NUMBER(silu)(REAL x) {
    return x * NUMBER(recip)(1.0f + NUMBER(exp)(-x));
}

/* GELU, tanh form (Hendrycks and Gimpel 2016): x/2 (1 + tanh u)
 * = x (1 - 1 / (1 + e^2u)), u = sqrt(2/pi) (x + 0.044715 x^3). */
NUMBER_FUNCTION REAL NUMBER(gelu_tanh)(REAL x) {
    REAL u = 0.797884561f * fma(0.044715f * x * x, x, x);
    return x * (1.0f - NUMBER(recip)(1.0f + NUMBER(exp)(2.0f * u)));
}
