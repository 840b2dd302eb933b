/* tests/test_policy_lifetime.c - what `lifetime` learns, and the index it ranks by.
 *
 * The contract that all policies keep is tested in test_policy_model.c.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/sim/sim.h"
#include "eviction/hazard.h"
#include "kvstow/policy.h"

/* ---- the index ---- */

enum { CLASS = 0, OTHER = 5, BLOCKS = 4000, AGE = 3000 };

static struct hazard *learner(void) {
  struct hazard *hazard = malloc(sizeof *hazard);
  assert_non_null(hazard);
  kvstow__hazard_init(hazard, 0);
  return hazard;
}

static void worth_falls_with_age_when_nothing_is_known(void **state) {
  (void)state;
  struct hazard *hazard = learner();
  for (uint32_t age = 256; age < 1u << 20; age *= 2)
    for (uint32_t class = 0; class < HAZARD_CLASSES; class ++)
      assert_true(hazard_worth(hazard, class, age) < hazard_worth(hazard, class, age / 2));
  free(hazard);
}

/* All are used at one age: until then a block gets more worth with every tick, then it has none. */
static void worth_rises_towards_a_pause_and_falls_after_it(void **state) {
  (void)state;
  struct hazard *hazard = learner();
  uint32_t now = 0;
  for (uint32_t i = 0; i < BLOCKS; i++, now += 7) {
    kvstow__hazard_wait(hazard, CLASS, now, now);
    if (now >= AGE) kvstow__hazard_use(hazard, CLASS, now - AGE, now);
  }
  kvstow__hazard_weigh(hazard, now);
  assert_true(hazard_worth(hazard, CLASS, 0) < hazard_worth(hazard, CLASS, 1500));
  assert_true(hazard_worth(hazard, CLASS, 1500) < hazard_worth(hazard, CLASS, AGE - 200));
  assert_true(hazard_worth(hazard, CLASS, 2 * AGE) < hazard_worth(hazard, CLASS, AGE) / 10);
  /* One use in AGE ticks, to the precision of a bin. */
  assert_true(hazard_worth(hazard, CLASS, 0) > 0.5f / AGE);
  assert_true(hazard_worth(hazard, CLASS, 0) < 1.4f / AGE);
  free(hazard);
}

/* Blocks that were never used again are evidence, too, also while nobody has given them up. */
static void waiting_in_vain_counts(void **state) {
  (void)state;
  struct hazard *hazard = learner();
  uint32_t now = 0;
  for (uint32_t i = 0; i < BLOCKS; i++, now += 7) {
    kvstow__hazard_wait(hazard, CLASS, now, now);
    kvstow__hazard_wait(hazard, OTHER, now, now);
    if (now >= AGE) kvstow__hazard_use(hazard, CLASS, now - AGE, now);
  }
  kvstow__hazard_weigh(hazard, now);
  for (uint32_t age = 8; age < AGE - 200; age *= 2)
    assert_true(hazard_worth(hazard, OTHER, age) < hazard_worth(hazard, CLASS, age) / 4);
  free(hazard);
}

static void memory_of_the_past_is_bounded_and_time_may_wrap(void **state) {
  (void)state;
  struct hazard *hazard = learner();
  uint32_t now = UINT32_MAX - 3 * HAZARD_EPOCH;
  kvstow__hazard_init(hazard, now);
  kvstow__hazard_wait(hazard, CLASS, now, now);
  kvstow__hazard_wait(hazard, CLASS, now, now);
  const uint32_t since = now;
  now += 6 * HAZARD_EPOCH; /* past zero */
  kvstow__hazard_use(hazard, CLASS, since, now);
  assert_true(hazard->uses[CLASS][hazard_bin(6 * HAZARD_EPOCH)] == 1);
  now += 2 * HAZARD_EPOCHS * HAZARD_EPOCH;
  kvstow__hazard_use(hazard, CLASS, since, now); /* too late: lost from sight */
  double uses = 0, ended = 0;
  for (uint32_t bin = 0; bin < HAZARD_BINS; bin++) {
    uses += hazard->uses[CLASS][bin];
    ended += hazard->ended[CLASS][bin];
  }
  assert_true(uses == 1 && ended == 2);
  free(hazard);
}

