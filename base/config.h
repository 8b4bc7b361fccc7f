/* Configuration: one table of keys feeds the file parser, the command line's
 * flags (key `max_tokens` is flag --max-tokens), --help and
 * configs/example.cfg. The only user of libconfig.
 *
 * Defaults, then the file, then flags: the later wins. struct config is plain
 * data, filled once at start and read-only after: any thread. */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

#define CONFIG_TEXT_BYTES 1024

/* Which commands take a key as a flag; a file may hold every key. */
enum config_group {
    CONFIG_GRID = 1,    /* who holds what: plan and everything that runs a job */
    CONFIG_JOB = 2,     /* running a job */
    CONFIG_SAMPLING = 4, /* choosing tokens */
    CONFIG_CACHE = 8,   /* several texts at once */
    CONFIG_SERVE = 16   /* the server */
};

/* name, kind, groups, least, most (of a text: bytes), default (NULL: unset),
 * unit, help. Whole numbers reach 2^53 - 1, which JSON readers keep exactly. */
#define CONFIG_WHOLE_MAX 9007199254740991.0
#define CONFIG_LIST(X)                                                         \
    X(model, TEXT, 0, 0, 1023, "", "path",                                     \
      "the GGUF file, where the command line names none")                      \
    X(stages, WHOLE, CONFIG_GRID, 0, 4096, "0", "",                            \
      "pipeline stages: runs of layers that follow each other; 0: chosen")     \
    X(shards, WHOLE, CONFIG_GRID, 0, 16, "0", "",                              \
      "shards: slices that every layer of a stage is cut into; 0: chosen")     \
    X(ranks, WHOLE, CONFIG_GRID, 0, 4096, "0", "",                             \
      "MPI ranks, stages x shards; 0: as they say, else one per device of `cluster`, slot or host") \
    X(context, WHOLE, CONFIG_GRID, 0, 16777216, "0", "tokens",                 \
      "longest prompt and answer together; 0: the model's, at most 4096")      \
    X(prefill_chunk, WHOLE, CONFIG_GRID, 1, 65536, "128", "tokens",            \
      "rows of a step: a prompt travels in pieces of this size")               \
    X(memory_mb, WHOLE, CONFIG_GRID, 0, 1073741824, "0", "MiB",                \
      "memory that one rank may use; 0: its share of what its host has")       \
    X(weights, TEXT, CONFIG_JOB, 1, 15, "shared", "shared|local|send",           \
      "where ranks read the model: one file all see, a copy on every host, or sent by rank 0") \
    X(cache_gb, REAL, CONFIG_JOB, 0, 1000000, NULL, "GB",                      \
      "packed slices kept on each host's disk for the next start; 0: none; unset: 16 where they are sent") \
    X(cache_dir, TEXT, CONFIG_JOB, 0, 1023, "", "path",                        \
      "where they are kept; empty: ~/.cache/caravan/slices, or below $XDG_CACHE_HOME") \
    X(cluster, TEXT, CONFIG_GRID, 0, 1023, "", "path",                         \
      "file of hosts, devices and links: chooses devices, corrects what was measured") \
    X(goal, TEXT, CONFIG_GRID, 1, 15, "latency", "latency|throughput",         \
      "what a measured plan is best at: one stream, or as many as keep every stage busy") \
    X(probe, TEXT, CONFIG_JOB, 1, 7, "auto", "auto|on|off|again",              \
      "measure devices and links first; auto: only several hosts or unlike devices, and open grids") \
    X(device, TEXT, CONFIG_JOB, 0, 255, "", "name",                            \
      "a part of the OpenCL platform's or device's name; empty: the best")     \
    X(threads, WHOLE, CONFIG_JOB, 0, 4096, "0", "",                            \
      "threads of a rank on a CPU device; 0: its share of the host's cores")   \
    X(numerics, TEXT, CONFIG_JOB, 1, 31, "reproducible", "reproducible|fast", \
      "reproducible: the same bits whatever the plan; fast: what payload says may round")  \
    X(payload, TEXT, CONFIG_JOB, 1, 31, "f32", "f32|f16|int8",                 \
      "how partial sums travel between the hosts of a stage; other than f32: numerics must be fast") \
    X(deadline_s, REAL, CONFIG_JOB, 1, 86400, "60", "s",                       \
      "a wait between ranks that takes longer ends the job")                   \
    X(hosts, TEXT, CONFIG_JOB, 0, 1023, "", "path",                            \
      "host file for mpirun; empty: those of the allocation (Slurm, PBS), else this host") \
    X(mpirun, TEXT, CONFIG_JOB, 1, 1023, "mpirun", "path",                     \
      "the launcher")                                                          \
    X(mpirun_args, TEXT, CONFIG_JOB, 0, 1023, "", "arguments",                 \
      "more arguments for the launcher, parted by spaces")                     \
    X(max_tokens, WHOLE, CONFIG_SAMPLING, 1, 16777216, "128", "tokens",        \
      "longest answer")                                                        \
    X(temperature, REAL, CONFIG_SAMPLING, 0, 100, "0", "",                     \
      "0: always the most probable token; 1: as the model says")               \
    X(top_k, WHOLE, CONFIG_SAMPLING, 0, 2147483647, "0", "",                   \
      "choose among this many most probable tokens; 0: all")                   \
    X(top_p, REAL, CONFIG_SAMPLING, 0, 1, "1", "",                             \
      "choose among the most probable tokens that together reach this; 1: all") \
    X(min_p, REAL, CONFIG_SAMPLING, 0, 1, "0", "",                             \
      "drop tokens less probable than this times the most probable; 0: none")  \
    X(seed, WHOLE, CONFIG_SAMPLING, 0, CONFIG_WHOLE_MAX, NULL, "",             \
      "same seed, same tokens; unset: a new one each time, reported")          \
    X(repeat_penalty, REAL, CONFIG_SAMPLING, 0.01, 100, "1", "",               \
      "divides the logits of tokens of prompt and answer; 1: off")             \
    X(presence_penalty, REAL, CONFIG_SAMPLING, -100, 100, "0", "",             \
      "subtracted from the logits of tokens of the answer; 0: off")            \
    X(frequency_penalty, REAL, CONFIG_SAMPLING, -100, 100, "0", "",            \
      "the same, times how often the token stands in the answer; 0: off")     \
    X(chat_template, TEXT, CONFIG_CACHE, 0, 1023, "", "FILE|NAME",             \
      "chat template in place of the model's own: a file, or a name that `caravan chat --help` lists") \
    X(kv_tokens, WHOLE, CONFIG_CACHE, 0, 1099511627776, "0", "tokens",         \
      "positions of KV cache for all texts together; 0: four times the context") \
    X(decode_stretch, REAL, CONFIG_CACHE, 1, 1000, "1.5", "times",             \
      "how much longer a step may take for the prompts in it, while answers are under way") \
    X(host, TEXT, CONFIG_SERVE, 1, 255, "127.0.0.1", "address",                \
      "address to listen at; 0.0.0.0 or ::: every one of this host")           \
    X(port, WHOLE, CONFIG_SERVE, 0, 65535, "8080", "",                         \
      "port to listen at; 0: a free one, which is printed")                    \
    X(api_keys, TEXT, CONFIG_SERVE, 0, 1023, "", "path",                       \
      "file of API keys, one `NAME KEY [PRIORITY]` per line; empty: none are asked for") \
    X(tls_certificate, TEXT, CONFIG_SERVE, 0, 1023, "", "path",                \
      "certificate chain in PEM; with tls_key: HTTPS")                         \
    X(tls_key, TEXT, CONFIG_SERVE, 0, 1023, "", "path",                        \
      "private key of the certificate, in PEM")                                \
    X(cors_origin, TEXT, CONFIG_SERVE, 0, 255, "", "origin",                   \
      "web pages of this origin may use the API, *: of any; empty: only the server's own") \
    X(max_queue, WHOLE, CONFIG_SERVE, 1, 1048576, "256", "",                   \
      "requests that wait or run; more are refused with 429")                  \
    X(max_connections, WHOLE, CONFIG_SERVE, 1, 65536, "512", "",               \
      "connections at once")                                                   \
    X(max_body_kb, WHOLE, CONFIG_SERVE, 1, 1048576, "2048", "KiB",             \
      "longest body of a request")                                             \
    X(max_output, WHOLE, CONFIG_SERVE, 0, 16777216, "0", "tokens",             \
      "longest answer a request may ask for; 0: what the context holds")       \
    X(max_choices, WHOLE, CONFIG_SERVE, 1, 1024, "16", "",                     \
      "most answers of one request: prompts times n or best_of")               \
    X(idle_timeout_s, REAL, CONFIG_SERVE, 0.1, 86400, "60", "s",               \
      "a connection on which nothing comes or goes for so long is closed")     \
    X(header_timeout_s, REAL, CONFIG_SERVE, 0.1, 86400, "15", "s",             \
      "a request must be here so soon after its first byte")                   \
    X(unsent_max_kb, WHOLE, CONFIG_SERVE, 1, 1048576, "1024", "KiB",           \
      "a client that lags this far behind its answer is cut off")              \
    X(drain_s, REAL, CONFIG_SERVE, 0, 86400, "30", "s",                        \
      "at a terminating signal running answers may go on for so long")         \
    X(model_name, TEXT, CONFIG_SERVE, 0, 255, "", "name",                      \
      "what /v1/models calls the model; empty: the file's name")               \
    X(access_log, TEXT, CONFIG_SERVE, 0, 1023, "", "path",                     \
      "file for one line per request; empty: standard error; none: nowhere")

