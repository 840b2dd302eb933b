/* raw_uring.h - the limit of everything that touches the SSD: a bare loop over io_uring.
 *
 * Direct I/O of equal blocks at a fixed depth, nothing else: no checksum, no index, no scheduling.
 * What kvstow reaches is printed as a share of what this reaches on the same disk in the same run.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_RAW_URING_H
#define KVSTOW_BENCH_RAW_URING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/measure.h"

/* A piece of a file opened with O_DIRECT. */
struct raw_extent {
  int fd;
  uint64_t offset, bytes;
};

struct raw_uring_job {
  const struct raw_extent *extents; /* gone through in order, from the first again after the last */
  size_t extents_count;
  uint32_t block_bytes; /* multiple of 4096; an extent's tail shorter than this is left out */
  unsigned depth;
  uint64_t total_bytes; /* moved in all, rounded down to blocks */
  bool write;
  bool threads; /* no ring: so many threads as requests in flight move a block at a time each */
  const uint64_t *offsets; /* NULL, or where each block lies in the first extent's file */
  char *buffers;           /* block_bytes * depth, or, */
  bool spread;             /* total_bytes: block after block gets a buffer of its own */
};

struct raw_uring_result {
  uint64_t bytes;
  struct measure_span span;
  struct measure_latency latency; /* of one request */
};

/* 0, or a negative errno: a short transfer is -EIO. Where io_uring is forbidden, threads do it. */
int raw_uring_run(const struct raw_uring_job *job, struct raw_uring_result *result);
bool raw_uring_forbidden(void); /* it was, at the last run */

/* Opens for direct I/O; negative errno where there is none, -EMEDIUMTYPE where it reaches no device: page-cache
 * speed is not the SSD's. */
int raw_uring_open(const char *path, bool write);

/* Opens the files of a directory that are no shorter than `least_bytes`, by name, up to their first
 * byte never written: the segments of a store. How many, at most `max`, or a negative errno. The
 * descriptors are the caller's. */
int raw_uring_open_dir(const char *dir, uint64_t least_bytes, struct raw_extent *extents,
                       size_t max);

/* What such an error means, for a message. */
const char *raw_uring_why(int rc);

/* A new file of `bytes`, preallocated and written once, so that what is timed is an overwrite. A
 * descriptor, or a negative errno. */
int raw_uring_create(const char *path, uint64_t bytes);

#endif
