/* eviction/keymap.h - from keys to numbers: a table of cache lines, for those that keep the keys themselves.
 *
 * A line has twelve numbers, and eight bits of each one's hash, all looked at with two comparisons: a look-up
 * reads one line and hardly ever a key that is not the one. What finds its line full lies in one behind
 * it, and is counted in those it passed: a look-up ends where nothing did. All memory comes at init, and is
 * first touched when it is used.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_KEYMAP_H
#define EVICTION_KEYMAP_H

#include <stdbool.h>
#include <stdint.h>

#define KEYMAP_NONE UINT32_MAX

enum { KEYMAP_SLOTS = 12 };

struct keymap_line {
  uint64_t tags; /* a byte a slot, from the least; 0: it is free */
  uint32_t more; /* of the last four */
  uint32_t passed;
  uint32_t slot[KEYMAP_SLOTS];
};

struct keymap {
  void *memory;
  struct keymap_line *lines; /* in it, from a cache line's start */
  uint32_t count;            /* of lines; 0: nothing can be added */
};

/* Room for keys of the numbers below `numbers`. 0 or KVSTOW_ENOMEM. A zeroed map may be finished. */
int kvstow__keymap_init(struct keymap *map, uint32_t numbers);
void kvstow__keymap_finish(struct keymap *map);

/* The number has one key at a time; dropped is what was added. */
void kvstow__keymap_add(struct keymap *map, uint64_t key, uint32_t number);
void kvstow__keymap_drop(struct keymap *map, uint64_t key, uint32_t number);

/* Keys may be small numbers in tests: the high half of the product is as good as any hash. Not the golden ratio's:
 * others draw samples by it, whose keys would all be at home in a few lines. */
static inline uint32_t keymap_hash(uint64_t key) {
  return (uint32_t)(key * 0xd6e8feb86659fd93u >> 32);
}

static inline uint32_t keymap_home(const struct keymap *map, uint32_t hash) {
  return (uint32_t)((uint64_t)hash * map->count >> 32);
}

static inline uint32_t keymap_behind(const struct keymap *map, uint32_t line) {
  return line + 1 == map->count ? 0 : line + 1;
}

/* A hint: the key will be looked up, added or dropped soon. */
static inline void keymap_prefetch(const struct keymap *map, uint64_t key) {
  __builtin_prefetch(&map->lines[keymap_home(map, keymap_hash(key))], 1);
}

static inline uint8_t keymap_tag(uint32_t hash) {
  return (uint8_t)((hash & 0xff) != 0 ? hash : 1);
}

/* The high bit of each byte that is zero. */
static inline uint64_t keymap_zeros(uint64_t bytes) {
  const uint64_t low = UINT64_C(0x7f7f7f7f7f7f7f7f);
  return ~(((bytes & low) + low) | bytes | low);
}

/* A bit for each slot with this tag: that of slot i is bit 8 i, that of slot 8 + i is bit 8 i + 4. */
static inline uint64_t keymap_match(const struct keymap_line *line, uint8_t tag) {
  const uint64_t tags = UINT64_C(0x0101010101010101) * tag;
  const uint64_t more = (uint32_t)keymap_zeros(line->more ^ tags);
  return keymap_zeros(line->tags ^ tags) >> 7 | more >> 3;
}

/* The slot of the least bit. */
static inline uint32_t keymap_slot(uint64_t bits) {
  const uint32_t bit = (uint32_t)__builtin_ctzll(bits);
  return bit / 8 + (bit & 4) * 2;
}

/* Whether a number of `owner`'s has this key. */
typedef bool keymap_same(const void *owner, uint32_t number, uint64_t key);

/* The key's number, or KEYMAP_NONE. */
static inline uint32_t keymap_find(const struct keymap *map, uint64_t key, keymap_same *same,
                                   const void *owner) {
  const uint32_t hash = keymap_hash(key);
  const uint8_t tag = keymap_tag(hash);
  uint32_t at = keymap_home(map, hash);
  for (uint32_t lines = 0; lines < map->count; lines++, at = keymap_behind(map, at)) {
    const struct keymap_line *line = &map->lines[at];
    for (uint64_t some = keymap_match(line, tag); some != 0; some &= some - 1) {
      const uint32_t number = line->slot[keymap_slot(some)];
      if (same(owner, number, key)) return number;
    }
    if (line->passed == 0) break;
  }
  return KEYMAP_NONE;
}

#endif
