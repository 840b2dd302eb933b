/* tier/pump.c - see pump.h.
 *
 * One turn of the loop: take the inbox, fill the device, reap, run what completed (state only),
 * fill again, and only then sum and call back, a megabyte at a time: the device does not wait for a
 * checksum. The thread sleeps only in the engine's reap, no longer than the next deadline of a read that
 * was not sent, and only after it has seen, under inbox_lock, that the inbox is empty and has left `asleep`
 * there: who fills the inbox afterwards sees the flag and wakes it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/pump.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tier/descriptors.h"
#include "tier/readahead.h"
#include "tier/request.h"

#define WINDOW_EXTENTS_MAX 256u
#define FINISH_BYTES_MAX (1u << 20) /* summed or copied before looking at the device again */
/* Of reads in flight: with more, all come back at once, when nothing is left to overlap with. Of records, which
 * are summed, half of what is wanted: the device reads one half while the other is summed. But no less than
 * keeps a device busy. */
#define READ_BYTES_MAX (24u << 20)
#define READ_BYTES_MIN (8u << 20)
/* Where more is wanted than READ_BYTES_ALONE, its beginning goes alone: a device that reports together what it was
 * given together would tell of it with all the rest. */
#define READ_BYTES_FIRST (5u << 20)
#define READ_BYTES_ALONE (12u << 20)
/* Of writes, three quarters of what there is: a device that reports together what it was given together has
 * nothing left then, and the rest is there for it before whoever brings more has woken. Beyond WRITE_BYTES_DEEP it
 * comes to that so rarely that nothing is held back. */
#define WRITE_BYTES_MIN (4u << 20)
#define WRITE_BYTES_DEEP (32u << 20)
#define SCRATCH_BYTES (256u << 10)

typedef struct op_list {
  kvstow__op *first, **tail;
} op_list;

typedef struct extent_list {
  kvstow__extent *first, **tail;
} extent_list;

/* Bytes of reads, or of writes. */
typedef struct flow {
  uint64_t waiting; /* pending extents, and ops in lanes */
  uint64_t moving;  /* in flight */
} flow;

struct kvstow__pump {
  kvstow__engine *engine;
  op_list lanes[KVSTOW__LANES];
  uint32_t in_flight[KVSTOW__LANES], in_flight_all;
  flow reads_flow, writes_flow;
  bool reads_answered;    /* one has completed since the device had none, and none waited */
  uint64_t deadline_us;   /* none of what waits has an earlier one */
  op_list early;          /* completed without the engine */
  extent_list pending[2]; /* by kvstow_priority: not yet planned */
  kvstow__piece *sums, **sums_tail; /* arrived, to be summed */
  kvstow__read_job *reads, **reads_tail;
  kvstow__batch *batches, **batches_tail;
  kvstow__descriptors files;
  kvstow__extent *window[WINDOW_EXTENTS_MAX];
  void *scratch;
  kvstow_engine wanted;
  /* handshake of start, under inbox_lock */
  bool started;
  int start_error; /* errno */
  pthread_cond_t start_cond;
};

static void op_list_init(op_list *list) {
  list->first = NULL;
  list->tail = &list->first;
}

static void op_list_push(op_list *list, kvstow__op *op) {
  op->next = NULL;
  *list->tail = op;
  list->tail = &op->next;
}

static kvstow__op *op_list_pop(op_list *list) {
  kvstow__op *op = list->first;
  list->first = op->next;
  if (!list->first) list->tail = &list->first;
  return op;
}

static void extent_list_push(extent_list *list, kvstow__extent *extent) {
  extent->next = NULL;
  *list->tail = extent;
  list->tail = &extent->next;
}

static kvstow__extent *extent_list_pop(extent_list *list) {
  kvstow__extent *extent = list->first;
  list->first = extent->next;
  if (!list->first) list->tail = &list->first;
  return extent;
}

/* ---- filling the device --------------------------------------------------------------------- */

