/* tier/segment.c - segment states, pins, tables; reclaim, scan and info.
 *
 * Why a read never sees another record's bytes, and a file is never reused under a reader:
 *  1. A read pins its segment under lock, after it has compared state and generation there.
 *  2. kvstow_tier_reclaim changes the state under the same lock: from then on step 1 fails, so pins
 *     only fall.
 *  3. Placement takes FREE segments only, and RECLAIMED becomes FREE when the last pin is gone
 *     (kvstow__segment_unpin, under lock). So no write of a new life starts before the last read of
 *     the old one has ended.
 *  4. Should all that fail, the header page carries the life and its own place, and is checked after
 *     every read.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/pump.h"

/* Unreadable pages in a row, while a header page is looked for: more is no bad spot but a bad device. */
#define UNREAD_MAX 4u

bool kvstow__segment_alive(const kvstow__segment *segment, uint32_t generation) {
  return (segment->state == KVSTOW_SEGMENT_OPEN || segment->state == KVSTOW_SEGMENT_SEALED ||
          (segment->state == KVSTOW_SEGMENT_BAD && !segment->given_up)) &&
         (uint32_t)segment->life.sequence == generation;
}

kvstow__life kvstow__life_new(kvstow_tier *tier) {
  kvstow__life life = {.sequence = tier->next_sequence++};
  if ((uint32_t)life.sequence == 0) life.sequence = tier->next_sequence++;
  if (tier->io.files->random(tier->io.env, &life.nonce, sizeof life.nonce) != 0)
    life.nonce = life.sequence * UINT64_C(0x9e3779b97f4a7c15); /* still unlike its neighbours */
  return life;
}

/* All changes of state after the open go through here: the counts of free slots depend on it. */
void kvstow__segment_become(kvstow_tier *tier, kvstow__segment *segment,
                            kvstow_segment_state state) {
  const uint32_t id = (uint32_t)(segment - tier->segments);
  kvstow__head *head = &tier->heads[kvstow__dir_of(tier, id)];
  uint32_t *count = segment->has_file ? &head->free_made : &head->free_unmade;
  if (segment->state == KVSTOW_SEGMENT_FREE) (*count)--;
  if (state == KVSTOW_SEGMENT_FREE) (*count)++;
  segment->state = state;
}

static void set_free(kvstow_tier *tier, kvstow__segment *segment) {
  kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_FREE);
  kvstow__slots_want(tier, kvstow__dir_of(tier, (uint32_t)(segment - tier->segments)));
}

void kvstow__segment_unpin(kvstow_tier *tier, kvstow__segment *segment) {
  segment->pins--;
  if (segment->state == KVSTOW_SEGMENT_RECLAIMED && segment->pins == 0) set_free(tier, segment);
}

void kvstow__segment_soil(kvstow_tier *tier, kvstow__segment *segment) {
  if (segment->dirty) return;
  segment->dirty = true;
  tier->dirty[tier->dirty_count++] = (uint32_t)(segment - tier->segments);
}

int kvstow__entries_reserve(kvstow__segment *segment, uint64_t records) {
  if (records <= segment->entries_max) return 0;
  uint64_t max = segment->entries_max ? segment->entries_max : 16;
  while (max < records) max *= 2;
  kvstow__entry *entries = realloc(segment->entries, (size_t)max * sizeof *entries);
  if (!entries) return KVSTOW_ENOMEM;
  segment->entries = entries;
  segment->entries_max = (uint32_t)max;
  return 0;
}

void kvstow__segment_spoil(kvstow_tier *tier, uint32_t id) {
  kvstow__segment *segment = &tier->segments[id];
  if (segment->state != KVSTOW_SEGMENT_OPEN && segment->state != KVSTOW_SEGMENT_SEALED) return;
  kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_BAD);
  segment->records = segment->committed;
  segment->used_bytes = segment->committed_bytes;
  segment->ghost = true; /* what failed may have arrived all the same */
  segment->ended = false;
  for (uint32_t d = 0; d < tier->dirs_count; d++)
    if (tier->heads[d].segment == id) tier->heads[d].segment = KVSTOW__NO_SEGMENT;
  kvstow__head *head = &tier->heads[kvstow__dir_of(tier, id)];
  if (++head->bad_streak >= KVSTOW__BAD_STREAK_MAX) head->offline = true;
}

void kvstow__segment_doubt(kvstow_tier *tier, uint32_t id) {
  kvstow__segment *segment = &tier->segments[id];
  kvstow__segment_spoil(tier, id);
  /* One given up meanwhile has nothing left to doubt: what comes there next has barriers of its own. */
  if (segment->state == KVSTOW_SEGMENT_BAD && !segment->given_up) segment->unsure = true;
}

