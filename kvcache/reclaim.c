/* reclaim.c - giving up a segment: which one, and what of it is kept.
 *
 * The SSD policy orders blocks; space comes back in segments. So the policy's victims are condemned, one
 * after another, until some sealed segment has at most a quarter of its records still valued, or a
 * quarter of all records is condemned. Then the segment with the fewest valued records goes (the
 * oldest on a tie). What it still values is brought to RAM and written again with the next batch, if
 * that is within reinsert_pct of the segment (pinned blocks always); the rest is forgotten.
 * `kvstow replay --sim --tiers engine` follows the same rules.
 *
 * A segment that holds a leased block SSD alone has is passed over: a lease's bytes stay.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

#define VALUED_MAX_PCT 25u
#define CONDEMNED_MAX_PCT 25u
#define TRIES 16u

/* The records of a segment, as its footer lists them. */
struct listing {
  kvstow *store;
  struct {
    kvstow_key key, root;
    kvstow_loc loc;
    bool loaded; /* only to be written again */
    bool gone;   /* the cache has let go of it */
  } * row;
  size_t count, room;
  bool failed; /* no memory for all */
};

static bool list_add(struct listing *list, kvstow_key key, kvstow_key root, kvstow_loc loc) {
  if (list->count == list->room) {
    const size_t room = list->room == 0 ? 256 : list->room * 2;
    void *grown = realloc(list->row, room * sizeof *list->row);
    if (grown == NULL) {
      list->failed = true;
      return false;
    }
    list->row = grown;
    list->room = room;
  }
  list->row[list->count].key = key;
  list->row[list->count].root = root;
  list->row[list->count].loc = loc;
  list->row[list->count].loaded = false;
  list->row[list->count++].gone = false;
  return true;
}

static bool list_record(void *arg, const kvstow_record *record) {
  kvstow_block_info info;
  if (kvstow_tag_describe(record->tag, &info) != 0) return true;
  return list_add(arg, record->key, info.root, record->loc);
}

/* The footer can't be read: ask the index instead, at length. */
static void list_index(struct listing *list, uint32_t segment) {
  kvstow *store = list->store;
  list->count = 0;
  pthread_mutex_lock(&store->lock);
  for (uint32_t id = 0; id < store->index.used; id++) {
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (kvs_entry_listed(entry) && (entry->flags & KVS_SSD) != 0 && entry->loc.segment == segment &&
        !list_add(list, entry->key, store->roots.rows[entry->root].id, entry->loc))
      break;
  }
  pthread_mutex_unlock(&store->lock);
}

/* The entry whose SSD copy is this record, or KVS_NO_ENTRY. Store's lock. */
static uint32_t listed_entry(kvstow *store, const struct listing *list, size_t i) {
  const kvstow_key none = {0, 0};
  const uint32_t root = kvs_root_take(store, list->row[i].root, none, false);
  if (root == KVS_NO_ENTRY) return KVS_NO_ENTRY;
  const kvstow_key key = list->row[i].key;
  kvs_shard_lock(&store->index, key);
  const uint32_t id = kvs_shard_find(&store->index, key, root);
  kvs_shard_unlock(&store->index, key);
  kvs_root_give(store, root);
  if (id == KVS_NO_ENTRY) return id;
  return kvs_ssd_is_at(store, id, list->row[i].loc) ? id : KVS_NO_ENTRY;
}

/* ---- which ---------------------------------------------------------------------------------- */

struct choice {
  const bool *skip; /* segments tried in vain */
  kvstow_segment_info *info;
};

/* The sealed segment with the fewest valued records; UINT32_MAX if there is none. */
static uint32_t cheapest(const kvstow *store, const struct choice *choice) {
  uint32_t best = UINT32_MAX;
  for (uint32_t i = 0; i < store->segments_count; i++) {
    if (choice->skip[i] || choice->info[i].state != KVSTOW_SEGMENT_SEALED ||
        store->segments[i].pending != 0)
      continue;
    if (best == UINT32_MAX || store->segments[i].valued < store->segments[best].valued ||
        (store->segments[i].valued == store->segments[best].valued &&
         choice->info[i].generation < choice->info[best].generation))
      best = i;
  }
  return best;
}

