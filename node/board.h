/* Board: memory that shards of a stage share, all of them processes of one host. At each
 * meeting every shard copies its partial sums into the board's area and says so; each then reads
 * the sums of all from there. Where a stage has shards on other hosts, too, every second meeting is for what the
 * first of these shards has to say: it has met the other hosts and laid down the whole sum.
 *
 * A board has two areas, used in turn: who writes to one has been at the meeting before, and so has
 * everybody else, who is thus done with the meeting before that.
 *
 * Two threads of a process use a board: board_meet runs where the device runs what is
 * enqueued, the rest is for the thread that enqueues. */
#ifndef NODE_BOARD_H
#define NODE_BOARD_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

struct board;

/* What another process of this user needs to open a board. */
struct board_name {
    uint64_t number; /* drawn at random, 0: none; the board holds it, too */
    int32_t pid, fd;
};

/* A new board with areas of n_bytes; shard 0 makes it. It is gone with the last process that has it. */
err board_create(size_t n_bytes, uint32_t n_shards, struct board **out, struct board_name *name);
/* The one that another shard made. ERR_FILE when it cannot be opened from here. */
err board_open(const struct board_name *name, size_t n_bytes, uint32_t n_shards, uint32_t shard,
               struct board **out);
void board_free(struct board *b);
void board_set_deadline(struct board *b, int64_t us);

/* An area, n_bytes at a multiple of a page. */
void *board_area(struct board *b, uint32_t i);

/* Meetings are numbered from 0, the same for all shards; meeting i uses area i % 2. */
struct board_meeting {
    struct board *board;
    uint32_t number;
    int layer;            /* for messages */
    size_t at, n_bytes;   /* of this shard's sums in the area */
    int64_t patience_us;  /* to wait beyond the deadline */
};

/* Copies `mine` to the area and waits for the other shards, after a short while in sleep. When one does not
 * come within the deadline this is noted (board_missing), and no later meeting waits. */
void board_meet(const struct board_meeting *m, const void *mine);

/* Comes to a meeting without waiting, from any thread: what this shard has to say lies in the area already. */
void board_come(struct board *b, uint32_t number);

struct board_missing {
    uint32_t shard; /* counted from the first of the board */
    int layer;
    int64_t waited_us; /* without the patience */
};
/* Whether a shard did not come in time. */
int board_missing(struct board *b, struct board_missing *out);

/* Microseconds in which meetings waited, since the board was made. */
int64_t board_waited_us(struct board *b);

#endif
