/* eviction/ghost.h - remembers the keys of blocks that left: a bounded queue with a hash index.
 *
 * All memory comes at init or resize; pushing into a full queue forgets the oldest key. A key is the
 * low half of the block's 128-bit key: two blocks that share it cost one wrong guess, no wrong byte. A ghost
 * with notes knows 32 bits of it: what they save has the facts.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_GHOST_H
#define EVICTION_GHOST_H

#include <stdbool.h>

#include <kvstow/policy.h>

#include "eviction/keymap.h"

enum ghost_kind { GHOST_KEYS, GHOST_NOTES };

/* What a policy wants to know of a block again when it comes back. */
struct ghost_note {
  uint32_t time, facts;
};

struct ghost_entry {
  uint32_t key, rest; /* of the key, or a note's facts */
  uint32_t time;
  uint32_t newer, older; /* in the queue; `newer` also chains free entries */
};

struct ghost {
  struct ghost_entry *entries; /* capacity */
  struct keymap map;
  enum ghost_kind kind;
  uint32_t capacity; /* 0: remembers nothing */
  uint32_t count;
  uint32_t head, tail, free; /* youngest, oldest, first free entry */
  uint32_t fresh;            /* from here on entries were never used */
};

/* 0 or KVSTOW_ENOMEM. A zeroed ghost may be finished. */
int kvstow__ghost_init(struct ghost *ghost, uint64_t capacity, enum ghost_kind kind);
void kvstow__ghost_finish(struct ghost *ghost);

/* Keeps the youngest keys that fit. KVSTOW_ENOMEM changes nothing. */
int kvstow__ghost_resize(struct ghost *ghost, uint64_t capacity);

/* Remembers a key as the youngest; in a ghost with notes the key has 32 bits. */
void kvstow__ghost_push(struct ghost *ghost, uint64_t key);
void kvstow__ghost_push_note(struct ghost *ghost, uint32_t key, struct ghost_note note);

bool kvstow__ghost_has(const struct ghost *ghost, uint64_t key);

/* Forgets a key; whether it was remembered. */
bool kvstow__ghost_take(struct ghost *ghost, uint64_t key);
bool kvstow__ghost_take_note(struct ghost *ghost, uint32_t key, struct ghost_note *note);

/* Whether the next push forgets a key, and its note. */
static inline bool ghost_leaving(const struct ghost *ghost, struct ghost_note *note) {
  if (ghost->capacity == 0 || ghost->count < ghost->capacity) return false;
  const struct ghost_entry *oldest = &ghost->entries[ghost->tail];
  *note = (struct ghost_note){.time = oldest->time, .facts = oldest->rest};
  return true;
}

/* A hint: the key will soon be looked up or pushed. */
static inline void ghost_prefetch(const struct ghost *ghost, uint64_t key) {
  if (ghost->capacity > 0) keymap_prefetch(&ghost->map, key);
}

void kvstow__ghost_drop_oldest(struct ghost *ghost);

/* A ghost hit is learned in victim(), before the victim's own key is pushed (it might push out the
 * very key asked for), but needed in insert(): it waits here. */
struct comeback {
  uint64_t key;
  uint32_t from; /* 0: nothing waits; else what the policy wants to know */
};

/* A victim's key, kept in its node as two halves because nodes are 4-byte aligned. */
static inline uint64_t ghost_key(const uint32_t halves[2]) {
  return (uint64_t)halves[1] << 32 | halves[0];
}

static inline void ghost_set_key(uint32_t halves[2], uint64_t key) {
  halves[0] = (uint32_t)key;
  halves[1] = (uint32_t)(key >> 32);
}

#endif
