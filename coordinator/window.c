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

void window_difference(const struct engine_rank *begin, const struct engine_rank *end, struct engine_rank *out) {
    *out = *end;
    out->n_steps -= begin->n_steps;
    out->bytes_sent -= begin->bytes_sent;
    out->bytes_received -= begin->bytes_received;
    out->one_row_steps -= begin->one_row_steps;
    out->many_steps -= begin->many_steps;
    out->many_rows -= begin->many_rows;
    out->compute_s -= begin->compute_s;
    out->wait_s -= begin->wait_s;
    out->send_s -= begin->send_s;
    out->share_s -= begin->share_s;
    out->one_row_s -= begin->one_row_s;
    out->many_s -= begin->many_s;
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
