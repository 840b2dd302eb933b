/* key.c - see key.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/key.h"

#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <xxh_x86dispatch.h> /* AVX2 and AVX-512 where the machine has them */
#else
#include <xxhash.h>
#endif

static kvstow_key hash(uint64_t seed, const void *bytes, size_t length) {
  const XXH128_hash_t h = XXH3_128bits_withSeed(bytes, length, seed);
  return (kvstow_key){h.low64, h.high64};
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

kvstow_key kvs_block_key(uint64_t seed, kvstow_key parent, const kvstow_token *tokens,
                         size_t count) {
  const kvstow_key parts[2] = {parent, hash(seed, tokens, count * sizeof *tokens)};
  return hash(seed, parts, sizeof parts);
}

struct kvs_hasher {
  XXH3_state_t *state;
};

struct kvs_hasher *kvs_hasher_create(void) {
  struct kvs_hasher *hasher = malloc(sizeof *hasher);
  if (hasher == NULL) return NULL;
  hasher->state = XXH3_createState();
  if (hasher->state == NULL) {
    free(hasher);
    return NULL;
  }
  return hasher;
}

void kvs_hasher_destroy(struct kvs_hasher *hasher) {
  if (hasher == NULL) return;
  XXH3_freeState(hasher->state);
  free(hasher);
}

void kvs_hasher_begin(struct kvs_hasher *hasher) {
  XXH3_64bits_reset(hasher->state);
}

void kvs_hasher_add(struct kvs_hasher *hasher, const void *bytes, size_t length) {
  XXH3_64bits_update(hasher->state, bytes, length);
}

uint64_t kvs_hasher_end(struct kvs_hasher *hasher) {
  return XXH3_64bits_digest(hasher->state);
}
