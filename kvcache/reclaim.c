/* reclaim.c - giving up a segment: which one, and what of it is kept.
 *
 * The SSD policy orders blocks; space comes back in segments. So the policy's victims are condemned, one
 * after another, until some sealed segment has at most a quarter of its records still valued, or a
 * quarter of all records is condemned. Then the segment with the fewest valued records goes (the
 * oldest on a tie). Of what it still values, the blocks used since they were written are worth keeping,
 * if they are within reinsert_pct of the segment (pinned blocks always); the rest is forgotten.
 * `kvstow replay --sim --tiers engine` follows the same rules.
 *
 * It begins ahead of need: when the last segment is opened. What is to be kept is brought to RAM
 * and written again at the head while its old record is still good, then made durable; the head's
 * second half waits for that. So a full segment finds the next one ready to be given up in one step
 * without I/O, and what was flushed stays flushed. Where need comes first (no frame to be had, blocks
 * nearly as large as segments), what could not be moved in time loses its SSD copy but not its RAM
 * copy, and is written with the next batch.
 *
 * A segment of which nothing is known, because it could not be read when the store was opened, costs nothing and goes
 * first: the blocks in it are nobody's until the next opening, and room is wanted now.
 *
 * A segment that holds a leased block SSD alone has is passed over: a lease's bytes stay. What a flush under way
 * writes goes last: a policy that thinks little of new blocks would have it write in vain.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "kvcache/store.h"

#define VALUED_MAX_PCT 25u
#define CONDEMNED_MAX_PCT 25u
#define TRIES 16u

struct row {
  kvstow_key key;
  kvstow_loc loc;
  uint32_t id;
  bool kept;   /* to be written again */
  bool asked;  /* demotion has been told so */
  bool loaded; /* its RAM copy is there for that alone */
  bool gone;   /* the cache has let go of it */
};

/* What the cache has in a segment. */
struct listing {
  struct row *row;
  size_t count;
};

/* The segment that goes next. Only the demotion thread changes it, the rows under store->lock. */
struct kvs_reclaim {
  struct listing list;
  uint32_t segment, records;
  uint32_t
      generation; /* of the segment, unless a forget has wiped it since: then it is another's */
  bool moved;     /* something is written again, and perhaps not durable yet */
  bool settled;   /* nothing is left to move, or on its way */
};

/* The entry whose SSD copy is this record, or NULL: it was moved, or is no more. Store's lock. */
static struct kvs_entry *listed_entry(const kvstow *store, const struct row *row) {
  struct kvs_entry *entry = kvs_entry(&store->index, row->id);
  return kvs_entry_listed(entry) && kvs_key_equal(entry->key, row->key) &&
                 kvs_ssd_is_at(store, row->id, row->loc)
             ? entry
             : NULL;
}

static bool lies_in(const kvstow *store, uint32_t id, uint32_t segment) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  return kvs_entry_listed(entry) && (entry->flags & KVS_SSD) != 0 && entry->loc.segment == segment;
}

/* Lists the segment's blocks: from its own list of ids, or if that is incomplete from all, at length.
 * An id may be in its list twice. Store's lock. false: out of memory. */
static bool list_blocks(kvstow *store, uint32_t number, struct listing *list) {
  const struct kvs_segment *segment = &store->segments[number];
  const uint32_t count = segment->ids_lost ? store->index.used : segment->ids_count;
  list->row = calloc(segment->records + 1, sizeof *list->row);
  if (list->row == NULL) return false;
  for (uint32_t i = 0; i < count && list->count < segment->records; i++) {
    const uint32_t id = segment->ids_lost ? i : segment->ids[i];
    struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (!lies_in(store, id, number) || (entry->flags & KVS_LISTED) != 0) continue;
    entry->flags |= KVS_LISTED;
    list->row[list->count++] = (struct row){.key = entry->key, .loc = entry->loc, .id = id};
  }
  for (size_t i = 0; i < list->count; i++)
    kvs_entry(&store->index, list->row[i].id)->flags &= (uint16_t)~KVS_LISTED;
  return true;
}

