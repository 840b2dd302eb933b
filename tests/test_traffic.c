/* tests/test_traffic.c - made-up traffic: whether each shape is what its file says.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "cli/trace/trace.h"
#include "tests/support/whole_trace.h"

struct generated {
  struct trace *trace;
  struct whole_trace whole;
};

static struct generated generate(const char *name) {
  char why[512] = "";
  struct generated made = {.trace = trace_load(name, NULL, why, sizeof why)};
  if (made.trace == NULL) {
    fail_msg("%s", why);
    abort();
  }
  made.whole = whole_trace_of(made.trace);
  return made;
}

static void discard(struct generated *made) {
  whole_trace_free(&made->whole);
  trace_free(made->trace);
}

/* The request of the same session before the r-th, or NULL. */
static const struct trace_request *previous_of(const struct generated *made, uint64_t r) {
  const struct trace_request *requests = made->whole.requests;
  for (uint64_t i = r; i-- > 0;)
    if (requests[i].session == requests[r].session) return &requests[i];
  return NULL;
}

static uint64_t count_sessions(const struct generated *made) {
  uint64_t sessions = 0;
  for (uint64_t r = 0; r < made->trace->request_count; r++)
    sessions += previous_of(made, r) == NULL;
  return sessions;
}

/* Blocks at the start of both. */
static uint32_t shared(const struct trace_request *a, const struct trace_request *b) {
  uint32_t i = 0;
  while (i < a->blocks && i < b->blocks && a->ids[i] == b->ids[i]) i++;
  return i;
}

/* Full blocks of 512 tokens. */
static uint32_t full(const struct trace_request *request) {
  return request->input_tokens / 512;
}

static const char *const shapes[] = {"chat", "agents", "retrieval", "documents", "batches", "mix"};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void check_chains(const struct generated *made, uint32_t block_tokens) {
  const struct trace *trace = made->trace;
  uint32_t *before = malloc(trace->unique * sizeof *before);
  uint32_t known = 0;
  uint64_t last_ms = 0;
  assert_non_null(before);
  for (uint64_t r = 0; r < trace->request_count; r++) {
    const struct trace_request *request = &made->whole.requests[r];
    uint32_t previous = UINT32_MAX;
    assert_true(request->timestamp_ms >= last_ms);
    last_ms = request->timestamp_ms;
    assert_true(request->session > 0);
    assert_true(request->output_tokens > 0);
    assert_int_equal(request->blocks, (request->input_tokens + block_tokens - 1) / block_tokens);
    for (uint32_t i = 0; i < request->blocks; i++) {
      const uint32_t id = request->ids[i];
      assert_true(id <= known); /* in the order of first appearance */
      if (id == known) before[known++] = previous;
      assert_int_equal(before[id], previous);
      previous = id;
    }
  }
  assert_int_equal(known, trace->unique);
  free(before);
}

static void all_shapes_are_prefix_chains(void **state) {
  (void)state;
  for (size_t i = 0; i < SHAPES; i++) {
    char name[64];
    snprintf(name, sizeof name, "gen:%s?requests=3000&seed=9&block_tokens=128", shapes[i]);
    struct generated made = generate(name);
    assert_int_equal(made.trace->request_count, 3000);
    assert_int_equal(made.trace->block_tokens, 128);
    check_chains(&made, 128);
    discard(&made);
  }
}

static bool same(const struct generated *a, const struct generated *b, uint64_t requests) {
  for (uint64_t r = 0; r < requests; r++) {
    const struct trace_request *of_a = &a->whole.requests[r], *of_b = &b->whole.requests[r];
    if (of_a->blocks != of_b->blocks || of_a->timestamp_ms != of_b->timestamp_ms ||
        of_a->output_tokens != of_b->output_tokens || of_a->session != of_b->session ||
        memcmp(of_a->ids, of_b->ids, of_a->blocks * sizeof *of_a->ids) != 0)
      return false;
  }
  return true;
}

static void a_seed_gives_one_trace_and_more_requests_its_continuation(void **state) {
  (void)state;
  for (size_t i = 0; i < SHAPES; i++) {
    char name[3][64];
    snprintf(name[0], sizeof name[0], "gen:%s?seed=3&requests=800", shapes[i]);
    snprintf(name[1], sizeof name[1], "gen:%s?requests=1000&seed=3", shapes[i]);
    snprintf(name[2], sizeof name[2], "gen:%s?seed=4&requests=800", shapes[i]);
    struct generated a = generate(name[0]), b = generate(name[1]), c = generate(name[2]);
    assert_true(same(&a, &b, 800));
    assert_false(same(&a, &c, 800));
    discard(&a);
    discard(&b);
    discard(&c);
  }
}

