/* cli/trace/load.c - reads a trace once, packs it, and works out what is to be known of it.
 *
 * The formats do not say how many tokens a block holds, but lengths and counts do: a request of n
 * blocks has floor(input / b) = n (full blocks only) or ceil(input / b) = n, so that every request
 * narrows an interval in which b lies; the power of two inside it is the answer. Where no request has two blocks,
 * nothing bounds it from above: a block then holds the longest.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/trace/packed.h"
#include "cli/trace/trace.h"

#define UNBOUNDED 2e9

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
  if (bounds->high == UNBOUNDED) {
    uint32_t tokens = 1;
    while (tokens < 2 * bounds->low) tokens *= 2; /* low: half the longest */
    return tokens;
  }
  for (uint32_t tokens = 1u << 20; tokens > 0; tokens >>= 1)
    if (tokens > bounds->low && tokens < bounds->high) return tokens;
  return 0;
}

struct trace *trace_create(const char *name) {
  struct trace *trace = calloc(1, sizeof *trace);
  if (trace == NULL) return NULL;
  trace->first_ms = UINT64_MAX;
  trace->name = strdup(name);
  trace->packed = malloc(sizeof *trace->packed);
  if (trace->packed != NULL) packed_init(trace->packed);
  if (trace->name != NULL && trace->packed != NULL) return trace;
  trace_free(trace);
  return NULL;
}

void trace_free(struct trace *trace) {
  if (trace == NULL) return;
  if (trace->packed != NULL) packed_finish(trace->packed);
  free(trace->packed);
  free(trace->name);
  free(trace);
}

bool trace_append(struct trace *trace, const struct trace_request *request) {
  if (!packed_append(trace->packed, request)) return false;
  trace->request_count++;
  trace->accesses += request->blocks;
  trace->input_tokens += request->input_tokens;
  trace->input_tokens_squared += (double)request->input_tokens * request->input_tokens;
  if (request->timestamp_ms < trace->first_ms) trace->first_ms = request->timestamp_ms;
  if (request->timestamp_ms > trace->last_ms) trace->last_ms = request->timestamp_ms;
  if (request->blocks > trace->longest) trace->longest = request->blocks;
  return true;
}

static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int keep_failed(const struct trace *trace, char *why, size_t why_bytes) {
  snprintf(why, why_bytes, "%s: keeping the trace: %s", trace->name, strerror(errno));
  return -1;
}

static int load(struct trace *trace, struct trace_reader *reader,
                const struct trace_options *options, char *why, size_t why_bytes) {
  const bool guess = options->block_tokens == 0;
  struct bounds bounds = {.low = 0, .high = UNBOUNDED};
  struct trace_request request = {.ids = NULL};
  while (options->limit == 0 || trace->request_count < options->limit) {
    const int rc = trace_next(reader, &request);
    if (rc == 0) break;
    if (rc < 0) {
      snprintf(why, why_bytes, "%s", trace_why(reader));
      return -1;
    }
    if (!trace_append(trace, &request)) return keep_failed(trace, why, why_bytes);
    if (guess && trace_block_tokens(reader) == 0) narrow(&bounds, &request);
  }
  if (!spool_seal(&trace->packed->spool)) return keep_failed(trace, why, why_bytes);
  if (trace->accesses == 0) {
    snprintf(why, why_bytes, "%s: no requests with blocks in it", trace->name);
    return -1;
  }
  trace->unique = trace_unique(reader);
  trace->block_tokens =
      options->block_tokens != 0 ? options->block_tokens : trace_block_tokens(reader);
  if (trace->block_tokens == 0) trace->block_tokens = power_of_two_within(&bounds);
  if (trace->block_tokens == 0) {
    snprintf(why, why_bytes,
             "%s: can't tell the tokens a block from lengths and counts (between %.1f and %.1f): "
             "say --block-tokens",
             trace->name, bounds.low, bounds.high);
    return -1;
  }
  return 0;
}

struct trace *trace_load(const char *name, const struct trace_options *options, char *why,
                         size_t why_bytes) {
  static const struct trace_options defaults = {.limit = 0};
  if (options == NULL) options = &defaults;
  const double start = seconds_now();
  struct trace_reader *reader = trace_open(name, options->format, why, why_bytes);
  if (reader == NULL) return NULL;
  struct trace *trace = trace_create(name);
  if (trace == NULL) {
    snprintf(why, why_bytes, "%s: out of memory", name);
  } else if (load(trace, reader, options, why, why_bytes) < 0) {
    trace_free(trace);
    trace = NULL;
  } else {
    trace->load_seconds = seconds_now() - start;
  }
  trace_close(reader);
  return trace;
}
