/* tier/recover_file.c - what one segment file tells.
 *
 * A sealed footer is the whole truth. An OPEN or CLEAN one is a checkpoint from which records are walked, header by
 * header. No good footer, or a first record newer than it: the walk starts at the front. Records of an older life stop
 * the walk (format.h: life). What was walked is read through as well: a record whose planes did not arrive is none
 * (torn.c).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tier/recover.h"

#define READINGS_MAX 4 /* of a file's ends, until two say the same */

static void saw(kvstow__recovery *r, uint64_t sequence) {
  if (sequence > r->sequence_max) r->sequence_max = sequence;
}

/* The table of a footer whose trailer is good: copied out of the tail, or read. */
static int table_of(kvstow__recovery *r, const kvstow__ends *e, const kvstow__trailer *trailer,
                    kvstow__entry **entries) {
  kvstow_tier *tier = r->tier;
  *entries = NULL;
  const uint64_t tail_at = tier->segment_bytes - e->tail_bytes;
  if (trailer->table_offset < tail_at) {
    kvstow__trailer again;
    const kvstow__life life = {trailer->sequence, trailer->nonce};
    const int code = kvstow__footer_load(tier, e->id, life, &again, entries);
    if (code || memcmp(&again, trailer, sizeof again) == 0) return code;
    free(*entries); /* a table as long as another trailer says */
    *entries = NULL;
    return KVSTOW_ECORRUPT;
  }
  const size_t bytes = tier->segment_bytes - KVSTOW_PAGE_BYTES - trailer->table_offset;
  kvstow__entry *table = malloc(bytes + 1);
  if (!table) return KVSTOW_ENOMEM;
  memcpy(table, e->tail + (trailer->table_offset - tail_at), bytes); /* the tail stays as read */
  const int code = kvstow__table_open(tier, trailer, table);
  if (code) {
    free(table);
    return code;
  }
  kvstow__entry *fitted = realloc(table, (size_t)trailer->records * sizeof *table + 1);
  *entries = fitted ? fitted : table;
  return 0;
}

static void adopt(kvstow__recovery *r, const kvstow__ends *e, kvstow__life life,
                  kvstow__entry *entries, uint32_t records, uint64_t end_offset,
                  uint64_t opened_s) {
  kvstow__segment *segment = &r->tier->segments[e->id];
  segment->life = life;
  segment->records = segment->committed = records;
  segment->used_bytes = segment->committed_bytes = end_offset;
  segment->opened_s = opened_s ? opened_s : records ? entries[0].written_s : 0;
  segment->entries = entries;
  segment->entries_max = records;
  segment->state = records > 0 ? KVSTOW_SEGMENT_SEALED : KVSTOW_SEGMENT_FREE;
  /* Torn records are, and if power was lost in the middle of an erase others may be. */
  for (uint32_t i = 0; i < records; i++)
    segment->headers_lie = segment->headers_lie || (entries[i].flags & KVSTOW__ERASED);
  if (records == 0) {
    free(segment->entries);
    segment->entries = NULL;
    segment->used_bytes = segment->committed_bytes = 0;
  }
}

static int walk_on(kvstow__recovery *r, const kvstow__ends *e, kvstow__life life,
                   kvstow__entry *entries, uint32_t records, uint64_t end_offset,
                   uint64_t opened_s) {
  const uint32_t before = records;
  const int code = kvstow__walk(r->tier, e->id, &life, &entries, &records, &end_offset);
  if (code) {
    free(entries);
    return code;
  }
  saw(r, life.sequence);
  if (records > before) {
    const int torn = kvstow__torn_mark(r->tier, e->id, life, entries + before, records - before);
    if (torn) {
      free(entries);
      return torn;
    }
  }
  if (records > before) r->files[e->id].crashed = true;
  adopt(r, e, life, entries, records, end_offset, opened_s);
  return 0;
}

/* What was read of both ends: the life each tells of, 0 if it is no good page. */
typedef struct lives {
  kvstow__life first, trailer;
} lives;

static lives lives_of(kvstow__recovery *r, const kvstow__ends *e) {
  const kvstow_tier *tier = r->tier;
  const kvstow__expect expect = {.uuid = tier->uuid, .segment_bytes = tier->segment_bytes};
  const kvstow__trailer *trailer = kvstow__trailer_of(e);
  const kvstow__header *first = (const void *)e->first;
  lives l = {{0, 0}, {0, 0}};
  if (!e->errors[0] && kvstow__header_check(first, &expect) == KVSTOW__GOOD)
    l.first = (kvstow__life){first->sequence, first->nonce};
  if (!e->errors[1] && kvstow__trailer_check(trailer, &expect) == KVSTOW__GOOD)
    l.trailer = (kvstow__life){trailer->sequence, trailer->nonce};
  return l;
}

/* The table of the file's newest life. KVSTOW_ECORRUPT: no footer tells of it. */
static int newest_table(kvstow__recovery *r, const kvstow__ends *e, const lives *l,
                        kvstow__entry **entries) {
  if (l->trailer.sequence == 0 || l->first.sequence > l->trailer.sequence) return KVSTOW_ECORRUPT;
  return table_of(r, e, kvstow__trailer_of(e), entries);
}

static bool same_life(kvstow__life a, kvstow__life b) {
  return a.sequence == b.sequence && a.nonce == b.nonce;
}

