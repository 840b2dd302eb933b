/* tier/job.c - ordered work on one segment's file: writing records, beginning a life, sealing.
 *
 * Why a flushed record is always found again:
 *  1. Jobs of a segment sit in its queue in the order they were accepted (lock is held from placing a
 *     record until its job is in the inbox).
 *  2. END (the footer that ends the life of a file to be reused, then a sync) runs alone, at the head, and
 *     so does BEGIN. So no byte of the new life reaches a disk that still shows the old one. The footer of END is
 *     one of a life between the two, which has no records: the new one's first record tells of itself.
 *  3. WRITE jobs run in parallel but finish in order: a record is committed only when all bytes of
 *     the segment before it are written. So a walk from the front meets no hole before it.
 *  4. A WRITE that fails spoils the segment from its first byte on: later jobs of it fail too, earlier
 *     ones stay. The walk stops at the same place.
 *  5. SEAL starts when everything before it has finished, and syncs before it writes the footer: a
 *     footer never names a record that power loss could still take.
 *
 * The queues belong to the I/O thread; states and counts change under lock.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/pump.h"

static void advance(kvstow_tier *tier, uint32_t segment);

/* ---- tickets -------------------------------------------------------------------------------- */

void kvstow__jobs_issue(kvstow_tier *tier, kvstow__job *list) {
  if (!list) return;
  for (kvstow__job *job = list; job; job = job->next) {
    job->tier = tier;
    job->ticket = tier->next_ticket++;
    job->older = tier->jobs_newest;
    job->newer = NULL;
    if (tier->jobs_newest)
      tier->jobs_newest->newer = job;
    else
      tier->jobs_oldest = job;
    tier->jobs_newest = job;
    tier->segments[job->segment].pins++;
  }
  kvstow__pump_send_jobs(tier, list);
}

void kvstow__jobs_wait(kvstow_tier *tier) {
  kvstow__lock(&tier->lock);
  const uint64_t until = tier->next_ticket;
  while (tier->jobs_oldest && tier->jobs_oldest->ticket < until)
    kvstow__wait(&tier->jobs_finished, &tier->lock);
  kvstow__unlock(&tier->lock);
}

static void ticket_return(kvstow_tier *tier, kvstow__job *job) { /* lock held */
  if (job->older)
    job->older->newer = job->newer;
  else
    tier->jobs_oldest = job->newer;
  if (job->newer)
    job->newer->older = job->older;
  else
    tier->jobs_newest = job->older;
  pthread_cond_broadcast(&tier->jobs_finished);
}

/* ---- making --------------------------------------------------------------------------------- */

void kvstow__job_free(kvstow__job *job) {
  if (!job) return;
  if (job->footer) kvstow__rooms_give(job->tier->rooms, job->footer);
  free(job);
}

kvstow__job *kvstow__footer_job(kvstow_tier *tier, kvstow__job_kind kind, uint32_t segment,
                                kvstow__life life, uint64_t opened_s, uint64_t end_offset,
                                const kvstow__entry *entries, uint32_t records, bool clean) {
  kvstow__job *job = calloc(1, sizeof *job + 2 * sizeof(kvstow__op));
  if (!job) return NULL;
  const uint64_t bytes = kvstow__footer_bytes(records);
  job->tier = tier;
  job->footer = kvstow__rooms_take(tier->rooms, bytes);
  if (!job->footer) {
    free(job);
    return NULL;
  }
  const bool seals = kind == KVSTOW__JOB_SEAL;
  kvstow__trailer_state state = seals ? KVSTOW__TRAILER_SEALED : KVSTOW__TRAILER_OPEN;
  if (clean) state = KVSTOW__TRAILER_CLEAN;
  if (kvstow__footer_fill(tier, job->footer, state, life, opened_s, end_offset, entries, records) !=
      0) {
    kvstow__job_free(job);
    return NULL;
  }
  job->footer_sum = kvstow__footer_sum(job->footer, records);
  job->kind = kind;
  job->segment = segment;
  job->life = life;
  job->clean = clean;
  job->ops = (kvstow__op *)(job + 1);
  job->ops_count = 2;
  job->footer_iov = (struct iovec){job->footer, bytes};
  kvstow__op *write = &job->ops[seals ? 1 : 0];
  kvstow__op *sync = &job->ops[seals ? 0 : 1];
  sync->kind = KVSTOW__SYNC;
  sync->file = segment;
  write->kind = KVSTOW__WRITE;
  write->file = segment;
  write->offset = tier->segment_bytes - bytes;
  write->length = bytes;
  write->iov = &job->footer_iov;
  write->iov_count = 1;
  return job;
}

