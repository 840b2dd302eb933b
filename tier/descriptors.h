/* tier/descriptors.h - a bounded cache of open segment files, the I/O thread's alone.
 *
 * A store may have more segments than a process may have descriptors, and the host needs most of
 * those itself. A file is opened when an op needs it and closed when another needs its place; the
 * engine is told, so that it can keep a table of its own.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TIER_DESCRIPTORS_H
#define KVSTOW_TIER_DESCRIPTORS_H

#include "tier/state.h"

typedef struct kvstow__descriptor {
  uint32_t file; /* KVSTOW__NO_SEGMENT: empty */
  int fd;
  uint32_t users; /* ops in flight */
  bool recent;
} kvstow__descriptor;

typedef struct kvstow__descriptors {
  kvstow__engine *engine; /* told of changes, once set */
  kvstow__descriptor *places;
  uint32_t places_count, hand;
  uint32_t *where; /* place of each file, or KVSTOW__NO_SEGMENT */
} kvstow__descriptors;

typedef enum kvstow__acquired {
  KVSTOW__ACQUIRED,
  KVSTOW__ACQUIRE_WAIT,   /* every place is in use: a completion will free one */
  KVSTOW__ACQUIRE_FAILED, /* op->error says why */
} kvstow__acquired;

int kvstow__descriptors_init(const kvstow_tier *tier, kvstow__descriptors *d);
void kvstow__descriptors_finish(kvstow__descriptors *d); /* all closed before */

/* Gives the op its descriptor; `busy` says that other ops are in flight. */
kvstow__acquired kvstow__descriptors_acquire(kvstow_tier *tier, kvstow__descriptors *d,
                                             kvstow__op *op, bool busy);
void kvstow__descriptors_release(kvstow__descriptors *d, const kvstow__op *op);
void kvstow__descriptors_forget(kvstow_tier *tier, kvstow__descriptors *d, uint32_t file);
void kvstow__descriptors_close_all(kvstow_tier *tier, kvstow__descriptors *d);

#endif
