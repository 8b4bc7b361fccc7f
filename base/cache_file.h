/* Cache files: what was costly to find out, kept for this user's next start. Any thread; any number of processes. */
#ifndef BASE_CACHE_FILE_H
#define BASE_CACHE_FILE_H

#include <stddef.h>

#include "base/err.h"
#include "base/mem.h"

/* Makes a folder that only this user can write, or finds it; 0 when somebody else owns it. */
int cache_folder_make(const char *path);

/* Where the user's caches are ($XDG_CACHE_HOME or ~/.cache; $POCL_CACHE_DIR where that says more, see device.c), in it
 * caravan/, in it `name` ("": caravan/ itself). 0: nowhere. */
int cache_folder_find(const char *name, char *out, size_t cap);

/* The whole of a file that nobody but this user can write. ERR_FILE says why not; *is_there is 0 where there
 * is none, which is OK and leaves `out` as it is. */
err cache_file_read(const char *path, size_t most_bytes, struct bytes *out, int *is_there);

/* Written beside and renamed: others read and write it at the same time. */
err cache_file_write(const char *path, const void *data, size_t n);

#endif
