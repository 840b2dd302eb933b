/* copy.c - see copy.h.
 *
 * The sum is XXH3-64 with seed 0 and the default secret, for lengths above 240 bytes: stripes of 64 bytes
 * are mixed into eight lanes with a secret that moves by 8 bytes a stripe; the lanes are scrambled
 * after each 16; the last stripe has a secret of its own (xxHash, doc/xxhash_spec.md, "long input"). Here
 * lengths are whole stripes. The secret, the merging of lanes and the plain kernel are xxhash.h's.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/copy.h"

#include <linux/membarrier.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "kvstow/tier.h"

#define STRIPE_BYTES 64u
#define BLOCK_STRIPES 16u
#define SUM_BYTES_MIN 256u /* shorter ones are another algorithm */

/* Of stripe `i`. */
static const unsigned char *secret_of(size_t i, size_t stripes) {
  return i + 1 == stripes ? XXH3_kSecret + XXH_SECRET_DEFAULT_SIZE - STRIPE_BYTES - 7
                          : XXH3_kSecret + i % BLOCK_STRIPES * 8;
}

static bool scrambled_after(size_t i, size_t stripes) {
  return i % BLOCK_STRIPES == BLOCK_STRIPES - 1 && i + 1 < stripes;
}

static const unsigned char *const scramble_secret =
    XXH3_kSecret + XXH_SECRET_DEFAULT_SIZE - STRIPE_BYTES;

/* Copies stripe after stripe and sums what was copied: for any machine. */
static void copy_plain(struct kvs_sum *sum, const char *from, size_t bytes) {
  _Alignas(64) uint64_t acc[8];
  const size_t stripes = sum->total / STRIPE_BYTES;
  char *to = sum->to + sum->done;
  memcpy(acc, sum->acc, sizeof acc);
  for (size_t i = sum->done / STRIPE_BYTES; bytes > 0; i++, bytes -= STRIPE_BYTES) {
    memcpy(to, from, STRIPE_BYTES);
    XXH3_accumulate_512(acc, to, secret_of(i, stripes));
    if (scrambled_after(i, stripes)) XXH3_scrambleAcc(acc, scramble_secret);
    from += STRIPE_BYTES;
    to += STRIPE_BYTES;
  }
  memcpy(sum->acc, acc, sizeof acc);
}

#if defined(__x86_64__)

#include <immintrin.h>

#define AHEAD_BYTES 1536 /* what is fetched before it is copied */
#define AVX2 __attribute__((target("avx2")))

static bool has_wide(void) {
  return __builtin_cpu_supports("avx2");
}

AVX2 static inline __m256i load(const void *from) {
  return _mm256_loadu_si256(from);
}

AVX2 static inline __m256i mix(__m256i acc, __m256i data, const unsigned char *secret) {
  const __m256i key = _mm256_xor_si256(data, load(secret));
  const __m256i product = _mm256_mul_epu32(key, _mm256_srli_epi64(key, 32));
  const __m256i swapped = _mm256_shuffle_epi32(data, _MM_SHUFFLE(1, 0, 3, 2));
  return _mm256_add_epi64(product, _mm256_add_epi64(acc, swapped));
}

AVX2 static inline __m256i scramble(__m256i acc, const unsigned char *secret) {
  const __m256i mixed = _mm256_xor_si256(acc, _mm256_srli_epi64(acc, 47));
  const __m256i key = _mm256_xor_si256(mixed, load(secret));
  const __m256i prime = _mm256_set1_epi32((int)XXH_PRIME32_1);
  const __m256i high = _mm256_mul_epu32(_mm256_srli_epi64(key, 32), prime);
  return _mm256_add_epi64(_mm256_mul_epu32(key, prime), _mm256_slli_epi64(high, 32));
}

