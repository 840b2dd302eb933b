/* content.c - a counter times an odd constant, folded once, from a seed per (block, layer, K or V):
 * an add, a shift and an xor for 16 bytes, in vectors of the compiler's choosing.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/content.h"

#include <string.h>

#define STEP 0x9e3779b97f4a7c15ull /* 2^64 / golden ratio, odd */

enum { LANES = 2, UNROLL = 8, STRIDE_WORDS = LANES * UNROLL, CHUNK_BYTES = 4096 };

typedef uint64_t lanes __attribute__((vector_size(LANES * 8)));
typedef uint64_t lanes_unaligned __attribute__((vector_size(LANES * 8), aligned(1), may_alias));

static uint64_t mix(uint64_t x) { /* splitmix64 */
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

static uint64_t rows_seed(uint32_t id, uint32_t layer, uint32_t part) {
  return mix(mix((uint64_t)id + STEP) ^ ((uint64_t)layer << 1 | part));
}

static uint64_t word_at(uint64_t seed, uint64_t i) {
  const uint64_t x = seed + i * STEP;
  return x ^ (x >> 32);
}

static lanes fold(lanes x) {
  return x ^ (x >> 32);
}

static void counters_init(lanes counters[UNROLL], uint64_t seed, uint64_t word) {
  for (unsigned u = 0; u < UNROLL; u++) {
    for (unsigned l = 0; l < LANES; l++) counters[u][l] = seed + (word + u * LANES + l) * STEP;
  }
}

/* The K or the V rows of one layer. */
static void fill_rows(uint64_t seed, uint8_t *out, size_t bytes) {
  const size_t strides = bytes / (STRIDE_WORDS * 8);
  lanes counters[UNROLL];
  counters_init(counters, seed, 0);
  for (size_t s = 0; s < strides; s++) {
    lanes_unaligned *to = (lanes_unaligned *)(void *)(out + s * STRIDE_WORDS * 8);
#pragma GCC unroll 8
    for (unsigned u = 0; u < UNROLL; u++) {
      to[u] = fold(counters[u]);
      counters[u] += STRIDE_WORDS * STEP;
    }
  }
  for (size_t at = strides * STRIDE_WORDS * 8; at < bytes; at += 8) {
    const uint64_t word = word_at(seed, at / 8);
    memcpy(out + at, &word, bytes - at < 8 ? bytes - at : 8);
  }
}

static uint64_t count_unequal(uint64_t seed, size_t from, const uint8_t *rows, size_t to) {
  uint64_t unequal = 0;
  for (size_t at = from; at < to; at++) {
    const uint64_t word = word_at(seed, at / 8);
    uint8_t byte;
    memcpy(&byte, (const uint8_t *)&word + at % 8, 1);
    unequal += byte != rows[at];
  }
  return unequal;
}

/* Whole chunks by vectors; a chunk that differs, and the tail, byte by byte. */
static uint64_t check_rows(uint64_t seed, const uint8_t *rows, size_t bytes) {
  uint64_t unequal = 0;
  size_t at = 0;
  lanes counters[UNROLL];
  counters_init(counters, seed, 0);
  for (; at + CHUNK_BYTES <= bytes; at += CHUNK_BYTES) {
    lanes differ = {0};
    for (size_t s = 0; s < CHUNK_BYTES; s += STRIDE_WORDS * 8) {
      const lanes_unaligned *from = (const lanes_unaligned *)(const void *)(rows + at + s);
#pragma GCC unroll 8
      for (unsigned u = 0; u < UNROLL; u++) {
        differ |= fold(counters[u]) ^ from[u];
        counters[u] += STRIDE_WORDS * STEP;
      }
    }
    if ((differ[0] | differ[1]) != 0) {
      unequal += count_unequal(seed, at, rows, at + CHUNK_BYTES);
    }
  }
  return unequal + count_unequal(seed, at, rows, bytes);
}

size_t content_block_bytes(const struct content_shape *shape) {
  return (size_t)shape->layers * (shape->k_bytes + shape->v_bytes) * shape->block_tokens;
}

void content_tokens(uint32_t id, uint32_t count, kvstow_token *tokens) {
  if (count == 0) return;
  tokens[0] = (kvstow_token)(id & INT32_MAX);
  const uint64_t seed = mix(id + STEP);
  for (uint32_t i = 1; i < count; i++) {
    tokens[i] = (kvstow_token)(word_at(seed, i) & INT32_MAX);
  }
}

void content_fill(const struct content_shape *shape, uint32_t id, void *block) {
  const size_t k = (size_t)shape->k_bytes * shape->block_tokens;
  const size_t v = (size_t)shape->v_bytes * shape->block_tokens;
  uint8_t *out = block;
  for (uint32_t layer = 0; layer < shape->layers; layer++) {
    fill_rows(rows_seed(id, layer, 0), out, k);
    fill_rows(rows_seed(id, layer, 1), out + k, v);
    out += k + v;
  }
}

uint64_t content_check(const struct content_shape *shape, uint32_t id, const void *payload) {
  const size_t k = (size_t)shape->k_bytes * shape->block_tokens;
  const size_t v = (size_t)shape->v_bytes * shape->block_tokens;
  const uint8_t *plane = payload;
  uint64_t unequal = 0;
  for (uint32_t layer = 0; layer < shape->layers; layer++) {
    unequal += check_rows(rows_seed(id, layer, 0), plane, k);
    unequal += check_rows(rows_seed(id, layer, 1), plane + k, v);
    plane += shape->plane_bytes;
  }
  return unequal;
}