/* Both tell of one life. Where one has ended and the next has a first record, they do not. */
static bool ends_agree(const lives *l) {
  return l->trailer.sequence != 0 && same_life(l->first, l->trailer);
}

/* But for what was asked for in vain already. */
static void read_ends(kvstow_tier *tier, kvstow__ends *e) {
  const uint64_t tail_at = tier->segment_bytes - e->tail_bytes;
  if (!kvstow__unanswered(e->errors[0]))
    e->errors[0] = kvstow__read_patiently(tier, e->id, e->first, KVSTOW_PAGE_BYTES, 0);
  if (!kvstow__unanswered(e->errors[1]))
    e->errors[1] = kvstow__read_patiently(tier, e->id, e->tail, e->tail_bytes, tail_at);
}

/* Where the ends do not bear each other out, they are read until two readings say the same: a disk that answers
 * wrongly once, with noise or with a good page of another file, shall not cost a segment. */
static int read_footer(kvstow__recovery *r, kvstow__ends *e, lives *l, kvstow__entry **entries) {
  lives before = {{0, 0}, {0, 0}};
  int code_before = 0;
  for (int reading = 1;; reading++) {
    *l = lives_of(r, e);
    const int code = newest_table(r, e, l, entries);
    if (code == KVSTOW_ENOMEM || (!code && ends_agree(l)) || reading == READINGS_MAX) return code;
    if (reading > 1 && code == code_before && same_life(l->first, before.first) &&
        same_life(l->trailer, before.trailer))
      return code;
    free(*entries);
    *entries = NULL;
    before = *l;
    code_before = code;
    read_ends(r->tier, e);
  }
}

/* Neither the table nor where to walk from can be told, because of what could not be read. */
static bool unknown(const kvstow__ends *e, const lives *l, int code) {
  if (code && code != KVSTOW_ECORRUPT) return !same_life(l->first, l->trailer);
  if (code)
    return l->first.sequence == 0 &&
           (kvstow__unanswered(e->errors[0]) || kvstow__unanswered(e->errors[1]));
  /* An old life has ended: the first page would tell of the new one. */
  const kvstow__trailer *trailer = kvstow__trailer_of(e);
  return kvstow__unanswered(e->errors[0]) && trailer->state != KVSTOW__TRAILER_SEALED &&
         trailer->records == 0;
}

static void set_aside(kvstow__recovery *r, uint32_t id, int error) {
  kvstow__segment *segment = &r->tier->segments[id];
  segment->state = KVSTOW_SEGMENT_UNREAD;
  segment->ghost = true;
  r->files[id].crashed = r->files[id].clean = r->files[id].denies = false;
  r->lives_unseen = true;
  if (r->unread++ > 0) return;
  r->unread_first = id;
  r->unread_error = error;
}

static int follow_footer(kvstow__recovery *r, const kvstow__ends *e, kvstow__entry *entries) {
  kvstow_tier *tier = r->tier;
  kvstow__segment *segment = &tier->segments[e->id];
  kvstow__found *f = &r->files[e->id];
  const kvstow__trailer *trailer = kvstow__trailer_of(e);
  const kvstow__life life = {trailer->sequence, trailer->nonce};
  int code = 0;
  if (trailer->state == KVSTOW__TRAILER_SEALED) {
    adopt(r, e, life, entries, trailer->records, trailer->end_offset, trailer->opened_s);
    segment->footer_done = true;
    segment->footer_sum = trailer->checksum;
  } else {
    f->clean = trailer->state == KVSTOW__TRAILER_CLEAN;
    f->crashed = !f->clean;
    if (f->crashed) tier->walked_segments++;
    code = walk_on(r, e, life, entries, trailer->records, trailer->end_offset, trailer->opened_s);
  }
  f->denies = trailer->records == 0 || segment->headers_lie;
  return code;
}

static int look_at_file(kvstow__recovery *r, kvstow__ends *e) {
  kvstow_tier *tier = r->tier;
  kvstow__found *f = &r->files[e->id];
  kvstow__entry *entries = NULL;
  lives l;
  const int code = read_footer(r, e, &l, &entries);
  /* Of a file that shows no records now: a footer that ended their life may not be durable yet. */
  tier->segments[e->id].ghost |= l.first.sequence != 0 && !same_life(l.first, l.trailer);
  saw(r, l.first.sequence);
  saw(r, l.trailer.sequence);
  if (code == KVSTOW_ENOMEM) return code;
  if (unknown(e, &l, code)) {
    free(entries);
    return KVSTOW_EIO;
  }
  if (code) { /* no footer of this life */
    f->crashed = true;
    tier->walked_segments += l.first.sequence != 0; /* else it was never used, made ahead perhaps */
    return walk_on(r, e, l.first, NULL, 0, 0, 0);
  }
  return follow_footer(r, e, entries);
}

int kvstow__recover_file(kvstow__recovery *r, kvstow__ends *e) {
  const int *errors = e->errors;
  r->lives_unseen |= kvstow__unanswered(errors[0]) || kvstow__unanswered(errors[1]);
  if (errors[0] == ENOMEM || errors[1] == ENOMEM) return KVSTOW_ENOMEM; /* ours, not the device's */
  const int code = look_at_file(r, e);
  if (code != KVSTOW_EIO) return code;
  set_aside(r, e->id,
            kvstow__unanswered(errors[1])   ? errors[1]
            : kvstow__unanswered(errors[0]) ? errors[0]
                                            : EIO);
  return 0;
}
