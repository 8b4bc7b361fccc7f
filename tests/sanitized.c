/* In every program that is built with SAN=1: what libraries keep until the end is no leak of ours. */

const char *__lsan_default_suppressions(void);
int dlclose(void *library);

/* Drivers, Open MPI and hwloc free only part of their own. */
const char *__lsan_default_suppressions(void) {
    return "leak:libRusticlOpenCL\nleak:libLLVM\nleak:libpocl\nleak:liboclgrind\nleak:libOpenCL\n"
           "leak:libopen-\nleak:libmpi\nleak:libhwloc\nleak:libpmix\nleak:mca_\n";
}

/* A library that is gone has no name to be known by. */
int dlclose(void *library) {
    (void)library;
    return 0;
}