/* ---- the policy ---- */

enum { CAPACITY = 120, CHAIN = 10, CHAINS = 40, IDS = 65536, REQUESTS = 4000, BELOW = 1200 };

struct cache {
  const kvstow_policy_ops *ops;
  void *policy;
  char *chunk;
  kvstow_nodes nodes;
  unsigned char held[IDS];
  uint32_t count;
  uint64_t requests;
  kvstow_whence whence;             /* of what is new to it */
  uint32_t victims[2], admitted[2]; /* of ids asked for in turn, and of those asked for once */
};

static void cache_init(struct cache *cache, const char *policy) {
  memset(cache, 0, sizeof *cache);
  cache->chunk = calloc(IDS, KVSTOW_POLICY_NODE_BYTES);
  assert_non_null(cache->chunk);
  cache->nodes =
      (kvstow_nodes){.chunks = &cache->chunk, .shift = 31, .stride = KVSTOW_POLICY_NODE_BYTES};
  const kvstow_policy_config config = {
      .size = sizeof config, .nodes = &cache->nodes, .capacity = CAPACITY, .seed = 1};
  assert_int_equal(kvstow_policy_find(policy, &cache->ops, NULL, 0), 0);
  assert_int_equal(cache->ops->create(&config, &cache->policy), 0);
}

static void cache_finish(struct cache *cache) {
  cache->ops->destroy(cache->policy);
  free(cache->chunk);
}

/* Uses the chain of ids [first, first + blocks); how many of its blocks were held. */
static uint32_t request_of(struct cache *cache, uint32_t first, uint32_t blocks) {
  kvstow_access access = {.request = ++cache->requests, .chain_blocks = blocks, .tokens = 16};
  uint32_t hits = 0;
  access.parent = KVSTOW_NO_ID;
  for (uint32_t i = 0; i < blocks; i++) {
    const uint32_t id = first + i;
    access.depth = i;
    access.key_lo = id * UINT64_C(0x9e3779b97f4a7c15);
    access.whence = cache->held[id] != 0 ? KVSTOW_IN_RAM : cache->whence;
    if (cache->held[id] != 0) {
      cache->ops->touch(cache->policy, id, &access);
      hits++;
    } else {
      if (cache->count == CAPACITY) {
        const uint32_t gone = cache->ops->victim(cache->policy, &access);
        const bool once = gone >= CHAINS * CHAIN;
        if (gone == access.parent) access.parent = KVSTOW_NO_ID;
        cache->held[gone] = 0;
        cache->count--;
        cache->victims[once]++;
        if (cache->ops->admit != NULL)
          cache->admitted[once] += cache->ops->admit(cache->policy, gone, BELOW) != 0;
      }
      memset(cache->chunk + (size_t)id * KVSTOW_POLICY_NODE_BYTES, 0, KVSTOW_POLICY_NODE_BYTES);
      cache->ops->insert(cache->policy, id, &access);
      cache->held[id] = 1;
      cache->count++;
    }
    access.parent = id;
  }
  return hits;
}

static uint32_t request(struct cache *cache, uint32_t first) {
  return request_of(cache, first, CHAIN);
}

/* Three times more blocks than fit, in turn, between prompts that nobody asks for twice. */
static double run(struct cache *cache, const char *policy) {
  uint32_t hits = 0, asked = 0;
  cache_init(cache, policy);
  for (uint32_t i = 0; i < REQUESTS; i++) {
    const uint32_t turn = i % CHAINS * CHAIN;
    const uint32_t once = CHAINS * CHAIN + i % 6000 * CHAIN;
    if (i == REQUESTS / 2) {
      memset(cache->victims, 0, sizeof cache->victims);
      memset(cache->admitted, 0, sizeof cache->admitted);
    }
    const uint32_t found = request(cache, turn);
    if (i > REQUESTS / 2) hits += found, asked += CHAIN;
    request(cache, once);
  }
  cache_finish(cache);
  return (double)hits / asked;
}

static double hit_share(const char *policy) {
  struct cache cache;
  return run(&cache, policy);
}

static void keeps_part_of_a_loop_and_nothing_that_is_used_once(void **state) {
  (void)state;
  assert_true(hit_share("lru") < 0.01);
  assert_true(hit_share("arc") < hit_share("lifetime"));
  assert_true(hit_share("lifetime") > 0.2); /* 120 of 400 fit: 0.3 at the most */
}

