/* cli/sim/one_tier.c - one tier of unit-size blocks under one policy; and one without limit.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "cli/sim/tier.h"

static void run_request(struct sim_tier *tier, const struct trace *trace, uint64_t number,
                        enum sim_order order, struct sim_result *result) {
  const struct trace_request *request = &trace->requests[number];
  kvstow_access access;
  uint32_t hit = 0;
  while (hit < request->blocks && sim_tier_holds(tier, request->ids[hit])) hit++;
  result->prefix_hit_blocks += hit;
  result->prefix_hit_tokens += sim_tokens(request, hit, trace->block_tokens);

  sim_access_request(&access, request, number + 1);
  for (uint32_t i = 0; i < request->blocks; i++) {
    const uint32_t at = sim_at(request, order, i);
    const uint32_t id = request->ids[at];
    sim_access_block(&access, request, at, trace->block_tokens);
    sim_access_parent(&access, request, at, tier);
    if (sim_tier_holds(tier, id)) {
      sim_tier_touch(tier, id, &access);
      continue;
    }
    result->misses++;
    if (tier->count == tier->capacity) {
      const uint32_t gone = sim_tier_victim(tier, &access);
      if (gone == access.parent) access.parent = KVSTOW_NO_ID;
    }
    sim_tier_insert(tier, id, &access);
  }
}

int sim_one_tier(const struct trace *trace, const struct sim_options *options,
                 struct sim_result *result, char *why, size_t why_bytes) {
  struct sim_tier tier;
  if (sim_tier_init(&tier, options->policy, options->params, options->blocks, trace->unique,
                    options->seed, why, why_bytes) < 0)
    return -1;
  for (uint64_t i = 0; i < trace->request_count; i++)
    run_request(&tier, trace, i, options->order, result);
  sim_tier_finish(&tier);
  result->ssd_writes = result->misses;
  return 0;
}

int sim_infinite(const struct trace *trace, struct sim_result *result, char *why,
                 size_t why_bytes) {
  unsigned char *seen = calloc(trace->unique, 1);
  if (seen == NULL) {
    snprintf(why, why_bytes, "out of memory for %u blocks", trace->unique);
    return -1;
  }
  for (uint64_t i = 0; i < trace->request_count; i++) {
    const struct trace_request *request = &trace->requests[i];
    uint32_t hit = 0;
    while (hit < request->blocks && seen[request->ids[hit]]) hit++;
    result->prefix_hit_blocks += hit;
    result->prefix_hit_tokens += sim_tokens(request, hit, trace->block_tokens);
    for (uint32_t j = 0; j < request->blocks; j++) {
      result->misses += !seen[request->ids[j]];
      seen[request->ids[j]] = 1;
    }
  }
  free(seen);
  result->size_blocks = trace->unique;
  result->ssd_writes = result->misses;
  return 0;
}
