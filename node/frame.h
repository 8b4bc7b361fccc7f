/* Frames: the messages between coordinator and job, and between ranks.
 *
 * A frame is a header of 16 bytes and a body. Control frames carry JSON text;
 * a step and its result are binary, little endian, described below. Every
 * decoder checks all counts against the length: a bad frame is an error, never a crash.
 * No allocation per frame after the first of its size: buffers are reused. */
#ifndef NODE_FRAME_H
#define NODE_FRAME_H

#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "model/device_rates.h"
#include "model/limits.h"
#include "node/payload.h"

#define FRAME_MAGIC 0x56415243u /* "CRAV" */
#define FRAME_BYTES_MAX (1u << 30)

enum frame_kind {
    /* job -> coordinator */
    FRAME_HELLO = 1, /* JSON [{rank, host, pid, n_cores, memory_bytes}] of all ranks: the
                        cores this process may use, the memory its host has free */
    FRAME_PROGRESS,  /* JSON {loaded_bytes, total_bytes} of the job, while loading; {measured, to_measure} before
                        FRAME_PROBED, in parts of whatever size */
    FRAME_READY,     /* JSON [{rank, host, platform, device, memory_bytes, layer_begin, layer_end,
                        shard, weight_bytes, kv_bytes, bytes_read, bytes_streamed, bytes_from_cache,
                        load_s}]; memory of the device; what was loaded from the model's file here, from rank
                        0, from the cache of packed slices */
    FRAME_RESULT,    /* struct result; the id of its step */
    FRAME_PONG,      /* empty: the ping with this id walked through every rank */
    FRAME_STATS,     /* JSON [{rank, peak_rss_bytes, rss_bytes, clock_s, compute_s, wait_s, send_s, share_s, n_steps,
                        one_row_steps, one_row_s, many_steps, many_rows, many_s, bytes_sent, bytes_received}]:
                        clock_s of the rank's own clock; since loading, compute_s of all steps, wait_s with nothing
                        to compute, send_s with every buffer still being sent from, share_s for the other shards;
                        one_row_s and many_s: steps of one row and of several, computing and share_s together */
    FRAME_PROBED,    /* JSON, struct probed: what every rank measured */
    FRAME_WANT,      /* between ranks only: what one asks of rank 0, see stream.h */
    FRAME_ERROR,     /* JSON {rank, host, code, text}, code as err_name; the job ends after it */
    /* coordinator -> job, walks forward through the stages */
    FRAME_PLAN = 32, /* JSON, see struct plan_message */
    FRAME_PROBE,     /* JSON, struct probe_message; may come before FRAME_PLAN, more than once */
    FRAME_MODEL,     /* between ranks only: the model that rank 0 has, see node_weights.c */
    FRAME_STEP,      /* struct step */
    FRAME_PING,      /* empty. Keeps the job alive: send one every second when idle */
    FRAME_GET_STATS, /* empty */
    FRAME_STOP       /* empty: finish, answer nothing */
};

struct frame_header {
    uint32_t magic, kind, id, n_bytes; /* n_bytes of the body */
};

/* One wanted row of a step. */
enum out_flags {
    OUT_SAMPLE = 1, /* choose a token */
    OUT_SCORE = 2,  /* log-probability of `target` */
    OUT_LOGITS = 4, /* send the raw logits back */
    OUT_HIDDEN = 8, /* send the row's last hidden state back: after the last norm, before the head */
    OUT_LOGPROB = 16, /* the log-probability of the token that OUT_SAMPLE chooses */
    OUT_OF_LOGITS = OUT_SAMPLE | OUT_SCORE | OUT_LOGITS /* what needs the row's logits */
};