static flow *flow_of(kvstow__pump *p, const kvstow__op *op) {
  return op->kind == KVSTOW__READ ? &p->reads_flow : &p->writes_flow;
}

static void plan(kvstow_tier *tier, kvstow_priority priority, kvstow__lane lane) {
  kvstow__pump *p = tier->pump;
  extent_list *pending = &p->pending[priority];
  while (!p->lanes[lane].first && pending->first) {
    size_t count = 0;
    while (pending->first && count < WINDOW_EXTENTS_MAX) {
      kvstow__extent *extent = extent_list_pop(pending);
      p->reads_flow.waiting -= extent->length;
      if (!kvstow__read_skip(tier, extent)) p->window[count++] = extent;
    }
    if (count > 0) kvstow__read_plan(tier, p->window, count);
  }
}

static uint32_t share(uint32_t depth, uint32_t quarters) {
  return depth * quarters / 4 > 0 ? depth * quarters / 4 : 1;
}

static bool takes_read(const kvstow__pump *p, kvstow__lane lane) {
  const kvstow__op *op = p->lanes[lane].first;
  const flow *f = &p->reads_flow;
  if (!op || f->moving >= READ_BYTES_MAX) return false;
  if (op->file >= KVSTOW__FILES) return true;
  const uint64_t wanted = f->moving + f->waiting;
  if (!p->reads_answered && wanted > READ_BYTES_ALONE)
    return f->moving == 0 || f->moving + op->length <= READ_BYTES_FIRST;
  return f->moving < READ_BYTES_MIN || f->moving < wanted / 2;
}

static bool takes_write(const kvstow__pump *p) {
  const flow *f = &p->writes_flow;
  return p->lanes[KVSTOW__LANE_WRITE].first &&
         (f->moving < WRITE_BYTES_MIN || f->moving >= WRITE_BYTES_DEEP ||
          f->moving < (f->moving + f->waiting) / 4 * 3);
}

/* Which lane goes next: writes have a quarter of the device for sure, then demand reads, then more
 * writes, and prefetch leaves a quarter free for the demand that may come. */
static kvstow__lane choose(kvstow_tier *tier) {
  kvstow__pump *p = tier->pump;
  const bool writes = takes_write(p);
  plan(tier, KVSTOW_DEMAND, KVSTOW__LANE_DEMAND);
  if (writes && p->in_flight[KVSTOW__LANE_WRITE] < share(tier->queue_depth, 1))
    return KVSTOW__LANE_WRITE;
  if (takes_read(p, KVSTOW__LANE_DEMAND)) return KVSTOW__LANE_DEMAND;
  if (writes) return KVSTOW__LANE_WRITE;
  if (p->reads_flow.moving >= READ_BYTES_MAX ||
      p->in_flight[KVSTOW__LANE_PREFETCH] >= share(tier->queue_depth, 3))
    return KVSTOW__LANES;
  plan(tier, KVSTOW_PREFETCH, KVSTOW__LANE_PREFETCH);
  return takes_read(p, KVSTOW__LANE_PREFETCH) ? KVSTOW__LANE_PREFETCH : KVSTOW__LANES;
}

/* Handles an op that never reaches the engine. */
static bool finished_early(kvstow_tier *tier, kvstow__op *op) {
  kvstow__pump *p = tier->pump;
  op->error = 0;
  if (op->kind == KVSTOW__CLOSE) {
    kvstow__descriptors_forget(tier, &p->files, op->file);
    return true;
  }
  if (!kvstow__read_op_unwanted(op, true)) return false;
  op->error = KVSTOW__RECALLED;
  return true;
}

