/* demote.c - the demotion thread: keeps RAM takeable, and SSD written in large pieces.
 *
 * Below the high watermark it does nothing. Above it, until the low one, it asks the RAM policy for
 * victims: those SSD holds already go to the clean list at once, the others are gathered into a
 * batch, sorted into chains and appended straight from their frames. A block being written stays readable
 * from RAM, and goes to the clean list when the write has completed - or stays hot if it was used
 * meanwhile. Besides victims it writes what is wanted: by write-through, flush, and reclaim.
 *
 * It alone appends and reclaims, so segments are not given up under another's feet. Batches overlap:
 * while one is written the next is gathered and hashed.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "kvcache/store.h"
#include "kvcache/thread.h"

#define SKIPS_MAX 64u
#define RUN_BYTES ((uint64_t)64 << 10)
#define RUN_LEAST_BYTES ((uint64_t)1 << 20)
#define RECLAIM_TRIES 8u
#define IDLE_MS 500u
#define FIT_EVERY 64u     /* batches */
#define WANTED_KEEP 1024u /* rows of the list of what is wanted that an empty one keeps */

struct record {
  uint32_t id, depth, root;
  bool victim; /* goes to the clean list afterwards */
  bool again;
  bool sums; /* still to be computed */
  kvstow_key key;
  uint64_t parent_lo;
  uint32_t padded_bytes, planes;
  uint64_t reserved; /* of the daily limit */
};

struct batch {
  kvstow *store;
  uint64_t number;
  uint32_t count, refs; /* refs: pieces appended and the thread itself; store->lock */
  uint64_t bytes;
  struct record record[KVS_BATCH_RECORDS];
  kvstow_record_write write[KVS_BATCH_RECORDS];
};

struct piece {
  struct batch *batch;
  uint32_t first, count;
};

static uint64_t cost(uint32_t padded_bytes) {
  return (uint64_t)padded_bytes + KVSTOW_PAGE_BYTES;
}

static void note_error(kvstow *store, int code) {
  store->write_errors++;
  store->write_error = code;
}

/* ---- gathering (store's lock) --------------------------------------------------------------- */

static uint64_t watermark(const kvstow *store, uint32_t pct) {
  return store->capacity_bytes / 100 * pct;
}

static bool pressure(kvstow *store) {
  const uint64_t hot = kvs_hot_bytes(store);
  if (hot > watermark(store, store->options.high_watermark_pct)) store->pressing = true;
  if (hot <= watermark(store, store->options.low_watermark_pct)) store->pressing = false;
  return store->pressing ||
         (store->pressed_bytes > 0 &&
          store->clean_bytes + store->demoting_bytes < store->pressed_bytes + KVSTOW_PAGE_BYTES);
}

void kvs_demoter_check(kvstow *store) {
  if (store->tier == NULL) return;
  if (store->pressed_bytes > 0 || store->preparing ||
      kvs_hot_bytes(store) > watermark(store, store->options.high_watermark_pct))
    pthread_cond_signal(&store->demote_wake);
}

/* The same with what may lie before it if it begins a run: if it does not extend the last block of the
 * batch, nor that one it. */
static uint64_t cost_max(const struct batch *batch, const struct kvs_entry *entry) {
  const struct record *last = batch->count == 0 ? NULL : &batch->record[batch->count - 1];
  const bool joins =
      last != NULL && (entry->parent_lo == last->key.lo || last->parent_lo == entry->key.lo);
  return cost(entry->padded_bytes) + (joins ? 0 : RUN_BYTES);
}

static void batch_add(struct batch *batch, uint32_t id, bool victim, bool again) {
  kvstow *store = batch->store;
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  const uint32_t layers = store->roots.rows[entry->root].layers;
  entry->flags |= KVS_DEMOTING;
  entry->ram_pins++;
  const uint64_t reserved = cost_max(batch, entry);
  store->writing_bytes += reserved;
  if (victim) store->demoting_bytes += cost(entry->padded_bytes);
  batch->record[batch->count++] = (struct record){.id = id,
                                                  .depth = entry->depth,
                                                  .root = entry->root,
                                                  .victim = victim,
                                                  .again = again,
                                                  .sums = (entry->flags & KVS_SUMS) == 0,
                                                  .key = entry->key,
                                                  .parent_lo = entry->parent_lo,
                                                  .padded_bytes = entry->padded_bytes,
                                                  .reserved = reserved,
                                                  .planes = layers == 0 ? 1 : layers};
  batch->bytes += cost(entry->padded_bytes);
}

