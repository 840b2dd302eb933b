/* cold.h - a file whose bytes are not in this machine's page cache.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_COLD_H
#define KVSTOW_BENCH_COLD_H

#include <stdbool.h>

/* Puts a file's pages out of the cache and asks the kernel (mincore) whether they are gone. 0; -EBUSY: some
 * stay, as they do in a file system that lives in memory, or the kernel does not tell because the file is
 * somebody else's; or a negative errno. */
int cold_drop(int fd);

/* True if the file system says (statx) that direct I/O of 4 KiB pages reaches a device here. */
bool cold_direct(int fd);

#endif
