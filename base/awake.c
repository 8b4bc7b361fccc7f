#include "base/awake.h"

#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

static int request = -1;

void awake_begin(void) {
    const int32_t latency_us = 0;
    if (request >= 0) return;
    request = open("/dev/cpu_dma_latency", O_WRONLY | O_CLOEXEC);
    if (request < 0 || write(request, &latency_us, sizeof latency_us) == sizeof latency_us) return;
    close(request);
    request = -1;
}

int awake_is_on(void) { return request >= 0; }

const char *awake_text(void) { return awake_is_on() ? ", processors kept awake" : ""; }
