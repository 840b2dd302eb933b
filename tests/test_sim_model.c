/* tests/test_sim_model.c - the simulator against naive models, on generated conversations.
 *
 * Needs no trace files: the models here are O(n) a step and written without looking at the
 * simulator. What has no simple model (the engine's two tiers) is held to what must be true of it.
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
#include "kvstow/policy.h"
#include "tests/support/whole_trace.h"

static struct trace *trace;
static struct whole_trace whole;

static struct sim_result simulate(const struct sim_options *options) {
  struct sim_result result;
  char why[256];
  if (sim_run(trace, options, &result, why, sizeof why) < 0) fail_msg("%s", why);
  assert_int_equal(result.requests, trace->request_count);
  assert_int_equal(result.accesses, trace->accesses);
  assert_int_equal(result.unique, trace->unique);
  return result;
}

/* ---- one tier: a row of ids, the one to evict first ---- */

struct row {
  uint32_t *ids;
  bool *read; /* beside the ids: in a leading run since it came */
  uint64_t count, size;
};

static int64_t row_find(const struct row *row, uint32_t id) {
  for (uint64_t i = 0; i < row->count; i++)
    if (row->ids[i] == id) return (int64_t)i;
  return -1;
}

static void row_delete(struct row *row, uint64_t at) {
  memmove(&row->ids[at], &row->ids[at + 1], (row->count - at - 1) * sizeof row->ids[0]);
  memmove(&row->read[at], &row->read[at + 1], (row->count - at - 1) * sizeof row->read[0]);
  row->count--;
}

static struct sim_result naive(bool lru, enum sim_order order, uint64_t size) {
  struct sim_result result = {.misses = 0};
  struct row row = {.ids = malloc((size + 1) * sizeof *row.ids),
                    .read = malloc((size + 1) * sizeof *row.read),
                    .size = size};
  assert_non_null(row.ids);
  assert_non_null(row.read);
  for (uint64_t r = 0; r < trace->request_count; r++) {
    const struct trace_request *request = &whole.requests[r];
    uint64_t hit = 0;
    for (int64_t at; hit < request->blocks; hit++) {
      if ((at = row_find(&row, request->ids[hit])) < 0) break;
      result.writes_read += !row.read[at];
      row.read[at] = true;
    }
    const uint64_t whole_blocks = hit * trace->block_tokens;
    const uint64_t tokens =
        whole_blocks < request->input_tokens ? whole_blocks : request->input_tokens;
    result.prefix_hit_blocks += hit;
    result.prefix_hit_tokens += tokens;
    result.prefix_hit_tokens_squared += (double)tokens * (double)tokens;
    for (uint32_t i = 0; i < request->blocks; i++) {
      const uint32_t id = request->ids[order == SIM_FRONT ? i : request->blocks - 1 - i];
      const int64_t at = row_find(&row, id);
      const bool read = at >= 0 && row.read[at];
      if (at >= 0 && !lru) continue;
      if (at >= 0)
        row_delete(&row, (uint64_t)at);
      else
        result.misses++;
      if (row.count == size) row_delete(&row, 0);
      row.read[row.count] = read;
      row.ids[row.count++] = id;
    }
  }
  free(row.ids);
  free(row.read);
  return result;
}

static void lru_and_fifo_equal_the_naive_model(void **state) {
  static const uint64_t sizes[] = {1, 7, 64, 500};
  (void)state;
  for (int lru = 0; lru < 2; lru++) {
    for (int order = 0; order < 2; order++) {
      for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const struct sim_options options = {.policy = lru ? "lru" : "fifo",
                                            .order = order ? SIM_BACK : SIM_FRONT,
                                            .blocks = sizes[i]};
        const struct sim_result got = simulate(&options);
        const struct sim_result want = naive(lru, options.order, sizes[i]);
        assert_int_equal(got.misses, want.misses);
        assert_int_equal(got.prefix_hit_blocks, want.prefix_hit_blocks);
        assert_int_equal(got.prefix_hit_tokens, want.prefix_hit_tokens);
        assert_int_equal(got.writes_read, want.writes_read);
        assert_int_equal(got.ssd_writes, want.misses);
        assert_true(got.prefix_hit_tokens_squared == want.prefix_hit_tokens_squared);
      }
    }
  }
}

