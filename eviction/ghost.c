/* eviction/ghost.c - a bounded queue of keys with a hash index; see ghost.h.
 *
 * Keys are parts of a seeded hash already, but a test may use small numbers: they are multiplied
 * once more before the bucket is taken from the high bits.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/ghost.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

static uint32_t *bucket_of(const struct ghost *ghost, uint64_t key) {
  return &ghost->buckets[key * 0x9e3779b97f4a7c15u >> 32 & ghost->bucket_mask];
}

static uint32_t find(const struct ghost *ghost, uint64_t key) {
  if (ghost->capacity == 0) return NONE;
  uint32_t at = *bucket_of(ghost, key);
  while (at != NONE && ghost->entries[at].key != key) at = ghost->entries[at].next;
  return at;
}

int kvstow__ghost_init(struct ghost *ghost, uint64_t capacity) {
  memset(ghost, 0, sizeof *ghost);
  ghost->head = ghost->tail = ghost->free = NONE;
  if (capacity == 0) return 0;
  if (capacity >= NONE / 2) return KVSTOW_ENOMEM;
  uint32_t buckets = 8;
  while (buckets < capacity) buckets *= 2;
  ghost->entries = malloc((size_t)capacity * sizeof *ghost->entries);
  ghost->buckets = malloc((size_t)buckets * sizeof *ghost->buckets);
  if (ghost->entries == NULL || ghost->buckets == NULL) {
    kvstow__ghost_finish(ghost);
    return KVSTOW_ENOMEM;
  }
  memset(ghost->buckets, 0xff, (size_t)buckets * sizeof *ghost->buckets);
  ghost->bucket_mask = buckets - 1;
  ghost->capacity = (uint32_t)capacity;
  for (uint32_t i = ghost->capacity; i-- > 0;) {
    ghost->entries[i].newer = ghost->free;
    ghost->free = i;
  }
  return 0;
}

void kvstow__ghost_finish(struct ghost *ghost) {
  free(ghost->entries);
  free(ghost->buckets);
  memset(ghost, 0, sizeof *ghost);
}

int kvstow__ghost_resize(struct ghost *ghost, uint64_t capacity) {
  struct ghost resized;
  const int rc = kvstow__ghost_init(&resized, capacity);
  if (rc < 0) return rc;
  for (uint32_t at = ghost->capacity > 0 ? ghost->tail : NONE; at != NONE;
       at = ghost->entries[at].newer)
    kvstow__ghost_push_note(&resized, ghost->entries[at].key, ghost->entries[at].note);
  kvstow__ghost_finish(ghost);
  *ghost = resized;
  return 0;
}

static void forget(struct ghost *ghost, uint32_t at) {
  struct ghost_entry *entry = &ghost->entries[at];
  uint32_t *slot = bucket_of(ghost, entry->key);
  while (*slot != at) slot = &ghost->entries[*slot].next;
  *slot = entry->next;
  if (entry->newer != NONE)
    ghost->entries[entry->newer].older = entry->older;
  else
    ghost->head = entry->older;
  if (entry->older != NONE)
    ghost->entries[entry->older].newer = entry->newer;
  else
    ghost->tail = entry->newer;
  entry->newer = ghost->free;
  ghost->free = at;
  ghost->count--;
}

void kvstow__ghost_push(struct ghost *ghost, uint64_t key) {
  kvstow__ghost_push_note(ghost, key, (struct ghost_note){0});
}

void kvstow__ghost_push_note(struct ghost *ghost, uint64_t key, struct ghost_note note) {
  if (ghost->capacity == 0) return;
  if (!kvstow__ghost_take(ghost, key) && ghost->count == ghost->capacity)
    forget(ghost, ghost->tail);
  const uint32_t at = ghost->free;
  struct ghost_entry *entry = &ghost->entries[at];
  uint32_t *bucket = bucket_of(ghost, key);
  ghost->free = entry->newer;
  *entry = (struct ghost_entry){
      .key = key, .note = note, .newer = NONE, .older = ghost->head, .next = *bucket};
  *bucket = at;
  if (ghost->head != NONE)
    ghost->entries[ghost->head].newer = at;
  else
    ghost->tail = at;
  ghost->head = at;
  ghost->count++;
}

bool kvstow__ghost_has(const struct ghost *ghost, uint64_t key) {
  return find(ghost, key) != NONE;
}

bool kvstow__ghost_take(struct ghost *ghost, uint64_t key) {
  struct ghost_note note;
  return kvstow__ghost_take_note(ghost, key, &note);
}

bool kvstow__ghost_take_note(struct ghost *ghost, uint64_t key, struct ghost_note *note) {
  const uint32_t at = find(ghost, key);
  if (at == NONE) return false;
  *note = ghost->entries[at].note;
  forget(ghost, at);
  return true;
}

void kvstow__ghost_drop_oldest(struct ghost *ghost) {
  if (ghost->count > 0) forget(ghost, ghost->tail);
}
