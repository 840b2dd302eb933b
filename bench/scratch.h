/* scratch.h - directories that a benchmark fills with gigabytes, and that are gone when it ends, by Ctrl-C too.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_SCRATCH_H
#define KVSTOW_BENCH_SCRATCH_H

#include <stdbool.h>

/* A new directory for a store, under `under`, or TMPDIR, or /var/tmp. False: errno tells. From the first on, SIGINT,
 * SIGTERM and SIGHUP remove what there is before they end the process, unless they were ignored. One thread. */
enum { BENCH_PATH_BYTES = 1024 };
bool bench_scratch_make(const char *under, char path[BENCH_PATH_BYTES]);
/* Removes it and all that is in it. */
void bench_scratch_remove(const char *path);

#endif
