/* tier/append.c - placing records and turning batches into sequential writes.
 *
 * Each directory has at most one open segment, its head. A run (records of one chain) stays in one
 * directory, the next run goes to the next one; a record that does not fit its head seals it and
 * opens a free slot. Placement is computed on a sketch of the heads first, so that a batch is taken
 * whole or not at all, and so that kvstow_tier_fits can ask without doing.
 *
 * All of it runs under append_lock, on the caller's thread, and never waits for the I/O thread:
 * completions append too.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/pump.h"

static const uint8_t ZEROS[KVSTOW__RUN_BYTES] __attribute__((aligned(KVSTOW_PAGE_BYTES)));

/* A head as placement would leave it. */
typedef struct sketch_head {
  bool open;
  uint64_t used;
  uint64_t records;
} sketch_head;

typedef struct sketch {
  sketch_head heads[KVSTOW__DIRS_MAX];
  uint32_t free_slots[KVSTOW__DIRS_MAX];
  uint32_t cursor;
} sketch;

/* Where one record goes. */
typedef struct spot {
  uint32_t dir;
  bool opens; /* in a new segment */
  uint64_t offset;
} spot;

/* ---- placement ------------------------------------------------------------------------------ */

/* lock held */
static void sketch_make(const kvstow_tier *tier, sketch *s) {
  const uint64_t now_us = kvstow__now_us();
  memset(s, 0, sizeof *s);
  s->cursor = tier->cursor;
  for (uint32_t d = 0; d < tier->dirs_count; d++) {
    const kvstow__head *head = &tier->heads[d];
    const uint32_t id = head->segment;
    if (head->offline) continue;
    s->free_slots[d] = head->free_made + (head->denied_until_us <= now_us ? head->free_unmade : 0);
    if (id == KVSTOW__NO_SEGMENT) continue;
    s->heads[d] = (sketch_head){true, tier->segments[id].used_bytes, tier->segments[id].records};
  }
}

static uint64_t header_bytes_of(const void *page) {
  const kvstow__header *header = page;
  return kvstow__record_bytes(header->planes, header->plane_bytes);
}

static bool head_takes(const kvstow_tier *tier, const sketch_head *head, uint64_t bytes,
                       bool run_start, uint64_t *offset) {
  if (!head->open) return false;
  *offset = run_start ? kvstow__round_up(head->used, KVSTOW__RUN_BYTES) : head->used;
  return *offset + bytes + kvstow__footer_bytes(head->records + 1) <= tier->segment_bytes;
}

static bool sketch_place(const kvstow_tier *tier, sketch *s, uint64_t bytes, bool run_start,
                         spot *at) {
  const uint32_t first = run_start ? (s->cursor + 1) % tier->dirs_count : s->cursor;
  for (uint32_t i = 0; i < tier->dirs_count; i++) {
    const uint32_t d = (first + i) % tier->dirs_count;
    sketch_head *head = &s->heads[d];
    *at = (spot){.dir = d};
    if (!head_takes(tier, head, bytes, run_start, &at->offset)) {
      if (s->free_slots[d] == 0) continue;
      s->free_slots[d]--;
      at->opens = true;
      at->offset = 0;
      *head = (sketch_head){.open = true};
    }
    head->used = at->offset + bytes;
    head->records++;
    s->cursor = d;
    return true;
  }
  return false;
}

static size_t sketch_place_all(const kvstow_tier *tier, sketch *s,
                               const kvstow_record_write *writes, size_t count, spot *spots) {
  for (size_t i = 0; i < count; i++) {
    spot at;
    if (!sketch_place(tier, s, header_bytes_of(writes[i].header), writes[i].run_start, &at))
      return i;
    if (spots) spots[i] = at;
  }
  return count;
}

/* ---- jobs ----------------------------------------------------------------------------------- */

/* A batch being taken. */
typedef struct draft {
  kvstow_tier *tier;
  kvstow_record_write *writes;
  size_t count;
  spot *spots;
  uint64_t *sealed_at; /* offsets in batch->sealed */
  kvstow__job *first, **tail;
  kvstow__batch *batch;
} draft;

static void draft_add(draft *d, kvstow__job *job) {
  job->next = NULL;
  *d->tail = job;
  d->tail = &job->next;
}

/* Collects vectors of one sequential write into ops of at most `most` bytes. */
typedef struct gather {
  uint64_t most;
  kvstow__job *job;
  struct iovec *iov;
  uint64_t at;
} gather;

