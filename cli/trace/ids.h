/* cli/trace/ids.h - renames 64-bit ids to 0, 1, 2, ... in the order of first appearance.
 *
 * Linear probing over a power of two, at most half full. Traces are our own files or the user's,
 * so the hash need not resist an adversary, only the patterns of counters.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_TRACE_IDS_H
#define CLI_TRACE_IDS_H

#include <stdbool.h>
#include <stdint.h>

struct ids {
  uint64_t *keys;
  uint32_t *names; /* UINT32_MAX: slot is free */
  uint64_t slots;  /* a power of two, 0 before the first */
  uint32_t count;
};

/* The dense name of `key`; false when out of memory or of names. Starts from a zeroed struct. */
bool ids_name(struct ids *ids, uint64_t key, uint32_t *name);

/* A key for `id` behind `parent`, a dense name: all but one to one (64 bits of a hash). */
uint64_t ids_pair(uint32_t parent, uint64_t id);

void ids_finish(struct ids *ids);

#endif
