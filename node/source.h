/* Source: where the file blocks of a cell's slices come from: the model's file on this host, or the rank that has
 * it. Plain data; whoever makes it keeps what stands behind it until the stage is loaded. */
#ifndef NODE_SOURCE_H
#define NODE_SOURCE_H

#include "model/gguf.h"

/* Blocks of a tensor, as gguf_read takes them. Goes over the wire as it is. */
struct source_range {
    uint32_t tensor, zero; /* index in the model */
    uint64_t row_begin, row_end, col_begin, col_end;
};

/* Of the model, not of the message: row after row. */
uint64_t source_range_bytes(const struct gguf *g, const struct source_range *r);

struct source {
    void *context;
    const struct gguf *gguf; /* the header at least */
    /* NULL: blocks lie in a file and can be read in any order. Else ranges are wanted first, and read in about that
     * order (see stream.h); *place is where the range begins, more rows of it lie further on. */
    err (*want)(void *context, const struct source_range *r, uint64_t *place);
    /* Fills dst with a range, or with some of the rows of one. Several threads at a time. */
    err (*read)(void *context, const struct source_range *r, uint64_t place, void *dst);
    /* A range will be read soon; NULL: that is no use. */
    void (*advise)(void *context, const struct source_range *r);
    struct slice_cache *cache; /* of packed slices; NULL: none */
};

/* The model's own file. */
struct source source_file(const struct gguf *g);

#endif
