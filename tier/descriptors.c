/* tier/descriptors.c - see descriptors.h. Replacement is a clock over the places.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/descriptors.h"

#include <errno.h>
#include <stdlib.h>

int kvstow__descriptors_init(const kvstow_tier *tier, kvstow__descriptors *d) {
  const uint32_t limit = tier->io.files->open_files_max(tier->io.env);
  d->places_count = tier->files_count < limit ? tier->files_count : limit;
  if (d->places_count == 0) d->places_count = 1;
  d->places = calloc(d->places_count, sizeof *d->places);
  d->where = calloc((size_t)tier->files_count + 1, sizeof *d->where);
  if (!d->places || !d->where) return KVSTOW_ENOMEM;
  for (uint32_t i = 0; i < d->places_count; i++) d->places[i].file = KVSTOW__NO_SEGMENT;
  for (uint32_t i = 0; i <= tier->files_count; i++) d->where[i] = KVSTOW__NO_SEGMENT;
  return 0;
}

void kvstow__descriptors_finish(kvstow__descriptors *d) {
  free(d->places);
  free(d->where);
}

static void drop(kvstow_tier *tier, kvstow__descriptors *d, kvstow__descriptor *place) {
  if (place->file == KVSTOW__NO_SEGMENT) return;
  if (tier->engine->attach) tier->engine->attach(d->engine, (uint32_t)(place - d->places), -1);
  tier->io.files->close(tier->io.env, place->fd);
  d->where[place->file] = KVSTOW__NO_SEGMENT;
  place->file = KVSTOW__NO_SEGMENT;
}

/* An empty place, or the first one idle and not used since the hand last passed. */
static kvstow__descriptor *find_place(kvstow__descriptors *d) {
  for (uint32_t i = 0; i < 2 * d->places_count; i++) {
    kvstow__descriptor *place = &d->places[d->hand];
    d->hand = (d->hand + 1) % d->places_count;
    if (place->file == KVSTOW__NO_SEGMENT) return place;
    if (place->users > 0) continue;
    if (!place->recent) return place;
    place->recent = false;
  }
  return NULL;
}

/* Where the process has no descriptors left, one of ours makes room. */
static bool drop_one(kvstow_tier *tier, kvstow__descriptors *d) {
  for (uint32_t i = 0; i < d->places_count; i++) {
    if (d->places[i].file == KVSTOW__NO_SEGMENT || d->places[i].users > 0) continue;
    drop(tier, d, &d->places[i]);
    return true;
  }
  return false;
}

static int open_into(kvstow_tier *tier, kvstow__descriptors *d, kvstow__descriptor *place,
                     uint32_t file) {
  const kvstow__dir *dir = &tier->dirs[kvstow__dir_of(tier, file)];
  char name[KVSTOW__NAME_BYTES];
  kvstow__segment_name(name, file);
  const int error = tier->io.files->open(tier->io.env, dir->fd, name, false, !tier->read_only,
                                         dir->direct, &place->fd);
  if (error) return error;
  place->file = file;
  place->users = 0;
  d->where[file] = (uint32_t)(place - d->places);
  if (tier->engine->attach) tier->engine->attach(d->engine, d->where[file], place->fd);
  return 0;
}

kvstow__acquired kvstow__descriptors_acquire(kvstow_tier *tier, kvstow__descriptors *d,
                                             kvstow__op *op, bool busy) {
  if (op->file >= KVSTOW__FILES) {
    op->slot = KVSTOW__NO_SLOT;
    return KVSTOW__ACQUIRED;
  }
  if (d->where[op->file] == KVSTOW__NO_SEGMENT) {
    kvstow__descriptor *place = find_place(d);
    if (!place) return KVSTOW__ACQUIRE_WAIT;
    drop(tier, d, place);
    int error = open_into(tier, d, place, op->file);
    while ((error == EMFILE || error == ENFILE) && drop_one(tier, d))
      error = open_into(tier, d, place, op->file);
    if ((error == EMFILE || error == ENFILE) && busy) return KVSTOW__ACQUIRE_WAIT;
    if (error) {
      op->error = error;
      return KVSTOW__ACQUIRE_FAILED;
    }
  }
  const uint32_t at = d->where[op->file];
  d->places[at].users++;
  d->places[at].recent = true;
  op->cache = op->slot = at;
  op->fd = d->places[at].fd;
  return KVSTOW__ACQUIRED;
}

void kvstow__descriptors_release(kvstow__descriptors *d, const kvstow__op *op) {
  if (op->file < KVSTOW__FILES) d->places[op->cache].users--;
}

void kvstow__descriptors_forget(kvstow_tier *tier, kvstow__descriptors *d, uint32_t file) {
  if (d->where[file] != KVSTOW__NO_SEGMENT) drop(tier, d, &d->places[d->where[file]]);
}

void kvstow__descriptors_close_all(kvstow_tier *tier, kvstow__descriptors *d) {
  for (uint32_t i = 0; i < d->places_count; i++) drop(tier, d, &d->places[i]);
}
