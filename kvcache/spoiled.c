/* spoiled.c - blocks on a disk that could not make them durable.
 *
 * A barrier failed in their segment: they can be read, perhaps, but may be gone with the power, and no
 * later flush can promise otherwise. So the cache lets go of those copies. What RAM still holds is to be
 * written again, elsewhere; the rest is lost: a failing disk costs its blocks. Leased blocks keep
 * their segment until the next flush.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "kvcache/store.h"

/* false: not now. */
static bool leave(kvstow *store, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & (KVS_LOADING | KVS_DEMOTING | KVS_MOVING)) != 0) return false;
  const kvstow_loc loc = entry->loc;
  const bool in_ram = entry->frame != KVS_NO_FRAME;
  if (in_ram) kvs_ram_unlist(store, id);
  kvs_ssd_lose(store, id, false);
  if (in_ram) {
    const kvstow_access access = kvs_access_alone(store, id, KVSTOW_IN_RAM, KVS_RAM_POLICY);
    if ((entry->flags & KVS_PINNED) == 0) kvs_ram_insert(store, id, &access);
  } else if ((entry->flags & KVS_PINNED) != 0 || !kvs_unlink_unleased(store, id)) {
    const kvstow_access access = kvs_access_alone(store, id, KVSTOW_ON_SSD, KVS_SSD_POLICY);
    kvs_ssd_gain(store, id, loc, &access);
    return false;
  }
  kvs_bury(store, loc); /* in vain if the segment goes: then forgetting wipes it whole */
  return true;
}

static void leave_segment(kvstow *store, uint32_t segment, uint32_t generation) {
  bool all = store->segments[segment].pending == 0;
  for (uint32_t id = 0; id < store->index.used; id++) {
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (!kvs_entry_listed(entry) || (entry->flags & KVS_SSD) == 0 ||
        entry->loc.segment != segment || entry->loc.generation != generation)
      continue;
    if (!leave(store, id)) all = false;
  }
  if (all) (void)kvstow_tier_reclaim(store->tier, segment);
}

void kvs_leave_unsure(kvstow *store) {
  kvs_lock(store);
  store->doubts++; /* before the segments go: who no longer finds them sees that */
  kvstow__unlock(&store->lock);
  for (uint32_t i = 0; i < store->segments_count; i++) {
    kvstow_segment_info info;
    if (kvstow_tier_segment(store->tier, i, &info) != 0 || !info.unsure) continue;
    kvs_lock(store);
    leave_segment(store, i, info.generation);
    kvstow__unlock(&store->lock);
  }
}
