/* histogram.h - latencies in log-linear buckets, after HdrHistogram (Tene): 32 buckets to a doubling,
 * so that a value is known to 3 %. Adding is one atomic increment; any thread, no lock.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_HISTOGRAM_H
#define KVSTOW_KVCACHE_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#include "kvstow/kvstow.h"

#define KVS_HISTOGRAM_BUCKETS (32u * 34u) /* nanoseconds up to 2^38: over four minutes */

struct kvs_histogram {
  _Atomic uint64_t buckets[KVS_HISTOGRAM_BUCKETS];
  _Atomic uint64_t sum_ns, max_ns;
  _Atomic uint32_t turn;
};

/* True the first time, and then one time in KVS_HISTOGRAM_SAMPLE: whether to time a call. Threads at once may
 * share a turn: no atomic increment for what is a choice. */
#define KVS_HISTOGRAM_SAMPLE 64u
static inline bool kvs_histogram_turn(struct kvs_histogram *histogram) {
  const uint32_t turn = atomic_load_explicit(&histogram->turn, memory_order_relaxed);
  atomic_store_explicit(&histogram->turn, turn + 1, memory_order_relaxed);
  return turn % KVS_HISTOGRAM_SAMPLE == 0;
}

uint64_t kvs_now_ns(void);
void kvs_histogram_add(struct kvs_histogram *histogram, uint64_t ns);
void kvs_histogram_get(const struct kvs_histogram *histogram, kvstow_latency *latency);

#endif