/* Every write of the offline optimum is for a use to come; of the infinite cache's, those of blocks
 * that come twice. */
static void the_bounds_write_what_will_be_read(void **state) {
  uint8_t *uses = calloc(trace->unique, 1);
  uint64_t twice = 0;
  (void)state;
  assert_non_null(uses);
  for (uint64_t i = 0; i < trace->accesses; i++)
    if (uses[whole.ids[i]] < 2) twice += ++uses[whole.ids[i]] == 2;
  struct sim_options options = {.policy = "infinite", .blocks = 1};
  const struct sim_result infinite = simulate(&options);
  assert_int_equal(infinite.writes_read, twice);
  assert_int_equal(infinite.ssd_writes, trace->unique);
  options = (struct sim_options){.policy = "opt", .blocks = trace->unique};
  const struct sim_result opt = simulate(&options);
  assert_int_equal(opt.ssd_writes, twice);
  assert_int_equal(opt.writes_read, twice);
  options.blocks = 100;
  const struct sim_result small = simulate(&options);
  assert_true(small.writes_read <= small.ssd_writes && small.writes_read > 0);
  free(uses);
}

static void no_policy_beats_the_optima(void **state) {
  static const uint64_t sizes[] = {16, 100, 800};
  (void)state;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    struct sim_options options = {.policy = "belady", .blocks = sizes[i]};
    const struct sim_result belady = simulate(&options);
    options.policy = "opt";
    const struct sim_result opt = simulate(&options);
    options.policy = "infinite";
    const struct sim_result infinite = simulate(&options);
    assert_true(opt.prefix_hit_blocks <= infinite.prefix_hit_blocks);
    assert_int_equal(infinite.misses, trace->unique);
    for (size_t p = 0; kvstow_policy_at(p) != NULL; p++) {
      options.policy = kvstow_policy_at(p)->name;
      for (int order = 0; order < 2; order++) {
        options.order = order ? SIM_BACK : SIM_FRONT;
        const struct sim_result result = simulate(&options);
        assert_true(result.prefix_hit_blocks <= opt.prefix_hit_blocks);
        if (order == 0) assert_true(result.misses >= belady.misses);
      }
    }
  }
}

static void a_cache_for_everything_equals_infinite(void **state) {
  (void)state;
  struct sim_options options = {.policy = "infinite", .blocks = 1};
  const struct sim_result infinite = simulate(&options);
  options.blocks = trace->unique;
  for (size_t p = 0; kvstow_policy_at(p) != NULL; p++) {
    options.policy = kvstow_policy_at(p)->name;
    const struct sim_result result = simulate(&options);
    assert_int_equal(result.misses, infinite.misses);
    assert_int_equal(result.prefix_hit_tokens, infinite.prefix_hit_tokens);
  }
}

/* ---- two tiers ---- */

static void two_ideal_lru_tiers_equal_one_of_their_size(void **state) {
  static const uint64_t sizes[][2] = {{1, 1}, {50, 10}, {10, 50}, {100, 400}};
  (void)state;
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    for (int order = 0; order < 2; order++) {
      const enum sim_order touch = order ? SIM_BACK : SIM_FRONT;
      const struct sim_options two = {.tiers = SIM_IDEAL,
                                      .policy = "lru",
                                      .order = touch,
                                      .blocks = sizes[i][0],
                                      .ssd_blocks = sizes[i][1]};
      const struct sim_options one = {
          .policy = "lru", .order = touch, .blocks = sizes[i][0] + sizes[i][1]};
      const struct sim_options ram = {.policy = "lru", .order = touch, .blocks = sizes[i][0]};
      const struct sim_result both = simulate(&two), single = simulate(&one);
      assert_int_equal(both.prefix_hit_blocks, single.prefix_hit_blocks);
      assert_int_equal(both.prefix_hit_tokens, single.prefix_hit_tokens);
      assert_int_equal(both.misses, single.misses);
      assert_int_equal(both.ram_hit_blocks + both.ssd_hit_blocks, both.prefix_hit_blocks);
      assert_int_equal(both.ram_hit_tokens + both.ssd_hit_tokens, both.prefix_hit_tokens);
      assert_true(both.ram_hit_blocks >= simulate(&ram).prefix_hit_blocks);
      /* A block read back has left the SSD: each such write was read once. */
      assert_int_equal(both.writes_read, both.ssd_hit_blocks);
    }
  }
}

