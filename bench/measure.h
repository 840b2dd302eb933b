/* measure.h - clocks, medians, latencies, and memory fit to be timed.
 *
 * A figure is the median of rounds; a round times the contestant and its limit one after the other,
 * so that what else the machine does falls on both. Memory that is timed has been touched before:
 * the first touch of a page can cost more than all that is measured.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_BENCH_MEASURE_H
#define KVSTOW_BENCH_MEASURE_H

#include <stddef.h>
#include <stdint.h>

enum { MEASURE_ROUNDS_MAX = 64 };

uint64_t measure_now_ns(void);

/* CPU seconds of this process so far, kernel's included. */
double measure_cpu_s(void);

/* Sorts. NaN of none. */
double measure_median(double *values, size_t count);

/* Wall and CPU time of one piece of work. */
struct measure_span {
  double seconds, cpu_s;
};
struct measure_span measure_begin(void);
struct measure_span measure_end(struct measure_span begun);

/* Runs work(arg, 0..threads-1), each on a thread of its own, all let go at once. The span is from
 * then until the last has ended. */
struct measure_span measure_parallel(unsigned threads, void (*work)(void *arg, unsigned thread),
                                     void *arg);

/* Nanoseconds in log-linear buckets: a value is known to 3 %. Not thread-safe. */
enum { MEASURE_BUCKETS = 32 * 40 };
struct measure_latency {
  uint64_t buckets[MEASURE_BUCKETS];
  uint64_t count, max_ns;
};
void measure_latency_add(struct measure_latency *latency, uint64_t ns);
void measure_latency_merge(struct measure_latency *into, const struct measure_latency *from);
double measure_latency_ns(const struct measure_latency *latency, double share);

/* Huge pages advised, every page touched, 2 MiB aligned. NULL when there is no memory. */
void *measure_memory(size_t bytes);
void measure_memory_free(void *memory, size_t bytes);
/* Touches every page of a mapping that is somebody else's, without changing it. */
void measure_touch(void *memory, size_t bytes);

/* Fills with words that differ from one another; returns the next seed. */
uint64_t measure_fill(void *memory, size_t bytes, uint64_t seed);
/* The word that a fill from `seed` puts at `offset`, a multiple of 8. */
uint64_t measure_word(uint64_t seed, uint64_t offset);

#endif
