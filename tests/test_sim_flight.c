/* tests/test_sim_flight.c - requests in flight: a request's new blocks enter when later requests have begun.
 *
 * The model has the whole trace in arrays, remembers of every request how much it found, and searches
 * a row of ids from end to end; it was written without looking at the simulator.
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
#include <dlfcn.h>
#include <unistd.h>

#include "cli/sim/sim.h"
#include "kvstow/policy.h"
#include "tests/support/object.h"
#include "tests/support/recorder.h"
#include "tests/support/whole_trace.h"

static struct trace *trace;
static struct whole_trace whole;

static struct sim_result simulate(const struct sim_options *options) {
  struct sim_result result;
  char why[256];
  if (sim_run(trace, options, &result, why, sizeof why) < 0) fail_msg("%s", why);
  return result;
}

/* ---- the model: a row of ids, the one to evict first ---- */

struct model {
  bool lru;
  uint64_t size, count;
  uint32_t *ids;
  bool *read; /* beside the ids: in a leading run since it came */
  struct sim_result result;
};

static int64_t find(const struct model *model, uint32_t id) {
  for (uint64_t i = 0; i < model->count; i++)
    if (model->ids[i] == id) return (int64_t)i;
  return -1;
}

static void take_out(struct model *model, uint64_t at) {
  model->count--;
  for (uint64_t i = at; i < model->count; i++) {
    model->ids[i] = model->ids[i + 1];
    model->read[i] = model->read[i + 1];
  }
}

static void use(struct model *model, uint32_t id) {
  const int64_t at = find(model, id);
  if (at >= 0 && !model->lru) return;
  const bool read = at >= 0 && model->read[at];
  if (at >= 0) {
    take_out(model, (uint64_t)at);
  } else {
    model->result.ssd_writes++;
    if (model->count == model->size) take_out(model, 0);
  }
  model->read[model->count] = read;
  model->ids[model->count++] = id;
}

static void use_all(struct model *model, const uint32_t *ids, uint32_t count, bool back) {
  for (uint32_t i = 0; i < count; i++) use(model, ids[back ? count - 1 - i : i]);
}

static struct sim_result expect(bool lru, bool back, uint64_t size, uint64_t in_flight) {
  struct model model = {.lru = lru,
                        .size = size,
                        .ids = calloc(size, sizeof(uint32_t)),
                        .read = calloc(size, sizeof(bool))};
  uint32_t *found = calloc(whole.count, sizeof *found);
  assert_non_null(model.ids);
  assert_non_null(model.read);
  assert_non_null(found);
  for (uint64_t now = 0; now < whole.count + in_flight; now++) {
    if (now < whole.count) {
      const struct trace_request *begins = &whole.requests[now];
      bool run = true;
      for (uint32_t i = 0; i < begins->blocks; i++) {
        const int64_t at = find(&model, begins->ids[i]);
        run = run && at >= 0;
        found[now] += run;
        model.result.misses += at < 0;
        if (!run) continue;
        model.result.writes_read += !model.read[at];
        model.read[at] = true;
      }
      model.result.prefix_hit_blocks += found[now];
      use_all(&model, begins->ids, found[now], back);
    }
    if (now < in_flight) continue;
    const struct trace_request *ends = &whole.requests[now - in_flight];
    const uint32_t had = found[now - in_flight];
    use_all(&model, ends->ids + had, ends->blocks - had, back);
  }
  free(model.ids);
  free(model.read);
  free(found);
  return model.result;
}

/* As a store does it: what was found, then what is new, though nothing overlaps. */
static void the_order_of_a_store_is_the_models_with_none_in_flight(void **state) {
  static const uint64_t sizes[] = {1, 30, 500};
  (void)state;
  for (unsigned i = 0; i < 2 * 3; i++) {
    const struct sim_options options = {
        .policy = i % 2 != 0 ? "lru" : "fifo", .order = SIM_STORE, .blocks = sizes[i / 2]};
    const struct sim_result got = simulate(&options);
    const struct sim_result want = expect(i % 2 != 0, true, options.blocks, 0);
    assert_int_equal(got.prefix_hit_blocks, want.prefix_hit_blocks);
    assert_int_equal(got.ssd_writes, want.ssd_writes);
    assert_int_equal(got.writes_read, want.writes_read);
    assert_int_equal(got.misses, want.ssd_writes);
  }
}

