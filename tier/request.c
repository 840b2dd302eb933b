/* tier/request.c - see request.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/request.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tier/files.h"
#include "tier/pump.h"

#define OVERDUE (-1) /* no errno: a device may report an ETIMEDOUT of its own */

struct kvstow__read_request {
  kvstow__op op;
  kvstow_tier *tier;
  size_t pieces_count, pieces_left; /* left: not yet arrived, or not yet summed */
  kvstow__piece *pieces;            /* behind the vectors */
  struct iovec iov[];
};

typedef kvstow__read_request request;

/* ---- what is wanted ------------------------------------------------------------------------- */

/* Why a read that was not sent yet need not be: ECANCELED, OVERDUE; or 0. */
static int unwanted(const kvstow__read_job *job) {
  if (atomic_load(&job->cancel)) return ECANCELED;
  return job->deadline_us && kvstow__now_us() >= job->deadline_us ? OVERDUE : 0;
}

static int code_of(int error) {
  if (error == ENODATA) return KVSTOW_EIO; /* the file ends before the record does */
  if (error == ECANCELED) return KVSTOW_ECANCELED;
  if (error == OVERDUE) return KVSTOW_ETIMEDOUT;
  return error == ENOMEM ? KVSTOW_ENOMEM : KVSTOW_EIO;
}

int kvstow__read_unwanted(const kvstow__read_job *job) {
  const int why = unwanted(job);
  return why ? code_of(why) : 0;
}

/* ---- extents that come ---------------------------------------------------------------------- */

static void finish_if_done(kvstow_tier *tier, kvstow__read_job *job) {
  if (job->extents_left > 0 || job->sums_left > 0) return;
  if (!job->file) kvstow__record_failed(job); /* waiting for a header that did not come */
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

bool kvstow__read_skip(kvstow_tier *tier, kvstow__extent *extent) {
  const int why = unwanted(extent->owner);
  if (!why) return false;
  extent->error = why;
  settle_extent(tier, extent);
  return true;
}

void kvstow__read_settle(kvstow_tier *tier, kvstow__read_job *job) {
  for (uint32_t i = 0; i < 2; i++) {
    kvstow__extent *extent = &job->extents[i];
    if (!(job->again & 1u << i)) continue;
    extent->error = 0;
    if (!job->file) kvstow__record_unread(extent);
    kvstow__pump_push_extent(tier, extent);
  }
  job->again = 0;
  finish_if_done(tier, job);
}

static void extent_came(kvstow_tier *tier, kvstow__extent *extent) {
  kvstow__read_job *job = extent->owner;
  const bool recalled = extent->error == KVSTOW__RECALLED;
  if (!extent->error || extent->error == ECANCELED || extent->error == OVERDUE || job->error ||
      (extent->alone && !recalled)) {
    settle_extent(tier, extent);
    return;
  }
  if (!recalled) {
    extent->alone = true;
    atomic_fetch_add_explicit(&tier->io_counters.retries, 1, memory_order_relaxed);
  }
  job->again |= (uint8_t)(1u << (extent - job->extents));
  /* not while it is being summed: the device would write there */
  if (job->sums_left == 0) kvstow__read_settle(tier, job);
}

/* ---- requests ------------------------------------------------------------------------------- */

void kvstow__request_release(request *r) {
  if (--r->pieces_left == 0) free(r);
}

static kvstow__read_job *job_of(const kvstow__piece *piece) {
  return piece->extent->owner;
}

static void count_request(kvstow_tier *tier, const request *r) {
  kvstow__count(&tier->counters.device_reads, 1);
  kvstow__count(&tier->counters.device_read_bytes, r->op.length);
  kvstow__count(&tier->counters.merges, r->pieces_count - 1);
}

static void request_completed(kvstow__op *op) {
  request *r = op->owner;
  kvstow_tier *tier = r->tier;
  const bool recalled = op->error == KVSTOW__RECALLED;
  uint32_t done = 0;
  r->pieces_left++; /* ours */
  if (!recalled) count_request(tier, r);
  for (size_t i = 0; i < r->pieces_count; i++) {
    kvstow__piece *piece = &r->pieces[i];
    kvstow__extent *extent = piece->extent;
    const int why = recalled ? unwanted(extent->owner) : 0;
    if (op->error && (!extent->error || why)) extent->error = why ? why : op->error;
    const bool held = !op->error && !job_of(piece)->file && kvstow__record_came(tier, piece);
    done += !held;
    if (--extent->parts == 0) extent_came(tier, extent);
  }
  r->pieces_left -= done;
  kvstow__request_release(r);
}

bool kvstow__read_op_unwanted(const kvstow__op *op, bool all) {
  if (op->complete != request_completed) return false;
  const request *r = op->owner;
  for (size_t i = 0; i < r->pieces_count; i++)
    if ((unwanted(job_of(&r->pieces[i])) != 0) != all) return !all;
  return all;
}

bool kvstow__read_op_urgent(const kvstow__op *op) {
  if (op->complete != request_completed) return false;
  const request *r = op->owner;
  for (size_t i = 0; i < r->pieces_count; i++)
    if (atomic_load(&job_of(&r->pieces[i])->urgent)) return true;
  return false;
}

uint64_t kvstow__read_op_deadline_us(const kvstow__op *op) {
  uint64_t earliest = UINT64_MAX;
  if (op->complete != request_completed) return earliest;
  const request *r = op->owner;
  for (size_t i = 0; i < r->pieces_count; i++) {
    const uint64_t deadline = job_of(&r->pieces[i])->deadline_us;
    if (deadline && deadline < earliest) earliest = deadline;
  }
  return earliest;
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