struct step_out {
    int32_t row;        /* of the step */
    uint32_t flags;
    int32_t target;     /* OUT_SCORE */
    float temperature;  /* 0: greedy */
    uint32_t top_k;     /* 0: off */
    float top_p, min_p; /* 1, 0: off */
    uint32_t position;  /* of the token that is sampled: the random key */
    uint64_t seed;
    uint32_t edit_begin, edit_end; /* into edits */
    uint32_t n_top;     /* most probable tokens to list with OUT_SAMPLE or OUT_SCORE, at most TOP_LOGPROBS_MAX */
    uint32_t zero;
}; /* 56 bytes, no gaps: goes out as it is */

/* An edit of one logit before sampling: l += bias; then l /= repeat if l > 0
 * else l *= repeat; then l -= subtract. */
struct step_edit {
    int32_t token;
    float bias, repeat, subtract;
};

/* A step: one batch of rows that travels once through all stages. Arrays point
 * into the decoded frame or the builder's memory. */
struct step {
    uint32_t n_rows, n_table, n_outs, n_edits;
    const int32_t *token;       /* [n_rows] */
    const int32_t *position;    /* [n_rows] */
    const int32_t *table_begin; /* [n_rows] where the row's block table starts */
    const int32_t *table;       /* [n_table] block ids */
    const struct step_out *outs;
    const struct step_edit *edits;
};

struct result_out {
    int32_t token;       /* sampled; -1: not asked for, or the edits forbade every token */
    float logprob;       /* OUT_LOGPROB: natural log, before temperature and filters, after edits; else 0 */
    double score;        /* OUT_SCORE: natural log of the target's probability */
    uint32_t top_begin, n_top; /* into tops */
};

/* One of the most probable tokens of a row, the best first (the lowest id among equals); its probability is as that
 * of the sampled one. */
struct result_top {
    int32_t token;
    float logprob;
};

struct result {
    uint32_t n_outs, n_logit_rows, n_vocab, n_tops, n_hidden_rows, dim;
    const struct result_out *outs;
    const struct result_top *tops; /* [n_tops] */
    const float *logits; /* [n_logit_rows, n_vocab], the OUT_LOGITS rows in order, before edits */
    const float *hidden; /* [n_hidden_rows, dim], the OUT_HIDDEN rows in order */
};

/* Append a whole frame (header and body) to `out`. */
err frame_put(struct bytes *out, enum frame_kind kind, uint32_t id, const void *body, size_t n);
err frame_put_step(struct bytes *out, uint32_t id, const struct step *s);
err frame_put_result(struct bytes *out, uint32_t id, const struct result *r);

/* Checks a header just received. */
err frame_check(const struct frame_header *h);
/* View a body; arrays point into it. `limits`: counts beyond are refused;
 * tokens, rows, table indices, flags and numbers are validated: a step that
 * passes cannot make a node read or write outside its arrays. n_outs <=
 * min(rows_max, STEP_OUTS_MAX); n_table <= rows_max * blocks of context_max.
 * `body` must be 8-byte aligned. */
struct step_limits {
    uint32_t rows_max, n_vocab, n_blocks, context_max;
};
err frame_get_step(const void *body, size_t n, const struct step_limits *limits, struct step *out);
err frame_get_result(const void *body, size_t n, struct result *out);

/* The most edits of one step, and bytes of its whole frame. */
uint32_t frame_edits_max(const struct step_limits *limits);
size_t frame_step_bytes_max(const struct step_limits *limits);

/* Body of FRAME_ERROR as JSON, and back; `text` gets at most `cap` bytes. */
err frame_error_put(int rank, const char *host, err code, const char *text, struct bytes *json);
err frame_error_get(const char *json, size_t n, char *text, size_t cap);

/* Which device of its host a rank takes. */
struct plan_device {
    char select[256]; /* a part of its name, "" any */
    uint32_t index;   /* see struct device_choice */
    uint32_t threads; /* of a CPU device; 0: its share of its host's cores */
    int has_index;
};

