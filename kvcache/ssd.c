/* ssd.c - who is on SSD.
 *
 * A copy on SSD is *valued* while the SSD policy orders it (or it is pinned), *condemned* once the
 * policy has given it up: still readable, and valued again when used, until its segment is
 * reclaimed. Segments count both, so that reclaim finds the one that is cheapest to lose. Whether a
 * copy was ever used since it was written (KVS_SSD_USED) decides if it is worth writing again.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "kvcache/store.h"

#define ERASE_BATCH 256u

void kvs_ssd_value(kvstow *store, uint32_t id, bool valued) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  struct kvs_segment *segment = &store->segments[entry->loc.segment];
  if (valued)
    segment->valued++, store->ssd_valued++;
  else
    segment->valued--, store->ssd_valued--;
}

static void policy_insert(kvstow *store, uint32_t id, const kvstow_access *access) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  kvs_ssd_value(store, id, true);
  if ((entry->flags & KVS_PINNED) != 0) return;
  kvs_policy_insert(store, &store->ssd, id, access);
}

/* For reclaim, which would have to ask the disk, behind all that is being written. */
static void note_id(struct kvs_segment *segment, uint32_t id) {
  if (segment->ids_count == segment->ids_room) {
    const uint32_t room = segment->ids_room == 0 ? 8 : segment->ids_room * 2;
    uint32_t *grown = realloc(segment->ids, room * sizeof *grown);
    if (grown == NULL) {
      segment->ids_lost = true;
      return;
    }
    segment->ids = grown;
    segment->ids_room = room;
  }
  segment->ids[segment->ids_count++] = id;
}

void kvs_segment_clear(struct kvs_segment *segment) {
  free(segment->ids);
  segment->ids = NULL;
  segment->ids_count = segment->ids_room = 0;
  segment->ids_lost = segment->unread = false;
}

void kvs_ssd_gain(kvstow *store, uint32_t id, kvstow_loc loc, const kvstow_access *access) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  entry->loc = loc;
  entry->flags |= KVS_SSD;
  entry->flags &= (uint16_t)~KVS_SSD_USED;
  store->segments[loc.segment].records++;
  note_id(&store->segments[loc.segment], id);
  store->ssd_records++;
  store->ssd_record_bytes += (uint64_t)entry->padded_bytes + KVSTOW_PAGE_BYTES;
  store->both_blocks += entry->frame != KVS_NO_FRAME;
  policy_insert(store, id, access);
}

void kvs_ssd_move(kvstow *store, uint32_t id, kvstow_loc loc) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const bool valued = (entry->flags & (KVS_SSD_POLICY | KVS_PINNED)) != 0;
  struct kvs_segment *from = &store->segments[entry->loc.segment];
  struct kvs_segment *to = &store->segments[loc.segment];
  from->records--, to->records++;
  note_id(to, id);
  from->valued -= valued, to->valued += valued;
  entry->loc = loc;
  entry->flags &= (uint16_t)~KVS_SSD_USED;
}

void kvs_ssd_lose(kvstow *store, uint32_t id, bool bury) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & (KVS_SSD_POLICY | KVS_PINNED)) != 0) kvs_ssd_value(store, id, false);
  if ((entry->flags & KVS_SSD_POLICY) != 0) kvs_policy_remove(store, &store->ssd, id);
  store->segments[entry->loc.segment].records--;
  store->ssd_records--;
  store->ssd_record_bytes -= (uint64_t)entry->padded_bytes + KVSTOW_PAGE_BYTES;
  store->both_blocks -= entry->frame != KVS_NO_FRAME;
  entry->flags &= (uint16_t)~KVS_SSD;
  if (bury) kvs_bury(store, entry->loc);
}

void kvs_ssd_use(kvstow *store, uint32_t id, const kvstow_access *access) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_SSD) == 0 || (entry->flags & KVS_PINNED) != 0) return;
  if ((entry->flags & KVS_SSD_POLICY) != 0)
    store->ssd.ops->touch(store->ssd.self, id, access);
  else
    policy_insert(store, id, access);
}

bool kvs_ssd_is_at(const kvstow *store, uint32_t id, kvstow_loc loc) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  return (entry->flags & KVS_SSD) != 0 && entry->loc.segment == loc.segment &&
         entry->loc.page == loc.page && entry->loc.generation == loc.generation;
}

/* A record given up without its segment would be found again by recovery, even after it was
 * forgotten: it has to be erased where it lies. Should the list not grow, the worst is that. */
void kvs_bury(kvstow *store, kvstow_loc loc) {
  if (store->buried_count == store->buried_room) {
    const size_t room = store->buried_room == 0 ? 64 : store->buried_room * 2;
    kvstow_loc *grown = realloc(store->buried, room * sizeof *grown);
    if (grown == NULL) return;
    store->buried = grown;
    store->buried_room = room;
  }
  store->buried[store->buried_count++] = loc;
}

int kvs_erase_buried(kvstow *store) {
  int rc = 0;
  kvs_lock(store);
  const uint64_t errors = store->erase_errors;
  while (rc == 0 && store->buried_count > 0) {
    kvstow_loc locs[ERASE_BATCH];
    size_t count = 0;
    while (count < ERASE_BATCH && store->buried_count > 0)
      locs[count++] = store->buried[--store->buried_count];
    store->erasing++;
    kvstow__unlock(&store->lock);
    rc = kvstow_tier_erase(store->tier, locs, count);
    kvs_lock(store);
    store->erasing--;
    store->erase_errors += rc != 0;
    for (size_t i = 0; rc != 0 && i < count; i++) kvs_bury(store, locs[i]); /* for the next try */
    pthread_cond_broadcast(&store->changed);
  }
  /* What another thread has taken off the list counts as well. */
  const uint64_t deadline = kvs_deadline(store, 0);
  while (rc == 0 && store->erasing > 0)
    if (!kvs_wait_until(store, deadline)) rc = KVSTOW_ETIMEDOUT;
  if (rc == 0 && store->erase_errors != errors) rc = KVSTOW_EIO; /* the other one failed */
  kvstow__unlock(&store->lock);
  return rc;
}
