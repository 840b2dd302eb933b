/* tier/recover_fit.c - the files that are there, fitted to the slots of the budget: surplus ones go, empty first, then
 * those that can't be read, then the oldest; the others move to numbers below the slot count.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tier/pump.h"
#include "tier/recover.h"

static int forget_descriptor(kvstow_tier *tier, uint32_t id) {
  kvstow__op op = {.kind = KVSTOW__CLOSE, .file = id};
  return kvstow__pump_run(tier, &op, 1);
}

static uint32_t slots_of_dir(const kvstow_tier *tier, uint32_t dir) {
  return tier->segments_count / tier->dirs_count + (dir < tier->segments_count % tier->dirs_count);
}

static int drop_file(kvstow__recovery *r, uint32_t id) {
  kvstow_tier *tier = r->tier;
  char name[KVSTOW__NAME_BYTES], path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__segment_name(name, id);
  forget_descriptor(tier, id);
  const int error =
      tier->io.files->unlink(tier->io.env, tier->dirs[kvstow__dir_of(tier, id)].fd, name);
  if (error)
    return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: removing, beyond the budget: %s",
                        kvstow__segment_path(tier, id, path), strerror(error));
  free(tier->segments[id].entries);
  memset(&tier->segments[id], 0, sizeof tier->segments[id]);
  memset(&r->files[id], 0, sizeof r->files[id]);
  return 0;
}

static int move_file(kvstow__recovery *r, uint32_t from, uint32_t to) {
  kvstow_tier *tier = r->tier;
  char old_name[KVSTOW__NAME_BYTES], new_name[KVSTOW__NAME_BYTES], path[KVSTOW__PATH_TEXT_BYTES];
  kvstow__segment_name(old_name, from);
  kvstow__segment_name(new_name, to);
  forget_descriptor(tier, from);
  const int error = tier->io.files->rename(tier->io.env, tier->dirs[kvstow__dir_of(tier, from)].fd,
                                           old_name, new_name);
  if (error)
    return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: renaming to %s: %s",
                        kvstow__segment_path(tier, from, path), new_name, strerror(error));
  tier->segments[to] = tier->segments[from];
  r->files[to] = r->files[from];
  memset(&tier->segments[from], 0, sizeof tier->segments[from]);
  memset(&r->files[from], 0, sizeof r->files[from]);
  return 0;
}

static int worth(const kvstow__segment *segment) {
  return segment->records > 0 ? 2 : segment->state == KVSTOW_SEGMENT_UNREAD;
}

/* The file to lose first: an empty one, then one that can't be read, else the one of the oldest life. */
static uint32_t least_of_dir(const kvstow__recovery *r, uint32_t dir, uint32_t *files) {
  const kvstow_tier *tier = r->tier;
  uint32_t least = KVSTOW__NO_SEGMENT;
  *files = 0;
  for (uint32_t id = dir; id < tier->files_count; id += tier->dirs_count) {
    if (!r->files[id].present) continue;
    (*files)++;
    const kvstow__segment *s = &tier->segments[id];
    const kvstow__segment *l = &tier->segments[least == KVSTOW__NO_SEGMENT ? id : least];
    const bool lesser =
        worth(s) != worth(l) ? worth(s) < worth(l) : s->life.sequence < l->life.sequence;
    if (least == KVSTOW__NO_SEGMENT || lesser) least = id;
  }
  return least;
}

int kvstow__recover_fit(kvstow__recovery *r, uint32_t dir) {
  kvstow_tier *tier = r->tier;
  const uint32_t slots = slots_of_dir(tier, dir);
  for (;;) {
    uint32_t files;
    const uint32_t least = least_of_dir(r, dir, &files);
    if (files <= slots) break;
    const int code = drop_file(r, least);
    if (code) return code;
  }
  uint32_t to = dir;
  for (uint32_t id = dir; id < tier->files_count; id += tier->dirs_count) {
    if (id < tier->segments_count || !r->files[id].present) continue;
    while (r->files[to].present) to += tier->dirs_count;
    const int code = move_file(r, id, to);
    if (code) return code;
  }
  /* Without changes, too: the super's own name may not be durable yet, and segments' names follow. */
  const int error = tier->io.files->dir_sync(tier->io.env, tier->dirs[dir].fd);
  if (!error) return 0;
  return kvstow__fail(tier, kvstow__code_of_errno(error), "%s: fsync: %s", tier->dirs[dir].path,
                      strerror(error));
}
