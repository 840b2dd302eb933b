/* tests/support/recorder.h - what the recording policy has written down.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef KVSTOW_TESTS_SUPPORT_RECORDER_H
#define KVSTOW_TESTS_SUPPORT_RECORDER_H

#include <kvstow/policy.h>
#include <stdbool.h>

enum { RECORDED_INSERT, RECORDED_TOUCH, RECORDER_MAX = 4096 };

struct recorded {
  int tier; /* 0 RAM, 1 SSD */
  int what;
  uint32_t id;
  kvstow_access access;
};

struct recorder {
  int instances;
  uint64_t capacity[2];
  bool refuses; /* to have anything written to SSD */
  uint32_t count;
  struct recorded log[RECORDER_MAX];
};

#endif
