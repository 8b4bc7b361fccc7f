/* A model as a layer program: a flat list of ops over named values and named
 * weights, made once per model by an architecture file (arch_*.c).
 *
 * Everything else reads this list: the planner adds up its bytes, the slicer
 * cuts its weights, a node enqueues it, `caravan plan --program` prints it.
 * Shapes are [rows, width] with one row per token position; a weight matrix is
 * [rows, cols] as in the file and maps an input of width cols to an output of
 * width rows. Read-only after program_create; lives no longer than its gguf. */
#ifndef MODEL_PROGRAM_H
#define MODEL_PROGRAM_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/gguf.h"
#include "model/segment.h"

/* The directions along which a value or a weight extends. DIM and EXPERTS (a score for each expert of a
 * mixture) are never cut between shards; the others are, each by whole units. */
enum axis { AXIS_DIM, AXIS_HEADS, AXIS_KV, AXIS_FF, AXIS_VOCAB, AXIS_EXPERTS, N_AXES };

struct axis_info {
    const char *name;
    uint32_t size;       /* values */
    uint32_t unit;       /* values that may not be parted */
    uint32_t n_units;    /* ceil(size / unit); only the last may be short */
    uint32_t n_segments; /* equal runs of units; see segment_count() */
};

enum value_kind {
    VALUE_F32,
    VALUE_Q8 /* int8 per value, a float scale and sums per 32: see kernels */
};

enum value_rows {
    ROWS_ALL, /* one per row of the step */
    ROWS_OUT  /* only the rows whose logits are wanted */
};

struct value {
    char name[24];
    enum axis axis;
    uint32_t width; /* uncut, values per row */
    enum value_kind kind;
    enum value_rows rows;
    int is_partial; /* subtree sums of this shard, before a reduce */
};

/* A weight: a matrix, or a vector (rows == 1, cut along its columns). */
struct weight {
    char name[64];
    const struct gguf_tensor *tensor;
    uint64_t row_begin, col_begin; /* where it starts inside the tensor */
    uint32_t rows, cols;
    int is_vector;
    int is_table; /* looked up by row; held whole */
    enum axis out_axis; /* of a vector: its only axis */
    enum axis in_axis;
    uint32_t n_experts, n_used; /* so many matrices of this shape, of which a row multiplies n_used; 0: one */
};

#define OP_LIST(X)                                                             \
    X(EMBED, "embed")         /* out = weight[token] */                        \
    X(EMBED_POS, "embed-pos") /* out = weight[position] */                     \
    X(NORM, "norm")           /* rms or layer norm of each `group` values */   \
    X(QUANTIZE, "quantize")   /* f32 -> q8 */                                  \
    X(LINEAR, "linear")       /* out = weight . in */                          \
    X(REDUCE, "reduce")       /* partial sums of all shards -> whole */        \
    X(BIAS, "bias")           /* out += vector */                              \
    X(ROPE, "rope")           /* rotates in place by position */               \
    X(KV_WRITE, "kv-write")   /* k, v -> cache of the layer */                 \
    X(ATTEND, "attend")       /* causal attention over the cache */            \
    X(GLU, "glu")             /* out = act(gate) * up */                       \
    X(ACT, "act")             /* out = act(in) */                              \
    X(ADD, "add")             /* out = a + b */                                \
    X(SELECT, "select")       /* the rows whose logits are wanted */           \
    X(GATHER, "gather")       /* slices of all shards -> whole, on shard 0 */

enum op_kind {
#define OP_ENUM(id, text) OP_##id,
    OP_LIST(OP_ENUM)
#undef OP_ENUM
    N_OPS
};

enum norm_kind { NORM_RMS, NORM_LAYER };
enum act_kind { ACT_SILU, ACT_GELU_TANH, ACT_RELU };
enum rope_style {
    ROPE_NORM, /* pairs (2i, 2i+1) */
    ROPE_NEOX  /* pairs (i, i + n_rot/2) */
};

#define LAYER_BEFORE (-1) /* embedding: with the first layer's stage */
/* The head (final norm, logits) carries layer == n_layers. */

struct op {
    enum op_kind kind;
    int layer;
    int in[2];     /* values, -1 none */
    int out;       /* value, -1 none */
    int weight[2]; /* matrix or norm scale; norm bias; -1 none */
    union {
        struct { enum norm_kind kind; float eps; uint32_t group; } norm;
        struct { enum act_kind kind; } act;
        struct { uint32_t window; } attend; /* 0: all earlier positions */
    };
};

/* Rotary positions. The angle of pair i at position p is
 * p * freq_base^(-2i/n_rot) * freq_scale / factors[i]; yarn as in Peng et al. 2023
 * (arXiv 2309.00071). See rope_table(). */
struct rope {
    enum rope_style style;
    uint32_t n_rot; /* values of a head that rotate; 0: no rope */
    float freq_base, freq_scale;
    float *factors; /* [n_rot / 2] or NULL (llama3 scaling) */
    int is_yarn;
    float yarn_ext, yarn_attn, yarn_beta_fast, yarn_beta_slow;
    uint32_t yarn_context; /* context the model was trained with */
};

struct program {
    const char *arch; /* "llama" */
    const char *name; /* general.name or "" */
    uint32_t n_layers, dim, n_heads, n_kv_heads, head_dim, ff, n_vocab;
    uint32_t n_context; /* trained */
    uint32_t n_experts, n_experts_used; /* of a mixture, whose ff is of one expert; 0: none. Planned, not run yet */
    struct axis_info axes[N_AXES];
    struct rope rope;
    enum format kv_format; /* F32 for dense models, else F16 */
    struct value *values;
    struct weight *weights;
    struct op *ops;
    uint32_t n_values, n_weights, n_ops;
    int value_x;      /* the value that travels from stage to stage */
    int value_hidden; /* the last hidden state: after the last norm, before the head; ROWS_OUT */
    int value_logits; /* whole logits, ROWS_OUT */
};

/* Reads metadata, binds every weight by name, checks every shape. */
err program_create(const struct gguf *g, struct program **out);
void program_free(struct program *p);

/* "linear", for messages. */
const char *op_name(enum op_kind kind);

/* Whether stage [layer_begin, layer_end) runs the op: the first stage also embeds, the
 * last one also runs the head. */
int program_has_op(const struct program *p, const struct op *op, uint32_t layer_begin, uint32_t layer_end);

/* Sizes, and one line per group of ops that run as one (fuse.h), appended. */
err program_print(const struct program *p, struct bytes *out);

/* cos and sin of every pair of a position, [n_rot / 2][2], computed in double
 * and rounded once, so that every host gives the same bits. */
void rope_table(const struct rope *r, int32_t position, float *out);

#endif
