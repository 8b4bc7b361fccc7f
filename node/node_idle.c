/* Ranks without a cell: the plan left their devices out. Rank 0 tells them now and then that it lives, and they answer;
 * so each side finds out when the other is gone, and neither takes part in a step. */
#include <string.h>

#include "base/clock.h"
#include "node/node_parts.h"

#define TELL_US 250000
#define PAUSE_US 10000 /* nobody waits for these ranks */

static int64_t patience_us(const struct node *n) { return (int64_t)wire_deadline_ms(n->w) * 1250; }

err idle_tell(struct node *n, const struct frame_header *h) {
    for (int i = n->n_cells; i < n->size; i++) TRY(wire_put(n->w, i, WIRE_FORWARD, h, sizeof *h));
    return OK;
}

err idle_watch(struct node *n) {
    const struct frame_header ping = {FRAME_MAGIC, FRAME_PING, 0, 0};
    if (n->size == n->n_cells || n->is_stopped || clock_us() - n->told_us < TELL_US) return OK;
    n->told_us = clock_us();
    int64_t now = wire_clock_us(n->w);
    for (int i = n->n_cells; i < n->size; i++)
        if (now - n->back.heard_us[i] > patience_us(n))
            return wire_check_deadline(n->w, now - n->back.heard_us[i], i, "to answer a sign of life");
    return idle_tell(n, &ping);
}

static err frame_obey(struct node *n, const struct bytes *frame) {
    struct frame_header h;
    if (frame->len != sizeof h)
        return err_set(ERR_INTERNAL, "a message of %zu bytes to a rank without a cell", frame->len);
    memcpy(&h, frame->data, sizeof h);
    TRY(frame_check(&h));
    switch (h.kind) {
    case FRAME_PING: return back_put(n, FRAME_PONG, h.id, "", 0);
    case FRAME_GET_STATS: return stats_put(n, h.id);
    case FRAME_STOP: n->is_stopped = 1; return OK;
    default: return err_set(ERR_INTERNAL, "frame %u came to a rank without a cell", h.kind);
    }
}

static err idle_loop(struct node *n, struct bytes *frame) {
    n->heard_us = wire_clock_us(n->w);
    while (!n->is_stopped) {
        int from;
        TRY(wire_take(n->w, WIRE_FORWARD, frame, &from));
        TRY(wire_progress(n->w));
        int64_t now = wire_clock_us(n->w);
        if (from < 0 && now - n->heard_us > patience_us(n)) {
            n->is_rank_0_lost = 1;
            return wire_check_deadline(n->w, now - n->heard_us, 0, "for a sign of life");
        }
        if (from < 0) {
            clock_sleep_us(PAUSE_US);
            continue;
        }
        n->heard_us = now;
        TRY(frame_obey(n, frame));
    }
    return OK;
}

err idle_run(struct node *n) {
    struct bytes frame = {0};
    err e = idle_loop(n, &frame);
    bytes_free(&frame);
    return e;
}