/* ---- which ---------------------------------------------------------------------------------- */

struct choice {
  const bool *skip; /* segments tried in vain */
  kvstow_segment_info *info;
  bool flushed; /* also those into which a flush under way has written */
};

static bool flush_wrote(const kvstow *store, uint32_t generation) {
  return store->flushing > 0 && (int32_t)(generation - store->flush_from) >= 0;
}

static bool may_go(const kvstow *store, const struct choice *choice, uint32_t i) {
  if (!choice->flushed && flush_wrote(store, choice->info[i].generation)) return false;
  const kvstow_segment_state state = choice->info[i].state;
  return !choice->skip[i] && (state == KVSTOW_SEGMENT_SEALED || state == KVSTOW_SEGMENT_UNREAD) &&
         !choice->info[i].offline && store->segments[i].pending == 0;
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
    const uint32_t id = kvs_policy_victim(store, &store->ssd);
    if (id == KVSTOW_NO_ID) break;
    const struct kvs_entry *entry = kvs_entry(&store->index, id);
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
      const struct kvs_entry *entry = listed_entry(store, &list->row[i]);
      if (pass == 0)
        count += list->row[i].kept || (entry != NULL && worthy(entry));
      else if (entry != NULL && (pinned(entry) || (all && worthy(entry))))
        list->row[i].kept = true;
    }
  }
  reclaim->settled = false;
}

/* To be written again: into the hands of the demotion, out of the policy if it is in RAM for that alone. */
static bool ask_to_move(kvstow *store, struct row *row) {
  struct kvs_entry *entry = kvs_entry(&store->index, row->id);
  if ((entry->flags & KVS_DEMOTING) != 0 || !kvs_demote_want(store, row->id, true)) return false;
  row->asked = true;
  entry->flags |= KVS_MOVING;
  if (row->loaded || (entry->flags & KVS_CLEAN) != 0) kvs_ram_unlist(store, row->id);
  return true;
}

/* Brings to RAM what is to be kept, and has it written again once it is there. true: something was
 * done. */
static bool move_kept(kvstow *store, struct kvs_reclaim *reclaim, struct kvs_reads *reads) {
  struct listing *list = &reclaim->list;
  bool progress = false;
  reclaim->settled = true;
  store->moving = false;
  for (size_t i = 0; i < list->count; i++) {
    struct row *row = &list->row[i];
    if (!row->kept) continue;
    const struct kvs_entry *entry = listed_entry(store, row);
    if (entry == NULL) continue;
    if (!row->asked && entry->frame != KVS_NO_FRAME) {
      if (ask_to_move(store, row)) progress = reclaim->moved = true;
    } else if (!row->asked && (entry->flags & KVS_LOADING) == 0) {
      row->kept = !row->loaded; /* else it was tried in vain */
      row->loaded =
          row->kept && kvs_load_start(store, row->id, KVSTOW_DEMAND, false, NULL, reads) == 0;
      progress |= row->loaded;
      if (!row->kept) continue;
    }
    const bool moving = (entry->flags & (KVS_MOVING | KVS_LOADING)) != 0;
    if (!row->asked || moving) reclaim->settled = false;
    store->moving |= moving;
  }
  return progress;
}

/* Waits for the loads under way. */
static void wait_loads(kvstow *store, const struct listing *list) {
  const uint64_t deadline = kvs_deadline(store, 0);
  for (size_t i = 0; i < list->count;) {
    const struct kvs_entry *entry = listed_entry(store, &list->row[i]);
    if (entry == NULL || (entry->flags & KVS_LOADING) == 0)
      i++;
    else if (!kvs_wait_until(store, deadline))
      break;
  }
}

