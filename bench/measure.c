/* measure.c - see measure.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench/measure.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

enum { SUB_BITS = 5, SUB = 1 << SUB_BITS, HUGE_BYTES = 2 << 20, PAGE_BYTES = 4096 };

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

uint64_t measure_now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

double measure_cpu_s(void) {
  struct rusage r;
  getrusage(RUSAGE_SELF, &r);
  return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
         (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec) / 1e6;
}

static int by_value(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double measure_median(double *values, size_t count) {
  if (count == 0) return (double)NAN;
  qsort(values, count, sizeof *values, by_value);
  return count % 2 == 1 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

struct measure_span measure_begin(void) {
  const double cpu_s = measure_cpu_s();
  return (struct measure_span){(double)measure_now_ns() / 1e9, cpu_s};
}

struct measure_span measure_end(struct measure_span begun) {
  const double now = (double)measure_now_ns() / 1e9;
  return (struct measure_span){now - begun.seconds, measure_cpu_s() - begun.cpu_s};
}

/* ---- threads -------------------------------------------------------------------------------- */

struct runner {
  pthread_t id;
  pthread_barrier_t *start;
  void (*work)(void *arg, unsigned thread);
  void *arg;
  unsigned thread;
};

static void *runner_main(void *arg) {
  const struct runner *runner = arg;
  pthread_barrier_wait(runner->start);
  runner->work(runner->arg, runner->thread);
  return NULL;
}

struct measure_span measure_parallel(unsigned threads, void (*work)(void *arg, unsigned thread),
                                     void *arg) {
  struct runner *runners = calloc(threads, sizeof *runners);
  pthread_barrier_t start;
  if (runners == NULL || pthread_barrier_init(&start, NULL, threads + 1) != 0) abort();
  for (unsigned i = 0; i < threads; i++) {
    runners[i] = (struct runner){.start = &start, .work = work, .arg = arg, .thread = i};
    if (pthread_create(&runners[i].id, NULL, runner_main, &runners[i]) != 0) abort();
  }
  const struct measure_span begun = measure_begin();
  pthread_barrier_wait(&start);
  for (unsigned i = 0; i < threads; i++) pthread_join(runners[i].id, NULL);
  const struct measure_span span = measure_end(begun);
  pthread_barrier_destroy(&start);
  free(runners);
  return span;
}

/* ---- latencies ------------------------------------------------------------------------------ */

static unsigned bucket_of(uint64_t ns) {
  if (ns < SUB) return (unsigned)ns;
  const unsigned exponent = 63u - (unsigned)__builtin_clzll(ns);
  const unsigned bucket =
      (exponent - SUB_BITS + 1) * SUB + (unsigned)(ns >> (exponent - SUB_BITS) & (SUB - 1));
  return bucket < MEASURE_BUCKETS ? bucket : MEASURE_BUCKETS - 1;
}

static double middle_of(unsigned bucket) {
  if (bucket < SUB) return bucket;
  const unsigned shift = bucket / SUB - 1;
  return ((double)(SUB + bucket % SUB) + 0.5) * (double)((uint64_t)1 << shift);
}

void measure_latency_add(struct measure_latency *latency, uint64_t ns) {
  latency->buckets[bucket_of(ns)]++;
  latency->count++;
  if (ns > latency->max_ns) latency->max_ns = ns;
}

void measure_latency_merge(struct measure_latency *into, const struct measure_latency *from) {
  for (unsigned i = 0; i < MEASURE_BUCKETS; i++) into->buckets[i] += from->buckets[i];
  into->count += from->count;
  if (from->max_ns > into->max_ns) into->max_ns = from->max_ns;
}

double measure_latency_ns(const struct measure_latency *latency, double share) {
  if (latency->count == 0) return (double)NAN;
  uint64_t rank = (uint64_t)((double)latency->count * share), seen = 0;
  if (rank >= latency->count) rank = latency->count - 1;
  for (unsigned i = 0; i < MEASURE_BUCKETS; i++) {
    seen += latency->buckets[i];
    if (seen > rank) return middle_of(i);
  }
  return (double)latency->max_ns;
}

/* ---- memory --------------------------------------------------------------------------------- */

static size_t whole_pages(size_t bytes) {
  return (bytes + HUGE_BYTES - 1) / HUGE_BYTES * HUGE_BYTES;
}

void *measure_memory(size_t bytes) {
  const size_t wanted = whole_pages(bytes);
  char *mapping = mmap(NULL, wanted + HUGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return NULL;
  char *base = (char *)(((uintptr_t)mapping + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
  if (base > mapping) munmap(mapping, (size_t)(base - mapping));
  const size_t behind = (size_t)(mapping + wanted + HUGE_BYTES - (base + wanted));
  if (behind > 0) munmap(base + wanted, behind);
  (void)madvise(base, wanted, MADV_HUGEPAGE);
  measure_touch(base, wanted);
  return base;
}

void measure_memory_free(void *memory, size_t bytes) {
  if (memory != NULL) munmap(memory, whole_pages(bytes));
}

void measure_touch(void *memory, size_t bytes) {
  if (madvise(memory, bytes, MADV_POPULATE_WRITE) == 0) return;
  for (size_t at = 0; at < bytes; at += PAGE_BYTES) { /* kernels before 5.14 */
    _Atomic char *byte = (_Atomic char *)memory + at;
    *byte += 0;
  }
}

static const uint64_t fill_step = 0x9e3779b97f4a7c15ull;

uint64_t measure_word(uint64_t seed, uint64_t offset) {
  seed += (offset / 8 + 1) * fill_step;
  return seed ^ (seed >> 32);
}

uint64_t measure_fill(void *memory, size_t bytes, uint64_t seed) {
  uint64_t *words = memory;
  for (size_t i = 0; i < bytes / 8; i++) {
    seed += fill_step;
    words[i] = seed ^ (seed >> 32);
  }
  for (size_t at = bytes / 8 * 8; at < bytes; at++) ((char *)memory)[at] = (char)seed;
  return seed;
}
