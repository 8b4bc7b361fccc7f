/* The commands of the coordinator's side, one line per command; main.c has the
 * table. argv[0] is the command's name. ERR_USAGE ends with exit code 2, any
 * other error with 1; main prints err_text() as one line. Each takes --help,
 * prints it on stdout and returns OK. */
#ifndef COORDINATOR_COMMANDS_H
#define COORDINATOR_COMMANDS_H

#include "base/err.h"

err cmd_generate(int argc, char **argv);
err cmd_chat(int argc, char **argv);
err cmd_logits(int argc, char **argv);
err cmd_perplexity(int argc, char **argv);
err cmd_plan(int argc, char **argv);
err cmd_probe(int argc, char **argv);
err cmd_config(int argc, char **argv);
err cmd_inspect(int argc, char **argv);
err cmd_tokenize(int argc, char **argv);
err cmd_detokenize(int argc, char **argv);
/* `caravan serve`; `commit` is what the API calls its fingerprint. */
err cmd_serve(int argc, char **argv, const char *commit);
/* `caravan bench generate`; `commit` is printed. */
err cmd_bench_generate(int argc, char **argv, const char *commit);
/* `caravan bench pipeline`; the same. */
err cmd_bench_pipeline(int argc, char **argv, const char *commit);
/* `caravan bench compare`; the same. */
err cmd_bench_compare(int argc, char **argv, const char *commit);
/* `caravan bench serve`; the same. */
err cmd_bench_serve(int argc, char **argv, const char *commit);

#endif
