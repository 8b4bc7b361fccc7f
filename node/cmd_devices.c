/* `caravan devices`: what OpenCL offers on this host. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "kernels/backend.h"
#include "node/commands.h"

enum { CODE_GOOD = 0, CODE_FAILED = 1, CODE_USAGE = 2 };

static const char usage[] =
    "Usage: caravan devices [--json]\n\n"
    "Lists the OpenCL devices of this host. --device of the other commands takes a part of\n"
    "\"PLATFORM / DEVICE\".\n";

static int print_json(const struct device_description *d, uint32_t n) {
    json_t *all = json_array();
    for (uint32_t i = 0; i < n; i++)
        json_array_append_new(
            all, json_pack("{s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I}", "platform", d[i].platform,
                           "device", d[i].name, "type", d[i].type, "version", d[i].version,
                           "driver", d[i].driver, "memory_bytes", (json_int_t)d[i].memory_bytes,
                           "allocation_bytes", (json_int_t)d[i].allocation_bytes, "compute_units",
                           (json_int_t)d[i].compute_units, "local_bytes",
                           (json_int_t)d[i].local_bytes));
    int rc = json_dumpf(all, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(all);
    return rc == 0 ? CODE_GOOD : CODE_FAILED;
}

static void print_text(const struct device_description *d, uint32_t n) {
    if (n == 0) puts("no OpenCL device; the package pocl-opencl-icd makes one of the CPU");
    for (uint32_t i = 0; i < n; i++) {
        printf("%s / %s\n", d[i].platform, d[i].name);
        printf("    %s, %u compute units, %.1f GiB of memory, allocations up to %.1f GiB, %u KiB local\n",
               d[i].type, d[i].compute_units, (double)d[i].memory_bytes / 0x1p30,
               (double)d[i].allocation_bytes / 0x1p30, d[i].local_bytes / 1024);
        printf("    %s, driver %s\n", d[i].version, d[i].driver);
    }
}

int cmd_devices(int argc, char **argv) {
    int is_json = argc == 2 && strcmp(argv[1], "--json") == 0;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(usage, stdout);
        return CODE_GOOD;
    }
    if (argc > 1 && !is_json) {
        fprintf(stderr, "caravan: devices takes only --json, not \"%s\"\n", argv[1]);
        return CODE_USAGE;
    }
    struct device_description *d = NULL;
    uint32_t n = 0;
    if (backend_list(&d, &n) != OK) {
        fprintf(stderr, "caravan: %s\n", err_text());
        return CODE_FAILED;
    }
    int code = CODE_GOOD;
    if (is_json) code = print_json(d, n);
    else print_text(d, n);
    free(d);
    return code;
}
