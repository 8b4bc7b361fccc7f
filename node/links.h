/* Links: how fast messages go from host to host, and between ranks of one host, measured by the ranks themselves. Every
 * rank of the job calls it; the thread that calls MPI.
 *
 * Of each host the first rank speaks for it, first with the host's second rank (inside), then with other hosts in
 * rounds of disjoint pairs, as a tournament is played: everybody with everybody up to LINKS_ALL_HOSTS hosts; beyond
 * that each with its neighbours in the order of ranks, where stages will be, and with one half way round, as a
 * sample. Small messages there and back, the median; both ways at once, what they take of a processor; then large
 * ones, one way and the other. A pair takes about 0.3 s, more where a single trip takes longer than that. */
#ifndef NODE_LINKS_H
#define NODE_LINKS_H

#include "node/frame.h"
#include "node/wire.h"

#define LINKS_ALL_HOSTS 16

/* Processor time that messages take of the thread that passes them, as a step waits for them. 0: nobody to meet. */
struct message_cost {
    double message_s; /* a small one out while one comes in, and the wait for it */
    double byte_s; /* a byte out or in, of large ones */
};

/* The links that this rank measured, at most one for each other host and one inside, freed with free(); and what
 * messages between hosts cost here, inside a host where there is one. Who only answers takes what the other found. */
err links_measure(struct wire *w, struct probed_link **out, uint32_t *n_out, struct message_cost *cost);

/* The tournament of n hosts: its rounds, and whom `host` meets in one of them, -1 nobody. Pure. */
uint32_t links_n_rounds(uint32_t n);
int links_partner(uint32_t n, uint32_t round, uint32_t host);

#endif