static void fill(kvstow_tier *tier) {
  kvstow__pump *p = tier->pump;
  op_list list;
  op_list_init(&list);
  while (p->in_flight_all < tier->queue_depth) {
    const kvstow__lane lane = choose(tier);
    if (lane == KVSTOW__LANES) break;
    kvstow__op *op = p->lanes[lane].first;
    if (finished_early(tier, op)) {
      flow_of(p, op)->waiting -= op->length;
      op_list_push(&p->early, op_list_pop(&p->lanes[lane]));
      continue;
    }
    const kvstow__acquired got =
        kvstow__descriptors_acquire(tier, &p->files, op, p->in_flight_all > 0);
    if (got == KVSTOW__ACQUIRE_WAIT) break;
    op_list_pop(&p->lanes[lane]);
    flow_of(p, op)->waiting -= op->length;
    if (got == KVSTOW__ACQUIRE_FAILED) {
      op_list_push(&p->early, op);
      continue;
    }
    op->lane = (uint8_t)lane;
    p->in_flight[lane]++;
    p->in_flight_all++;
    flow_of(p, op)->moving += op->length;
    op_list_push(&list, op);
  }
  if (p->reads_flow.moving + p->reads_flow.waiting == 0) p->reads_answered = false;
  if (list.first) tier->engine->submit(p->engine, list.first);
}

/* ---- completions ---------------------------------------------------------------------------- */

static void complete(kvstow_tier *tier, kvstow__op *list) {
  kvstow__pump *p = tier->pump;
  for (kvstow__op *op = list; op; op = op->next) {
    kvstow__descriptors_release(&p->files, op);
    p->in_flight[op->lane]--;
    p->in_flight_all--;
    flow_of(p, op)->moving -= op->length;
    p->reads_answered |= op->kind == KVSTOW__READ;
  }
  if (list) fill(tier); /* before anybody is told */
  while (list) {
    kvstow__op *op = list;
    list = op->next;
    if (op->error) kvstow__count(&tier->counters.io_errors, 1);
    op->complete(op);
  }
}

static void complete_early(kvstow_tier *tier) {
  kvstow__pump *p = tier->pump;
  while (p->early.first) {
    kvstow__op *op = op_list_pop(&p->early);
    if (op->error && op->error != KVSTOW__RECALLED) kvstow__count(&tier->counters.io_errors, 1);
    op->complete(op);
  }
}

static void finish_batches(kvstow__pump *p) {
  while (p->batches) {
    kvstow__batch *batch = p->batches;
    p->batches = batch->next;
    if (!p->batches) p->batches_tail = &p->batches;
    const kvstow_append_done done = batch->done;
    void *arg = batch->arg;
    const int result = batch->result;
    kvstow__batch_free(batch);
    if (done) done(arg, result);
  }
}

static void sum_some(kvstow_tier *tier) {
  kvstow__pump *p = tier->pump;
  uint64_t bytes = 0;
  while (p->sums && bytes < FINISH_BYTES_MAX) {
    kvstow__piece *piece = p->sums, *next = piece->next;
    if (!kvstow__read_sum(tier, piece, FINISH_BYTES_MAX - bytes, &bytes)) break;
    p->sums = next;
    if (!next) p->sums_tail = &p->sums;
  }
}

/* Reads that are whole are told of while others are still to be summed: more may come all the time. */
static void finish_some(kvstow_tier *tier) {
  kvstow__pump *p = tier->pump;
  uint64_t bytes = 0;
  finish_batches(p);
  sum_some(tier);
  while (p->reads && bytes < FINISH_BYTES_MAX) {
    kvstow__read_job *job = p->reads;
    p->reads = job->next;
    if (!p->reads) p->reads_tail = &p->reads;
    bytes += job->finish(tier, job);
  }
}

void kvstow__pump_sum(kvstow_tier *tier, kvstow__piece *piece) {
  kvstow__pump *p = tier->pump;
  piece->next = NULL;
  *p->sums_tail = piece;
  p->sums_tail = &piece->next;
}

void kvstow__pump_finish_read(kvstow_tier *tier, kvstow__read_job *job) {
  kvstow__pump *p = tier->pump;
  job->next = NULL;
  *p->reads_tail = job;
  p->reads_tail = &job->next;
}

