/* tier/erase.c - making records disappear for good.
 *
 * Why an erased record does not come back, whenever the machine stops:
 *  1. Open segments that hold one are sealed first, so that from here on a footer gives the
 *     segment's structure: a torn header page can't end a walk early.
 *  2. The footer is written with their lines erased, and synced; then their header pages are overwritten
 *     by erased ones (lengths kept; key, tag, description and checksums gone), and synced. A torn footer
 *     leaves good headers to walk: they are all there again, and nobody was told otherwise. The other
 *     way round a record could be listed that can't be read: the cache would take it for held, not
 *     store it again, and a flush would promise what is not there.
 *  3. Segments given up but not yet overwritten still show their records to a recovery, and the
 *     caller may have forgotten where those lay. So they all get an empty footer of another life and,
 *     when that is durable (2.), lose their first page: nothing in them is found again.
 *     So do unread ones, whose records nobody knows, when the caller has no locations to name, or one of theirs.
 *  4. A segment being reused loses its old life in its END job, and its first page to the first record; we wait
 *     for both.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/barrier.h"
#include "tier/pump.h"

#define PAGES_MAX 64u /* header pages written at once */

static int compare_locs(const void *left, const void *right) {
  const kvstow_loc *a = left, *b = right;
  if (a->segment != b->segment) return a->segment < b->segment ? -1 : 1;
  if (a->generation != b->generation) return a->generation < b->generation ? -1 : 1;
  return (a->page > b->page) - (a->page < b->page);
}

static int write_failed(kvstow_tier *tier, uint32_t id, int error) {
  char path[KVSTOW__PATH_TEXT_BYTES], cause[64];
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: erasing: %s",
                      kvstow__segment_path(tier, id, path), strerror_r(error, cause, sizeof cause));
}

static int sync_file(kvstow_tier *tier, uint32_t id) {
  kvstow__op op = {.kind = KVSTOW__SYNC, .file = id};
  return kvstow__pump_run(tier, &op, 1);
}

/* ---- records of one segment ----------------------------------------------------------------- */

/* Marks the entries at the given pages erased; compacts their indices into hits. Those that are marked already
 * are hits too: they may be so in the kernel's memory only, after a sync that failed. */
static uint32_t mark(kvstow__entry *entries, uint32_t records, const kvstow_loc *locs, size_t count,
                     uint32_t *hits) {
  uint32_t found = 0, i = 0;
  for (size_t k = 0; k < count; k++) { /* both are in the order of pages */
    while (i < records && entries[i].page < locs[k].page) i++;
    if (i == records) break;
    if (entries[i].page != locs[k].page) continue;
    kvstow__entry_erase(&entries[i]);
    hits[found++] = i;
  }
  return found;
}

static int write_headers(kvstow_tier *tier, uint32_t id, kvstow__life life,
                         const kvstow__entry *entries, const uint32_t *hits, uint32_t count) {
  uint8_t *pages = aligned_alloc(KVSTOW_PAGE_BYTES, PAGES_MAX * KVSTOW_PAGE_BYTES);
  if (!pages) return ENOMEM;
  int error = 0;
  for (uint32_t done = 0; done < count && !error;) {
    kvstow__op ops[PAGES_MAX];
    struct iovec iov[PAGES_MAX];
    const uint32_t now = count - done < PAGES_MAX ? count - done : PAGES_MAX;
    memset(ops, 0, sizeof ops);
    for (uint32_t i = 0; i < now; i++) {
      uint8_t *page = pages + (size_t)i * KVSTOW_PAGE_BYTES;
      const kvstow__entry *entry = &entries[hits[done + i]];
      kvstow__header_erase(page, tier->uuid, life, entry);
      iov[i] = (struct iovec){page, KVSTOW_PAGE_BYTES};
      ops[i].kind = KVSTOW__WRITE;
      ops[i].file = id;
      ops[i].offset = (uint64_t)entry->page * KVSTOW_PAGE_BYTES;
      ops[i].length = KVSTOW_PAGE_BYTES;
      ops[i].iov = &iov[i];
      ops[i].iov_count = 1;
    }
    error = kvstow__pump_run(tier, ops, now);
    done += now;
  }
  free(pages);
  return error;
}

