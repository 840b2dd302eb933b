/* tests/test_policy_duel.c - `duel` serves what the better of its sides would have served.
 *
 * The contract that all policies keep is tested in test_policy_model.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <malloc.h>

#include "cli/sim/sim.h"
#include "kvstow/policy.h"

/* ---- over traces ---- */

static struct trace *load(const char *name) {
  char why[256];
  struct trace *trace = trace_load(name, NULL, why, sizeof why);
  if (trace == NULL) fail_msg("%s: %s", name, why);
  return trace;
}

static struct sim_result simulate(const struct trace *trace, const struct sim_options *options) {
  char why[256];
  struct sim_result result;
  if (sim_run(trace, options, &result, why, sizeof why) != 0) fail_msg("%s", why);
  return result;
}

/* Prefix hits at a size of one `part`-th of the trace's blocks. */
static double served(const struct trace *trace, const char *policy, const char *params,
                     enum sim_order order, uint64_t part) {
  const struct sim_options options = {
      .policy = policy, .params = params, .order = order, .blocks = trace->unique / part};
  const struct sim_result result = simulate(trace, &options);
  return (double)result.prefix_hit_blocks / (double)result.accesses;
}

/* The first belongs to lirs, the second to lifetime: either lead must pay. */
static void serves_what_its_better_side_would(void **state) {
  static const struct {
    const char *trace;
    uint64_t part;
    double apart; /* so far are the sides, at least */
  } rows[] = {
      {"gen:chat?seed=6&rate=4&systems=60&system_tokens=3000&turns=2.5&gap=180&gap_sigma=0.9"
       "&message=300",
       100, 0.006},
      {"gen:conversations?requests=12000&seed=7", 10, 0.03},
  };
  (void)state;
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    struct trace *trace = load(rows[i].trace);
    const double lifetime = served(trace, "lifetime", NULL, SIM_FRONT, rows[i].part);
    const double lirs = served(trace, "lirs", "leaf=1", SIM_FRONT, rows[i].part);
    const double duel = served(trace, "duel", NULL, SIM_FRONT, rows[i].part);
    const double better = lirs > lifetime ? lirs : lifetime;
    assert_true((i == 0 ? lirs - lifetime : lifetime - lirs) > rows[i].apart);
    assert_true(duel > better - 0.005);
    trace_free(trace);
  }
}

/* A request's blocks stand in the order of the chain, however they come. */
static void lirs_by_leaves_needs_no_order(void **state) {
  struct trace *trace = load("gen:conversations?requests=4000&seed=3&turns=6&gap=60");
  (void)state;
  const double front = served(trace, "lirs", "leaf=1", SIM_FRONT, 20);
  const double back = served(trace, "lirs", "leaf=1", SIM_BACK, 20);
  const double plain = served(trace, "lirs", NULL, SIM_FRONT, 20);
  assert_true(front > back - 0.005 && front < back + 0.005);
  assert_true(front > plain);
  trace_free(trace);
}

/* As lifetime does: a third of LRU's writes at most, for more hits. */
static void admits_what_will_be_read(void **state) {
  struct trace *trace =
      load("gen:conversations?requests=12000&seed=2&turns=5&gap=120&systems=16&system_tokens=4000");
  (void)state;
  struct sim_options options = {.tiers = SIM_ENGINE,
                                .policy = "lru",
                                .ssd_policy = "lru",
                                .blocks = trace->unique / 100,
                                .ssd_blocks = trace->unique / 25};
  const struct sim_result all = simulate(trace, &options);
  options.policy = "duel";
  const struct sim_result some = simulate(trace, &options);
  assert_true(some.prefix_hit_blocks >= all.prefix_hit_blocks);
  assert_true(some.ssd_writes * 3 <= all.ssd_writes);
  trace_free(trace);
}

/* ---- a cache that is not as large as was said ---- */

enum { IDS = 2000 };

struct cache {
  const kvstow_policy_ops *ops;
  void *policy;
  uint32_t nodes[IDS][KVSTOW_POLICY_NODE_BYTES / 4];
  char *chunk;
  kvstow_nodes where;
  bool held[IDS];
  uint32_t count;
};

static struct cache *cache_create(uint64_t capacity) {
  struct cache *cache = calloc(1, sizeof *cache);
  assert_non_null(cache);
  cache->chunk = (char *)cache->nodes;
  cache->where =
      (kvstow_nodes){.chunks = &cache->chunk, .shift = 31, .stride = KVSTOW_POLICY_NODE_BYTES};
  const kvstow_policy_config config = {
      .size = sizeof config, .nodes = &cache->where, .capacity = capacity};
  assert_int_equal(kvstow_policy_find("duel", &cache->ops, NULL, 0), 0);
  assert_int_equal(cache->ops->create(&config, &cache->policy), 0);
  return cache;
}

static void cache_destroy(struct cache *cache) {
  cache->ops->destroy(cache->policy);
  free(cache);
}

