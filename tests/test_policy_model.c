/* tests/test_policy_model.c - every shipped policy under random calls.
 *
 * All policies keep the contract: each block comes out exactly once, by victim() or remove(), and
 * nothing else does; no byte of an entry outside the node changes; no call allocates. Those with a
 * simple definition must also choose the very victim that a naive O(n) model chooses.
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
#include <math.h>

#include "kvstow/policy.h"

enum { IDS = 300, CHUNK_SHIFT = 6, CHUNK = 1 << CHUNK_SHIFT, STRIDE = 44, CAPACITY = 100 };
enum { CHUNKS = (IDS + CHUNK - 1) / CHUNK, GUARD = 0xa5 };

struct model_block {
  bool present;
  uint64_t key;
  uint64_t uses;
  uint64_t last; /* time of the last use, in accesses */
  bool bit;
};

struct fixture {
  const kvstow_policy_ops *ops;
  void *policy;
  char **chunks;
  kvstow_nodes nodes;
  struct model_block blocks[IDS];
  uint32_t order[IDS]; /* the present ids, by whatever the model orders: [0] is the oldest */
  uint32_t count;
  int hand; /* sieve: index in `order`, -1: the oldest */
  uint64_t accesses, capacity, request;
  uint64_t random;
};

static uint64_t draw(struct fixture *fx, uint64_t below) {
  uint64_t x = fx->random += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return (x ^ x >> 31) % below;
}

static void move_chunk_array(struct fixture *fx) { /* its place may change between calls */
  char **moved = malloc(CHUNKS * sizeof *moved);
  assert_non_null(moved);
  if (fx->chunks != NULL) memcpy(moved, fx->chunks, CHUNKS * sizeof *moved);
  free(fx->chunks);
  fx->chunks = moved;
  fx->nodes.chunks = moved;
}

static void setup(struct fixture *fx, const kvstow_policy_ops *ops, uint64_t seed) {
  memset(fx, 0, sizeof *fx);
  fx->ops = ops;
  fx->random = seed;
  fx->hand = -1;
  fx->capacity = CAPACITY;
  move_chunk_array(fx);
  for (int i = 0; i < CHUNKS; i++) {
    fx->chunks[i] = malloc(CHUNK * STRIDE);
    assert_non_null(fx->chunks[i]);
    memset(fx->chunks[i], GUARD, CHUNK * STRIDE);
  }
  fx->nodes.shift = CHUNK_SHIFT;
  fx->nodes.stride = STRIDE;
  const kvstow_policy_config config = {
      .size = sizeof config, .nodes = &fx->nodes, .capacity = fx->capacity, .seed = seed};
  assert_int_equal(ops->create(&config, &fx->policy), 0);
}

static void teardown(struct fixture *fx) {
  fx->ops->destroy(fx->policy);
  for (int i = 0; i < CHUNKS; i++) free(fx->chunks[i]);
  free(fx->chunks);
}

static void check_guards(const struct fixture *fx) {
  for (uint32_t id = 0; id < IDS; id++) {
    const unsigned char *entry = kvstow_node(&fx->nodes, id);
    for (uint32_t i = KVSTOW_POLICY_NODE_BYTES; i < STRIDE; i++) assert_int_equal(entry[i], GUARD);
    if (fx->blocks[id].present)
      for (uint32_t i = fx->ops->node_bytes; i < KVSTOW_POLICY_NODE_BYTES; i++)
        assert_int_equal(entry[i], 0);
  }
}

/* ---- the naive models: `order` is oldest first ---- */

static void order_append(struct fixture *fx, uint32_t id) {
  fx->order[fx->count++] = id;
}

static int order_find(const struct fixture *fx, uint32_t id) {
  for (uint32_t i = 0; i < fx->count; i++)
    if (fx->order[i] == id) return (int)i;
  fail_msg("id %u is not in the model", id);
  return -1;
}

