/* tier/copy.c - see copy.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/copy.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)

#include <immintrin.h>

#define LINE_BYTES 64u
#define AHEAD_BYTES 1536u /* what is fetched before it is copied */
#define LEAST_BYTES 512u  /* less is not worth the trouble */

/* Whole lines, to the beginning of one: two stores fill it, and it leaves the processor at once. */
__attribute__((target("avx2"))) static void copy_lines(uint8_t *to, const uint8_t *from,
                                                       size_t bytes) {
  for (size_t at = 0; at < bytes; at += LINE_BYTES) {
    _mm_prefetch((const char *)from + at + AHEAD_BYTES, _MM_HINT_T0);
    const __m256i low = _mm256_loadu_si256((const __m256i *)(const void *)(from + at));
    const __m256i high = _mm256_loadu_si256((const __m256i *)(const void *)(from + at + 32));
    _mm256_stream_si256((__m256i *)(void *)(to + at), low);
    _mm256_stream_si256((__m256i *)(void *)(to + at + 32), high);
  }
}

void kvstow__copy_past_cache(void *to, const void *from, size_t bytes) {
  if (bytes < LEAST_BYTES || !__builtin_cpu_supports("avx2")) {
    memcpy(to, from, bytes);
    return;
  }
  const size_t before = (LINE_BYTES - (uintptr_t)to % LINE_BYTES) % LINE_BYTES;
  const size_t lines = (bytes - before) / LINE_BYTES * LINE_BYTES;
  uint8_t *t = to;
  const uint8_t *f = from;
  memcpy(t, f, before);
  copy_lines(t + before, f + before, lines);
  memcpy(t + before + lines, f + before + lines, bytes - before - lines);
}

void kvstow__copy_fence(void) {
  _mm_sfence();
}

#else

void kvstow__copy_past_cache(void *to, const void *from, size_t bytes) {
  memcpy(to, from, bytes);
}

void kvstow__copy_fence(void) {
}

#endif
