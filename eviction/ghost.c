/* eviction/ghost.c - a bounded queue of keys with a hash index; see ghost.h.
 *
 * An entry freed is the next to be used: while the queue is full that is the oldest, so that entries lie in
 * memory about as they stand in the queue.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "eviction/ghost.h"

#include <stdlib.h>
#include <string.h>

#define NONE KEYMAP_NONE

static uint64_t key_of(const struct ghost *ghost, const struct ghost_entry *entry) {
  return ghost->kind == GHOST_NOTES ? entry->key : (uint64_t)entry->rest << 32 | entry->key;
}

static bool same_note(const void *entries, uint32_t at, uint64_t key) {
  return ((const struct ghost_entry *)entries)[at].key == key;
}

static bool same_key(const void *entries, uint32_t at, uint64_t key) {
  const struct ghost_entry *entry = &((const struct ghost_entry *)entries)[at];
  return entry->key == (uint32_t)key && entry->rest == (uint32_t)(key >> 32);
}

static uint32_t find(const struct ghost *ghost, uint64_t key) {
  if (ghost->kind == GHOST_NOTES) return keymap_find(&ghost->map, key, same_note, ghost->entries);
  return keymap_find(&ghost->map, key, same_key, ghost->entries);
}

int kvstow__ghost_init(struct ghost *ghost, uint64_t capacity, enum ghost_kind kind) {
  memset(ghost, 0, sizeof *ghost);
  ghost->head = ghost->tail = ghost->free = NONE;
  ghost->kind = kind;
  if (capacity == 0) return 0;
  if (capacity >= INT32_MAX) return KVSTOW_ENOMEM;
  ghost->entries = malloc((size_t)capacity * sizeof *ghost->entries);
  if (ghost->entries == NULL || kvstow__keymap_init(&ghost->map, (uint32_t)capacity) < 0) {
    kvstow__ghost_finish(ghost);
    return KVSTOW_ENOMEM;
  }
  ghost->capacity = (uint32_t)capacity;
  return 0;
}

void kvstow__ghost_finish(struct ghost *ghost) {
  free(ghost->entries);
  kvstow__keymap_finish(&ghost->map);
  memset(ghost, 0, sizeof *ghost);
}

static void forget(struct ghost *ghost, uint32_t at) {
  struct ghost_entry *entry = &ghost->entries[at];
  kvstow__keymap_drop(&ghost->map, key_of(ghost, entry), at);
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

/* `rest`: of the key, or the facts of its note. */
static void push(struct ghost *ghost, uint64_t key, uint32_t time, uint32_t rest) {
  if (ghost->capacity == 0) return;
  const uint32_t known = find(ghost, key);
  if (known != NONE) {
    forget(ghost, known);
  } else if (ghost->count == ghost->capacity) {
    forget(ghost, ghost->tail);
    if (ghost->tail != NONE) ghost_prefetch(ghost, key_of(ghost, &ghost->entries[ghost->tail]));
  }
  uint32_t at = ghost->free;
  if (at != NONE)
    ghost->free = ghost->entries[at].newer;
  else
    at = ghost->fresh++;
  ghost->entries[at] = (struct ghost_entry){
      .key = (uint32_t)key, .rest = rest, .time = time, .newer = NONE, .older = ghost->head};
  kvstow__keymap_add(&ghost->map, key, at);
  if (ghost->head != NONE)
    ghost->entries[ghost->head].newer = at;
  else
    ghost->tail = at;
  ghost->head = at;
  ghost->count++;
}

int kvstow__ghost_resize(struct ghost *ghost, uint64_t capacity) {
  struct ghost resized;
  const int rc = kvstow__ghost_init(&resized, capacity, ghost->kind);
  if (rc < 0) return rc;
  for (uint32_t at = ghost->capacity > 0 ? ghost->tail : NONE; at != NONE;) {
    const struct ghost_entry *entry = &ghost->entries[at];
    push(&resized, key_of(ghost, entry), entry->time, entry->rest);
    at = entry->newer;
  }
  kvstow__ghost_finish(ghost);
  *ghost = resized;
  return 0;
}

void kvstow__ghost_push(struct ghost *ghost, uint64_t key) {
  push(ghost, key, 0, (uint32_t)(key >> 32));
}

void kvstow__ghost_push_note(struct ghost *ghost, uint32_t key, struct ghost_note note) {
  push(ghost, key, note.time, note.facts);
}

bool kvstow__ghost_has(const struct ghost *ghost, uint64_t key) {
  return find(ghost, key) != NONE;
}

bool kvstow__ghost_take(struct ghost *ghost, uint64_t key) {
  const uint32_t at = find(ghost, key);
  if (at != NONE) forget(ghost, at);
  return at != NONE;
}

bool kvstow__ghost_take_note(struct ghost *ghost, uint32_t key, struct ghost_note *note) {
  const uint32_t at = find(ghost, key);
  if (at == NONE) return false;
  *note = (struct ghost_note){.time = ghost->entries[at].time, .facts = ghost->entries[at].rest};
  forget(ghost, at);
  return true;
}

void kvstow__ghost_drop_oldest(struct ghost *ghost) {
  if (ghost->count > 0) forget(ghost, ghost->tail);
}