static void every_policy_runs_in_every_tier(void **state) {
  struct sim_options options = {.blocks = 60, .ssd_blocks = 600, .segment_blocks = 16};
  (void)state;
  for (size_t a = 0; kvstow_policy_at(a) != NULL; a++) {
    for (size_t b = 0; kvstow_policy_at(b) != NULL; b++) {
      options.policy = kvstow_policy_at(a)->name;
      options.ssd_policy = kvstow_policy_at(b)->name;
      options.tiers = SIM_IDEAL;
      struct sim_result result = simulate(&options);
      assert_true(result.ssd_writes > 0);
      assert_true(result.prefix_hit_blocks <= trace->accesses - result.misses);
      options.tiers = SIM_ENGINE;
      result = simulate(&options);
      assert_true(result.ssd_writes > result.ssd_rewrites);
      assert_true(result.writes_read <= result.ssd_writes);
      assert_true(result.writes_read <= result.ssd_hit_blocks);
      /* Written once each time it enters RAM at most: demotion never undoes its own work. */
      assert_true(result.ssd_writes - result.ssd_rewrites <= trace->accesses);
      assert_int_equal(result.ssd_size_blocks, 592);
      assert_int_equal(result.ram_hit_blocks + result.ssd_hit_blocks, result.prefix_hit_blocks);
    }
  }
}

static void engine_with_room_for_all_writes_a_block_once(void **state) {
  struct sim_options options = {.policy = "infinite", .blocks = 1};
  (void)state;
  const struct sim_result infinite = simulate(&options);
  options = (struct sim_options){
      .tiers = SIM_ENGINE, .policy = "lru", .blocks = 200, .ssd_blocks = trace->unique + 64};
  const struct sim_result result = simulate(&options);
  assert_int_equal(result.prefix_hit_tokens, infinite.prefix_hit_tokens);
  assert_int_equal(result.misses, trace->unique);
  assert_int_equal(result.reclaims, 0);
  assert_int_equal(result.ssd_rewrites, 0);
  /* All but what RAM still holds dirty: at most its frames. */
  assert_true(result.ssd_writes <= trace->unique);
  assert_true(result.ssd_writes >= trace->unique - 200);
}

static void engine_hits_nearly_what_the_ideal_does(void **state) {
  struct sim_options options = {.tiers = SIM_IDEAL,
                                .policy = "lru",
                                .blocks = trace->unique / 50,
                                .ssd_blocks = trace->unique / 10};
  (void)state;
  const struct sim_result ideal = simulate(&options);
  options.tiers = SIM_ENGINE;
  const struct sim_result engine = simulate(&options);
  assert_true(engine.reclaims > 10);
  assert_true((double)engine.prefix_hit_blocks > 0.85 * (double)ideal.prefix_hit_blocks);
  /* Rewriting is bounded: a quarter of each segment reclaimed. */
  assert_true(engine.ssd_rewrites * 4 <= engine.reclaims * 32);
  /* Inclusive promotion: a block read back and evicted again is not written again. */
  assert_true(engine.ssd_writes - engine.ssd_rewrites < ideal.ssd_writes);
}

/* RAM 1 %, SSD 4 %: what is not read back need not be written, and only takes up room. */
static void a_third_of_the_writes_will_do_for_the_same_hits(void **state) {
  char why[256];
  (void)state;
  struct trace *shared = trace_load(
      "gen:conversations?requests=12000&seed=2&turns=5&gap=120"
      "&systems=16&system_tokens=4000",
      NULL, why, sizeof why);
  assert_non_null(shared);
  struct sim_options options = {.tiers = SIM_ENGINE,
                                .policy = "lru",
                                .ssd_policy = "lru",
                                .blocks = shared->unique / 100,
                                .ssd_blocks = shared->unique / 25};
  struct sim_result all, some;
  assert_int_equal(sim_run(shared, &options, &all, why, sizeof why), 0);
  options.policy = "lifetime";
  assert_int_equal(sim_run(shared, &options, &some, why, sizeof why), 0);
  assert_true(some.prefix_hit_blocks >= all.prefix_hit_blocks);
  assert_true(some.ssd_writes * 3 <= all.ssd_writes);
  trace_free(shared);
}

