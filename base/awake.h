/* Awake: keeps this machine's processors out of their sleep states, from which some wake late, virtual ones above all,
 * so that a benchmark measures programs and not sleep. It is the kernel's request for no latency (PM QoS,
 * /dev/cpu_dma_latency), which lasts as long as this process. */
#ifndef BASE_AWAKE_H
#define BASE_AWAKE_H

/* Changes nothing where the system does not let it: usually only root may ask. */
void awake_begin(void);

int awake_is_on(void);
/* For the head of a table: ", processors kept awake", or nothing. */
const char *awake_text(void);

#endif