static bool batch_full(const struct batch *batch) {
  const uint64_t quarter = batch->store->segment_bytes / 4; /* reclaim goes on in between */
  return batch->count == KVS_BATCH_RECORDS ||
         batch->bytes >= (quarter < KVS_BATCH_BYTES ? quarter : KVS_BATCH_BYTES);
}

/* What may still be written today, what is under way included. */
static uint64_t allowance(const kvstow *store) {
  if (store->options.write_bytes_a_day == 0) return UINT64_MAX;
  kvstow_tier_stats stats = {.size = sizeof stats};
  kvstow_tier_get_stats(store->tier, &stats);
  const uint64_t limit = store->options.write_bytes_a_day;
  return stats.bytes_written_today < limit ? limit - stats.bytes_written_today : 0;
}

/* Whether the RAM policy thinks that a victim of its will be read from SSD often enough. */
static bool admits(const kvstow *store, uint32_t id, uint64_t block_bytes) {
  if (store->ram.ops->admit == NULL) return true;
  const uint64_t ssd_bytes = (uint64_t)store->segments_count * store->segment_bytes;
  return store->ram.ops->admit(store->ram.self, id, ssd_bytes / block_bytes) != 0;
}

static void gather_victims(struct batch *batch, uint64_t allowed) {
  kvstow *store = batch->store;
  uint32_t skipped[SKIPS_MAX], skips = 0;
  bool freed = false;
  while (!batch_full(batch) && skips < SKIPS_MAX && pressure(store)) {
    const uint32_t id = kvs_policy_victim(store, &store->ram);
    if (id == KVSTOW_NO_ID) break;
    struct kvs_entry *entry = kvs_entry(&store->index, id);
    if (entry->ram_pins > 0) {
      skipped[skips++] = id;
    } else if ((entry->flags & KVS_SSD) != 0) {
      /* RAM served it until now: its record was of use. */
      const kvstow_access access = kvs_access_alone(store, id, KVSTOW_IN_RAM, KVS_SSD_POLICY);
      kvs_ssd_use(store, id, &access);
      kvs_clean_push(store, id);
      freed = true;
    } else if (store->writing_bytes + cost_max(batch, entry) > allowed ||
               ((entry->flags & KVS_OWED) == 0 && !admits(store, id, cost(entry->padded_bytes)))) {
      store->count.admission_refused++;
      kvs_clean_push(store, id);
      freed = true;
    } else {
      batch_add(batch, id, true, false);
    }
  }
  while (skips > 0) {
    const kvstow_access access =
        kvs_access_alone(store, skipped[--skips], KVSTOW_IN_RAM, KVS_RAM_POLICY);
    kvs_ram_insert(store, skipped[skips], &access);
  }
  if (freed) pthread_cond_broadcast(&store->changed);
}

static void gather_wanted(struct batch *batch, uint64_t allowed) {
  kvstow *store = batch->store;
  while (!batch_full(batch) && store->wanted_at < store->wanted_count) {
    const struct kvs_wanted *wanted = &store->wanted[store->wanted_at++];
    store->wanted_out++;
    struct kvs_entry *entry = kvs_entry(&store->index, wanted->id);
    if (!kvs_entry_listed(entry) || !kvs_key_equal(entry->key, wanted->key)) continue;
    const bool lacking = (entry->flags & KVS_SSD) == 0 || (entry->flags & KVS_MOVING) != 0;
    entry->flags &= (uint16_t) ~(KVS_MOVING | KVS_OWED);
    if (!lacking || entry->frame == KVS_NO_FRAME || (entry->flags & KVS_DEMOTING) != 0) continue;
    if ((entry->flags & KVS_CLEAN) != 0) kvs_clean_remove(store, wanted->id);
    const bool victim = (entry->flags & (KVS_RAM_POLICY | KVS_PINNED)) == 0;
    if (store->writing_bytes + cost_max(batch, entry) > allowed) {
      store->count.admission_refused++;
      note_error(store, KVSTOW_ENOSPC);
      if (victim) kvs_clean_push(store, wanted->id);
      continue;
    }
    batch_add(batch, wanted->id, victim, wanted->again);
    if ((entry->flags & KVS_SSD) != 0) entry->flags |= KVS_MOVING;
  }
  if (store->wanted_at < store->wanted_count) return;
  store->wanted_at = store->wanted_count = 0;
  if (store->wanted_room <= WANTED_KEEP) return;
  free(store->wanted); /* a flush had it grow */
  store->wanted = NULL;
  store->wanted_room = 0;
}