static void cache_use(struct cache *cache, uint32_t id, uint64_t request) {
  const kvstow_access access = {.key_lo = id * UINT64_C(0x9e3779b97f4a7c15) + 1,
                                .request = request,
                                .parent = KVSTOW_NO_ID,
                                .chain_blocks = 1,
                                .tokens = 16};
  if (cache->held[id]) {
    cache->ops->touch(cache->policy, id, &access);
    return;
  }
  memset(cache->nodes[id], 0, sizeof cache->nodes[id]);
  cache->ops->insert(cache->policy, id, &access);
  cache->held[id] = true;
  cache->count++;
}

static uint32_t cache_evict(struct cache *cache) {
  const uint32_t id = cache->ops->victim(cache->policy, NULL);
  assert_true(id < IDS && cache->held[id]);
  cache->held[id] = false;
  cache->count--;
  return id;
}

/* What the pool has no room for is evicted first, and known again when it is used. */
static void a_cache_larger_than_said_works(void **state) {
  enum { SAID = 10 };
  struct cache *cache = cache_create(SAID);
  uint64_t request = 0;
  (void)state;
  for (uint32_t id = 0; id < IDS; id++) cache_use(cache, id, ++request);
  for (uint32_t id = 0; id < IDS; id += 3) cache_use(cache, id, ++request);
  assert_true(cache_evict(cache) % 3 != 0);
  while (cache->count > IDS / 2) cache_evict(cache);
  for (uint32_t id = 0; id < IDS; id++) cache_use(cache, id, ++request);
  assert_int_equal(cache->ops->resize(cache->policy, IDS), 0);
  for (uint32_t id = 0; id < IDS; id++) cache_use(cache, id, ++request);
  while (cache->count > 0) cache_evict(cache);
  assert_int_equal(cache->ops->victim(cache->policy, NULL), KVSTOW_NO_ID);
  cache_destroy(cache);
}

/* Then the shadows are as small as the cache: else they would hold all of it, and choose nothing. New
 * blocks that nobody asks for twice must not push out the few that are used all the time. */
static void a_cache_smaller_than_said_is_led_all_the_same(void **state) {
  enum { SAID = 1000, HOLDS = 60, HOT = 20 };
  struct cache *cache = cache_create(SAID);
  uint64_t request = 0;
  uint32_t next = HOT, hits = 0, asked = 0;
  (void)state;
  for (int turn = 0; turn < 400; turn++) {
    for (uint32_t id = 0; id < HOT; id++) {
      if (turn > 100) hits += cache->held[id], asked++;
      if (!cache->held[id] && cache->count == HOLDS) cache_evict(cache);
      cache_use(cache, id, ++request);
    }
    for (int i = 0; i < 2 * HOLDS; i++) { /* LRU forgets everything in between */
      if (!cache->held[next] && cache->count == HOLDS) cache_evict(cache);
      cache_use(cache, next, ++request);
      next = next + 1 < IDS ? next + 1 : HOT;
    }
  }
  print_message("hits %u of %u\n", hits, asked);
  assert_true(hits > asked * 0.9);
  cache_destroy(cache);
}

/* ---- memory ---- */

static uint64_t allocated(void) {
  const struct mallinfo2 info = mallinfo2();
  return info.uordblks + info.hblkhd;
}

/* kvstow.h: at most 1 MiB and 500 bytes a block; half a MiB of it is for admission, when first asked. Tables double
 * just above powers of two. */
static void memory_is_what_the_header_says(void **state) {
  static const uint64_t capacities[] = {1, 1000, 65536, 65537, 87382, 131072, 1000003};
  (void)state;
  if (allocated() == 0) skip(); /* a sanitizer's malloc does not tell */
  for (size_t i = 0; i < sizeof capacities / sizeof capacities[0]; i++) {
    const uint64_t before = allocated();
    struct cache *cache = cache_create(capacities[i]);
    const uint64_t created = allocated() - before - sizeof *cache;
    for (uint32_t id = 0; id < IDS; id++) cache_use(cache, id, id);
    const uint64_t used = allocated() - before - sizeof *cache;
    print_message("%llu blocks: %llu bytes\n", (unsigned long long)capacities[i],
                  (unsigned long long)used);
    assert_int_equal(used, created);
    assert_true(used <= (UINT64_C(512) << 10) + 500 * capacities[i]);
    assert_int_equal(cache->ops->resize(cache->policy, 2 * capacities[i]), 0);
    assert_true(allocated() - before <= (UINT64_C(512) << 10) + 1000 * capacities[i]);
    cache_destroy(cache);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(serves_what_its_better_side_would),
      cmocka_unit_test(lirs_by_leaves_needs_no_order),
      cmocka_unit_test(admits_what_will_be_read),
      cmocka_unit_test(a_cache_larger_than_said_works),
      cmocka_unit_test(a_cache_smaller_than_said_is_led_all_the_same),
      cmocka_unit_test(memory_is_what_the_header_says),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
