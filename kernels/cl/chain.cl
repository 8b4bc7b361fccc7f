/* A chain: calls of kernels that follow each other, in one launch; see kernels/chain.h. The kernels are functions here
 * (ITEM_PARAMS: what a work-item of theirs would ask for), their arguments stand in slots of 8 bytes.
 *
 * Global: as many work-items as the device has threads. A call's work-items lie in as many ranges, CALL_RANGES at most.
 * A thread takes some of its own range after the others, so that it reads on where it was, then of the ranges of those
 * who are late, and goes on once all are done. Nobody waits for one who has not begun, so one alone gets through, too.
 * The host writes calls while others run; the last entry ends the chain. */
struct call {
    ulong slots[CALL_SLOTS];
    uint kernel_id, n_items, sizes[2]; /* work-items: all, in the first two dimensions */
    uint n_ranges, share;              /* share: work-items taken at a time */
    volatile uint state;               /* CALL_MISSING, CALL_THERE or CALL_END */
    uint rest[9];
    volatile uint n_taken[CALL_RANGES] __attribute__((aligned(64)));
    volatile uint n_done __attribute__((aligned(64)));
};

#define P(i) ((global void *)s[i])
#define U(i) ((uint)s[i])
#define F(i) as_float((uint)s[i])
#define U4(i) as_uint4((ulong2)(s[i], s[i + 1]))
#define L4(i) vload4(0, s + (i))
#define ITEM place_0, place_1, place_2
#define PRODUCTS_HERE P(0), P(1), P(2), L4(3), L4(7), L4(11), U4(15), P(17), P(18), P(19)
#define LINEAR(t)                                                                      \
    CONCAT(linear_, t)(PRODUCTS_HERE, U(20), U(21), U(22), P(23), U(24), U(25), s[26], U(27), U(28), ITEM)
#define DENSE_LINEAR(t)                                                                \
    CONCAT(dense_, t)(PRODUCTS_HERE, U(20), P(21), U(22), U(23), s[24], U(25), U(26), U(27), U(28), ITEM)
#define DENSE_LAY(t) CONCAT(dense_lay_, t)(P(0), U(1), U(2), U(3), P(4), U(5), ITEM)

INLINE void item_run(global const struct call *c, uint i) {
    global const ulong *s = c->slots;
    size_t place_0 = i % c->sizes[0], rest = i / c->sizes[0];
    size_t place_1 = rest % c->sizes[1], place_2 = rest / c->sizes[1];
    switch (c->kernel_id) {
    case CALL_SUM_ROWS:
        sum_rows(P(0), s[1], U(2), P(3), P(4), P(5), U(6), U(7), U(8), F(9), F(10), P(11), P(12), P(13), P(14), ITEM);
        break;
    case CALL_QUANTIZE: quantize(P(0), P(1), U(2), ITEM); break;
    case CALL_ACTIVATE: activate_rows(U(0), P(1), P(2), P(3), P(4), U(5), P(6), P(7), U(8), ITEM); break;
    case CALL_SELECT: select_rows(P(0), P(1), U(2), P(3), U(4), ITEM); break;
    case CALL_HEADS:
        heads_write(P(0), P(1), P(2), P(3), P(4), P(5), P(6), P(7), P(8), P(9), P(10), P(11), U(12), U(13), U(14),
                    U(15), U(16), U(17), ITEM);
        break;
    case CALL_CHUNK:
        attend_chunk(P(0), P(1), P(2), P(3), P(4), P(5), U(6), U(7), U(8), U(9), U(10), U(11), U(12), U(13), U(14),
                     F(15), U(16), U(17), U(18), U(19), P(20), P(21), ITEM);
        break;
    case CALL_COMBINE: attend_combine(P(0), P(1), U(2), U(3), U(4), U(5), U(6), P(7), ITEM); break;
#ifdef DENSE_BYTES
    case CALL_EMBED: embed(P(0), U(1), P(2), P(3), U(4), ITEM); break;
    case CALL_LINEAR: DENSE_LINEAR(DENSE_ROWS_0); break;
    case CALL_LINEAR + 1: DENSE_LINEAR(DENSE_ROWS_1); break;
    case CALL_LINEAR + 2: DENSE_LINEAR(DENSE_ROWS_2); break;
    case CALL_LINEAR + 3: DENSE_LINEAR(DENSE_ROWS_3); break;
    case CALL_LAY + 1: DENSE_LAY(DENSE_ROWS_1); break;
    case CALL_LAY + 2: DENSE_LAY(DENSE_ROWS_2); break;
    case CALL_LAY + 3: DENSE_LAY(DENSE_ROWS_3); break;
#else
    case CALL_EMBED: embed(P(0), s[1], s[2], s[3], U(4), U(5), U(6), P(7), P(8), U(9), ITEM); break;
    case CALL_LINEAR: LINEAR(1); break;
    case CALL_LINEAR + 1: LINEAR(2); break;
    case CALL_LINEAR + 2: LINEAR(TILE_MIDDLE); break;
    case CALL_LINEAR + 3: LINEAR(TILE_WIDE); break;
#endif
    }
}

/* No access to memory moves across, by the compiler; the processor's atomic operations keep theirs in order (x86). */
#define COMPILER_FENCE __asm__ volatile("" : : : "memory")
#define WAITS_AWAKE 1000 /* looks; then the core is offered to others between them */

/* Between the looks, n before this one, of a thread that waits for another. */
INLINE void look_again(uint n) {
    __asm__ volatile("pause");
    if (n < WAITS_AWAKE) return;
    long number = 24; /* sched_yield of Linux */
    __asm__ volatile("syscall" : "+a"(number) : : "rcx", "r11", "memory");
}

/* Once the host has written an entry: whether it is a call. */
INLINE int call_comes(global const struct call *c) {
    for (uint n = 0; c->state == CALL_MISSING; n++) look_again(n);
    COMPILER_FENCE;
    return c->state == CALL_THERE;
}

INLINE void call_await(global const struct call *c) {
    for (uint n = 0; c->n_done < c->n_items; n++) look_again(n);
    COMPILER_FENCE;
}

INLINE uint range_begin(global const struct call *c, uint range) {
    return (uint)((ulong)range * c->n_items / c->n_ranges);
}

/* What is left of a range. */
INLINE void range_run(global struct call *c, uint range) {
    uint begin = range_begin(c, range), n = range_begin(c, range + 1) - begin, n_own = 0;
    while (c->n_taken[range] < n) {
        uint i = atomic_add(&c->n_taken[range], c->share), end = min(i + c->share, n);
        COMPILER_FENCE;
        for (uint k = i; k < end; k++) item_run(c, begin + k);
        COMPILER_FENCE;
        if (i < n) n_own += end - i;
    }
    if (n_own) atomic_add(&c->n_done, n_own);
}

#undef kernel
#undef get_global_id
kernel void chain(global struct call *calls, uint first) {
    uint me = get_global_id(0);
    for (global struct call *c = calls + first; call_comes(c); c++) {
        for (uint k = 0; k < c->n_ranges; k++) range_run(c, (me + k) % c->n_ranges);
        call_await(c);
    }
}

/* Whether an address of the device is the host's. */
kernel void chain_address(global const void *memory, global ulong *out) { *out = (ulong)memory; }
