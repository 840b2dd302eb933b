/* tier/read.c - record reads: from the caller's request to verified bytes.
 *
 * A read is one or two extents (the header page, and the planes unless they follow it directly), which
 * request.c turns into device requests. What a request brings is checked as it comes, while the device goes
 * on with the others: the header (checksum, store, life, place, key, shape), then every plane as soon as its
 * last byte is there. Only when all are good does done run.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "tier/pump.h"
#include "tier/request.h"

static size_t finish(kvstow_tier *tier, kvstow__read_job *job);

/* ---- submission, any thread ----------------------------------------------------------------- */

static bool aligned(const void *pointer) {
  return (uintptr_t)pointer % KVSTOW_PAGE_BYTES == 0;
}

/* What is wrong with it, or NULL. */
static const char *fault_of(const kvstow_tier *tier, const kvstow_record_read *read) {
  if (!read) return "NULL";
  if (!read->done) return "done is NULL";
  if (!read->header || !aligned(read->header)) return "header is NULL or not at a multiple of 4096";
  if (read->priority != KVSTOW_DEMAND && read->priority != KVSTOW_PREFETCH)
    return "no such priority";
  if (read->plane_count == 0) return NULL;
  if (!read->payload || !aligned(read->payload))
    return "payload is NULL or not at a multiple of 4096";
  if (read->plane_bytes == 0 || read->plane_bytes % KVSTOW_PAGE_BYTES != 0)
    return "plane_bytes is not a multiple of 4096, or 0";
  const uint64_t last = (uint64_t)read->plane_first + read->plane_count;
  if (last > KVSTOW__PLANES_MAX || last * read->plane_bytes >= tier->segment_bytes)
    return "its planes are more than a record has";
  return NULL;
}

static int check_reads(kvstow_tier *tier, kvstow_record_read *const *reads, size_t count) {
  if (!reads && count > 0)
    return kvstow__fail(tier, KVSTOW_EINVAL, "read_batch: reads is NULL, count %zu", count);
  for (size_t i = 0; i < count; i++) {
    const char *fault = fault_of(tier, reads[i]);
    if (fault)
      return kvstow__fail(tier, KVSTOW_EINVAL, "read_batch: read %zu of %zu: %s", i + 1, count,
                          fault);
  }
  return 0;
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
  if (!tier) return KVSTOW_EINVAL;
  const int wrong = check_reads(tier, reads, count);
  if (wrong || count == 0) return wrong;
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
    kvstow__lock(&tier->lock);
    job->error = pin(tier, job);
    kvstow__unlock(&tier->lock);
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
  kvstow__lock(&tier->read_lock);
  for (size_t i = 0; i < count; i++) reads[i]->job_internal = &jobs[i];
  kvstow__unlock(&tier->read_lock);
  kvstow__pump_send_reads(tier, jobs);
  return 0;
}

/* job_internal is set before a read is sent and cleared before its done runs, both under read_lock:
 * a job seen here stays until the lock is let go. */
void kvstow__read_cancel(kvstow_tier *tier, void *const *job_internal) {
  kvstow__lock(&tier->read_lock);
  kvstow__read_job *job = *job_internal;
  if (job) atomic_store(&job->cancel, true);
  kvstow__unlock(&tier->read_lock);
  if (job) kvstow__pump_sweep(tier);
}

void kvstow_tier_cancel(kvstow_tier *tier, kvstow_record_read *read) {
  if (tier && read) kvstow__read_cancel(tier, &read->job_internal);
}

void kvstow_tier_urge(kvstow_tier *tier, kvstow_record_read *read) {
  if (!tier || !read) return;
  kvstow__lock(&tier->read_lock);
  kvstow__read_job *job = read->job_internal;
  if (job) atomic_store(&job->urgent, true);
  kvstow__unlock(&tier->read_lock);
  if (job) kvstow__pump_sweep(tier);
}

/* ---- what has come, on the I/O thread ------------------------------------------------------- */

/* Bytes of a record's extent that come before the planes. */
static uint64_t header_bytes(const kvstow__extent *extent) {
  const kvstow__read_job *job = extent->owner;
  return extent == &job->extents[0] ? KVSTOW_PAGE_BYTES : 0;
}

/* Lets go of what came before the header: of one extent, or of all (NULL). */
static void drop_early(kvstow__read_job *job, const kvstow__extent *of) {
  for (kvstow__piece **at = &job->early; *at;) {
    kvstow__piece *piece = *at;
    if (of && piece->extent != of) {
      at = &piece->next;
      continue;
    }
    *at = piece->next;
    kvstow__request_release(piece->request);
  }
}

void kvstow__record_failed(kvstow__read_job *job) {
  drop_early(job, NULL);
}

void kvstow__record_unread(kvstow__extent *extent) {
  kvstow__read_job *job = extent->owner;
  drop_early(job, extent);
  if (extent == &job->extents[0]) job->header_good = false;
  if (extent->length > header_bytes(extent)) expect_planes(job);
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
  kvstow__request_release(piece->request);
  if (--job->sums_left > 0) return true;
  kvstow__read_settle(tier, job);
  return true;
}

static void header_came(kvstow_tier *tier, kvstow__read_job *job) {
  if (job->error) return;
  job->error = kvstow__verify_header(tier, job);
  job->header_good = !job->error;
  if (job->error) drop_early(job, NULL);
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

bool kvstow__record_came(kvstow_tier *tier, kvstow__piece *piece) {
  kvstow__extent *extent = piece->extent;
  kvstow__read_job *job = extent->owner;
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

static size_t finish(kvstow_tier *tier, kvstow__read_job *job) {
  kvstow_record_read *read = job->read;
  if (job->error == KVSTOW_EIO) kvstow__verify_unread(tier, job);
  read->result = job->error;
  if (job->pinned) {
    kvstow__lock(&tier->lock);
    kvstow__segment_unpin(tier, &tier->segments[read->loc.segment]);
    kvstow__unlock(&tier->lock);
  }
  kvstow__lock(&tier->read_lock);
  read->job_internal = NULL;
  kvstow__unlock(&tier->read_lock);
  kvstow__read_batch *batch = job->batch;
  if (--batch->left == 0) free(batch); /* the I/O thread alone counts */
  read->done(read);
  return 0; /* the sums came before */
}