/* What docs/eviction.md measured must be what others get, whatever their compiler and libm. */
static void traces_are_the_same_on_every_machine(void **state) {
  static const struct {
    const char *name;
    uint64_t accesses;
    uint32_t unique;
  } known[] = {
      {"gen:chat", 119826, 32687},      {"gen:agents", 853856, 44173},
      {"gen:retrieval", 176296, 86788}, {"gen:documents", 750291, 158626},
      {"gen:batches", 113357, 33515},   {"gen:mix", 339010, 47939},
  };
  (void)state;
  for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
    struct generated made = generate(known[i].name);
    if (made.trace->accesses != known[i].accesses || made.trace->unique != known[i].unique)
      fail_msg("%s: %llu accesses, %u distinct", known[i].name,
               (unsigned long long)made.trace->accesses, made.trace->unique);
    discard(&made);
  }
}

/* A session's next request holds all of the one before, and its first block is the prompt's. */
static void chats_continue_behind_shared_prompts(void **state) {
  struct generated made =
      generate("gen:chat?requests=6000&rate=0.1&turns=10&gap=1&systems=4&system_tokens=6000");
  uint8_t *first = calloc(made.trace->unique, 1);
  uint32_t prompts = 0;
  (void)state;
  assert_non_null(first);
  for (uint64_t r = 0; r < made.trace->request_count; r++) {
    const struct trace_request *request = &made.whole.requests[r];
    const struct trace_request *previous = previous_of(&made, r);
    prompts += first[request->ids[0]] == 0;
    first[request->ids[0]] = 1;
    if (previous != NULL) assert_true(shared(previous, request) >= full(previous));
  }
  assert_int_equal(prompts, 4);
  const double turns = 6000.0 / (double)count_sessions(&made);
  assert_true(turns > 8.5 && turns < 11.5);
  free(first);
  discard(&made);
}

static void agents_grow_and_are_compacted(void **state) {
  struct generated made =
      generate("gen:agents?requests=3000&steps=200&system_tokens=20000&kinds=2&helpers=0");
  uint64_t grown = 0, compacted = 0;
  (void)state;
  for (uint64_t r = 0; r < made.trace->request_count; r++) {
    const struct trace_request *request = &made.whole.requests[r];
    const struct trace_request *previous = previous_of(&made, r);
    assert_true(request->input_tokens <= 120000);
    if (previous == NULL) continue;
    if (request->input_tokens >= previous->input_tokens) {
      assert_true(shared(previous, request) >= full(previous));
      grown++;
    } else {
      const uint32_t kept = shared(previous, request);
      assert_true(kept * 512 > 8000 && kept < full(previous)); /* the prompt */
      compacted++;
    }
  }
  assert_true(compacted > 5 && grown > 20 * compacted);
  discard(&made);
}

static void helpers_are_agents_with_one_task(void **state) {
  struct generated with = generate("gen:agents?requests=3000&helpers=0.5&steps=2&tasks=1&tool=0");
  struct generated without = generate("gen:agents?requests=3000&helpers=0&steps=2&tasks=1&tool=0");
  (void)state;
  /* An agent of some 2.5 steps calls 2.5 helpers: the same requests in less than half of the time. */
  assert_true(with.trace->last_ms * 2 < without.trace->last_ms);
  discard(&with);
  discard(&without);
}

static void documents_are_found_in_rank_order(void **state) {
  struct generated made =
      generate("gen:retrieval?requests=2000&documents=3&found=2&document=5000&follow=0");
  uint32_t orders = 0;
  (void)state;
  for (uint64_t r = 0; r < 400; r++) { /* nine orders; all requests of one share all but the end */
    const struct trace_request *request = &made.whole.requests[r];
    uint32_t most = 0;
    for (uint64_t i = 0; i < r; i++) {
      const uint32_t alike = shared(&made.whole.requests[i], request);
      if (alike > most) most = alike;
    }
    if (request->blocks - most > 3) orders++;
    assert_null(previous_of(&made, r));
  }
  assert_in_range(orders, 5, 9);
  discard(&made);
}

static void questions_follow_with_or_without_those_before(void **state) {
  struct generated with = generate("gen:documents?requests=2000&gap=1&questions=8");
  struct generated without = generate("gen:documents?requests=2000&gap=1&questions=8&history=0");
  uint64_t questions = 0;
  (void)state;
  for (uint64_t r = 0; r < 2000; r++) {
    const struct trace_request *request = &with.whole.requests[r];
    const struct trace_request *previous = previous_of(&with, r);
    if (previous != NULL) assert_true(shared(previous, request) >= full(previous));
    request = &without.whole.requests[r];
    previous = previous_of(&without, r);
    if (previous == NULL) continue;
    const uint32_t alike = shared(previous, request);
    assert_true(alike + 8 > request->blocks); /* a question is short */
    if (previous->blocks > alike) questions++;
  }
  assert_true(questions > 1000); /* the question before is not in the way of most */
  const double each = 2000.0 / (double)count_sessions(&without);
  assert_true(each > 7 && each < 10);
  discard(&with);
  discard(&without);
}

