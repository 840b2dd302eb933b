/* cli/content.h - made-up KV whose every byte is known: what the replay stores and checks.
 *
 * Bytes follow from the block's id, the layer, K or V, and the position, so that a block, plane,
 * row or word in the wrong place is seen, not only a flipped bit. Filling and checking run at about
 * the speed of memory: they must not be what a replay measures.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_CONTENT_H
#define CLI_CONTENT_H

#include <stddef.h>
#include <stdint.h>

#include <kvstow/kvstow.h>

struct content_shape {
  uint32_t layers;
  uint32_t k_bytes, v_bytes; /* one token, one layer */
  uint32_t block_tokens;
  uint32_t plane_bytes; /* stride of planes as stored */
};

/* Bytes of a block without padding: what content_fill writes. */
size_t content_block_bytes(const struct content_shape *shape);

/* The tokens of block `id`. Two ids below 2^31 never have the same ones. */
void content_tokens(uint32_t id, uint32_t count, kvstow_token *tokens);

/* Writes block `id` without padding: layer 0 K rows, layer 0 V rows, layer 1 K rows ... */
void content_fill(const struct content_shape *shape, uint32_t id, void *block);

/* Compares a payload as stored (planes at their stride) with what block `id` must hold. Bytes that
 * differ; padding is not looked at. */
uint64_t content_check(const struct content_shape *shape, uint32_t id, const void *payload);

#endif