uint32_t kvstow__dirs_offline(const kvstow_tier *tier) {
  uint32_t count = 0;
  for (uint32_t d = 0; d < tier->dirs_count; d++) count += tier->heads[d].offline;
  return count;
}

/* ---- tables --------------------------------------------------------------------------------- */

int kvstow__read_at(kvstow_tier *tier, uint32_t file, void *to, uint64_t bytes, uint64_t offset) {
  struct iovec iov = {to, bytes};
  kvstow__op op = {.kind = KVSTOW__READ,
                   .file = file,
                   .offset = offset,
                   .length = bytes,
                   .iov = &iov,
                   .iov_count = 1};
  return kvstow__pump_run(tier, &op, 1);
}

int kvstow__read_patiently(kvstow_tier *tier, uint32_t file, void *to, uint64_t bytes,
                           uint64_t offset) {
  int error = EIO;
  for (unsigned reading = 0; reading < KVSTOW__READINGS_MAX && error && error != ENODATA; reading++)
    error = kvstow__read_at(tier, file, to, bytes, offset);
  return error;
}

static int append_entry(kvstow__entry **entries, uint32_t *count, uint32_t *max,
                        const kvstow__entry *entry) {
  if (*count == *max) {
    const uint32_t wanted = *max ? *max * 2 : 64;
    kvstow__entry *grown = realloc(*entries, wanted * sizeof *grown);
    if (!grown) return KVSTOW_ENOMEM;
    *entries = grown;
    *max = wanted;
  }
  (*entries)[(*count)++] = *entry;
  return 0;
}

int kvstow__read_header(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t at,
                        void *page) {
  const kvstow__expect expect = {.uuid = tier->uuid,
                                 .life = life,
                                 .page = (uint32_t)(at / KVSTOW_PAGE_BYTES),
                                 .segment_bytes = tier->segment_bytes};
  const kvstow__header *header = page;
  const int error = kvstow__read_patiently(tier, id, page, KVSTOW_PAGE_BYTES, at);
  if (error) return error == ENODATA ? KVSTOW_EMISS : KVSTOW_EIO;
  if (kvstow__header_check(page, &expect) != KVSTOW__GOOD) return KVSTOW_EMISS;
  if (!tier->cipher || (header->flags & KVSTOW__ERASED)) return 0;
  const int code = kvstow__open_header(tier->cipher, page);
  return code == KVSTOW_ECORRUPT ? KVSTOW_EMISS : code;
}

/* The first good header page of the life in [from, from + bytes), which is read at once; 0: none. */
static int search(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t from, uint64_t bytes,
                  uint8_t *buffer, uint64_t *found) {
  const int error = kvstow__read_at(tier, id, buffer, bytes, from);
  for (uint64_t at = 0; !error && at < bytes && *found == 0; at += KVSTOW_PAGE_BYTES) {
    const kvstow__expect expect = {.uuid = tier->uuid,
                                   .life = life,
                                   .page = (uint32_t)((from + at) / KVSTOW_PAGE_BYTES),
                                   .segment_bytes = tier->segment_bytes};
    if (kvstow__header_check((const void *)(buffer + at), &expect) == KVSTOW__GOOD)
      *found = from + at;
  }
  return error;
}

/* The same page by page, where that could not be read at once. EIO: not even so. */
static int search_pages(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t from,
                        uint64_t bytes, uint8_t *buffer, uint64_t *found) {
  unsigned unread = 0;
  for (uint64_t at = 0; at < bytes && *found == 0; at += KVSTOW_PAGE_BYTES) {
    const int error = search(tier, id, life, from + at, KVSTOW_PAGE_BYTES, buffer, found);
    unread = error ? unread + 1 : 0;
    if (unread == UNREAD_MAX) return EIO;
  }
  return 0;
}

/* A header page can't be read, and only it tells where the next one is: any page behind it may be that. *found: where
 * it is, or 0. EIO: too much of the segment can't be read to tell. */
static int next_header(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t from,
                       uint64_t *found) {
  uint8_t *buffer = kvstow__rooms_take(tier->rooms, KVSTOW__RUN_BYTES);
  if (!buffer) return KVSTOW_ENOMEM;
  const uint64_t end = tier->segment_bytes - 2 * KVSTOW_PAGE_BYTES;
  int error = 0;
  *found = 0;
  for (uint64_t at = from, bytes; at < end && *found == 0 && !error; at += bytes) {
    bytes = end - at < KVSTOW__RUN_BYTES ? end - at : KVSTOW__RUN_BYTES;
    error = search(tier, id, life, at, bytes, buffer, found);
    if (error && error != ENODATA) error = search_pages(tier, id, life, at, bytes, buffer, found);
  }
  kvstow__rooms_give(tier->rooms, buffer);
  return error && error != ENODATA ? KVSTOW_EIO : 0;
}