static uint32_t choose(kvstow *store, const struct choice *choice) {
  for (;;) {
    const uint32_t best = cheapest(store, choice);
    if (best == UINT32_MAX) return best;
    const struct kvs_segment *segment = &store->segments[best];
    const uint64_t condemned = store->ssd_records - store->ssd_valued;
    if (segment->valued * 100 <= choice->info[best].records * VALUED_MAX_PCT ||
        condemned * 100 >= store->ssd_records * CONDEMNED_MAX_PCT)
      return best;
    const uint32_t id = store->ssd.ops->victim(store->ssd.self, NULL);
    if (id == KVSTOW_NO_ID) return best;
    kvs_entry(&store->index, id)->flags &= (uint16_t)~KVS_SSD_POLICY;
    kvs_ssd_value(store, id, false);
  }
}

/* ---- what is kept --------------------------------------------------------------------------- */

static bool valued(const struct kvs_entry *entry) {
  return (entry->flags & (KVS_SSD_POLICY | KVS_PINNED)) != 0;
}

/* Brings to RAM what is to be written again. */
static void load_valued(kvstow *store, struct listing *list, bool all) {
  size_t i = 0;
  while (i < list->count) {
    struct kvs_reads reads = {.count = 0};
    pthread_mutex_lock(&store->lock);
    for (; i < list->count && reads.count < KVS_LOADS_A_CALL; i++) {
      const uint32_t id = listed_entry(store, list, i);
      if (id == KVS_NO_ENTRY) continue;
      const struct kvs_entry *entry = kvs_entry(&store->index, id);
      if (entry->frame != KVS_NO_FRAME || (entry->flags & KVS_LOADING) != 0) continue;
      if (valued(entry) && (all || (entry->flags & KVS_PINNED) != 0))
        list->row[i].loaded = kvs_load_start(store, id, KVSTOW_PREFETCH, false, &reads) == 0;
    }
    pthread_mutex_unlock(&store->lock);
    kvs_loads_submit(store, &reads);
  }
  const uint64_t deadline = kvs_deadline(store, 0);
  pthread_mutex_lock(&store->lock);
  for (i = 0; i < list->count;) {
    const uint32_t id = listed_entry(store, list, i);
    const bool loading =
        id != KVS_NO_ENTRY && (kvs_entry(&store->index, id)->flags & KVS_LOADING) != 0;
    if (!loading)
      i++;
    else if (!kvs_wait_until(store, deadline))
      break;
  }
  pthread_mutex_unlock(&store->lock);
}

/* The block's SSD copy goes. false: it must not, somebody leases it. */
static bool let_go(kvstow *store, uint32_t id, bool keep, bool loaded) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const bool again = (keep && valued(entry)) || (entry->flags & KVS_PINNED) != 0;
  if (entry->frame == KVS_NO_FRAME) {
    const kvstow_loc loc = entry->loc;
    if ((entry->flags & (KVS_LOADING | KVS_PINNED)) != 0) return false;
    kvs_ssd_lose(store, id, false);
    if (kvs_unlink_unleased(store, id)) return true;
    kvstow_access access = {0};
    kvs_describe_access(store, id, &access);
    kvs_ssd_gain(store, id, loc, &access);
    return false;
  }
  kvs_ssd_lose(store, id, false);
  if (again) { /* written with the next batch; what came here for that alone is clean then */
    const bool listed = !loaded && (entry->flags & KVS_CLEAN) == 0;
    if (!listed) kvs_ram_unlist(store, id);
    const bool wanted = kvs_demote_want(store, id, true);
    if (!listed && !wanted && (entry->flags & KVS_PINNED) == 0) kvs_clean_push(store, id);
  }
  return true;
}

/* Lets go of all blocks of the segment and gives it up: in one step, for a forget that comes between
 * would find neither the blocks nor a segment to wipe. What was let go of in vain is buried. 0, or
 * KVSTOW_EBUSY, or what the tier says. */
