/* Commands that the node folder gives to main.c. Each gets the arguments after
 * its name (argv[0] is the command), prints its own error in one line and
 * returns the exit code of the process. */
#ifndef NODE_COMMANDS_H
#define NODE_COMMANDS_H

#include "base/err.h"

/* `caravan node --socket PATH`: one rank of a job. Started by mpirun, which the
 * coordinator starts; rank 0 connects to the coordinator's Unix socket PATH
 * ("@name": abstract). Not meant to be typed. */
int cmd_node(int argc, char **argv);

/* `caravan devices [--json]`: the OpenCL devices of this host. */
int cmd_devices(int argc, char **argv);

/* `caravan bench ops`: how fast a device of this host is. `commit` is printed. Unlike the
 * others these two leave their error to main.c, as the coordinator's commands do. */
err cmd_bench_ops(int argc, char **argv, const char *commit);

/* `caravan tune`: finds and keeps a device's tunables; `commit` is written into the file. */
err cmd_tune(int argc, char **argv, const char *commit);

#endif