static void gather_bytes(gather *g, const void *base, uint64_t length) {
  const uint8_t *bytes = base;
  while (length > 0) {
    kvstow__op *op = g->job->ops_count ? &g->job->ops[g->job->ops_count - 1] : NULL;
    if (!op || op->length == g->most || op->iov_count == KVSTOW__IOV_MAX) {
      op = &g->job->ops[g->job->ops_count++];
      op->kind = KVSTOW__WRITE;
      op->file = g->job->segment;
      op->offset = g->at;
      op->iov = g->iov;
    }
    const uint64_t room = g->most - op->length;
    const uint64_t piece = length < room ? length : room;
    *g->iov++ = (struct iovec){(void *)(uintptr_t)bytes, piece};
    op->iov_count++;
    op->length += piece;
    g->at += piece;
    bytes += piece;
    length -= piece;
  }
}

static uint8_t *sealed_image(const draft *d, size_t i) {
  return d->batch->sealed + d->sealed_at[i];
}

/* A write job for consecutive writes of the batch that go to one segment. */
static kvstow__job *write_job(draft *d, uint32_t segment, size_t first, size_t count) {
  const size_t last = first + count - 1;
  const uint64_t start = d->tier->segments[segment].used_bytes;
  const uint64_t end = d->spots[last].offset + header_bytes_of(d->writes[last].header);
  const uint64_t parts = (end - start - 1) / d->tier->request_max_bytes + 1;
  const uint64_t vectors_max = 3 * count + parts;
  const uint64_t ops_max = parts + vectors_max / KVSTOW__IOV_MAX + 1;
  kvstow__job *job =
      calloc(1, sizeof *job + ops_max * sizeof(kvstow__op) + vectors_max * sizeof(struct iovec));
  if (!job) return NULL;
  job->kind = KVSTOW__JOB_WRITE;
  job->segment = segment;
  job->ops = (kvstow__op *)(job + 1);
  job->batch = d->batch;
  job->first = first;
  job->count = count;
  job->end_after = end;
  gather g = {.most = kvstow__round_up((end - start + parts - 1) / parts, KVSTOW_PAGE_BYTES),
              .job = job,
              .iov = (struct iovec *)(void *)(job->ops + ops_max),
              .at = start};
  for (size_t i = first; i < first + count; i++) {
    const kvstow_record_write *write = &d->writes[i];
    const uint64_t bytes = header_bytes_of(write->header);
    gather_bytes(&g, ZEROS, d->spots[i].offset - g.at);
    if (d->batch->sealed) {
      gather_bytes(&g, sealed_image(d, i), bytes);
    } else {
      gather_bytes(&g, write->header, KVSTOW_PAGE_BYTES);
      gather_bytes(&g, write->payload, bytes - KVSTOW_PAGE_BYTES);
    }
  }
  return job;
}

/* ---- taking a batch: append_lock and lock held ---------------------------------------------- */

int kvstow__head_seal(kvstow_tier *tier, uint32_t dir, kvstow__job **list) {
  const uint32_t id = tier->heads[dir].segment;
  if (id == KVSTOW__NO_SEGMENT) return 0;
  kvstow__segment *segment = &tier->segments[id];
  kvstow__job *job =
      kvstow__footer_job(tier, KVSTOW__JOB_SEAL, id, segment->life, segment->opened_s,
                         segment->used_bytes, segment->entries, segment->records, false);
  if (!job) return KVSTOW_ENOMEM;
  kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_SEALED);
  tier->heads[dir].segment = KVSTOW__NO_SEGMENT;
  *list = job;
  return 0;
}

static int seal_head(draft *d, uint32_t dir) {
  kvstow__job *job = NULL;
  const int code = kvstow__head_seal(d->tier, dir, &job);
  if (job) draft_add(d, job);
  return code;
}

static int open_slot(kvstow_tier *tier, uint32_t dir) {
  const uint32_t id = kvstow__slot_find(tier, dir, true);
  if (id == KVSTOW__NO_SEGMENT) return KVSTOW_ENOSPC; /* an erase holds it for a moment */
  kvstow__segment *segment = &tier->segments[id];
  free(segment->entries);
  segment->entries = NULL;
  segment->entries_max = 0;
  (void)kvstow__life_new(tier); /* life_between() */
  segment->life = kvstow__life_new(tier);
  kvstow__segment_become(tier, segment, KVSTOW_SEGMENT_OPEN);
  segment->records = segment->committed = 0;
  segment->used_bytes = segment->committed_bytes = 0;
  segment->opened_s = kvstow__now_s(tier);
  segment->resume = segment->footer_done = segment->headers_lie = false;
  tier->heads[dir].segment = id;
  tier->heads[dir].ready = KVSTOW__NO_SEGMENT;
  kvstow__slots_want(tier, dir);
  return 0;
}

