/* cli/sim/tier.h - one tier of a simulation: a policy, and which blocks it holds.
 *
 * Ids are dense, so an entry is found by index: the policy's node and our flag lie side by side in
 * 24 bytes. Nothing here allocates after init. Internal to cli/sim/.
 *
 * Policies are users' code, too: a victim that the tier does not hold, or none while it holds some, would
 * give figures that mean nothing. Such a policy is not called again, and the pass fails.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLI_SIM_TIER_H
#define CLI_SIM_TIER_H

#include <kvstow/policy.h>
#include <stdbool.h>
#include <string.h>

#include "cli/sim/sim.h"

enum { SIM_HELD = 1, SIM_READ = 2 }; /* READ: served a request since it was inserted */

struct sim_entry {
  uint32_t node[KVSTOW_POLICY_NODE_BYTES / sizeof(uint32_t)];
  uint32_t held; /* 0, or HELD, or HELD and READ */
};

struct sim_tier {
  const kvstow_policy_ops *ops;
  void *policy;
  struct sim_entry *entries; /* by id */
  char *chunk;               /* the same, as kvstow_nodes wants it */
  kvstow_nodes nodes;
  uint32_t unique;
  uint64_t capacity;
  uint64_t count;
  void (*destroy)(void *policy);
  const char *name; /* of the policy, as the user gave it */
  bool broken;      /* the policy named a wrong victim: */
  uint32_t wrong;
  uint32_t scanned; /* then any block held is as good as another */
};

int sim_tier_init(struct sim_tier *tier, const char *policy, const char *params, uint64_t capacity,
                  uint32_t unique, uint64_t seed, char *why, size_t why_bytes);
void sim_tier_finish(struct sim_tier *tier); /* a zeroed tier is fine */

static inline bool sim_tier_holds(const struct sim_tier *tier, uint32_t id) {
  return tier->entries[id].held != 0;
}

/* The block serves a request. True the first time since it was inserted. */
static inline bool sim_tier_read(struct sim_tier *tier, uint32_t id) {
  const bool first = tier->entries[id].held == SIM_HELD;
  tier->entries[id].held |= SIM_READ;
  return first;
}

/* A hint: the entry will be looked at soon. */
static inline void sim_tier_prefetch(const struct sim_tier *tier, uint32_t id) {
  __builtin_prefetch(&tier->entries[id], 1);
}

static inline void sim_tier_insert(struct sim_tier *tier, uint32_t id,
                                   const kvstow_access *access) {
  memset(&tier->entries[id], 0, sizeof tier->entries[id]);
  tier->ops->insert(tier->policy, id, access);
  tier->entries[id].held = SIM_HELD;
  tier->count++;
}

static inline void sim_tier_touch(struct sim_tier *tier, uint32_t id, const kvstow_access *access) {
  tier->ops->touch(tier->policy, id, access);
}

/* The policy named `id`, which the tier does not hold: some block that it holds, or KVSTOW_NO_ID. */
uint32_t sim_tier_stray(struct sim_tier *tier, uint32_t id);

/* KVSTOW_NO_ID when the tier is empty. */
static inline uint32_t sim_tier_victim(struct sim_tier *tier, const kvstow_access *incoming) {
  uint32_t id = tier->ops->victim(tier->policy, incoming);
  if (id >= tier->unique || !sim_tier_holds(tier, id)) id = sim_tier_stray(tier, id);
  if (id != KVSTOW_NO_ID) {
    tier->entries[id].held = 0;
    tier->count--;
  }
  return id;
}

/* Whether what was the last victim is worth a place in the tier below. */
static inline bool sim_tier_admits(const struct sim_tier *tier, uint32_t id, uint64_t below) {
  return tier->ops->admit == NULL || tier->ops->admit(tier->policy, id, below) != 0;
}

static inline void sim_tier_remove(struct sim_tier *tier, uint32_t id) {
  tier->ops->remove(tier->policy, id);
  tier->entries[id].held = 0;
  tier->count--;
}

/* What a policy is told of the request's block `at`. The key is a scrambled id: one to one. */
static inline void sim_access_block(kvstow_access *access, const struct trace_request *request,
                                    uint32_t at, uint32_t block_tokens) {
  uint64_t key = request->ids[at] + 0x9e3779b97f4a7c15u;
  key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9u;
  key = (key ^ key >> 27) * 0x94d049bb133111ebu;
  access->key_lo = key ^ key >> 31;
  access->key_hi = request->ids[at];
  access->depth = at;
  const uint64_t before = (uint64_t)at * block_tokens;
  const uint64_t rest = request->input_tokens > before ? request->input_tokens - before : 0;
  access->tokens = rest < block_tokens ? (uint32_t)rest : block_tokens;
}

/* The blocks [first, end) of request number `number` (from 1), used at `now_ms`. */
struct sim_part {
  const struct trace_request *request;
  uint64_t number, now_ms;
  uint32_t first, end;
};

/* Index of the part's i-th block in the order of touching. */
static inline uint32_t sim_at(const struct sim_part *part, enum sim_order order, uint32_t i) {
  return order == SIM_FRONT ? part->first + i : part->end - 1 - i;
}

