/* cli/trace/packed.h - requests in a few bytes each.
 *
 * Ids are dense by first appearance, so that a chain is a few runs of consecutive ids: a run is its
 * distance from where the last one ended, and its length. Fields equal to those of the request
 * before cost a bit. The Mooncake trace takes 16 bytes a request, a block trace 2 to 5.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_PACKED_H
#define CLI_TRACE_PACKED_H

#include "cli/trace/spool.h"
#include "cli/trace/trace.h"

struct packed {
  struct spool spool;
  struct trace_request last; /* as appended; without ids */
  uint32_t next_id;          /* behind the last run */
};

void packed_init(struct packed *packed);
void packed_finish(struct packed *packed);

/* False when there is no memory or no room on disk: errno tells. */
bool packed_append(struct packed *packed, const struct trace_request *request);

/* How a trace is made: created, appended to, its spool sealed, `unique` and `block_tokens` set. */
struct trace *trace_create(const char *name); /* NULL when out of memory */
bool trace_append(struct trace *trace, const struct trace_request *request); /* as packed_append */

#endif