/* *sum (may be NULL): its kvstow__footer_sum. */
static int write_footer(kvstow_tier *tier, uint32_t id, kvstow__trailer_state state,
                        kvstow__life life, uint64_t opened_s, uint64_t end_offset,
                        const kvstow__entry *entries, uint32_t records, uint64_t *sum) {
  const uint64_t bytes = kvstow__footer_bytes(records);
  void *image = kvstow__rooms_take(tier->rooms, bytes);
  if (!image) return ENOMEM;
  int error = kvstow__footer_fill(tier, image, state, life, opened_s, end_offset, entries, records);
  if (sum) *sum = kvstow__footer_sum(image, records);
  struct iovec iov = {image, bytes};
  kvstow__op op = {.kind = KVSTOW__WRITE,
                   .file = id,
                   .offset = tier->segment_bytes - bytes,
                   .length = bytes,
                   .iov = &iov,
                   .iov_count = 1};
  if (!error) error = kvstow__pump_run(tier, &op, 1);
  kvstow__rooms_give(tier->rooms, image);
  return error;
}

static void mark_in_memory(kvstow_tier *tier, uint32_t id, const kvstow__entry *entries,
                           uint32_t records) {
  kvstow__lock(&tier->lock);
  kvstow__segment *segment = &tier->segments[id];
  if (segment->entries && records <= segment->entries_max)
    memcpy(segment->entries, entries, (size_t)records * sizeof *entries);
  kvstow__unlock(&tier->lock);
}

static void note_footer(kvstow_tier *tier, uint32_t id, uint64_t sum) {
  kvstow__lock(&tier->lock);
  tier->segments[id].footer_sum = sum;
  kvstow__unlock(&tier->lock);
}

/* Records may be erased in the table alone: by who was interrupted, or because they were torn. That table is
 * durable, since an opening sees to it; but should the next one tear, the header pages would be believed. So they
 * go first. */
static int erase_what_lies(kvstow_tier *tier, uint32_t id, kvstow__life life,
                           const kvstow__entry *entries, uint32_t records) {
  kvstow__segment *segment = &tier->segments[id];
  kvstow__lock(&tier->lock);
  const bool lie = segment->headers_lie;
  kvstow__unlock(&tier->lock);
  if (!lie) return 0;
  uint32_t *hits = malloc((size_t)records * sizeof *hits + 1), count = 0;
  if (!hits) return ENOMEM;
  for (uint32_t i = 0; i < records; i++)
    if (entries[i].flags & KVSTOW__ERASED) hits[count++] = i;
  int error = write_headers(tier, id, life, entries, hits, count);
  if (!error) error = sync_file(tier, id);
  free(hits);
  if (error) return error;
  kvstow__lock(&tier->lock);
  segment->headers_lie = false;
  kvstow__unlock(&tier->lock);
  return 0;
}

/* Step 2 for one segment, which is pinned. */
static int erase_in(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t opened_s,
                    const kvstow_loc *locs, size_t count) {
  kvstow__entry *entries;
  uint32_t records;
  uint64_t end_offset;
  int code = kvstow__table_load(tier, id, life, &entries, &records, &end_offset);
  uint32_t *hits = malloc(count * sizeof *hits);
  if (!code && !hits) code = KVSTOW_ENOMEM;
  int error = code ? 0 : erase_what_lies(tier, id, life, entries, records);
  const uint32_t found = code || error ? 0 : mark(entries, records, locs, count, hits);
  if (found > 0) {
    uint64_t sum;
    note_footer(tier, id, 0); /* the old one or the new one, should this fail */
    error = write_footer(tier, id, KVSTOW__TRAILER_SEALED, life, opened_s, end_offset, entries,
                         records, &sum);
    if (!error) error = sync_file(tier, id);
    if (!error) note_footer(tier, id, sum);
    if (!error) error = write_headers(tier, id, life, entries, hits, found);
    if (!error) error = sync_file(tier, id);
    if (!error) mark_in_memory(tier, id, entries, records);
  }
  if (error) code = write_failed(tier, id, error);
  free(hits);
  free(entries);
  return code;
}