static void order_delete(struct fixture *fx, int at) {
  memmove(&fx->order[at], &fx->order[at + 1], (fx->count - (uint32_t)at - 1) * sizeof fx->order[0]);
  fx->count--;
  if (at < fx->hand) fx->hand--;
  if (fx->hand == (int)fx->count) fx->hand = -1;
}

static bool is(const struct fixture *fx, const char *name) {
  return strcmp(fx->ops->name, name) == 0;
}

static void model_touch(struct fixture *fx, uint32_t id) {
  fx->blocks[id].bit = true;
  if (!is(fx, "lru")) return;
  order_delete(fx, order_find(fx, id));
  order_append(fx, id);
}

static int naive_clock(struct fixture *fx) {
  while (fx->blocks[fx->order[0]].bit) {
    const uint32_t id = fx->order[0];
    fx->blocks[id].bit = false;
    order_delete(fx, 0);
    order_append(fx, id);
  }
  return 0;
}

static int naive_sieve(struct fixture *fx) {
  int at = fx->hand >= 0 ? fx->hand : 0;
  while (fx->blocks[fx->order[at]].bit) {
    fx->blocks[fx->order[at]].bit = false;
    at = (at + 1) % (int)fx->count;
  }
  fx->hand = at;
  return at;
}

static int naive_lfu(const struct fixture *fx) {
  int best = 0;
  for (uint32_t i = 1; i < fx->count; i++) {
    const struct model_block *a = &fx->blocks[fx->order[i]], *b = &fx->blocks[fx->order[best]];
    if (a->uses < b->uses || (a->uses == b->uses && a->last < b->last)) best = (int)i;
  }
  return best;
}

/* 0.7 x (1 - age / window) + 0.3 x log2(uses), as adaptive.c promises. */
static double adaptive_score(const struct fixture *fx, uint32_t id) {
  const struct model_block *block = &fx->blocks[id];
  const double age = (double)(fx->accesses - block->last);
  return 0.7 * (1 - age / CAPACITY) + 0.3 * log2(block->uses < 63 ? (double)block->uses : 63);
}

static void check_adaptive(const struct fixture *fx, uint32_t victim) {
  const double rounding = 2 * 0.7 / CAPACITY; /* ranks are whole accesses */
  for (uint32_t i = 0; i < fx->count; i++)
    assert_true(adaptive_score(fx, victim) <= adaptive_score(fx, fx->order[i]) + rounding);
}

/* Index in `order` of the victim the model wants; -1 where there is no model. */
static int naive_victim(struct fixture *fx) {
  if (is(fx, "fifo") || is(fx, "lru")) return 0;
  if (is(fx, "clock")) return naive_clock(fx);
  if (is(fx, "sieve")) return naive_sieve(fx);
  if (is(fx, "lfu")) return naive_lfu(fx);
  return -1;
}

/* ---- random calls ---- */

static kvstow_access access_to(uint64_t key) {
  return (kvstow_access){.key_lo = key * 0x9e3779b97f4a7c15u,
                         .key_hi = key,
                         .request = 0,
                         .parent = KVSTOW_NO_ID,
                         .chain_blocks = 1,
                         .tokens = 256};
}

static void do_insert(struct fixture *fx) {
  uint32_t id = (uint32_t)draw(fx, IDS);
  if (fx->count == IDS) return;
  while (fx->blocks[id].present) id = (id + 1) % IDS;
  const uint64_t key = draw(fx, 3 * IDS); /* keys come back under other ids: ghosts notice */
  const kvstow_access access = access_to(key);
  memset(kvstow_node(&fx->nodes, id), 0, KVSTOW_POLICY_NODE_BYTES);
  fx->ops->insert(fx->policy, id, &access);
  fx->blocks[id] =
      (struct model_block){.present = true, .key = key, .uses = 1, .last = ++fx->accesses};
  order_append(fx, id);
}

static void do_touch(struct fixture *fx) {
  if (fx->count == 0) return;
  const uint32_t id = fx->order[draw(fx, fx->count)];
  const kvstow_access access = access_to(fx->blocks[id].key);
  fx->ops->touch(fx->policy, id, &access);
  fx->blocks[id].uses++;
  fx->blocks[id].last = ++fx->accesses;
  model_touch(fx, id);
}

