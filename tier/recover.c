/* tier/recover.c - what a store holds after it was closed, killed or damaged.
 *
 * Every segment file gives its footer and its first header page, read in batches: time goes with the
 * number of segments. A sealed footer is the whole truth. An OPEN or CLEAN one is a checkpoint from
 * which records are walked, header by header. No good footer, or a first record newer than it: the
 * walk starts at the front. What had to be walked is sealed at once. Records of an older life stop
 * the walk (format.h: life). What was walked is read through as well: a record whose planes did not
 * arrive is none (torn.c).
 *
 * All that was found is then made durable: a process that was killed may have left it in the kernel's or the
 * device's memory. What the caller hears of stays, and what he does not hear of, erased perhaps, stays gone.
 *
 * A segment that a device will not let us read, however often it is asked, is set aside: UNREAD. What it holds is
 * not known, so nothing of it is listed and nothing is written there; another opening may be luckier. Who erases
 * wipes it, and who needs the room gives it up. If most segments are like that the device is gone, or another one:
 * then the store does not open, and is left as it is.
 *
 * Then the files are fitted to the budget: surplus ones go, empty first, then the oldest; the
 * others move to numbers below the slot count. read_only does all this in memory only.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tier/pump.h"
#include "tier/super.h"

#define GROUP_FILES_MAX 64u
#define TAIL_BYTES 65536u             /* of a file, read at once: most tables are in it */
#define TABLES_KEPT_BYTES (64u << 20) /* in memory until scanned */
#define READINGS_MAX 4                /* of a file's ends, until two say the same */
#define PAUSE_US 1000u                /* after a reading failed; twice as long each time */
#define PATIENCE_US UINT64_C(1000000) /* all pauses of an opening together */
/* What lives a segment tells of that can't be read is not known. New ones begin that much later: no store writes more
 * often into such segments without writing into others. */
#define LIVES_UNSEEN 65536u

/* What was found out about one file, beside its segment. */
typedef struct found {
  bool present;
  bool short_file;
  bool crashed; /* walked: to be sealed */
  bool clean;
} found;

typedef struct recovery {
  kvstow_tier *tier;
  found *files;
  uint64_t sequence_max;
  uint64_t tables_bytes;
  uint64_t patience_us;
  bool lives_unseen;
  uint32_t unread; /* segments; the first of them, and why */
  uint32_t unread_first;
  int unread_error;
} recovery;

/* ---- which files there are ------------------------------------------------------------------ */

typedef struct listing {
  kvstow_tier *tier;
  recovery *r;
  uint32_t dir;
  int code;
} listing;

static bool list_file(void *arg, const char *name) {
  listing *l = arg;
  uint32_t number;
  if (!kvstow__segment_number(name, &number)) return true;
  if (kvstow__dir_of(l->tier, number) != l->dir || number >= l->tier->files_count) {
    l->code = kvstow__fail(l->tier, KVSTOW_EGEOMETRY, "%s/%s: does not belong in this directory",
                           l->tier->dirs[l->dir].path, name);
    return false;
  }
  l->r->files[number].present = true;
  return true;
}

static int list_files(recovery *r) {
  kvstow_tier *tier = r->tier;
  for (uint32_t d = 0; d < tier->dirs_count; d++) {
    listing l = {tier, r, d, 0};
    const int error = tier->io.files->dir_list(tier->io.env, tier->dirs[d].fd, list_file, &l);
    if (l.code) return l.code;
    if (error)
      return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: listing: %s", tier->dirs[d].path,
                          strerror(error));
  }
  return 0;
}

/* Opens a segment file apart from the I/O thread, for its size. */
static int measure(kvstow_tier *tier, uint32_t id, found *f, bool fix) {
  const kvstow__file_ops *files = tier->io.files;
  const kvstow__dir *dir = &tier->dirs[kvstow__dir_of(tier, id)];
  char name[KVSTOW__NAME_BYTES];
  kvstow__segment_name(name, id);
  int fd;
  uint64_t bytes = 0, allocated = 0;
  int error = files->open(tier->io.env, dir->fd, name, false, !tier->read_only, false, &fd);
  if (error) return kvstow__fail_open(tier, dir, name, error);
  error = files->size(tier->io.env, fd, &bytes, &allocated);
  if (!error && fix && bytes > tier->segment_bytes)
    error = files->truncate(tier->io.env, fd, tier->segment_bytes);
  if (!error && fix && bytes != tier->segment_bytes)
    error = files->allocate(tier->io.env, fd, tier->segment_bytes);
  if (!error && fix) error = files->size(tier->io.env, fd, &bytes, &allocated);
  files->close(tier->io.env, fd);
  f->short_file = bytes != tier->segment_bytes;
  tier->segments[id].disk_bytes = allocated;
  if (!error) return 0;
  char path[KVSTOW__PATH_TEXT_BYTES];
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: %s",
                      kvstow__segment_path(tier, id, path), strerror(error));
}