static void engine_copes_with_tiny_and_odd_tiers(void **state) {
  static const struct {
    uint64_t ram, ssd;
    uint32_t segment;
    double high, low;
  } odd[] = {{1, 4, 1, 0, 0},        {1, 4, 100, 0, 0},     {2, 5, 3, 0, 0},
             {300, 8, 4, 0, 0},      {500, 40, 10, 0, 0},   {64, 64, 64, 1, 1},
             {64, 200, 7, 0.5, 0.1}, {64, 200, 7, 1, 0.01}, {100, 300, 32, 0.9, 0.9}};
  (void)state;
  for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
    const struct sim_options options = {.tiers = SIM_ENGINE,
                                        .policy = "lru",
                                        .blocks = odd[i].ram,
                                        .ssd_blocks = odd[i].ssd,
                                        .segment_blocks = odd[i].segment,
                                        .high = odd[i].high,
                                        .low = odd[i].low};
    const struct sim_result result = simulate(&options);
    assert_true(result.ssd_size_blocks <= odd[i].ssd && result.ssd_size_blocks > 0);
    assert_true(result.misses >= trace->unique);
    assert_true(result.ssd_writes - result.ssd_rewrites <= trace->accesses);
  }
}

static void impossible_options_are_refused_with_a_reason(void **state) {
  static const struct sim_options bad[] = {
      {.policy = "lru", .blocks = 0},
      {.policy = "nonsense", .blocks = 5},
      {.policy = "lru", .params = "x=1", .blocks = 5},
      {.tiers = SIM_IDEAL, .policy = "lru", .blocks = 5, .ssd_blocks = 0},
      {.tiers = SIM_IDEAL, .policy = "belady", .blocks = 5, .ssd_blocks = 5},
      {.tiers = SIM_ENGINE, .policy = "lru", .ssd_policy = "opt", .blocks = 5, .ssd_blocks = 50},
      {.tiers = SIM_ENGINE, .policy = "lru", .blocks = 5, .ssd_blocks = 3},
      {.tiers = SIM_ENGINE,
       .policy = "lru",
       .blocks = 5,
       .ssd_blocks = 50,
       .high = 0.5,
       .low = 0.6},
      {.tiers = SIM_ENGINE, .policy = "lru", .blocks = 5, .ssd_blocks = 50, .high = 1.5},
  };
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    struct sim_result result;
    char why[256] = "";
    assert_int_equal(sim_run(trace, &bad[i], &result, why, sizeof why), -1);
    assert_true(strlen(why) > 0);
  }
}

static int generate(void **state) {
  (void)state;
  return whole_trace_load("gen:conversations?requests=1500&block_tokens=256", &trace, &whole);
}

static int discard(void **state) {
  (void)state;
  whole_trace_free(&whole);
  trace_free(trace);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(lru_and_fifo_equal_the_naive_model),
      cmocka_unit_test(the_bounds_write_what_will_be_read),
      cmocka_unit_test(no_policy_beats_the_optima),
      cmocka_unit_test(a_cache_for_everything_equals_infinite),
      cmocka_unit_test(two_ideal_lru_tiers_equal_one_of_their_size),
      cmocka_unit_test(every_policy_runs_in_every_tier),
      cmocka_unit_test(engine_with_room_for_all_writes_a_block_once),
      cmocka_unit_test(engine_hits_nearly_what_the_ideal_does),
      cmocka_unit_test(a_third_of_the_writes_will_do_for_the_same_hits),
      cmocka_unit_test(engine_copes_with_tiny_and_odd_tiers),
      cmocka_unit_test(impossible_options_are_refused_with_a_reason),
  };
  return cmocka_run_group_tests(tests, generate, discard);
}
