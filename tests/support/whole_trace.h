/* tests/support/whole_trace.h - a trace unpacked into arrays, for models that want all of it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef TESTS_SUPPORT_WHOLE_TRACE_H
#define TESTS_SUPPORT_WHOLE_TRACE_H

#include <stdlib.h>
#include <string.h>

#include "cli/trace/trace.h"

struct whole_trace {
  uint64_t count;
  struct trace_request *requests; /* their ids point into `ids` */
  uint32_t *ids;
};

static inline struct whole_trace whole_trace_of(const struct trace *trace) {
  struct whole_trace whole = {.requests = calloc(trace->request_count + 1, sizeof *whole.requests),
                              .ids = calloc(trace->accesses + 1, sizeof *whole.ids)};
  struct trace_walk *walk = trace_walk_begin(trace);
  uint32_t *ids = whole.ids;
  const struct trace_request *request;
  if (whole.requests == NULL || ids == NULL || walk == NULL) abort();
  while ((request = trace_walk_next(walk)) != NULL) {
    if (request->blocks > 0) memcpy(ids, request->ids, request->blocks * sizeof *ids);
    whole.requests[whole.count] = *request;
    whole.requests[whole.count++].ids = ids;
    ids += request->blocks;
  }
  if (!trace_walk_end(walk) || whole.count != trace->request_count ||
      (uint64_t)(ids - whole.ids) != trace->accesses)
    abort();
  return whole;
}

/* The same of a name, as a group's set-up: 0, or -1 if there is no such trace. */
static inline int whole_trace_load(const char *name, struct trace **trace,
                                   struct whole_trace *whole) {
  char why[256];
  *trace = trace_load(name, NULL, why, sizeof why);
  if (*trace == NULL) return -1;
  *whole = whole_trace_of(*trace);
  return 0;
}

static inline void whole_trace_free(struct whole_trace *whole) {
  free(whole->requests);
  free(whole->ids);
}

#endif