void kvstow__pump_finish_batch(kvstow_tier *tier, kvstow__batch *batch) {
  kvstow__pump *p = tier->pump;
  batch->next = NULL;
  *p->batches_tail = batch;
  p->batches_tail = &batch->next;
}

void kvstow__pump_push(kvstow_tier *tier, kvstow__op *op, kvstow__lane lane) {
  flow_of(tier->pump, op)->waiting += op->length;
  op_list_push(&tier->pump->lanes[lane], op);
}

static void expect(kvstow__pump *p, uint64_t deadline_us) {
  if (deadline_us < p->deadline_us) p->deadline_us = deadline_us;
}

void kvstow__pump_expect(kvstow_tier *tier, const kvstow__read_job *job) {
  if (job->deadline_us) expect(tier->pump, job->deadline_us);
}

void kvstow__pump_push_extent(kvstow_tier *tier, kvstow__extent *extent) {
  const kvstow__read_job *job = extent->owner;
  tier->pump->reads_flow.waiting += extent->length;
  extent_list_push(&tier->pump->pending[job->priority], extent);
  kvstow__pump_expect(tier, job);
}

void *kvstow__pump_scratch(kvstow_tier *tier, size_t *bytes) {
  *bytes = SCRATCH_BYTES;
  return tier->pump->scratch;
}

/* ---- the inbox ------------------------------------------------------------------------------ */

/* inbox_lock held; returns whether to call wake() after unlocking. */
static bool rouse(kvstow_tier *tier) {
  const bool was_asleep = tier->asleep;
  tier->asleep = false;
  return was_asleep;
}

static void unlock_and_wake(kvstow_tier *tier) {
  const bool wake = rouse(tier);
  /* The engine can't go away meanwhile: it ends after pump_stop, which waits for inbox_lock. */
  if (wake) tier->engine->wake(tier->pump->engine);
  kvstow__unlock(&tier->inbox_lock);
}

void kvstow__pump_send_ops(kvstow_tier *tier, kvstow__op *list) {
  kvstow__lock(&tier->inbox_lock);
  *tier->inbox_ops_tail = list;
  while (*tier->inbox_ops_tail) tier->inbox_ops_tail = &(*tier->inbox_ops_tail)->next;
  unlock_and_wake(tier);
}

void kvstow__pump_send_jobs(kvstow_tier *tier, kvstow__job *list) {
  kvstow__lock(&tier->inbox_lock);
  *tier->inbox_jobs_tail = list;
  while (*tier->inbox_jobs_tail) tier->inbox_jobs_tail = &(*tier->inbox_jobs_tail)->next;
  unlock_and_wake(tier);
}

void kvstow__pump_send_reads(kvstow_tier *tier, kvstow__read_job *list) {
  kvstow__lock(&tier->inbox_lock);
  *tier->inbox_reads_tail = list;
  while (*tier->inbox_reads_tail) tier->inbox_reads_tail = &(*tier->inbox_reads_tail)->next;
  unlock_and_wake(tier);
}

void kvstow__pump_sweep(kvstow_tier *tier) {
  kvstow__lock(&tier->inbox_lock);
  tier->inbox_sweep = true;
  unlock_and_wake(tier);
}

static void take_read(kvstow_tier *tier, kvstow__read_job *job) {
  if (job->error || job->extents_left == 0) {
    kvstow__pump_finish_read(tier, job);
    return;
  }
  const uint32_t count = job->extents_left;
  for (uint32_t i = 0; i < count; i++) kvstow__pump_push_extent(tier, &job->extents[i]);
}