static int give_up(kvstow *store, uint32_t segment, struct listing *list, bool keep) {
  int rc = 0;
  pthread_mutex_lock(&store->lock);
  for (size_t i = 0; i < list->count && rc == 0; i++) {
    const uint32_t id = listed_entry(store, list, i);
    if (id == KVS_NO_ENTRY) continue;
    list->row[i].gone = let_go(store, id, keep, list->row[i].loaded);
    if (!list->row[i].gone) rc = KVSTOW_EBUSY;
  }
  if (rc == 0) rc = kvstow_tier_reclaim(store->tier, segment);
  for (size_t i = 0; i < list->count && rc != 0; i++)
    if (list->row[i].gone) kvs_bury(store, list->row[i].loc);
  store->count.segments_reclaimed += rc == 0;
  pthread_mutex_unlock(&store->lock);
  return rc;
}

static bool any_leased(kvstow *store, const struct listing *list) {
  bool leased = false;
  pthread_mutex_lock(&store->lock);
  for (size_t i = 0; i < list->count && !leased; i++) {
    const uint32_t id = listed_entry(store, list, i);
    if (id == KVS_NO_ENTRY) continue;
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    kvs_shard_lock(&store->index, entry->key);
    leased = entry->frame == KVS_NO_FRAME && entry->leases > 0;
    kvs_shard_unlock(&store->index, entry->key);
  }
  pthread_mutex_unlock(&store->lock);
  return leased;
}

/* ---- the steps ------------------------------------------------------------------------------ */

static int reclaim_one(kvstow *store, uint32_t segment, uint32_t records) {
  struct listing list = {.store = store};
  int rc = kvstow_tier_scan(store->tier, segment, list_record, &list);
  if (rc != 0) list_index(&list, segment);
  rc = list.failed ? KVSTOW_ENOMEM : 0;
  if (rc == 0 && any_leased(store, &list)) rc = KVSTOW_EBUSY;
  if (rc == 0) {
    pthread_mutex_lock(&store->lock);
    const bool keep =
        store->segments[segment].valued * 100ull <= (uint64_t)records * store->options.reinsert_pct;
    pthread_mutex_unlock(&store->lock);
    load_valued(store, &list, keep);
    rc = give_up(store, segment, &list, keep);
  }
  free(list.row);
  return rc;
}

/* Waits for writes under way; false if there are none. */
static bool wait_pending(kvstow *store) {
  const uint64_t deadline = kvs_deadline(store, 0);
  bool pending = false;
  pthread_mutex_lock(&store->lock);
  for (uint32_t i = 0; i < store->segments_count; i++)
    while (store->segments[i].pending != 0 && kvs_wait_until(store, deadline)) pending = true;
  pthread_mutex_unlock(&store->lock);
  return pending;
}

int kvs_reclaim(kvstow *store) {
  const uint32_t n = store->segments_count;
  bool *skip = calloc(n, sizeof *skip);
  kvstow_segment_info *info = calloc(n, sizeof *info);
  int rc = skip == NULL || info == NULL ? KVSTOW_ENOMEM : KVSTOW_EBUSY;
  bool sealed_open = false;
  for (unsigned tries = 0; tries < TRIES && rc == KVSTOW_EBUSY; tries++) {
    for (uint32_t i = 0; i < n; i++) (void)kvstow_tier_segment(store->tier, i, &info[i]);
    pthread_mutex_lock(&store->lock);
    const uint32_t segment = choose(store, &(struct choice){skip, info});
    pthread_mutex_unlock(&store->lock);
    if (segment != UINT32_MAX) {
      rc = reclaim_one(store, segment, info[segment].records);
      skip[segment] = true;
    } else if (wait_pending(store)) {
      continue;
    } else if (!sealed_open) {
      sealed_open = true;
      if (kvstow_tier_seal(store->tier) != 0) break;
    } else {
      break;
    }
  }
  free(skip);
  free(info);
  return rc == KVSTOW_EBUSY ? KVSTOW_ENOSPC : rc;
}
