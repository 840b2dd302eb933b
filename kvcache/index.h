/* index.h - which blocks there are: entries, and a hash table over their keys.
 *
 * An entry is what RAM knows of a block in either tier: 104 bytes, policy state included. Entries lie in
 * chunks that never move; an id names one. The table is split in shards by key, each with its own
 * lock, so that matches of many threads do not meet.
 *
 * A shard is an array of cache lines with room for 15 ids. An id has, in the bits that ids do not need,
 * some of its key: an entry is looked at only if those agree, and what is found first is nearly always right.
 * A block whose line is full goes to the next one with room; each line counts those that have
 * passed it, so that a search knows when to stop, and nothing is left behind by a removal (F14, Bronson and Shi,
 * 2019).
 *
 * Locks. The store's lock guards entries, except that
 *   - a lookup holds only the shard's lock. While it is held the entry stays in the table, its frame
 *     stays where it is, and `leases` may be raised;
 *   - therefore whoever, under the store's lock, unlinks an entry or changes its `frame`, also holds
 *     the shard's lock while doing so, and looks at `leases` then;
 *   - what is atomic may be read without any lock, by those who fetch ahead what others may change meanwhile: then
 *     they have fetched in vain.
 * Order: the store's lock before a shard's; never two shards.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_KVCACHE_INDEX_H
#define KVSTOW_KVCACHE_INDEX_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvcache/rank.h"
#include "kvstow/kvstow.h"
#include "kvstow/policy.h"

#define KVS_SHARDS 64u
#define KVS_CHUNK_SHIFT 8u
#define KVS_NO_ENTRY KVSTOW_NO_ID
#define KVS_LINE_SLOTS 15u
#define KVS_LEVELS 32u

/* What an entry is in. RAM_* and CLEAN say who holds its RAM copy, SSD_* its SSD copy. */
enum kvs_flag {
  KVS_RAM_POLICY = 1u << 0, /* ordered by the RAM policy */
  KVS_CLEAN = 1u << 1,      /* on the clean list: its frame may be taken at any time */
  KVS_SSD = 1u << 2,        /* loc is valid */
  KVS_SSD_POLICY = 1u << 3, /* ordered by the SSD policy: still valued */
  KVS_DEMOTING = 1u << 4,   /* being written */
  KVS_LOADING = 1u << 5,    /* being read into its frame */
  KVS_PINNED = 1u << 6,     /* by the caller: in no policy */
  KVS_PREFETCHED = 1u << 7, /* promoted, not yet read */
  KVS_SUMS = 1u << 8,       /* plane checksums are in its header page */
  KVS_UNLINKED = 1u << 9,   /* not in the table; freed with the last lease */
  KVS_RESCUED = 1u << 10,   /* used while it was being written: stays hot */
  KVS_WAITED = 1u << 11,    /* somebody waited for its load */
  KVS_SSD_USED = 1u << 12,  /* since its record was written */
  KVS_MOVING = 1u << 13,    /* to be written again while its record is still good */
  KVS_LISTED = 1u << 14,    /* reclaim's, within one step */
  KVS_OWED = 1u << 15,      /* a flush will have it written: stays in RAM until then */
};

/* What a look-up reads comes first. */
struct kvs_entry {
  kvstow_key key;
  uint64_t parent_lo;     /* half of the parent's key: ties blocks for demotion and forgetting */
  uint32_t root;          /* index in the store's table of roots */
  _Atomic uint32_t frame; /* KVS_NO_FRAME: not in RAM */
  uint32_t padded_bytes;  /* payload as stored */
  uint32_t depth;
  uint32_t leases;   /* the shard's lock; at 0 an unlinked entry is freed */
  uint16_t ram_pins; /* readers of the frame; the frame stays while > 0 */
  uint16_t flags;
  uint32_t written_s; /* Unix time it was stored: for time-to-live */
  kvstow_loc loc;
  union {
    uint32_t ram_node[KVSTOW_POLICY_NODE_BYTES / 4]; /* while it is in RAM */
    uint32_t load;                                   /* LOADING: slot of the load in flight */
    uint32_t next_free;
  };
  uint32_t ssd_node[KVSTOW_POLICY_NODE_BYTES / 4];
};
static_assert(sizeof(struct kvs_entry) == 104, "metadata a block is promised");

/* A cache line of the table. */
struct kvs_line {
  _Atomic uint32_t slot[KVS_LINE_SLOTS]; /* id, and above it bits of the key; KVS_NO_ENTRY: empty */
  uint32_t passed;                       /* blocks that would be here, or before, and are behind */
};
static_assert(sizeof(struct kvs_line) == 64, "a cache line");

struct kvs_shard {
  kvstow__mutex lock;
  _Atomic uint32_t level; /* it has 1 << level lines */
  uint32_t count;
};

/* The lines of all shards of one level, one shard's after another's: together they fill huge pages. The address stays
 * until the end, for those who look without a lock; the memory goes with the last shard. The store's lock. */
struct kvs_level {
  struct kvs_line *lines; /* NULL: never used */
  uint32_t shards;        /* that are on it */
};

struct kvs_index {
  struct kvs_shard shards[KVS_SHARDS];
  struct kvs_level levels[KVS_LEVELS];
  unsigned id_bits; /* of a slot */
  struct kvs_entry **chunks;
  char *slab;                    /* of memory, that chunks are cut from: the newest one */
  char **ram_nodes, **ssd_nodes; /* the chunks again, as kvstow_nodes want them */
  uint32_t chunks_max, chunks_count;
  uint32_t used, free; /* entries handed out once; list of returned ones */
  uint64_t live;       /* entries in use */
};

int kvs_index_init(struct kvs_index *index, uint64_t entries_max);
void kvs_index_finish(struct kvs_index *index);

static inline struct kvs_entry *kvs_entry(const struct kvs_index *index, uint32_t id) {
  return &index->chunks[id >> KVS_CHUNK_SHIFT][id & ((1u << KVS_CHUNK_SHIFT) - 1)];
}

/* For walks over ids 0..used. Store's lock. */
static inline bool kvs_entry_listed(const struct kvs_entry *entry) {
  return entry->root != KVS_NO_ENTRY && (entry->flags & KVS_UNLINKED) == 0;
}

/* A zeroed entry without frame, in no table; KVS_NO_ENTRY when memory or ids have run out. Store's lock. */
uint32_t kvs_entry_new(struct kvs_index *index);
/* The entry is in no table and has no leases. Store's lock. */
void kvs_entry_free(struct kvs_index *index, uint32_t id);

void kvs_shard_lock(struct kvs_index *index, kvstow_key key);
void kvs_shard_unlock(struct kvs_index *index, kvstow_key key);

/* These fetch into the caches what a look-up of a key will read. No lock. */
void kvs_shard_ahead(const struct kvs_index *index, kvstow_key key); /* its line of the table */
/* And the entry that is likely to be its, which is returned; NULL: it is likely not to be held. */
const struct kvs_entry *kvs_shard_ahead_entry(const struct kvs_index *index, kvstow_key key);

/* These hold the shard's lock already. */
uint32_t kvs_shard_find(const struct kvs_index *index, kvstow_key key, uint32_t root);
/* By half of its key. The store's lock is enough. */
uint32_t kvs_shard_find_half(const struct kvs_index *index, uint64_t key_lo, uint32_t root);
bool kvs_shard_insert(struct kvs_index *index, uint32_t id); /* false: out of memory */
void kvs_shard_remove(struct kvs_index *index, uint32_t id);

uint64_t kvs_index_bytes(const struct kvs_index *index);

#endif
