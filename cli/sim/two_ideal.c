/* cli/sim/two_ideal.c - RAM and SSD as a textbook has them.
 *
 * Exclusive: a block is in one tier. A block used goes to RAM; what RAM evicts goes to SSD (one
 * write) if its policy admits it there; what SSD evicts is gone. With LRU in both, the hits of the two together are those of one
 * LRU of the combined size.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "cli/sim/flight.h"
#include "cli/sim/tier.h"

struct two {
  struct sim_tier ram, ssd;
  const struct trace *trace;
  enum sim_order order;
  struct sim_facts *facts;
  struct sim_result *result;
};

static bool holds(void *self, uint32_t id) {
  const struct two *two = self;
  return sim_tier_holds(&two->ram, id) || sim_tier_holds(&two->ssd, id);
}

static uint32_t begin(void *self, const struct trace_request *request) {
  struct two *two = self;
  struct sim_hits hits = {.ram = 0};
  sim_facts_learn(two->facts, request);
  for (; hits.ram + hits.ssd < request->blocks;) {
    const uint32_t id = request->ids[hits.ram + hits.ssd];
    const bool ram = sim_tier_holds(&two->ram, id);
    if (!ram && !sim_tier_holds(&two->ssd, id)) break;
    if (!ram) two->result->writes_read += sim_tier_read(&two->ssd, id);
    sim_hits_add(&hits, request, ram, two->trace->block_tokens);
  }
  return sim_hits_count(&hits, two->result);
}

/* Makes room for one block in RAM. */
static void demote(struct two *two, const kvstow_access *incoming) {
  const uint32_t id = sim_tier_victim(&two->ram, incoming);
  kvstow_access access = *incoming;
  if (!sim_tier_admits(&two->ram, id, two->ssd.capacity)) return;
  sim_access_other(&access, two->facts, id, &two->ssd, two->trace->block_tokens);
  if (two->ssd.count == two->ssd.capacity) {
    const uint32_t gone = sim_tier_victim(&two->ssd, &access);
    if (gone == access.parent) access.parent = KVSTOW_NO_ID;
  }
  sim_tier_insert(&two->ssd, id, &access);
  two->result->ssd_writes++;
}

/* Whether the block was held nowhere. */
static bool use_block(struct two *two, const struct sim_part *part, uint32_t at,
                      kvstow_access *access) {
  const uint32_t id = part->request->ids[at];
  sim_access_block(access, part->request, at, two->trace->block_tokens);
  sim_access_parent(access, part, two->order, at, &two->ram);
  if (sim_tier_holds(&two->ram, id)) {
    sim_tier_touch(&two->ram, id, access);
    return false;
  }
  const bool read = sim_tier_holds(&two->ssd, id);
  if (read) sim_tier_remove(&two->ssd, id);
  if (two->ram.count == two->ram.capacity) demote(two, access);
  sim_access_parent(access, part, two->order, at, &two->ram);
  sim_tier_insert(&two->ram, id, access);
  return !read;
}

static uint32_t use(void *self, const struct sim_part *part) {
  struct two *two = self;
  kvstow_access access;
  uint32_t stored = 0;
  sim_access_part(&access, part);
  for (uint32_t i = 0; i < part->end - part->first; i++)
    stored += use_block(two, part, sim_at(part, two->order, i), &access);
  return stored;
}

int sim_two_ideal(const struct sim_pass *pass) {
  const struct sim_options *options = pass->options;
  static const struct sim_cache cache = {.begin = begin, .holds = holds, .use = use};
  struct two two = {.trace = pass->trace, .order = options->order, .result = pass->result};
  int rc = -1;
  two.facts = sim_facts_create(pass->trace, pass->why, pass->why_bytes);
  if (two.facts == NULL || sim_two_tiers_init(&two.ram, &two.ssd, pass->trace, options,
                                              options->ssd_blocks, pass->why, pass->why_bytes) < 0)
    goto out;
  rc = sim_flights(pass, &cache, &two, NULL);
  if (rc == 0) rc = sim_tier_check(&two.ram, pass);
  if (rc == 0) rc = sim_tier_check(&two.ssd, pass);
out:
  sim_tier_finish(&two.ram);
  sim_tier_finish(&two.ssd);
  free(two.facts);
  return rc;
}
