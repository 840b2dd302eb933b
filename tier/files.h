/* tier/files.h - files that are not part of the log: what their rooms share.
 *
 *   files.c      opening, closing, what is known of a file
 *   file_read.c  reading: into the caller's memory wherever alignment lets it
 *   file_append.c  gathering what is appended, writing it in the background
 *   readahead.c  what streams will want next, read before they ask
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_FILES_H
#define KVSTOW_TIER_FILES_H

#include "tier/state.h"
#include "tier/stream.h"

typedef struct kvstow__appender kvstow__appender;

struct kvstow_file {
  kvstow_tier *tier;
  char *path;
  int fd;
  uint32_t number; /* KVSTOW__FILES and up */
  bool direct;
  _Atomic uint64_t readable; /* bytes that may be read */

  kvstow__mutex lock;
  pthread_cond_t idle; /* with lock: reads is 0 */
  uint64_t reads;      /* lock: taken and not yet answered */

  kvstow__streams streams; /* the read-ahead's lock */
  uint32_t loads;          /* likewise: being read ahead */

  kvstow__appender *appender; /* NULL: opened for reading */
};

/* Reads of a file go on whole pages where it is open for direct I/O. */
static inline uint64_t kvstow__file_grain(const kvstow_file *file) {
  return file->direct ? KVSTOW_PAGE_BYTES : 1;
}

/* Points an op that reads at the file; its range may reach into the last page. */
void kvstow__file_aim(const kvstow_file *file, kvstow__op *op);

/* file_append.c */
kvstow__appender *kvstow__appender_new(kvstow_file *file, uint64_t reserved);
void kvstow__appender_free(kvstow__appender *appender); /* flushed; NULL is fine */
uint64_t kvstow__appender_bytes(const kvstow__appender *appender);

/* Waits until every read has been answered. */
void kvstow__file_wait(kvstow_file *file);

#endif