kvstow__job *kvstow__end_job(kvstow_tier *tier, uint32_t segment, kvstow__life life) {
  return kvstow__footer_job(tier, KVSTOW__JOB_END, segment, life, 0, 0, NULL, 0, false);
}

/* ---- running, on the I/O thread ------------------------------------------------------------- */

#define DAY_S UINT64_C(86400)

uint64_t kvstow__written_today(kvstow_tier *tier, uint64_t more) {
  const uint64_t day = kvstow__now_s(tier) / DAY_S, now_us = kvstow__now_us();
  if (day > tier->today || now_us - tier->today_since_us >= DAY_S * 1000000) {
    tier->today = day;
    tier->today_since_us = now_us;
    tier->today_bytes = 0;
  }
  return tier->today_bytes += more;
}

static void count_write(kvstow_tier *tier, const kvstow__op *op) {
  if (op->kind != KVSTOW__WRITE || op->error) return;
  kvstow__count(&tier->counters.device_writes, 1);
  kvstow__count(&tier->counters.bytes_written, op->length);
  kvstow__lock(&tier->lock);
  (void)kvstow__written_today(tier, op->length);
  kvstow__unlock(&tier->lock);
}

static void op_completed(kvstow__op *op) {
  kvstow__job *job = op->owner;
  kvstow_tier *tier = job->tier;
  count_write(tier, op);
  if (op->error && !job->error) job->error = op->error;
  job->ops_left--;
  if (job->kind != KVSTOW__JOB_WRITE && job->ops_left > 0) {
    if (!job->error) {
      kvstow__pump_push(tier, &job->ops[job->ops_next++], KVSTOW__LANE_WRITE);
      return;
    }
    job->ops_left = 0; /* the rest of a sequence that failed is not tried */
  }
  if (job->ops_left == 0) advance(tier, job->segment);
}

static void start(kvstow_tier *tier, kvstow__job *job) {
  job->started = true;
  job->ops_left = job->ops_count;
  for (uint32_t i = 0; i < job->ops_count; i++) {
    job->ops[i].owner = job;
    job->ops[i].complete = op_completed;
  }
  const uint32_t now = job->kind == KVSTOW__JOB_WRITE ? job->ops_count : 1;
  job->ops_next = now;
  for (uint32_t i = 0; i < now; i++) kvstow__pump_push(tier, &job->ops[i], KVSTOW__LANE_WRITE);
}

/* Not reclaimed since the job was accepted (lock held). */
static bool in_same_life(const kvstow__segment *segment, const kvstow__job *job) {
  return kvstow__segment_alive(segment, (uint32_t)job->life.sequence);
}

static void finish_write(kvstow_tier *tier, kvstow__job *job) {
  kvstow__segment *segment = &tier->segments[job->segment];
  kvstow__lock(&tier->lock);
  kvstow__segment_soil(tier, segment);
  if (!job->error) tier->heads[kvstow__dir_of(tier, job->segment)].bad_streak = 0;
  if (!job->error && in_same_life(segment, job)) {
    segment->committed = job->records_after;
    segment->committed_bytes = job->end_after;
    /* A barrier failed meanwhile: spoiling cut it off. */
    if (segment->state == KVSTOW_SEGMENT_BAD) {
      segment->records = segment->committed;
      segment->used_bytes = segment->committed_bytes;
    }
  }
  kvstow__unlock(&tier->lock);
  const int code = kvstow__code_of_errno(job->error);
  kvstow__batch *batch = job->batch;
  for (size_t i = 0; i < job->count; i++) batch->writes[job->first + i].result = code;
  if (!code) kvstow__count(&tier->counters.records_written, job->count);
  if (code && !batch->result) batch->result = code;
  if (--batch->jobs_left == 0) kvstow__pump_finish_batch(tier, batch);
}