/* The block's SSD copy goes. false: it must not, somebody leases it. */
static bool let_go(kvstow *store, struct row *row) {
  const uint32_t id = row->id;
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  if (entry->frame == KVS_NO_FRAME) {
    const kvstow_loc loc = entry->loc;
    if ((entry->flags & (KVS_LOADING | KVS_PINNED)) != 0) return false;
    kvs_ssd_lose(store, id, false);
    if (kvs_unlink_unleased(store, id)) return true;
    const kvstow_access access = kvs_access_alone(store, id, KVSTOW_ON_SSD, KVS_SSD_POLICY);
    kvs_ssd_gain(store, id, loc, &access);
    return false;
  }
  if ((row->kept || pinned(entry)) && !row->asked) (void)ask_to_move(store, row);
  kvs_ssd_lose(store, id, false);
  if (store->flushing > 0 && !flush_wrote(store, row->loc.generation))
    (void)kvs_choose(&store->given_up, store, id); /* or the flush owes it already */
  return true;
}

/* Ends with this segment, one way or the other. */
static void drop(kvstow *store) {
  struct kvs_reclaim *reclaim = store->reclaim;
  store->reclaim = NULL;
  store->preparing = store->moving = false;
  if (reclaim == NULL) return;
  free(reclaim->list.row);
  free(reclaim);
}

/* Lets go of all blocks of the segment and gives it up: in one step, for a forget that comes between
 * would find neither the blocks nor a segment to wipe. What was let go of in vain is buried. 0, or
 * KVSTOW_EBUSY, or what the tier says. */
static int give_up(kvstow *store, struct kvs_reclaim *reclaim) {
  struct listing *list = &reclaim->list;
  int rc = 0;
  kvs_lock(store);
  kvstow_segment_info info;
  (void)kvstow_tier_segment(store->tier, reclaim->segment, &info);
  if (info.generation != reclaim->generation) rc = KVSTOW_EBUSY;
  for (size_t i = 0; i < list->count && rc == 0; i++) {
    if (listed_entry(store, &list->row[i]) == NULL) continue;
    list->row[i].gone = let_go(store, &list->row[i]);
    if (!list->row[i].gone) rc = KVSTOW_EBUSY;
  }
  if (rc == 0) rc = kvstow_tier_reclaim(store->tier, reclaim->segment);
  if (rc == KVSTOW_ESTATE) rc = KVSTOW_EBUSY; /* a write has failed there since it was chosen */
  for (size_t i = 0; i < list->count && rc != 0; i++)
    if (list->row[i].gone) kvs_bury(store, list->row[i].loc);
  if (rc != 0) kvs_reclaim_bury_moved(store);
  if (rc == 0) {
    kvs_segment_clear(&store->segments[reclaim->segment]);
    store->count.segments_reclaimed++;
  }
  drop(store);
  kvstow__unlock(&store->lock);
  return rc;
}

static bool any_leased(kvstow *store, const struct listing *list) {
  bool leased = false;
  for (size_t i = 0; i < list->count && !leased; i++) {
    const struct kvs_entry *entry = kvs_entry(&store->index, list->row[i].id);
    kvs_shard_lock(&store->index, entry->key);
    leased = entry->frame == KVS_NO_FRAME && entry->leases > 0;
    kvs_shard_unlock(&store->index, entry->key);
  }
  return leased;
}

/* ---- the steps ------------------------------------------------------------------------------ */

/* One step of moving: asks, loads, or makes durable. Store's lock, let go of meanwhile. true: it did
 * something. */
static bool step(kvstow *store, struct kvs_reclaim *reclaim) {
  if (reclaim->settled) return false;
  struct kvs_reads reads;
  reads.count = 0;
  bool progress = move_kept(store, reclaim, &reads);
  const bool flush = reclaim->settled && reclaim->moved;
  store->preparing = !reclaim->settled;
  if (reads.count == 0 && !flush) return progress;
  kvstow__unlock(&store->lock);
  kvs_loads_submit(store, &reads);
  /* What was moved must outlive the record it came from. A failure is the next flush's to tell. */
  if (flush) (void)kvstow_tier_flush(store->tier);
  kvs_lock(store);
  if (flush) reclaim->moved = false;
  return true;
}

