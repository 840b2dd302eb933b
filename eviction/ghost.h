/* eviction/ghost.h - remembers the keys of blocks that left: a bounded queue with a hash index.
 *
 * All memory comes at init or resize; pushing into a full queue forgets the oldest key. A key is the
 * low half of the block's 128-bit key: two blocks that share it cost one wrong guess, no wrong byte.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EVICTION_GHOST_H
#define EVICTION_GHOST_H

#include <stdbool.h>

#include <kvstow/policy.h>

/* What a policy wants to know of a block again when it comes back. */
struct ghost_note {
  uint32_t time, facts;
};

struct ghost_entry {
  uint64_t key;
  struct ghost_note note;
  uint32_t newer, older; /* in the queue; `newer` also chains free entries */
  uint32_t next;         /* in the bucket */
};

struct ghost {
  struct ghost_entry *entries; /* capacity */
  uint32_t *buckets;           /* bucket_mask + 1, a power of two */
  uint32_t bucket_mask;
  uint32_t capacity; /* 0: remembers nothing */
  uint32_t count;
  uint32_t head, tail, free; /* youngest, oldest, first free entry */
};

/* 0 or KVSTOW_ENOMEM. A zeroed ghost may be finished. */
int kvstow__ghost_init(struct ghost *ghost, uint64_t capacity);
void kvstow__ghost_finish(struct ghost *ghost);

/* Keeps the youngest keys that fit. KVSTOW_ENOMEM changes nothing. */
int kvstow__ghost_resize(struct ghost *ghost, uint64_t capacity);

/* Remembers a key as the youngest; with a note, or one of zeros. */
void kvstow__ghost_push(struct ghost *ghost, uint64_t key);
void kvstow__ghost_push_note(struct ghost *ghost, uint64_t key, struct ghost_note note);

bool kvstow__ghost_has(const struct ghost *ghost, uint64_t key);

/* Forgets a key; whether it was remembered. */
bool kvstow__ghost_take(struct ghost *ghost, uint64_t key);
bool kvstow__ghost_take_note(struct ghost *ghost, uint64_t key, struct ghost_note *note);

/* The note of the key that the next push forgets; NULL while there is room. */
static inline const struct ghost_note *ghost_leaving(const struct ghost *ghost) {
  const bool full = ghost->capacity > 0 && ghost->count == ghost->capacity;
  return full ? &ghost->entries[ghost->tail].note : NULL;
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
