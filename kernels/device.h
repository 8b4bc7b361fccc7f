/* Device: an OpenCL device with a context, commands in order, and programs
 * assembled from the embedded kernel texts. Private to kernels/; the only
 * files that see CL types include this one. */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#include <CL/cl.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"
#include "kernels/await.h"
#include "kernels/backend.h"
#include "kernels/tune.h"

struct device {
    cl_device_id id;
    cl_context context;
    cl_command_queue queue; /* to enqueue a command use device_queue */
    struct chain *chain;    /* takes launches of a few rows; NULL: there is none */
    int can_chain;          /* there may be one, see kernels/chain.h: buffers lie in memory of ours */
    int is_busy;            /* something was enqueued since the last wait for all */
    char platform[128], name[128], version[128], driver[128];
    uint64_t memory_bytes, allocation_bytes;
    int is_cpu, is_pocl;
    int keeps_programs; /* built ones are kept in the program cache */
    int has_compiled;   /* a program came from its source, not from the cache */
    int can_call; /* runs functions of this process, on threads of its own */
    struct kernel_forms forms; /* the fastest that this device should be able to run */
    struct tuning tuning;      /* defaults; whoever opens may fill it before the first build */
    struct await await;
};

err device_open(const struct device_choice *c, struct device *out);
void device_close(struct device *d);

/* Of all kernel texts: which version of them this program has. */
uint64_t device_sources_hash(void);

/* The queue for one command that is no launch, after all launches before it. */
err device_queue(struct device *d, cl_command_queue *out);
/* Waits for all that was enqueued. */
err device_finish(struct device *d);
/* Where a buffer lies that was given memory of ours; NULL: in the driver's. */
void *device_address(cl_mem m);
/* The same where it may be read or written without a command, which saves the two threads that one wakes: NULL where
 * the device may be at work, or has other memory. */
uint8_t *device_place(const struct device *d, cl_mem m);

/* Builds the kernel texts named in `files` (NULL-terminated) as one program.
 * A name that starts with '#' is a line of text of its own. Tunables that the text names are defined. */
err device_build(struct device *d, const struct kernel_forms *forms, const char *const *files,
                 cl_program *out);

/* Turns a CL error into text; OK for CL_SUCCESS. `what` names the call. */
err device_check(const struct device *d, cl_int code, const char *what);

err device_memory(struct device *d, size_t n_bytes, cl_mem *out);
/* The same in memory of ours, which stays as long as the driver uses the buffer. */
err device_memory_at(struct device *d, void *at, size_t n_bytes, cl_mem *out);

/* What a backend's buffers are here. */
struct buffer {
    cl_mem mem;
    size_t n_bytes;
};

struct device_arg {
    size_t size;
    const void *value;
    int is_memory; /* a cl_mem */
};
#define DEVICE_ARG(x) {sizeof(x), &(x), _Generic((x), cl_mem: 1, default: 0)}
/* A list of DEVICE_ARGs as the two parameters `args, n_args`. */
#define DEVICE_ARGS(...)                                                                       \
    (const struct device_arg[]){__VA_ARGS__},                                                  \
        sizeof((const struct device_arg[]){__VA_ARGS__}) / sizeof(struct device_arg)

/* Sets all arguments and enqueues, at the latest with the next command of another kind. Global sizes of 0 do
 * nothing. */
err device_launch(struct device *d, cl_kernel kernel, const struct device_arg *args, uint32_t n_args,
                  uint32_t n_dims, const size_t *global, const size_t *local);

/* ITEM_BLOCKS of the kernels: blocks of 32 values that a work-item of an op on plain values takes. */
uint32_t item_blocks(const struct kernel_forms *f);

/* A one-dimensional launch over n items, padded to whole groups. */
err device_launch_items(struct device *d, cl_kernel kernel, const struct device_arg *args,
                        uint32_t n_args, size_t n);

#endif