static void do_victim(struct fixture *fx) {
  const kvstow_access incoming = access_to(draw(fx, 3 * IDS));
  const uint32_t id = fx->ops->victim(fx->policy, draw(fx, 3) == 0 ? NULL : &incoming);
  if (fx->count == 0) {
    assert_int_equal(id, KVSTOW_NO_ID);
    return;
  }
  assert_true(id < IDS);
  assert_true(fx->blocks[id].present);
  const int wanted = naive_victim(fx);
  if (wanted >= 0) assert_int_equal(id, fx->order[wanted]);
  if (is(fx, "adaptive")) check_adaptive(fx, id);
  order_delete(fx, order_find(fx, id));
  fx->blocks[id].present = false;
}

static void do_remove(struct fixture *fx) {
  if (fx->count == 0) return;
  const uint32_t id = fx->order[draw(fx, fx->count)];
  fx->ops->remove(fx->policy, id);
  order_delete(fx, order_find(fx, id));
  fx->blocks[id].present = false;
}

static void do_resize(struct fixture *fx) {
  if (fx->ops->resize == NULL || is(fx, "adaptive")) /* its model knows one window */
    return;
  fx->capacity = 1 + draw(fx, 2 * CAPACITY);
  assert_int_equal(fx->ops->resize(fx->policy, fx->capacity), 0);
}

static void run(const kvstow_policy_ops *ops, uint64_t seed) {
  struct fixture fx;
  setup(&fx, ops, seed);
  for (int step = 0; step < 4000; step++) {
    const uint64_t what = draw(&fx, 1000);
    if (what == 0) {
      do_resize(&fx);
      move_chunk_array(&fx);
    }
    const size_t allocated = mallinfo2().uordblks;
    if (fx.count >= fx.capacity || (what < 150 && fx.count > 0)) do_victim(&fx);
    if (what < 500)
      do_insert(&fx);
    else if (what < 930)
      do_touch(&fx);
    else if (what < 980)
      do_remove(&fx);
    else
      do_victim(&fx);
    assert_int_equal(mallinfo2().uordblks, allocated);
    if (step % 64 == 0) check_guards(&fx);
  }
  if (seed % 2 == 0) /* else the policy is destroyed with blocks in it */
    while (fx.count > 0) do_victim(&fx);
  check_guards(&fx);
  teardown(&fx);
}

static void every_block_leaves_once_and_by_the_rule(void **state) {
  (void)state;
  for (size_t i = 0; kvstow_policy_at(i) != NULL; i++)
    for (uint64_t seed = 1; seed <= 20; seed++) run(kvstow_policy_at(i), seed);
}

static void more_blocks_than_expected_are_no_harm(void **state) {
  (void)state;
  for (size_t i = 0; kvstow_policy_at(i) != NULL; i++) {
    struct fixture fx;
    setup(&fx, kvstow_policy_at(i), 1);
    if (fx.ops->resize != NULL) assert_int_equal(fx.ops->resize(fx.policy, 1), 0);
    while (fx.count < IDS) do_insert(&fx);
    uint32_t left = IDS;
    while (fx.ops->victim(fx.policy, NULL) != KVSTOW_NO_ID) left--;
    assert_int_equal(left, 0);
    teardown(&fx);
  }
}

static void the_seed_decides_random(void **state) {
  const kvstow_policy_ops *ops;
  uint32_t first[2][50];
  (void)state;
  assert_int_equal(kvstow_policy_find("random", &ops, NULL, 0), 0);
  for (int turn = 0; turn < 2; turn++) {
    struct fixture fx;
    setup(&fx, ops, 42);
    while (fx.count < CAPACITY) do_insert(&fx);
    for (int i = 0; i < 50; i++) first[turn][i] = fx.ops->victim(fx.policy, NULL);
    teardown(&fx);
  }
  assert_memory_equal(first[0], first[1], sizeof first[0]);
}