/* A segment opened for a record that could not be taken after all. */
static void close_empty(kvstow_tier *tier, uint32_t dir) {
  kvstow__segment *segment = &tier->segments[tier->heads[dir].segment];
  if (segment->records > 0) return;
  kvstow__segment_become(tier, segment,
                         segment->pins > 0 ? KVSTOW_SEGMENT_RECLAIMED : KVSTOW_SEGMENT_FREE);
  tier->heads[dir].segment = KVSTOW__NO_SEGMENT;
}

/* A life to end the old one by, where that was not done ahead. A footer of a life newer than the records that follow
 * would hide them. */
static kvstow__life life_between(const kvstow__segment *segment) {
  return (kvstow__life){segment->life.sequence - 1, ~segment->life.nonce};
}

/* What must be on disk before anything new is. */
static kvstow__job *first_job(kvstow_tier *tier, uint32_t id) {
  const kvstow__segment *segment = &tier->segments[id];
  if (!segment->resume) return kvstow__end_job(tier, id, life_between(segment));
  return kvstow__footer_job(tier, KVSTOW__JOB_BEGIN, id, segment->life, segment->opened_s,
                            segment->used_bytes, segment->entries, segment->records, false);
}

/* Completes the headers of records [first, first + count) for their places. */
static int complete(draft *d, uint32_t id, size_t first, size_t count) {
  kvstow_tier *tier = d->tier;
  const uint64_t now_s = kvstow__now_s(tier);
  int code = 0;
  for (size_t i = first; i < first + count && !code; i++) {
    void *header = d->writes[i].header;
    const uint32_t page = (uint32_t)(d->spots[i].offset / KVSTOW_PAGE_BYTES);
    kvstow__header_complete(header, tier->uuid, tier->segments[id].life, page, now_s);
    if (d->batch->sealed) code = kvstow__seal_header(tier->cipher, header, sealed_image(d, i));
  }
  return code;
}

/* Enters them into their segment's table. */
static void enter(draft *d, uint32_t id, size_t first, size_t count) {
  kvstow__segment *segment = &d->tier->segments[id];
  for (size_t i = first; i < first + count; i++) {
    kvstow_record_write *write = &d->writes[i];
    const uint32_t page = (uint32_t)(d->spots[i].offset / KVSTOW_PAGE_BYTES);
    kvstow__entry_from_header(&segment->entries[segment->records++], write->header);
    write->loc = (kvstow_loc){id, page, (uint32_t)segment->life.sequence};
    write->result = 0;
    segment->used_bytes = d->spots[i].offset + header_bytes_of(write->header);
  }
}

static size_t part_length(const draft *d, size_t first) {
  size_t last = first + 1;
  while (last < d->count && d->spots[last].dir == d->spots[first].dir && !d->spots[last].opens)
    last++;
  return last - first;
}

static int take_into_head(draft *d, uint32_t dir, size_t first, size_t count) {
  kvstow_tier *tier = d->tier;
  const uint32_t id = tier->heads[dir].segment;
  kvstow__segment *segment = &tier->segments[id];
  const bool begins =
      segment->resume || (segment->ghost && !segment->ended && segment->records == 0);
  if (kvstow__entries_reserve(segment, (uint64_t)segment->records + count) != 0)
    return KVSTOW_ENOMEM;
  kvstow__job *begin = begins ? first_job(tier, id) : NULL;
  kvstow__job *job = write_job(d, id, first, count);
  if (!job || (begins && !begin) || complete(d, id, first, count) != 0) {
    kvstow__job_free(begin);
    kvstow__job_free(job);
    return KVSTOW_ENOMEM;
  }
  if (begin) draft_add(d, begin);
  segment->ended = true;
  segment->resume = false;
  enter(d, id, first, count);
  job->life = segment->life;
  job->records_after = segment->records;
  draft_add(d, job);
  d->batch->jobs_left++;
  tier->cursor = dir;
  return 0;
}

/* Takes one part: consecutive writes into one segment. */
static int take_part(draft *d, size_t first, size_t count) {
  const uint32_t dir = d->spots[first].dir;
  if (d->spots[first].opens) {
    int code = seal_head(d, dir);
    if (!code) code = open_slot(d->tier, dir);
    if (code) return code;
  }
  const int code = take_into_head(d, dir, first, count);
  if (code) close_empty(d->tier, dir);
  return code;
}