/* What lies between a header page that can't be read and the next one counts as an erased record. */
static int walk_over(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t *at,
                     kvstow__entry *entry) {
  uint64_t next;
  if (life.sequence == 0) return KVSTOW_EIO;
  const int code = next_header(tier, id, life, *at + 2 * KVSTOW_PAGE_BYTES, &next);
  if (code) return code;
  if (next == 0) return KVSTOW_EMISS;
  *entry = (kvstow__entry){.page = (uint32_t)(*at / KVSTOW_PAGE_BYTES),
                           .planes = 1,
                           .plane_bytes = (uint32_t)(next - *at - KVSTOW_PAGE_BYTES),
                           .flags = KVSTOW__ERASED};
  *at = next;
  return 0;
}

int kvstow__walk(kvstow_tier *tier, uint32_t id, kvstow__life *life, kvstow__entry **entries,
                 uint32_t *records, uint64_t *end_offset) {
  uint8_t *page = kvstow__rooms_take(tier->rooms, KVSTOW_PAGE_BYTES);
  if (!page) return KVSTOW_ENOMEM;
  const kvstow__header *header = (const void *)page;
  kvstow__entry entry;
  uint32_t max = *records;
  uint64_t at = *end_offset;
  int code = 0;
  while (at + 2 * KVSTOW_PAGE_BYTES <= tier->segment_bytes) {
    code = kvstow__read_header(tier, id, *life, at, page);
    /* Much hangs on there being none: a disk that answers wrongly once is asked again. */
    if (code == KVSTOW_EMISS) code = kvstow__read_header(tier, id, *life, at, page);
    if (code == 0) {
      *life = (kvstow__life){header->sequence, header->nonce};
      kvstow__entry_from_header(&entry, page);
      at += kvstow__record_bytes(header->planes, header->plane_bytes);
    } else if (code == KVSTOW_EIO) {
      code = walk_over(tier, id, *life, &at, &entry);
    }
    if (code == KVSTOW_EMISS) {
      code = 0;
      const uint64_t next_run = kvstow__round_up(at, KVSTOW__RUN_BYTES);
      if (at == next_run) break;
      at = next_run;
      continue;
    }
    if (!code) code = append_entry(entries, records, &max, &entry);
    if (code) break;
    *end_offset = at;
  }
  kvstow__rooms_give(tier->rooms, page);
  return code;
}

int kvstow__footer_fill(kvstow_tier *tier, void *image, kvstow__trailer_state state,
                        kvstow__life life, uint64_t opened_s, uint64_t end_offset,
                        const kvstow__entry *entries, uint32_t records) {
  kvstow__footer_make(image, state, tier->uuid, life, tier->segment_bytes, end_offset, opened_s,
                      kvstow__now_s(tier), entries, records);
  if (!tier->cipher || records == 0) return 0;
  uint8_t salt[KVSTOW__SALT_BYTES];
  const int error = tier->io.files->random(tier->io.env, salt, sizeof salt);
  if (error) return error;
  return kvstow__seal_footer(tier->cipher, salt, image, records) ? ENOMEM : 0;
}

int kvstow__table_open(const kvstow_tier *tier, const kvstow__trailer *trailer, void *table) {
  if (!kvstow__table_whole(trailer, table)) return KVSTOW_ECORRUPT;
  if (tier->cipher && trailer->records > 0) {
    const int code = kvstow__open_table(tier->cipher, trailer, table);
    if (code) return code;
  }
  return kvstow__table_sound(trailer, table) ? 0 : KVSTOW_ECORRUPT;
}