static void sweep_pending(kvstow_tier *tier, kvstow_priority priority) {
  extent_list *pending = &tier->pump->pending[priority];
  kvstow__extent *extent = pending->first;
  pending->first = NULL;
  pending->tail = &pending->first;
  while (extent) {
    kvstow__extent *next = extent->next;
    kvstow__read_job *job = extent->owner;
    tier->pump->reads_flow.waiting -= extent->length;
    if (atomic_load(&job->urgent)) job->priority = KVSTOW_DEMAND;
    if (!kvstow__read_skip(tier, extent)) kvstow__pump_push_extent(tier, extent);
    extent = next;
  }
}

static void sweep_lane(kvstow__pump *p, kvstow__lane lane) {
  kvstow__op *op = p->lanes[lane].first;
  op_list_init(&p->lanes[lane]);
  while (op) {
    kvstow__op *next = op->next;
    if (kvstow__read_op_unwanted(op, false)) {
      op->error = KVSTOW__RECALLED;
      p->reads_flow.waiting -= op->length;
      op_list_push(&p->early, op);
    } else {
      const bool urgent = lane == KVSTOW__LANE_PREFETCH && kvstow__read_op_urgent(op);
      if (urgent) op->priority = KVSTOW_DEMAND;
      op_list_push(&p->lanes[urgent ? KVSTOW__LANE_DEMAND : lane], op);
      expect(p, kvstow__read_op_deadline_us(op));
    }
    op = next;
  }
}

/* Applies cancel, urge and deadlines to what has not been sent. */
static void sweep(kvstow_tier *tier) {
  tier->pump->deadline_us = KVSTOW__FOREVER;
  sweep_pending(tier, KVSTOW_DEMAND);
  sweep_pending(tier, KVSTOW_PREFETCH);
  sweep_lane(tier->pump, KVSTOW__LANE_DEMAND);
  sweep_lane(tier->pump, KVSTOW__LANE_PREFETCH);
  kvstow__readahead_sweep(tier);
}

static bool deadline_passed(const kvstow__pump *p) {
  return p->deadline_us != KVSTOW__FOREVER && kvstow__now_us() >= p->deadline_us;
}

static kvstow__lane lane_of(const kvstow__op *op) {
  if (op->kind == KVSTOW__WRITE) return KVSTOW__LANE_WRITE;
  return op->priority == KVSTOW_PREFETCH ? KVSTOW__LANE_PREFETCH : KVSTOW__LANE_DEMAND;
}

static void take_inbox(kvstow_tier *tier) {
  kvstow__lock(&tier->inbox_lock);
  kvstow__op *ops = tier->inbox_ops;
  kvstow__job *jobs = tier->inbox_jobs;
  kvstow__read_job *reads = tier->inbox_reads;
  const bool swept = tier->inbox_sweep;
  tier->inbox_ops = NULL;
  tier->inbox_ops_tail = &tier->inbox_ops;
  tier->inbox_jobs = NULL;
  tier->inbox_jobs_tail = &tier->inbox_jobs;
  tier->inbox_reads = NULL;
  tier->inbox_reads_tail = &tier->inbox_reads;
  tier->inbox_sweep = false;
  kvstow__unlock(&tier->inbox_lock);
  while (ops) {
    kvstow__op *op = ops;
    ops = op->next;
    kvstow__pump_push(tier, op, lane_of(op));
  }
  while (jobs) {
    kvstow__job *job = jobs;
    jobs = job->next;
    kvstow__job_enter(tier, job);
  }
  while (reads) {
    kvstow__read_job *job = reads;
    reads = job->next;
    take_read(tier, job);
  }
  if (swept || deadline_passed(tier->pump)) sweep(tier);
}

static bool has_work(const kvstow__pump *p) {
  return p->early.first || p->sums || p->reads || p->batches;
}

static bool has_queued(const kvstow__pump *p) {
  for (int lane = 0; lane < KVSTOW__LANES; lane++)
    if (p->lanes[lane].first) return true;
  return p->pending[0].first || p->pending[1].first || p->in_flight_all > 0;
}

typedef enum rest { REST_NO, REST_SLEEP, REST_END } rest;

