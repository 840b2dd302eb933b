/* cli/trace/ids.h - renames 64-bit ids to 0, 1, 2, ... in the order of first appearance.
 *
 * A table of cache lines, each of five keys beside their names, at most three quarters full: a look-up
 * waits for one line, hardly ever for a second. Many at once wait together (ids_names). Traces are our
 * own files or the user's, so the hash need not resist an adversary, only the patterns of counters.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_IDS_H
#define CLI_TRACE_IDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ids_line;

struct ids {
  struct ids_line *lines;
  unsigned line_bits; /* 2^line_bits lines, if there are any */
  uint32_t count;
};

/* The dense name of `key`; false when out of memory or of names. Starts from a zeroed struct. */
bool ids_name(struct ids *ids, uint64_t key, uint32_t *name);

/* The same for `count` of them, one after another, faster where there are many. False: some may have
 * names. */
bool ids_names(struct ids *ids, const uint64_t *keys, size_t count, uint32_t *names);

/* A key for `id` behind `parent`, a dense name: all but one to one (64 bits of a hash). */
uint64_t ids_pair(uint32_t parent, uint64_t id);

void ids_finish(struct ids *ids);

#endif
