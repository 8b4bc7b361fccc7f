#include "node/cores.h"

#include <limits.h>
#include <stdlib.h>

#include <hwloc.h>

#include "base/mem.h"

static uint32_t count_cores(hwloc_topology_t t, hwloc_const_cpuset_t set) {
    int n = hwloc_get_nbobjs_inside_cpuset_by_type(t, set, HWLOC_OBJ_CORE);
    if (n <= 0) n = hwloc_bitmap_weight(set); /* a host that does not tell */
    return n > 0 ? (uint32_t)n : 1;
}

/* A part of `all` for each rank, neighbours to neighbours; sets[place] stays in *out. */
static err part_of(hwloc_topology_t t, uint32_t place, uint32_t n_ranks, hwloc_cpuset_t *out) {
    hwloc_cpuset_t *sets;
    hwloc_obj_t root = hwloc_get_root_obj(t);
    TRY(NEW(sets, n_ranks));
    err e = OK;
    if (hwloc_distrib(t, &root, 1, sets, n_ranks, INT_MAX, 0) != 0)
        e = err_set(ERR_INTERNAL, "cannot share the cores of this host between %u ranks", n_ranks);
    for (uint32_t i = 0; e == OK && i < n_ranks; i++)
        if (i != place) hwloc_bitmap_free(sets[i]);
    if (e == OK) *out = sets[place];
    free(sets);
    return e;
}

static err share(hwloc_topology_t t, uint32_t place, uint32_t n_ranks, uint32_t n_threads, int must_bind,
                 struct cores *out) {
    hwloc_const_cpuset_t all = hwloc_topology_get_topology_cpuset(t);
    hwloc_cpuset_t mine = NULL;
    uint32_t n_cores = count_cores(t, all);
    if (n_ranks > 1 && n_ranks <= n_cores) TRY(part_of(t, place, n_ranks, &mine));
    uint32_t n_mine = mine ? count_cores(t, mine) : n_cores > n_ranks ? n_cores / n_ranks : 1;
    out->is_bound = mine && n_threads <= n_mine;
    out->n_threads = n_threads ? n_threads : n_mine;
    hwloc_const_cpuset_t set = out->is_bound ? mine : all;
    hwloc_bitmap_list_snprintf(out->text, sizeof out->text, set);
    if (out->is_bound && must_bind && hwloc_set_cpubind(t, set, HWLOC_CPUBIND_PROCESS) != 0)
        out->is_bound = 0; /* a system that does not let us: its scheduler may do as well */
    hwloc_bitmap_free(mine);
    return OK;
}

/* The topology of this host, or what is left of it within the cores that this thread may use. */
static err topology_open(hwloc_topology_t *out) {
    hwloc_topology_t t;
    if (hwloc_topology_init(&t) != 0) return err_set(ERR_INTERNAL, "hwloc does not start");
    hwloc_cpuset_t allowed = hwloc_bitmap_alloc();
    int is_good = allowed && hwloc_topology_load(t) == 0;
    if (is_good && hwloc_get_cpubind(t, allowed, HWLOC_CPUBIND_THREAD) == 0 && !hwloc_bitmap_iszero(allowed))
        hwloc_topology_restrict(t, allowed, 0);
    hwloc_bitmap_free(allowed);
    if (is_good) {
        *out = t;
        return OK;
    }
    hwloc_topology_destroy(t);
    return err_set(ERR_INTERNAL, "hwloc cannot see this host's cores");
}

static err choose(uint32_t place, uint32_t n_ranks, uint32_t n_threads, int must_bind, struct cores *out) {
    hwloc_topology_t t;
    TRY(topology_open(&t));
    err e = share(t, place, n_ranks, n_threads, must_bind, out);
    hwloc_topology_destroy(t);
    return e;
}

err cores_share(uint32_t place, uint32_t n_ranks, uint32_t n_threads, struct cores *out) {
    return choose(place, n_ranks, n_threads, 0, out);
}

err cores_take(uint32_t place, uint32_t n_ranks, uint32_t n_threads, struct cores *out) {
    return choose(place, n_ranks, n_threads, 1, out);
}