/* `to` is on a cache line: two stores fill it, and it leaves the processor whole. */
AVX2 static void copy_wide(struct kvs_sum *sum, const char *from, size_t bytes) {
  __m256i a = load(sum->acc), b = load(sum->acc + 4);
  const size_t stripes = sum->total / STRIPE_BYTES;
  char *to = sum->to + sum->done;
  for (size_t i = sum->done / STRIPE_BYTES; bytes > 0; i++, bytes -= STRIPE_BYTES) {
    _mm_prefetch(from + AHEAD_BYTES, _MM_HINT_T0);
    const __m256i x = load(from), y = load(from + 32);
    _mm256_stream_si256((__m256i *)(void *)to, x);
    _mm256_stream_si256((__m256i *)(void *)(to + 32), y);
    const unsigned char *secret = secret_of(i, stripes);
    a = mix(a, x, secret);
    b = mix(b, y, secret + 32);
    if (scrambled_after(i, stripes)) {
      a = scramble(a, scramble_secret);
      b = scramble(b, scramble_secret + 32);
    }
    from += STRIPE_BYTES;
    to += STRIPE_BYTES;
  }
  _mm256_storeu_si256((__m256i *)(void *)sum->acc, a);
  _mm256_storeu_si256((__m256i *)(void *)(sum->acc + 4), b);
}

#else

static bool has_wide(void) {
  return false;
}

static void copy_wide(struct kvs_sum *sum, const char *from, size_t bytes) {
  copy_plain(sum, from, bytes);
}

#endif

bool kvs_copy_fence_others_ready(void) {
  return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
}

void kvs_copy_fence_others(void) {
  (void)syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0);
}

void kvs_sum_begin(struct kvs_sum *sum, void *to, uint32_t total) {
  static const uint64_t begin[8] = XXH3_INIT_ACC;
  *sum = (struct kvs_sum){.to = to,
                          .total = total,
                          .wide = has_wide(),
                          .late = (uintptr_t)to % STRIPE_BYTES != 0 || total % STRIPE_BYTES != 0 ||
                                  total < SUM_BYTES_MIN};
  memcpy(sum->acc, begin, sizeof begin);
}

void kvs_sum_copy(struct kvs_sum *sum, const void *from, size_t bytes) {
  if (bytes == 0) return;
  sum->late |= bytes % STRIPE_BYTES != 0;
  if (sum->late)
    memcpy(sum->to + sum->done, from, bytes);
  else if (sum->wide)
    copy_wide(sum, from, bytes);
  else
    copy_plain(sum, from, bytes);
  sum->done += (uint32_t)bytes;
}

void kvs_sum_zero(struct kvs_sum *sum, size_t bytes) {
  static const char zeros[KVSTOW_PAGE_BYTES];
  for (size_t step; bytes > 0; bytes -= step) {
    step = bytes < sizeof zeros ? bytes : sizeof zeros;
    kvs_sum_copy(sum, zeros, step);
  }
}

uint64_t kvs_sum_end(struct kvs_sum *sum) {
  if (sum->late) return kvstow_checksum(sum->to, sum->total);
  return XXH3_mergeAccs(sum->acc, XXH3_kSecret + 11, (uint64_t)sum->total * XXH_PRIME64_1);
}

void kvs_plane_sum_begin(struct kvs_plane_sum *plane, void *to, uint32_t plane_bytes,
                         uint32_t part_bytes) {
  plane->parts = part_bytes == 0 ? 1 : 2;
  kvs_sum_begin(&plane->part[0], to, part_bytes == 0 ? plane_bytes : part_bytes);
  if (part_bytes != 0)
    kvs_sum_begin(&plane->part[1], (char *)to + part_bytes, plane_bytes - part_bytes);
}

uint64_t kvs_plane_sum_end(struct kvs_plane_sum *plane) {
  uint64_t sums[2];
  for (uint32_t i = 0; i < plane->parts; i++) sums[i] = kvs_sum_end(&plane->part[i]);
  return plane->parts == 1 ? sums[0] : kvstow_checksum(sums, sizeof sums);
}