/* Conversations in turn, each turn longer than the last, more of them than fit: a request that pushes
 * out its own blocks keeps its front, and of what it brings behind that only what came last. */
static void what_nobody_can_use_goes_first(void **state) {
  enum { TALKS = 12, SPAN = 256, TURNS = 60 };
  struct cache cache;
  uint32_t pushed = 0;
  (void)state;
  cache_init(&cache, "lifetime");
  for (uint32_t turn = 0; turn < TURNS; turn++) {
    for (uint32_t talk = 0; talk < TALKS; talk++) {
      const uint32_t first = talk * SPAN, blocks = 8 + 2 * turn;
      uint32_t front = 0, behind = 0;
      request_of(&cache, first, blocks);
      while (front < blocks && cache.held[first + front] != 0) front++;
      for (uint32_t i = front; i < blocks; i++) behind += cache.held[first + i] != 0;
      pushed += front < blocks;
      assert_true(behind <= 1);
    }
  }
  assert_true(pushed > TURNS * TALKS / 4);
  cache_finish(&cache);
}

/* ---- requests that overlap: found when they begin, stored when others have begun ---- */

static void tell(struct cache *cache, uint64_t number, uint32_t id, uint32_t depth, uint32_t parent,
                 uint32_t blocks) {
  const kvstow_access access = {.key_lo = id * UINT64_C(0x9e3779b97f4a7c15),
                                .request = number,
                                .parent = parent,
                                .depth = depth,
                                .chain_blocks = blocks,
                                .tokens = 16};
  if (cache->held[id] != 0) {
    cache->ops->touch(cache->policy, id, &access);
  } else {
    memset(cache->chunk + (size_t)id * KVSTOW_POLICY_NODE_BYTES, 0, KVSTOW_POLICY_NODE_BYTES);
    cache->ops->insert(cache->policy, id, &access);
  }
  cache->held[id] = 1;
}

static void tell_chain(struct cache *cache, uint64_t number, uint32_t first, uint32_t blocks) {
  for (uint32_t i = 0; i < blocks; i++)
    tell(cache, number, first + i, i, i > 0 ? first + i - 1 : KVSTOW_NO_ID, blocks);
}

/* Time passes. */
static void tell_others(struct cache *cache, uint64_t number) {
  enum { FIRST = 1000, COUNT = 20 };
  tell_chain(cache, number, FIRST, COUNT);
  for (uint32_t id = FIRST; id < FIRST + COUNT; id++) {
    cache->ops->remove(cache->policy, id);
    cache->held[id] = 0;
  }
}

static uint32_t victim(struct cache *cache) {
  return cache->ops->victim(cache->policy, NULL);
}

/* A new instance is LRU: what a request stores late is as old as what it has found. */
static void what_is_stored_late_is_as_old_as_its_request(void **state) {
  enum { FOUND = 0, LATE = 1, AFTER = 100 };
  struct cache cache;
  (void)state;
  cache_init(&cache, "lifetime");
  tell(&cache, 1, FOUND, 0, KVSTOW_NO_ID, 1);
  tell(&cache, 2, FOUND, 0, KVSTOW_NO_ID, 2);
  tell_others(&cache, 3);
  tell_chain(&cache, 4, AFTER, 20);
  tell(&cache, 2, LATE, 1, FOUND, 2);
  const uint32_t first = victim(&cache), second = victim(&cache);
  assert_true((first == FOUND && second == LATE) || (first == LATE && second == FOUND));
  for (uint32_t i = 0; i < 20; i++) assert_in_range(victim(&cache), AFTER, AFTER + 19);
  cache_finish(&cache);
}

