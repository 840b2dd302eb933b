/* tests/test_tier_place.h - a scratch directory for each test, and options for a store in it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TEST_TIER_PLACE_H
#define KVSTOW_TEST_TIER_PLACE_H

#include "test_tier_fixture.h"

static char *dir;
static const char *dirs[1];
static kvstow_tier_options options;

static int place_new(uint32_t segments) {
  the_variant = UNDER_TSAN ? &VARIANTS[2] : NULL;
  dir = scratch_new();
  dirs[0] = dir;
  options = options_for(dirs, segments);
  return 0;
}

static int remove_it(void **state) {
  (void)state;
  scratch_remove(dir);
  return 0;
}

#endif
