/* cli/trace/source.h - what a trace source looks like to the reader; internal to cli/trace/.
 *
 * A source embeds `struct trace_source` first and fills in requests whose ids are already dense.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_SOURCE_H
#define CLI_TRACE_SOURCE_H

#include <stdarg.h>

#include "cli/trace/input.h"
#include "cli/trace/trace.h"

struct trace_source {
  int (*next)(struct trace_source *source, struct trace_request *request); /* as trace_next() */
  void (*close)(struct trace_source *source);
  uint32_t unique;
  uint32_t block_tokens;
  char why[INPUT_WHY_BYTES];
};

/* Says in `why` what is wrong with the line handed out last, from its `column` on (from 1; 0: with all of
 * it). -1. */
__attribute__((format(printf, 4, 0))) int trace_source_fail(struct trace_source *source,
                                                            const struct input *input,
                                                            size_t column, const char *format,
                                                            va_list args);

/* Bounds on one request: beyond them a file is not a trace but a mistake. */
#define TRACE_BLOCKS_MAX (1u << 22)
#define TRACE_TOKENS_MAX (1u << 30)

enum jsonl_dialect { JSONL_ANY, JSONL_MOONCAKE, JSONL_QWEN };

/* These take the input over, failing or not. `params` may be NULL. */
struct trace_source *jsonl_open(struct input *input, enum jsonl_dialect dialect, char *why,
                                size_t why_bytes);
struct trace_source *oracle_open(struct input *input, char *why, size_t why_bytes);
struct trace_source *csv_open(struct input *input, const char *params, char *why, size_t why_bytes);

struct trace_source *recorded_open(struct input *input, char *why, size_t why_bytes);

/* Generators. `name` is what stands behind `gen:`. */
struct trace_source *conversations_open(const char *params, char *why, size_t why_bytes);
struct trace_source *traffic_open(const char *name, char *why, size_t why_bytes);

/* Whether the beginning of a file looks like this format. */
bool oracle_likely(const char *bytes, size_t count);
bool recorded_likely(const char *bytes, size_t count);

/* Whether csv_open() would take them. */
bool csv_params_ok(const char *params, char *why, size_t why_bytes);

#endif