typedef uint64_t config_WHOLE;
typedef double config_REAL;
typedef char config_TEXT[CONFIG_TEXT_BYTES];

enum config_kind { CONFIG_KIND_WHOLE, CONFIG_KIND_REAL, CONFIG_KIND_TEXT };

enum config_id {
#define CONFIG_ENUM(name, ...) CONFIG_##name,
    CONFIG_LIST(CONFIG_ENUM)
#undef CONFIG_ENUM
    N_CONFIG_KEYS
};

struct config {
#define CONFIG_FIELD(name, kind, ...) config_##kind name;
    CONFIG_LIST(CONFIG_FIELD)
#undef CONFIG_FIELD
    uint8_t is_set[N_CONFIG_KEYS]; /* by the file or a flag */
};

struct config_key {
    const char *name;
    enum config_kind kind;
    unsigned groups;
    double least, most;
    const char *fallback, *unit, *help;
    size_t offset; /* in struct config */
};

/* [N_CONFIG_KEYS], by enum config_id. */
extern const struct config_key config_keys[];

/* Every key at its default. */
void config_defaults(struct config *c);

/* Reads a file over what is there. ERR_CONFIG names file, line, key and what
 * was expected. */
err config_load(struct config *c, const char *path);

/* Sets one key from text, as a flag does. ERR_USAGE says what was expected. */
err config_assign(struct config *c, enum config_id id, const char *text);

