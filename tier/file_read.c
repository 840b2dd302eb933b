/* tier/file_read.c - reading ranges of a file into the caller's memory.
 *
 * Direct I/O moves whole pages between page-aligned places; a caller's range and memory are what they
 * are. So a read lands like this: the pages that lie wholly in the range go straight to the page-aligned
 * place nearest to where they belong, inside the caller's own memory, and are shifted by less than a page
 * afterwards if that is not the very place; only the ragged ends (at most three pages) come through
 * memory of ours. Nothing larger is ever allocated, and nothing is copied twice.
 *
 * A batch goes to the I/O thread, to be merged with its neighbours. A single blocking read is done on the
 * caller's own thread: handing it over would cost more than it could gain.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/files.h"
#include "tier/pump.h"
#include "tier/readahead.h"

/* Beyond this, merging saves nothing more, and takes from the device the requests it could work on at
 * the same time. */
#define MERGE_MAX_BYTES (512u << 10)

/* ---- landing -------------------------------------------------------------------------------- */

/* Where the pages of a range go: head pages, the middle, tail pages. */
typedef struct landing {
  uint64_t offset, length; /* of what is read */
  struct iovec iov[3];
  uint32_t iov_count;
  uint8_t *bounce; /* head pages, then tail pages; NULL: none */
  size_t head, middle, tail;
  uint8_t *at; /* where the middle lands */
} landing;

static void add_vector(landing *l, void *base, size_t length) {
  if (length > 0) l->iov[l->iov_count++] = (struct iovec){base, length};
}

/* The page-aligned place for the middle of the range; trims it if the memory ends too early. */
static uint8_t *place_middle(uint8_t *goal, size_t *middle, const uint8_t *from,
                             const uint8_t *end) {
  const size_t beyond = (uintptr_t)goal % KVSTOW_PAGE_BYTES;
  if (beyond == 0) return goal;
  uint8_t *at = goal - beyond;
  if (at < from) at += KVSTOW_PAGE_BYTES;
  if (at + *middle > end) *middle -= KVSTOW_PAGE_BYTES;
  return at;
}

static int landing_init(landing *l, const kvstow_file *file, uint64_t offset, uint8_t *to,
                        size_t bytes) {
  const uint64_t grain = kvstow__file_grain(file);
  const uint64_t end = offset + bytes, first = kvstow__round_up(offset, grain);
  *l = (landing){.offset = offset - offset % grain};
  l->length = kvstow__round_up(end, grain) - l->offset;
  if (end - end % grain > first) l->middle = (size_t)(end - end % grain - first);
  if (l->middle > 0 && grain > 1)
    l->at = place_middle(to + (first - offset), &l->middle, to, to + bytes);
  else
    l->at = to;
  if (l->middle > 0) l->head = (size_t)(first - l->offset);
  l->tail = (size_t)l->length - l->head - l->middle;
  if (l->head + l->tail > 0) {
    l->bounce = aligned_alloc(KVSTOW_PAGE_BYTES, l->head + l->tail);
    if (!l->bounce) return KVSTOW_ENOMEM;
  }
  add_vector(l, l->bounce, l->head);
  add_vector(l, l->at, l->middle);
  add_vector(l, l->bounce + l->head, l->tail);
  return 0;
}

/* Puts what has landed where it belongs: the middle first, before the ends are laid around it. */
static void landing_settle(const landing *l, uint64_t offset, uint8_t *to, size_t bytes) {
  if (!l->bounce || !to) return;
  const size_t lead = (size_t)(offset - l->offset); /* not wanted, at the front */
  if (l->head + l->middle == 0) {
    memcpy(to, l->bounce + lead, bytes);
    return;
  }
  uint8_t *goal = to + (l->head - lead); /* lead is 0 when there is no head */
  if (l->at != goal) memmove(goal, l->at, l->middle);
  if (l->head > 0) memcpy(to, l->bounce + lead, l->head - lead);
  const size_t before = (size_t)(goal - to) + l->middle;
  memcpy(to + before, l->bounce + l->head, bytes - before);
}