/* Lists the segment and begins to move what is kept. Store's lock. 0, KVSTOW_EBUSY (leased) or
 * KVSTOW_ENOMEM. */
static int begin(kvstow *store, uint32_t segment, const kvstow_segment_info *info) {
  store->reclaim = calloc(1, sizeof *store->reclaim);
  if (store->reclaim == NULL) return KVSTOW_ENOMEM;
  *store->reclaim = (struct kvs_reclaim){
      .segment = segment, .records = info->records, .generation = info->generation};
  int rc = list_blocks(store, segment, &store->reclaim->list) ? 0 : KVSTOW_ENOMEM;
  if (rc == 0 && any_leased(store, &store->reclaim->list)) rc = KVSTOW_EBUSY;
  if (rc != 0) {
    drop(store);
    return rc;
  }
  mark_kept(store, store->reclaim);
  (void)step(store, store->reclaim);
  return 0;
}

/* Waits for writes under way; false if there are none. */
static bool wait_pending(kvstow *store) {
  const uint64_t deadline = kvs_deadline(store, 0);
  bool pending = false;
  kvs_lock(store);
  for (uint32_t i = 0; i < store->segments_count; i++)
    while (store->segments[i].pending != 0 && kvs_wait_until(store, deadline)) pending = true;
  kvstow__unlock(&store->lock);
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
    kvs_lock(store);
    uint32_t segment = choose(store, &(struct choice){skip, info, false});
    if (segment == UINT32_MAX && need && store->flushing > 0)
      segment = choose(store, &(struct choice){skip, info, true});
    const int rc = segment == UINT32_MAX ? 0 : begin(store, segment, &info[segment]);
    kvstow__unlock(&store->lock);
    if (segment != UINT32_MAX) {
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
  const bool soon = store->look_ahead;
  store->look_ahead = false;
  if (store->reclaim != NULL) {
    if (soon) mark_kept(store, store->reclaim); /* used since */
    return step(store, store->reclaim);
  }
  if (!soon) return false;
  kvstow__unlock(&store->lock);
  bool *skip = calloc(store->segments_count, sizeof *skip);
  if (skip != NULL) (void)begin_next(store, false, skip);
  free(skip);
  kvs_lock(store);
  return true;
}

int kvs_reclaim(kvstow *store) {
  bool *skip = calloc(store->segments_count, sizeof *skip);
  if (skip == NULL) return KVSTOW_ENOMEM;
  int rc = KVSTOW_EBUSY;
  for (unsigned tries = 0; tries < TRIES && rc == KVSTOW_EBUSY; tries++) {
    if (store->reclaim == NULL && (rc = begin_next(store, true, skip)) != 0) break;
    struct kvs_reclaim *reclaim = store->reclaim;
    kvs_lock(store);
    (void)step(store, reclaim);
    wait_loads(store, &reclaim->list);
    const bool flush = reclaim->moved;
    kvstow__unlock(&store->lock);
    if (flush) (void)kvstow_tier_flush(store->tier);
    skip[reclaim->segment] = true;
    rc = give_up(store, reclaim);
  }
  free(skip);
  return rc == KVSTOW_EBUSY ? KVSTOW_ENOSPC : rc;
}

void kvs_reclaim_bury_moved(kvstow *store) {
  const struct kvs_reclaim *reclaim = store->reclaim;
  if (reclaim == NULL) return;
  for (size_t i = 0; i < reclaim->list.count; i++)
    if (reclaim->list.row[i].asked && !reclaim->list.row[i].gone &&
        listed_entry(store, &reclaim->list.row[i]) == NULL)
      kvs_bury(store, reclaim->list.row[i].loc);
}

bool kvs_reclaim_covers(const kvstow *store, uint32_t segment) {
  return store->reclaim != NULL && store->reclaim->segment == segment;
}

void kvs_reclaim_finish(kvstow *store) {
  drop(store);
}
