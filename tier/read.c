/* tier/read.c - record reads: from the caller's request to verified bytes.
 *
 * A read is one or two extents (the header page, and the planes unless they follow it directly). The
 * I/O thread plans a window of extents into device requests, and when the last piece of a read has
 * arrived checks it: header checksum, store, life, place, key, shape, then every plane's checksum.
 * Only then does done run. A merged request that fails is retried extent by extent, so that one bad
 * sector costs one record and not its neighbours.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/files.h"
#include "tier/pump.h"

#define OVERDUE (-1) /* no errno: a device may report an ETIMEDOUT of its own */

/* One planned device request. */
typedef struct request {
  kvstow__op op;
  kvstow_tier *tier;
  size_t extents_count;
  kvstow__extent **extents; /* behind the vectors */
  struct iovec iov[];
} request;

static size_t finish(kvstow_tier *tier, kvstow__read_job *job);

/* ---- submission, any thread ----------------------------------------------------------------- */

static bool aligned(const void *pointer) {
  return (uintptr_t)pointer % KVSTOW_PAGE_BYTES == 0;
}

static bool valid(const kvstow_tier *tier, const kvstow_record_read *read) {
  if (!read || !read->done || !read->header || !aligned(read->header)) return false;
  if (read->priority != KVSTOW_DEMAND && read->priority != KVSTOW_PREFETCH) return false;
  if (read->plane_count == 0) return true;
  if (!read->payload || !aligned(read->payload)) return false;
  if (read->plane_bytes == 0 || read->plane_bytes % KVSTOW_PAGE_BYTES != 0) return false;
  const uint64_t last = (uint64_t)read->plane_first + read->plane_count;
  return last <= KVSTOW__PLANES_MAX && last * read->plane_bytes < tier->segment_bytes;
}

static void add_extent(const kvstow_tier *tier, kvstow__read_job *job, uint64_t offset, void *to,
                       uint64_t length) {
  kvstow__extent *extent = &job->extents[job->extents_left++];
  extent->file = job->read->loc.segment;
  extent->offset = offset;
  extent->length = length;
  extent->file_end = tier->segment_bytes;
  extent->iov[0] = (struct iovec){to, length};
  extent->iov_count = 1;
  extent->owner = job;
}

