/* tier/schedule.h - turns reads wanted into reads sent: sorts, merges neighbours, splits giants.
 *
 * Pure: no I/O, no locks, no allocation. The input is a list of extents (a byte range of a file and
 * the buffers it goes to), the output device requests that cover them, each at most request_max
 * bytes and KVSTOW__IOV_MAX vectors. It promises that every byte of every extent lands in its own
 * buffer exactly once, and never more requests than splitting each extent alone would make.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_SCHEDULE_H
#define KVSTOW_TIER_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

typedef struct kvstow__extent kvstow__extent;
struct kvstow__extent {
  uint32_t file;
  bool alone; /* not to be merged: its neighbourhood failed to read */
  uint64_t offset, length;
  uint64_t file_end;  /* rounding does not go beyond */
  uint64_t merge_max; /* bytes: a request is not merged beyond that; 0: request_max_bytes */
  struct iovec iov[3];
  uint32_t iov_count;
  /* the I/O thread's */
  uint32_t parts; /* requests that carry a piece of it, not yet completed */
  int error;
  void *owner;
  kvstow__extent *next;
};

typedef struct kvstow__limits {
  bool merge;                 /* sort and merge; false: one extent, one request, as they come */
  uint64_t gap_max_bytes;     /* a gap read into scratch rather than leaving a second request */
  uint64_t request_max_bytes; /* multiple of 4096 */
  uint64_t block_bytes;       /* ends are rounded out to multiples of it: a power of two */
  void *scratch;              /* where gaps go; contents are garbage */
  size_t scratch_bytes;       /* >= 64 KiB */
} kvstow__limits;

typedef struct kvstow__request {
  uint32_t file;
  uint64_t offset, length;
  uint64_t wanted_offset, wanted_end; /* before rounding: what the extents get */
  const struct iovec *iov;            /* valid during emit */
  uint32_t iov_count;
  bool scratch;                   /* some vectors are scratch */
  kvstow__extent *const *extents; /* those it carries, whole or in part; valid during emit */
  size_t extents_count;
} kvstow__request;

typedef void (*kvstow__emit)(void *arg, const kvstow__request *request);

/* Sorts `extents` in place by file and offset and emits the requests in that order. */
void kvstow__schedule(kvstow__extent **extents, size_t count, const kvstow__limits *limits,
                      kvstow__emit emit, void *arg);

#endif
