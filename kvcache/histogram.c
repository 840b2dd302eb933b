/* histogram.c - see histogram.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/histogram.h"

#include <time.h>

#define SUB_BITS 5u
#define SUB (1u << SUB_BITS)

uint64_t kvs_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Values below 32 have a bucket each; above, the exponent and the next five bits name it. */
static unsigned bucket_of(uint64_t ns) {
  if (ns < SUB) return (unsigned)ns;
  const unsigned exponent = 63u - (unsigned)__builtin_clzll(ns);
  const unsigned bucket =
      (exponent - SUB_BITS + 1) * SUB + (unsigned)(ns >> (exponent - SUB_BITS) & (SUB - 1));
  return bucket < KVS_HISTOGRAM_BUCKETS ? bucket : KVS_HISTOGRAM_BUCKETS - 1;
}

static double middle_of(unsigned bucket) {
  if (bucket < SUB) return bucket;
  const unsigned shift = bucket / SUB - 1;
  return ((double)(SUB + bucket % SUB) + 0.5) * (double)((uint64_t)1 << shift);
}

void kvs_histogram_add(struct kvs_histogram *histogram, uint64_t ns) {
  atomic_fetch_add_explicit(&histogram->buckets[bucket_of(ns)], 1, memory_order_relaxed);
  atomic_fetch_add_explicit(&histogram->sum_ns, ns, memory_order_relaxed);
  uint64_t max = atomic_load_explicit(&histogram->max_ns, memory_order_relaxed);
  while (ns > max && !atomic_compare_exchange_weak_explicit(
                         &histogram->max_ns, &max, ns, memory_order_relaxed, memory_order_relaxed))
    continue;
}

static double percentile(const struct kvs_histogram *histogram, uint64_t count, double share) {
  uint64_t rank = (uint64_t)((double)count * share), seen = 0;
  if (rank >= count) rank = count - 1;
  for (unsigned i = 0; i < KVS_HISTOGRAM_BUCKETS; i++) {
    seen += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
    if (seen > rank) return middle_of(i) / 1e3;
  }
  return 0;
}

void kvs_histogram_get(const struct kvs_histogram *histogram, kvstow_latency *latency) {
  *latency = (kvstow_latency){0};
  for (unsigned i = 0; i < KVS_HISTOGRAM_BUCKETS; i++)
    latency->count += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
  if (latency->count == 0) return;
  latency->mean_us = (double)histogram->sum_ns / (double)latency->count / 1e3;
  latency->p50_us = percentile(histogram, latency->count, 0.50);
  latency->p99_us = percentile(histogram, latency->count, 0.99);
  latency->p999_us = percentile(histogram, latency->count, 0.999);
  latency->max_us = (double)histogram->max_ns / 1e3;
}