static void lru_and_fifo_equal_the_model(void **state) {
  static const uint64_t sizes[] = {1, 30, 500};
  static const uint32_t in_flight[] = {1, 2, 16, 400};
  (void)state;
  for (unsigned i = 0; i < 2 * 2 * 3 * 4; i++) {
    const struct sim_options options = {.policy = i % 2 != 0 ? "lru" : "fifo",
                                        .order = i / 2 % 2 != 0 ? SIM_BACK : SIM_FRONT,
                                        .blocks = sizes[i / 4 % 3],
                                        .in_flight = in_flight[i / 12]};
    const struct sim_result got = simulate(&options);
    const struct sim_result want =
        expect(i % 2 != 0, options.order == SIM_BACK, options.blocks, options.in_flight);
    assert_int_equal(got.prefix_hit_blocks, want.prefix_hit_blocks);
    assert_int_equal(got.misses, want.misses);
    assert_int_equal(got.ssd_writes, want.ssd_writes);
    assert_int_equal(got.writes_read, want.writes_read);
  }
}

/* Front to back, requests that don't overlap find and use their run, and then the rest, in any case. */
static void none_in_flight_is_one_request_at_a_time(void **state) {
  (void)state;
  const struct sim_options options = {.policy = "lru", .blocks = 100};
  const struct sim_result got = simulate(&options), want = expect(true, false, 100, 0);
  assert_int_equal(got.prefix_hit_blocks, want.prefix_hit_blocks);
  assert_int_equal(got.ssd_writes, want.ssd_writes);
}

static void infinite_is_the_bound(void **state) {
  (void)state;
  for (uint32_t in_flight = 1; in_flight < 40; in_flight += 15) {
    struct sim_options options = {.policy = "infinite", .blocks = 1, .in_flight = in_flight};
    const struct sim_result infinite = simulate(&options);
    const struct sim_result want = expect(true, false, trace->unique, in_flight);
    assert_int_equal(infinite.prefix_hit_blocks, want.prefix_hit_blocks);
    assert_int_equal(infinite.misses, want.misses);
    assert_int_equal(infinite.writes_read, want.writes_read);
    assert_int_equal(infinite.ssd_writes, trace->unique);
    for (size_t p = 0; kvstow_policy_at(p) != NULL; p++) {
      options.policy = kvstow_policy_at(p)->name;
      options.blocks = 200;
      for (int order = 0; order < 2; order++) {
        options.order = order ? SIM_BACK : SIM_FRONT;
        const struct sim_result result = simulate(&options);
        assert_in_range(result.prefix_hit_blocks, 1, infinite.prefix_hit_blocks);
        assert_true(result.misses >= infinite.misses);
      }
    }
  }
}

static void what_enters_after_the_last_request_serves_none(void **state) {
  (void)state;
  struct sim_options options = {
      .policy = "lru", .blocks = trace->unique, .in_flight = (uint32_t)trace->request_count};
  const struct sim_result result = simulate(&options);
  assert_int_equal(result.prefix_hit_blocks, 0);
  assert_int_equal(result.misses, trace->accesses);
  assert_int_equal(result.ssd_writes, trace->unique);
  assert_int_equal(result.writes_read, 0);
}

/* ---- two tiers ---- */

static void two_ideal_lru_tiers_equal_one_of_their_size(void **state) {
  (void)state;
  for (int order = 0; order < 2; order++) {
    struct sim_options options = {
        .policy = "lru", .order = order ? SIM_BACK : SIM_FRONT, .blocks = 450, .in_flight = 5};
    const struct sim_result one = simulate(&options);
    options.tiers = SIM_IDEAL;
    options.blocks = 50;
    options.ssd_blocks = 400;
    const struct sim_result two = simulate(&options);
    assert_int_equal(two.prefix_hit_blocks, one.prefix_hit_blocks);
    assert_int_equal(two.misses, one.misses);
  }
}

static void engine_with_room_for_all_equals_infinite(void **state) {
  (void)state;
  struct sim_options options = {.policy = "infinite", .blocks = 1, .in_flight = 5};
  const struct sim_result infinite = simulate(&options);
  options = (struct sim_options){.tiers = SIM_ENGINE,
                                 .policy = "lru",
                                 .blocks = 200,
                                 .ssd_blocks = trace->unique + 64,
                                 .in_flight = 5};
  const struct sim_result result = simulate(&options);
  assert_int_equal(result.prefix_hit_blocks, infinite.prefix_hit_blocks);
  assert_int_equal(result.misses, infinite.misses);
  assert_true(result.ssd_writes <= trace->unique);
}

/* ---- what a policy is told ---- */

struct told {
  int what;
  uint32_t request, depth, parent;
  uint64_t now_ms;
};