int kvstow__footer_load(kvstow_tier *tier, uint32_t id, kvstow__life life, kvstow__trailer *trailer,
                        kvstow__entry **entries) {
  const kvstow__expect expect = {
      .uuid = tier->uuid, .life = life, .segment_bytes = tier->segment_bytes};
  kvstow__trailer *page = kvstow__rooms_take(tier->rooms, KVSTOW_PAGE_BYTES);
  if (!page) return KVSTOW_ENOMEM;
  int error = kvstow__read_patiently(tier, id, page, KVSTOW_PAGE_BYTES,
                                     tier->segment_bytes - KVSTOW_PAGE_BYTES);
  *trailer = *page;
  kvstow__rooms_give(tier->rooms, page);
  if (error) return kvstow__code_of_errno(error);
  if (kvstow__trailer_check(trailer, &expect) != KVSTOW__GOOD) return KVSTOW_ECORRUPT;
  const uint64_t bytes = tier->segment_bytes - KVSTOW_PAGE_BYTES - trailer->table_offset;
  if (bytes == 0) {
    *entries = NULL;
    return 0;
  }
  void *table = aligned_alloc(KVSTOW_PAGE_BYTES, bytes);
  if (!table) return KVSTOW_ENOMEM;
  error = kvstow__read_patiently(tier, id, table, bytes, trailer->table_offset);
  const int code = error ? kvstow__code_of_errno(error) : kvstow__table_open(tier, trailer, table);
  if (code) {
    free(table);
    return code;
  }
  *entries = table;
  return 0;
}

static bool table_copy(kvstow_tier *tier, uint32_t id, kvstow__entry **entries, uint32_t *records,
                       uint64_t *end_offset, int *code) {
  const kvstow__segment *segment = &tier->segments[id];
  kvstow__lock(&tier->lock);
  const bool held = segment->entries != NULL || segment->committed == 0;
  if (held) {
    *records = segment->committed;
    *end_offset = segment->committed_bytes;
    *entries = malloc((size_t)*records * sizeof **entries + 1);
    if (*entries && *records > 0)
      memcpy(*entries, segment->entries, (size_t)*records * sizeof **entries);
    *code = *entries ? 0 : KVSTOW_ENOMEM;
  }
  kvstow__unlock(&tier->lock);
  return held;
}

/* The table of the segment's footer, if it is the one last written (sum; 0: any): in an older one is still what was
 * erased since. */
static int newest_footer(kvstow_tier *tier, uint32_t id, kvstow__life life, uint64_t sum,
                         kvstow__entry **entries, uint32_t *records, uint64_t *end_offset) {
  kvstow__trailer trailer;
  const int code = kvstow__footer_load(tier, id, life, &trailer, entries);
  if (code) return code;
  if (sum != 0 && trailer.checksum != sum) {
    free(*entries);
    *entries = NULL;
    return KVSTOW_ECORRUPT;
  }
  *records = trailer.records;
  *end_offset = trailer.end_offset;
  return 0;
}

int kvstow__table_load(kvstow_tier *tier, uint32_t id, kvstow__life life, kvstow__entry **entries,
                       uint32_t *records, uint64_t *end_offset) {
  int code = 0;
  *entries = NULL;
  *records = 0;
  *end_offset = 0;
  if (table_copy(tier, id, entries, records, end_offset, &code)) return code;
  kvstow__lock(&tier->lock);
  const uint32_t wanted = tier->segments[id].committed;
  const uint64_t sum = tier->segments[id].footer_sum;
  const bool headers_lie = tier->segments[id].headers_lie;
  kvstow__unlock(&tier->lock);
  code = newest_footer(tier, id, life, sum, entries, records, end_offset);
  if (code && code != KVSTOW_ENOMEM) /* it may be a passing fault */
    code = newest_footer(tier, id, life, sum, entries, records, end_offset);
  if (code == 0 || code == KVSTOW_ENOMEM) return code;
  /* The footer rotted: the header pages say the same, as a rule. */
  const int walked = headers_lie ? 0 : kvstow__walk(tier, id, &life, entries, records, end_offset);
  if (walked) {
    free(*entries);
    *entries = NULL;
    return walked;
  }
  if (*records == wanted) return 0;
  char path[KVSTOW__PATH_TEXT_BYTES];
  return kvstow__fail(tier, code,
                      "%s: footer at offset %" PRIu64 " unreadable, walking found %" PRIu32
                      " of %" PRIu32 " records",
                      kvstow__segment_path(tier, id, path),
                      (uint64_t)tier->segment_bytes - KVSTOW_PAGE_BYTES, *records, wanted);
}

/* ---- public --------------------------------------------------------------------------------- */

uint32_t kvstow_tier_segment_count(const kvstow_tier *tier) {
  return tier->segments_count;
}

