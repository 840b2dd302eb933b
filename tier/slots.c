/* tier/slots.c - where the next segment goes, seen to ahead of need.
 *
 * Making a file takes as long as the file system likes (fallocate, two fsyncs), so that a thread of its own makes
 * the next one when a directory has none left that is free. An append that comes too early, or needs several,
 * waits for it or makes them itself. In a file that was used before the old life must have ended on disk
 * before a byte of the new one arrives there. So that appends need not wait for that barrier, it ends as soon as
 * the slot is free: its job lies in the segment's queue, and who comes too early is queued behind it.
 *
 * make_lock: one file is being made at a time. Taken before lock, never while holding it; under append_lock
 * or alone.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <signal.h>
#include <string.h>

#include "tier/state.h"

#define DENIED_RETRY_US UINT64_C(60000000) /* after a segment file could not be made */

static int make_file(kvstow_tier *tier, uint32_t id, uint64_t *disk_bytes) {
  const kvstow__file_ops *files = tier->io.files;
  const kvstow__dir *dir = &tier->dirs[kvstow__dir_of(tier, id)];
  char name[KVSTOW__NAME_BYTES];
  kvstow__segment_name(name, id);
  int fd;
  int error = files->open(tier->io.env, dir->fd, name, true, true, false, &fd);
  if (error) return error;
  error = files->allocate(tier->io.env, fd, tier->segment_bytes);
  if (!error) error = files->sync(tier->io.env, fd);
  if (!error) error = files->size(tier->io.env, fd, NULL, disk_bytes);
  files->close(tier->io.env, fd);
  if (!error) error = files->dir_sync(tier->io.env, dir->fd);
  if (error) files->unlink(tier->io.env, dir->fd, name);
  return error;
}

static bool is_free(const kvstow_tier *tier, uint32_t id) {
  return id != KVSTOW__NO_SEGMENT && tier->segments[id].state == KVSTOW_SEGMENT_FREE;
}

uint32_t kvstow__slot_find(kvstow_tier *tier, uint32_t dir, bool with_file) {
  kvstow__head *head = &tier->heads[dir];
  if ((with_file ? head->free_made : head->free_unmade) == 0) return KVSTOW__NO_SEGMENT;
  if (with_file && is_free(tier, head->ready)) return head->ready;
  uint32_t id = with_file && head->made_hint > dir ? head->made_hint : dir;
  for (uint32_t i = 0; i < tier->segments_count; i++) {
    const kvstow__segment *segment = &tier->segments[id];
    const uint32_t next =
        id + tier->dirs_count < tier->segments_count ? id + tier->dirs_count : dir;
    if (segment->state == KVSTOW_SEGMENT_FREE && segment->has_file == with_file) {
      if (with_file) head->made_hint = next; /* the next to be reclaimed, as a rule */
      return id;
    }
    id = next;
  }
  return KVSTOW__NO_SEGMENT;
}

/* A slot to make a file for; NO_SEGMENT: there are enough, or none. */
static uint32_t next_unmade(kvstow_tier *tier, uint32_t dir, uint32_t wanted) {
  kvstow__lock(&tier->lock);
  const bool enough = tier->heads[dir].free_made >= wanted;
  const uint32_t id = enough ? KVSTOW__NO_SEGMENT : kvstow__slot_find(tier, dir, false);
  kvstow__unlock(&tier->lock);
  return id;
}

/* Makes files until `wanted` free slots of the directory have one. An errno, and where. */
static int make(kvstow_tier *tier, uint32_t dir, uint32_t wanted, uint32_t *where) {
  int error = 0;
  kvstow__lock(&tier->make_lock);
  while (!error && (*where = next_unmade(tier, dir, wanted)) != KVSTOW__NO_SEGMENT) {
    uint64_t disk_bytes = 0;
    error = make_file(tier, *where, &disk_bytes);
    if (kvstow__code_of_errno(error) == KVSTOW_ENOSPC) kvstow__count(&tier->counters.disk_full, 1);
    if (error) break;
    kvstow__lock(&tier->lock);
    tier->heads[dir].free_unmade--;
    tier->heads[dir].free_made++;
    tier->segments[*where].has_file = true;
    tier->segments[*where].disk_bytes = disk_bytes;
    kvstow__unlock(&tier->lock);
  }
  kvstow__unlock(&tier->make_lock);
  return error;
}

