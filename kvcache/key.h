/* key.h - names: of spaces, of chains' roots, of blocks.
 *
 *   space = H(fingerprint)                       what the model is
 *   root  = H(space, layout, salt)               begins every chain; equal only if all agree
 *   key   = H(parent's key, H(block's tokens))   the parent of the first block is the root
 *
 * H is XXH3-128 with the store's seed. It is no defence against somebody who knows the seed and looks
 * for collisions; the tokens themselves, the root and the parent are compared as well.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_KEY_H
#define KVSTOW_KVCACHE_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvstow/kvstow.h"

struct kvs_layout {
  uint32_t layers, k_bytes, v_bytes, block_tokens; /* layers 0: opaque, the others 0 but tokens */
};

kvstow_key kvs_space_id(uint64_t seed, const void *fingerprint, size_t bytes);
kvstow_key kvs_root_id(uint64_t seed, kvstow_key space, const struct kvs_layout *layout,
                       const void *salt, size_t salt_bytes);
/* The store's seed, and XXH3's secret made from it: once, not in every hash. */
struct kvs_secret {
  uint64_t seed;
  unsigned char bytes[192];
};
void kvs_secret_make(struct kvs_secret *secret, uint64_t seed);
kvstow_key kvs_block_key(const struct kvs_secret *secret, kvstow_key parent,
                         const kvstow_token *tokens, size_t count);

static inline bool kvs_key_equal(kvstow_key a, kvstow_key b) {
  return a.lo == b.lo && a.hi == b.hi;
}

#endif
