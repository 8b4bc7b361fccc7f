/* What tests of costs and searches share: a small program without a file, written by hand, and clusters. */
#ifndef TESTS_PLANNING_H
#define TESTS_PLANNING_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "partition/cluster.h"
#include "partition/plan.h"

enum { V_X, V_H, V_Q, V_K, V_V, V_ATT, V_PART, V_Y, V_UP, V_F, V_XS, V_HS, V_LP, V_LOGITS, N_TEST_VALUES };

/* A program of attention (8 heads of 32, 4 kv heads) and a feed-forward part of one matrix up and one down, F16:
 * dim 256, ff 512; layer by layer 256 x 256 x 2 + 128 x 256 x 2 + 2 x 512 x 256 weights. */
struct test_program {
    struct program p;
    struct value values[N_TEST_VALUES];
    struct weight *weights;
    struct gguf_tensor *tensors;
    struct op *ops;
};
#define LAYER_WEIGHTS (2 * 256 * 256 + 2 * 128 * 256 + 2 * 512 * 256)
#define OPS_PER_LAYER 14
#define WEIGHTS_PER_LAYER 6

static int test_weight(struct test_program *t, uint32_t rows, uint32_t cols, enum axis out, enum axis in, int is_table) {
    uint32_t i = t->p.n_weights++;
    t->tensors[i] = (struct gguf_tensor){.name = "t", .format = FORMAT_F16, .n_dims = 2, .dims = {cols, rows, 1, 1}};
    t->weights[i] = (struct weight){.tensor = &t->tensors[i], .rows = rows, .cols = cols, .out_axis = out,
                                    .in_axis = in, .is_table = is_table};
    return (int)i;
}

static void test_op(struct test_program *t, enum op_kind kind, int layer, int a, int b, int out, int weight) {
    t->ops[t->p.n_ops++] =
        (struct op){.kind = kind, .layer = layer, .in = {a, b}, .out = out, .weight = {weight, -1}};
    if (kind == OP_NORM) t->ops[t->p.n_ops - 1].norm.group = 256;
}

static void test_layer(struct test_program *t, int l) {
    int q = test_weight(t, 256, 256, AXIS_HEADS, AXIS_DIM, 0), k = test_weight(t, 128, 256, AXIS_KV, AXIS_DIM, 0);
    int v = test_weight(t, 128, 256, AXIS_KV, AXIS_DIM, 0), o = test_weight(t, 256, 256, AXIS_DIM, AXIS_HEADS, 0);
    int up = test_weight(t, 512, 256, AXIS_FF, AXIS_DIM, 0), down = test_weight(t, 256, 512, AXIS_DIM, AXIS_FF, 0);
    test_op(t, OP_NORM, l, V_X, -1, V_H, -1);
    test_op(t, OP_LINEAR, l, V_H, -1, V_Q, q);
    test_op(t, OP_LINEAR, l, V_H, -1, V_K, k);
    test_op(t, OP_LINEAR, l, V_H, -1, V_V, v);
    test_op(t, OP_KV_WRITE, l, V_K, V_V, -1, -1);
    test_op(t, OP_ATTEND, l, V_Q, -1, V_ATT, -1);
    test_op(t, OP_LINEAR, l, V_ATT, -1, V_PART, o);
    test_op(t, OP_REDUCE, l, V_PART, -1, V_Y, o);
    test_op(t, OP_ADD, l, V_X, V_Y, V_X, -1);
    test_op(t, OP_LINEAR, l, V_X, -1, V_UP, up);
    test_op(t, OP_ACT, l, V_UP, -1, V_F, -1);
    test_op(t, OP_LINEAR, l, V_F, -1, V_PART, down);
    test_op(t, OP_REDUCE, l, V_PART, -1, V_Y, down);
    test_op(t, OP_ADD, l, V_X, V_Y, V_X, -1);
}

static struct axis_info test_axis(const char *name, uint32_t size, uint32_t unit) {
    uint32_t n = (size + unit - 1) / unit;
    return (struct axis_info){name, size, unit, n, segment_count(n)};
}

static void test_values(struct test_program *t) {
    static const enum axis axes[] = {AXIS_DIM, AXIS_DIM, AXIS_HEADS, AXIS_KV, AXIS_KV, AXIS_HEADS, AXIS_DIM,
                                     AXIS_DIM, AXIS_FF, AXIS_FF, AXIS_DIM, AXIS_DIM, AXIS_VOCAB, AXIS_VOCAB};
    for (int i = 0; i < N_TEST_VALUES; i++)
        t->values[i] = (struct value){.name = "v", .axis = axes[i], .width = t->p.axes[axes[i]].size,
                                      .rows = i >= V_XS ? ROWS_OUT : ROWS_ALL, .is_partial = i == V_PART};
}

