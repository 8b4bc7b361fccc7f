/* FETCH(p): asks for the cache line at p before it is needed. Forms of this host's
 * processor only, where an address beyond the buffer does no harm. */
#if defined(DOT_AVX2) || defined(DOT_AVX_VNNI) || defined(DOT_AVX512_VNNI)
#define FETCH(p) __asm__ volatile("prefetcht0 %0" : : "m"(*(p)))
#else
#define FETCH(p)
#endif
