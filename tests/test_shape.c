/* Shapes: a described model makes the program that its file would make; what is wrong is named with its line. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "model/shape.h"
#include "partition/plan.h"
#include "tests/libconfig_file.h"

static err read_bytes(const char *text, size_t n, struct shape **out) {
    write_bytes(text, n);
    err e = shape_read(path, out);
    unlink(path);
    return e;
}

static void expect_bad(const char *text, const char *line, const char *said) {
    struct shape *s = NULL;
    check_said(text, read_bytes(text, strlen(text), &s), line, said);
    assert_null(s);
}

static struct shape *good(const char *text) {
    struct shape *s = NULL;
    if (read_bytes(text, strlen(text), &s) != OK) fail_msg("%s", err_text());
    return s;
}

/* The model of a file described in the same words: every size, weight and op is the same. */
static void expect_same_program(const char *text, const char *file) {
    struct shape *s = good(text);
    struct gguf *g;
    struct program *real;
    const struct program *p = shape_program(s);
    assert_int_equal(gguf_open(file, &g), OK);
    assert_int_equal(program_create(g, &real), OK);
    for (int a = 0; a < N_AXES; a++) {
        assert_int_equal(p->axes[a].size, real->axes[a].size);
        assert_int_equal(p->axes[a].n_segments, real->axes[a].n_segments);
    }
    assert_int_equal(p->n_context, real->n_context);
    assert_int_equal(p->kv_format, real->kv_format);
    assert_int_equal(p->n_ops, real->n_ops);
    for (uint32_t i = 0; i < p->n_ops; i++) {
        assert_int_equal(p->ops[i].kind, real->ops[i].kind);
        assert_int_equal(p->ops[i].layer, real->ops[i].layer);
        assert_int_equal(p->ops[i].weight[0], real->ops[i].weight[0]);
    }
    assert_int_equal(p->n_weights, real->n_weights);
    for (uint32_t i = 0; i < p->n_weights; i++) {
        const struct weight *w = &p->weights[i], *r = &real->weights[i];
        assert_string_equal(w->name, r->name);
        assert_int_equal(w->rows, r->rows);
        assert_int_equal(w->cols, r->cols);
        if (!w->is_vector) assert_int_equal(w->tensor->format, r->tensor->format);
        if (!w->is_vector) assert_int_equal(w->tensor->n_bytes, r->tensor->n_bytes);
    }
    struct plan *mine, *its;
    for (uint32_t stages = 1; stages <= 2; stages++) {
        struct plan_request r = {.n_stages = stages, .n_shards = 2, .context = p->n_context, .rows_max = 16};
        assert_int_equal(plan_create(p, &r, &mine), OK);
        assert_int_equal(plan_create(real, &r, &its), OK);
        for (uint32_t i = 0; i < mine->n_ranks; i++) {
            assert_true(mine->cells[i].weight_bytes == its->cells[i].weight_bytes);
            assert_true(mine->cells[i].kv_bytes == its->cells[i].kv_bytes);
            assert_true(mine->cells[i].work_bytes == its->cells[i].work_bytes);
        }
        plan_free(mine);
        plan_free(its);
    }
    program_free(real);
    gguf_close(g);
    shape_free(s);
}

static void test_same_as_file(void **state) {
    (void)state;
    expect_same_program("name = \"demo\"; architecture = \"llama\"; format = \"Q8_0\"; layers = 8; dim = 256; heads = 8;\n"
                        "kv_heads = 4; ff = 768; vocab = 8192; context = 1024; tied = true;", "models/demo.gguf");
}

