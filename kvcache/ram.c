/* ram.c - who is in RAM, and who leaves it.
 *
 * An entry with a frame is in exactly one place: in the RAM policy (hot), on the clean list (a victim
 * whose loss costs nothing, or nothing that may be kept: its frame is the next to be used), pinned, or
 * on its way (DEMOTING without RAM_POLICY). Frames come from the pool while it has room, then from
 * the clean list's head; only a store without an SSD tier asks the policy directly.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/store.h"

#define PREV 0
#define NEXT 1

/* What a frame takes from the region. */
static uint64_t frame_cost(uint32_t padded_bytes) {
  return (uint64_t)padded_bytes + KVSTOW_PAGE_BYTES;
}

/* ---- the clean list ------------------------------------------------------------------------- */

void kvs_clean_push(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  entry->flags |= KVS_CLEAN;
  entry->ram_node[PREV] = store->clean_tail;
  entry->ram_node[NEXT] = KVS_NO_ENTRY;
  if (store->clean_tail != KVS_NO_ENTRY)
    kvs_entry(&store->index, store->clean_tail)->ram_node[NEXT] = id;
  else
    store->clean_head = id;
  store->clean_tail = id;
  store->clean_bytes += frame_cost(entry->padded_bytes);
}

void kvs_clean_remove(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const uint32_t prev = entry->ram_node[PREV], next = entry->ram_node[NEXT];
  if (prev != KVS_NO_ENTRY)
    kvs_entry(&store->index, prev)->ram_node[NEXT] = next;
  else
    store->clean_head = next;
  if (next != KVS_NO_ENTRY)
    kvs_entry(&store->index, next)->ram_node[PREV] = prev;
  else
    store->clean_tail = prev;
  entry->flags &= (uint16_t)~KVS_CLEAN;
  store->clean_bytes -= frame_cost(entry->padded_bytes);
}

/* ---- the policy ----------------------------------------------------------------------------- */

void kvs_ram_insert(kvstow *store, uint32_t id, const kvstow_access *access) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_PINNED) != 0) return;
  kvs_policy_insert(store, &store->ram, id, access);
}

void kvs_ram_unlist(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_CLEAN) != 0) kvs_clean_remove(store, id);
  if ((entry->flags & KVS_RAM_POLICY) != 0) kvs_policy_remove(store, &store->ram, id);
}

void kvs_use(kvstow *store, uint32_t id, kvstow_access *access) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_UNLINKED) != 0) return;
  if ((entry->flags & KVS_SSD) != 0) entry->flags |= KVS_SSD_USED;
  const bool in_ram = entry->frame != KVS_NO_FRAME;
  access->whence = in_ram ? KVSTOW_IN_RAM : KVSTOW_ON_SSD;
  access->parent =
      kvs_access_parent(store, access->parent, in_ram ? KVS_RAM_POLICY : KVS_SSD_POLICY);
  if (!in_ram) {
    kvs_ssd_use(store, id, access);
  } else if ((entry->flags & KVS_RAM_POLICY) != 0) {
    store->ram.ops->touch(store->ram.self, id, access);
  } else if ((entry->flags & KVS_CLEAN) != 0) {
    kvs_clean_remove(store, id);
    kvs_ram_insert(store, id, access);
  } else if ((entry->flags & (KVS_DEMOTING | KVS_MOVING)) != 0) {
    entry->flags |= KVS_RESCUED;
  }
}

/* ---- leaving RAM ---------------------------------------------------------------------------- */

void kvs_unlinked(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  entry->flags |= KVS_UNLINKED;
  if ((entry->flags & KVS_PINNED) != 0) {
    entry->flags &= (uint16_t)~KVS_PINNED;
    store->pinned_bytes -= frame_cost(entry->padded_bytes);
    store->pinned_blocks--;
  }
  kvs_event(store, KVSTOW_EVENT_EVICTED, entry);
  store->count.evicted_blocks++;
  if (entry->leases > 0) return; /* only we can lower it: the store's lock is held */
  kvs_root_give(store, entry->root);
  kvs_entry_free(&store->index, id);
}

static bool unlink_entry(kvstow *store, uint32_t id, bool even_leased) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const kvstow_key key = entry->key;
  kvs_shard_lock(&store->index, key);
  const bool stays = entry->leases > 0 && !even_leased;
  if (!stays) kvs_shard_remove(&store->index, id);
  kvs_shard_unlock(&store->index, key);
  if (!stays) kvs_unlinked(store, id);
  return !stays;
}

void kvs_unlink(kvstow *store, uint32_t id) {
  (void)unlink_entry(store, id, true);
}

bool kvs_unlink_unleased(kvstow *store, uint32_t id) {
  return unlink_entry(store, id, false);
}

bool kvs_take_frame(kvstow *store, uint32_t id, bool unlink, uint32_t *frame) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const kvstow_key key = entry->key;
  kvs_shard_lock(&store->index, key);
  const bool stays = unlink && entry->leases > 0;
  if (!stays) {
    *frame = entry->frame;
    entry->frame = KVS_NO_FRAME;
    if (unlink) kvs_shard_remove(&store->index, id); /* or a match could lease an empty name */
  }
  kvs_shard_unlock(&store->index, key);
  if (!stays && *frame != KVS_NO_FRAME) {
    store->ram_blocks--;
    store->both_blocks -= (entry->flags & KVS_SSD) != 0;
  }
  return !stays;
}

