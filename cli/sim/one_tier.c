/* cli/sim/one_tier.c - one tier of unit-size blocks under one policy; and one without limit.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "cli/sim/tier.h"

static void count_hits(struct sim_tier *tier, const struct trace_request *request,
                       uint32_t block_tokens, struct sim_result *result) {
  uint32_t hit = 0;
  while (hit < request->blocks && sim_tier_holds(tier, request->ids[hit])) {
    sim_tier_prefetch(tier, request->ids[hit + TRACE_AHEAD]);
    result->writes_read += sim_tier_read(tier, request->ids[hit]);
    hit++;
  }
  result->prefix_hit_blocks += hit;
  sim_count_tokens(result, sim_tokens(request, hit, block_tokens));
}

int sim_one_tier(const struct sim_pass *pass) {
  const struct sim_options *options = pass->options;
  const uint32_t block_tokens = pass->trace->block_tokens;
  struct sim_result *result = pass->result;
  const struct trace_request *request;
  struct sim_tier tier;
  if (sim_tier_init(&tier, options->policy, options->params, options->blocks, pass->trace->unique,
                    options->seed, pass->why, pass->why_bytes) < 0)
    return -1;
  for (uint64_t number = 1; (request = trace_walk_next(pass->walk)) != NULL; number++) {
    kvstow_access access;
    count_hits(&tier, request, block_tokens, result);
    sim_access_request(&access, request, number);
    for (uint32_t i = 0; i < request->blocks; i++) {
      const uint32_t at = sim_at(request, options->order, i);
      const uint32_t id = request->ids[at];
      sim_tier_prefetch(&tier, request->ids[i + TRACE_AHEAD]);
      sim_access_block(&access, request, at, block_tokens);
      sim_access_parent(&access, request, at, &tier);
      if (sim_tier_holds(&tier, id)) {
        sim_tier_touch(&tier, id, &access);
        continue;
      }
      result->misses++;
      if (tier.count == tier.capacity) {
        const uint32_t gone = sim_tier_victim(&tier, &access);
        if (gone == access.parent) access.parent = KVSTOW_NO_ID;
      }
      sim_tier_insert(&tier, id, &access);
    }
  }
  sim_tier_finish(&tier);
  result->ssd_writes = result->misses;
  return 0;
}

int sim_infinite(const struct sim_pass *pass) {
  struct sim_result *result = pass->result;
  const struct trace_request *request;
  unsigned char *held = calloc(pass->trace->unique, 1);
  if (held == NULL) {
    snprintf(pass->why, pass->why_bytes, "out of memory for %u blocks", pass->trace->unique);
    return -1;
  }
  while ((request = trace_walk_next(pass->walk)) != NULL) {
    uint32_t hit = 0;
    for (; hit < request->blocks && held[request->ids[hit]] != 0; hit++) {
      result->writes_read += held[request->ids[hit]] == SIM_HELD;
      held[request->ids[hit]] |= SIM_READ;
    }
    result->prefix_hit_blocks += hit;
    sim_count_tokens(result, sim_tokens(request, hit, pass->trace->block_tokens));
    for (uint32_t i = 0; i < request->blocks; i++) {
      result->misses += held[request->ids[i]] == 0;
      held[request->ids[i]] |= SIM_HELD;
    }
  }
  free(held);
  result->size_blocks = pass->trace->unique;
  result->ssd_writes = result->misses;
  return 0;
}
