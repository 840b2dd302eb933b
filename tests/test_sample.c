/* tests/test_sample.c - samples against a naive model that knows which chains belong together.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/sim/sim.h"
#include "cli/trace/sample.h"
#include "tests/support/whole_trace.h"

static struct trace *trace;
static struct whole_trace whole;

/* ---- the model: quadratic where it may be ---- */

static double place_of(uint64_t id) { /* splitmix64 of the id, as a number in [0, 1) */
  uint64_t x = (id + 1) * 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (double)((x ^ x >> 31) >> 32) / 4294967296.0;
}

/* By id: whether it, or a block behind it, has 16 different blocks directly behind it. */
static bool *shared_blocks(void) {
  bool *shared = calloc(trace->unique, sizeof *shared);
  uint32_t *parents = malloc(trace->unique * sizeof *parents);
  uint32_t *children = calloc(trace->unique, sizeof *children);
  if (shared == NULL || parents == NULL || children == NULL) abort();
  memset(parents, 0xff, trace->unique * sizeof *parents);
  for (uint64_t r = 0; r < whole.count; r++)
    for (uint32_t i = 1; i < whole.requests[r].blocks; i++)
      parents[whole.requests[r].ids[i]] = whole.requests[r].ids[i - 1];
  for (uint32_t id = 0; id < trace->unique; id++)
    if (parents[id] != UINT32_MAX) children[parents[id]]++;
  for (uint32_t id = 0; id < trace->unique; id++)
    if (children[id] >= 16)
      for (uint32_t at = id; at != UINT32_MAX; at = parents[at]) shared[at] = true;
  free(parents);
  free(children);
  return shared;
}

static void assert_same_request(const struct trace_request *got, const struct trace_request *want,
                                uint32_t *names, uint32_t *next_name) {
  assert_int_equal(got->timestamp_ms, want->timestamp_ms);
  assert_int_equal(got->session, want->session);
  assert_int_equal(got->blocks, want->blocks);
  for (uint32_t i = 0; i < want->blocks; i++) {
    uint32_t *name = &names[want->ids[i]];
    if (*name == UINT32_MAX) *name = (*next_name)++;
    assert_int_equal(got->ids[i], *name);
  }
}

static void chains_are_in_the_sample_whole_or_not_at_all(void **state) {
  static const double rates[] = {0.5, 0.1, 0.02};
  bool *shared = shared_blocks();
  uint32_t *names = malloc(trace->unique * sizeof *names);
  (void)state;
  assert_non_null(names);
  for (size_t k = 0; k < sizeof rates / sizeof rates[0]; k++) {
    struct trace_sample sample;
    char why[256] = "";
    if (trace_sample_make(trace, rates[k], TRACE_SAMPLE_CHAINS, &sample, why, sizeof why) < 0)
      fail_msg("%s", why);
    struct whole_trace part = whole_trace_of(sample.trace);
    uint64_t at = 0, all_shared = 0;
    uint32_t next_name = 0;
    memset(names, 0xff, trace->unique * sizeof *names);
    for (uint64_t r = 0; r < whole.count; r++) {
      const struct trace_request *request = &whole.requests[r];
      uint32_t i = 0;
      if (request->blocks == 0) continue;
      while (i + 1 < request->blocks && shared[request->ids[i]]) i++;
      if (place_of(request->ids[i]) >= rates[k]) continue;
      assert_true(at < part.count);
      assert_same_request(&part.requests[at++], request, names, &next_name);
    }
    assert_int_equal(at, part.count);
    assert_int_equal(sample.trace->unique, next_name);
    for (uint32_t id = 0; id < trace->unique; id++) all_shared += shared[id];
    assert_int_equal(sample.shared_of, all_shared);
    assert_true(sample.shared <= sample.shared_of && all_shared > 0);
    const double expected = rates[k] * (double)sample.units_of;
    assert_true(fabs((double)sample.units - expected) < 5 * sqrt(expected) + 1);
    whole_trace_free(&part);
    trace_free(sample.trace);
  }
  free(names);
  free(shared);
}