/* Out of memory (or slots) in the middle: what is taken is taken, the rest fails with the batch. */
static void fail_rest(draft *d, size_t first, int code) {
  d->batch->result = code;
  for (size_t i = first; i < d->count; i++) {
    d->writes[i].loc = (kvstow_loc){KVSTOW__NO_SEGMENT, 0, 0};
    d->writes[i].result = code;
  }
}

static int take(draft *d) {
  size_t first = 0;
  int code = 0;
  while (first < d->count && !code) {
    const size_t count = part_length(d, first);
    code = take_part(d, first, count);
    if (!code) first += count;
  }
  if (code && first > 0) fail_rest(d, first, code);
  kvstow__jobs_issue(d->tier, d->first); /* a seal may be there even if nothing was taken */
  return first > 0 ? 0 : code;
}

/* ---- append --------------------------------------------------------------------------------- */

/* Encrypts the planes of a batch; the header pages follow when their places are known. */
static int seal_batch(draft *d) {
  uint64_t bytes = 0;
  d->sealed_at = malloc(d->count * sizeof *d->sealed_at);
  if (!d->sealed_at) return KVSTOW_ENOMEM;
  for (size_t i = 0; i < d->count; i++) {
    d->sealed_at[i] = bytes;
    bytes += header_bytes_of(d->writes[i].header);
  }
  d->batch->sealed = aligned_alloc(KVSTOW_PAGE_BYTES, bytes);
  int code = d->batch->sealed ? 0 : KVSTOW_ENOMEM;
  for (size_t i = 0; i < d->count && !code; i++) {
    uint8_t salt[KVSTOW__SALT_BYTES];
    const int error = d->tier->io.files->random(d->tier->io.env, salt, sizeof salt);
    code = error ? kvstow__code_of_errno(error)
                 : kvstow__seal_planes(d->tier->cipher, salt, d->writes[i].header,
                                       d->writes[i].payload, sealed_image(d, i));
  }
  return code;
}

/* What is wrong with a write, or NULL; *code. */
static const char *write_fault(const kvstow_tier *tier, const kvstow_record_write *write,
                               int *code) {
  const kvstow__header *header = write->header;
  *code = KVSTOW_EINVAL;
  if (!header || (uintptr_t)header % KVSTOW_PAGE_BYTES != 0)
    return "its header is NULL or not at a multiple of 4096";
  if (!write->payload || (uintptr_t)write->payload % KVSTOW_PAGE_BYTES != 0)
    return "its payload is NULL or not at a multiple of 4096";
  if (!kvstow__header_formatted(header))
    return "its header is not as kvstow_record_format makes it";
  *code = KVSTOW_ETOOBIG;
  if (kvstow_tier_owner_max_bytes(tier, header->planes) < header->owner_bytes)
    return "its description leaves no room in the header page for what encryption adds";
  if (header_bytes_of(header) + kvstow__footer_bytes(1) > tier->segment_bytes)
    return "it is larger than a segment";
  *code = 0;
  return NULL;
}

static int check_writes(kvstow_tier *tier, const kvstow_record_write *writes, size_t count) {
  for (size_t i = 0; i < count; i++) {
    int code;
    const char *fault = write_fault(tier, &writes[i], &code);
    if (fault)
      return kvstow__fail(tier, code, "append: record %zu of %zu: %s", i + 1, count, fault);
  }
  return 0;
}

/* A head that can't take the next record is sealed even if there is no other: so that it can be
 * reclaimed. */
static void seal_full_heads(kvstow_tier *tier) {
  kvstow__lock(&tier->lock);
  for (uint32_t dir = 0; dir < tier->dirs_count; dir++) {
    kvstow__job *job = NULL;
    kvstow__head_seal(tier, dir, &job);
    kvstow__jobs_issue(tier, job);
  }
  kvstow__unlock(&tier->lock);
}

static int fail_offline(kvstow_tier *tier) {
  char cause[KVSTOW_MESSAGE_BYTES / 2];
  kvstow__lock(&tier->lock);
  memcpy(cause, tier->write_cause, sizeof cause - 1);
  kvstow__unlock(&tier->lock);
  cause[sizeof cause - 1] = 0;
  return kvstow__fail(tier, KVSTOW_EOFFLINE, "append: every directory is offline: %s", cause);
}

