/* Every row of the op table on every OpenCL device at hand, in every form its
 * kernels can be compiled in, against the plain-C reference, byte for byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <cmocka.h>

#include "base/env.h"
#include "kernels/op_table.h"
#include "kernels/tune.h"

static void rows_check(const char *platform, const struct kernel_forms *forms) {
    uint32_t n;
    const struct op_row *rows = op_table(&n);
    struct backend *b;
    if (backend_opencl_forms(platform, forms, &b) != OK) fail_msg("%s: %s", platform, err_text());
    for (uint32_t i = 0; i < n; i++)
        if (op_row_check(&rows[i], b) != OK) fail_msg("%s: %s", platform, err_text());
    b->ops->destroy(b);
}

static void every_device_agrees(void **state) {
    (void)state;
    struct device_description *list;
    uint32_t n;
    assert_int_equal(backend_list(&list, &n), OK);
    assert_true(n > 0);
    for (uint32_t d = 0; d < n; d++) {
        print_message("%s / %s\n", list[d].platform, list[d].name);
        rows_check(list[d].platform, NULL);
    }
    free(list);
}

static void portable_forms_agree(void **state) {
    (void)state;
    struct device_description *list;
    uint32_t n;
    assert_int_equal(backend_list(&list, &n), OK);
    rows_check(list[0].platform, &(struct kernel_forms){.lanes_per_item = 1});
    free(list);
}

/* Products of the formats that differ most: dense, eight bits, minima, three and six bits with two scales. */
static void products_check(const char *platform, const struct kernel_forms *forms) {
    uint32_t n;
    const struct op_row *rows = op_table(&n);
    struct backend *b;
    if (backend_opencl_forms(platform, forms, &b) != OK) fail_msg("%s: %s", platform, err_text());
    for (uint32_t i = 0; i < n; i++) {
        enum format f = rows[i].format;
        if (rows[i].op != OP_LINEAR || (f != FORMAT_Q8_0 && f != FORMAT_Q4_1 && f != FORMAT_Q3_K && f != FORMAT_Q6_K && f != FORMAT_F16))
            continue;
        if (op_row_check(&rows[i], b) != OK) fail_msg("%s: %s", platform, err_text());
    }
    b->ops->destroy(b);
}

/* The x86 dots that this host's processor has, each without the ones above it. */
static void x86_forms_agree(void **state) {
    (void)state;
#if defined(__x86_64__)
    const char *pocl = "Portable Computing Language";
    struct backend *b;
    if (backend_opencl_forms(pocl, NULL, &b) != OK) skip();
    b->ops->destroy(b);
    struct kernel_forms forms = {.lanes_per_item = 16, .has_half = 1};
    products_check(pocl, &forms);
    forms.dot = DOT_AVX2;
    if (__builtin_cpu_supports("avx2")) products_check(pocl, &forms);
    unsigned a, c, d, e;
    forms.dot = DOT_AVX_VNNI;
    if (__get_cpuid_count(7, 1, &a, &c, &d, &e) && a & 1u << 4) products_check(pocl, &forms);
    forms.dot = DOT_AVX512_VNNI;
    if (__builtin_cpu_supports("avx512vnni")) products_check(pocl, &forms);
#endif
}

/* Tunables change how fast, never what: all at their least value, and all at their greatest. */
static void tunables_keep_the_bits(void **state) {
    (void)state;
    uint32_t n;
    const struct op_row *rows = op_table(&n);
    for (int is_greatest = 0; is_greatest < 2; is_greatest++) {
        struct tuning t;
        struct backend *b;
        tune_defaults(&t);
        for (int k = 0; k < N_TUNABLES; k++)
            t.values[k] = tunables[k].values[is_greatest ? tunables[k].n_values - 1 : 0];
        struct kernel_forms forms = {.lanes_per_item = is_greatest ? 16 : 1};
        assert_int_equal(backend_opencl_tuned(NULL, &forms, &t, &b), OK);
        for (uint32_t i = 0; i < n; i++) {
            enum format f = rows[i].format;
            if (f != FORMAT_F32 && f != FORMAT_F16 && f != FORMAT_Q8_0 && f != FORMAT_Q2_K) continue;
            if (op_row_check(&rows[i], b) != OK) fail_msg("%s", err_text());
        }
        b->ops->destroy(b);
    }
}

/* More rows than dense products have scratch for, in pieces. */
static void many_rows_agree(void **state) {
    (void)state;
    const struct op_row pieces = {OP_LINEAR, "pieces", FORMAT_F32, 1100, 3, 2048, 0, 16};
    struct backend *b;
    assert_int_equal(backend_opencl(NULL, &b), OK);
    if (op_row_check(&pieces, b) != OK) fail_msg("%s", err_text());
    b->ops->destroy(b);
}

/* A block with a value that is no number becomes the same block in both forms: no check at start feeds one. */
static void no_number_agrees(void **state) {
    (void)state;
    const struct op_row row = {OP_QUANTIZE, "no number", FORMAT_F32, 3, 96, 96, 0, 0};
    for (uint32_t lanes = 1; lanes <= 16; lanes += 15) {
        struct kernel_forms forms = {.lanes_per_item = lanes};
        struct backend *b;
        assert_int_equal(backend_opencl_forms(NULL, &forms, &b), OK);
        if (op_row_check(&row, b) != OK) fail_msg("%u lanes: %s", lanes, err_text());
        b->ops->destroy(b);
    }
}

