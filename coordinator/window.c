#include "coordinator/window.h"

/* Of the window; figures of one clock may still be off by the microseconds between their readings. */
static double part(double begin_s, double end_s, double seconds) {
    double share = seconds > 0 ? (end_s - begin_s) / seconds : 0;
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

void window_between(const struct engine_rank *begin, const struct engine_rank *end, struct window *out) {
    double seconds = end->clock_s - begin->clock_s;
    *out = (struct window){
        .seconds = seconds, .busy = part(begin->compute_s, end->compute_s, seconds),
        .share = part(begin->share_s, end->share_s, seconds), .sending = part(begin->send_s, end->send_s, seconds),
        .bubble = part(begin->wait_s, end->wait_s, seconds), .n_steps = end->n_steps - begin->n_steps,
        .bytes_sent = end->bytes_sent - begin->bytes_sent};
    if (out->n_steps) out->step_s = (out->busy + out->share) * seconds / (double)out->n_steps;
}

double window_compute_s(const struct window *windows, uint32_t n_stages, uint32_t n_shards) {
    double sum = 0;
    for (uint32_t stage = 0; stage < n_stages; stage++) {
        double most = 0;
        for (uint32_t i = 0; i < n_shards; i++, windows++)
            if (windows->step_s > most) most = windows->step_s;
        sum += most;
    }
    return sum;
}