static void make_extents(const kvstow_tier *tier, kvstow__read_job *job) {
  const kvstow_record_read *read = job->read;
  const uint64_t at = (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES;
  const uint64_t bytes = (uint64_t)read->plane_count * read->plane_bytes;
  add_extent(tier, job, at, read->header, KVSTOW_PAGE_BYTES);
  if (bytes == 0) return;
  if (read->plane_first == 0) {
    kvstow__extent *extent = &job->extents[0];
    extent->iov[1] = (struct iovec){read->payload, bytes};
    extent->iov_count = 2;
    extent->length += bytes;
    return;
  }
  add_extent(tier, job, at + KVSTOW_PAGE_BYTES + (uint64_t)read->plane_first * read->plane_bytes,
             read->payload, bytes);
}

/* Segment.c's proof, step 1. lock held. */
static int pin(kvstow_tier *tier, kvstow__read_job *job) {
  const kvstow_loc *loc = &job->read->loc;
  if (loc->segment >= tier->segments_count) return KVSTOW_EMISS;
  kvstow__segment *segment = &tier->segments[loc->segment];
  if (!kvstow__segment_alive(segment, loc->generation)) return KVSTOW_EMISS;
  const kvstow_record_read *read = job->read;
  const uint64_t end = (uint64_t)loc->page * KVSTOW_PAGE_BYTES +
                       kvstow__record_bytes(read->plane_first + read->plane_count,
                                            read->plane_count ? read->plane_bytes : 0);
  if (end > segment->committed_bytes) return KVSTOW_EMISS;
  job->life = segment->life;
  job->pinned = true;
  segment->pins++;
  return 0;
}

int kvstow_tier_read_batch(kvstow_tier *tier, kvstow_record_read *const *reads, size_t count) {
  if (!tier || (!reads && count > 0)) return KVSTOW_EINVAL;
  for (size_t i = 0; i < count; i++)
    if (!valid(tier, reads[i])) return KVSTOW_EINVAL;
  if (count == 0) return 0;
  kvstow__read_batch *batch = calloc(1, sizeof *batch + count * sizeof(kvstow__read_job));
  if (!batch) return KVSTOW_ENOMEM;
  kvstow__read_job *jobs = (kvstow__read_job *)(batch + 1);
  batch->left = count;
  uint64_t extents = 0, bytes = 0, stale = 0;
  for (size_t i = 0; i < count; i++) {
    kvstow__read_job *job = &jobs[i];
    job->finish = finish;
    job->read = reads[i];
    job->batch = batch;
    job->priority = (uint8_t)reads[i]->priority;
    job->deadline_us = reads[i]->deadline_us;
    job->next = i + 1 < count ? &jobs[i + 1] : NULL;
    reads[i]->result = 0;
    pthread_mutex_lock(&tier->lock);
    job->error = pin(tier, job);
    pthread_mutex_unlock(&tier->lock);
    stale += job->error != 0;
    if (!job->error) make_extents(tier, job);
    extents += job->extents_left;
    bytes += KVSTOW_PAGE_BYTES + (uint64_t)reads[i]->plane_count * reads[i]->plane_bytes;
  }
  kvstow__count(&tier->counters.records_read, count);
  kvstow__count(&tier->counters.bytes_read, bytes);
  kvstow__count(&tier->counters.read_requests, extents);
  kvstow__count(&tier->counters.stale_reads, stale);
  pthread_mutex_lock(&tier->read_lock);
  for (size_t i = 0; i < count; i++) reads[i]->job_internal = &jobs[i];
  pthread_mutex_unlock(&tier->read_lock);
  kvstow__pump_send_reads(tier, jobs);
  return 0;
}

/* job_internal is set before a read is sent and cleared before its done runs, both under read_lock:
 * a job seen here stays until the lock is let go. */
void kvstow_tier_cancel(kvstow_tier *tier, kvstow_record_read *read) {
  if (!tier || !read) return;
  pthread_mutex_lock(&tier->read_lock);
  kvstow__read_job *job = read->job_internal;
  if (job) atomic_store(&job->cancel, true);
  pthread_mutex_unlock(&tier->read_lock);
  if (job) kvstow__pump_sweep(tier);
}

void kvstow_tier_urge(kvstow_tier *tier, kvstow_record_read *read) {
  if (!tier || !read) return;
  pthread_mutex_lock(&tier->read_lock);
  kvstow__read_job *job = read->job_internal;
  if (job) atomic_store(&job->urgent, true);
  pthread_mutex_unlock(&tier->read_lock);
  if (job) kvstow__pump_sweep(tier);
}

/* ---- completion of extents, on the I/O thread ----------------------------------------------- */

static int code_of(int error) {
  if (error == ENODATA) return KVSTOW_EIO; /* the file ends before the record does */
  if (error == ECANCELED) return KVSTOW_ECANCELED;
  if (error == OVERDUE) return KVSTOW_ETIMEDOUT;
  return error == ENOMEM ? KVSTOW_ENOMEM : KVSTOW_EIO;
}

static void settle_extent(kvstow_tier *tier, kvstow__extent *extent) {
  kvstow__read_job *job = extent->owner;
  if (extent->error && !job->error) {
    job->error = code_of(extent->error);
    job->cause = extent->error;
  }
  if (--job->extents_left == 0) kvstow__pump_finish_read(tier, job);
}

/* Why a read that was not sent yet need not be: ECANCELED, OVERDUE; or 0. */
static int unwanted(const kvstow__read_job *job) {
  if (atomic_load(&job->cancel)) return ECANCELED;
  return job->deadline_us && kvstow__now_us() >= job->deadline_us ? OVERDUE : 0;
}

bool kvstow__read_skip(kvstow_tier *tier, kvstow__extent *extent) {
  const int why = unwanted(extent->owner);
  if (!why) return false;
  extent->error = why;
  settle_extent(tier, extent);
  return true;
}

static void piece_done(kvstow_tier *tier, kvstow__extent *extent, int error) {
  if (error && !extent->error) extent->error = error;
  if (--extent->parts > 0) return;
  if (extent->error && extent->error != ECANCELED && extent->error != OVERDUE && !extent->alone) {
    extent->alone = true;
    extent->error = 0;
    atomic_fetch_add_explicit(&tier->io_counters.retries, 1, memory_order_relaxed);
    kvstow__pump_push_extent(tier, extent);
    return;
  }
  settle_extent(tier, extent);
}

static void request_completed(kvstow__op *op) {
  request *r = op->owner;
  for (size_t i = 0; i < r->extents_count; i++) {
    const int why = op->error == ECANCELED ? unwanted(r->extents[i]->owner) : 0;
    piece_done(r->tier, r->extents[i], why ? why : op->error);
  }
  free(r);
}

bool kvstow__read_op_unwanted(const kvstow__op *op) {
  if (op->complete != request_completed) return false;
  const request *r = op->owner;
  for (size_t i = 0; i < r->extents_count; i++)
    if (!unwanted(r->extents[i]->owner)) return false;
  return true;
}

bool kvstow__read_op_urgent(const kvstow__op *op) {
  if (op->complete != request_completed) return false;
  const request *r = op->owner;
  for (size_t i = 0; i < r->extents_count; i++)
    if (atomic_load(&((kvstow__read_job *)r->extents[i]->owner)->urgent)) return true;
  return false;
}

/* ---- planning ------------------------------------------------------------------------------- */

static void emit(void *arg, const kvstow__request *planned) {
  kvstow_tier *tier = arg;
  const size_t vectors = planned->iov_count * sizeof(struct iovec);
  request *r = malloc(sizeof *r + vectors + planned->extents_count * sizeof(kvstow__extent *));
  if (!r) {
    for (size_t i = 0; i < planned->extents_count; i++) planned->extents[i]->error = ENOMEM;
    return; /* settled when the window has been planned */
  }
  for (size_t i = 0; i < planned->extents_count; i++) planned->extents[i]->parts++;
  memset(&r->op, 0, sizeof r->op);
  r->tier = tier;
  memcpy(r->iov, planned->iov, vectors);
  r->extents = (kvstow__extent **)(void *)(r->iov + planned->iov_count);
  r->extents_count = planned->extents_count;
  memcpy(r->extents, planned->extents, planned->extents_count * sizeof(kvstow__extent *));
  const kvstow__read_job *first = r->extents[0]->owner;
  r->op.kind = KVSTOW__READ;
  r->op.priority = (kvstow_priority)first->priority;
  r->op.file = planned->file;
  r->op.offset = planned->offset;
  r->op.length = planned->length;
  r->op.iov = r->iov;
  r->op.iov_count = planned->iov_count;
  r->op.scratch = planned->scratch;
  if (first->file) kvstow__file_aim(first->file, &r->op);
  r->op.owner = r;
  r->op.complete = request_completed;
  kvstow__count(&tier->counters.device_reads, 1);
  kvstow__count(&tier->counters.device_read_bytes, planned->length);
  kvstow__count(&tier->counters.merges, planned->extents_count - 1);
  kvstow__pump_push(
      tier, &r->op,
      first->priority == KVSTOW_PREFETCH ? KVSTOW__LANE_PREFETCH : KVSTOW__LANE_DEMAND);
}

void kvstow__read_plan(kvstow_tier *tier, kvstow__extent **window, size_t count) {
  kvstow__limits limits = {
      .merge = atomic_load_explicit(&tier->tuning.enable_io_scheduling, memory_order_relaxed),
      .gap_max_bytes = atomic_load_explicit(&tier->tuning.merge_distance, memory_order_relaxed),
      .request_max_bytes = tier->request_max_bytes,
      .block_bytes = atomic_load_explicit(&tier->tuning.optimal_block_size, memory_order_relaxed),
  };
  limits.scratch = kvstow__pump_scratch(tier, &limits.scratch_bytes);
  for (size_t i = 0; i < count; i++) window[i]->parts = 1; /* held while planning */
  kvstow__schedule(window, count, &limits, emit, tier);
  for (size_t i = 0; i < count; i++) piece_done(tier, window[i], 0);
}

/* ---- verification --------------------------------------------------------------------------- */

static int refuse_header(kvstow_tier *tier, const kvstow_record_read *read, const char *why) {
  char path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__count(&tier->counters.corrupt_headers, 1);
  return kvstow__fail(
      tier, KVSTOW_ECORRUPT,
      "%s: header page at offset %" PRIu64 ": %s (expected key %016" PRIx64 "%016" PRIx64 ")",
      kvstow__segment_path(tier, read->loc.segment, path),
      (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES, why, read->key.hi, read->key.lo);
}

/* Reclaimed while the read was under way: an erase may have wiped it. */
static bool given_up(kvstow_tier *tier, const kvstow__read_job *job) {
  const kvstow_loc *loc = &job->read->loc;
  pthread_mutex_lock(&tier->lock);
  const bool alive = kvstow__segment_alive(&tier->segments[loc->segment], loc->generation);
  pthread_mutex_unlock(&tier->lock);
  if (!alive) kvstow__count(&tier->counters.stale_reads, 1);
  return !alive;
}

static int verify_header(kvstow_tier *tier, const kvstow__read_job *job) {
  const kvstow_record_read *read = job->read;
  const kvstow__header *header = read->header;
  const kvstow__expect expect = {.uuid = tier->uuid,
                                 .life = job->life,
                                 .page = read->loc.page,
                                 .segment_bytes = tier->segment_bytes};
  const kvstow__verdict verdict = kvstow__header_check(header, &expect);
  if (verdict != KVSTOW__GOOD && given_up(tier, job)) return KVSTOW_EMISS;
  if (verdict != KVSTOW__GOOD) return refuse_header(tier, read, kvstow__verdict_text(verdict));
  if (header->flags & KVSTOW__ERASED) return KVSTOW_EMISS;
  if (header->key.lo != read->key.lo || header->key.hi != read->key.hi)
    return refuse_header(tier, read, "another key");
  if (read->plane_count == 0) return 0;
  if (header->plane_bytes != read->plane_bytes ||
      (uint64_t)read->plane_first + read->plane_count > header->planes)
    return refuse_header(tier, read, "another shape");
  return 0;
}

static int verify_planes(kvstow_tier *tier, const kvstow_record_read *read) {
  const kvstow__header *header = read->header;
  const uint64_t *sums = kvstow_record_sums(read->header);
  for (uint32_t i = 0; i < read->plane_count; i++) {
    const uint32_t plane = read->plane_first + i;
    const uint8_t *bytes = (const uint8_t *)read->payload + (size_t)i * read->plane_bytes;
    const uint64_t found = kvstow_plane_checksum(bytes, read->plane_bytes, header->part_bytes);
    if (found == sums[plane]) continue;
    char path[KVSTOW__PATH_TEXT_BYTES];
    kvstow__count(&tier->counters.corrupt_planes, 1);
    return kvstow__fail(tier, KVSTOW_ECORRUPT,
                        "%s: plane %" PRIu32 " at offset %" PRIu64 ": expected checksum %016" PRIx64
                        ", found %016" PRIx64,
                        kvstow__segment_path(tier, read->loc.segment, path), plane,
                        (uint64_t)read->loc.page * KVSTOW_PAGE_BYTES + KVSTOW_PAGE_BYTES +
                            (uint64_t)plane * read->plane_bytes,
                        sums[plane], found);
  }
  return 0;
}

static int verify(kvstow_tier *tier, const kvstow__read_job *job) {
  if (job->error == KVSTOW_EIO) {
    char path[KVSTOW__PATH_TEXT_BYTES], cause[64];
    return kvstow__fail(tier, KVSTOW_EIO, "%s: reading at offset %" PRIu64 ": %s",
                        kvstow__segment_path(tier, job->read->loc.segment, path),
                        (uint64_t)job->read->loc.page * KVSTOW_PAGE_BYTES,
                        job->cause == ENODATA ? "the file ends early"
                                              : strerror_r(job->cause, cause, sizeof cause));
  }
  if (job->error) return job->error;
  const int code = verify_header(tier, job);
  return code ? code : verify_planes(tier, job->read);
}

static size_t finish(kvstow_tier *tier, kvstow__read_job *job) {
  kvstow_record_read *read = job->read;
  const size_t bytes = KVSTOW_PAGE_BYTES + (size_t)read->plane_count * read->plane_bytes;
  read->result = verify(tier, job);
  if (job->pinned) {
    pthread_mutex_lock(&tier->lock);
    kvstow__segment_unpin(tier, &tier->segments[read->loc.segment]);
    pthread_mutex_unlock(&tier->lock);
  }
  pthread_mutex_lock(&tier->read_lock);
  read->job_internal = NULL;
  pthread_mutex_unlock(&tier->read_lock);
  kvstow__read_batch *batch = job->batch;
  if (--batch->left == 0) free(batch); /* the I/O thread alone counts */
  read->done(read);
  return bytes;
}
