/* Caravan: the table of commands, exit codes, and the mode inside an MPI launch.
 * The only file that ends the process. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/awake.h"
#include "base/env.h"
#include "base/err.h"
#include "coordinator/commands.h"
#include "coordinator/engine.h"
#include "coordinator/options.h"
#include "node/commands.h"
#include "node/inside.h"

#define VERSION "0.1.0"

enum { EXIT_GOOD = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

enum command_kind {
    KIND_LOCAL, /* this process alone; inside an MPI launch only rank 0 runs it */
    KIND_JOB,   /* runs a job of nodes */
    KIND_NODE,  /* of node/: prints its own error */
    KIND_HIDDEN /* like KIND_LOCAL, not in the list */
};

struct command {
    const char *name;
    enum command_kind kind;
    err (*run)(int argc, char **argv);
    int (*run_node)(int argc, char **argv);
    const char *help;
};

static err cmd_bench(int argc, char **argv);
static err cmd_help(int argc, char **argv);
static err cmd_serve_here(int argc, char **argv);
static err cmd_tune_here(int argc, char **argv);
static err cmd_version(int argc, char **argv);

static const struct command commands[] = {
    {"serve", KIND_JOB, cmd_serve_here, NULL, "a server with OpenAI's API, and a page to chat with"},
    {"generate", KIND_JOB, cmd_generate, NULL, "continue a text"},
    {"chat", KIND_JOB, cmd_chat, NULL, "talk with a model in the terminal"},
    {"logits", KIND_JOB, cmd_logits, NULL, "write the logits of every position of given tokens"},
    {"perplexity", KIND_JOB, cmd_perplexity, NULL, "how well a model predicts a text file"},
    {"tokenize", KIND_LOCAL, cmd_tokenize, NULL, "text to tokens"},
    {"detokenize", KIND_LOCAL, cmd_detokenize, NULL, "tokens to text"},
    {"plan", KIND_LOCAL, cmd_plan, NULL, "who would hold what, before anything runs"},
    {"probe", KIND_JOB, cmd_probe, NULL, "measure the devices and links that a job would have"},
    {"inspect", KIND_LOCAL, cmd_inspect, NULL, "metadata and tensors of a model file"},
    {"devices", KIND_NODE, NULL, cmd_devices, "the OpenCL devices of this host"},
    {"bench", KIND_LOCAL, cmd_bench, NULL, "how fast it is: bench ops, generate, pipeline, compare, serve"},
    {"tune", KIND_LOCAL, cmd_tune_here, NULL, "find and keep what makes a device of this host fast"},
    {"config", KIND_HIDDEN, cmd_config, NULL, "the example configuration"},
    {"node", KIND_NODE, NULL, cmd_node, "one rank of a job (started by the others)"},
    {"help", KIND_LOCAL, cmd_help, NULL, "this text"},
    {"version", KIND_HIDDEN, cmd_version, NULL, "version and commit"},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static err cmd_help(int argc, char **argv) {
    (void)argc;
    (void)argv;
    printf("Caravan runs one GGUF model on many devices: cut into stages (runs of layers)\n"
           "and shards (slices of every layer), one MPI rank for each, OpenCL inside.\n\n"
           "Usage: caravan COMMAND [arguments]\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].kind != KIND_HIDDEN)
            printf("  %-12s%s\n", commands[i].name, commands[i].help);
    printf("\n`caravan COMMAND --help` explains a command and its flags.\n\n"
           "  caravan serve model.gguf --stages 2 --shards 2\n"
           "  caravan chat model.gguf --temperature 0.7\n"
           "  caravan generate model.gguf --prompt \"Once upon a time\"\n"
           "  mpirun -n 4 caravan generate model.gguf --prompt \"Hello\"\n\n"
           "Exit codes: 0 good, 1 failed, 2 wrong usage.\n");
    return OK;
}

static err cmd_version(int argc, char **argv) {
    (void)argc;
    (void)argv;
    printf("caravan %s (%s)\n", VERSION, CARAVAN_COMMIT);
    return OK;
}

static err cmd_serve_here(int argc, char **argv) { return cmd_serve(argc, argv, CARAVAN_COMMIT); }

static err cmd_tune_here(int argc, char **argv) {
    awake_begin();
    return cmd_tune(argc, argv, CARAVAN_COMMIT);
}

static err cmd_bench(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    awake_begin();
    if (strcmp(what, "ops") == 0) return cmd_bench_ops(argc - 1, argv + 1, CARAVAN_COMMIT);
    int is_generate = strcmp(what, "generate") == 0, is_compare = strcmp(what, "compare") == 0,
        is_pipeline = strcmp(what, "pipeline") == 0;
    if ((is_generate || is_compare || is_pipeline) && inside_is_mpi_launch())
        return err_set(ERR_USAGE, "bench %s launches its own ranks; call it without mpirun", what);
    if (is_generate) return cmd_bench_generate(argc - 1, argv + 1, CARAVAN_COMMIT);
    if (is_pipeline) return cmd_bench_pipeline(argc - 1, argv + 1, CARAVAN_COMMIT);
    if (is_compare) return cmd_bench_compare(argc - 1, argv + 1, CARAVAN_COMMIT);
    if (strcmp(what, "serve") == 0) return cmd_bench_serve(argc - 1, argv + 1, CARAVAN_COMMIT);
    if (!*what) return err_set(ERR_USAGE, "bench: of what? caravan bench --help lists it");
    if (strcmp(what, "--help") != 0 && strcmp(what, "-h") != 0)
        return err_set(ERR_USAGE, "no bench \"%s\"; caravan bench --help lists them", what);
    printf("Usage: caravan bench WHAT [flags]\n\n"
           "  ops       every op on a device, against a plain read of memory and the peak of its dots\n"
           "  generate  tokens per second of a model on grids of stages and shards\n"
           "  pipeline  how full the stages are, and what a hop between them costs\n"
           "  compare   tokens per second beside llama-bench and dllama, in turn\n"
           "  serve     load over HTTP on any server with OpenAI's API: throughput and latencies\n\n"
           "While it measures, processors do not go to sleep, where the system lets it ask for that (root).\n"
           "`caravan bench WHAT --help` explains the flags.\n");
    return OK;
}

/* One line, whatever a file or a library put into the text. */
static void print_error(err e) {
    char line[1200];
    snprintf(line, sizeof line, "%s", *err_text() ? err_text() : err_name(e));
    for (char *c = line; *c; c++)
        if ((unsigned char)*c < ' ' || *c == 127) *c = ' ';
    fflush(stdout);
    fprintf(stderr, "caravan: %s\n", line);
}

static int exit_code(err e) {
    if (engine_signal()) return 128 + engine_signal();
    return e == OK ? EXIT_GOOD : e == ERR_USAGE ? EXIT_USAGE : EXIT_FAILED;
}

/* Text lost on the way to a full disk is a failure too. */
static err run_checked(const struct command *c, int argc, char **argv) {
    err e = c->run(argc, argv);
    int is_lost = fflush(stdout) != 0 || ferror(stdout);
    if (e == OK && is_lost) e = err_set(ERR_FILE, "cannot write to standard output");
    if (e != OK) print_error(e);
    return e;
}

/* All ranks of `mpirun caravan generate ...` come here; rank 0 coordinates. */
static int run_inside(const struct command *c, int argc, char **argv) {
    int is_gateway = 0, n_ranks = 0, link_fd = -1;
    err e = inside_start(&argc, &argv, &is_gateway, &n_ranks, &link_fd);
    if (e == OK && is_gateway) {
        engine_use_inside(link_fd, n_ranks);
        e = run_checked(c, argc - 1, argv + 1);
        int code = exit_code(e), finished = inside_finish(engine_leave_inside() ? OK : e);
        return code ? code : finished;
    }
    return inside_finish(e);
}

/* Rank by the environment of the launcher, without starting MPI. */
static int is_first_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK",
                                        "SLURM_PROCID"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *rank = env_get(names[i]);
        if (rank) return strcmp(rank, "0") == 0;
    }
    return 1;
}