/* A footer is on disk: what memory holds of the segment's table is a copy now. */
static void finish_seal(kvstow_tier *tier, kvstow__job *job) {
  kvstow__segment *segment = &tier->segments[job->segment];
  kvstow__lock(&tier->lock);
  kvstow__segment_soil(tier, segment);
  if (!job->clean && segment->state == KVSTOW_SEGMENT_SEALED && in_same_life(segment, job)) {
    segment->footer_done = true;
    segment->footer_sum = job->footer_sum;
    free(segment->entries);
    segment->entries = NULL;
    segment->entries_max = 0;
  }
  kvstow__unlock(&tier->lock);
}

static void report(kvstow_tier *tier, const kvstow__job *job) {
  char path[KVSTOW__PATH_TEXT_BYTES], cause[64];
  static const char *const what[] = {"writing records", "ending an old segment",
                                     "beginning a segment", "sealing"};
  const uint64_t offset = job->ops_count > 0 ? job->ops[0].offset : 0;
  kvstow__fail_write(tier, 0, "%s: %s at offset %" PRIu64 ": %s; segment given up from there",
                     kvstow__segment_path(tier, job->segment, path), what[job->kind], offset,
                     strerror_r(job->error, cause, sizeof cause));
}

/* A slot that nobody has begun to use: who does will try again. */
static bool failed_ahead(kvstow_tier *tier, const kvstow__job *job) {
  kvstow__segment *segment = &tier->segments[job->segment];
  kvstow__lock(&tier->lock);
  const bool ahead = job->kind == KVSTOW__JOB_END && (segment->state == KVSTOW_SEGMENT_FREE ||
                                                      segment->state == KVSTOW_SEGMENT_RECLAIMED);
  if (ahead) segment->ended = false;
  kvstow__unlock(&tier->lock);
  return ahead;
}

static void fail(kvstow_tier *tier, kvstow__job *job) {
  if (!job->inherited) report(tier, job);
  kvstow__lock(&tier->lock);
  if (!tier->write_error) tier->write_error = job->error;
  if (job->kind == KVSTOW__JOB_SEAL && job->ops[0].error)
    kvstow__segment_doubt(tier, job->segment);
  else
    kvstow__segment_spoil(tier, job->segment);
  kvstow__unlock(&tier->lock);
}

static void finish(kvstow_tier *tier, kvstow__job *job) {
  kvstow__segment *segment = &tier->segments[job->segment];
  if (job->error && !failed_ahead(tier, job)) fail(tier, job);
  if (job->error && job->next && !job->next->error) { /* 4.: and so on to the end of the queue */
    job->next->error = job->error;
    job->next->inherited = true;
  }
  if (job->kind == KVSTOW__JOB_WRITE) finish_write(tier, job);
  if (job->kind == KVSTOW__JOB_SEAL && !job->error) finish_seal(tier, job);
  kvstow__lock(&tier->lock);
  ticket_return(tier, job);
  kvstow__segment_unpin(tier, segment);
  kvstow__unlock(&tier->lock);
  kvstow__job_free(job);
}

static bool spoiled(kvstow_tier *tier, uint32_t segment) {
  kvstow__lock(&tier->lock);
  const bool bad = tier->segments[segment].state == KVSTOW_SEGMENT_BAD;
  kvstow__unlock(&tier->lock);
  return bad;
}

/* Finishes and starts what may be. */
static void advance(kvstow_tier *tier, uint32_t id) {
  kvstow__segment *segment = &tier->segments[id];
  while (segment->jobs) {
    kvstow__job *head = segment->jobs;
    if (!head->started && !head->error && !spoiled(tier, id)) start(tier, head);
    if (!head->started && !head->error) {
      head->error = EIO; /* the segment is spoiled */
      head->inherited = true;
    }
    if (head->started && head->ops_left > 0) break;
    segment->jobs = head->next;
    if (!segment->jobs) segment->jobs_tail = &segment->jobs;
    finish(tier, head);
  }
  for (kvstow__job *job = segment->jobs; job && job->kind == KVSTOW__JOB_WRITE; job = job->next)
    if (!job->started && !job->error) start(tier, job);
}

void kvstow__job_enter(kvstow_tier *tier, kvstow__job *job) {
  kvstow__segment *segment = &tier->segments[job->segment];
  job->next = NULL;
  if (!segment->jobs) segment->jobs_tail = &segment->jobs;
  *segment->jobs_tail = job;
  segment->jobs_tail = &job->next;
  advance(tier, job->segment);
}