bool kvs_demote_want(kvstow *store, uint32_t id, bool again) {
  if (store->wanted_count == store->wanted_room) {
    const size_t room = store->wanted_room == 0 ? 256 : store->wanted_room * 2;
    struct kvs_wanted *grown = realloc(store->wanted, room * sizeof *grown);
    if (grown == NULL) { /* not written now; a victim later, if it is in the policy */
      note_error(store, KVSTOW_ENOMEM);
      return false;
    }
    store->wanted = grown;
    store->wanted_room = room;
  }
  store->wanted[store->wanted_count++] =
      (struct kvs_wanted){.key = kvs_entry(&store->index, id)->key, .id = id, .again = again};
  store->wanted_in++;
  pthread_cond_signal(&store->demote_wake);
  return true;
}

static uint64_t *batch_row(kvstow *store) {
  for (unsigned i = 0; i < KVS_BATCHES_MAX; i++)
    if (store->batches[i] == 0) return &store->batches[i];
  return NULL;
}

/* The next batch, or NULL: nothing to do, or enough under way. */
static struct batch *gather(kvstow *store) {
  uint64_t *row = batch_row(store);
  if (row == NULL) return NULL;
  const bool rest = kvs_now_us() < store->victims_rest_until_us;
  if (store->wanted_at == store->wanted_count && (rest || !pressure(store))) return NULL;
  struct batch *batch = malloc(sizeof *batch);
  if (batch == NULL) return NULL;
  batch->store = store;
  batch->count = 0;
  batch->refs = 1;
  batch->bytes = 0;
  const uint64_t allowed = allowance(store), wanted_out = store->wanted_out;
  gather_wanted(batch, allowed);
  /* The second half waits for what is to be moved into it. */
  if (!rest && (!store->half_full || !store->moving)) gather_victims(batch, allowed);
  if (batch->count == 0) {
    free(batch);
    /* What was wanted may have been refused. Else nothing has changed: who waits would only ask again. */
    if (store->wanted_out != wanted_out) pthread_cond_broadcast(&store->changed);
    return NULL;
  }
  batch->number = ++store->batches_begun;
  if (batch->number % FIT_EVERY == 0) kvs_policies_fit(store, batch->record[0].padded_bytes);
  *row = batch->number;
  return batch;
}

/* ---- finishing (store's lock) --------------------------------------------------------------- */

/* A segment whose barrier failed may have been given up since the write was handed to the tier, and before it was
 * counted as pending there (spoiled.c). */
static bool still_there(const kvstow *store, kvstow_loc loc) {
  kvstow_segment_info info;
  return kvstow_tier_segment(store->tier, loc.segment, &info) == 0 &&
         info.generation == loc.generation && info.records > 0;
}

/* A record was written: the first one of its block, or one to replace what will be reclaimed. */
static void place(kvstow *store, uint32_t id, kvstow_loc loc) {
  const struct kvs_entry *entry = kvs_entry(&store->index, id);
  if ((entry->flags & KVS_SSD) == 0) {
    const kvstow_access access = kvs_access_alone(store, id, KVSTOW_IN_RAM, KVS_SSD_POLICY);
    kvs_ssd_gain(store, id, loc, &access);
    return;
  }
  const kvstow_loc old = entry->loc;
  kvs_ssd_move(store, id, loc);
  if (!kvs_reclaim_covers(store, old.segment)) kvs_bury(store, old);
}