static rest may_rest(kvstow_tier *tier) {
  const kvstow__pump *p = tier->pump;
  if (has_work(p)) return REST_NO;
  kvstow__lock(&tier->inbox_lock);
  rest answer = REST_NO;
  if (!tier->inbox_ops && !tier->inbox_jobs && !tier->inbox_reads && !tier->inbox_sweep) {
    answer = tier->stopping && !has_queued(p) ? REST_END : REST_SLEEP;
    /* stopping, but the device still has something: its completion will wake the reap */
    tier->asleep = answer == REST_SLEEP;
  }
  kvstow__unlock(&tier->inbox_lock);
  return answer;
}

static bool turn(void *turns, kvstow__op *done, uint64_t *until_us) {
  kvstow_tier *tier = turns;
  complete(tier, done);
  complete_early(tier);
  fill(tier);
  finish_some(tier);
  take_inbox(tier);
  fill(tier);
  const rest answer = may_rest(tier);
  *until_us = answer == REST_SLEEP ? tier->pump->deadline_us : 0;
  return answer != REST_END;
}

static void run(kvstow_tier *tier) {
  kvstow__op *done = NULL;
  uint64_t until_us;
  while (turn(tier, done, &until_us)) done = tier->engine->reap(tier->pump->engine, until_us);
}

/* ---- start and stop ------------------------------------------------------------------------- */

static bool falls_back(int error) {
  return error == EPERM || error == ENOSYS || error == EACCES || error == ENOMEM || error == EINVAL;
}

static int create_engine(kvstow_tier *tier) {
  kvstow__pump *p = tier->pump;
  const kvstow__engine_config config = {.queue_depth = tier->queue_depth,
                                        .slots = p->files.places_count,
                                        .counters = &tier->io_counters,
                                        .turn = turn,
                                        .turns = tier};
  int error = ENOSYS;
  for (size_t i = 0; i < 2 && tier->io.engines[i]; i++) {
    if (p->wanted != KVSTOW_ENGINE_AUTO && p->wanted != tier->io.kinds[i]) continue;
    tier->engine = tier->io.engines[i];
    char reason[sizeof tier->engine_reason] = "";
    error = tier->engine->create(tier->io.env, &config, &p->engine, reason, sizeof reason);
    if (!error) {
      p->files.engine = p->engine;
      if (p->wanted != KVSTOW_ENGINE_AUTO)
        snprintf(tier->engine_reason, sizeof tier->engine_reason, "asked for");
      else if (i == 0)
        snprintf(tier->engine_reason, sizeof tier->engine_reason, "available and fastest");
      return 0;
    }
    memcpy(tier->engine_reason, reason, sizeof reason);
    if (p->wanted != KVSTOW_ENGINE_AUTO || !falls_back(error)) return error;
  }
  return error;
}

static void *pump_main(void *arg) {
  kvstow_tier *tier = arg;
  kvstow__pump *p = tier->pump;
  const int error = create_engine(tier);
  kvstow__lock(&tier->inbox_lock);
  p->start_error = error;
  p->started = true;
  pthread_cond_signal(&p->start_cond);
  kvstow__unlock(&tier->inbox_lock);
  if (error) return NULL;
  run(tier);
  kvstow__descriptors_close_all(tier, &p->files);
  kvstow__lock(&tier->inbox_lock); /* a waker may still be inside wake() */
  kvstow__unlock(&tier->inbox_lock);
  tier->engine->destroy(p->engine);
  return NULL;
}

static void pump_free(kvstow__pump *p) {
  if (!p) return;
  pthread_cond_destroy(&p->start_cond);
  kvstow__descriptors_finish(&p->files);
  free(p->scratch);
  free(p);
}

