/* reclaim.c - giving up a segment: which one, and what of it is kept.
 *
 * The SSD policy orders blocks; space comes back in segments. So the policy's victims are condemned, one
 * after another, until some sealed segment has at most a quarter of its records still valued, or a
 * quarter of all records is condemned. Then the segment with the fewest valued records goes (the
 * oldest on a tie). Of what it still values, the blocks used since they were written are worth keeping,
 * if they are within reinsert_pct of the segment (pinned blocks always); the rest is forgotten.
 * `kvstow replay --sim --tiers engine` follows the same rules.
 *
 * It begins ahead of need: when the last segment is half full. What is to be kept is brought to
 * RAM and written again at the head while its old record is still good, then made durable. So a full
 * segment finds the next one ready to be given up in one step without I/O, and what was flushed
 * stays flushed. When need comes first, what could not be moved in time loses its SSD copy but not
 * its RAM copy, and is written with the next batch.
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

struct row {
  kvstow_key key, root;
  kvstow_loc loc;
  bool kept;   /* to be written again */
  bool asked;  /* demotion has been told so */
  bool loaded; /* its RAM copy is there for that alone */
  bool gone;   /* the cache has let go of it */
};

/* The records of a segment, as its footer lists them. */
struct listing {
  kvstow *store;
  struct row *row;
  size_t count, room;
  bool failed; /* no memory for all */
};

/* The segment that goes next. Only the demotion thread changes it, the rows under store->lock. */
struct kvs_reclaim {
  struct listing list;
  uint32_t segment, records;
  bool moved;   /* something is written again, and perhaps not durable yet */
  bool settled; /* nothing is left to move, or on its way */
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
  list->row[list->count++] = (struct row){.key = key, .root = root, .loc = loc};
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

static bool may_go(const kvstow *store, const struct choice *choice, uint32_t i) {
  return !choice->skip[i] && choice->info[i].state == KVSTOW_SEGMENT_SEALED &&
         store->segments[i].pending == 0;
}

static bool cheaper(const kvstow *store, const struct choice *choice, uint32_t a, uint32_t b) {
  const struct kvs_segment *x = &store->segments[a], *y = &store->segments[b];
  return x->valued < y->valued ||
         (x->valued == y->valued && choice->info[a].generation < choice->info[b].generation);
}

/* The sealed segment with the fewest valued records; UINT32_MAX if there is none. */
static uint32_t cheapest(const kvstow *store, const struct choice *choice) {
  uint32_t best = UINT32_MAX;
  for (uint32_t i = 0; i < store->segments_count; i++)
    if (may_go(store, choice, i) && (best == UINT32_MAX || cheaper(store, choice, i, best)))
      best = i;
  return best;
}

static uint32_t choose(kvstow *store, const struct choice *choice) {
  uint32_t best = cheapest(store, choice);
  while (best != UINT32_MAX) {
    const struct kvs_segment *segment = &store->segments[best];
    const uint64_t condemned = store->ssd_records - store->ssd_valued;
    if (segment->valued * 100 <= choice->info[best].records * VALUED_MAX_PCT ||
        condemned * 100 >= store->ssd_records * CONDEMNED_MAX_PCT)
      break;
    const uint32_t id = store->ssd.ops->victim(store->ssd.self, NULL);
    if (id == KVSTOW_NO_ID) break;
    struct kvs_entry *entry = kvs_entry(&store->index, id);
    entry->flags &= (uint16_t)~KVS_SSD_POLICY;
    kvs_ssd_value(store, id, false);
    const uint32_t poorer = entry->loc.segment;
    if (may_go(store, choice, poorer) && cheaper(store, choice, poorer, best)) best = poorer;
  }
  return best;
}

/* ---- what is kept --------------------------------------------------------------------------- */

static bool worthy(const struct kvs_entry *entry) {
  const uint16_t both = KVS_SSD_POLICY | KVS_SSD_USED;
  return (entry->flags & both) == both;
}

static bool pinned(const struct kvs_entry *entry) {
  return (entry->flags & KVS_PINNED) != 0;
}

/* Marks what is to be kept; what was marked stays so. */
static void mark_kept(kvstow *store, struct kvs_reclaim *reclaim) {
  struct listing *list = &reclaim->list;
  for (int pass = 0, count = 0; pass < 2; pass++) {
    const bool all =
        (uint64_t)count * 100 <= (uint64_t)reclaim->records * store->options.reinsert_pct;
    for (size_t i = 0; i < list->count; i++) {
      const uint32_t id = listed_entry(store, list, i);
      const struct kvs_entry *entry = id == KVS_NO_ENTRY ? NULL : kvs_entry(&store->index, id);
      if (pass == 0)
        count += list->row[i].kept || (entry != NULL && worthy(entry));
      else if (entry != NULL && (pinned(entry) || (all && worthy(entry))))
        list->row[i].kept = true;
    }
  }
  reclaim->settled = false;
}

/* To be written again: into the hands of the demotion, out of the policy if it is in RAM for that alone. */
static bool ask_to_move(kvstow *store, struct row *row, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_DEMOTING) != 0 || !kvs_demote_want(store, id, true)) return false;
  row->asked = true;
  entry->flags |= KVS_MOVING;
  if (row->loaded || (entry->flags & KVS_CLEAN) != 0) kvs_ram_unlist(store, id);
  return true;
}