#define NONE KVSTOW_NO_ID
#define INSERT RECORDED_INSERT
#define TOUCH RECORDED_TOUCH

/* Ids are 0, 1, 2, ... in the order of appearance: of five requests' blocks abc abd abde abc abdfg, and of
 * one more that makes the last of these end. */
static const char story[] =
    "{\"timestamp\":0,\"input_length\":48,\"output_length\":1,\"hash_ids\":[10,11,12]}\n"
    "{\"timestamp\":10,\"input_length\":48,\"output_length\":1,\"hash_ids\":[10,11,13]}\n"
    "{\"timestamp\":20,\"input_length\":64,\"output_length\":1,\"hash_ids\":[10,11,13,14]}\n"
    "{\"timestamp\":30,\"input_length\":48,\"output_length\":1,\"hash_ids\":[10,11,12]}\n"
    "{\"timestamp\":40,\"input_length\":80,\"output_length\":1,\"hash_ids\":[10,11,13,15,16]}\n"
    "{\"timestamp\":50,\"input_length\":16,\"output_length\":1,\"hash_ids\":[17]}\n";

static const struct told front[] = {
    {INSERT, 1, 0, NONE, 10}, {INSERT, 1, 1, 0, 10},                           /* a, b */
    {INSERT, 1, 2, 1, 10},                                                     /* c */
    {TOUCH, 3, 0, NONE, 20},  {TOUCH, 3, 1, 0, 20},                            /* found */
    {TOUCH, 2, 0, NONE, 20},  {TOUCH, 2, 1, 0, 20},  {INSERT, 2, 2, 1, 20},    /* a, b again; d */
    {TOUCH, 4, 0, NONE, 30},  {TOUCH, 4, 1, 0, 30},  {TOUCH, 4, 2, 1, 30},     /* found */
    {TOUCH, 3, 2, 1, 30},     {INSERT, 3, 3, 3, 30},                           /* d again; e */
    {TOUCH, 5, 0, NONE, 40},  {TOUCH, 5, 1, 0, 40},  {TOUCH, 5, 2, 1, 40},     /* found */
    {INSERT, 5, 3, 3, 50},    {INSERT, 5, 4, 5, 50}, {INSERT, 6, 0, NONE, 50}, /* f, g; the last */
};

/* Last to first, new blocks come before those that they hang on: they are told which one they continue. */
static const struct told back[] = {
    {INSERT, 1, 2, NONE, 10}, {INSERT, 1, 1, NONE, 10}, {INSERT, 1, 0, NONE, 10},
    {TOUCH, 3, 1, 0, 20},     {TOUCH, 3, 0, NONE, 20},  {INSERT, 2, 2, 1, 20},
    {TOUCH, 2, 1, 0, 20},     {TOUCH, 2, 0, NONE, 20},  {TOUCH, 4, 2, 1, 30},
    {TOUCH, 4, 1, 0, 30},     {TOUCH, 4, 0, NONE, 30},  {INSERT, 3, 3, 3, 30},
    {TOUCH, 3, 2, 1, 30},     {TOUCH, 5, 2, 1, 40},     {TOUCH, 5, 1, 0, 40},
    {TOUCH, 5, 0, NONE, 40},  {INSERT, 5, 4, 3, 50},    {INSERT, 5, 3, 3, 50},
    {INSERT, 6, 0, NONE, 50},
};

/* With nothing in flight, as a store does. */
static const struct told apart[] = {
    {INSERT, 1, 2, NONE, 0},  {INSERT, 1, 1, NONE, 0}, {INSERT, 1, 0, NONE, 0},
    {TOUCH, 2, 1, 0, 10},     {TOUCH, 2, 0, NONE, 10}, {INSERT, 2, 2, 1, 10},
    {TOUCH, 3, 2, 1, 20},     {TOUCH, 3, 1, 0, 20},    {TOUCH, 3, 0, NONE, 20},
    {INSERT, 3, 3, 3, 20},    {TOUCH, 4, 2, 1, 30},    {TOUCH, 4, 1, 0, 30},
    {TOUCH, 4, 0, NONE, 30},  {TOUCH, 5, 2, 1, 40},    {TOUCH, 5, 1, 0, 40},
    {TOUCH, 5, 0, NONE, 40},  {INSERT, 5, 4, 3, 40},   {INSERT, 5, 3, 3, 40},
    {INSERT, 6, 0, NONE, 50},
};