static void finish_record(struct batch *batch, uint32_t i, int result) {
  kvstow *store = batch->store;
  const struct record *record = &batch->record[i];
  struct kvs_entry *entry = kvs_entry(&store->index, record->id);
  entry->ram_pins--;
  entry->flags &= (uint16_t) ~(KVS_DEMOTING | KVS_MOVING);
  const bool rescued = (entry->flags & KVS_RESCUED) != 0;
  entry->flags &= (uint16_t)~KVS_RESCUED;
  if (result == 0 && !still_there(store, batch->write[i].loc)) result = KVSTOW_EIO;
  if (result == 0) {
    entry->flags |= KVS_SUMS;
    place(store, record->id, batch->write[i].loc);
    store->count.demoted_blocks++;
    store->count.demoted_bytes += entry->padded_bytes;
    if (record->again)
      store->count.reinserted_blocks++;
    else
      store->count.first_demoted_bytes += cost(entry->padded_bytes);
    kvs_event(store, KVSTOW_EVENT_DEMOTED, entry);
  } else {
    note_error(store, result);
  }
  store->writing_bytes -= record->reserved;
  if (record->victim) store->demoting_bytes -= cost(record->padded_bytes);
  if ((entry->flags & (KVS_PINNED | KVS_RAM_POLICY)) != 0) return;
  /* One that a disk refused is tried again: elsewhere, or there until the disk is given up. Then, and
   * where there is no room, it may go unwritten: a smaller cache. */
  if (record->victim && !rescued && result != KVSTOW_EIO) {
    kvs_clean_push(store, record->id);
    return;
  }
  const kvstow_access access = kvs_access_alone(store, record->id, KVSTOW_IN_RAM, KVS_RAM_POLICY);
  kvs_ram_insert(store, record->id, &access);
}

static void batch_unref(struct batch *batch) {
  kvstow *store = batch->store;
  if (--batch->refs > 0) return;
  for (unsigned i = 0; i < KVS_BATCHES_MAX; i++)
    if (store->batches[i] == batch->number) store->batches[i] = 0;
  free(batch);
}

/* Ends the thread's or a piece's part in a batch. */
static void batch_end(struct batch *batch) {
  kvstow *store = batch->store;
  batch_unref(batch);
  pthread_cond_broadcast(&store->changed);
  pthread_cond_signal(&store->demote_wake);
  kvs_async_wake(store);
}

/* A record that was not placed after all lies in no segment. */
static void count_pending(kvstow *store, const kvstow_record_write *write, int32_t by) {
  if (write->loc.segment < store->segments_count) store->segments[write->loc.segment].pending += by;
}

static void piece_done(void *arg, int result) {
  struct piece *piece = arg;
  struct batch *batch = piece->batch;
  kvstow *store = batch->store;
  (void)result; /* each record has its own */
  kvs_lock(store);
  for (uint32_t i = piece->first; i < piece->first + piece->count; i++) {
    count_pending(store, &batch->write[i], -1);
    finish_record(batch, i, batch->write[i].result);
  }
  batch_end(batch);
  kvstow__unlock(&store->lock);
  free(piece);
}

/* ---- writing (no lock) ---------------------------------------------------------------------- */

static int by_root_and_depth(const void *a, const void *b) {
  const struct record *x = a, *y = b;
  if (x->root != y->root) return x->root < y->root ? -1 : 1;
  if (x->depth != y->depth) return x->depth < y->depth ? -1 : 1;
  return x->key.lo < y->key.lo ? -1 : x->key.lo > y->key.lo;
}

/* Puts each chain's blocks next to one another, in order: they will be read together. Marks where
 * chains begin. */
static void sort_chains(struct batch *batch) {
  struct record *r = batch->record;
  qsort(r, batch->count, sizeof *r, by_root_and_depth);
  for (uint32_t i = 0; i < batch->count; i++) {
    const bool follows = i > 0 && r[i].parent_lo == r[i - 1].key.lo;
    batch->write[i].run_start = !follows;
    for (uint32_t j = i + 1; j < batch->count && r[j].root == r[i].root; j++) {
      if (r[j].depth > r[i].depth + 1) break;
      if (r[j].parent_lo != r[i].key.lo) continue;
      const struct record child = r[j];
      memmove(&r[i + 2], &r[i + 1], (j - i - 1) * sizeof *r);
      r[i + 1] = child;
      break;
    }
  }
}

