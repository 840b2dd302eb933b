/* tier/read.c - record reads: from the caller's request to verified bytes.
 *
 * A read is one or two extents (the header page, and the planes unless they follow it directly). The
 * I/O thread plans a window of extents into device requests. What a request brings is checked as it
 * comes, while the device goes on with the others: the header (checksum, store, life, place, key,
 * shape), then every plane as soon as its last byte is there. Only when all are good does done run. A
 * merged request that fails is retried extent by extent, so that one bad sector costs one record and
 * not its neighbours.
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
typedef struct kvstow__read_request {
  kvstow__op op;
  kvstow_tier *tier;
  size_t pieces_count, pieces_left; /* left: not yet arrived, or not yet summed */
  kvstow__piece *pieces;            /* behind the vectors */
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

static void expect_planes(kvstow__read_job *job) {
  const kvstow_record_read *read = job->read;
  for (uint32_t i = 0; i < read->plane_count; i++)
    job->missing[i] = read->plane_bytes / KVSTOW_PAGE_BYTES;
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
  size_t planes = 0;
  for (size_t i = 0; i < count; i++) planes += reads[i]->plane_count;
  kvstow__read_batch *batch =
      calloc(1, sizeof *batch + count * sizeof(kvstow__read_job) + planes * sizeof(uint32_t));
  if (!batch) return KVSTOW_ENOMEM;
  kvstow__read_job *jobs = (kvstow__read_job *)(batch + 1);
  uint32_t *missing = (uint32_t *)(void *)(jobs + count);
  batch->left = count;
  uint64_t extents = 0, bytes = 0, stale = 0;
  for (size_t i = 0; i < count; i++) {
    kvstow__read_job *job = &jobs[i];
    job->finish = finish;
    job->read = reads[i];
    job->batch = batch;
    job->missing = missing;
    missing += reads[i]->plane_count;
    job->priority = (uint8_t)reads[i]->priority;
    job->deadline_us = reads[i]->deadline_us;
    job->next = i + 1 < count ? &jobs[i + 1] : NULL;
    reads[i]->result = 0;
    pthread_mutex_lock(&tier->lock);
    job->error = pin(tier, job);
    pthread_mutex_unlock(&tier->lock);
    stale += job->error != 0;
    if (!job->error) {
      make_extents(tier, job);
      expect_planes(job);
    }
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
void kvstow__read_cancel(kvstow_tier *tier, void *const *job_internal) {
  pthread_mutex_lock(&tier->read_lock);
  kvstow__read_job *job = *job_internal;
  if (job) atomic_store(&job->cancel, true);
  pthread_mutex_unlock(&tier->read_lock);
  if (job) kvstow__pump_sweep(tier);
}

void kvstow_tier_cancel(kvstow_tier *tier, kvstow_record_read *read) {
  if (tier && read) kvstow__read_cancel(tier, &read->job_internal);
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

static void release(request *r) {
  if (--r->pieces_left == 0) free(r);
}

static void drop_early(kvstow__read_job *job) {
  while (job->early) {
    kvstow__piece *piece = job->early;
    job->early = piece->next;
    release(piece->request);
  }
}

static void finish_if_done(kvstow_tier *tier, kvstow__read_job *job) {
  if (job->extents_left > 0 || job->sums_left > 0) return;
  drop_early(job); /* of a header that did not come */
  kvstow__pump_finish_read(tier, job);
}

/* The extent has come, or will not. */
static void settle_extent(kvstow_tier *tier, kvstow__extent *extent) {
  kvstow__read_job *job = extent->owner;
  if (extent->error && !job->error) {
    job->error = code_of(extent->error);
    job->cause = extent->error;
  }
  job->extents_left--;
  finish_if_done(tier, job);
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

/* Bytes of a record's extent that come before the planes. */
static uint64_t header_bytes(const kvstow__extent *extent) {
  const kvstow__read_job *job = extent->owner;
  return extent == &job->extents[0] ? KVSTOW_PAGE_BYTES : 0;
}

static void read_again(kvstow_tier *tier, kvstow__read_job *job) {
  for (uint32_t i = 0; i < 2; i++) {
    kvstow__extent *extent = &job->extents[i];
    if (!(job->again & 1u << i)) continue;
    extent->error = 0;
    if (i == 0) job->header_good = false;
    if (!job->file && extent->length > header_bytes(extent)) expect_planes(job);
    kvstow__pump_push_extent(tier, extent);
  }
  job->again = 0;
}

static void extent_came(kvstow_tier *tier, kvstow__extent *extent) {
  kvstow__read_job *job = extent->owner;
  if (!extent->error || extent->error == ECANCELED || extent->error == OVERDUE || extent->alone ||
      job->error) {
    settle_extent(tier, extent);
    return;
  }
  extent->alone = true;
  atomic_fetch_add_explicit(&tier->io_counters.retries, 1, memory_order_relaxed);
  job->again |= (uint8_t)(1u << (extent - job->extents));
  drop_early(job);
  if (job->sums_left == 0) read_again(tier, job); /* else the device would write what is summed */
}

static void sum(kvstow_tier *tier, kvstow__piece *piece) {
  kvstow__read_job *job = piece->extent->owner;
  job->sums_left++;
  kvstow__pump_sum(tier, piece);
}

bool kvstow__read_sum(kvstow_tier *tier, kvstow__piece *piece, uint64_t bytes, uint64_t *done) {
  kvstow__read_job *job = piece->extent->owner;
  if (!job->error) job->error = kvstow__verify_planes(tier, piece, bytes, done);
  if (!job->error && piece->summed < piece->planes) return false;
  release(piece->request);
  if (--job->sums_left > 0) return true;
  if (job->again) read_again(tier, job);
  finish_if_done(tier, job);
  return true;
}

static void header_came(kvstow_tier *tier, kvstow__read_job *job) {
  if (job->error) return;
  job->error = kvstow__verify_header(tier, job);
  job->header_good = !job->error;
  if (job->error) drop_early(job);
  while (job->early) {
    kvstow__piece *piece = job->early;
    job->early = piece->next;
    sum(tier, piece);
  }
}

/* Counts a piece's pages; notes the planes that are whole now. They are neighbours: those between its
 * first and its last have come with it. */
static void count_pages(kvstow__piece *piece) {
  const kvstow__extent *extent = piece->extent;
  const kvstow__read_job *job = extent->owner;
  const uint64_t before = header_bytes(extent), stride = job->read->plane_bytes;
  const uint64_t end = piece->offset + piece->length - before;
  uint64_t at = piece->offset > before ? piece->offset - before : 0;
  piece->planes = 0;
  while (piece->offset + piece->length > before && at < end) {
    const uint32_t plane = (uint32_t)(at / stride);
    const uint64_t next = (plane + 1) * stride < end ? (plane + 1) * stride : end;
    job->missing[plane] -= (uint32_t)((next - at) / KVSTOW_PAGE_BYTES);
    if (job->missing[plane] == 0 && piece->planes++ == 0) piece->plane = plane;
    at = next;
  }
}

/* Whether sums are to follow, which then hold on to the request. */
static bool piece_came(kvstow_tier *tier, kvstow__piece *piece) {
  kvstow__extent *extent = piece->extent;
  kvstow__read_job *job = extent->owner;
  if (job->file) return false;
  count_pages(piece);
  if (piece->offset < header_bytes(extent)) header_came(tier, job);
  if (piece->planes == 0 || job->error) return false;
  if (job->header_good) {
    sum(tier, piece);
  } else {
    piece->next = job->early;
    job->early = piece;
  }
  return true;
}

static void request_completed(kvstow__op *op) {
  request *r = op->owner;
  kvstow_tier *tier = r->tier;
  uint32_t done = 0;
  r->pieces_left++; /* ours */
  for (size_t i = 0; i < r->pieces_count; i++) {
    kvstow__piece *piece = &r->pieces[i];
    kvstow__extent *extent = piece->extent;
    const int why = op->error == ECANCELED ? unwanted(extent->owner) : 0;
    if (op->error && !extent->error) extent->error = why ? why : op->error;
    const bool held = !op->error && piece_came(tier, piece);
    done += !held;
    if (--extent->parts == 0) extent_came(tier, extent);
  }
  r->pieces_left -= done;
  release(r);
}

static kvstow__read_job *job_of(const kvstow__piece *piece) {
  return piece->extent->owner;
}

bool kvstow__read_op_unwanted(const kvstow__op *op) {
  if (op->complete != request_completed) return false;
  const request *r = op->owner;
  for (size_t i = 0; i < r->pieces_count; i++)
    if (!unwanted(job_of(&r->pieces[i]))) return false;
  return true;
}

bool kvstow__read_op_urgent(const kvstow__op *op) {
  if (op->complete != request_completed) return false;
  const request *r = op->owner;
  for (size_t i = 0; i < r->pieces_count; i++)
    if (atomic_load(&job_of(&r->pieces[i])->urgent)) return true;
  return false;
}

/* ---- planning ------------------------------------------------------------------------------- */

static kvstow__piece make_piece(request *r, const kvstow__request *planned,
                                kvstow__extent *extent) {
  const uint64_t end = extent->offset + extent->length;
  const uint64_t from =
      extent->offset > planned->wanted_offset ? extent->offset : planned->wanted_offset;
  const uint64_t to = end < planned->wanted_end ? end : planned->wanted_end;
  extent->parts++;
  return (kvstow__piece){
      .extent = extent, .request = r, .offset = from - extent->offset, .length = to - from};
}

static void emit(void *arg, const kvstow__request *planned) {
  kvstow_tier *tier = arg;
  const size_t vectors = planned->iov_count * sizeof(struct iovec);
  request *r = malloc(sizeof *r + vectors + planned->extents_count * sizeof(kvstow__piece));
  if (!r) {
    for (size_t i = 0; i < planned->extents_count; i++) planned->extents[i]->error = ENOMEM;
    return; /* settled when the window has been planned */
  }
  memset(&r->op, 0, sizeof r->op);
  r->tier = tier;
  memcpy(r->iov, planned->iov, vectors);
  r->pieces = (kvstow__piece *)(void *)(r->iov + planned->iov_count);
  r->pieces_count = r->pieces_left = planned->extents_count;
  for (size_t i = 0; i < r->pieces_count; i++)
    r->pieces[i] = make_piece(r, planned, planned->extents[i]);
  const kvstow__read_job *first = r->pieces[0].extent->owner;
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
  for (size_t i = 0; i < count; i++)
    if (--window[i]->parts == 0) extent_came(tier, window[i]);
}

static size_t finish(kvstow_tier *tier, kvstow__read_job *job) {
  kvstow_record_read *read = job->read;
  if (job->error == KVSTOW_EIO) kvstow__verify_unread(tier, job);
  read->result = job->error;
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
  return 0; /* the sums came before */
}