static void check_told(const struct trace *of, const char *object, struct recorder *recorder,
                       enum sim_order order, const struct told *want, uint32_t count) {
  static const uint32_t chain[] = {3, 3, 4, 3, 5, 1};
  const bool apart_only = order == SIM_STORE;
  const struct sim_options options = {
      .policy = object, .order = order, .blocks = 100, .in_flight = apart_only ? 0 : 1};
  struct sim_result result;
  char why[256];
  recorder->count = 0;
  if (sim_run(of, &options, &result, why, sizeof why) < 0) fail_msg("%s", why);
  assert_int_equal(recorder->count, count);
  for (uint32_t i = 0; i < count; i++) {
    const kvstow_access *got = &recorder->log[i].access;
    assert_int_equal(recorder->log[i].what, want[i].what);
    assert_int_equal(got->request, want[i].request);
    assert_int_equal(got->depth, want[i].depth);
    assert_int_equal(got->parent, want[i].parent);
    assert_int_equal(got->now_ms, want[i].now_ms);
    assert_int_equal(got->chain_blocks, chain[want[i].request - 1]);
  }
  assert_int_equal(result.prefix_hit_blocks, apart_only ? 2 + 3 + 3 + 3 : 2 + 3 + 3);
  assert_int_equal(result.misses, apart_only ? 8 : 3 + 3 + 2 + 0 + 2 + 1);
  assert_int_equal(result.ssd_writes, 8);
}

static void policies_are_told_what_the_engine_would_tell(void **state) {
  char directory[] = "/tmp/kvstow-flight-XXXXXX", path[64], object[4096], why[256];
  (void)state;
  assert_non_null(mkdtemp(directory));
  const char *compiled =
      object_compile(KVSTOW_SOURCE_DIR "/tests/support/recorder.c", directory, "recorder");
  if (compiled == NULL) {
    rmdir(directory);
    skip();
  }
  snprintf(object, sizeof object, "%s", compiled);
  void *handle = dlopen(object, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  assert_non_null(handle);
  struct recorder *recorder = dlsym(handle, "recorder");
  assert_non_null(recorder);
  snprintf(path, sizeof path, "%s/story.jsonl", directory);
  FILE *file = fopen(path, "w");
  assert_non_null(file);
  assert_true(fputs(story, file) >= 0 && fclose(file) == 0);
  struct trace *of = trace_load(path, NULL, why, sizeof why);
  if (of == NULL) fail_msg("%s", why);
  check_told(of, object, recorder, SIM_FRONT, front, sizeof front / sizeof front[0]);
  check_told(of, object, recorder, SIM_BACK, back, sizeof back / sizeof back[0]);
  check_told(of, object, recorder, SIM_STORE, apart, sizeof apart / sizeof apart[0]);
  trace_free(of);
  unlink(path);
  unlink(object);
  rmdir(directory);
}

static void optima_are_refused_with_a_reason(void **state) {
  static const char *const optima[] = {"opt", "belady"};
  (void)state;
  for (int i = 0; i < 2; i++) {
    const struct sim_options options = {.policy = optima[i], .blocks = 9, .in_flight = 1};
    struct sim_result result;
    char why[256] = "";
    assert_int_equal(sim_run(trace, &options, &result, why, sizeof why), -1);
    assert_non_null(strstr(why, optima[i]));
    assert_non_null(strstr(why, "infinite"));
    const struct sim_options store = {.policy = optima[i], .blocks = 9, .order = SIM_STORE};
    assert_int_equal(sim_run(trace, &store, &result, why, sizeof why), -1);
    assert_non_null(strstr(why, optima[i]));
    assert_non_null(strstr(why, "order"));
  }
}

static int generate(void **state) {
  (void)state;
  return whole_trace_load("gen:conversations?requests=700&block_tokens=256&turns=4", &trace,
                          &whole);
}

static int discard(void **state) {
  (void)state;
  whole_trace_free(&whole);
  trace_free(trace);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(the_order_of_a_store_is_the_models_with_none_in_flight),
      cmocka_unit_test(lru_and_fifo_equal_the_model),
      cmocka_unit_test(none_in_flight_is_one_request_at_a_time),
      cmocka_unit_test(infinite_is_the_bound),
      cmocka_unit_test(what_enters_after_the_last_request_serves_none),
      cmocka_unit_test(two_ideal_lru_tiers_equal_one_of_their_size),
      cmocka_unit_test(engine_with_room_for_all_equals_infinite),
      cmocka_unit_test(policies_are_told_what_the_engine_would_tell),
      cmocka_unit_test(optima_are_refused_with_a_reason),
  };
  return cmocka_run_group_tests(tests, generate, discard);
}