/* ---- one file ------------------------------------------------------------------------------- */

/* The first page and the tail of a file, as read in a batch. */
typedef struct ends {
  uint32_t id;
  int errors[2];
  struct iovec iov[2];
  uint8_t *first, *tail;
  uint64_t tail_bytes;
} ends;

/* A file that ends before is an answer. */
static bool unanswered(int error) {
  return error != 0 && error != ENODATA;
}

static void saw(recovery *r, uint64_t sequence) {
  if (sequence > r->sequence_max) r->sequence_max = sequence;
}

/* The table of a footer whose trailer is good: copied out of the tail, or read. */
static int table_of(recovery *r, const ends *e, const kvstow__trailer *trailer,
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
  uint8_t *table = e->tail + (trailer->table_offset - tail_at);
  const int code = kvstow__table_open(tier, trailer, table);
  if (code) return code;
  const size_t bytes = (size_t)trailer->records * sizeof **entries;
  *entries = malloc(bytes + 1);
  if (!*entries) return KVSTOW_ENOMEM;
  memcpy(*entries, table, bytes);
  return 0;
}

static void adopt(recovery *r, const ends *e, kvstow__life life, kvstow__entry *entries,
                  uint32_t records, uint64_t end_offset, uint64_t opened_s) {
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

static int walk_on(recovery *r, const ends *e, kvstow__life life, kvstow__entry *entries,
                   uint32_t records, uint64_t end_offset, uint64_t opened_s) {
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

static const kvstow__trailer *trailer_of(const ends *e) {
  return (const void *)(e->tail + e->tail_bytes - KVSTOW_PAGE_BYTES);
}

/* What was read of both ends: the life each tells of, 0 if it is no good page. */
typedef struct lives {
  kvstow__life first, trailer;
} lives;

static lives lives_of(recovery *r, const ends *e) {
  const kvstow_tier *tier = r->tier;
  const kvstow__expect expect = {.uuid = tier->uuid, .segment_bytes = tier->segment_bytes};
  const kvstow__trailer *trailer = trailer_of(e);
  const kvstow__header *first = (const void *)e->first;
  lives l = {{0, 0}, {0, 0}};
  if (!e->errors[0] && kvstow__header_check(first, &expect) == KVSTOW__GOOD)
    l.first = (kvstow__life){first->sequence, first->nonce};
  if (!e->errors[1] && kvstow__trailer_check(trailer, &expect) == KVSTOW__GOOD)
    l.trailer = (kvstow__life){trailer->sequence, trailer->nonce};
  return l;
}

/* The table of the file's newest life. KVSTOW_ECORRUPT: no footer tells of it. */
static int newest_table(recovery *r, const ends *e, const lives *l, kvstow__entry **entries) {
  if (l->trailer.sequence == 0 || l->first.sequence > l->trailer.sequence) return KVSTOW_ECORRUPT;
  return table_of(r, e, trailer_of(e), entries);
}

static bool same_life(kvstow__life a, kvstow__life b) {
  return a.sequence == b.sequence && a.nonce == b.nonce;
}

/* Both tell of one life. Where one has ended and the next has a first record, they do not. */
static bool ends_agree(const lives *l) {
  return l->trailer.sequence != 0 && same_life(l->first, l->trailer);
}

/* But for what was asked for in vain already. */
static void read_ends(kvstow_tier *tier, ends *e) {
  const uint64_t tail_at = tier->segment_bytes - e->tail_bytes;
  if (!unanswered(e->errors[0]))
    e->errors[0] = kvstow__read_patiently(tier, e->id, e->first, KVSTOW_PAGE_BYTES, 0);
  if (!unanswered(e->errors[1]))
    e->errors[1] = kvstow__read_patiently(tier, e->id, e->tail, e->tail_bytes, tail_at);
}

/* Where the ends do not bear each other out, they are read until two readings say the same: a disk that answers
 * wrongly once, with noise or with a good page of another file, shall not cost a segment. */
static int read_footer(recovery *r, ends *e, lives *l, kvstow__entry **entries) {
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
static bool unknown(const ends *e, const lives *l, int code) {
  if (code && code != KVSTOW_ECORRUPT) return !same_life(l->first, l->trailer);
  if (code) return l->first.sequence == 0 && (unanswered(e->errors[0]) || unanswered(e->errors[1]));
  /* An old life has ended: the first page would tell of the new one. */
  const kvstow__trailer *trailer = trailer_of(e);
  return unanswered(e->errors[0]) && trailer->state != KVSTOW__TRAILER_SEALED &&
         trailer->records == 0;
}

static void set_aside(recovery *r, uint32_t id, int error) {
  kvstow__segment *segment = &r->tier->segments[id];
  segment->state = KVSTOW_SEGMENT_UNREAD;
  segment->ghost = true;
  r->files[id].crashed = r->files[id].clean = false;
  r->lives_unseen = true;
  if (r->unread++ > 0) return;
  r->unread_first = id;
  r->unread_error = error;
}

static int look_at_file(recovery *r, ends *e) {
  kvstow_tier *tier = r->tier;
  found *f = &r->files[e->id];
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
  const kvstow__trailer *trailer = trailer_of(e);
  if (trailer->state == KVSTOW__TRAILER_SEALED) {
    adopt(r, e, l.trailer, entries, trailer->records, trailer->end_offset, trailer->opened_s);
    tier->segments[e->id].footer_done = true;
    tier->segments[e->id].footer_sum = trailer->checksum;
    return 0;
  }
  f->clean = trailer->state == KVSTOW__TRAILER_CLEAN;
  f->crashed = !f->clean;
  if (f->crashed) tier->walked_segments++;
  return walk_on(r, e, l.trailer, entries, trailer->records, trailer->end_offset,
                 trailer->opened_s);
}

static int recover_file(recovery *r, ends *e) {
  const int *errors = e->errors;
  r->lives_unseen |= unanswered(errors[0]) || unanswered(errors[1]);
  if (errors[0] == ENOMEM || errors[1] == ENOMEM) return KVSTOW_ENOMEM; /* ours, not the device's */
  const int code = look_at_file(r, e);
  if (code != KVSTOW_EIO) return code;
  set_aside(r, e->id, unanswered(errors[1]) ? errors[1] : unanswered(errors[0]) ? errors[0] : EIO);
  return 0;
}

/* ---- all files ------------------------------------------------------------------------------ */

static kvstow__op read_of(const kvstow_tier *tier, ends *e, int end) {
  const uint64_t tail_at = tier->segment_bytes - e->tail_bytes;
  e->iov[end] = end == 0 ? (struct iovec){e->first, KVSTOW_PAGE_BYTES}
                         : (struct iovec){e->tail, e->tail_bytes};
  return (kvstow__op){.kind = KVSTOW__READ,
                      .file = e->id,
                      .offset = end == 0 ? 0 : tail_at,
                      .length = e->iov[end].iov_len,
                      .iov = &e->iov[end],
                      .iov_count = 1};
}

/* Between two readings a device may come back. */
static void pause_after(recovery *r, unsigned readings) {
  const uint64_t pause_us = (uint64_t)PAUSE_US << (readings - 1);
  if (pause_us > r->patience_us) return;
  r->patience_us -= pause_us;
  nanosleep(&(struct timespec){0, (long)pause_us * 1000}, NULL);
}

/* Those that failed are asked for again, together. */
static void read_group(recovery *r, ends *group, uint32_t count) {
  for (unsigned reading = 0; reading < KVSTOW__READINGS_MAX; reading++) {
    kvstow__op ops[2 * GROUP_FILES_MAX];
    int *errors[2 * GROUP_FILES_MAX];
    size_t asked = 0;
    for (uint32_t i = 0; i < 2 * count; i++) {
      ends *e = &group[i / 2];
      if (reading > 0 && !unanswered(e->errors[i % 2])) continue;
      errors[asked] = &e->errors[i % 2];
      ops[asked++] = read_of(r->tier, e, (int)(i % 2));
    }
    if (asked == 0) return;
    if (reading > 0) pause_after(r, reading);
    kvstow__pump_run(r->tier, ops, asked);
    for (size_t i = 0; i < asked; i++) *errors[i] = ops[i].error;
  }
}

/* A file whose barrier fails has no records: a failing disk costs its blocks (kernels forget what they could not
 * write, so that another try would prove nothing). They are legible, for all we know. */
static void sync_group(recovery *r, const uint32_t *ids, uint32_t count) {
  kvstow_tier *tier = r->tier;
  kvstow__op ops[GROUP_FILES_MAX];
  for (uint32_t i = 0; i < count; i++) ops[i] = (kvstow__op){.kind = KVSTOW__SYNC, .file = ids[i]};
  if (kvstow__pump_run(tier, ops, count) == 0) return;
  for (uint32_t i = 0; i < count; i++) {
    kvstow__segment *segment = &tier->segments[ids[i]];
    char path[KVSTOW__PATH_TEXT_BYTES];
    if (!ops[i].error) continue;
    kvstow__fail(tier, 0, "%s: fdatasync: %s", kvstow__segment_path(tier, ids[i], path),
                 strerror(ops[i].error));
    free(segment->entries);
    const bool unread = segment->state == KVSTOW_SEGMENT_UNREAD;
    *segment = (kvstow__segment){.state = unread ? KVSTOW_SEGMENT_UNREAD : KVSTOW_SEGMENT_FREE,
                                 .life = segment->life,
                                 .has_file = true,
                                 .ghost = true,
                                 .disk_bytes = segment->disk_bytes};
    r->files[ids[i]].crashed = r->files[ids[i]].clean = false;
  }
}

static int recover_group(recovery *r, const uint32_t *ids, uint32_t count, ends *group,
                         uint8_t *buffer) {
  kvstow_tier *tier = r->tier;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *first = buffer + (size_t)i * (KVSTOW_PAGE_BYTES + TAIL_BYTES);
    group[i] = (ends){
        .id = ids[i], .first = first, .tail = first + KVSTOW_PAGE_BYTES, .tail_bytes = TAIL_BYTES};
  }
  read_group(r, group, count);
  for (uint32_t i = 0; i < count; i++) {
    kvstow__segment *segment = &tier->segments[ids[i]];
    segment->has_file = true;
    segment->ghost = group[i].errors[0] || group[i].errors[1]; /* who knows what it shows */
    const int code = recover_file(r, &group[i]);
    if (code) return code;
    const uint64_t bytes = (uint64_t)segment->records * sizeof(kvstow__entry);
    r->tables_bytes += bytes;
    if (segment->footer_done && r->tables_bytes > TABLES_KEPT_BYTES) {
      free(segment->entries);
      segment->entries = NULL;
      segment->entries_max = 0;
      r->tables_bytes -= bytes;
    }
  }
  if (!tier->read_only) sync_group(r, ids, count);
  return 0;
}

static int recover_all(recovery *r) {
  kvstow_tier *tier = r->tier;
  ends *group = malloc(GROUP_FILES_MAX * sizeof *group);
  uint8_t *buffer =
      aligned_alloc(KVSTOW_PAGE_BYTES, GROUP_FILES_MAX * (KVSTOW_PAGE_BYTES + TAIL_BYTES));
  int code = group && buffer ? 0 : KVSTOW_ENOMEM;
  uint32_t ids[GROUP_FILES_MAX], count = 0;
  for (uint32_t id = 0; id < tier->files_count && !code; id++) {
    if (r->files[id].present) {
      code = measure(tier, id, &r->files[id], false);
      ids[count++] = id;
    }
    if (!code && count > 0 && (count == GROUP_FILES_MAX || id + 1 == tier->files_count)) {
      code = recover_group(r, ids, count, group, buffer);
      count = 0;
    }
  }
  free(group);
  free(buffer);
  return code;
}

/* Nothing has been written yet: an owner who went on would put new records over those that he can't see. */
static int check_unread(recovery *r) {
  kvstow_tier *tier = r->tier;
  uint32_t files = 0;
  for (uint32_t id = 0; id < tier->files_count; id++) files += r->files[id].present;
  if (r->unread == 0) return 0;
  char path[KVSTOW__PATH_TEXT_BYTES];
  const bool most = 2 * (uint64_t)r->unread > files && !tier->read_only;
  return kvstow__fail(tier, most ? KVSTOW_EIO : 0,
                      "%s: reading its table: %s; %" PRIu32 " of %" PRIu32
                      " segments can't be read%s",
                      kvstow__segment_path(tier, r->unread_first, path), strerror(r->unread_error),
                      r->unread, files, most ? ": the store is left as it is" : "");
}

/* ---- fitting files to slots ----------------------------------------------------------------- */

static int forget_descriptor(kvstow_tier *tier, uint32_t id) {
  kvstow__op op = {.kind = KVSTOW__CLOSE, .file = id};
  return kvstow__pump_run(tier, &op, 1);
}

static uint32_t slots_of_dir(const kvstow_tier *tier, uint32_t dir) {
  return tier->segments_count / tier->dirs_count + (dir < tier->segments_count % tier->dirs_count);
}

static int drop_file(recovery *r, uint32_t id) {
  kvstow_tier *tier = r->tier;
  char name[KVSTOW__NAME_BYTES], path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__segment_name(name, id);
  forget_descriptor(tier, id);
  const int error =
      tier->io.files->unlink(tier->io.env, tier->dirs[kvstow__dir_of(tier, id)].fd, name);
  if (error)
    return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: removing, beyond the budget: %s",
                        kvstow__segment_path(tier, id, path), strerror(error));
  free(tier->segments[id].entries);
  memset(&tier->segments[id], 0, sizeof tier->segments[id]);
  memset(&r->files[id], 0, sizeof r->files[id]);
  return 0;
}

static int move_file(recovery *r, uint32_t from, uint32_t to) {
  kvstow_tier *tier = r->tier;
  char old_name[KVSTOW__NAME_BYTES], new_name[KVSTOW__NAME_BYTES], path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__segment_name(old_name, from);
  kvstow__segment_name(new_name, to);
  forget_descriptor(tier, from);
  const int error = tier->io.files->rename(tier->io.env, tier->dirs[kvstow__dir_of(tier, from)].fd,
                                           old_name, new_name);
  if (error)
    return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: renaming to %s: %s",
                        kvstow__segment_path(tier, from, path), new_name, strerror(error));
  tier->segments[to] = tier->segments[from];
  r->files[to] = r->files[from];
  memset(&tier->segments[from], 0, sizeof tier->segments[from]);
  memset(&r->files[from], 0, sizeof r->files[from]);
  return 0;
}