int kvstow_tier_segment(const kvstow_tier *tier, uint32_t id, kvstow_segment_info *info) {
  kvstow_tier *t = (kvstow_tier *)(uintptr_t)tier;
  if (!tier) return KVSTOW_EINVAL;
  if (!info) return kvstow__fail(t, KVSTOW_EINVAL, "segment: info is NULL");
  if (id >= tier->segments_count) return kvstow__fail_segment(t, "segment", id);
  kvstow__lock(&t->lock);
  const kvstow__segment *segment = &t->segments[id];
  const bool holds = segment->state != KVSTOW_SEGMENT_FREE;
  *info = (kvstow_segment_info){
      .state = segment->state,
      .generation = holds ? (uint32_t)segment->life.sequence : 0,
      .records = holds ? segment->records : 0,
      .dir = kvstow__dir_of(t, id),
      .unsure = segment->unsure,
      .offline = t->heads[kvstow__dir_of(t, id)].offline,
      .used_bytes = holds ? segment->used_bytes : 0,
      .segment_bytes = t->segment_bytes,
      .opened_s = holds ? segment->opened_s : 0,
  };
  kvstow__unlock(&t->lock);
  return 0;
}

static const char *state_name(kvstow_segment_state state) {
  static const char *const names[] = {"free", "open",  "sealed", "given up already",
                                      "bad",  "unread"};
  return names[state];
}

int kvstow_tier_reclaim(kvstow_tier *tier, uint32_t id) {
  if (!tier) return KVSTOW_EINVAL;
  if (id >= tier->segments_count) return kvstow__fail_segment(tier, "reclaim", id);
  if (tier->read_only) return kvstow__fail_read_only(tier, "reclaim");
  kvstow__lock(&tier->lock);
  kvstow__segment *segment = &tier->segments[id];
  const kvstow_segment_state state = segment->state;
  const bool bad = state == KVSTOW_SEGMENT_BAD;
  int code = KVSTOW_ESTATE;
  if (bad || state == KVSTOW_SEGMENT_SEALED || state == KVSTOW_SEGMENT_UNREAD) {
    free(segment->entries);
    segment->entries = NULL;
    segment->entries_max = 0;
    segment->records = segment->committed = 0;
    segment->used_bytes = segment->committed_bytes = 0;
    segment->ghost = true;
    segment->ended = false;
    segment->unsure = false;
    segment->given_up = bad;
    if (!bad && segment->pins > 0)
      kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_RECLAIMED);
    else if (!bad)
      set_free(tier, segment);
    code = 0;
  }
  kvstow__unlock(&tier->lock);
  if (!code) return 0;
  return kvstow__fail(tier, code, "reclaim: segment %" PRIu32 " is %s, not sealed, unread or bad",
                      id, state_name(state));
}

static void deliver(uint32_t id, kvstow__life life, const kvstow__entry *entries, uint32_t records,
                    bool (*each)(void *arg, const kvstow_record *record), void *arg) {
  if (!entries) return;
  for (uint32_t i = 0; i < records; i++) {
    const kvstow__entry *entry = &entries[i];
    if (entry->flags & KVSTOW__ERASED) continue;
    kvstow_record record = {
        .key = entry->key,
        .loc = {.segment = id, .page = entry->page, .generation = (uint32_t)life.sequence},
        .planes = entry->planes,
        .plane_bytes = entry->plane_bytes,
        .written_s = entry->written_s,
    };
    memcpy(record.tag, entry->tag, sizeof record.tag);
    if (!each(arg, &record)) return;
  }
}

int kvstow_tier_scan(kvstow_tier *tier, uint32_t id,
                     bool (*each)(void *arg, const kvstow_record *record), void *arg) {
  if (!tier) return KVSTOW_EINVAL;
  if (!each) return kvstow__fail(tier, KVSTOW_EINVAL, "scan: each is NULL");
  if (id >= tier->segments_count) return kvstow__fail_segment(tier, "scan", id);
  kvstow__segment *segment = &tier->segments[id];
  kvstow__lock(&tier->lock);
  const kvstow__life life = segment->life;
  const bool alive = kvstow__segment_alive(segment, (uint32_t)life.sequence);
  const bool unread = segment->state == KVSTOW_SEGMENT_UNREAD;
  if (alive) segment->pins++;
  kvstow__unlock(&tier->lock);
  char path[KVSTOW__PATH_TEXT_BYTES];
  if (unread)
    return kvstow__fail(tier, KVSTOW_EIO, "%s: its table could not be read at opening",
                        kvstow__segment_path(tier, id, path));
  if (!alive) return 0;
  kvstow__entry *entries;
  uint32_t records;
  uint64_t end_offset;
  const int code = kvstow__table_load(tier, id, life, &entries, &records, &end_offset);
  deliver(id, life, entries, records, each, arg);
  free(entries);
  kvstow__lock(&tier->lock);
  if (segment->state == KVSTOW_SEGMENT_SEALED && segment->footer_done) {
    free(segment->entries); /* kept since the open, for this */
    segment->entries = NULL;
    segment->entries_max = 0;
  }
  kvstow__segment_unpin(tier, segment);
  kvstow__unlock(&tier->lock);
  return code;
}