/* The block before, if `tier` holds it; where a part enters last to first, the one it continues. */
static inline void sim_access_parent(kvstow_access *access, const struct sim_part *part,
                                     enum sim_order order, uint32_t at,
                                     const struct sim_tier *tier) {
  const uint32_t *ids = part->request->ids;
  access->parent = KVSTOW_NO_ID;
  if (at > 0 && sim_tier_holds(tier, ids[at - 1]))
    access->parent = ids[at - 1];
  else if (order != SIM_FRONT && part->first > 0 && sim_tier_holds(tier, ids[part->first - 1]))
    access->parent = ids[part->first - 1];
}

/* What is common to all blocks of a part. */
static inline void sim_access_part(kvstow_access *access, const struct sim_part *part) {
  memset(access, 0, sizeof *access);
  access->request = part->number;
  access->session = part->request->session;
  access->now_ms = part->now_ms;
  access->chain_blocks = part->request->blocks;
  access->category = part->request->category;
}

/* What never changes about a block: its predecessor and its place in the chain. An id stands for a
 * prefix, so the first request that has it tells. Demotion needs them when no request is near. */
struct sim_facts {
  uint32_t parent; /* KVSTOW_NO_ID for the first of a chain */
  uint32_t depth;
};

/* By id, unknown as yet; free() it. NULL with `why` when out of memory. */
struct sim_facts *sim_facts_create(const struct trace *trace, char *why, size_t why_bytes);

/* A request's blocks become known. */
void sim_facts_learn(struct sim_facts *facts, const struct trace_request *request);

/* Turns an access of some block of a request into one of another block, which enters `tier` without
 * being asked for: demoted, say. */
static inline void sim_access_other(kvstow_access *access, const struct sim_facts *facts,
                                    uint32_t id, const struct sim_tier *tier,
                                    uint32_t block_tokens) {
  const struct trace_request alone = {.blocks = 1, .ids = &id, .input_tokens = block_tokens};
  sim_access_block(access, &alone, 0, block_tokens);
  access->depth = facts[id].depth;
  access->chain_blocks = 0;
  access->parent = facts[id].parent;
  if (access->parent != KVSTOW_NO_ID && !sim_tier_holds(tier, access->parent))
    access->parent = KVSTOW_NO_ID;
}

/* Tokens in the request's first `blocks` blocks: the last one may be partly filled. */
static inline uint64_t sim_tokens(const struct trace_request *request, uint64_t blocks,
                                  uint32_t block_tokens) {
  const uint64_t tokens = blocks * block_tokens;
  return tokens < request->input_tokens ? tokens : request->input_tokens;
}

/* A request's leading run held `tokens`. */
static inline void sim_count_tokens(struct sim_result *result, uint64_t tokens) {
  result->prefix_hit_tokens += tokens;
  result->prefix_hit_tokens_squared += (double)tokens * (double)tokens;
}

/* The leading run of one request, by tier. */
struct sim_hits {
  uint32_t ram, ssd;
  uint64_t ram_tokens, ssd_tokens;
};

/* The next block of the run is in RAM, or else on SSD. */
static inline void sim_hits_add(struct sim_hits *hits, const struct trace_request *request,
                                bool ram, uint32_t block_tokens) {
  const uint64_t before = (uint64_t)hits->ram + hits->ssd;
  const uint64_t tokens =
      sim_tokens(request, before + 1, block_tokens) - sim_tokens(request, before, block_tokens);
  if (ram) {
    hits->ram++;
    hits->ram_tokens += tokens;
  } else {
    hits->ssd++;
    hits->ssd_tokens += tokens;
  }
}

/* Their number. */
static inline uint32_t sim_hits_count(const struct sim_hits *hits, struct sim_result *result) {
  result->ram_hit_blocks += hits->ram;
  result->ssd_hit_blocks += hits->ssd;
  result->ram_hit_tokens += hits->ram_tokens;
  result->ssd_hit_tokens += hits->ssd_tokens;
  result->prefix_hit_blocks += (uint64_t)hits->ram + hits->ssd;
  sim_count_tokens(result, hits->ram_tokens + hits->ssd_tokens);
  return hits->ram + hits->ssd;
}

/* Both tiers with the policies of the options. On failure neither needs finishing, both may be. */
int sim_two_tiers_init(struct sim_tier *ram, struct sim_tier *ssd, const struct trace *trace,
                       const struct sim_options *options, uint64_t ssd_blocks, char *why,
                       size_t why_bytes);

/* The kinds of simulation; each walks the trace to its end and fills the counts of *result. 0, or -1
 * with `why`; whether the walk got to the end is the caller's to ask. */
struct sim_pass {
  const struct trace *trace;
  struct trace_walk *walk;
  const struct sim_options *options;
  struct sim_result *result;
  char *why;
  size_t why_bytes;
};

/* -1 with `why` when the tier's policy broke its contract; else 0. */
int sim_tier_check(const struct sim_tier *tier, const struct sim_pass *pass);

int sim_one_tier(const struct sim_pass *pass);
int sim_infinite(const struct sim_pass *pass);
int sim_belady(const struct sim_pass *pass);
int sim_opt(const struct sim_pass *pass);
int sim_two_ideal(const struct sim_pass *pass);
int sim_two_engine(const struct sim_pass *pass);

#endif