/* Finds spots for the whole batch and makes the files it needs. */
static int reserve(kvstow_tier *tier, const kvstow_record_write *writes, size_t count) {
  int denied = 0;
  for (uint32_t tries = 0; tries <= tier->segments_count; tries++) {
    sketch before, after;
    kvstow__lock(&tier->lock);
    sketch_make(tier, &before);
    const bool offline = kvstow__dirs_offline(tier) == tier->dirs_count;
    kvstow__unlock(&tier->lock);
    if (offline) return fail_offline(tier);
    after = before;
    const size_t placed = sketch_place_all(tier, &after, writes, count, NULL);
    if (placed < count) {
      if (placed == 0) seal_full_heads(tier);
      return denied ? denied
                    : kvstow__fail(tier, KVSTOW_ENOSPC,
                                   "no free segment for record %zu of %zu: reclaim one", placed + 1,
                                   count);
    }
    int code = 0;
    for (uint32_t d = 0; d < tier->dirs_count && !code; d++)
      code = kvstow__slots_make(tier, d, before.free_slots[d] - after.free_slots[d]);
    if (!code) return 0;
    denied = code;
  }
  return denied;
}

/* Finds spots for the whole batch in files that are there (lock held). */
static bool place(kvstow_tier *tier, draft *d) {
  sketch before, after;
  sketch_make(tier, &before);
  after = before;
  if (sketch_place_all(tier, &after, d->writes, d->count, d->spots) != d->count) return false;
  for (uint32_t dir = 0; dir < tier->dirs_count; dir++)
    if (before.free_slots[dir] - after.free_slots[dir] > tier->heads[dir].free_made) return false;
  return true;
}

/* A write that fails after the room was reserved may take a head or a directory away: then spots are looked for
 * again. */
static int append_locked(kvstow_tier *tier, draft *d) {
  for (;;) {
    int code = reserve(tier, d->writes, d->count);
    if (code) return code;
    kvstow__lock(&tier->lock);
    const bool placed = place(tier, d);
    if (placed) code = take(d);
    kvstow__unlock(&tier->lock);
    if (code == KVSTOW_ENOSPC)
      kvstow__fail(tier, code, "append: the free segment is being erased: try again");
    if (placed) return code;
  }
}

int kvstow_tier_append(kvstow_tier *tier, kvstow_record_write *writes, size_t count,
                       kvstow_append_done done, void *arg) {
  if (!tier) return KVSTOW_EINVAL;
  if (!writes || count == 0)
    return kvstow__fail(tier, KVSTOW_EINVAL, "append: writes %p, count %zu", (void *)writes, count);
  if (tier->read_only) return kvstow__fail_read_only(tier, "append");
  if (tier->dirs_count == 0)
    return kvstow__fail(tier, KVSTOW_EUNSUPPORTED, "append: the tier was opened without dirs");
  int code = check_writes(tier, writes, count);
  if (code) return code;
  draft d = {.tier = tier, .writes = writes, .count = count};
  d.tail = &d.first;
  d.spots = malloc(count * sizeof *d.spots);
  d.batch = calloc(1, sizeof *d.batch);
  if (!d.spots || !d.batch) {
    free(d.spots);
    free(d.batch);
    return KVSTOW_ENOMEM;
  }
  *d.batch = (kvstow__batch){.writes = writes, .count = count, .done = done, .arg = arg};
  if (tier->cipher) code = seal_batch(&d);
  if (!code) {
    kvstow__lock(&tier->append_lock);
    code = append_locked(tier, &d);
    kvstow__unlock(&tier->append_lock);
  }
  free(d.spots);
  free(d.sealed_at);
  if (code) kvstow__batch_free(d.batch); /* else the I/O thread's, and gone by now perhaps */
  return code;
}

void kvstow__batch_free(kvstow__batch *batch) {
  free(batch->sealed);
  free(batch);
}

size_t kvstow_tier_fits(const kvstow_tier *tier, const kvstow_record_write *writes, size_t count) {
  if (!tier || !writes || tier->read_only || tier->dirs_count == 0) return 0;
  size_t sound = 0;
  int code;
  while (sound < count && !write_fault(tier, &writes[sound], &code)) sound++;
  kvstow_tier *t = (kvstow_tier *)(uintptr_t)tier;
  sketch s;
  kvstow__lock(&t->lock);
  sketch_make(t, &s);
  kvstow__unlock(&t->lock);
  return sketch_place_all(t, &s, writes, sound, NULL);
}
