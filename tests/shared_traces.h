/* tests/shared_traces.h - where the public traces and their reference results lie.
 *
 * $KVSTOW_SHARED, or ../shared beside the source. Without them a test says so loudly and checks a
 * generated workload against a naive model instead.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_SHARED_TRACES_H
#define TESTS_SHARED_TRACES_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* The exit code of a program none of whose tests could run. */
enum { ALL_SKIPPED = 77 };

/* The path of traces/`file` (static storage), or NULL when it isn't there. */
static inline const char *shared_trace(const char *file) {
  static char path[4096];
  const char *shared = getenv("KVSTOW_SHARED");
  if (shared != NULL && *shared != '\0')
    snprintf(path, sizeof path, "%s/traces/%s", shared, file);
  else
    snprintf(path, sizeof path, "%s/../shared/traces/%s", KVSTOW_SOURCE_DIR, file);
  return access(path, R_OK) == 0 ? path : NULL;
}

static inline bool shared_traces_missing(const char *test) {
  if (shared_trace("reference_libcachesim_counts.csv") != NULL) return false;
  fprintf(stderr,
          "\n*** SKIP %s: no ../shared/traces (set KVSTOW_SHARED): nothing was compared with the "
          "published references ***\n\n",
          test);
  return true;
}

#endif
