/* tests/support/wall_clock.h - the wall clock of a test that looks at what is limited by the day: its process begins at
 * noon (UTC), whenever it is run, so that no midnight grants a limit anew; and the test may set it.
 *
 * time() is defined here, and this is the one that the library calls too.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_WALL_CLOCK_H
#define KVSTOW_TESTS_SUPPORT_WALL_CLOCK_H

#include <stdatomic.h>
#include <time.h>

#define WALL_DAY_S 86400l
#define WALL_NOON_S (20000l * WALL_DAY_S + WALL_DAY_S / 2)

static atomic_long wall_off_s __attribute__((unused)); /* it is so much ahead */

static time_t wall_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec;
}

static time_t wall_began_s;

__attribute__((constructor)) static void wall_begin(void) {
  wall_began_s = wall_seconds();
}

time_t time(time_t *out) {
  const time_t now = WALL_NOON_S + wall_seconds() - wall_began_s + atomic_load(&wall_off_s);
  if (out != NULL) *out = now;
  return now;
}

#endif
