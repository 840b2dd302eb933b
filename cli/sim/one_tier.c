/* cli/sim/one_tier.c - one tier of unit-size blocks under one policy; and one without limit.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "cli/sim/flight.h"
#include "cli/sim/tier.h"

struct one {
  struct sim_tier tier;
  enum sim_order order;
  uint32_t block_tokens;
  struct sim_result *result;
};

static bool one_holds(void *self, uint32_t id) {
  const struct one *one = self;
  return sim_tier_holds(&one->tier, id);
}

static uint32_t one_begin(void *self, const struct trace_request *request) {
  struct one *one = self;
  uint32_t hit = 0;
  while (hit < request->blocks && sim_tier_holds(&one->tier, request->ids[hit])) {
    sim_tier_prefetch(&one->tier, request->ids[hit + TRACE_AHEAD]);
    one->result->writes_read += sim_tier_read(&one->tier, request->ids[hit]);
    hit++;
  }
  one->result->prefix_hit_blocks += hit;
  sim_count_tokens(one->result, sim_tokens(request, hit, one->block_tokens));
  return hit;
}

static uint32_t one_use(void *self, const struct sim_part *part) {
  struct one *one = self;
  struct sim_tier *tier = &one->tier;
  const struct trace_request *request = part->request;
  kvstow_access access;
  uint32_t stored = 0;
  sim_access_part(&access, part);
  for (uint32_t i = 0; i < part->end - part->first; i++) {
    const uint32_t at = sim_at(part, one->order, i);
    const uint32_t id = request->ids[at];
    sim_tier_prefetch(tier, request->ids[part->first + i + TRACE_AHEAD]);
    sim_access_block(&access, request, at, one->block_tokens);
    sim_access_parent(&access, part, one->order, at, tier);
    if (sim_tier_holds(tier, id)) {
      sim_tier_touch(tier, id, &access);
      continue;
    }
    stored++;
    if (tier->count == tier->capacity) {
      const uint32_t gone = sim_tier_victim(tier, &access);
      if (gone == access.parent) access.parent = KVSTOW_NO_ID;
    }
    sim_tier_insert(tier, id, &access);
  }
  return stored;
}

int sim_one_tier(const struct sim_pass *pass) {
  static const struct sim_cache cache = {.begin = one_begin, .holds = one_holds, .use = one_use};
  const struct sim_options *options = pass->options;
  struct one one = {
      .order = options->order, .block_tokens = pass->trace->block_tokens, .result = pass->result};
  if (sim_tier_init(&one.tier, options->policy, options->params, options->blocks,
                    pass->trace->unique, options->seed, pass->why, pass->why_bytes) < 0)
    return -1;
  int rc = sim_flights(pass, &cache, &one, &pass->result->ssd_writes);
  if (rc == 0) rc = sim_tier_check(&one.tier, pass);
  sim_tier_finish(&one.tier);
  return rc;
}

/* ---- room for all ---- */

struct infinite {
  unsigned char *held; /* by id: 0, or SIM_HELD, or that and SIM_READ */
  uint32_t block_tokens;
  struct sim_result *result;
};

static bool infinite_holds(void *self, uint32_t id) {
  const struct infinite *infinite = self;
  return infinite->held[id] != 0;
}

static uint32_t infinite_begin(void *self, const struct trace_request *request) {
  const struct infinite *infinite = self;
  unsigned char *held = infinite->held;
  uint32_t hit = 0;
  for (; hit < request->blocks && held[request->ids[hit]] != 0; hit++) {
    infinite->result->writes_read += held[request->ids[hit]] == SIM_HELD;
    held[request->ids[hit]] |= SIM_READ;
  }
  infinite->result->prefix_hit_blocks += hit;
  sim_count_tokens(infinite->result, sim_tokens(request, hit, infinite->block_tokens));
  return hit;
}

static uint32_t infinite_use(void *self, const struct sim_part *part) {
  const struct infinite *infinite = self;
  uint32_t stored = 0;
  for (uint32_t i = part->first; i < part->end; i++) {
    unsigned char *held = &infinite->held[part->request->ids[i]];
    stored += *held == 0;
    *held |= SIM_HELD;
  }
  return stored;
}

int sim_infinite(const struct sim_pass *pass) {
  static const struct sim_cache cache = {
      .begin = infinite_begin, .holds = infinite_holds, .use = infinite_use};
  struct infinite infinite = {.held = calloc(pass->trace->unique, 1),
                              .block_tokens = pass->trace->block_tokens,
                              .result = pass->result};
  if (infinite.held == NULL) {
    snprintf(pass->why, pass->why_bytes, "out of memory for %u blocks", pass->trace->unique);
    return -1;
  }
  const int rc = sim_flights(pass, &cache, &infinite, &pass->result->ssd_writes);
  free(infinite.held);
  pass->result->size_blocks = pass->trace->unique;
  return rc;
}