/* Brings to RAM what is to be kept, and has it written again once it is there. true: something was
 * done. */
static bool move_kept(kvstow *store, struct kvs_reclaim *reclaim, struct kvs_reads *reads) {
  struct listing *list = &reclaim->list;
  bool progress = false;
  reclaim->settled = true;
  for (size_t i = 0; i < list->count; i++) {
    struct row *row = &list->row[i];
    if (!row->kept) continue;
    const uint32_t id = listed_entry(store, list, i);
    if (id == KVS_NO_ENTRY) continue; /* moved, or gone */
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (!row->asked && entry->frame != KVS_NO_FRAME) {
      if (ask_to_move(store, row, id)) progress = reclaim->moved = true;
    } else if (!row->asked && (entry->flags & KVS_LOADING) == 0) {
      row->kept = !row->loaded; /* else it was tried in vain */
      row->loaded = row->kept && kvs_load_start(store, id, KVSTOW_PREFETCH, false, reads) == 0;
      progress |= row->loaded;
      if (!row->kept) continue;
    }
    if (!row->asked || (entry->flags & KVS_MOVING) != 0) reclaim->settled = false;
  }
  return progress;
}

/* Waits for the loads under way. */
static void wait_loads(kvstow *store, const struct listing *list) {
  const uint64_t deadline = kvs_deadline(store, 0);
  for (size_t i = 0; i < list->count;) {
    const uint32_t id = listed_entry(store, list, i);
    const bool loading =
        id != KVS_NO_ENTRY && (kvs_entry(&store->index, id)->flags & KVS_LOADING) != 0;
    if (!loading)
      i++;
    else if (!kvs_wait_until(store, deadline))
      break;
  }
}

/* The block's SSD copy goes. false: it must not, somebody leases it. */
static bool let_go(kvstow *store, uint32_t id, struct row *row) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
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
  if ((row->kept || pinned(entry)) && !row->asked) (void)ask_to_move(store, row, id);
  kvs_ssd_lose(store, id, false);
  return true;
}

/* Lets go of all blocks of the segment and gives it up: in one step, for a forget that comes between
 * would find neither the blocks nor a segment to wipe. What was let go of in vain is buried. 0, or
 * KVSTOW_EBUSY, or what the tier says. */
