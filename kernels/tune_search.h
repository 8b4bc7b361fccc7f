/* The search for a device's tunables: every legal value of ours beside the best so far, in turn; for CLBlast's
 * kernels seeds, random draws and small changes of the best until the time is over. A value is taken only
 * where the op table gives the reference's bits with it, and where it is the faster one twice. One thread. */
#ifndef KERNELS_TUNE_SEARCH_H
#define KERNELS_TUNE_SEARCH_H

#include "kernels/backend.h"
#include "kernels/tune.h"

struct tune_request {
    const char *device; /* as backend_opencl() */
    double seconds;     /* about; a compiler at work is not interrupted */
    const enum format *formats; /* of the products that are timed */
    uint32_t n_formats;
    /* What is tried now, and the share of the time that is over. */
    void (*progress)(void *context, const char *what, double share);
    void *context;
};

/* What came of one tunable, or of CLBlast's parameters together (tunable < 0). */
struct tune_choice {
    int tunable;
    uint32_t n_tried, n_refused; /* refused: did not build, or gave other bits */
    double before_us, after_us;  /* of the ops that were timed, a geometric mean; 0: not timed */
};

#define TUNE_CHOICES_MAX (N_TUNABLES + 1)
struct tune_report {
    char platform[128], device[128], driver[128];
    struct tuning tuning;
    struct tune_choice choices[TUNE_CHOICES_MAX];
    uint32_t n_choices;
    double own_us, library_us; /* of a dense product of many rows: ours, and CLBlast's as chosen; 0: not timed */
};

err tune_search(const struct tune_request *request, struct tune_report *out);

#endif