/* A run begins on 64 KiB: half of that is padding, which chains of few blocks (those that the policy admitted, say)
 * share, so that it stays below 4 %. */
static void join_short_runs(struct batch *batch) {
  uint64_t bytes = RUN_LEAST_BYTES;
  for (uint32_t i = 0; i < batch->count; i++) {
    batch->write[i].run_start = batch->write[i].run_start && bytes >= RUN_LEAST_BYTES;
    if (batch->write[i].run_start) bytes = 0;
    bytes += cost(kvs_entry(&batch->store->index, batch->record[i].id)->padded_bytes);
  }
}

static void prepare(struct batch *batch) {
  kvstow *store = batch->store;
  sort_chains(batch);
  join_short_runs(batch);
  for (uint32_t i = 0; i < batch->count; i++) {
    const struct record *record = &batch->record[i];
    const uint32_t frame = kvs_entry(&store->index, record->id)->frame; /* pinned: it stays */
    batch->write[i].header = kvs_pool_header(store->pool, frame);
    batch->write[i].payload = kvs_pool_payload(store->pool, frame);
    batch->write[i].result = 0;
    if (record->sums) kvs_sum_planes(batch->write[i].header, batch->write[i].payload);
  }
}

/* How full the open segment is, for those who look after the next one. */
static void note_placed(kvstow *store, const kvstow_record_write *write, uint64_t bytes) {
  if (write->loc.segment >= store->segments_count) return;
  store->half_full =
      (uint64_t)write->loc.page * KVSTOW_PAGE_BYTES + bytes > store->segment_bytes / 2;
  store->look_ahead |= store->half_full || write->loc.page == 0;
}

/* Hands `count` records to the tier. 0, or why it took none. */
static int append_piece(struct batch *batch, uint32_t first, uint32_t count) {
  kvstow *store = batch->store;
  struct piece *piece = malloc(sizeof *piece);
  if (piece == NULL) return KVSTOW_ENOMEM;
  *piece = (struct piece){batch, first, count};
  kvs_lock(store);
  batch->refs++;
  kvstow__unlock(&store->lock);
  const int rc = kvstow_tier_append(store->tier, &batch->write[first], count, piece_done, piece);
  kvs_lock(store);
  if (rc != 0) batch->refs--;
  for (uint32_t i = first; rc == 0 && i < first + count; i++) { /* our reference keeps the batch */
    count_pending(store, &batch->write[i], 1);
    note_placed(store, &batch->write[i], cost(batch->record[i].padded_bytes));
  }
  kvstow__unlock(&store->lock);
  if (rc != 0) free(piece);
  return rc;
}

/* Writes as much as fits, after reclaiming a segment if nothing does. 0, or why the rest can't be
 * written. */
static int append_some(struct batch *batch, uint32_t *at) {
  kvstow *store = batch->store;
  int rc = KVSTOW_ENOSPC;
  for (unsigned tries = 0; tries < RECLAIM_TRIES && rc == KVSTOW_ENOSPC; tries++) {
    const size_t fits = kvstow_tier_fits(store->tier, &batch->write[*at], batch->count - *at);
    /* One that does not fit is refused, and the reason told: only want of room is worth a segment. */
    const uint32_t count = fits == 0 ? 1 : (uint32_t)fits;
    rc = append_piece(batch, *at, count);
    if (rc == 0) {
      *at += count;
    } else if (rc == KVSTOW_ENOSPC && fits == 0) {
      const int reclaimed = kvs_reclaim(store);
      if (reclaimed != 0) return reclaimed;
    }
  }
  return rc;
}

static void write_batch(struct batch *batch) {
  kvstow *store = batch->store;
  prepare(batch);
  uint32_t at = 0;
  int rc = 0;
  while (rc == 0 && at < batch->count) rc = append_some(batch, &at);
  if (rc != 0) {
    char text[KVSTOW_MESSAGE_BYTES];
    kvstow_tier_message(store->tier, text, sizeof text);
    kvs_fail(store, rc, "demote: %u blocks not written: %s", batch->count - at,
             rc == KVSTOW_ENOSPC ? kvstow_strerror(rc) : text);
  }
  kvs_lock(store);
  for (uint32_t i = at; i < batch->count; i++) finish_record(batch, i, rc);
  batch_end(batch);
  kvstow__unlock(&store->lock);
}