static int give_up(kvstow *store, struct kvs_reclaim *reclaim) {
  struct listing *list = &reclaim->list;
  int rc = 0;
  pthread_mutex_lock(&store->lock);
  for (size_t i = 0; i < list->count && rc == 0; i++) {
    const uint32_t id = listed_entry(store, list, i);
    if (id == KVS_NO_ENTRY) continue;
    list->row[i].gone = let_go(store, id, &list->row[i]);
    if (!list->row[i].gone) rc = KVSTOW_EBUSY;
  }
  if (rc == 0) rc = kvstow_tier_reclaim(store->tier, reclaim->segment);
  if (rc == KVSTOW_ESTATE) rc = KVSTOW_EBUSY; /* a write has failed there since it was chosen */
  for (size_t i = 0; i < list->count && rc != 0; i++)
    if (list->row[i].gone) kvs_bury(store, list->row[i].loc);
  if (rc != 0) kvs_reclaim_bury_moved(store);
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

static void drop(kvstow *store) {
  pthread_mutex_lock(&store->lock);
  struct kvs_reclaim *reclaim = store->reclaim;
  store->reclaim = NULL;
  store->preparing = false;
  pthread_mutex_unlock(&store->lock);
  if (reclaim == NULL) return;
  free(reclaim->list.row);
  free(reclaim);
}

/* One step of moving: asks, loads, or makes durable. Store's lock, let go of meanwhile. true: it did
 * something. */
static bool step(kvstow *store, struct kvs_reclaim *reclaim) {
  if (reclaim->settled) return false;
  struct kvs_reads reads = {.count = 0};
  bool progress = move_kept(store, reclaim, &reads);
  const bool flush = reclaim->settled && reclaim->moved;
  store->preparing = !reclaim->settled;
  if (reads.count == 0 && !flush) return progress;
  pthread_mutex_unlock(&store->lock);
  kvs_loads_submit(store, &reads);
  /* What was moved must outlive the record it came from. A failure is the next flush's to tell. */
  if (flush) (void)kvstow_tier_flush(store->tier);
  pthread_mutex_lock(&store->lock);
  if (flush) reclaim->moved = false;
  return true;
}

/* Lists the segment and begins to move what is kept. 0, KVSTOW_EBUSY (leased) or KVSTOW_ENOMEM. */
static int begin(kvstow *store, uint32_t segment, uint32_t records) {
  struct kvs_reclaim *reclaim = calloc(1, sizeof *reclaim);
  if (reclaim == NULL) return KVSTOW_ENOMEM;
  *reclaim = (struct kvs_reclaim){.list = {.store = store}, .segment = segment, .records = records};
  struct listing *list = &reclaim->list;
  int rc = kvstow_tier_scan(store->tier, segment, list_record, list);
  if (rc != 0) list_index(list, segment);
  rc = list->failed ? KVSTOW_ENOMEM : 0;
  if (rc == 0 && any_leased(store, list)) rc = KVSTOW_EBUSY;
  pthread_mutex_lock(&store->lock);
  store->reclaim = reclaim;
  if (rc == 0) {
    mark_kept(store, reclaim);
    (void)step(store, reclaim);
  }
  pthread_mutex_unlock(&store->lock);
  if (rc != 0) drop(store);
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

/* Chooses a segment and begins with it. `need`: rather waits than finds none. 0, KVSTOW_EBUSY: there is
 * none, KVSTOW_ENOMEM. */
static int begin_some(kvstow *store, bool *skip, kvstow_segment_info *info, bool need) {
  bool sealed_open = false;
  for (unsigned tries = 0; tries < TRIES; tries++) {
    bool any_free = false;
    for (uint32_t i = 0; i < store->segments_count; i++) {
      (void)kvstow_tier_segment(store->tier, i, &info[i]);
      any_free |= info[i].state == KVSTOW_SEGMENT_FREE;
    }
    if (any_free && !need) return KVSTOW_EBUSY;
    pthread_mutex_lock(&store->lock);
    const uint32_t segment = choose(store, &(struct choice){skip, info});
    pthread_mutex_unlock(&store->lock);
    if (segment != UINT32_MAX) {
      const int rc = begin(store, segment, info[segment].records);
      if (rc != KVSTOW_EBUSY) return rc;
      skip[segment] = true;
    } else if (!need) {
      return KVSTOW_EBUSY;
    } else if (wait_pending(store)) {
      continue;
    } else if (!sealed_open) {
      sealed_open = true;
      if (kvstow_tier_seal(store->tier) != 0) return KVSTOW_EBUSY;
    } else {
      return KVSTOW_EBUSY;
    }
  }
  return KVSTOW_EBUSY;
}

static int begin_next(kvstow *store, bool need, bool *skip) {
  kvstow_segment_info *info = calloc(store->segments_count, sizeof *info);
  const int rc = info == NULL ? KVSTOW_ENOMEM : begin_some(store, skip, info, need);
  free(info);
  return rc;
}

bool kvs_reclaim_ahead(kvstow *store) {
  const bool soon = store->half_full;
  store->half_full = false;
  if (store->reclaim != NULL) {
    if (soon) mark_kept(store, store->reclaim); /* used since */
    return step(store, store->reclaim);
  }
  if (!soon) return false;
  pthread_mutex_unlock(&store->lock);
  bool *skip = calloc(store->segments_count, sizeof *skip);
  if (skip != NULL) (void)begin_next(store, false, skip);
  free(skip);
  pthread_mutex_lock(&store->lock);
  return true;
}

int kvs_reclaim(kvstow *store) {
  bool *skip = calloc(store->segments_count, sizeof *skip);
  if (skip == NULL) return KVSTOW_ENOMEM;
  int rc = KVSTOW_EBUSY;
  for (unsigned tries = 0; tries < TRIES && rc == KVSTOW_EBUSY; tries++) {
    if (store->reclaim == NULL && (rc = begin_next(store, true, skip)) != 0) break;
    struct kvs_reclaim *reclaim = store->reclaim;
    pthread_mutex_lock(&store->lock);
    (void)step(store, reclaim);
    wait_loads(store, &reclaim->list);
    const bool flush = reclaim->moved;
    pthread_mutex_unlock(&store->lock);
    if (flush) (void)kvstow_tier_flush(store->tier);
    skip[reclaim->segment] = true;
    rc = give_up(store, reclaim);
    drop(store);
  }
  free(skip);
  return rc == KVSTOW_EBUSY ? KVSTOW_ENOSPC : rc;
}

void kvs_reclaim_bury_moved(kvstow *store) {
  const struct kvs_reclaim *reclaim = store->reclaim;
  if (reclaim == NULL) return;
  for (size_t i = 0; i < reclaim->list.count; i++)
    if (reclaim->list.row[i].asked && !reclaim->list.row[i].gone &&
        listed_entry(store, &reclaim->list, i) == KVS_NO_ENTRY)
      kvs_bury(store, reclaim->list.row[i].loc);
}

bool kvs_reclaim_covers(const kvstow *store, uint32_t segment) {
  return store->reclaim != NULL && store->reclaim->segment == segment;
}

void kvs_reclaim_finish(kvstow *store) {
  drop(store);
}