static void adaptive_lets_leaves_go_before_ancestors(void **state) {
  const kvstow_policy_ops *ops;
  (void)state;
  assert_int_equal(kvstow_policy_find("adaptive", &ops, NULL, 0), 0);
  for (int reversed = 0; reversed < 2; reversed++) {
    struct fixture fx;
    setup(&fx, ops, 1);
    for (uint32_t i = 0; i < 50; i++) { /* a chain of 50 blocks, all in one request */
      const uint32_t id = reversed ? 49 - i : i;
      kvstow_access access = access_to(id);
      access.request = 1;
      access.depth = id;
      memset(kvstow_node(&fx.nodes, id), 0, KVSTOW_POLICY_NODE_BYTES);
      fx.ops->insert(fx.policy, id, &access);
    }
    for (uint32_t i = 0; i < 20; i++) { /* its first 20 again */
      kvstow_access access = access_to(i);
      access.request = 2;
      access.depth = i;
      fx.ops->touch(fx.policy, i, &access);
    }
    for (uint32_t i = 50; i-- > 0;) assert_int_equal(fx.ops->victim(fx.policy, NULL), i);
    teardown(&fx);
  }
}

static void bad_configurations_are_refused(void **state) {
  static const char *const bad[] = {"nonsense=1", "x",         "=",          ",",
                                    "small=",     "small=2",   "small=0.1,", "recency=-1",
                                    "in=0,1",     "promote=x", "window=1e3"};
  char memory[64] = {0};
  char *chunk = memory;
  const kvstow_nodes nodes = {.chunks = &chunk, .shift = 0, .stride = 64};
  (void)state;
  for (size_t i = 0; kvstow_policy_at(i) != NULL; i++) {
    const kvstow_policy_ops *ops = kvstow_policy_at(i);
    kvstow_policy_config config = {.size = sizeof config, .nodes = &nodes, .capacity = 10};
    void *policy = NULL;
    for (size_t j = 0; j < sizeof bad / sizeof bad[0]; j++) {
      config.params = bad[j];
      if (ops->create(&config, &policy) != KVSTOW_EINVAL)
        fail_msg("%s accepts `%s`", ops->name, bad[j]);
    }
    config.params = "";
    config.capacity = 0;
    assert_int_equal(ops->create(&config, &policy), KVSTOW_EINVAL);
    config.capacity = 10;
    config.size = 8;
    assert_int_equal(ops->create(&config, &policy), KVSTOW_EINVAL);
    config.size = sizeof config;
    assert_int_equal(ops->create(&config, &policy), 0);
    assert_int_equal(ops->victim(policy, NULL), KVSTOW_NO_ID);
    ops->destroy(policy);
    ops->destroy(NULL);
  }
}

static void parameters_are_heeded(void **state) {
  static const char *const good[][2] = {{"s3fifo", "small=0.3,promote=1"},
                                        {"s3fifo", "ghost=0"},
                                        {"2q", "in=0.5,out=1"},
                                        {"adaptive", "recency=1,frequency=0,window=2.5"}};
  char memory[64] = {0};
  char *chunk = memory;
  const kvstow_nodes nodes = {.chunks = &chunk, .shift = 0, .stride = 64};
  (void)state;
  for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
    const kvstow_policy_ops *ops;
    void *policy;
    const kvstow_policy_config config = {
        .size = sizeof config, .nodes = &nodes, .capacity = 10, .params = good[i][1]};
    assert_int_equal(kvstow_policy_find(good[i][0], &ops, NULL, 0), 0);
    assert_int_equal(ops->create(&config, &policy), 0);
    ops->destroy(policy);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(every_block_leaves_once_and_by_the_rule),
      cmocka_unit_test(more_blocks_than_expected_are_no_harm),
      cmocka_unit_test(the_seed_decides_random),
      cmocka_unit_test(adaptive_lets_leaves_go_before_ancestors),
      cmocka_unit_test(bad_configurations_are_refused),
      cmocka_unit_test(parameters_are_heeded),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