static int worth(const kvstow__segment *segment) {
  return segment->records > 0 ? 2 : segment->state == KVSTOW_SEGMENT_UNREAD;
}

/* The file to lose first: an empty one, then one that can't be read, else the one of the oldest life. */
static uint32_t least_of_dir(const recovery *r, uint32_t dir, uint32_t *files) {
  const kvstow_tier *tier = r->tier;
  uint32_t least = KVSTOW__NO_SEGMENT;
  *files = 0;
  for (uint32_t id = dir; id < tier->files_count; id += tier->dirs_count) {
    if (!r->files[id].present) continue;
    (*files)++;
    const kvstow__segment *s = &tier->segments[id];
    const kvstow__segment *l = &tier->segments[least == KVSTOW__NO_SEGMENT ? id : least];
    const bool lesser =
        worth(s) != worth(l) ? worth(s) < worth(l) : s->life.sequence < l->life.sequence;
    if (least == KVSTOW__NO_SEGMENT || lesser) least = id;
  }
  return least;
}

static int fit_dir(recovery *r, uint32_t dir) {
  kvstow_tier *tier = r->tier;
  const uint32_t slots = slots_of_dir(tier, dir);
  for (;;) {
    uint32_t files;
    const uint32_t least = least_of_dir(r, dir, &files);
    if (files <= slots) break;
    const int code = drop_file(r, least);
    if (code) return code;
  }
  uint32_t to = dir;
  for (uint32_t id = dir; id < tier->files_count; id += tier->dirs_count) {
    if (id < tier->segments_count || !r->files[id].present) continue;
    while (r->files[to].present) to += tier->dirs_count;
    const int code = move_file(r, id, to);
    if (code) return code;
  }
  /* Without changes, too: the super's own name may not be durable yet, and segments' names follow. */
  const int error = tier->io.files->dir_sync(tier->io.env, tier->dirs[dir].fd);
  if (!error) return 0;
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: fsync: %s", tier->dirs[dir].path,
                      strerror(error));
}

