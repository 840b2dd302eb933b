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

#define NEVER UINT32_MAX

struct offline {
  const struct sim_pass *pass;
  uint32_t *next; /* by access: when the same block is used next, or NEVER */
  uint32_t *last; /* by id: its last access so far; then free for use */
  uint8_t *read;  /* by id: has served a request since it entered */
  struct sim_heap held;
};

static void offline_finish(struct offline *off) {
  free(off->next);
  free(off->last);
  free(off->read);
  sim_heap_finish(&off->held);
}

static int offline_init(struct offline *off, const struct sim_pass *pass) {
  const uint64_t accesses = pass->trace->accesses, unique = pass->trace->unique;
  *off = (struct offline){.pass = pass};
  if (pass->options->in_flight > 0) {
    snprintf(pass->why, pass->why_bytes,
             "%s is of one request at a time: with requests in flight the bound is `infinite`",
             pass->options->policy);
    return -1;
  }
  if (pass->options->order == SIM_STORE) {
    snprintf(pass->why, pass->why_bytes, "%s knows no order but front and back",
             pass->options->policy);
    return -1;
  }
  if (accesses >= NEVER) {
    snprintf(pass->why, pass->why_bytes, "%s knows no future of more than %u accesses",
             pass->options->policy, NEVER - 1);
    return -1;
  }
  off->next = malloc((accesses + 1) * sizeof *off->next);
  off->last = malloc((unique + 1) * sizeof *off->last);
  off->read = calloc(unique + 1, sizeof *off->read);
  if (off->next == NULL || off->last == NULL || off->read == NULL ||
      !sim_heap_init(&off->held, pass->trace->unique)) {
    snprintf(pass->why, pass->why_bytes, "out of memory for %llu accesses",
             (unsigned long long)accesses);
    offline_finish(off);
    return -1;
  }
  memset(off->next, 0xff, (accesses + 1) * sizeof *off->next);
  memset(off->last, 0xff, (unique + 1) * sizeof *off->last);
  return 0;
}

/* Fills `next`, as times of accesses in the order of touching, or as numbers of requests. Of a block
 * twice in a request the first `next` is then this request: what is done with it the second undoes. */
static void look_ahead(struct offline *off, bool by_request) {
  const struct sim_pass *pass = off->pass;
  const struct trace_request *request;
  uint32_t time = 0;
  for (uint32_t number = 0; (request = trace_walk_next(pass->walk)) != NULL; number++) {
    for (uint32_t i = 0; i < request->blocks; i++, time++) {
      const struct sim_part all = {.end = request->blocks};
      const uint32_t id = request->ids[by_request ? i : sim_at(&all, pass->options->order, i)];
      if (off->last[id] != NEVER) off->next[off->last[id]] = by_request ? number : time;
      off->last[id] = time;
    }
  }
  trace_walk_rewind(pass->walk);
}

static void count_hits(struct offline *off, const struct trace_request *request) {
  struct sim_result *result = off->pass->result;
  uint32_t hit = 0;
  for (; hit < request->blocks && sim_heap_holds(&off->held, request->ids[hit]); hit++) {
    result->writes_read += !off->read[request->ids[hit]];
    off->read[request->ids[hit]] = 1;
  }
  result->prefix_hit_blocks += hit;
  sim_count_tokens(result, sim_tokens(request, hit, off->pass->trace->block_tokens));
}

int sim_belady(const struct sim_pass *pass) {
  struct offline off;
  const struct trace_request *request;
  uint64_t time = 0;
  if (offline_init(&off, pass) < 0) return -1;
  look_ahead(&off, false);
  while ((request = trace_walk_next(pass->walk)) != NULL) {
    count_hits(&off, request);
    for (uint32_t i = 0; i < request->blocks; i++, time++) {
      const struct sim_part all = {.end = request->blocks};
      const uint32_t id = request->ids[sim_at(&all, pass->options->order, i)];
      if (!sim_heap_holds(&off.held, id)) {
        pass->result->misses++;
        off.read[id] = 0;
        if (off.held.count == pass->options->blocks) sim_heap_take_max(&off.held);
      }
      sim_heap_put(&off.held, id, off.next[time]);
    }
  }
  offline_finish(&off);
  pass->result->ssd_writes = pass->result->misses;
  return 0;
}

/* Orders by next use, then by depth; a depth is below TRACE_BLOCKS_MAX = 2^22. */
static uint64_t opt_key(uint32_t next_request, uint32_t depth) {
  return (uint64_t)next_request << 22 | depth;
}

static void opt_request(struct offline *off, const struct trace_request *request,
                        const uint32_t *next, uint32_t *new) {
  struct sim_result *result = off->pass->result;
  count_hits(off, request);
  for (uint32_t i = 0; i < request->blocks; i++) {
    const uint32_t id = request->ids[i];
    new[id] = !sim_heap_holds(&off->held, id); /* 1: new with this request */
    result->misses += new[id];
  }
  for (uint32_t i = 0; i < request->blocks; i++) {
    const uint32_t id = request->ids[i];
    if (next[i] != NEVER)
      sim_heap_put(&off->held, id, opt_key(next[i], i));
    else if (sim_heap_holds(&off->held, id))
      sim_heap_remove(&off->held, id);
  }
  while (off->held.count > off->pass->options->blocks) sim_heap_take_max(&off->held);
  for (uint32_t i = 0; i < request->blocks; i++) { /* written are those that entered and stay */
    const uint32_t id = request->ids[i];
    if (new[id] != 0 && sim_heap_holds(&off->held, id)) {
      result->ssd_writes++;
      off->read[id] = 0;
    }
    new[id] = 0;
  }
}

int sim_opt(const struct sim_pass *pass) {
  struct offline off;
  const struct trace_request *request;
  if (offline_init(&off, pass) < 0) return -1;
  look_ahead(&off, true);
  const uint32_t *next = off.next;
  while ((request = trace_walk_next(pass->walk)) != NULL) {
    opt_request(&off, request, next, off.last);
    next += request->blocks;
  }
  offline_finish(&off);
  return 0;
}