/* On PoCL CLBlast adds in the contract's order; were it not so, no device
 * would be found where it may be used. */
static void clblast_keeps_the_bits(void **state) {
    (void)state;
    struct kernel_forms forms = {.lanes_per_item = 16, .has_half = 1, .has_gemm = 1};
    struct backend *b;
    if (backend_opencl_forms("Portable Computing Language", &forms, &b) != OK) skip();
    struct backend_limits limits = {128, 64, 1, 16};
    assert_int_equal(b->ops->prepare(b, &limits), OK);
    uint32_t n;
    const struct op_row *rows = op_table(&n);
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].op == OP_LINEAR && rows[i].n_rows >= 64 && op_row_check(&rows[i], b) != OK)
            fail_msg("%s", err_text());
    b->ops->destroy(b);
}

/* The check must be able to fail: a wrong weight is seen. */
static err flipped_read(void *context, uint64_t row_begin, uint64_t row_end, uint64_t col_begin,
                        uint64_t col_end, void *dst) {
    (void)context;
    size_t n = format_bytes(FORMAT_Q8_0, (size_t)((row_end - row_begin) * (col_end - col_begin)));
    memset(dst, 1, n);
    if (row_begin == 0) ((uint8_t *)dst)[2] ^= 1;
    return OK;
}

static void one_bit_changes_the_result(void **state) {
    (void)state;
    struct backend *b;
    assert_int_equal(backend_reference(&b), OK);
    float result[2][32], x[32];
    for (int i = 0; i < 32; i++) x[i] = 1;
    for (uint64_t k = 0; k < 2; k++) {
        struct matrix_source source = {FORMAT_Q8_0, NULL, flipped_read};
        struct matrix *m;
        struct buffer *in, *q, *out;
        struct tree tree;
        tree_own(1, (struct range){0, 1}, &tree);
        assert_int_equal(matrix_load(b, &source, k, k + 1, 0, 32, &m), OK);
        assert_int_equal(b->ops->buffer_create(b, sizeof x, &in), OK);
        assert_int_equal(b->ops->buffer_create(b, q8_bytes(1, 32), &q), OK);
        assert_int_equal(b->ops->buffer_create(b, 4, &out), OK);
        b->ops->buffer_write(b, in, 0, sizeof x, x);
        b->ops->quantize(b, in, 1, 32, q);
        b->ops->linear(b, &(struct product){m, 0, 1, out}, 1, q, 1, 32, &tree);
        b->ops->buffer_read(b, out, 0, 4, result[k]);
        b->ops->matrix_free(b, m);
        b->ops->buffer_free(b, in);
        b->ops->buffer_free(b, q);
        b->ops->buffer_free(b, out);
    }
    assert_true(memcmp(result[0], result[1], 4) != 0);
    b->ops->destroy(b);
}

/* Flips a byte near the end of every file in `folder`; how many there were. */
static int files_damage(const char *folder) {
    DIR *dir = opendir(folder);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        char path[600];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *f = fopen(path, "r+");
        assert_non_null(f);
        assert_int_equal(fseek(f, -100, SEEK_END), 0);
        int c = fgetc(f);
        assert_int_equal(fseek(f, -100, SEEK_END), 0);
        fputc(c ^ 1, f);
        assert_int_equal(fclose(f), 0);
        n++;
    }
    closedir(dir);
    return n;
}

/* Whether the driver had to compile. */
static int opens_by_compiling(const char *platform) {
    struct backend *b;
    if (backend_opencl(platform, &b) != OK) fail_msg("%s: %s", platform, err_text());
    int keeps_compiler = b->keeps_compiler;
    b->ops->destroy(b);
    return keeps_compiler;
}

/* Programs come from the cache where they are whole, else from their source. */
static void programs_are_kept(void **state) {
    (void)state;
    const char *pocl = "Portable Computing Language"; /* says whether it compiled */
    char folder[] = "/tmp/caravan-test-XXXXXX", programs[64];
    struct backend *b;
    if (backend_opencl(pocl, &b) != OK) skip();
    b->ops->destroy(b);
    assert_non_null(mkdtemp(folder));
    assert_int_equal(env_set("XDG_CACHE_HOME", folder), OK); /* after PoCL chose its own folder */
    snprintf(programs, sizeof programs, "%s/caravan", folder);
    assert_true(opens_by_compiling(pocl));
    assert_false(opens_by_compiling(pocl));
    assert_int_equal(files_damage(programs), 1);
    assert_true(opens_by_compiling(pocl));
    assert_false(opens_by_compiling(pocl));
    char remove_all[100];
    snprintf(remove_all, sizeof remove_all, "rm -rf %s", folder);
    assert_int_equal(system(remove_all), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_device_agrees),
        cmocka_unit_test(portable_forms_agree),
        cmocka_unit_test(x86_forms_agree),
        cmocka_unit_test(tunables_keep_the_bits),
        cmocka_unit_test(many_rows_agree),
        cmocka_unit_test(no_number_agrees),
        cmocka_unit_test(clblast_keeps_the_bits),
        cmocka_unit_test(one_bit_changes_the_result),
        cmocka_unit_test(programs_are_kept), /* last: changes the environment */
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
