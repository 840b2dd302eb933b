/* tier/readahead.h - what streams will want next, read into memory of ours before they ask.
 *
 * One region for all files of a tier, cut into blocks (tuning.optimal_block_size). A block is empty,
 * being loaded, or ready; readers pin the blocks they want, copy out of those that are ready and wait for
 * those that are not. A block read to its end is spent, and the first to be used again; one never wanted
 * goes when there are no others. Errors of read-ahead are silent: the block is gone, its readers ask
 * the device.
 *
 * Any thread; nothing here blocks but kvstow__readahead_copy with `wait`, and kvstow__readahead_leave.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_READAHEAD_H
#define KVSTOW_TIER_READAHEAD_H

#include "tier/state.h"

/* One demand read, as read-ahead knows it. */
typedef struct kvstow__ahead {
  kvstow_file *file; /* in: these three */
  uint64_t offset;
  size_t bytes;
  size_t held;    /* out: leading bytes that are in memory or on their way, pinned */
  size_t copied;  /* of them */
  size_t lost;    /* after these: bytes once held that will never come */
  uint64_t birth; /* of the stream it is counted in; 0: none */
  uint32_t place;
} kvstow__ahead;

kvstow__readahead *kvstow__readahead_new(kvstow_tier *tier); /* NULL: no memory */
void kvstow__readahead_free(kvstow__readahead *ra);          /* every file closed before */

/* Before reads are carried out: recognises streams, starts reading ahead, pins what is there. */
void kvstow__readahead_begin(kvstow_tier *tier, kvstow__ahead *aheads, size_t count);

/* Copies what is held to `to` (where the read begins) as far as it is there; with `wait`, all of it. */
void kvstow__readahead_copy(kvstow__ahead *ahead, uint8_t *to, bool wait);

/* On the I/O thread, when kvstow__readahead_copy left something: has the job finished again once the
 * next of it has come. False: it has come by now. */
bool kvstow__readahead_park(const kvstow__ahead *ahead, kvstow__read_job *job);

/* On the I/O thread: finishes the parked jobs that nobody wants any more. */
void kvstow__readahead_sweep(kvstow_tier *tier);

/* The read is answered. */
void kvstow__readahead_end(kvstow__ahead *ahead);

/* Drops what is there of the file from an offset on; what is being loaded is dropped when it comes. */
void kvstow__readahead_forget(kvstow_file *file, uint64_t offset);
/* Waits until nothing is being loaded, then drops all. The file's reads have been answered. */
void kvstow__readahead_leave(kvstow_file *file);

#endif