static void sampled_blocks_keep_all_their_uses(void **state) {
  const double rate = 0.1;
  struct trace_sample sample;
  char why[256] = "";
  uint32_t *names = malloc(trace->unique * sizeof *names), next_name = 0;
  uint64_t at = 0, units = 0;
  (void)state;
  assert_non_null(names);
  if (trace_sample_make(trace, rate, TRACE_SAMPLE_BLOCKS, &sample, why, sizeof why) < 0)
    fail_msg("%s", why);
  struct whole_trace part = whole_trace_of(sample.trace);
  memset(names, 0xff, trace->unique * sizeof *names);
  for (uint64_t i = 0; i < trace->accesses; i++) {
    if (place_of(whole.ids[i]) >= rate) continue;
    uint32_t *name = &names[whole.ids[i]];
    if (*name == UINT32_MAX) *name = next_name++;
    assert_true(at < sample.trace->accesses);
    assert_int_equal(part.ids[at++], *name);
  }
  for (uint32_t id = 0; id < trace->unique; id++) units += place_of(id) < rate;
  assert_int_equal(at, sample.trace->accesses);
  assert_int_equal(sample.units, units);
  assert_int_equal(sample.units_of, trace->unique);
  whole_trace_free(&part);
  trace_free(sample.trace);
  free(names);
}

static double prefix_hit(const struct trace *of, const char *policy, uint64_t blocks) {
  const struct sim_options options = {.policy = policy, .blocks = blocks};
  struct sim_result result;
  char why[256];
  if (sim_run(of, &options, &result, why, sizeof why) < 0) fail_msg("%s", why);
  return (double)result.prefix_hit_blocks / (double)result.accesses;
}

static void a_sample_hits_what_the_whole_does(void **state) {
  static const char *const policies[] = {"lru", "s3fifo", "opt"};
  struct trace_sample sample;
  char why[256] = "";
  (void)state;
  if (trace_sample_make(trace, 0.3, TRACE_SAMPLE_CHAINS, &sample, why, sizeof why) < 0)
    fail_msg("%s", why);
  for (size_t p = 0; p < sizeof policies / sizeof policies[0]; p++) {
    for (uint64_t blocks = trace->unique / 50; blocks < trace->unique; blocks *= 4) {
      const double want = prefix_hit(trace, policies[p], blocks);
      const double got = prefix_hit(sample.trace, policies[p], trace_sample_size(&sample, blocks));
      if (fabs(got - want) > 0.03)
        fail_msg("%s, %llu blocks: %.4f in the sample, %.4f in all", policies[p],
                 (unsigned long long)blocks, got, want);
    }
  }
  trace_free(sample.trace);
}

static void sizes_scale_but_for_shared_blocks(void **state) {
  const struct trace_sample sample = {.rate = 0.1, .shared = 5, .shared_of = 20};
  (void)state;
  assert_int_equal(trace_sample_size(&sample, 1020), 120);
  assert_int_equal(trace_sample_size(&sample, 10), 10);
  const struct trace_sample bare = {.rate = 0.01};
  assert_int_equal(trace_sample_size(&bare, 1), 1);
  assert_int_equal(trace_sample_size(&bare, 12345), 123);
}

static void an_empty_sample_is_an_error(void **state) {
  struct trace_sample sample;
  char why[256] = "";
  (void)state;
  assert_int_equal(trace_sample_make(trace, 1e-9, TRACE_SAMPLE_CHAINS, &sample, why, sizeof why),
                   -1);
  assert_non_null(strstr(why, "is empty: there are"));
}

static int generate(void **state) {
  (void)state;
  return whole_trace_load("gen:conversations?requests=20000", &trace, &whole);
}

static int discard(void **state) {
  (void)state;
  whole_trace_free(&whole);
  trace_free(trace);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(chains_are_in_the_sample_whole_or_not_at_all),
      cmocka_unit_test(sampled_blocks_keep_all_their_uses),
      cmocka_unit_test(a_sample_hits_what_the_whole_does),
      cmocka_unit_test(sizes_scale_but_for_shared_blocks),
      cmocka_unit_test(an_empty_sample_is_an_error),
  };
  return cmocka_run_group_tests(tests, generate, discard);
}
