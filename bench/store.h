/* store.h - what the parts of `kvstow bench store` share: a store in RAM or on SSD, rows to put into
 * it, and the ways to put them.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_STORE_H
#define KVSTOW_BENCH_STORE_H

#include <kvstow/kvstow.h>
#include <stdatomic.h>

#include "bench/frame.h"
#include "bench/measure.h"
#include "cli/models.h"

/* One layout, one open store, and the caller's side of it. */
struct bed {
  const struct model *model;
  kvstow *store;
  kvstow_space *space;
  uint32_t block_tokens, plane_bytes;
  size_t token_bytes;
  char *source; /* batch after batch; in one, layer after layer its K rows, then its V rows */
  size_t source_bytes;
  char *target; /* where plain memcpy puts them: as much memory as the store has */
  size_t target_bytes;
  _Atomic int32_t names; /* a sequence's first token, so that no two are alike */
};

/* `o` says where and how much. False: `report` says why. */
bool bed_open(struct bed *bed, const struct model *model, const kvstow_options *o,
              size_t source_bytes, struct bench_report *report);
void bed_close(struct bed *bed, struct bench_report *report);

struct work;

struct way {
  const char *path, *call;
  bool whole_blocks; /* only batches of whole blocks */
  bool bytes_move;   /* in the calls; else memcpy is what filling the room would take */
  int (*batch)(struct work *work, unsigned thread, size_t batch);
};

extern const struct way way_append, way_store, way_reserve;

/* So many tokens, batch by batch, on each of so many threads; each a sequence of its own. */
struct work {
  struct bed *bed;
  const struct way *way;
  unsigned threads;
  size_t batch_tokens, batches; /* of one thread */
  bool timed;                   /* one call at a time, into `latency` */
  double bytes_s;               /* no faster than this; 0: as fast as can be */
  struct lane *lanes;           /* one a thread */
};

bool work_init(struct work *work);
void work_free(struct work *work);
size_t work_bytes(const struct work *work);

/* The contestants. A first error goes to the report. */
struct measure_span work_run(struct work *work, struct bench_report *report);
struct measure_span work_memcpy(struct work *work);        /* a batch at a time */
struct measure_span work_memcpy_pieces(struct work *work); /* row by row, to where blocks lie */

/* Of all threads, since the last call. */
void work_latency(struct work *work, struct measure_latency *latency);
void work_write_latency(json_t *row, const struct measure_latency *latency);

/* Reads each thread's newest sequence back and compares every byte. Bytes compared. */
uint64_t work_verify(struct work *work, struct bench_report *report);

/* The path to SSD. */
void bench_store_sustained(const struct bench_args *args, const struct model *model,
                           struct bench_report *report, uint64_t *verified);

#endif
