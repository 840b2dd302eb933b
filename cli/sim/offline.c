/* cli/sim/offline.c - the bounds: what a cache that knew the future would hit.
 *
 * belady: block level, forced insertion (Belady 1966): on a miss the block whose next use lies
 *   farthest leaves, and the new one enters.
 * opt: what a server could use at best. All blocks of a request are used at once, and after it any
 *   of them, or of those held before, may stay. Keep those whose next use comes first. Keeping a
 *   block from one use to the next is an interval; at every moment at most `size` of the chosen
 *   intervals may overlap, and giving up the one that ends last is optimal. An ancestor is used
 *   whenever its descendant is, so its interval ends no later; ties go to the shallower block, so
 *   what is held always consists of whole prefixes, and block hits are prefix hits.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/sim/heap.h"
#include "cli/sim/tier.h"

#define NEVER UINT64_MAX

struct offline {
  const struct trace *trace;
  enum sim_order order;
  uint64_t *next;    /* by access: when the same block is used next, or NEVER */
  uint64_t *scratch; /* by id */
  struct sim_heap held;
};

static int offline_init(struct offline *off, const struct trace *trace, enum sim_order order,
                        char *why, size_t why_bytes) {
  memset(off, 0, sizeof *off);
  off->trace = trace;
  off->order = order;
  off->next = malloc((trace->accesses + 1) * sizeof *off->next);
  off->scratch = malloc((trace->unique + 1) * sizeof *off->scratch);
  if (off->next == NULL || off->scratch == NULL || !sim_heap_init(&off->held, trace->unique)) {
    snprintf(why, why_bytes, "out of memory for %llu accesses",
             (unsigned long long)trace->accesses);
    free(off->next);
    free(off->scratch);
    return -1;
  }
  memset(off->scratch, 0xff, (trace->unique + 1) * sizeof *off->scratch);
  return 0;
}

static void offline_finish(struct offline *off) {
  free(off->next);
  free(off->scratch);
  sim_heap_finish(&off->held);
}

/* Times are positions in the sequence of accesses, in the order of touching. */
static void find_next_access(struct offline *off) {
  uint64_t time = off->trace->accesses;
  for (uint64_t r = off->trace->request_count; r-- > 0;) {
    const struct trace_request *request = &off->trace->requests[r];
    for (uint32_t i = request->blocks; i-- > 0;) {
      const uint32_t id = request->ids[sim_at(request, off->order, i)];
      off->next[--time] = off->scratch[id];
      off->scratch[id] = time;
    }
  }
}

/* Times are request numbers; a block twice in a request is used once. */
static void find_next_request(struct offline *off) {
  uint64_t access = off->trace->accesses;
  for (uint64_t r = off->trace->request_count; r-- > 0;) {
    const struct trace_request *request = &off->trace->requests[r];
    access -= request->blocks;
    for (uint32_t i = 0; i < request->blocks; i++)
      off->next[access + i] = off->scratch[request->ids[i]];
    for (uint32_t i = 0; i < request->blocks; i++) off->scratch[request->ids[i]] = r;
  }
}

static void count_prefix(const struct offline *off, const struct trace_request *request,
                         struct sim_result *result) {
  uint32_t hit = 0;
  while (hit < request->blocks && sim_heap_holds(&off->held, request->ids[hit])) hit++;
  result->prefix_hit_blocks += hit;
  result->prefix_hit_tokens += sim_tokens(request, hit, off->trace->block_tokens);
}

int sim_belady(const struct trace *trace, const struct sim_options *options,
               struct sim_result *result, char *why, size_t why_bytes) {
  struct offline off;
  uint64_t time = 0;
  if (offline_init(&off, trace, options->order, why, why_bytes) < 0) return -1;
  find_next_access(&off);
  for (uint64_t r = 0; r < trace->request_count; r++) {
    const struct trace_request *request = &trace->requests[r];
    count_prefix(&off, request, result);
    for (uint32_t i = 0; i < request->blocks; i++, time++) {
      const uint32_t id = request->ids[sim_at(request, off.order, i)];
      if (!sim_heap_holds(&off.held, id)) {
        result->misses++;
        if (off.held.count == options->blocks) sim_heap_take_max(&off.held);
      }
      sim_heap_put(&off.held, id, off.next[time]);
    }
  }
  offline_finish(&off);
  result->ssd_writes = result->misses;
  return 0;
}

/* Orders by next use, then by depth; a depth is below TRACE_BLOCKS_MAX = 2^22. */
static uint64_t opt_key(uint64_t next_request, uint32_t depth) {
  return next_request << 22 | depth;
}

static void opt_request(struct offline *off, const struct trace_request *request,
                        const uint64_t *next, uint64_t size, struct sim_result *result) {
  count_prefix(off, request, result);
  for (uint32_t i = 0; i < request->blocks; i++) {
    const uint32_t id = request->ids[i];
    off->scratch[id] = !sim_heap_holds(&off->held, id); /* 1: new with this request */
    result->misses += off->scratch[id];
  }
  for (uint32_t i = 0; i < request->blocks; i++) {
    const uint32_t id = request->ids[i];
    if (next[i] != NEVER)
      sim_heap_put(&off->held, id, opt_key(next[i], i));
    else if (sim_heap_holds(&off->held, id))
      sim_heap_remove(&off->held, id);
  }
  while (off->held.count > size) sim_heap_take_max(&off->held);
  for (uint32_t i = 0; i < request->blocks; i++) { /* written are those that entered and stay */
    const uint32_t id = request->ids[i];
    result->ssd_writes += sim_heap_holds(&off->held, id) ? off->scratch[id] : 0;
    off->scratch[id] = 0;
  }
}

int sim_opt(const struct trace *trace, const struct sim_options *options, struct sim_result *result,
            char *why, size_t why_bytes) {
  struct offline off;
  if (offline_init(&off, trace, options->order, why, why_bytes) < 0) return -1;
  find_next_request(&off);
  const uint64_t *next = off.next;
  for (uint64_t r = 0; r < trace->request_count; r++) {
    opt_request(&off, &trace->requests[r], next, options->blocks, result);
    next += trace->requests[r].blocks;
  }
  offline_finish(&off);
  return 0;
}
