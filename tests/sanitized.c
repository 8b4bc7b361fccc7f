/* In every program that is built with SAN=1: what libraries do is no fault of ours. */
#include <dlfcn.h>
#include <link.h>
#include <string.h>

const char *__asan_default_options(void);
const char *__lsan_default_suppressions(void);

/* LLVM, where it compiles, gives a thread another stack for signals, which is not AddressSanitizer's to unmap. */
const char *__asan_default_options(void) { return "use_sigaltstack=0"; }

/* Drivers, Open MPI and hwloc free only part of their own, libconfig not what it had of a text that does not end. */
const char *__lsan_default_suppressions(void) {
    return "leak:libconfig\nleak:libRusticlOpenCL\nleak:gallium\nleak:libpocl\nleak:liboclgrind\nleak:libOpenCL\n"
           "leak:libopen-\nleak:libmpi\nleak:libhwloc\nleak:libpmix\nleak:mca_\n";
}

/* Mesa's pipe stays: of a library that is gone nobody knows the name. */
int dlclose(void *library) {
    struct link_map *map;
    int (*next)(void *);
    if (dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 && strstr(map->l_name, "gallium")) return 0;
    *(void **)&next = dlsym(RTLD_NEXT, "dlclose");
    return next(library);
}