bool kvs_ram_drop(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const bool last_copy = (entry->flags & KVS_SSD) == 0;
  uint32_t frame;
  if (entry->ram_pins > 0 || (entry->flags & KVS_OWED) != 0) return false;
  if (!kvs_take_frame(store, id, last_copy, &frame)) return false;
  if ((entry->flags & KVS_PREFETCHED) != 0) {
    store->count.chain.wasted++;
    entry->flags &= (uint16_t)~KVS_PREFETCHED;
  }
  entry->flags &= (uint16_t)~KVS_SUMS;
  store->count.ram_evictions++;
  kvs_ram_give(store, frame, entry->padded_bytes);
  if (last_copy) kvs_unlinked(store, id);
  return true;
}

static void make_hot(kvstow *store, uint32_t id) {
  const kvstow_access access = kvs_access_alone(store, id, KVSTOW_IN_RAM, KVS_RAM_POLICY);
  kvs_ram_insert(store, id, &access);
}

/* Drops the first droppable block of the clean list. Those that can't go now (leased, and nowhere else) become hot
 * again; if there are only such, they would be victims again at once, and so on: the demoter lets them be for a while. */
static uint32_t drop_clean(kvstow *store, uint32_t *frame) {
  bool stuck = false;
  while (store->clean_head != KVS_NO_ENTRY) {
    const uint32_t id = store->clean_head;
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    const uint32_t padded_bytes = entry->padded_bytes;
    *frame = entry->frame;
    kvs_clean_remove(store, id);
    if (kvs_ram_drop(store, id)) return padded_bytes;
    make_hot(store, id);
    stuck = true;
  }
  if (stuck) store->victims_rest_until_us = kvs_now_us() + KVS_VICTIMS_REST_US;
  return 0;
}

/* Without an SSD tier the policy's victim is simply forgotten. Those that can't go now wait outside the
 * policy, or it would name them again, and return to it in the order they came. */
static uint32_t drop_victim(kvstow *store, uint32_t *frame) {
  uint32_t first = KVS_NO_ENTRY, *link = &first, padded_bytes = 0;
  for (;;) {
    const uint32_t id = kvs_policy_victim(store, &store->ram);
    if (id == KVSTOW_NO_ID) break;
    struct kvs_entry *entry = kvs_entry(&store->index, id);
    *frame = entry->frame;
    padded_bytes = entry->padded_bytes;
    if (kvs_ram_drop(store, id)) break;
    padded_bytes = 0;
    *link = id;
    link = &entry->ram_node[NEXT];
    *link = KVS_NO_ENTRY;
  }
  for (uint32_t id = first; id != KVS_NO_ENTRY;) {
    const uint32_t next = kvs_entry(&store->index, id)->ram_node[NEXT];
    make_hot(store, id);
    id = next;
  }
  return padded_bytes;
}

/* ---- frames --------------------------------------------------------------------------------- */

uint64_t kvs_hot_bytes(const kvstow *store) {
  return store->frame_bytes - store->clean_bytes - store->demoting_bytes;
}

void kvs_ram_give(kvstow *store, uint32_t frame, uint32_t padded_bytes) {
  store->frame_bytes -= frame_cost(padded_bytes);
  kvs_pool_give(store->pool, frame);
}

/* A frame of another size was dropped: empty its slab as far as costs nothing, so that the slab can be cut
 * anew. */
static void drop_neighbour(void *arg, uint32_t frame, uint32_t owner) {
  kvstow *store = arg;
  (void)frame;
  if (owner == KVS_NO_OWNER) return;
  const struct kvs_entry *entry = kvs_entry(&store->index, owner);
  const bool ssd = (entry->flags & KVS_SSD) != 0 || store->tier == NULL;
  if (entry->ram_pins > 0 || !ssd || (entry->flags & (KVS_PINNED | KVS_DEMOTING)) != 0) return;
  kvs_ram_unlist(store, owner);
  if (!kvs_ram_drop(store, owner)) make_hot(store, owner);
}

uint32_t kvs_ram_take(kvstow *store, uint32_t padded_bytes) {
  /* Every turn frees a frame, so the region's frames bound the turns. */
  for (;;) {
    const uint32_t frame = kvs_pool_take(store->pool, padded_bytes);
    if (frame != KVS_NO_FRAME) {
      store->frame_bytes += frame_cost(padded_bytes);
      if (store->frame_bytes > store->capacity_bytes) store->capacity_bytes = store->frame_bytes;
      kvs_demoter_check(store);
      return frame;
    }
    store->capacity_bytes = store->frame_bytes;
    uint32_t dropped;
    uint32_t dropped_bytes = drop_clean(store, &dropped);
    if (dropped_bytes == 0 && store->tier == NULL) dropped_bytes = drop_victim(store, &dropped);
    if (dropped_bytes == 0) {
      kvs_demoter_check(store);
      return KVS_NO_FRAME;
    }
    if (dropped_bytes != padded_bytes)
      kvs_pool_neighbours(store->pool, dropped, drop_neighbour, store);
  }
}