static void what_is_stored_behind_a_block_that_has_gone_goes_first(void **state) {
  enum { OLD = 100, FOUND = 0, GONE = 1, LATE = 2, AFTER = 200 };
  struct cache cache;
  (void)state;
  cache_init(&cache, "lifetime");
  tell_chain(&cache, 1, OLD, 10);
  tell_chain(&cache, 2, FOUND, 2);
  tell_chain(&cache, 3, FOUND, 2);
  tell_chain(&cache, 4, AFTER, 10);
  cache.ops->remove(cache.policy, GONE);
  tell(&cache, 3, LATE, 2, KVSTOW_NO_ID, 4);
  tell(&cache, 3, LATE + 1, 3, LATE, 4);
  const uint32_t first = victim(&cache), second = victim(&cache);
  assert_in_range(first, LATE, LATE + 1);
  assert_in_range(second, LATE, LATE + 1);
  assert_true(first != second);
  assert_in_range(victim(&cache), OLD, OLD + 9);
  cache_finish(&cache);
}

/* A cache moves blocks on nobody's account, a prefetched one say, between a request's own. */
static void what_nobody_asked_for_does_not_cut_a_request_in_two(void **state) {
  enum { OLD = 100, FOUND = 0, LATE = 1, MOVED = 200 };
  struct cache cache;
  (void)state;
  cache_init(&cache, "lifetime");
  tell_chain(&cache, 1, OLD, 10);
  tell(&cache, 2, FOUND, 0, KVSTOW_NO_ID, 2);
  for (uint32_t i = 0; i < 20; i++) tell(&cache, 0, MOVED + i, 0, KVSTOW_NO_ID, 0);
  tell(&cache, 2, LATE, 1, FOUND, 2);
  for (uint32_t i = 0; i < 10; i++) assert_in_range(victim(&cache), OLD, OLD + 9);
  const uint32_t first = victim(&cache), second = victim(&cache);
  assert_true((first == FOUND && second == LATE) || (first == LATE && second == FOUND));
  cache_finish(&cache);
}

/* Two ask for a block that nobody has; the second stores it when a third has used it. That is no use
 * of it, so the block stays as old as the third's. */
static void what_was_asked_for_before_it_came_is_not_used_again(void **state) {
  enum { BLOCK = 0, AFTER = 100 };
  struct cache cache;
  (void)state;
  cache_init(&cache, "lifetime");
  tell(&cache, 1, BLOCK, 0, KVSTOW_NO_ID, 1);
  tell(&cache, 3, BLOCK, 0, KVSTOW_NO_ID, 1);
  tell_others(&cache, 4);
  tell_chain(&cache, 5, AFTER, 20);
  tell(&cache, 2, BLOCK, 0, KVSTOW_NO_ID, 1);
  assert_int_equal(victim(&cache), BLOCK);
  cache_finish(&cache);
}

/* 0.576 if requests that overlap were taken for many short ones. */
static void conversations_are_told_apart_when_requests_overlap(void **state) {
  char why[256];
  struct sim_result result;
  (void)state;
  struct trace *trace = trace_load("gen:agents?requests=5000", NULL, why, sizeof why);
  assert_non_null(trace);
  const struct sim_options options = {
      .policy = "lifetime", .blocks = trace->unique / 10, .in_flight = 16};
  assert_int_equal(sim_run(trace, &options, &result, why, sizeof why), 0);
  assert_true((double)result.prefix_hit_blocks > 0.59 * (double)result.accesses);
  trace_free(trace);
}

/* Each item is asked twice behind a template ten times as long, which is no conversation that goes on:
 * what waits for its second use is worth more than what had it. */
static void a_template_is_no_conversation(void **state) {
  char why[256];
  struct trace *trace = trace_load(
      "gen:batches?seed=6&requests=5000&templates=60&template=6000"
      "&size=30&item=600&spacing=2&samples=2",
      NULL, why, sizeof why);
  struct sim_result lru, lifetime;
  (void)state;
  assert_non_null(trace);
  struct sim_options options = {.policy = "lru", .order = SIM_BACK, .blocks = trace->unique / 10};
  assert_int_equal(sim_run(trace, &options, &lru, why, sizeof why), 0);
  options.policy = "lifetime";
  options.order = SIM_FRONT;
  assert_int_equal(sim_run(trace, &options, &lifetime, why, sizeof why), 0);
  assert_true(lifetime.prefix_hit_blocks > lru.prefix_hit_blocks);
  trace_free(trace);
}