/* `srun -n 4` without an MPI plugin starts copies that know nothing of each other; each would
 * launch a job of its own, and wait for ever in the step that holds them all. */
static int is_srun_copy(void) {
    const char *n = env_get("SLURM_STEP_NUM_TASKS");
    return n && strtol(n, NULL, 10) > 1 && !env_get("SLURM_PTY_PORT"); /* a shell of `srun --pty` is one */
}

static int refuse_copies(void) {
    if (is_first_rank())
        print_error(err_set(ERR_USAGE, "srun started copies of this command, not one MPI job; srun --mpi=pmix "
                                       "joins them (srun --mpi=list shows what there is)"));
    return EXIT_USAGE;
}

static int has_help(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return 1;
    return 0;
}

static const struct command *command_find(const char *name) {
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) name = "help";
    if (strcmp(name, "--version") == 0) name = "version";
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *known[N_COMMANDS];
    for (int i = 0; i < N_COMMANDS; i++) known[i] = commands[i].name;
    const char *near = options_suggest(name, known, N_COMMANDS);
    err e = near ? err_set(ERR_USAGE, "no command \"%s\"; did you mean %s?", name, near)
                 : err_set(ERR_USAGE, "no command \"%s\"; caravan --help lists them", name);
    print_error(e);
    return EXIT_USAGE;
}

/* A missing standard stream would let the next file or socket take its number. */
static void open_streams(void) {
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd) return;
}

int main(int argc, char **argv) {
    open_streams();
    signal(SIGPIPE, SIG_IGN); /* a reader that left is an error of the write */
    int is_inside = inside_is_mpi_launch();
    const struct command *c = argc > 1 ? command_find(argv[1]) : NULL;
    int needs_mpi = c && (c->kind == KIND_JOB || c->run_node == cmd_node) &&
                    !has_help(argc - 1, argv + 1);
    if (is_inside && !needs_mpi && !is_first_rank()) return EXIT_GOOD;
    if (argc < 2) {
        print_error(err_set(ERR_USAGE, "no command; caravan --help lists them"));
        return EXIT_USAGE;
    }
    if (!c) return unknown_command(argv[1]);
    if (c->run_node) return c->run_node(argc - 1, argv + 1);
    if (is_inside && needs_mpi) return run_inside(c, argc, argv);
    if (needs_mpi && is_srun_copy()) return refuse_copies();
    return exit_code(run_checked(c, argc - 1, argv + 1));
}
