/* Slice cache: packed slices on this host's disk, so that the next start neither reads the model's file nor packs.
 *
 * A file per slice, named by a hash of the model, the tensor, the range and the packed layout. It begins with a
 * checksum for each of its parts, which are the loader's (kernels/pack.h); a part that is damaged is told and
 * written again. Files come about beside their name and are renamed when whole, under a lock of the folder that any
 * number of ranks and jobs share; what was not used for longest goes where the bound is reached. Whatever fails here
 * costs time, never the job.
 *
 * One thread owns a cache; several threads read and write the parts of its copies. */
#ifndef NODE_SLICE_CACHE_H
#define NODE_SLICE_CACHE_H

#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "model/packed.h"

struct slice_cache;
struct slice_copy;

/* What a slice is a slice of: equal only for models whose bytes are. */
struct slice_model {
    uint64_t hash[3];
};

/* `folder`, made where it is missing, "": the user's cache folder. At most most_bytes of files lie there, and half
 * of what the disk has free. ERR_FILE says why there can be none. */
err slice_cache_open(const char *folder, uint64_t most_bytes, const struct slice_model *model,
                     struct slice_cache **out);
/* Copies that are not whole are forgotten. */
void slice_cache_close(struct slice_cache *c);

/* The copy of rows [row_begin, row_end) and columns [col_begin, col_end) of a tensor, there or to be made; belongs to
 * the cache. */
err slice_cache_find(struct slice_cache *c, const char *tensor, const struct packed_layout *layout,
                     const uint64_t range[4], struct slice_copy **out);
/* Once all are found: makes room for those that are missing, as far as the bound allows. */
void slice_cache_reserve(struct slice_cache *c);

int slice_copy_is_there(const struct slice_copy *s); /* else it is to be written */
/* A part's planes [n], into or from memory. ERR_FORMAT: damaged, a warning was given; the right bytes should be
 * written in its place. */
err slice_copy_read(struct slice_copy *s, uint32_t part, const struct iovec *planes, int n);
void slice_copy_write(struct slice_copy *s, uint32_t part, const struct iovec *planes, int n);

#endif