static int erase_group(kvstow_tier *tier, const kvstow_loc *locs, size_t count) {
  const uint32_t id = locs[0].segment;
  if (id >= tier->segments_count) return 0;
  kvstow__segment *segment = &tier->segments[id];
  kvstow__lock(&tier->lock);
  const bool alive = kvstow__segment_alive(segment, locs[0].generation);
  const kvstow__life life = segment->life;
  const uint64_t opened_s = segment->opened_s;
  if (alive) segment->pins++;
  kvstow__unlock(&tier->lock);
  if (!alive) return 0; /* step 3 sees to it */
  const int code = erase_in(tier, id, life, opened_s, locs, count);
  kvstow__lock(&tier->lock);
  kvstow__segment_unpin(tier, segment);
  kvstow__unlock(&tier->lock);
  return code;
}

/* ---- what is given up but legible ----------------------------------------------------------- */

/* Jobs of a segment may have been accepted since the erase began: the seal of a life that was then given up would write
 * its footer over ours. pinned: there may be some. */
static void let_jobs_end(kvstow_tier *tier, bool pinned) {
  if (pinned) kvstow__jobs_wait(tier);
}

/* Takes a slot out of placement's sight while its old life is wiped; *life is the one to end it. */
static bool take_ghost(kvstow_tier *tier, uint32_t id, bool unread, kvstow__life *life) {
  kvstow__lock(&tier->lock);
  kvstow__segment *segment = &tier->segments[id];
  const bool given_up = segment->state == KVSTOW_SEGMENT_FREE ||
                        segment->state == KVSTOW_SEGMENT_RECLAIMED ||
                        (segment->state == KVSTOW_SEGMENT_UNREAD && unread) ||
                        (segment->state == KVSTOW_SEGMENT_BAD && segment->records == 0);
  const bool take = segment->ghost && given_up, pinned = segment->pins > 0;
  if (take) {
    if (segment->state == KVSTOW_SEGMENT_FREE)
      kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_RECLAIMED);
    segment->pins++;
    *life = kvstow__life_new(tier);
  }
  kvstow__unlock(&tier->lock);
  let_jobs_end(tier, take && pinned);
  return take;
}

/* A write that was reported as failed may have arrived: records behind the last one known to be good, which
 * walking would find. They are erased, and the footer ends the segment before them. */
static int end_before_strays(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t opened_s,
                             kvstow__entry **entries, uint32_t known, uint64_t end) {
  uint32_t records = known;
  uint64_t walked = end;
  const int code = kvstow__walk(tier, id, &life, entries, &records, &walked);
  if (code) return code == KVSTOW_EIO ? EIO : ENOMEM;
  int error = 0;
  if (records > known) {
    uint32_t *hits = malloc((records - known) * sizeof *hits);
    if (!hits) return ENOMEM;
    for (uint32_t i = known; i < records; i++) hits[i - known] = i;
    error = write_headers(tier, id, life, *entries, hits, records - known);
    free(hits);
  }
  if (!error) error = sync_file(tier, id);
  if (!error)
    error =
        write_footer(tier, id, KVSTOW__TRAILER_SEALED, life, opened_s, end, *entries, known, NULL);
  if (!error) error = sync_file(tier, id);
  return error;
}

static int close_spoiled(kvstow_tier *tier, uint32_t id) {
  kvstow__lock(&tier->lock);
  kvstow__segment *segment = &tier->segments[id];
  const bool take = segment->ghost && segment->state == KVSTOW_SEGMENT_BAD &&
                    segment->records > 0 && segment->entries;
  const kvstow__life life = segment->life;
  const uint64_t opened_s = segment->opened_s, end = segment->used_bytes;
  const uint32_t records = segment->records;
  const bool pinned = segment->pins > 0;
  kvstow__entry *entries = take ? malloc((size_t)records * sizeof *entries) : NULL;
  if (entries) memcpy(entries, segment->entries, (size_t)records * sizeof *entries);
  if (entries) segment->pins++;
  kvstow__unlock(&tier->lock);
  if (!take) return 0;
  if (!entries) return KVSTOW_ENOMEM;
  let_jobs_end(tier, pinned);
  const int error = end_before_strays(tier, id, life, opened_s, &entries, records, end);
  free(entries);
  kvstow__lock(&tier->lock);
  if (!error && !segment->given_up)
    segment->ghost = false; /* given up meanwhile: to be wiped whole */
  kvstow__segment_unpin(tier, segment);
  kvstow__unlock(&tier->lock);
  return error ? write_failed(tier, id, error) : 0;
}

