/* lock.c - what this thread holds, and whether it may take another lock (lock.h). In debug builds only.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "tier/lock.h"

#ifdef KVSTOW_DEBUG

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#define HELD_MAX 16u /* more than there are ranks that nest */

/* In the order taken, and so of rank: the last is the highest. */
static _Thread_local const kvstow__mutex *held[HELD_MAX];
static _Thread_local unsigned held_count;

static void require(bool right, const kvstow__mutex *lock, const char *what) {
  if (right) return;
  (void)fprintf(stderr, "kvstow: %s is %s %s\n", lock->name, what,
                held_count > 0 ? held[held_count - 1]->name : "nothing");
  abort();
}

void kvstow__lock_taking(const kvstow__mutex *lock) {
  require(held_count == 0 || held[held_count - 1]->rank < lock->rank, lock, "taken under");
  require(held_count < HELD_MAX, lock, "one too many under");
  held[held_count++] = lock;
}

void kvstow__lock_giving(const kvstow__mutex *lock) {
  unsigned at = held_count;
  while (at > 0 && held[at - 1] != lock) at--;
  require(at > 0, lock, "given back, and not held: the last one is");
  for (; at < held_count; at++) held[at - 1] = held[at];
  held_count--;
}

void kvstow__lock_waiting(const kvstow__mutex *lock) {
  require(held_count > 0 && held[held_count - 1] == lock, lock, "waited with under");
}

#endif