static uint64_t parameters(const struct shape *s) {
    uint64_t sum = 0;
    const struct gguf *g = shape_gguf(s);
    for (size_t i = 0; i < gguf_n_tensors(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        sum += t->dims[0] * t->dims[1] * t->dims[2];
    }
    return sum;
}

/* The parameters of the shapes that come with the program, as published or announced in the file. */
static void test_shipped(void **state) {
    (void)state;
    static const struct { const char *file; double billions; uint32_t layers; } shipped[] = {
        {"configs/shapes/llama-3-70b.cfg", 70.55, 80},
        {"configs/shapes/llama-3.1-405b.cfg", 405.85, 126},
        {"configs/shapes/moe-1.8t.cfg", 1800, 120},
    };
    for (size_t i = 0; i < sizeof shipped / sizeof *shipped; i++) {
        struct shape *s = NULL;
        if (shape_read(shipped[i].file, &s) != OK) fail_msg("%s", err_text());
        double found = (double)parameters(s) / 1e9;
        if (found < shipped[i].billions * 0.999 || found > shipped[i].billions * 1.001)
            fail_msg("%s: %.2f billion parameters", shipped[i].file, found);
        assert_int_equal(shape_program(s)->n_layers, shipped[i].layers);
        shape_free(s);
    }
}

#define SIZES "layers = 2; dim = 256; heads = 8; ff = 512; vocab = 1000; context = 2048;\n"

static void test_architectures(void **state) {
    (void)state;
    struct shape *s = good("architecture = \"qwen2\"; format = \"Q4_K\";\n" SIZES);
    assert_non_null(gguf_find_tensor(shape_gguf(s), "blk.1.attn_k.bias"));
    uint32_t n_biases = 0;
    for (uint32_t i = 0; i < shape_program(s)->n_ops; i++) n_biases += shape_program(s)->ops[i].kind == OP_BIAS;
    assert_int_equal(n_biases, 6);
    shape_free(s);
    s = good("architecture = \"qwen3\"; head_dim = 64; kv_heads = 2; format = \"Q4_K\";\n" SIZES);
    assert_int_equal(shape_program(s)->axes[AXIS_HEADS].size, 512);
    assert_int_equal(shape_program(s)->axes[AXIS_KV].size, 128);
    shape_free(s);
    s = good("architecture = \"gpt2\"; format = \"F16\"; tied = true;\n" SIZES);
    assert_int_equal(shape_program(s)->kv_format, FORMAT_F32);
    assert_null(gguf_find_tensor(shape_gguf(s), "output.weight"));
    shape_free(s);
}

static const struct weight *weight_named(const struct program *p, const char *name) {
    for (uint32_t i = 0; i < p->n_weights; i++)
        if (strcmp(p->weights[i].name, name) == 0) return &p->weights[i];
    fail_msg("no weight %s", name);
    return NULL;
}

static void test_formats(void **state) {
    (void)state;
    struct shape *s = good("architecture = \"llama\"; format = \"Q4_K\"; formats = { head = \"Q6_K\"; attention = \"q8_0\"; };\n"
                           "experts = 4; experts_used = 2;\n" SIZES);
    const struct program *p = shape_program(s);
    assert_int_equal(weight_named(p, "output.weight")->tensor->format, FORMAT_Q6_K);
    assert_int_equal(weight_named(p, "blk.0.attn_v.weight")->tensor->format, FORMAT_Q8_0);
    assert_int_equal(weight_named(p, "token_embd.weight")->tensor->format, FORMAT_Q4_K);
    assert_int_equal(weight_named(p, "blk.1.ffn_down_exps.weight")->tensor->format, FORMAT_Q4_K);
    assert_int_equal(weight_named(p, "blk.1.ffn_gate_inp.weight")->tensor->format, FORMAT_F32);
    assert_int_equal(p->kv_format, FORMAT_F16);
    shape_free(s);
}

/* A mixture holds all its experts, cut between shards like a dense feed-forward part; the router is everyone's. */
static void test_experts(void **state) {
    (void)state;
    struct shape *dense = good("architecture = \"llama\"; format = \"Q8_0\";\n" SIZES);
    struct shape *mixture = good("architecture = \"llama\"; format = \"Q8_0\"; experts = 5; experts_used = 2;\n" SIZES);
    const struct weight *up = weight_named(shape_program(mixture), "blk.0.ffn_up_exps.weight");
    assert_int_equal(up->n_experts, 5);
    assert_int_equal(up->n_used, 2);
    assert_int_equal(up->rows, 512);
    struct plan_request r = {.n_shards = 2, .context = 64, .rows_max = 1};
    struct plan *a, *b;
    assert_int_equal(plan_create(shape_program(dense), &r, &a), OK);
    assert_int_equal(plan_create(shape_program(mixture), &r, &b), OK);
    uint64_t ff = 2 * 3 * 256 * 512 / 2 / 32 * 34, router = 2 * (16 * 256 * 4); /* lanes of 16 rows */
    for (uint32_t i = 0; i < 2; i++)
        assert_int_equal(b->cells[i].weight_bytes, a->cells[i].weight_bytes + 4 * ff + router);
    plan_free(a);
    plan_free(b);
    shape_free(dense);
    shape_free(mixture);
}

#define LLAMA "architecture = \"llama\";\nformat = \"Q8_0\";\n"

static void test_bad_files(void **state) {
    (void)state;
    expect_bad("", "", "architecture is missing");
    expect_bad(LLAMA "layers = 2; dim = 256; heads = 8; ff = 512; context = 2048;\n", "", "vocab is missing");
    expect_bad("architecture = \"llama\";\n" SIZES, "", "format is missing");
    expect_bad(LLAMA SIZES "laiers = 3;", "4: laiers", "unknown key; expected one of name, architecture, layers");
    expect_bad(LLAMA SIZES "experts = \"8\";", "4: experts", "expected a whole number from 1 to 65536, found a text");
    expect_bad(LLAMA SIZES "kv_heads = 0;", "4: kv_heads", "expected a whole number from 1 to 65536, found 0");
    expect_bad(LLAMA SIZES "kv_heads = -2;", "4: kv_heads", "found -2");
    expect_bad(LLAMA SIZES "kv_heads = 2.0;", "4: kv_heads", "found a number with a point");
    expect_bad(LLAMA SIZES "kv_heads = 3;", "4: kv_heads", "expected a divisor of the 8 heads, found 3");
    expect_bad(LLAMA SIZES "kv_heads = 16;", "4: kv_heads", "expected a divisor");
    expect_bad(LLAMA SIZES "head_dim = 33;", "4: head_dim", "expected an even number");
    expect_bad(LLAMA SIZES "head_dim = 1025;", "4: head_dim", "from 1 to 1024");
    expect_bad(LLAMA SIZES "tied = 1;", "4: tied", "expected true or false");
    expect_bad(LLAMA SIZES "experts_used = 2;", "4: experts_used", "expected experts beside it");
    expect_bad(LLAMA SIZES "experts = 2;", "4: experts", "expected experts_used");
    expect_bad(LLAMA SIZES "experts = 2;\nexperts_used = 3;", "5: experts_used", "expected at most the 2 experts, found 3");
    expect_bad("architecture = \"qwen3\"; format = \"Q8_0\";\n" SIZES "experts = 2; experts_used = 1;", "3: experts", "llama");
    expect_bad("architecture = \"lama\";\nformat = \"Q8_0\";\n" SIZES, "1: architecture", "expected one of llama");
    expect_bad("architecture = \"gpt2\"; format = \"F16\"; kv_heads = 4;\n" SIZES, "1: architecture", "as many kv_heads");
    expect_bad("architecture = \"llama\";\nformat = \"Q9\";\n" SIZES, "2: format", "no format is called 'Q9'");
    expect_bad("architecture = \"llama\";\nformat = 4;\n" SIZES, "2: format", "expected a text in quotes");
    expect_bad(LLAMA SIZES "formats = \"Q4_K\";", "4: formats", "expected a group");
    expect_bad(LLAMA SIZES "formats = { heads = \"Q4_K\"; };", "4: formats.heads", "expected one of attention, ff");
    expect_bad(LLAMA SIZES "formats = { ff = { a = 1; }; };", "4: formats.ff", "expected a text");
    expect_bad("architecture = \"llama\"; format = \"Q4_K\";\nlayers = 2; dim = 96; heads = 8; ff = 512; vocab = 9; context = 9;",
               "1: format", "Q4_K has blocks of 256 values, but the rows of attention matrices have 96");
    expect_bad(LLAMA "formats = { ff = \"Q4_K\"; };\nlayers = 2; dim = 256; heads = 8; ff = 288; vocab = 9; context = 9;",
               "3: formats.ff", "have 288");
    expect_bad(LLAMA "layers = 2;\ndim = 100; heads = 8; ff = 512; vocab = 9; context = 9;", "4: dim", "a multiple of the 8 heads");
    expect_bad(LLAMA "layers = 2; dim = 16777216; heads = 65536; head_dim = 1024;\nff = 512; vocab = 9; context = 9;", "3: heads",
               "at most 16777216 values");
    expect_bad(LLAMA "layers = 2; dim = 16777216; heads = 16384; head_dim = 1024;\nff = 512; vocab = 9; context = 9;", "3: heads",
               "makes a tensor of");
    expect_bad(LLAMA "layers = 4097; dim = 256; heads = 8; ff = 512; vocab = 9; context = 9;", "3: layers", "from 1 to 4096");
    expect_bad(LLAMA "layers = ;", "3", "syntax error");
    struct shape *s = NULL;
    assert_int_equal(shape_read("/nonexistent/s.cfg", &s), ERR_FILE);
    assert_null(s);
}

#define WHOLE_FILE LLAMA SIZES "name = \"a\"; formats = { head = \"Q6_K\"; };\nexperts = 4; experts_used = 2; tied = false;\n"

/* Bytes of a good file changed, cut and doubled: read or refused with one line, nothing else. */
static void test_mutations(void **state) {
    (void)state;
    static const char spice[] = "{}();:=,.\"#@-09eE\n\\\x01\xff";
    uint32_t seed = 1;
    char text[sizeof WHOLE_FILE * 2];
    for (int i = 0; i < 3000; i++) {
        struct shape *s = NULL;
        size_t len = strlen(WHOLE_FILE);
        memcpy(text, WHOLE_FILE, len);
        for (int k = i % 3; k >= 0; k--) {
            seed = seed * 1664525u + 1013904223u;
            size_t at = (seed >> 8) % len;
            switch (seed >> 4 & 3) {
            case 0: text[at] = spice[(seed >> 24) % (sizeof spice - 1)]; break;
            case 1: len = at + 1; break;
            case 2: memmove(text + at, text + at + 1, --len - at); break;
            default: memmove(text + at + 1, text + at, len - at); len++;
            }
        }
        err e = read_bytes(text, len, &s);
        if ((e == OK) != (s != NULL)) fail_msg("error %d beside a result", e);
        if (e != OK && (strncmp(err_text(), path, strlen(path)) != 0 || strchr(err_text(), '\n')))
            fail_msg("said \"%s\"", err_text());
        shape_free(s);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_file), cmocka_unit_test(test_shipped), cmocka_unit_test(test_architectures),
        cmocka_unit_test(test_formats), cmocka_unit_test(test_experts), cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