/* A whole number in [least, most] of decimal digits and nothing else. */
err config_parse_whole(const char *text, double least, double most,
                       uint64_t *out);
/* A finite number in [least, most]. */
err config_parse_real(const char *text, double least, double most,
                      double *out);

/* "2x1": two whole numbers from 1. */
err config_parse_pair(const char *text, uint32_t first_most, uint32_t second_most, uint32_t out[2]);
/* "a,b,c" of a flag: at most n_most items, each given to `add`, whose error is named after the flag. */
err config_parse_list(const char *flag, const char *text, size_t n_most,
                      err (*add)(void *context, const char *item), void *context);

/* One value of a file: `path` names it with the groups around it, "clblast.Xgemm.MWG". */
struct config_item {
    const char *path, *text; /* text: NULL where it is none */
    const char *type;        /* "a text in quotes", for messages */
    int is_group, is_whole, is_number, is_flag;
    int64_t whole; /* of a flag: 0 or 1 */
    double number; /* whole ones too */
    unsigned line;
};
/* Gives every value of a file of other keys to `each`, in order. ERR_CONFIG names file and line; an error of
 * `each` is named after file, line and value. */
err config_walk(const char *path, err (*each)(void *context, const struct config_item *item), void *context);
/* The same with every group before what is in it. */
err config_walk_groups(const char *path, err (*each)(void *context, const struct config_item *item), void *context);

/* A text in quotes of 1 to cap - 1 bytes. ERR_CONFIG says what was found instead. */
err config_item_text(const struct config_item *item, char *out, size_t cap);

/* Where a value of such a file goes: a field of plain data. */
enum config_field_kind {
    CONFIG_FIELD_WHOLE,  /* uint32_t */
    CONFIG_FIELD_BYTES,  /* uint64_t: a number times scale */
    CONFIG_FIELD_NUMBER, /* double: a number times scale */
    CONFIG_FIELD_FLAG,   /* int */
    CONFIG_FIELD_TEXT    /* char [most + 1], not empty */
};
struct config_field {
    const char *name;
    enum config_field_kind kind;
    double least, most; /* before scale */
    double scale;
    size_t offset;
};
/* Sets the field `name` of `object`. ERR_CONFIG says what was expected, or which fields there are. */
err config_take(const struct config_field *fields, size_t n, const char *name, const struct config_item *item,
                void *object);

/* "a whole number from 1 to 16" of a key, for messages and help. */
err config_expected(const struct config_key *key, struct bytes *out);

/* The text of configs/example.cfg. */
err config_example(struct bytes *out);

#endif
