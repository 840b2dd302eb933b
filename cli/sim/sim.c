/* cli/sim/sim.c - checks the options, picks the simulation, times it.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "cli/sim/sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/policies.h"
#include "cli/sim/tier.h"

/* ---- a policy that broke its contract ---- */

static void ignore_access(void *policy, uint32_t id, const kvstow_access *access) {
  (void)policy, (void)id, (void)access;
}

static void ignore_remove(void *policy, uint32_t id) {
  (void)policy, (void)id;
}

static uint32_t name_none(void *policy, const kvstow_access *incoming) {
  (void)policy, (void)incoming;
  return KVSTOW_NO_ID;
}

static const kvstow_policy_ops nobody = {
    .insert = ignore_access, .touch = ignore_access, .victim = name_none, .remove = ignore_remove};

uint32_t sim_tier_stray(struct sim_tier *tier, uint32_t id) {
  if (tier->count == 0 && id == KVSTOW_NO_ID) return KVSTOW_NO_ID;
  if (!tier->broken) tier->wrong = id;
  tier->broken = true;
  tier->ops = &nobody;
  if (tier->count == 0) return KVSTOW_NO_ID;
  while (!sim_tier_holds(tier, tier->scanned)) tier->scanned = (tier->scanned + 1) % tier->unique;
  return tier->scanned;
}

int sim_tier_check(const struct sim_tier *tier, const struct sim_pass *pass) {
  if (!tier->broken) return 0;
  if (tier->wrong == KVSTOW_NO_ID)
    snprintf(pass->why, pass->why_bytes,
             "policy %s: its victim() names no block, though there are some", tier->name);
  else
    snprintf(pass->why, pass->why_bytes, "policy %s: its victim() names %u, a block not held",
             tier->name, tier->wrong);
  return -1;
}

/* ---- tiers ---- */

int sim_tier_init(struct sim_tier *tier, const char *policy, const char *params, uint64_t capacity,
                  uint32_t unique, uint64_t seed, char *why, size_t why_bytes) {
  char name[POLICY_NAME_BYTES];
  const char *own = policy_params(policy, name);
  memset(tier, 0, sizeof *tier);
  if (own != NULL) params = own;
  if (kvstow_policy_find(name, &tier->ops, why, why_bytes) < 0) return -1;
  tier->entries = calloc(unique, sizeof *tier->entries);
  if (tier->entries == NULL) {
    snprintf(why, why_bytes, "out of memory for %u blocks", unique);
    return -1;
  }
  tier->chunk = (char *)tier->entries;
  tier->nodes = (kvstow_nodes){
      .chunks = &tier->chunk, .shift = 31, .stride = (uint32_t)sizeof *tier->entries};
  tier->unique = unique;
  tier->capacity = capacity;
  tier->destroy = tier->ops->destroy;
  tier->name = policy;
  const kvstow_policy_config config = {.size = sizeof config,
                                       .nodes = &tier->nodes,
                                       /* more than there are blocks is room for nothing else */
                                       .capacity = capacity < unique ? capacity : unique,
                                       .seed = seed,
                                       .params = params};
  const int rc = tier->ops->create(&config, &tier->policy);
  if (rc < 0) {
    snprintf(why, why_bytes, "policy %s%s%s: %s", name, params != NULL ? " with parameters " : "",
             params != NULL ? params : "", kvstow_strerror(rc));
    sim_tier_finish(tier);
    return -1;
  }
  return 0;
}

void sim_tier_finish(struct sim_tier *tier) {
  if (tier->policy != NULL) tier->destroy(tier->policy);
  free(tier->entries);
  memset(tier, 0, sizeof *tier);
}

int sim_two_tiers_init(struct sim_tier *ram, struct sim_tier *ssd, const struct trace *trace,
                       const struct sim_options *options, uint64_t ssd_blocks, char *why,
                       size_t why_bytes) {
  const bool same = options->ssd_policy == NULL;
  memset(ssd, 0, sizeof *ssd);
  if (sim_tier_init(ram, options->policy, options->params, options->blocks, trace->unique,
                    options->seed, why, why_bytes) < 0)
    return -1;
  if (sim_tier_init(ssd, same ? options->policy : options->ssd_policy,
                    same ? options->params : NULL, ssd_blocks, trace->unique, options->seed, why,
                    why_bytes) < 0) {
    sim_tier_finish(ram);
    return -1;
  }
  return 0;
}

struct sim_facts *sim_facts_create(const struct trace *trace, char *why, size_t why_bytes) {
  struct sim_facts *facts = malloc(trace->unique * sizeof *facts);
  if (facts == NULL) {
    snprintf(why, why_bytes, "out of memory for %u blocks", trace->unique);
    return NULL;
  }
  memset(facts, 0xff, trace->unique * sizeof *facts);
  return facts;
}

void sim_facts_learn(struct sim_facts *facts, const struct trace_request *request) {
  for (uint32_t i = 0; i < request->blocks; i++) {
    struct sim_facts *block = &facts[request->ids[i]];
    if (block->depth != UINT32_MAX) continue;
    block->depth = i;
    block->parent = i > 0 ? request->ids[i - 1] : KVSTOW_NO_ID;
  }
}

/* Of this thread: other passes and other programs on the machine do not count. */
static double seconds_now(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static int run(const struct sim_pass *pass) {
  switch (pass->options->tiers) {
    case SIM_IDEAL:
      return sim_two_ideal(pass);
    case SIM_ENGINE:
      return sim_two_engine(pass);
    case SIM_ONE:
      break;
  }
  if (strcmp(pass->options->policy, "infinite") == 0) return sim_infinite(pass);
  if (strcmp(pass->options->policy, "belady") == 0) return sim_belady(pass);
  if (strcmp(pass->options->policy, "opt") == 0) return sim_opt(pass);
  return sim_one_tier(pass);
}

const char *sim_order_name(unsigned order) {
  static const char *const names[] = {
      [SIM_FRONT] = "front", [SIM_BACK] = "back", [SIM_STORE] = "store"};
  return order < sizeof names / sizeof *names ? names[order] : NULL;
}

int sim_run(const struct trace *trace, const struct sim_options *options, struct sim_result *result,
            char *why, size_t why_bytes) {
  memset(result, 0, sizeof *result);
  if (trace->unique > INT32_MAX) {
    snprintf(why, why_bytes, "%s: %u distinct blocks, more than %d", trace->name, trace->unique,
             INT32_MAX);
    return -1;
  }
  if (options->blocks == 0 || (options->tiers != SIM_ONE && options->ssd_blocks == 0)) {
    snprintf(why, why_bytes, "a tier of 0 blocks");
    return -1;
  }
  result->size_blocks = options->blocks;
  result->ssd_size_blocks = options->tiers == SIM_ONE ? 0 : options->ssd_blocks;
  result->requests = trace->request_count;
  result->accesses = trace->accesses;
  result->unique = trace->unique;
  result->input_tokens = trace->input_tokens;
  result->input_tokens_squared = trace->input_tokens_squared;

  const double start = seconds_now();
  const struct sim_pass pass = {.trace = trace,
                                .walk = trace_walk_begin(trace),
                                .options = options,
                                .result = result,
                                .why = why,
                                .why_bytes = why_bytes};
  if (pass.walk == NULL) {
    snprintf(why, why_bytes, "%s: out of memory", trace->name);
    return -1;
  }
  int rc = run(&pass);
  if (!trace_walk_end(pass.walk) && rc == 0) {
    snprintf(why, why_bytes, "%s: reading it back failed", trace->name);
    rc = -1;
  }
  result->seconds = seconds_now() - start;
  return rc;
}