/* ---- what is known of every read ------------------------------------------------------------ */

static bool in_range(const kvstow_file *file, uint64_t offset, size_t bytes) {
  const uint64_t end = atomic_load_explicit(&file->readable, memory_order_acquire);
  return offset <= end && bytes <= end - offset;
}

static int read_refused(const kvstow_file *file, uint64_t offset, const void *to, size_t bytes) {
  if (!to && bytes > 0)
    return kvstow__fail(file->tier, KVSTOW_EINVAL, "%s: reading: to is NULL", file->path);
  if (in_range(file, offset, bytes)) return 0;
  return kvstow__fail(file->tier, KVSTOW_EINVAL,
                      "%s: reading %zu bytes at offset %" PRIu64 ": it can be read up to %" PRIu64,
                      file->path, bytes, offset, atomic_load(&file->readable));
}

static int read_failed(const kvstow_file *file, uint64_t offset, int error) {
  char cause[64];
  return kvstow__fail(
      file->tier, kvstow__code_of_errno(error), "%s: reading at offset %" PRIu64 ": %s", file->path,
      offset, error == ENODATA ? "the file ends early" : strerror_r(error, cause, sizeof cause));
}

void kvstow__file_aim(const kvstow_file *file, kvstow__op *op) {
  const uint64_t readable = atomic_load(&file->readable), end = op->offset + op->length;
  op->fd = file->fd;
  op->slack = end > readable ? (uint32_t)(end - readable) : 0;
}

static void count_reads(kvstow_tier *tier, uint64_t reads, uint64_t bytes) {
  kvstow__count(&tier->counters.file_reads, reads);
  kvstow__count(&tier->counters.file_bytes_read, bytes);
}

/* ---- a blocking read ------------------------------------------------------------------------ */

static int read_now(kvstow_file *file, uint64_t offset, uint8_t *to, size_t bytes) {
  kvstow_tier *tier = file->tier;
  landing l;
  int code = landing_init(&l, file, offset, to, bytes);
  if (code) return code;
  kvstow__op op = {.offset = l.offset, .length = l.length};
  kvstow__file_aim(file, &op);
  size_t got = 0;
  int error = tier->io.files->readv(tier->io.env, op.fd, l.iov, l.iov_count,
                                    (size_t)(op.length - op.slack), op.offset, &got);
  if (!error && got < op.length - op.slack) error = ENODATA;
  kvstow__count(&tier->counters.read_requests, 1);
  kvstow__count(&tier->counters.device_reads, 1);
  kvstow__count(&tier->counters.device_read_bytes, got);
  if (error) {
    kvstow__count(&tier->counters.io_errors, 1);
    code = read_failed(file, offset, error);
  } else {
    landing_settle(&l, offset, to, bytes);
  }
  free(l.bounce);
  return code;
}

int kvstow_file_read_at(kvstow_file *file, uint64_t offset, void *to, size_t bytes) {
  if (!file) return KVSTOW_EINVAL;
  const int wrong = read_refused(file, offset, to, bytes);
  if (wrong) return wrong;
  kvstow__ahead ahead = {.file = file, .offset = offset, .bytes = bytes};
  count_reads(file->tier, 1, bytes);
  kvstow__readahead_begin(file->tier, &ahead, 1);
  const size_t held = ahead.held;
  int code = 0; /* what is not held comes first: the device may bring the rest meanwhile */
  if (held < bytes) code = read_now(file, offset + held, (uint8_t *)to + held, bytes - held);
  kvstow__readahead_copy(&ahead, to, true);
  if (ahead.lost > 0 && !code)
    code = read_now(file, offset + ahead.copied, (uint8_t *)to + ahead.copied, ahead.lost);
  kvstow__readahead_end(&ahead);
  return code;
}

/* ---- a batch -------------------------------------------------------------------------------- */