static kvstow__pump *pump_new(const kvstow_tier *tier, kvstow_engine wanted) {
  kvstow__pump *p = calloc(1, sizeof *p);
  if (!p) return NULL;
  pthread_cond_init(&p->start_cond, NULL);
  p->wanted = wanted;
  p->deadline_us = KVSTOW__FOREVER;
  for (int lane = 0; lane < KVSTOW__LANES; lane++) op_list_init(&p->lanes[lane]);
  op_list_init(&p->early);
  for (int i = 0; i < 2; i++) p->pending[i].tail = &p->pending[i].first;
  p->sums_tail = &p->sums;
  p->reads_tail = &p->reads;
  p->batches_tail = &p->batches;
  p->scratch = aligned_alloc(KVSTOW_PAGE_BYTES, SCRATCH_BYTES);
  if (!p->scratch || kvstow__descriptors_init(tier, &p->files) != 0) {
    pump_free(p);
    return NULL;
  }
  return p;
}

static int start_thread(kvstow_tier *tier) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* the host's handlers never run on our threads */
  const int error = pthread_create(&tier->thread, NULL, pump_main, tier);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error) {
    snprintf(tier->engine_reason, sizeof tier->engine_reason, "no thread for it");
    return error;
  }
  pthread_setname_np(tier->thread, "kvstow-io");
  tier->thread_started = true;
  kvstow__pump *p = tier->pump;
  kvstow__lock(&tier->inbox_lock);
  while (!p->started) kvstow__wait(&p->start_cond, &tier->inbox_lock);
  kvstow__unlock(&tier->inbox_lock);
  return p->start_error;
}

int kvstow__pump_start(kvstow_tier *tier, kvstow_engine wanted, char *why, size_t why_bytes) {
  tier->pump = pump_new(tier, wanted);
  if (!tier->pump) {
    snprintf(why, why_bytes, "out of memory for the I/O thread");
    return KVSTOW_ENOMEM;
  }
  const int error = start_thread(tier);
  if (!error) return 0;
  snprintf(why, why_bytes, "no I/O engine: %s (errno %d)", tier->engine_reason, error);
  if (tier->thread_started) pthread_join(tier->thread, NULL);
  tier->thread_started = false;
  pump_free(tier->pump);
  tier->pump = NULL;
  if (wanted != KVSTOW_ENGINE_AUTO) return KVSTOW_EUNSUPPORTED;
  return error == EAGAIN ? KVSTOW_ENOMEM : kvstow__code_of_errno(error); /* threads ran out */
}

void kvstow__pump_stop(kvstow_tier *tier) {
  if (!tier->thread_started) return;
  kvstow__lock(&tier->inbox_lock);
  tier->stopping = true;
  unlock_and_wake(tier);
  pthread_join(tier->thread, NULL);
  tier->thread_started = false;
  pump_free(tier->pump);
  tier->pump = NULL;
}

/* ---- ops one waits for ---------------------------------------------------------------------- */

typedef struct latch {
  kvstow__mutex lock;
  pthread_cond_t done;
  size_t left;
  int error;
} latch;

static void latch_complete(kvstow__op *op) {
  latch *l = op->owner;
  kvstow__lock(&l->lock);
  if (op->error && !l->error) l->error = op->error;
  if (--l->left == 0) pthread_cond_signal(&l->done);
  kvstow__unlock(&l->lock);
}

int kvstow__pump_run(kvstow_tier *tier, kvstow__op *ops, size_t count) {
  if (count == 0) return 0;
  latch l = {.left = count};
  kvstow__mutex_init(&l.lock, KVSTOW__RANK_LATCH);
  pthread_cond_init(&l.done, NULL);
  for (size_t i = 0; i < count; i++) {
    ops[i].owner = &l;
    ops[i].complete = latch_complete;
    ops[i].next = i + 1 < count ? &ops[i + 1] : NULL;
  }
  kvstow__pump_send_ops(tier, ops);
  kvstow__lock(&l.lock);
  while (l.left > 0) kvstow__wait(&l.done, &l.lock);
  kvstow__unlock(&l.lock);
  pthread_cond_destroy(&l.done);
  kvstow__mutex_finish(&l.lock);
  return l.error;
}