static void test_program_make(struct test_program *t, uint32_t n_layers, uint32_t n_vocab) {
    *t = (struct test_program){
        .p = {.arch = "test", .name = "", .n_layers = n_layers, .dim = 256, .n_heads = 8, .n_kv_heads = 4,
              .head_dim = 32, .ff = 512, .n_vocab = n_vocab, .n_context = 4096, .kv_format = FORMAT_F16,
              .n_values = N_TEST_VALUES, .value_x = V_X, .value_hidden = V_HS, .value_logits = V_LOGITS}};
    t->weights = calloc(WEIGHTS_PER_LAYER * n_layers + 2, sizeof *t->weights);
    t->tensors = calloc(WEIGHTS_PER_LAYER * n_layers + 2, sizeof *t->tensors);
    t->ops = calloc(OPS_PER_LAYER * n_layers + 5, sizeof *t->ops);
    t->p.values = t->values;
    t->p.weights = t->weights;
    t->p.ops = t->ops;
    t->p.axes[AXIS_DIM] = test_axis("dim", 256, 32);
    t->p.axes[AXIS_HEADS] = test_axis("heads", 256, 32);
    t->p.axes[AXIS_KV] = test_axis("kv", 128, 32);
    t->p.axes[AXIS_FF] = test_axis("ff", 512, 32);
    t->p.axes[AXIS_VOCAB] = test_axis("vocab", n_vocab, 32);
    test_values(t);
    test_op(t, OP_EMBED, LAYER_BEFORE, -1, -1, V_X, test_weight(t, n_vocab, 256, AXIS_VOCAB, AXIS_DIM, 1));
    for (uint32_t l = 0; l < n_layers; l++) test_layer(t, (int)l);
    int last = (int)n_layers, head = test_weight(t, n_vocab, 256, AXIS_VOCAB, AXIS_DIM, 0);
    test_op(t, OP_SELECT, last, V_X, -1, V_XS, -1);
    test_op(t, OP_NORM, last, V_XS, -1, V_HS, -1);
    test_op(t, OP_LINEAR, last, V_HS, -1, V_LP, head);
    test_op(t, OP_GATHER, last, V_LP, -1, V_LOGITS, -1);
}

static void test_program_free(struct test_program *t) {
    free(t->weights);
    free(t->tensors);
    free(t->ops);
}

/* A cluster of n_hosts hosts with n_each devices each, all alike: 1 GB/s of anything, 10 Gop/s, no launches; links of
 * 1 ms and 100 MB/s between hosts, 1 us and 10 GB/s inside; much memory. Described, not of a job. */
static struct cluster *test_cluster(uint32_t n_hosts, uint32_t n_each) {
    struct cluster *c = calloc(1, sizeof *c);
    c->n_hosts = n_hosts;
    c->n_devices = n_hosts * n_each;
    c->hosts = calloc(n_hosts, sizeof *c->hosts);
    c->devices = calloc(c->n_devices, sizeof *c->devices);
    c->between = (struct cluster_link){1e-3, 100e6};
    c->inside = (struct cluster_link){1e-6, 10e9};
    for (uint32_t i = 0; i < n_hosts; i++) {
        snprintf(c->hosts[i].name, sizeof c->hosts[i].name, "host-%u", i);
        c->hosts[i].memory_bytes = 1ull << 40;
    }
    for (uint32_t i = 0; i < c->n_devices; i++) {
        struct cluster_device *d = &c->devices[i];
        *d = (struct cluster_device){.host = i / n_each, .rank = -1, .is_host = 1};
        snprintf(d->name, sizeof d->name, "device-%u", i);
        d->rates = (struct device_rates){.read_per_s = 1e9, .int8_per_s = 10e9, .f32_per_s = 10e9};
        for (int f = 0; f < N_FORMATS; f++) d->rates.row_per_s[f] = 1e9, d->rates.products_per_s[f] = 10e9;
    }
    return c;
}

/* All rates of a device times `factor`. */
static void test_scale(struct cluster_device *d, double factor) {
    d->rates.read_per_s *= factor;
    d->rates.f32_per_s *= factor;
    for (int f = 0; f < N_FORMATS; f++) d->rates.row_per_s[f] *= factor, d->rates.products_per_s[f] *= factor;
}

#endif