typedef struct file_job {
  kvstow__read_job job; /* first: a pointer to it is one to the whole */
  kvstow_file_read *read;
  kvstow__ahead *ahead; /* the front of the range may be held */
  landing landing;      /* of a part of the range, from the device */
  uint64_t offset;      /* the part */
  size_t bytes;
} file_job;

typedef struct file_batch {
  kvstow__read_batch batch; /* first, likewise */
  kvstow__ahead *aheads;
  file_job jobs[];
} file_batch;

static uint8_t *place_of(const file_job *f) {
  return (uint8_t *)f->read->to + (f->offset - f->read->offset);
}

/* Makes the job read a part of its range from the device. */
static int want(file_job *f, uint64_t offset, size_t bytes) {
  kvstow_file *file = f->read->file;
  f->offset = offset;
  f->bytes = bytes;
  const int code = landing_init(&f->landing, file, offset, place_of(f), bytes);
  if (code) return code;
  f->job.extents_left = 1;
  f->job.extents[0] = (kvstow__extent){
      .file = file->number,
      .offset = f->landing.offset,
      .length = f->landing.length,
      .file_end = kvstow__round_up(atomic_load(&file->readable), kvstow__file_grain(file)),
      .merge_max = MERGE_MAX_BYTES,
      .iov_count = f->landing.iov_count,
      .owner = &f->job,
  };
  memcpy(f->job.extents[0].iov, f->landing.iov, sizeof f->landing.iov);
  return 0;
}

/* The device has brought its part. */
static size_t settle_part(file_job *f) {
  const size_t copied = f->landing.bounce ? f->bytes : 0;
  if (!f->job.error) landing_settle(&f->landing, f->offset, place_of(f), f->bytes);
  free(f->landing.bounce);
  f->landing.bounce = NULL;
  f->bytes = 0;
  return copied;
}

static void answer(kvstow_tier *tier, file_job *f) {
  kvstow_file_read *read = f->read;
  kvstow_file *file = read->file;
  kvstow__read_batch *batch = f->job.batch;
  read->result =
      f->job.error == KVSTOW_EIO ? read_failed(file, f->offset, f->job.cause) : f->job.error;
  kvstow__readahead_end(f->ahead);
  kvstow__lock(&tier->read_lock);
  read->job_internal = NULL;
  kvstow__unlock(&tier->read_lock);
  if (--batch->left == 0) free(batch);
  read->done(read);
  kvstow__lock(&file->lock);
  if (--file->reads == 0) pthread_cond_broadcast(&file->idle);
  kvstow__unlock(&file->lock);
}

/* Goes on with what is held, and with what no longer is. False: the job waits for something. */
static bool proceed(kvstow_tier *tier, file_job *f) {
  kvstow__ahead *ahead = f->ahead;
  while (!f->job.error) {
    kvstow__readahead_copy(ahead, f->read->to, false);
    if (ahead->lost > 0) {
      f->job.error = want(f, f->read->offset + ahead->copied, ahead->lost);
      ahead->lost = 0;
      if (f->job.error) return true;
      kvstow__pump_push_extent(tier, &f->job.extents[0]);
      return false;
    }
    if (ahead->copied == ahead->held) return true;
    if (kvstow__readahead_park(ahead, &f->job)) return false;
  }
  return true;
}

/* Runs whenever something the job waited for has come. */
static size_t finish(kvstow_tier *tier, kvstow__read_job *job) {
  file_job *f = (file_job *)job;
  size_t copied = f->bytes > 0 ? settle_part(f) : 0;
  const size_t before = f->ahead->copied;
  const bool done = proceed(tier, f);
  copied += f->ahead->copied - before;
  if (done) answer(tier, f);
  return copied;
}

static int prepare(file_job *f) {
  kvstow_file_read *read = f->read;
  f->job.finish = finish;
  f->job.file = read->file;
  f->job.priority = (uint8_t)read->priority;
  f->job.deadline_us = read->deadline_us;
  const size_t held = f->ahead->held;
  return held < read->bytes ? want(f, read->offset + held, read->bytes - held) : 0;
}

