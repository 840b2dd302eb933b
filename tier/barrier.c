/* tier/barrier.c - the calls that wait: flush and seal.
 *
 * A flush first lets every job accepted before it finish, then syncs each file written since the last
 * barrier, all at once. barrier_lock makes flushes take turns: a second one must not return while the
 * first is still syncing the file whose dirty mark it has taken.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tier/barrier.h"
#include "tier/pump.h"

static int sync_failed(kvstow_tier *tier, const kvstow__op *op) {
  char path[KVSTOW__PATH_TEXT_BYTES], cause[64];
  kvstow__lock(&tier->lock);
  /* What the device took since the last barrier is unknown: the segment is not to be relied on. */
  kvstow__segment_doubt(tier, op->file);
  kvstow__unlock(&tier->lock);
  return kvstow__fail_write(tier, kvstow__code_of_errno(op->error), "%s: fdatasync: %s",
                            kvstow__segment_path(tier, op->file, path),
                            strerror_r(op->error, cause, sizeof cause));
}

/* Takes the dirty marks: an op for each file to be synced, pinned. */
static int collect_dirty(kvstow_tier *tier, kvstow__op **ops, size_t *count) {
  int code = 0;
  kvstow__lock(&tier->lock);
  *count = tier->dirty_count;
  *ops = calloc(*count + 1, sizeof **ops);
  if (!*ops) {
    *count = 0;
    code = KVSTOW_ENOMEM;
  }
  for (size_t i = 0; i < *count; i++) {
    kvstow__segment *segment = &tier->segments[tier->dirty[i]];
    segment->dirty = false;
    segment->pins++;
    (*ops)[i].kind = KVSTOW__SYNC;
    (*ops)[i].file = tier->dirty[i];
  }
  if (!code) tier->dirty_count = 0;
  kvstow__unlock(&tier->lock);
  return code;
}

int kvstow__sync_dirty(kvstow_tier *tier) {
  kvstow__op *ops;
  size_t count;
  int code = collect_dirty(tier, &ops, &count);
  if (kvstow__pump_run(tier, ops, count) != 0)
    for (size_t i = 0; i < count; i++)
      if (ops[i].error) code = sync_failed(tier, &ops[i]);
  kvstow__lock(&tier->lock);
  for (size_t i = 0; i < count; i++) {
    kvstow__segment *segment = &tier->segments[ops[i].file];
    kvstow__segment_unpin(tier, segment);
  }
  kvstow__unlock(&tier->lock);
  free(ops);
  return code;
}

/* A kernel that has failed a sync may forget what it could not write, and let the next sync succeed: only
 * giving those records up makes the rest durable. */
static int check_unsure(kvstow_tier *tier) {
  uint32_t unsure = 0;
  kvstow__lock(&tier->lock);
  for (uint32_t id = 0; id < tier->segments_count; id++)
    unsure += tier->segments[id].unsure && tier->segments[id].records > 0;
  kvstow__unlock(&tier->lock);
  if (unsure == 0) return 0;
  return kvstow__fail(tier, KVSTOW_EIO, "%" PRIu32 " segments may not survive power loss", unsure);
}

int kvstow__flush_locked(kvstow_tier *tier) {
  kvstow__jobs_wait(tier);
  kvstow__count(&tier->counters.flushes, 1);
  int code = kvstow__sync_dirty(tier);
  char cause[KVSTOW_MESSAGE_BYTES];
  kvstow__lock(&tier->lock);
  const int write_error = tier->write_error;
  memcpy(cause, tier->write_cause, sizeof cause);
  tier->write_error = 0;
  kvstow__unlock(&tier->lock);
  if (!code && write_error)
    code = kvstow__fail(tier, kvstow__code_of_errno(write_error), "%s", cause);
  return code ? code : check_unsure(tier);
}

int kvstow_tier_flush(kvstow_tier *tier) {
  if (!tier) return KVSTOW_EINVAL;
  if (tier->read_only) return 0;
  kvstow__lock(&tier->barrier_lock);
  const int code = kvstow__flush_locked(tier);
  kvstow__unlock(&tier->barrier_lock);
  return code;
}

int kvstow__seal_locked(kvstow_tier *tier) {
  int code = 0;
  kvstow__lock(&tier->append_lock);
  kvstow__lock(&tier->lock);
  for (uint32_t dir = 0; dir < tier->dirs_count; dir++) {
    kvstow__job *job = NULL;
    const int failed = kvstow__head_seal(tier, dir, &job);
    if (failed) code = failed;
    kvstow__jobs_issue(tier, job);
  }
  kvstow__unlock(&tier->lock);
  kvstow__unlock(&tier->append_lock);
  kvstow__jobs_wait(tier);
  return code;
}

int kvstow_tier_seal(kvstow_tier *tier) {
  if (!tier) return KVSTOW_EINVAL;
  if (tier->read_only) return kvstow__fail_read_only(tier, "seal");
  kvstow__lock(&tier->barrier_lock);
  const int code = kvstow__seal_locked(tier);
  kvstow__unlock(&tier->barrier_lock);
  return code;
}

int kvstow__checkpoint(kvstow_tier *tier) {
  int code = 0;
  kvstow__lock(&tier->append_lock);
  kvstow__lock(&tier->lock);
  for (uint32_t dir = 0; dir < tier->dirs_count; dir++) {
    const uint32_t id = tier->heads[dir].segment;
    if (id == KVSTOW__NO_SEGMENT) continue;
    const kvstow__segment *segment = &tier->segments[id];
    if (segment->resume || segment->records == 0) continue; /* the disk says CLEAN already */
    kvstow__job *job =
        kvstow__footer_job(tier, KVSTOW__JOB_SEAL, id, segment->life, segment->opened_s,
                           segment->used_bytes, segment->entries, segment->records, true);
    if (!job) code = KVSTOW_ENOMEM; /* it will be walked at the next open */
    kvstow__jobs_issue(tier, job);
  }
  kvstow__unlock(&tier->lock);
  kvstow__unlock(&tier->append_lock);
  kvstow__jobs_wait(tier);
  return code;
}
