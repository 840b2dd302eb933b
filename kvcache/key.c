/* key.c - see key.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/key.h"

#include <string.h>

#define XXH_STATIC_LINKING_ONLY /* XXH3_generateSecret_fromSeed */
#include <xxhash.h>
#if defined(__x86_64__)
#include <xxh_x86dispatch.h> /* AVX2 and AVX-512 where the machine has them */
#endif

/* Longer inputs are hashed with a secret that XXH3 would derive from the seed in every call. The hash is
 * the same. */
#define SECRET_LENGTH_MIN 240u

void kvs_secret_make(struct kvs_secret *secret, uint64_t seed) {
  secret->seed = seed;
  XXH3_generateSecret_fromSeed(secret->bytes, seed);
}

/* The dispatched AVX2 functions of libxxhash 0.8.1 return with dirty upper halves (no vzeroupper): the
 * next legacy SSE instruction of ours then costs 110 ns here, three times the hash of a block's
 * tokens. `h` keeps the compiler from moving its copying before this. */
static inline kvstow_key leave_avx(XXH128_hash_t h) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx"))
    __asm__ volatile("vzeroupper"
                     : "+r"(h.low64), "+r"(h.high64)
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
                       "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
#endif
  return (kvstow_key){h.low64, h.high64};
}

static kvstow_key hash(uint64_t seed, const void *bytes, size_t length) {
  return leave_avx(XXH3_128bits_withSeed(bytes, length, seed));
}

kvstow_key kvs_space_id(uint64_t seed, const void *fingerprint, size_t bytes) {
  return hash(seed, fingerprint, bytes);
}

kvstow_key kvs_root_id(uint64_t seed, kvstow_key space, const struct kvs_layout *layout,
                       const void *salt, size_t salt_bytes) {
  const struct {
    kvstow_key space, salt;
    struct kvs_layout layout;
    uint64_t salt_bytes;
  } parts = {space, hash(seed, salt_bytes == 0 ? "" : salt, salt_bytes), *layout, salt_bytes};
  return hash(seed, &parts, sizeof parts);
}

kvstow_key kvs_block_key(const struct kvs_secret *secret, kvstow_key parent,
                         const kvstow_token *tokens, size_t count) {
  const size_t bytes = count * sizeof *tokens;
  kvstow_key parts[2] = {parent, {0, 0}};
  if (bytes > SECRET_LENGTH_MIN) {
    parts[1] =
        leave_avx(XXH3_128bits_withSecret(tokens, bytes, secret->bytes, sizeof secret->bytes));
  } else {
    parts[1] = hash(secret->seed, tokens, bytes);
  }
  return hash(secret->seed, parts, sizeof parts);
}
