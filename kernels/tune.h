/* Tunables: values that change how fast kernels are, never what they compute.
 *
 * A tunable is a line of TUNE_LIST: kernel texts that name it get it as -D NAME=value (device_build), C reads
 * d->tuning.values[TUNE_NAME]. `caravan tune` searches them on a device (tune_search.h), with the parameters of
 * CLBlast's kernels beside them, and keeps what it found in a file: the user's, one per device, or one of those
 * that come with the program. What fits a device is used whenever it is opened (tune_find).
 *
 * Such a file, read by libconfig (base/config.h):
 *
 *     platform = "Portable Computing Language";   parts of the device's names; a driver that is named
 *     device = "skylake-avx512";                  must be the same
 *     driver = "3.1+debian";
 *     tunables = { GROUP_ITEMS = 128; };
 *     clblast = { GemmRoutine = { XGEMM_MIN_INDIRECT_SIZE = 64; }; };
 *
 * Tunables that it does not name keep their defaults; of a CLBlast kernel it names every parameter. */
#ifndef KERNELS_TUNE_H
#define KERNELS_TUNE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/mem.h"

/* What a tunable concerns: which products and ops are timed to choose it. */
enum tune_concern {
    TUNE_OF_PLAIN,    /* ops on plain values */
    TUNE_OF_ONE_LANE, /* products, where a work-item has one lane */
    TUNE_OF_GEMM,     /* dense products that CLBlast may take */
    /* Where a work-item has a group of lanes: */
    TUNE_OF_FEW,       /* quantised products of a few rows, which read them from memory */
    TUNE_OF_FEW_DENSE, /* dense ones */
    TUNE_OF_ATTEND,    /* attention of one row */
    TUNE_OF_MANY,      /* quantised products of many rows */
    TUNE_OF_AMX,       /* those by Intel AMX */
    /* In both forms: */
    TUNE_OF_TILES,    /* quantised products of several rows */
    N_TUNE_CONCERNS
};

/* name, default, concern, help, legal values (at most TUNE_VALUES_MAX). */
#define TUNE_LIST(X)                                                                                          \
    X(GROUP_ITEMS, 64, TUNE_OF_PLAIN, "work-items of a group, ops on plain values", 16, 32, 64, 128, 256)      \
    X(LANE_GROUP_ITEMS, 64, TUNE_OF_ONE_LANE, "output rows of a group, one-lane products", 32, 64, 128, 256)   \
    X(FETCH_BLOCKS, 32, TUNE_OF_FEW, "blocks of 32 columns that weights are fetched ahead", 0, 4, 8, 16, 32)   \
    X(FETCH_BYTES, 2048, TUNE_OF_FEW_DENSE, "bytes that dense weights are fetched ahead", 0, 1024, 2048, 4096) \
    X(ATTEND_FETCH_BLOCKS, 4, TUNE_OF_ATTEND, "blocks of 32 positions fetched ahead", 0, 2, 4, 8)             \
    X(TILE_MIDDLE, 4, TUNE_OF_TILES, "rows that a product of a few rows takes at a time", 3, 4)                \
    X(TILE_WIDE, 8, TUNE_OF_TILES, "rows that a product of many rows takes at a time", 6, 8, 12, 16)           \
    X(MANY_RUN, 8, TUNE_OF_MANY, "blocks of weights unpacked at a time for many rows", 4, 8, 16, 32)           \
    X(MANY_TILES, 8, TUNE_OF_MANY, "tiles of 16 rows that use them", 2, 4, 8, 16)                              \
    X(MANY_DOTS, 4, TUNE_OF_AMX, "blocks whose dots by Intel AMX are kept: all but one are made ahead", 2, 4, 8)  \
    X(GEMM_ROWS_MIN, 64, TUNE_OF_GEMM, "rows from which CLBlast may multiply", 16, 32, 48, 64)

#define TUNE_VALUES_MAX 8

enum tune_id {
#define TUNE_ENUM(name, ...) TUNE_##name,
    TUNE_LIST(TUNE_ENUM)
#undef TUNE_ENUM
    N_TUNABLES
};

struct tunable {
    const char *name;
    uint32_t fallback;
    enum tune_concern concern;
    const char *help;
    uint32_t n_values, values[TUNE_VALUES_MAX]; /* legal, rising */
};
extern const struct tunable tunables[N_TUNABLES];

/* The kernels behind CLBlast's products, under the names of its own database. */
enum clblast_id { CLBLAST_XGEMM, CLBLAST_DIRECT, CLBLAST_ROUTINE, N_CLBLAST_KERNELS };
#define CLBLAST_PARAMETERS_MAX 16

struct clblast_kernel {
    const char *name;
    uint32_t n_parameters;
    struct clblast_parameter {
        const char *name;
        uint32_t n_values, values[TUNE_VALUES_MAX]; /* that a file may name */
    } parameters[CLBLAST_PARAMETERS_MAX];
};
extern const struct clblast_kernel clblast_kernels[N_CLBLAST_KERNELS];

#define TUNE_SOURCE_BYTES 512

struct tuning {
    uint32_t values[N_TUNABLES];
    uint32_t clblast[N_CLBLAST_KERNELS][CLBLAST_PARAMETERS_MAX];
    uint8_t has_clblast[N_CLBLAST_KERNELS]; /* else CLBlast's own choice */
    char source[TUNE_SOURCE_BYTES];         /* the file; "" for defaults */
};

struct tune_device {
    const char *platform, *name, *driver;
};

void tune_defaults(struct tuning *out);

int tune_is_legal(const struct tunable *t, uint32_t value);
/* NULL, or which rule of the kernel the values break. */
const char *clblast_breach(enum clblast_id kernel, const uint32_t *values);

/* Reads a file over the defaults. *is_for_device: whether platform and device fit. ERR_CONFIG names file and
 * line, also where another driver is named; then `out` has the defaults. */
err tune_read(const char *path, const struct tune_device *d, struct tuning *out, int *is_for_device);

/* The text of a file for exactly this device and driver. */
err tune_text(const struct tuning *t, const struct tune_device *d, const char *made_by, struct bytes *out);

/* The user's file for a device, under $XDG_CONFIG_HOME or ~/.config. ERR_CONFIG where neither is known. */
err tune_user_path(const struct tune_device *d, char *out, size_t cap);
/* Writes it, with the folders above. */
err tune_store(const struct tuning *t, const struct tune_device *d, const char *made_by, const char *path);

/* The user's file, else the first one of those that come with the program and fit, else the defaults. A file
 * that cannot be used is named in a warning and passed over. */
void tune_find(const struct tune_device *d, struct tuning *out);

#endif