/* What comes again is written to the tier below, what was never asked for again is not. */
static void admits_what_will_be_read(void **state) {
  (void)state;
  struct cache cache;
  run(&cache, "lifetime");
  assert_true(cache.victims[0] > 1000 && cache.victims[1] > 1000);
  assert_true(cache.admitted[0] > cache.victims[0] * 0.95);
  assert_true(cache.admitted[1] < cache.victims[1] * 0.05);
}

/* Two chains alike but that one came from the tier below: a little younger, it leaves first. */
static void what_the_tier_below_has_leaves_first(void **state) {
  (void)state;
  struct cache cache;
  cache_init(&cache, "lifetime");
  request(&cache, 0);
  cache.whence = KVSTOW_ON_SSD;
  request(&cache, CHAIN);
  cache.whence = KVSTOW_NOWHERE;
  for (int i = 0; i < 60; i++) request(&cache, 2 * CHAIN);
  for (uint32_t i = 0; i < CHAIN; i++)
    assert_int_equal(cache.ops->victim(cache.policy, NULL), 2 * CHAIN - 1 - i);
  for (uint32_t i = 0; i < CHAIN; i++)
    assert_int_equal(cache.ops->victim(cache.policy, NULL), CHAIN - 1 - i);
  cache_finish(&cache);
}

/* At a size of one `part`-th of the trace's blocks. */
static struct sim_result simulate(const char *name, uint64_t part) {
  char why[256];
  struct trace *trace = trace_load(name, NULL, why, sizeof why);
  assert_non_null(trace);
  const struct sim_options options = {.policy = "lifetime", .blocks = trace->unique / part};
  struct sim_result result;
  assert_int_equal(sim_run(trace, &options, &result, why, sizeof why), 0);
  trace_free(trace);
  return result;
}

/* System prompts are used by many conversations, and as often as the blocks of long ones: what tells
 * them apart is that conversations part below them. Without that it is 0.537 here. */
static void knows_what_conversations_share(void **state) {
  (void)state;
  const struct sim_result result = simulate(
      "gen:conversations?requests=12000&seed=2&turns=5&gap=120&systems=16&system_tokens=4000", 100);
  assert_true((double)result.prefix_hit_blocks > 0.54 * (double)result.accesses);
}

/* Below a long system prompt a conversation begins, though the prompt is most of its chain. Taken for
 * the prompt's next turn it makes this 0.294. */
static void knows_where_conversations_begin(void **state) {
  (void)state;
  const struct sim_result result = simulate("gen:mix", 100);
  assert_true((double)result.prefix_hit_blocks > 0.298 * (double)result.accesses);
}

/* Blocks of one chain lie in several classes, whose worth is learned apart. If that were all, holes in
 * prefixes would make 1 % of all blocks asked for, though held, useless here. */
static void keeps_what_others_hang_on(void **state) {
  (void)state;
  const struct sim_result result =
      simulate("gen:conversations?requests=12000&seed=7&turns=8&gap=30&systems=4&next=2000", 20);
  const uint64_t held = result.accesses - result.misses;
  assert_true((double)(held - result.prefix_hit_blocks) < 0.002 * (double)result.accesses);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(worth_falls_with_age_when_nothing_is_known),
      cmocka_unit_test(worth_rises_towards_a_pause_and_falls_after_it),
      cmocka_unit_test(waiting_in_vain_counts),
      cmocka_unit_test(memory_of_the_past_is_bounded_and_time_may_wrap),
      cmocka_unit_test(keeps_part_of_a_loop_and_nothing_that_is_used_once),
      cmocka_unit_test(what_nobody_can_use_goes_first),
      cmocka_unit_test(what_is_stored_late_is_as_old_as_its_request),
      cmocka_unit_test(what_is_stored_behind_a_block_that_has_gone_goes_first),
      cmocka_unit_test(what_nobody_asked_for_does_not_cut_a_request_in_two),
      cmocka_unit_test(what_was_asked_for_before_it_came_is_not_used_again),
      cmocka_unit_test(conversations_are_told_apart_when_requests_overlap),
      cmocka_unit_test(a_template_is_no_conversation),
      cmocka_unit_test(admits_what_will_be_read),
      cmocka_unit_test(what_the_tier_below_has_leaves_first),
      cmocka_unit_test(knows_what_conversations_share),
      cmocka_unit_test(knows_where_conversations_begin),
      cmocka_unit_test(keeps_what_others_hang_on),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