/* ---- the thread ----------------------------------------------------------------------------- */

/* Until somebody asks, victims have rested, or it is time to tell what happened. */
static void idle(kvstow *store) {
  const uint64_t now_us = kvs_now_us(), rest_us = store->victims_rest_until_us;
  uint64_t until_us = now_us + IDLE_MS * 1000u;
  if (rest_us > now_us && rest_us < until_us) until_us = rest_us;
  kvstow__wait_until(&store->demote_wake, &store->lock, until_us);
}

static void *demoter_main(void *arg) {
  kvstow *store = arg;
  kvs_lock(store);
  while (!store->stopping) {
    struct batch *batch = gather(store);
    if (batch != NULL) {
      kvstow__unlock(&store->lock);
      write_batch(batch);
      kvs_lock(store);
    }
    if (kvs_reclaim_ahead(store) || batch != NULL) continue;
    if (store->buried_count > 0) {
      kvstow__unlock(&store->lock);
      const int rc = kvs_erase_buried(store);
      kvs_lock(store);
      if (rc == 0) continue;
    }
    idle(store);
    kvs_tell(store);
  }
  kvstow__unlock(&store->lock);
  return NULL;
}

int kvs_demoter_start(kvstow *store) {
  if (!kvs_thread_start(&store->demoter, "kvstow-demote", demoter_main, store))
    return KVSTOW_ENOMEM;
  store->demoter_runs = true;
  return 0;
}

void kvs_demoter_stop(kvstow *store) {
  if (!store->demoter_runs) return;
  kvs_lock(store);
  store->stopping = true;
  pthread_cond_broadcast(&store->demote_wake);
  kvstow__unlock(&store->lock);
  pthread_join(store->demoter, NULL);
  store->demoter_runs = false;
}

/* ---- flush ---------------------------------------------------------------------------------- */

static bool in_ram_alone(const struct kvs_entry *entry) {
  return kvs_entry_listed(entry) && entry->frame != KVS_NO_FRAME && (entry->flags & KVS_SSD) == 0;
}

/* What a flush has promised. */
struct debt {
  struct kvs_chosen owed;
  uint64_t bytes, room; /* of it; of SSD */
  size_t given_up;      /* rows of the store's list that were looked at */
};

/* One block that RAM alone holds, as far as SSD could hold it. */
static int owe(kvstow *store, struct debt *debt, uint32_t id) {
  struct kvs_entry *entry = kvs_entry(&store->index, id);
  debt->bytes += cost(entry->padded_bytes);
  if (debt->bytes > debt->room)
    return kvs_fail(store, KVSTOW_ENOSPC, "flush: SSD has no room for all that RAM alone holds");
  if (!kvs_choose(&debt->owed, store, id)) return KVSTOW_ENOMEM;
  if ((entry->flags & KVS_DEMOTING) == 0 &&
      kvs_demote_want(store, id, false)) /* or an error is counted */
    entry->flags |= KVS_OWED;
  return 0;
}

/* Asks for everything RAM alone holds. */
static int want_dirty(kvstow *store, struct debt *debt) {
  int rc = 0;
  debt->room = (uint64_t)store->segments_count * store->segment_bytes / 100 * 95;
  for (uint32_t id = 0; id < store->index.used && rc == 0; id++)
    if (in_ram_alone(kvs_entry(&store->index, id))) rc = owe(store, debt, id);
  return rc;
}

/* Asks for what was on SSD when the flush began, and had to make room there for what it wrote. */
static int want_given_up(kvstow *store, struct debt *debt) {
  int rc = 0;
  while (debt->given_up < store->given_up.count && rc == 0) {
    const struct kvs_wanted *row = &store->given_up.row[debt->given_up++];
    const struct kvs_entry *entry = kvs_chosen_still(store, row);
    if (entry != NULL && in_ram_alone(entry)) rc = owe(store, debt, row->id);
  }
  return rc;
}

/* What is written from now on, or being written, lies in segments from the oldest one on that takes records. Store's
 * lock. */
