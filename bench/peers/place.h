/* place.h - the directory of a store: cold, measured, copied, damaged.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_PEERS_PLACE_H
#define KVSTOW_BENCH_PEERS_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A regular file somewhere below a directory. */
struct place_file {
  char *path;
  uint64_t bytes;
};
struct place_files {
  struct place_file *file;
  size_t count;
  uint64_t bytes;      /* of all */
  uint64_t disk_bytes; /* that the file system has given them */
};
/* False: errno tells. Free it in either case. */
bool place_list(const char *dir, struct place_files *files);
void place_free(struct place_files *files);

/* Puts all of a directory out of the page cache, and asks whether it is gone. False: errno tells. */
bool place_cool(const char *dir);

/* Bytes a process has caused to be written to devices, as the kernel counts them. 0 where it does not tell. */
uint64_t place_written(pid_t process);

/* CPU seconds of another process. */
double place_cpu_s(pid_t process);

/* All files and directories below `from`, in an empty `to`. False: errno tells. */
bool place_copy(const char *from, const char *to);

#endif
