/* tier/recover.c - what a store holds after it was closed, killed or damaged.
 *
 * Every segment file gives its footer and its first header page, read in batches: time goes with the
 * number of segments. recover_file.c makes of them what the file tells. What had to be walked is sealed at once.
 *
 * All that was found is then made durable: a process that was killed may have left it in the kernel's or the
 * device's memory. What the caller hears of stays, and what he does not hear of, erased perhaps, stays gone
 * (recover_again.c).
 *
 * A segment that a device will not let us read, however often it is asked, is set aside: UNREAD. What it holds is
 * not known, so nothing of it is listed and nothing is written there; another opening may be luckier. Who erases
 * wipes it, and who needs the room gives it up. If most segments are like that the device is gone, or another one:
 * then the store does not open, and is left as it is.
 *
 * Then the files are fitted to the budget (recover_fit.c). read_only does all this in memory only.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tier/pump.h"
#include "tier/recover.h"
#include "tier/super.h"

#define TAIL_BYTES 65536u             /* of a file, read at once: most tables are in it */
#define TABLES_KEPT_BYTES (64u << 20) /* in memory until scanned */
#define PAUSE_US 1000u                /* after a reading failed; twice as long each time */
#define PATIENCE_US UINT64_C(1000000) /* all pauses of an opening together */
/* What lives a segment tells of that can't be read is not known. New ones begin that much later: no store writes more
 * often into such segments without writing into others. */
#define LIVES_UNSEEN 65536u

/* ---- which files there are ------------------------------------------------------------------ */

typedef struct listing {
  kvstow_tier *tier;
  kvstow__recovery *r;
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

static int list_files(kvstow__recovery *r) {
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
static int measure(kvstow_tier *tier, uint32_t id, kvstow__found *f, bool fix) {
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

/* ---- all files ------------------------------------------------------------------------------ */

static kvstow__op read_of(const kvstow_tier *tier, kvstow__ends *e, int end) {
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
static void pause_after(kvstow__recovery *r, unsigned readings) {
  const uint64_t pause_us = (uint64_t)PAUSE_US << (readings - 1);
  if (pause_us > r->patience_us) return;
  r->patience_us -= pause_us;
  nanosleep(&(struct timespec){0, (long)pause_us * 1000}, NULL);
}

/* Those that failed are asked for again, together. */
static void read_group(kvstow__recovery *r, kvstow__ends *group, uint32_t count) {
  for (unsigned reading = 0; reading < KVSTOW__READINGS_MAX; reading++) {
    kvstow__op ops[2 * KVSTOW__GROUP_FILES_MAX];
    int *errors[2 * KVSTOW__GROUP_FILES_MAX];
    size_t asked = 0;
    for (uint32_t i = 0; i < 2 * count; i++) {
      kvstow__ends *e = &group[i / 2];
      if (reading > 0 && !kvstow__unanswered(e->errors[i % 2])) continue;
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
static void sync_group(kvstow__recovery *r, const uint32_t *ids, uint32_t count) {
  kvstow_tier *tier = r->tier;
  kvstow__op ops[KVSTOW__GROUP_FILES_MAX];
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

/* The tables of sealed segments are on disk as well. */
static void keep_table(kvstow__recovery *r, kvstow__segment *segment) {
  const uint64_t bytes = (uint64_t)segment->records * sizeof(kvstow__entry);
  r->tables_bytes += bytes;
  if (!segment->footer_done || r->tables_bytes <= TABLES_KEPT_BYTES) return;
  free(segment->entries);
  segment->entries = NULL;
  segment->entries_max = 0;
  r->tables_bytes -= bytes;
}

static int recover_group(kvstow__recovery *r, const uint32_t *ids, uint32_t count,
                         kvstow__ends *group, uint8_t *buffer) {
  kvstow_tier *tier = r->tier;
  for (uint32_t i = 0; i < count; i++) {
    uint8_t *first = buffer + (size_t)i * (KVSTOW_PAGE_BYTES + TAIL_BYTES);
    group[i] = (kvstow__ends){
        .id = ids[i], .first = first, .tail = first + KVSTOW_PAGE_BYTES, .tail_bytes = TAIL_BYTES};
  }
  read_group(r, group, count);
  for (uint32_t i = 0; i < count; i++) {
    kvstow__segment *segment = &tier->segments[ids[i]];
    segment->has_file = true;
    segment->ghost = group[i].errors[0] || group[i].errors[1]; /* who knows what it shows */
    const int code = kvstow__recover_file(r, &group[i]);
    if (code) return code;
  }
  if (!tier->read_only) kvstow__recover_again(r, group, count);
  for (uint32_t i = 0; i < count; i++) keep_table(r, &tier->segments[ids[i]]);
  if (!tier->read_only) sync_group(r, ids, count);
  return 0;
}

static int recover_all(kvstow__recovery *r) {
  kvstow_tier *tier = r->tier;
  kvstow__ends *group = malloc(KVSTOW__GROUP_FILES_MAX * sizeof *group);
  uint8_t *buffer =
      aligned_alloc(KVSTOW_PAGE_BYTES, KVSTOW__GROUP_FILES_MAX * (KVSTOW_PAGE_BYTES + TAIL_BYTES));
  int code = group && buffer ? 0 : KVSTOW_ENOMEM;
  uint32_t ids[KVSTOW__GROUP_FILES_MAX], count = 0;
  for (uint32_t id = 0; id < tier->files_count && !code; id++) {
    if (r->files[id].present) {
      code = measure(tier, id, &r->files[id], false);
      ids[count++] = id;
    }
    if (!code && count > 0 && (count == KVSTOW__GROUP_FILES_MAX || id + 1 == tier->files_count)) {
      code = recover_group(r, ids, count, group, buffer);
      count = 0;
    }
  }
  free(group);
  free(buffer);
  return code;
}

/* Nothing has been written yet: an owner who went on would put new records over those that he can't see. */
static int check_unread(kvstow__recovery *r) {
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

static int settle(kvstow__recovery *r, uint32_t id) {
  kvstow_tier *tier = r->tier;
  kvstow__segment *segment = &tier->segments[id];
  const kvstow__found *f = &r->files[id];
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
  if (tier->read_only || segment->footer_done || segment->state == KVSTOW_SEGMENT_BAD) return 0;
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
  kvstow__recovery r = {.tier = tier, .patience_us = PATIENCE_US};
  r.files = calloc((size_t)tier->files_count + 1, sizeof *r.files);
  if (!r.files) return KVSTOW_ENOMEM;
  int code = list_files(&r);
  if (!code) code = recover_all(&r);
  if (!code) code = check_unread(&r);
  if (!tier->read_only)
    for (uint32_t d = 0; d < tier->dirs_count && !code; d++) code = kvstow__recover_fit(&r, d);
  for (uint32_t id = 0; id < tier->segments_count && !code; id++) code = settle(&r, id);
  if (!code) count_free(tier);
  tier->next_sequence = r.sequence_max + 1 + (r.lives_unseen ? LIVES_UNSEEN : 0);
  free(r.files);
  return code;
}