/* ---- after that ----------------------------------------------------------------------------- */

/* Writes the footer of a segment that was walked, so that the next open need not. Should the disk
 * refuse, its records stay readable and the segment is not used again. */
static int seal_walked(kvstow_tier *tier, uint32_t id) {
  kvstow__segment *segment = &tier->segments[id];
  kvstow__job *job =
      kvstow__footer_job(tier, KVSTOW__JOB_SEAL, id, segment->life, segment->opened_s,
                         segment->used_bytes, segment->entries, segment->records, false);
  if (!job) return KVSTOW_ENOMEM;
  int error = kvstow__pump_run(tier, &job->ops[1], 1); /* what it lists is durable */
  if (!error) error = kvstow__pump_run(tier, &job->ops[0], 1);
  segment->footer_sum = job->footer_sum;
  kvstow__job_free(job);
  if (!error) {
    segment->footer_done = true;
    return 0;
  }
  segment->state = KVSTOW_SEGMENT_BAD;
  char path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__fail(tier, 0, "%s: writing the footer after a crash: %s",
               kvstow__segment_path(tier, id, path), strerror(error));
  return 0;
}

static bool footer_fits(const kvstow_tier *tier, const kvstow__segment *segment) {
  return segment->used_bytes + kvstow__footer_bytes(segment->records) <= tier->segment_bytes;
}