static int wipe_first_page(kvstow_tier *tier, uint32_t id) {
  static uint8_t zeros[KVSTOW_PAGE_BYTES] __attribute__((aligned(KVSTOW_PAGE_BYTES)));
  struct iovec iov = {zeros, sizeof zeros};
  kvstow__op op = {
      .kind = KVSTOW__WRITE, .file = id, .length = sizeof zeros, .iov = &iov, .iov_count = 1};
  return kvstow__pump_run(tier, &op, 1);
}

static int wipe(kvstow_tier *tier, uint32_t id, kvstow__life life) {
  int error = write_footer(tier, id, KVSTOW__TRAILER_OPEN, life, 0, 0, NULL, 0, NULL);
  if (!error) error = sync_file(tier, id);
  if (!error) error = wipe_first_page(tier, id);
  if (!error) error = sync_file(tier, id);
  kvstow__lock(&tier->lock);
  kvstow__segment *segment = &tier->segments[id];
  if (!error) segment->ghost = false;
  if (!error && segment->state == KVSTOW_SEGMENT_UNREAD) /* no secret any more */
    kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_RECLAIMED);
  kvstow__segment_unpin(tier, segment);
  kvstow__unlock(&tier->lock);
  return error ? write_failed(tier, id, error) : 0;
}

static int wipe_ghosts(kvstow_tier *tier, bool unread) {
  int code = 0;
  for (uint32_t id = 0; id < tier->segments_count; id++) {
    kvstow__life life;
    const int failed =
        take_ghost(tier, id, unread, &life) ? wipe(tier, id, life) : close_spoiled(tier, id);
    if (failed) code = failed;
  }
  return code;
}

/* ---- erase ---------------------------------------------------------------------------------- */

static bool touches_open(kvstow_tier *tier, const kvstow_loc *locs, size_t count) {
  bool open = false;
  kvstow__lock(&tier->lock);
  for (size_t i = 0; i < count && !open; i++) {
    if (locs[i].segment >= tier->segments_count) continue;
    const kvstow__segment *segment = &tier->segments[locs[i].segment];
    open =
        segment->state == KVSTOW_SEGMENT_OPEN && kvstow__segment_alive(segment, locs[i].generation);
  }
  kvstow__unlock(&tier->lock);
  return open;
}

static bool touches_unread(kvstow_tier *tier, const kvstow_loc *locs, size_t count) {
  bool unread = false;
  kvstow__lock(&tier->lock);
  for (size_t i = 0; i < count && !unread; i++)
    unread = locs[i].segment < tier->segments_count &&
             tier->segments[locs[i].segment].state == KVSTOW_SEGMENT_UNREAD;
  kvstow__unlock(&tier->lock);
  return unread;
}

static int erase_locked(kvstow_tier *tier, const kvstow_loc *sorted, size_t count) {
  int code = 0;
  if (touches_open(tier, sorted, count)) code = kvstow__seal_locked(tier); /* step 1 */
  kvstow__jobs_wait(tier);
  if (code) return code;
  for (size_t first = 0; first < count;) {
    size_t last = first + 1;
    while (last < count && sorted[last].segment == sorted[first].segment &&
           sorted[last].generation == sorted[first].generation)
      last++;
    const int failed = erase_group(tier, sorted + first, last - first);
    if (failed) code = failed; /* the others are erased all the same */
    first = last;
  }
  const bool unread = count == 0 || touches_unread(tier, sorted, count);
  const int failed = wipe_ghosts(tier, unread); /* step 3 */
  if (failed) code = failed;
  kvstow__jobs_wait(tier); /* step 4 */
  return code;
}

int kvstow_tier_erase(kvstow_tier *tier, const kvstow_loc *locs, size_t count) {
  if (!tier) return KVSTOW_EINVAL;
  if (!locs && count > 0)
    return kvstow__fail(tier, KVSTOW_EINVAL, "erase: locs is NULL, count %zu", count);
  if (tier->read_only) return kvstow__fail_read_only(tier, "erase");
  kvstow_loc *sorted = malloc((count + 1) * sizeof *sorted);
  if (!sorted) return KVSTOW_ENOMEM;
  if (count > 0) memcpy(sorted, locs, count * sizeof *sorted);
  qsort(sorted, count, sizeof *sorted, compare_locs);
  kvstow__lock(&tier->barrier_lock);
  const int code = erase_locked(tier, sorted, count);
  kvstow__unlock(&tier->barrier_lock);
  free(sorted);
  return code;
}