static void batch_free(file_batch *b, size_t count) {
  for (size_t i = 0; i < count; i++) {
    kvstow__readahead_end(b->jobs[i].ahead);
    free(b->jobs[i].landing.bounce);
  }
  free(b);
}

/* What is wrong with it, but for its range and memory; or NULL. */
static const char *fault_of(const kvstow_tier *tier, const kvstow_file_read *read) {
  if (!read) return "NULL";
  if (!read->done) return "done is NULL";
  if (!read->file || read->file->tier != tier) return "its file is NULL, or another tier's";
  const bool known = read->priority == KVSTOW_DEMAND || read->priority == KVSTOW_PREFETCH;
  return known ? NULL : "no such priority";
}

static int check_reads(kvstow_tier *tier, kvstow_file_read *const *reads, size_t count) {
  if (!reads && count > 0)
    return kvstow__fail(tier, KVSTOW_EINVAL, "file_read_batch: reads is NULL, count %zu", count);
  for (size_t i = 0; i < count; i++) {
    const kvstow_file_read *read = reads[i];
    const char *fault = fault_of(tier, read);
    if (fault)
      return kvstow__fail(tier, KVSTOW_EINVAL, "file_read_batch: read %zu of %zu: %s", i + 1, count,
                          fault);
    const int wrong = read_refused(read->file, read->offset, read->to, read->bytes);
    if (wrong) return wrong;
  }
  return 0;
}

/* What is in memory is copied here, on the caller's thread. */
static void take(kvstow_tier *tier, file_batch *b, size_t count) {
  uint64_t bytes = 0, requests = 0;
  for (size_t i = 0; i < count; i++) {
    file_job *f = &b->jobs[i];
    kvstow_file *file = f->read->file;
    f->job.batch = &b->batch;
    f->job.next = i + 1 < count ? &b->jobs[i + 1].job : NULL;
    f->read->result = 0;
    bytes += f->read->bytes;
    requests += f->job.extents_left;
    if (f->ahead->held > 0) kvstow__readahead_copy(f->ahead, f->read->to, false);
    kvstow__lock(&file->lock);
    file->reads++;
    kvstow__unlock(&file->lock);
  }
  b->batch.left = count;
  count_reads(tier, count, bytes);
  kvstow__count(&tier->counters.read_requests, requests);
  kvstow__lock(&tier->read_lock);
  for (size_t i = 0; i < count; i++) b->jobs[i].read->job_internal = &b->jobs[i].job;
  kvstow__unlock(&tier->read_lock);
  kvstow__pump_send_reads(tier, &b->jobs[0].job);
}

int kvstow_file_read_batch(kvstow_tier *tier, kvstow_file_read *const *reads, size_t count) {
  if (!tier) return KVSTOW_EINVAL;
  const int wrong = check_reads(tier, reads, count);
  if (wrong || count == 0) return wrong;
  file_batch *b = calloc(1, sizeof *b + count * (sizeof *b->jobs + sizeof *b->aheads));
  if (!b) return KVSTOW_ENOMEM;
  b->aheads = (kvstow__ahead *)(b->jobs + count);
  for (size_t i = 0; i < count; i++) {
    b->aheads[i] = (kvstow__ahead){
        .file = reads[i]->file, .offset = reads[i]->offset, .bytes = reads[i]->bytes};
    b->jobs[i].read = reads[i];
    b->jobs[i].ahead = &b->aheads[i];
  }
  kvstow__readahead_begin(tier, b->aheads, count);
  int code = 0;
  for (size_t i = 0; i < count && !code; i++) code = prepare(&b->jobs[i]);
  if (code)
    batch_free(b, count);
  else
    take(tier, b, count);
  return code;
}

void kvstow_file_cancel(kvstow_tier *tier, kvstow_file_read *read) {
  if (tier && read) kvstow__read_cancel(tier, &read->job_internal);
}
