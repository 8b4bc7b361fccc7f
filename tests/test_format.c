/* Number formats: decoding bit by bit against golden files (raw blocks and the
 * floats that an independent decoder made of them), halves exhaustively. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "model/format.h"

#ifndef GOLDEN
#define GOLDEN "tests/golden/formats"
#endif

static void read_golden(const char *name, const char *suffix,
                        struct bytes *out) {
    char path[256];
    snprintf(path, sizeof path, GOLDEN "/%s.%s", name, suffix);
    if (bytes_read_file(out, path) != OK) fail_msg("%s", err_text());
}

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static void check_golden(enum format f) {
    const struct format_info *info = format_info(f);
    struct bytes raw = {0}, expected = {0};
    read_golden(info->name, "bin", &raw);
    read_golden(info->name, "f32", &expected);
    size_t n_blocks = raw.len / info->block_bytes;
    size_t n = n_blocks * info->block_values;
    assert_true(n > 0);
    assert_int_equal(raw.len, n_blocks * info->block_bytes);
    assert_int_equal(expected.len, n * sizeof(float));
    assert_int_equal(format_bytes(f, n), raw.len);
    float *got = malloc(n * sizeof *got);
    assert_non_null(got);
    format_decode(f, raw.data, got, n);
    for (size_t i = 0; i < n; i++) {
        float want;
        memcpy(&want, expected.data + i * sizeof want, sizeof want);
        if (bits_of(got[i]) != bits_of(want) && !(isnan(got[i]) && isnan(want)))
            fail_msg("%s value %zu: %08x (%g), expected %08x (%g)", info->name,
                     i, bits_of(got[i]), (double)got[i], bits_of(want),
                     (double)want);
    }
    free(got);
    bytes_free(&raw);
    bytes_free(&expected);
}

static void test_decode_golden(void **state) {
    (void)state;
    for (int f = 0; f < N_FORMATS; f++)
        if (f != FORMAT_F32) check_golden((enum format)f);
}

/* F32 is itself: any bits, also those of a signalling NaN. */
static void test_decode_f32(void **state) {
    (void)state;
    uint32_t raw[1000];
    float got[1000];
    for (uint32_t i = 0; i < 1000; i++) raw[i] = i * 4294967u;
    raw[1] = 0x7f800001u;
    raw[2] = 0x80000000u;
    format_decode(FORMAT_F32, raw, got, 1000);
    assert_memory_equal(got, raw, sizeof raw);
}

/* A golden file may lack a pattern; every block of small formats is independent,
 * so decoding two blocks at once must equal decoding each. */
static void test_decode_blocks_independent(void **state) {
    (void)state;
    uint8_t raw[2 * 256];
    float both[512], one[256];
    for (size_t i = 0; i < sizeof raw; i++) raw[i] = (uint8_t)(i * 37 + 11);
    for (int f = 0; f < N_FORMATS; f++) {
        const struct format_info *info = format_info((enum format)f);
        size_t n = info->block_values;
        format_decode((enum format)f, raw, both, 2 * n);
        format_decode((enum format)f, raw + info->block_bytes, one, n);
        assert_memory_equal(both + n, one, n * sizeof *one);
    }
}

static void test_half_round_trip(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t back = format_float_to_half(format_half_to_float((uint16_t)h));
        if (back != h) fail_msg("half %04x came back as %04x", h, back);
    }
}

/* The value by its definition, in double arithmetic. */
static void test_half_values(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7c00; h++) {
        int exponent = (int)(h >> 10), fraction = (int)(h & 0x3ff);
        double want = exponent ? ldexp(1024 + fraction, exponent - 25)
                               : ldexp(fraction, -24);
        assert_true((double)format_half_to_float((uint16_t)h) == want);
        assert_true((double)format_half_to_float((uint16_t)(h | 0x8000)) == -want);
    }
    assert_true(isinf(format_half_to_float(0x7c00)));
    assert_true(format_half_to_float(0xfc00) < 0);
    assert_true(isnan(format_half_to_float(0x7c01)));
    assert_int_equal(bits_of(format_half_to_float(0x8000)), 0x80000000u);
}

/* Between two neighbouring halves: below the middle down, above it up, the
 * middle itself to the even one. */
static void test_half_rounding(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 0x7bff; h++) {
        float low = format_half_to_float((uint16_t)h);
        float high = format_half_to_float((uint16_t)(h + 1));
        float middle = (low + high) / 2; /* exact: 12 significant bits */
        uint32_t even = h & 1 ? h + 1 : h;
        assert_int_equal(format_float_to_half(middle), even);
        assert_int_equal(format_float_to_half(nextafterf(middle, low)), h);
        assert_int_equal(format_float_to_half(nextafterf(middle, high)), h + 1);
        assert_int_equal(format_float_to_half(-middle), even | 0x8000);
    }
    assert_int_equal(format_float_to_half(65519.996f), 0x7bff);
    assert_int_equal(format_float_to_half(65520.0f), 0x7c00);
    assert_int_equal(format_float_to_half(INFINITY), 0x7c00);
    assert_int_equal(format_float_to_half(-INFINITY), 0xfc00);
    assert_int_equal(format_float_to_half(1e-30f), 0);
    assert_true((format_float_to_half(NAN) & 0x7fff) > 0x7c00);
}

static void test_names(void **state) {
    (void)state;
    for (int i = 0; i < N_FORMATS; i++) {
        const struct format_info *info = format_info((enum format)i);
        enum format f;
        assert_int_equal(format_from_gguf(info->gguf_type, &f), OK);
        assert_int_equal((int)f, i);
        assert_int_equal(format_from_name(info->name, &f), OK);
        assert_int_equal((int)f, i);
    }
    enum format f;
    assert_int_equal(format_from_name("q4_k", &f), OK);
    assert_int_equal((int)f, FORMAT_Q4_K);
    assert_int_equal(format_from_name("q9_x", &f), ERR_REQUEST);
    assert_non_null(strstr(err_text(), "q9_x"));
    assert_int_equal(format_from_gguf(23, &f), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "IQ4_XS"));
    assert_int_equal(format_from_gguf(39, &f), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "MXFP4"));
    assert_int_equal(format_from_gguf(4000000000u, &f), ERR_UNSUPPORTED);
    assert_non_null(strstr(err_text(), "4000000000"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_decode_golden),
        cmocka_unit_test(test_decode_f32),
        cmocka_unit_test(test_decode_blocks_independent),
        cmocka_unit_test(test_half_round_trip),
        cmocka_unit_test(test_half_values),
        cmocka_unit_test(test_half_rounding),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
