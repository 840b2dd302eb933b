/* cli/trace/load.c - a whole trace in memory.
 *
 * The formats do not say how many tokens a block holds, but lengths and counts do: a request of n
 * blocks has floor(input / b) = n (full blocks only) or ceil(input / b) = n, so that every request
 * narrows an interval in which b lies; the power of two inside it is the answer.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/trace/trace.h"

struct bounds { /* block_tokens lies strictly between */
  double low, high;
};

static void narrow(struct bounds *bounds, const struct trace_request *request) {
  if (request->blocks == 0) return;
  const double low = (double)request->input_tokens / (request->blocks + 1.0);
  if (low > bounds->low) bounds->low = low;
  if (request->blocks > 1) {
    const double high = (double)request->input_tokens / (request->blocks - 1.0);
    if (high < bounds->high) bounds->high = high;
  }
}

static uint32_t power_of_two_within(const struct bounds *bounds) {
  for (uint32_t tokens = 1u << 20; tokens > 0; tokens >>= 1)
    if (tokens > bounds->low && tokens < bounds->high) return tokens;
  return 0;
}

static void *grow(void *array, uint64_t needed, uint64_t *size, size_t element_bytes) {
  if (needed <= *size) return array;
  uint64_t grown = *size * 2 > needed ? *size * 2 : needed;
  if (grown < 4096) grown = 4096;
  void *moved = realloc(array, grown * element_bytes);
  if (moved != NULL) *size = grown;
  return moved;
}

static int append(struct trace *trace, const struct trace_request *request, uint64_t *requests_size,
                  uint64_t *ids_size) {
  struct trace_request *requests =
      grow(trace->requests, trace->request_count + 1, requests_size, sizeof *requests);
  if (requests == NULL) return -1;
  trace->requests = requests;
  uint32_t *ids = grow(trace->ids, trace->accesses + request->blocks + 1, ids_size, sizeof *ids);
  if (ids == NULL) return -1;
  trace->ids = ids;
  if (request->blocks > 0)
    memcpy(ids + trace->accesses, request->ids, request->blocks * sizeof *ids);
  requests[trace->request_count++] = *request;
  trace->accesses += request->blocks;
  trace->input_tokens += request->input_tokens;
  return 0;
}

struct trace *trace_load(const char *name, uint64_t limit, uint32_t block_tokens, char *why,
                         size_t why_bytes) {
  uint64_t requests_size = 0, ids_size = 0;
  struct bounds bounds = {.low = 0, .high = 2e9};
  struct trace_request request;
  struct trace *trace = NULL;
  struct trace_reader *reader = trace_open(name, why, why_bytes);
  if (reader == NULL) return NULL;
  trace = calloc(1, sizeof *trace);
  if (trace == NULL || (trace->name = strdup(name)) == NULL) goto no_memory;
  int rc = 0;
  while ((limit == 0 || trace->request_count < limit) && (rc = trace_next(reader, &request)) > 0) {
    if (append(trace, &request, &requests_size, &ids_size) < 0) goto no_memory;
    narrow(&bounds, &request);
  }
  if (rc < 0) {
    snprintf(why, why_bytes, "%s", trace_why(reader));
    goto fail;
  }
  if (trace->accesses == 0) {
    snprintf(why, why_bytes, "%s: no requests with blocks in it", name);
    goto fail;
  }
  uint32_t *ids = trace->ids;
  for (uint64_t i = 0; i < trace->request_count; i++) {
    trace->requests[i].ids = ids;
    ids += trace->requests[i].blocks;
  }
  trace->unique = trace_unique(reader);
  trace->block_tokens = block_tokens != 0 ? block_tokens : trace_block_tokens(reader);
  if (trace->block_tokens == 0) trace->block_tokens = power_of_two_within(&bounds);
  if (trace->block_tokens == 0) {
    snprintf(why, why_bytes,
             "%s: can't tell the tokens a block from lengths and counts (between %.1f and %.1f): "
             "say --block-tokens",
             name, bounds.low, bounds.high);
    goto fail;
  }
  trace_close(reader);
  return trace;
no_memory:
  snprintf(why, why_bytes, "%s: out of memory", name);
fail:
  trace_close(reader);
  trace_free(trace);
  return NULL;
}

void trace_free(struct trace *trace) {
  if (trace == NULL) return;
  free(trace->name);
  free(trace->requests);
  free(trace->ids);
  free(trace);
}
