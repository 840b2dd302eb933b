/* tier/pump.h - the I/O thread: the only one that talks to the engine.
 *
 * Other threads send it ops, jobs and reads through an inbox; it keeps the device busy (at most
 * queue_depth ops, demand before prefetch, a share for writes), runs what completes, verifies reads
 * after it has refilled the device, and calls the callers' completions one at a time, outside the
 * reap loop. While it sleeps in the engine, a thread of the engine's may take its turns (io.h): then that one is what
 * is called the I/O thread here.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_PUMP_H
#define KVSTOW_TIER_PUMP_H

#include "tier/state.h"

typedef enum kvstow__lane {
  KVSTOW__LANE_DEMAND = 0,
  KVSTOW__LANE_WRITE,
  KVSTOW__LANE_PREFETCH,
  KVSTOW__LANES,
} kvstow__lane;

/* Starts the thread and its engine; *why tells what went wrong. 0 or a KVSTOW_E code. */
int kvstow__pump_start(kvstow_tier *tier, kvstow_engine wanted, char *why, size_t why_bytes);
/* Completes everything sent, then ends the thread. */
void kvstow__pump_stop(kvstow_tier *tier);

/* Any thread; the lists are linked by next. */
void kvstow__pump_send_ops(kvstow_tier *tier, kvstow__op *list);
void kvstow__pump_send_jobs(kvstow_tier *tier, kvstow__job *list);
void kvstow__pump_send_reads(kvstow_tier *tier, kvstow__read_job *list);
void kvstow__pump_sweep(kvstow_tier *tier); /* look again at cancel and urgent flags */

/* Sends ops and waits for all. The first error as an errno. Never on the I/O thread. */
int kvstow__pump_run(kvstow_tier *tier, kvstow__op *ops, size_t count);

/* On the I/O thread only. */
void kvstow__pump_push(kvstow_tier *tier, kvstow__op *op, kvstow__lane lane);
void kvstow__pump_push_extent(kvstow_tier *tier, kvstow__extent *extent);
void kvstow__pump_expect(kvstow_tier *tier, const kvstow__read_job *job); /* its deadline */
void kvstow__pump_sum(kvstow_tier *tier, kvstow__piece *piece); /* read_sum until it is through */
void kvstow__pump_finish_read(kvstow_tier *tier, kvstow__read_job *job);
void kvstow__pump_finish_batch(kvstow_tier *tier, kvstow__batch *batch);
void *kvstow__pump_scratch(kvstow_tier *tier, size_t *bytes);

#endif
