/* tier/stream.h - recognises reads in order, many at a time, and says how far to read ahead of each.
 *
 * Pure: no I/O, no locks, no allocation. A file has a table of streams. A read that begins where one of
 * them is expected (64 KiB of tolerance either way) continues it; any other read begins a new one, in
 * the place of the one least recently continued. After `threshold` reads that advanced it, a stream is
 * detected and gets a window. It ends with a jump: when three reads a detected stream have come in a row
 * that continued nothing, or when its place is needed. A stream whose read-ahead nobody used makes the
 * table more cautious: the next one has to show twice as many reads.
 *
 * The window doubles when a reader had to wait for what was read ahead, at most once each time it has
 * been read through, and halves when something of it was dropped unread. Beyond its first
 * size it is at most a twelfth of what the stream has shown so far: little is wasted when it ends.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_STREAM_H
#define KVSTOW_TIER_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVSTOW__STREAMS 32u
#define KVSTOW__STREAM_TOLERANCE_BYTES 65536u

/* All bytes are of the file. */
typedef struct kvstow__stream {
  uint64_t next;      /* where the next read is expected */
  uint64_t length;    /* read in order so far */
  uint64_t birth;     /* tells it from others that had its place; 0: the place is empty */
  uint64_t in_flight; /* demand reads of it, not yet answered */
  uint64_t ahead;     /* read ahead up to here */
  uint64_t window;    /* bytes to be ahead; 0 until detected */
  uint64_t grow_from; /* a wait from here on widens the window */
  uint32_t reads;     /* that advanced it */
  uint32_t strangers; /* reads of the file, since, that continued nothing */
  bool useful;        /* some of what was read ahead was wanted */
} kvstow__stream;

typedef struct kvstow__streams {
  kvstow__stream all[KVSTOW__STREAMS];
  /* Of each, by its place; together, because every read looks through them. */
  uint64_t expected[KVSTOW__STREAMS]; /* its next */
  uint64_t seen[KVSTOW__STREAMS];     /* the clock when it was last continued; 0: empty */
  uint64_t clock, births;
  uint32_t detected; /* streams with a window */
  uint32_t caution;  /* the threshold is shifted left by it */
} kvstow__streams;

typedef struct kvstow__stream_limits {
  uint32_t threshold;    /* reads in order */
  uint64_t block_bytes;  /* reading ahead moves in these */
  uint64_t window_bytes; /* of a stream just detected */
  uint64_t share_bytes;  /* the widest */
  uint64_t file_bytes;
} kvstow__stream_limits;

typedef struct kvstow__sighting {
  uint32_t place;
  bool continued; /* a stream that was there before */
  bool detected;  /* just now */
  uint32_t ended; /* detected streams that it ended */
} kvstow__sighting;

kvstow__sighting kvstow__stream_see(kvstow__streams *streams, uint64_t offset, uint64_t bytes,
                                    const kvstow__stream_limits *limits);

/* Whether to read [*from, *to) ahead now, in whole blocks. A reader who has a first window's worth in
 * flight himself needs no help. */
bool kvstow__stream_wants(const kvstow__stream *stream, const kvstow__stream_limits *limits,
                          uint64_t *from, uint64_t *to);

/* Something at `offset` that was read ahead of it was wanted, and had to be waited for, or not. */
void kvstow__stream_used(kvstow__streams *streams, kvstow__stream *stream, uint64_t offset,
                         bool late, const kvstow__stream_limits *limits);
/* Something was dropped unread. */
void kvstow__stream_wasted(kvstow__stream *stream, const kvstow__stream_limits *limits);

#endif