/* Where ranks get the model's slices from. */
enum plan_weights {
    WEIGHTS_SHARED, /* every rank opens the same file */
    WEIGHTS_LOCAL,  /* every host has a copy of it at the same path */
    WEIGHTS_SEND    /* rank 0 has it and sends */
};
/* By name: "shared", "local", "send". ERR_USAGE. */
err plan_weights_from_name(const char *name, enum plan_weights *out);

/* What FRAME_PLAN says. Cell = stage * n_shards + shard. */
struct plan_message {
    char model[1024];
    uint32_t n_stages, n_shards;
    uint32_t *layer_begin;            /* [n_stages + 1] */
    float *shares;                    /* [n_stages][n_shards] */
    uint32_t *order;                  /* [cells] the job's rank that has the cell; of cell 0 rank 0. Ranks that
                                         are not named have none */
    struct plan_device *devices;      /* [cells] */
    uint32_t rows_max, n_blocks, context_max;
    uint32_t deadline_ms;             /* of every wait between ranks */
    int is_reference;                 /* plain C in place of a device */
    enum plan_weights weights;
    enum payload payload;             /* between the hosts of a stage; not f32: numerics = fast */
    uint32_t hop_bytes;               /* that a link between hosts carries in the time of its latency; 0: not known */
    uint32_t cache_mb;                /* of packed slices on a host's disk; 0: none */
    char cache_dir[1024];             /* "": each host's own */
};
err plan_message_put(const struct plan_message *m, struct bytes *json);
/* Validates; on failure nothing is left to free. */
err plan_message_get(const char *json, size_t n, struct plan_message *out);
void plan_message_free(struct plan_message *m);

/* What FRAME_PROBE asks for: the device that each rank would use. */
struct probe_message {
    int is_again;                   /* measure what is known already, too */
    int is_reference;               /* plain C in place of devices */
    uint8_t has_format[N_FORMATS];  /* of the model's matrices */
    uint32_t deadline_ms;           /* of every wait between ranks */
    uint32_t turn, n_turns;         /* 0: all ranks measure everything. Else from 1 to n_turns: those whose turn it is
                                       measure alone_per_s, while the others rest */
    uint32_t side;                  /* of the model's matrices, about; 0: none is meant */
    uint32_t n_ranks;
    struct plan_device *devices;    /* [n_ranks] */
};
/* Ranks that follow each other, of one host perhaps, take different turns. */
static inline int probe_takes_turn(const struct probe_message *m, uint32_t rank) {
    return m->turn > 0 && rank % m->n_turns == m->turn - 1;
}
err probe_message_put(const struct probe_message *m, struct bytes *json);
/* Validates; on failure nothing is left to free. */
err probe_message_get(const char *json, size_t n, struct probe_message *out);
void probe_message_free(struct probe_message *m);

/* What FRAME_PROBED answers. Between two ranks a message of n bytes takes latency_s + n / bytes_per_s; back_per_s is
 * the other way. */
struct probed_link {
    uint32_t to; /* rank */
    double latency_s, bytes_per_s, back_per_s;
};
struct probed_rank {
    char device[128]; /* "PLATFORM / DEVICE" */
    int is_host;      /* its memory is the host's */
    int is_cached;    /* all of the device's rates were known from before */
    uint64_t memory_bytes; /* of the device */
    uint32_t threads;      /* that computed; 0: no CPU device */
    struct device_rates rates;
    uint32_t n_links;
    struct probed_link *links; /* that this rank measured; belongs to the struct */
};
struct probed {
    uint32_t n_ranks;
    struct probed_rank *ranks; /* [n_ranks] */
};
/* One rank's own, a JSON object; the frame is an array of them in any order. Device names may hold any bytes. */
err probed_put_rank(int rank, const struct probed_rank *r, struct bytes *json);
/* Validates: every rank once, all numbers finite and not negative, links of other ranks. On failure nothing is left
 * to free. */
err probed_get(const char *json, size_t n, struct probed *out);
void probed_free(struct probed *p);

#endif