static void items_of_a_batch_are_asked_as_often_as_said(void **state) {
  struct generated made = generate("gen:batches?requests=4000&samples=4&templates=2&size=5&rate=1");
  uint64_t again = 0;
  (void)state;
  for (uint64_t r = 0; r < 4000; r++) {
    const struct trace_request *request = &made.whole.requests[r];
    const struct trace_request *previous = previous_of(&made, r);
    if (previous == NULL) continue;
    assert_int_equal(shared(previous, request), request->blocks);
    assert_int_equal(previous->blocks, request->blocks);
    assert_in_range(request->timestamp_ms - previous->timestamp_ms, 500, 4001);
    again++;
  }
  assert_true(again > 2950 && again <= 3000); /* three of four; the last jobs are cut off */
  discard(&made);
}

/* The shapes of a mixture: one without clients asks nothing, and settings reach the one they name. */
static void a_mixture_has_the_shapes_it_is_told(void **state) {
  struct generated all = generate("gen:mix?requests=3000");
  struct generated batches = generate(
      "gen:mix?requests=500&chat.rate=0&agents.rate=0&retrieval.rate=0&documents.rate=0"
      "&batches.samples=2&batches.rate=1");
  uint64_t again = 0;
  char why[512] = "";
  (void)state;
  assert_true(all.trace->longest > 60); /* documents, agents */
  for (uint64_t r = 0; r < 500; r++) again += previous_of(&batches, r) != NULL;
  assert_in_range(again, 200, 250);
  discard(&all);
  discard(&batches);
  assert_null(trace_load("gen:chat?rate=0", NULL, why, sizeof why));
  assert_non_null(strstr(why, "no requests"));
}

static void says_what_is_wrong_with_parameters(void **state) {
  static const struct {
    const char *name, *cause;
  } bad[] = {
      {"gen:chats", "gen:chats: no such generator (there are conversations, chat,"},
      {"gen:", "no such generator"},
      {"gen:mi?", "no such generator"},
      {"gen:chat?turn=4", "gen:chat: no parameter `turn=4`; there are seed requests"},
      {"gen:chat?turns", "no parameter `turns`"},
      {"gen:chat?turns=", "turns=: wants a number from 1 to 1000"},
      {"gen:chat?turns=4x", "turns=4x"},
      {"gen:chat?turns=nan", "turns=nan"},
      {"gen:chat?chat.turns=4", "no parameter `chat.turns=4`"},
      {"gen:agents?tasks=1.5", "tasks=1.5: wants a whole number"},
      {"gen:retrieval?follow=1", "follow=1: wants a number from 0 to 0.99"},
      {"gen:documents?history=2", "history=2"},
      {"gen:batches?block_tokens=100", "block_tokens=100: wants a multiple of 64"},
      {"gen:mix?turns=4", "gen:mix: no parameter `turns=4`; there are seed requests"},
      {"gen:mix?help", "batches.(rate templates template size item spacing samples)"},
      {"gen:mix?chat.turn=4", "no parameter `chat.turn=4`"},
      {"gen:mix?requests=0", "requests=0"},
  };
  (void)state;
  for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
    char why[512] = "";
    assert_null(trace_load(bad[i].name, NULL, why, sizeof why));
    if (strstr(why, bad[i].cause) == NULL)
      fail_msg("%s: says `%s`, without `%s`", bad[i].name, why, bad[i].cause);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(all_shapes_are_prefix_chains),
      cmocka_unit_test(a_seed_gives_one_trace_and_more_requests_its_continuation),
      cmocka_unit_test(traces_are_the_same_on_every_machine),
      cmocka_unit_test(chats_continue_behind_shared_prompts),
      cmocka_unit_test(agents_grow_and_are_compacted),
      cmocka_unit_test(helpers_are_agents_with_one_task),
      cmocka_unit_test(documents_are_found_in_rank_order),
      cmocka_unit_test(questions_follow_with_or_without_those_before),
      cmocka_unit_test(items_of_a_batch_are_asked_as_often_as_said),
      cmocka_unit_test(a_mixture_has_the_shapes_it_is_told),
      cmocka_unit_test(says_what_is_wrong_with_parameters),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