static void flush_begins(kvstow *store) {
  if (store->flushing++ > 0) return;
  uint32_t newest = 0;
  bool any = false;
  for (uint32_t i = 0; i < store->segments_count; i++) {
    kvstow_segment_info info;
    if (kvstow_tier_segment(store->tier, i, &info) != 0) continue;
    const bool takes = info.state == KVSTOW_SEGMENT_OPEN || store->segments[i].pending > 0;
    if (takes && (!any || info.generation < store->flush_from)) store->flush_from = info.generation;
    any = any || takes;
    if (info.generation > newest) newest = info.generation;
  }
  if (!any) store->flush_from = newest + 1;
}

/* What was owed and is in RAM alone again had no room: its segment was given up for what came after it. *doubts: so far. */
static size_t flush_ends(kvstow *store, const struct kvs_chosen *owed, uint64_t *doubts) {
  size_t count = 0;
  kvs_lock(store);
  *doubts = store->doubts;
  if (--store->flushing == 0) {
    free(store->given_up.row);
    store->given_up = (struct kvs_chosen){0};
  }
  for (size_t i = 0; i < owed->count; i++) {
    const struct kvs_entry *entry = kvs_chosen_still(store, &owed->row[i]);
    count += entry != NULL && in_ram_alone(entry);
  }
  kvstow__unlock(&store->lock);
  return count;
}

static bool batches_done(const kvstow *store, uint64_t upto) {
  for (unsigned i = 0; i < KVS_BATCHES_MAX; i++)
    if (store->batches[i] != 0 && store->batches[i] <= upto) return false;
  return true;
}

/* Waits while there is progress. */
static int wait_written(kvstow *store) {
  const uint64_t wanted = store->wanted_in;
  uint64_t upto = UINT64_MAX;
  for (;;) {
    if (store->wanted_out >= wanted && upto == UINT64_MAX) upto = store->batches_begun;
    if (upto != UINT64_MAX && batches_done(store, upto)) return 0;
    const uint64_t out = store->wanted_out, blocks = store->count.demoted_blocks;
    const uint64_t deadline = kvs_deadline(store, 0);
    while (out == store->wanted_out && blocks == store->count.demoted_blocks &&
           !(store->wanted_out >= wanted && batches_done(store, store->batches_begun)))
      if (!kvs_wait_until(store, deadline)) return KVSTOW_ETIMEDOUT;
  }
}

int kvs_flush(kvstow *store) {
  kvs_trace_flush(store);
  if (store->tier == NULL) return 0;
  struct debt debt = {0};
  kvs_lock(store);
  const uint64_t errors = store->write_errors, doubts = store->doubts;
  flush_begins(store);
  debt.given_up = store->given_up.count;
  int rc = want_dirty(store, &debt);
  int waited = wait_written(store);
  while (rc == 0 && waited == 0 && debt.given_up < store->given_up.count) {
    rc = want_given_up(store, &debt);
    waited = wait_written(store);
  }
  if (waited != 0) rc = waited;
  if (store->write_errors != errors) rc = store->write_error;
  kvstow__unlock(&store->lock);
  const int erased = kvs_erase_buried(store);
  const int flushed = kvstow_tier_flush(store->tier);
  uint64_t doubts_now;
  const size_t left = flush_ends(store, &debt.owed, &doubts_now);
  free(debt.owed.row);
  if (rc == 0 && left > 0)
    rc = kvs_fail(store, KVSTOW_ENOSPC, "flush: SSD had no room for %zu blocks", left);
  if (flushed != 0) {
    char text[KVSTOW_MESSAGE_BYTES];
    kvstow_tier_message(store->tier, text, sizeof text);
    kvs_leave_unsure(store);
    return kvs_fail(store, flushed, "flush: %s", text);
  }
  if (rc == 0 && doubts_now != doubts) /* it let go of blocks that this one promises */
    rc = kvs_fail(store, KVSTOW_EIO, "flush: another one at the same time lost blocks");
  return rc != 0 ? rc : erased;
}

int kvstow_flush(kvstow *store) {
  if (store == NULL) return KVSTOW_EINVAL;
  return getpid() == store->pid ? kvs_flush(store) : KVSTOW_ESTATE;
}
