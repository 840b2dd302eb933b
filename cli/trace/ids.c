/* cli/trace/ids.c - renames 64-bit ids to dense ones; see ids.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/trace/ids.h"

#include <stdlib.h>
#include <string.h>

enum { FIRST_SLOTS = 4096 };

static uint64_t scramble(uint64_t key) { /* one to one, so equal results mean equal keys */
  key *= 0x9e3779b97f4a7c15u;
  return key ^ key >> 32;
}

/* Where a scrambled key is, or would go. */
static uint64_t slot_of(const struct ids *ids, uint64_t key) {
  uint64_t slot = key & (ids->slots - 1);
  while (ids->names[slot] != UINT32_MAX && ids->keys[slot] != key)
    slot = (slot + 1) & (ids->slots - 1);
  return slot;
}

static bool grow(struct ids *ids) {
  struct ids old = *ids;
  ids->slots = old.slots == 0 ? FIRST_SLOTS : old.slots * 2;
  ids->keys = malloc(ids->slots * sizeof *ids->keys);
  ids->names = malloc(ids->slots * sizeof *ids->names);
  if (ids->keys == NULL || ids->names == NULL) {
    ids_finish(ids);
    *ids = old;
    return false;
  }
  memset(ids->names, 0xff, ids->slots * sizeof *ids->names);
  for (uint64_t i = 0; i < old.slots; i++) {
    if (old.names[i] == UINT32_MAX) continue;
    const uint64_t slot = slot_of(ids, old.keys[i]);
    ids->keys[slot] = old.keys[i];
    ids->names[slot] = old.names[i];
  }
  ids_finish(&old);
  return true;
}

bool ids_name(struct ids *ids, uint64_t key, uint32_t *name) {
  if ((uint64_t)ids->count * 2 >= ids->slots && !grow(ids)) return false;
  key = scramble(key);
  const uint64_t slot = slot_of(ids, key);
  if (ids->names[slot] == UINT32_MAX) {
    if (ids->count >= UINT32_MAX - 1) return false;
    ids->keys[slot] = key;
    ids->names[slot] = ids->count++;
  }
  *name = ids->names[slot];
  return true;
}

uint64_t ids_pair(uint32_t parent, uint64_t id) {
  uint64_t x = (parent + UINT64_C(1)) * 0x9e3779b97f4a7c15u ^ id; /* splitmix64's finish */
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

void ids_finish(struct ids *ids) {
  free(ids->keys);
  free(ids->names);
  ids->keys = NULL;
  ids->names = NULL;
}
