/* eviction/lfu.c - least frequently used (Aho, Denning, Ullman, JACM 1971).
 *
 * Counts uses while a block is cached (nothing is remembered of those that left); of equal counts
 * the one that reached its count first leaves first. No ageing: blocks hot yesterday squat, which
 * is why this is a baseline and not a default.
 *
 * Key: 24 bits of count, then 40 bits of time in accesses (12 days at a million a second; then
 * the order within one count starts anew, nothing else).
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "eviction/heap.h"
#include "eviction/params.h"
#include "eviction/policies.h"

#define TIME_BITS 40
#define TIME_MASK ((UINT64_C(1) << TIME_BITS) - 1)
#define COUNT_MAX ((UINT64_C(1) << (64 - TIME_BITS)) - 1)

struct lfu {
  const kvstow_nodes *nodes;
  struct heap heap;
  uint64_t accesses;
};

static int lfu_create(const kvstow_policy_config *config, void **policy) {
  int rc = kvstow__policy_config_check(config);
  if (rc == 0) rc = kvstow__params_parse(config->params, NULL, 0);
  if (rc < 0) return rc;
  struct lfu *lfu = malloc(sizeof *lfu);
  if (lfu == NULL) return KVSTOW_ENOMEM;
  lfu->nodes = config->nodes;
  lfu->accesses = 0;
  kvstow__heap_init(&lfu->heap);
  *policy = lfu;
  return 0;
}

static void lfu_destroy(void *policy) {
  free(policy);
}

static uint64_t key_of(struct lfu *lfu, uint64_t count) {
  return count << TIME_BITS | (lfu->accesses++ & TIME_MASK);
}

static void lfu_insert(void *policy, uint32_t id, const kvstow_access *access) {
  struct lfu *lfu = policy;
  (void)access;
  kvstow__heap_insert(&lfu->heap, lfu->nodes, id, key_of(lfu, 1));
}

static void lfu_touch(void *policy, uint32_t id, const kvstow_access *access) {
  struct lfu *lfu = policy;
  const uint64_t count = heap_key(lfu->nodes, id) >> TIME_BITS;
  (void)access;
  kvstow__heap_change(&lfu->heap, lfu->nodes, id,
                      key_of(lfu, count < COUNT_MAX ? count + 1 : count));
}

static uint32_t lfu_victim(void *policy, const kvstow_access *incoming) {
  struct lfu *lfu = policy;
  (void)incoming;
  return kvstow__heap_pop(&lfu->heap, lfu->nodes);
}

static void lfu_remove(void *policy, uint32_t id) {
  struct lfu *lfu = policy;
  kvstow__heap_remove(&lfu->heap, lfu->nodes, id);
}

const kvstow_policy_ops kvstow__policy_lfu = {
    .abi = KVSTOW_POLICY_ABI,
    .node_bytes = sizeof(struct heap_node),
    .name = "lfu",
    .summary = "least frequently used while cached, ties first in first out",
    .create = lfu_create,
    .destroy = lfu_destroy,
    .insert = lfu_insert,
    .touch = lfu_touch,
    .victim = lfu_victim,
    .remove = lfu_remove,
};