static int settle(recovery *r, uint32_t id) {
  kvstow_tier *tier = r->tier;
  kvstow__segment *segment = &tier->segments[id];
  const found *f = &r->files[id];
  if (!f->present) return 0;
  if (!tier->read_only && f->short_file && measure(tier, id, &r->files[id], true) != 0) {
    /* No room to make it whole again. */
    segment->state = KVSTOW_SEGMENT_BAD;
    return 0;
  }
  if (segment->state == KVSTOW_SEGMENT_FREE || segment->state == KVSTOW_SEGMENT_UNREAD) return 0;
  tier->recovered_segments++;
  for (uint32_t i = 0; segment->entries && i < segment->records; i++)
    tier->recovered_records += (segment->entries[i].flags & KVSTOW__ERASED) == 0;
  if (!segment->entries) tier->recovered_records += segment->records;
  if (tier->read_only || segment->footer_done) return 0;
  kvstow__head *head = &tier->heads[kvstow__dir_of(tier, id)];
  if (!f->crashed && head->segment == KVSTOW__NO_SEGMENT) {
    segment->state = KVSTOW_SEGMENT_OPEN;
    segment->resume = true;
    head->segment = id;
    return 0;
  }
  if (!footer_fits(tier, segment)) {
    segment->state = KVSTOW_SEGMENT_BAD; /* cannot be: placement keeps room for the footer */
    return 0;
  }
  return seal_walked(tier, id);
}

static void count_free(kvstow_tier *tier) {
  for (uint32_t d = 0; d < tier->dirs_count; d++) {
    kvstow__head *head = &tier->heads[d];
    for (uint32_t id = d; id < tier->segments_count; id += tier->dirs_count) {
      if (tier->segments[id].state != KVSTOW_SEGMENT_FREE) continue;
      (*(tier->segments[id].has_file ? &head->free_made : &head->free_unmade))++;
    }
  }
}

int kvstow__recover(kvstow_tier *tier) {
  recovery r = {.tier = tier, .patience_us = PATIENCE_US};
  r.files = calloc((size_t)tier->files_count + 1, sizeof *r.files);
  if (!r.files) return KVSTOW_ENOMEM;
  int code = list_files(&r);
  if (!code) code = recover_all(&r);
  if (!code) code = check_unread(&r);
  if (!tier->read_only)
    for (uint32_t d = 0; d < tier->dirs_count && !code; d++) code = fit_dir(&r, d);
  for (uint32_t id = 0; id < tier->segments_count && !code; id++) code = settle(&r, id);
  if (!code) count_free(tier);
  tier->next_sequence = r.sequence_max + 1 + (r.lives_unseen ? LIVES_UNSEEN : 0);
  free(r.files);
  return code;
}
