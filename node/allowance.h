/* Allowance: how much memory this process may still take, of what its host has, of what every control group that it is
 * in allows (version 1 and 2, up to the root), of its own limits. Pure but for the files it reads; any thread. */
#ifndef NODE_ALLOWANCE_H
#define NODE_ALLOWANCE_H

#include <stdint.h>

/* Bytes; 0: nothing is known. `root` stands before every path that is read: "", or a test's folder. Memory that the
 * kernel holds for files that are not in use counts as free. */
uint64_t allowance_bytes(const char *root);

#endif