int kvstow__slots_make(kvstow_tier *tier, uint32_t dir, uint32_t wanted) {
  uint32_t id = next_unmade(tier, dir, wanted);
  const int error = id == KVSTOW__NO_SEGMENT ? 0 : make(tier, dir, wanted, &id);
  if (!error) return 0;
  /* The disk is fuller than the budget says: slots without a file do not count for a while. */
  kvstow__lock(&tier->lock);
  tier->heads[dir].denied_until_us = kvstow__now_us() + DENIED_RETRY_US;
  kvstow__unlock(&tier->lock);
  char path[KVSTOW__PATH_TEXT_BYTES], cause[64], name[KVSTOW__NAME_BYTES];
  kvstow__segment_name(name, id);
  if (error == EPERM || error == ELOOP)
    return kvstow__fail_open(tier, &tier->dirs[dir], name, error);
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: making the segment: %s",
                      kvstow__segment_path(tier, id, path), strerror_r(error, cause, sizeof cause));
}

/* ---- ahead ---------------------------------------------------------------------------------- */

/* Without memory the append that opens it ends the old life itself. */
static void end_ahead(kvstow_tier *tier, uint32_t dir) {
  kvstow__head *head = &tier->heads[dir];
  head->ready = kvstow__slot_find(tier, dir, true);
  if (head->offline || head->ready == KVSTOW__NO_SEGMENT) return;
  kvstow__segment *segment = &tier->segments[head->ready];
  if (!segment->ghost || segment->ended) return;
  kvstow__job *job = kvstow__end_job(tier, head->ready, kvstow__life_new(tier));
  if (!job) return;
  segment->ended = true;
  kvstow__jobs_issue(tier, job);
}

void kvstow__slots_want(kvstow_tier *tier, uint32_t dir) {
  kvstow__head *head = &tier->heads[dir];
  if (!tier->maker_started) return; /* being opened, or closed */
  if (head->free_made > 0) {
    end_ahead(tier, dir);
  } else if (head->free_unmade > 0) {
    head->wants_slot = true;
    pthread_cond_signal(&tier->slot_wanted);
  }
}

static uint32_t wanting_dir(const kvstow_tier *tier) {
  uint32_t dir = 0;
  while (dir < tier->dirs_count && !tier->heads[dir].wants_slot) dir++;
  return dir;
}

/* What fails here fails again when it is needed, and is told then. */
static void *maker_main(void *arg) {
  kvstow_tier *tier = arg;
  kvstow__lock(&tier->lock);
  while (!tier->maker_stops) {
    const uint32_t dir = wanting_dir(tier);
    if (dir == tier->dirs_count) {
      kvstow__wait(&tier->slot_wanted, &tier->lock);
      continue;
    }
    tier->heads[dir].wants_slot = false;
    kvstow__unlock(&tier->lock);
    uint32_t where;
    (void)make(tier, dir, 1, &where);
    kvstow__lock(&tier->lock);
  }
  kvstow__unlock(&tier->lock);
  return NULL;
}

void kvstow__maker_start(kvstow_tier *tier) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* the host's handlers never run on our threads */
  const int error = pthread_create(&tier->maker, NULL, maker_main, tier);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (error) return; /* appends make their files themselves */
  pthread_setname_np(tier->maker, "kvstow-maker");
  kvstow__lock(&tier->lock);
  tier->maker_started = true;
  for (uint32_t dir = 0; dir < tier->dirs_count; dir++)
    if (tier->heads[dir].free_made == 0) kvstow__slots_want(tier, dir);
  kvstow__unlock(&tier->lock);
}

void kvstow__maker_stop(kvstow_tier *tier) {
  kvstow__lock(&tier->lock);
  const bool started = tier->maker_started;
  tier->maker_started = false;
  tier->maker_stops = true;
  pthread_cond_signal(&tier->slot_wanted);
  kvstow__unlock(&tier->lock);
  if (started) pthread_join(tier->maker, NULL);
}
